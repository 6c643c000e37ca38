//! Puts every key below a prefix, such as the name of the volume.

use std::ops::Range;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;

use crate::{ObjectInfo, ObjectStore, Result};

/// A store that sees only the keys below a prefix, and shows them without it.
#[derive(Debug)]
pub struct Prefixed {
    inner: Arc<dyn ObjectStore>,
    prefix: String,
}

impl Prefixed {
    /// `prefix` is put before keys as it is, so it usually ends in `/`.
    pub fn new(inner: Arc<dyn ObjectStore>, prefix: impl Into<String>) -> Self {
        Self { inner, prefix: prefix.into() }
    }

    fn full(&self, key: &str) -> String {
        format!("{}{key}", self.prefix)
    }

    fn shorten(&self, mut info: ObjectInfo) -> ObjectInfo {
        if info.key.starts_with(&self.prefix) {
            info.key.drain(..self.prefix.len());
        }
        info
    }
}

#[async_trait]
impl ObjectStore for Prefixed {
    fn describe(&self) -> String {
        format!("{}{}", self.inner.describe(), self.prefix)
    }

    async fn get(&self, key: &str, range: Option<Range<u64>>) -> Result<Bytes> {
        self.inner.get(&self.full(key), range).await
    }

    async fn put(&self, key: &str, body: Bytes) -> Result<()> {
        self.inner.put(&self.full(key), body).await
    }

    async fn delete(&self, key: &str) -> Result<()> {
        self.inner.delete(&self.full(key)).await
    }

    fn deletes_together(&self) -> usize {
        self.inner.deletes_together()
    }

    async fn delete_many(&self, keys: &[String]) -> Result<()> {
        let full: Vec<_> = keys.iter().map(|key| self.full(key)).collect();
        self.inner.delete_many(&full).await
    }

    async fn head(&self, key: &str) -> Result<ObjectInfo> {
        Ok(self.shorten(self.inner.head(&self.full(key)).await?))
    }

    async fn list(&self, prefix: &str, after: &str, limit: usize) -> Result<Vec<ObjectInfo>> {
        let after = if after.is_empty() { String::new() } else { self.full(after) };
        let found = self.inner.list(&self.full(prefix), &after, limit).await?;
        Ok(found.into_iter().map(|info| self.shorten(info)).collect())
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

    #[tokio::test]
    async fn keys_lie_below_the_prefix_and_are_shown_without_it() {
        let inner = Arc::new(MemoryStore::new());
        let store = Arc::new(Prefixed::new(inner.clone(), "vol/"));
        inner.put("volume/other", Bytes::new()).await.unwrap();
        store.put("a", Bytes::from_static(b"1")).await.unwrap();
        assert_eq!(inner.get("vol/a", None).await.unwrap(), "1");
        assert_eq!(store.head("a").await.unwrap().key, "a");
        assert_eq!(store.list("", "", 10).await.unwrap().len(), 1);
        assert_eq!(store.describe(), "mem://vol/");
    }

    #[tokio::test]
    async fn a_prefixed_store_behaves_as_every_store_does() {
        crate::behaviour::check(Arc::new(Prefixed::new(Arc::new(MemoryStore::new()), "vol/"))).await;
    }
}
