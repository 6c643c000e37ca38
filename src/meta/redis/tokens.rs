//! Tokens: each commit leaves the number of its operation in a slot of the client's hash, in the same script as its
//! writes. When a reply gets lost, the slot tells whether the operation took effect.
//!
//! Operations in one slot follow one another, and their numbers grow. A commit is refused once its slot has seen a later
//! number; asking about an operation moves the slot past it if it has not been done. So a command that still lies in a
//! dead connection can never take effect after its caller was told that it has not.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::{Semaphore, SemaphorePermit};
use tokio::time::Instant;

/// Commits at the same time.
const SLOTS: u16 = 256;
/// So often the server is told to keep the tokens for another hour.
const RENEWAL: Duration = Duration::from_secs(60);

/// The slots of one client.
#[derive(Debug)]
pub(super) struct Tokens {
    /// The hash that holds them.
    pub(super) key: Vec<u8>,
    permits: Semaphore,
    free: Mutex<Vec<u16>>,
    next: AtomicU64,
    /// Since when they are kept for an hour.
    renewed: Mutex<Option<Instant>>,
}

/// A slot, until it is dropped.
#[derive(Debug)]
pub(super) struct Slot<'a> {
    tokens: &'a Tokens,
    pub(super) number: u16,
    _permit: SemaphorePermit<'a>,
}

impl Tokens {
    pub(super) fn new(key: Vec<u8>) -> Self {
        Self {
            key,
            permits: Semaphore::new(SLOTS.into()),
            free: Mutex::new((0..SLOTS).rev().collect()),
            next: AtomicU64::new(2),
            renewed: Mutex::default(),
        }
    }

    /// A free slot, when there is one.
    pub(super) async fn slot(&self) -> Slot<'_> {
        let permit = self.permits.acquire().await.expect("the semaphore is never closed");
        let number = self.free.lock().pop().expect("there are as many slots as permits");
        Slot { tokens: self, number, _permit: permit }
    }
}

impl Slot<'_> {
    /// Whether the operation that comes now is to have the tokens kept for another hour. More often than that would cost
    /// every commit a command.
    pub(super) fn renews(&self) -> bool {
        self.tokens.renewed.lock().is_none_or(|at| at.elapsed() >= RENEWAL)
    }

    /// They are kept for an hour from `at`.
    pub(super) fn renewed(&self, at: Instant) {
        *self.tokens.renewed.lock() = Some(at);
    }

    /// The number of a new operation; the odd numbers between mark operations that never will be done.
    pub(super) fn operation(&self) -> u64 {
        self.tokens.next.fetch_add(2, Ordering::Relaxed)
    }
}

impl Drop for Slot<'_> {
    fn drop(&mut self) {
        self.tokens.free.lock().push(self.number);
    }
}
