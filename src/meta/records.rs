//! The typed records that the semantics in [`crate::ops`] read and write. How a store keeps them is its own business;
//! the byte forms that all stores share are in [`crate::codec`].

use std::collections::BTreeMap;
use std::fmt;

use bytes::Bytes;
use stead_base::{Ino, SessionId, SliceId, Timestamp};

use crate::error::Error;

/// Bytes of a chunk: file offset `o` lies in chunk `o / CHUNK_SIZE` (format.md §0).
pub const CHUNK_SIZE: u64 = 1 << 26;
/// Offsets and file ends must stay below this (EFBIG).
pub const MAX_FILE_SIZE: u64 = CHUNK_SIZE << 31;
/// The longest name of an entry or an extended attribute.
pub const MAX_NAME: usize = 255;
/// The longest target of a symbolic link.
pub const MAX_SYMLINK: usize = 4096;
/// The largest value of an extended attribute.
pub const MAX_XATTR_VALUE: usize = 65536;

/// The space that a file of `length` bytes counts: 4 KiB at least, else rounded up to 4 KiB.
pub const fn align4k(length: u64) -> u64 {
    if length == 0 { 4096 } else { length.div_ceil(4096) * 4096 }
}

/// What an inode is. The numbers are those of the stored format.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum NodeType {
    /// A regular file.
    File = 1,
    /// A directory.
    Directory = 2,
    /// A symbolic link.
    Symlink = 3,
    /// A named pipe.
    Fifo = 4,
    /// A block device.
    BlockDevice = 5,
    /// A character device.
    CharDevice = 6,
    /// A Unix socket.
    Socket = 7,
}

impl TryFrom<u8> for NodeType {
    type Error = u8;

    fn try_from(number: u8) -> Result<Self, u8> {
        Ok(match number {
            1 => Self::File,
            2 => Self::Directory,
            3 => Self::Symlink,
            4 => Self::Fifo,
            5 => Self::BlockDevice,
            6 => Self::CharDevice,
            7 => Self::Socket,
            other => return Err(other),
        })
    }
}

/// Flag bits of [`Attr::flags`].
pub mod flags {
    /// No change of any kind.
    pub const IMMUTABLE: u8 = 1;
    /// Only appending.
    pub const APPEND: u8 = 2;
    /// Removed at once, never moved to the trash; inherited by new children.
    pub const SKIP_TRASH: u8 = 0x20;
}

/// The attributes of an inode (format.md §2.3).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attr {
    /// Bits of [`flags`]; unknown bits are kept.
    pub flags: u8,
    /// What the inode is.
    pub kind: NodeType,
    /// Permission, set-id and sticky bits: `0 ..= 0o7777`.
    pub mode: u16,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Last access.
    pub atime: Timestamp,
    /// Last change of the content.
    pub mtime: Timestamp,
    /// Last change of the inode.
    pub ctime: Timestamp,
    /// Names of a file; 2 + sub-directories for a directory.
    pub nlink: u32,
    /// Bytes: file length, symlink target length, always 4096 for a directory.
    pub length: u64,
    /// Device number in Linux' 32-bit encoding.
    pub rdev: u32,
    /// The directory that holds the inode; 0 once it was hard-linked (then see [`Key::Parents`]).
    pub parent: Ino,
    /// Id of the access ACL; 0 = none.
    pub access_acl: u32,
    /// Id of the default ACL; 0 = none.
    pub default_acl: u32,
    /// Storage tier.
    pub tier: u8,
}

impl Attr {
    /// The space this inode counts in usage, statistics and quotas.
    pub const fn space(&self) -> i64 {
        match self.kind {
            NodeType::File => align4k(self.length).cast_signed(),
            _ => 4096,
        }
    }

    /// Whether this is a directory.
    pub fn is_dir(&self) -> bool {
        self.kind == NodeType::Directory
    }
}

/// A name in a directory (format.md §2.4).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    /// What the inode is.
    pub kind: NodeType,
    /// The inode.
    pub ino: Ino,
}

/// A component of a path, or the name of an extended attribute: 1 ..= 255 bytes without NUL and, for entries, `/`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Name(Bytes);

