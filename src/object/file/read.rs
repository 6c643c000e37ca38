//! Reading files: at once where the kernel has everything in memory, else on a thread that may wait.

use std::fs::{File, Metadata};
use std::io::{self, ErrorKind, IoSliceMut};
use std::ops::Range;
use std::os::fd::OwnedFd;
use std::path::Path;

use bytes::Bytes;
use rustix::buffer::spare_capacity;
use rustix::fs::{CWD, Mode, OFlags, ResolveFlags, fstat, openat2};
use rustix::io::{Errno, ReadWriteFlags, pread, preadv2};

use crate::cut;

/// Copying more than this takes longer than handing the work to another thread.
const INLINE_MAX: u64 = 128 << 10;

/// The bytes, if neither finding the file nor reading it has to wait for a disk: `RESOLVE_CACHED` looks only into the
/// directory cache, `RWF_NOWAIT` only into the page cache. `None` says nothing about the file.
pub(super) fn cached(path: &Path, range: Option<Range<u64>>) -> Option<Bytes> {
    let file = openat2(CWD, path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty(), ResolveFlags::CACHED).ok()?;
    let stat = fstat(&file).ok()?;
    if !rustix::fs::FileType::from_raw_mode(stat.st_mode).is_file() {
        return None;
    }
    let range = cut(range, u64::try_from(stat.st_size).ok()?);
    let len = range.end - range.start;
    if len > INLINE_MAX {
        return None;
    }
    read_now(&file, range.start, usize::try_from(len).ok()?)
}

fn read_now(file: &OwnedFd, at: u64, len: usize) -> Option<Bytes> {
    let mut body = vec![0; len];
    if len > 0 {
        let read = preadv2(file, &mut [IoSliceMut::new(&mut body)], at, ReadWriteFlags::NOWAIT).ok()?;
        if read < len {
            return None;
        }
    }
    Some(body.into())
}

/// The bytes. Blocks. A directory counts as not found. Large bodies are read past the page cache if they `may_be_direct`.
pub(super) fn blocking(path: &Path, range: Option<Range<u64>>, may_be_direct: bool) -> io::Result<Bytes> {
    let file = File::open(path)?;
    let size = object_size(&file.metadata()?)?;
    let range = cut(range, size);
    let len = usize::try_from(range.end - range.start).map_err(|_too_large| Errno::FBIG)?;
    if may_be_direct && range.start == 0 && len >= stead_bulk::LARGE {
        return start_of(&file, len);
    }
    let mut body = Vec::with_capacity(len);
    while body.len() < len {
        let at = range.start + body.len() as u64;
        if pread(&file, spare_capacity(&mut body), at)? == 0 {
            return Err(became_shorter());
        }
    }
    body.truncate(len);
    Ok(body.into())
}

fn start_of(file: &File, len: usize) -> io::Result<Bytes> {
    let whole = stead_bulk::filled(len.next_multiple_of(stead_bulk::ALIGNMENT), |body| {
        if stead_bulk::read(file, body)? < len { Err(became_shorter()) } else { Ok(()) }
    })?;
    Ok(whole.slice(..len))
}

fn became_shorter() -> io::Error {
    io::Error::new(ErrorKind::UnexpectedEof, "the file became shorter while it was read")
}

/// The size of an object's file.
pub(super) fn object_size(metadata: &Metadata) -> io::Result<u64> {
    if metadata.is_file() { Ok(metadata.len()) } else { Err(ErrorKind::NotFound.into()) }
}

/// Whether the file system at `path` is one of those known to keep their promises about not waiting. A network file
/// system may ask its server at every open. `None`: nothing is there that could tell.
pub(super) fn is_local(path: &Path) -> Option<bool> {
    // The magic numbers of ext2 to 4, xfs, btrfs, tmpfs, overlayfs and f2fs, from statfs(2).
    const KNOWN: [u64; 6] = [0xEF53, 0x5846_5342, 0x9123_683E, 0x0102_1994, 0x794C_7630, 0xF2F5_2010];
    let stat = rustix::fs::statfs(path).ok()?;
    Some(u64::try_from(stat.f_type).is_ok_and(|magic| KNOWN.contains(&magic)))
}
