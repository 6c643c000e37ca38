//! Objects as files below a directory (format.md §5.1): the key is the path.
//!
//! A `put` writes a temporary file next to its target and renames it. What may wait for a disk runs on the threads that
//! the runtime keeps for that; small reads of what the kernel has in memory are answered at once.

mod read;
mod temporary;
#[cfg(test)]
mod tests;
mod unsynced;
mod walk;

use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind, Write};
use std::ops::Range;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use async_trait::async_trait;
use bytes::Bytes;
use stead_base::{Clock, SystemClock, failpoint};
use tokio::sync::Semaphore;

use crate::{Error, ObjectInfo, ObjectStore, Result};
use unsynced::Unsynced;

/// Attempts to write into a directory that another client may remove between our making and using it.
const PUT_ATTEMPTS: usize = 3;

/// The disk is told at once of bodies from this size on, so that little is left to wait for when somebody syncs.
const EARLY_WRITEBACK: usize = 256 << 10;

/// Bodies that go straight to the disk at the same time. When it does not keep up, the page cache takes the others.
const DIRECT_WRITES: usize = 4;

/// Objects that one thread removes.
const REMOVED_TOGETHER: usize = 64;

/// What a key stands for.
#[derive(Debug)]
enum Target {
    Object(PathBuf),
    /// Of a key that ends in `/`.
    Directory(PathBuf),
}

/// A directory as a bucket. It is not made by `put`, so that objects never land below the mount point of a file system
/// that is not mounted; [`create_bucket`](ObjectStore::create_bucket) makes it.
///
/// Keys with empty, `.` or `..` components are refused. A key that ends in `/` is a directory: `put` makes it, `delete`
/// removes it if it is empty, and it is no object. Empty directories stay. Temporary files that are a day old are
/// removed when a listing meets them.
#[derive(Debug)]
pub struct FileStore {
    place: Arc<Place>,
}

#[derive(Debug)]
struct Place {
    root: PathBuf,
    unsynced: Unsynced,
    /// One each for who writes straight to the disk.
    direct: Semaphore,
    clock: Arc<dyn Clock>,
    /// Whether a lookup of cached names never waits, which a network file system does not promise.
    is_local: OnceLock<bool>,
}

impl FileStore {
    /// The store in `directory`: an absolute path, with or without `file://` before it.
    ///
    /// # Errors
    /// [`Error::Config`] for a path that is not absolute.
    pub fn new(directory: &str) -> Result<Self> {
        Self::with_clock(directory, Arc::new(SystemClock))
    }

    /// The same with a clock of one's own, which tells the age of temporary files.
    ///
    /// # Errors
    /// As [`FileStore::new`].
    pub fn with_clock(directory: &str, clock: Arc<dyn Clock>) -> Result<Self> {
        let path = directory.strip_prefix("file://").unwrap_or(directory);
        if !path.starts_with('/') || path.contains('\0') {
            let why = "storage file needs an absolute directory, such as /var/lib/objects/".to_owned();
            return Err(Error::Config { field: "bucket", value: directory.to_owned(), why });
        }
        let root: PathBuf = Path::new(path).components().collect();
        let unsynced = Unsynced::below(root.clone());
        let place = Place { root, unsynced, direct: Semaphore::new(DIRECT_WRITES), clock, is_local: OnceLock::new() };
        Ok(Self { place: Arc::new(place) })
    }

