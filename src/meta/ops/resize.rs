//! truncate and fallocate: lengths and holes (format.md §2.5).

use stead_base::{Ino, SliceId, failpoint};

use crate::error::{Error, Result};
use crate::records::{Attr, CHUNK_SIZE, Key, Slice, Write, flags};
use crate::store::{Step, Txn};

use super::Meta;
use super::attributes::{not_permitted, without_set_id};
use super::context::{Context, not_flagged};
use super::data::{change_length, check_end, file};
use super::types::{Caller, Changed, fallocate_mode};

/// With more chunks than this in between, those that exist are looked up first.
const MANY_CHUNKS: u64 = 10_000;

impl Meta {
    /// Sets the length of a file; what is new or cut away reads as zeros.
    ///
    /// # Errors
    /// [`Error::TooBig`], [`Error::NotPermitted`] for flagged files and in the trash, and limits when it grows.
    pub async fn truncate(&self, caller: &Caller, ino: Ino, length: u64) -> Result<Changed> {
        self.writable()?;
        check_end(ino, length)?;
        let mut many = None;
        loop {
            let (ctx, caller, known) = (self.context(), caller.clone(), many);
            let body = move |txn: &mut Txn<'_>| truncate(txn, &ctx, &caller, ino, length, known.as_ref());
            failpoint::hit("meta.truncate.before-commit");
            match self.transact(body).await? {
                Truncated::Done(changed) => return Ok(changed),
                Truncated::NeedsChunks { old_length, range } => {
                    let chunks = self.store.list_chunks(ino, range).await?;
                    many = Some(Many { old_length, chunks });
                }
            }
        }
    }

    /// Makes room, or zeros a range (fallocate(2)); plain preallocation only sets the length.
    ///
    /// # Errors
    /// [`Error::NotSupported`] for other modes, [`Error::Invalid`] for an empty range, and as of [`Meta::truncate`].
    pub async fn fallocate(&self, caller: &Caller, ino: Ino, mode: u32, offset: u64, length: u64) -> Result<Changed> {
        self.writable()?;
        let range = Range::new(ino, mode, offset, length)?;
        let (ctx, caller) = (self.context(), caller.clone());
        self.transact(move |txn| fallocate(txn, &ctx, &caller, ino, &range)).await
    }
}

/// The chunks with records between two lengths that are very far apart.
struct Many {
    old_length: u64,
    chunks: Vec<u32>,
}

enum Truncated {
    Done(Changed),
    /// The chunks of `range` that have records are to be listed first. Nothing was written.
    NeedsChunks {
        old_length: u64,
        range: std::ops::Range<u32>,
    },
}

pub(super) fn index(chunk: u64) -> u32 {
    u32::try_from(chunk).expect("files end below 2^57, chunks below 2^31")
}

pub(super) fn position(offset: u64) -> u32 {
    u32::try_from(offset % CHUNK_SIZE).expect("a position in a chunk is below 2^26")
}

pub(super) fn zeros(pos: u32, len: u64) -> Slice {
    Slice {
        pos,
        id: SliceId::HOLE,
        size: 0,
        off: 0,
        len: u32::try_from(len).expect("a record stays inside a chunk of 2^26 bytes"),
    }
}

fn truncate(
    txn: &mut Txn<'_>,
    ctx: &Context,
    caller: &Caller,
    ino: Ino,
    length: u64,
    many: Option<&Many>,
) -> Step<Truncated> {
    ctx.prime(txn, &[Key::Attr(ino)], &[])?;
    let old = file(txn, ino)?;
    not_flagged(ino, &old, flags::IMMUTABLE | flags::APPEND)?;
    if old.parent.0 > Ino::TRASH.0 && !ctx.opened.is_open(ino) {
        return Err(not_permitted(ino, "it lies in the trash").into());
    }
    let mut new = changed(ctx, caller, &old);
    new.length = length;
    if old.length == length {
        txn.write(Write::SetAttr(ino, new.clone()));
        return Ok(Truncated::Done(Changed::from(&old, new)));
    }
    let (left, right) = (old.length.min(length), old.length.max(length));
    let (first, last) = (left / CHUNK_SIZE, right / CHUNK_SIZE);
    let middle = first + 1..last.max(first + 1);
    if last - first > MANY_CHUNKS {
        let Some(many) = many.filter(|many| many.old_length == old.length) else {
            return Ok(Truncated::NeedsChunks {
                old_length: old.length,
                range: index(middle.start)..index(middle.end),
            });
        };
        clear_chunks(txn, ino, many.chunks.iter().copied());
    } else {
        clear_chunks(txn, ino, middle.map(index));
    }
    let rest = if last > first { CHUNK_SIZE - left % CHUNK_SIZE } else { right - left };
    let start = zeros(position(left), rest);
    txn.write(Write::AppendSlices(ino, index(first), vec![start]));
    if last > first && position(right) > 0 {
        let end = zeros(0, right % CHUNK_SIZE);
        txn.write(Write::AppendSlices(ino, index(last), vec![end]));
    }
    change_length(txn, ctx, ino, &old, &new)?;
    Ok(Truncated::Done(Changed::from(&old, new)))
}

