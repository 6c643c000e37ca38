//! One call at a time per volume; what others only read can be shared.

use std::collections::HashMap;
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::{OwnedRwLockReadGuard, OwnedRwLockWriteGuard, RwLock};

type Lock = Arc<RwLock<()>>;

/// A lock for each key that somebody works on.
#[derive(Clone, Debug, Default)]
pub(crate) struct Locks {
    held: Arc<Mutex<HashMap<String, Lock>>>,
}

/// Releases its key when it is dropped.
#[derive(Debug)]
pub(crate) struct Guard {
    locks: Locks,
    key: String,
    hold: Option<Hold>,
}

#[derive(Debug)]
#[expect(dead_code, reason = "held, not looked at")]
enum Hold {
    Alone(OwnedRwLockWriteGuard<()>),
    Shared(OwnedRwLockReadGuard<()>),
}

impl Locks {
    /// Waits until nobody else holds the key.
    pub(crate) async fn lock(&self, key: &str) -> Guard {
        let hold = Hold::Alone(self.of(key).write_owned().await);
        Guard { locks: self.clone(), key: key.to_owned(), hold: Some(hold) }
    }

    /// Waits until nobody holds the key alone.
    pub(crate) async fn share(&self, key: &str) -> Guard {
        let hold = Hold::Shared(self.of(key).read_owned().await);
        Guard { locks: self.clone(), key: key.to_owned(), hold: Some(hold) }
    }

    fn of(&self, key: &str) -> Lock {
        Arc::clone(self.held.lock().entry(key.to_owned()).or_default())
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        let mut held = self.locks.held.lock();
        drop(self.hold.take());
        // One reference is the table's; another is somebody who waits or has got it.
        if held.get(&self.key).is_some_and(|lock| Arc::strong_count(lock) == 1) {
            held.remove(&self.key);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_key_is_held_by_one_and_forgotten_afterwards() {
        let locks = Locks::default();
        let first = locks.lock("a").await;
        let other = locks.lock("b").await;
        let waiting = tokio::spawn({
            let locks = locks.clone();
            async move { drop(locks.lock("a").await) }
        });
        tokio::task::yield_now().await;
        assert!(!waiting.is_finished());
        drop(first);
        waiting.await.expect("gets its turn");
        drop(other);
        assert!(locks.held.lock().is_empty());
    }

    #[tokio::test]
    async fn a_key_can_be_shared_while_nobody_has_it_alone() {
        let locks = Locks::default();
        let (one, two) = (locks.share("a").await, locks.share("a").await);
        let waiting = tokio::spawn({
            let locks = locks.clone();
            async move { drop(locks.lock("a").await) }
        });
        tokio::task::yield_now().await;
        drop(one);
        tokio::task::yield_now().await;
        assert!(!waiting.is_finished());
        drop(two);
        waiting.await.expect("gets its turn");
        assert!(locks.held.lock().is_empty());
    }
}
