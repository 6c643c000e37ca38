//! Reading rows as typed records.

use std::collections::BTreeMap;
use std::fmt::{self, Display};

use bytes::Bytes;
use rusqlite::types::{ToSqlOutput, ValueRef};
use rusqlite::{Connection, Row, ToSql, params};
use stead_base::{Ino, SessionId, SliceId, Timestamp};

use super::fault::Fault;
use super::locks;
use crate::codec;
use crate::records::{AclRule, Attr, Counter, DirStat, Entry, Key, Name, Principal, Quota, Record};

/// The columns of `jfs_node` in the order of [`attr`].
macro_rules! node_columns {
    () => {
        "n.type, n.flags, n.mode, n.uid, n.gid, n.atime, n.atimensec, n.mtime, n.mtimensec, n.ctime, n.ctimensec, \
         n.nlink, n.length, n.rdev, n.parent, n.access_acl_id, n.default_acl_id, n.tier_id"
    };
}
pub(super) use node_columns;

/// Several records as of one moment.
pub(super) fn read_all(connection: &Connection, keys: &[Key]) -> Result<Vec<Option<Record>>, Fault> {
    if let [key] = keys {
        return Ok(vec![read(connection, key)?]);
    }
    connection.prepare_cached("BEGIN")?.execute([])?;
    let records = keys.iter().map(|key| read(connection, key)).collect();
    connection.prepare_cached("COMMIT")?.execute([])?;
    records
}

/// Reads one record.
pub(super) fn read(connection: &Connection, key: &Key) -> Result<Option<Record>, Fault> {
    let one = One { connection, key };
    match key {
        Key::Setting => one.bytes("SELECT value FROM jfs_setting WHERE name = 'format'", params![]),
        Key::Attr(ino) => one.get(
            concat!("SELECT ", node_columns!(), " FROM jfs_node n WHERE n.inode = ?1"),
            params![id(*ino)],
            |row| attr(row, 0, *ino).map(Record::Attr),
        ),
        Key::Entry(parent, name) => one.get(
            "SELECT type, inode FROM jfs_edge WHERE parent = ?1 AND name = ?2",
            params![id(*parent), name.as_bytes()],
            |row| entry(row, key).map(Record::Entry),
        ),
        Key::AnyEntry(dir) => one.present("SELECT 1 FROM jfs_edge WHERE parent = ?1 LIMIT 1", params![id(*dir)]),
        Key::Parents(ino) => parents(connection, *ino),
        Key::Chunk(ino, index) => {
            one.get("SELECT slices FROM jfs_chunk WHERE inode = ?1 AND indx = ?2", params![id(*ino), index], |row| {
                Ok(Record::Slices(codec::decode_slices(&Shown(key), blob(row, 0, key)?)?))
            })
        }
        Key::Symlink(ino) => one.bytes("SELECT target FROM jfs_symlink WHERE inode = ?1", params![id(*ino)]),
        Key::Xattr(ino, name) => one.bytes(
            "SELECT value FROM jfs_xattr WHERE inode = ?1 AND name = ?2",
            params![id(*ino), Text(name.as_bytes())],
        ),
        Key::Counter(Counter::AclMaxId) => {
            one.number("SELECT seq FROM sqlite_sequence WHERE name = 'jfs_acl'", params![])
        }
        Key::Counter(counter) => {
            one.number("SELECT value FROM jfs_counter WHERE name = ?1", params![counter_name(*counter)])
        }
        Key::DirStat(dir) => one.get(
            "SELECT data_length, used_space, used_inodes FROM jfs_dir_stats WHERE inode = ?1",
            params![id(*dir)],
            |row| dir_stat(row, key).map(Record::DirStat),
        ),
        Key::DirQuota(dir) => one.get(
            "SELECT max_space, max_inodes, used_space, used_inodes FROM jfs_dir_quota WHERE inode = ?1",
            params![id(*dir)],
            |row| quota(row, 0, &Shown(key)).map(Record::Quota),
        ),
        Key::SliceRef(slice, size) => one
            .number("SELECT refs FROM jfs_chunk_ref WHERE chunkid = ?1 AND size = ?2", params![slice_id(*slice), size]),
        Key::Sustained(sid, ino) => one
            .present("SELECT 1 FROM jfs_sustained WHERE sid = ?1 AND inode = ?2", params![session_id(*sid), id(*ino)]),
        Key::Deleted(ino, length) => one.present(
            "SELECT 1 FROM jfs_delfile WHERE inode = ?1 AND length = ?2",
            params![id(*ino), length.cast_signed()],
        ),
        Key::Session(sid) => one.bytes("SELECT info FROM jfs_session2 WHERE sid = ?1", params![session_id(*sid)]),
        _ => read_owned(&one),
    }
}

