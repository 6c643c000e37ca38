//! Whether this client is the only one of its volume: nobody else makes names then.

use std::time::Duration;

use parking_lot::Mutex;
use stead_base::SessionId;
use tokio::time::Instant;

use super::RedisStore;
use super::tracking::{Place, Tracking, Trust};
use crate::records::Write;

/// Who is not alone asks again after so long.
const AGAIN: Duration = Duration::from_secs(5);

/// What is known of the volume's sessions.
#[derive(Debug, Default)]
pub(super) struct Sole(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    session: Option<SessionId>,
    /// Whether it was the only one, and when that was asked.
    asked: Option<(bool, Instant)>,
}

impl Sole {
    /// Takes note of our session in what was committed.
    pub(super) fn note(&self, writes: &[Write]) {
        for write in writes {
            let mut state = self.0.lock();
            let session = match write {
                Write::PutSession(sid, ..) | Write::TouchSession(sid, ..) => Some(*sid),
                Write::DelSession(sid) if state.session == Some(*sid) => None,
                _ => continue,
            };
            if state.session != session {
                *state = State { session, asked: None };
            }
        }
    }

    /// Whether it is alone, if that need not be asked.
    pub(super) fn is_known(&self, tracking: &Tracking) -> Option<bool> {
        let state = self.0.lock();
        if state.session.is_none() {
            return Some(false);
        }
        match state.asked? {
            (true, at) => (tracking.trust_in(Place::Sessions, at) == Trust::Unchanged).then_some(true),
            (false, at) => (at.elapsed() < AGAIN).then_some(false),
        }
    }

    fn learn(&self, sessions: &[String], at: Instant) -> bool {
        let mut state = self.0.lock();
        let alone = state.session.is_some_and(|ours| *sessions == [ours.to_string()]);
        state.asked = Some((alone, at));
        alone
    }
}

impl RedisStore {
    /// Whether no other client has a session.
    pub(super) async fn is_alone(&self, tracking: &Tracking) -> bool {
        if let Some(known) = self.sole.is_known(tracking) {
            return known;
        }
        let at = Instant::now();
        let mut ask = redis::cmd("ZRANGE");
        ask.arg(self.keys.named("allSessions")).arg(0).arg(-1);
        match self.link.query_watched::<Vec<String>>(&ask).await {
            Ok((sessions, true)) => {
                self.watch([Place::Sessions], at);
                self.sole.learn(&sessions, at)
            }
            // Who cannot know is not alone.
            Ok(_) | Err(_) => self.sole.learn(&[], at),
        }
    }
}
