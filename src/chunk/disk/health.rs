//! Whether a cache directory is in use: one whose disk keeps failing, or hangs, is left alone and tried again now and then.

use std::collections::BTreeMap;
use std::io::{self, ErrorKind};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use parking_lot::Mutex;

/// So many failures of one kind in a row take a directory out of use.
const FAILURES: u32 = 3;
/// The longest time for which a directory is left alone.
const LONGEST_PAUSE: Duration = Duration::from_secs(600);

/// How much is borne.
#[derive(Clone, Copy, Debug)]
pub(super) struct Patience {
    /// An operation that takes longer hangs.
    pub(super) limit: Duration,
    /// For how long a directory is left alone at first; twice as long after each attempt that fails.
    pub(super) pause: Duration,
}

/// What an operation does. Failures are counted for each by itself: a disk that became read-only still reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Read,
    Write,
}

/// What an operation has changed.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Turn {
    /// The directory is out of use from now on.
    Out {
        why: String,
        /// Until something is tried.
        pause: Duration,
    },
    /// What was tried has failed too.
    Still { why: String, pause: Duration },
    /// The directory is in use again.
    Back,
}

#[derive(Debug)]
pub(super) struct Health {
    patience: Patience,
    /// The same as in the state, for those who only look.
    out: AtomicBool,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    last: u64,
    /// When the operations under way began, by number, the oldest first.
    running: BTreeMap<u64, Instant>,
    failed_reads: u32,
    failed_writes: u32,
    usage: Usage,
    /// The last pause.
    pause: Duration,
}

#[derive(Clone, Copy, Debug)]
enum Usage {
    In {
        since: Instant,
    },
    Out {
        until: Instant,
        /// The number of the operation that tries.
        trial: Option<u64>,
    },
}

/// An operation under way.
#[derive(Debug)]
pub(super) struct Attempt<'a> {
    health: &'a Health,
    number: u64,
    kind: Kind,
}

impl Drop for Attempt<'_> {
    fn drop(&mut self) {
        let mut state = self.health.state.lock();
        state.running.remove(&self.number);
        if let Usage::Out { trial, .. } = &mut state.usage {
            *trial = trial.filter(|&number| number != self.number);
        }
    }
}

impl Health {
    pub(super) fn new(patience: Patience, now: Instant) -> Self {
        let state = State {
            last: 0,
            running: BTreeMap::new(),
            failed_reads: 0,
            failed_writes: 0,
            usage: Usage::In { since: now },
            pause: Duration::ZERO,
        };
        Self { patience, out: AtomicBool::new(false), state: Mutex::new(state) }
    }

    pub(super) fn is_out(&self) -> bool {
        self.out.load(Ordering::Relaxed)
    }

    /// Whether an operation would be begun.
    pub(super) fn admits(&self, kind: Kind, now: Instant) -> bool {
        !self.is_out() || self.state.lock().admits(kind, now, self.patience.limit)
    }

    /// Begins an operation, which may be the one that tries whether the directory can be used again. `None`: it is out of
    /// use.
    pub(super) fn begin(&self, kind: Kind, now: Instant) -> Option<Attempt<'_>> {
        let mut state = self.state.lock();
        if !state.admits(kind, now, self.patience.limit) {
            return None;
        }
        state.last += 1;
        let number = state.last;
        state.running.insert(number, now);
        if let Usage::Out { trial, .. } = &mut state.usage {
            *trial = Some(number);
        }
        Some(Attempt { health: self, number, kind })
    }

    /// Whether an operation under way has taken too long: takes the directory out of use.
    pub(super) fn check(&self, now: Instant) -> Option<Turn> {
        let mut state = self.state.lock();
        if matches!(state.usage, Usage::Out { .. }) || !state.hangs(now, self.patience.limit) {
            return None;
        }
        Some(self.take_out(&mut state, self.hang(), now))
    }

    fn hang(&self) -> String {
        format!("no answer within {:?}", self.patience.limit)
    }

    fn take_out(&self, state: &mut State, why: String, now: Instant) -> Turn {
        let first = self.patience.pause;
        let lasted = matches!(state.usage, Usage::In { since } if now.duration_since(since) > state.pause);
        let pause = if lasted { first } else { (state.pause * 2).clamp(first, LONGEST_PAUSE.max(first)) };
        state.pause = pause;
        state.usage = Usage::Out { until: now + pause, trial: None };
        let still = self.out.swap(true, Ordering::Relaxed);
        if still { Turn::Still { why, pause } } else { Turn::Out { why, pause } }
    }

    fn take_back(&self, state: &mut State, now: Instant) -> Turn {
        (state.failed_reads, state.failed_writes) = (0, 0);
        state.usage = Usage::In { since: now };
        self.out.store(false, Ordering::Relaxed);
        Turn::Back
    }
}

