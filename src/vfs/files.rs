//! Operations on open files.

use std::fmt::Write as _;
use std::sync::Arc;
use std::time::{Duration, Instant as Stopwatch};

use bytes::Bytes;
use stead_base::{Errno, Ino};
use stead_meta::ops::{Caller, Changed};
use stead_meta::records::{Attr, MAX_FILE_SIZE};
use tokio::time::Instant;
use tracing::warn;

use crate::attr::Entry;
use crate::errno::{Result, fail};
use crate::handles::{FileHandle, Handle, HandleId};
use crate::inode::OpenInode;
use crate::internal::{Virtual, VirtualHandle};
use crate::namespace::{lossy, put_entry, refuse_virtual};
use crate::operation::Op;
use crate::resent::closed_before;
use crate::segment::{OpenKind, OpenRecord};
use crate::{Vfs, accesslog};

/// How long a write waits for room before it looks whether write-backs fail.
const WAIT_FOR_ROOM: Duration = Duration::from_secs(1);

/// What the kernel is told of a new handle.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Opened {
    /// Its number.
    pub fh: HandleId,
    /// The pages that the kernel has of the file are still good.
    pub keep_cache: bool,
    /// The kernel is to keep no pages.
    pub direct_io: bool,
}

impl Opened {
    pub(crate) const fn plain(fh: HandleId) -> Self {
        Self { fh, keep_cache: false, direct_io: false }
    }
}

fn put_fh(out: &mut String, opened: Option<&Opened>) {
    let _ = write!(out, " [fh:{}]", opened.map_or(0, |opened| opened.fh));
}

impl Vfs {
    /// Opens a file; `flags` are those of open(2). `O_TRUNC` is obeyed.
    pub async fn open(&self, caller: &Caller, ino: Ino, flags: i32) -> Result<Opened> {
        self.observed(Op::Open, caller, self.open_file(caller, ino, flags), |out, opened| {
            let _ = write!(out, "({ino},0x{flags:X})");
            put_fh(out, opened);
        })
        .await
    }

    async fn open_file(&self, caller: &Caller, ino: Ino, flags: i32) -> Result<Opened> {
        if let Some((fh, handle)) = self.handles.opened_for(caller) {
            let direct_io = matches!(&*handle, Handle::Virtual(_));
            return Ok(Opened { direct_io, ..Opened::plain(fh) });
        }
        if let Some(file) = Virtual::of(ino) {
            return self.open_virtual(caller, file, flags);
        }
        let (attr, asked) = self.open_attr(caller, ino, flags).await?;
        self.opened(caller, ino, attr, asked, flags).await
    }

    /// Makes the handle of a file that the metadata layer has opened.
    async fn opened(&self, caller: &Caller, ino: Ino, attr: Attr, asked: Instant, flags: i32) -> Result<Opened> {
        if self.inodes.get(ino).is_some() {
            self.learn(ino, attr.clone(), asked).await;
        }
        let keep_cache = self.keeps_pages(ino, &attr);
        let inode = self.inodes.open(ino, attr, asked);
        match self.new_handle(caller, &inode, flags).await {
            Ok(fh) => Ok(Opened { keep_cache, ..Opened::plain(fh) }),
            Err(errno) => {
                self.inodes.close(ino);
                self.closed(ino).await;
                Err(errno)
            }
        }
    }

    async fn new_handle(&self, caller: &Caller, inode: &Arc<OpenInode>, flags: i32) -> Result<HandleId> {
        let (ino, writes) = (inode.ino, flags & libc::O_ACCMODE != libc::O_RDONLY);
        if flags & libc::O_TRUNC != 0 && writes && inode.length() > 0 {
            self.truncate(caller, ino, 0).await?;
        }
        let record = OpenRecord { kind: OpenKind::File, ino, flags, request: caller.request };
        self.handles.insert(record, |mark| Handle::File(FileHandle::new(Arc::clone(inode), flags, mark)))
    }

    fn open_virtual(&self, caller: &Caller, file: Virtual, flags: i32) -> Result<Opened> {
        if flags & libc::O_ACCMODE != libc::O_RDONLY && file != Virtual::Control {
            return Err(Errno::EACCES);
        }
        let record = OpenRecord { kind: OpenKind::Virtual, ino: file.ino(), flags, request: caller.request };
        let fh = self.handles.insert(record, |_mark| Handle::Virtual(self.virtual_handle(file)))?;
        Ok(Opened { direct_io: true, ..Opened::plain(fh) })
    }

