//! One file of the disk cache: a block's plain bytes, then a CRC-32C for each 32 KiB of them, big-endian (format §5.5).

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write};
use std::ops::Range;
use std::os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt};
use std::path::Path;

use bytes::Bytes;

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
        Self::Io(error)
    }
}

/// Reads `want` of a block of `len` bytes, widened to whole units so that every byte given out has been verified.
pub(crate) fn read(file: &File, len: u32, want: Range<u32>) -> Result<Bytes, Unusable> {
    if !has_checksums(file.metadata()?.len(), len)? {
        return Ok(read_at(file, want.start.into(), (want.end - want.start) as usize)?.into());
    }
    let units = want.start / UNIT..want.end.div_ceil(UNIT);
    let start = units.start * UNIT;
    let end = len.min(units.end * UNIT);
    let data = read_at(file, start.into(), (end - start) as usize)?;
    let sums = read_at(file, u64::from(len) + 4 * u64::from(units.start), 4 * units.len())?;
    for ((unit, data), sum) in units.zip(data.chunks(UNIT as usize)).zip(sums.chunks_exact(4)) {
        let stored = u32::from_be_bytes(sum.try_into().expect("chunks of four"));
        let found = crc32c::crc32c(data);
        if stored != found {
            return Err(Unusable::Damaged(format!("CRC-32C of unit {unit} is {found:08x}, stored is {stored:08x}")));
        }
    }
    Ok(Bytes::from(data).slice((want.start - start) as usize..(want.end - start) as usize))
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

fn read_at(file: &File, offset: u64, len: usize) -> io::Result<Vec<u8>> {
    let mut data = vec![0; len];
    file.read_exact_at(&mut data, offset)?;
    Ok(data)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(content: &[u8]) -> File {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(content).unwrap();
        file
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
