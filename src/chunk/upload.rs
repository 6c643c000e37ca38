//! One block on its way into the store.

use std::convert::Infallible;
use std::sync::Arc;

use bytes::Bytes;
use parking_lot::Mutex;
use stead_base::failpoint;
use tokio::sync::watch;

use crate::block::BlockId;
use crate::pages::{PAGE_SIZE, Page};
use crate::store::ChunkStore;
use crate::{Compression, Error, Result};

/// The pages of one block; a page that was never written stands for zeros.
pub(crate) type Pages = Vec<Option<Page>>;

/// An upload that was begun. Holds the pages until the block is in the store, and after a failure.
#[derive(Debug)]
pub(crate) struct Upload {
    pub(crate) block: BlockId,
    pages: Arc<Mutex<Option<Arc<Pages>>>>,
    outcome: watch::Receiver<Option<Result<()>>>,
}

impl Upload {
    /// Begins to upload a block in the background.
    pub(crate) fn start(store: &Arc<ChunkStore>, block: BlockId, pages: Arc<Pages>) -> Self {
        let (report, outcome) = watch::channel(None);
        let shared = Arc::new(Mutex::new(Some(pages)));
        let (store, held) = (Arc::clone(store), Arc::clone(&shared));
        let (tasks, runtime) = (store.tasks.clone(), store.runtime.clone());
        let work = async move {
            let result = store.upload(block, &held).await;
            if result.is_ok() {
                *held.lock() = None;
            }
            report.send_replace(Some(result));
        };
        tasks.spawn_on(work, &runtime);
        Self { block, pages: shared, outcome }
    }

    /// The data, unless it has been given back since the block is in the store.
    pub(crate) fn pages(&self) -> Option<Arc<Pages>> {
        self.pages.lock().clone()
    }

    /// Whether it has ended with an error.
    pub(crate) fn has_failed(&self) -> bool {
        matches!(*self.outcome.borrow(), Some(Err(_))) || (self.outcome.has_changed().is_err() && !self.is_done())
    }

    /// Whether the block is in the store.
    pub(crate) fn is_done(&self) -> bool {
        matches!(*self.outcome.borrow(), Some(Ok(())))
    }

    /// Waits for the end. Cancelling the wait does not stop the upload.
    pub(crate) async fn wait(&mut self, store: &ChunkStore) -> Result<()> {
        let stopped = || Error::Stopped { key: store.naming.key(self.block) };
        match self.outcome.wait_for(Option::is_some).await {
            Ok(outcome) => outcome.clone().unwrap_or_else(|| Err(stopped())),
            Err(_task_gone) => Err(stopped()),
        }
    }
}

impl ChunkStore {
    async fn upload(self: &Arc<Self>, block: BlockId, held: &Mutex<Option<Arc<Pages>>>) -> Result<()> {
        let plain = || held.lock().clone().map(|pages| join(&pages, block.len as usize));
        if self.staging.wants(block.len) && self.stage(block, plain).await {
            return Ok(());
        }
        let Ok(_permit) = self.uploads.acquire().await else {
            return Err(Error::Stopped { key: self.naming.key(block) });
        };
        let Some(plain) = plain() else {
            return Ok(());
        };
        self.put(block, plain.clone()).await?;
        if block.len < self.naming.block_size || self.cache_large_write {
            self.cache(block, &plain);
        }
        Ok(())
    }

    /// Packs a block and puts it into the store.
    pub(crate) async fn put(&self, block: BlockId, plain: Bytes) -> Result<()> {
        let key = self.naming.key(block);
        let packed = self.pack(&key, plain).await?;
        let size = packed.len() as u64;
        failpoint::hit("chunk.upload.before-put");
        let put = self.objects.put(&key, packed).await;
        failpoint::hit("chunk.upload.after-put");
        put.map_err(|source| self.object_error(key, source))?;
        self.counters.put_bytes.add(size);
        Ok(())
    }

    async fn pack(&self, key: &str, plain: Bytes) -> Result<Bytes> {
        let compression = self.compression;
        if compression == Compression::None {
            return Ok(plain);
        }
        let key = key.to_owned();
        match self.runtime.spawn_blocking(move || compression.encode(plain)).await {
            Ok(packed) => packed.map_err(|why| Error::Corrupt { key, why }),
            Err(_runtime_gone) => Err(Error::Stopped { key }),
        }
    }
}

/// The block's bytes in one piece, as a store takes them.
fn join(pages: &Pages, len: usize) -> Bytes {
    let Ok(joined) = stead_bulk::filled(len, |joined| {
        fill(joined, pages);
        Ok::<(), Infallible>(())
    });
    joined
}

fn fill(joined: &mut [u8], pages: &Pages) {
    for (index, part) in joined.chunks_mut(PAGE_SIZE).enumerate() {
        match pages.get(index).and_then(Option::as_ref) {
            Some(page) => part.copy_from_slice(&page[..part.len()]),
            None => part.fill(0),
        }
    }
}