    pub(crate) fn virtual_handle(&self, file: Virtual) -> VirtualHandle {
        match file {
            Virtual::Control => VirtualHandle::Control(Arc::default()),
            Virtual::AccessLog => VirtualHandle::Log(self.log.subscribe()),
            Virtual::Stats => VirtualHandle::Text(self.stats_text().into()),
            Virtual::Config => VirtualHandle::Text(self.config_text().into()),
        }
    }

    /// Makes a file and opens it; one that exists is opened, unless `flags` have `O_EXCL`.
    pub async fn create(
        &self,
        caller: &Caller,
        parent: Ino,
        name: &[u8],
        (mode, umask): (u16, u16),
        flags: i32,
    ) -> Result<(Entry, Opened)> {
        let work = self.create_file(caller, parent, name, (mode, umask), flags);
        self.observed(Op::Create, caller, work, |out, made| {
            let _ = write!(out, "({parent},{},0{mode:o}):", lossy(name));
            put_entry(out, made.map(|(entry, _)| entry));
            put_fh(out, made.map(|(_, opened)| opened));
        })
        .await
    }

    async fn create_file(
        &self,
        caller: &Caller,
        parent: Ino,
        name: &[u8],
        (mode, umask): (u16, u16),
        flags: i32,
    ) -> Result<(Entry, Opened)> {
        self.refuse_special(parent, name, Errno::EEXIST)?;
        if let Some((fh, handle)) = self.handles.opened_for(caller) {
            return Ok((self.known_entry(handle_ino(&handle)).await?, Opened::plain(fh)));
        }
        let exclusive = flags & libc::O_EXCL != 0 && !self.made_before(caller, parent, name).await?;
        let asked = Instant::now();
        let made = self.meta.create(caller, parent, name, mode, umask, exclusive);
        let (ino, attr) = made.await.map_err(fail)?;
        self.recent.entry(parent, name);
        let opened = self.opened(caller, ino, attr.clone(), asked, flags).await?;
        Ok((self.entry(ino, attr, asked).await, opened))
    }

    /// Makes a file without a name in `parent`, and opens it (`O_TMPFILE`).
    pub async fn tmpfile(
        &self,
        caller: &Caller,
        parent: Ino,
        (mode, umask): (u16, u16),
        flags: i32,
    ) -> Result<(Entry, Opened)> {
        let work = self.make_tmpfile(caller, parent, (mode, umask), flags);
        self.observed(Op::TmpFile, caller, work, |out, made| {
            let _ = write!(out, "({parent},0{mode:o}):");
            put_entry(out, made.map(|(entry, _)| entry));
            put_fh(out, made.map(|(_, opened)| opened));
        })
        .await
    }

    async fn make_tmpfile(
        &self,
        caller: &Caller,
        parent: Ino,
        (mode, umask): (u16, u16),
        flags: i32,
    ) -> Result<(Entry, Opened)> {
        refuse_virtual(parent)?;
        if let Some((fh, handle)) = self.handles.opened_for(caller) {
            return Ok((self.known_entry(handle_ino(&handle)).await?, Opened::plain(fh)));
        }
        let asked = Instant::now();
        let (ino, attr) = self.meta.tmpfile(caller, parent, mode, umask).await.map_err(fail)?;
        let opened = self.opened(caller, ino, attr.clone(), asked, flags).await?;
        Ok((self.entry(ino, attr, asked).await, opened))
    }

    /// Reads `size` bytes at `offset`, fewer only at the end of the file.
    pub async fn read(&self, caller: &Caller, fh: HandleId, offset: u64, size: u32) -> Result<Bytes> {
        let mut ino = Ino(0);
        let work = async {
            let handle = self.handles.get(fh)?;
            match &*handle {
                Handle::File(file) => {
                    ino = file.ino();
                    self.read_file(file, offset, size).await
                }
                Handle::Virtual(file) => Ok(file.read(offset, size as usize).await),
                Handle::Directory(_) => Err(Errno::EISDIR),
            }
        };
        let logged = self.log.is_read().then(|| self.clock.now());
        let started = Stopwatch::now();
        let result = work.await;
        let took = started.elapsed();
        self.stats.note(Op::Read, took, result.is_err());
        if let Ok(data) = &result {
            self.stats.note_read(data.len());
        }
        if let Some(time) = logged
            && ino != Ino(0)
        {
            // A line per read of the log itself would never end.
            let shape = format!("({ino},{size},{offset},{fh}): ({})", result.as_ref().map_or(0, Bytes::len));
            let failed = result.as_ref().err().copied();
            self.log.write(accesslog::line(time, caller, Op::Read, &shape, failed, took));
        }
        result
    }

