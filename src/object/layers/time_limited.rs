//! Gives up on calls that take too long.

use std::future::Future;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;

use crate::{Error, ObjectInfo, ObjectStore, Result};

/// A store whose calls fail with [`Error::Temporary`] when they take longer than their limit: `put` and
/// `create_bucket` have one, `get`, `head`, `list`, `delete` and `delete_many` (for all keys together) another. `sync`
/// takes as long as it must.
#[derive(Debug)]
pub struct TimeLimited {
    inner: Arc<dyn ObjectStore>,
    get: Duration,
    put: Duration,
}

impl TimeLimited {
    /// Limits per call, its whole body included.
    pub fn new(inner: Arc<dyn ObjectStore>, get: Duration, put: Duration) -> Self {
        Self { inner, get, put }
    }

    async fn within<T>(&self, limit: Duration, name: &str, call: impl Future<Output = Result<T>>) -> Result<T> {
        tokio::time::timeout(limit, call).await.unwrap_or_else(|_elapsed| {
            Err(Error::Temporary { store: self.describe(), why: format!("{name} got no answer within {limit:?}") })
        })
    }
}

#[async_trait]
impl ObjectStore for TimeLimited {
    fn describe(&self) -> String {
        self.inner.describe()
    }

    async fn get(&self, key: &str, range: Option<Range<u64>>) -> Result<Bytes> {
        self.within(self.get, "get", self.inner.get(key, range)).await
    }

    async fn put(&self, key: &str, body: Bytes) -> Result<()> {
        self.within(self.put, "put", self.inner.put(key, body)).await
    }

    async fn delete(&self, key: &str) -> Result<()> {
        self.within(self.get, "delete", self.inner.delete(key)).await
    }

    fn deletes_together(&self) -> usize {
        self.inner.deletes_together()
    }

    async fn delete_many(&self, keys: &[String]) -> Result<()> {
        self.within(self.get, "delete many", self.inner.delete_many(keys)).await
    }

    async fn head(&self, key: &str) -> Result<ObjectInfo> {
        self.within(self.get, "head", self.inner.head(key)).await
    }

    async fn list(&self, prefix: &str, after: &str, limit: usize) -> Result<Vec<ObjectInfo>> {
        self.within(self.get, "list", self.inner.list(prefix, after, limit)).await
    }

    async fn sync(&self) -> Result<()> {
        self.inner.sync().await
    }

    async fn create_bucket(&self) -> Result<()> {
        self.within(self.put, "create_bucket", self.inner.create_bucket()).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Failing, Fault, MemoryStore, Op, Rule};

    #[tokio::test(start_paused = true)]
    async fn a_call_without_an_answer_ends_as_temporary() {
        let failing = Arc::new(Failing::new(Arc::new(MemoryStore::new())));
        failing.add(Rule::on(Op::Get).fault(Fault::Hang));
        let store = TimeLimited::new(failing, Duration::from_secs(5), Duration::from_secs(60));
        store.put("k", Bytes::new()).await.unwrap();
        let error = store.get("k", None).await.unwrap_err();
        assert_eq!(error.to_string(), "mem://: get got no answer within 5s");
        assert!(error.is_temporary());
    }
}
