//! One file of the disk cache: a block's plain bytes, then a CRC-32C for each 32 KiB of them, big-endian (format §5.5).

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, IoSliceMut, Write};
use std::ops::Range;
use std::os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt, PermissionsExt};
use std::path::Path;

use bytes::Bytes;
use rustix::io::ReadWriteFlags;

use crate::Verify;

/// Bytes under one checksum; the last unit of a block may be shorter.
pub(crate) const UNIT: u32 = 32 << 10;

/// What follows the data and the trailer of blocks that the Go client has staged begins with this.
const FOOTER: u16 = 0x4653;

/// How files are written and read.
#[derive(Clone, Copy, Debug)]
pub(super) struct Rules {
    pub(super) verify: Verify,
    /// Permissions of files.
    pub(super) mode: u32,
}

/// Why a file gives no data.
#[derive(Debug)]
pub(crate) enum Unusable {
    /// Its content is wrong: it has to go.
    Damaged(String),
    /// It could not be read; nothing is known of its content.
    Io(io::Error),
}

impl From<io::Error> for Unusable {
    fn from(error: io::Error) -> Self {
        if error.kind() == io::ErrorKind::UnexpectedEof {
            return Self::Damaged("it was cut short while it was open".to_owned());
        }
        Self::Io(error)
    }
}

/// A file of the cache, open for reading.
#[derive(Debug)]
pub(crate) struct CacheFile {
    file: File,
    /// Plain bytes of the block.
    len: u32,
    verify: Verify,
}

impl CacheFile {
    /// Opens the file of a block of `len` bytes.
    pub(crate) fn open(path: &Path, len: u32, verify: Verify) -> Result<Self, Unusable> {
        Self::new(File::open(path)?, len, verify)
    }

    fn new(file: File, len: u32, verify: Verify) -> Result<Self, Unusable> {
        let verify = if has_checksums(&file, len)? { verify } else { Verify::None };
        Ok(Self { file, len, verify })
    }

    /// Reads `want`, waiting for the disk if it has to.
    pub(crate) fn read(&self, want: Range<u32>) -> Result<Bytes, Unusable> {
        self.read_with(want, |data, offset| self.file.read_exact_at(data, offset))
    }

    /// Reads `want` if the kernel has it in memory; anything else is an error.
    pub(crate) fn read_now(&self, want: Range<u32>) -> Result<Bytes, Unusable> {
        self.read_with(want, |data, offset| {
            let wanted = data.len();
            let mut buffers = [IoSliceMut::new(data)];
            let found = rustix::io::preadv2(&self.file, &mut buffers, offset, ReadWriteFlags::NOWAIT)?;
            if found == wanted { Ok(()) } else { Err(io::ErrorKind::WouldBlock.into()) }
        })
    }

    /// The units that are verified when `want` is read.
    fn units(&self, want: &Range<u32>) -> Range<u32> {
        let end = self.len.div_ceil(UNIT);
        match self.verify {
            Verify::Full if *want == (0..self.len) => 0..end,
            Verify::None | Verify::Full => 0..0,
            Verify::Shrink if want.end == self.len => want.start.div_ceil(UNIT)..end,
            Verify::Shrink => want.start.div_ceil(UNIT)..want.end / UNIT,
            Verify::Extend => want.start / UNIT..want.end.div_ceil(UNIT),
        }
    }

    /// Reads `want` and whatever else has to be verified with it.
    fn read_with(
        &self,
        want: Range<u32>,
        read_exact: impl Fn(&mut [u8], u64) -> io::Result<()>,
    ) -> Result<Bytes, Unusable> {
        let read = |offset: u32, len: u32| stead_bulk::filled(len as usize, |data| read_exact(data, offset.into()));
        let units = self.units(&want);
        if units.is_empty() {
            return Ok(read(want.start, want.end - want.start)?);
        }
        let verified = units.start * UNIT..self.len.min(units.end * UNIT);
        let start = want.start.min(verified.start);
        let within = |range: &Range<u32>| (range.start - start) as usize..(range.end - start) as usize;
        let data = read(start, want.end.max(verified.end) - start)?;
        let mut sums = vec![0; 4 * units.len()];
        read_exact(&mut sums, u64::from(self.len) + 4 * u64::from(units.start))?;
        verify(units.start, &data[within(&verified)], &sums)?;
        Ok(data.slice(within(&want)))
    }
}

/// Compares the checksums of the units from `first` on.
fn verify(first: u32, data: &[u8], sums: &[u8]) -> Result<(), Unusable> {
    for ((unit, data), sum) in (first..).zip(data.chunks(UNIT as usize)).zip(sums.chunks_exact(4)) {
        let stored = u32::from_be_bytes(sum.try_into().expect("chunks of four"));
        let found = crc32c::crc32c(data);
        if stored != found {
            return Err(Unusable::Damaged(format!("CRC-32C of unit {unit} is {found:08x}, stored is {stored:08x}")));
        }
    }
    Ok(())
}

