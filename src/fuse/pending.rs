//! Requests that were not answered at once, and what happens when the kernel takes one back (INTERRUPT).
//!
//! The kernel sends INTERRUPT for any signal of the process that waits, also for one that it will only note (a timer). A
//! program expects EINTR where it waits for a lock, and nowhere else: so work on files and names is left alone as long as
//! it may still end in its time, and what changes names or attributes always runs to its end, since nobody could tell
//! afterwards whether it took effect.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures::FutureExt as _;
use futures::future::BoxFuture;
use parking_lot::Mutex;
use stead_base::Errno;
use tokio::sync::Notify;

use crate::abi::UNIQUE_RESEND;
use crate::reply::Answer;

/// How long work that reads or writes back goes on although somebody wants it to end.
pub(crate) const PATIENCE: Duration = Duration::from_secs(1);

/// What INTERRUPT does to a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum OnInterrupt {
    /// It ends: it waits for a lock.
    End,
    /// It ends if it has not done so within [`PATIENCE`]: it has no effect, or one that stays right when it is given up
    /// in between.
    EndLater,
    /// The kernel is answered as for [`OnInterrupt::EndLater`], but the work goes on: more depends on it than its answer.
    Leave,
    /// It runs to its end.
    Finish,
}

/// The requests that wait, by number.
#[derive(Debug, Default)]
pub(crate) struct Pending(Mutex<HashMap<u64, (OnInterrupt, Arc<Notify>)>>);

impl Pending {
    /// Announces a request that will wait. To be called before anybody else can know of it.
    pub(crate) fn enter(self: &Arc<Self>, unique: u64, policy: OnInterrupt) -> Waiting {
        let interrupted = Arc::new(Notify::new());
        let key = unique & !UNIQUE_RESEND;
        self.0.lock().insert(key, (policy, Arc::clone(&interrupted)));
        Waiting { pending: Arc::clone(self), key, policy, interrupted, left: AtomicBool::new(false) }
    }

    /// The kernel takes a request back. `false`: there is no such request, or not yet.
    pub(crate) fn interrupt(&self, unique: u64) -> bool {
        let waiting = self.0.lock();
        let interrupted = waiting.get(&(unique & !UNIQUE_RESEND));
        interrupted.inspect(|(_policy, interrupted)| interrupted.notify_one()).is_some()
    }

    /// Whether anything waits; with `changing`, only what must run to its end counts.
    pub(crate) fn is_empty(&self, changing: bool) -> bool {
        let waiting = self.0.lock();
        let counts = |policy: OnInterrupt| !changing || matches!(policy, OnInterrupt::Finish | OnInterrupt::Leave);
        !waiting.values().any(|(policy, _interrupted)| counts(*policy))
    }
}

/// A request that waits, until it is dropped.
pub(crate) struct Waiting {
    pending: Arc<Pending>,
    key: u64,
    policy: OnInterrupt,
    interrupted: Arc<Notify>,
    left: AtomicBool,
}

impl Waiting {
    /// Runs `work` to its end, or until it is interrupted in the way that its policy allows.
    pub(crate) async fn run(&self, work: &mut BoxFuture<'static, Answer>) -> Answer {
        let patience = match self.policy {
            OnInterrupt::Finish => return work.await,
            OnInterrupt::End => Duration::ZERO,
            OnInterrupt::EndLater | OnInterrupt::Leave => PATIENCE,
        };
        let taken_back = async {
            self.interrupted.notified().await;
            tokio::time::sleep(patience).await;
        };
        futures::select_biased! {
            answer = work.fuse() => answer,
            () = Box::pin(taken_back).fuse() => {
                self.left.store(true, Ordering::Relaxed);
                Err(Errno::EINTR)
            }
        }
    }

    /// Whether [`Waiting::run`] was ended by an interrupt.
    pub(crate) fn was_left(&self) -> bool {
        self.left.load(Ordering::Relaxed)
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        self.pending.0.lock().remove(&self.key);
    }
}

#[cfg(test)]
mod tests {
    use std::future::pending;

    use tokio::time::Instant;

    use super::*;
    use crate::reply::Body;

    fn never() -> BoxFuture<'static, Answer> {
        Box::pin(pending())
    }

    #[tokio::test(start_paused = true)]
    async fn a_wait_ends_when_it_is_interrupted() {
        let pending_requests = Arc::new(Pending::default());
        assert!(!pending_requests.interrupt(4), "not known yet");
        let waiting = pending_requests.enter(4, OnInterrupt::End);
        assert!(!pending_requests.is_empty(false) && pending_requests.is_empty(true));
        assert!(pending_requests.interrupt(4 | UNIQUE_RESEND));
        assert_eq!(waiting.run(&mut never()).await.unwrap_err(), Errno::EINTR);
        drop(waiting);
        assert!(!pending_requests.interrupt(4), "forgotten");
    }

    #[tokio::test(start_paused = true)]
    async fn work_that_ends_in_its_time_is_not_disturbed() {
        let pending_requests = Arc::new(Pending::default());
        let waiting = pending_requests.enter(4, OnInterrupt::EndLater);
        pending_requests.interrupt(4);
        let mut short: BoxFuture<'static, Answer> = Box::pin(async {
            tokio::time::sleep(PATIENCE / 2).await;
            Ok(Body::EMPTY)
        });
        waiting.run(&mut short).await.unwrap();
        assert!(!waiting.was_left());
        pending_requests.interrupt(4);
        let began = Instant::now();
        assert_eq!(waiting.run(&mut never()).await.unwrap_err(), Errno::EINTR);
        assert_eq!(began.elapsed(), PATIENCE);
        assert!(waiting.was_left());
    }
}
