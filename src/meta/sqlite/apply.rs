//! Writing records as rows.

use rusqlite::{Connection, OptionalExtension, ToSql, params};
use stead_base::{Ino, SessionId, SliceId};

use super::fault::Fault;
use super::locks;
use super::rows::{Text, counter_name, id, principal, read, session_id, slice_id, split_time};
use crate::codec;
use crate::records::{AclRule, Attr, Counter, Entry, Job, Key, Name, Record, Slice, Write};

type Done = Result<(), Fault>;

/// Applies one change. On an error the transaction must be rolled back.
pub(super) fn apply(connection: &Connection, write: &Write) -> Done {
    let to = Rows(connection);
    match write {
        Write::SetAttr(ino, attr) => to.set_attr(*ino, attr),
        Write::SetEntry(dir, name, entry) => to.set_entry(*dir, name, *entry),
        // Parents are counted from the entries.
        Write::AddParent(..) | Write::DelParents(_) => Ok(()),
        Write::AppendSlices(ino, index, slices) => to.append_slices(*ino, *index, slices),
        Write::ReplaceSlices(ino, index, count, slices) => to.replace_slices(*ino, *index, *count, slices),
        Write::AddSliceRef(slice, size, delta) => to.add_slice_ref(*slice, *size, *delta),
        Write::AddDelayedSlices(new, since, old) => to.exec(
            "INSERT OR REPLACE INTO jfs_delslices (chunkid, deleted, slices) VALUES (?1, ?2, ?3)",
            params![slice_id(*new), since, codec::encode_delayed(old)],
        ),
        Write::SetSetting(json) => to.exec(
            "INSERT INTO jfs_setting (name, value) VALUES ('format', ?1) \
             ON CONFLICT (name) DO UPDATE SET value = excluded.value",
            params![Text(json)],
        ),
        Write::SetSymlink(ino, target) => to.exec(
            "INSERT OR REPLACE INTO jfs_symlink (inode, target) VALUES (?1, ?2)",
            params![id(*ino), target.as_ref()],
        ),
        Write::SetXattr(ino, name, value) => to.exec(
            "INSERT INTO jfs_xattr (inode, name, value) VALUES (?1, ?2, ?3) \
             ON CONFLICT (inode, name) DO UPDATE SET value = excluded.value",
            params![id(*ino), Text(name.as_bytes()), value.as_ref()],
        ),
        Write::AddCounter(Counter::AclMaxId, delta) => to.add_rule_ids(*delta).map(drop),
        Write::AddCounter(counter, delta) => to.add_counter(counter_name(*counter), *delta),
        _ => apply_usage(&to, write).or_else(|| apply_owned(&to, write)).unwrap_or_else(|| apply_removal(&to, write)),
    }
}

/// Statistics, quotas, references and sessions.
fn apply_usage(to: &Rows<'_>, write: &Write) -> Option<Done> {
    Some(match write {
        Write::AppendSlicesIfExists(ino, index, slice) => to.exec(
            "UPDATE jfs_chunk SET slices = CAST(slices || ?3 AS BLOB) WHERE inode = ?1 AND indx = ?2",
            params![id(*ino), index, codec::encode_slice(*slice)],
        ),
        Write::InitDirStat(dir) => to.set_dir_stat(*dir, [0; 3]),
        Write::SetDirStat(dir, stat) => to.set_dir_stat(*dir, [stat.length, stat.space, stat.inodes]),
        Write::AddDirStat(dir, delta) => to.exec(
            "UPDATE jfs_dir_stats SET data_length = data_length + ?2, used_space = used_space + ?3, \
             used_inodes = used_inodes + ?4 WHERE inode = ?1",
            params![id(*dir), delta.length, delta.space, delta.inodes],
        ),
        Write::SetDirQuota(dir, quota) => to.exec(
            "INSERT OR REPLACE INTO jfs_dir_quota (inode, max_space, max_inodes, used_space, used_inodes) \
             VALUES (?1, ?2, ?3, ?4, ?5)",
            params![id(*dir), quota.max_space, quota.max_inodes, quota.used_space, quota.used_inodes],
        ),
        Write::AddDirQuotaUsed(dir, space, inodes) => to.exec(
            "UPDATE jfs_dir_quota SET used_space = used_space + ?2, used_inodes = used_inodes + ?3 WHERE inode = ?1",
            params![id(*dir), space, inodes],
        ),
        Write::NewSlice(slice, size) => to.exec(
            "INSERT OR REPLACE INTO jfs_chunk_ref (chunkid, size, refs) VALUES (?1, ?2, 1)",
            params![slice_id(*slice), size],
        ),
        Write::AddSustained(sid, ino) => to.exec(
            "INSERT OR IGNORE INTO jfs_sustained (sid, inode) VALUES (?1, ?2)",
            params![session_id(*sid), id(*ino)],
        ),
        Write::AddDeleted(ino, length, since) => to.exec(
            "INSERT OR REPLACE INTO jfs_delfile (inode, length, expire) VALUES (?1, ?2, ?3)",
            params![id(*ino), length.cast_signed(), since],
        ),
        Write::PutSession(sid, expire, info) => to.exec(
            "INSERT OR REPLACE INTO jfs_session2 (sid, expire, info) VALUES (?1, ?2, ?3)",
            params![session_id(*sid), expire, info.as_ref()],
        ),
        Write::TouchSession(sid, expire, info) => to.exec(
            "INSERT INTO jfs_session2 (sid, expire, info) VALUES (?1, ?2, ?3) \
             ON CONFLICT (sid) DO UPDATE SET expire = excluded.expire, info = coalesce(info, excluded.info)",
            params![session_id(*sid), expire, info.as_ref()],
        ),
        _ => return None,
    })
}

