//! Counts calls and the time that they take.

use std::future::Future;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use async_trait::async_trait;
use bytes::Bytes;
use stead_base::{Distribution, Histogram};

use crate::{Error, ObjectInfo, ObjectStore, Op, Result};

/// What happened to one kind of call.
#[derive(Debug)]
struct Counters {
    times: Histogram,
    failed: AtomicU64,
}

/// How calls went since a mount began, whichever stores they went to.
#[derive(Debug)]
pub struct Requests([Counters; Op::ALL.len()]);

impl Default for Requests {
    fn default() -> Self {
        let none = |_op| Counters { times: Histogram::of_seconds(0.01, 1.5, 25), failed: AtomicU64::new(0) };
        Self(Op::ALL.map(none))
    }
}

impl Requests {
    /// Each kind of call that was made: (kind, times in seconds, how many failed).
    pub fn all(&self) -> impl Iterator<Item = (Op, Distribution, u64)> {
        let counted = Op::ALL.iter().zip(&self.0);
        let counted =
            counted.map(|(op, counters)| (*op, counters.times.distribution(), counters.failed.load(Ordering::Relaxed)));
        counted.filter(|(_op, times, _failed)| times.count > 0)
    }

    fn note<T>(&self, op: Op, begun: Instant, result: &Result<T>) {
        let counters = &self.0[op as usize];
        counters.times.note_time(begun.elapsed());
        let failed = result.as_ref().is_err_and(|error| !matches!(error, Error::NotFound { .. }));
        counters.failed.fetch_add(u64::from(failed), Ordering::Relaxed);
    }
}

/// A store whose calls are counted: each attempt by itself, so this goes inside of retries, and inside of limits, since
/// waiting for them says nothing of the store. That there is no object is an answer, not a failure. The removal of many objects
/// is one call.
#[derive(Debug)]
pub struct Measured {
    inner: Arc<dyn ObjectStore>,
    requests: Arc<Requests>,
}

impl Measured {
    /// Counts in `requests`.
    pub fn new(inner: Arc<dyn ObjectStore>, requests: Arc<Requests>) -> Self {
        Self { inner, requests }
    }

    async fn measure<T>(&self, op: Op, call: impl Future<Output = Result<T>>) -> Result<T> {
        let begun = Instant::now();
        let result = call.await;
        self.requests.note(op, begun, &result);
        result
    }
}

#[async_trait]
impl ObjectStore for Measured {
    fn describe(&self) -> String {
        self.inner.describe()
    }

    async fn get(&self, key: &str, range: Option<Range<u64>>) -> Result<Bytes> {
        self.measure(Op::Get, self.inner.get(key, range)).await
    }

    async fn put(&self, key: &str, body: Bytes) -> Result<()> {
        self.measure(Op::Put, self.inner.put(key, body)).await
    }

    async fn delete(&self, key: &str) -> Result<()> {
        self.measure(Op::Delete, self.inner.delete(key)).await
    }

    fn deletes_together(&self) -> usize {
        self.inner.deletes_together()
    }

    async fn delete_many(&self, keys: &[String]) -> Result<()> {
        self.measure(Op::Delete, self.inner.delete_many(keys)).await
    }

    async fn head(&self, key: &str) -> Result<ObjectInfo> {
        self.measure(Op::Head, self.inner.head(key)).await
    }

    async fn list(&self, prefix: &str, after: &str, limit: usize) -> Result<Vec<ObjectInfo>> {
        self.measure(Op::List, self.inner.list(prefix, after, limit)).await
    }

    async fn sync(&self) -> Result<()> {
        self.measure(Op::Sync, self.inner.sync()).await
    }

    async fn create_bucket(&self) -> Result<()> {
        self.measure(Op::CreateBucket, self.inner.create_bucket()).await
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::{Failing, Fault, MemoryStore, Policy, Rule};

    fn counted(requests: &Requests) -> Vec<(Op, u64, u64)> {
        requests.all().map(|(op, times, failed)| (op, times.count, failed)).collect()
    }

    #[tokio::test]
    async fn calls_are_counted_by_kind() {
        let requests = Arc::new(Requests::default());
        let store = Measured::new(Arc::new(MemoryStore::new()), Arc::clone(&requests));
        store.put("a", Bytes::new()).await.unwrap();
        store.get("a", None).await.unwrap();
        store.get("b", None).await.unwrap_err();
        store.delete("a").await.unwrap();
        assert_eq!(counted(&requests), [(Op::Get, 2, 0), (Op::Put, 1, 0), (Op::Delete, 1, 0)]);
        assert!(requests.all().all(|(_op, times, _failed)| times.sum > 0.0));
    }

    #[tokio::test]
    async fn each_attempt_counts_by_itself() {
        let failing = Arc::new(Failing::new(Arc::new(MemoryStore::new())));
        failing.add(Rule::on(Op::Put).times(2));
        failing.add(Rule::on(Op::Get).times(1).fault(Fault::Hang));
        let policy = Policy { retries: 3, get_timeout: Duration::from_millis(50), ..Policy::default() };
        let store = crate::decorate(failing, &policy);
        store.put("a", Bytes::from_static(b"1234")).await.unwrap();
        store.get("a", None).await.unwrap();
        assert_eq!(counted(&policy.requests), [(Op::Get, 2, 1), (Op::Put, 3, 2)]);
    }

    #[tokio::test]
    async fn waiting_for_a_limit_is_not_the_stores_time() {
        let policy = Policy::default();
        let store = crate::decorate(Arc::new(MemoryStore::new()), &policy);
        policy.limits.set(10, 0);
        for key in ["a", "b"] {
            store.put(key, Bytes::from_static(b"1234567")).await.unwrap();
        }
        let puts = policy.requests.all().next().unwrap().1;
        assert!(puts.count == 2 && puts.sum < 0.1, "{puts:?}");
    }
}
