//! What was seen lately of small records, so that a transaction often needs no fetch before its commit.
//!
//! Seeds may be wrong: another client may have changed the record. That is safe because the commit compares them, and
//! because an outcome without a commit is never based on them ([`super::run`]).
//!
//! Attributes and entries are never older than what this client itself has done: an answer to a question that was asked
//! before the end of a commit of ours loses against what the commit wrote. So they may also be shown for as long as the
//! mount's caches allow ([`crate::store::Store::recall`]).

use std::num::NonZeroUsize;

use bytes::Bytes;
use lru::LruCache;
use parking_lot::Mutex;
use stead_base::Ino;
use tokio::time::Instant;

use super::keys::{self, Keys};
use crate::codec;
use crate::records::{Counter, Key, Name, Record, Slice, Write};

/// Records that are remembered.
const REMEMBERED: NonZeroUsize = NonZeroUsize::new(65_536).expect("not zero");
/// Directories of which everything is remembered.
const COMPLETE: NonZeroUsize = NonZeroUsize::new(4096).expect("not zero");
/// Larger ones are not.
const MAX_BYTES: usize = 4096;

/// A remembered record.
#[derive(Clone, Debug)]
pub(super) struct Seed {
    /// `None` is one that was absent.
    pub(super) raw: Option<Bytes>,
    /// When it was asked for.
    pub(super) at: Instant,
}

/// What is remembered of a record.
#[derive(Debug)]
struct Memory {
    /// `None`: a commit of ours has changed it to something unknown.
    seed: Option<Seed>,
    /// When the reply to the last commit of ours that wrote it came.
    written: Option<Instant>,
}

#[derive(Debug)]
struct Memories {
    records: LruCache<Key, Memory>,
    /// Directories that this client has made, and when, as long as all that it has put into them is remembered.
    complete: LruCache<Ino, Instant>,
}

impl Memories {
    fn peek(&self, key: &Key) -> Option<&Memory> {
        self.records.peek(key)
    }

    fn remember(&mut self, key: Key, memory: Memory) {
        let made_room = self.records.push(key.clone(), memory).map(|(old, _memory)| old).filter(|old| *old != key);
        if let Some(Key::Entry(dir, _name)) = made_room {
            self.complete.pop(&dir);
        }
    }
}

/// The records seen last.
#[derive(Debug)]
pub(super) struct Seeds(Mutex<Memories>);

impl Default for Seeds {
    fn default() -> Self {
        Self::new(REMEMBERED.get())
    }
}

impl Seeds {
    /// Room for so many, or more.
    pub(super) fn new(room: usize) -> Self {
        let room = NonZeroUsize::new(room).map_or(REMEMBERED, |room| room.max(REMEMBERED));
        Self(Mutex::new(Memories { records: LruCache::new(room), complete: LruCache::new(COMPLETE) }))
    }

    /// The same with whether a commit of ours wrote it last.
    pub(super) fn get_with_origin(&self, key: &Key) -> Option<(Seed, bool)> {
        let mut seeds = self.0.lock();
        let memory = seeds.records.get(key)?;
        Some((memory.seed.clone()?, memory.written.is_some()))
    }

    /// Whether a record is remembered.
    pub(super) fn has(&self, key: &Key) -> bool {
        self.0.lock().records.peek(key).is_some_and(|memory| memory.seed.is_some())
    }

    /// The names of a directory that are remembered.
    pub(super) fn names(&self, dir: Ino) -> Vec<Name> {
        let seeds = self.0.lock();
        let names = seeds.records.iter().filter_map(|(key, memory)| match key {
            Key::Entry(parent, name) if *parent == dir && memory.seed.is_some() => Some(name.clone()),
            _ => None,
        });
        names.collect()
    }

    pub(super) fn get(&self, key: &Key) -> Option<Seed> {
        self.0.lock().records.get(key)?.seed.clone()
    }

    /// Since when a name is known to be free because this client has made the directory and never put it there.
    pub(super) fn never_given(&self, dir: Ino, name: &Name) -> Option<Instant> {
        let mut seeds = self.0.lock();
        let since = *seeds.complete.get(&dir)?;
        seeds.peek(&Key::Entry(dir, name.clone())).is_none().then_some(since)
    }

