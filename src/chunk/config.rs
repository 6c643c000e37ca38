//! Settings of the block layer, and how one number of bytes is split between its parts.

use std::path::{Path, PathBuf};

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
            cache_large_write: false,
            buffer_size: 300 << 20,
            max_uploads: 20,
            max_downloads: 200,
            prefetch: 1,
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
    fn memory_as_a_directory_means_no_disk() {
        let config =
            ChunkConfig { cache_dirs: vec!["memory".into(), "/a".into(), "/a".into()], ..ChunkConfig::default() };
        assert_eq!(config.disk_dirs(), [PathBuf::from("/a")]);
    }
}
