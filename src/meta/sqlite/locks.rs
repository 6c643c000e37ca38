//! Locks as rows: one per file and owner.

use std::collections::BTreeMap;

use rusqlite::{Connection, Row, params};
use stead_base::{Ino, SessionId};

use super::fault::Fault;
use super::rows::{Shown, blob, id, number, session_id};
use super::scan::all;
use crate::codec;
use crate::records::{Key, LockKind, LockOwner, LockRange, LockTable, Record};

type Found = Result<Option<Record>, Fault>;

pub(super) fn flocks(connection: &Connection, ino: Ino) -> Found {
    let key = Key::Flocks(ino);
    let rows = all(connection, "SELECT sid, owner, ltype FROM jfs_flock WHERE inode = ?1", params![id(ino)], |row| {
        let byte: u8 = number(row, 2, &Shown(&key))?;
        Ok((owner(row, &key)?, codec::decode_flock(&Shown(&key), &[byte])?))
    })?;
    Ok((!rows.is_empty()).then(|| Record::Flocks(BTreeMap::from_iter(rows))))
}

pub(super) fn plocks(connection: &Connection, ino: Ino) -> Found {
    let key = Key::Plocks(ino);
    let rows =
        all(connection, "SELECT sid, owner, records FROM jfs_plock WHERE inode = ?1", params![id(ino)], |row| {
            Ok((owner(row, &key)?, codec::decode_plocks(&Shown(&key), blob(row, 2, &key)?)?))
        })?;
    Ok((!rows.is_empty()).then(|| Record::Plocks(BTreeMap::from_iter(rows))))
}

fn owner(row: &Row<'_>, key: &Key) -> Result<LockOwner, Fault> {
    let owner: i64 = number(row, 1, &Shown(key))?;
    Ok(LockOwner { sid: SessionId(number(row, 0, &Shown(key))?), owner: owner.cast_unsigned() })
}

pub(super) fn set_flock(
    connection: &Connection,
    ino: Ino,
    owner: LockOwner,
    kind: Option<LockKind>,
) -> Result<(), Fault> {
    let Some(kind) = kind else { return remove(connection, LockTable::Flock, ino, owner) };
    connection
        .prepare_cached(
            "INSERT INTO jfs_flock (inode, sid, owner, ltype) VALUES (?1, ?2, ?3, ?4) \
             ON CONFLICT (inode, sid, owner) DO UPDATE SET ltype = excluded.ltype",
        )?
        .execute(params![id(ino), session_id(owner.sid), owner.owner.cast_signed(), codec::encode_flock(kind)[0]])?;
    Ok(())
}

pub(super) fn set_plock(
    connection: &Connection,
    ino: Ino,
    owner: LockOwner,
    ranges: &[LockRange],
) -> Result<(), Fault> {
    if ranges.is_empty() {
        return remove(connection, LockTable::Plock, ino, owner);
    }
    connection
        .prepare_cached(
            "INSERT INTO jfs_plock (inode, sid, owner, records) VALUES (?1, ?2, ?3, ?4) \
             ON CONFLICT (inode, sid, owner) DO UPDATE SET records = excluded.records",
        )?
        .execute(params![id(ino), session_id(owner.sid), owner.owner.cast_signed(), codec::encode_plocks(ranges)])?;
    Ok(())
}

fn remove(connection: &Connection, table: LockTable, ino: Ino, owner: LockOwner) -> Result<(), Fault> {
    let sql = match table {
        LockTable::Flock => "DELETE FROM jfs_flock WHERE inode = ?1 AND sid = ?2 AND owner = ?3",
        LockTable::Plock => "DELETE FROM jfs_plock WHERE inode = ?1 AND sid = ?2 AND owner = ?3",
    };
    connection.prepare_cached(sql)?.execute(params![id(ino), session_id(owner.sid), owner.owner.cast_signed()])?;
    Ok(())
}

/// Tables in which a session has locks.
pub(super) fn of_session(connection: &Connection, sid: SessionId) -> Result<Vec<(LockTable, Ino)>, Fault> {
    all(
        connection,
        "SELECT DISTINCT 0, inode FROM jfs_flock WHERE sid = ?1 UNION ALL \
         SELECT DISTINCT 1, inode FROM jfs_plock WHERE sid = ?1",
        params![session_id(sid)],
        |row| {
            let table: u8 = number(row, 0, &"locks")?;
            let table = if table == 0 { LockTable::Flock } else { LockTable::Plock };
            Ok((table, Ino(number(row, 1, &Shown(&Key::Session(sid)))?)))
        },
    )
}
