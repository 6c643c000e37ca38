//! Concurrent misses of one block share one request.
//!
//! A flight runs in a task of its own, so a caller that gives up takes nothing from the others.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use parking_lot::Mutex;
use tokio::sync::watch;

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
    running: Mutex<HashMap<Target, watch::Receiver<Outcome>>>,
}

/// The result to come of a flight.
#[derive(Debug)]
pub(crate) struct Ticket(watch::Receiver<Outcome>);

impl Ticket {
    /// The result; `None` if the flight ended without one (its runtime went away).
    pub(crate) async fn outcome(mut self) -> Outcome {
        match self.0.wait_for(Option::is_some).await {
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
}

impl Pilot {
    /// Gives the result to everyone who waits, and ends the flight.
    pub(crate) fn land(self, result: Result<Bytes>) {
        self.outcome.send_replace(Some(result));
    }
}

impl Drop for Pilot {
    fn drop(&mut self) {
        self.flights.running.lock().remove(&self.target);
    }
}

impl Flights {
    /// Joins the flight to `target`, if there is one.
    pub(crate) fn join(&self, target: &Target) -> Option<Ticket> {
        self.running.lock().get(target).cloned().map(Ticket)
    }

    /// Whether there is a flight to `target`.
    pub(crate) fn is_under_way(&self, target: &Target) -> bool {
        self.running.lock().contains_key(target)
    }

    /// Joins the flight to `target` or opens one, which the holder of the [`Pilot`] then has to fly.
    pub(crate) fn board(self: &Arc<Self>, target: Target) -> (Ticket, Option<Pilot>) {
        match self.running.lock().entry(target.clone()) {
            Entry::Occupied(running) => (Ticket(running.get().clone()), None),
            Entry::Vacant(free) => {
                let (outcome, result) = watch::channel(None);
                free.insert(result.clone());
                let pilot = Pilot { flights: Arc::clone(self), target, outcome };
                (Ticket(result), Some(pilot))
            }
        }
    }
}
