//! What the kernel and applications rely on and the death of this process would lose, in memory that somebody else can keep
//! and hand to whoever serves the mount next: the open handles, and which of them have written what is not committed.
//!
//! A memfd: a header, then slots of 32 bytes. No locks and no pointers: a slot is filled first and its state stored last
//! (release), so that one which the process died in the middle of is free. Dirty pages may lie behind the slots one day.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicU64, Ordering};

use memmap2::{MmapOptions, MmapRaw};
use rustix::fs::{MemfdFlags, SealFlags};
use stead_base::Ino;

/// "stead" and the version of the layout. A later version has to be able to read the segments of earlier ones.
const MAGIC: u64 = u64::from_be_bytes(*b"stead\0\0\x01");
/// Handles that can be open at a time.
const SLOTS: usize = 1 << 17;
/// Batches of inode numbers that are remembered: more than can be in use at a time.
const BATCHES: usize = 8;
const HEADER: usize = 4096;
const SIZE: usize = HEADER + SLOTS * size_of::<Slot>();

/// What is open, as far as a successor must know it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct OpenRecord {
    pub(crate) kind: OpenKind,
    pub(crate) ino: Ino,
    /// As open(2) got them.
    pub(crate) flags: i32,
    /// The kernel's number of the request that opened it; 0 = none.
    pub(crate) request: u64,
}

/// Which kind of handle it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum OpenKind {
    File = 1,
    Directory = 2,
    Virtual = 3,
}

#[repr(C)]
struct Header {
    magic: AtomicU64,
    /// Slots from here on were never used: looking at them would take memory.
    used: AtomicU64,
    /// How many batches of inode numbers were noted.
    batches: AtomicU64,
    /// (first number, number behind the last) of each.
    numbers: [[AtomicU64; 2]; BATCHES],
}

#[repr(C)]
struct Slot {
    /// Uses so far in the upper half; in the lower one an [`OpenKind`], or 0 = free.
    state: AtomicU64,
    ino: AtomicU64,
    request: AtomicU64,
    /// Flags of open(2) in the lower half, [`DIRTY`].
    flags: AtomicU64,
}

/// Written through the handle and not committed.
const DIRTY: u64 = 1 << 32;
const LOWER_HALF: u64 = u32::MAX as u64;

/// The memory.
#[derive(Debug)]
pub struct Segment {
    map: MmapRaw,
    /// `None`: nobody but this process has it.
    file: Option<File>,
}

impl Segment {
    /// Memory that others can be given.
    ///
    /// # Errors
    /// Those of memfd_create(2) and mmap(2).
    pub fn shared() -> io::Result<Self> {
        let fd = rustix::fs::memfd_create("stead-segment", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)?;
        rustix::fs::ftruncate(&fd, SIZE as u64)?;
        // Nobody else who has it can take the memory from under us.
        rustix::fs::fcntl_add_seals(&fd, SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL)?;
        let segment = Self::mapped(fd.into())?;
        segment.header().magic.store(MAGIC, Ordering::Release);
        Ok(segment)
    }

    /// Memory of this process alone.
    pub(crate) fn private() -> io::Result<Self> {
        let map = MmapOptions::new().len(SIZE).map_anon()?.into();
        Ok(Self { map, file: None })
    }

    /// What a process before this one has left.
    ///
    /// # Errors
    /// A file that is no segment of a version that is understood here.
    pub fn open(fd: OwnedFd) -> io::Result<Self> {
        let file = File::from(fd);
        let length = file.metadata()?.len();
        let seals = rustix::fs::fcntl_get_seals(&file)?;
        if length != SIZE as u64 || !seals.contains(SealFlags::SHRINK) {
            return Err(io::Error::other(format!("no segment: {length} bytes, seals {seals:?}")));
        }
        let segment = Self::mapped(file)?;
        match segment.header().magic.load(Ordering::Acquire) {
            MAGIC => Ok(segment),
            other => Err(io::Error::other(format!("a segment of another version: {other:#018x}"))),
        }
    }

    fn mapped(file: File) -> io::Result<Self> {
        let map = MmapOptions::new().len(SIZE).map_raw(&file)?;
        Ok(Self { map, file: Some(file) })
    }

