//! How a piece of a block is found: memory, a request already under way, disk cache, store.

use std::collections::HashSet;
use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use parking_lot::Mutex;
use tokio::sync::{Semaphore, SemaphorePermit};
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

use crate::block::BlockId;
use crate::flight::{Pilot, Target, Ticket};
use crate::store::ChunkStore;
use crate::{Compression, Error, Result};

/// Blocks that may wait to be prefetched; more are dropped.
const MAX_WAITING: usize = 64;
/// The most bytes that are copied and verified on a thread of the runtime: about 50 µs.
const READ_NOW: u32 = 256 << 10;

/// Room for a number of bytes, given out in the order of asking.
#[derive(Debug)]
pub(crate) struct ByteSemaphore {
    kib: Semaphore,
    limit: u32,
}

impl ByteSemaphore {
    pub(crate) fn new(bytes: u64) -> Self {
        let limit = u32::try_from(bytes / 1024).map_or(1 << 28, |kib| kib.clamp(1, 1 << 28));
        Self { kib: Semaphore::new(limit as usize), limit }
    }

    /// Room for `bytes`; more than there is counts as all of it. `None` never happens, since it is never closed.
    async fn acquire(&self, bytes: u32) -> Option<SemaphorePermit<'_>> {
        self.kib.acquire_many(bytes.div_ceil(1024).min(self.limit)).await.ok()
    }
}

/// Prefetching: some of the downloads, so that whoever waits for a block never waits behind all of them.
#[derive(Debug)]
pub(crate) struct Prefetches {
    permits: ByteSemaphore,
    waiting: Mutex<HashSet<BlockId>>,
    stop: CancellationToken,
}

impl Prefetches {
    pub(crate) fn new(bytes: u64) -> Self {
        Self { permits: ByteSemaphore::new(bytes), waiting: Mutex::default(), stop: CancellationToken::new() }
    }

    pub(crate) fn stopping(&self) -> CancellationToken {
        self.stop.clone()
    }

    pub(crate) fn stop(&self) {
        self.stop.cancel();
    }

    fn enter(&self, block: BlockId) -> bool {
        let mut waiting = self.waiting.lock();
        waiting.len() < MAX_WAITING && waiting.insert(block)
    }

    fn leave(&self, block: BlockId) {
        self.waiting.lock().remove(&block);
    }

    /// A permit, or `None` when it is no longer wanted.
    async fn permit(&self, block: BlockId, cancelled: &CancellationToken) -> Option<SemaphorePermit<'_>> {
        tokio::select! {
            () = self.stop.cancelled() => None,
            () = cancelled.cancelled() => None,
            permit = self.permits.acquire(block.len) => permit,
        }
    }
}

impl ChunkStore {
    /// The bytes `want` of a block.
    pub(crate) async fn piece(self: &Arc<Self>, block: BlockId, want: Range<u32>) -> Result<Bytes> {
        let (start, end) = (want.start as usize, want.end as usize);
        if let Some(data) = self.memory.get(block) {
            self.counters.hit(end - start);
            return Ok(data.slice(start..end));
        }
        if let Some(whole) = self.flights.join(&Target::whole(block)) {
            self.counters.miss(end - start);
            return Ok(self.land(block, whole).await?.slice(start..end));
        }
        let small = want.end - want.start <= block.len / 4;
        if small && let Some(data) = self.look_on_disk(block, want.clone()).await {
            self.counters.hit(end - start);
            return Ok(data);
        }
        // A small read inside a block is taken for a random one; at the start, for the first of a sequential series.
        if small && want.start > 0 && self.range_reads {
            self.counters.miss(end - start);
            if self.fetch_whole_block {
                self.prefetch_block(block, &self.prefetches.stop);
            }
            let range = Target { block, range: Some(want) };
            return self.fly(range).await;
        }
        Ok(self.fly(Target::whole(block)).await?.slice(start..end))
    }

    /// The bytes `want` of a block, which does not get into the caches if it is not there.
    pub(crate) async fn piece_past_caches(self: &Arc<Self>, block: BlockId, want: Range<u32>) -> Result<Bytes> {
        let (start, end) = (want.start as usize, want.end as usize);
        if let Some(data) = self.memory.get(block) {
            return Ok(data.slice(start..end));
        }
        if let Some(whole) = self.flights.join(&Target::whole(block)) {
            return Ok(self.land(block, whole).await?.slice(start..end));
        }
        if let Some(data) = self.look_on_disk(block, want.clone()).await {
            return Ok(data);
        }
        if self.range_reads {
            return self.fly(Target { block, range: Some(want) }).await;
        }
        Ok(self.load(block, None).await?.slice(start..end))
    }

