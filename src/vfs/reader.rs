//! Reading: what is committed, with what is not laid over it.

use std::ops::Range;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use futures::{StreamExt, TryStreamExt, stream};
use stead_base::{Errno, SliceId};
use stead_meta::records::CHUNK_SIZE;
use stead_meta::view::Piece;
use tracing::warn;

use crate::Vfs;
use crate::errno::{Result, fail};
use crate::handles::FileHandle;
use crate::inode::OpenInode;
use crate::writer::Overlay;

/// Pieces of one read that are fetched at the same time.
const PARALLEL: usize = 8;
/// So often a read looks for the blocks of the same records when it finds some missing.
const ATTEMPTS: u32 = 4;

/// Where a part of a read comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Part {
    id: SliceId,
    size: u32,
    off: u32,
    len: u32,
}

impl Vfs {
    pub(crate) async fn read_file(&self, file: &FileHandle, offset: u64, size: u32) -> Result<Bytes> {
        if !file.readable() {
            return Err(Errno::EBADF);
        }
        let inode = &file.inode;
        // First what is not committed: what gets committed in between is then found twice, not missed.
        let overlay = self.overlay(inode, offset..offset.saturating_add(size.into())).await?;
        let end = offset.saturating_add(size.into()).min(inode.length());
        if offset >= end {
            return Ok(Bytes::new());
        }
        self.read_ahead(file, offset, end);
        if let [(at, bytes)] = &overlay[..]
            && (*at, bytes.len() as u64) == (offset, end - offset)
        {
            return Ok(bytes.clone());
        }
        let below = self.read_committed(inode, offset..end).await?;
        Ok(lay_over(below, offset, &overlay))
    }

    async fn overlay(&self, inode: &OpenInode, range: Range<u64>) -> Result<Vec<(u64, Bytes)>> {
        loop {
            if let Overlay::Ready(parts) = inode.writer.overlay(range.clone()) {
                return Ok(parts);
            }
            let flushed = self.flush_file(inode).await;
            if let (Err(errno), Overlay::Busy) = (flushed, inode.writer.overlay(range.clone())) {
                return Err(errno);
            }
        }
    }

    async fn read_committed(&self, inode: &OpenInode, range: Range<u64>) -> Result<Bytes> {
        let (mut looked_at, mut times) = (Vec::new(), 0);
        loop {
            let parts = self.parts(inode, range.clone()).await?;
            times = if parts == looked_at { times + 1 } else { 1 };
            match self.read_parts(&parts, range.clone()).await {
                Ok(bytes) => return Ok(bytes),
                // The chunk was compacted, and the slices that our view names are gone. Those of the next view may be gone
                // too when it is their turn: only what stays the same is missing.
                Err(error) if error.is_not_found() && times < ATTEMPTS => inode.forget_views(),
                Err(error) => return Err(self.unreadable(inode, error)),
            }
            looked_at = parts;
        }
    }

    fn unreadable(&self, inode: &OpenInode, error: stead_chunk::Error) -> Errno {
        warn!(ino = %inode.ino, "a file cannot be read");
        fail(error)
    }

    async fn parts(&self, inode: &OpenInode, range: Range<u64>) -> Result<Vec<Part>> {
        let mut parts = Vec::new();
        for (index, within) in by_chunk(range) {
            let view = match inode.cached_view(index) {
                Some(view) => view,
                None => {
                    let view = inode.view(&self.meta, index).await?;
                    self.compact_read(inode.ino, index, &view);
                    view
                }
            };
            plan(&view, within, &mut parts);
        }
        Ok(parts)
    }

    async fn read_parts(&self, parts: &[Part], range: Range<u64>) -> stead_chunk::Result<Bytes> {
        match *parts {
            [part] => self.fetch(part).await,
            _ => self.gather(parts, range).await,
        }
    }

    async fn fetch(&self, part: Part) -> stead_chunk::Result<Bytes> {
        if part.id.is_hole() {
            return Ok(vec![0; part.len as usize].into());
        }
        self.chunks.read(part.id, part.size, part.off, part.len).await
    }

    async fn gather(&self, parts: &[Part], range: Range<u64>) -> stead_chunk::Result<Bytes> {
        let mut all = BytesMut::with_capacity(usize::try_from(range.end - range.start).unwrap_or(0));
        let mut fetched = stream::iter(parts.iter().copied()).map(|part| self.fetch(part)).buffered(PARALLEL);
        while let Some(bytes) = fetched.try_next().await? {
            all.extend_from_slice(&bytes);
        }
        Ok(all.freeze())
    }

