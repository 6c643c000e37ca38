//! Requests in, replies out.

use std::ffi::OsStr;
use std::future::Future;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use fuser::{
    AccessFlags, BsdFileFlags, CopyFileRangeFlags, FileAttr, FileHandle, FileType, Filesystem, INodeNo, IoctlFlags,
    KernelConfig, LockOwner, OpenFlags, PollEvents, PollFlags, PollNotifier, RenameFlags, ReplyAttr, ReplyBmap,
    ReplyCreate, ReplyData, ReplyDirectory, ReplyDirectoryPlus, ReplyEmpty, ReplyEntry, ReplyIoctl, ReplyLseek,
    ReplyOpen, ReplyPoll, ReplyStatfs, ReplyWrite, ReplyXattr, Request, TimeOrNow, WriteFlags,
};
use stead_base::{Errno, Ino};
use stead_vfs::{Attributes, DirEntry, Entry, NewNode, Opened, Result, SetAttr, Vfs, XattrFlag, kind_of};
use tokio::runtime::Handle;
use tracing::error;

use crate::convert::{GENERATION, caller, errno, file_attr, file_type, open_flags, permissions, set_time};
use crate::session::FuseConfig;

/// Attributes of a name that does not exist.
const MISSING: FileAttr = FileAttr {
    ino: INodeNo(0),
    size: 0,
    blocks: 0,
    atime: UNIX_EPOCH,
    mtime: UNIX_EPOCH,
    ctime: UNIX_EPOCH,
    crtime: UNIX_EPOCH,
    kind: FileType::RegularFile,
    perm: 0,
    nlink: 0,
    uid: 0,
    gid: 0,
    rdev: 0,
    blksize: 0,
    flags: 0,
};

/// Blocks of statfs(2).
const BLOCK: u32 = 4096;

/// The file system as `fuser` wants it.
pub(crate) struct Adapter {
    vfs: Arc<Vfs>,
    config: FuseConfig,
    runtime: Handle,
}

impl Adapter {
    pub(crate) fn new(vfs: Arc<Vfs>, config: FuseConfig, runtime: Handle) -> Self {
        Self { vfs, config, runtime }
    }

    fn vfs(&self) -> Arc<Vfs> {
        Arc::clone(&self.vfs)
    }

    /// Runs `work`, which replies at its end: here, if it does not have to wait. If it panics, the reply that it owns
    /// answers EIO when it is dropped.
    fn answer(&self, work: impl Future<Output = ()> + Send + 'static) {
        let mut work = Box::pin(work);
        let first = self.guarded(|| work.as_mut().poll(&mut Context::from_waker(Waker::noop())));
        if let Some(Poll::Pending) = first {
            // The task polls again before it sleeps, so the waker of the first poll may have been woken in vain.
            self.runtime.spawn(work);
        }
    }

    /// Calls `work` inside the runtime. `None`: it panicked, which must not end the thread that reads requests.
    fn guarded<T>(&self, work: impl FnOnce() -> T) -> Option<T> {
        let _inside = self.runtime.enter();
        let result = catch_unwind(AssertUnwindSafe(work));
        if result.is_err() {
            error!("a request panicked and was answered with EIO");
        }
        result.ok()
    }
}

fn ino(number: INodeNo) -> Ino {
    Ino(number.0)
}

fn reply_empty(reply: ReplyEmpty, result: Result<()>) {
    match result {
        Ok(()) => reply.ok(),
        Err(error) => reply.error(errno(error)),
    }
}

fn reply_attr(reply: ReplyAttr, result: Result<Attributes>) {
    match result {
        Ok(found) => reply.attr(&found.timeout, &file_attr(&found)),
        Err(error) => reply.error(errno(error)),
    }
}

fn reply_entry(reply: ReplyEntry, result: Result<Entry>) {
    match result {
        Ok(Entry { attributes, timeout }) => {
            reply.entry_with_ttls(&attributes.timeout, &timeout, &file_attr(&attributes), GENERATION);
        }
        Err(error) => reply.error(errno(error)),
    }
}

