//! Whole blocks in memory, the least recently used leave first.

use bytes::Bytes;
use lru::LruCache;
use parking_lot::Mutex;

use crate::block::BlockId;

const ITEM: u64 = 128;

/// A bounded number of bytes of whole blocks.
#[derive(Debug)]
pub(crate) struct MemoryCache {
    limit: u64,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    blocks: LruCache<BlockId, Bytes>,
    bytes: u64,
}

/// Bytes that a block takes, its place in the list included.
fn cost(data: &Bytes) -> u64 {
    data.len() as u64 + ITEM
}

impl MemoryCache {
    pub(crate) fn new(limit: u64) -> Self {
        Self { limit, state: Mutex::new(State { blocks: LruCache::unbounded(), bytes: 0 }) }
    }

    pub(crate) fn limit(&self) -> u64 {
        self.limit
    }

    pub(crate) fn get(&self, block: BlockId) -> Option<Bytes> {
        self.state.lock().blocks.get(&block).cloned()
    }

    pub(crate) fn contains(&self, block: BlockId) -> bool {
        self.state.lock().blocks.contains(&block)
    }

    /// Keeps a block; gives back how many had to leave for it.
    pub(crate) fn insert(&self, block: BlockId, data: Bytes) -> u64 {
        let size = cost(&data);
        if size > self.limit {
            return 0;
        }
        let mut state = self.state.lock();
        state.bytes += size;
        if let Some(old) = state.blocks.put(block, data) {
            state.bytes -= cost(&old);
        }
        let mut evicted = 0;
        while state.bytes > self.limit {
            let Some((_, old)) = state.blocks.pop_lru() else { break };
            state.bytes -= cost(&old);
            evicted += 1;
        }
        evicted
    }

    pub(crate) fn remove(&self, block: BlockId) {
        let mut state = self.state.lock();
        if let Some(old) = state.blocks.pop(&block) {
            state.bytes -= cost(&old);
        }
    }

    /// Blocks and bytes.
    pub(crate) fn size(&self) -> (u64, u64) {
        let state = self.state.lock();
        (state.blocks.len() as u64, state.bytes)
    }
}

#[cfg(test)]
mod tests {
    use stead_base::SliceId;

    use super::*;

    fn block(id: u64) -> BlockId {
        BlockId { slice: SliceId(id), index: 0, len: 10 }
    }

    #[test]
    fn the_least_recently_used_leaves_and_the_bound_holds() {
        let cache = MemoryCache::new(30 + 3 * ITEM);
        for id in 1..=3 {
            assert_eq!(cache.insert(block(id), Bytes::from(vec![0; 10])), 0);
        }
        assert!(cache.get(block(1)).is_some());
        assert_eq!(cache.insert(block(4), Bytes::from(vec![0; 10])), 1);
        assert!(!cache.contains(block(2)) && cache.contains(block(1)));
        cache.insert(block(4), Bytes::from(vec![0; 10]));
        assert_eq!(cache.size(), (3, 30 + 3 * ITEM));
        cache.insert(block(9), Bytes::from(vec![0; 500]));
        assert!(!cache.contains(block(9)));
        cache.remove(block(4));
        assert_eq!(cache.size(), (2, 20 + 2 * ITEM));
    }
}