/// Writes a block under `path` by way of `temporary` in the same directory; the directories are made when missing.
pub(super) fn write(path: &Path, temporary: &Path, data: &[u8], rules: Rules) -> io::Result<()> {
    let written = create(temporary, rules.mode).and_then(|mut file| {
        file.write_all(data)?;
        if rules.verify != Verify::None {
            file.write_all(&checksums(data))?;
        }
        fs::rename(temporary, path)
    });
    if written.is_err() {
        // What is left of a failed write is of no use; that it cannot be removed changes nothing.
        let _ = fs::remove_file(temporary);
    }
    written
}

/// Makes a directory and those above it, for whoever may read files of the given mode.
pub(super) fn make_dir(path: &Path, mode: u32) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(mode | (mode & 0o444) >> 2).create(path)
}

/// The trailer of a block.
pub(crate) fn checksums(data: &[u8]) -> Vec<u8> {
    data.chunks(UNIT as usize).flat_map(|unit| crc32c::crc32c(unit).to_be_bytes()).collect()
}

fn create(path: &Path, mode: u32) -> io::Result<File> {
    let open = || -> io::Result<File> {
        let file = OpenOptions::new().write(true).create_new(true).mode(mode).open(path)?;
        // Whoever asks for more than the default means it, whatever the umask is.
        if mode & 0o077 != 0 {
            file.set_permissions(fs::Permissions::from_mode(mode))?;
        }
        Ok(file)
    };
    match (open(), path.parent()) {
        (Err(e), Some(parent)) if e.kind() == io::ErrorKind::NotFound => {
            make_dir(parent, mode)?;
            open()
        }
        (result, _) => result,
    }
}

/// Tells the trailer from the size: the Go client may have written none, and may have added a footer of its own.
fn has_checksums(file: &File, len: u32) -> Result<bool, Unusable> {
    let (size, len) = (file.metadata()?.len(), u64::from(len));
    let trailer = 4 * len.div_ceil(UNIT.into());
    match size.checked_sub(len) {
        Some(0) => return Ok(false),
        Some(extra) if extra == trailer => return Ok(true),
        Some(extra) if extra % 4 != 0 && is_footer(file, len, size)? => return Ok(false),
        Some(extra) if extra % 4 == 0 && is_footer(file, len + trailer, size)? => return Ok(true),
        _ => {}
    }
    Err(Unusable::Damaged(format!("it has {size} bytes, a block of {len} with checksums has {}", len + trailer)))
}

