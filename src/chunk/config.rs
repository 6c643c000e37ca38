//! Settings of the block layer, and how one number of bytes is split between its parts.

use std::cmp::Ordering;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use chrono::Timelike;
use stead_base::Clock;
use stead_object::Requests;

use crate::{Compression, Error, Result};

/// The most bytes a slice can hold: one chunk.
pub const MAX_SLICE: u32 = 64 << 20;

const MIB: u64 = 1 << 20;

/// Settings of a [`ChunkStore`](crate::ChunkStore).
#[derive(Clone, Debug)]
pub struct ChunkConfig {
    /// Bytes of a full block: a power of two, 64 KiB ..= 16 MiB (`BlockSize` of the Format, times 1024).
    pub block_size: u32,
    /// How blocks are packed in the store.
    pub compression: Compression,
    /// The other naming of objects (`HashPrefix` of the Format).
    pub hash_prefix: bool,
    /// The volume's UUID: names the directory inside each cache directory.
    pub uuid: String,
    /// Directories of the disk cache. None, or `memory`: no disk cache.
    pub cache_dirs: Vec<PathBuf>,
    /// Bytes of all cache directories together; 0: no disk cache.
    pub cache_size: u64,
    /// Share of the cache's file system (bytes and inodes) that is left free, 0.0 ..= 1.0.
    pub free_space_ratio: f32,
    /// Which cache files make room for others.
    pub eviction: Eviction,
    /// Cache files that nobody has used for so long are removed; zero: none is.
    pub cache_expire: Duration,
    /// How much of a cache file is compared with its checksums.
    pub verify: Verify,
    /// An operation on a cache directory that takes longer has failed, and takes the directory out of use.
    pub disk_patience: Duration,
    /// How long a cache directory whose disk fails is left alone at first; longer and longer while it goes on failing.
    pub disk_pause: Duration,
    /// Permissions of cache files; their directories can be entered by whoever may read them.
    pub cache_mode: u32,
    /// Cache full blocks too when they are written; smaller ones always are.
    pub cache_large_write: bool,
    /// The most bytes of memory this layer uses; see [`Limits`].
    pub buffer_size: u64,
    /// Blocks uploaded at the same time, at least 1.
    pub max_uploads: u32,
    /// Blocks fetched at the same time, at least 1.
    pub max_downloads: u32,
    /// Whether a small random read also fetches its whole block in the background (0: no).
    pub prefetch: u32,
    /// Whether a range of an object costs less than the whole. Not so when objects are encrypted.
    pub range_reads: bool,
    /// Write blocks to the disk cache first and upload them later; `None` = upload before a slice is committed.
    pub writeback: Option<Writeback>,
    /// Where requests to the store are counted, for those who ask this layer for figures.
    pub requests: Arc<Requests>,
}

/// Which cache file makes room for another one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Eviction {
    /// The older of two that chance picks: a pass over more than fits leaves some of it cached.
    TwoRandom,
    /// None: what does not fit is not cached.
    None,
    /// The one that was not used for the longest time.
    Lru,
}

/// How much of a cache file is compared with its checksums when it is read (format §5.5).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verify {
    /// Nothing, and files are written without checksums.
    None,
    /// Reads of whole blocks.
    Full,
    /// Units that lie inside the read as a whole.
    Shrink,
    /// Every unit that is touched, for which more is read than was asked for.
    Extend,
}

/// How written blocks wait on the local disk.
#[derive(Clone, Debug)]
pub struct Writeback {
    /// Blocks of this many bytes and more are uploaded at once; 0 = none is.
    pub threshold: u64,
    /// How long a block waits at least.
    pub delay: Duration,
    /// When blocks are uploaded; `None` = at any time.
    pub hours: Option<UploadHours>,
    /// Tells the hour.
    pub clock: Arc<dyn Clock>,
}

/// Hours of the local day, 0 ..= 23: from `start` up to, not including, `end`, which may lie on the next day.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UploadHours {
    /// The first hour.
    pub start: u32,
    /// The hour behind the last one; the same as `start` = the whole day.
    pub end: u32,
}

impl UploadHours {
    /// How long to wait before asking again; zero = go.
    pub(crate) fn until_open(self, clock: &dyn Clock) -> Duration {
        let Some(now) = chrono::DateTime::from_timestamp(clock.now().secs, 0) else { return Duration::ZERO };
        let now = now.with_timezone(&chrono::Local);
        if self.contains(now.hour()) {
            return Duration::ZERO;
        }
        Duration::from_secs(u64::from(3600 - now.minute() * 60 - now.second()))
    }

    fn contains(self, hour: u32) -> bool {
        match self.start.cmp(&self.end) {
            Ordering::Less => (self.start..self.end).contains(&hour),
            Ordering::Equal => true,
            Ordering::Greater => !(self.end..self.start).contains(&hour),
        }
    }
}

