//! Going on where a process has ended that served the same mount: its handles are found again under their numbers, and the
//! kernel asks anew for what it may know wrongly.

use std::collections::HashMap;

use stead_base::{Errno, Ino};
use stead_meta::records::Attr;
use tokio::time::Instant;
use tracing::{info, warn};

use crate::Vfs;
use crate::directory::DirHandle;
use crate::errno::{Result, fail};
use crate::handles::{FileHandle, Handle, LeftOpen};
use crate::internal::Virtual;
use crate::segment::OpenKind;

/// Inodes whose attributes are asked for at a time.
const AT_ONCE: usize = 1000;

/// What a process has taken over.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Inherited {
    /// Open handles.
    pub handles: usize,
    /// Those of them through which something was written that is lost: their users will get EIO.
    pub lost: usize,
    /// Handles of files that are gone: they answer EBADF.
    pub gone: usize,
}

impl Vfs {
    /// Finds the handles again that the process before this one has left open in the segment. To be called before the
    /// first request is served, when that process cannot change anything any more.
    ///
    /// # Errors
    /// The engine does not say what the files are like.
    pub async fn inherit(&self) -> Result<Inherited> {
        let left = self.handles.left_open();
        let asked = Instant::now();
        let attrs = self.attributes_of(&left).await?;
        let mut inherited = Inherited::default();
        for left in left {
            let ino = left.record.ino;
            let handle = match (left.record.kind, Virtual::of(ino), attrs.get(&ino)) {
                (OpenKind::Directory, ..) => Some(Handle::Directory(DirHandle::new(ino))),
                (OpenKind::Virtual, file, _) => file.map(|file| Handle::Virtual(self.virtual_handle(file))),
                (OpenKind::File, _, attr) => attr.map(|attr| Handle::File(self.reopened(&left, attr, asked))),
            };
            inherited.handles += 1;
            inherited.lost += usize::from(left.dirty);
            match handle {
                Some(handle) => self.handles.restore(left.id, left.record, handle),
                None => {
                    warn!(%ino, fh = left.id, "an open file is gone");
                    inherited.gone += 1;
                }
            }
        }
        info!(?inherited, "handles of the process before");
        Ok(inherited)
    }

    async fn attributes_of(&self, left: &[LeftOpen]) -> Result<HashMap<Ino, Attr>> {
        let mut files: Vec<Ino> =
            left.iter().filter(|left| left.record.kind == OpenKind::File).map(|left| left.record.ino).collect();
        files.sort_unstable();
        files.dedup();
        let mut attrs = HashMap::with_capacity(files.len());
        for some in files.chunks(AT_ONCE) {
            let found = self.meta.getattrs(some).await.map_err(fail)?;
            attrs.extend(some.iter().copied().zip(found).filter_map(|(ino, attr)| Some((ino, attr?))));
        }
        Ok(attrs)
    }

    fn reopened(&self, left: &LeftOpen, attr: &Attr, asked: Instant) -> FileHandle {
        let ino = left.record.ino;
        self.meta.opened_before(ino, attr);
        FileHandle::inherited(self.inodes.open(ino, attr.clone(), asked), left)
    }

    /// Commits everything that a successor would not have, for a handover without loss.
    ///
    /// # Errors
    /// Why some of it could not be committed; it stays where it is, and this process has to go on. EAGAIN: there is more
    /// by now.
    pub async fn flush_for_successor(&self) -> Result<()> {
        self.flush_all().await?;
        if self.inodes.dirty().is_empty() { Ok(()) } else { Err(Errno::EAGAIN) }
    }
}
