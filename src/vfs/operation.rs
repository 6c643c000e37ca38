//! The operations by name, with how often they ran and how long they took.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

macro_rules! operations {
    ($($variant:ident = $name:literal),* $(,)?) => {
        /// An operation of the file system, as `.accesslog` and the metrics name it.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        #[expect(missing_docs, reason = "named after the requests of FUSE")]
        pub enum Op {
            $($variant),*
        }

        impl Op {
            /// All of them.
            pub const ALL: &[Self] = &[$(Self::$variant),*];

            /// The name.
            pub const fn name(self) -> &'static str {
                match self {
                    $(Self::$variant => $name),*
                }
            }
        }
    };
}
operations!(
    Lookup = "lookup",
    GetAttr = "getattr",
    SetAttr = "setattr",
    MkNod = "mknod",
    MkDir = "mkdir",
    Unlink = "unlink",
    RmDir = "rmdir",
    Symlink = "symlink",
    ReadLink = "readlink",
    Rename = "rename",
    Link = "link",
    OpenDir = "opendir",
    ReadDir = "readdir",
    ReleaseDir = "releasedir",
    Create = "create",
    Open = "open",
    Read = "read",
    Write = "write",
    Flush = "flush",
    FSync = "fsync",
    Release = "release",
    FAllocate = "fallocate",
    SetXattr = "setxattr",
    GetXattr = "getxattr",
    ListXattr = "listxattr",
    RemoveXattr = "removexattr",
    StatFs = "statfs",
);

/// What happened to one operation since the mount began.
#[derive(Debug, Default)]
struct Counters {
    count: AtomicU64,
    errors: AtomicU64,
    nanos: AtomicU64,
}

/// Numbers of all operations.
#[derive(Debug)]
pub struct OpStats(Vec<Counters>);

impl OpStats {
    pub(crate) fn new() -> Self {
        Self(Op::ALL.iter().map(|_| Counters::default()).collect())
    }

    pub(crate) fn note(&self, op: Op, took: Duration, failed: bool) {
        let counters = &self.0[op as usize];
        counters.count.fetch_add(1, Ordering::Relaxed);
        counters.errors.fetch_add(u64::from(failed), Ordering::Relaxed);
        let nanos = u64::try_from(took.as_nanos()).unwrap_or(u64::MAX);
        counters.nanos.fetch_add(nanos, Ordering::Relaxed);
    }

    /// Each operation that ran: (operation, times, of which failed, time spent).
    pub fn all(&self) -> impl Iterator<Item = (Op, u64, u64, Duration)> {
        Op::ALL.iter().zip(&self.0).filter_map(|(op, counters)| {
            let count = counters.count.load(Ordering::Relaxed);
            let errors = counters.errors.load(Ordering::Relaxed);
            let took = Duration::from_nanos(counters.nanos.load(Ordering::Relaxed));
            (count > 0).then_some((*op, count, errors, took))
        })
    }
}
