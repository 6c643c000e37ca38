//! The records of a [`MemoryStore`](super::MemoryStore): plain maps, and what each key and each write means for them.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use bytes::Bytes;
use stead_base::{Ino, SessionId, SliceId};

use crate::records::{Attr, Counter, DirStat, Entry, Job, Key, Name, Quota, Record, Slice, Write};

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
            Write::SetDirQuota(ino, quota) => drop(self.dir_quotas.insert(ino, quota)),
            Write::AddDirQuotaUsed(ino, space, inodes) => self.add_quota_used(ino, space, inodes),
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
            other => unreachable!("apply handles {other:?}"),
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

    fn add_quota_used(&mut self, ino: Ino, space: i64, inodes: i64) {
        if let Some(quota) = self.dir_quotas.get_mut(&ino) {
            quota.used_space += space;
            quota.used_inodes += inodes;
        }
    }
}

/// Removes one item and forgets a map that became empty.
fn remove_inner<V>(maps: &mut BTreeMap<Ino, BTreeMap<Name, V>>, ino: Ino, name: &Name) {
    if let Some(map) = maps.get_mut(&ino) {
        map.remove(name);
        if map.is_empty() {
            maps.remove(&ino);
        }
    }
}
