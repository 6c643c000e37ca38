//! Why a worker could not start or go on, and the exit code that says so.

use std::fmt;

use serde::{Deserialize, Serialize};

/// The start-up stages, in order. Each is logged with its duration.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Stage {
    /// Options that contradict each other, cache directories that cannot be written.
    Checks,
    /// Connecting to the metadata engine and reading the Format.
    Format,
    /// Opening the object storage that the Format names.
    Storage,
    /// Caches, readers and writers over it.
    Chunk,
    /// Registering with the metadata engine.
    Session,
    /// Handles, virtual files.
    Vfs,
    /// Heartbeat, clean-up, metrics.
    Background,
    /// The kernel's handshake.
    Serve,
}

impl fmt::Display for Stage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Checks => "early checks",
            Self::Format => "load Format",
            Self::Storage => "object storage",
            Self::Chunk => "chunk store",
            Self::Session => "session",
            Self::Vfs => "VFS",
            Self::Background => "background tasks",
            Self::Serve => "serve",
        })
    }
}

/// What went wrong.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// An option or address that cannot be right.
    #[error("{0}")]
    BadInput(String),
    /// The directory of the volume that was to be mounted.
    #[error("subdir={subdir}: {error}")]
    Subdir {
        /// As it was given.
        subdir: String,
        /// What is wrong with it.
        error: stead_meta::Error,
    },
    /// The bucket is there, but it is not this volume's.
    #[error("{store} belongs to the volume with UUID {found}, not {expected}")]
    ForeignBucket {
        /// The object storage.
        store: String,
        /// Whose it is.
        found: String,
        /// The volume that was to be mounted.
        expected: String,
    },
    /// The bucket may be read and not written.
    #[error("{error}; user {uid} writes there: {remedy}, or mount read-only (option ro)")]
    ReadOnlyStorage {
        /// What the store said.
        error: stead_object::Error,
        /// The user of this process.
        uid: u32,
        /// What would be right.
        remedy: &'static str,
    },
    /// The metadata engine or what it holds.
    #[error(transparent)]
    Meta(#[from] stead_meta::Error),
    /// The object storage.
    #[error(transparent)]
    Object(#[from] stead_object::Error),
    /// Caches, or the data path over the object storage.
    #[error(transparent)]
    Chunk(#[from] stead_chunk::Error),
    /// The kernel, a socket or a file.
    #[error("{what}: {error}")]
    Io {
        /// What was tried.
        what: String,
        /// What the system said.
        error: std::io::Error,
    },
}

/// A start that failed, and where.
#[derive(Debug, thiserror::Error)]
#[error("{stage}: {error}")]
pub struct StartError {
    /// The stage that failed; earlier ones have been undone.
    pub stage: Stage,
    /// Why.
    pub error: Error,
}

/// Exit codes of every `stead` command.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[repr(u8)]
pub enum ExitCode {
    /// Anything without a code of its own.
    General = 1,
    /// A wrong argument, option or address.
    BadInput = 2,
    /// Wrong credentials or missing permission.
    Denied = 3,
    /// A server cannot be reached.
    Unavailable = 4,
    /// No volume is formatted there.
    NotFormatted = 5,
    /// The volume needs another client, or its setting is unreadable.
    BadFormat = 6,
    /// No space in the engine or the object storage.
    Full = 7,
    /// The directory of the volume that was to be mounted does not exist.
    NoSubdir = 8,
    /// A check found something wrong that was not repaired.
    Damaged = 9,
    /// Something that cannot be undone was not confirmed; nothing was done.
    NotConfirmed = 10,
    /// The volume was removed or replaced while it was mounted; the Go client's code.
    VolumeGone = 11,
}

impl Error {
    /// The exit code for this error.
    pub fn exit_code(&self) -> ExitCode {
        match self {
            Self::BadInput(_) | Self::ForeignBucket { .. } => ExitCode::BadInput,
            Self::Subdir { error, .. } => match error {
                stead_meta::Error::NoEntry { .. } | stead_meta::Error::NotDirectory { .. } => ExitCode::NoSubdir,
                other => meta_code(other),
            },
            Self::Meta(error) => meta_code(error),
            Self::Object(error) | Self::ReadOnlyStorage { error, .. } => object_code(error),
            Self::Chunk(_) | Self::Io { .. } => ExitCode::General,
        }
    }
}

fn meta_code(error: &stead_meta::Error) -> ExitCode {
    use stead_meta::Error as E;
    match error {
        E::Address { .. } | E::InvalidName { .. } | E::NameTooLong { .. } | E::Invalid { .. } => ExitCode::BadInput,
        E::Denied { .. } => ExitCode::Denied,
        E::Unavailable { .. } => ExitCode::Unavailable,
        E::NotFormatted { .. } => ExitCode::NotFormatted,
        E::Format { .. } => ExitCode::BadFormat,
        E::EngineFull { .. } | E::NoSpace { .. } | E::QuotaExceeded { .. } | E::OwnerQuotaExceeded { .. } => {
            ExitCode::Full
        }
        E::NoEntry { .. }
        | E::NoInode { .. }
        | E::Exists { .. }
        | E::NotDirectory { .. }
        | E::IsDirectory { .. }
        | E::NotEmpty { .. }
        | E::NotPermitted { .. }
        | E::AccessDenied { .. }
        | E::TooBig { .. }
        | E::NoXattr { .. }
        | E::XattrExists { .. }
        | E::TooLarge { .. }
        | E::NotSupported { .. }
        | E::Interrupted
        | E::ReadOnly
        | E::NoSession { .. }
        | E::Corrupt { .. }
        | E::Conflict { .. }
        | E::Engine { .. } => ExitCode::General,
    }
}

fn object_code(error: &stead_object::Error) -> ExitCode {
    use stead_object::Error as E;
    match error {
        E::Config { .. } | E::NoBucket { .. } | E::EncryptKey { .. } => ExitCode::BadInput,
        E::Denied { .. } => ExitCode::Denied,
        E::Temporary { .. } => ExitCode::Unavailable,
        E::Full { .. } => ExitCode::Full,
        E::NotFound { .. } | E::Corrupt { .. } | E::Other { .. } => ExitCode::General,
    }
}
