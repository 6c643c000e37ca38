//! The records of a [`MemoryStore`](super::MemoryStore): plain maps, and what each key and each write means for them.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use bytes::Bytes;
use stead_base::{Ino, SessionId, SliceId};

use crate::records::{
    AclRule, Attr, Counter, DirStat, Entry, Job, Key, LockKind, LockOwner, LockRange, Name, Principal, Quota, Record,
    Slice, Write,
};

#[derive(Clone, Debug, Default)]
pub(crate) struct State {
    pub(crate) setting: Option<Bytes>,
    pub(crate) attrs: BTreeMap<Ino, Attr>,
    pub(crate) entries: BTreeMap<Ino, BTreeMap<Name, Entry>>,
    pub(crate) parents: BTreeMap<Ino, BTreeMap<Ino, i64>>,
    pub(crate) chunks: BTreeMap<(Ino, u32), Vec<Slice>>,
    pub(crate) symlinks: BTreeMap<Ino, Bytes>,
    pub(crate) xattrs: BTreeMap<Ino, BTreeMap<Name, Bytes>>,
    pub(crate) counters: HashMap<Counter, i64>,
    pub(crate) dir_stats: BTreeMap<Ino, DirStat>,
    pub(crate) dir_quotas: BTreeMap<Ino, Quota>,
    pub(crate) slice_refs: BTreeMap<(SliceId, u32), i64>,
    pub(crate) sustained: BTreeSet<(SessionId, Ino)>,
    pub(crate) deleted: BTreeMap<(Ino, u64), i64>,
    pub(crate) delayed: BTreeMap<(SliceId, i64), Vec<(SliceId, u32)>>,
    pub(crate) sessions: BTreeMap<SessionId, (i64, Bytes)>,
    pub(crate) jobs: HashMap<Job, i64>,
    pub(crate) flocks: BTreeMap<Ino, BTreeMap<LockOwner, LockKind>>,
    pub(crate) plocks: BTreeMap<Ino, BTreeMap<LockOwner, Vec<LockRange>>>,
    pub(crate) acls: BTreeMap<u32, AclRule>,
    pub(crate) detached: BTreeMap<Ino, i64>,
    pub(crate) owner_quotas: BTreeMap<Principal, Quota>,
}

impl State {
    pub(super) fn get(&self, key: &Key) -> Option<Record> {
        match key {
            Key::Setting => self.setting.clone().map(Record::Bytes),
            Key::Attr(ino) => self.attrs.get(ino).cloned().map(Record::Attr),
            Key::Entry(dir, name) => self.entries.get(dir)?.get(name).copied().map(Record::Entry),
            Key::AnyEntry(dir) => self.entries.contains_key(dir).then_some(Record::Present),
            Key::Parents(ino) => self.parents.get(ino).cloned().map(Record::Parents),
            Key::Chunk(ino, index) => self.chunks.get(&(*ino, *index)).cloned().map(Record::Slices),
            Key::Symlink(ino) => self.symlinks.get(ino).cloned().map(Record::Bytes),
            Key::Xattr(ino, name) => self.xattrs.get(ino)?.get(name).cloned().map(Record::Bytes),
            Key::Counter(counter) => self.counters.get(counter).copied().map(Record::Number),
            Key::DirStat(ino) => self.dir_stats.get(ino).copied().map(Record::DirStat),
            Key::DirQuota(ino) => self.dir_quotas.get(ino).copied().map(Record::Quota),
            Key::SliceRef(id, size) => self.slice_refs.get(&(*id, *size)).copied().map(Record::Number),
            Key::Sustained(sid, ino) => self.sustained.contains(&(*sid, *ino)).then_some(Record::Present),
            Key::Deleted(ino, length) => self.deleted.contains_key(&(*ino, *length)).then_some(Record::Present),
            Key::Session(sid) => self.sessions.get(sid).map(|(_expire, info)| Record::Bytes(info.clone())),
            Key::Flocks(ino) => self.flocks.get(ino).cloned().map(Record::Flocks),
            Key::Plocks(ino) => self.plocks.get(ino).cloned().map(Record::Plocks),
            Key::Acl(id) => self.acls.get(id).cloned().map(Record::Acl),
            Key::Detached(ino) => self.detached.contains_key(ino).then_some(Record::Present),
            Key::OwnerQuota(of) => self.owner_quotas.get(of).copied().map(Record::Quota),
        }
    }