    /// Notes that a commit sent at `at` has made an empty directory.
    pub(super) fn made_directory(&self, dir: Ino, at: Instant) {
        self.0.lock().complete.put(dir, at);
    }

    /// Notes what the server answered to a question asked at `at`.
    pub(super) fn put(&self, key: &Key, raw: Option<Bytes>, at: Instant) {
        put(&mut self.0.lock(), key, raw, at);
    }

    pub(super) fn clear(&self) {
        let mut seeds = self.0.lock();
        seeds.records.clear();
        seeds.complete.clear();
    }

    /// Notes what a commit sent at `at` has changed.
    pub(super) fn apply(&self, keys: &Keys, writes: &[Write], at: Instant) {
        let mut seeds = self.0.lock();
        for write in writes {
            apply(&mut seeds, keys, write, at);
        }
    }

    /// Forgets what a commit may or may not have changed.
    pub(super) fn doubt(&self, writes: &[Write]) {
        let mut seeds = self.0.lock();
        for write in writes {
            for key in touched(write) {
                forget(&mut seeds, key);
            }
        }
    }
}

/// The remembered records that a write changes.
fn touched(write: &Write) -> Vec<Key> {
    match write {
        Write::SetAttr(ino, _) | Write::DelAttr(ino) => vec![Key::Attr(*ino)],
        Write::SetEntry(dir, name, _) | Write::DelEntry(dir, name) => {
            vec![Key::Entry(*dir, name.clone()), Key::AnyEntry(*dir)]
        }
        Write::DelParents(ino) | Write::AddParent(ino, ..) => vec![Key::Parents(*ino)],
        Write::AppendSlices(ino, index, _)
        | Write::AppendSlicesIfExists(ino, index, _)
        | Write::ReplaceSlices(ino, index, ..)
        | Write::DelChunk(ino, index) => vec![Key::Chunk(*ino, *index)],
        Write::AddCounter(counter, _) => vec![Key::Counter(*counter)],
        Write::AddDirQuotaUsed(dir, ..) | Write::SetDirQuota(dir, _) | Write::DelDirQuota(dir) => {
            vec![Key::DirQuota(*dir)]
        }
        _ => Vec::new(),
    }
}

fn worthwhile(key: &Key) -> bool {
    matches!(
        key,
        Key::Attr(_)
            | Key::Entry(..)
            | Key::AnyEntry(_)
            | Key::Parents(_)
            | Key::Chunk(..)
            | Key::DirQuota(_)
            | Key::Counter(Counter::UsedSpace | Counter::TotalInodes)
    )
}

/// Whether a change of the record is always based on what it was, so that commits of ours are known in their order.
/// Numbers are added to blindly, and what is said of them is as good as any other recent answer.
fn ordered(key: &Key) -> bool {
    !matches!(key, Key::DirQuota(_) | Key::Counter(_))
}

/// Notes an answer, unless something younger is known.
fn put(seeds: &mut Memories, key: &Key, raw: Option<Bytes>, at: Instant) {
    if !worthwhile(key) {
        return;
    }
    let younger = |memory: &Memory| {
        memory.written.is_some_and(|written| written >= at) || memory.seed.as_ref().is_some_and(|seed| seed.at > at)
    };
    if ordered(key) && seeds.peek(key).is_some_and(younger) {
        return;
    }
    let seed = Some(Seed { raw, at }).filter(small);
    seeds.remember(key.clone(), Memory { seed, written: None });
}

/// Notes what a commit of ours, sent at `at`, has written, unless a later one is known.
fn set(seeds: &mut Memories, key: &Key, raw: Option<Bytes>, at: Instant) {
    let later = |memory: &Memory| memory.written.is_some() && memory.seed.as_ref().is_some_and(|seed| seed.at > at);
    if !seeds.peek(key).is_some_and(later) {
        let seed = Some(Seed { raw, at }).filter(small);
        seeds.remember(key.clone(), Memory { seed, written: Some(Instant::now()) });
    }
}

