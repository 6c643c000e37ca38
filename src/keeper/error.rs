//! What can go wrong between us and the kernel, or between us and a worker.

use std::path::{Path, PathBuf};
use std::time::Duration;

use stead_base::Errno;

/// A result of this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Why a mount, a bind or a message failed.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "the messages say it; fields are what failed")]
pub enum Error {
    #[error("cannot open /dev/fuse: {errno} (is the fuse module loaded, and the device visible and writable here?)")]
    Device { errno: Errno },
    #[error("cannot {what} {}: {errno}", path.display())]
    Call { what: &'static str, path: PathBuf, errno: Errno },
    /// A bind's source is not the root of a FUSE mount of ours.
    #[error("{} is not the root of a mounted volume: {why}", path.display())]
    NotOurs { path: PathBuf, why: String },
    /// What is to be bound cannot be reached in its file system.
    #[error("directory {:?} of the file system: {why}", path.display())]
    NoDirectory { path: PathBuf, why: &'static str },
    #[error("malformed line in mountinfo: {line:?}")]
    MountInfo { line: String },
    #[error("fusermount3: {why}")]
    Fusermount { why: String },
    #[error("{what} did not end within {limit:?}")]
    Deadline { what: &'static str, limit: Duration },
    /// The other side of a channel is gone.
    #[error("the other side has closed the control socket")]
    Closed,
    #[error("control socket: {why}")]
    Protocol { why: String },
    #[error("control socket: {errno}")]
    Socket { errno: Errno },
    #[error("cannot start {}: {errno}", exe.display())]
    Spawn { exe: PathBuf, errno: Errno },
}

impl Error {
    pub(crate) fn call(what: &'static str, path: &Path, errno: nix::errno::Errno) -> Self {
        Self::Call { what, path: path.to_owned(), errno: Errno(errno as i32) }
    }

    pub(crate) fn io(what: &'static str, path: &Path, error: &std::io::Error) -> Self {
        Self::Call { what, path: path.to_owned(), errno: errno_of(error) }
    }

    pub(crate) fn socket(error: &std::io::Error) -> Self {
        Self::Socket { errno: errno_of(error) }
    }
}

/// The error number of an I/O error; EIO for one that has none.
pub(crate) fn errno_of(error: &std::io::Error) -> Errno {
    error.raw_os_error().map_or(Errno::EIO, Errno)
}
