//! A process that may not be our child: named by its number and its start, so that a reused number is never taken for it.

use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde::{Deserialize, Serialize};
use tokio::time::Instant;

const POLL: Duration = Duration::from_millis(20);

/// One process, for ever.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ProcessId {
    pub(crate) pid: i32,
    /// Clock ticks after boot at which it started (proc_pid_stat(5), field 22).
    start: u64,
}

impl ProcessId {
    /// The process that has this number now; `None` when there is none.
    pub(crate) fn of(pid: i32) -> Option<Self> {
        let (start, _) = stat(pid)?;
        Some(Self { pid, start })
    }

    /// Whether it runs; a zombie does not.
    pub(crate) fn is_alive(self) -> bool {
        stat(self.pid).is_some_and(|(start, state)| start == self.start && !matches!(state, 'Z' | 'X'))
    }

    /// Sends a signal if it still runs.
    pub(crate) fn signal(self, signal: Signal) {
        if self.is_alive() {
            // It may end at this very moment, which is what the signal is for.
            let _gone = kill(Pid::from_raw(self.pid), signal);
        }
    }

    /// Waits for its end; false when it still runs after `limit`.
    pub(crate) async fn ended_within(self, limit: Duration) -> bool {
        let end = Instant::now() + limit;
        while self.is_alive() {
            if Instant::now() >= end {
                return false;
            }
            tokio::time::sleep(POLL).await;
        }
        true
    }
}

/// Start and state of a process.
fn stat(pid: i32) -> Option<(u64, char)> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name in parentheses may hold anything.
    let mut fields = text.rsplit_once(')')?.1.split_whitespace();
    let state = fields.next()?.chars().next()?;
    Some((fields.nth(18)?.parse().ok()?, state))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_process_is_known_by_number_and_start() {
        let mut child = tokio::process::Command::new("sleep").arg("60").spawn().expect("started");
        let pid = i32::try_from(child.id().expect("runs")).expect("fits");
        let process = ProcessId::of(pid).expect("runs");
        assert!(process.is_alive());
        let another = ProcessId { start: process.start + 1, ..process };
        assert!(!another.is_alive());
        another.signal(Signal::SIGKILL);
        assert!(!process.ended_within(Duration::from_millis(100)).await, "the signal was for another process");
        process.signal(Signal::SIGTERM);
        assert!(process.ended_within(Duration::from_secs(5)).await, "a zombie counts as ended");
        child.wait().await.expect("reaped");
        assert!(!process.is_alive());
        assert_eq!(ProcessId::of(i32::MAX), None);
    }
}