fn reply_open(reply: ReplyOpen, result: Result<Opened>) {
    match result {
        Ok(opened) => reply.opened(FileHandle(opened.fh), open_flags(&opened)),
        Err(error) => reply.error(errno(error)),
    }
}

fn reply_data(reply: ReplyData, result: Result<impl AsRef<[u8]>>) {
    match result {
        Ok(data) => reply.data(data.as_ref()),
        Err(error) => reply.error(errno(error)),
    }
}

fn reply_written(reply: ReplyWrite, result: Result<u32>) {
    match result {
        Ok(size) => reply.written(size),
        Err(error) => reply.error(errno(error)),
    }
}

/// `size` is the room that the caller has; 0 = it only wants to know.
fn reply_xattr(reply: ReplyXattr, size: u32, result: Result<impl AsRef<[u8]>>) {
    let answer = result.and_then(|data| match u32::try_from(data.as_ref().len()) {
        Ok(length) if size == 0 || length <= size => Ok((data, length)),
        Ok(_) | Err(_) => Err(Errno::ERANGE),
    });
    match answer {
        Ok((_, length)) if size == 0 => reply.size(length),
        Ok((data, _)) => reply.data(data.as_ref()),
        Err(error) => reply.error(errno(error)),
    }
}

fn os(name: &[u8]) -> &OsStr {
    OsStr::from_bytes(name)
}

impl Filesystem for Adapter {
    fn init(&mut self, _request: &Request, kernel: &mut KernelConfig) -> io::Result<()> {
        self.config.apply(kernel);
        Ok(())
    }

    fn lookup(&self, request: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        let (vfs, caller, name) = (self.vfs(), caller(request), name.as_bytes().to_vec());
        self.answer(async move {
            let result = vfs.lookup(&caller, ino(parent), &name).await;
            let keep_missing = vfs.config().negative_entry_cache;
            if matches!(result, Err(Errno::ENOENT)) && !keep_missing.is_zero() {
                // Inode 0 with a timeout: the kernel remembers that there is none.
                reply.entry_with_ttls(&Duration::ZERO, &keep_missing, &MISSING, GENERATION);
            } else {
                reply_entry(reply, result);
            }
        });
    }

    fn getattr(&self, request: &Request, node: INodeNo, _fh: Option<FileHandle>, reply: ReplyAttr) {
        let (vfs, caller) = (self.vfs(), caller(request));
        self.answer(async move { reply_attr(reply, vfs.getattr(&caller, ino(node)).await) });
    }

    fn setattr(
        &self,
        request: &Request,
        node: INodeNo,
        mode: Option<u32>,
        uid: Option<u32>,
        gid: Option<u32>,
        size: Option<u64>,
        atime: Option<TimeOrNow>,
        mtime: Option<TimeOrNow>,
        ctime: Option<SystemTime>,
        _fh: Option<FileHandle>,
        _crtime: Option<SystemTime>,
        _chgtime: Option<SystemTime>,
        _bkuptime: Option<SystemTime>,
        _flags: Option<BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        let (vfs, caller) = (self.vfs(), caller(request));
        let set = SetAttr {
            mode: mode.map(permissions),
            uid,
            gid,
            atime: atime.map(set_time),
            mtime: mtime.map(set_time),
            ctime: ctime.map(|time| set_time(TimeOrNow::SpecificTime(time))),
            flags: None,
        };
        self.answer(async move { reply_attr(reply, vfs.setattr(&caller, ino(node), set, size).await) });
    }

    fn readlink(&self, request: &Request, node: INodeNo, reply: ReplyData) {
        let (vfs, caller) = (self.vfs(), caller(request));
        self.answer(async move { reply_data(reply, vfs.readlink(&caller, ino(node)).await) });
    }

    fn mknod(
        &self,
        request: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        umask: u32,
        rdev: u32,
        reply: ReplyEntry,
    ) {
        let (vfs, caller, name) = (self.vfs(), caller(request), name.as_bytes().to_vec());
        let Some(kind) = kind_of(mode) else {
            return reply.error(errno(Errno::EINVAL));
        };
        let new = NewNode { kind, mode: permissions(mode), umask: permissions(umask), rdev, target: None };
        self.answer(async move { reply_entry(reply, vfs.mknod(&caller, ino(parent), &name, new).await) });
    }