impl Name {
    /// Checks a directory entry's name.
    pub fn entry(name: &[u8]) -> Result<Self, Error> {
        if name.contains(&b'/') || name == b"." || name == b".." {
            return Err(Error::InvalidName { name: String::from_utf8_lossy(name).into_owned() });
        }
        Self::xattr(name)
    }

    /// Checks the name of an extended attribute.
    pub fn xattr(name: &[u8]) -> Result<Self, Error> {
        if name.len() > MAX_NAME {
            return Err(Error::NameTooLong { length: name.len() });
        }
        if name.is_empty() || name.contains(&0) {
            return Err(Error::InvalidName { name: String::from_utf8_lossy(name).into_owned() });
        }
        Ok(Self(Bytes::copy_from_slice(name)))
    }

    /// A name as a store returned it, unchecked.
    pub fn stored(name: Bytes) -> Self {
        Self(name)
    }

    /// The bytes.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        String::from_utf8_lossy(&self.0).fmt(f)
    }
}

impl fmt::Debug for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", String::from_utf8_lossy(&self.0))
    }
}

/// One use of a slice in a chunk (format.md §2.5).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Slice {
    /// Position in the chunk.
    pub pos: u32,
    /// The slice; [`SliceId::HOLE`] for zeros.
    pub id: SliceId,
    /// Bytes of the whole slice.
    pub size: u32,
    /// Where in the slice this use begins.
    pub off: u32,
    /// Bytes used.
    pub len: u32,
}

/// Usage of the direct children of a directory (format.md §2.8).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DirStat {
    /// Sum of file lengths.
    pub length: i64,
    /// Sum of [`Attr::space`].
    pub space: i64,
    /// Number of entries.
    pub inodes: i64,
}

/// Limits and usage of everything below a directory, or of everything that a user or group owns (format.md §7.3). A
/// limit of 0 or -1 is none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Quota {
    /// Bytes.
    pub max_space: i64,
    /// Inodes.
    pub max_inodes: i64,
    /// Bytes in use.
    pub used_space: i64,
    /// Inodes in use.
    pub used_inodes: i64,
}

/// Who holds a lock (format.md §2.11).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LockOwner {
    /// The client; when its session is cleaned, its locks go.
    pub sid: SessionId,
    /// Told apart by the client: the kernel's lock owner, for flock XOR the file handle.
    pub owner: u64,
}

/// What a lock excludes. The numbers are those of the stored format (F_RDLCK, F_WRLCK).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum LockKind {
    /// Writers.
    Read = 0,
    /// Everybody else.
    Write = 1,
}

/// A POSIX lock on a range of bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct LockRange {
    /// What it excludes.
    pub kind: LockKind,
    /// The process, as its client knows it.
    pub pid: u32,
    /// The first byte.
    pub start: u64,
    /// The last byte, inclusive; `i64::MAX` is the end of the file, wherever that is.
    pub end: u64,
}

/// The two kinds of locks, which know nothing of each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum LockTable {
    /// Of whole files, flock(2).
    Flock,
    /// Of ranges, fcntl(2).
    Plock,
}

/// An access control list (format.md §7.5). Permissions are 0 ..= 7 or [`AclRule::UNSET`].
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct AclRule {
    /// Permissions of the owner.
    pub owner: u16,
    /// Of the owning group.
    pub group: u16,
    /// The most that the group, named users and named groups get.
    pub mask: u16,
    /// Of everybody else.
    pub other: u16,
    /// Named users: (uid, permissions).
    pub users: Vec<(u32, u16)>,
    /// Named groups: (gid, permissions).
    pub groups: Vec<(u32, u16)>,
}

impl AclRule {
    /// Permissions that the rule says nothing about.
    pub const UNSET: u16 = 0xFFFF;
}

/// Whom a quota of a user or a group is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Principal {
    /// By uid.
    User(u32),
    /// By gid.
    Group(u32),
}

/// Registered while a dump is loaded. No client is ever given this number.
pub const LOADING: SessionId = SessionId(i64::MAX as u64);

