//! copy_file_range: the destination names the slices of the source, and no byte moves (format.md §2.5, "Copy range").

use std::collections::BTreeMap;

use stead_base::{Ino, SliceId};

use crate::error::{Error, Result};
use crate::records::{CHUNK_SIZE, Key, Slice, Write, flags};
use crate::store::{Step, Txn};
use crate::view::view;

use super::Meta;
use super::attributes::not_permitted;
use super::context::{Context, not_flagged};
use super::data::{change_length, check_end, file};
use super::deleted::{add_references, references};
use super::resize::{changed, index, position, zeros};
use super::types::{Caller, Changed};

/// Destination chunks that one transaction fills: a bound for what it reads and writes.
const GROUP: u64 = 8;

impl Meta {
    /// Copies up to `len` bytes of a file into another one, or to another place of the same one, as copy_file_range(2)
    /// does: fewer where the source ends. Returns how many, and the attributes of the destination. What either file has
    /// not committed is not seen: flush it first. Each group of chunks is copied atomically; if a later one fails, what
    /// was copied before is the result.
    ///
    /// # Errors
    /// [`Error::Invalid`] for flags and for ranges of one file that overlap, [`Error::TooBig`], [`Error::NotPermitted`]
    /// for flagged files and in the trash, and limits when the destination grows.
    #[expect(clippy::too_many_arguments, reason = "the arguments of copy_file_range(2)")]
    pub async fn copy_range(
        &self,
        caller: &Caller,
        src: Ino,
        src_off: u64,
        dst: Ino,
        dst_off: u64,
        len: u64,
        flags: u32,
    ) -> Result<(u64, Changed)> {
        self.writable()?;
        let wanted = Range { src: self.real(src), src_off, dst: self.real(dst), dst_off, len };
        wanted.check(flags)?;
        let (mut copied, mut changed) = (0, None::<Changed>);
        loop {
            let part = wanted.part(copied);
            let (ctx, caller) = (self.context(), caller.clone());
            let done = self.transact(move |txn| copy(txn, &ctx, &caller, part)).await;
            let done = match (done, changed) {
                (Ok(done), None) => done,
                (Ok(done), Some(before)) => Copied { changed: before.then(done.changed), ..done },
                (Err(_later), Some(changed)) => return Ok((copied, changed)),
                (Err(error), None) => return Err(error),
            };
            for (chunk, records) in done.appended {
                self.record_counts.add(wanted.dst, chunk, records);
            }
            if done.changed.parent.0 > 0 {
                self.note_stats([done.changed.parent]);
            }
            copied += done.len;
            if done.len < part.len || copied >= len {
                return Ok((copied, done.changed));
            }
            changed = Some(done.changed);
        }
    }
}

/// What is to be copied where.
#[derive(Clone, Copy, Debug)]
struct Range {
    src: Ino,
    src_off: u64,
    dst: Ino,
    dst_off: u64,
    len: u64,
}

impl Range {
    fn check(&self, flags: u32) -> Result<()> {
        if flags != 0 {
            let value = format!("{flags:#x}");
            return Err(Error::Invalid { field: "copy_file_range flags", value, expected: "0" });
        }
        check_end(self.src, self.src_off)?;
        check_end(self.dst, self.dst_off.saturating_add(self.len))?;
        let apart = self.src_off.saturating_add(self.len) <= self.dst_off
            || self.dst_off.saturating_add(self.len) <= self.src_off;
        if self.src == self.dst && !apart {
            return Err(Error::Invalid {
                field: "copy_file_range offsets",
                value: format!("{} and {}, {} bytes", self.src_off, self.dst_off, self.len),
                expected: "ranges of one file that do not overlap",
            });
        }
        Ok(())
    }

    /// What one transaction copies, after so many bytes.
    fn part(&self, copied: u64) -> Self {
        let dst_off = self.dst_off + copied;
        let border = (dst_off / CHUNK_SIZE + GROUP) * CHUNK_SIZE;
        Self { src_off: self.src_off + copied, dst_off, len: (self.len - copied).min(border - dst_off), ..*self }
    }
}

