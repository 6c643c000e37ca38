//! The disk cache: several directories in the layout of the Go client (format §5.5), so that the two can share them.

mod dir;
mod file;
mod health;
mod index;
mod ring;
mod scan;
mod staged;
mod waiting;

use std::io;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use crate::block::{BlockId, Naming};
use crate::usage::Counters;
use crate::{ChunkConfig, Result};
use dir::{Bounds, CacheDir};
use file::Rules;
pub(crate) use file::Unusable;
use health::Patience;
use ring::Ring;

/// All cache directories of a volume. With none, it holds nothing.
#[derive(Debug)]
pub(crate) struct DiskCache {
    naming: Naming,
    dirs: Vec<CacheDir>,
    ring: Ring,
    patience: Duration,
}

impl DiskCache {
    pub(crate) fn open(config: &ChunkConfig, naming: Naming, counters: &Arc<Counters>) -> Result<Self> {
        let paths = config.disk_dirs();
        let share = paths.len().max(1) as u64;
        let bounds = Bounds {
            capacity: config.cache_size / share,
            free_space_ratio: config.free_space_ratio.into(),
            eviction: config.eviction,
            expire: config.cache_expire,
            files: Rules { verify: config.verify, mode: config.cache_mode },
            queue: (config.limits().disk_queue / share).max(config.block_size.into()),
            patience: Patience { limit: config.disk_patience, pause: config.disk_pause },
        };
        let dirs = paths
            .iter()
            .map(|path| CacheDir::open(path, &config.uuid, naming, bounds, Arc::clone(counters)))
            .collect::<Result<Vec<_>>>()?;
        let ring = Ring::new(dirs.iter().map(CacheDir::id));
        Ok(Self { naming, dirs, ring, patience: config.disk_patience })
    }

    pub(crate) fn is_off(&self) -> bool {
        self.dirs.is_empty()
    }

    /// How long to wait for an operation: a little longer than one that hangs is borne.
    pub(crate) fn longest_wait(&self) -> Duration {
        self.patience + self.patience / 8
    }

    /// Whether the directory of a block is out of use since its disk fails.
    pub(crate) fn is_out_of_use(&self, block: BlockId) -> bool {
        self.dir(block).is_some_and(CacheDir::is_out_of_use)
    }

    /// How many directories are out of use.
    pub(crate) fn out_of_use(&self) -> u64 {
        self.dirs.iter().filter(|dir| dir.is_out_of_use()).count() as u64
    }

    /// Takes directories out of use whose disk hangs.
    pub(crate) fn check(&self) {
        self.dirs.iter().for_each(CacheDir::check);
    }

    /// Verified bytes of a block, unless its directory is out of use. Does file I/O: not for the threads of the async
    /// runtime.
    pub(crate) fn read(&self, block: BlockId, want: Range<u32>) -> Option<Bytes> {
        self.dir(block)?.read(block, want)
    }

    /// The same even if it is out of use.
    pub(crate) fn read_anyway(&self, block: BlockId, want: Range<u32>) -> Option<Bytes> {
        self.dir(block)?.read_anyway(block, want)
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

    /// The directory that a block can be read from, as far as is known.
    pub(crate) fn place(&self, block: BlockId) -> Option<&Path> {
        let holds = |dir: &&CacheDir| !dir.is_out_of_use() && dir.index().contains(block);
        self.dir(block).filter(holds).map(CacheDir::root)
    }

    /// Files and bytes, as far as they are known.
    pub(crate) fn size(&self) -> (u64, u64) {
        self.dirs.iter().map(|dir| dir.index().size()).fold((0, 0), |(files, bytes), (f, b)| (files + f, bytes + b))
    }

    /// Writes a block that is not in the store yet. Does file I/O, as the next ones do.
    pub(crate) fn stage(&self, block: BlockId, data: &[u8]) -> io::Result<()> {
        self.dir(block).ok_or(io::ErrorKind::NotFound)?.stage(block, data)
    }

    /// All bytes of a staged block, verified, whatever the state of its directory. Not found: it was uploaded and removed.
    pub(crate) fn staged_data(&self, block: BlockId) -> Result<Bytes, Unusable> {
        self.dir(block).ok_or_else(|| Unusable::Io(io::ErrorKind::NotFound.into()))?.staged_data(block)
    }

    /// Removes a block from among those that wait.
    pub(crate) fn unstage(&self, block: BlockId) {
        if let Some(dir) = self.dir(block) {
            dir.unstage(block);
        }
    }

    /// Whether [`DiskCache::sync_staged`] has something to do.
    pub(crate) fn has_unsynced(&self) -> bool {
        self.dirs.iter().any(CacheDir::has_unsynced)
    }

    /// Makes what was staged survive a power failure.
    pub(crate) fn sync_staged(&self) -> io::Result<()> {
        self.dirs.iter().try_for_each(CacheDir::sync_staged)
    }

    /// What earlier processes staged and did not upload.
    pub(crate) fn find_staged(&self) -> Vec<BlockId> {
        let mut found: Vec<_> = self.dirs.iter().flat_map(CacheDir::find_staged).collect();
        found.sort_unstable();
        found
    }

    /// The number of the directory that a block belongs to.
    pub(crate) fn number(&self, block: BlockId) -> usize {
        if self.dirs.len() > 1 { self.ring.find(&self.naming.key(block)) } else { 0 }
    }

    fn dir(&self, block: BlockId) -> Option<&CacheDir> {
        self.dirs.get(self.number(block))
    }
}
