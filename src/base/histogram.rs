//! How often values lay below each of some bounds: for figures that anybody may look at while they grow.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// Counts values. Noting one costs two atomic additions: no lock, no allocation.
#[derive(Debug)]
pub struct Histogram {
    bounds: Box<[u64]>,
    counts: Box<[AtomicU64]>,
    sum: AtomicU64,
    /// Recorded units in one shown unit.
    scale: f64,
}

/// What a [`Histogram`] has counted.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Distribution {
    /// (upper bound, values at or below it), by bound: seconds or bytes.
    pub buckets: Vec<(f64, u64)>,
    /// All values.
    pub count: u64,
    /// Their sum: seconds or bytes.
    pub sum: f64,
}

impl Histogram {
    /// Of durations: bounds `start * factor^k` seconds, `k < count`.
    pub fn of_seconds(start: f64, factor: f64, count: i32) -> Self {
        let nanos = (0..count).map(|k| (start * factor.powi(k) * 1e9) as u64);
        Self::new(nanos.collect(), 1e9)
    }

    /// Of sizes: multiples of `step` bytes up to `count` of them.
    pub fn of_bytes(step: u64, count: u64) -> Self {
        Self::new((1..=count).map(|k| k * step).collect(), 1.0)
    }

    fn new(bounds: Box<[u64]>, scale: f64) -> Self {
        let counts = (0..=bounds.len()).map(|_| AtomicU64::new(0)).collect();
        Self { bounds, counts, sum: AtomicU64::new(0), scale }
    }

    /// Counts a value: nanoseconds or bytes.
    pub fn note(&self, value: u64) {
        let bucket = self.bounds.partition_point(|bound| *bound < value);
        self.counts[bucket].fetch_add(1, Ordering::Relaxed);
        self.sum.fetch_add(value, Ordering::Relaxed);
    }

    /// Counts a duration.
    pub fn note_time(&self, took: Duration) {
        self.note(u64::try_from(took.as_nanos()).unwrap_or(u64::MAX));
    }

    /// What was counted so far.
    pub fn distribution(&self) -> Distribution {
        let mut count = 0;
        let buckets = self.bounds.iter().zip(&self.counts).map(|(bound, more)| {
            count += more.load(Ordering::Relaxed);
            (*bound as f64 / self.scale, count)
        });
        let buckets = buckets.collect();
        let beyond = self.counts.last().map_or(0, |count| count.load(Ordering::Relaxed));
        Distribution { buckets, count: count + beyond, sum: self.sum.load(Ordering::Relaxed) as f64 / self.scale }
    }
}

impl Distribution {
    /// Both together; their bounds must be the same.
    #[must_use]
    pub fn and(mut self, other: &Self) -> Self {
        for (bucket, more) in self.buckets.iter_mut().zip(&other.buckets) {
            bucket.1 += more.1;
        }
        Self { count: self.count + other.count, sum: self.sum + other.sum, ..self }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_fall_below_their_bounds() {
        let histogram = Histogram::of_bytes(4096, 2);
        [1, 4096, 4097, 10_000].into_iter().for_each(|value| histogram.note(value));
        let expected = Distribution { buckets: vec![(4096.0, 2), (8192.0, 3)], count: 4, sum: 18194.0 };
        assert_eq!(histogram.distribution(), expected);
        let twice = Distribution { buckets: vec![(4096.0, 4), (8192.0, 6)], count: 8, sum: 36388.0 };
        assert_eq!(expected.clone().and(&expected), twice);
    }

    #[test]
    fn durations_are_shown_in_seconds() {
        let histogram = Histogram::of_seconds(0.5, 2.0, 2);
        histogram.note_time(Duration::from_millis(250));
        histogram.note_time(Duration::from_millis(750));
        let expected = Distribution { buckets: vec![(0.5, 1), (1.0, 2)], count: 2, sum: 1.0 };
        assert_eq!(histogram.distribution(), expected);
    }
}
