//! What can go wrong between a slice and its blocks.

use std::path::PathBuf;

use stead_base::SliceId;

/// A result of this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Why a slice could not be read or written.
#[derive(Clone, Debug, thiserror::Error)]
#[expect(missing_docs, reason = "the messages say it")]
pub enum Error {
    /// The object store failed. Its own decorators have already retried.
    #[error("block {key}: {source}")]
    Object { key: String, source: stead_object::Error },
    /// Some blocks could not be removed.
    #[error("removal of blocks: {source}")]
    Remove { source: stead_object::Error },
    #[error("sync of the object store: {source}")]
    Sync { source: stead_object::Error },
    /// The store answered with more or fewer bytes than the block has.
    #[error("block {key}: the store has {found} bytes where {expected} belong")]
    WrongLength { key: String, expected: u64, found: u64 },
    /// The object does not decompress to the block.
    #[error("block {key}: {why}")]
    Corrupt { key: String, why: String },
    /// A read that does not lie inside the slice.
    #[error("slice {id}: bytes {off} ..+{len} are outside its size {size}")]
    OutOfRange { id: SliceId, size: u32, off: u32, len: u32 },
    /// A write behind 64 MiB, the most that a slice can hold.
    #[error("a write of {len} bytes at {off} does not fit into a slice of at most 67108864 bytes")]
    TooLong { off: u32, len: usize },
    /// A write into a block whose upload has begun, or after `finish`.
    #[error("offset {off} of the slice has already been given to the store")]
    Sealed { off: u32 },
    /// `finish` before `set_id`.
    #[error("a slice needs its id before it can be uploaded")]
    NoId,
    /// The runtime went away under an upload or a fetch.
    #[error("block {key}: stopped before it was done")]
    Stopped { key: String },
    /// What was staged on the local disk could not be made safe there.
    #[error("sync of staged blocks: {why}")]
    Staging { why: String },
    /// A wrong setting: names it, and what would be right.
    #[error("{field} {value:?}: {why}")]
    Config { field: &'static str, value: String, why: String },
    /// A cache directory that cannot be used.
    #[error("cache directory {}: {why}", path.display())]
    CacheDir { path: PathBuf, why: String },
}

impl Error {
    /// The object does not exist in the store.
    pub fn is_not_found(&self) -> bool {
        matches!(self, Self::Object { source: stead_object::Error::NotFound { .. }, .. })
    }

    /// The store has no room left.
    pub fn is_full(&self) -> bool {
        matches!(self, Self::Object { source: stead_object::Error::Full { .. }, .. })
    }

    /// The stored bytes themselves are not what they should be.
    pub(crate) fn is_bad_data(&self) -> bool {
        matches!(
            self,
            Self::WrongLength { .. }
                | Self::Corrupt { .. }
                | Self::Object { source: stead_object::Error::Corrupt { .. }, .. }
        )
    }
}
