//! A small tree of everything that a file system can hold and that stored formats get wrong.

use std::ffi::OsStr;
use std::fs::{self, File, FileTimes, OpenOptions};
use std::io::{Seek, SeekFrom, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{PermissionsExt, chown, symlink};
use std::path::Path;
use std::time::{Duration, SystemTime};

use nix::sys::stat::{Mode, SFlag, makedev, mknod};
use nix::unistd::mkfifo;

use crate::pattern;

const MIB: u64 = 1 << 20;

/// Fills a directory of a mount; `seed` makes two trees differ in content.
pub fn fill(root: &Path, seed: u64) {
    sizes(&root.join("sizes"), seed).expect("files of many sizes");
    large(&root.join("large"), seed).expect("large and sparse files");
    rewritten(&root.join("rewritten"), seed).expect("files that were written over");
    names(&root.join("names")).expect("unusual names");
    kinds(&root.join("kinds")).expect("every kind of node");
    attributes(&root.join("attributes")).expect("modes, owners, times, extended attributes");
    many(&root.join("many")).expect("a large directory");
}

fn sizes(dir: &Path, seed: u64) -> std::io::Result<()> {
    fs::create_dir_all(dir)?;
    let sizes =
        [0, 1, 7, 511, 4095, 4096, 4097, 65_535, 131_072, 131_073, MIB - 1, MIB, 4 * MIB - 1, 4 * MIB, 4 * MIB + 1];
    for (n, size) in (0..).zip(sizes) {
        pattern::write(&mut File::create(dir.join(format!("{size}")))?, seed + n, size, 64 << 10)?;
    }
    Ok(())
}

/// More than one chunk of 64 MiB, dense and with holes.
fn large(dir: &Path, seed: u64) -> std::io::Result<()> {
    fs::create_dir_all(dir)?;
    pattern::write(&mut File::create(dir.join("dense"))?, seed, 70 * MIB + 12_345, 1 << 20)?;
    let mut sparse = File::create(dir.join("sparse"))?;
    for offset in [10, 63 * MIB + 4096, 64 * MIB - 3, 200 * MIB + 1] {
        sparse.seek(SeekFrom::Start(offset))?;
        sparse.write_all(&pattern::bytes(seed ^ offset, 10_000))?;
    }
    sparse.set_len(300 * MIB)?;
    File::create(dir.join("hole-only"))?.set_len(130 * MIB)
}

/// Overlapping writes, truncation and appending leave several slices in a chunk.
fn rewritten(dir: &Path, seed: u64) -> std::io::Result<()> {
    fs::create_dir_all(dir)?;
    let path = dir.join("overlaid");
    pattern::write(&mut File::create(&path)?, seed, 9 * MIB, 1 << 20)?;
    for (n, (offset, size)) in
        (1..).zip([(0, 5000), (4 * MIB - 100, 200), (8 * MIB, 2_000_000), (3000, 1), (MIB, 3 << 20)])
    {
        let mut file = OpenOptions::new().write(true).open(&path)?;
        file.seek(SeekFrom::Start(offset))?;
        file.write_all(&pattern::bytes(seed + n, size))?;
        file.sync_all()?;
    }
    let cut = OpenOptions::new().write(true).open(&path)?;
    cut.set_len(6 * MIB + 77)?;
    cut.set_len(7 * MIB)?;
    OpenOptions::new().append(true).open(&path)?.write_all(b"the end")
}

fn names(dir: &Path) -> std::io::Result<()> {
    fs::create_dir_all(dir)?;
    let longest = "x".repeat(255);
    let unicode = "Straße-Ελληνικά-日本語-🦀";
    for name in [unicode, " blank ", "new\nline", "-rf", "a%b", "quote'\"", "back\\slash", "e\u{301}", "é", &longest] {
        fs::write(dir.join(name), name)?;
    }
    fs::write(dir.join(OsStr::from_bytes(b"not\xffutf8\x01")), "bytes")?;
    fs::create_dir(dir.join("日本"))?;
    fs::write(dir.join("日本").join("語"), "nested")
}

fn kinds(dir: &Path) -> std::io::Result<()> {
    fs::create_dir_all(dir.join("deep/er/and/deeper"))?;
    fs::create_dir_all(dir.join("empty"))?;
    fs::write(dir.join("file"), "linked three times")?;
    fs::hard_link(dir.join("file"), dir.join("twin"))?;
    fs::hard_link(dir.join("file"), dir.join("deep/er/triplet"))?;
    symlink("file", dir.join("link"))?;
    symlink("/nowhere/".to_owned() + &"y".repeat(3000), dir.join("long-dangling-link"))?;
    mkfifo(&dir.join("fifo"), Mode::from_bits_truncate(0o640))?;
    mknod(&dir.join("null"), SFlag::S_IFCHR, Mode::from_bits_truncate(0o600), makedev(1, 3))?;
    mknod(&dir.join("block"), SFlag::S_IFBLK, Mode::from_bits_truncate(0o600), makedev(7, 200))?;
    mknod(&dir.join("socket"), SFlag::S_IFSOCK, Mode::from_bits_truncate(0o755), 0)?;
    fs::write(dir.join("before"), "renamed")?;
    fs::rename(dir.join("before"), dir.join("deep/after"))
}

fn attributes(dir: &Path) -> std::io::Result<()> {
    fs::create_dir_all(dir)?;
    for mode in [0o000, 0o400, 0o644, 0o755, 0o1777, 0o2755, 0o4755] {
        let path = dir.join(format!("mode-{mode:o}"));
        fs::write(&path, "mode")?;
        chown(&path, Some(1000 + mode), Some(2000 + mode))?;
        fs::set_permissions(&path, fs::Permissions::from_mode(mode))?;
    }
    for (name, time) in [
        ("epoch", Duration::ZERO),
        ("far", Duration::new(4_000_000_000, 1)),
        ("fine", Duration::new(1_700_000_000, 123_456_789)),
    ] {
        let file = File::create(dir.join(name))?;
        file.set_times(FileTimes::new().set_modified(SystemTime::UNIX_EPOCH + time))?;
    }
    let path = dir.join("extended");
    fs::write(&path, "attributes")?;
    xattr::set(&path, "user.plain", b"value")?;
    xattr::set(&path, "user.empty", b"")?;
    xattr::set(&path, "user.binary", &pattern::bytes(9, 4000))?;
    xattr::set(dir, "user.directory", "Ü".as_bytes())
}

fn many(dir: &Path) -> std::io::Result<()> {
    fs::create_dir_all(dir)?;
    (0..1500).try_for_each(|n| fs::write(dir.join(format!("entry-{n:05}")), n.to_string()))
}
