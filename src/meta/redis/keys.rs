//! Which key and field of Redis holds a record (format.md §2.1), how it is read there, and what its bytes mean.
//!
//! Every key begins with a prefix that is empty on a standalone server and `{db}` in a cluster.

use std::collections::BTreeMap;
use std::fmt::{self, Display};

use bytes::Bytes;
use stead_base::{Ino, SessionId, SliceId};

use crate::codec;
use crate::error::Result;
use crate::records::{Counter, DirStat, Job, Key, LockOwner, LockTable, Principal, Quota, Record};

/// Where a record is and how it is read: one of the readers in `lua/lib.lua` with its key and field.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) how: &'static str,
    pub(super) key: Vec<u8>,
    pub(super) field: Vec<u8>,
}

impl Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.how, String::from_utf8_lossy(&self.key))?;
        if !self.field.is_empty() {
            write!(f, " {:?}", String::from_utf8_lossy(&self.field))?;
        }
        Ok(())
    }
}

/// The names of keys.
#[derive(Clone, Debug, Default)]
pub(super) struct Keys {
    prefix: String,
}

impl Keys {
    /// Those that begin with `prefix`.
    pub(super) fn new(prefix: String) -> Self {
        Self { prefix }
    }

    /// Whether scripts have to name all their keys, so that the server refuses a call before it begins when some are on
    /// their way to another node.
    pub(super) fn are_declared(&self) -> bool {
        !self.prefix.is_empty()
    }

    /// The keys behind the first argument of one of the readers and special writes, and behind that of any other.
    pub(super) fn behind(&self, how: &str, key: &[u8]) -> Vec<Vec<u8>> {
        let with = |names: &[&str]| names.iter().map(|name| [key, name.as_bytes()].concat()).collect();
        match how {
            "stat" | "addstat" | "newstat" | "delstat" => with(&["dirDataLength", "dirUsedSpace", "dirUsedInodes"]),
            "quota" | "addquota" | "delquota" => with(&["", "UsedSpace", "UsedInodes"]),
            _ => with(&[""]),
        }
    }

    /// What every key begins with.
    pub(super) fn prefix(&self) -> &str {
        &self.prefix
    }

    /// A key that is there once per volume.
    pub(super) fn named(&self, name: &str) -> Vec<u8> {
        format!("{}{name}", self.prefix).into_bytes()
    }

    pub(super) fn attr(&self, ino: Ino) -> Vec<u8> {
        self.named(&format!("i{ino}"))
    }

    pub(super) fn entries(&self, dir: Ino) -> Vec<u8> {
        self.named(&format!("d{dir}"))
    }

    pub(super) fn parents(&self, ino: Ino) -> Vec<u8> {
        self.named(&format!("p{ino}"))
    }

    /// What the keys of an inode's chunks begin with.
    pub(super) fn chunks(&self, ino: Ino) -> Vec<u8> {
        self.named(&format!("c{ino}_"))
    }

    pub(super) fn chunk(&self, ino: Ino, index: u32) -> Vec<u8> {
        self.named(&format!("c{ino}_{index}"))
    }

    pub(super) fn symlink(&self, ino: Ino) -> Vec<u8> {
        self.named(&format!("s{ino}"))
    }

    pub(super) fn xattrs(&self, ino: Ino) -> Vec<u8> {
        self.named(&format!("x{ino}"))
    }

    pub(super) fn sustained(&self, sid: SessionId) -> Vec<u8> {
        self.named(&format!("session{sid}"))
    }

    /// The set of the keys of a session's locks.
    pub(super) fn locked(&self, sid: SessionId) -> Vec<u8> {
        self.named(&format!("locked{sid}"))
    }

    /// The locks of a file, one field per owner.
    pub(super) fn locks(&self, table: LockTable, ino: Ino) -> Vec<u8> {
        let name = lock_name(table);
        self.named(&format!("{name}{ino}"))
    }

