//! Writes as commands of Redis: exactly what the Go client stores (format.md §2).

use bytes::Bytes;
use stead_base::{Ino, SessionId};

use super::keys::{self, Keys};
use crate::codec;
use crate::records::{Attr, DirStat, Entry, LockTable, Name, Principal, Quota, Slice, Write};

/// Lua passes a command's arguments on its stack, which has room for a few thousand.
const MAX_ARGS: usize = 1000;

/// A command of Redis, or one of the special writes of `lua/commit.lua`, with its arguments.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Command {
    pub(super) name: &'static str,
    pub(super) args: Vec<Bytes>,
}

/// Builds a command from arguments of any kind that has bytes.
macro_rules! command {
    ($name:literal $(, $arg:expr)* $(,)?) => {
        Command { name: $name, args: vec![$(bytes($arg)),*] }
    };
}

fn bytes(arg: impl Into<Vec<u8>>) -> Bytes {
    Bytes::from(arg.into())
}

/// The command that keeps when a job ran last.
pub(super) fn set(key: Vec<u8>, value: impl Into<Vec<u8>>) -> Command {
    command!("SET", key, value)
}

/// All commands for `writes`, in order.
pub(super) fn commands(keys: &Keys, writes: &[Write]) -> Vec<Command> {
    let mut sink = Sink { keys, out: Vec::with_capacity(writes.len()) };
    for write in writes {
        sink.node(write);
    }
    sink.out
}

/// The hashes of used space and used inodes beside one of limits.
pub(super) fn usage_hashes(limits: &[u8]) -> [Vec<u8>; 2] {
    [b"UsedSpace".as_slice(), b"UsedInodes"].map(|what| [limits, what].concat())
}

struct Sink<'a> {
    keys: &'a Keys,
    out: Vec<Command>,
}

