//! The byte forms of records that every engine of the format shares: attributes, entries, slice records, quota limits,
//! directory statistics, locks, access control lists.
//!
//! All numbers are big endian (format.md, conventions). Encoding is byte-identical to what the Go client writes;
//! decoding takes bytes from outside, so it never panics: what it cannot read is an [`Error::Corrupt`] that names the
//! record.

use std::fmt;

use stead_base::{Ino, SessionId, SliceId, Timestamp};

use crate::error::{Error, Result};
use crate::records::{AclRule, Attr, DirStat, Entry, LockKind, LockOwner, LockRange, NodeType, Quota, Slice};

/// Bytes of one slice record.
pub const SLICE_BYTES: usize = 24;
/// Bytes of an entry.
pub const ENTRY_BYTES: usize = 9;
/// Bytes of a (slice, size) pair in a list of delayed slices.
pub const DELAYED_BYTES: usize = 12;
/// Bytes of a lock on a range.
pub const PLOCK_BYTES: usize = 24;
/// Bytes of a named user or group of an access control list.
pub const ACL_ENTRY_BYTES: usize = 6;

/// The attribute value of format.md §2.3: 72 bytes, 73 with a tier, 80 with ACL ids, 81 with both.
pub fn encode_attr(attr: &Attr) -> Vec<u8> {
    let mut out = Vec::with_capacity(81);
    out.push(attr.flags);
    put16(&mut out, u16::from(attr.kind as u8) << 12 | attr.mode & 0x0FFF);
    put32(&mut out, attr.uid);
    put32(&mut out, attr.gid);
    for time in [attr.atime, attr.mtime, attr.ctime] {
        put64(&mut out, time.secs.cast_unsigned());
        put32(&mut out, time.nanos);
    }
    put32(&mut out, attr.nlink);
    put64(&mut out, attr.length);
    put32(&mut out, attr.rdev);
    put64(&mut out, attr.parent.0);
    if attr.access_acl != 0 || attr.default_acl != 0 {
        put32(&mut out, attr.access_acl);
        put32(&mut out, attr.default_acl);
    }
    if attr.tier != 0 {
        out.push(attr.tier);
    }
    // The Go writer allocates one byte more than it fills; readers take it for the tier.
    out.push(0);
    out
}

/// Reads an attribute value. `key` names the record in the error.
pub fn decode_attr(key: &dyn fmt::Display, bytes: &[u8]) -> Result<Attr> {
    let mut from = Fields { key, rest: bytes };
    let flags = from.take8()?;
    let kind_and_mode = from.take16()?;
    let kind = node_type(key, (kind_and_mode >> 12).to_be_bytes()[1])?;
    let mut attr = Attr {
        flags,
        kind,
        mode: kind_and_mode & 0x0FFF,
        uid: from.take32()?,
        gid: from.take32()?,
        atime: from.take_time()?,
        mtime: from.take_time()?,
        ctime: from.take_time()?,
        nlink: from.take32()?,
        length: from.take64()?,
        rdev: from.take32()?,
        parent: Ino(0),
        access_acl: 0,
        default_acl: 0,
        tier: 0,
    };
    // Old values end early: each group is there or not (format.md §2.3, "Reader").
    if from.rest.len() >= 8 {
        attr.parent = Ino(from.take64()?);
    }
    if from.rest.len() >= 8 {
        attr.access_acl = from.take32()?;
        attr.default_acl = from.take32()?;
    }
    if !from.rest.is_empty() {
        attr.tier = from.take8()?;
    }
    Ok(attr)
}

/// The entry value of format.md §2.4: 9 bytes.
pub fn encode_entry(entry: Entry) -> [u8; ENTRY_BYTES] {
    let mut out = [0; ENTRY_BYTES];
    out[0] = entry.kind as u8;
    out[1..].copy_from_slice(&entry.ino.0.to_be_bytes());
    out
}

/// Reads an entry value.
pub fn decode_entry(key: &dyn fmt::Display, bytes: &[u8]) -> Result<Entry> {
    let mut from = Fields::exactly(key, bytes, ENTRY_BYTES)?;
    Ok(Entry { kind: node_type(key, from.take8()?)?, ino: Ino(from.take64()?) })
}