fn clear_chunks(txn: &mut Txn<'_>, ino: Ino, chunks: impl Iterator<Item = u32>) {
    for chunk in chunks {
        txn.write(Write::AppendSlicesIfExists(ino, chunk, zeros(0, CHUNK_SIZE)));
    }
}

/// The attributes after a change of the content by `caller`.
pub(super) fn changed(ctx: &Context, caller: &Caller, old: &Attr) -> Attr {
    let mut new = old.clone();
    new.mtime = ctx.now;
    new.ctime = ctx.now;
    if !caller.is_root() {
        let mode = without_set_id(caller, old.mode);
        // Without group execution, setgid means locking, not rights.
        new.mode = if old.mode & 0o10 == 0 { mode | old.mode & 0o2000 } else { mode };
    }
    new
}

/// A checked request.
struct Range {
    mode: u32,
    start: u64,
    end: u64,
}

impl Range {
    fn new(ino: Ino, mode: u32, offset: u64, length: u64) -> Result<Self> {
        const KNOWN: u32 = fallocate_mode::KEEP_SIZE | fallocate_mode::PUNCH_HOLE | fallocate_mode::ZERO_RANGE;
        if mode & !KNOWN != 0 {
            return Err(Error::NotSupported { what: "this mode of fallocate" });
        }
        let punches = mode & fallocate_mode::PUNCH_HOLE != 0;
        let both = punches && mode & fallocate_mode::ZERO_RANGE != 0;
        if both || (punches && mode & fallocate_mode::KEEP_SIZE == 0) {
            return Err(Error::Invalid {
                field: "fallocate mode",
                value: format!("{mode:#x}"),
                expected: "PUNCH_HOLE only with KEEP_SIZE and without ZERO_RANGE",
            });
        }
        if length == 0 {
            return Err(Error::Invalid {
                field: "fallocate length",
                value: "0".to_owned(),
                expected: "1 byte or more",
            });
        }
        let end = offset.saturating_add(length);
        check_end(ino, end)?;
        Ok(Self { mode, start: offset, end })
    }
}

fn fallocate(txn: &mut Txn<'_>, ctx: &Context, caller: &Caller, ino: Ino, range: &Range) -> Step<Changed> {
    ctx.prime(txn, &[Key::Attr(ino)], &[])?;
    let old = file(txn, ino)?;
    let mut refused = flags::IMMUTABLE;
    if range.mode & !fallocate_mode::KEEP_SIZE != 0 {
        refused |= flags::APPEND;
    }
    not_flagged(ino, &old, refused)?;
    let mut new = changed(ctx, caller, &old);
    if range.mode & fallocate_mode::KEEP_SIZE == 0 {
        new.length = old.length.max(range.end);
    }
    if range.mode & (fallocate_mode::PUNCH_HOLE | fallocate_mode::ZERO_RANGE) != 0 {
        let end = range.end.min(old.length);
        let mut at = range.start;
        while at < end {
            let chunk = at / CHUNK_SIZE;
            let stop = end.min((chunk + 1) * CHUNK_SIZE);
            let hole = zeros(position(at), stop - at);
            txn.write(Write::AppendSlices(ino, index(chunk), vec![hole]));
            at = stop;
        }
    }
    change_length(txn, ctx, ino, &old, &new)?;
    Ok(Changed::from(&old, new))
}
