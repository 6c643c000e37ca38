//! Object stores: where data blocks lie. One trait, three stores ([`file`], [`s3`], [`memory`]), and decorators that add
//! retries, limits, prefixes and faults without the stores knowing.
//!
//! Knows nothing of files or inodes.

#[cfg(test)]
mod behaviour;
mod check;
mod deletion;
mod encryption;
#[cfg(test)]
mod figures;
pub mod file;
mod layers;
pub mod memory;
mod open;
pub mod s3;

use std::fmt;
use std::ops::Range;

use async_trait::async_trait;
use bytes::Bytes;
use stead_base::Timestamp;

pub use check::{check, check_put, clean};
pub use deletion::delete_all;
pub use encryption::Encryption;
pub use file::FileStore;
pub use layers::encrypted::Encrypted;
pub use layers::failing::{Failing, Fault, Rule};
pub use layers::measured::{Measured, Requests};
pub use layers::prefixed::Prefixed;
pub use layers::retried::{Backoff, Retried};
pub use layers::sharded::Sharded;
pub use layers::swappable::Swappable;
pub use layers::throttled::{Limits, Throttled};
pub use layers::time_limited::TimeLimited;
pub use memory::MemoryStore;
pub use open::{Policy, StorageConfig, decorate, open};
pub use s3::S3Store;

/// A result of this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Why a call on an object store failed.
#[derive(Clone, Debug, thiserror::Error)]
#[expect(missing_docs, reason = "the messages say it")]
pub enum Error {
    #[error("{store}: no object {key:?}")]
    NotFound { store: String, key: String },
    /// Wrong keys, or keys without permission.
    #[error("{store}: access denied: {why}")]
    Denied { store: String, why: String },
    /// The bucket or directory does not exist.
    #[error("{store}: no such bucket: {why}")]
    NoBucket { store: String, why: String },
    /// A wrong address or option; names it.
    #[error("object storage {field} {value:?}: {why}")]
    Config { field: &'static str, value: String, why: String },
    /// The store has no room.
    #[error("{store}: out of space: {why}")]
    Full { store: String, why: String },
    /// The key of a volume that is encrypted at rest cannot be used.
    #[error("encryption key of the volume: {why}")]
    EncryptKey { why: String },
    /// An object whose content is not what was put there.
    #[error("{store}: object {key:?}: {why}")]
    Corrupt { store: String, key: String, why: String },
    /// Worth a retry: a timeout, a lost connection, a 5xx answer, throttling.
    #[error("{store}: {why}")]
    Temporary { store: String, why: String },
    /// Anything else.
    #[error("{store}: {why}")]
    Other { store: String, why: String },
}

impl Error {
    /// Whether the same call may succeed later.
    pub fn is_temporary(&self) -> bool {
        matches!(self, Self::Temporary { .. })
    }
}

/// What a listing or [`ObjectStore::head`] tells of an object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ObjectInfo {
    /// The whole key.
    pub key: String,
    /// Bytes.
    pub size: u64,
    /// When it was last written.
    pub modified: Timestamp,
}

/// A store of immutable objects under string keys (`a/b/c`, no leading slash).
///
/// * A key that does not exist: `get` and `head` answer [`Error::NotFound`], `delete` succeeds.
/// * `put` is atomic: a reader sees the whole old or the whole new object, and what was put is there for every later
///   `get` and `list` of any client.
/// * Ranges that end behind the object are cut; a range that starts at or behind its end gives no bytes.
/// * Nobody cleans up behind a store: temporary files of a `put` that died are the store's own business.
#[async_trait]
pub trait ObjectStore: Send + Sync + fmt::Debug {
    /// Scheme and place without secrets, for messages: `s3://host/bucket/prefix/`, `file:///dir/prefix/`.
    fn describe(&self) -> String;

    /// The object's bytes, or a range of them.
    async fn get(&self, key: &str, range: Option<Range<u64>>) -> Result<Bytes>;

    /// Writes an object, replacing an older one.
    async fn put(&self, key: &str, body: Bytes) -> Result<()>;

    /// Removes an object.
    async fn delete(&self, key: &str) -> Result<()>;

    /// How many objects [`delete_many`](Self::delete_many) should get. 1: it does nothing that [`delete`](Self::delete) does
    /// not, and each object better has a call of its own, with its own time and retries.
    fn deletes_together(&self) -> usize {
        1
    }

    /// Removes objects. After an error some of them may be left, also such that were not tried.
    async fn delete_many(&self, keys: &[String]) -> Result<()> {
        for key in keys {
            self.delete(key).await?;
        }
        Ok(())
    }

    /// Size and time.
    async fn head(&self, key: &str) -> Result<ObjectInfo>;

    /// Up to `limit` objects whose keys begin with `prefix` and sort after `after`, in the order of their bytes.
    /// Fewer than `limit` items means that there are no more.
    async fn list(&self, prefix: &str, after: &str, limit: usize) -> Result<Vec<ObjectInfo>>;

    /// Makes everything that was put so far survive a power failure, as fsync(2) promises. A no-op where `put` does.
    async fn sync(&self) -> Result<()> {
        Ok(())
    }

    /// Makes the bucket or directory if it does not exist.
    async fn create_bucket(&self) -> Result<()> {
        Ok(())
    }
}

/// A call of [`ObjectStore`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[expect(missing_docs, reason = "named as the methods are")]
pub enum Op {
    Get,
    Put,
    Delete,
    Head,
    List,
    Sync,
    CreateBucket,
}

impl Op {
    /// All of them.
    pub const ALL: [Self; 7] =
        [Self::Get, Self::Put, Self::Delete, Self::Head, Self::List, Self::Sync, Self::CreateBucket];

    /// What metrics call it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Get => "GET",
            Self::Put => "PUT",
            Self::Delete => "DELETE",
            Self::Head => "HEAD",
            Self::List => "LIST",
            Self::Sync => "SYNC",
            Self::CreateBucket => "CREATE_BUCKET",
        }
    }
}

/// The bytes that `range` asks of an object of `size` bytes, by the rules of [`ObjectStore::get`].
fn cut(range: Option<Range<u64>>, size: u64) -> Range<u64> {
    let range = range.unwrap_or(0..size);
    let end = range.end.min(size);
    range.start.min(end)..end
}