/// Locks, rules and what is not a part of one file.
fn read_owned(one: &One<'_>) -> Found {
    match one.key {
        Key::Flocks(ino) => locks::flocks(one.connection, *ino),
        Key::Plocks(ino) => locks::plocks(one.connection, *ino),
        Key::Acl(rule) => one.get(
            "SELECT id, owner, `group`, mask, other, named_users, named_groups FROM jfs_acl WHERE id = ?1",
            params![rule],
            |row| acl(row).map(|(_id, rule)| Record::Acl(rule)),
        ),
        Key::Detached(ino) => one.present("SELECT 1 FROM jfs_detached_node WHERE inode = ?1", params![id(*ino)]),
        Key::OwnerQuota(of) => {
            let (kind, number) = principal(*of);
            one.get(
                "SELECT max_space, max_inodes, used_space, used_inodes FROM jfs_user_group_quota \
                 WHERE qtype = ?1 AND qkey = ?2",
                params![kind, number],
                |row| quota(row, 0, &Shown(one.key)).map(Record::Quota),
            )
        }
        other => unreachable!("{other:?} is read above"),
    }
}

/// A query for the one row behind a key.
struct One<'a> {
    connection: &'a Connection,
    key: &'a Key,
}

type Found = Result<Option<Record>, Fault>;

impl One<'_> {
    fn get(&self, sql: &str, params: &[&dyn ToSql], decode: impl FnOnce(&Row<'_>) -> Result<Record, Fault>) -> Found {
        let mut statement = self.connection.prepare_cached(sql)?;
        let mut rows = statement.query(params)?;
        rows.next()?.map(decode).transpose()
    }

    fn bytes(&self, sql: &str, params: &[&dyn ToSql]) -> Found {
        self.get(sql, params, |row| Ok(Record::Bytes(Bytes::copy_from_slice(blob(row, 0, self.key)?))))
    }

    fn number(&self, sql: &str, params: &[&dyn ToSql]) -> Found {
        self.get(sql, params, |row| number(row, 0, &Shown(self.key)).map(Record::Number))
    }

    fn present(&self, sql: &str, params: &[&dyn ToSql]) -> Found {
        self.get(sql, params, |_row| Ok(Record::Present))
    }
}

/// Names of hard links are counted where they are: there is no table for them.
fn parents(connection: &Connection, ino: Ino) -> Found {
    let mut statement =
        connection.prepare_cached("SELECT parent, count(*) FROM jfs_edge WHERE inode = ?1 GROUP BY parent")?;
    let mut rows = statement.query([id(ino)])?;
    let mut parents = BTreeMap::new();
    while let Some(row) = rows.next()? {
        let key = format_args!("parents of inode {ino}");
        parents.insert(Ino(number(row, 0, &key)?), number(row, 1, &key)?);
    }
    Ok((!parents.is_empty()).then_some(Record::Parents(parents)))
}

/// An entry and its attributes in one statement.
pub(super) fn lookup(
    connection: &Connection,
    parent: Ino,
    name: &Name,
) -> Result<Option<(Entry, Option<Attr>)>, Fault> {
    let mut statement = connection.prepare_cached(concat!(
        "SELECT e.type, e.inode, ",
        node_columns!(),
        " FROM jfs_edge e LEFT JOIN jfs_node n ON n.inode = e.inode WHERE e.parent = ?1 AND e.name = ?2"
    ))?;
    let mut rows = statement.query(params![id(parent), name.as_bytes()])?;
    let Some(row) = rows.next()? else {
        return Ok(None);
    };
    let key = Key::Entry(parent, name.clone());
    let entry = entry(row, &key)?;
    Ok(Some((entry, joined_attr(row, 2, entry.ino)?)))
}

/// The attributes of a left join: all columns are NULL when there are none.
pub(super) fn joined_attr(row: &Row<'_>, at: usize, ino: Ino) -> Result<Option<Attr>, Fault> {
    match row.get_ref(at)? {
        ValueRef::Null => Ok(None),
        _ => attr(row, at, ino).map(Some),
    }
}

/// The columns `node_columns!` from column `at` on.
pub(super) fn attr(row: &Row<'_>, at: usize, ino: Ino) -> Result<Attr, Fault> {
    let key = format_args!("attributes of inode {ino}");
    let key: &dyn Display = &key;
    let mode: u16 = number(row, at + 2, key)?;
    Ok(Attr {
        kind: codec::node_type(key, number(row, at, key)?)?,
        flags: number(row, at + 1, key)?,
        mode: mode & 0o7777,
        uid: number(row, at + 3, key)?,
        gid: number(row, at + 4, key)?,
        atime: time(row, at + 5, key)?,
        mtime: time(row, at + 7, key)?,
        ctime: time(row, at + 9, key)?,
        nlink: number(row, at + 11, key)?,
        length: number(row, at + 12, key)?,
        rdev: number(row, at + 13, key)?,
        parent: Ino(number(row, at + 14, key)?),
        access_acl: number(row, at + 15, key)?,
        default_acl: number(row, at + 16, key)?,
        tier: number(row, at + 17, key)?,
    })
}

/// Microseconds and the nanoseconds that are left.
pub(super) fn split_time(time: Timestamp) -> (i64, u32) {
    let micros = time.secs.saturating_mul(1_000_000).saturating_add(i64::from(time.nanos / 1000));
    (micros, time.nanos % 1000)
}