impl Sink<'_> {
    fn push(&mut self, command: Command) {
        self.out.push(command);
    }

    /// Writes about inodes, names and what hangs on them.
    fn node(&mut self, write: &Write) {
        let k = self.keys;
        match write {
            Write::SetSetting(json) => self.push(set(k.named("setting"), json.clone())),
            Write::SetAttr(ino, attr) => self.push(self.set_attr(*ino, attr)),
            Write::DelAttr(ino) => self.push(command!("DEL", k.attr(*ino))),
            Write::SetEntry(dir, name, entry) => self.push(self.set_entry(*dir, name, *entry)),
            Write::DelEntry(dir, name) => self.push(command!("HDEL", k.entries(*dir), name.as_bytes())),
            Write::AddParent(ino, dir, count) => {
                self.push(command!("link", k.parents(*ino), dir.to_string(), count.to_string()));
            }
            Write::DelParents(ino) => self.push(command!("DEL", k.parents(*ino))),
            Write::SetSymlink(ino, target) => self.push(set(k.symlink(*ino), target.clone())),
            Write::DelSymlink(ino) => self.push(command!("DEL", k.symlink(*ino))),
            Write::SetXattr(ino, name, value) => {
                self.push(command!("HSET", k.xattrs(*ino), name.as_bytes(), value.clone()));
            }
            Write::DelXattr(ino, name) => self.push(command!("HDEL", k.xattrs(*ino), name.as_bytes())),
            Write::DelXattrs(ino) => self.push(command!("DEL", k.xattrs(*ino))),
            other => self.usage(other),
        }
    }

    /// Writes about counters, statistics and quotas.
    fn usage(&mut self, write: &Write) {
        let k = self.keys;
        match write {
            Write::AddCounter(counter, delta) => {
                self.push(command!("INCRBY", k.counter(*counter), delta.to_string()));
            }
            Write::InitDirStat(dir) => self.push(command!("newstat", k.named(""), dir.to_string())),
            Write::SetDirStat(dir, stat) => self.set_dir_stat(*dir, *stat),
            Write::AddDirStat(dir, delta) => self.push(command!(
                "addstat",
                k.named(""),
                dir.to_string(),
                delta.length.to_string(),
                delta.space.to_string(),
                delta.inodes.to_string(),
            )),
            Write::DelDirStat(dir) => self.push(command!("delstat", k.named(""), dir.to_string())),
            Write::ClearDirStats => self.push(Command {
                name: "UNLINK",
                args: ["dirDataLength", "dirUsedSpace", "dirUsedInodes"].map(|hash| k.named(hash).into()).to_vec(),
            }),
            Write::SetDirQuota(dir, quota) => self.set_quota(&k.named("dirQuota"), dir.0, *quota),
            Write::AddDirQuotaUsed(dir, space, inodes) => {
                let (dir, space, inodes) = (dir.to_string(), space.to_string(), inodes.to_string());
                self.push(command!("addquota", k.named("dirQuota"), dir, space, inodes));
            }
            Write::DelDirQuota(dir) => self.del_quota(&k.named("dirQuota"), dir.0),
            Write::SetOwnerQuota(of, quota) => {
                let (key, number) = k.owner_quota(*of);
                self.set_quota(&key, number.into(), *quota);
            }
            Write::AddOwnerQuotaUsed(of, space, inodes) => self.add_owner_quota(*of, [*space, *inodes]),
            Write::DelOwnerQuota(of) => {
                let (key, number) = k.owner_quota(*of);
                self.del_quota(&key, number.into());
            }
            Write::ClearOwnerQuotas => {
                for (key, _number) in [Principal::User(0), Principal::Group(0)].map(|of| k.owner_quota(of)) {
                    for hash in std::iter::once(key.clone()).chain(usage_hashes(&key)) {
                        self.push(command!("UNLINK", hash));
                    }
                }
            }
            other => self.data(other),
        }
    }

    /// Writes about chunks and slices.
    fn data(&mut self, write: &Write) {
        let k = self.keys;
        match write {
            Write::AppendSlices(ino, index, slices) => {
                for slices in slices.chunks(MAX_ARGS) {
                    self.push_slices("RPUSH", k.chunk(*ino, *index), slices.iter());
                }
            }
            Write::AppendSlicesIfExists(ino, index, slice) => {
                self.push(command!("RPUSHX", k.chunk(*ino, *index), codec::encode_slice(*slice)));
            }
            Write::ReplaceSlices(ino, index, count, slices) => {
                let chunk = k.chunk(*ino, *index);
                self.push(command!("LTRIM", chunk.clone(), count.to_string(), "-1"));
                // The last one goes in front first.
                for slices in slices.rchunks(MAX_ARGS) {
                    self.push_slices("LPUSH", chunk.clone(), slices.iter().rev());
                }
            }
            Write::DelChunk(ino, index) => self.push(command!("DEL", k.chunk(*ino, *index))),
            // Absent means one reference (format.md §2.6).
            Write::NewSlice(..) => {}
            Write::AddSliceRef(id, size, delta) => {
                self.push(command!("HINCRBY", k.named("sliceRef"), keys::slice_field(*id, *size), delta.to_string(),))
            }
            Write::ForgetSlice(id, size) => {
                self.push(command!("HDEL", k.named("sliceRef"), keys::slice_field(*id, *size)));
            }
            Write::AddDelayedSlices(id, since, old) if !old.is_empty() => self.push(command!(
                "HSET",
                k.named("delSlices"),
                keys::delayed_field(*id, *since),
                codec::encode_delayed(old),
            )),
            Write::AddDelayedSlices(..) => {}
            Write::DelDelayedSlices(id, since) => {
                self.push(command!("HDEL", k.named("delSlices"), keys::delayed_field(*id, *since)));
            }
            other => self.session(other),
        }
    }

    /// Writes about deleted files and sessions.
    fn session(&mut self, write: &Write) {
        let k = self.keys;
        match write {
            Write::AddSustained(sid, ino) => self.push(command!("SADD", k.sustained(*sid), ino.to_string())),
            Write::DelSustained(sid, ino) => self.push(command!("SREM", k.sustained(*sid), ino.to_string())),
            Write::AddDeleted(ino, length, since) => {
                self.push(
                    command!("ZADD", k.named("delfiles"), since.to_string(), keys::deleted_member(*ino, *length),),
                )
            }
            Write::DelDeleted(ino, length) => {
                self.push(command!("ZREM", k.named("delfiles"), keys::deleted_member(*ino, *length)));
            }
            Write::PutSession(sid, expire, json) => self.put_session("HSET", *sid, *expire, json),
            Write::TouchSession(sid, expire, json) => self.put_session("HSETNX", *sid, *expire, json),
            Write::DelSession(sid) => {
                self.push(command!("HDEL", k.named("sessionInfos"), sid.to_string()));
                self.push(command!("ZREM", k.named("allSessions"), sid.to_string()));
            }
            other => self.owned(other),
        }
    }

    /// Writes about locks, rules and trees that are not attached.
    fn owned(&mut self, write: &Write) {
        let k = self.keys;
        match write {
            Write::SetFlock(ino, owner, kind) => {
                let value = kind.map(|kind| codec::encode_flock(kind).to_vec());
                self.set_or_remove(k.locks(LockTable::Flock, *ino), codec::encode_lock_owner(*owner), value);
            }
            Write::SetPlock(ino, owner, ranges) => {
                let value = (!ranges.is_empty()).then(|| codec::encode_plocks(ranges));
                self.set_or_remove(k.locks(LockTable::Plock, *ino), codec::encode_lock_owner(*owner), value);
            }
            Write::AddLocked(sid, table, ino) => self.push(command!("SADD", k.locked(*sid), k.locks(*table, *ino))),
            Write::DelLocked(sid, table, ino) => self.push(command!("SREM", k.locked(*sid), k.locks(*table, *ino))),
            Write::SetAcl(id, rule) => {
                self.push(command!("HSET", k.named("acl"), id.to_string(), codec::encode_acl(rule)));
            }
            Write::AddDetached(ino, since) => {
                self.push(command!("ZADD", k.named("detachedNodes"), since.to_string(), ino.to_string()));
            }
            Write::DelDetached(ino) => self.push(command!("ZREM", k.named("detachedNodes"), ino.to_string())),
            other => unreachable!("the functions above handle {other:?}"),
        }
    }

    fn set_attr(&self, ino: Ino, attr: &Attr) -> Command {
        set(self.keys.attr(ino), codec::encode_attr(attr))
    }

    fn set_entry(&self, dir: Ino, name: &Name, entry: Entry) -> Command {
        let value = codec::encode_entry(entry);
        command!("HSET", self.keys.entries(dir), name.as_bytes(), value)
    }

    fn set_dir_stat(&mut self, dir: Ino, stat: DirStat) {
        let fields = [("dirDataLength", stat.length), ("dirUsedSpace", stat.space), ("dirUsedInodes", stat.inodes)];
        for (hash, value) in fields {
            self.push(command!("HSET", self.keys.named(hash), dir.to_string(), value.to_string()));
        }
    }

    /// `key` is the hash of the limits.
    fn set_quota(&mut self, key: &[u8], number: u64, quota: Quota) {
        let limits = codec::encode_quota_limits(quota);
        self.push(command!("HSET", key, number.to_string(), limits));
        for (hash, used) in usage_hashes(key).into_iter().zip([quota.used_space, quota.used_inodes]) {
            self.push(command!("HSET", hash, number.to_string(), used.to_string()));
        }
    }

    fn del_quota(&mut self, key: &[u8], number: u64) {
        self.push(command!("delquota", key, number.to_string()));
    }

    /// Adds space and inodes; what has no limits yet gets none.
    fn add_owner_quota(&mut self, of: Principal, used: [i64; 2]) {
        let (key, number) = self.keys.owner_quota(of);
        let unlimited = Quota { max_space: -1, max_inodes: -1, ..Quota::default() };
        self.push(command!("HSETNX", key.clone(), number.to_string(), codec::encode_quota_limits(unlimited)));
        for (hash, delta) in usage_hashes(&key).into_iter().zip(used) {
            self.push(command!("HINCRBY", hash, number.to_string(), delta.to_string()));
        }
    }

    /// Sets a field of a hash or removes it.
    fn set_or_remove(&mut self, key: Vec<u8>, field: String, value: Option<Vec<u8>>) {
        self.push(match value {
            Some(value) => command!("HSET", key, field, value),
            None => command!("HDEL", key, field),
        });
    }

    fn put_session(&mut self, set: &'static str, sid: SessionId, expire: i64, json: &Bytes) {
        let args = [self.keys.named("sessionInfos"), sid.to_string().into(), json.to_vec()];
        self.push(Command { name: set, args: args.map(Bytes::from).to_vec() });
        let sessions = self.keys.named("allSessions");
        self.push(command!("ZADD", sessions, expire.to_string(), sid.to_string()));
    }

    fn push_slices<'s>(&mut self, name: &'static str, chunk: Vec<u8>, slices: impl Iterator<Item = &'s Slice>) {
        let records = slices.map(|slice| Bytes::copy_from_slice(&codec::encode_slice(*slice)));
        let args: Vec<Bytes> = std::iter::once(Bytes::from(chunk)).chain(records).collect();
        if args.len() > 1 {
            self.push(Command { name, args });
        }
    }
}