    /// Runs `work` where it may wait for a disk.
    async fn blocking<T: Send + 'static>(
        &self,
        key: &str,
        work: impl FnOnce(&Place) -> io::Result<T> + Send + 'static,
    ) -> Result<T> {
        let place = Arc::clone(&self.place);
        let done = tokio::task::spawn_blocking(move || work(&place).map_err(|error| (place.has_root(), error))).await;
        match done {
            Ok(result) => result.map_err(|(has_root, error)| self.error(key, has_root, &error)),
            Err(ended) => Err(Error::Temporary { store: self.describe(), why: format!("{key:?}: {ended}") }),
        }
    }

    fn error(&self, key: &str, has_root: bool, error: &io::Error) -> Error {
        let store = self.describe();
        let why = if key.is_empty() { error.to_string() } else { format!("{key:?}: {error}") };
        match error.kind() {
            ErrorKind::NotFound | ErrorKind::NotADirectory if !has_root => {
                Error::NoBucket { store, why: format!("there is no directory {}", self.place.root.display()) }
            }
            ErrorKind::NotFound | ErrorKind::NotADirectory => Error::NotFound { store, key: key.to_owned() },
            ErrorKind::PermissionDenied | ErrorKind::ReadOnlyFilesystem => Error::Denied { store, why },
            ErrorKind::StorageFull | ErrorKind::QuotaExceeded => Error::Full { store, why },
            ErrorKind::TimedOut | ErrorKind::StaleNetworkFileHandle | ErrorKind::Interrupted => {
                Error::Temporary { store, why }
            }
            _ if is_out_of_files(error) => Error::Temporary { store, why },
            _ => Error::Other { store, why },
        }
    }

    fn target(&self, key: &str) -> Result<Target> {
        let path = self.place.path(key)?;
        Ok(if key.ends_with('/') { Target::Directory(path) } else { Target::Object(path) })
    }

    /// The file of an object; a directory is none.
    fn object_path(&self, key: &str) -> Result<PathBuf> {
        match self.target(key)? {
            Target::Object(path) => Ok(path),
            Target::Directory(_) => Err(self.not_found(key)),
        }
    }

    fn not_found(&self, key: &str) -> Error {
        Error::NotFound { store: self.describe(), key: key.to_owned() }
    }
}

/// Lets the kernel begin to write a file to the disk. That is a hint: [`Unsynced`] makes sure of it.
#[expect(unsafe_code, reason = "none of our libraries has sync_file_range(2)")]
fn start_writeback(file: &File) {
    // SAFETY: the call takes numbers only, and the descriptor is open as long as `file` is borrowed.
    let _a_hint = unsafe { libc::sync_file_range(file.as_raw_fd(), 0, 0, libc::SYNC_FILE_RANGE_WRITE) };
}

/// EMFILE and ENFILE have no kind of their own.
fn is_out_of_files(error: &io::Error) -> bool {
    use rustix::io::Errno;
    let number = error.raw_os_error();
    [Errno::MFILE, Errno::NFILE].iter().any(|errno| number == Some(errno.raw_os_error()))
}

impl Place {
    fn path(&self, key: &str) -> Result<PathBuf> {
        let parts = key.strip_suffix('/').unwrap_or(key);
        let is_bad = |part: &str| matches!(part, "" | "." | "..");
        if parts.split('/').any(is_bad) || key.contains('\0') {
            let why = "must consist of names between single slashes, none of them empty, . or ..".to_owned();
            return Err(Error::Config { field: "key", value: key.to_owned(), why });
        }
        Ok(self.root.join(parts))
    }

    fn has_root(&self) -> bool {
        self.root.is_dir()
    }

    fn read(&self, path: &Path, range: Option<Range<u64>>) -> io::Result<Bytes> {
        read::blocking(path, range, self.is_local())
    }

    fn is_local(&self) -> bool {
        if let Some(known) = self.is_local.get() {
            return *known;
        }
        // A root that is not there yet may be anywhere.
        read::is_local(&self.root).is_some_and(|found| *self.is_local.get_or_init(|| found))
    }

    fn write(&self, path: PathBuf, body: &[u8]) -> io::Result<()> {
        let temporary = temporary::beside(&path);
        let file = self.create(&temporary)?;
        let done = self.fill(&file, body).and_then(|()| {
            if body.len() >= EARLY_WRITEBACK {
                start_writeback(&file);
            }
            failpoint::hit("object.file.before-rename");
            fs::rename(&temporary, &path)
        });
        if done.is_err() {
            let _the_first_error_counts = fs::remove_file(&temporary);
        } else {
            self.unsynced.add(path);
        }
        done
    }

    fn fill(&self, mut file: &File, body: &[u8]) -> io::Result<()> {
        let may_be_direct = body.len() >= stead_bulk::LARGE && self.is_local();
        match may_be_direct.then(|| self.direct.try_acquire()) {
            Some(Ok(_turn)) => stead_bulk::write(file, body),
            Some(Err(_)) | None => file.write_all(body),
        }
    }

    /// A new file, with the directories above it where they are missing.
    fn create(&self, path: &Path) -> io::Result<File> {
        let create = || OpenOptions::new().write(true).create_new(true).open(path);
        let mut result = create();
        for _ in 1..PUT_ATTEMPTS {
            match result {
                Err(error) if error.kind() == ErrorKind::NotFound => {
                    self.make_dirs(path.parent().unwrap_or(&self.root))?;
                    result = create();
                }
                done => return done,
            }
        }
        result
    }

