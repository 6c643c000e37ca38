//! Words of the protocol to words of the file system and back.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use fuser::{FileAttr, FileType, FopenFlags, Generation, INodeNo, Request, TimeOrNow};
use stead_base::{Errno, Timestamp};
use stead_vfs::{Attributes, Caller, NodeType, Opened, SetTime};

/// `st_blksize`: what programs read and write at a time.
const PREFERRED_IO: u32 = 65536;

/// Inode numbers are never used again, so one generation is enough.
pub(crate) const GENERATION: Generation = Generation(1);

pub(crate) fn caller(request: &Request) -> Caller {
    Caller::new(request.uid(), request.gid(), request.pid())
}

pub(crate) fn errno(errno: Errno) -> fuser::Errno {
    fuser::Errno::from_i32(errno.0)
}

/// The permission bits of a mode.
pub(crate) fn permissions(mode: u32) -> u16 {
    u16::try_from(mode & 0o7777).expect("twelve bits fit into sixteen")
}

pub(crate) const fn file_type(kind: NodeType) -> FileType {
    match kind {
        NodeType::File => FileType::RegularFile,
        NodeType::Directory => FileType::Directory,
        NodeType::Symlink => FileType::Symlink,
        NodeType::Fifo => FileType::NamedPipe,
        NodeType::BlockDevice => FileType::BlockDevice,
        NodeType::CharDevice => FileType::CharDevice,
        NodeType::Socket => FileType::Socket,
    }
}

pub(crate) fn file_attr(attributes: &Attributes) -> FileAttr {
    let attr = &attributes.attr;
    FileAttr {
        ino: INodeNo(attributes.ino.0),
        size: attr.length,
        blocks: attr.length.div_ceil(512),
        atime: system_time(attr.atime),
        mtime: system_time(attr.mtime),
        ctime: system_time(attr.ctime),
        crtime: UNIX_EPOCH,
        kind: file_type(attr.kind),
        perm: attr.mode & 0o7777,
        nlink: attr.nlink,
        uid: attr.uid,
        gid: attr.gid,
        rdev: attr.rdev,
        blksize: PREFERRED_IO,
        flags: 0,
    }
}

pub(crate) fn open_flags(opened: &Opened) -> FopenFlags {
    let mut flags = FopenFlags::empty();
    flags.set(FopenFlags::FOPEN_KEEP_CACHE, opened.keep_cache);
    flags.set(FopenFlags::FOPEN_DIRECT_IO, opened.direct_io);
    flags
}

pub(crate) fn set_time(time: TimeOrNow) -> SetTime {
    match time {
        TimeOrNow::Now => SetTime::Now,
        TimeOrNow::SpecificTime(time) => SetTime::At(time.into()),
    }
}

fn system_time(time: Timestamp) -> SystemTime {
    let seconds = Duration::from_secs(time.secs.unsigned_abs());
    let whole = if time.secs < 0 { UNIX_EPOCH.checked_sub(seconds) } else { UNIX_EPOCH.checked_add(seconds) };
    let time = whole.and_then(|whole| whole.checked_add(Duration::from_nanos(time.nanos.into())));
    time.unwrap_or(UNIX_EPOCH)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_survive_the_way_there_and_back() {
        for time in
            [Timestamp { secs: -2, nanos: 5 }, Timestamp { secs: 0, nanos: 999_999_999 }, Timestamp::from_secs(1 << 40)]
        {
            assert_eq!(Timestamp::from(system_time(time)), time);
        }
    }
}
