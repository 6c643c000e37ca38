//! Objects in memory: for tests, and the plainest reading of what [`ObjectStore`] promises.

use std::collections::BTreeMap;
use std::fmt;
use std::ops::{Bound, Range};
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use parking_lot::RwLock;
use stead_base::{Clock, SystemClock, Timestamp};

use crate::{Error, ObjectInfo, ObjectStore, Result, cut};

/// A store that forgets everything when it is dropped.
pub struct MemoryStore {
    objects: RwLock<BTreeMap<String, Object>>,
    clock: Arc<dyn Clock>,
}

struct Object {
    body: Bytes,
    modified: Timestamp,
}

impl Object {
    fn info(&self, key: &str) -> ObjectInfo {
        ObjectInfo { key: key.to_owned(), size: self.body.len() as u64, modified: self.modified }
    }
}

impl MemoryStore {
    /// An empty store whose objects are stamped by the machine's clock.
    pub fn new() -> Self {
        Self::with_clock(Arc::new(SystemClock))
    }

    /// An empty store whose objects are stamped by `clock`.
    pub fn with_clock(clock: Arc<dyn Clock>) -> Self {
        Self { objects: RwLock::default(), clock }
    }

    fn not_found(&self, key: &str) -> Error {
        Error::NotFound { store: self.describe(), key: key.to_owned() }
    }
}

impl Default for MemoryStore {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for MemoryStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "MemoryStore({} objects)", self.objects.read().len())
    }
}

#[async_trait]
impl ObjectStore for MemoryStore {
    fn describe(&self) -> String {
        "mem://".to_owned()
    }

    async fn get(&self, key: &str, range: Option<Range<u64>>) -> Result<Bytes> {
        let objects = self.objects.read();
        let body = &objects.get(key).ok_or_else(|| self.not_found(key))?.body;
        let range = cut(range, body.len() as u64);
        Ok(body.slice(usize_of(range.start)..usize_of(range.end)))
    }

    async fn put(&self, key: &str, body: Bytes) -> Result<()> {
        let object = Object { body, modified: self.clock.now() };
        self.objects.write().insert(key.to_owned(), object);
        Ok(())
    }

    async fn delete(&self, key: &str) -> Result<()> {
        self.objects.write().remove(key);
        Ok(())
    }

    async fn head(&self, key: &str) -> Result<ObjectInfo> {
        self.objects.read().get(key).map(|object| object.info(key)).ok_or_else(|| self.not_found(key))
    }

    async fn list(&self, prefix: &str, after: &str, limit: usize) -> Result<Vec<ObjectInfo>> {
        let from = if after < prefix { Bound::Included(prefix) } else { Bound::Excluded(after) };
        let objects = self.objects.read();
        let found = objects.range::<str, _>((from, Bound::Unbounded));
        let matching = found.take_while(|(key, _)| key.starts_with(prefix));
        Ok(matching.take(limit).map(|(key, object)| object.info(key)).collect())
    }
}

/// A position inside a body, which is in memory and so below `usize::MAX`.
fn usize_of(position: u64) -> usize {
    usize::try_from(position).expect("a position inside a buffer fits")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn memory_behaves_as_every_store_does() {
        crate::behaviour::check(Arc::new(MemoryStore::new())).await;
    }
}
