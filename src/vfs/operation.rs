//! The operations by name, with how often they ran and how long they took.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use stead_base::Histogram;

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
    LSeek = "lseek",
    CopyFileRange = "copy_file_range",
    SetXattr = "setxattr",
    GetXattr = "getxattr",
    ListXattr = "listxattr",
    RemoveXattr = "removexattr",
    StatFs = "statfs",
    FLock = "flock",
    SetLk = "setlk",
    GetLk = "getlk",
    Ioctl = "ioctl",
    TmpFile = "tmpfile",
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
pub struct OpStats {
    ops: Vec<Counters>,
    latency: Histogram,
    read: Histogram,
    written: Histogram,
}

impl OpStats {
    pub(crate) fn new() -> Self {
        Self {
            ops: Op::ALL.iter().map(|_| Counters::default()).collect(),
            latency: Histogram::of_seconds(1e-5, 1.8, 29),
            read: Histogram::of_bytes(4096, 32),
            written: Histogram::of_bytes(4096, 32),
        }
    }

    /// Bytes that a read gave.
    pub(crate) fn note_read(&self, bytes: usize) {
        self.read.note(bytes as u64);
    }

    /// Bytes that a write took.
    pub(crate) fn note_written(&self, bytes: u32) {
        self.written.note(bytes.into());
    }

    /// Of the time of operations, and of the bytes of reads and writes.
    pub(crate) fn histograms(&self) -> (&Histogram, &Histogram, &Histogram) {
        (&self.latency, &self.read, &self.written)
    }

    pub(crate) fn note(&self, op: Op, took: Duration, failed: bool) {
        let counters = &self.ops[op as usize];
        counters.count.fetch_add(1, Ordering::Relaxed);
        counters.errors.fetch_add(u64::from(failed), Ordering::Relaxed);
        let nanos = u64::try_from(took.as_nanos()).unwrap_or(u64::MAX);
        counters.nanos.fetch_add(nanos, Ordering::Relaxed);
        self.latency.note_time(took);
    }

    /// Each operation that ran: (operation, times, of which failed, time spent).
    pub fn all(&self) -> impl Iterator<Item = (Op, u64, u64, Duration)> {
        Op::ALL.iter().zip(&self.ops).filter_map(|(op, counters)| {
            let count = counters.count.load(Ordering::Relaxed);
            let errors = counters.errors.load(Ordering::Relaxed);
            let took = Duration::from_nanos(counters.nanos.load(Ordering::Relaxed));
            (count > 0).then_some((*op, count, errors, took))
        })
    }
}
