//! Encrypts bodies on their way to a store.

use std::ops::Range;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;

use crate::{Encryption, Error, ObjectInfo, ObjectStore, Result, cut};

/// A store whose objects are encrypted, all of them (format.md §5.4). Sizes that it tells are those of the plain bodies.
/// A range costs as much as the whole object: nothing of an object is believed before all of it is verified.
#[derive(Debug)]
pub struct Encrypted {
    inner: Arc<dyn ObjectStore>,
    encryption: Arc<Encryption>,
}

impl Encrypted {
    /// Goes around retries, so that a body is encrypted once for all attempts.
    pub fn new(inner: Arc<dyn ObjectStore>, encryption: Encryption) -> Self {
        Self { inner, encryption: Arc::new(encryption) }
    }

    /// `inner` as it is without a key, else encrypted.
    pub fn around(inner: Arc<dyn ObjectStore>, encryption: Option<Encryption>) -> Arc<dyn ObjectStore> {
        match encryption {
            Some(encryption) => Arc::new(Self::new(inner, encryption)),
            None => inner,
        }
    }

    /// Works where it does not hold up the runtime: a body takes milliseconds.
    async fn work(
        &self,
        key: &str,
        work: impl FnOnce(&Encryption) -> Result<Bytes, String> + Send + 'static,
    ) -> Result<Bytes> {
        let encryption = Arc::clone(&self.encryption);
        match tokio::task::spawn_blocking(move || work(&encryption)).await {
            Ok(done) => done.map_err(|why| Error::Corrupt { store: self.inner.describe(), key: key.to_owned(), why }),
            Err(ended) => Err(Error::Temporary { store: self.describe(), why: format!("{key:?}: {ended}") }),
        }
    }

    fn plain(&self, mut info: ObjectInfo) -> ObjectInfo {
        info.size = info.size.saturating_sub(self.encryption.overhead());
        info
    }
}

#[async_trait]
impl ObjectStore for Encrypted {
    fn describe(&self) -> String {
        self.inner.describe()
    }

    async fn get(&self, key: &str, range: Option<Range<u64>>) -> Result<Bytes> {
        let sealed = self.inner.get(key, None).await?;
        let plain = self.work(key, move |encryption| encryption.open(sealed)).await?;
        let part = cut(range, plain.len() as u64);
        let at = |offset| usize::try_from(offset).expect("an offset in a body");
        Ok(plain.slice(at(part.start)..at(part.end)))
    }

    async fn put(&self, key: &str, body: Bytes) -> Result<()> {
        let sealed = self.work(key, move |encryption| encryption.seal(&body)).await?;
        self.inner.put(key, sealed).await
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
        Ok(self.plain(self.inner.head(key).await?))
    }

    async fn list(&self, prefix: &str, after: &str, limit: usize) -> Result<Vec<ObjectInfo>> {
        let found = self.inner.list(prefix, after, limit).await?;
        Ok(found.into_iter().map(|info| self.plain(info)).collect())
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
    use crate::encryption::tests::key;

    fn encrypted(inner: &Arc<MemoryStore>) -> Encrypted {
        Encrypted::new(inner.clone(), Encryption::new("", key(), None).unwrap())
    }

    #[tokio::test]
    async fn an_encrypted_store_behaves_as_every_store_does() {
        crate::behaviour::check(Arc::new(encrypted(&Arc::default()))).await;
    }

    #[tokio::test]
    async fn nothing_readable_reaches_the_store() {
        let inner = Arc::<MemoryStore>::default();
        let store = encrypted(&inner);
        store.put("juicefs_uuid", Bytes::from_static(b"plain text")).await.unwrap();
        let stored = inner.get("juicefs_uuid", None).await.unwrap();
        assert_eq!(stored.len(), 10 + 287);
        assert!(!stored.windows(5).any(|window| window == b"plain"));
        assert_eq!(store.get("juicefs_uuid", Some(6..100)).await.unwrap(), "text");
        assert_eq!(store.list("", "", 10).await.unwrap()[0].size, 10);
    }

    #[tokio::test]
    async fn a_plain_object_is_told_from_an_encrypted_one() {
        let inner = Arc::<MemoryStore>::default();
        inner.put("k", Bytes::from(vec![b'x'; 1000])).await.unwrap();
        let error = encrypted(&inner).get("k", None).await.unwrap_err();
        assert!(error.to_string().contains("\"k\"") && error.to_string().contains("not encrypted"), "{error}");
        assert!(!error.is_temporary());
    }
}
