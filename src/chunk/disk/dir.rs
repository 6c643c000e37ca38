//! One cache directory: `<cache-dir>/<UUID>/raw/<key>`.
//!
//! Reads happen where they are called; files are written and removed by one thread of the directory's own, off everybody's
//! path. Other processes, the Go client among them, may use the directory at the same time: a file that is not in the index
//! is looked for all the same, and a scan at start and once an hour takes over what others have changed.

use std::fs;
use std::io;
use std::num::NonZeroUsize;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use bytes::Bytes;
use lru::LruCache;
use nix::sys::statvfs::statvfs;
use parking_lot::Mutex;
use tokio::sync::oneshot;
use tracing::{debug, warn};
use uuid::Uuid;

use super::file::{self, CacheFile, Unusable};
use super::index::{self, Index};
use super::scan;
use crate::block::{BlockId, Naming};
use crate::usage::Counters;
use crate::{Error, Result};

const SCAN_INTERVAL: Duration = Duration::from_secs(3600);
/// Files that are kept open. Blocks never change, so an open file stays right even when its name is gone.
const OPEN_FILES: NonZeroUsize = NonZeroUsize::new(128).expect("not zero");

/// What a directory is to keep to.
#[derive(Clone, Copy, Debug)]
pub(super) struct Bounds {
    pub(super) capacity: u64,
    pub(super) free_space_ratio: f64,
    /// Bytes that may wait for the writing thread.
    pub(super) queue: u64,
}

/// An open cache directory. Dropping it ends its thread once that has written what waits.
#[derive(Debug)]
pub(super) struct CacheDir {
    shared: Arc<Shared>,
    jobs: mpsc::Sender<Job>,
}

#[derive(Debug)]
pub(super) struct Shared {
    /// `<cache-dir>/<UUID>`.
    pub(super) root: PathBuf,
    /// The text of `.lock`.
    id: String,
    pub(super) naming: Naming,
    pub(super) index: Index,
    /// Files that were read last.
    open: Mutex<LruCache<BlockId, Arc<CacheFile>>>,
    bounds: Bounds,
    queued: AtomicU64,
    counters: Arc<Counters>,
}

enum Job {
    Store(BlockId, Bytes),
    Remove(BlockId),
    Flush(oneshot::Sender<()>),
}

impl CacheDir {
    /// Opens a directory, making it if need be, and starts its threads. An error says why it cannot be written.
    pub(super) fn open(
        dir: &Path,
        uuid: &str,
        naming: Naming,
        bounds: Bounds,
        counters: Arc<Counters>,
    ) -> Result<Self> {
        let root = dir.join(uuid);
        let id = prepare(&root).map_err(|e| Error::CacheDir {
            path: root.clone(),
            why: format!("cannot be used, it has to be writable: {e}"),
        })?;
        let shared = Arc::new(Shared {
            root,
            id,
            naming,
            index: Index::new(bounds.capacity),
            open: Mutex::new(LruCache::new(OPEN_FILES)),
            bounds,
            queued: AtomicU64::new(0),
            counters,
        });
        let (jobs, inbox) = mpsc::channel();
        let weak = Arc::downgrade(&shared);
        std::thread::Builder::new()
            .name("stead-cache".to_owned())
            .spawn(move || work(&weak, &inbox))
            .map_err(|e| Error::CacheDir { path: shared.root.clone(), why: format!("no thread for it: {e}") })?;
        Ok(Self { shared, jobs })
    }

    pub(super) fn id(&self) -> &str {
        &self.shared.id
    }

    pub(super) fn index(&self) -> &Index {
        &self.shared.index
    }

    /// Reads verified bytes of a block; `None` if the file is missing or damaged, in which case it has been removed.
    pub(super) fn read(&self, block: BlockId, want: Range<u32>) -> Option<Bytes> {
        let shared = &self.shared;
        match shared.file(block).and_then(|file| file.read(want)) {
            Ok(data) => {
                shared.index.touch(block);
                return Some(data);
            }
            Err(Unusable::Io(e)) if e.kind() == io::ErrorKind::NotFound => {}
            Err(Unusable::Io(e)) => warn!(path = %shared.path(block).display(), error = %e, "cannot read a cache file"),
            Err(Unusable::Damaged(why)) => {
                let path = shared.path(block);
                warn!(path = %path.display(), why, "damaged cache file deleted; its block is fetched again");
                shared.counters.corrupt.add(1);
                shared.unlink(block);
            }
        }
        shared.forget(block);
        None
    }

    /// The same without waiting: only from a file that is open, and only what the kernel has in memory.
    pub(super) fn read_now(&self, block: BlockId, want: Range<u32>) -> Option<Bytes> {
        let file = self.shared.open.lock().get(&block).cloned()?;
        let data = file.read_now(want).ok()?;
        self.shared.index.touch(block);
        Some(data)
    }

    /// Has a block written in the background, unless too much waits already.
    pub(super) fn store(&self, block: BlockId, data: Bytes) {
        let shared = &self.shared;
        if shared.index.contains(block) || !shared.index.can_hold(block) {
            return;
        }
        let size = data.len() as u64;
        let room = |queued: u64| Some(queued + size).filter(|&sum| sum <= shared.bounds.queue);
        let queued = shared.queued.fetch_update(Ordering::Relaxed, Ordering::Relaxed, room);
        if queued.is_err() || self.jobs.send(Job::Store(block, data)).is_err() {
            shared.counters.drops.add(1);
        }
    }

