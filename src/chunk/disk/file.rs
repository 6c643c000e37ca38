//! One file of the disk cache: a block's plain bytes, then a CRC-32C for each 32 KiB of them, big-endian (format §5.5).

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, IoSliceMut, Write};
use std::ops::Range;
use std::os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt};
use std::path::Path;

use bytes::Bytes;
use rustix::io::ReadWriteFlags;

/// Bytes under one checksum; the last unit of a block may be shorter.
pub(crate) const UNIT: u32 = 32 << 10;

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
    has_checksums: bool,
}

impl CacheFile {
    /// Opens the file of a block of `len` bytes.
    pub(crate) fn open(path: &Path, len: u32) -> Result<Self, Unusable> {
        Self::new(File::open(path)?, len)
    }

    fn new(file: File, len: u32) -> Result<Self, Unusable> {
        let has_checksums = has_checksums(file.metadata()?.len(), len)?;
        Ok(Self { file, len, has_checksums })
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

    /// Widens `want` to whole units, so that every byte given out has been verified.
    fn read_with(
        &self,
        want: Range<u32>,
        read_exact: impl Fn(&mut [u8], u64) -> io::Result<()>,
    ) -> Result<Bytes, Unusable> {
        let read = |offset: u32, len: u32| {
            let mut data = vec![0; len as usize];
            read_exact(&mut data, offset.into()).map(|()| data)
        };
        if !self.has_checksums {
            return Ok(read(want.start, want.end - want.start)?.into());
        }
        let units = want.start / UNIT..want.end.div_ceil(UNIT);
        let start = units.start * UNIT;
        let data = read(start, self.len.min(units.end * UNIT) - start)?;
        let mut sums = vec![0; 4 * units.len()];
        read_exact(&mut sums, u64::from(self.len) + 4 * u64::from(units.start))?;
        verify(units.start, &data, &sums)?;
        Ok(Bytes::from(data).slice((want.start - start) as usize..(want.end - start) as usize))
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
pub(crate) fn write(path: &Path, temporary: &Path, data: &[u8]) -> io::Result<()> {
    let written = create(temporary).and_then(|mut file| {
        file.write_all(data)?;
        file.write_all(&checksums(data))?;
        fs::rename(temporary, path)
    });
    if written.is_err() {
        // What is left of a failed write is of no use; that it cannot be removed changes nothing.
        let _ = fs::remove_file(temporary);
    }
    written
}

/// Makes a directory and those above it, for their owner only.
pub(crate) fn make_dir(path: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(path)
}

/// The trailer of a block.
pub(crate) fn checksums(data: &[u8]) -> Vec<u8> {
    data.chunks(UNIT as usize).flat_map(|unit| crc32c::crc32c(unit).to_be_bytes()).collect()
}

fn create(path: &Path) -> io::Result<File> {
    let open = || OpenOptions::new().write(true).create_new(true).mode(0o600).open(path);
    match (open(), path.parent()) {
        (Err(e), Some(parent)) if e.kind() == io::ErrorKind::NotFound => {
            make_dir(parent)?;
            open()
        }
        (result, _) => result,
    }
}

/// Tells the trailer from the size: the Go client may have written none, and may have added a footer of its own.
fn has_checksums(size: u64, len: u32) -> Result<bool, Unusable> {
    let trailer = 4 * u64::from(len.div_ceil(UNIT));
    match size.checked_sub(len.into()) {
        Some(0) => Ok(false),
        Some(extra) if extra % 4 != 0 => Ok(false),
        Some(extra) if extra >= trailer => Ok(true),
        _ => Err(Unusable::Damaged(format!(
            "it has {size} bytes, a block of {len} with checksums has {}",
            u64::from(len) + trailer
        ))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(content: &[u8]) -> File {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(content).unwrap();
        file
    }

    fn read(file: &File, len: u32, want: Range<u32>) -> Result<Bytes, Unusable> {
        let file = CacheFile::new(file.try_clone().unwrap(), len)?;
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
    fn sizes_tell_what_follows_the_data() {
        let with_footer = [GOLDEN, b"foot"].concat();
        assert_eq!(&read(&file(&with_footer), 12, 0..5).unwrap()[..], b"hello");
        assert_eq!(&read(&file(b"hello world\n"), 12, 0..5).unwrap()[..], b"hello");
        assert_eq!(&read(&file(b"hello world\nfooter"), 12, 0..5).unwrap()[..], b"hello");
        assert!(matches!(read(&file(b"hello"), 12, 0..5), Err(Unusable::Damaged(_))));
        assert!(matches!(read(&file(b""), 12, 0..5), Err(Unusable::Damaged(_))));
    }
}
