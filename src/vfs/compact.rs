//! Compaction: the bytes that many records of a chunk show become one slice (format.md §2.7).
//!
//! The new slice is in the store, safe from a power failure, before its record takes the place of the others. Readers that
//! still know the old records, here or in other clients, either find the old blocks or find them missing and look again.

use std::collections::HashSet;
use std::sync::Arc;

use bytes::Bytes;
use futures::{StreamExt, TryStreamExt, stream};
use parking_lot::Mutex;
use stead_base::{Ino, failpoint};
use stead_chunk::{ChunkStore, SliceWriter};
use stead_meta::Meta;
use stead_meta::ops::Compaction;
use stead_meta::records::{CHUNK_SIZE, NodeType};
use stead_meta::store::Cursor;
use stead_meta::view::Piece;
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

use crate::Vfs;
use crate::inode::View;

/// Chunks that one mount compacts at the same time.
const MOST: usize = 10;
/// Pieces of a slice under way at the same time.
const PARALLEL: usize = 8;
/// A reader has a chunk compacted that shows, or holds, so many pieces.
const PIECES_READ: usize = 5;
/// A writer has a chunk compacted after each so many records …
const EVERY: usize = 100;
/// … and whenever there are more than so many.
pub(crate) const MANY_RECORDS: usize = 350;
/// Writers wait for the compaction of a chunk that has so many.
const TOO_MANY_RECORDS: usize = 2500;
/// Entries of a directory that are looked at together.
const PAGE: usize = 1000;

/// Why a chunk could not be compacted. Nothing was changed, and what was uploaded is gone or will be found by gc.
#[derive(Clone, Debug, thiserror::Error)]
#[expect(missing_docs, reason = "the messages say it")]
pub enum CompactError {
    #[error("chunk {index} of inode {ino}: {source}")]
    Meta { ino: Ino, index: u32, source: stead_meta::Error },
    #[error("chunk {index} of inode {ino}: {source}")]
    Data { ino: Ino, index: u32, source: stead_chunk::Error },
}

/// What came of it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Compacted {
    /// Chunks that have fewer records now.
    pub chunks: u64,
    /// Records that were replaced.
    pub records: u64,
    /// Bytes that were rewritten.
    pub bytes: u64,
}

impl Compacted {
    fn add(&mut self, other: Self) {
        self.chunks += other.chunks;
        self.records += other.records;
        self.bytes += other.bytes;
    }
}

/// Compacts one chunk as far as the rules allow. Somebody who writes at the same time only costs another attempt later.
///
/// # Errors
/// The engine or the object store fails, or another client was faster and the blocks are gone.
pub async fn compact_chunk(
    meta: &Meta,
    chunks: &Arc<ChunkStore>,
    ino: Ino,
    index: u32,
    stop: &CancellationToken,
) -> Result<Compacted, CompactError> {
    let mut total = Compacted::default();
    while !stop.is_cancelled() {
        let failed = |source| CompactError::Meta { ino, index, source };
        let Some(plan) = meta.compaction_plan(ino, index).await.map_err(failed)? else { break };
        let Some(done) = compact(meta, chunks, (ino, index), &plan, stop).await? else { break };
        total.add(Compacted { chunks: 0, ..done });
        total.chunks = 1;
    }
    Ok(total)
}

/// Compacts all chunks of a file, or of all files below a directory, several at a time. `progress` is told of each chunk
/// that was looked at; what fails is logged and counted in the second number of the result.
///
/// # Errors
/// The tree cannot be read.
pub async fn compact_tree(
    meta: &Meta,
    chunks: &Arc<ChunkStore>,
    top: Ino,
    stop: &CancellationToken,
    progress: &(dyn Fn(Compacted) + Send + Sync),
) -> Result<(Compacted, u64), stead_meta::Error> {
    let (total, failures) = (Mutex::new(Compacted::default()), Mutex::new(0));
    let one = async |(ino, index)| match compact_chunk(meta, chunks, ino, index, stop).await {
        Ok(done) => {
            total.lock().add(done);
            progress(done);
        }
        Err(error) => {
            warn!(%error, "not compacted");
            *failures.lock() += 1;
        }
    };
    let attr = meta.getattr(top).await?;
    let mut waiting = vec![(top, attr.kind)];
    while let Some((ino, kind)) = waiting.pop().filter(|_more| !stop.is_cancelled()) {
        match kind {
            NodeType::Directory => waiting.extend(children(meta, ino).await?),
            NodeType::File => {
                let end = meta.getattr(ino).await.map_or(0, |attr| attr.length.div_ceil(CHUNK_SIZE));
                let found = meta.store().list_chunks(ino, 0..u32::try_from(end).unwrap_or(u32::MAX)).await?;
                stream::iter(found).for_each_concurrent(MOST, |index| one((ino, index))).await;
            }
            _ => {}
        }
    }
    Ok((total.into_inner(), failures.into_inner()))
}

