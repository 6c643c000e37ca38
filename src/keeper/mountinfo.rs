//! `/proc/self/mountinfo` (proc_pid_mountinfo(5)), the one source for what is mounted where. Reading it never asks a
//! file system anything, so it answers while a FUSE server hangs.

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

use crate::error::{Error, Result};

/// One mount.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MountEntry {
    /// Unique number of the mount while it exists.
    pub id: u64,
    /// Device numbers of the file system; the minor number is the name under `/sys/fs/fuse/connections`.
    pub device: (u32, u32),
    /// The directory of the file system that is its root here: `/` unless a sub-directory was bound.
    pub root: PathBuf,
    /// Where it is mounted.
    pub mount_point: PathBuf,
    /// Options of this mount: `ro`, `nosuid`, …
    pub options: String,
    /// Such as `fuse.juicefs`.
    pub fs_type: String,
    /// Such as `JuiceFS:name`.
    pub source: String,
}

impl MountEntry {
    /// Whether this mount refuses changes.
    pub fn read_only(&self) -> bool {
        self.options.split(',').any(|option| option == "ro")
    }

    fn parse(line: &[u8]) -> Option<Self> {
        let mut fields = line.split(|&byte| byte == b' ');
        let mut text = || fields.next().map(|field| OsString::from_vec(unescape(field)));
        let id = text()?.to_str()?.parse().ok()?;
        let _parent = text()?;
        let device = text()?;
        let (major, minor) = device.to_str()?.split_once(':')?;
        let device = (major.parse().ok()?, minor.parse().ok()?);
        let (root, mount_point) = (text()?.into(), text()?.into());
        let options = text()?.to_string_lossy().into_owned();
        while text()? != "-" {}
        Some(Self {
            id,
            device,
            root,
            mount_point,
            options,
            fs_type: text()?.to_string_lossy().into_owned(),
            source: text()?.to_string_lossy().into_owned(),
        })
    }
}

/// Undoes the octal escapes of spaces, tabs, newlines and backslashes.
fn unescape(field: &[u8]) -> Vec<u8> {
    let mut plain = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((&byte, tail)) = rest.split_first() {
        let octal = |digits: &[u8]| {
            let text = std::str::from_utf8(digits).ok()?;
            u8::from_str_radix(text, 8).ok()
        };
        match tail.get(..3).filter(|_| byte == b'\\').and_then(octal) {
            Some(escaped) => {
                plain.push(escaped);
                rest = &tail[3..];
            }
            None => {
                plain.push(byte);
                rest = tail;
            }
        }
    }
    plain
}

/// Reads the text of a mountinfo file. Mounts on the same place come in the order they were mounted.
pub fn parse(content: &[u8]) -> Result<Vec<MountEntry>> {
    let lines = content.split(|&byte| byte == b'\n').filter(|line| !line.is_empty());
    lines
        .map(|line| {
            MountEntry::parse(line).ok_or_else(|| Error::MountInfo { line: String::from_utf8_lossy(line).into_owned() })
        })
        .collect()
}

/// All mounts that this process sees.
pub fn read() -> Result<Vec<MountEntry>> {
    let path = Path::new("/proc/self/mountinfo");
    parse(&std::fs::read(path).map_err(|error| Error::io("read", path, &error))?)
}

/// The topmost mount at exactly `path`, which must be absolute and without symbolic links.
pub fn at(path: &Path) -> Result<Option<MountEntry>> {
    Ok(read()?.into_iter().rev().find(|entry| entry.mount_point == path))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_read_with_escapes_and_optional_fields() {
        let text = b"36 35 0:98 / /mnt/a\\040b\\134c ro,nosuid shared:1 master:2 - fuse.juicefs JuiceFS:vol rw\n\
            37 35 8:1 /sub /mnt/x rw - ext4 /dev/sda rw,errors=continue\n";
        let entries = parse(text).expect("well-formed");
        assert_eq!(entries[0].mount_point, Path::new("/mnt/a b\\c"));
        assert_eq!((entries[0].id, entries[0].device), (36, (0, 98)));
        assert_eq!((&*entries[0].fs_type, &*entries[0].source), ("fuse.juicefs", "JuiceFS:vol"));
        assert!(entries[0].read_only() && !entries[1].read_only());
        assert_eq!(entries[1].root, Path::new("/sub"));
    }

    #[test]
    fn a_malformed_line_is_an_error_not_a_panic() {
        for line in
            [&b"36"[..], b"x 1 0:1 / / rw - a b c", b"36 35 98 / /mnt rw - t s", b"36 35 0:1 / /mnt rw shared:1"]
        {
            assert!(matches!(parse(line), Err(Error::MountInfo { .. })), "{line:?}");
        }
    }

    #[test]
    fn the_root_is_a_mount_of_this_process() {
        assert!(at(Path::new("/")).expect("readable").is_some());
        assert!(at(Path::new("/proc/self/nowhere")).expect("readable").is_none());
    }
}