/// Volume-wide numbers (format.md §2.2) that are read and added to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Counter {
    /// Allocated by [`crate::store::Store::allocate`] only.
    NextInode,
    /// Allocated by [`crate::store::Store::allocate`] only.
    NextChunk,
    /// Allocated by [`crate::store::Store::allocate`] only.
    NextSession,
    /// The last hourly trash directory is `Ino::TRASH + this`.
    NextTrash,
    /// Bytes, trash and open deleted files included.
    UsedSpace,
    /// Inodes, likewise.
    TotalInodes,
    /// The last id of an [`AclRule`]: allocated by [`crate::store::Store::allocate`], one at a time.
    AclMaxId,
}

/// Background jobs that only one client runs per period (format.md §2.2, "setIfSmall").
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Job {
    /// `lastCleanupSessions`
    CleanupSessions,
    /// `lastCleanupFiles`
    CleanupFiles,
    /// `nextCleanupSlices`
    CleanupSlices,
    /// `lastCleanupTrash`
    CleanupTrash,
}

impl Job {
    /// The name under which the stores keep the time of the last run.
    pub const fn stored_name(self) -> &'static str {
        match self {
            Self::CleanupSessions => "lastCleanupSessions",
            Self::CleanupFiles => "lastCleanupFiles",
            Self::CleanupSlices => "nextCleanupSlices",
            Self::CleanupTrash => "lastCleanupTrash",
        }
    }
}

/// What a transaction can read.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Key {
    /// The Format as stored JSON → [`Record::Bytes`].
    Setting,
    /// → [`Record::Attr`]
    Attr(Ino),
    /// → [`Record::Entry`]
    Entry(Ino, Name),
    /// Whether the directory has an entry → [`Record::Present`], absent when it is empty.
    AnyEntry(Ino),
    /// Directories that hold a hard-linked inode and how many names in each → [`Record::Parents`], absent when none.
    Parents(Ino),
    /// Slice records of a chunk, oldest first → [`Record::Slices`], absent when never written.
    Chunk(Ino, u32),
    /// → [`Record::Bytes`]
    Symlink(Ino),
    /// → [`Record::Bytes`]
    Xattr(Ino, Name),
    /// → [`Record::Number`], absent counts as 0.
    Counter(Counter),
    /// → [`Record::DirStat`]
    DirStat(Ino),
    /// → [`Record::Quota`]
    DirQuota(Ino),
    /// True number of references of slice (id, size) → [`Record::Number`]. On stores where an absent entry means one
    /// reference (Redis, KV), absence is reported as `Number(1)`, never as `None`.
    SliceRef(SliceId, u32),
    /// Whether the session keeps the unlinked inode → [`Record::Present`].
    Sustained(SessionId, Ino),
    /// Whether the deleted file waits for its blocks to be removed → [`Record::Present`].
    Deleted(Ino, u64),
    /// The session's JSON → [`Record::Bytes`].
    Session(SessionId),
    /// → [`Record::Flocks`], absent when there are none.
    Flocks(Ino),
    /// → [`Record::Plocks`], absent when there are none.
    Plocks(Ino),
    /// → [`Record::Acl`]
    Acl(u32),
    /// Whether the inode is the top of a tree that is not attached yet (a clone in progress) → [`Record::Present`].
    Detached(Ino),
    /// → [`Record::Quota`]
    OwnerQuota(Principal),
}

/// What a [`Key`] leads to.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "Key documents them")]
pub enum Record {
    Attr(Attr),
    Entry(Entry),
    Parents(BTreeMap<Ino, i64>),
    Slices(Vec<Slice>),
    Bytes(Bytes),
    Number(i64),
    DirStat(DirStat),
    Quota(Quota),
    Flocks(BTreeMap<LockOwner, LockKind>),
    Plocks(BTreeMap<LockOwner, Vec<LockRange>>),
    Acl(AclRule),
    Present,
}