async fn children(meta: &Meta, dir: Ino) -> Result<Vec<(Ino, NodeType)>, stead_meta::Error> {
    let (mut found, mut from) = (Vec::new(), Cursor::default());
    loop {
        let page = meta.list(dir, false, from, PAGE).await?;
        found.extend(page.items.iter().map(|item| (item.entry.ino, item.entry.kind)));
        match page.next {
            Some(next) => from = next,
            None => return Ok(found),
        }
    }
}

/// Carries out a plan. `None`: somebody else changed the chunk, or it was to stop; the new slice is removed again.
async fn compact(
    meta: &Meta,
    chunks: &Arc<ChunkStore>,
    (ino, index): (Ino, u32),
    plan: &Compaction,
    stop: &CancellationToken,
) -> Result<Option<Compacted>, CompactError> {
    let meta_failed = |source| CompactError::Meta { ino, index, source };
    let data_failed = |source| CompactError::Data { ino, index, source };
    let id = meta.new_slice().await.map_err(meta_failed)?;
    let mut writer = chunks.writer();
    writer.set_id(id);
    let written = write(chunks, &mut writer, plan.pieces(), stop).await;
    if !matches!(written, Ok(true)) {
        discard(writer).await;
        return written.map(|_stopped| None).map_err(data_failed);
    }
    failpoint::hit("vfs.compact.uploaded");
    chunks.sync().await.map_err(data_failed)?;
    failpoint::hit("vfs.compact.before-commit");
    if !meta.commit_compaction(plan, id).await.map_err(meta_failed)? {
        debug!(%ino, index, "the chunk changed while it was compacted");
        if plan.size() > 0 {
            meta.abandon_slice(id, plan.size()).await.map_err(meta_failed)?;
        }
        return Ok(None);
    }
    failpoint::hit("vfs.compact.after-commit");
    let (records, bytes) = (plan.records() as u64, u64::from(plan.size()));
    debug!(%ino, index, records, bytes, slice = %id, "compacted");
    Ok(Some(Compacted { chunks: 1, records, bytes }))
}

/// Writes what the pieces show. Room in the budget is taken for a whole block that is uploaded at once, so that
/// compactions which wait for room never hold any. False: stopped.
async fn write(
    chunks: &Arc<ChunkStore>,
    writer: &mut SliceWriter,
    pieces: &[Piece],
    stop: &CancellationToken,
) -> stead_chunk::Result<bool> {
    for (start, parts) in blocks(pieces, chunks.block_size()) {
        if stop.is_cancelled() {
            return Ok(false);
        }
        let reads = stream::iter(parts).map(|part| chunks.read_past_caches(part.id, part.size, part.off, part.len));
        let data: Vec<Bytes> = reads.buffered(PARALLEL).try_collect().await?;
        let bytes: u64 = data.iter().map(|bytes| bytes.len() as u64).sum();
        let _room = chunks.budget().reserve(bytes).await;
        let mut at = start;
        for bytes in data {
            writer.write(at, &bytes)?;
            at += u32::try_from(bytes.len()).unwrap_or(u32::MAX);
        }
        writer.upload_full_blocks();
    }
    writer.finish().await?;
    Ok(true)
}

/// The pieces cut at the borders of the new slice's blocks: where each block begins, and what it is made of.
fn blocks(pieces: &[Piece], block_size: u32) -> Vec<(u32, Vec<Piece>)> {
    let mut blocks: Vec<(u32, Vec<Piece>)> = Vec::new();
    let mut at = 0;
    for piece in pieces {
        let mut rest = *piece;
        while rest.len > 0 {
            let len = rest.len.min(block_size - at % block_size);
            if at % block_size == 0 {
                blocks.push((at, Vec::new()));
            }
            if let Some((_start, parts)) = blocks.last_mut() {
                let hole = rest.id.is_hole();
                // Where nothing else is to be read, zeros are as long as they are.
                parts.push(if hole { Piece { size: len, off: 0, len, ..rest } } else { Piece { len, ..rest } });
            }
            rest = Piece { pos: rest.pos + len, off: rest.off.saturating_add(len), len: rest.len - len, ..rest };
            at += len;
        }
    }
    blocks
}

