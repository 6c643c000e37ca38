//! One cache directory: `<cache-dir>/<UUID>/raw/<key>`.
//!
//! Reads happen where they are called; files are written and removed by one thread of the directory's own, off everybody's
//! path. Other processes, the Go client among them, may use the directory at the same time: a file that is not in the index
//! is looked for all the same, and a scan at start and once an hour takes over what others have changed.

use std::collections::{HashSet, VecDeque};
use std::fs;
use std::io;
use std::num::NonZeroUsize;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use bytes::Bytes;
use lru::LruCache;
use nix::sys::statvfs::statvfs;
use parking_lot::Mutex;
use stead_base::failpoint;
use tokio::sync::oneshot;
use tokio::time::timeout;
use tracing::{debug, info, warn};
use uuid::Uuid;

use super::file::{self, CacheFile, Rules, Unusable};
use super::health::{Health, Kind, Patience, Turn};
use super::index::{self, Index};
use super::scan;
use super::waiting::Waiting;
use crate::block::{BlockId, Naming};
use crate::usage::Counters;
use crate::{Error, Eviction, Result};

const SCAN_INTERVAL: Duration = Duration::from_secs(3600);
/// Files that nobody uses are looked for this often at least.
const EXPIRY_INTERVAL: Duration = Duration::from_secs(60);
/// The file with the identity of a directory.
const LOCK: &str = ".lock";
/// For so long small files are not written: what is removed meanwhile never is, and the others are written together.
const LINGER: Duration = Duration::from_secs(5);
/// The largest of these.
const SMALL: u32 = 128 << 10;
/// Whoever waits for the writing thread looks this often whether it hangs.
const FLUSH_INTERVAL: Duration = Duration::from_millis(500);
/// Files that are kept open. Blocks never change, so an open file stays right even when its name is gone.
const OPEN_FILES: NonZeroUsize = NonZeroUsize::new(128).expect("not zero");

/// What a directory is to keep to.
#[derive(Clone, Copy, Debug)]
pub(super) struct Bounds {
    pub(super) capacity: u64,
    pub(super) free_space_ratio: f64,
    pub(super) eviction: Eviction,
    /// Files that nobody has used for so long are removed; zero: none is.
    pub(super) expire: Duration,
    pub(super) files: Rules,
    /// Bytes that may wait for the writing thread.
    pub(super) queue: u64,
    pub(super) patience: Patience,
}

/// An open cache directory. Dropping it ends its thread once that has written what waits.
#[derive(Debug)]
pub(super) struct CacheDir {
    pub(super) shared: Arc<Shared>,
    jobs: mpsc::Sender<Job>,
}

#[derive(Debug)]
pub(super) struct Shared {
    /// `<cache-dir>/<UUID>`.
    pub(super) root: PathBuf,
    /// The text of [`LOCK`].
    id: String,
    pub(super) naming: Naming,
    pub(super) index: Index,
    /// Staged blocks that no [`CacheDir::sync_staged`] has reached.
    pub(super) unsynced: Mutex<HashSet<BlockId>>,
    pub(super) syncing: Mutex<()>,
    /// Files that were read last.
    open: Mutex<LruCache<BlockId, Arc<CacheFile>>>,
    pub(super) bounds: Bounds,
    health: Health,
    waiting: Waiting,
    /// What lingers, and until when.
    idle: Mutex<VecDeque<(Instant, Idle)>>,
    counters: Arc<Counters>,
}

enum Job {
    /// Of what is in [`Waiting`].
    Store(BlockId),
    Remove(BlockId),
    /// Something lingers: what is due may be due earlier now.
    Look,
    Flush(oneshot::Sender<()>),
}

/// What is not urgent.
#[derive(Clone, Copy, Debug)]
enum Idle {
    Store(BlockId),
    Remove(BlockId),
}

impl CacheDir {
    /// `<cache-dir>/<UUID>`.
    pub(super) fn root(&self) -> &Path {
        &self.shared.root
    }