    pub(super) fn apply(&mut self, write: Write) {
        match write {
            Write::SetSetting(json) => self.setting = Some(json),
            Write::SetAttr(ino, attr) => drop(self.attrs.insert(ino, attr)),
            Write::DelAttr(ino) => drop(self.attrs.remove(&ino)),
            Write::SetEntry(dir, name, entry) => drop(self.entries.entry(dir).or_default().insert(name, entry)),
            Write::DelEntry(dir, name) => remove_inner(&mut self.entries, dir, &name),
            Write::AddParent(ino, dir, count) => self.add_parent(ino, dir, count),
            Write::DelParents(ino) => drop(self.parents.remove(&ino)),
            Write::SetSymlink(ino, target) => drop(self.symlinks.insert(ino, target)),
            Write::DelSymlink(ino) => drop(self.symlinks.remove(&ino)),
            Write::SetXattr(ino, name, value) => drop(self.xattrs.entry(ino).or_default().insert(name, value)),
            Write::DelXattr(ino, name) => remove_inner(&mut self.xattrs, ino, &name),
            Write::DelXattrs(ino) => drop(self.xattrs.remove(&ino)),
            Write::AddCounter(counter, delta) => *self.counters.entry(counter).or_default() += delta,
            Write::InitDirStat(ino) => drop(self.dir_stats.insert(ino, DirStat::default())),
            Write::SetDirStat(ino, stat) => drop(self.dir_stats.insert(ino, stat)),
            Write::AddDirStat(ino, delta) => self.add_dir_stat(ino, delta),
            Write::DelDirStat(ino) => drop(self.dir_stats.remove(&ino)),
            Write::ClearDirStats => self.dir_stats.clear(),
            Write::SetDirQuota(ino, quota) => drop(self.dir_quotas.insert(ino, quota)),
            Write::AddDirQuotaUsed(ino, space, inodes) => {
                if let Some(quota) = self.dir_quotas.get_mut(&ino) {
                    add_used(quota, space, inodes);
                }
            }
            Write::DelDirQuota(ino) => drop(self.dir_quotas.remove(&ino)),
            other => self.apply_data(other),
        }
    }

    /// The writes about slices, deleted files and sessions.
    fn apply_data(&mut self, write: Write) {
        match write {
            Write::AppendSlices(ino, index, slices) => self.chunks.entry((ino, index)).or_default().extend(slices),
            Write::AppendSlicesIfExists(ino, index, slice) => {
                if let Some(records) = self.chunks.get_mut(&(ino, index)) {
                    records.push(slice);
                }
            }
            Write::ReplaceSlices(ino, index, count, slices) => {
                let records = self.chunks.entry((ino, index)).or_default();
                records.splice(..count.min(records.len()), slices);
            }
            Write::DelChunk(ino, index) => drop(self.chunks.remove(&(ino, index))),
            Write::NewSlice(id, size) => drop(self.slice_refs.insert((id, size), 1)),
            Write::AddSliceRef(id, size, delta) => *self.slice_refs.entry((id, size)).or_insert(1) += delta,
            Write::ForgetSlice(id, size) => drop(self.slice_refs.remove(&(id, size))),
            Write::AddSustained(sid, ino) => drop(self.sustained.insert((sid, ino))),
            Write::DelSustained(sid, ino) => drop(self.sustained.remove(&(sid, ino))),
            Write::AddDeleted(ino, length, since) => drop(self.deleted.insert((ino, length), since)),
            Write::DelDeleted(ino, length) => drop(self.deleted.remove(&(ino, length))),
            Write::AddDelayedSlices(id, since, old) => drop(self.delayed.insert((id, since), old)),
            Write::DelDelayedSlices(id, since) => drop(self.delayed.remove(&(id, since))),
            Write::PutSession(sid, expire, info) => drop(self.sessions.insert(sid, (expire, info))),
            Write::TouchSession(sid, expire, info) => self.sessions.entry(sid).or_insert((0, info)).0 = expire,
            Write::DelSession(sid) => drop(self.sessions.remove(&sid)),
            other => self.apply_owned(other),
        }
    }

