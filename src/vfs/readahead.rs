//! Where a handle reads sequentially, and how far ahead of it to fetch.
//!
//! Several threads, or processes that share a descriptor, may each read a part of a file from one end to the other: a few
//! such streams are told apart by where they are. What they fetch ahead together is no more than one of them would.

use std::ops::Range;

/// The first window; it doubles with every read that goes on where the last one ended.
const FIRST: u64 = 256 << 10;
/// The kernel reads ahead by itself and asynchronously, so reads of one stream arrive a little out of order.
const SLACK: u64 = 2 << 20;
/// What does not go on so closely, in sizes of the read, is not the second read of a stream: else many random reads of a
/// small file would be.
const CLOSE: u64 = 4;
/// Places of a file that are remembered.
const STREAMS: usize = 4;
/// A stream that all these reads of others have passed by has ended, and the others get its share.
const ENDED: u32 = 32;

/// What the last reads of a handle tell about the next ones.
#[derive(Debug, Default)]
pub(crate) struct ReadAhead {
    /// The one that was read last comes first.
    streams: Vec<Stream>,
}

/// Reads at one place of a file.
#[derive(Debug, Default)]
struct Stream {
    /// Where the furthest read ended.
    end: u64,
    /// Bytes to fetch ahead; 0 = not sequential, as far as is known.
    window: u64,
    /// How far was fetched already.
    fetched: u64,
    /// Reads of others since its last one.
    passed_by: u32,
}

impl ReadAhead {
    /// Notes a read of `size` bytes at `offset`; returns what to fetch now. `max` bounds all windows together, 0 turns
    /// read-ahead off.
    pub(crate) fn note(&mut self, offset: u64, size: u64, max: u64) -> Option<Range<u64>> {
        let mut stream = self.take(offset, offset + size);
        stream.passed_by = 0;
        self.streams.iter_mut().for_each(|other| other.passed_by += 1);
        self.streams.retain(|other| other.passed_by < ENDED);
        self.streams.truncate(STREAMS - 1);
        self.streams.insert(0, stream);
        let open = self.streams.iter().filter(|stream| stream.window > 0).count() as u64;
        let share = max / open.max(1);
        self.streams.iter_mut().for_each(|stream| stream.window = stream.window.min(share));
        self.streams.first_mut().and_then(Stream::fetch)
    }

    /// The stream that a read goes on with, or a new one.
    fn take(&mut self, offset: u64, end: u64) -> Stream {
        let near = self.streams.iter().enumerate().filter(|(_, stream)| stream.is_near(offset, end));
        let found = near.min_by_key(|(_, stream)| stream.end.abs_diff(offset)).map(|(index, _)| index);
        // Who begins where the file does is taken to want all of it.
        let begins = self.streams.is_empty() && offset == 0;
        let known = found.map(|index| self.streams.remove(index)).or_else(|| begins.then(Stream::default));
        match known {
            Some(mut stream) => {
                stream.advance(end);
                stream
            }
            None => Stream { end, ..Stream::default() },
        }
    }
}

impl Stream {
    fn is_near(&self, offset: u64, end: u64) -> bool {
        let slack = if self.window > 0 { SLACK } else { SLACK.min((end - offset) * CLOSE) };
        offset <= self.end + slack && end + slack >= self.end
    }

    fn advance(&mut self, end: u64) {
        if end > self.end {
            (self.end, self.window) = (end, (self.window * 2).max(FIRST));
        }
    }

    fn fetch(&mut self) -> Option<Range<u64>> {
        let from = self.fetched.max(self.end);
        let to = self.end + self.window;
        // Half a window at a time, so that not every read asks for a little more.
        if self.window == 0 || to < from + self.window / 2 {
            return None;
        }
        self.fetched = to;
        Some(from..to)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn windows(ahead: &ReadAhead) -> Vec<u64> {
        ahead.streams.iter().map(|stream| stream.window).collect()
    }

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
        assert_eq!(windows(&ahead), [4 << 20]);
    }

    #[test]
    fn interleaved_streams_open_their_windows_within_the_maximum() {
        for streams in 2..=4u64 {
            let mut ahead = ReadAhead::default();
            let begin = |stream: u64| stream << 30;
            let mut fetched: Vec<_> = (0..streams).map(begin).collect();
            for n in 0..64u64 {
                for stream in 0..streams {
                    let offset = begin(stream) + (n << 17);
                    if let Some(range) = ahead.note(offset, 1 << 17, 4 << 20) {
                        let last = &mut fetched[stream as usize];
                        assert!(range.start >= *last && range.start >= offset + (1 << 17), "{range:?}");
                        *last = range.end;
                    }
                    assert!(windows(&ahead).iter().sum::<u64>() <= 4 << 20, "{ahead:?}");
                }
            }
            let share = (4 << 20) / streams;
            assert_eq!(windows(&ahead), vec![share; streams as usize]);
            for (stream, fetched) in (0..).zip(fetched) {
                assert!(fetched >= begin(stream) + (8 << 20) + share / 2, "stream {stream}: {fetched}");
            }
        }
    }

    #[test]
    fn random_reads_in_between_do_not_end_a_stream() {
        let mut ahead = ReadAhead::default();
        for n in 0..64u64 {
            ahead.note(n << 17, 1 << 17, 4 << 20);
            assert_eq!(ahead.note((100 + n * 37 % 64) << 26, 4096, 4 << 20), None);
        }
        assert_eq!(ahead.streams.iter().map(|stream| stream.window).max(), Some(4 << 20));
    }

    #[test]
    fn a_stream_that_ended_gives_its_share_back() {
        let mut ahead = ReadAhead::default();
        for begin in [0u64, 1 << 40] {
            for n in 0..64u64 {
                ahead.note(begin + (n << 17), 1 << 17, 4 << 20);
            }
            assert_eq!(windows(&ahead), [4 << 20]);
        }
    }

    #[test]
    fn a_read_belongs_to_the_nearest_stream() {
        let mut ahead = ReadAhead::default();
        let (one, other) = (10u64 << 20, 11u64 << 20);
        for n in 0..4u64 {
            ahead.note(one + (n << 17), 1 << 17, 4 << 20);
            ahead.note(other + (n << 17), 1 << 17, 4 << 20);
        }
        let ends: Vec<_> = ahead.streams.iter().map(|stream| stream.end).collect();
        assert_eq!(ends, [other + (1 << 19), one + (1 << 19)]);
    }

    #[test]
    fn random_reads_fetch_nothing_ahead() {
        let mut ahead = ReadAhead::default();
        for n in [90u64, 10, 50, 30, 70, 50, 90, 0, 10, 0, 30] {
            assert_eq!(ahead.note(n << 26, 4096, 4 << 20), None, "{n}");
        }
    }

    #[test]
    fn random_reads_of_a_small_file_fetch_nothing_ahead() {
        let (mut ahead, mut chance) = (ReadAhead::default(), 1u64);
        for _ in 0..1000 {
            chance = chance.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            let page = chance >> 46;
            assert_eq!(ahead.note(page << 12, 4096, 4 << 20), None, "page {page}");
        }
    }

    #[test]
    fn no_window_no_fetch() {
        let mut ahead = ReadAhead::default();
        assert_eq!(ahead.note(0, 4096, 0), None);
        assert_eq!(ahead.note(4096, 4096, 0), None);
    }
}