/// Notes that a commit of ours may have changed it.
fn forget(seeds: &mut Memories, key: Key) {
    seeds.remember(key, Memory { seed: None, written: Some(Instant::now()) });
}

fn small(seed: &Seed) -> bool {
    seed.raw.as_ref().is_none_or(|raw| raw.len() <= MAX_BYTES)
}

fn apply(seeds: &mut Memories, keys: &Keys, write: &Write, at: Instant) {
    match write {
        Write::SetAttr(ino, attr) => set(seeds, &Key::Attr(*ino), Some(codec::encode_attr(attr).into()), at),
        Write::DelAttr(ino) => {
            set(seeds, &Key::Attr(*ino), None, at);
            seeds.complete.pop(ino);
        }
        Write::SetEntry(dir, name, entry) => {
            let raw = Bytes::copy_from_slice(&codec::encode_entry(*entry));
            set(seeds, &Key::Entry(*dir, name.clone()), Some(raw), at);
            set(seeds, &Key::AnyEntry(*dir), Some(Bytes::from_static(b"1")), at);
        }
        Write::DelEntry(dir, name) => {
            set(seeds, &Key::Entry(*dir, name.clone()), None, at);
            forget(seeds, Key::AnyEntry(*dir));
        }
        Write::DelParents(ino) => set(seeds, &Key::Parents(*ino), None, at),
        Write::AddParent(ino, ..) => forget(seeds, Key::Parents(*ino)),
        Write::AppendSlices(ino, index, slices) => append(seeds, Key::Chunk(*ino, *index), slices),
        Write::AppendSlicesIfExists(ino, index, _) | Write::ReplaceSlices(ino, index, ..) => {
            forget(seeds, Key::Chunk(*ino, *index))
        }
        Write::DelChunk(ino, index) => set(seeds, &Key::Chunk(*ino, *index), None, at),
        Write::AddCounter(counter, delta) => add(seeds, keys, &Key::Counter(*counter), |record| match record {
            None => Some(delta.to_string().into()),
            Some(Record::Number(number)) => Some(number.saturating_add(*delta).to_string().into()),
            Some(_) => None,
        }),
        Write::AddDirQuotaUsed(dir, space, inodes) => add_quota(seeds, keys, *dir, *space, *inodes),
        Write::SetDirQuota(dir, quota) => set(seeds, &Key::DirQuota(*dir), Some(keys::encode_quota(*quota)), at),
        Write::DelDirQuota(dir) => set(seeds, &Key::DirQuota(*dir), None, at),
        _ => {}
    }
}

/// Adds records to a chunk's list without making it younger: others may have added some too.
fn append(seeds: &mut Memories, key: Key, slices: &[Slice]) {
    let seed = seeds.peek(&key).and_then(|memory| memory.seed.as_ref()).map(|seed| {
        let mut raw = seed.raw.as_deref().unwrap_or_default().to_vec();
        for slice in slices {
            raw.extend_from_slice(&codec::encode_slice(*slice));
        }
        Seed { raw: Some(raw.into()), at: seed.at }
    });
    seeds.remember(key, Memory { seed: seed.filter(small), written: Some(Instant::now()) });
}

fn add_quota(seeds: &mut Memories, keys: &Keys, dir: Ino, space: i64, inodes: i64) {
    add(seeds, keys, &Key::DirQuota(dir), |record| match record {
        Some(Record::Quota(mut quota)) => {
            quota.used_space = quota.used_space.saturating_add(space);
            quota.used_inodes = quota.used_inodes.saturating_add(inodes);
            Some(keys::encode_quota(quota))
        }
        _ => None,
    });
}

/// Changes a seed without making it younger, so that a limit counts what we have added since it was read.
fn add(seeds: &mut Memories, keys: &Keys, key: &Key, change: impl Fn(Option<Record>) -> Option<Bytes>) {
    let Some(seed) = seeds.records.peek_mut(key).and_then(|memory| memory.seed.as_mut()) else { return };
    let record = keys::decode(keys, key, seed.raw.as_ref());
    match record.ok().and_then(change) {
        Some(raw) => seed.raw = Some(raw),
        None => drop(seeds.records.pop(key)),
    }
}
