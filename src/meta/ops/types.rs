//! The words of the file system's interface: who asks, what is to be set, what comes back.

use std::ops::Deref;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use stead_base::{Clock, SliceId, SystemClock, Timestamp};

use crate::records::{Attr, NodeType};

/// Flags of [`super::Meta::rename`] (renameat2(2), format.md §0).
pub mod rename_flags {
    /// Fail if the new name exists.
    pub const NOREPLACE: u32 = 1;
    /// Swap the two names.
    pub const EXCHANGE: u32 = 2;
    /// Not supported.
    pub const WHITEOUT: u32 = 4;
    /// Internal: moves an entry of the trash back; only with [`NOREPLACE`].
    pub const RESTORE: u32 = 0x20;
}

/// Mode bits of [`super::Meta::fallocate`] (fallocate(2)).
pub mod fallocate_mode {
    /// The file's length stays.
    pub const KEEP_SIZE: u32 = 1;
    /// The range reads as zeros; needs [`KEEP_SIZE`].
    pub const PUNCH_HOLE: u32 = 2;
    /// The range reads as zeros; the file may grow.
    pub const ZERO_RANGE: u32 = 0x10;
}

/// Who asks for an operation.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Caller {
    /// Effective user.
    pub uid: u32,
    /// Effective group.
    pub gid: u32,
    /// Process, for messages only.
    pub pid: u32,
    /// Supplementary groups. `None`: unknown, as with FUSE requests; rules that turn on membership in a group other
    /// than `gid` are then left to the kernel (`default_permissions`).
    pub groups: Option<Vec<u32>>,
    /// The kernel's number of what is asked; 0 = none.
    pub request: u64,
    /// It was asked before, of a process that has died since: it may have taken effect already.
    pub again: bool,
}

impl Caller {
    /// A caller whose supplementary groups only the kernel knows.
    pub const fn new(uid: u32, gid: u32, pid: u32) -> Self {
        Self { uid, gid, pid, groups: None, request: 0, again: false }
    }

    /// The same who asks by the request of this number; `again` if another process was asked before.
    #[must_use]
    pub fn asking(self, request: u64, again: bool) -> Self {
        Self { request, again, ..self }
    }

    /// The administrator: may do everything.
    pub const fn root() -> Self {
        Self::new(0, 0, 0)
    }

    /// Whether this is the administrator.
    pub const fn is_root(&self) -> bool {
        self.uid == 0
    }

    /// Whether the caller belongs to `group`; `true` when only the kernel knows.
    pub(crate) fn in_group(&self, group: u32) -> bool {
        self.gid == group || self.groups.as_ref().is_none_or(|groups| groups.contains(&group))
    }
}

/// A time to be set, as utimensat(2) has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SetTime {
    /// The time of the operation.
    Now,
    /// This time.
    At(Timestamp),
}

/// What [`super::Meta::setattr`] changes; `None` leaves a member alone. The length is [`super::Meta::truncate`]'s.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SetAttr {
    /// Permission, set-id and sticky bits, `0 ..= 0o7777`.
    pub mode: Option<u16>,
    /// Owner.
    pub uid: Option<u32>,
    /// Group.
    pub gid: Option<u32>,
    /// Last access.
    pub atime: Option<SetTime>,
    /// Last change of the content.
    pub mtime: Option<SetTime>,
    /// Last change of the inode; without it, the time of the operation.
    pub ctime: Option<SetTime>,
    /// Bits of [`crate::records::flags`]; root only.
    pub flags: Option<u8>,
}

/// An inode to be made by [`super::Meta::mknod`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewNode {
    /// What it is to be.
    pub kind: NodeType,
    /// Permission, set-id and sticky bits, before `umask`.
    pub mode: u16,
    /// Bits of `mode` that are cleared.
    pub umask: u16,
    /// Device number, for devices.
    pub rdev: u32,
    /// Where a symbolic link leads: 1 ..= 4096 bytes without NUL.
    pub target: Option<Bytes>,
}

impl NewNode {
    /// A directory.
    pub const fn directory(mode: u16, umask: u16) -> Self {
        Self::plain(NodeType::Directory, mode, umask)
    }

    /// An empty regular file.
    pub const fn file(mode: u16, umask: u16) -> Self {
        Self::plain(NodeType::File, mode, umask)
    }

    /// A symbolic link.
    pub fn symlink(target: Bytes) -> Self {
        Self { target: Some(target), ..Self::plain(NodeType::Symlink, 0o777, 0) }
    }

    const fn plain(kind: NodeType, mode: u16, umask: u16) -> Self {
        Self { kind, mode, umask, rdev: 0, target: None }
    }
}

