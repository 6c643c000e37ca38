//! Finding what already lies in a cache directory, off everybody's path.

use std::fs::{self, DirEntry, Metadata};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Weak;
use std::time::Duration;

use tracing::{debug, warn};

use super::dir::Shared;
use crate::block::{BlockId, parse_name};

/// A temporary file this many seconds older than the scan was left by a process that died.
const STALE: i64 = 600;

/// Scans in a thread of its own; stops early when the directory is closed.
pub(super) fn start(shared: Weak<Shared>) {
    let started = std::thread::Builder::new().name("stead-scan".to_owned()).spawn(move || scan(&shared));
    if let Err(e) = started {
        warn!(error = %e, "no thread to scan a cache directory: what is in it will be found when it is read");
    }
}

struct Found {
    used: i64,
    block: BlockId,
}

fn scan(shared: &Weak<Shared>) {
    let Some(now) = shared.upgrade().and_then(|shared| {
        shared.index.begin_scan();
        touched(&shared.root)
    }) else {
        return;
    };
    let (mut found, mut dirs) = (Vec::new(), vec![PathBuf::from("chunks")]);
    while let Some(dir) = dirs.pop() {
        let Some(shared) = shared.upgrade() else { return };
        let raw = shared.root.join("raw");
        // A directory that vanishes or cannot be read has nothing to offer.
        for entry in fs::read_dir(raw.join(&dir)).into_iter().flatten().flatten() {
            match entry.metadata() {
                Ok(meta) if meta.is_dir() => dirs.push(dir.join(entry.file_name())),
                Ok(meta) => found.extend(look(&shared, &dir, &entry, &meta, now)),
                Err(_gone) => {}
            }
        }
    }
    found.sort_unstable_by_key(|file| std::cmp::Reverse(file.used));
    if let Some(shared) = shared.upgrade() {
        debug!(root = %shared.root.display(), files = found.len(), "cache directory scanned");
        let age = |used: i64| Duration::from_secs(u64::try_from(now - used).unwrap_or(0));
        let found: Vec<_> = found.into_iter().map(|file| (file.block, age(file.used))).collect();
        shared.index.end_scan(&found);
        shared.remove_expired();
    }
}

/// A block's file, if that is what the entry is. Leftovers and truncated files are removed, foreign ones stay alone.
fn look(shared: &Shared, dir: &Path, entry: &DirEntry, meta: &Metadata, now: i64) -> Option<Found> {
    let name = entry.file_name();
    let name = name.to_str()?;
    if is_leftover(entry, meta, now) {
        return None;
    }
    let block = parse_name(name)?;
    if Path::new(&shared.naming.key(block)) != dir.join(name) {
        return None;
    }
    if meta.len() < u64::from(block.len) {
        remove(&entry.path());
        return None;
    }
    Some(Found { used: meta.atime().max(meta.mtime()), block })
}

/// Whether this is a file that somebody is writing, or has left half-written: that one is removed.
pub(super) fn is_leftover(entry: &DirEntry, meta: &Metadata, now: i64) -> bool {
    let temporary = entry.file_name().as_encoded_bytes().ends_with(b".tmp");
    if temporary && meta.mtime() < now - STALE {
        remove(&entry.path());
    }
    temporary
}

fn remove(path: &Path) {
    if let Err(e) = fs::remove_file(path) {
        debug!(path = %path.display(), error = %e, "cannot remove a leftover");
    }
}

/// The file system's own time: the directory's modification, which opening it has just set.
pub(super) fn touched(root: &Path) -> Option<i64> {
    fs::metadata(root).ok().map(|meta| meta.mtime())
}