    /// Makes `dir` and what is missing above it, but not the root.
    fn make_dirs(&self, dir: &Path) -> io::Result<()> {
        fs::metadata(&self.root)?;
        fs::create_dir_all(dir)?;
        self.unsynced.made_dirs(dir);
        Ok(())
    }

    fn remove(&self, target: &Target) -> io::Result<()> {
        match target {
            Target::Object(path) => {
                self.unsynced.remove(path);
                // From then on it is known whether removals go together.
                self.is_local();
                let done = fs::remove_file(path);
                if done.as_ref().is_err_and(|error| error.kind() == ErrorKind::NotFound) && !self.has_root() {
                    // Nothing is gone: the file system of the bucket is not mounted.
                    return done;
                }
                // What is a directory, or lies below a file, is no object.
                is_gone(done, &[ErrorKind::NotFound, ErrorKind::NotADirectory, ErrorKind::IsADirectory])
            }
            Target::Directory(path) => {
                let done = fs::remove_dir(path);
                is_gone(done, &[ErrorKind::NotFound, ErrorKind::NotADirectory, ErrorKind::DirectoryNotEmpty])
            }
        }
    }

    /// Makes the root, and its name safe.
    fn make_root(&self) -> io::Result<()> {
        fs::create_dir_all(&self.root)?;
        for dir in self.root.ancestors().take(2) {
            File::open(dir)?.sync_all()?;
        }
        Ok(())
    }
}

fn is_gone(done: io::Result<()>, kinds: &[ErrorKind]) -> io::Result<()> {
    match done {
        Err(error) if kinds.contains(&error.kind()) => Ok(()),
        done => done,
    }
}

#[async_trait]
impl ObjectStore for FileStore {
    fn describe(&self) -> String {
        format!("file://{}/", self.place.root.display())
    }

    async fn get(&self, key: &str, range: Option<Range<u64>>) -> Result<Bytes> {
        let path = self.object_path(key)?;
        if self.place.is_local.get() == Some(&true)
            && let Some(body) = read::cached(&path, range.clone())
        {
            return Ok(body);
        }
        self.blocking(key, move |place| place.read(&path, range)).await
    }

    async fn put(&self, key: &str, body: Bytes) -> Result<()> {
        let target = self.target(key)?;
        self.blocking(key, move |place| match target {
            Target::Object(path) => place.write(path, &body),
            Target::Directory(path) => place.make_dirs(&path),
        })
        .await
    }

    async fn delete(&self, key: &str) -> Result<()> {
        let target = self.target(key)?;
        self.blocking(key, move |place| place.remove(&target)).await
    }

    /// Removals are done sooner than other threads have been woken for them, if the disk is a local one. On a network file
    /// system each one waits for the server.
    fn deletes_together(&self) -> usize {
        if self.place.is_local.get() == Some(&true) { REMOVED_TOGETHER } else { 1 }
    }

    async fn delete_many(&self, keys: &[String]) -> Result<()> {
        let mut keys = keys;
        loop {
            let targets = keys.iter().map(|key| self.target(key)).collect::<Result<Vec<_>>>()?;
            let remove =
                move |place: &Place| Ok(targets.iter().take_while(|target| place.remove(target).is_ok()).count());
            let gone = self.blocking("", remove).await?;
            let Some((failed, rest)) = keys[gone..].split_first() else { return Ok(()) };
            // It tells why, by itself.
            self.delete(failed).await?;
            keys = rest;
        }
    }

    async fn head(&self, key: &str) -> Result<ObjectInfo> {
        let path = self.object_path(key)?;
        let (size, modified) = self
            .blocking(key, move |_| {
                let metadata = fs::metadata(&path)?;
                Ok((read::object_size(&metadata)?, metadata.modified()?))
            })
            .await?;
        Ok(ObjectInfo { key: key.to_owned(), size, modified: modified.into() })
    }

    async fn list(&self, prefix: &str, after: &str, limit: usize) -> Result<Vec<ObjectInfo>> {
        if let Some(slash) = prefix.rfind('/') {
            self.place.path(&prefix[..=slash])?;
        }
        let (owned_prefix, after) = (prefix.to_owned(), after.to_owned());
        self.blocking(prefix, move |place| {
            let now = place.clock.now();
            walk::Query { root: &place.root, prefix: &owned_prefix, after: &after, limit, now }.run()
        })
        .await
    }

    async fn sync(&self) -> Result<()> {
        self.blocking("", |place| place.unsynced.sync()).await
    }

    async fn create_bucket(&self) -> Result<()> {
        self.blocking("", Place::make_root).await
    }
}
