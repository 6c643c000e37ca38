//! copy_file_range(2) and clones: the copy names the slices of the source; no byte is read or written.

use std::fmt::Write as _;
use std::ops::ControlFlow;
use std::sync::Arc;

use stead_base::{Errno, Ino};
use stead_meta::ops::{Caller, CloneOptions};
use stead_meta::records::{Attr, CHUNK_SIZE};

use crate::Vfs;
use crate::compact::MANY_RECORDS;
use crate::errno::{Result, fail};
use crate::handles::{FileHandle, Handle, HandleId};
use crate::namespace::refuse_virtual;
use crate::operation::Op;

/// The two ends of a copy.
#[derive(Clone, Copy, Debug)]
pub struct CopyRange {
    /// The handle to read from.
    pub from: HandleId,
    /// Where in it.
    pub from_offset: u64,
    /// The handle to write to.
    pub to: HandleId,
    /// Where in it.
    pub to_offset: u64,
    /// Bytes.
    pub length: u64,
    /// As copy_file_range(2) has them: none yet.
    pub flags: u32,
}

impl Vfs {
    /// Clones a file or a tree under a new name; what was written through this mount before is committed first.
    /// `progress` is told the number of inodes so far, and may end the whole (EINTR).
    pub async fn clone_tree(
        &self,
        caller: &Caller,
        src: Ino,
        (parent, name): (Ino, &[u8]),
        options: CloneOptions,
        progress: &(dyn Fn(u64) -> ControlFlow<()> + Send + Sync),
    ) -> Result<(Ino, Attr)> {
        refuse_virtual(src)?;
        refuse_virtual(parent)?;
        self.flush_all().await?;
        let made = self.meta.clone_tree(caller, src, parent, name, options, progress).await.map_err(fail)?;
        self.recent.entry(parent, name);
        self.recent.inode(parent);
        Ok(made)
    }

    /// Copies a range of an open file to another one, or to another place of the same one. Returns how many bytes, fewer
    /// where the source ends. What was written to either before is committed first.
    pub async fn copy_file_range(&self, caller: &Caller, range: CopyRange) -> Result<u64> {
        let (from, to) = (self.handles.get(range.from)?, self.handles.get(range.to)?);
        let work = async {
            let (Handle::File(from), Handle::File(to)) = (&*from, &*to) else {
                return Err(Errno::EBADF);
            };
            self.copy(caller, from, to, range).await
        };
        self.observed(Op::CopyFileRange, caller, work, |out, copied| {
            let CopyRange { from, from_offset, to, to_offset, length, flags } = range;
            let _ = write!(out, "({from},{from_offset},{to},{to_offset},{length},{flags})");
            let _ = write!(out, ": ({})", copied.copied().unwrap_or(0));
        })
        .await
    }

    async fn copy(&self, caller: &Caller, from: &FileHandle, to: &FileHandle, range: CopyRange) -> Result<u64> {
        if !from.readable() || !to.writable() {
            return Err(Errno::EBADF);
        }
        self.flush_file(&from.inode).await?;
        if !Arc::ptr_eq(&from.inode, &to.inode) {
            self.flush_file(&to.inode).await?;
        }
        let change = to.inode.change.lock().await;
        let CopyRange { from_offset, to_offset, length, flags, .. } = range;
        let copied = self.meta.copy_range(caller, from.ino(), from_offset, to.ino(), to_offset, length, flags);
        let copied = copied.await;
        // Also after an error: its answer may be all that was lost.
        to.inode.forget_views();
        let (copied, changed) = copied.map_err(fail)?;
        self.remapped(&to.inode, changed).await;
        drop(change);
        for index in to_offset / CHUNK_SIZE..(to_offset + copied).div_ceil(CHUNK_SIZE) {
            if let Ok(index) = u32::try_from(index)
                && self.meta.known_records(to.ino(), index) >= MANY_RECORDS
            {
                self.compact_written(to.ino(), index).await;
            }
        }
        Ok(copied)
    }
}
