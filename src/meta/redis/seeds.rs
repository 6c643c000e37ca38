//! What was seen lately of small records, so that a transaction often needs no fetch before its commit.
//!
//! Seeds may be wrong: another client may have changed the record. That is safe because the commit compares them, and
//! because an outcome without a commit is never based on them ([`super::run`]).

use std::num::NonZeroUsize;

use bytes::Bytes;
use lru::LruCache;
use parking_lot::Mutex;
use stead_base::Ino;
use tokio::time::Instant;

use super::keys::{self, Keys};
use crate::codec;
use crate::records::{Counter, Key, Record, Write};

/// Records that are remembered.
const REMEMBERED: NonZeroUsize = NonZeroUsize::new(16_384).expect("not zero");
/// Larger ones are not.
const MAX_BYTES: usize = 4096;

/// A remembered record: `None` is one that was absent.
#[derive(Clone, Debug)]
pub(super) struct Seed {
    pub(super) raw: Option<Bytes>,
    /// When it was asked for.
    pub(super) at: Instant,
}

/// The records seen last.
#[derive(Debug)]
pub(super) struct Seeds(Mutex<LruCache<Key, Seed>>);

impl Default for Seeds {
    fn default() -> Self {
        Self(Mutex::new(LruCache::new(REMEMBERED)))
    }
}

impl Seeds {
    pub(super) fn get(&self, key: &Key) -> Option<Seed> {
        self.0.lock().get(key).cloned()
    }

    /// Notes what the server answered to a question asked at `at`.
    pub(super) fn put(&self, key: &Key, raw: Option<Bytes>, at: Instant) {
        put(&mut self.0.lock(), key, raw, at);
    }

    pub(super) fn clear(&self) {
        self.0.lock().clear();
    }

    /// Notes what a commit sent at `at` has changed.
    pub(super) fn apply(&self, keys: &Keys, writes: &[Write], at: Instant) {
        let mut seeds = self.0.lock();
        for write in writes {
            apply(&mut seeds, keys, write, at);
        }
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

fn put(seeds: &mut LruCache<Key, Seed>, key: &Key, raw: Option<Bytes>, at: Instant) {
    if !worthwhile(key) {
        return;
    }
    if raw.as_ref().is_some_and(|raw| raw.len() > MAX_BYTES) {
        seeds.pop(key);
    } else {
        seeds.put(key.clone(), Seed { raw, at });
    }
}

fn apply(seeds: &mut LruCache<Key, Seed>, keys: &Keys, write: &Write, at: Instant) {
    match write {
        Write::SetAttr(ino, attr) => put(seeds, &Key::Attr(*ino), Some(codec::encode_attr(attr).into()), at),
        Write::DelAttr(ino) => put(seeds, &Key::Attr(*ino), None, at),
        Write::SetEntry(dir, name, entry) => {
            let raw = Bytes::copy_from_slice(&codec::encode_entry(*entry));
            put(seeds, &Key::Entry(*dir, name.clone()), Some(raw), at);
            put(seeds, &Key::AnyEntry(*dir), Some(Bytes::from_static(b"1")), at);
        }
        Write::DelEntry(dir, name) => {
            put(seeds, &Key::Entry(*dir, name.clone()), None, at);
            seeds.pop(&Key::AnyEntry(*dir));
        }
        Write::DelParents(ino) => put(seeds, &Key::Parents(*ino), None, at),
        Write::AddParent(ino, ..) => drop(seeds.pop(&Key::Parents(*ino))),
        Write::AppendSlices(ino, index, _)
        | Write::AppendSlicesIfExists(ino, index, _)
        | Write::ReplaceSlices(ino, index, ..) => drop(seeds.pop(&Key::Chunk(*ino, *index))),
        Write::DelChunk(ino, index) => put(seeds, &Key::Chunk(*ino, *index), None, at),
        Write::AddCounter(counter, delta) => add(seeds, keys, &Key::Counter(*counter), |record| match record {
            None => Some(delta.to_string().into()),
            Some(Record::Number(number)) => Some(number.saturating_add(*delta).to_string().into()),
            Some(_) => None,
        }),
        Write::AddDirQuotaUsed(dir, space, inodes) => add_quota(seeds, keys, *dir, *space, *inodes),
        Write::SetDirQuota(dir, quota) => put(seeds, &Key::DirQuota(*dir), Some(keys::encode_quota(*quota)), at),
        Write::DelDirQuota(dir) => put(seeds, &Key::DirQuota(*dir), None, at),
        _ => {}
    }
}

fn add_quota(seeds: &mut LruCache<Key, Seed>, keys: &Keys, dir: Ino, space: i64, inodes: i64) {
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
fn add(seeds: &mut LruCache<Key, Seed>, keys: &Keys, key: &Key, change: impl Fn(Option<Record>) -> Option<Bytes>) {
    let Some(seed) = seeds.peek_mut(key) else { return };
    let record = keys::decode(keys, key, seed.raw.as_ref());
    match record.ok().and_then(change) {
        Some(raw) => seed.raw = Some(raw),
        None => drop(seeds.pop(key)),
    }
}