    /// [`Vfs::write`] if it needs no waiting: the data fits into the budget. Otherwise `None`, and nothing was done.
    pub fn try_write(&self, caller: &Caller, fh: HandleId, offset: u64, data: &[u8]) -> Option<Result<u32>> {
        let _room = self.chunks.budget().try_reserve(data.len() as u64)?;
        self.write_unless_frozen(caller, fh, offset, data)
    }

    fn write_unless_frozen(&self, caller: &Caller, fh: HandleId, offset: u64, data: &[u8]) -> Option<Result<u32>> {
        let frozen = self.frozen.read();
        (!*frozen).then(|| self.write_now(caller, fh, offset, data))
    }

    /// Takes data into the buffers of the file, waiting for room. It is durable after [`Vfs::flush`] or [`Vfs::fsync`].
    pub async fn write(&self, caller: &Caller, fh: HandleId, offset: u64, data: &[u8]) -> Result<u32> {
        let handle = self.handles.get(fh)?;
        loop {
            let thawed = self.thawed.notified();
            let room = self.chunks.budget().reserve(data.len() as u64);
            // No room for long may mean that nothing can be written back: then that is the answer.
            match tokio::time::timeout(WAIT_FOR_ROOM, room).await {
                Ok(_room) => match self.write_unless_frozen(caller, fh, offset, data) {
                    Some(answer) => return answer,
                    None => thawed.await,
                },
                Err(_elapsed) => match &*handle {
                    Handle::File(file) => file.check_lost().and_then(|()| file.take_failure())?,
                    Handle::Directory(_) | Handle::Virtual(_) => return Err(Errno::EBADF),
                },
            }
        }
    }

    fn write_now(&self, caller: &Caller, fh: HandleId, offset: u64, data: &[u8]) -> Result<u32> {
        let logged = self.log.is_read().then(|| self.clock.now());
        let started = Stopwatch::now();
        let result = self.handles.get(fh).and_then(|handle| self.buffer(caller, &handle, offset, data));
        let took = started.elapsed();
        self.stats.note(Op::Write, took, result.is_err());
        if let Ok(taken) = &result {
            self.stats.note_written(*taken);
        }
        if let Some(time) = logged {
            let ino = self.handles.get(fh).map_or(Ino(0), |handle| handle_ino(&handle));
            let shape = format!("({ino},{},{offset},{fh})", data.len());
            let failed = result.as_ref().err().copied();
            self.log.write(accesslog::line(time, caller, Op::Write, &shape, failed, took));
        }
        result
    }

    fn buffer(&self, caller: &Caller, handle: &Handle, offset: u64, data: &[u8]) -> Result<u32> {
        let size = u32::try_from(data.len()).map_err(|_too_long| Errno::EINVAL)?;
        let file = match handle {
            Handle::File(file) if file.writable() => file,
            Handle::Virtual(VirtualHandle::Control(control)) => {
                return self.command(caller, control, data).map(|()| size);
            }
            Handle::File(_) | Handle::Virtual(_) | Handle::Directory(_) => return Err(Errno::EBADF),
        };
        if offset.checked_add(u64::from(size)).is_none_or(|end| end >= MAX_FILE_SIZE) {
            return Err(Errno::EFBIG);
        }
        file.check_flags()?;
        file.check_lost()?;
        file.take_failure()?;
        self.write_file(file, offset, data)?;
        Ok(size)
    }

    /// What close(2) does for each descriptor: uploads and commits what was written to the file, and gives back the locks
    /// that the kernel's `owner`, a process, has on ranges of it.
    pub async fn flush(&self, caller: &Caller, fh: HandleId, owner: u64) -> Result<()> {
        let handle = self.handles.get(fh)?;
        let work = async {
            let flushed = self.flush_handle(&handle).await;
            self.unlock_process(fh, &handle, owner).await?;
            flushed
        };
        self.observed(Op::Flush, caller, work, |out, _| {
            let _ = write!(out, "({},{fh},{owner:016X})", handle_ino(&handle));
        })
        .await
    }

