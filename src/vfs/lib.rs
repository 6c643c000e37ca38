//! The file system as a kernel asks for it: open handles, write buffers, read-ahead, virtual files; answers with errno.
//!
//! Between the metadata ([`stead_meta`]) and the data blocks ([`stead_chunk`]), of which each knows nothing of the other.
//! Knows nothing of FUSE: the whole layer runs and is tested without a kernel.
//!
//! Invariants:
//! * Data is in the object store before its record is in the metadata engine.
//! * What was written through this mount is seen by every later read through it, committed or not.
//! * A failed write-back is told to every handle of the file that was open, once, by write, flush or fsync.
//! * Nothing depends on how often the kernel looked an inode up: node id = inode number, and forgetting is no event.

mod accesslog;
mod attr;
mod background;
mod compact;
mod config;
mod control;
mod copy;
mod directory;
mod errno;
mod figures;
mod files;
mod flags;
mod flush;
mod handles;
mod inode;
mod internal;
mod kernel;
mod locks;
mod namespace;
mod opencache;
mod operation;
mod readahead;
mod reader;
mod recent;
mod resent;
mod seek;
mod segment;
mod successor;
#[cfg(test)]
mod tests;
mod writer;
mod xattr;

use std::future::Future;
use std::sync::{Arc, Weak};
use std::time::Instant;

use lru::LruCache;
use parking_lot::{Mutex, RwLock};
use stead_base::{Clock, Ino, SessionId, Tasks, Timestamp};
use stead_chunk::ChunkStore;
use stead_meta::Meta;
use tokio::sync::Notify;
use tracing::warn;

pub use attr::{Attributes, Entry, kind_of, st_mode, type_bits};
pub use compact::{CompactError, Compacted, compact_chunk, compact_tree};
pub use config::VfsConfig;
pub use copy::CopyRange;
pub use directory::DirEntry;
pub use errno::{Result, ToErrno};
pub use files::Opened;
pub use handles::HandleId;
pub use kernel::KernelCache;
pub use operation::{Op, OpStats};
pub use segment::Segment;
pub use stead_meta::ops::{Caller, FlockRequest, LOCK_EOF, NewNode, SetAttr, SetTime, StatFs, XattrFlag};
pub use stead_meta::records::{Attr, LockKind, LockRange, NodeType};
pub use successor::Inherited;

use accesslog::AccessLog;
use compact::Compactions;
use handles::HandleTable;
use inode::InodeTable;
use internal::Names;
use locks::LockTable;
use opencache::OpenCache;
use recent::RecentChanges;

/// Files whose state at the last open is remembered, to tell whether the kernel's pages of them are still good.
const SEEN_FILES: std::num::NonZeroUsize = std::num::NonZeroUsize::new(1 << 16).expect("not zero");

/// A mounted volume.
pub struct Vfs {
    me: Weak<Self>,
    config: VfsConfig,
    meta: Arc<Meta>,
    chunks: Arc<ChunkStore>,
    clock: Arc<dyn Clock>,
    since: Timestamp,
    names: Names,
    handles: HandleTable,
    inodes: InodeTable,
    recent: RecentChanges,
    locks: LockTable,
    /// The state of files that the kernel's pages are those of.
    seen: Mutex<LruCache<Ino, kernel::State>>,
    kernel: RwLock<Option<Arc<dyn KernelCache>>>,
    open_cache: OpenCache,
    log: AccessLog,
    /// Sections of `.config` that other layers know.
    published: RwLock<serde_json::Map<String, serde_json::Value>>,
    stats: OpStats,
    compactions: Compactions,
    tasks: Tasks,
    /// Held for reading while a write takes effect; true while no write is to be acknowledged.
    frozen: RwLock<bool>,
    thawed: Notify,
}

impl Vfs {
    /// [`Vfs::over`] memory of this process alone: what is open goes with it.
    ///
    /// # Panics
    /// Without memory for the handles.
    pub fn new(config: VfsConfig, meta: Arc<Meta>, chunks: Arc<ChunkStore>, clock: Arc<dyn Clock>) -> Arc<Self> {
        Self::over(Segment::private().expect("address space for the handles"), config, meta, chunks, clock)
    }

