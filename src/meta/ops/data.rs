//! The content of files: slice records (format.md §2.5).

use std::num::NonZeroUsize;
use std::ops::Range;

use lru::LruCache;
use parking_lot::Mutex;
use stead_base::{Ino, SliceId, Timestamp};
use tokio::time::Instant;

use crate::error::{Error, Result};
use crate::records::{Attr, CHUNK_SIZE, Key, MAX_FILE_SIZE, NodeType, Record, Slice, Write};
use crate::store::{Step, Txn};

use super::Meta;
use super::context::{Context, existing};
use super::ledger::{Ledger, Limits};
use super::types::WriteOutcome;

impl Meta {
    /// A number for a new slice. It may stay unused.
    ///
    /// # Errors
    /// Those of the engine.
    pub async fn new_slice(&self) -> Result<SliceId> {
        loop {
            match self.slices.next(&self.store).await? {
                0 => {}
                number => return Ok(SliceId(number)),
            }
        }
    }

    /// Adds a slice, whose data is durable, to a chunk of a file; the file grows to the slice's end. `mtime` is the
    /// time of the last write into the slice. Slices of a chunk are to be added in the order of their creation.
    ///
    /// # Errors
    /// [`Error::NoInode`], [`Error::NoSpace`], [`Error::QuotaExceeded`]: then the data is to be removed.
    pub async fn write_slice(&self, ino: Ino, index: u32, slice: Slice, mtime: Timestamp) -> Result<WriteOutcome> {
        self.writable()?;
        let end = u64::from(slice.pos) + u64::from(slice.len);
        if slice.len == 0 || end > CHUNK_SIZE || u64::from(slice.off) + u64::from(slice.len) > u64::from(slice.size) {
            return Err(Error::Invalid {
                field: "slice",
                value: format!("{slice:?}"),
                expected: "1 byte or more inside the slice and inside one chunk of 64 MiB",
            });
        }
        let (ctx, length) = (self.context(), u64::from(index) * CHUNK_SIZE + end);
        check_end(ino, length)?;
        let body = move |txn: &mut Txn<'_>| {
            ctx.prime(txn, &[Key::Attr(ino)], &[])?;
            let old = file(txn, ino)?;
            let mut new = old.clone();
            new.length = old.length.max(length);
            new.mtime = mtime;
            new.ctime = ctx.now;
            txn.write(Write::NewSlice(slice.id, slice.size));
            txn.write(Write::AppendSlices(ino, index, vec![slice]));
            change_length(txn, &ctx, ino, &old, &new)?;
            Ok((new, (old.mtime, old.length)))
        };
        let (attr, before) = self.transact(body).await?;
        if attr.parent.0 > 0 {
            self.note_stats([attr.parent]);
        }
        let records = self.record_counts.add(ino, index, 1);
        Ok(WriteOutcome { attr, before, records })
    }

    /// The records of a chunk, oldest first; empty when it was never written. [`crate::view`] makes the content of it.
    ///
    /// # Errors
    /// Those of the engine.
    pub async fn chunk(&self, ino: Ino, index: u32) -> Result<Vec<Slice>> {
        let slices = match self.read_one(Key::Chunk(ino, index)).await? {
            Some(Record::Slices(slices)) => slices,
            _ => Vec::new(),
        };
        Ok(self.counted(ino, index, slices))
    }

    /// The same as of `since` or later, without a round trip if they are remembered.
    ///
    /// # Errors
    /// Those of the engine.
    pub async fn chunk_since(&self, ino: Ino, index: u32, since: Instant) -> Result<Vec<Slice>> {
        match self.store.recall(&Key::Chunk(ino, index)) {
            Some((Some(Record::Slices(slices)), at)) if at >= since => Ok(self.counted(ino, index, slices)),
            Some((None, at)) if at >= since => Ok(self.counted(ino, index, Vec::new())),
            _ => self.chunk(ino, index).await,
        }
    }

    fn counted(&self, ino: Ino, index: u32, slices: Vec<Slice>) -> Vec<Slice> {
        self.record_counts.set(ino, index, slices.len());
        slices
    }

    /// [`Meta::chunk`] of several chunks in one round trip.
    ///
    /// # Errors
    /// Those of the engine.
    pub async fn chunks(&self, ino: Ino, indexes: Range<u32>) -> Result<Vec<Vec<Slice>>> {
        let keys: Vec<_> = indexes.map(|index| Key::Chunk(ino, index)).collect();
        let records = self.store.read(&keys).await?.into_iter();
        Ok(records
            .map(|record| match record {
                Some(Record::Slices(slices)) => slices,
                _ => Vec::new(),
            })
            .collect())
    }
}

impl Meta {
    /// How many records a chunk has, as far as this client knows without asking: a hint, 0 when it does not.
    pub fn known_records(&self, ino: Ino, index: u32) -> usize {
        self.record_counts.get(ino, index)
    }
}

/// The attributes of a regular file that must exist.
pub(super) fn file(txn: &mut Txn<'_>, ino: Ino) -> Step<Attr> {
    let attr = existing(txn, ino)?;
    match attr.kind {
        NodeType::File => Ok(attr),
        NodeType::Directory => Err(Error::IsDirectory { ino }.into()),
        kind => {
            Err(Error::Invalid { field: "inode", value: format!("{ino} ({kind:?})"), expected: "a regular file" }
                .into())
        }
    }
}

pub(super) const fn check_end(ino: Ino, end: u64) -> Result<()> {
    if end >= MAX_FILE_SIZE {
        return Err(Error::TooBig { ino, end });
    }
    Ok(())
}

/// Stores the attributes of a file whose length may have changed, and books the change.
pub(super) fn change_length(txn: &mut Txn<'_>, ctx: &Context, ino: Ino, old: &Attr, new: &Attr) -> Step<()> {
    txn.write(Write::SetAttr(ino, new.clone()));
    if new.length == old.length {
        return Ok(());
    }
    let mut ledger = Ledger::default();
    ledger.resized(old, new);
    if new.nlink > 0 {
        if new.parent.0 > 0 {
            ledger.grown(new.parent, 1, old, new);
        } else {
            for (dir, names) in txn.parents(ino)?.unwrap_or_default() {
                ledger.grown(dir, names, old, new);
            }
        }
    }
    ledger.settle(txn, ctx, Limits::All)
}

/// How many records the chunks that this client works on have at least.
#[derive(Debug)]
pub(super) struct RecordCounts(Mutex<LruCache<(Ino, u32), usize>>);

impl Default for RecordCounts {
    fn default() -> Self {
        Self(Mutex::new(LruCache::new(NonZeroUsize::new(16_384).expect("not zero"))))
    }
}

impl RecordCounts {
    fn get(&self, ino: Ino, index: u32) -> usize {
        self.0.lock().peek(&(ino, index)).copied().unwrap_or(0)
    }

    pub(super) fn set(&self, ino: Ino, index: u32, count: usize) {
        self.0.lock().put((ino, index), count);
    }

    pub(super) fn add(&self, ino: Ino, index: u32, more: usize) -> usize {
        let mut counts = self.0.lock();
        let count = counts.get_or_insert_mut((ino, index), || 0);
        *count += more;
        *count
    }
}
