//! Compaction, the side of the records: which of a chunk's records become one slice, and the transaction that puts it in
//! their place (format.md §2.7). Moving the bytes is the business of the layer that knows data.
//!
//! The commit compares all records that the plan was made from, so whatever was written meanwhile stays on top. Until it
//! commits nothing names the new slice; from then on nothing but the delayed list names the old ones. A death in between
//! leaves blocks without a record, which gc finds.

use stead_base::{Ino, SliceId};
use tracing::warn;

use crate::error::Result;
use crate::records::{Slice, Write};
use crate::store::Txn;
use crate::view::{Piece, view};

use super::Meta;
use super::deleted::release_each;
use super::resize::zeros;

/// The oldest records that one compaction looks at.
const MOST_RECORDS: usize = 1000;
/// Shorter records are always rewritten.
const WORTH_SKIPPING: u32 = 1 << 20;
/// A record is left alone if what it would be rewritten into is at most so many times its size.
const SKIP_RATIO: u64 = 5;
/// A reader has at most so many bytes rewritten for each record that goes.
const BYTES_PER_RECORD: u64 = 1 << 20;

/// Records of a chunk that can become one.
#[derive(Clone, Debug)]
pub struct Compaction {
    ino: Ino,
    index: u32,
    /// The oldest records of the chunk, as they were read.
    origin: Vec<Slice>,
    /// So many of them, in front, stay as they are.
    skipped: usize,
    /// Where in the chunk the new slice begins.
    pos: u32,
    pieces: Vec<Piece>,
}

impl Compaction {
    /// What the new slice is made of, in order and without gaps. Empty: nothing but zeros, no data is to be written.
    pub fn pieces(&self) -> &[Piece] {
        &self.pieces
    }

    /// Bytes of the new slice: 0 for nothing but zeros, else at most a chunk.
    pub fn size(&self) -> u32 {
        self.pieces.iter().map(|piece| piece.len).sum()
    }

    /// The records that go.
    pub fn records(&self) -> usize {
        self.origin.len() - self.skipped
    }

    /// Whether the gain is worth the bytes that are rewritten, for a chunk that is compacted because somebody reads it.
    pub fn pays_off(&self) -> bool {
        u64::from(self.size()) <= self.records() as u64 * BYTES_PER_RECORD
    }

    /// By the rules of format.md §2.7; `None` when fewer than two records would become one.
    fn plan(ino: Ino, index: u32, mut origin: Vec<Slice>) -> Option<Self> {
        origin.truncate(MOST_RECORDS);
        let mut skipped = 0;
        let (pos, pieces) = loop {
            let rest = &origin[skipped..];
            let (pos, pieces) = content(rest);
            match rest {
                [] | [_] => return None,
                [first, others @ ..] if stays(*first, others, pos, &pieces) => skipped += 1,
                _ => break (pos, pieces),
            }
        };
        Some(Self { ino, index, origin, skipped, pos, pieces })
    }

    /// What takes the place of all records of the plan.
    fn replacement(&self, new: SliceId) -> Vec<Slice> {
        let mut records = self.origin[..self.skipped].to_vec();
        if self.size() > 0 {
            records.push(Slice { pos: self.pos, id: new, size: self.size(), off: 0, len: self.size() });
        } else if records.is_empty() {
            // Of zeros one record stays: no client has to know of an empty list.
            records.push(zeros(0, 1));
        }
        records
    }

    fn replaced(&self) -> Vec<(SliceId, u32)> {
        let gone = self.origin[self.skipped..].iter().filter(|slice| !slice.id.is_hole());
        gone.map(|slice| (slice.id, slice.size)).collect()
    }
}

/// Where the first byte of data lies that the records show, and the pieces from there to the last one.
fn content(records: &[Slice]) -> (u32, Vec<Piece>) {
    let mut pieces = view(records);
    let end = pieces.iter().rposition(|piece| !piece.id.is_hole()).map_or(0, |last| last + 1);
    pieces.truncate(end);
    let start = pieces.iter().position(|piece| !piece.id.is_hole()).unwrap_or(0);
    pieces.drain(..start);
    (pieces.first().map_or(0, |piece| piece.pos), pieces)
}

/// Whether the oldest record is better left alone: it is large, and shown whole in front of everything else.
fn stays(first: Slice, others: &[Slice], pos: u32, pieces: &[Piece]) -> bool {
    let size: u64 = pieces.iter().map(|piece| u64::from(piece.len)).sum();
    let large = first.len >= WORTH_SKIPPING && u64::from(first.len) * SKIP_RATIO >= size;
    let in_front = pieces
        .first()
        .is_some_and(|piece| pos == first.pos && (piece.id, piece.off, piece.len) == (first.id, first.off, first.len));
    large && in_front && !others.contains(&first)
}

impl Meta {
    /// What can be compacted in a chunk.
    ///
    /// # Errors
    /// Those of the engine.
    pub async fn compaction_plan(&self, ino: Ino, index: u32) -> Result<Option<Compaction>> {
        let ino = self.real(ino);
        Ok(Compaction::plan(ino, index, self.chunk(ino, index).await?))
    }

    /// Puts the slice `new`, whose data is durable, in the place of the records of the plan. The replaced slices are kept
    /// as long as the trash, or go at once without one. False: the records changed meanwhile, and `new` is unused.
    /// After an error nobody knows; then the data of `new` must stay.
    ///
    /// # Errors
    /// Those of the engine.
    pub async fn commit_compaction(&self, plan: &Compaction, new: SliceId) -> Result<bool> {
        self.writable()?;
        let (ctx, plan_of_body) = (self.context(), plan.clone());
        let old = plan.replaced();
        let delayed = ctx.trash;
        let body = move |txn: &mut Txn<'_>| {
            let plan = &plan_of_body;
            let now = txn.slices(plan.ino, plan.index)?.unwrap_or_default();
            if !now.starts_with(&plan.origin) {
                return Ok(None);
            }
            if plan.size() > 0 {
                txn.write(Write::NewSlice(new, plan.size()));
            }
            let records = plan.replacement(new);
            let left = now.len() - plan.origin.len() + records.len();
            txn.write(Write::ReplaceSlices(plan.ino, plan.index, plan.origin.len(), records));
            let old = plan.replaced();
            if !delayed {
                release_each(txn, &old);
            } else if !old.is_empty() {
                txn.write(Write::AddDelayedSlices(new, ctx.now.secs, old));
            }
            Ok(Some(left))
        };
        let Some(left) = self.transact(body).await? else {
            return Ok(false);
        };
        self.record_counts.set(plan.ino, plan.index, left);
        if !delayed && let Err(error) = self.remove_unreferenced(&old).await {
            warn!(%error, "slices that were compacted are left to the hourly clean-up");
        }
        Ok(true)
    }

    /// Removes a slice that was uploaded and that no record will ever name. Its blocks are known to be superfluous before
    /// the first of them goes, so that a failure in between only leaves them to the hourly clean-up.
    ///
    /// # Errors
    /// Those of the engine.
    pub async fn abandon_slice(&self, id: SliceId, size: u32) -> Result<()> {
        self.transact(move |txn| {
            txn.write(Write::NewSlice(id, size));
            txn.write(Write::AddSliceRef(id, size, -1));
            Ok(())
        })
        .await?;
        self.remove_slices(&[(id, size)]).await.map(drop)
    }
}