    /// Puts the layers together and starts the background work. What is open is kept in `segment`; what is open there
    /// already is for [`Vfs::inherit`]. Must be called inside a tokio runtime, before anything is made by `meta`.
    pub fn over(
        segment: Segment,
        config: VfsConfig,
        meta: Arc<Meta>,
        chunks: Arc<ChunkStore>,
        clock: Arc<dyn Clock>,
    ) -> Arc<Self> {
        let segment = Arc::new(segment);
        meta.on_inodes(Box::new({
            let segment = Arc::clone(&segment);
            move |batch| segment.note_inodes(batch)
        }));
        let vfs = Arc::new_cyclic(|me| Self {
            me: Weak::clone(me),
            names: Names::new(&config, meta.options().subdir.is_some()),
            since: clock.now(),
            config,
            meta,
            chunks,
            clock,
            handles: HandleTable::new(segment),
            inodes: InodeTable::default(),
            recent: RecentChanges::new(),
            locks: LockTable::default(),
            seen: Mutex::new(LruCache::new(SEEN_FILES)),
            kernel: RwLock::default(),
            open_cache: OpenCache::new(),
            log: AccessLog::default(),
            published: RwLock::default(),
            stats: OpStats::new(),
            compactions: Compactions::default(),
            tasks: Tasks::new(),
            frozen: RwLock::new(false),
            thawed: Notify::new(),
        });
        background::start(&vfs);
        vfs
    }

    /// The settings.
    pub fn config(&self) -> &VfsConfig {
        &self.config
    }

    /// Whether access control lists are kept. Then the kernel is to check them, and to leave the umask to us.
    pub fn enable_acl(&self) -> bool {
        self.meta.format().enable_acl
    }

    /// Numbers of the operations so far.
    pub fn stats(&self) -> &OpStats {
        &self.stats
    }

    /// The session with the engine, which a successor goes on with; [`SessionId::NONE`] for a read-only mount.
    pub fn session(&self) -> SessionId {
        self.meta.session()
    }

    /// The memory that a successor needs.
    pub fn segment(&self) -> &Segment {
        self.handles.segment()
    }

    /// Open handles.
    pub fn open_handles(&self) -> usize {
        self.handles.len()
    }

    /// Puts a section into `.config` that another layer knows (`Port`, …), in place of an older one.
    pub fn publish(&self, section: &str, content: serde_json::Value) {
        self.published.write().insert(section.to_owned(), content);
    }

    /// From here on no write is answered, neither with success nor with an error: whoever serves next answers it,
    /// or the kernel does when the connection ends. Writes that were answered are kept by [`Vfs::drain`].
    pub fn freeze(&self) {
        *self.frozen.write() = true;
    }

    /// Writes are answered again after [`Vfs::freeze`], those that have come meanwhile among them.
    pub fn thaw(&self) {
        *self.frozen.write() = false;
        self.thawed.notify_waiters();
    }

    /// Stops the background work after everything written is committed. The first failure is returned; data that could
    /// not be committed is lost with the process.
    pub async fn drain(self: &Arc<Self>) -> Result<()> {
        let flushed = self.flush_all().await;
        self.tasks.drain().await;
        flushed
    }

    /// Counts `work`, and writes a line of the access log if somebody reads it. `shape` adds the operation's arguments
    /// and, if there is one, its result.
    async fn observed<T>(
        &self,
        op: Op,
        caller: &Caller,
        work: impl Future<Output = Result<T>> + Send,
        shape: impl FnOnce(&mut String, Option<&T>) + Send,
    ) -> Result<T> {
        let logged = self.log.is_read().then(|| self.clock.now());
        let started = Instant::now();
        let result = work.await;
        let took = started.elapsed();
        self.stats.note(op, took, result.is_err());
        if let Some(time) = logged {
            let mut text = String::new();
            shape(&mut text, result.as_ref().ok());
            let failed = result.as_ref().err().copied();
            self.log.write(accesslog::line(time, caller, op, &text, failed, took));
        }
        result
    }
}

impl Drop for Vfs {
    fn drop(&mut self) {
        let dirty = self.inodes.dirty().len();
        if dirty > 0 {
            warn!(files = dirty, "dropped with data that was not committed");
        }
    }
}
