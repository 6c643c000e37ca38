//! Asks again when an error is temporary.

use std::future::Future;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use tokio::time::Instant;
use tracing::debug;

use crate::{ObjectInfo, ObjectStore, Result};

tokio::task_local! {
    /// When retries of the calls inside must have ended.
    static GIVE_UP_AT: Instant;
}

/// Runs `call`, in which no [`Retried`] starts another attempt later than `patience` from now.
pub(crate) async fn with_patience<T>(patience: Duration, call: impl Future<Output = T>) -> T {
    GIVE_UP_AT.scope(Instant::now() + patience, call).await
}

/// How long to wait between attempts: the wait before retry n (from 0) is drawn evenly from
/// 0 ..= min(`first` · 2ⁿ, `longest`), so that clients that failed together do not come back together.
#[derive(Clone, Copy, Debug)]
pub struct Backoff {
    /// The longest wait before the first retry.
    pub first: Duration,
    /// The longest wait before any retry.
    pub longest: Duration,
}

impl Default for Backoff {
    /// 50 ms and 5 s: ten retries wait 10 s on average and 21 s at most, besides the time of the attempts themselves.
    fn default() -> Self {
        Self { first: Duration::from_millis(50), longest: Duration::from_secs(5) }
    }
}

impl Backoff {
    fn limit(&self, retry: u32) -> Duration {
        let grown = self.first.saturating_mul(2u32.saturating_pow(retry));
        grown.min(self.longest)
    }

    fn draw(&self, retry: u32) -> Duration {
        self.limit(retry).mul_f64(rand::random::<f64>())
    }
}

/// A store that repeats a call up to `retries` times while it fails with [`Temporary`](crate::Error::Temporary). The last error is
/// answered as it came. Every call of an [`ObjectStore`] may be repeated: objects are written whole, and deleting a
/// missing one succeeds.
#[derive(Debug)]
pub struct Retried {
    inner: Arc<dyn ObjectStore>,
    retries: u32,
    backoff: Backoff,
}

impl Retried {
    /// At most `retries` + 1 attempts per call.
    pub fn new(inner: Arc<dyn ObjectStore>, retries: u32) -> Self {
        Self::with_backoff(inner, retries, Backoff::default())
    }

    /// The same with waits of one's own.
    pub fn with_backoff(inner: Arc<dyn ObjectStore>, retries: u32, backoff: Backoff) -> Self {
        Self { inner, retries, backoff }
    }

    async fn run<'a, T, F>(&self, name: &str, key: &str, mut call: impl FnMut() -> F + Send) -> Result<T>
    where
        F: Future<Output = Result<T>> + Send + 'a,
    {
        for retry in 0..self.retries {
            let error = match call().await {
                Err(error) if error.is_temporary() => error,
                done => return done,
            };
            let wait = self.backoff.draw(retry);
            if is_too_late(wait) {
                return Err(error);
            }
            debug!(name, key, retry, ?wait, %error, "asks again");
            tokio::time::sleep(wait).await;
        }
        call().await
    }
}

/// Whether nobody would wait for an attempt after `wait`.
fn is_too_late(wait: Duration) -> bool {
    GIVE_UP_AT.try_with(|at| Instant::now() + wait > *at).unwrap_or(false)
}

#[async_trait]
impl ObjectStore for Retried {
    fn describe(&self) -> String {
        self.inner.describe()
    }

    async fn get(&self, key: &str, range: Option<Range<u64>>) -> Result<Bytes> {
        self.run("get", key, || self.inner.get(key, range.clone())).await
    }

    async fn put(&self, key: &str, body: Bytes) -> Result<()> {
        self.run("put", key, || self.inner.put(key, body.clone())).await
    }

    async fn delete(&self, key: &str) -> Result<()> {
        self.run("delete", key, || self.inner.delete(key)).await
    }

    fn deletes_together(&self) -> usize {
        self.inner.deletes_together()
    }

    async fn delete_many(&self, keys: &[String]) -> Result<()> {
        let first = keys.first().map_or("", String::as_str);
        self.run("delete many", first, || self.inner.delete_many(keys)).await
    }

    async fn head(&self, key: &str) -> Result<ObjectInfo> {
        self.run("head", key, || self.inner.head(key)).await
    }

    async fn list(&self, prefix: &str, after: &str, limit: usize) -> Result<Vec<ObjectInfo>> {
        self.run("list", prefix, || self.inner.list(prefix, after, limit)).await
    }

    async fn sync(&self) -> Result<()> {
        self.run("sync", "", || self.inner.sync()).await
    }

    async fn create_bucket(&self) -> Result<()> {
        self.run("create_bucket", "", || self.inner.create_bucket()).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Error, Failing, Fault, MemoryStore, Op, Rule};

    fn flaky(times: u32, fault: Fault) -> Arc<Failing> {
        let failing = Arc::new(Failing::new(Arc::new(MemoryStore::new())));
        failing.add(Rule::on(Op::Put).times(times).fault(fault));
        failing
    }

    fn temporary() -> Fault {
        Fault::Fail(Error::Temporary { store: "test".into(), why: "busy".into() })
    }

    #[tokio::test(start_paused = true)]
    async fn temporary_errors_are_retried_until_the_call_succeeds() {
        let failing = flaky(3, temporary());
        Retried::new(failing.clone(), 3).put("k", Bytes::from_static(b"v")).await.unwrap();
        assert_eq!(failing.calls(Op::Put), 4);
        assert_eq!(failing.get("k", None).await.unwrap(), "v");
    }

    #[tokio::test(start_paused = true)]
    async fn ten_retries_give_up_after_at_most_21_seconds_with_the_last_error() {
        let (failing, start) = (flaky(u32::MAX, temporary()), Instant::now());
        let error = Retried::new(failing.clone(), 10).put("k", Bytes::new()).await.unwrap_err();
        assert!(error.is_temporary());
        assert_eq!(failing.calls(Op::Put), 11);
        assert!(start.elapsed() <= Duration::from_secs(22), "{:?}", start.elapsed());
    }

    #[tokio::test(start_paused = true)]
    async fn other_errors_are_answered_at_once() {
        let failing = flaky(1, Fault::Fail(Error::Denied { store: "test".into(), why: "no".into() }));
        let error = Retried::new(failing.clone(), 10).put("k", Bytes::new()).await.unwrap_err();
        assert!(matches!(error, Error::Denied { .. }), "{error}");
        assert_eq!(failing.calls(Op::Put), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn patience_ends_retries_early_with_the_true_error() {
        let (failing, start) = (flaky(u32::MAX, temporary()), Instant::now());
        let store = Retried::new(failing, 100);
        let error = with_patience(Duration::from_secs(3), store.put("k", Bytes::new())).await.unwrap_err();
        assert!(error.to_string().contains("busy"), "{error}");
        assert!(start.elapsed() <= Duration::from_secs(3));
    }

    #[test]
    fn waits_double_up_to_the_longest() {
        let backoff = Backoff::default();
        let limits: Vec<_> = (0..9).map(|retry| backoff.limit(retry).as_millis()).collect();
        assert_eq!(limits, [50, 100, 200, 400, 800, 1600, 3200, 5000, 5000]);
        assert_eq!(backoff.limit(u32::MAX), backoff.longest);
        assert!((0..100).all(|_| backoff.draw(2) <= backoff.limit(2)));
    }
}
