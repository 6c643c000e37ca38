//! Where the data of a file lies: lseek(2) with SEEK_DATA and SEEK_HOLE. Written data counts before it is committed.

use std::fmt::Write as _;
use std::ops::Range;

use stead_base::Errno;
use stead_meta::ops::Caller;
use stead_meta::records::CHUNK_SIZE;
use stead_meta::view::{Piece, view};

use crate::Vfs;
use crate::errno::{Result, fail};
use crate::handles::{FileHandle, Handle, HandleId};
use crate::inode::View;
use crate::operation::Op;

/// Chunks that are asked for at a time, behind the first one.
const BATCH: u32 = 512;

impl Vfs {
    /// The first position from `offset` on that lies in data (SEEK_DATA) or in a hole (SEEK_HOLE; the end of the file is
    /// one). ENXIO behind the end, or without any data to come.
    pub async fn lseek(&self, caller: &Caller, fh: HandleId, offset: u64, whence: i32) -> Result<u64> {
        let handle = self.handles.get(fh)?;
        let work = async {
            match (&*handle, whence) {
                (Handle::File(file), libc::SEEK_DATA) => self.seek(file, offset, true).await,
                (Handle::File(file), libc::SEEK_HOLE) => self.seek(file, offset, false).await,
                _ => Err(Errno::EINVAL),
            }
        };
        self.observed(Op::LSeek, caller, work, |out, found| {
            let _ = write!(out, "({fh},{offset},{whence}): ({})", found.copied().unwrap_or(0));
        })
        .await
    }

    async fn seek(&self, file: &FileHandle, offset: u64, data: bool) -> Result<u64> {
        // First what is not committed: what gets committed in between is then found twice, not missed.
        let pending = file.inode.writer.ranges();
        let length = file.inode.length();
        if offset >= length {
            return Err(Errno::ENXIO);
        }
        let (mut at, mut batch) = (offset, 1);
        while at < length {
            let first = u32::try_from(at / CHUNK_SIZE).map_err(|_too_far| Errno::EINVAL)?;
            let chunks = u32::try_from(length.div_ceil(CHUNK_SIZE)).map_err(|_too_far| Errno::EINVAL)?;
            for view in self.views(file, first..chunks.min(first.saturating_add(batch))).await? {
                if let Some(found) = in_chunk(&view, &pending, &mut at, length, data) {
                    return Ok(found);
                }
            }
            batch = BATCH;
        }
        if data { Err(Errno::ENXIO) } else { Ok(length) }
    }

    async fn views(&self, file: &FileHandle, chunks: Range<u32>) -> Result<Vec<View>> {
        if chunks.len() == 1 {
            return Ok(vec![file.inode.view(&self.meta, chunks.start).await?]);
        }
        // Not kept: a file of holes has many chunks and nothing in them.
        let records = self.meta.chunks(file.ino(), chunks).await.map_err(fail)?;
        Ok(records.iter().map(|records| View::new(view(records))).collect())
    }
}

/// Moves `at` on to what is looked for, or to the end of its chunk.
fn in_chunk(view: &[Piece], pending: &[Range<u64>], at: &mut u64, length: u64, data: bool) -> Option<u64> {
    let base = *at / CHUNK_SIZE * CHUNK_SIZE;
    let end = (base + CHUNK_SIZE).min(length);
    while *at < end {
        let (is_data, until) = extent(view, pending, base, *at);
        if is_data == data {
            return Some(*at);
        }
        *at = until.min(end);
    }
    None
}

/// Whether there is data at `at`, and up to where that holds at least.
fn extent(view: &[Piece], pending: &[Range<u64>], base: u64, at: u64) -> (bool, u64) {
    if let Some(range) = pending.iter().find(|range| range.contains(&at)) {
        return (true, range.end);
    }
    let next = pending.iter().map(|range| range.start).filter(|start| *start > at).min().unwrap_or(u64::MAX);
    let within = |piece: &Piece| base + u64::from(piece.pos)..base + u64::from(piece.pos) + u64::from(piece.len);
    match view.iter().find(|piece| within(piece).end > at) {
        Some(piece) if within(piece).start > at => (false, within(piece).start.min(next)),
        Some(piece) => (!piece.id.is_hole(), within(piece).end.min(next)),
        None => (false, next),
    }
}

#[cfg(test)]
mod tests {
    use stead_base::SliceId;

    use super::*;

    fn piece(pos: u32, id: u64, len: u32) -> Piece {
        Piece { pos, id: SliceId(id), size: 1000, off: 0, len }
    }

    fn seek(view: &[Piece], pending: &[Range<u64>], at: u64, length: u64, data: bool) -> Option<u64> {
        in_chunk(view, pending, &mut { at }, length, data)
    }

    #[test]
    fn data_and_holes_alternate() {
        let view = [piece(0, 0, 10), piece(10, 5, 10), piece(20, 0, 10), piece(30, 6, 10)];
        assert_eq!(seek(&view, &[], 0, 100, true), Some(10));
        assert_eq!(seek(&view, &[], 15, 100, true), Some(15));
        assert_eq!(seek(&view, &[], 15, 100, false), Some(20));
        assert_eq!(seek(&view, &[], 35, 100, false), Some(40));
        assert_eq!(seek(&view, &[], 40, 100, true), None);
        assert_eq!(seek(&view, &[], 35, 40, false), None, "the end of the file is the caller's");
    }

    #[test]
    fn what_is_not_committed_is_data() {
        let view = [piece(0, 5, 10)];
        let pending = [20..30, 5..15];
        assert_eq!(seek(&view, &pending, 0, 100, false), Some(15));
        assert_eq!(seek(&view, &pending, 15, 100, true), Some(20));
        assert_eq!(seek(&view, &pending, 20, 100, false), Some(30));
        assert_eq!(seek(&[], &pending, 0, 100, true), Some(5));
    }
}
