//! The block store as the layers above see it.

use std::ops::Range;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use futures::{StreamExt, TryStreamExt, stream};
use stead_base::SliceId;
use stead_object::{ObjectStore, Requests};
use tokio::runtime::Handle;
use tokio::sync::Semaphore;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::warn;

use crate::block::{BlockId, Naming};
use crate::disk::DiskCache;
use crate::fetch::{ByteSemaphore, Prefetches};
use crate::flight::Flights;
use crate::memory::MemoryCache;
use crate::staging::{self, Staging};
use crate::usage::Counters;
use crate::{Budget, ChunkConfig, Compression, Error, PagePool, Result, SliceWriter, Usage};

/// Calls at the same time that remove blocks.
const REMOVALS: usize = 16;

/// Slices in blocks: reads, writes and removes them through memory, disk cache and object store.
#[derive(Debug)]
pub struct ChunkStore {
    pub(crate) objects: Arc<dyn ObjectStore>,
    pub(crate) naming: Naming,
    pub(crate) compression: Compression,
    pub(crate) memory: MemoryCache,
    pub(crate) disk: Arc<DiskCache>,
    pub(crate) staging: Arc<Staging>,
    pub(crate) flights: Arc<Flights>,
    pub(crate) prefetches: Prefetches,
    /// Whether a small random read fetches its whole block too.
    pub(crate) fetch_whole_block: bool,
    /// Whether a part of a block can be had for less than the whole.
    pub(crate) range_reads: bool,
    /// Whether full blocks are cached when written.
    pub(crate) cache_large_write: bool,
    pub(crate) uploads: Arc<Semaphore>,
    pub(crate) max_uploads: usize,
    pub(crate) downloads: Semaphore,
    /// Memory for whole blocks under way.
    pub(crate) fetching: ByteSemaphore,
    pub(crate) pages: PagePool,
    pub(crate) counters: Arc<Counters>,
    requests: Arc<Requests>,
    /// Callers on threads outside the runtime, such as the kernel's, start tasks too.
    pub(crate) runtime: Handle,
    pub(crate) tasks: TaskTracker,
    budget: Arc<Budget>,
}

impl Drop for ChunkStore {
    fn drop(&mut self) {
        self.staging.stop();
    }
}

impl ChunkStore {
    /// Opens the store and its cache directories; has to be called inside a tokio runtime, which runs its tasks from then on.
    /// Errors: a setting out of range, a cache directory that cannot be written.
    pub fn open(config: ChunkConfig, objects: Arc<dyn ObjectStore>) -> Result<Arc<Self>> {
        config.validate()?;
        let runtime = Handle::try_current().map_err(|e| Error::Config {
            field: "runtime",
            value: "none".to_owned(),
            why: e.to_string(),
        })?;
        let naming = Naming { block_size: config.block_size, hash_prefix: config.hash_prefix };
        let (limits, counters) = (config.limits(), Arc::new(Counters::default()));
        let budget = Budget::new(limits.budget);
        let max_uploads = config.max_uploads.max(1) as usize;
        let staging = Staging::new(config.writeback.clone());
        let store = Arc::new(Self {
            objects,
            naming,
            compression: config.compression,
            memory: MemoryCache::new(limits.memory_cache),
            disk: Arc::new(DiskCache::open(&config, naming, &counters)?),
            staging: Arc::clone(&staging),
            flights: Arc::default(),
            prefetches: Prefetches::new(limits.fetches / 4 * 3),
            fetch_whole_block: config.prefetch > 0,
            range_reads: config.range_reads && config.compression == Compression::None,
            cache_large_write: config.cache_large_write,
            uploads: Arc::new(Semaphore::new(max_uploads)),
            max_uploads,
            downloads: Semaphore::new(config.max_downloads.max(1) as usize),
            fetching: ByteSemaphore::new(limits.fetches),
            pages: PagePool::new(Arc::clone(&budget)),
            counters,
            requests: config.requests,
            runtime,
            tasks: TaskTracker::new(),
            budget,
        });
        // Not one of the tasks that a drain waits for: it ends when it is told to, or with the store.
        let uploads = Arc::clone(&store.uploads);
        store.runtime.spawn(staging::drain(Arc::downgrade(&store), staging, uploads));
        Ok(store)
    }

