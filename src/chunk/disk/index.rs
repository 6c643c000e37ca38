//! What lies in a cache directory, as far as this process knows.

use lru::LruCache;
use parking_lot::Mutex;

use crate::block::BlockId;

/// What a file costs beyond its block's bytes.
const ITEM: u64 = 4096;
/// Items that are tracked at most; each takes some 90 bytes of memory.
const MAX_ITEMS: usize = 1 << 20;

/// The files of one directory in the order of their last use.
#[derive(Debug)]
pub(super) struct Index {
    capacity: u64,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    /// Values are the scan in which a file was seen last, or during which it was added.
    files: LruCache<BlockId, u32>,
    bytes: u64,
    scan: u32,
}

impl State {
    fn put(&mut self, block: BlockId) {
        if self.files.put(block, self.scan).is_none() {
            self.bytes += cost(block);
        }
    }

    fn pop(&mut self, block: BlockId) {
        if self.files.pop(&block).is_some() {
            self.bytes -= cost(block);
        }
    }
}

/// Bytes of the capacity that a block's file takes.
pub(super) fn cost(block: BlockId) -> u64 {
    u64::from(block.len) + ITEM
}

impl Index {
    pub(super) fn new(capacity: u64) -> Self {
        Self { capacity, state: Mutex::new(State { files: LruCache::unbounded(), bytes: 0, scan: 0 }) }
    }

    /// The block was written or read just now.
    pub(super) fn touch(&self, block: BlockId) {
        self.state.lock().put(block);
    }

    /// The file is gone.
    pub(super) fn forget(&self, block: BlockId) {
        self.state.lock().pop(block);
    }

    pub(super) fn contains(&self, block: BlockId) -> bool {
        self.state.lock().files.contains(&block)
    }

    /// Whether a block of this size can be kept at all.
    pub(super) fn can_hold(&self, block: BlockId) -> bool {
        cost(block) <= self.capacity
    }

    /// Takes out the least recently used file if there is no room for `extra` more bytes.
    pub(super) fn evict_for(&self, extra: u64) -> Option<BlockId> {
        let mut state = self.state.lock();
        if state.bytes + extra > self.capacity || state.files.len() >= MAX_ITEMS {
            return Self::evict(&mut state);
        }
        None
    }

    /// Takes out the least recently used file.
    pub(super) fn evict_any(&self) -> Option<BlockId> {
        Self::evict(&mut self.state.lock())
    }

    fn evict(state: &mut State) -> Option<BlockId> {
        let (block, _) = state.files.pop_lru()?;
        state.bytes -= cost(block);
        Some(block)
    }

    /// A scan begins: what it does not report until [`Index::end_scan`] is gone.
    pub(super) fn begin_scan(&self) {
        self.state.lock().scan += 1;
    }

    /// Takes over what the scan found, the most recently used file first.
    pub(super) fn end_scan(&self, found: &[BlockId]) {
        let mut state = self.state.lock();
        let scan = state.scan;
        for &block in found {
            if let Some(seen) = state.files.peek_mut(&block) {
                *seen = scan;
            } else {
                state.put(block);
                state.files.demote(&block);
            }
        }
        state.files.retain(|_, &mut seen| seen == scan);
        state.bytes = state.files.iter().map(|(&block, _)| cost(block)).sum();
    }

    /// Files and bytes.
    pub(super) fn size(&self) -> (u64, u64) {
        let state = self.state.lock();
        (state.files.len() as u64, state.bytes)
    }
}

#[cfg(test)]
mod tests {
    use stead_base::SliceId;

    use super::*;

    fn block(id: u64) -> BlockId {
        BlockId { slice: SliceId(id), index: 0, len: 4096 }
    }

    #[test]
    fn a_scan_adds_what_is_old_and_removes_what_is_gone() {
        let index = Index::new(1 << 30);
        index.touch(block(1));
        index.touch(block(2));
        index.begin_scan();
        index.touch(block(3));
        index.end_scan(&[block(9), block(8), block(2)]);
        assert_eq!(index.size(), (4, 4 * 8192));
        assert!(!index.contains(block(1)));
        let order: Vec<_> = std::iter::from_fn(|| index.evict_any()).collect();
        assert_eq!(order, [block(8), block(9), block(2), block(3)]);
        assert_eq!(index.size(), (0, 0));
    }

    #[test]
    fn room_is_made_only_when_needed() {
        let index = Index::new(2 * 8192);
        index.touch(block(1));
        assert_eq!(index.evict_for(8192), None);
        index.touch(block(2));
        assert_eq!(index.evict_for(8192), Some(block(1)));
        assert_eq!(index.evict_for(8192), None);
    }
}
