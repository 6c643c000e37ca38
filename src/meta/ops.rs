//! The file system: POSIX semantics over typed records, written once for every store.
//!
//! Every operation is one transaction whose body may run several times; what a body needs is fetched at once (`prime`).
//! Usage counters, directory statistics and quotas change in the transaction that causes the change, so they are exact.
//! Inode 1 is what the mount shows as its root: with `subdir`, that directory.

mod attributes;
mod cleanup;
mod context;
mod create;
mod data;
mod deleted;
mod dirstat;
mod guess;
mod ledger;
mod open;
mod quota;
mod remove;
mod rename;
mod resize;
mod session;
#[cfg(test)]
mod tests;
mod trash;
mod tree;
mod types;
mod volume;
mod xattr;

pub use types::{
    Caller, MetaOptions, NewNode, SetAttr, SetTime, SliceRemover, StatFs, Summary, WriteOutcome, XattrFlag,
    fallocate_mode, rename_flags,
};
pub use volume::ReloadHook;

use std::collections::BTreeSet;
use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};

use bytes::Bytes;
use parking_lot::{Mutex, RwLock};
use stead_base::{Ino, SessionId, Tasks, Timestamp};
use tokio::sync::{Semaphore, watch};

use crate::error::{Error, Result};
use crate::format::Format;
use crate::records::{Counter, Key, Record};
use crate::store::{Step, Store, TxOptions, Txn, transact};

use context::{Context, Directories, OpenFiles};
use data::RecordCounts;
use dirstat::CheckedStats;
use guess::Guesses;

/// Inode numbers are taken from the engine in batches (format.md §2.2).
const INODE_BATCH: u64 = 1024;
/// Slice numbers likewise.
const SLICE_BATCH: u64 = 4096;

/// A volume's metadata as one client works with it. All operations may run at the same time.
pub struct Meta {
    me: Weak<Meta>,
    store: Arc<dyn Store>,
    options: MetaOptions,
    root: Ino,
    format: RwLock<Arc<Format>>,
    hooks: Mutex<Vec<ReloadHook>>,
    gone: watch::Sender<Option<Error>>,
    sid: AtomicU64,
    session_info: Mutex<Bytes>,
    remover: RwLock<Option<Arc<dyn SliceRemover>>>,
    opened: Arc<OpenFiles>,
    directories: Arc<Directories>,
    quotas: RwLock<Arc<BTreeSet<Ino>>>,
    guesses: Guesses,
    checked_stats: CheckedStats,
    record_counts: RecordCounts,
    inodes: Numbers,
    slices: Numbers,
    tasks: Tasks,
    deletes: Semaphore,
}

impl std::fmt::Debug for Meta {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Meta")
            .field("store", &self.store)
            .field("root", &self.root)
            .field("session", &self.session())
            .finish_non_exhaustive()
    }
}

impl Meta {
    /// A client of the volume in `store`, without a session yet. Creates nothing.
    ///
    /// # Errors
    /// [`Error::Format`] if the volume refuses this client's version; [`Error::NoEntry`] or [`Error::NotDirectory`] if
    /// `subdir` is not there.
    pub async fn new(store: Arc<dyn Store>, format: Format, options: MetaOptions) -> Result<Arc<Self>> {
        format.check_version(&options.version)?;
        let root = match &options.subdir {
            Some(subdir) => tree::find_directory(store.as_ref(), subdir).await?,
            None => Ino::ROOT,
        };
        let quotas = quota::load(store.as_ref()).await?;
        let deletes = Semaphore::new(options.max_deletes.min(Semaphore::MAX_PERMITS));
        Ok(Arc::new_cyclic(|me| Self {
            me: me.clone(),
            store,
            options,
            root,
            format: RwLock::new(Arc::new(format)),
            hooks: Mutex::default(),
            gone: watch::Sender::new(None),
            sid: AtomicU64::new(0),
            session_info: Mutex::default(),
            remover: RwLock::default(),
            opened: Arc::default(),
            directories: Arc::default(),
            quotas: RwLock::new(Arc::new(quotas)),
            guesses: Guesses::default(),
            checked_stats: CheckedStats::default(),
            record_counts: RecordCounts::default(),
            inodes: Numbers::new(Counter::NextInode, INODE_BATCH),
            slices: Numbers::new(Counter::NextChunk, SLICE_BATCH),
            tasks: Tasks::new(),
            deletes,
        }))
    }

    /// How this client behaves.
    pub fn options(&self) -> &MetaOptions {
        &self.options
    }

    /// The engine.
    pub fn store(&self) -> &Arc<dyn Store> {
        &self.store
    }

    /// Who removes the blocks of slices. Without one, deleted files wait for another client.
    pub fn set_slice_remover(&self, remover: Arc<dyn SliceRemover>) {
        *self.remover.write() = Some(remover);
    }

    /// Makes everything so far survive a power failure, as fsync(2) promises.
    ///
    /// # Errors
    /// Those of the engine.
    pub async fn fsync(&self) -> Result<()> {
        self.store.sync().await
    }

    fn now(&self) -> Timestamp {
        self.options.clock.now()
    }

    /// Our session, or [`SessionId::NONE`].
    pub fn session(&self) -> SessionId {
        SessionId(self.sid.load(Ordering::Acquire))
    }

    /// The stored inode for one that the mount names.
    fn real(&self, ino: Ino) -> Ino {
        if ino == Ino::ROOT { self.root } else { ino }
    }

    fn writable(&self) -> Result<()> {
        if self.options.read_only { Err(Error::ReadOnly) } else { Ok(()) }
    }

    fn context(&self) -> Context {
        let format = self.format();
        Context {
            now: self.now(),
            sid: self.session(),
            trash: format.trash_days > 0,
            dir_stats: format.dir_stats,
            skip_dir_mtime: self.options.skip_dir_mtime,
            capacity: format.capacity,
            inodes: format.inodes,
            quotas: Arc::clone(&self.quotas.read()),
            directories: Arc::clone(&self.directories),
            opened: Arc::clone(&self.opened),
        }
    }

    async fn transact<T: Send + 'static>(
        &self,
        body: impl FnMut(&mut Txn<'_>) -> Step<T> + Send + 'static,
    ) -> Result<T> {
        transact(self.store.as_ref(), TxOptions::default(), body).await
    }

    async fn read_one(&self, key: Key) -> Result<Option<Record>> {
        Ok(self.store.read(&[key]).await?.pop().flatten())
    }

    async fn new_inode(&self) -> Result<Ino> {
        loop {
            // 0 and 1 are never handed out: no inode, and the root.
            match self.inodes.next(self.store.as_ref()).await? {
                0 | 1 => {}
                number => return Ok(Ino(number)),
            }
        }
    }
}

/// Numbers taken from the engine in batches and handed out one by one.
#[derive(Debug)]
struct Numbers {
    counter: Counter,
    batch: u64,
    left: tokio::sync::Mutex<Range<u64>>,
}

impl Numbers {
    fn new(counter: Counter, batch: u64) -> Self {
        Self { counter, batch, left: tokio::sync::Mutex::new(0..0) }
    }

    async fn next(&self, store: &dyn Store) -> Result<u64> {
        let mut left = self.left.lock().await;
        if let Some(number) = left.next() {
            return Ok(number);
        }
        let first = store.allocate(self.counter, self.batch).await?;
        *left = first + 1..first + self.batch;
        Ok(first)
    }
}