    /// The object key of block `index` of a slice, `len` being the block's own plain length (format §5.1).
    pub fn block_key(&self, id: SliceId, index: u32, len: u32) -> String {
        self.naming.key(BlockId { slice: id, index, len })
    }

    /// Bytes of a full block.
    pub fn block_size(&self) -> u32 {
        self.naming.block_size
    }

    /// The bytes that dirty pages and read-ahead share; ask it before writing.
    pub fn budget(&self) -> &Arc<Budget> {
        &self.budget
    }

    /// How many bytes of read-ahead all readers together should ask for: more would push each other out of memory.
    pub fn read_ahead_limit(&self) -> u64 {
        self.memory.limit() / 4 * 3
    }

    /// A new slice.
    pub fn writer(self: &Arc<Self>) -> SliceWriter {
        SliceWriter::new(Arc::clone(self))
    }

    /// Reads `off ..+ len` of a slice of `size` bytes, from memory, disk cache or store. A range inside one block is a
    /// view into the cached block, not a copy. A hole (id 0) reads as zeros.
    pub async fn read(self: &Arc<Self>, id: SliceId, size: u32, off: u32, len: u32) -> Result<Bytes> {
        if off.checked_add(len).is_none_or(|end| end > size) {
            return Err(Error::OutOfRange { id, size, off, len });
        }
        if id.is_hole() {
            return Ok(vec![0; len as usize].into());
        }
        let mut pieces = self.naming.pieces(id, size, off, len);
        match (pieces.next(), pieces.next()) {
            (None, _) => Ok(Bytes::new()),
            (Some((block, want)), None) => self.piece(block, want).await,
            (Some(first), Some(second)) => {
                let pieces: Vec<_> = [first, second].into_iter().chain(pieces).collect();
                self.gather(pieces, len).await
            }
        }
    }

    /// The same for a pass over data that nobody is likely to ask for soon: what is not in the caches does not get there.
    pub async fn read_past_caches(self: &Arc<Self>, id: SliceId, size: u32, off: u32, len: u32) -> Result<Bytes> {
        if off.checked_add(len).is_none_or(|end| end > size) {
            return Err(Error::OutOfRange { id, size, off, len });
        }
        if id.is_hole() {
            return Ok(vec![0; len as usize].into());
        }
        let pieces = stream::iter(self.naming.pieces(id, size, off, len));
        let mut fetches = pieces.map(|(block, want)| self.piece_past_caches(block, want)).buffered(4);
        let mut all = BytesMut::with_capacity(len as usize);
        while let Some(piece) = fetches.try_next().await? {
            all.extend_from_slice(&piece);
        }
        Ok(all.freeze())
    }

    /// The same as [`ChunkStore::read`], if all of it is in memory: no I/O, no waiting.
    pub fn try_read(&self, id: SliceId, size: u32, off: u32, len: u32) -> Option<Bytes> {
        if off.checked_add(len)? > size || id.is_hole() {
            return None;
        }
        let mut pieces = self
            .naming
            .pieces(id, size, off, len)
            .map(|(block, want)| Some(self.memory.get(block)?.slice(want.start as usize..want.end as usize)));
        let first = pieces.next()??;
        let data = if first.len() == len as usize {
            first
        } else {
            let mut all = BytesMut::with_capacity(len as usize);
            all.extend_from_slice(&first);
            for piece in pieces {
                all.extend_from_slice(&piece?);
            }
            all.freeze()
        };
        self.counters.hit(data.len());
        Some(data)
    }

    /// Has the blocks under `off ..+ len` fetched into the caches, in the background. What is too much is dropped.
    pub fn prefetch(self: &Arc<Self>, id: SliceId, size: u32, off: u32, len: u32) {
        self.prefetch_until(id, size, off, len, &self.prefetches.stopping());
    }

    /// The same; what has not begun when `cancelled` fires is not begun.
    pub fn prefetch_until(self: &Arc<Self>, id: SliceId, size: u32, off: u32, len: u32, cancelled: &CancellationToken) {
        if id.is_hole() {
            return;
        }
        for (block, _) in self.naming.pieces(id, size, off, len) {
            self.prefetch_block(block, cancelled);
        }
    }

