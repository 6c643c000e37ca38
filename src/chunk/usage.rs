//! What the block layer counts. Names are those of the Go client's metrics (format §6.5) without prefix.

use std::sync::atomic::{AtomicU64, Ordering};

/// A snapshot of counters and gauges.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Gauge `blockcache_blocks`: blocks in memory and on disk.
    pub blockcache_blocks: u64,
    /// Gauge `blockcache_bytes`: their bytes; a block on disk counts 4 KiB more than its length.
    pub blockcache_bytes: u64,
    /// `blockcache_hits`: pieces of reads answered from memory or disk.
    pub blockcache_hits: u64,
    /// `blockcache_miss`: pieces of reads that needed the store.
    pub blockcache_miss: u64,
    /// `blockcache_hit_bytes`.
    pub blockcache_hit_bytes: u64,
    /// `blockcache_miss_bytes`.
    pub blockcache_miss_bytes: u64,
    /// `blockcache_drops`: blocks that were not written to disk since the queue or the disk was full, or failed.
    pub blockcache_drops: u64,
    /// `blockcache_evicts`: blocks that left memory or disk for others.
    pub blockcache_evicts: u64,
    /// `blockcache_writes`: blocks written to disk.
    pub blockcache_writes: u64,
    /// `blockcache_write_bytes`.
    pub blockcache_write_bytes: u64,
    /// Not in the Go client: cache files that were damaged and deleted.
    pub blockcache_corrupt: u64,
    /// Not in the Go client, gauge: cache directories that are out of use since their disk fails.
    pub blockcache_dirs_out_of_use: u64,
    /// Gauge `object_request_uploading`: blocks being uploaded.
    pub object_request_uploading: u64,
    /// `object_request_errors`: calls of the store that failed after its own retries, or brought bad data.
    pub object_request_errors: u64,
    /// `object_request_data_bytes{method="GET"}`, as stored.
    pub object_get_bytes: u64,
    /// `object_request_data_bytes{method="PUT"}`, as stored.
    pub object_put_bytes: u64,
    /// Gauge `staging_blocks`: blocks on the local disk that are not in the store.
    pub staging_blocks: u64,
    /// Gauge `staging_block_bytes`: their bytes.
    pub staging_block_bytes: u64,
    /// Gauge `staging_writing_blocks`: blocks being written to the local disk.
    pub staging_writing_blocks: u64,
    /// `staging_block_delay_seconds`: how long uploaded blocks had waited, summed up.
    pub staging_block_delay_seconds: u64,
    /// `staging_block_errors`: blocks that could not be staged, and failed uploads of staged ones.
    pub staging_block_errors: u64,
    /// `staging_write_bytes`: bytes written to the local disk.
    pub staging_write_bytes: u64,
    /// Gauge `store_cache_size_bytes`: memory of cached blocks.
    pub store_cache_size_bytes: u64,
    /// Gauge `used_buffer_size_bytes`: dirty pages and reserved read-ahead.
    pub used_buffer_size_bytes: u64,
}

impl Usage {
    /// Every figure under its name, for those who print them.
    pub fn figures(&self) -> [(&'static str, u64); 24] {
        [
            ("blockcache_blocks", self.blockcache_blocks),
            ("blockcache_bytes", self.blockcache_bytes),
            ("blockcache_hits", self.blockcache_hits),
            ("blockcache_miss", self.blockcache_miss),
            ("blockcache_hit_bytes", self.blockcache_hit_bytes),
            ("blockcache_miss_bytes", self.blockcache_miss_bytes),
            ("blockcache_drops", self.blockcache_drops),
            ("blockcache_evicts", self.blockcache_evicts),
            ("blockcache_writes", self.blockcache_writes),
            ("blockcache_write_bytes", self.blockcache_write_bytes),
            ("blockcache_corrupt", self.blockcache_corrupt),
            ("blockcache_dirs_out_of_use", self.blockcache_dirs_out_of_use),
            ("object_request_uploading", self.object_request_uploading),
            ("object_request_errors", self.object_request_errors),
            ("object_get_bytes", self.object_get_bytes),
            ("object_put_bytes", self.object_put_bytes),
            ("staging_blocks", self.staging_blocks),
            ("staging_block_bytes", self.staging_block_bytes),
            ("staging_writing_blocks", self.staging_writing_blocks),
            ("staging_block_delay_seconds", self.staging_block_delay_seconds),
            ("staging_block_errors", self.staging_block_errors),
            ("staging_write_bytes", self.staging_write_bytes),
            ("store_cache_size_bytes", self.store_cache_size_bytes),
            ("used_buffer_size_bytes", self.used_buffer_size_bytes),
        ]
    }
}

/// The living counters behind [`Usage`].
#[derive(Debug, Default)]
pub(crate) struct Counters {
    pub(crate) hits: Counter,
    pub(crate) misses: Counter,
    pub(crate) hit_bytes: Counter,
    pub(crate) miss_bytes: Counter,
    pub(crate) drops: Counter,
    pub(crate) evicts: Counter,
    pub(crate) writes: Counter,
    pub(crate) write_bytes: Counter,
    pub(crate) corrupt: Counter,
    pub(crate) errors: Counter,
    pub(crate) get_bytes: Counter,
    pub(crate) put_bytes: Counter,
}

impl Counters {
    pub(crate) fn hit(&self, bytes: usize) {
        self.hits.add(1);
        self.hit_bytes.add(bytes as u64);
    }

    pub(crate) fn miss(&self, bytes: usize) {
        self.misses.add(1);
        self.miss_bytes.add(bytes as u64);
    }

    /// The counters; the gauges are the caller's to fill in.
    pub(crate) fn snapshot(&self) -> Usage {
        Usage {
            blockcache_hits: self.hits.get(),
            blockcache_miss: self.misses.get(),
            blockcache_hit_bytes: self.hit_bytes.get(),
            blockcache_miss_bytes: self.miss_bytes.get(),
            blockcache_drops: self.drops.get(),
            blockcache_evicts: self.evicts.get(),
            blockcache_writes: self.writes.get(),
            blockcache_write_bytes: self.write_bytes.get(),
            blockcache_corrupt: self.corrupt.get(),
            object_request_errors: self.errors.get(),
            object_get_bytes: self.get_bytes.get(),
            object_put_bytes: self.put_bytes.get(),
            ..Usage::default()
        }
    }
}

/// A number that only grows.
#[derive(Debug, Default)]
pub(crate) struct Counter(AtomicU64);

impl Counter {
    pub(crate) fn add(&self, n: u64) {
        self.0.fetch_add(n, Ordering::Relaxed);
    }

    pub(crate) fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}
