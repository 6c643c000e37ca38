//! Content that can be made and checked anywhere in a file from a seed alone.

use std::fs::File;
use std::io::{Read, Write};
use std::path::Path;

const WORD: usize = 8;

/// Fills `out` with the bytes that the content of `seed` has at `offset`; `offset` is a multiple of 8.
pub fn fill(seed: u64, offset: u64, out: &mut [u8]) {
    let first = offset / WORD as u64;
    for (index, chunk) in (first..).zip(out.chunks_mut(WORD)) {
        let word = mix(seed ^ mix(index)).to_le_bytes();
        chunk.copy_from_slice(&word[..chunk.len()]);
    }
}

/// A number that depends on every bit of another (`SplitMix64`'s finaliser).
pub fn mix(value: u64) -> u64 {
    let value = value.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let value = (value ^ (value >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let value = (value ^ (value >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    value ^ (value >> 31)
}

/// The first `size` bytes of a seed's content.
pub fn bytes(seed: u64, size: usize) -> Vec<u8> {
    let mut content = vec![0; size];
    fill(seed, 0, &mut content);
    content
}

/// Writes `size` bytes of a seed's content, `step` (a multiple of 8) at a time.
pub fn write(file: &mut File, seed: u64, size: u64, step: usize) -> std::io::Result<()> {
    let mut buffer = vec![0; step];
    let mut offset = 0;
    while offset < size {
        let part = usize::try_from((size - offset).min(step as u64)).expect("at most a step");
        fill(seed, offset, &mut buffer[..part]);
        file.write_all(&buffer[..part])?;
        offset += part as u64;
    }
    Ok(())
}

/// Why a file does not hold `size` bytes of a seed's content, and nothing more; `None` when it does.
pub fn check(path: &Path, seed: u64, size: u64) -> Option<String> {
    check_reader(path, File::open(path), seed, size)
}

/// The same for a file that may be longer.
pub fn check_prefix(path: &Path, seed: u64, size: u64) -> Option<String> {
    check_reader(path, File::open(path).map(|file| file.take(size)), seed, size)
}

fn check_reader(path: &Path, opened: std::io::Result<impl Read>, seed: u64, size: u64) -> Option<String> {
    let fault = |what: String| Some(format!("{}: {what}", path.display()));
    let mut file = match opened {
        Ok(file) => file,
        Err(error) => return fault(error.to_string()),
    };
    let (mut found, mut wanted) = (vec![0; 1 << 20], vec![0; 1 << 20]);
    let mut offset = 0;
    loop {
        let read = match read_full(&mut file, &mut found) {
            Ok(0) if offset == size => return None,
            Ok(0) => return fault(format!("{offset} bytes, expected {size}")),
            Ok(read) => read,
            Err(error) => return fault(error.to_string()),
        };
        fill(seed, offset, &mut wanted[..read]);
        if let Some(at) = (0..read).find(|&at| found[at] != wanted[at]) {
            return fault(format!("wrong byte at {}", offset + at as u64));
        }
        offset += read as u64;
    }
}

fn read_full(file: &mut impl Read, out: &mut [u8]) -> std::io::Result<usize> {
    let mut filled = 0;
    while filled < out.len() {
        match file.read(&mut out[filled..])? {
            0 => break,
            read => filled += read,
        }
    }
    Ok(filled)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_part_is_the_same_as_in_the_whole() {
        let whole = bytes(7, 100);
        let mut part = [0; 20];
        fill(7, 48, &mut part);
        assert_eq!(part, whole[48..68]);
        assert_ne!(whole, bytes(8, 100));
    }

    #[test]
    fn a_wrong_byte_and_a_wrong_length_are_found() {
        let file = tempfile::NamedTempFile::new().expect("a temporary file");
        let mut content = bytes(1, 5000);
        std::fs::write(file.path(), &content).expect("written");
        assert_eq!(check(file.path(), 1, 5000), None);
        assert!(check(file.path(), 1, 5001).is_some_and(|fault| fault.contains("5000 bytes, expected 5001")));
        content[4321] ^= 1;
        std::fs::write(file.path(), &content).expect("written");
        assert!(check(file.path(), 1, 5000).is_some_and(|fault| fault.contains("wrong byte at 4321")));
    }
}