    fn mkdir(&self, request: &Request, parent: INodeNo, name: &OsStr, mode: u32, umask: u32, reply: ReplyEntry) {
        let (vfs, caller, name) = (self.vfs(), caller(request), name.as_bytes().to_vec());
        let (mode, umask) = (permissions(mode), permissions(umask));
        self.answer(async move { reply_entry(reply, vfs.mkdir(&caller, ino(parent), &name, mode, umask).await) });
    }

    fn unlink(&self, request: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let (vfs, caller, name) = (self.vfs(), caller(request), name.as_bytes().to_vec());
        self.answer(async move { reply_empty(reply, vfs.unlink(&caller, ino(parent), &name).await) });
    }

    fn rmdir(&self, request: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let (vfs, caller, name) = (self.vfs(), caller(request), name.as_bytes().to_vec());
        self.answer(async move { reply_empty(reply, vfs.rmdir(&caller, ino(parent), &name).await) });
    }

    fn symlink(&self, request: &Request, parent: INodeNo, name: &OsStr, target: &Path, reply: ReplyEntry) {
        let (vfs, caller, name) = (self.vfs(), caller(request), name.as_bytes().to_vec());
        let target = target.as_os_str().as_bytes().to_vec();
        self.answer(async move { reply_entry(reply, vfs.symlink(&caller, ino(parent), &name, &target).await) });
    }

    fn rename(
        &self,
        request: &Request,
        parent: INodeNo,
        name: &OsStr,
        new_parent: INodeNo,
        new_name: &OsStr,
        flags: RenameFlags,
        reply: ReplyEmpty,
    ) {
        let (vfs, caller) = (self.vfs(), caller(request));
        let (name, new_name) = (name.as_bytes().to_vec(), new_name.as_bytes().to_vec());
        self.answer(async move {
            let (from, to) = ((ino(parent), &name[..]), (ino(new_parent), &new_name[..]));
            reply_empty(reply, vfs.rename(&caller, from, to, flags.bits()).await);
        });
    }

    fn link(&self, request: &Request, node: INodeNo, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        let (vfs, caller, name) = (self.vfs(), caller(request), name.as_bytes().to_vec());
        self.answer(async move { reply_entry(reply, vfs.link(&caller, ino(node), ino(parent), &name).await) });
    }

    fn open(&self, request: &Request, node: INodeNo, flags: OpenFlags, reply: ReplyOpen) {
        let (vfs, caller) = (self.vfs(), caller(request));
        self.answer(async move { reply_open(reply, vfs.open(&caller, ino(node), flags.0).await) });
    }

    fn create(
        &self,
        request: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        umask: u32,
        flags: i32,
        reply: ReplyCreate,
    ) {
        let (vfs, caller, name) = (self.vfs(), caller(request), name.as_bytes().to_vec());
        let modes = (permissions(mode), permissions(umask));
        self.answer(async move {
            match vfs.create(&caller, ino(parent), &name, modes, flags).await {
                Ok((Entry { attributes, timeout }, opened)) => {
                    // One timeout stands for both here.
                    let timeout = timeout.min(attributes.timeout);
                    let (attr, flags) = (file_attr(&attributes), open_flags(&opened));
                    reply.created(&timeout, &attr, GENERATION, FileHandle(opened.fh), flags);
                }
                Err(error) => reply.error(errno(error)),
            }
        });
    }

    fn read(
        &self,
        request: &Request,
        _node: INodeNo,
        fh: FileHandle,
        offset: u64,
        size: u32,
        _flags: OpenFlags,
        _owner: Option<LockOwner>,
        reply: ReplyData,
    ) {
        let (vfs, caller) = (self.vfs(), caller(request));
        self.answer(async move { reply_data(reply, vfs.read(&caller, fh.0, offset, size).await) });
    }

