//! What the kernel is told when something fails: one table, without a wildcard, so that a new kind of error does not
//! compile until somebody has decided.
//!
//! Errors that say nothing to an application but EIO are written to the log, with the ids that failed.

use std::fmt;

use stead_base::Errno;
use tracing::error;

/// A result as the kernel gets it.
pub type Result<T, E = Errno> = std::result::Result<T, E>;

/// An error that has an error number.
pub trait ToErrno: fmt::Display {
    /// The number.
    fn errno(&self) -> Errno;

    /// Whether an operator must see the error itself: the number alone hides what broke.
    fn is_fault(&self) -> bool {
        self.errno() == Errno::EIO
    }
}

/// The number of `error`, after a line in the log if it is a fault.
pub(crate) fn fail<E: ToErrno>(error: E) -> Errno {
    let errno = error.errno();
    if error.is_fault() {
        error!(%error, errno = errno.name(), "operation failed");
    }
    errno
}

impl ToErrno for stead_meta::Error {
    fn errno(&self) -> Errno {
        match self {
            Self::NoEntry { .. } | Self::NoInode { .. } => Errno::ENOENT,
            Self::Exists { .. } | Self::XattrExists { .. } => Errno::EEXIST,
            Self::NotDirectory { .. } => Errno::ENOTDIR,
            Self::IsDirectory { .. } => Errno::EISDIR,
            Self::NotEmpty { .. } => Errno::ENOTEMPTY,
            Self::NotPermitted { .. } => Errno::EPERM,
            Self::AccessDenied { .. } => Errno::EACCES,
            Self::InvalidName { .. } | Self::Invalid { .. } => Errno::EINVAL,
            Self::NameTooLong { .. } => Errno::ENAMETOOLONG,
            Self::TooBig { .. } => Errno::EFBIG,
            Self::NoSpace { .. } | Self::EngineFull { .. } => Errno::ENOSPC,
            Self::QuotaExceeded { .. } | Self::OwnerQuotaExceeded { .. } => Errno::EDQUOT,
            Self::NoXattr { .. } => Errno::ENODATA,
            Self::TooLarge { .. } => Errno::ERANGE,
            Self::NotSupported { .. } => Errno::ENOTSUP,
            Self::Interrupted => Errno::EINTR,
            Self::ReadOnly => Errno::EROFS,
            Self::NoSession { .. }
            | Self::Corrupt { .. }
            | Self::NotFormatted { .. }
            | Self::Format { .. }
            | Self::Address { .. }
            | Self::Denied { .. }
            | Self::Unavailable { .. }
            | Self::Conflict { .. }
            | Self::Engine { .. } => Errno::EIO,
        }
    }

    fn is_fault(&self) -> bool {
        self.errno() == Errno::EIO || matches!(self, Self::EngineFull { .. })
    }
}

impl ToErrno for stead_chunk::Error {
    fn errno(&self) -> Errno {
        match self {
            // A missing object is EIO, not ENOENT: the file exists, its data does not.
            Self::Object { .. } | Self::Sync { .. } if self.is_full() => Errno::ENOSPC,
            Self::TooLong { .. } => Errno::EFBIG,
            Self::Object { .. }
            | Self::Remove { .. }
            | Self::Sync { .. }
            | Self::WrongLength { .. }
            | Self::Corrupt { .. }
            | Self::OutOfRange { .. }
            | Self::Sealed { .. }
            | Self::NoId
            | Self::Stopped { .. }
            | Self::Config { .. }
            | Self::CacheDir { .. }
            | Self::Staging { .. } => Errno::EIO,
        }
    }

    /// Whatever happens to data blocks is one.
    fn is_fault(&self) -> bool {
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_engine_is_a_fault_and_a_full_volume_is_not() {
        let engine = stead_meta::Error::EngineFull { engine: "redis://h".to_owned(), why: "OOM".to_owned() };
        let volume = stead_meta::Error::NoSpace { what: "space", limit: 1 };
        assert_eq!((engine.errno(), engine.is_fault()), (Errno::ENOSPC, true));
        assert_eq!((volume.errno(), volume.is_fault()), (Errno::ENOSPC, false));
    }
}