/// One slice record of format.md §2.5: 24 bytes.
pub fn encode_slice(slice: Slice) -> [u8; SLICE_BYTES] {
    let mut out = [0; SLICE_BYTES];
    out[..4].copy_from_slice(&slice.pos.to_be_bytes());
    out[4..12].copy_from_slice(&slice.id.0.to_be_bytes());
    out[12..16].copy_from_slice(&slice.size.to_be_bytes());
    out[16..20].copy_from_slice(&slice.off.to_be_bytes());
    out[20..].copy_from_slice(&slice.len.to_be_bytes());
    out
}

/// Reads one slice record (an element of a Redis list).
pub fn decode_slice(key: &dyn fmt::Display, bytes: &[u8]) -> Result<Slice> {
    let mut from = Fields::exactly(key, bytes, SLICE_BYTES)?;
    Ok(Slice {
        pos: from.take32()?,
        id: SliceId(from.take64()?),
        size: from.take32()?,
        off: from.take32()?,
        len: from.take32()?,
    })
}

/// The records of a chunk in one value, as the SQL and KV engines keep them.
pub fn encode_slices(slices: &[Slice]) -> Vec<u8> {
    slices.iter().flat_map(|slice| encode_slice(*slice)).collect()
}

/// Reads concatenated slice records.
pub fn decode_slices(key: &dyn fmt::Display, bytes: &[u8]) -> Result<Vec<Slice>> {
    records(key, bytes, SLICE_BYTES)?.map(|record| decode_slice(key, record)).collect()
}

/// The replaced slices of a compaction: n × (id, size), 12 bytes each (format.md §2.1, `delSlices`).
pub fn encode_delayed(slices: &[(SliceId, u32)]) -> Vec<u8> {
    let mut out = Vec::with_capacity(slices.len() * DELAYED_BYTES);
    for (id, size) in slices {
        put64(&mut out, id.0);
        put32(&mut out, *size);
    }
    out
}

/// Reads a list of replaced slices.
pub fn decode_delayed(key: &dyn fmt::Display, bytes: &[u8]) -> Result<Vec<(SliceId, u32)>> {
    records(key, bytes, DELAYED_BYTES)?
        .map(|record| {
            let mut from = Fields { key, rest: record };
            Ok((SliceId(from.take64()?), from.take32()?))
        })
        .collect()
}

/// The limits of a quota, 16 bytes: space and inodes (format.md §2.1, `dirQuota`). Usage is kept apart in Redis.
pub fn encode_quota_limits(quota: Quota) -> [u8; 16] {
    let mut out = [0; 16];
    out[..8].copy_from_slice(&quota.max_space.to_be_bytes());
    out[8..].copy_from_slice(&quota.max_inodes.to_be_bytes());
    out
}

/// Reads the limits of a quota; the usage is left at zero.
pub fn decode_quota_limits(key: &dyn fmt::Display, bytes: &[u8]) -> Result<Quota> {
    let mut from = Fields::exactly(key, bytes, 16)?;
    Ok(Quota { max_space: from.take64()?.cast_signed(), max_inodes: from.take64()?.cast_signed(), ..Quota::default() })
}

/// A whole quota, 32 bytes: limits, then usage (format.md §3.1, `QD`).
pub fn encode_quota(quota: Quota) -> [u8; 32] {
    let mut out = [0; 32];
    let numbers = [quota.max_space, quota.max_inodes, quota.used_space, quota.used_inodes];
    for (field, number) in out.chunks_exact_mut(8).zip(numbers) {
        field.copy_from_slice(&number.to_be_bytes());
    }
    out
}

/// Reads a whole quota.
pub fn decode_quota(key: &dyn fmt::Display, bytes: &[u8]) -> Result<Quota> {
    let mut from = Fields::exactly(key, bytes, 32)?;
    Ok(Quota {
        max_space: from.take64()?.cast_signed(),
        max_inodes: from.take64()?.cast_signed(),
        used_space: from.take64()?.cast_signed(),
        used_inodes: from.take64()?.cast_signed(),
    })
}

/// Directory statistics as the KV engines keep them, 24 bytes: length, space, inodes (format.md §3.1, `U`).
pub fn encode_dir_stat(stat: DirStat) -> [u8; 24] {
    let mut out = [0; 24];
    for (field, number) in out.chunks_exact_mut(8).zip([stat.length, stat.space, stat.inodes]) {
        field.copy_from_slice(&number.to_be_bytes());
    }
    out
}