fn time(row: &Row<'_>, at: usize, key: &dyn Display) -> Result<Timestamp, Fault> {
    let micros: i64 = number(row, at, key)?;
    let rest: u16 = number(row, at + 1, key)?;
    let nanos = u32::try_from(micros.rem_euclid(1_000_000)).expect("a remainder below 10^6") * 1000;
    Ok(Timestamp { secs: micros.div_euclid(1_000_000), nanos: nanos + u32::from(rest % 1000) })
}

fn entry(row: &Row<'_>, key: &Key) -> Result<Entry, Fault> {
    entry_at(row, 0, &Shown(key))
}

/// Type and inode from column `at` on.
pub(super) fn entry_at(row: &Row<'_>, at: usize, key: &dyn Display) -> Result<Entry, Fault> {
    Ok(Entry { kind: codec::node_type(key, number(row, at, key)?)?, ino: Ino(number(row, at + 1, key)?) })
}

fn dir_stat(row: &Row<'_>, key: &Key) -> Result<DirStat, Fault> {
    Ok(DirStat {
        length: number(row, 0, &Shown(key))?,
        space: number(row, 1, &Shown(key))?,
        inodes: number(row, 2, &Shown(key))?,
    })
}

/// Limits and usage from column `at` on.
pub(super) fn quota(row: &Row<'_>, at: usize, key: &dyn Display) -> Result<Quota, Fault> {
    Ok(Quota {
        max_space: number(row, at, key)?,
        max_inodes: number(row, at + 1, key)?,
        used_space: number(row, at + 2, key)?,
        used_inodes: number(row, at + 3, key)?,
    })
}

/// A row of `jfs_acl`, all columns in their order.
pub(super) fn acl(row: &Row<'_>) -> Result<(u32, AclRule), Fault> {
    let rule_id: u32 = number(row, 0, &"an access control list")?;
    let key = Key::Acl(rule_id);
    let shown = Shown(&key);
    let named = |at| -> Result<_, Fault> { Ok(codec::decode_acl_entries(&shown, blob(row, at, &key)?)?) };
    let rule = AclRule {
        owner: number(row, 1, &shown)?,
        group: number(row, 2, &shown)?,
        mask: number(row, 3, &shown)?,
        other: number(row, 4, &shown)?,
        users: named(5)?,
        groups: named(6)?,
    };
    Ok((rule_id, rule))
}

/// The two key columns of `jfs_user_group_quota`.
pub(super) const fn principal(of: Principal) -> (u8, u32) {
    match of {
        Principal::User(uid) => (1, uid),
        Principal::Group(gid) => (2, gid),
    }
}

/// A number that fits into its type; NULL, which older clients leave in added columns, is 0.
pub(super) fn number<T: TryFrom<i64>>(row: &Row<'_>, at: usize, key: &dyn Display) -> Result<T, Fault> {
    let value = match row.get_ref(at)? {
        ValueRef::Integer(value) => Some(value),
        ValueRef::Null => Some(0),
        ValueRef::Real(_) | ValueRef::Text(_) | ValueRef::Blob(_) => None,
    };
    if let Some(number) = value.and_then(|value| T::try_from(value).ok()) {
        return Ok(number);
    }
    let column = row.as_ref().column_name(at)?.to_owned();
    let found = value.map_or("no integer".to_owned(), |value| value.to_string());
    Err(codec::corrupt(key, format!("column {column} holds {found}")).into())
}

/// Bytes: the Go client leaves them as text where it appended with `||`.
pub(super) fn blob<'a>(row: &'a Row<'_>, at: usize, key: &Key) -> Result<&'a [u8], Fault> {
    match row.get_ref(at)? {
        ValueRef::Blob(bytes) | ValueRef::Text(bytes) => Ok(bytes),
        ValueRef::Null => Ok(&[]),
        ValueRef::Integer(_) | ValueRef::Real(_) => Err(codec::corrupt(&Shown(key), "a number, expected bytes").into()),
    }
}

/// A key in a message.
pub(super) struct Shown<'a>(pub(super) &'a Key);

impl Display for Shown<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self.0, f)
    }
}

/// Bytes for a TEXT column, whatever they are.
pub(super) struct Text<'a>(pub(super) &'a [u8]);

impl ToSql for Text<'_> {
    fn to_sql(&self) -> rusqlite::Result<ToSqlOutput<'_>> {
        Ok(ToSqlOutput::Borrowed(ValueRef::Text(self.0)))
    }
}

pub(super) const fn id(ino: Ino) -> i64 {
    ino.0.cast_signed()
}

pub(super) const fn slice_id(slice: SliceId) -> i64 {
    slice.0.cast_signed()
}

pub(super) const fn session_id(sid: SessionId) -> i64 {
    sid.0.cast_signed()
}

pub(super) const fn counter_name(counter: Counter) -> &'static str {
    match counter {
        Counter::NextInode => "nextInode",
        Counter::NextChunk => "nextChunk",
        Counter::NextSession => "nextSession",
        Counter::NextTrash => "nextTrash",
        Counter::UsedSpace => "usedSpace",
        Counter::TotalInodes => "totalInodes",
        Counter::AclMaxId => "aclMaxId",
    }
}
