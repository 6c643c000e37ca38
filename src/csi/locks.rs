//! One call at a time per volume.

use std::collections::HashMap;
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::OwnedMutexGuard;

type Lock = Arc<tokio::sync::Mutex<()>>;

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
    lock: Option<OwnedMutexGuard<()>>,
}

impl Locks {
    /// Waits for its turn.
    pub(crate) async fn lock(&self, key: &str) -> Guard {
        let lock = Arc::clone(self.held.lock().entry(key.to_owned()).or_default());
        let lock = Some(lock.lock_owned().await);
        Guard { locks: self.clone(), key: key.to_owned(), lock }
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        let mut held = self.locks.held.lock();
        drop(self.lock.take());
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
}