impl Default for ChunkConfig {
    fn default() -> Self {
        Self {
            block_size: 4 << 20,
            compression: Compression::None,
            hash_prefix: false,
            uuid: String::new(),
            cache_dirs: Vec::new(),
            cache_size: 100 << 30,
            free_space_ratio: 0.1,
            eviction: Eviction::TwoRandom,
            cache_expire: Duration::ZERO,
            verify: Verify::Extend,
            disk_patience: Duration::from_secs(10),
            disk_pause: Duration::from_secs(60),
            cache_mode: 0o600,
            cache_large_write: false,
            buffer_size: 300 << 20,
            max_uploads: 20,
            max_downloads: 200,
            prefetch: 1,
            range_reads: true,
            writeback: None,
            requests: Arc::default(),
        }
    }
}

/// How `buffer_size` is split. With the default of 300 MiB: 60 MiB of dirty pages (and, while a block is uploaded, as much
/// again for the copy on the wire), 50 MiB of cached blocks, 50 MiB of blocks under way from the store. A mount that only
/// writes or only reads therefore holds at most two fifths of `buffer_size`, one that does both three quarters; what the heap adds
/// for its own bookkeeping comes on top.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of dirty pages and of what callers reserve: a fifth, at least four blocks.
    pub budget: u64,
    /// Bytes of cached blocks: a sixth, 32 MiB ..= 100 MiB.
    pub memory_cache: u64,
    /// Bytes of whole blocks under way from the store: a sixth, at least four blocks. Prefetching takes three quarters
    /// of it, so that whoever waits for a block never waits behind all of them.
    pub fetches: u64,
    /// Bytes that wait to be written to the disk cache: a sixteenth, at least two blocks.
    pub disk_queue: u64,
}

impl ChunkConfig {
    /// The split of `buffer_size`.
    pub fn limits(&self) -> Limits {
        let block = u64::from(self.block_size);
        Limits {
            budget: (self.buffer_size / 5).max(4 * block),
            memory_cache: (self.buffer_size / 6).clamp(32 * MIB, 100 * MIB),
            fetches: (self.buffer_size / 6).max(4 * block),
            disk_queue: (self.buffer_size / 16).max(2 * block),
        }
    }

    /// The directories of the disk cache that are really in use.
    pub(crate) fn disk_dirs(&self) -> Vec<PathBuf> {
        let mut dirs: Vec<PathBuf> = Vec::new();
        for dir in &self.cache_dirs {
            if self.cache_size > 0 && dir != Path::new("memory") && !dirs.contains(dir) {
                dirs.push(dir.clone());
            }
        }
        dirs
    }

    pub(crate) fn validate(&self) -> Result<()> {
        let wrong = |field, value: String, why: &str| Err(Error::Config { field, value, why: why.to_owned() });
        if !self.block_size.is_power_of_two() || !(64 << 10..=16 << 20).contains(&self.block_size) {
            return wrong("block size", self.block_size.to_string(), "it must be a power of two, 64 KiB to 16 MiB");
        }
        if !(0.0..=1.0).contains(&self.free_space_ratio) {
            return wrong("free-space-ratio", self.free_space_ratio.to_string(), "it must lie between 0 and 1");
        }
        let named = !self.uuid.is_empty() && self.uuid.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-');
        if !self.disk_dirs().is_empty() && !named {
            return wrong("volume UUID", self.uuid.clone(), "it names a cache directory: letters, digits and '-'");
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_needs_two_fifths_of_its_buffer_size_in_one_direction() {
        let config = ChunkConfig::default();
        let limits = config.limits();
        let copies = limits.budget.min(u64::from(config.max_uploads * config.block_size));
        assert!(limits.budget + copies <= config.buffer_size / 5 * 2, "{limits:?}");
        assert!(limits.memory_cache + limits.fetches <= config.buffer_size / 5 * 2, "{limits:?}");
    }

    #[test]
    fn wrong_settings_are_named() {
        let odd = ChunkConfig { block_size: 100_000, ..ChunkConfig::default() };
        assert_eq!(
            odd.validate().expect_err("odd").to_string(),
            "block size \"100000\": it must be a power of two, 64 KiB to 16 MiB"
        );
        let escaping =
            ChunkConfig { uuid: "../x".to_owned(), cache_dirs: vec!["/cache".into()], ..ChunkConfig::default() };
        assert!(escaping.validate().is_err());
    }

    #[test]
    fn upload_hours_may_span_midnight() {
        let open = |start, end| (0..24).filter(|&hour| UploadHours { start, end }.contains(hour)).collect::<Vec<_>>();
        assert_eq!(open(2, 4), [2, 3]);
        assert_eq!(open(23, 1), [0, 23]);
        assert_eq!(open(5, 5).len(), 24);
    }

    #[test]
    fn memory_as_a_directory_means_no_disk() {
        let config =
            ChunkConfig { cache_dirs: vec!["memory".into(), "/a".into(), "/a".into()], ..ChunkConfig::default() };
        assert_eq!(config.disk_dirs(), [PathBuf::from("/a")]);
    }
}
