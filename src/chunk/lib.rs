//! Slices in blocks: how the bytes of a slice are cut into objects, cached in memory and on disk, and brought back.
//!
//! A slice (at most 64 MiB, immutable once finished) is cut every `block_size` bytes; each block is one object whose name
//! follows from slice id, index and length. So a block never changes, and every cache below this crate's surface may keep
//! it without ever asking whether it is still right.
//!
//! Invariants:
//! * A block that [`SliceWriter::finish`] reported is in the object store, or staged on the local disk where that was asked
//!   for ([`Writeback`]); nothing is given up before it is.
//! * A read gives exactly the bytes asked for, or an error: an object of the wrong length, a block that does not decompress
//!   or a cache file whose checksum is wrong never reaches the caller.
//! * The memory held here is bounded by `buffer_size` ([`ChunkConfig::limits`] says how it is split).
//!
//! Knows slices and blocks, nothing of inodes or files.

mod block;
mod budget;
mod compression;
mod config;
mod disk;
mod error;
mod fetch;
mod flight;
mod memory;
mod pages;
mod staging;
mod store;
#[cfg(test)]
mod tests;
mod upload;
mod usage;
mod warm;
mod writer;

pub use block::{BlockId, Naming, parse_name};
pub use budget::{Budget, Reservation};
pub use compression::Compression;
pub use config::{ChunkConfig, Eviction, Limits, MAX_SLICE, UploadHours, Verify, Writeback};
pub use error::{Error, Result};
pub use pages::{PAGE_SIZE, Page, PagePool};
pub use store::ChunkStore;
pub use usage::Usage;
pub use writer::SliceWriter;