/// Locks, rules, unattached trees, quotas of users and groups.
fn apply_owned(to: &Rows<'_>, write: &Write) -> Option<Done> {
    Some(match write {
        Write::SetFlock(ino, owner, kind) => locks::set_flock(to.0, *ino, *owner, *kind),
        Write::SetPlock(ino, owner, ranges) => locks::set_plock(to.0, *ino, *owner, ranges),
        // A session's locks are found in their tables.
        Write::AddLocked(..) | Write::DelLocked(..) => Ok(()),
        Write::SetAcl(rule_id, rule) => to.set_acl(*rule_id, rule),
        Write::AddDetached(ino, since) => {
            to.exec("INSERT OR REPLACE INTO jfs_detached_node (inode, added) VALUES (?1, ?2)", params![id(*ino), since])
        }
        Write::DelDetached(ino) => to.exec("DELETE FROM jfs_detached_node WHERE inode = ?1", params![id(*ino)]),
        Write::SetOwnerQuota(of, quota) => {
            let (kind, number) = principal(*of);
            to.exec(
                "INSERT OR REPLACE INTO jfs_user_group_quota \
                 (qtype, qkey, max_space, max_inodes, used_space, used_inodes) VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
                params![kind, number, quota.max_space, quota.max_inodes, quota.used_space, quota.used_inodes],
            )
        }
        Write::AddOwnerQuotaUsed(of, space, inodes) => {
            let (kind, number) = principal(*of);
            to.exec(
                "INSERT INTO jfs_user_group_quota (qtype, qkey, max_space, max_inodes, used_space, used_inodes) \
                 VALUES (?1, ?2, -1, -1, ?3, ?4) ON CONFLICT (qtype, qkey) DO UPDATE SET \
                 used_space = used_space + excluded.used_space, used_inodes = used_inodes + excluded.used_inodes",
                params![kind, number, space, inodes],
            )
        }
        Write::DelOwnerQuota(of) => {
            let (kind, number) = principal(*of);
            to.exec("DELETE FROM jfs_user_group_quota WHERE qtype = ?1 AND qkey = ?2", params![kind, number])
        }
        Write::ClearOwnerQuotas => to.exec("DELETE FROM jfs_user_group_quota", params![]),
        _ => return None,
    })
}

fn apply_removal(to: &Rows<'_>, write: &Write) -> Done {
    match write {
        Write::DelAttr(ino) => to.exec("DELETE FROM jfs_node WHERE inode = ?1", params![id(*ino)]),
        Write::DelEntry(dir, name) => {
            to.exec("DELETE FROM jfs_edge WHERE parent = ?1 AND name = ?2", params![id(*dir), name.as_bytes()])
        }
        Write::DelChunk(ino, index) => {
            to.exec("DELETE FROM jfs_chunk WHERE inode = ?1 AND indx = ?2", params![id(*ino), index])
        }
        Write::DelSymlink(ino) => to.exec("DELETE FROM jfs_symlink WHERE inode = ?1", params![id(*ino)]),
        Write::DelXattr(ino, name) => {
            to.exec("DELETE FROM jfs_xattr WHERE inode = ?1 AND name = ?2", params![id(*ino), Text(name.as_bytes())])
        }
        Write::DelXattrs(ino) => to.exec("DELETE FROM jfs_xattr WHERE inode = ?1", params![id(*ino)]),
        Write::DelDirStat(dir) => to.exec("DELETE FROM jfs_dir_stats WHERE inode = ?1", params![id(*dir)]),
        Write::ClearDirStats => to.exec("DELETE FROM jfs_dir_stats", params![]),
        Write::DelDirQuota(dir) => to.exec("DELETE FROM jfs_dir_quota WHERE inode = ?1", params![id(*dir)]),
        Write::ForgetSlice(slice, size) => to.exec(
            "DELETE FROM jfs_chunk_ref WHERE chunkid = ?1 AND size = ?2 AND refs <= 0",
            params![slice_id(*slice), size],
        ),
        Write::DelSustained(sid, ino) => {
            to.exec("DELETE FROM jfs_sustained WHERE sid = ?1 AND inode = ?2", params![session_id(*sid), id(*ino)])
        }
        Write::DelDeleted(ino, length) => {
            to.exec("DELETE FROM jfs_delfile WHERE inode = ?1 AND length = ?2", params![id(*ino), length.cast_signed()])
        }
        Write::DelDelayedSlices(new, since) => {
            to.exec("DELETE FROM jfs_delslices WHERE chunkid = ?1 AND deleted = ?2", params![slice_id(*new), since])
        }
        Write::DelSession(sid) => to.exec("DELETE FROM jfs_session2 WHERE sid = ?1", params![session_id(*sid)]),
        other => unreachable!("{other:?} is applied above"),
    }
}