struct Copied {
    len: u64,
    changed: Changed,
    /// How many records each chunk of the destination has got.
    appended: Vec<(u32, usize)>,
}

fn copy(txn: &mut Txn<'_>, ctx: &Context, caller: &Caller, part: Range) -> Step<Copied> {
    let mut keys = vec![Key::Attr(part.src), Key::Attr(part.dst)];
    keys.extend(chunks(part.src_off, part.len).map(|chunk| Key::Chunk(part.src, index(chunk))));
    ctx.prime(txn, &keys, &[])?;
    let (source, old) = (file(txn, part.src)?, file(txn, part.dst)?);
    not_flagged(part.dst, &old, flags::IMMUTABLE | flags::APPEND)?;
    if old.parent.0 > Ino::TRASH.0 && !ctx.opened.is_open(part.dst) {
        return Err(not_permitted(part.dst, "it lies in the trash").into());
    }
    let len = part.len.min(source.length.saturating_sub(part.src_off));
    if len == 0 {
        return Ok(Copied { len, changed: Changed::from(&old, old.clone()), appended: Vec::new() });
    }
    let records = Range { len, ..part }.records(txn)?;
    let mut new = changed(ctx, caller, &old);
    new.length = old.length.max(part.dst_off + len);
    add_references(txn, &references(records.values().flatten()));
    let appended = records.iter().map(|(chunk, records)| (*chunk, records.len())).collect();
    for (chunk, records) in records {
        txn.write(Write::AppendSlices(part.dst, chunk, records));
    }
    change_length(txn, ctx, part.dst, &old, &new)?;
    Ok(Copied { len, changed: Changed::from(&old, new), appended })
}

/// The chunks under a range.
fn chunks(offset: u64, len: u64) -> std::ops::Range<u64> {
    if len == 0 { 0..0 } else { offset / CHUNK_SIZE..(offset + len).div_ceil(CHUNK_SIZE) }
}

impl Range {
    /// The records that the destination gets, by chunk: every byte of the range is covered, holes by records of zeros.
    fn records(&self, txn: &mut Txn<'_>) -> Step<BTreeMap<u32, Vec<Slice>>> {
        let end = self.src_off + self.len;
        let mut found = BTreeMap::new();
        for chunk in chunks(self.src_off, self.len) {
            let base = chunk * CHUNK_SIZE;
            let (mut at, stop) = (self.src_off.max(base), end.min(base + CHUNK_SIZE));
            for piece in view(&txn.slices(self.src, index(chunk))?.unwrap_or_default()) {
                let start = base + u64::from(piece.pos);
                let piece_end = (start + u64::from(piece.len)).min(stop);
                if piece_end <= at {
                    continue;
                }
                let skipped = position(at - start);
                let off = piece.off.saturating_add(skipped);
                self.put(&mut found, at, piece_end, Slice { pos: 0, id: piece.id, size: piece.size, off, len: 0 });
                at = piece_end;
            }
            if at < stop {
                self.put(&mut found, at, stop, zeros(0, 0));
            }
        }
        Ok(found)
    }

    /// Adds records for the bytes `start .. end` of the source, which are those of `slice` from its `off` on.
    fn put(&self, found: &mut BTreeMap<u32, Vec<Slice>>, start: u64, end: u64, slice: Slice) {
        let mut at = start;
        while at < end {
            let to = at - self.src_off + self.dst_off;
            let len = (end - at).min(CHUNK_SIZE - to % CHUNK_SIZE);
            let hole = zeros(position(to), len);
            let record = match slice.id {
                SliceId::HOLE => hole,
                id => Slice { id, size: slice.size, off: slice.off.saturating_add(position(at - start)), ..hole },
            };
            found.entry(index(to / CHUNK_SIZE)).or_default().push(record);
            at += len;
        }
    }
}