    /// Has a block's file removed in the background.
    pub(super) fn remove(&self, block: BlockId) {
        self.shared.forget(block);
        // Without its thread the directory keeps a file that nobody will ask for again.
        let _ = self.jobs.send(Job::Remove(block));
    }

    /// Waits until everything that was to be written or removed has been.
    pub(super) async fn flush(&self) {
        let (done, wait) = oneshot::channel();
        if self.jobs.send(Job::Flush(done)).is_ok() {
            // An error means that the thread has ended, and so has nothing more to do.
            let _ = wait.await;
        }
    }
}

impl Shared {
    fn path(&self, block: BlockId) -> PathBuf {
        self.root.join("raw").join(self.naming.key(block))
    }

    fn file(&self, block: BlockId) -> Result<Arc<CacheFile>, Unusable> {
        if let Some(file) = self.open.lock().get(&block) {
            return Ok(Arc::clone(file));
        }
        let file = Arc::new(CacheFile::open(&self.path(block), block.len)?);
        self.open.lock().put(block, Arc::clone(&file));
        Ok(file)
    }

    fn forget(&self, block: BlockId) {
        self.open.lock().pop(&block);
        self.index.forget(block);
    }

    fn unlink(&self, block: BlockId) {
        self.open.lock().pop(&block);
        let path = self.path(block);
        match fs::remove_file(&path) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => {
                warn!(path = %path.display(), error = %e, "cannot remove a cache file");
            }
            _ => {}
        }
    }

    fn store(&self, block: BlockId, data: &[u8]) {
        let path = self.path(block);
        let mut temporary = path.clone().into_os_string();
        temporary.push(format!(".{}.tmp", Uuid::new_v4().simple()));
        if !self.make_room(block) {
            debug!(path = %path.display(), "not cached: the disk is too full");
            self.counters.drops.add(1);
            return;
        }
        match file::write(&path, Path::new(&temporary), data) {
            Ok(()) => {
                self.index.touch(block);
                self.counters.writes.add(1);
                self.counters.write_bytes.add(data.len() as u64);
            }
            Err(e) => {
                warn!(path = %path.display(), error = %e, "cannot write a cache file");
                self.counters.drops.add(1);
            }
        }
    }

    /// Removes old files until a block fits into the capacity and leaves the file system its free share.
    fn make_room(&self, block: BlockId) -> bool {
        let extra = index::cost(block);
        while let Some(old) = self.index.evict_for(extra) {
            self.evict(old);
        }
        while !self.has_free_space(extra) {
            match self.index.evict_any() {
                Some(old) => self.evict(old),
                None => return false,
            }
        }
        true
    }

    fn evict(&self, old: BlockId) {
        self.unlink(old);
        self.counters.evicts.add(1);
    }

    fn has_free_space(&self, extra: u64) -> bool {
        let Ok(stat) = statvfs(&self.root) else {
            return true;
        };
        let ratio = self.bounds.free_space_ratio;
        let enough = |free: u64, total: u64| total == 0 || as_f64(free) >= ratio * as_f64(total);
        let unit = stat.fragment_size();
        let free_bytes = (stat.blocks_available() * unit).saturating_sub(extra);
        enough(free_bytes, stat.blocks() * unit) && enough(stat.files_available(), stat.files())
    }
}

#[expect(clippy::cast_precision_loss, reason = "a share of a disk needs no more than 53 bits")]
fn as_f64(n: u64) -> f64 {
    n as f64
}

/// The directory's thread: ends when the [`CacheDir`] is gone.
fn work(shared: &Weak<Shared>, inbox: &mpsc::Receiver<Job>) {
    let mut next_scan = Instant::now();
    loop {
        if Instant::now() >= next_scan {
            scan::start(shared.clone());
            next_scan = Instant::now() + SCAN_INTERVAL;
        }
        match inbox.recv_timeout(next_scan.saturating_duration_since(Instant::now())) {
            Ok(job) => {
                if let Some(shared) = shared.upgrade() {
                    run(&shared, job);
                }
            }
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => return,
        }
    }
}

fn run(shared: &Shared, job: Job) {
    match job {
        Job::Store(block, data) => {
            shared.store(block, &data);
            shared.queued.fetch_sub(data.len() as u64, Ordering::Relaxed);
        }
        Job::Remove(block) => {
            shared.unlink(block);
            shared.forget(block);
        }
        Job::Flush(done) => {
            // Whoever asked may have stopped waiting.
            let _ = done.send(());
        }
    }
}

/// Makes the directories, proves that they can be written, and reads or writes the identity.
fn prepare(root: &Path) -> io::Result<String> {
    file::make_dir(&root.join("raw"))?;
    let lock = root.join(".lock");
    let proposal = root.join(format!(".lock.{}.tmp", Uuid::new_v4().simple()));
    fs::write(&proposal, Uuid::new_v4().to_string())?;
    // A link never replaces: whoever comes first decides the identity, and it is whole when it appears.
    let linked = fs::hard_link(&proposal, &lock);
    fs::remove_file(&proposal)?;
    match linked {
        Err(e) if e.kind() != io::ErrorKind::AlreadyExists => return Err(e),
        _ => {}
    }
    let id = fs::read_to_string(&lock)?.trim().to_owned();
    if id.is_empty() {
        return Err(io::Error::other(format!("{} is empty: remove it", lock.display())));
    }
    Ok(id)
}
