//! What waits to be written to a cache directory.

use std::collections::HashMap;

use bytes::Bytes;
use parking_lot::Mutex;

use crate::block::BlockId;

/// Blocks of at most so many bytes. Who writes them looks here for their data, so that they can be given up at any time.
#[derive(Debug)]
pub(super) struct Waiting {
    limit: u64,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    blocks: HashMap<BlockId, Bytes>,
    bytes: u64,
}

impl State {
    fn remove(&mut self, block: BlockId) -> bool {
        let removed = self.blocks.remove(&block);
        self.bytes -= removed.as_ref().map_or(0, |data| data.len() as u64);
        removed.is_some()
    }
}

impl Waiting {
    pub(super) fn new(limit: u64) -> Self {
        Self { limit, state: Mutex::default() }
    }

    /// Adds a block; `false`: too much waits.
    pub(super) fn add(&self, block: BlockId, data: Bytes) -> bool {
        let mut state = self.state.lock();
        state.remove(block);
        let sum = state.bytes + data.len() as u64;
        if sum > self.limit {
            return false;
        }
        state.bytes = sum;
        state.blocks.insert(block, data);
        true
    }

    /// Whether half of the room is taken.
    pub(super) fn is_crowded(&self) -> bool {
        self.state.lock().bytes > self.limit / 2
    }

    /// The data of a block, unless it was given up.
    pub(super) fn get(&self, block: BlockId) -> Option<Bytes> {
        self.state.lock().blocks.get(&block).cloned()
    }

    /// Whether it was there.
    pub(super) fn remove(&self, block: BlockId) -> bool {
        self.state.lock().remove(block)
    }

    /// Gives all of them up; returns how many there were.
    pub(super) fn clear(&self) -> u64 {
        std::mem::take(&mut *self.state.lock()).blocks.len() as u64
    }
}

#[cfg(test)]
mod tests {
    use stead_base::SliceId;

    use super::*;

    #[test]
    fn bytes_are_bounded_and_given_back() {
        let waiting = Waiting::new(100);
        let block = |id| BlockId { slice: SliceId(id), index: 0, len: 40 };
        let data = Bytes::from_static(&[7; 40]);
        assert!(waiting.add(block(1), data.clone()) && waiting.add(block(2), data.clone()));
        assert!(waiting.add(block(2), data.clone()), "the same again takes no more");
        assert!(!waiting.add(block(3), data.clone()));
        assert!(waiting.remove(block(1)) && !waiting.remove(block(1)));
        assert!(waiting.add(block(3), data.clone()));
        assert_eq!((waiting.get(block(1)), waiting.get(block(3))), (None, Some(data.clone())));
        assert_eq!(waiting.clear(), 2);
        assert_eq!(waiting.get(block(3)), None);
        assert!(waiting.add(block(4), data.clone()) && waiting.add(block(5), data));
    }
}