    /// For whoever is to keep it; `None` if it is this process' alone.
    pub fn fd(&self) -> Option<BorrowedFd<'_>> {
        self.file.as_ref().map(AsFd::as_fd)
    }

    #[expect(unsafe_code, reason = "memory shared with other processes has no safe view")]
    fn header(&self) -> &Header {
        // SAFETY: the map is page-aligned, longer than the header, cannot shrink (sealed), and lives as long as `self`;
        // atomics may have any value and may be changed by others.
        unsafe { &*self.map.as_ptr().cast::<Header>() }
    }

    #[expect(unsafe_code, reason = "memory shared with other processes has no safe view")]
    fn slots(&self) -> &[Slot] {
        // SAFETY: as of `header`; HEADER + SLOTS slots are the length of the map, and HEADER keeps them aligned.
        unsafe { std::slice::from_raw_parts(self.map.as_ptr().add(HEADER).cast::<Slot>(), SLOTS) }
    }

    /// How many handles there can be.
    pub(crate) const fn capacity() -> usize {
        SLOTS
    }

    /// How many slots, from the first one on, were ever used.
    pub(crate) fn used(&self) -> usize {
        usize::try_from(self.header().used.load(Ordering::Acquire)).map_or(SLOTS, |used| used.min(SLOTS))
    }

    /// Notes what is open in a free slot; the number of its uses, this one included.
    pub(crate) fn publish(&self, index: usize, record: OpenRecord) -> u32 {
        self.header().used.fetch_max(index as u64 + 1, Ordering::Release);
        let slot = &self.slots()[index];
        let uses = (slot.state.load(Ordering::Relaxed) >> 32).wrapping_add(1) & LOWER_HALF;
        slot.ino.store(record.ino.0, Ordering::Relaxed);
        slot.request.store(record.request, Ordering::Relaxed);
        slot.flags.store(u64::from(record.flags.cast_unsigned()), Ordering::Relaxed);
        slot.state.store(uses << 32 | record.kind as u64, Ordering::Release);
        u32::try_from(uses).expect("masked")
    }

    /// Frees a slot.
    pub(crate) fn clear(&self, index: usize) {
        let state = &self.slots()[index].state;
        state.store(state.load(Ordering::Relaxed) & !LOWER_HALF, Ordering::Release);
    }

    /// What a slot says is open: the number of its uses, the record, and whether something was not committed.
    pub(crate) fn record(&self, index: usize) -> Option<(u32, OpenRecord, bool)> {
        let slot = &self.slots()[index];
        let state = slot.state.load(Ordering::Acquire);
        let kind = match state & LOWER_HALF {
            1 => OpenKind::File,
            2 => OpenKind::Directory,
            3 => OpenKind::Virtual,
            _ => return None,
        };
        let flags = slot.flags.load(Ordering::Relaxed);
        let record = OpenRecord {
            kind,
            ino: Ino(slot.ino.load(Ordering::Relaxed)),
            flags: u32::try_from(flags & LOWER_HALF).expect("masked").cast_signed(),
            request: slot.request.load(Ordering::Relaxed),
        };
        Some((u32::try_from(state >> 32).expect("the upper half"), record, flags & DIRTY != 0))
    }

    pub(crate) fn set_dirty(&self, index: usize, dirty: bool) {
        let flags = &self.slots()[index].flags;
        if dirty {
            flags.fetch_or(DIRTY, Ordering::Relaxed);
        } else {
            flags.fetch_and(!DIRTY, Ordering::Relaxed);
        }
    }

    /// This mount gives new inodes numbers out of `batch` from now on.
    pub(crate) fn note_inodes(&self, batch: &Range<u64>) {
        let header = self.header();
        let count = header.batches.load(Ordering::Relaxed);
        let [first, end] = &header.numbers[usize::try_from(count).unwrap_or(0) % BATCHES];
        // Without a range in between that nobody was given.
        end.store(0, Ordering::Relaxed);
        first.store(batch.start, Ordering::Relaxed);
        end.store(batch.end, Ordering::Release);
        header.batches.store(count.wrapping_add(1), Ordering::Release);
    }

    /// Whether it was this mount, and lately, that has given an inode its number.
    pub(crate) fn has_numbered(&self, ino: Ino) -> bool {
        let load = |number: &AtomicU64| number.load(Ordering::Acquire);
        self.header().numbers.iter().any(|[first, end]| (load(first)..load(end)).contains(&ino.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RECORD: OpenRecord = OpenRecord { kind: OpenKind::File, ino: Ino(7), flags: libc::O_RDWR, request: 42 };

    fn again(segment: &Segment) -> Segment {
        Segment::open(segment.fd().expect("shared").try_clone_to_owned().unwrap()).unwrap()
    }

    #[test]
    fn a_successor_finds_what_is_open() {
        let segment = Segment::shared().unwrap();
        assert_eq!(segment.publish(3, RECORD), 1);
        segment.set_dirty(3, true);
        segment.note_inodes(&(100..200));
        let next = again(&segment);
        assert_eq!(next.record(3), Some((1, RECORD, true)));
        assert_eq!((next.record(4), next.used()), (None, 4));
        assert!(next.has_numbered(Ino(199)) && !next.has_numbered(Ino(200)) && !next.has_numbered(Ino(0)));
        next.set_dirty(3, false);
        assert_eq!(segment.record(3), Some((1, RECORD, false)));
        next.clear(3);
        assert_eq!(segment.record(3), None);
        assert_eq!(segment.publish(3, RECORD), 2);
    }

    #[test]
    fn old_batches_of_numbers_are_forgotten() {
        let segment = Segment::private().unwrap();
        for batch in 0..=BATCHES as u64 {
            segment.note_inodes(&(1000 * (batch + 1)..1000 * (batch + 1) + 10));
        }
        assert!(!segment.has_numbered(Ino(1000)) && segment.has_numbered(Ino(2000)));
    }

    #[test]
    fn what_is_no_segment_is_refused() {
        let file = tempfile::tempfile().unwrap();
        assert!(Segment::open(file.into()).is_err());
        let fd = rustix::fs::memfd_create("x", MemfdFlags::ALLOW_SEALING).unwrap();
        rustix::fs::ftruncate(&fd, SIZE as u64).unwrap();
        assert!(Segment::open(fd.try_clone().unwrap()).is_err(), "it could shrink");
        rustix::fs::fcntl_add_seals(&fd, SealFlags::SHRINK).unwrap();
        assert!(Segment::open(fd).unwrap_err().to_string().contains("another version"));
    }
}
