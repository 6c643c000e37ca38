//! Whole trees: what they hold, how two differ, and a copy of one by several writers.

use std::collections::{BTreeMap, HashMap};
use std::ffi::OsString;
use std::fs::{self, File, FileTimes, Metadata};
use std::io::{Read, Write};
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use crate::pattern::mix;

/// What is at a path, as far as a user can see it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node {
    kind: &'static str,
    mode: u32,
    owner: (u32, u32),
    /// Of a directory it is the file system's own business.
    size: u64,
    mtime: (i64, i64),
    links: u64,
    device: u64,
    /// Target of a symbolic link.
    target: Option<PathBuf>,
    xattrs: BTreeMap<OsString, Vec<u8>>,
    checksum: Option<u32>,
    /// The first path with the same inode.
    twin: Option<PathBuf>,
}

impl Node {
    /// The same with root as owner, for a copy that does not keep owners.
    pub fn without_owner(&self) -> Self {
        Self { owner: (0, 0), ..self.clone() }
    }
}

/// A tree by relative path; the root itself is the empty path.
pub type Tree = BTreeMap<PathBuf, Node>;

/// Reads a whole tree, content included. What the clients show at the top of a volume beside its content is left out.
pub fn scan(root: &Path) -> Tree {
    // The Go client makes up a root, of time 0, when the engine takes more than 300 ms, and the kernel keeps that a while.
    crate::eventually("the root's own attributes", Duration::from_secs(20), || {
        fs::symlink_metadata(root).is_ok_and(|meta| meta.mtime() != 0).then_some(())
    });
    let mut tree = Tree::new();
    let mut inodes = HashMap::new();
    visit(root, &mut |path, meta| {
        let relative = path.strip_prefix(root).expect("below the root").to_owned();
        let first = inodes.entry(meta.ino()).or_insert_with(|| relative.clone());
        let twin = (meta.nlink() > 1 && !meta.is_dir()).then(|| first.clone());
        let node = read_node(path, meta, twin);
        tree.insert(relative, node);
    });
    tree
}

