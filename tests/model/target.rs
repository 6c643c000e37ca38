//! A directory of a real file system: does an operation by system calls, and shows everything that can be seen.

use std::collections::BTreeMap;
use std::fs::{self, File, FileTimes, OpenOptions, Permissions};
use std::io::Result;
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::time::{Duration, UNIX_EPOCH};

use nix::errno::Errno;
use nix::libc::O_NOFOLLOW;
use rustix::fs::{CWD, FallocateFlags, RenameFlags, SeekFrom, copy_file_range, fallocate, renameat_with, seek};
use stead_tests::pattern;

use super::operation::{Allocation, Operation, Renaming, SLOTS};
use super::reference::{NOWHERE, Seen};
use super::run::Subject;

pub(crate) struct Target<'a> {
    root: PathBuf,
    slots: [Option<File>; SLOTS],
    /// Kills and mounts again what the directory lies on.
    crash: Option<&'a dyn Fn()>,
}

impl<'a> Target<'a> {
    /// Makes the directory.
    pub(crate) fn new(root: &Path) -> Self {
        fs::create_dir(root).unwrap_or_else(|error| panic!("{}: {error}", root.display()));
        fs::set_permissions(root, Permissions::from_mode(0o755)).expect("own directory");
        Self { root: root.to_owned(), slots: [const { None }; SLOTS], crash: None }
    }

    /// The same on a mount.
    pub(crate) fn that_crashes(root: &Path, crash: &'a dyn Fn()) -> Self {
        Self { crash: Some(crash), ..Self::new(root) }
    }

    fn path(&self, place: &[&str]) -> PathBuf {
        place.iter().fold(self.root.clone(), |path, name| path.join(name))
    }

    fn slot(&self, slot: usize) -> Result<&File> {
        self.slots[slot].as_ref().ok_or_else(|| Errno::EBADF.into())
    }

    fn perform(&mut self, operation: &Operation) -> Result<()> {
        match operation {
            Operation::Create(place) => {
                OpenOptions::new().write(true).create_new(true).mode(0o644).open(self.path(place)).map(drop)
            }
            Operation::Mkdir(place) => fs::create_dir(self.path(place)),
            Operation::Rmdir(place) => fs::remove_dir(self.path(place)),
            Operation::Unlink(place) => fs::remove_file(self.path(place)),
            Operation::Symlink(place) => symlink(NOWHERE, self.path(place)),
            Operation::Link(from, to) => fs::hard_link(self.path(from), self.path(to)),
            Operation::Rename(from, to, how) => {
                let flags = match how {
                    Renaming::Plain => RenameFlags::empty(),
                    Renaming::NoReplace => RenameFlags::NOREPLACE,
                    Renaming::Exchange => RenameFlags::EXCHANGE,
                };
                Ok(renameat_with(CWD, self.path(from), CWD, self.path(to), flags)?)
            }
            Operation::Write(place, span) => {
                let file = OpenOptions::new().write(true).open(self.path(place))?;
                file.write_all_at(&pattern::bytes(span.seed, span.len), span.offset)?;
                close(file)
            }
            Operation::Truncate(place, size) => Ok(nix::unistd::truncate(&self.path(place), size.cast_signed())?),
            Operation::Fallocate(place, how, span) => {
                let file = OpenOptions::new().write(true).open(self.path(place))?;
                let flags = match how {
                    Allocation::Extend => FallocateFlags::empty(),
                    Allocation::KeepSize => FallocateFlags::KEEP_SIZE,
                    Allocation::Punch => FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE,
                    Allocation::Zero => FallocateFlags::ZERO_RANGE,
                };
                fallocate(&file, flags, span.offset, span.len as u64)?;
                close(file)
            }
            Operation::Copy(from, to, span, at) => copy(&self.path(from), &self.path(to), span.offset, *at, span.len),
            Operation::SetXattr(place, name, value) => {
                xattr::set_deref(self.path(place), name, &vec![*value; usize::from(*value)])
            }
            Operation::RemoveXattr(place, name) => xattr::remove_deref(self.path(place), name),
            Operation::Chmod(place, mode) => fs::set_permissions(self.path(place), Permissions::from_mode(*mode)),
            Operation::SetMtime(place, time) => {
                let time = UNIX_EPOCH + Duration::from_secs(time.unsigned_abs());
                File::open(self.path(place))?.set_times(FileTimes::new().set_modified(time))
            }
            Operation::Open(slot, place) => {
                self.slots[*slot].take().map_or(Ok(()), close)?;
                self.slots[*slot] = Some(OpenOptions::new().read(true).write(true).open(self.path(place))?);
                Ok(())
            }
            Operation::WriteOpen(slot, span) => {
                self.slot(*slot)?.write_all_at(&pattern::bytes(span.seed, span.len), span.offset)
            }
            Operation::SyncOpen(slot) => self.slot(*slot)?.sync_all(),
            Operation::CloseOpen(slot) => self.slots[*slot].take().map_or(Ok(()), close),
            Operation::Crash => Ok(()),
        }
    }
}