/// What a transaction can change. Writes of one transaction are applied in order, all or none.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Write {
    /// Stores the Format's JSON.
    SetSetting(Bytes),
    /// Creates or replaces the attributes.
    SetAttr(Ino, Attr),
    /// Removes the attributes.
    DelAttr(Ino),
    /// Adds or replaces a name.
    SetEntry(Ino, Name, Entry),
    /// Removes a name.
    DelEntry(Ino, Name),
    /// Adds to the number of names that the inode (first) has in the directory (second); entries at 0 vanish.
    /// Stores that derive parents from their entries ignore it.
    AddParent(Ino, Ino, i64),
    /// Forgets all of them.
    DelParents(Ino),
    /// Adds records at the end of a chunk's list.
    AppendSlices(Ino, u32, Vec<Slice>),
    /// The same, only if the chunk has a list.
    AppendSlicesIfExists(Ino, u32, Slice),
    /// Replaces the first `n` records by others (compaction); the caller has compared them.
    ReplaceSlices(Ino, u32, usize, Vec<Slice>),
    /// Removes a chunk's list.
    DelChunk(Ino, u32),
    /// Stores a symlink's target.
    SetSymlink(Ino, Bytes),
    /// Removes it.
    DelSymlink(Ino),
    /// Stores an extended attribute.
    SetXattr(Ino, Name, Bytes),
    /// Removes one.
    DelXattr(Ino, Name),
    /// Removes all of an inode.
    DelXattrs(Ino),
    /// Adds to a counter.
    AddCounter(Counter, i64),
    /// Starts the statistics of a new directory at zero.
    InitDirStat(Ino),
    /// Adds to the statistics of a directory if it has any; a directory without is recomputed later.
    AddDirStat(Ino, DirStat),
    /// Stores recomputed statistics.
    SetDirStat(Ino, DirStat),
    /// Forgets them.
    DelDirStat(Ino),
    /// Forgets those of all directories: what is left of a time when they were kept before.
    ClearDirStats,
    /// Stores limits and usage.
    SetDirQuota(Ino, Quota),
    /// Adds to the usage (space, inodes) of a directory that has a quota.
    AddDirQuotaUsed(Ino, i64, i64),
    /// Forgets it.
    DelDirQuota(Ino),
    /// A slice was written for the first time: one reference. (Redis and KV store nothing for that.)
    NewSlice(SliceId, u32),
    /// Adds to the number of references. At zero the entry stays, as "pending delete", until [`Write::ForgetSlice`].
    AddSliceRef(SliceId, u32, i64),
    /// The blocks of a slice without references are gone.
    ForgetSlice(SliceId, u32),
    /// The session keeps an unlinked inode.
    AddSustained(SessionId, Ino),
    /// It no longer does.
    DelSustained(SessionId, Ino),
    /// The file (ino, length) waits for the removal of its data, since the given unix second.
    AddDeleted(Ino, u64, i64),
    /// Its data is gone.
    DelDeleted(Ino, u64),
    /// Slices replaced by a compaction into the given slice, kept until the trash expires: (new slice, unix second, old).
    AddDelayedSlices(SliceId, i64, Vec<(SliceId, u32)>),
    /// They are gone.
    DelDelayedSlices(SliceId, i64),
    /// Registers a session: number, expiry in unix seconds, JSON.
    PutSession(SessionId, i64, Bytes),
    /// Moves the expiry and restores the JSON if somebody removed it.
    TouchSession(SessionId, i64, Bytes),
    /// Removes the session's registration.
    DelSession(SessionId),
    /// Sets or removes an owner's lock of the file.
    SetFlock(Ino, LockOwner, Option<LockKind>),
    /// Sets an owner's locks of the file: sorted by start, none overlapping; none removes the owner.
    SetPlock(Ino, LockOwner, Vec<LockRange>),
    /// The session has a lock in the file's table. Redis finds the locks of a dead session by that; other stores ignore
    /// it.
    AddLocked(SessionId, LockTable, Ino),
    /// It has none there any more.
    DelLocked(SessionId, LockTable, Ino),
    /// Stores a rule under an allocated id. Rules are never changed and never removed.
    SetAcl(u32, AclRule),
    /// A tree that is being built is not attached, since the given unix second.
    AddDetached(Ino, i64),
    /// It is attached or gone.
    DelDetached(Ino),
    /// Stores limits and usage.
    SetOwnerQuota(Principal, Quota),
    /// Adds to the usage (space, inodes); without a record one is made, with no limits.
    AddOwnerQuotaUsed(Principal, i64, i64),
    /// Forgets limits and usage. (Who only lifts the limits stores -1 and keeps the usage.)
    DelOwnerQuota(Principal),
    /// Forgets those of all users and groups.
    ClearOwnerQuotas,
}