/// The attributes after a change, and what tells whether somebody else had changed the content before it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Changed {
    /// The attributes after the change.
    pub attr: Attr,
    /// Time of change and length of the file before it.
    pub before: (Timestamp, u64),
}

impl Changed {
    /// One change and then another. If there was somebody else's in between, that is as good as one before both.
    pub(super) fn then(self, next: Self) -> Self {
        let before = if next.before == (self.attr.mtime, self.attr.length) { self.before } else { next.before };
        Self { before, ..next }
    }

    pub(super) const fn from(old: &Attr, attr: Attr) -> Self {
        Self { before: (old.mtime, old.length), attr }
    }
}

impl Deref for Changed {
    type Target = Attr;

    fn deref(&self) -> &Attr {
        &self.attr
    }
}

/// What a committed slice led to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WriteOutcome {
    /// The file's attributes after the write.
    pub attr: Attr,
    /// Time of change and length of the file before it: whether somebody else has changed it in between.
    pub before: (Timestamp, u64),
    /// Slice records of the chunk after the write, for the decision to compact. A hint: 0 when it is not known.
    pub records: usize,
}

/// Room of the volume, or of the nearest quota, as df(1) shows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StatFs {
    /// Bytes in all.
    pub total: u64,
    /// Bytes left.
    pub avail: u64,
    /// Inodes in use.
    pub iused: u64,
    /// Inodes left.
    pub iavail: u64,
}

/// How [`super::Meta::set_xattr`] treats an attribute that exists (setxattr(2)).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum XattrFlag {
    /// Create or replace.
    #[default]
    Any,
    /// `XATTR_CREATE`: fail if it exists.
    Create,
    /// `XATTR_REPLACE`: fail if it does not.
    Replace,
}

/// Totals of a tree, its top included.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Summary {
    /// Sum of file lengths.
    pub length: u64,
    /// Sum of the space that every inode counts.
    pub size: u64,
    /// Everything that is not a directory.
    pub files: u64,
    /// Directories.
    pub dirs: u64,
}

/// Removes the blocks of slices: the data lies elsewhere, the worker injects what knows it.
#[async_trait]
pub trait SliceRemover: Send + Sync {
    /// Removes all blocks of slices (id, bytes); those that are gone already are no error. After an error some may be left; it
    /// is for the log: a slice that cannot be removed by itself either stays "pending delete", for the hourly job.
    async fn remove_slices(&self, slices: &[(SliceId, u32)]) -> std::result::Result<(), String>;
}

/// How a [`super::Meta`] behaves.
#[derive(Clone, Debug)]
pub struct MetaOptions {
    /// Refuse every change; no session.
    pub read_only: bool,
    /// The directory that is shown as the root.
    pub subdir: Option<String>,
    /// A directory's mtime and ctime are left alone when they are younger than this.
    pub skip_dir_mtime: Duration,
    /// Between two heartbeats of the session, which expires after five. Zero: none, it expires after a year.
    pub heartbeat: Duration,
    /// No clean-up of sessions, deleted files, slices and trash.
    pub no_bgjob: bool,
    /// Goes into the session's record.
    pub mount_point: PathBuf,
    /// Goes into the session's record; such as `1.4.0+stead-0.1.0`. The Go program must be able to read it.
    pub version: String,
    /// Host name in the session's record.
    pub host_name: String,
    /// Process number in the session's record.
    pub pid: u32,
    /// Whether extended attributes are served.
    pub enable_xattr: bool,
    /// Whether `security.capability` is one of them.
    pub enable_cap: bool,
    /// Whether `security.selinux` is one of them.
    pub enable_selinux: bool,
    /// Deleted files whose data is removed at the same time.
    pub max_deletes: usize,
    /// How long the data of a small deleted file waits for that of others, to be removed together with it. What ends soon does
    /// not wait: the data of what still waits then is left to others.
    pub delete_delay: Duration,
    /// Where "now" comes from.
    pub clock: Arc<dyn Clock>,
}

impl Default for MetaOptions {
    fn default() -> Self {
        Self {
            read_only: false,
            subdir: None,
            skip_dir_mtime: Duration::from_millis(100),
            heartbeat: Duration::from_secs(12),
            no_bgjob: false,
            mount_point: PathBuf::new(),
            version: concat!("1.4.0+stead-", env!("CARGO_PKG_VERSION")).to_owned(),
            host_name: "localhost".to_owned(),
            pid: std::process::id(),
            enable_xattr: false,
            enable_cap: false,
            enable_selinux: false,
            max_deletes: 100,
            delete_delay: Duration::ZERO,
            clock: Arc::new(SystemClock),
        }
    }
}
