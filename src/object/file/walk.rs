//! Listing a tree of files as if it were a flat, sorted set of keys.
//!
//! A directory sorts as its name with `/` behind it, so the order of the entries of each directory is the order of
//! whole keys, and only one directory per level is in memory. Nothing is kept between pages: directories that end
//! before the key after which a page begins are not read.

use std::fs::{self, DirEntry, Metadata};
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use stead_base::Timestamp;

use crate::ObjectInfo;

/// A temporary file of this age belongs to a writer that died.
const DEAD_AFTER: Duration = Duration::from_secs(24 * 3600);

/// What to list.
pub(super) struct Query<'a> {
    pub(super) root: &'a Path,
    pub(super) prefix: &'a str,
    pub(super) after: &'a str,
    pub(super) limit: usize,
    /// For the age of temporary files.
    pub(super) now: Timestamp,
}

struct Entry {
    /// The whole key, with `/` at the end for a directory.
    key: String,
    path: PathBuf,
}

impl Query<'_> {
    /// The page. Blocks.
    pub(super) fn run(&self) -> io::Result<Vec<ObjectInfo>> {
        let mut found = Vec::new();
        let base = self.prefix.rfind('/').map_or("", |slash| &self.prefix[..=slash]);
        match self.visit(&self.root.join(base), base, &mut found) {
            // A prefix that names no directory has no objects, but a root that is missing is an error.
            Err(error) if is_missing(&error) && !base.is_empty() => fs::metadata(self.root).map(|_| found),
            done => done.map(|()| found),
        }
    }

    fn visit(&self, dir: &Path, base: &str, found: &mut Vec<ObjectInfo>) -> io::Result<()> {
        for Entry { key, path } in self.entries(dir, base)? {
            if found.len() >= self.limit {
                return Ok(());
            }
            let done = match key.strip_suffix('/') {
                Some(_) => self.visit(&path, &key, found),
                None => info(key, &path).map(|info| found.extend(info)),
            };
            match done {
                Err(error) if is_missing(&error) => (),
                done => done?,
            }
        }
        Ok(())
    }

    /// The entries of `dir` that are, or may contain, what is asked for, in the order of their keys.
    fn entries(&self, dir: &Path, base: &str) -> io::Result<Vec<Entry>> {
        let mut entries = Vec::new();
        for entry in fs::read_dir(dir)? {
            let entry = entry?;
            let Some(key) = self.key(&entry, base)? else { continue };
            if self.may_contain(&key) {
                entries.push(Entry { key, path: entry.path() });
            }
        }
        entries.sort_unstable_by(|a, b| a.key.cmp(&b.key));
        Ok(entries)
    }

    /// The key of an entry; `None` for a temporary file and for a name that is no text.
    fn key(&self, entry: &DirEntry, base: &str) -> io::Result<Option<String>> {
        let name = entry.file_name();
        let Some(name) = name.to_str() else { return Ok(None) };
        if entry.file_type()?.is_dir() {
            return Ok(Some(format!("{base}{name}/")));
        }
        if super::temporary::is_temporary(name) {
            self.remove_if_dead(entry);
            return Ok(None);
        }
        Ok(Some(format!("{base}{name}")))
    }

    fn may_contain(&self, key: &str) -> bool {
        let matches = key.starts_with(self.prefix) || (key.ends_with('/') && self.prefix.starts_with(key));
        matches && (key > self.after || (key.ends_with('/') && self.after.starts_with(key)))
    }

    /// Nobody else would: its writer has died, and it is no object.
    fn remove_if_dead(&self, entry: &DirEntry) {
        let age = |metadata: Metadata| Some(self.now.since(metadata.modified().ok()?.into()));
        if entry.metadata().ok().and_then(age).is_some_and(|age| age > DEAD_AFTER) {
            let _gone_or_kept = fs::remove_file(entry.path());
        }
    }
}

/// `None` for what is no regular file.
fn info(key: String, path: &Path) -> io::Result<Option<ObjectInfo>> {
    let metadata = fs::metadata(path)?;
    if !metadata.is_file() {
        return Ok(None);
    }
    let modified = metadata.modified().unwrap_or(SystemTime::UNIX_EPOCH).into();
    Ok(Some(ObjectInfo { key, size: metadata.len(), modified }))
}

fn is_missing(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory)
}