/// Calls `each` for the root and everything below, directories before what they hold, in the order of names.
fn visit(root: &Path, each: &mut impl FnMut(&Path, &Metadata)) {
    const INTERNAL: [&str; 5] = [".accesslog", ".config", ".stats", ".trash", ".stead"];
    let mut todo = vec![root.to_owned()];
    while let Some(path) = todo.pop() {
        let meta = fs::symlink_metadata(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        each(&path, &meta);
        if meta.is_dir() {
            let listed = fs::read_dir(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
            let mut names: Vec<_> = listed.map(|entry| entry.expect("an entry").file_name()).collect();
            names.retain(|name| path != root || !INTERNAL.iter().any(|internal| name == internal));
            names.sort_unstable_by(|a, b| b.cmp(a));
            todo.extend(names.iter().map(|name| path.join(name)));
        }
    }
}

fn read_node(path: &Path, meta: &Metadata, twin: Option<PathBuf>) -> Node {
    let kind = meta.file_type();
    let failed = |error: std::io::Error| format!("{}: {error}", path.display());
    let device = kind.is_block_device() || kind.is_char_device();
    Node {
        kind: kind_name(kind),
        mode: meta.mode() & 0o7777,
        owner: (meta.uid(), meta.gid()),
        size: if kind.is_dir() { 0 } else { meta.size() },
        mtime: (meta.mtime(), meta.mtime_nsec()),
        links: if kind.is_dir() { 0 } else { meta.nlink() },
        device: if device { meta.rdev() } else { 0 },
        target: kind.is_symlink().then(|| fs::read_link(path).map_err(failed).expect("a readable link")),
        xattrs: if kind.is_symlink() { BTreeMap::new() } else { xattrs(path) },
        checksum: kind.is_file().then(|| checksum(path).map_err(failed).expect("a readable file")),
        twin,
    }
}

fn kind_name(kind: fs::FileType) -> &'static str {
    match kind {
        _ if kind.is_dir() => "directory",
        _ if kind.is_file() => "file",
        _ if kind.is_symlink() => "symlink",
        _ if kind.is_fifo() => "fifo",
        _ if kind.is_socket() => "socket",
        _ if kind.is_char_device() => "character device",
        _ => "block device",
    }
}

fn xattrs(path: &Path) -> BTreeMap<OsString, Vec<u8>> {
    let names = xattr::list(path).unwrap_or_else(|error| panic!("{}: list of attributes: {error}", path.display()));
    names.filter_map(|name| Some((name.clone(), xattr::get(path, &name).ok()??))).collect()
}

fn checksum(path: &Path) -> std::io::Result<u32> {
    let mut file = File::open(path)?;
    let mut buffer = vec![0; 1 << 20];
    let mut sum = 0;
    loop {
        match file.read(&mut buffer)? {
            0 => return Ok(sum),
            read => sum = crc32c::crc32c_append(sum, &buffer[..read]),
        }
    }
}

/// How two trees differ, in words; empty when they are the same.
pub fn differences(expected: &Tree, found: &Tree) -> Vec<String> {
    let mut lines = Vec::new();
    for (path, node) in expected {
        match found.get(path) {
            None => lines.push(format!("{}: missing", path.display())),
            Some(other) if other != node => {
                lines.push(format!("{}: expected {node:?}, found {other:?}", path.display()))
            }
            Some(_) => {}
        }
    }
    let extra = found.keys().filter(|path| !expected.contains_key(*path));
    lines.extend(extra.map(|path| format!("{}: not expected", path.display())));
    lines
}

/// Panics with the first differences.
pub fn assert_same(what: &str, expected: &Tree, found: &Tree) {
    let lines = differences(expected, found);
    assert!(
        lines.is_empty(),
        "{what}: {} differences, the first:\n{}",
        lines.len(),
        lines[..lines.len().min(12)].join("\n")
    );
}

/// Files and their bytes.
pub fn volume_of(tree: &Tree) -> (usize, u64) {
    let files = tree.values().filter(|node| node.kind == "file");
    files.fold((0, 0), |(count, bytes), node| (count + 1, bytes + node.size))
}

/// Copies trees with mode and time, each pair from its first path to its second, by `writers` threads that share the
/// files of all of them; the directories come first.
pub fn copy(trees: &[(PathBuf, PathBuf)], writers: usize) -> std::io::Result<()> {
    let (mut dirs, mut rest) = (Vec::new(), Vec::new());
    for (from, to) in trees {
        visit(from, &mut |path, meta| {
            let target = to.join(path.strip_prefix(from).expect("below the root"));
            if meta.is_dir() { dirs.push((path.to_owned(), target)) } else { rest.push((path.to_owned(), target)) }
        });
    }
    dirs.iter().try_for_each(|(_, target)| fs::create_dir_all(target))?;
    // A stable shuffle, so that the writers meet in the same directories.
    rest.sort_by_key(|(_, target)| mix(u64::from(crc32c::crc32c(target.as_os_str().as_encoded_bytes()))));
    let rest = &rest;
    thread::scope(|scope| {
        let writer = |n| move || rest.iter().skip(n).step_by(writers).try_for_each(|(from, to)| copy_one(from, to));
        let threads: Vec<_> = (0..writers).map(|n| scope.spawn(writer(n))).collect();
        threads.into_iter().try_for_each(|thread| thread.join().expect("a writer ends"))
    })?;
    dirs.iter().rev().try_for_each(|(source, target)| copy_attributes(source, target))
}

fn copy_one(from: &Path, to: &Path) -> std::io::Result<()> {
    if from.is_symlink() {
        return symlink(fs::read_link(from)?, to);
    }
    let (mut source, mut target) = (File::open(from)?, File::create_new(to)?);
    let mut buffer = vec![0; 128 << 10];
    loop {
        match source.read(&mut buffer)? {
            0 => break,
            read => target.write_all(&buffer[..read])?,
        }
    }
    drop(target);
    copy_attributes(from, to)
}

fn copy_attributes(from: &Path, to: &Path) -> std::io::Result<()> {
    let meta = fs::metadata(from)?;
    fs::set_permissions(to, fs::Permissions::from_mode(meta.mode() & 0o7777))?;
    File::open(to)?.set_times(FileTimes::new().set_modified(meta.modified()?).set_accessed(meta.accessed()?))
}

/// Takes the times of symbolic links out, which [`copy`] cannot set.
pub fn without_symlink_times(mut tree: Tree) -> Tree {
    tree.values_mut().filter(|node| node.kind == "symlink").for_each(|node| node.mtime = (0, 0));
    tree
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_copy_is_the_same_and_a_changed_byte_is_seen() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let (from, to) = (dir.path().join("from"), dir.path().join("to"));
        fs::create_dir_all(from.join("sub")).expect("made");
        fs::write(from.join("sub/file"), "content").expect("written");
        symlink("file", from.join("sub/link")).expect("linked");
        fs::hard_link(from.join("sub/file"), from.join("twin")).expect("linked");
        fs::remove_file(from.join("twin")).expect("removed");
        copy(&[(from.clone(), to.clone())], 2).expect("copied");
        let (expected, found) = (without_symlink_times(scan(&from)), without_symlink_times(scan(&to)));
        assert_eq!(differences(&expected, &found), Vec::<String>::new());
        fs::write(to.join("sub/file"), "contend").expect("written");
        copy_attributes(&from.join("sub/file"), &to.join("sub/file")).expect("set");
        assert_eq!(differences(&expected, &without_symlink_times(scan(&to))).len(), 1);
    }
}