    /// Removes all blocks of slices (id, bytes), from the caches too. A block that does not exist is no error; after an error
    /// some may be left.
    pub async fn remove(&self, slices: &[(SliceId, u32)]) -> Result<()> {
        let slices = slices.iter().filter(|(id, _size)| !id.is_hole());
        let blocks: Vec<_> = slices.flat_map(|(id, size)| self.naming.blocks(*id, *size)).collect();
        self.remove_blocks(&blocks).await
    }

    pub(crate) async fn remove_blocks(&self, blocks: &[BlockId]) -> Result<()> {
        // Each may wait for a disk.
        let cancelled: Vec<_> = blocks.iter().map(|block| self.cancel_staged(*block)).collect();
        stream::iter(cancelled).for_each_concurrent(REMOVALS, |cancelled| cancelled).await;
        for block in blocks {
            self.memory.remove(*block);
            self.disk.remove(*block);
        }
        let keys: Vec<_> = blocks.iter().map(|block| self.naming.key(*block)).collect();
        stead_object::delete_all(&*self.objects, &keys, REMOVALS).await.map_err(|source| {
            self.counters.errors.add(1);
            Error::Remove { source }
        })
    }

    /// Makes everything that was uploaded or staged survive a power failure.
    pub async fn sync(&self) -> Result<()> {
        // First what is staged: a block that leaves the disk meanwhile is in the store for good.
        self.sync_staged().await?;
        self.objects.sync().await.map_err(|source| Error::Sync { source })
    }

    /// What has been counted so far.
    pub fn usage(&self) -> Usage {
        let (memory, disk, staged) = (self.memory.size(), self.disk.size(), self.staging.size());
        Usage {
            blockcache_blocks: memory.0 + disk.0,
            blockcache_bytes: memory.1 + disk.1,
            blockcache_dirs_out_of_use: self.disk.out_of_use(),
            object_request_uploading: (self.max_uploads - self.uploads.available_permits()) as u64,
            staging_blocks: staged.0,
            staging_block_bytes: staged.1,
            staging_writing_blocks: self.staging.writing(),
            staging_block_delay_seconds: self.staging.delay_seconds(),
            staging_block_errors: self.staging.errors.get(),
            staging_write_bytes: self.staging.written.get(),
            store_cache_size_bytes: memory.1,
            used_buffer_size_bytes: self.budget.used(),
            ..self.counters.snapshot()
        }
    }

    /// How the attempts to reach the store went.
    pub fn requests(&self) -> &Requests {
        &self.requests
    }

    /// Ends prefetching and the upload of staged blocks for good, and waits for the uploads and fetches under way and for what is to be written to the disk
    /// cache. Reading and writing still work afterwards.
    pub async fn drain(&self) {
        self.prefetches.stop();
        self.staging.stop();
        self.tasks.close();
        self.tasks.wait().await;
        self.disk.flush().await;
        let (blocks, bytes) = self.staging.size();
        if blocks > 0 {
            warn!(blocks, bytes, "staged blocks stay on the local disk; the next mount with this cache uploads them");
        }
    }

    /// Keeps a block that was read, or written and worth keeping.
    pub(crate) fn cache(&self, block: BlockId, data: &Bytes) {
        self.counters.evicts.add(self.memory.insert(block, data.clone()));
        self.disk.store(block, data.clone());
    }

    /// Does file I/O in the cache directories. `None`: the disk hangs, and nobody waits for it any longer.
    pub(crate) async fn on_disk<T: Send + 'static>(
        &self,
        work: impl FnOnce(&DiskCache) -> T + Send + 'static,
    ) -> Option<T> {
        let disk = Arc::clone(&self.disk);
        let work = self.runtime.spawn_blocking(move || work(&disk));
        match timeout(self.disk.longest_wait(), work).await {
            Ok(done) => done.ok(),
            Err(_elapsed) => {
                self.disk.check();
                None
            }
        }
    }

    async fn gather(self: &Arc<Self>, pieces: Vec<(BlockId, Range<u32>)>, len: u32) -> Result<Bytes> {
        let fetches = stream::iter(pieces).map(|(block, want)| self.piece(block, want));
        let mut all = BytesMut::with_capacity(len as usize);
        let mut fetches = fetches.buffered(4);
        while let Some(piece) = fetches.try_next().await? {
            all.extend_from_slice(&piece);
        }
        Ok(all.freeze())
    }

    pub(crate) fn object_error(&self, key: String, source: stead_object::Error) -> Error {
        self.counters.errors.add(1);
        Error::Object { key, source }
    }
}