impl State {
    /// Only a write tells whether a disk can be used again: a file may be missing from a good one as from a dead one.
    fn admits(&self, kind: Kind, now: Instant, limit: Duration) -> bool {
        match self.usage {
            Usage::In { .. } => true,
            Usage::Out { until, trial } => {
                kind == Kind::Write && now >= until && trial.is_none() && !self.hangs(now, limit)
            }
        }
    }

    fn hangs(&self, now: Instant, limit: Duration) -> bool {
        self.running.first_key_value().is_some_and(|(_, &began)| now.duration_since(began) >= limit)
    }

    fn failures(&mut self, kind: Kind) -> &mut u32 {
        match kind {
            Kind::Read => &mut self.failed_reads,
            Kind::Write => &mut self.failed_writes,
        }
    }
}

impl Attempt<'_> {
    /// Notes how the operation ended.
    pub(super) fn end(self, outcome: Result<(), &io::Error>, now: Instant) -> Option<Turn> {
        let mut state = self.health.state.lock();
        let why = if state.hangs(now, self.health.patience.limit) {
            Some(self.health.hang())
        } else {
            outcome.err().filter(|error| is_failure(error)).map(io::Error::to_string)
        };
        match (state.usage, why) {
            // Begun before the directory was taken out of use.
            (Usage::Out { trial, .. }, _) if trial != Some(self.number) => None,
            (Usage::Out { .. }, Some(why)) => Some(self.health.take_out(&mut state, why, now)),
            (Usage::Out { .. }, None) => Some(self.health.take_back(&mut state, now)),
            (Usage::In { .. }, Some(why)) => {
                let failures = state.failures(self.kind);
                *failures += 1;
                let enough = *failures >= FAILURES || state.hangs(now, self.health.patience.limit);
                enough.then(|| self.health.take_out(&mut state, why, now))
            }
            (Usage::In { .. }, None) => {
                // That a file is missing tells nothing.
                if outcome.is_ok() {
                    *state.failures(self.kind) = 0;
                }
                None
            }
        }
    }
}

/// Whether an error is the disk's: not that something is missing, that the disk is full, or a shortage of this process.
fn is_failure(error: &io::Error) -> bool {
    let own = [Errno::EMFILE, Errno::ENFILE, Errno::ENOMEM].map(|errno| Some(errno as i32));
    let harmless = [ErrorKind::NotFound, ErrorKind::StorageFull, ErrorKind::QuotaExceeded];
    !harmless.contains(&error.kind()) && !own.contains(&error.raw_os_error())
}

#[cfg(test)]
mod tests {
    use super::*;

    const PATIENCE: Patience = Patience { limit: Duration::from_secs(10), pause: Duration::from_secs(60) };

    /// A directory, and a time that passes as it is told.
    struct Rig {
        health: Health,
        now: Instant,
    }

    fn rig() -> Rig {
        let now = Instant::now();
        Rig { health: Health::new(PATIENCE, now), now }
    }

    impl Rig {
        fn pass(&mut self, secs: u64) {
            self.now += Duration::from_secs(secs);
        }

        /// `None`: it was not begun.
        fn run(&self, kind: Kind, outcome: Result<(), Errno>) -> Option<Option<Turn>> {
            let attempt = self.health.begin(kind, self.now)?;
            let outcome = outcome.map_err(|errno| io::Error::from_raw_os_error(errno as i32));
            Some(attempt.end(outcome.as_ref().map(|&()| ()), self.now))
        }

        fn fail(&self, kind: Kind, times: usize) -> Option<Turn> {
            (0..times).find_map(|_| self.run(kind, Err(Errno::EIO)).expect("it is in use"))
        }

        fn take_out(&self) {
            assert!(matches!(self.fail(Kind::Write, 3), Some(Turn::Out { .. })));
        }
    }

    #[test]
    fn a_few_failures_in_a_row_take_a_directory_out_of_use() {
        for kind in [Kind::Read, Kind::Write] {
            let rig = rig();
            assert_eq!(rig.fail(kind, 2), None);
            rig.run(kind, Ok(()));
            assert_eq!(rig.fail(kind, 2), None, "a success between them");
            let why = "Input/output error (os error 5)".to_owned();
            assert_eq!(rig.fail(kind, 1), Some(Turn::Out { why, pause: PATIENCE.pause }));
            assert!(rig.health.is_out());
            assert_eq!(rig.run(Kind::Read, Ok(())), None);
            assert_eq!(rig.run(Kind::Write, Ok(())), None);
        }
    }