    /// Reads a member of a [`Keys::locked`] set.
    pub(super) fn parse_locks(&self, key: &[u8]) -> Option<(LockTable, Ino)> {
        let name = std::str::from_utf8(key).ok()?.strip_prefix(self.prefix())?;
        let mut tables = [LockTable::Flock, LockTable::Plock].into_iter();
        tables.find_map(|table| Some((table, Ino(name.strip_prefix(lock_name(table))?.parse().ok()?))))
    }

    /// The hash of limits; the names of those of the usage begin like it. With the field.
    pub(super) fn owner_quota(&self, of: Principal) -> (Vec<u8>, u32) {
        match of {
            Principal::User(uid) => (self.named("userQuota"), uid),
            Principal::Group(gid) => (self.named("groupQuota"), gid),
        }
    }

    /// The tokens of one client: field = slot, value = number of the last operation there. The field `e` is kept free
    /// for an epoch that shuts a dead worker out.
    pub(super) fn tokens(&self, client: u64) -> Vec<u8> {
        self.named(&format!("stead{client:016x}"))
    }

    pub(super) fn counter(&self, counter: Counter) -> Vec<u8> {
        self.named(counter_name(counter))
    }

    pub(super) fn job(&self, job: Job) -> Place {
        place("get", self.named(job.stored_name()), [])
    }

    /// Where a record is.
    pub(super) fn place(&self, key: &Key) -> Place {
        match key {
            Key::Setting => place("get", self.named("setting"), []),
            Key::Attr(ino) => place("get", self.attr(*ino), []),
            Key::Entry(dir, name) => place("hget", self.entries(*dir), name.as_bytes()),
            Key::AnyEntry(dir) => place("exists", self.entries(*dir), []),
            Key::Parents(ino) => place("pairs", self.parents(*ino), []),
            Key::Chunk(ino, index) => place("list", self.chunk(*ino, *index), []),
            Key::Symlink(ino) => place("get", self.symlink(*ino), []),
            Key::Xattr(ino, name) => place("hget", self.xattrs(*ino), name.as_bytes()),
            Key::Counter(counter) => place("get", self.counter(*counter), []),
            Key::DirStat(dir) => place("stat", self.named(""), dir.to_string()),
            Key::DirQuota(dir) => place("quota", self.named("dirQuota"), dir.to_string()),
            Key::SliceRef(id, size) => place("hget", self.named("sliceRef"), slice_field(*id, *size)),
            Key::Sustained(sid, ino) => place("member", self.sustained(*sid), ino.to_string()),
            Key::Deleted(ino, length) => place("score", self.named("delfiles"), deleted_member(*ino, *length)),
            Key::Session(sid) => place("hget", self.named("sessionInfos"), sid.to_string()),
            Key::Flocks(ino) => place("fields", self.locks(LockTable::Flock, *ino), []),
            Key::Plocks(ino) => place("fields", self.locks(LockTable::Plock, *ino), []),
            Key::Acl(id) => place("hget", self.named("acl"), id.to_string()),
            Key::Detached(ino) => place("score", self.named("detachedNodes"), ino.to_string()),
            Key::OwnerQuota(of) => {
                let (key, number) = self.owner_quota(*of);
                place("quota", key, number.to_string())
            }
        }
    }
}

fn lock_name(table: LockTable) -> &'static str {
    match table {
        LockTable::Flock => "lockf",
        LockTable::Plock => "lockp",
    }
}

fn place(how: &'static str, key: Vec<u8>, field: impl Into<Vec<u8>>) -> Place {
    let field = field.into();
    Place { how, key, field }
}

/// The names of format.md §2.2: three in lower case.
fn counter_name(counter: Counter) -> &'static str {
    match counter {
        Counter::NextInode => "nextinode",
        Counter::NextChunk => "nextchunk",
        Counter::NextSession => "nextsession",
        Counter::NextTrash => "nextTrash",
        Counter::UsedSpace => "usedSpace",
        Counter::TotalInodes => "totalInodes",
        Counter::AclMaxId => "aclMaxId",
    }
}

/// A field of `sliceRef`.
pub(super) fn slice_field(id: SliceId, size: u32) -> String {
    format!("k{id}_{size}")
}

