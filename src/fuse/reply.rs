//! Answers as the kernel takes them.

use std::time::Duration;

use bytes::Bytes;
use stead_base::{Errno, Timestamp};
use stead_vfs::{Attributes, Entry, NodeType, Opened, StatFs, st_mode, type_bits};
use zerocopy::IntoBytes as _;

use crate::abi::{self, fopen};

/// `st_blksize`: what programs read and write at a time.
const PREFERRED_IO: u32 = 65536;
/// Blocks of statfs(2).
const BLOCK: u32 = 4096;
/// Inode numbers are never used again, so one generation is enough.
const GENERATION: u64 = 1;
/// The longest answer that is a struct: entry and handle of a new file.
const LONGEST: usize = size_of::<abi::CreateOut>();

/// The answer to a request.
pub(crate) type Answer = Result<Body, Errno>;

/// What follows the header of an answer.
#[derive(Debug)]
pub(crate) enum Body {
    /// A struct, in place.
    Struct([u8; LONGEST], usize),
    /// Data, from where it lies.
    Data(Bytes),
}

impl Body {
    /// Nothing but success.
    pub(crate) const EMPTY: Self = Self::Struct([0; LONGEST], 0);

    pub(crate) fn of(value: &(impl zerocopy::IntoBytes + zerocopy::Immutable)) -> Self {
        let (mut bytes, len) = ([0; LONGEST], size_of_val(value));
        bytes[..len].copy_from_slice(value.as_bytes());
        Self::Struct(bytes, len)
    }

    pub(crate) fn as_bytes(&self) -> &[u8] {
        match self {
            Self::Struct(bytes, len) => &bytes[..*len],
            Self::Data(bytes) => bytes,
        }
    }
}

pub(crate) fn done((): ()) -> Body {
    Body::EMPTY
}

pub(crate) fn attr(found: Attributes) -> Body {
    let (secs, nanos) = timeout(found.timeout);
    Body::of(&abi::AttrOut { attr_valid: secs, attr_valid_nsec: nanos, dummy: 0, attr: attr_out(&found) })
}

pub(crate) fn entry(entry: Entry) -> Body {
    Body::of(&entry_out(&entry))
}

/// The kernel is to remember for so long that there is none.
pub(crate) fn no_entry(keep: Duration) -> Body {
    let (secs, nanos) = timeout(keep);
    Body::of(&abi::EntryOut { entry_valid: secs, entry_valid_nsec: nanos, ..abi::EntryOut::default() })
}

pub(crate) fn opened(opened: Opened) -> Body {
    Body::of(&open_out(opened))
}

pub(crate) fn created((entry, opened): (Entry, Opened)) -> Body {
    Body::of(&abi::CreateOut { entry: entry_out(&entry), open: open_out(opened) })
}

pub(crate) fn written(size: u32) -> Body {
    Body::of(&abi::WriteOut { size, padding: 0 })
}

pub(crate) fn offset(offset: u64) -> Body {
    Body::of(&abi::LseekOut { offset })
}

/// What an ioctl(2) fills.
pub(crate) fn ioctl(filled: &[u8]) -> Body {
    Body::Data([abi::IoctlOut::default().as_bytes(), filled].concat().into())
}

/// `size` is the room that the caller has; 0 = it only wants to know.
pub(crate) fn xattr(data: Bytes, size: u32) -> Answer {
    match u32::try_from(data.len()) {
        Ok(length) if size == 0 => Ok(Body::of(&abi::GetxattrOut { size: length, padding: 0 })),
        Ok(length) if length <= size => Ok(Body::Data(data)),
        Ok(_) | Err(_) => Err(Errno::ERANGE),
    }
}

pub(crate) fn statfs(room: StatFs) -> Body {
    let (total, free) = (room.total / u64::from(BLOCK), room.avail / u64::from(BLOCK));
    Body::of(&abi::StatfsOut {
        blocks: total,
        bfree: free,
        bavail: free,
        files: room.iused.saturating_add(room.iavail),
        ffree: room.iavail,
        bsize: BLOCK,
        namelen: 255,
        frsize: BLOCK,
        ..abi::StatfsOut::default()
    })
}

/// Entries of a directory, collected until the room that the kernel has is full.
pub(crate) struct Listing {
    bytes: Vec<u8>,
    room: usize,
}

impl Listing {
    pub(crate) fn new(room: u32) -> Self {
        Self { bytes: Vec::new(), room: room as usize }
    }

