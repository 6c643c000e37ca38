//! What can go wrong with metadata. `stead_vfs` maps each kind to an errno, `stead_volume` to an answer for people.

use stead_base::{Ino, SessionId};

use crate::records::Principal;

/// A result of this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Why a metadata operation failed.
#[derive(Clone, Debug, thiserror::Error)]
#[expect(missing_docs, reason = "the messages say it; fields are the ids that failed")]
pub enum Error {
    #[error("no entry {name:?} in directory {parent}")]
    NoEntry { parent: Ino, name: String },
    #[error("inode {ino} does not exist")]
    NoInode { ino: Ino },
    #[error("{name:?} exists in directory {parent}")]
    Exists { parent: Ino, name: String },
    #[error("inode {ino} is no directory")]
    NotDirectory { ino: Ino },
    #[error("inode {ino} is a directory")]
    IsDirectory { ino: Ino },
    #[error("directory {ino} is not empty")]
    NotEmpty { ino: Ino },
    #[error("operation not permitted on inode {ino}: {why}")]
    NotPermitted { ino: Ino, why: &'static str },
    #[error("access denied to inode {ino}: {why}")]
    AccessDenied { ino: Ino, why: &'static str },
    #[error("{name:?} is no valid name: 1 to 255 bytes without '/' and NUL, not '.' or '..'")]
    InvalidName { name: String },
    #[error("a name of {length} bytes is too long: 255 at most")]
    NameTooLong { length: usize },
    #[error("invalid {field}: {value}, expected {expected}")]
    Invalid { field: &'static str, value: String, expected: &'static str },
    #[error("file end {end} is beyond the largest file size")]
    TooBig { ino: Ino, end: u64 },
    #[error("the volume is full: {what} limit {limit}")]
    NoSpace { what: &'static str, limit: u64 },
    #[error("quota of directory {dir} exceeded: {what} limit {limit}")]
    QuotaExceeded { dir: Ino, what: &'static str, limit: i64 },
    #[error("quota of {of:?} exceeded: {what} limit {limit}")]
    OwnerQuotaExceeded { of: Principal, what: &'static str, limit: i64 },
    #[error("inode {ino} has no extended attribute {name:?}")]
    NoXattr { ino: Ino, name: String },
    #[error("inode {ino} has an extended attribute {name:?} already")]
    XattrExists { ino: Ino, name: String },
    #[error("value of {length} bytes is too large: {limit} at most")]
    TooLarge { length: usize, limit: usize },
    #[error("{what} is not supported")]
    NotSupported { what: &'static str },
    /// Whoever asked for it does not want it any more.
    #[error("interrupted")]
    Interrupted,
    #[error("the volume is mounted read-only")]
    ReadOnly,
    #[error("session {sid} is gone")]
    NoSession { sid: SessionId },
    /// A stored record that does not decode: EIO for that object, never damage elsewhere.
    #[error("corrupt record {key}: {why}")]
    Corrupt { key: String, why: String },
    /// The volume was never formatted.
    #[error("no volume is formatted in {engine}")]
    NotFormatted { engine: String },
    /// The stored Format cannot be used by this client, or a new one is not allowed: names the member.
    #[error("Format member {member}: {value}: {why}")]
    Format { member: &'static str, value: String, why: String },
    /// The address of the engine is wrong.
    #[error("metadata address {address}: {why}")]
    Address { address: String, why: String },
    /// The engine refused us: wrong user or password, or no permission.
    #[error("metadata engine {engine} refused access: {why}")]
    Denied { engine: String, why: String },
    /// The engine cannot be reached within the retry time.
    #[error("metadata engine {engine} is not available: {why}")]
    Unavailable { engine: String, why: String },
    /// The engine has no room (Redis' OOM, a full disk under SQLite).
    #[error("metadata engine {engine} has no space: {why}")]
    EngineFull { engine: String, why: String },
    #[error("transaction gave up after {attempts} conflicts")]
    Conflict { attempts: u32 },
    #[error("metadata engine {engine}: {why}")]
    Engine { engine: String, why: String },
}
