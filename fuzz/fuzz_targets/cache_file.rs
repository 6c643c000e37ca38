#![no_main]

use std::fs::File;
use std::io::Write;
use std::os::fd::AsRawFd;
use std::path::Path;

use libfuzzer_sys::fuzz_target;
use stead_chunk::Verify;

// Nothing outside of its crate is to read single cache files, so this is the very source, not a library's surface.
#[path = "../../src/chunk/disk/file.rs"]
#[expect(dead_code, reason = "only the reading half is fuzzed")]
mod file;

use file::{CacheFile, UNIT, checksums};

fn read(content: &[u8], len: u32, from: u32, to: u32) -> Option<Vec<u8>> {
    let mut memory = File::from(rustix::fs::memfd_create("cache", rustix::fs::MemfdFlags::CLOEXEC).expect("memory"));
    memory.write_all(content).expect("memory takes it");
    let path = format!("/proc/self/fd/{}", memory.as_raw_fd());
    let found = CacheFile::open(Path::new(&path), len, Verify::Extend).and_then(|file| file.read(from..to)).ok()?;
    Some(found.to_vec())
}

fuzz_target!(|input: (u32, u32, u32, u32, u8, &[u8])| {
    let (len, from, to, at, change, bytes) = input;
    let len = 1 + len % (3 * UNIT);
    let from = from % len;
    let to = from + 1 + to % (len - from);
    let (start, end) = (from as usize, to as usize);
    // Any file at all.
    if let Some(found) = read(bytes, len, from, to) {
        assert_eq!(found, &bytes[start..end]);
    }
    // A good file with a wrong byte.
    let data: Vec<u8> = bytes.iter().copied().chain(0..=250).cycle().take(len as usize).collect();
    let mut content = [data.clone(), checksums(&data)].concat();
    let at = at as usize % content.len();
    content[at] ^= change;
    match read(&content, len, from, to) {
        Some(found) => assert_eq!(found, &data[start..end]),
        None => assert_ne!(change, 0, "a good file is believed"),
    }
});