/// Reads directory statistics.
pub fn decode_dir_stat(key: &dyn fmt::Display, bytes: &[u8]) -> Result<DirStat> {
    let mut from = Fields::exactly(key, bytes, 24)?;
    Ok(DirStat {
        length: from.take64()?.cast_signed(),
        space: from.take64()?.cast_signed(),
        inodes: from.take64()?.cast_signed(),
    })
}

/// A number as Redis keeps it: signed decimal text.
pub fn decode_number(key: &dyn fmt::Display, bytes: &[u8]) -> Result<i64> {
    std::str::from_utf8(bytes)
        .ok()
        .and_then(|text| text.parse().ok())
        .ok_or_else(|| corrupt(key, format!("{:?} is no decimal number", shown(bytes))))
}

/// The beginning of what was found, for a message.
fn shown(bytes: &[u8]) -> String {
    String::from_utf8_lossy(&bytes[..bytes.len().min(32)]).into_owned()
}

/// A lock of a whole file as Redis and SQL keep it: the letter R or W (format.md §2.1).
pub fn encode_flock(kind: LockKind) -> [u8; 1] {
    match kind {
        LockKind::Read => *b"R",
        LockKind::Write => *b"W",
    }
}

/// Reads a lock of a whole file.
pub fn decode_flock(key: &dyn fmt::Display, bytes: &[u8]) -> Result<LockKind> {
    match bytes {
        b"R" => Ok(LockKind::Read),
        b"W" => Ok(LockKind::Write),
        _ => Err(corrupt(key, format!("lock {:?}, expected R or W", shown(bytes)))),
    }
}

/// An owner's locks of ranges: 24 bytes each (format.md §2.11).
pub fn encode_plocks(ranges: &[LockRange]) -> Vec<u8> {
    let mut out = Vec::with_capacity(ranges.len() * PLOCK_BYTES);
    for range in ranges {
        put32(&mut out, range.kind as u32);
        put32(&mut out, range.pid);
        put64(&mut out, range.start);
        put64(&mut out, range.end);
    }
    out
}

/// Reads an owner's locks of ranges.
pub fn decode_plocks(key: &dyn fmt::Display, bytes: &[u8]) -> Result<Vec<LockRange>> {
    records(key, bytes, PLOCK_BYTES)?
        .map(|record| {
            let mut from = Fields { key, rest: record };
            let kind = match from.take32()? {
                0 => LockKind::Read,
                1 => LockKind::Write,
                other => return Err(corrupt(key, format!("lock kind {other}, expected 0 or 1"))),
            };
            Ok(LockRange { kind, pid: from.take32()?, start: from.take64()?, end: from.take64()? })
        })
        .collect()
}

/// Who holds a lock, as a field of Redis: `{sid}_{owner as 16 upper-case hexadecimal digits}` (format.md §2.11).
pub fn encode_lock_owner(owner: LockOwner) -> String {
    format!("{}_{:016X}", owner.sid, owner.owner)
}

/// Reads who holds a lock.
pub fn decode_lock_owner(key: &dyn fmt::Display, field: &[u8]) -> Result<LockOwner> {
    let parsed = std::str::from_utf8(field).ok().and_then(|text| {
        let (sid, owner) = text.split_once('_')?;
        Some(LockOwner { sid: SessionId(sid.parse().ok()?), owner: u64::from_str_radix(owner, 16).ok()? })
    });
    parsed.ok_or_else(|| corrupt(key, format!("lock owner {:?}, expected session_owner", shown(field))))
}

/// An access control list as Redis and KV keep it (format.md §7.5).
pub fn encode_acl(rule: &AclRule) -> Vec<u8> {
    let mut out = Vec::with_capacity(16 + (rule.users.len() + rule.groups.len()) * ACL_ENTRY_BYTES);
    for permissions in [rule.owner, rule.group, rule.mask, rule.other] {
        put16(&mut out, permissions);
    }
    for named in [&rule.users, &rule.groups] {
        put32(&mut out, u32::try_from(named.len()).expect("a list in memory is shorter"));
        out.extend(encode_acl_entries(named));
    }
    out
}