    fn write(
        &self,
        request: &Request,
        _node: INodeNo,
        fh: FileHandle,
        offset: u64,
        data: &[u8],
        _write_flags: WriteFlags,
        _flags: OpenFlags,
        _owner: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        let caller = caller(request);
        match self.guarded(|| self.vfs.try_write(&caller, fh.0, offset, data)) {
            Some(Some(result)) => reply_written(reply, result),
            Some(None) => {
                let (vfs, data) = (self.vfs(), data.to_vec());
                self.answer(async move { reply_written(reply, vfs.write(&caller, fh.0, offset, &data).await) });
            }
            None => reply.error(errno(Errno::EIO)),
        }
    }

    fn flush(&self, request: &Request, _node: INodeNo, fh: FileHandle, owner: LockOwner, reply: ReplyEmpty) {
        let (vfs, caller) = (self.vfs(), caller(request));
        self.answer(async move { reply_empty(reply, vfs.flush(&caller, fh.0, owner.0).await) });
    }

    fn release(
        &self,
        request: &Request,
        _node: INodeNo,
        fh: FileHandle,
        _flags: OpenFlags,
        _owner: Option<LockOwner>,
        _flush: bool,
        reply: ReplyEmpty,
    ) {
        let (vfs, caller) = (self.vfs(), caller(request));
        self.answer(async move { reply_empty(reply, vfs.release(&caller, fh.0).await) });
    }

    fn fsync(&self, request: &Request, _node: INodeNo, fh: FileHandle, data_only: bool, reply: ReplyEmpty) {
        let (vfs, caller) = (self.vfs(), caller(request));
        self.answer(async move { reply_empty(reply, vfs.fsync(&caller, fh.0, data_only).await) });
    }

    fn opendir(&self, request: &Request, node: INodeNo, _flags: OpenFlags, reply: ReplyOpen) {
        let (vfs, caller) = (self.vfs(), caller(request));
        self.answer(async move { reply_open(reply, vfs.opendir(&caller, ino(node)).await) });
    }

