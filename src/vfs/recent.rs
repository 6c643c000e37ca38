//! What this mount changed lately.
//!
//! A directory snapshot carries attributes from the time it was loaded. If one of them were handed to the kernel after
//! the inode or the name had changed, the kernel would take an old length, or a name that is gone, for new. So each
//! local change is noted here, and a snapshot asks before it shows what it remembers.

use std::hash::{BuildHasher, Hash, RandomState};
use std::num::NonZeroUsize;

use lru::LruCache;
use parking_lot::Mutex;
use stead_base::Ino;
use tokio::time::Instant;

const REMEMBERED: NonZeroUsize = NonZeroUsize::new(8192).expect("not zero");

/// Times of the latest local changes of inodes and names. Two that share a hash only cost an attribute.
pub(crate) struct RecentChanges {
    hasher: RandomState,
    state: Mutex<State>,
}

struct State {
    times: LruCache<u64, Instant>,
    /// The youngest change that was forgotten for want of room.
    forgotten: Option<Instant>,
}

impl RecentChanges {
    pub(crate) fn new() -> Self {
        Self {
            hasher: RandomState::new(),
            state: Mutex::new(State { times: LruCache::new(REMEMBERED), forgotten: None }),
        }
    }

    /// The attributes of `ino` changed.
    pub(crate) fn inode(&self, ino: Ino) {
        self.note(&ino);
    }

    /// `name` in `parent` came, went or leads elsewhere.
    pub(crate) fn entry(&self, parent: Ino, name: &[u8]) {
        self.note(&(parent, name));
    }

    /// Whether the entry or what it leads to may have changed since `then`.
    pub(crate) fn since(&self, then: Instant, parent: Ino, name: &[u8], ino: Ino) -> bool {
        let state = self.state.lock();
        if state.forgotten.is_some_and(|time| time >= then) {
            return true;
        }
        let changed = |hash| state.times.peek(&hash).is_some_and(|time| *time >= then);
        changed(self.hasher.hash_one((parent, name))) || changed(self.hasher.hash_one(ino))
    }

    /// Whether the attributes of `ino` may have changed since `then`.
    pub(crate) fn inode_since(&self, then: Instant, ino: Ino) -> bool {
        let state = self.state.lock();
        let changed = state.times.peek(&self.hasher.hash_one(ino)).is_some_and(|time| *time >= then);
        changed || state.forgotten.is_some_and(|time| time >= then)
    }

    fn note(&self, what: &impl Hash) {
        let hash = self.hasher.hash_one(what);
        let now = Instant::now();
        let mut state = self.state.lock();
        if let Some((pushed_out, time)) = state.times.push(hash, now)
            && pushed_out != hash
        {
            state.forgotten = Some(state.forgotten.map_or(time, |older| older.max(time)));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_change_is_known_until_a_younger_snapshot() {
        let recent = RecentChanges::new();
        let before = Instant::now();
        tokio::time::advance(Duration::from_millis(1)).await;
        recent.inode(Ino(5));
        recent.entry(Ino::ROOT, b"a");
        assert!(recent.since(before, Ino::ROOT, b"x", Ino(5)));
        assert!(recent.since(before, Ino::ROOT, b"a", Ino(6)));
        assert!(!recent.since(before, Ino::ROOT, b"x", Ino(6)));
        tokio::time::advance(Duration::from_millis(1)).await;
        assert!(!recent.since(Instant::now(), Ino::ROOT, b"a", Ino(5)));
    }

    #[tokio::test(start_paused = true)]
    async fn what_was_forgotten_counts_as_changed() {
        let recent = RecentChanges::new();
        let before = Instant::now();
        for ino in 0..=REMEMBERED.get() as u64 {
            recent.inode(Ino(ino));
        }
        assert!(recent.since(before, Ino::ROOT, b"x", Ino(1 << 40)));
    }
}