/// Whether what begins at `at` is a footer that ends where the file does.
fn is_footer(file: &File, at: u64, size: u64) -> io::Result<bool> {
    let mut head = [0; 4];
    if size < at + 4 {
        return Ok(false);
    }
    file.read_exact_at(&mut head, at)?;
    let [magic, len] = [[head[0], head[1]], [head[2], head[3]]].map(u16::from_be_bytes);
    Ok(magic == FOOTER && at + 4 + u64::from(len) == size)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn file(content: &[u8]) -> File {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(content).unwrap();
        file
    }

    fn read(file: &File, len: u32, want: Range<u32>) -> Result<Bytes, Unusable> {
        read_at(Verify::Extend, file, len, want)
    }

    fn read_at(level: Verify, file: &File, len: u32, want: Range<u32>) -> Result<Bytes, Unusable> {
        let file = CacheFile::new(file.try_clone().unwrap(), len, level)?;
        let found = file.read(want.clone());
        // What was read a moment ago is in the kernel's memory, where the file system can tell.
        match (&found, file.read_now(want)) {
            (_, Err(Unusable::Io(_))) => {}
            (found, now) => assert_eq!(found.as_ref().ok(), now.as_ref().ok()),
        }
        found
    }

    /// Written by `juicefs` 1.4.2 as `raw/chunks/0/0/1_0_12`.
    const GOLDEN: &[u8] = b"hello world\n\xF0\xFF\x72\x92";

    #[test]
    fn the_trailer_is_that_of_the_go_client() {
        let data = b"hello world\n";
        assert_eq!([&data[..], &checksums(data)].concat(), GOLDEN);
        assert_eq!(&read(&file(GOLDEN), 12, 6..11).unwrap()[..], b"world");
    }

    #[test]
    fn every_flipped_byte_is_found() {
        for at in 0..GOLDEN.len() {
            let mut bad = GOLDEN.to_vec();
            bad[at] ^= 1;
            assert!(matches!(read(&file(&bad), 12, 0..1), Err(Unusable::Damaged(_))), "{at}");
        }
    }

    #[test]
    fn only_the_units_that_are_asked_for_are_verified() {
        let data: Vec<u8> = (0..3 * UNIT + 100).map(|n| (n % 251) as u8).collect();
        let mut bytes = [data.clone(), checksums(&data)].concat();
        let len = u32::try_from(data.len()).unwrap();
        bytes[10] ^= 1;
        let file = file(&bytes);
        assert!(read(&file, len, 0..len).is_err());
        assert!(read(&file, len, UNIT - 1..UNIT + 1).is_err());
        assert_eq!(read(&file, len, UNIT + 7..len).unwrap(), &data[UNIT as usize + 7..]);
    }

    #[test]
    fn the_level_says_what_is_verified() {
        let data: Vec<u8> = (0..3 * UNIT + 100).map(|n| (n % 251) as u8).collect();
        let mut bytes = [data.clone(), checksums(&data)].concat();
        let len = u32::try_from(data.len()).unwrap();
        bytes[UNIT as usize + 7] ^= 1;
        let file = file(&bytes);
        let damaged = |level, want: Range<u32>| match read_at(level, &file, len, want.clone()) {
            Ok(found) => {
                assert_eq!(found, bytes[want.start as usize..want.end as usize]);
                false
            }
            Err(Unusable::Damaged(_)) => true,
            Err(Unusable::Io(error)) => panic!("{error}"),
        };
        // The whole block; the unit as a whole; one half of it; another unit; the short one at the end.
        let reads = [0..len, UNIT..2 * UNIT, UNIT + 5..2 * UNIT, 0..UNIT, 3 * UNIT..len];
        let found = |level| reads.clone().map(|want| damaged(level, want));
        assert_eq!(found(Verify::None), [false, false, false, false, false]);
        assert_eq!(found(Verify::Full), [true, false, false, false, false]);
        assert_eq!(found(Verify::Shrink), [true, true, false, false, false]);
        assert_eq!(found(Verify::Extend), [true, true, true, false, false]);
    }

    #[test]
    fn sizes_tell_what_follows_the_data() {
        let with_footer = [GOLDEN, b"FS\0\x04tier"].concat();
        assert_eq!(&read(&file(&with_footer), 12, 0..5).unwrap()[..], b"hello");
        assert_eq!(&read(&file(b"hello world\n"), 12, 0..5).unwrap()[..], b"hello");
        assert_eq!(&read(&file(b"hello world\nFS\0\x05tiers"), 12, 0..5).unwrap()[..], b"hello");
        assert!(matches!(read(&file(b"hello"), 12, 0..5), Err(Unusable::Damaged(_))));
        assert!(matches!(read(&file(b""), 12, 0..5), Err(Unusable::Damaged(_))));
        for lengthened in [&b"x"[..], b"more", b"FS\0\x04tie", b"FS\0\x04tier.", b"FT\0\x04tier"] {
            let bytes = [GOLDEN, lengthened].concat();
            assert!(matches!(read(&file(&bytes), 12, 0..5), Err(Unusable::Damaged(_))), "{lengthened:?}");
        }
    }

    proptest! {
        #[test]
        fn any_file_gives_what_was_asked_for_or_is_unusable(
            content in proptest::collection::vec(any::<u8>(), 0..300),
            (len, from, to) in (1_u32..300, any::<prop::sample::Index>(), any::<prop::sample::Index>()),
        ) {
            let from = u32::try_from(from.index(len as usize)).unwrap();
            let to = from + 1 + u32::try_from(to.index((len - from) as usize)).unwrap();
            if let Ok(found) = read(&file(&content), len, from..to) {
                prop_assert_eq!(&found[..], &content[from as usize..to as usize]);
            }
        }

        /// Whatever happens to a block with its checksums: a byte that is given out is the one that was written.
        #[test]
        fn a_spoiled_file_gives_the_right_bytes_or_is_unusable(
            seed in any::<Vec<u8>>(), len in 1..3 * UNIT,
            (at, bit) in (any::<prop::sample::Index>(), 0..8_u32), (from, to) in any::<(prop::sample::Index, prop::sample::Index)>(),
        ) {
            let data: Vec<u8> = seed.iter().copied().chain(0..=250).cycle().take(len as usize).collect();
            let mut content = [data.clone(), checksums(&data)].concat();
            let at = at.index(content.len());
            content[at] ^= 1 << bit;
            let from = u32::try_from(from.index(len as usize)).unwrap();
            let to = from + 1 + u32::try_from(to.index((len - from) as usize)).unwrap();
            let unit = |offset: u32| offset / UNIT;
            let spoiled = u32::try_from(at).map(|at| if at < len { unit(at) } else { (at - len) / 4 }).unwrap();
            match read(&file(&content), len, from..to) {
                Ok(found) => {
                    prop_assert!(!(unit(from)..=unit(to - 1)).contains(&spoiled));
                    prop_assert_eq!(&found[..], &data[from as usize..to as usize]);
                }
                Err(Unusable::Damaged(_)) => prop_assert!((unit(from)..=unit(to - 1)).contains(&spoiled)),
                Err(Unusable::Io(error)) => prop_assert!(false, "{}", error),
            }
        }
    }
}