impl Subject for Target<'_> {
    fn apply(&mut self, operation: &Operation) -> std::result::Result<(), Errno> {
        self.perform(operation).map_err(|error| Errno::from_raw(error.raw_os_error().expect("from a system call")))
    }

    fn see(&self) -> BTreeMap<String, Seen> {
        let mut seen = BTreeMap::new();
        let mut todo = vec![String::new()];
        while let Some(path) = todo.pop() {
            let full = self.root.join(path.trim_start_matches('/'));
            let found = see_path(&full).unwrap_or_else(|error| panic!("{path:?}: {error}"));
            todo.extend(found.names.iter().map(|name| format!("{path}/{name}")));
            seen.insert(path, found);
        }
        for (slot, open) in self.slots.iter().enumerate() {
            let Some(file) = open else { continue };
            seen.insert(format!("slot {slot}"), see_file(file).unwrap_or_else(|error| panic!("slot {slot}: {error}")));
        }
        seen
    }

    fn crash(&mut self) -> bool {
        if let Some(crash) = self.crash {
            crash();
            self.forget_open();
        }
        self.crash.is_some()
    }

    fn forget_open(&mut self) {
        self.slots = [const { None }; SLOTS];
    }
}

/// `close(2)` with its error.
fn close(file: File) -> Result<()> {
    Ok(nix::unistd::close(file)?)
}

fn copy(from: &Path, to: &Path, offset: u64, at: u64, len: usize) -> Result<()> {
    let source = File::open(from).and_then(|file| {
        // A directory can be opened for reading, not copied from.
        if file.metadata()?.is_dir() { Err(Errno::EISDIR.into()) } else { Ok(file) }
    })?;
    let target = OpenOptions::new().write(true).open(to)?;
    if source.metadata()?.ino() == target.metadata()?.ino() {
        return Ok(());
    }
    let (mut from, mut to, mut left) = (offset, at, len);
    while left > 0 {
        match copy_file_range(&source, Some(&mut from), &target, Some(&mut to), left)? {
            0 => break,
            copied => left -= copied,
        }
    }
    close(target)
}

fn see_path(path: &Path) -> Result<Seen> {
    let meta = fs::symlink_metadata(path)?;
    if meta.is_file() {
        return see_file(&OpenOptions::new().read(true).custom_flags(O_NOFOLLOW).open(path)?);
    }
    let mut names = Vec::new();
    if meta.is_dir() {
        for entry in fs::read_dir(path)? {
            names.push(entry?.file_name().into_string().expect("names of the model"));
        }
        names.sort_unstable();
    }
    let content =
        if meta.is_symlink() { fs::read_link(path)?.into_os_string().into_encoded_bytes() } else { Vec::new() };
    let mut xattrs = BTreeMap::new();
    if meta.is_dir() {
        for name in xattr::list(path)? {
            let value = xattr::get(path, &name)?.unwrap_or_default();
            xattrs.insert(name.into_string().expect("names of the model"), value);
        }
    }
    Ok(Seen {
        kind: if meta.is_dir() { "directory" } else { "link" },
        mode: meta.mode() & 0o7777,
        links: meta.nlink(),
        content,
        names,
        xattrs,
        mtime: Some(meta.mtime()),
    })
}

fn see_file(file: &File) -> Result<Seen> {
    use xattr::FileExt as _;
    let meta = file.metadata()?;
    let mut content = vec![0; usize::try_from(meta.len()).expect("small")];
    file.read_exact_at(&mut content, 0)?;
    check_holes(file, &content)?;
    let mut xattrs = BTreeMap::new();
    for name in file.list_xattr()? {
        let value = file.get_xattr(&name)?.unwrap_or_default();
        xattrs.insert(name.into_string().expect("names of the model"), value);
    }
    let (mode, links) = (meta.mode() & 0o7777, meta.nlink());
    Ok(Seen { kind: "file", mode, links, content, names: Vec::new(), xattrs, mtime: Some(meta.mtime()) })
}

/// What is said to be a hole reads as zeros.
fn check_holes(file: &File, content: &[u8]) -> Result<()> {
    let mut at = 0;
    while at < content.len() as u64 {
        let data = match seek(file, SeekFrom::Data(at)) {
            Ok(data) => data,
            Err(rustix::io::Errno::NXIO) => content.len() as u64,
            Err(error) => return Err(error.into()),
        };
        let hole = &content[usize::try_from(at).expect("small")..usize::try_from(data).expect("small")];
        assert!(hole.iter().all(|byte| *byte == 0), "data in what SEEK_DATA says is a hole at {at} .. {data}");
        if data == content.len() as u64 {
            break;
        }
        at = seek(file, SeekFrom::Hole(data))?;
        assert!(at > data, "SEEK_HOLE gives {at} at data that begins at {data}");
    }
    Ok(())
}
