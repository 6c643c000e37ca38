//! What lies in a cache directory, as far as this process knows.

use std::time::{Duration, Instant};

use lru::LruCache;
use parking_lot::Mutex;

use crate::Eviction;
use crate::block::BlockId;

/// What a file costs beyond its block's bytes.
const ITEM: u64 = 4096;
/// Items that are tracked at most; each takes some 130 bytes of memory.
const MAX_ITEMS: usize = 1 << 20;

/// The files of one directory.
#[derive(Debug)]
pub(super) struct Index {
    capacity: u64,
    eviction: Eviction,
    began: Instant,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    /// In the order of their last use.
    files: LruCache<BlockId, Item>,
    /// The same in no order, to pick from by chance.
    slots: Vec<BlockId>,
    bytes: u64,
    scan: u32,
    chance: u64,
}

#[derive(Clone, Copy, Debug)]
struct Item {
    /// The scan in which the file was seen last, or during which it was added.
    scan: u32,
    slot: usize,
    /// Milliseconds from when the index was made to the last use, which may have been before.
    used: i64,
}

impl State {
    fn put(&mut self, block: BlockId, used: i64) {
        if let Some(item) = self.files.get_mut(&block) {
            (item.scan, item.used) = (self.scan, used);
            return;
        }
        self.files.put(block, Item { scan: self.scan, slot: self.slots.len(), used });
        self.slots.push(block);
        self.bytes += cost(block);
    }

    fn pop(&mut self, block: BlockId) {
        let Some(Item { slot, .. }) = self.files.pop(&block) else { return };
        self.bytes -= cost(block);
        self.slots.swap_remove(slot);
        if let Some(moved) = self.slots.get(slot)
            && let Some(item) = self.files.peek_mut(moved)
        {
            item.slot = slot;
        }
    }

    fn pop_all(&mut self, which: impl Fn(&Item) -> bool) -> Vec<BlockId> {
        let found: Vec<_> = self.files.iter().filter(|(_, item)| which(item)).map(|(&block, _)| block).collect();
        found.iter().for_each(|&block| self.pop(block));
        found
    }

    fn victim(&mut self, eviction: Eviction) -> Option<BlockId> {
        match eviction {
            Eviction::None => None,
            Eviction::Lru => self.files.peek_lru().map(|(&block, _)| block),
            Eviction::TwoRandom => {
                let used = |state: &Self, block| state.files.peek(&block).map(|item| item.used);
                let (one, other) = (self.any()?, self.any()?);
                Some(if used(self, one) <= used(self, other) { one } else { other })
            }
        }
    }

    fn any(&mut self) -> Option<BlockId> {
        // Xorshift: good enough to choose by, and the same in every run.
        self.chance ^= self.chance << 13;
        self.chance ^= self.chance >> 7;
        self.chance ^= self.chance << 17;
        let slot = usize::try_from(self.chance >> 1).unwrap_or(0).checked_rem(self.slots.len())?;
        self.slots.get(slot).copied()
    }
}

/// Bytes of the capacity that a block's file takes.
pub(super) fn cost(block: BlockId) -> u64 {
    u64::from(block.len) + ITEM
}

impl Index {
    pub(super) fn new(capacity: u64, eviction: Eviction) -> Self {
        let (files, slots) = (LruCache::unbounded(), Vec::new());
        let state = Mutex::new(State { files, slots, bytes: 0, scan: 0, chance: 0x9E37_79B9_7F4A_7C15 });
        Self { capacity, eviction, began: Instant::now(), state }
    }

    /// When something happened that is `age` old.
    fn moment(&self, age: Duration) -> i64 {
        let millis = |time: Duration| i64::try_from(time.as_millis()).unwrap_or(i64::MAX);
        millis(self.began.elapsed()).saturating_sub(millis(age))
    }