async fn discard(writer: SliceWriter) {
    if let Err(error) = writer.discard().await {
        warn!(%error, "blocks of a compaction that failed are left to gc");
    }
}

/// Whether a chunk with so many records is due after a write.
pub(crate) const fn has_many_records(records: usize) -> bool {
    records % EVERY == EVERY - 1 || records > MANY_RECORDS
}

/// Chunks that this mount is compacting.
#[derive(Debug, Default)]
pub(crate) struct Compactions(Arc<Mutex<HashSet<(Ino, u32)>>>);

/// A turn to compact a chunk; ends when dropped.
struct Turn(Arc<Mutex<HashSet<(Ino, u32)>>>, (Ino, u32));

impl Compactions {
    /// `None`: somebody is at it, or too many are under way.
    fn begin(&self, chunk: (Ino, u32)) -> Option<Turn> {
        let mut running = self.0.lock();
        (running.len() < MOST && running.insert(chunk)).then(|| Turn(Arc::clone(&self.0), chunk))
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        self.0.lock().remove(&self.1);
    }
}

impl Vfs {
    /// Compacts a chunk now. `false`: that is under way already.
    ///
    /// # Errors
    /// As of [`compact_chunk`].
    pub async fn compact(&self, ino: Ino, index: u32) -> Result<bool, CompactError> {
        let Some(_turn) = self.compactions.begin((ino, index)) else {
            return Ok(false);
        };
        let done = compact_chunk(&self.meta, &self.chunks, ino, index, &self.tasks.stopping()).await;
        if let Some(inode) = self.inodes.get(ino) {
            inode.forget_view(index);
        }
        done.map(|_done| true)
    }

    /// A chunk was read that may be worth it.
    pub(crate) fn compact_read(&self, ino: Ino, index: u32, view: &View) {
        if view.len() < PIECES_READ && self.meta.known_records(ino, index) < PIECES_READ {
            return;
        }
        self.compact_later(ino, index, true);
    }

    /// A chunk has many records since a write or a copy. Waits for the compaction if there are far too many.
    pub(crate) async fn compact_written(&self, ino: Ino, index: u32) {
        if self.meta.known_records(ino, index) < TOO_MANY_RECORDS {
            self.compact_later(ino, index, false);
        } else if let Err(error) = self.compact(ino, index).await {
            warn!(%error, "a chunk with very many records");
        }
    }

    fn compact_later(&self, ino: Ino, index: u32, if_it_pays: bool) {
        if self.meta.options().read_only {
            return;
        }
        let Some(vfs) = self.me.upgrade() else { return };
        self.tasks.spawn("compact", async move {
            if if_it_pays {
                let plan = vfs.meta.compaction_plan(ino, index).await;
                if !matches!(plan, Ok(Some(plan)) if plan.pays_off()) {
                    return;
                }
            }
            if let Err(error) = vfs.compact(ino, index).await {
                debug!(%error, "not compacted");
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use stead_base::SliceId;

    use super::*;

    #[test]
    fn blocks_are_filled_without_gaps() {
        let piece = |pos, id, off, len| Piece { pos, id: SliceId(id), size: 1000, off, len };
        let found = blocks(&[piece(7, 1, 50, 25), piece(32, 0, 0, 10), piece(42, 2, 0, 3)], 10);
        let shape: Vec<_> = found
            .iter()
            .map(|(start, parts)| {
                (*start, parts.iter().map(|part| (part.id.0, part.off, part.len)).collect::<Vec<_>>())
            })
            .collect();
        assert_eq!(
            shape,
            [
                (0, vec![(1, 50, 10)]),
                (10, vec![(1, 60, 10)]),
                (20, vec![(1, 70, 5), (0, 0, 5)]),
                (30, vec![(0, 0, 5), (2, 0, 3)]),
            ]
        );
    }
}
