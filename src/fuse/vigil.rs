//! Staying awake between requests that follow each other closely.
//!
//! A thread that sleeps on an idle processor takes 20 to 200 µs to wake, on virtual machines most, and whoever works
//! through many small files would pay it for each request and for each answer of the metadata engine. To look once whether
//! something has arrived takes one or two.

use std::future::Future;
use std::pin::pin;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::task::Poll;
use std::thread;
use std::time::{Duration, Instant};

use futures::poll;
use tokio::task::yield_now;

/// For how long it pays to look: the time for an application's next call.
const BETWEEN: Duration = Duration::from_micros(100);
/// The same while a request waits for its answer: the time for a round trip to an engine near by that has much to do for it.
const WITHIN: Duration = Duration::from_micros(200);

/// Waits awake as long as the last wait suggests that the next event is near.
#[derive(Debug)]
pub(crate) struct Vigil {
    epoch: Instant,
    /// The last request or answer, in nanoseconds after `epoch`.
    last_event: AtomicU64,
    /// It was a request.
    within: AtomicBool,
    /// The last wait was a short one.
    expectant: AtomicBool,
}

impl Default for Vigil {
    fn default() -> Self {
        let (within, expectant) = (AtomicBool::new(false), AtomicBool::new(false));
        Self { epoch: Instant::now(), last_event: AtomicU64::new(0), within, expectant }
    }
}

impl Vigil {
    /// A request has come: its answer may be near.
    pub(crate) fn asked(&self) {
        self.within.store(true, Ordering::Relaxed);
        self.last_event.store(self.now(), Ordering::Relaxed);
    }

    /// It has been answered: the next one may be near.
    pub(crate) fn answered(&self) {
        self.within.store(false, Ordering::Relaxed);
        self.last_event.store(self.now(), Ordering::Relaxed);
    }

    /// Waits for `arrival`. Others on this thread get their turns meanwhile, and other threads this processor.
    pub(crate) async fn wait_for<T>(&self, arrival: impl Future<Output = T>) -> T {
        let mut arrival = pin!(arrival);
        while self.expectant.load(Ordering::Relaxed) && self.is_near() {
            if let Poll::Ready(arrived) = poll!(arrival.as_mut()) {
                return arrived;
            }
            thread::yield_now();
            yield_now().await;
        }
        let arrived = arrival.await;
        self.expectant.store(self.is_near(), Ordering::Relaxed);
        arrived
    }

    fn is_near(&self) -> bool {
        self.quiet_for() < if self.within.load(Ordering::Relaxed) { WITHIN } else { BETWEEN }
    }

    fn quiet_for(&self) -> Duration {
        Duration::from_nanos(self.now().saturating_sub(self.last_event.load(Ordering::Relaxed)))
    }

    fn now(&self) -> u64 {
        u64::try_from(self.epoch.elapsed().as_nanos()).unwrap_or(u64::MAX)
    }
}

#[cfg(test)]
mod tests {
    use std::future::pending;

    use tokio::time::{sleep, timeout};

    use super::*;

    /// Ready when it is polled for the given time.
    async fn after_looks(looks: u32) {
        for _look in 0..looks {
            yield_now().await;
        }
    }

    #[tokio::test]
    async fn it_stays_awake_after_a_short_wait_and_sleeps_after_a_long_one() {
        let vigil = Vigil::default();
        vigil.asked();
        vigil.wait_for(after_looks(1)).await;
        assert!(vigil.expectant.load(Ordering::Relaxed), "the next one may follow as soon");
        vigil.answered();
        vigil.wait_for(sleep(Duration::from_millis(20))).await;
        assert!(!vigil.expectant.load(Ordering::Relaxed), "that took long, and so may the next one");
    }

    #[tokio::test]
    async fn others_have_their_turns_and_its_patience_ends() {
        let vigil = Vigil::default();
        vigil.expectant.store(true, Ordering::Relaxed);
        vigil.asked();
        timeout(Duration::from_millis(20), vigil.wait_for(pending::<()>())).await.expect_err("the timer had its turn");
        assert!(vigil.quiet_for() >= WITHIN);
    }
}
