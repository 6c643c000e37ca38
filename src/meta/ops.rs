//! The file system: POSIX semantics over typed records, written once for every store.
//!
//! Every operation is one transaction whose body may run several times; what a body needs is fetched at once (`prime`).
//! Usage counters, directory statistics and quotas change in the transaction that causes the change, so they are exact.
//! Inode 1 is what the mount shows as its root: with `subdir`, that directory.

mod acl;
mod attributes;
mod check;
mod cleanup;
mod clone;
mod compact;
mod context;
mod copy;
mod create;
mod data;
mod deleted;
mod dirstat;
mod flush;
mod guess;
mod leaks;
mod ledger;
mod locks;
mod open;
mod owner_quota;
mod quota;
mod remove;
mod rename;
mod resize;
mod restore;
mod session;
#[cfg(test)]
mod tests;
mod tmpfile;
mod trash;
mod tree;
mod types;
mod volume;
mod xattr;

pub use check::{Damage, Usage};
pub use clone::CloneOptions;
pub use compact::Compaction;
pub use flush::FlushRequest;
pub use leaks::{LeakAges, Leaks, SliceUse};
pub use locks::{FlockRequest, LOCK_EOF};
pub use owner_quota::OwnerUsage;
pub use quota::QuotaCheck;
pub use restore::{RestoreOptions, Restored};
pub use types::{
    Caller, Changed, MetaOptions, NewNode, SetAttr, SetTime, SliceRemover, StatFs, Summary, WriteOutcome, XattrFlag,
    fallocate_mode, rename_flags,
};
pub use volume::{ReloadHook, root_attr};

use std::collections::BTreeSet;
use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock, Weak};

use bytes::Bytes;
use parking_lot::{Mutex, RwLock};
use stead_base::{Ino, SessionId, Tasks, Timestamp};
use tokio::sync::watch;

use crate::error::{Error, Result};
use crate::format::Format;
use crate::records::{Counter, Key, Principal, Record};
use crate::store::{Change, ChangeHook, Step, Store, Txn};
use crate::timed::{CallStats, Timed};

use acl::Acls;
use context::{Context, Directories, OpenFiles};
use data::RecordCounts;
use deleted::Deletes;
use dirstat::CheckedStats;
use guess::Guesses;

/// Inode numbers are taken from the engine in batches (format.md §2.2).
const INODE_BATCH: u64 = 1024;
/// Slice numbers likewise.
const SLICE_BATCH: u64 = 4096;

/// A volume's metadata as one client works with it. All operations may run at the same time.
pub struct Meta {
    me: Weak<Meta>,
    store: Timed,
    options: MetaOptions,
    root: Ino,
    format: RwLock<Arc<Format>>,
    hooks: Mutex<Vec<ReloadHook>>,
    gone: watch::Sender<Option<Error>>,
    usage: Mutex<Option<Usage>>,
    sid: AtomicU64,
    session_info: Mutex<Bytes>,
    remover: RwLock<Option<Arc<dyn SliceRemover>>>,
    opened: Arc<OpenFiles>,
    directories: Arc<Directories>,
    quotas: RwLock<Arc<BTreeSet<Ino>>>,
    limited: RwLock<Arc<BTreeSet<Principal>>>,
    acls: Arc<Acls>,
    guesses: Guesses,
    checked_stats: CheckedStats,
    record_counts: RecordCounts,
    inodes: Numbers,
    slices: Numbers,
    tasks: Tasks,
    deletes: Deletes,
    hearing: flush::Hearing,
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
        let limited = owner_quota::load(store.as_ref(), &format).await?;
        let deletes = Deletes::new(options.max_deletes);
        Ok(Arc::new_cyclic(|me| Self {
            me: me.clone(),
            store: Timed::new(store),
            options,
            root,
            format: RwLock::new(Arc::new(format)),
            hooks: Mutex::default(),
            gone: watch::Sender::new(None),
            usage: Mutex::default(),
            sid: AtomicU64::new(0),
            session_info: Mutex::default(),
            remover: RwLock::default(),
            opened: Arc::default(),
            directories: Arc::default(),
            quotas: RwLock::new(Arc::new(quotas)),
            limited: RwLock::new(Arc::new(limited)),
            acls: Arc::default(),
            guesses: Guesses::default(),
            checked_stats: CheckedStats::default(),
            record_counts: RecordCounts::default(),
            inodes: Numbers::new(Counter::NextInode, INODE_BATCH),
            slices: Numbers::new(Counter::NextChunk, SLICE_BATCH),
            tasks: Tasks::new(),
            deletes,
            hearing: flush::Hearing::default(),
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

    /// How often the engine was called so far, and how long that took.
    pub fn calls(&self) -> &CallStats {
        self.store.stats()
    }

    /// Calls `hook` for what other clients change of what this one has been told lately. False: this engine does not
    /// tell, and changes are learned by asking.
    pub fn on_change(&self, hook: ChangeHook) -> bool {
        let root = self.root;
        let shown = move |ino: Ino| if ino == root { Ino::ROOT } else { ino };
        self.store.on_change(Arc::new(move |change| {
            hook(match change {
                Change::Inode(ino) => Change::Inode(shown(ino)),
                Change::Entry(dir, name) => Change::Entry(shown(dir), name),
                Change::Everything => Change::Everything,
            });
        }))
    }

    /// Calls `hook` with the numbers that new inodes will have, before the first one has. Once, before anything is made.
    pub fn on_inodes(&self, hook: NumbersHook) {
        // A second hook would have missed numbers.
        let _kept = self.inodes.hook.set(hook);
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
            owner_usage: format.user_group_quota,
            limited: Arc::clone(&self.limited.read()),
            directories: Arc::clone(&self.directories),
            opened: Arc::clone(&self.opened),
            acls: Arc::clone(&self.acls),
        }
    }

    async fn transact<T: Send + 'static>(
        &self,
        body: impl FnMut(&mut Txn<'_>) -> Step<T> + Send + 'static,
    ) -> Result<T> {
        self.store.transact(body).await
    }

    async fn read_one(&self, key: Key) -> Result<Option<Record>> {
        Ok(self.store.read(&[key]).await?.pop().flatten())
    }

    async fn new_inode(&self) -> Result<Ino> {
        loop {
            // 0 and 1 are never handed out: no inode, and the root.
            match self.inodes.next(&self.store).await? {
                0 | 1 => {}
                number => return Ok(Ino(number)),
            }
        }
    }
}

/// Called with a batch of numbers before any of them is used.
pub type NumbersHook = Box<dyn Fn(&Range<u64>) + Send + Sync>;

/// Numbers taken from the engine in batches and handed out one by one.
struct Numbers {
    counter: Counter,
    batch: u64,
    left: tokio::sync::Mutex<Range<u64>>,
    hook: OnceLock<NumbersHook>,
}

impl Numbers {
    fn new(counter: Counter, batch: u64) -> Self {
        Self { counter, batch, left: tokio::sync::Mutex::new(0..0), hook: OnceLock::new() }
    }

    async fn next(&self, store: &Timed) -> Result<u64> {
        let mut left = self.left.lock().await;
        if let Some(number) = left.next() {
            return Ok(number);
        }
        let first = store.allocate(self.counter, self.batch).await?;
        if let Some(hook) = self.hook.get() {
            hook(&(first..first + self.batch));
        }
        *left = first + 1..first + self.batch;
        Ok(first)
    }
}
