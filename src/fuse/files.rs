//! Requests about open files.

use stead_vfs::CopyRange;

use crate::abi;
use crate::names::permissions;
use crate::reply::{self, Answer, Body};
use crate::server::Context;

pub(crate) async fn open(cx: Context, open: abi::OpenIn) -> Answer {
    cx.vfs.open(&cx.caller, cx.node, open.flags.cast_signed()).await.map(reply::opened)
}

pub(crate) async fn create(cx: Context, create: abi::CreateIn, name: Vec<u8>) -> Answer {
    let modes = (permissions(create.mode), permissions(create.umask));
    cx.vfs.create(&cx.caller, cx.node, &name, modes, create.flags.cast_signed()).await.map(reply::created)
}

pub(crate) async fn read(cx: Context, read: abi::ReadIn) -> Answer {
    cx.vfs.read(&cx.caller, read.fh, read.offset, read.size).await.map(Body::Data)
}

/// Waits for room first.
pub(crate) async fn write(cx: Context, write: abi::WriteIn, data: Vec<u8>) -> Answer {
    cx.vfs.write(&cx.caller, write.fh, write.offset, &data).await.map(reply::written)
}

pub(crate) async fn flush(cx: Context, flush: abi::FlushIn) -> Answer {
    cx.vfs.flush(&cx.caller, flush.fh, flush.lock_owner).await.map(reply::done)
}

pub(crate) async fn fsync(cx: Context, fsync: abi::FsyncIn) -> Answer {
    let data_only = fsync.fsync_flags & abi::FSYNC_FDATASYNC != 0;
    cx.vfs.fsync(&cx.caller, fsync.fh, data_only).await.map(reply::done)
}

pub(crate) async fn syncfs(cx: Context) -> Answer {
    cx.vfs.flush_all().await?;
    cx.vfs.fsyncdir(&cx.caller, cx.node).await.map(reply::done)
}

pub(crate) async fn release(cx: Context, release: abi::ReleaseIn) -> Answer {
    if release.release_flags & abi::RELEASE_FLOCK_UNLOCK != 0 {
        cx.vfs.flock_goes(release.fh, release.lock_owner);
    }
    cx.vfs.release(&cx.caller, release.fh).await.map(reply::done)
}

pub(crate) async fn fallocate(cx: Context, range: abi::FallocateIn) -> Answer {
    cx.vfs.fallocate(&cx.caller, range.fh, range.mode, range.offset, range.length).await.map(reply::done)
}

pub(crate) async fn copy_file_range(cx: Context, range: abi::CopyFileRangeIn) -> Answer {
    let range = CopyRange {
        from: range.fh_in,
        from_offset: range.off_in,
        to: range.fh_out,
        to_offset: range.off_out,
        // What was copied is answered in 32 bits.
        length: range.len.min(u32::MAX.into()),
        flags: u32::try_from(range.flags).unwrap_or(u32::MAX),
    };
    let copied = cx.vfs.copy_file_range(&cx.caller, range).await?;
    Ok(reply::written(u32::try_from(copied).unwrap_or(u32::MAX)))
}

/// A file without a name in the directory that the request is about.
pub(crate) async fn tmpfile(cx: Context, create: abi::CreateIn) -> Answer {
    let modes = (permissions(create.mode), permissions(create.umask));
    cx.vfs.tmpfile(&cx.caller, cx.node, modes, create.flags.cast_signed()).await.map(reply::created)
}

pub(crate) async fn ioctl(cx: Context, what: abi::IoctlIn, input: Vec<u8>) -> Answer {
    let filled = cx.vfs.ioctl(&cx.caller, cx.node, what.cmd, &input, what.out_size as usize).await?;
    Ok(reply::ioctl(&filled))
}

pub(crate) async fn lseek(cx: Context, seek: abi::LseekIn) -> Answer {
    cx.vfs.lseek(&cx.caller, seek.fh, seek.offset, seek.whence.cast_signed()).await.map(reply::offset)
}