    async fn flush_handle(&self, handle: &Handle) -> Result<()> {
        match handle {
            Handle::File(file) if !file.writable() => Ok(()),
            Handle::File(file) => {
                let flushed = self.flush_file(&file.inode).await;
                // The failure that was just met, or an older one that this handle has not heard of.
                file.take_failure()?;
                flushed
            }
            Handle::Directory(_) | Handle::Virtual(_) => Ok(()),
        }
    }

    /// Makes everything written to the file survive a power failure.
    pub async fn fsync(&self, caller: &Caller, fh: HandleId, data_only: bool) -> Result<()> {
        let handle = self.handles.get(fh)?;
        let work = async {
            self.flush_handle(&handle).await?;
            self.chunks.sync().await.map_err(fail)?;
            self.meta.fsync().await.map_err(fail)
        };
        self.observed(Op::FSync, caller, work, |out, _| {
            let _ = write!(out, "({},{})", handle_ino(&handle), u8::from(data_only));
        })
        .await
    }

    /// Closes a handle, and gives back the locks that belong to the open file.
    pub async fn release(&self, caller: &Caller, fh: HandleId) -> Result<()> {
        let Some(handle) = self.handles.remove(fh) else { return closed_before(caller) };
        let ino = handle_ino(&handle);
        let work = async {
            if let Handle::File(file) = &*handle {
                if let Err(errno) = self.flush_file(&file.inode).await {
                    warn!(%ino, errno = errno.name(), "data could not be committed when the file was closed; trying on");
                }
                file.inode.writer.closed(&file.mark);
                self.unlock_handle(fh, file).await;
                self.inodes.close(ino);
                self.closed(ino).await;
            }
            self.handles.forget(fh);
            Ok(())
        };
        self.observed(Op::Release, caller, work, |out, _| {
            let _ = write!(out, "({ino},{fh})");
        })
        .await
    }

    async fn closed(&self, ino: Ino) {
        if let Err(error) = self.meta.close(ino).await {
            warn!(%ino, %error, "close");
        }
    }

    /// Changes the length of a file, after what was written before.
    pub(crate) async fn truncate(&self, caller: &Caller, ino: Ino, length: u64) -> Result<Attr> {
        refuse_virtual(ino)?;
        let Some(open) = self.inodes.get(ino) else {
            let changed = self.meta.truncate(caller, ino, length).await.map_err(fail)?;
            self.recent.inode(ino);
            return Ok(changed.attr);
        };
        self.flush_file(&open).await?;
        let _change = open.change.lock().await;
        let changed = self.meta.truncate(caller, ino, length).await.map_err(fail)?;
        self.remapped(&open, changed.clone()).await;
        Ok(changed.attr)
    }

    /// Allocates or clears a range; `mode` is that of fallocate(2).
    pub async fn fallocate(&self, caller: &Caller, fh: HandleId, mode: u32, offset: u64, length: u64) -> Result<()> {
        let handle = self.handles.get(fh)?;
        let work = async {
            let Handle::File(file) = &*handle else {
                return Err(Errno::EBADF);
            };
            if !file.writable() {
                return Err(Errno::EBADF);
            }
            self.flush_file(&file.inode).await?;
            let _change = file.inode.change.lock().await;
            let done = self.meta.fallocate(caller, file.ino(), mode, offset, length);
            let changed = done.await.map_err(fail)?;
            self.remapped(&file.inode, changed).await;
            Ok(())
        };
        self.observed(Op::FAllocate, caller, work, |out, _| {
            let _ = write!(out, "({},{mode},{offset},{length})", handle_ino(&handle));
        })
        .await
    }

    /// Notes that a change by this mount may have touched any chunk. The caller holds [`OpenInode::change`].
    pub(crate) async fn remapped(&self, open: &OpenInode, changed: Changed) {
        open.forget_views();
        self.changed(open, changed.before, changed.attr).await;
        // At the next open the kernel drops its pages: it knows the range that was asked for, not what became of it.
        self.seen.lock().pop(&open.ino);
        self.recent.inode(open.ino);
    }
}

pub(crate) fn handle_ino(handle: &Handle) -> Ino {
    match handle {
        Handle::File(file) => file.ino(),
        Handle::Directory(dir) => dir.ino,
        Handle::Virtual(_) => Ino(0),
    }
}
