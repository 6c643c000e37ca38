//! Concurrent misses of one block share one request.
//!
//! A flight runs in a task of its own, so a caller that gives up takes nothing from the others. When the last one has given
//! up, it ends: nobody joins a request that nobody waits for any more, perhaps since it never ends.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::{Arc, Weak};

use bytes::Bytes;
use parking_lot::Mutex;
use tokio::sync::watch;
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::Result;
use crate::block::BlockId;

type Outcome = Option<Result<Bytes>>;

/// What is being fetched: a whole block, or a range of it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Target {
    pub(crate) block: BlockId,
    pub(crate) range: Option<Range<u32>>,
}

impl Target {
    pub(crate) fn whole(block: BlockId) -> Self {
        Self { block, range: None }
    }
}

/// The requests under way.
#[derive(Debug, Default)]
pub(crate) struct Flights {
    running: Mutex<HashMap<Target, Weak<Cabin>>>,
}

/// Held by everyone who waits for a flight.
#[derive(Debug)]
struct Cabin {
    outcome: watch::Receiver<Outcome>,
    _empty: DropGuard,
}

/// The result to come of a flight.
#[derive(Debug)]
pub(crate) struct Ticket(Arc<Cabin>);

impl Ticket {
    /// The result; `None` if the flight ended without one (its runtime went away).
    pub(crate) async fn outcome(self) -> Outcome {
        match self.0.outcome.clone().wait_for(Option::is_some).await {
            Ok(outcome) => outcome.clone(),
            Err(_sender_gone) => None,
        }
    }
}

/// Held by the task that fetches; dropping it ends the flight.
#[derive(Debug)]
pub(crate) struct Pilot {
    flights: Arc<Flights>,
    target: Target,
    outcome: watch::Sender<Outcome>,
    cabin: Weak<Cabin>,
    empty: CancellationToken,
}

impl Pilot {
    /// Resolves when nobody waits any more.
    pub(crate) async fn abandoned(&self) {
        self.empty.cancelled().await;
    }

    /// Gives the result to everyone who waits, and ends the flight.
    pub(crate) fn land(self, result: Result<Bytes>) {
        self.outcome.send_replace(Some(result));
    }
}

impl Drop for Pilot {
    fn drop(&mut self) {
        let mut running = self.flights.running.lock();
        // There may be a later flight, if this one was abandoned.
        if running.get(&self.target).is_some_and(|cabin| cabin.ptr_eq(&self.cabin)) {
            running.remove(&self.target);
        }
    }
}

impl Flights {
    /// Joins the flight to `target`, if there is one.
    pub(crate) fn join(&self, target: &Target) -> Option<Ticket> {
        self.running.lock().get(target).and_then(Weak::upgrade).map(Ticket)
    }

    /// Whether there is a flight to `target`.
    pub(crate) fn is_under_way(&self, target: &Target) -> bool {
        self.running.lock().get(target).is_some_and(|cabin| cabin.strong_count() > 0)
    }

    /// Joins the flight to `target` or opens one, which the holder of the [`Pilot`] then has to fly.
    pub(crate) fn board(self: &Arc<Self>, target: Target) -> (Ticket, Option<Pilot>) {
        let mut running = self.running.lock();
        if let Some(cabin) = running.get(&target).and_then(Weak::upgrade) {
            return (Ticket(cabin), None);
        }
        let (outcome, result) = watch::channel(None);
        let empty = CancellationToken::new();
        let cabin = Arc::new(Cabin { outcome: result, _empty: empty.clone().drop_guard() });
        running.insert(target.clone(), Arc::downgrade(&cabin));
        let pilot = Pilot { flights: Arc::clone(self), target, outcome, cabin: Arc::downgrade(&cabin), empty };
        (Ticket(cabin), Some(pilot))
    }
}
