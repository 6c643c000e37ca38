//! flock(2) and fcntl(2) locks (format.md §2.11). Locks belong to a session and go with it; a lock that is in the way
//! refuses the request, and waiting is the caller's: nobody tells a client that another one has unlocked.
//!
//! The locks of an owner are sorted, disjoint ranges; neighbours that are alike are one.

use stead_base::{Ino, SessionId};

use crate::error::{Error, Result};
use crate::records::{Key, LockKind, LockOwner, LockRange, LockTable, Record, Write};
use crate::store::{Step, Txn};

use super::Meta;

/// The last byte of a file, wherever that is.
pub const LOCK_EOF: u64 = i64::MAX.cast_unsigned();

/// What flock(2) asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FlockRequest {
    /// `LOCK_SH`
    Read,
    /// `LOCK_EX`
    Write,
    /// `LOCK_UN`
    Unlock,
}

impl FlockRequest {
    const fn kind(self) -> Option<LockKind> {
        match self {
            Self::Read => Some(LockKind::Read),
            Self::Write => Some(LockKind::Write),
            Self::Unlock => None,
        }
    }
}

impl Meta {
    /// Locks or unlocks a whole file. A lock that the owner has already becomes the new one. False: another owner's
    /// lock is in the way, and nothing has changed.
    ///
    /// # Errors
    /// [`Error::ReadOnly`] or [`Error::NoSession`] for clients that can hold no locks.
    pub async fn flock(&self, ino: Ino, owner: u64, request: FlockRequest) -> Result<bool> {
        let (ino, owner) = (self.real(ino), self.lock_owner(owner)?);
        self.transact(move |txn| flock(txn, ino, owner, request.kind())).await
    }

    /// Locks the bytes `start ..= end` ([`LOCK_EOF`] is the end of the file), or unlocks them (`None`). What the owner
    /// has locked there before is replaced. False: another owner's lock is in the way, and nothing has changed.
    ///
    /// # Errors
    /// [`Error::Invalid`] for an empty range, and as of [`Meta::flock`].
    pub async fn set_plock(
        &self,
        ino: Ino,
        owner: u64,
        kind: Option<LockKind>,
        start: u64,
        end: u64,
        pid: u32,
    ) -> Result<bool> {
        let (ino, owner, span) = (self.real(ino), self.lock_owner(owner)?, Span::new(start, end)?);
        self.transact(move |txn| set_plock(txn, ino, owner, span, kind.map(|kind| (kind, pid)))).await
    }

    /// A lock of another owner that keeps `owner` from locking the range. Its `pid` is 0 unless this client holds it.
    ///
    /// # Errors
    /// [`Error::Invalid`] for an empty range.
    pub async fn get_plock(
        &self,
        ino: Ino,
        owner: u64,
        kind: LockKind,
        start: u64,
        end: u64,
    ) -> Result<Option<LockRange>> {
        let (sid, span) = (self.session(), Span::new(start, end)?);
        let owner = LockOwner { sid, owner };
        let Some(Record::Plocks(locks)) = self.read_one(Key::Plocks(self.real(ino))).await? else {
            return Ok(None);
        };
        let others = locks.iter().filter(|(other, _ranges)| **other != owner);
        let mut held = others.flat_map(|(other, ranges)| ranges.iter().map(move |range| (other.sid, *range)));
        let conflict = held.find(|(_sid, range)| span.conflicts(kind, range));
        Ok(conflict.map(|(holder, range)| LockRange { pid: if holder == sid { range.pid } else { 0 }, ..range }))
    }

    /// Gives back every lock that this client's session has on a file.
    ///
    /// # Errors
    /// Those of the engine.
    pub async fn unlock_all(&self, ino: Ino) -> Result<()> {
        let (ino, sid) = (self.real(ino), self.session());
        self.transact(move |txn| {
            let ours = |owner: &LockOwner| owner.sid == sid;
            let flocks: Vec<_> = txn.flocks(ino)?.into_keys().filter(ours).collect();
            let plocks: Vec<_> = txn.plocks(ino)?.into_keys().filter(ours).collect();
            for owner in &flocks {
                txn.write(Write::SetFlock(ino, *owner, None));
            }
            for owner in &plocks {
                txn.write(Write::SetPlock(ino, *owner, Vec::new()));
            }
            if !flocks.is_empty() {
                txn.write(Write::DelLocked(sid, LockTable::Flock, ino));
            }
            if !plocks.is_empty() {
                txn.write(Write::DelLocked(sid, LockTable::Plock, ino));
            }
            Ok(())
        })
        .await
    }

