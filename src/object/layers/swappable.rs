//! Changes the store below running readers and writers.

use std::ops::Range;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use parking_lot::RwLock;

use crate::{ObjectInfo, ObjectStore, Result};

/// A store that can be replaced at run time. Calls under way end on the store on which they began, and
/// [`sync`](ObjectStore::sync) still reaches the objects that were put there.
#[derive(Debug)]
pub struct Swappable {
    stores: RwLock<Stores>,
}

#[derive(Debug)]
struct Stores {
    current: Arc<dyn ObjectStore>,
    /// Replaced, and perhaps with objects that no `sync` has reached.
    retired: Vec<Arc<dyn ObjectStore>>,
}

impl Swappable {
    /// Begins with `store`.
    pub fn new(store: Arc<dyn ObjectStore>) -> Self {
        Self { stores: RwLock::new(Stores { current: store, retired: Vec::new() }) }
    }

    /// Sends all later calls to `store`.
    pub fn replace(&self, store: Arc<dyn ObjectStore>) {
        let mut stores = self.stores.write();
        let old = std::mem::replace(&mut stores.current, store);
        stores.retired.push(old);
    }

    fn current(&self) -> Arc<dyn ObjectStore> {
        Arc::clone(&self.stores.read().current)
    }

    /// Forgets the replaced stores that are among `synced`.
    fn forget(&self, synced: &[Arc<dyn ObjectStore>]) {
        let is_synced = |old: &Arc<dyn ObjectStore>| synced.iter().any(|synced| Arc::ptr_eq(synced, old));
        self.stores.write().retired.retain(|old| !is_synced(old));
    }
}

/// Whether no call is under way on a replaced store: the list and the copy of it hold the only references. This is
/// asked before the sync, since a call that ends during it may come too late for it.
fn is_idle(old: &Arc<dyn ObjectStore>) -> bool {
    Arc::strong_count(old) <= 2
}

#[async_trait]
impl ObjectStore for Swappable {
    fn describe(&self) -> String {
        self.current().describe()
    }

    async fn get(&self, key: &str, range: Option<Range<u64>>) -> Result<Bytes> {
        self.current().get(key, range).await
    }

    async fn put(&self, key: &str, body: Bytes) -> Result<()> {
        self.current().put(key, body).await
    }

    async fn delete(&self, key: &str) -> Result<()> {
        self.current().delete(key).await
    }

    fn deletes_together(&self) -> usize {
        self.current().deletes_together()
    }

    async fn delete_many(&self, keys: &[String]) -> Result<()> {
        self.current().delete_many(keys).await
    }

    async fn head(&self, key: &str) -> Result<ObjectInfo> {
        self.current().head(key).await
    }

    async fn list(&self, prefix: &str, after: &str, limit: usize) -> Result<Vec<ObjectInfo>> {
        self.current().list(prefix, after, limit).await
    }

    async fn sync(&self) -> Result<()> {
        let (current, retired) = {
            let stores = self.stores.read();
            (Arc::clone(&stores.current), stores.retired.clone())
        };
        let idle: Vec<_> = retired.iter().filter(|old| is_idle(old)).cloned().collect();
        for old in &retired {
            old.sync().await?;
        }
        self.forget(&idle);
        current.sync().await
    }

    async fn create_bucket(&self) -> Result<()> {
        self.current().create_bucket().await
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Failing, MemoryStore, Op};

    #[tokio::test]
    async fn later_calls_go_to_the_new_store() {
        let (old, new) = (Arc::new(MemoryStore::new()), Arc::new(MemoryStore::new()));
        let store = Swappable::new(old.clone());
        store.put("a", Bytes::new()).await.unwrap();
        store.replace(new.clone());
        store.put("b", Bytes::new()).await.unwrap();
        assert!(old.head("a").await.is_ok() && old.head("b").await.is_err());
        assert!(new.head("b").await.is_ok() && store.head("a").await.is_err());
    }

    #[tokio::test]
    async fn sync_reaches_a_replaced_store() {
        let old = Arc::new(Failing::new(Arc::new(MemoryStore::new())));
        let store = Swappable::new(Arc::new(MemoryStore::new()));
        store.replace(old.clone());
        store.replace(Arc::new(MemoryStore::new()));
        store.sync().await.unwrap();
        assert_eq!(old.calls(Op::Sync), 1, "this test holds the store, so it is not forgotten");
        let watched = Arc::downgrade(&old);
        drop(old);
        store.sync().await.unwrap();
        assert!(watched.upgrade().is_none(), "synced and forgotten");
    }
}