    /// Opens a directory, making it if need be, and starts its threads. An error says why it cannot be written.
    pub(super) fn open(
        dir: &Path,
        uuid: &str,
        naming: Naming,
        bounds: Bounds,
        counters: Arc<Counters>,
    ) -> Result<Self> {
        let root = dir.join(uuid);
        let id = prepare(&root, bounds.files.mode).map_err(|e| Error::CacheDir {
            path: root.clone(),
            why: format!("cannot be used, it has to be writable: {e}"),
        })?;
        let shared = Arc::new(Shared {
            root,
            id,
            naming,
            index: Index::new(bounds.capacity, bounds.eviction),
            unsynced: Mutex::default(),
            syncing: Mutex::default(),
            open: Mutex::new(LruCache::new(OPEN_FILES)),
            bounds,
            health: Health::new(bounds.patience, Instant::now()),
            waiting: Waiting::new(bounds.queue),
            idle: Mutex::default(),
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

    /// Whether nothing is read from the directory and nothing stored since its disk fails.
    pub(super) fn is_out_of_use(&self) -> bool {
        self.shared.health.is_out()
    }

    /// Takes the directory out of use if an operation hangs.
    pub(super) fn check(&self) {
        self.shared.check();
    }

    /// Reads verified bytes of a block; `None` if the file is missing or damaged, in which case it has been removed.
    pub(super) fn read(&self, block: BlockId, want: Range<u32>) -> Option<Bytes> {
        let shared = &self.shared;
        let attempt = shared.health.begin(Kind::Read, Instant::now())?;
        let found = shared.read(block, want);
        let outcome = match &found {
            Ok(_) | Err(Unusable::Damaged(_)) => Ok(()),
            Err(Unusable::Io(error)) => Err(error),
        };
        shared.announce(attempt.end(outcome, Instant::now()));
        shared.usable(block, found)
    }

    /// The same even if the directory is out of use.
    pub(super) fn read_anyway(&self, block: BlockId, want: Range<u32>) -> Option<Bytes> {
        self.shared.usable(block, self.shared.read(block, want))
    }

    /// The same without waiting: only from a file that is open, and only what the kernel has in memory.
    pub(super) fn read_now(&self, block: BlockId, want: Range<u32>) -> Option<Bytes> {
        if let Some(data) = self.shared.waiting.get(block) {
            return Some(data.slice(want.start as usize..want.end as usize));
        }
        if self.is_out_of_use() {
            return None;
        }
        let file = self.shared.open.lock().get(&block).cloned()?;
        let data = file.read_now(want).ok()?;
        self.shared.index.touch(block);
        Some(data)
    }

    /// Has a block written in the background, unless too much waits already or the directory is out of use.
    pub(super) fn store(&self, block: BlockId, data: Bytes) {
        let shared = &self.shared;
        shared.check();
        let known = shared.index.contains(block) && !shared.health.is_out();
        if known || !shared.index.can_hold(block) {
            return;
        }
        let wanted = shared.health.admits(Kind::Write, Instant::now()) && shared.waiting.add(block, data);
        let asked =
            wanted && if block.len > SMALL { self.ask(Job::Store(block)) } else { self.later(Idle::Store(block)) };
        if !asked {
            shared.counters.drops.add(1);
        }
    }

    /// `false`: the thread has ended.
    fn ask(&self, job: Job) -> bool {
        self.jobs.send(job).is_ok()
    }

    /// To wake the thread costs more than it has to do for a small file, so it is woken once for all that come meanwhile.
    fn later(&self, job: Idle) -> bool {
        let is_first = {
            let mut idle = self.shared.idle.lock();
            idle.push_back((Instant::now() + LINGER, job));
            idle.len() == 1
        };
        !(is_first || self.shared.waiting.is_crowded()) || self.ask(Job::Look)
    }

    /// Has a block's file removed in the background.
    pub(super) fn remove(&self, block: BlockId) {
        self.shared.forget(block);
        // What is only just being written is removed behind that.
        self.shared.waiting.remove(block);
        // Without its thread, or out of use, the directory keeps a file that nobody will ask for again.
        if !self.is_out_of_use() {
            // Large ones soon: whoever stores others counts on their room.
            let _ = if block.len > SMALL { self.ask(Job::Remove(block)) } else { self.later(Idle::Remove(block)) };
        }
    }

    /// Waits until everything that was to be written or removed has been, or is given up since the disk fails.
    pub(super) async fn flush(&self) {
        let (done, mut wait) = oneshot::channel();
        if self.jobs.send(Job::Flush(done)).is_err() {
            return;
        }
        // An error of the channel means that the thread has ended, and so has nothing more to do.
        while timeout(FLUSH_INTERVAL, &mut wait).await.is_err() {
            self.check();
            if self.is_out_of_use() {
                return;
            }
        }
    }
}

impl Shared {
    pub(super) fn path(&self, block: BlockId) -> PathBuf {
        self.root.join("raw").join(self.naming.key(block))
    }

    /// Does something unless the directory is out of use.
    pub(super) fn attempt<T>(&self, kind: Kind, work: impl FnOnce() -> io::Result<T>) -> Option<io::Result<T>> {
        let attempt = self.health.begin(kind, Instant::now())?;
        let done = work();
        self.announce(attempt.end(done.as_ref().map(|_| ()), Instant::now()));
        Some(done)
    }

    fn check(&self) {
        self.announce(self.health.check(Instant::now()));
    }

    fn announce(&self, turn: Option<Turn>) {
        let path = self.root.display();
        match turn {
            Some(Turn::Out { why: error, pause }) => {
                // Nobody is to be kept from unmounting a disk that is dead.
                self.open.lock().clear();
                self.counters.drops.add(self.waiting.clear());
                warn!(%path, error, ?pause, "a cache directory is out of use since its disk fails; it will be tried again");
            }
            Some(Turn::Still { why: error, pause }) => debug!(%path, error, ?pause, "a cache directory still fails"),
            Some(Turn::Back) => info!(%path, "a cache directory is in use again"),
            None => {}
        }
    }

    fn read(&self, block: BlockId, want: Range<u32>) -> Result<Bytes, Unusable> {
        self.file(block)?.read(want)
    }

    /// Tells of what cannot be used, and removes what is damaged.
    fn usable(&self, block: BlockId, found: Result<Bytes, Unusable>) -> Option<Bytes> {
        match found {
            Ok(data) => {
                self.index.touch(block);
                return Some(data);
            }
            Err(Unusable::Io(error)) if error.kind() == io::ErrorKind::NotFound => {}
            Err(Unusable::Io(error)) => self.warn(block, &error, "cannot read a cache file"),
            Err(Unusable::Damaged(why)) => {
                let path = self.path(block);
                warn!(path = %path.display(), why, "damaged cache file deleted; its block is fetched again");
                self.counters.corrupt.add(1);
                // Why it could not be deleted has been told.
                let _ = self.unlink(block);
            }
        }
        self.forget(block);
        None
    }

    /// Of a disk that is full, or out of use, enough is said elsewhere.
    fn warn(&self, block: BlockId, error: &io::Error, what: &str) {
        let path = self.path(block);
        if error.kind() == io::ErrorKind::StorageFull || self.health.is_out() {
            debug!(path = %path.display(), %error, "{what}");
        } else {
            warn!(path = %path.display(), %error, "{what}");
        }
    }

    fn file(&self, block: BlockId) -> Result<Arc<CacheFile>, Unusable> {
        if let Some(file) = self.open.lock().get(&block) {
            return Ok(Arc::clone(file));
        }
        let verify = self.bounds.files.verify;
        let file = match CacheFile::open(&self.path(block), block.len, verify) {
            Err(Unusable::Io(error)) if error.kind() == io::ErrorKind::NotFound => {
                CacheFile::open(&self.staged_path(block), block.len, verify)?
            }
            opened => opened?,
        };
        let file = Arc::new(file);
        self.open.lock().put(block, Arc::clone(&file));
        Ok(file)
    }

    fn forget(&self, block: BlockId) {
        self.open.lock().pop(&block);
        self.index.forget(block);
    }

    /// Removes a file that nobody will ask for, if it can be removed.
    fn drop_file(&self, block: BlockId) {
        let _ = self.attempt(Kind::Write, || self.unlink(block));
        self.forget(block);
    }

    fn unlink(&self, block: BlockId) -> io::Result<()> {
        self.open.lock().pop(&block);
        match fs::remove_file(self.path(block)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                self.warn(block, &error, "cannot remove a cache file");
                Err(error)
            }
            _ => Ok(()),
        }
    }

    fn store(&self, block: BlockId) {
        let Some(data) = self.waiting.get(block) else { return };
        // Each step is an operation of its own: room for one block may take the removal of many.
        let stored = loop {
            match self.attempt(Kind::Write, || self.make_room_or_write(block, &data)) {
                Some(Ok(false)) => {}
                Some(Ok(true)) => break true,
                Some(Err(error)) => {
                    self.warn(block, &error, "cannot write a cache file");
                    break false;
                }
                None => break false,
            }
        };
        let given_up = !self.waiting.remove(block);
        if stored {
            self.index.touch(block);
            self.counters.writes.add(1);
            self.counters.write_bytes.add(data.len() as u64);
        } else if !given_up {
            self.counters.drops.add(1);
        }
    }

    /// Removes another file, if that is allowed, while a block does not fit into the capacity or does not leave the file
    /// system its free share; else writes it. Whether it is written.
    fn make_room_or_write(&self, block: BlockId, data: &[u8]) -> io::Result<bool> {
        if failpoint::fails("chunk.cache.write") {
            return Err(io::Error::other("fail point"));
        }
        let extra = index::cost(block);
        if !self.index.has_room(extra) || !self.has_free_space(extra) {
            let old = self.index.evict().ok_or(io::ErrorKind::StorageFull)?;
            return self.evict(old).map(|()| false);
        }
        let path = self.path(block);
        file::write(&path, &temporary(&path), data, self.bounds.files).map(|()| true)
    }

    fn evict(&self, old: BlockId) -> io::Result<()> {
        self.unlink(old)?;
        self.counters.evicts.add(1);
        Ok(())
    }

    /// Removes what nobody has used for long.
    pub(super) fn remove_expired(&self) {
        if self.bounds.expire.is_zero() || self.health.is_out() {
            return;
        }
        for old in self.index.take_unused(self.bounds.expire) {
            // What stays is found by the next scan.
            let _ = self.attempt(Kind::Write, || self.evict(old));
        }
    }

    /// That this still is the directory that was opened: what is missing from another one, such as the one below a disk
    /// that is not mounted any more, says nothing.
    pub(super) fn confirm(&self) -> io::Result<()> {
        let found = fs::read_to_string(self.root.join(LOCK));
        if found.as_ref().is_ok_and(|id| id.trim() == self.id) {
            return Ok(());
        }
        let why = found.map_or_else(|error| error.to_string(), |_other| "it is another one".to_owned());
        Err(io::Error::other(format!("cache directory {}: {why}", self.root.display())))
    }

    fn has_free_space(&self, extra: u64) -> bool {
        self.leaves_free(extra, self.bounds.free_space_ratio)
    }

    /// What is not in the store yet may take half of what the cache leaves free.
    pub(super) fn has_room_to_stage(&self, extra: u64) -> bool {
        self.leaves_free(extra, self.bounds.free_space_ratio / 2.0)
    }

    fn leaves_free(&self, extra: u64, ratio: f64) -> bool {
        let Ok(stat) = statvfs(&self.root) else {
            return true;
        };
        let enough = |free: u64, total: u64| total == 0 || as_f64(free) >= ratio * as_f64(total);
        let unit = stat.fragment_size();
        let free_bytes = (stat.blocks_available() * unit).saturating_sub(extra);
        enough(free_bytes, stat.blocks() * unit) && enough(stat.files_available(), stat.files())
    }
}

/// A name next to `path` for what is being written.
pub(super) fn temporary(path: &Path) -> PathBuf {
    let mut temporary = path.as_os_str().to_owned();
    temporary.push(format!(".{}.tmp", Uuid::new_v4().simple()));
    temporary.into()
}

#[expect(clippy::cast_precision_loss, reason = "a share of a disk needs no more than 53 bits")]
fn as_f64(n: u64) -> f64 {
    n as f64
}

/// The directory's thread: ends when the [`CacheDir`] is gone.
fn work(shared: &Weak<Shared>, inbox: &mpsc::Receiver<Job>) {
    let mut next_scan = Instant::now();
    let expire = shared.upgrade().map_or(Duration::ZERO, |shared| shared.bounds.expire);
    let pause = if expire.is_zero() { SCAN_INTERVAL } else { expire.min(EXPIRY_INTERVAL) };
    let mut next_expiry = Instant::now() + pause;
    loop {
        if Instant::now() >= next_expiry {
            if let Some(shared) = shared.upgrade() {
                shared.remove_expired();
            }
            next_expiry = Instant::now() + pause;
        }
        if Instant::now() >= next_scan {
            if shared.upgrade().is_some_and(|shared| !shared.health.is_out()) {
                scan::start(shared.clone());
            }
            next_scan = Instant::now() + SCAN_INTERVAL;
        }
        let next_idle = shared.upgrade().and_then(|shared| run_idle(&shared, false));
        let next = next_scan.min(next_expiry).min(next_idle.unwrap_or(next_scan));
        match inbox.recv_timeout(next.saturating_duration_since(Instant::now())) {
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
        Job::Store(block) => shared.store(block),
        Job::Remove(block) => shared.drop_file(block),
        Job::Look => {}
        Job::Flush(done) => {
            run_idle(shared, true);
            // Whoever asked may have stopped waiting.
            let _ = done.send(());
        }
    }
}

/// Does what has lingered for long enough, or all, but not what comes meanwhile. Returns when the next is due.
fn run_idle(shared: &Shared, all: bool) -> Option<Instant> {
    let count = shared.idle.lock().len();
    for _job in 0..count {
        let job = {
            let mut idle = shared.idle.lock();
            let (due, job) = *idle.front()?;
            if !all && due > Instant::now() && !shared.waiting.is_crowded() {
                return Some(due);
            }
            idle.pop_front();
            job
        };
        match job {
            Idle::Store(block) => shared.store(block),
            Idle::Remove(block) => shared.drop_file(block),
        }
    }
    shared.idle.lock().front().map(|(due, _job)| *due)
}

/// Makes the directories, proves that they can be written, and reads or writes the identity.
fn prepare(root: &Path, mode: u32) -> io::Result<String> {
    file::make_dir(&root.join("raw"), mode)?;
    let lock = root.join(LOCK);
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