    /// Adds an entry, with what it leads to if `plus`; `true` = there is no room for it.
    pub(crate) fn add(&mut self, shown: &stead_vfs::DirEntry<'_>, plus: bool) -> bool {
        let Ok(namelen) = u32::try_from(shown.name.len()) else { return false };
        let before = if plus { size_of::<abi::EntryOut>() } else { 0 };
        let len = (before + size_of::<abi::Dirent>() + shown.name.len()).next_multiple_of(8);
        if self.bytes.len() + len > self.room {
            return true;
        }
        let end = self.bytes.len() + len;
        if plus {
            // Without a node, the kernel takes the name and asks for the rest when somebody needs it.
            let entry = shown.entry.as_ref().map(entry_out).unwrap_or_default();
            self.bytes.extend_from_slice(entry.as_bytes());
        }
        let type_ = type_bits(shown.kind) >> 12;
        self.bytes.extend_from_slice(abi::Dirent { ino: shown.ino.0, off: shown.next, namelen, type_ }.as_bytes());
        self.bytes.extend_from_slice(shown.name);
        self.bytes.resize(end, 0);
        false
    }

    pub(crate) fn body(self) -> Body {
        Body::Data(self.bytes.into())
    }
}

fn timeout(time: Duration) -> (u64, u32) {
    (time.as_secs(), time.subsec_nanos())
}

fn time(time: Timestamp) -> (u64, u32) {
    (time.secs.cast_unsigned(), time.nanos)
}

fn attr_out(found: &Attributes) -> abi::Attr {
    let attr = &found.attr;
    let (atime, atimensec) = time(attr.atime);
    let (mtime, mtimensec) = time(attr.mtime);
    let (ctime, ctimensec) = time(attr.ctime);
    abi::Attr {
        ino: found.ino.0,
        size: attr.length,
        blocks: attr.length.div_ceil(512),
        atime,
        mtime,
        ctime,
        atimensec,
        mtimensec,
        ctimensec,
        mode: st_mode(attr),
        nlink: attr.nlink,
        uid: attr.uid,
        gid: attr.gid,
        rdev: if matches!(attr.kind, NodeType::BlockDevice | NodeType::CharDevice) { attr.rdev } else { 0 },
        blksize: PREFERRED_IO,
        flags: 0,
    }
}

fn entry_out(entry: &Entry) -> abi::EntryOut {
    let (entry_valid, entry_valid_nsec) = timeout(entry.timeout);
    let (attr_valid, attr_valid_nsec) = timeout(entry.attributes.timeout);
    abi::EntryOut {
        nodeid: entry.attributes.ino.0,
        generation: GENERATION,
        entry_valid,
        attr_valid,
        entry_valid_nsec,
        attr_valid_nsec,
        attr: attr_out(&entry.attributes),
    }
}

fn open_out(opened: Opened) -> abi::OpenOut {
    let flag = |set, flag| if set { flag } else { 0 };
    let open_flags = flag(opened.keep_cache, fopen::KEEP_CACHE) | flag(opened.direct_io, fopen::DIRECT_IO);
    abi::OpenOut { fh: opened.fh, open_flags, backing_id: 0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_attribute_that_does_not_fit_is_no_data() {
        assert_eq!(xattr(Bytes::from_static(b"abc"), 0).unwrap().as_bytes()[0], 3);
        assert_eq!(xattr(Bytes::from_static(b"abc"), 3).unwrap().as_bytes(), b"abc");
        assert_eq!(xattr(Bytes::from_static(b"abc"), 2).unwrap_err(), Errno::ERANGE);
    }

    #[test]
    fn a_listing_is_full_before_it_is_too_long() {
        let mut listing = Listing::new(70);
        let shown =
            |name| stead_vfs::DirEntry { name, next: 1, ino: stead_base::Ino(2), kind: NodeType::File, entry: None };
        assert!(!listing.add(&shown(b"a"), false));
        assert!(!listing.add(&shown(b"12345678"), false));
        assert!(listing.add(&shown(b"b"), false));
        assert_eq!(listing.body().as_bytes().len(), 64);
    }

    #[test]
    fn times_before_the_epoch_stay_what_they_are() {
        let (secs, nanos) = time(Timestamp { secs: -2, nanos: 5 });
        assert_eq!((secs.cast_signed(), nanos), (-2, 5));
    }
}