struct Rows<'a>(&'a Connection);

impl Rows<'_> {
    fn exec(&self, sql: &str, params: &[&dyn ToSql]) -> Done {
        self.0.prepare_cached(sql)?.execute(params)?;
        Ok(())
    }

    /// Columns that a newer client may have added keep their values.
    fn set_attr(&self, ino: Ino, attr: &Attr) -> Done {
        let [atime, mtime, ctime] = [attr.atime, attr.mtime, attr.ctime].map(split_time);
        self.exec(
            "INSERT INTO jfs_node (inode, type, flags, mode, uid, gid, atime, mtime, ctime, atimensec, mtimensec, \
             ctimensec, nlink, length, rdev, parent, access_acl_id, default_acl_id, tier_id) \
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15, ?16, ?17, ?18, ?19) \
             ON CONFLICT (inode) DO UPDATE SET type = ?2, flags = ?3, mode = ?4, uid = ?5, gid = ?6, atime = ?7, \
             mtime = ?8, ctime = ?9, atimensec = ?10, mtimensec = ?11, ctimensec = ?12, nlink = ?13, length = ?14, \
             rdev = ?15, parent = ?16, access_acl_id = ?17, default_acl_id = ?18, tier_id = ?19",
            params![
                id(ino),
                attr.kind as u8,
                attr.flags,
                attr.mode,
                attr.uid,
                attr.gid,
                atime.0,
                mtime.0,
                ctime.0,
                atime.1,
                mtime.1,
                ctime.1,
                attr.nlink,
                attr.length.cast_signed(),
                attr.rdev,
                id(attr.parent),
                attr.access_acl,
                attr.default_acl,
                attr.tier,
            ],
        )
    }

    fn set_entry(&self, dir: Ino, name: &Name, entry: Entry) -> Done {
        self.exec(
            "INSERT INTO jfs_edge (parent, name, inode, type) VALUES (?1, ?2, ?3, ?4) \
             ON CONFLICT (parent, name) DO UPDATE SET inode = excluded.inode, type = excluded.type",
            params![id(dir), name.as_bytes(), id(entry.ino), entry.kind as u8],
        )
    }

    /// `||` makes text of bytes, hence the cast.
    fn append_slices(&self, ino: Ino, index: u32, slices: &[Slice]) -> Done {
        if slices.is_empty() {
            return Ok(());
        }
        self.exec(
            "INSERT INTO jfs_chunk (inode, indx, slices) VALUES (?1, ?2, ?3) \
             ON CONFLICT (inode, indx) DO UPDATE SET slices = CAST(slices || excluded.slices AS BLOB)",
            params![id(ino), index, codec::encode_slices(slices)],
        )
    }

    fn replace_slices(&self, ino: Ino, index: u32, count: usize, slices: &[Slice]) -> Done {
        let key = Key::Chunk(ino, index);
        let current = match read(self.0, &key)? {
            Some(Record::Slices(current)) if current.len() >= count => current,
            _ => return Err(codec::corrupt(&format_args!("{key:?}"), format!("fewer than {count} records")).into()),
        };
        let replaced = [slices, &current[count..]].concat();
        self.exec(
            "UPDATE jfs_chunk SET slices = ?3 WHERE inode = ?1 AND indx = ?2",
            params![id(ino), index, codec::encode_slices(&replaced)],
        )
    }

    /// A slice without a row counts as used once, so that an added use never leads to its removal; taking a use from it
    /// does nothing, since nobody knows of the others.
    fn add_slice_ref(&self, slice: SliceId, size: u32, delta: i64) -> Done {
        let update = "UPDATE jfs_chunk_ref SET refs = refs + ?3 WHERE chunkid = ?1 AND size = ?2";
        let changed = self.0.prepare_cached(update)?.execute(params![slice_id(slice), size, delta])?;
        if changed > 0 || delta <= 0 {
            return Ok(());
        }
        self.exec(
            "INSERT INTO jfs_chunk_ref (chunkid, size, refs) VALUES (?1, ?2, ?3)",
            params![slice_id(slice), size, delta.saturating_add(1)],
        )
    }

    fn set_acl(&self, rule_id: u32, rule: &AclRule) -> Done {
        self.exec(
            "INSERT OR REPLACE INTO jfs_acl (id, owner, `group`, mask, other, named_users, named_groups) \
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)",
            params![
                rule_id,
                rule.owner,
                rule.group,
                rule.mask,
                rule.other,
                codec::encode_acl_entries(&rule.users),
                codec::encode_acl_entries(&rule.groups),
            ],
        )
    }

    fn set_dir_stat(&self, dir: Ino, [length, space, inodes]: [i64; 3]) -> Done {
        self.exec(
            "INSERT OR REPLACE INTO jfs_dir_stats (inode, data_length, used_space, used_inodes) VALUES (?1, ?2, ?3, ?4)",
            params![id(dir), length, space, inodes],
        )
    }

    fn add_counter(&self, name: &str, delta: i64) -> Done {
        self.exec(
            "INSERT INTO jfs_counter (name, value) VALUES (?1, ?2) \
             ON CONFLICT (name) DO UPDATE SET value = value + excluded.value",
            params![name, delta],
        )
    }

    /// The Go client lets SQLite number its rules, so the numbers of both come from there.
    fn add_rule_ids(&self, count: i64) -> Result<i64, Fault> {
        let update = "UPDATE sqlite_sequence SET seq = seq + ?1 WHERE name = 'jfs_acl'";
        if self.0.prepare_cached(update)?.execute([count])? == 0 {
            self.exec("INSERT INTO sqlite_sequence (name, seq) VALUES ('jfs_acl', ?1)", params![count])?;
        }
        let mut last = self.0.prepare_cached("SELECT seq FROM sqlite_sequence WHERE name = 'jfs_acl'")?;
        Ok(last.query_row([], |row| row.get(0))?)
    }

    fn counter(&self, name: &str) -> Result<Option<i64>, Fault> {
        let mut statement = self.0.prepare_cached("SELECT value FROM jfs_counter WHERE name = ?1")?;
        Ok(statement.query_row([name], |row| row.get(0)).optional()?)
    }

    fn set_counter(&self, name: &str, value: i64) -> Done {
        self.exec("INSERT OR REPLACE INTO jfs_counter (name, value) VALUES (?1, ?2)", params![name, value])
    }
}

