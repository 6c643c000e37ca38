//! Limits the bytes per second that go to a store and come from it.

use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::time::Instant;

use crate::{ObjectInfo, ObjectStore, Result};

/// An upload and a download limit, in bytes per second; 0 = none. All stores that are given the same limits share them.
#[derive(Debug, Default)]
pub struct Limits {
    upload: Bucket,
    download: Bucket,
}

impl Limits {
    /// Limits in bytes per second; 0 = none.
    pub fn new(upload: u64, download: u64) -> Self {
        Self { upload: Bucket::new(upload), download: Bucket::new(download) }
    }

    /// Sets other limits, also for the calls that are waiting now.
    pub fn set(&self, upload: u64, download: u64) {
        self.upload.set_rate(upload);
        self.download.set_rate(download);
    }
}

/// A store with limits. A body larger than what one second allows goes at once and delays those after it, so the rate
/// holds on average.
#[derive(Debug)]
pub struct Throttled {
    inner: Arc<dyn ObjectStore>,
    limits: Arc<Limits>,
}

impl Throttled {
    /// Keeps `limits`.
    pub fn new(inner: Arc<dyn ObjectStore>, limits: Arc<Limits>) -> Self {
        Self { inner, limits }
    }
}

/// A token bucket that may go into debt. It holds at most one second's bytes.
#[derive(Debug)]
struct Bucket {
    state: Mutex<State>,
    changed: Notify,
}

#[derive(Debug)]
struct State {
    rate: f64,
    /// Bytes that may pass now; negative after a body that was larger than what was there.
    tokens: f64,
    at: Instant,
}

impl Default for Bucket {
    fn default() -> Self {
        Self::new(0)
    }
}

impl Bucket {
    fn new(rate: u64) -> Self {
        let rate = float(rate);
        Self { state: Mutex::new(State { rate, tokens: rate, at: Instant::now() }), changed: Notify::new() }
    }

    fn set_rate(&self, rate: u64) {
        let mut state = self.state.lock();
        state.refill();
        state.rate = float(rate);
        state.tokens = state.tokens.min(state.rate);
        drop(state);
        self.changed.notify_waiters();
    }

    /// Waits until there is no debt, then takes `bytes`.
    async fn take(&self, bytes: u64) {
        loop {
            let changed = self.changed.notified();
            let Some(wait) = self.state.lock().try_take(bytes) else { return };
            tokio::select! {
                () = tokio::time::sleep(wait) => (),
                () = changed => (),
            }
        }
    }

    /// Takes `bytes` that have passed already.
    fn charge(&self, bytes: u64) {
        let mut state = self.state.lock();
        if state.rate > 0.0 {
            state.refill();
            state.tokens -= float(bytes);
        }
    }
}

impl State {
    fn refill(&mut self) {
        let now = Instant::now();
        self.tokens = (self.tokens + self.rate * (now - self.at).as_secs_f64()).min(self.rate);
        self.at = now;
    }

    /// Takes `bytes`, or says how long the debt lasts.
    fn try_take(&mut self, bytes: u64) -> Option<Duration> {
        if self.rate <= 0.0 {
            return None;
        }
        self.refill();
        if self.tokens >= 0.0 {
            self.tokens -= float(bytes);
            return None;
        }
        // At least a millisecond, so that rounding cannot make a busy loop.
        let seconds = (-self.tokens / self.rate).clamp(0.001, 86_400.0);
        Some(Duration::from_secs_f64(seconds))
    }
}

#[expect(clippy::cast_precision_loss, reason = "rates and sizes are far below 2^53")]
fn float(bytes: u64) -> f64 {
    bytes as f64
}

#[async_trait]
impl ObjectStore for Throttled {
    fn describe(&self) -> String {
        self.inner.describe()
    }

    async fn get(&self, key: &str, range: Option<Range<u64>>) -> Result<Bytes> {
        self.limits.download.take(0).await;
        let body = self.inner.get(key, range).await?;
        self.limits.download.charge(body.len() as u64);
        Ok(body)
    }

    async fn put(&self, key: &str, body: Bytes) -> Result<()> {
        self.limits.upload.take(body.len() as u64).await;
        self.inner.put(key, body).await
    }

    async fn delete(&self, key: &str) -> Result<()> {
        self.inner.delete(key).await
    }

    fn deletes_together(&self) -> usize {
        self.inner.deletes_together()
    }

    async fn delete_many(&self, keys: &[String]) -> Result<()> {
        self.inner.delete_many(keys).await
    }

    async fn head(&self, key: &str) -> Result<ObjectInfo> {
        self.inner.head(key).await
    }

    async fn list(&self, prefix: &str, after: &str, limit: usize) -> Result<Vec<ObjectInfo>> {
        self.inner.list(prefix, after, limit).await
    }

    async fn sync(&self) -> Result<()> {
        self.inner.sync().await
    }

    async fn create_bucket(&self) -> Result<()> {
        self.inner.create_bucket().await
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::MemoryStore;

    const KIB: Bytes = Bytes::from_static(&[7; 1024]);

    #[tokio::test(start_paused = true)]
    async fn uploads_and_downloads_keep_their_rates() {
        let store = Throttled::new(Arc::new(MemoryStore::new()), Arc::new(Limits::new(1024, 2048)));
        let start = Instant::now();
        for n in 0..10 {
            store.put(&n.to_string(), KIB).await.unwrap();
        }
        let up = start.elapsed().as_secs_f64();
        assert!((7.9..=9.1).contains(&up), "10 KiB at 1 KiB/s with 1 s of burst and 1 KiB of debt: {up}");
        let start = Instant::now();
        for n in 0..10 {
            store.get(&n.to_string(), None).await.unwrap();
        }
        let down = start.elapsed().as_secs_f64();
        assert!((2.9..=4.1).contains(&down), "10 KiB at 2 KiB/s: {down}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_new_limit_reaches_those_who_wait() {
        let limits = Arc::new(Limits::new(1, 0));
        let store = Arc::new(Throttled::new(Arc::new(MemoryStore::new()), Arc::clone(&limits)));
        let start = Instant::now();
        store.put("a", KIB).await.unwrap();
        let waiting = tokio::spawn({
            let store = store.clone();
            async move { store.put("b", KIB).await }
        });
        tokio::time::sleep(Duration::from_secs(1)).await;
        assert!(!waiting.is_finished());
        limits.set(0, 0);
        waiting.await.unwrap().unwrap();
        assert!(start.elapsed() < Duration::from_secs(2));
    }
}
