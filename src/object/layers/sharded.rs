//! Spreads objects over several buckets (format.md §5.1).

use std::ops::Range;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use futures::future::try_join_all;

use crate::{ObjectInfo, ObjectStore, Result};

/// Several stores that look like one. An object lies in store FNV-1a-32(key) mod n, with the key as this store gets
/// it: the volume's prefix must be on it already.
#[derive(Debug)]
pub struct Sharded {
    shards: Vec<Arc<dyn ObjectStore>>,
}

impl Sharded {
    /// `shards` in the order of their numbers.
    ///
    /// # Panics
    /// Without any shard.
    pub fn new(shards: Vec<Arc<dyn ObjectStore>>) -> Self {
        assert!(!shards.is_empty(), "a sharded store needs a shard");
        Self { shards }
    }

    fn shard(&self, key: &str) -> &dyn ObjectStore {
        &*self.shards[self.number(key)]
    }

    fn number(&self, key: &str) -> usize {
        fnv1a(key.as_bytes()) as usize % self.shards.len()
    }
}

/// The 32-bit FNV-1a hash.
fn fnv1a(bytes: &[u8]) -> u32 {
    bytes.iter().fold(0x811C_9DC5, |hash: u32, byte| (hash ^ u32::from(*byte)).wrapping_mul(0x0100_0193))
}

#[async_trait]
impl ObjectStore for Sharded {
    fn describe(&self) -> String {
        let last = self.shards.len() - 1;
        format!("shards 0..={last}, the first being {}", self.shards[0].describe())
    }

    async fn get(&self, key: &str, range: Option<Range<u64>>) -> Result<Bytes> {
        self.shard(key).get(key, range).await
    }

    async fn put(&self, key: &str, body: Bytes) -> Result<()> {
        self.shard(key).put(key, body).await
    }

    async fn delete(&self, key: &str) -> Result<()> {
        self.shard(key).delete(key).await
    }

    fn deletes_together(&self) -> usize {
        self.shards.iter().map(|shard| shard.deletes_together()).min().unwrap_or(1)
    }

    async fn delete_many(&self, keys: &[String]) -> Result<()> {
        let mut parts = vec![Vec::new(); self.shards.len()];
        for key in keys {
            parts[self.number(key)].push(key.clone());
        }
        let parts = self.shards.iter().zip(&parts).filter(|(_, part)| !part.is_empty());
        try_join_all(parts.map(|(shard, part)| shard.delete_many(part))).await.map(drop)
    }

    async fn head(&self, key: &str) -> Result<ObjectInfo> {
        self.shard(key).head(key).await
    }

    async fn list(&self, prefix: &str, after: &str, limit: usize) -> Result<Vec<ObjectInfo>> {
        let pages = try_join_all(self.shards.iter().map(|shard| shard.list(prefix, after, limit))).await?;
        let mut all: Vec<_> = pages.into_iter().flatten().collect();
        all.sort_by(|a, b| a.key.cmp(&b.key));
        all.truncate(limit);
        Ok(all)
    }

    async fn sync(&self) -> Result<()> {
        try_join_all(self.shards.iter().map(|shard| shard.sync())).await?;
        Ok(())
    }

    async fn create_bucket(&self) -> Result<()> {
        try_join_all(self.shards.iter().map(|shard| shard.create_bucket())).await?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::MemoryStore;

    #[test]
    fn the_hash_is_fnv_1a() {
        // The published test vectors of the function.
        assert_eq!(fnv1a(b""), 0x811C_9DC5);
        assert_eq!(fnv1a(b"a"), 0xE40C_292C);
        assert_eq!(fnv1a(b"foobar"), 0xBF9C_F968);
    }

    #[tokio::test]
    async fn objects_spread_by_hash_and_lists_merge() {
        let shards: Vec<_> = (0..3).map(|_| Arc::new(MemoryStore::new())).collect();
        let store = Sharded::new(shards.iter().map(|shard| shard.clone() as Arc<dyn ObjectStore>).collect());
        for n in 0..100 {
            store.put(&format!("vol/{n:03}"), Bytes::new()).await.unwrap();
        }
        for (number, shard) in shards.iter().enumerate() {
            let own = shard.list("", "", 1000).await.unwrap();
            assert!(own.len() > 10);
            assert!(own.iter().all(|info| fnv1a(info.key.as_bytes()) as usize % 3 == number));
        }
        let page = store.list("vol/", "vol/004", 3).await.unwrap();
        let keys: Vec<_> = page.iter().map(|info| info.key.as_str()).collect();
        assert_eq!(keys, ["vol/005", "vol/006", "vol/007"]);
    }

    #[tokio::test]
    async fn a_sharded_store_behaves_as_every_store_does() {
        let shards = (0..4).map(|_| Arc::new(MemoryStore::new()) as Arc<dyn ObjectStore>).collect();
        crate::behaviour::check(Arc::new(Sharded::new(shards))).await;
    }
}