    fn add_parent(&mut self, ino: Ino, dir: Ino, count: i64) {
        let parents = self.parents.entry(ino).or_default();
        *parents.entry(dir).or_default() += count;
        parents.retain(|_dir, count| *count > 0);
        if parents.is_empty() {
            self.parents.remove(&ino);
        }
    }

    fn add_dir_stat(&mut self, ino: Ino, delta: DirStat) {
        if let Some(stat) = self.dir_stats.get_mut(&ino) {
            stat.length += delta.length;
            stat.space += delta.space;
            stat.inodes += delta.inodes;
        }
    }

    /// The locks, rules and quotas that are not a part of one file.
    fn apply_owned(&mut self, write: Write) {
        match write {
            Write::SetFlock(ino, owner, Some(kind)) => drop(self.flocks.entry(ino).or_default().insert(owner, kind)),
            Write::SetFlock(ino, owner, None) => remove_inner(&mut self.flocks, ino, &owner),
            Write::SetPlock(ino, owner, ranges) if ranges.is_empty() => remove_inner(&mut self.plocks, ino, &owner),
            Write::SetPlock(ino, owner, ranges) => drop(self.plocks.entry(ino).or_default().insert(owner, ranges)),
            Write::AddLocked(..) | Write::DelLocked(..) => {}
            Write::SetAcl(id, rule) => drop(self.acls.insert(id, rule)),
            Write::AddDetached(ino, since) => drop(self.detached.insert(ino, since)),
            Write::DelDetached(ino) => drop(self.detached.remove(&ino)),
            Write::SetOwnerQuota(of, quota) => drop(self.owner_quotas.insert(of, quota)),
            Write::AddOwnerQuotaUsed(of, space, inodes) => {
                let unlimited = Quota { max_space: -1, max_inodes: -1, ..Quota::default() };
                add_used(self.owner_quotas.entry(of).or_insert(unlimited), space, inodes);
            }
            Write::DelOwnerQuota(of) => drop(self.owner_quotas.remove(&of)),
            Write::ClearOwnerQuotas => self.owner_quotas.clear(),
            other => unreachable!("apply handles {other:?}"),
        }
    }

    /// Removes the locks and the registration of a session.
    pub(super) fn clean_session(&mut self, sid: SessionId) {
        self.sessions.remove(&sid);
        self.flocks.retain(|_ino, owners| {
            owners.retain(|owner, _kind| owner.sid != sid);
            !owners.is_empty()
        });
        self.plocks.retain(|_ino, owners| {
            owners.retain(|owner, _ranges| owner.sid != sid);
            !owners.is_empty()
        });
    }
}

fn add_used(quota: &mut Quota, space: i64, inodes: i64) {
    quota.used_space += space;
    quota.used_inodes += inodes;
}

/// Removes one item and forgets a map that became empty.
fn remove_inner<K: Ord, V>(maps: &mut BTreeMap<Ino, BTreeMap<K, V>>, ino: Ino, item: &K) {
    if let Some(map) = maps.get_mut(&ino) {
        map.remove(item);
        if map.is_empty() {
            maps.remove(&ino);
        }
    }
}