/// Reads a field of `sliceRef`.
pub(super) fn parse_slice_field(field: &[u8]) -> Option<(SliceId, u32)> {
    let (id, size) = std::str::from_utf8(field).ok()?.strip_prefix('k')?.split_once('_')?;
    Some((SliceId(id.parse().ok()?), size.parse().ok()?))
}

/// A member of `delfiles`.
pub(super) fn deleted_member(ino: Ino, length: u64) -> String {
    format!("{ino}:{length}")
}

/// Reads a member of `delfiles`.
pub(super) fn parse_deleted_member(member: &[u8]) -> Option<(Ino, u64)> {
    let (ino, length) = std::str::from_utf8(member).ok()?.split_once(':')?;
    Some((Ino(ino.parse().ok()?), length.parse().ok()?))
}

/// A field of `delSlices`.
pub(super) fn delayed_field(id: SliceId, since: i64) -> String {
    format!("{id}_{since}")
}

/// Reads a field of `delSlices`.
pub(super) fn parse_delayed_field(field: &[u8]) -> Option<(SliceId, i64)> {
    let (id, since) = std::str::from_utf8(field).ok()?.split_once('_')?;
    Some((SliceId(id.parse().ok()?), since.parse().ok()?))
}

/// Whether a key, without its prefix, belongs to a volume: what a volume's removal takes away.
pub(super) fn is_ours(key: &[u8]) -> bool {
    const NAMED: [&str; 37] = [
        "setting",
        "allSessions",
        "sessionInfos",
        "sessions",
        "delfiles",
        "detachedNodes",
        "delSlices",
        "sliceRef",
        "dirDataLength",
        "dirUsedSpace",
        "dirUsedInodes",
        "dirQuota",
        "dirQuotaUsedSpace",
        "dirQuotaUsedInodes",
        "userQuota",
        "userQuotaUsedSpace",
        "userQuotaUsedInodes",
        "groupQuota",
        "groupQuotaUsedSpace",
        "groupQuotaUsedInodes",
        "acl",
        "krbToken",
        "txnLog",
        "txnLastLog",
        "nextinode",
        "nextchunk",
        "nextsession",
        "nextTrash",
        "usedSpace",
        "totalInodes",
        "aclMaxId",
        "krbTokenMaxId",
        "lastCleanupSessions",
        "lastCleanupFiles",
        "nextCleanupSlices",
        "lastCleanupTrash",
        "lastCleanupChangelog",
    ];
    const NUMBERED: [&str; 9] = ["i", "d", "p", "s", "x", "lockf", "lockp", "session", "locked"];
    let Ok(key) = std::str::from_utf8(key) else { return false };
    let number = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    let two_numbers = |text: &str| text.split_once('_').is_some_and(|(a, b)| number(a) && number(b));
    let token = |text: &str| text.len() == 16 && text.bytes().all(|byte| byte.is_ascii_hexdigit());
    NAMED.contains(&key)
        || NUMBERED.iter().any(|start| key.strip_prefix(start).is_some_and(number))
        || ["c", "k"].iter().any(|start| key.strip_prefix(start).is_some_and(two_numbers))
        || key.strip_prefix("stead").is_some_and(token)
}

/// What the stored bytes of a record mean; `None` is an absent one.
///
/// # Errors
/// [`crate::Error::Corrupt`] naming the place.
pub(super) fn decode(keys: &Keys, key: &Key, raw: Option<&Bytes>) -> Result<Option<Record>> {
    let Some(raw) = raw else {
        // Absent means one reference (format.md §2.6).
        return Ok(matches!(key, Key::SliceRef(..)).then_some(Record::Number(1)));
    };
    let place = Named(keys, key);
    Ok(Some(match key {
        Key::Attr(_) => Record::Attr(codec::decode_attr(&place, raw)?),
        Key::Entry(..) => Record::Entry(codec::decode_entry(&place, raw)?),
        Key::Chunk(..) => Record::Slices(codec::decode_slices(&place, raw)?),
        Key::Parents(_) => return parents(&place, raw),
        Key::Setting | Key::Symlink(_) | Key::Xattr(..) | Key::Session(_) => Record::Bytes(raw.clone()),
        Key::Counter(_) => Record::Number(codec::decode_number(&place, raw)?),
        Key::SliceRef(..) => Record::Number(codec::decode_number(&place, raw)?.saturating_add(1)),
        Key::DirStat(_) => {
            let [length, space, inodes] = numbers(&place, raw)?;
            Record::DirStat(DirStat { length, space, inodes })
        }
        Key::DirQuota(_) | Key::OwnerQuota(_) => Record::Quota(quota(&place, raw)?),
        Key::Flocks(_) => Record::Flocks(locks(&place, raw, codec::decode_flock)?),
        Key::Plocks(_) => Record::Plocks(locks(&place, raw, codec::decode_plocks)?),
        Key::Acl(_) => Record::Acl(codec::decode_acl(&place, raw)?),
        Key::AnyEntry(_) | Key::Sustained(..) | Key::Deleted(..) | Key::Detached(_) => Record::Present,
    }))
}

