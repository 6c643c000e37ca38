//! What a chunk shows: its slice records, laid over each other from the oldest to the newest (format.md §2.5).

use std::collections::BTreeMap;

use stead_base::SliceId;

use crate::records::Slice;

/// A visible range of a chunk: `len` bytes at `pos`, which are bytes `off ..` of the slice.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Piece {
    /// Position in the chunk.
    pub pos: u32,
    /// The slice; [`SliceId::HOLE`] for zeros.
    pub id: SliceId,
    /// Bytes of the whole slice.
    pub size: u32,
    /// Where in the slice the piece begins; means nothing for a hole.
    pub off: u32,
    /// Bytes, at least 1.
    pub len: u32,
}

impl Piece {
    fn end(self) -> u64 {
        u64::from(self.pos) + u64::from(self.len)
    }

    /// What is left of the piece from `pos` on.
    fn from(self, pos: u64) -> Self {
        let cut = u32::try_from(pos - u64::from(self.pos)).expect("a cut lies inside the piece");
        Self {
            pos: self.pos + cut,
            off: if self.id.is_hole() { self.off } else { self.off.saturating_add(cut) },
            len: self.len - cut,
            ..self
        }
    }
}

/// The visible pieces of a chunk by position, without gaps before the last one: ranges that no record mentions come as
/// holes. What follows the last piece is zeros up to the file's length. Time O(n log n) in the number of records.
pub fn view(slices: &[Slice]) -> Vec<Piece> {
    let mut pieces: BTreeMap<u32, Piece> = BTreeMap::new();
    for slice in slices.iter().filter(|slice| slice.len > 0) {
        overlay(&mut pieces, *slice);
    }
    filled(pieces.into_values())
}

/// Lays a newer record over the pieces: each one is inserted once and removed once.
fn overlay(pieces: &mut BTreeMap<u32, Piece>, slice: Slice) {
    let new = Piece {
        pos: slice.pos,
        id: slice.id,
        size: slice.size,
        off: slice.off,
        // Bytes beyond 4 GiB cannot be; a corrupt record must not wrap around.
        len: slice.len.min(u32::MAX - slice.pos),
    };
    if new.len == 0 {
        return;
    }
    if let Some((_, left)) = pieces.range_mut(..new.pos).next_back()
        && left.end() > u64::from(new.pos)
    {
        let whole = *left;
        left.len = new.pos - left.pos;
        if whole.end() > new.end() {
            let right = whole.from(new.end());
            pieces.insert(right.pos, right);
        }
    }
    while let Some((&pos, &covered)) = pieces.range(new.pos..).next().filter(|(pos, _)| u64::from(**pos) < new.end()) {
        pieces.remove(&pos);
        if covered.end() > new.end() {
            let right = covered.from(new.end());
            pieces.insert(right.pos, right);
        }
    }
    pieces.insert(new.pos, new);
}

fn filled(pieces: impl Iterator<Item = Piece>) -> Vec<Piece> {
    let mut out = Vec::with_capacity(pieces.size_hint().0);
    let mut at = 0;
    for piece in pieces {
        if piece.pos > at {
            out.push(Piece { pos: at, id: SliceId::HOLE, size: 0, off: 0, len: piece.pos - at });
        }
        at = piece.pos + piece.len;
        out.push(piece);
    }
    out
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn slice(pos: u32, id: u64, size: u32, off: u32, len: u32) -> Slice {
        Slice { pos, id: SliceId(id), size, off, len }
    }

    fn piece(pos: u32, id: u64, size: u32, off: u32, len: u32) -> Piece {
        Piece { pos, id: SliceId(id), size, off, len }
    }

    #[test]
    fn the_check_sample_of_the_format() {
        let records = [
            slice(0, 5, 100_000, 0, 100_000),
            slice(500, 6, 1000, 0, 1000),
            slice(95_000, 7, 10, 0, 10),
            slice(200_000, 8, 10, 0, 10),
        ];
        assert_eq!(
            view(&records),
            [
                piece(0, 5, 100_000, 0, 500),
                piece(500, 6, 1000, 0, 1000),
                piece(1500, 5, 100_000, 1500, 93_500),
                piece(95_000, 7, 10, 0, 10),
                piece(95_010, 5, 100_000, 95_010, 4990),
                piece(100_000, 0, 0, 0, 100_000),
                piece(200_000, 8, 10, 0, 10),
            ]
        );
    }

    #[test]
    fn no_record_shows_nothing_and_corrupt_ones_do_not_panic() {
        assert_eq!(view(&[]), []);
        assert_eq!(view(&[slice(0, 5, 10, 0, 0)]), []);
        let far = view(&[slice(u32::MAX - 1, 1, 9, u32::MAX, 9), slice(u32::MAX, 1, 9, 0, 9)]);
        assert_eq!(far.last().map(|last| (last.pos, last.len)), Some((u32::MAX - 1, 1)));
    }

    #[test]
    fn fifty_thousand_records_are_viewed_in_no_time() {
        let records: Vec<_> =
            (0..50_000).map(|n| slice((n * 7919) % 60_000_000, u64::from(n), 9000, 0, 9000)).collect();
        assert!(view(&records).len() > 1000);
    }

    /// Byte `at` of the chunk by the definition: the newest record that covers it says which byte of which slice.
    fn byte(records: &[Slice], at: u32) -> Option<(u64, u32)> {
        let newest = records.iter().rev().find(|r| r.pos <= at && at < r.pos + r.len)?;
        (!newest.id.is_hole()).then(|| (newest.id.0, newest.off + at - newest.pos))
    }

    proptest! {
        #[test]
        fn every_byte_shows_the_newest_record(
            records in prop::collection::vec(
                (0..60u32, 0..5u64, 0..9u32, 0..30u32).prop_map(|(pos, id, off, len)| slice(pos, id, 99, off, len)),
                0..20,
            )
        ) {
            let pieces = view(&records);
            let mut at = 0;
            for piece in &pieces {
                prop_assert_eq!(piece.pos, at, "pieces follow each other without gaps");
                for inside in 0..piece.len {
                    let shown = (!piece.id.is_hole()).then_some((piece.id.0, piece.off + inside));
                    prop_assert_eq!(shown, byte(&records, piece.pos + inside));
                }
                at += piece.len;
            }
            prop_assert!((at..100).all(|after| byte(&records, after).is_none()));
            prop_assert_eq!(at, records.iter().filter(|r| r.len > 0).map(|r| r.pos + r.len).max().unwrap_or(0));
        }
    }
}
