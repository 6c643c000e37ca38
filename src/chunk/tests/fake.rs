//! An object store in memory that counts, waits and fails as it is told.

use std::collections::{BTreeMap, VecDeque};
use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use parking_lot::Mutex;
use stead_base::Timestamp;
use stead_object::{Error, ObjectInfo, ObjectStore, Result};
use tokio::sync::Semaphore;

/// What happens to the next get or put.
#[derive(Clone, Copy, Debug)]
pub(super) enum Fault {
    Error,
    /// The last byte is missing.
    Short,
    /// There is one byte too many.
    Long,
}

#[derive(Debug)]
pub(super) struct FakeStore {
    pub(super) objects: Mutex<BTreeMap<String, Bytes>>,
    pub(super) get_faults: Mutex<VecDeque<Fault>>,
    pub(super) put_faults: Mutex<VecDeque<Fault>>,
    /// Ranges of all gets, whole objects as `None`.
    pub(super) gets: Mutex<Vec<Option<Range<u64>>>>,
    pub(super) puts: AtomicUsize,
    pub(super) syncs: AtomicUsize,
    /// Each call takes a permit; take them all away to make calls wait.
    pub(super) gate: Semaphore,
    pub(super) running: AtomicUsize,
    pub(super) most_running: AtomicUsize,
    /// Answers with zeros and keeps nothing, after a while.
    pub(super) hollow: AtomicBool,
}

/// What a hollow store takes for each call.
const LATENCY: Duration = Duration::from_millis(20);

/// Permits of an open gate.
pub(super) const OPEN: usize = 1000;

impl Default for FakeStore {
    fn default() -> Self {
        Self {
            objects: Mutex::default(),
            get_faults: Mutex::default(),
            put_faults: Mutex::default(),
            gets: Mutex::default(),
            puts: AtomicUsize::new(0),
            syncs: AtomicUsize::new(0),
            gate: Semaphore::new(OPEN),
            running: AtomicUsize::new(0),
            most_running: AtomicUsize::new(0),
            hollow: AtomicBool::new(false),
        }
    }
}

struct Running<'a>(&'a FakeStore);

impl Drop for Running<'_> {
    fn drop(&mut self) {
        self.0.running.fetch_sub(1, Ordering::SeqCst);
    }
}

impl FakeStore {
    pub(super) fn close_gate(&self) {
        self.gate.forget_permits(OPEN);
    }

    pub(super) fn open_gate(&self) {
        self.gate.add_permits(OPEN);
    }

    pub(super) fn keys(&self) -> Vec<String> {
        self.objects.lock().keys().cloned().collect()
    }

    pub(super) fn get_count(&self) -> usize {
        self.gets.lock().len()
    }

    pub(super) fn fail_gets(&self, faults: impl IntoIterator<Item = Fault>) {
        self.get_faults.lock().extend(faults);
    }

    pub(super) fn fail_puts(&self, times: usize) {
        self.put_faults.lock().extend(std::iter::repeat_n(Fault::Error, times));
    }

    async fn enter(&self) -> Running<'_> {
        let now = self.running.fetch_add(1, Ordering::SeqCst) + 1;
        self.most_running.fetch_max(now, Ordering::SeqCst);
        let running = Running(self);
        drop(self.gate.acquire().await);
        running
    }
}

fn broken() -> Error {
    Error::Temporary { store: "fake://".to_owned(), why: "broken on purpose".to_owned() }
}

#[async_trait]
impl ObjectStore for FakeStore {
    fn describe(&self) -> String {
        "fake://".to_owned()
    }

    async fn get(&self, key: &str, range: Option<Range<u64>>) -> Result<Bytes> {
        self.gets.lock().push(range.clone());
        let _running = self.enter().await;
        if self.hollow.load(Ordering::Relaxed) {
            tokio::time::sleep(LATENCY).await;
            let len: usize = key.rsplit('_').next().and_then(|len| len.parse().ok()).unwrap_or_default();
            return Ok(vec![1; range.map_or(len, |r| (r.end - r.start) as usize)].into());
        }
        let object = self
            .objects
            .lock()
            .get(key)
            .cloned()
            .ok_or_else(|| Error::NotFound { store: self.describe(), key: key.to_owned() })?;
        let body = match range {
            Some(r) => object.slice((r.start as usize).min(object.len())..(r.end as usize).min(object.len())),
            None => object,
        };
        match self.get_faults.lock().pop_front() {
            None => Ok(body),
            Some(Fault::Error) => Err(broken()),
            Some(Fault::Short) => Ok(body.slice(..body.len() - 1)),
            Some(Fault::Long) => Ok([&body[..], b"x"].concat().into()),
        }
    }

    async fn put(&self, key: &str, body: Bytes) -> Result<()> {
        self.puts.fetch_add(1, Ordering::SeqCst);
        let _running = self.enter().await;
        if self.put_faults.lock().pop_front().is_some() {
            return Err(broken());
        }
        if self.hollow.load(Ordering::Relaxed) {
            tokio::time::sleep(LATENCY).await;
        } else {
            self.objects.lock().insert(key.to_owned(), body);
        }
        Ok(())
    }

    async fn delete(&self, key: &str) -> Result<()> {
        self.objects.lock().remove(key);
        Ok(())
    }

    async fn head(&self, key: &str) -> Result<ObjectInfo> {
        Err(Error::NotFound { store: self.describe(), key: key.to_owned() })
    }

    async fn list(&self, prefix: &str, after: &str, limit: usize) -> Result<Vec<ObjectInfo>> {
        let objects = self.objects.lock();
        let found = objects.iter().filter(|(key, _)| key.starts_with(prefix) && key.as_str() > after);
        let info = |(key, body): (&String, &Bytes)| ObjectInfo {
            key: key.clone(),
            size: body.len() as u64,
            modified: Timestamp::from_secs(0),
        };
        Ok(found.map(info).take(limit).collect())
    }

    async fn sync(&self) -> Result<()> {
        self.syncs.fetch_add(1, Ordering::SeqCst);
        Ok(())
    }
}