/// Takes `count` numbers. The rows of inodes and slices hold the next free number, the others the last one in use
/// (format.md §2.2, §3.2).
pub(super) fn allocate(connection: &Connection, counter: Counter, count: u64) -> Result<u64, Fault> {
    let (rows, name) = (Rows(connection), counter_name(counter));
    if counter == Counter::AclMaxId {
        return Ok((rows.add_rule_ids(count.cast_signed())?.cast_unsigned() - count) + 1);
    }
    let stored = rows.counter(name)?;
    let count = count.cast_signed();
    let first = match counter {
        Counter::NextInode => stored.unwrap_or(2).max(2),
        Counter::NextChunk => stored.unwrap_or(1).max(1),
        _ => stored.unwrap_or(0).max(0) + 1,
    };
    let next = first.checked_add(count).ok_or_else(|| codec::corrupt(&name, format!("{first} leaves no number")))?;
    let keeps_next = matches!(counter, Counter::NextInode | Counter::NextChunk);
    rows.set_counter(name, if keeps_next { next } else { next - 1 })?;
    Ok(first.cast_unsigned())
}

/// Notes `now` if the last run of `job` is a period ago.
pub(super) fn claim_job(connection: &Connection, job: Job, now: i64, period: i64) -> Result<bool, Fault> {
    let (rows, name) = (Rows(connection), job.stored_name());
    if rows.counter(name)?.is_some_and(|last| last > now - period) {
        return Ok(false);
    }
    rows.set_counter(name, now)?;
    Ok(true)
}

/// Removes locks and registration of a session.
pub(super) fn clean_session(connection: &Connection, sid: SessionId) -> Done {
    let rows = Rows(connection);
    rows.exec("DELETE FROM jfs_flock WHERE sid = ?1", params![session_id(sid)])?;
    rows.exec("DELETE FROM jfs_plock WHERE sid = ?1", params![session_id(sid)])?;
    rows.exec("DELETE FROM jfs_session2 WHERE sid = ?1", params![session_id(sid)])
}