    #[test]
    fn reads_that_work_do_not_make_up_for_writes_that_fail() {
        let rig = rig();
        assert_eq!(rig.fail(Kind::Write, 2), None);
        rig.run(Kind::Read, Ok(()));
        assert!(rig.fail(Kind::Write, 1).is_some());
    }

    #[test]
    fn what_is_missing_and_what_is_full_is_no_failure_and_no_success() {
        let rig = rig();
        for errno in [Errno::ENOENT, Errno::ENOSPC, Errno::EDQUOT, Errno::EMFILE] {
            (0..5).for_each(|_| assert_eq!(rig.run(Kind::Write, Err(errno)), Some(None)));
        }
        assert_eq!(rig.fail(Kind::Read, 2), None);
        rig.run(Kind::Read, Err(Errno::ENOENT));
        assert!(rig.fail(Kind::Read, 1).is_some());
    }

    #[test]
    fn one_write_tries_after_a_pause_and_takes_it_back() {
        let mut rig = rig();
        rig.take_out();
        rig.pass(59);
        assert!(!rig.health.admits(Kind::Write, rig.now));
        rig.pass(1);
        assert!(!rig.health.admits(Kind::Read, rig.now), "what is missing from a dead disk as from a good one");
        let trial = rig.health.begin(Kind::Write, rig.now).expect("the pause is over");
        assert!(rig.health.begin(Kind::Write, rig.now).is_none(), "one tries");
        assert_eq!(trial.end(Ok(()), rig.now), Some(Turn::Back));
        assert!(!rig.health.is_out());
        assert_eq!(rig.fail(Kind::Write, 2), None, "what was counted before is forgotten");
    }

    #[test]
    fn pauses_grow_until_it_works_for_long() {
        let mut rig = rig();
        let pause = |secs| Duration::from_secs(secs);
        let why = || "Input/output error (os error 5)".to_owned();
        rig.take_out();
        for (wait, next) in [(60, 120), (120, 240), (240, 480), (480, 600), (600, 600)] {
            rig.pass(wait);
            let turn = rig.run(Kind::Write, Err(Errno::EIO)).expect("the pause is over");
            assert_eq!(turn, Some(Turn::Still { why: why(), pause: pause(next) }));
        }
        rig.pass(600);
        assert_eq!(rig.run(Kind::Write, Ok(())), Some(Some(Turn::Back)));
        assert_eq!(rig.fail(Kind::Write, 3), Some(Turn::Out { why: why(), pause: pause(600) }), "at once again");
        rig.pass(600);
        assert_eq!(rig.run(Kind::Write, Ok(())), Some(Some(Turn::Back)));
        rig.pass(601);
        assert_eq!(rig.fail(Kind::Write, 3), Some(Turn::Out { why: why(), pause: pause(60) }));
    }

    #[test]
    fn a_disk_that_hangs_is_out_of_use_and_not_tried_before_it_answers() {
        let mut rig = rig();
        let health = &rig.health;
        let hangs = health.begin(Kind::Read, rig.now).expect("it is in use");
        rig.now += Duration::from_secs(9);
        assert_eq!(health.check(rig.now), None);
        rig.now += Duration::from_secs(1);
        let why = "no answer within 10s".to_owned();
        assert_eq!(health.check(rig.now), Some(Turn::Out { why, pause: PATIENCE.pause }));
        assert_eq!(health.check(rig.now), None, "said once");
        rig.now += Duration::from_secs(100);
        assert!(!health.admits(Kind::Write, rig.now), "it still hangs");
        assert_eq!(hangs.end(Ok(()), rig.now), None);
        assert!(health.is_out());
        let slow = health.begin(Kind::Write, rig.now).expect("it answers");
        rig.now += Duration::from_secs(10);
        assert!(matches!(slow.end(Ok(()), rig.now), Some(Turn::Still { .. })), "not as it should");
    }

    #[test]
    fn a_slow_success_is_a_hang_and_an_operation_given_up_is_none() {
        let mut rig = rig();
        drop(rig.health.begin(Kind::Read, rig.now));
        let slow = rig.health.begin(Kind::Write, rig.now).expect("it is in use");
        rig.now += Duration::from_secs(10);
        assert!(matches!(slow.end(Ok(()), rig.now), Some(Turn::Out { .. })));
    }
}
