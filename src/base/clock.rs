//! Time as an argument: whoever stamps a record takes a [`Clock`].

use std::sync::Mutex;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

/// A point in time as the stored format and `struct timespec` have it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Timestamp {
    /// Seconds since 1970-01-01 UTC; may be negative.
    pub secs: i64,
    /// 0 ..= 999_999_999.
    pub nanos: u32,
}

impl Timestamp {
    /// A whole second.
    pub const fn from_secs(secs: i64) -> Self {
        Self { secs, nanos: 0 }
    }

    /// Time passed since `earlier`; zero when `earlier` is later.
    pub fn since(self, earlier: Self) -> Duration {
        let nanos = self.total_nanos() - earlier.total_nanos();
        Duration::from_nanos(u64::try_from(nanos.max(0)).unwrap_or(u64::MAX))
    }

    /// This time moved forward by `by`.
    pub fn plus(self, by: Duration) -> Self {
        let total = self.total_nanos() + i128::try_from(by.as_nanos()).unwrap_or(i128::MAX / 2);
        Self {
            secs: i64::try_from(total.div_euclid(1_000_000_000)).unwrap_or(i64::MAX),
            nanos: u32::try_from(total.rem_euclid(1_000_000_000)).expect("a remainder below 10^9 fits"),
        }
    }

    fn total_nanos(self) -> i128 {
        i128::from(self.secs) * 1_000_000_000 + i128::from(self.nanos)
    }
}

impl From<SystemTime> for Timestamp {
    fn from(time: SystemTime) -> Self {
        match time.duration_since(UNIX_EPOCH) {
            Ok(after) => Self::from_secs(0).plus(after),
            Err(before) => {
                let before = before.duration();
                let whole = Self::from_secs(-i64::try_from(before.as_secs()).unwrap_or(i64::MAX) - 1);
                whole.plus(Duration::from_secs(1) - Duration::from_nanos(before.subsec_nanos().into()))
            }
        }
    }
}

/// Where "now" comes from.
pub trait Clock: Send + Sync + std::fmt::Debug {
    /// The wall-clock time.
    fn now(&self) -> Timestamp;
}

/// The machine's clock.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    #[expect(clippy::disallowed_methods, reason = "this is the one place that asks the machine")]
    fn now(&self) -> Timestamp {
        SystemTime::now().into()
    }
}

/// A clock that a test turns by hand.
#[derive(Debug)]
pub struct ManualClock(Mutex<Timestamp>);

impl ManualClock {
    /// Starts at `start` and stands still.
    pub fn new(start: Timestamp) -> Self {
        Self(Mutex::new(start))
    }

    /// Moves the time forward.
    pub fn advance(&self, by: Duration) {
        let mut now = self.0.lock().expect("no holder of this lock panics");
        *now = now.plus(by);
    }
}

impl Clock for ManualClock {
    fn now(&self) -> Timestamp {
        *self.0.lock().expect("no holder of this lock panics")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_before_the_epoch_keep_positive_nanoseconds() {
        let time = Timestamp::from(UNIX_EPOCH - Duration::from_millis(1));
        assert_eq!(time, Timestamp { secs: -1, nanos: 999_000_000 });
        assert_eq!(Timestamp::from(UNIX_EPOCH - Duration::from_secs(2)), Timestamp::from_secs(-2));
    }

    #[test]
    fn since_never_goes_below_zero() {
        let (early, late) = (Timestamp::from_secs(1), Timestamp { secs: 2, nanos: 5 });
        assert_eq!(late.since(early), Duration::new(1, 5));
        assert_eq!(early.since(late), Duration::ZERO);
    }
}
