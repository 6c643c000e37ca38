//! Lists.

use std::ops::Range;

use bytes::Bytes;
use rusqlite::types::ValueRef;
use rusqlite::{Connection, Row, ToSql, params};
use stead_base::{Ino, SessionId, SliceId};
use tracing::error;

use super::fault::Fault;
use super::rows::{Shown, acl, attr, blob, entry_at, id, joined_attr, node_columns, number, quota, session_id};
use crate::codec;
use crate::error::Error;
use crate::records::{AclRule, Attr, Key, Name, Principal, Quota, Slice};
use crate::store::{Cursor, Listed, Page, SessionRecord};

/// All rows of a query, decoded.
pub(super) fn all<T>(
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

/// The rows of a query that decode; the others are left out, with a line in the log.
fn readable<T>(
    connection: &Connection,
    sql: &str,
    mut decode: impl FnMut(&Row<'_>) -> Result<T, Fault>,
) -> Result<Vec<T>, Fault> {
    let rows = all(connection, sql, params![], |row| match decode(row) {
        Ok(item) => Ok(Some(item)),
        Err(fault) => left_out(fault).map(|_error| None),
    })?;
    Ok(rows.into_iter().flatten().collect())
}

/// Goes on after a record that does not decode.
fn left_out(fault: Fault) -> Result<Error, Fault> {
    match fault {
        Fault::Meta(error) => {
            error!(%error, "left out of a list");
            Ok(error)
        }
        fault @ Fault::Sql(_) => Err(fault),
    }
}

/// A page of rows in the order of their position; `decode` may note what it leaves out of an item.
fn page<T>(
    connection: &Connection,
    sql: &str,
    params: &[&dyn ToSql],
    limit: usize,
    position: impl Fn(&Row<'_>) -> Result<Cursor, Fault>,
    mut decode: impl FnMut(&Row<'_>, &mut Vec<Error>) -> Result<T, Fault>,
) -> Result<Page<T>, Fault> {
    let mut statement = connection.prepare_cached(sql)?;
    let mut rows = statement.query(params)?;
    let (mut items, mut corrupt, mut last, mut count) = (Vec::new(), Vec::new(), None, 0);
    while let Some(row) = rows.next()? {
        count += 1;
        last = Some(position(row)?);
        match decode(row, &mut corrupt) {
            Ok(item) => items.push(item),
            Err(fault) => corrupt.push(left_out(fault)?),
        }
    }
    Ok(Page { items, corrupt, next: last.filter(|_| count >= limit) })
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
    let name = |row: &Row<'_>| Ok(Cursor(blob(row, 2, &Key::AnyEntry(dir))?.to_vec()));
    page(connection, sql, params![id(dir), from.0, sql_limit(limit)], limit, name, |row, corrupt| {
        let name = Name::stored(Bytes::copy_from_slice(blob(row, 2, &Key::AnyEntry(dir))?));
        let entry = entry_at(row, 0, &format_args!("entry {name:?} of directory {dir}"))?;
        let attr = if with_attrs { attr_if_readable(row, 3, entry.ino, corrupt)? } else { None };
        Ok(Listed { name, entry, attr })
    })
}

fn attr_if_readable(row: &Row<'_>, at: usize, ino: Ino, corrupt: &mut Vec<Error>) -> Result<Option<Attr>, Fault> {
    joined_attr(row, at, ino).or_else(|fault| {
        corrupt.push(left_out(fault)?);
        Ok(None)
    })
}

/// A page of a table in the order of the number in the first column, which no update changes. The cursor is the last
/// number of the page before.
fn table<T>(
    connection: &Connection,
    sql: &str,
    from: &Cursor,
    limit: usize,
    decode: impl Fn(&Row<'_>) -> Result<T, Fault>,
) -> Result<Page<T>, Fault> {
    let after = from.0.first_chunk().map_or(i64::MIN, |bytes| i64::from_be_bytes(*bytes));
    let limit = limit.max(1);
    let number = |row: &Row<'_>| Ok(Cursor(row.get::<_, i64>(0)?.to_be_bytes().to_vec()));
    page(connection, sql, params![after, sql_limit(limit)], limit, number, |row, _corrupt| decode(row))
}

pub(super) fn all_attrs(connection: &Connection, from: &Cursor, limit: usize) -> Result<Page<(Ino, Attr)>, Fault> {
    let sql =
        concat!("SELECT n.inode, ", node_columns!(), " FROM jfs_node n WHERE n.inode > ?1 ORDER BY n.inode LIMIT ?2");
    table(connection, sql, from, limit, |row| {
        let ino = Ino(number(row, 0, &"an inode")?);
        Ok((ino, attr(row, 1, ino)?))
    })
}

pub(super) fn all_chunks(
    connection: &Connection,
    from: &Cursor,
    limit: usize,
) -> Result<Page<(Ino, u32, Vec<Slice>)>, Fault> {
    let sql = "SELECT id, inode, indx, slices FROM jfs_chunk WHERE id > ?1 ORDER BY id LIMIT ?2";
    table(connection, sql, from, limit, |row| {
        let ino = Ino(number(row, 1, &"a chunk")?);
        let index = number(row, 2, &format_args!("a chunk of inode {ino}"))?;
        let key = Key::Chunk(ino, index);
        Ok((ino, index, codec::decode_slices(&Shown(&key), blob(row, 3, &key)?)?))
    })
}

pub(super) fn all_slice_refs(
    connection: &Connection,
    from: &Cursor,
    limit: usize,
) -> Result<Page<(SliceId, u32, i64)>, Fault> {
    let sql = "SELECT chunkid, size, refs FROM jfs_chunk_ref WHERE chunkid > ?1 ORDER BY chunkid LIMIT ?2";
    table(connection, sql, from, limit, |row| {
        let slice: u64 = number(row, 0, &"a slice")?;
        let key = format_args!("references of slice {slice}");
        Ok((SliceId(slice), number(row, 1, &key)?, number(row, 2, &key)?))
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
    readable(connection, "SELECT sid, expire, info FROM jfs_session2", |row| {
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
    readable(connection, "SELECT inode, max_space, max_inodes, used_space, used_inodes FROM jfs_dir_quota", |row| {
        let dir = Ino(number(row, 0, &"a quota")?);
        Ok((dir, quota(row, 1, &Shown(&Key::DirQuota(dir)))?))
    })
}

pub(super) fn owner_quotas(connection: &Connection) -> Result<Vec<(Principal, Quota)>, Fault> {
    readable(
        connection,
        "SELECT qtype, qkey, max_space, max_inodes, used_space, used_inodes FROM jfs_user_group_quota",
        |row| {
            let number: u32 = number(row, 1, &"a quota")?;
            let of = match row.get_ref(0)? {
                ValueRef::Integer(1) => Principal::User(number),
                ValueRef::Integer(2) => Principal::Group(number),
                other => return Err(codec::corrupt(&"a quota", format!("kind {other:?}, expected 1 or 2")).into()),
            };
            Ok((of, quota(row, 2, &Shown(&Key::OwnerQuota(of)))?))
        },
    )
}

pub(super) fn acls(connection: &Connection) -> Result<Vec<(u32, AclRule)>, Fault> {
    let columns = "SELECT id, owner, `group`, mask, other, named_users, named_groups FROM jfs_acl";
    readable(connection, columns, acl)
}

pub(super) fn detached(connection: &Connection) -> Result<Vec<(Ino, i64)>, Fault> {
    readable(connection, "SELECT inode, added FROM jfs_detached_node", |row| {
        Ok((Ino(number(row, 0, &"a detached inode")?), number(row, 1, &"a detached inode")?))
    })
}
