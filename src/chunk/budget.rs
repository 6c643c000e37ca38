//! One number of bytes that dirty pages and read-ahead share, and how to wait for room in it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use tokio::sync::{Mutex, Notify};

/// A bounded number of bytes.
///
/// Pages charge it when they are taken, without asking: whoever is about to write asks first ([`Budget::try_reserve`] or
/// [`Budget::reserve`]), copies, and drops the reservation. So writing itself never waits, and the bound is exceeded by no
/// more than the pages of the writes that are being copied at that moment.
///
/// `used` and `waiting` are ordered sequentially: a releaser subtracts and then looks for waiters, a waiter announces itself
/// and then looks at `used`; with anything weaker both could miss each other.
#[derive(Debug)]
pub struct Budget {
    limit: u64,
    used: AtomicU64,
    waiting: AtomicUsize,
    /// Whoever waits for room holds this, so that the first to come is the first served.
    turn: Mutex<()>,
    freed: Notify,
    pressed: Notify,
}

impl Budget {
    /// Room for `limit` bytes.
    pub fn new(limit: u64) -> Arc<Self> {
        Arc::new(Self {
            limit,
            used: AtomicU64::new(0),
            waiting: AtomicUsize::new(0),
            turn: Mutex::new(()),
            freed: Notify::new(),
            pressed: Notify::new(),
        })
    }

    /// Takes `bytes` if there is room and nobody waits for it. More than the limit counts as the limit.
    pub fn try_reserve(self: &Arc<Self>, bytes: u64) -> Option<Reservation> {
        if self.waiting() > 0 {
            return None;
        }
        self.take(bytes)
    }

    /// Takes `bytes`, waiting for room in the order of arrival. Cancelling the wait leaves nothing behind.
    pub async fn reserve(self: &Arc<Self>, bytes: u64) -> Reservation {
        if let Some(reservation) = self.try_reserve(bytes) {
            return reservation;
        }
        let _waiting = Waiting::new(self);
        let _turn = self.turn.lock().await;
        loop {
            let freed = self.freed.notified();
            if let Some(reservation) = self.take(bytes) {
                return reservation;
            }
            self.pressed.notify_waiters();
            freed.await;
        }
    }

    /// Resolves when somebody has to wait for room: the moment to flush what is dirty.
    pub async fn pressure(&self) {
        let pressed = self.pressed.notified();
        if self.waiting() == 0 {
            pressed.await;
        }
    }

    /// Bytes in use; may exceed [`Budget::limit`] a little.
    pub fn used(&self) -> u64 {
        self.used.load(Ordering::SeqCst)
    }

    /// The bound.
    pub fn limit(&self) -> u64 {
        self.limit
    }

    /// How many callers wait for room.
    pub fn waiting(&self) -> usize {
        self.waiting.load(Ordering::SeqCst)
    }

    /// Takes `bytes` whether or not there is room.
    pub(crate) fn charge(self: &Arc<Self>, bytes: u64) -> Reservation {
        self.used.fetch_add(bytes, Ordering::SeqCst);
        Reservation { budget: Arc::clone(self), bytes }
    }

    fn take(self: &Arc<Self>, bytes: u64) -> Option<Reservation> {
        let bytes = bytes.min(self.limit);
        self.used
            .fetch_update(Ordering::SeqCst, Ordering::SeqCst, |used| {
                used.checked_add(bytes).filter(|&sum| sum <= self.limit)
            })
            .ok()
            .map(|_before| Reservation { budget: Arc::clone(self), bytes })
    }
}

/// Bytes of a [`Budget`], given back when dropped.
#[derive(Debug)]
pub struct Reservation {
    budget: Arc<Budget>,
    bytes: u64,
}

impl Reservation {
    /// How many bytes this holds.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        self.budget.used.fetch_sub(self.bytes, Ordering::SeqCst);
        // `notify_one` keeps a permit for a waiter that has looked but does not sleep yet.
        if self.budget.waiting() > 0 {
            self.budget.freed.notify_one();
        }
    }
}

struct Waiting<'a>(&'a Budget);

impl<'a> Waiting<'a> {
    fn new(budget: &'a Budget) -> Self {
        budget.waiting.fetch_add(1, Ordering::SeqCst);
        budget.pressed.notify_waiters();
        Self(budget)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.waiting.fetch_sub(1, Ordering::SeqCst);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[tokio::test]
    async fn a_full_budget_makes_the_next_one_wait() {
        let budget = Budget::new(100);
        let first = budget.try_reserve(80).expect("there is room");
        assert!(budget.try_reserve(30).is_none());
        let waiter = tokio::spawn({
            let budget = Arc::clone(&budget);
            async move { budget.reserve(30).await.bytes() }
        });
        budget.pressure().await;
        assert!(budget.try_reserve(1).is_none(), "nobody overtakes");
        drop(first);
        let waited = tokio::time::timeout(Duration::from_secs(5), waiter).await.expect("nobody wakes it");
        assert_eq!(waited.unwrap(), 30);
        assert_eq!((budget.used(), budget.waiting()), (0, 0));
    }

    #[tokio::test]
    async fn a_wait_that_is_given_up_leaves_nothing() {
        let budget = Budget::new(10);
        let held = budget.charge(10);
        let wait = tokio::time::timeout(Duration::from_millis(5), budget.reserve(5)).await;
        assert!(wait.is_err());
        assert_eq!(budget.waiting(), 0);
        drop(held);
        assert!(budget.try_reserve(10).is_some());
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 4)]
    async fn no_wakeup_is_lost() {
        let budget = Budget::new(3);
        let tasks: Vec<_> = (0..16)
            .map(|n| {
                let budget = Arc::clone(&budget);
                tokio::spawn(async move {
                    for _ in 0..500 {
                        let held = budget.reserve(1 + n % 3).await;
                        tokio::task::yield_now().await;
                        drop(held);
                    }
                })
            })
            .collect();
        for task in tasks {
            tokio::time::timeout(Duration::from_secs(20), task).await.expect("somebody waits for ever").unwrap();
        }
        assert_eq!(budget.used(), 0);
    }

    #[tokio::test]
    async fn more_than_the_limit_is_served_alone() {
        let budget = Budget::new(10);
        assert_eq!(budget.reserve(1000).await.bytes(), 10);
    }
}