    /// Has what a sequential reader will want next fetched in the background.
    fn read_ahead(&self, file: &FileHandle, offset: u64, end: u64) {
        let max = self.config.max_readahead.min(self.chunks.read_ahead_limit());
        let Some(ahead) = file.readahead.lock().note(offset, end - offset, max) else {
            return;
        };
        let ahead = ahead.start..ahead.end.min(file.inode.length());
        for (index, within) in by_chunk(ahead) {
            match file.inode.cached_view(index) {
                Some(view) => prefetch(&self.chunks, &view, within),
                None => {
                    let (meta, chunks) = (Arc::clone(&self.meta), Arc::clone(&self.chunks));
                    let inode = Arc::clone(&file.inode);
                    self.tasks.spawn("read-ahead", async move {
                        if let Ok(view) = inode.view(&meta, index).await {
                            prefetch(&chunks, &view, within);
                        }
                    });
                }
            }
        }
    }
}

fn prefetch(chunks: &Arc<stead_chunk::ChunkStore>, view: &[Piece], within: Range<u32>) {
    let mut parts = Vec::new();
    plan(view, within, &mut parts);
    for part in parts {
        chunks.prefetch(part.id, part.size, part.off, part.len);
    }
}

/// The chunks under a range of a file, each with the range within it.
fn by_chunk(range: Range<u64>) -> impl Iterator<Item = (u32, Range<u32>)> {
    let indexes = if range.is_empty() { 0..0 } else { range.start / CHUNK_SIZE..range.end.div_ceil(CHUNK_SIZE) };
    indexes.filter_map(move |index| {
        let base = index * CHUNK_SIZE;
        let start = u32::try_from(range.start.max(base) - base).ok()?;
        let end = u32::try_from(range.end.min(base + CHUNK_SIZE) - base).ok()?;
        Some((u32::try_from(index).ok()?, start..end))
    })
}

/// What `within` of a chunk consists of, without gaps.
fn plan(view: &[Piece], within: Range<u32>, parts: &mut Vec<Part>) {
    let hole = |len| Part { id: SliceId::HOLE, size: 0, off: 0, len };
    let mut at = within.start;
    let first = view.partition_point(|piece| piece.pos + piece.len <= within.start);
    for piece in &view[first..] {
        if piece.pos >= within.end {
            break;
        }
        if piece.pos > at {
            parts.push(hole(piece.pos - at));
            at = piece.pos;
        }
        let skipped = at - piece.pos;
        let len = (piece.len - skipped).min(within.end - at);
        parts.push(match piece.id {
            SliceId::HOLE => hole(len),
            id => Part { id, size: piece.size, off: piece.off + skipped, len },
        });
        at += len;
    }
    if at < within.end {
        parts.push(hole(within.end - at));
    }
}

/// Copies uncommitted bytes over the committed ones, which begin at `offset` of the file.
fn lay_over(below: Bytes, offset: u64, overlay: &[(u64, Bytes)]) -> Bytes {
    if overlay.is_empty() {
        return below;
    }
    let mut all = BytesMut::from(below);
    for (at, bytes) in overlay {
        let start = usize::try_from(at - offset).expect("an overlay lies inside its read");
        if start < all.len() {
            let len = bytes.len().min(all.len() - start);
            all[start..start + len].copy_from_slice(&bytes[..len]);
        }
    }
    all.freeze()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn piece(pos: u32, id: u64, off: u32, len: u32) -> Piece {
        Piece { pos, id: SliceId(id), size: 1000, off, len }
    }

    #[test]
    fn a_plan_has_no_gaps() {
        let view = [piece(0, 0, 7, 10), piece(10, 5, 100, 10), piece(30, 6, 0, 10)];
        let mut parts = Vec::new();
        plan(&view, 5..60, &mut parts);
        let shape: Vec<_> = parts.iter().map(|part| (part.id.0, part.off, part.len)).collect();
        assert_eq!(shape, [(0, 0, 5), (5, 100, 10), (0, 0, 10), (6, 0, 10), (0, 0, 20)]);
        parts.clear();
        plan(&view, 12..15, &mut parts);
        assert_eq!(parts, [Part { id: SliceId(5), size: 1000, off: 102, len: 3 }]);
    }

    #[test]
    fn a_range_is_cut_at_chunk_borders() {
        let cut: Vec<_> = by_chunk(CHUNK_SIZE - 1..2 * CHUNK_SIZE + 3).collect();
        let chunk = u32::try_from(CHUNK_SIZE).unwrap();
        assert_eq!(cut, [(0, chunk - 1..chunk), (1, 0..chunk), (2, 0..3)]);
        assert_eq!(by_chunk(5..5).count(), 0);
    }
}
