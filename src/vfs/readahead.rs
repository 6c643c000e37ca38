//! When a handle reads sequentially, and how far ahead of it to fetch.

use std::ops::Range;

/// The first window; it doubles with every read that goes on where the last one ended.
const FIRST: u64 = 256 << 10;
/// The kernel reads ahead by itself and asynchronously, so reads of one stream arrive a little out of order.
const SLACK: u64 = 2 << 20;

/// What the last reads of a handle tell about the next ones.
#[derive(Debug, Default)]
pub(crate) struct ReadAhead {
    /// Where the furthest read of the stream ended.
    end: u64,
    /// Bytes to fetch ahead; 0 = not sequential.
    window: u64,
    /// How far was fetched already.
    fetched: u64,
}

impl ReadAhead {
    /// Notes a read of `size` bytes at `offset`; returns what to fetch now. `max` bounds the window, 0 turns it off.
    pub(crate) fn note(&mut self, offset: u64, size: u64, max: u64) -> Option<Range<u64>> {
        let end = offset + size;
        let sequential = offset <= self.end + SLACK && end + SLACK >= self.end && (self.end > 0 || offset == 0);
        if !sequential {
            *self = Self { end, ..Self::default() };
            return None;
        }
        if end > self.end {
            self.window = (self.window * 2).clamp(FIRST, max.max(FIRST));
        }
        self.end = self.end.max(end);
        let from = self.fetched.max(self.end);
        let to = self.end + self.window;
        // Half a window at a time, so that not every read asks for a little more.
        if max == 0 || to < from + self.window / 2 {
            return None;
        }
        self.fetched = to;
        Some(from..to)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stream_opens_the_window_and_fetches_nothing_twice() {
        let mut ahead = ReadAhead::default();
        let mut fetched = 0;
        for n in 0..64u64 {
            if let Some(range) = ahead.note(n << 17, 1 << 17, 4 << 20) {
                assert!(range.start >= fetched && range.start >= (n + 1) << 17, "{range:?}");
                fetched = range.end;
            }
        }
        assert!((8 << 20..=12 << 20).contains(&fetched), "{fetched}");
        assert_eq!(ahead.window, 4 << 20);
    }

    #[test]
    fn random_reads_fetch_nothing_ahead() {
        let mut ahead = ReadAhead::default();
        for n in [90u64, 10, 50, 30, 70] {
            assert_eq!(ahead.note(n << 26, 4096, 4 << 20), None);
        }
    }

    #[test]
    fn no_window_no_fetch() {
        let mut ahead = ReadAhead::default();
        assert_eq!(ahead.note(0, 4096, 0), None);
        assert_eq!(ahead.note(4096, 4096, 0), None);
    }
}