    /// The block was written or read just now.
    pub(super) fn touch(&self, block: BlockId) {
        let now = self.moment(Duration::ZERO);
        self.state.lock().put(block, now);
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

    /// Whether there is room for `extra` more bytes.
    pub(super) fn has_room(&self, extra: u64) -> bool {
        let state = self.state.lock();
        state.bytes + extra <= self.capacity && state.files.len() < MAX_ITEMS
    }

    /// Takes out the file that has to go first; `None`: none has to.
    pub(super) fn evict(&self) -> Option<BlockId> {
        let mut state = self.state.lock();
        let victim = state.victim(self.eviction)?;
        state.pop(victim);
        Some(victim)
    }

    /// Takes out what was not used for `age` or longer.
    pub(super) fn take_unused(&self, age: Duration) -> Vec<BlockId> {
        let limit = self.moment(age);
        self.state.lock().pop_all(|item| item.used <= limit)
    }

    /// A scan begins: what it does not report until [`Index::end_scan`] is gone.
    pub(super) fn begin_scan(&self) {
        self.state.lock().scan += 1;
    }

    /// Takes over what the scan found, the most recently used file first, each with how long ago that was.
    pub(super) fn end_scan(&self, found: &[(BlockId, Duration)]) {
        let mut state = self.state.lock();
        let scan = state.scan;
        for &(block, age) in found {
            let used = self.moment(age);
            if let Some(item) = state.files.peek_mut(&block) {
                // Another process may have used it since.
                (item.scan, item.used) = (scan, item.used.max(used));
            } else {
                state.put(block, used);
                state.files.demote(&block);
            }
        }
        state.pop_all(|item| item.scan != scan);
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
        let index = Index::new(1 << 30, Eviction::Lru);
        index.touch(block(1));
        index.touch(block(2));
        index.begin_scan();
        index.touch(block(3));
        index.end_scan(&[9, 8, 2].map(|id| (block(id), Duration::from_secs(100 - id))));
        assert_eq!(index.size(), (4, 4 * 8192));
        assert!(!index.contains(block(1)));
        let order: Vec<_> = std::iter::from_fn(|| index.evict()).collect();
        assert_eq!(order, [block(8), block(9), block(2), block(3)]);
        assert_eq!(index.size(), (0, 0));
    }

    #[test]
    fn there_is_room_until_the_capacity_is_reached() {
        let index = Index::new(2 * 8192, Eviction::Lru);
        index.touch(block(1));
        assert!(index.has_room(8192));
        index.touch(block(2));
        assert!(!index.has_room(8192));
        assert_eq!(index.evict(), Some(block(1)));
        assert!(index.has_room(8192));
    }

    #[test]
    fn without_eviction_nothing_leaves() {
        let index = Index::new(8192, Eviction::None);
        index.touch(block(1));
        assert_eq!((index.evict(), index.has_room(1)), (None, false));
    }

    #[test]
    fn chance_prefers_what_is_old_and_finds_everything() {
        let index = Index::new(1 << 30, Eviction::TwoRandom);
        index.begin_scan();
        let found: Vec<_> = (0..1000).map(|id| (block(id), Duration::from_secs(id))).collect();
        index.end_scan(&found);
        let first: Vec<_> = std::iter::from_fn(|| index.evict()).take(200).collect();
        let old = first.iter().filter(|block| block.slice.0 >= 500).count();
        assert!((120..200).contains(&old), "about three quarters, not all: {old}");
        let mut all = first;
        all.extend(std::iter::from_fn(|| index.evict()));
        all.sort_unstable();
        assert_eq!(all, (0..1000).map(block).collect::<Vec<_>>());
        assert_eq!(index.size(), (0, 0));
    }

    #[test]
    fn what_was_not_used_for_long_is_taken_out() {
        let index = Index::new(1 << 30, Eviction::TwoRandom);
        index.begin_scan();
        index.end_scan(&[(block(1), Duration::from_secs(50)), (block(2), Duration::from_secs(70))]);
        index.touch(block(3));
        assert_eq!(index.take_unused(Duration::from_secs(60)), [block(2)]);
        assert_eq!(index.size(), (2, 2 * 8192));
    }
}