/// Names a record in errors; built only when there is one.
struct Named<'a>(&'a Keys, &'a Key);

impl Display for Named<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.place(self.1).fmt(f)
    }
}

fn parents(place: &dyn Display, raw: &[u8]) -> Result<Option<Record>> {
    let mut found = BTreeMap::new();
    let words: Vec<&[u8]> = raw.split(|byte| *byte == b' ').collect();
    for pair in words.chunks(2) {
        let [dir, count] = pair else {
            return Err(codec::corrupt(place, "an inode without a count"));
        };
        let (dir, count) = (codec::decode_number(place, dir)?, codec::decode_number(place, count)?);
        if count > 0 {
            found.insert(Ino(dir.cast_unsigned()), count);
        }
    }
    Ok((!found.is_empty()).then_some(Record::Parents(found)))
}

/// The owners of locks and what each has.
fn locks<T>(
    place: &dyn Display,
    raw: &[u8],
    decode: impl Fn(&dyn Display, &[u8]) -> Result<T>,
) -> Result<BTreeMap<LockOwner, T>> {
    let words = fields(place, raw)?;
    let pairs = words.chunks_exact(2);
    pairs.map(|pair| Ok((codec::decode_lock_owner(place, pair[0])?, decode(place, pair[1])?))).collect()
}

/// Fields and values of a hash in turn, each as its length, a colon and its bytes: what the reader `fields` gives.
fn fields<'a>(place: &dyn Display, mut raw: &'a [u8]) -> Result<Vec<&'a [u8]>> {
    let mut found = Vec::new();
    while !raw.is_empty() {
        let colon = raw.iter().position(|byte| *byte == b':').unwrap_or(raw.len());
        let length = usize::try_from(codec::decode_number(place, &raw[..colon])?).unwrap_or(usize::MAX);
        let rest = raw.get(colon + 1..).and_then(|rest| rest.split_at_checked(length));
        let Some((word, rest)) = rest else { return Err(codec::corrupt(place, "it ends early")) };
        found.push(word);
        raw = rest;
    }
    Ok(found)
}

/// Limits, then the usage as two decimal numbers: what the reader `quota` gives.
fn quota(place: &dyn Display, raw: &[u8]) -> Result<Quota> {
    let Some((limits, used)) = raw.split_at_checked(16) else {
        return Err(codec::corrupt(place, "its limits are shorter than 16 bytes"));
    };
    let [used_space, used_inodes] = numbers(place, used)?;
    let limits = codec::decode_quota_limits(place, limits)?;
    Ok(Quota { used_space, used_inodes, ..limits })
}

/// The same as the reader `quota` gives it.
pub(super) fn encode_quota(quota: Quota) -> Bytes {
    let mut raw = codec::encode_quota_limits(quota).to_vec();
    raw.extend(format!("{} {}", quota.used_space, quota.used_inodes).bytes());
    raw.into()
}

fn numbers<const N: usize>(place: &dyn Display, raw: &[u8]) -> Result<[i64; N]> {
    let mut found = [0; N];
    let mut words = raw.split(|byte| *byte == b' ');
    for number in &mut found {
        *number = codec::decode_number(place, words.next().unwrap_or_default())?;
    }
    Ok(found)
}