    fn lock_owner(&self, owner: u64) -> Result<LockOwner> {
        self.writable()?;
        match self.session() {
            SessionId::NONE => Err(Error::NoSession { sid: SessionId::NONE }),
            sid => Ok(LockOwner { sid, owner }),
        }
    }
}

/// Bytes from `start` to `end` inclusive.
#[derive(Clone, Copy, Debug)]
struct Span {
    start: u64,
    end: u64,
}

impl Span {
    fn new(start: u64, end: u64) -> Result<Self> {
        if start > end || end > LOCK_EOF {
            let value = format!("{start}..={end}");
            return Err(Error::Invalid { field: "lock range", value, expected: "1 byte or more below 2^63" });
        }
        Ok(Self { start, end })
    }

    const fn conflicts(self, kind: LockKind, held: &LockRange) -> bool {
        let excludes = matches!(kind, LockKind::Write) || matches!(held.kind, LockKind::Write);
        excludes && self.start <= held.end && held.start <= self.end
    }
}

fn flock(txn: &mut Txn<'_>, ino: Ino, owner: LockOwner, wanted: Option<LockKind>) -> Step<bool> {
    let locks = txn.flocks(ino)?;
    let conflicts = |kind: LockKind, held: LockKind| kind == LockKind::Write || held == LockKind::Write;
    if let Some(kind) = wanted
        && locks.iter().any(|(other, held)| *other != owner && conflicts(kind, *held))
    {
        return Ok(false);
    }
    if locks.get(&owner).copied() != wanted {
        txn.write(Write::SetFlock(ino, owner, wanted));
        note_locked(txn, owner, LockTable::Flock, ino, wanted.is_some(), locks.keys());
    }
    Ok(true)
}

fn set_plock(txn: &mut Txn<'_>, ino: Ino, owner: LockOwner, span: Span, new: Option<(LockKind, u32)>) -> Step<bool> {
    let locks = txn.plocks(ino)?;
    if let Some((kind, _pid)) = new {
        let mut others = locks.iter().filter(|(other, _ranges)| **other != owner);
        if others.any(|(_other, ranges)| ranges.iter().any(|held| span.conflicts(kind, held))) {
            return Ok(false);
        }
    }
    let held = locks.get(&owner).map(Vec::as_slice).unwrap_or_default();
    let ranges = replace_range(held, span, new);
    if ranges != held {
        txn.write(Write::SetPlock(ino, owner, ranges.clone()));
        note_locked(txn, owner, LockTable::Plock, ino, !ranges.is_empty(), locks.keys());
    }
    Ok(true)
}

/// Keeps the session's list of the files in which it has locks.
fn note_locked<'a>(
    txn: &mut Txn<'_>,
    owner: LockOwner,
    table: LockTable,
    ino: Ino,
    holds: bool,
    mut owners: impl Iterator<Item = &'a LockOwner>,
) {
    if holds {
        txn.write(Write::AddLocked(owner.sid, table, ino));
    } else if !owners.any(|other| other.sid == owner.sid && *other != owner) {
        txn.write(Write::DelLocked(owner.sid, table, ino));
    }
}

/// An owner's locks after those in `span` gave way to `new`.
fn replace_range(held: &[LockRange], span: Span, new: Option<(LockKind, u32)>) -> Vec<LockRange> {
    let mut ranges = Vec::with_capacity(held.len() + 2);
    for old in held {
        if old.start < span.start {
            ranges.push(LockRange { end: old.end.min(span.start - 1), ..*old });
        }
        if old.end > span.end {
            ranges.push(LockRange { start: old.start.max(span.end + 1), ..*old });
        }
    }
    ranges.extend(new.map(|(kind, pid)| LockRange { kind, pid, start: span.start, end: span.end }));
    ranges.sort_by_key(|range| range.start);
    ranges.dedup_by(|next, last| {
        let joins = (next.kind, next.pid, next.start) == (last.kind, last.pid, last.end + 1);
        if joins {
            last.end = next.end;
        }
        joins
    });
    ranges
}
