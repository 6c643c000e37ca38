//! Commands to the process that serves a mount, through its `.control` file (format.md §6.4). Works with mounts of the Go
//! client, too.

use std::fs::{File, OpenOptions};
use std::io::{Error, ErrorKind, Read, Result, Seek, SeekFrom, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;
use stead_upkeep::{Meter, Unit};

use crate::exit::Failure;
use crate::progress;

pub(crate) const REMOVE: u32 = 1002;
pub(crate) const CACHE: u32 = 1004;
pub(crate) const INFO: u32 = 1005;
pub(crate) const CLONE: u32 = 1006;
pub(crate) const SUMMARY: u32 = 1007;
pub(crate) const COMPACT: u32 = 1008;

/// Names of the file, also with `--prefix-internal`.
const NAMES: [&str; 2] = [".control", ".jfs.control"];
/// The inode of the directory that a mount shows as its root.
const ROOT: u64 = 1;

/// A path in a mount.
#[derive(Debug)]
pub(crate) struct Place {
    /// Absolute, without symbolic links but for the last component.
    pub(crate) path: PathBuf,
    /// The inode.
    pub(crate) ino: u64,
    /// The inode of the directory that it is in; that of the root is itself.
    pub(crate) parent: u64,
    /// The mounted directory.
    pub(crate) mount: PathBuf,
    device: u64,
}

impl Place {
    /// Finds the mount that `path` lies in. With `missing` its last component need not be there: the inode is 0 then.
    ///
    /// # Errors
    /// Says what is wrong with the path.
    pub(crate) fn find(path: &Path, missing: bool) -> std::result::Result<Self, Failure> {
        let shown = path.display();
        let failed = |error: Error| Failure::usage(format!("{shown}: {error}"));
        let absolute = std::path::absolute(path).map_err(failed)?;
        let (directory, name) = match (absolute.parent(), absolute.file_name()) {
            (Some(parent), Some(name)) => (parent.canonicalize().map_err(failed)?, Some(name)),
            _ => (absolute.canonicalize().map_err(failed)?, None),
        };
        let path = name.map_or_else(|| directory.clone(), |name| directory.join(name));
        let parent = directory.metadata().map_err(failed)?;
        let (ino, device) = match path.symlink_metadata() {
            Ok(meta) => (meta.ino(), meta.dev()),
            Err(error) if missing && error.kind() == ErrorKind::NotFound => (0, parent.dev()),
            Err(error) => return Err(failed(error)),
        };
        let inside = if device == parent.dev() { &directory } else { &path };
        let mount =
            mount_of(inside, device).ok_or_else(|| Failure::usage(format!("{shown} is in no mounted volume")))?;
        let parent = if mount == path { ino } else { parent.ino() };
        Ok(Self { path, ino, parent, mount, device })
    }

    /// The path from the mount's root.
    pub(crate) fn inner(&self) -> PathBuf {
        Path::new("/").join(self.path.strip_prefix(&self.mount).unwrap_or(&self.path))
    }

    /// The last component.
    pub(crate) fn name(&self) -> Vec<u8> {
        use std::os::unix::ffi::OsStrExt;
        self.path.file_name().map(|name| name.as_bytes().to_vec()).unwrap_or_default()
    }

    /// Whether both lie in the same mount.
    pub(crate) fn is_beside(&self, other: &Self) -> bool {
        (self.device, &self.mount) == (other.device, &other.mount)
    }
}

/// The nearest directory at or above `directory` that is the root of a volume.
fn mount_of(directory: &Path, device: u64) -> Option<PathBuf> {
    let on_device = |dir: &&Path| dir.metadata().is_ok_and(|meta| meta.dev() == device);
    let root =
        directory.ancestors().take_while(on_device).find(|dir| dir.metadata().is_ok_and(|meta| meta.ino() == ROOT))?;
    NAMES.iter().any(|name| root.join(name).symlink_metadata().is_ok()).then(|| root.to_owned())
}

/// How a command ended.
pub(crate) enum Answer {
    Done,
    Json(Value),
}

/// Sends a command to the mount and waits for its answer; `part` names what the bar shows.
///
/// # Errors
/// What the mount said, with `what` in front.
pub(crate) async fn ask(
    mount: &Path,
    command: u32,
    body: Vec<u8>,
    what: &str,
    (part, unit): (&str, Unit),
) -> std::result::Result<Answer, Failure> {
    let meter = progress::shown().part(part, unit, None);
    let mount = mount.to_owned();
    let asked = tokio::task::spawn_blocking(move || send(&mount, command, &body, unit, &meter)).await;
    let failed = |error: Error| match error.raw_os_error() {
        Some(libc::EINVAL) => Failure::usage(format!("{what}: the mount does not know this command or argument")),
        _ => Failure::general(format!("{what}: {error}")),
    };
    asked.map_err(|lost| Failure::general(lost.to_string()))?.map_err(failed)
}

fn open(mount: &Path) -> Result<File> {
    let mut result = Err(Error::from(ErrorKind::NotFound));
    for name in NAMES {
        result = OpenOptions::new().read(true).write(true).open(mount.join(name));
        if !matches!(&result, Err(error) if error.kind() == ErrorKind::NotFound) {
            break;
        }
    }
    result
}

fn send(mount: &Path, command: u32, body: &[u8], unit: Unit, meter: &Arc<dyn Meter>) -> Result<Answer> {
    let mut file = open(mount)?;
    let length = u32::try_from(body.len()).map_err(Error::other)?;
    let request = [&command.to_be_bytes()[..], &length.to_be_bytes(), body].concat();
    file.write_all(&request)?;
    file.seek(SeekFrom::Start(request.len() as u64))?;
    let mut reader = Patient { file, buffer: Vec::new() };
    let mut shown = 0;
    loop {
        match reader.take::<1>()?[0] {
            0xfe => {
                let numbers = [u64::from_be_bytes(reader.take()?), u64::from_be_bytes(reader.take()?)];
                let now = numbers[usize::from(unit == Unit::Bytes)];
                meter.add(now.saturating_sub(shown));
                shown = now;
            }
            0xff => {
                let length = u32::from_be_bytes(reader.take()?);
                return serde_json::from_slice(&reader.bytes(length as usize)?).map(Answer::Json).map_err(Error::other);
            }
            0 => return Ok(Answer::Done),
            errno => return Err(Error::from_raw_os_error(errno.into())),
        }
    }
}

/// A control file has nothing to read while the mount still works.
struct Patient {
    file: File,
    buffer: Vec<u8>,
}

impl Patient {
    fn take<const N: usize>(&mut self) -> Result<[u8; N]> {
        let bytes = self.bytes(N)?;
        bytes.try_into().map_err(|_| Error::from(ErrorKind::InvalidData))
    }

    fn bytes(&mut self, length: usize) -> Result<Vec<u8>> {
        while self.buffer.len() < length {
            let mut more = vec![0; 64 << 10];
            let read = match self.file.read(&mut more) {
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                read => read?,
            };
            match read {
                #[expect(clippy::disallowed_methods, reason = "on a thread of its own")]
                0 => std::thread::sleep(Duration::from_millis(5)),
                read => self.buffer.extend_from_slice(&more[..read]),
            }
        }
        Ok(self.buffer.drain(..length).collect())
    }
}