    /// Fetches a block into the caches in the background.
    pub(crate) fn prefetch_block(self: &Arc<Self>, block: BlockId, cancelled: &CancellationToken) {
        if self.prefetches.stop.is_cancelled() || self.is_near(block) || !self.prefetches.enter(block) {
            return;
        }
        let (store, cancelled) = (Arc::clone(self), cancelled.clone());
        let work = async move {
            let permit = store.prefetches.permit(block, &cancelled).await;
            store.prefetches.leave(block);
            if permit.is_some()
                && !store.is_near(block)
                && let Some(Err(error)) = cancelled.run_until_cancelled(store.fly(Target::whole(block))).await
            {
                debug!(%error, "prefetch failed");
            }
        };
        self.tasks.spawn_on(work, &self.runtime);
    }

    /// In memory or on its way.
    fn is_near(&self, block: BlockId) -> bool {
        self.memory.contains(block) || self.flights.is_under_way(&Target::whole(block))
    }

    /// Shares or makes the request for a block or a range of it.
    async fn fly(self: &Arc<Self>, target: Target) -> Result<Bytes> {
        let block = target.block;
        let (ticket, pilot) = self.flights.board(target.clone());
        if let Some(pilot) = pilot {
            self.tasks.spawn_on(fetch(Arc::clone(self), target, pilot), &self.runtime);
        }
        self.land(block, ticket).await
    }

    async fn land(&self, block: BlockId, ticket: Ticket) -> Result<Bytes> {
        let stopped = || Error::Stopped { key: self.naming.key(block) };
        ticket.outcome().await.ok_or_else(stopped)?
    }

    /// A block whole: from memory when another flight has just brought it, from disk, or from the store and into the caches.
    async fn whole(self: &Arc<Self>, block: BlockId) -> Result<Bytes> {
        if let Some(data) = self.memory.get(block) {
            return Ok(data);
        }
        if let Some(data) = self.look_on_disk(block, 0..block.len).await {
            self.counters.hit(data.len());
            self.counters.evicts.add(self.memory.insert(block, data.clone()));
            return Ok(data);
        }
        self.counters.miss(block.len as usize);
        let data = self.load(block, None).await?;
        self.cache(block, &data);
        Ok(data)
    }

    async fn look_on_disk(self: &Arc<Self>, block: BlockId, want: Range<u32>) -> Option<Bytes> {
        if self.disk.is_off() {
            return None;
        }
        if want.end - want.start <= READ_NOW
            && let Some(data) = self.disk.read_now(block, want.clone())
        {
            return Some(data);
        }
        if !self.disk.is_out_of_use(block) {
            return self.on_disk(move |disk| disk.read(block, want)).await.flatten();
        }
        // What is staged is nowhere else, and a disk that cannot be written may well be read.
        if !self.staging.holds(block) {
            return None;
        }
        self.on_disk(move |disk| disk.read_anyway(block, want)).await.flatten()
    }

    /// Asks the store, once more if what comes is not what belongs there.
    async fn load(&self, block: BlockId, range: Option<Range<u32>>) -> Result<Bytes> {
        match self.request(block, range.clone()).await {
            Err(error) if error.is_bad_data() => {
                warn!(%error, "asking once more");
                self.request(block, range).await
            }
            result => result,
        }
    }

    async fn request(&self, block: BlockId, range: Option<Range<u32>>) -> Result<Bytes> {
        let _permit = self.downloads.acquire().await;
        let key = self.naming.key(block);
        let bounds = range.as_ref().map(|r| u64::from(r.start)..u64::from(r.end));
        let found = match self.objects.get(&key, bounds).await {
            Ok(found) => found,
            Err(source) => return Err(self.object_error(key, source)),
        };
        self.counters.get_bytes.add(found.len() as u64);
        let expected = range.map_or(block.len, |r| r.end - r.start);
        let data = self.unpack(key, found, expected).await;
        if data.is_err() {
            self.counters.errors.add(1);
        }
        data
    }

    async fn unpack(&self, key: String, packed: Bytes, len: u32) -> Result<Bytes> {
        if self.compression == Compression::None {
            return if packed.len() == len as usize {
                Ok(packed)
            } else {
                Err(Error::WrongLength { key, expected: len.into(), found: packed.len() as u64 })
            };
        }
        let compression = self.compression;
        let decode = move || compression.decode(packed, len as usize);
        match self.runtime.spawn_blocking(decode).await {
            Ok(plain) => plain.map_err(|why| Error::Corrupt { key, why }),
            Err(_runtime_gone) => Err(Error::Stopped { key }),
        }
    }
}

/// Flies: whole blocks as there is memory for them, requests as there are downloads.
async fn fetch(store: Arc<ChunkStore>, target: Target, pilot: Pilot) {
    let block = target.block;
    let fetched = async {
        match target.range {
            Some(range) => store.load(block, Some(range)).await,
            None => {
                let _memory = store.fetching.acquire(block.len).await;
                store.whole(block).await
            }
        }
    };
    tokio::select! {
        biased;
        result = fetched => pilot.land(result),
        () = pilot.abandoned() => {}
    }
}
