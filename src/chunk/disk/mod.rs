//! The disk cache: several directories in the layout of the Go client (format §5.5), so that the two can share them.

mod dir;
mod file;
mod index;
mod ring;
mod scan;

use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;

use crate::block::{BlockId, Naming};
use crate::usage::Counters;
use crate::{ChunkConfig, Result};
use dir::{Bounds, CacheDir};
use ring::Ring;

/// All cache directories of a volume. With none, it holds nothing.
#[derive(Debug)]
pub(crate) struct DiskCache {
    naming: Naming,
    dirs: Vec<CacheDir>,
    ring: Ring,
}

impl DiskCache {
    pub(crate) fn open(config: &ChunkConfig, naming: Naming, counters: &Arc<Counters>) -> Result<Self> {
        let paths = config.disk_dirs();
        let share = paths.len().max(1) as u64;
        let bounds = Bounds {
            capacity: config.cache_size / share,
            free_space_ratio: config.free_space_ratio.into(),
            queue: (config.limits().disk_queue / share).max(config.block_size.into()),
        };
        let dirs = paths
            .iter()
            .map(|path| CacheDir::open(path, &config.uuid, naming, bounds, Arc::clone(counters)))
            .collect::<Result<Vec<_>>>()?;
        let ring = Ring::new(dirs.iter().map(CacheDir::id));
        Ok(Self { naming, dirs, ring })
    }

    pub(crate) fn is_off(&self) -> bool {
        self.dirs.is_empty()
    }

    /// Verified bytes of a block. Does file I/O: not for the threads of the async runtime.
    pub(crate) fn read(&self, block: BlockId, want: Range<u32>) -> Option<Bytes> {
        self.dir(block)?.read(block, want)
    }

    /// The same if it needs no waiting; may be called anywhere.
    pub(crate) fn read_now(&self, block: BlockId, want: Range<u32>) -> Option<Bytes> {
        self.dir(block)?.read_now(block, want)
    }

    /// Has a block written in the background; dropped if too much waits.
    pub(crate) fn store(&self, block: BlockId, data: Bytes) {
        if let Some(dir) = self.dir(block) {
            dir.store(block, data);
        }
    }

    /// Has a block removed in the background.
    pub(crate) fn remove(&self, block: BlockId) {
        if let Some(dir) = self.dir(block) {
            dir.remove(block);
        }
    }

    /// Waits until nothing is to be written or removed.
    pub(crate) async fn flush(&self) {
        for dir in &self.dirs {
            dir.flush().await;
        }
    }

    /// Files and bytes, as far as they are known.
    pub(crate) fn size(&self) -> (u64, u64) {
        self.dirs.iter().map(|dir| dir.index().size()).fold((0, 0), |(files, bytes), (f, b)| (files + f, bytes + b))
    }

    fn dir(&self, block: BlockId) -> Option<&CacheDir> {
        match self.dirs.as_slice() {
            [] => None,
            [only] => Some(only),
            dirs => dirs.get(self.ring.find(&self.naming.key(block))),
        }
    }
}
