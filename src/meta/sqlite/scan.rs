//! Lists.

use std::ops::Range;

use bytes::Bytes;
use rusqlite::{Connection, Row, ToSql, params};
use stead_base::{Ino, SessionId, SliceId};

use super::fault::Fault;
use super::rows::{Shown, blob, entry_at, id, joined_attr, node_columns, number, quota, session_id};
use crate::codec;
use crate::records::{Key, Name, Quota};
use crate::store::{Cursor, Listed, Page, SessionRecord};

/// All rows of a query, decoded.
fn all<T>(
    connection: &Connection,
    sql: &str,
    params: &[&dyn ToSql],
    mut decode: impl FnMut(&Row<'_>) -> Result<T, Fault>,
) -> Result<Vec<T>, Fault> {
    let mut statement = connection.prepare_cached(sql)?;
    let mut rows = statement.query(params)?;
    let mut out = Vec::new();
    while let Some(row) = rows.next()? {
        out.push(decode(row)?);
    }
    Ok(out)
}

fn sql_limit(limit: usize) -> i64 {
    i64::try_from(limit).unwrap_or(i64::MAX)
}

/// Entries by name; the cursor is the last name of the page before.
pub(super) fn entries(
    connection: &Connection,
    dir: Ino,
    with_attrs: bool,
    from: &Cursor,
    limit: usize,
) -> Result<Page<Listed>, Fault> {
    let sql = if with_attrs {
        concat!(
            "SELECT e.type, e.inode, e.name, ",
            node_columns!(),
            " FROM jfs_edge e LEFT JOIN jfs_node n ON n.inode = e.inode \
             WHERE e.parent = ?1 AND e.name > ?2 ORDER BY e.name LIMIT ?3"
        )
    } else {
        "SELECT type, inode, name FROM jfs_edge WHERE parent = ?1 AND name > ?2 ORDER BY name LIMIT ?3"
    };
    let limit = limit.max(1);
    let items = all(connection, sql, params![id(dir), from.0, sql_limit(limit)], |row| listed(row, dir, with_attrs))?;
    let last = items.last().filter(|_| items.len() >= limit);
    let next = last.map(|last| Cursor(last.name.as_bytes().to_vec()));
    Ok(Page { items, next })
}

fn listed(row: &Row<'_>, dir: Ino, with_attrs: bool) -> Result<Listed, Fault> {
    let entry = entry_at(row, 0, &format_args!("an entry of directory {dir}"))?;
    let name = blob(row, 2, &Key::AnyEntry(dir))?;
    Ok(Listed {
        name: Name::stored(Bytes::copy_from_slice(name)),
        entry,
        attr: if with_attrs { joined_attr(row, 3, entry.ino)? } else { None },
    })
}

pub(super) fn xattrs(connection: &Connection, ino: Ino) -> Result<Vec<Name>, Fault> {
    all(connection, "SELECT name FROM jfs_xattr WHERE inode = ?1", params![id(ino)], |row| {
        Ok(Name::stored(Bytes::copy_from_slice(blob(row, 0, &Key::Attr(ino))?)))
    })
}

pub(super) fn chunks(connection: &Connection, ino: Ino, range: &Range<u32>) -> Result<Vec<u32>, Fault> {
    all(
        connection,
        "SELECT indx FROM jfs_chunk WHERE inode = ?1 AND indx >= ?2 AND indx < ?3",
        params![id(ino), range.start, range.end],
        |row| number(row, 0, &format_args!("a chunk of inode {ino}")),
    )
}

pub(super) fn sessions(connection: &Connection) -> Result<Vec<SessionRecord>, Fault> {
    all(connection, "SELECT sid, expire, info FROM jfs_session2", params![], |row| {
        let sid = SessionId(number(row, 0, &"a session")?);
        Ok(SessionRecord {
            sid,
            expire: number(row, 1, &Shown(&Key::Session(sid)))?,
            info: Bytes::copy_from_slice(blob(row, 2, &Key::Session(sid))?),
        })
    })
}

pub(super) fn sustained(connection: &Connection, sid: SessionId) -> Result<Vec<Ino>, Fault> {
    all(connection, "SELECT inode FROM jfs_sustained WHERE sid = ?1", params![session_id(sid)], |row| {
        number(row, 0, &Shown(&Key::Session(sid))).map(Ino)
    })
}

pub(super) fn deleted(connection: &Connection, before: i64, limit: usize) -> Result<Vec<(Ino, u64)>, Fault> {
    all(
        connection,
        "SELECT inode, length FROM jfs_delfile WHERE expire <= ?1 ORDER BY expire LIMIT ?2",
        params![before, sql_limit(limit)],
        |row| Ok((Ino(number(row, 0, &"a deleted file")?), number(row, 1, &"a deleted file")?)),
    )
}

pub(super) fn unreferenced(connection: &Connection) -> Result<Vec<(SliceId, u32)>, Fault> {
    all(connection, "SELECT chunkid, size FROM jfs_chunk_ref WHERE refs <= 0", params![], |row| {
        Ok((SliceId(number(row, 0, &"a slice")?), number(row, 1, &"a slice")?))
    })
}

type Delayed = (SliceId, i64, Vec<(SliceId, u32)>);

pub(super) fn delayed(connection: &Connection, before: i64) -> Result<Vec<Delayed>, Fault> {
    all(connection, "SELECT chunkid, deleted, slices FROM jfs_delslices WHERE deleted < ?1", params![before], |row| {
        let new: u64 = number(row, 0, &"delayed slices")?;
        let key = format_args!("slices replaced by {new}");
        let old = row.get_ref(2)?.as_bytes().map_err(|_| codec::corrupt(&key, "no bytes"))?;
        Ok((SliceId(new), number(row, 1, &key)?, codec::decode_delayed(&key, old)?))
    })
}

pub(super) fn quotas(connection: &Connection) -> Result<Vec<(Ino, Quota)>, Fault> {
    all(
        connection,
        "SELECT inode, max_space, max_inodes, used_space, used_inodes FROM jfs_dir_quota",
        params![],
        |row| {
            let dir = Ino(number(row, 0, &"a quota")?);
            Ok((dir, quota(row, 1, &Key::DirQuota(dir))?))
        },
    )
}