    fn readdir(&self, request: &Request, _node: INodeNo, fh: FileHandle, offset: u64, mut reply: ReplyDirectory) {
        let (vfs, caller) = (self.vfs(), caller(request));
        self.answer(async move {
            let add = |shown: DirEntry<'_>| {
                let Attributes { ino, attr, .. } = &shown.entry.attributes;
                reply.add(INodeNo(ino.0), shown.next, file_type(attr.kind), os(shown.name))
            };
            match vfs.readdir(&caller, fh.0, offset, false, add).await {
                Ok(()) => reply.ok(),
                Err(error) => reply.error(errno(error)),
            }
        });
    }

    fn readdirplus(
        &self,
        request: &Request,
        _node: INodeNo,
        fh: FileHandle,
        offset: u64,
        mut reply: ReplyDirectoryPlus,
    ) {
        let (vfs, caller) = (self.vfs(), caller(request));
        self.answer(async move {
            let add = |shown: DirEntry<'_>| {
                let Entry { attributes, timeout } = &shown.entry;
                let timeout = (*timeout).min(attributes.timeout);
                let (node, attr) = (INodeNo(attributes.ino.0), file_attr(attributes));
                reply.add(node, shown.next, os(shown.name), &timeout, &attr, GENERATION)
            };
            match vfs.readdir(&caller, fh.0, offset, true, add).await {
                Ok(()) => reply.ok(),
                Err(error) => reply.error(errno(error)),
            }
        });
    }

    fn releasedir(&self, request: &Request, _node: INodeNo, fh: FileHandle, _flags: OpenFlags, reply: ReplyEmpty) {
        let (vfs, caller) = (self.vfs(), caller(request));
        self.answer(async move { reply_empty(reply, vfs.releasedir(&caller, fh.0).await) });
    }

    fn fsyncdir(&self, request: &Request, node: INodeNo, _fh: FileHandle, _data_only: bool, reply: ReplyEmpty) {
        let (vfs, caller) = (self.vfs(), caller(request));
        self.answer(async move { reply_empty(reply, vfs.fsyncdir(&caller, ino(node)).await) });
    }

    fn statfs(&self, request: &Request, node: INodeNo, reply: ReplyStatfs) {
        let (vfs, caller) = (self.vfs(), caller(request));
        self.answer(async move {
            match vfs.statfs(&caller, ino(node)).await {
                Ok(room) => {
                    let (total, free) = (room.total / u64::from(BLOCK), room.avail / u64::from(BLOCK));
                    let files = room.iused.saturating_add(room.iavail);
                    reply.statfs(total, free, free, files, room.iavail, BLOCK, 255, BLOCK);
                }
                Err(error) => reply.error(errno(error)),
            }
        });
    }

    fn setxattr(
        &self,
        request: &Request,
        node: INodeNo,
        name: &OsStr,
        value: &[u8],
        flags: i32,
        _position: u32,
        reply: ReplyEmpty,
    ) {
        let (vfs, caller) = (self.vfs(), caller(request));
        let (name, value) = (name.as_bytes().to_vec(), value.to_vec());
        let flag = match flags {
            libc::XATTR_CREATE => XattrFlag::Create,
            libc::XATTR_REPLACE => XattrFlag::Replace,
            _ => XattrFlag::Any,
        };
        self.answer(async move { reply_empty(reply, vfs.setxattr(&caller, ino(node), &name, &value, flag).await) });
    }

    fn getxattr(&self, request: &Request, node: INodeNo, name: &OsStr, size: u32, reply: ReplyXattr) {
        let (vfs, caller, name) = (self.vfs(), caller(request), name.as_bytes().to_vec());
        self.answer(async move { reply_xattr(reply, size, vfs.getxattr(&caller, ino(node), &name).await) });
    }

    fn listxattr(&self, request: &Request, node: INodeNo, size: u32, reply: ReplyXattr) {
        let (vfs, caller) = (self.vfs(), caller(request));
        self.answer(async move { reply_xattr(reply, size, vfs.listxattr(&caller, ino(node)).await) });
    }

    fn removexattr(&self, request: &Request, node: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let (vfs, caller, name) = (self.vfs(), caller(request), name.as_bytes().to_vec());
        self.answer(async move { reply_empty(reply, vfs.removexattr(&caller, ino(node), &name).await) });
    }

    fn fallocate(
        &self,
        request: &Request,
        _node: INodeNo,
        fh: FileHandle,
        offset: u64,
        length: u64,
        mode: i32,
        reply: ReplyEmpty,
    ) {
        let (vfs, caller, mode) = (self.vfs(), caller(request), mode.cast_unsigned());
        self.answer(async move { reply_empty(reply, vfs.fallocate(&caller, fh.0, mode, offset, length).await) });
    }

    // ENOSYS from here on: the kernel does it itself (access checks under `default_permissions`, SEEK_DATA, copies) and
    // does not ask again.

    fn access(&self, _request: &Request, _node: INodeNo, _mask: AccessFlags, reply: ReplyEmpty) {
        reply.error(errno(Errno::ENOSYS));
    }

    fn bmap(&self, _request: &Request, _node: INodeNo, _block_size: u32, _index: u64, reply: ReplyBmap) {
        reply.error(errno(Errno::ENOSYS));
    }

    fn ioctl(
        &self,
        _request: &Request,
        _node: INodeNo,
        _fh: FileHandle,
        _flags: IoctlFlags,
        _command: u32,
        _in_data: &[u8],
        _out_size: u32,
        reply: ReplyIoctl,
    ) {
        reply.error(errno(Errno::ENOTTY));
    }

    fn poll(
        &self,
        _request: &Request,
        _node: INodeNo,
        _fh: FileHandle,
        _notifier: PollNotifier,
        _events: PollEvents,
        _flags: PollFlags,
        reply: ReplyPoll,
    ) {
        reply.error(errno(Errno::ENOSYS));
    }

    fn lseek(&self, _request: &Request, _node: INodeNo, _fh: FileHandle, _at: i64, _whence: i32, reply: ReplyLseek) {
        reply.error(errno(Errno::ENOSYS));
    }

    fn copy_file_range(
        &self,
        _request: &Request,
        _from: INodeNo,
        _from_fh: FileHandle,
        _from_offset: u64,
        _to: INodeNo,
        _to_fh: FileHandle,
        _to_offset: u64,
        _len: u64,
        _flags: CopyFileRangeFlags,
        reply: ReplyWrite,
    ) {
        reply.error(errno(Errno::ENOSYS));
    }
}
