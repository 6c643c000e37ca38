//! The table of open handles. It is the whole truth about what the kernel has open: nothing else counts lookups or opens,
//! so a successor that is given this table can go on.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::{Mutex, RwLock};
use stead_base::{Errno, Ino};
use stead_meta::records::flags as inode_flags;

use crate::directory::DirHandle;
use crate::errno::Result;
use crate::inode::OpenInode;
use crate::internal::VirtualHandle;
use crate::readahead::ReadAhead;

/// What the kernel calls `fh`. Never handed out twice in the life of a mount.
pub type HandleId = u64;

/// Something open.
pub(crate) enum Handle {
    File(FileHandle),
    Directory(DirHandle),
    Virtual(VirtualHandle),
}

/// An open file.
pub(crate) struct FileHandle {
    pub(crate) inode: Arc<OpenInode>,
    /// As open(2) got them.
    pub(crate) flags: i32,
    /// The last failure of a write-back that this handle was told of ([`crate::writer::Failures`]).
    pub(crate) failures_seen: AtomicU64,
    pub(crate) readahead: Mutex<ReadAhead>,
}

impl FileHandle {
    pub(crate) fn new(inode: Arc<OpenInode>, flags: i32) -> Self {
        let failures_seen = AtomicU64::new(inode.writer.failures_for_new_handle());
        Self { inode, flags, failures_seen, readahead: Mutex::default() }
    }

    pub(crate) fn ino(&self) -> Ino {
        self.inode.ino
    }

    pub(crate) fn readable(&self) -> bool {
        self.flags & libc::O_ACCMODE != libc::O_WRONLY
    }

    pub(crate) fn writable(&self) -> bool {
        self.flags & libc::O_ACCMODE != libc::O_RDONLY
    }

    /// What the inode's flags say of writing through this handle: files that became immutable are not written to, and
    /// those that are only appended to, only so.
    pub(crate) fn check_flags(&self) -> Result<()> {
        let appends = self.flags & libc::O_APPEND != 0;
        let refused = if appends { inode_flags::IMMUTABLE } else { inode_flags::IMMUTABLE | inode_flags::APPEND };
        if self.inode.flags() & refused == 0 { Ok(()) } else { Err(Errno::EPERM) }
    }

    /// A failed write-back that this handle has not been told of: from now on it has.
    pub(crate) fn take_failure(&self) -> Result<()> {
        self.inode.writer.report_failure(&self.failures_seen)
    }
}

/// All of them.
pub(crate) struct HandleTable {
    last: AtomicU64,
    open: RwLock<HashMap<HandleId, Arc<Handle>>>,
}

impl HandleTable {
    pub(crate) fn new() -> Self {
        Self { last: AtomicU64::new(0), open: RwLock::default() }
    }

    pub(crate) fn insert(&self, handle: Handle) -> HandleId {
        let id = self.last.fetch_add(1, Ordering::Relaxed) + 1;
        self.open.write().insert(id, Arc::new(handle));
        id
    }

    /// EBADF if there is none.
    pub(crate) fn get(&self, id: HandleId) -> Result<Arc<Handle>> {
        self.open.read().get(&id).cloned().ok_or(Errno::EBADF)
    }

    pub(crate) fn remove(&self, id: HandleId) -> Option<Arc<Handle>> {
        self.open.write().remove(&id)
    }

    pub(crate) fn len(&self) -> usize {
        self.open.read().len()
    }
}
