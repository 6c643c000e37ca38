//! The table of open handles. It is the whole truth about what the kernel has open: nothing else counts lookups or opens,
//! so a successor that is given what it writes into the [`Segment`] can go on.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use parking_lot::{Mutex, RwLock};
use stead_base::{Errno, Ino};
use stead_meta::ops::Caller;
use stead_meta::records::flags as inode_flags;
use tracing::error;

use crate::directory::DirHandle;
use crate::errno::Result;
use crate::inode::OpenInode;
use crate::internal::VirtualHandle;
use crate::readahead::ReadAhead;
use crate::segment::{OpenRecord, Segment};

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
    pub(crate) mark: Mark,
    /// Something that was written through it went with the process before this one, and nobody was told.
    lost: AtomicBool,
    /// It was opened for a process before this one.
    pub(crate) inherited: bool,
}

impl FileHandle {
    pub(crate) fn new(inode: Arc<OpenInode>, flags: i32, mark: Mark) -> Self {
        let failures_seen = AtomicU64::new(inode.writer.failures_for_new_handle());
        let (lost, inherited) = (AtomicBool::new(false), false);
        Self { inode, flags, failures_seen, readahead: Mutex::default(), mark, lost, inherited }
    }

    /// One that a process before this one has left open.
    pub(crate) fn inherited(inode: Arc<OpenInode>, left: &LeftOpen) -> Self {
        let handle = Self::new(inode, left.record.flags, left.mark.clone());
        Self { lost: AtomicBool::new(left.dirty), inherited: true, ..handle }
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

    /// EIO if writes through this handle are lost and neither close nor fsync has told so: a caller that only writes on
    /// must not believe that what came before is there.
    pub(crate) fn check_lost(&self) -> Result<()> {
        if self.lost.load(Ordering::Relaxed) { Err(Errno::EIO) } else { Ok(()) }
    }

    /// Lost writes, or a failed write-back, that this handle has not been told of: from now on it has.
    pub(crate) fn take_failure(&self) -> Result<()> {
        let lost = self.lost.swap(false, Ordering::Relaxed);
        let failed = self.inode.writer.report_failure(&self.failures_seen);
        if lost || failed.is_err() {
            self.inode.writer.told(&self.mark);
        }
        if lost { Err(Errno::EIO) } else { failed }
    }
}

/// Says of a handle whether what was written through it is committed, where a successor can see it.
#[derive(Clone, Debug)]
pub(crate) struct Mark {
    segment: Arc<Segment>,
    index: usize,
}

impl Mark {
    pub(crate) fn set(&self, dirty: bool) {
        self.segment.set_dirty(self.index, dirty);
    }

    pub(crate) fn is_for(&self, other: &Self) -> bool {
        self.index == other.index
    }
}

/// All of them.
pub(crate) struct HandleTable {
    segment: Arc<Segment>,
    free: Mutex<Free>,
    open: RwLock<HashMap<HandleId, Arc<Handle>>>,
    /// Handles that were opened for a process before this one, by the requests that opened them.
    inherited: Mutex<HashMap<u64, HandleId>>,
}

/// Slots of the segment that are free.
#[derive(Default)]
struct Free {
    used_before: Vec<usize>,
    /// From here on none was ever used by this process.
    next: usize,
}

/// A handle as the process before this one has left it.
pub(crate) struct LeftOpen {
    pub(crate) id: HandleId,
    pub(crate) record: OpenRecord,
    pub(crate) mark: Mark,
    /// What was written through it was not committed.
    pub(crate) dirty: bool,
}

const INDEX_BITS: u32 = 32;

/// The number of a slot's user: the slot, and how often it was used before.
fn handle_id(index: usize, uses: u32) -> HandleId {
    u64::from(uses.wrapping_sub(1)) << INDEX_BITS | (index as u64 + 1)
}

fn index_of(id: HandleId) -> usize {
    usize::try_from(id & u64::from(u32::MAX)).expect("the lower half").saturating_sub(1)
}

impl HandleTable {
    /// A table whose slots are those of `segment`; what is in it already is to be [`HandleTable::left_open`].
    pub(crate) fn new(segment: Arc<Segment>) -> Self {
        Self { segment, free: Mutex::default(), open: RwLock::default(), inherited: Mutex::default() }
    }

    /// The memory behind it.
    pub(crate) fn segment(&self) -> &Arc<Segment> {
        &self.segment
    }

    /// Makes a handle. ENFILE: too many are open.
    pub(crate) fn insert(&self, record: OpenRecord, handle: impl FnOnce(Mark) -> Handle) -> Result<HandleId> {
        let index = self.take_slot().ok_or_else(|| {
            error!(open = self.len(), "too many open files");
            Errno::ENFILE
        })?;
        let handle = Arc::new(handle(Mark { segment: Arc::clone(&self.segment), index }));
        let id = handle_id(index, self.segment.publish(index, record));
        self.open.write().insert(id, handle);
        Ok(id)
    }

    fn take_slot(&self) -> Option<usize> {
        let mut free = self.free.lock();
        if let Some(index) = free.used_before.pop() {
            return Some(index);
        }
        let index = free.next;
        (index < Segment::capacity()).then(|| {
            free.next += 1;
            index
        })
    }

    /// EBADF if there is none.
    pub(crate) fn get(&self, id: HandleId) -> Result<Arc<Handle>> {
        self.open.read().get(&id).cloned().ok_or(Errno::EBADF)
    }

    /// Takes a handle out; its slot stays until [`HandleTable::forget`], so that a successor would find it again.
    pub(crate) fn remove(&self, id: HandleId) -> Option<Arc<Handle>> {
        self.open.write().remove(&id)
    }

    /// Everything that a close has to do is done.
    pub(crate) fn forget(&self, id: HandleId) {
        let index = index_of(id);
        self.segment.clear(index);
        self.free.lock().used_before.push(index);
    }

    pub(crate) fn len(&self) -> usize {
        self.open.read().len()
    }

    /// What was open when the process before this one ended. To be called before anything else.
    pub(crate) fn left_open(&self) -> Vec<LeftOpen> {
        let mut free = self.free.lock();
        let mut found = Vec::new();
        for index in 0..self.segment.used() {
            let Some((uses, record, dirty)) = self.segment.record(index) else { continue };
            let unused = free.next..index;
            free.used_before.extend(unused);
            free.next = index + 1;
            let mark = Mark { segment: Arc::clone(&self.segment), index };
            found.push(LeftOpen { id: handle_id(index, uses), record, mark, dirty });
        }
        let unused = free.next..self.segment.used();
        free.next = unused.end;
        free.used_before.extend(unused);
        free.used_before.reverse();
        found
    }

    /// Puts a handle that was left open back under its number.
    pub(crate) fn restore(&self, id: HandleId, record: OpenRecord, handle: Handle) {
        self.open.write().insert(id, Arc::new(handle));
        if record.request != 0 {
            self.inherited.lock().insert(record.request, id);
        }
    }

    /// The handle that `caller`'s request has opened already, if it asks again.
    pub(crate) fn opened_for(&self, caller: &Caller) -> Option<(HandleId, Arc<Handle>)> {
        let id = *self.inherited.lock().get(&caller.request).filter(|_| caller.again)?;
        Some((id, self.get(id).ok()?))
    }
}