/// Reads an access control list.
pub fn decode_acl(key: &dyn fmt::Display, bytes: &[u8]) -> Result<AclRule> {
    let mut from = Fields { key, rest: bytes };
    let (owner, group, mask, other) = (from.take16()?, from.take16()?, from.take16()?, from.take16()?);
    let (users, groups) = (from.take_acl_entries()?, from.take_acl_entries()?);
    if from.rest.is_empty() {
        Ok(AclRule { owner, group, mask, other, users, groups })
    } else {
        Err(corrupt(key, format!("{} bytes too many", from.rest.len())))
    }
}

/// Named users or groups as the SQL engines keep them: n × (id, permissions), 6 bytes each (format.md §4).
pub fn encode_acl_entries(named: &[(u32, u16)]) -> Vec<u8> {
    let mut out = Vec::with_capacity(named.len() * ACL_ENTRY_BYTES);
    for (id, permissions) in named {
        put32(&mut out, *id);
        put16(&mut out, *permissions);
    }
    out
}

/// Reads named users or groups.
pub fn decode_acl_entries(key: &dyn fmt::Display, bytes: &[u8]) -> Result<Vec<(u32, u16)>> {
    records(key, bytes, ACL_ENTRY_BYTES)?
        .map(|record| {
            let mut from = Fields { key, rest: record };
            Ok((from.take32()?, from.take16()?))
        })
        .collect()
}

/// Reads the number of a node type.
pub fn node_type(key: &dyn fmt::Display, number: u8) -> Result<NodeType> {
    NodeType::try_from(number).map_err(|number| corrupt(key, format!("node type {number}, expected 1 to 7")))
}

/// The error for a record that does not decode.
pub fn corrupt(key: &dyn fmt::Display, why: impl Into<String>) -> Error {
    Error::Corrupt { key: key.to_string(), why: why.into() }
}

fn records<'a>(key: &dyn fmt::Display, bytes: &'a [u8], width: usize) -> Result<std::slice::ChunksExact<'a, u8>> {
    if !bytes.len().is_multiple_of(width) {
        let length = bytes.len();
        return Err(corrupt(key, format!("{length} bytes, expected a multiple of {width}")));
    }
    Ok(bytes.chunks_exact(width))
}

fn put16(out: &mut Vec<u8>, number: u16) {
    out.extend_from_slice(&number.to_be_bytes());
}

fn put32(out: &mut Vec<u8>, number: u32) {
    out.extend_from_slice(&number.to_be_bytes());
}

fn put64(out: &mut Vec<u8>, number: u64) {
    out.extend_from_slice(&number.to_be_bytes());
}

/// Takes big-endian fields from the front of a record.
struct Fields<'a> {
    key: &'a dyn fmt::Display,
    rest: &'a [u8],
}

impl<'a> Fields<'a> {
    fn exactly(key: &'a dyn fmt::Display, bytes: &'a [u8], width: usize) -> Result<Self> {
        if bytes.len() == width {
            Ok(Self { key, rest: bytes })
        } else {
            Err(corrupt(key, format!("{} bytes, expected {width}", bytes.len())))
        }
    }

    fn take<const N: usize>(&mut self) -> Result<[u8; N]> {
        let Some((field, rest)) = self.rest.split_first_chunk() else {
            return Err(corrupt(self.key, format!("it ends {} bytes early", N - self.rest.len())));
        };
        self.rest = rest;
        Ok(*field)
    }

    fn take8(&mut self) -> Result<u8> {
        Ok(self.take::<1>()?[0])
    }

    fn take16(&mut self) -> Result<u16> {
        Ok(u16::from_be_bytes(self.take()?))
    }

    fn take32(&mut self) -> Result<u32> {
        Ok(u32::from_be_bytes(self.take()?))
    }

    fn take64(&mut self) -> Result<u64> {
        Ok(u64::from_be_bytes(self.take()?))
    }

    /// A count and as many named users or groups.
    fn take_acl_entries(&mut self) -> Result<Vec<(u32, u16)>> {
        let count = self.take32()? as usize;
        let bytes = count.checked_mul(ACL_ENTRY_BYTES).and_then(|length| self.rest.split_at_checked(length));
        let Some((entries, rest)) = bytes else {
            return Err(corrupt(self.key, format!("{count} named entries in {} bytes", self.rest.len())));
        };
        self.rest = rest;
        decode_acl_entries(self.key, entries)
    }

    fn take_time(&mut self) -> Result<Timestamp> {
        Ok(Timestamp { secs: self.take64()?.cast_signed(), nanos: self.take32()? })
    }
}

#[cfg(test)]
mod tests;
