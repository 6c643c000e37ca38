//! The block store as the layers above see it.

use std::ops::Range;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use futures::{StreamExt, TryStreamExt, stream};
use stead_base::SliceId;
use stead_object::ObjectStore;
use tokio::runtime::Handle;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::block::{BlockId, Naming};
use crate::disk::DiskCache;
use crate::fetch::{ByteSemaphore, Prefetches};
use crate::flight::Flights;
use crate::memory::MemoryCache;
use crate::usage::Counters;
use crate::{Budget, ChunkConfig, Compression, Error, PagePool, Result, SliceWriter, Usage};

/// Blocks that are removed at the same time.
const REMOVALS: usize = 16;

/// Slices in blocks: reads, writes and removes them through memory, disk cache and object store.
#[derive(Debug)]
pub struct ChunkStore {
    pub(crate) objects: Arc<dyn ObjectStore>,
    pub(crate) naming: Naming,
    pub(crate) compression: Compression,
    pub(crate) memory: MemoryCache,
    pub(crate) disk: DiskCache,
    pub(crate) flights: Arc<Flights>,
    pub(crate) prefetches: Prefetches,
    /// Whether a small random read fetches its whole block too.
    pub(crate) fetch_whole_block: bool,
    /// Whether full blocks are cached when written.
    pub(crate) cache_large_write: bool,
    pub(crate) uploads: Semaphore,
    pub(crate) max_uploads: usize,
    pub(crate) downloads: Semaphore,
    /// Memory for whole blocks under way.
    pub(crate) fetching: ByteSemaphore,
    pub(crate) pages: PagePool,
    pub(crate) counters: Arc<Counters>,
    /// Callers on threads outside the runtime, such as the kernel's, start tasks too.
    pub(crate) runtime: Handle,
    pub(crate) tasks: TaskTracker,
    budget: Arc<Budget>,
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
        Ok(Arc::new(Self {
            objects,
            naming,
            compression: config.compression,
            memory: MemoryCache::new(limits.memory_cache),
            disk: DiskCache::open(&config, naming, &counters)?,
            flights: Arc::default(),
            prefetches: Prefetches::new(limits.fetches / 4 * 3),
            fetch_whole_block: config.prefetch > 0,
            cache_large_write: config.cache_large_write,
            uploads: Semaphore::new(max_uploads),
            max_uploads,
            downloads: Semaphore::new(config.max_downloads.max(1) as usize),
            fetching: ByteSemaphore::new(limits.fetches),
            pages: PagePool::new(Arc::clone(&budget)),
            counters,
            runtime,
            tasks: TaskTracker::new(),
            budget,
        }))
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

    /// The same, if all of it is in memory: no I/O, no waiting.
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

    /// Removes all blocks of a slice, from the caches too. A block that does not exist is no error; after an error the
    /// others have been tried all the same.
    pub async fn remove(&self, id: SliceId, size: u32) -> Result<()> {
        if id.is_hole() {
            return Ok(());
        }
        let removals = stream::iter(self.naming.blocks(id, size)).map(|block| self.remove_block(block));
        let results: Vec<_> = removals.buffer_unordered(REMOVALS).collect().await;
        results.into_iter().collect()
    }

    /// Makes everything that was uploaded survive a power failure.
    pub async fn sync(&self) -> Result<()> {
        self.objects.sync().await.map_err(|source| Error::Sync { source })
    }

    /// What has been counted so far.
    pub fn usage(&self) -> Usage {
        let (memory, disk) = (self.memory.size(), self.disk.size());
        Usage {
            blockcache_blocks: memory.0 + disk.0,
            blockcache_bytes: memory.1 + disk.1,
            object_request_uploading: (self.max_uploads - self.uploads.available_permits()) as u64,
            store_cache_size_bytes: memory.1,
            used_buffer_size_bytes: self.budget.used(),
            ..self.counters.snapshot()
        }
    }

    /// Ends prefetching for good, and waits for the uploads and fetches under way and for what is to be written to the disk
    /// cache. Reading and writing still work afterwards.
    pub async fn drain(&self) {
        self.prefetches.stop();
        self.tasks.close();
        self.tasks.wait().await;
        self.disk.flush().await;
    }

    /// Keeps a block that was read, or written and worth keeping.
    pub(crate) fn cache(&self, block: BlockId, data: &Bytes) {
        self.counters.evicts.add(self.memory.insert(block, data.clone()));
        self.disk.store(block, data.clone());
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

    pub(crate) async fn remove_block(&self, block: BlockId) -> Result<()> {
        self.memory.remove(block);
        self.disk.remove(block);
        let key = self.naming.key(block);
        let deleted = self.objects.delete(&key).await;
        deleted.map_err(|source| self.object_error(key, source))
    }

    pub(crate) fn object_error(&self, key: String, source: stead_object::Error) -> Error {
        self.counters.errors.add(1);
        Error::Object { key, source }
    }
}
