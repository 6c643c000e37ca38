//! [`MemoryStore`]: the simplest correct [`Store`], for tests. Everything is lost with the value.
//!
//! It has two ways to run a transaction: at once under its lock, as SQLite does, or like a store behind a network, with
//! fetches, restarts of the body and a comparison at the commit. So everything that works with a store can be tested
//! against both without a server.

pub(crate) mod state;

use std::collections::HashMap;
use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};

use async_trait::async_trait;
use parking_lot::Mutex;
use stead_base::{Ino, SessionId, SliceId};

use crate::error::{Error, Result};
use crate::records::{AclRule, Attr, Counter, Entry, Job, Key, LockTable, Name, Principal, Quota, Record, Slice};
use crate::store::{
    Body, Check, Cursor, Listed, Outcome, Page, SessionRecord, Source, Step, Stop, Store, TxOptions, Txn,
};

use state::State;

/// How often a transaction is tried (format.md §0).
const ATTEMPTS: u32 = 50;

/// A store in memory.
#[derive(Debug, Default)]
pub struct MemoryStore {
    state: Mutex<State>,
    remote: bool,
    trips: AtomicU64,
}

impl MemoryStore {
    /// An empty store that reads at once.
    pub fn new() -> Self {
        Self::default()
    }

    /// An empty store that behaves as one behind a network: reads are fetched, bodies restart, commits compare.
    pub fn remote() -> Self {
        Self { remote: true, ..Self::default() }
    }

    /// Fetches, commits and scans so far: what would have been round trips.
    pub fn trips(&self) -> u64 {
        self.trips.load(Ordering::Relaxed)
    }

    /// A store with the given records.
    #[cfg(test)]
    pub(crate) fn holding(state: State) -> Self {
        Self { state: Mutex::new(state), ..Self::default() }
    }

    /// A copy of all records.
    #[cfg(test)]
    pub(crate) fn snapshot(&self) -> State {
        self.state.lock().clone()
    }

    fn trip(&self) {
        self.trips.fetch_add(1, Ordering::Relaxed);
    }

    fn run_at_once(&self, body: &mut Body) -> Result<Outcome> {
        let mut state = self.state.lock();
        let mut source = Local(&state);
        let mut txn = Txn::new(&mut source);
        let outcome = finished(body(&mut txn))?;
        let writes = txn.into_writes();
        for write in writes {
            state.apply(write);
        }
        Ok(outcome)
    }

    async fn run_remotely(&self, body: &mut Body) -> Result<Outcome> {
        for attempt in 0..ATTEMPTS {
            if let Some(outcome) = self.attempt(body, attempt == 0).await {
                return outcome;
            }
            tokio::task::yield_now().await;
        }
        Err(Error::Conflict { attempts: ATTEMPTS })
    }

    /// One attempt; `None` when something that was read has changed meanwhile.
    async fn attempt(&self, body: &mut Body, optimistic: bool) -> Option<Result<Outcome>> {
        let mut fetched = Fetched { optimistic, ..Fetched::default() };
        loop {
            let ended = {
                let mut txn = Txn::new(&mut fetched);
                body(&mut txn).map(|outcome| (outcome, txn.into_writes()))
            };
            match ended {
                Err(Stop::NotYet) => {
                    self.trip();
                    tokio::task::yield_now().await;
                    fetched.fetch(&self.state.lock());
                }
                Err(Stop::Failed(error)) => return fetched.holds(&self.state.lock()).then_some(Err(error)),
                Ok((outcome, writes)) => {
                    self.trip();
                    let mut state = self.state.lock();
                    if !fetched.holds(&state) {
                        return None;
                    }
                    for write in writes {
                        state.apply(write);
                    }
                    return Some(Ok(outcome));
                }
            }
        }
    }
}

fn finished(step: Step<Outcome>) -> Result<Outcome> {
    match step {
        Ok(outcome) => Ok(outcome),
        Err(Stop::Failed(error)) => Err(error),
        Err(Stop::NotYet) => Err(Error::Engine {
            engine: "memory".to_owned(),
            why: "a body asked for a fetch although every read was answered".to_owned(),
        }),
    }
}

/// Reads at once.
struct Local<'a>(&'a State);

impl Source for Local<'_> {
    fn get(&mut self, key: &Key, _check: Check) -> Step<Option<Record>> {
        Ok(self.0.get(key))
    }
}

/// Reads what has been fetched, and remembers what is wanted.
#[derive(Default)]
struct Fetched {
    known: HashMap<Key, (Option<Record>, Check)>,
    wanted: Vec<(Key, Check)>,
    /// What is unlikely is taken for absent.
    optimistic: bool,
}

impl Fetched {
    fn fetch(&mut self, state: &State) {
        for (key, check) in self.wanted.drain(..) {
            let record = state.get(&key);
            self.known.insert(key, (record, check));
        }
    }

    /// Whether everything that the transaction depends on is still so.
    fn holds(&self, state: &State) -> bool {
        self.known.iter().all(|(key, (record, check))| *check == Check::Hint || state.get(key) == *record)
    }
}

impl Source for Fetched {
    fn get(&mut self, key: &Key, check: Check) -> Step<Option<Record>> {
        match self.known.get_mut(key) {
            Some((record, known)) => {
                if check == Check::Compare {
                    *known = Check::Compare;
                }
                Ok(record.clone())
            }
            None => {
                self.wanted.push((key.clone(), check));
                Err(Stop::NotYet)
            }
        }
    }

    fn get_unlikely(&mut self, key: &Key) -> Step<Option<Record>> {
        if self.optimistic && !matches!(key, Key::SliceRef(..)) {
            self.known.entry(key.clone()).or_insert((None, Check::Compare));
        }
        self.get(key, Check::Compare)
    }
}

/// Where an item is in the order of a scan: the numbers of its key.
type Position = (u64, u32);

/// The items after a cursor, which is the position of the last one before.
fn page<T>(items: impl Iterator<Item = (Position, T)>, from: &Cursor, limit: usize) -> Page<T> {
    let mut left = items.skip_while(|(position, _item)| cursor(*position).0 <= from.0).peekable();
    let (mut items, mut last) = (Vec::new(), None);
    for (position, item) in left.by_ref().take(limit.max(1)) {
        items.push(item);
        last = Some(position);
    }
    Page { items, corrupt: Vec::new(), next: left.peek().and(last).map(cursor) }
}

fn cursor((number, part): Position) -> Cursor {
    Cursor([number.to_be_bytes().as_slice(), &part.to_be_bytes()].concat())
}

#[async_trait]
impl Store for MemoryStore {
    fn describe(&self) -> String {
        "memory".to_owned()
    }

    async fn run(&self, mut body: Body, _options: TxOptions) -> Result<Outcome> {
        if self.remote { self.run_remotely(&mut body).await } else { self.run_at_once(&mut body) }
    }

    async fn read(&self, keys: &[Key]) -> Result<Vec<Option<Record>>> {
        self.trip();
        let state = self.state.lock();
        Ok(keys.iter().map(|key| state.get(key)).collect())
    }

    async fn lookup(&self, parent: Ino, name: &Name) -> Result<Option<(Entry, Option<Attr>)>> {
        self.trip();
        let state = self.state.lock();
        let entry = state.entries.get(&parent).and_then(|names| names.get(name)).copied();
        Ok(entry.map(|entry| (entry, state.attrs.get(&entry.ino).cloned())))
    }

    async fn allocate(&self, counter: Counter, count: u64) -> Result<u64> {
        let mut state = self.state.lock();
        let last = state.counters.entry(counter).or_default();
        let first = last.cast_unsigned() + 1;
        *last += count.cast_signed();
        Ok(first)
    }

    async fn claim_job(&self, job: Job, now: i64, period: i64) -> Result<bool> {
        let mut state = self.state.lock();
        let last = state.jobs.entry(job).or_default();
        let claimed = *last <= now - period;
        if claimed {
            *last = now;
        }
        Ok(claimed)
    }

    async fn list_entries(&self, dir: Ino, with_attrs: bool, from: Cursor, limit: usize) -> Result<Page<Listed>> {
        self.trip();
        let state = self.state.lock();
        let names = state.entries.get(&dir);
        let items: Vec<Listed> = names
            .into_iter()
            .flatten()
            .filter(|(name, _entry)| name.as_bytes() > from.0.as_slice())
            .take(limit.max(1))
            .map(|(name, entry)| Listed {
                name: name.clone(),
                entry: *entry,
                attr: state.attrs.get(&entry.ino).filter(|_attr| with_attrs).cloned(),
            })
            .collect();
        let last = names.and_then(|names| names.last_key_value()).map(|(name, _entry)| name);
        let next =
            items.last().filter(|item| Some(&item.name) != last).map(|item| Cursor(item.name.as_bytes().to_vec()));
        Ok(Page { items, corrupt: Vec::new(), next })
    }

    async fn list_xattrs(&self, ino: Ino) -> Result<Vec<Name>> {
        let state = self.state.lock();
        let names = state.xattrs.get(&ino);
        Ok(names.into_iter().flat_map(|names| names.keys().cloned()).collect())
    }

    async fn list_chunks(&self, ino: Ino, range: Range<u32>) -> Result<Vec<u32>> {
        let state = self.state.lock();
        let chunks = state.chunks.keys();
        Ok(chunks.filter(|(of, index)| *of == ino && range.contains(index)).map(|(_of, index)| *index).collect())
    }

    async fn list_sessions(&self) -> Result<Vec<SessionRecord>> {
        let state = self.state.lock();
        Ok(state
            .sessions
            .iter()
            .map(|(sid, (expire, info))| SessionRecord { sid: *sid, expire: *expire, info: info.clone() })
            .collect())
    }

    async fn list_sustained(&self, sid: SessionId) -> Result<Vec<Ino>> {
        let state = self.state.lock();
        let kept = state.sustained.iter().filter(|(of, _ino)| *of == sid);
        Ok(kept.map(|(_of, ino)| *ino).collect())
    }

    async fn clean_session(&self, sid: SessionId) -> Result<()> {
        self.state.lock().clean_session(sid);
        Ok(())
    }

    async fn list_deleted(&self, before: i64, limit: usize) -> Result<Vec<(Ino, u64)>> {
        let state = self.state.lock();
        let waiting = state.deleted.iter().filter(|(_file, since)| **since <= before);
        Ok(waiting.map(|(file, _since)| *file).take(limit).collect())
    }

    async fn list_unreferenced(&self) -> Result<Vec<(SliceId, u32)>> {
        let state = self.state.lock();
        let unused = state.slice_refs.iter().filter(|(_slice, refs)| **refs <= 0);
        Ok(unused.map(|(slice, _refs)| *slice).collect())
    }

    async fn list_delayed(&self, before: i64) -> Result<Vec<(SliceId, i64, Vec<(SliceId, u32)>)>> {
        let state = self.state.lock();
        let old = state.delayed.iter().filter(|((_id, since), _slices)| *since < before);
        Ok(old.map(|((id, since), slices)| (*id, *since, slices.clone())).collect())
    }

    async fn list_quotas(&self) -> Result<Vec<(Ino, Quota)>> {
        let state = self.state.lock();
        Ok(state.dir_quotas.iter().map(|(ino, quota)| (*ino, *quota)).collect())
    }

    async fn list_owner_quotas(&self) -> Result<Vec<(Principal, Quota)>> {
        let state = self.state.lock();
        Ok(state.owner_quotas.iter().map(|(of, quota)| (*of, *quota)).collect())
    }

    async fn list_acls(&self) -> Result<Vec<(u32, AclRule)>> {
        let state = self.state.lock();
        Ok(state.acls.iter().map(|(id, rule)| (*id, rule.clone())).collect())
    }

    async fn list_detached(&self) -> Result<Vec<(Ino, i64)>> {
        let state = self.state.lock();
        Ok(state.detached.iter().map(|(ino, since)| (*ino, *since)).collect())
    }

    async fn list_locks(&self, sid: SessionId) -> Result<Vec<(LockTable, Ino)>> {
        let state = self.state.lock();
        let flocks = state.flocks.iter().filter(|(_ino, owners)| owners.keys().any(|owner| owner.sid == sid));
        let plocks = state.plocks.iter().filter(|(_ino, owners)| owners.keys().any(|owner| owner.sid == sid));
        let flocks = flocks.map(|(ino, _owners)| (LockTable::Flock, *ino));
        Ok(flocks.chain(plocks.map(|(ino, _owners)| (LockTable::Plock, *ino))).collect())
    }

    async fn scan_attrs(&self, from: Cursor, limit: usize) -> Result<Page<(Ino, Attr)>> {
        self.trip();
        let state = self.state.lock();
        let attrs = state.attrs.iter().map(|(ino, attr)| ((ino.0, 0), (*ino, attr.clone())));
        Ok(page(attrs, &from, limit))
    }

    async fn scan_chunks(&self, from: Cursor, limit: usize) -> Result<Page<(Ino, u32, Vec<Slice>)>> {
        self.trip();
        let state = self.state.lock();
        let chunks = state.chunks.iter();
        let chunks = chunks.map(|((ino, index), slices)| ((ino.0, *index), (*ino, *index, slices.clone())));
        Ok(page(chunks, &from, limit))
    }

    async fn scan_slice_refs(&self, from: Cursor, limit: usize) -> Result<Page<(SliceId, u32, i64)>> {
        self.trip();
        let state = self.state.lock();
        let slices = state.slice_refs.iter().map(|((id, size), refs)| ((id.0, *size), (*id, *size, *refs)));
        Ok(page(slices, &from, limit))
    }

    async fn sync(&self) -> Result<()> {
        Ok(())
    }

    async fn initialize(&self) -> Result<()> {
        Ok(())
    }

    async fn erase(&self) -> Result<()> {
        *self.state.lock() = State::default();
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    #[tokio::test]
    async fn a_store_that_reads_at_once_keeps_the_contract() {
        crate::contract::check(Arc::new(MemoryStore::new())).await;
    }

    #[tokio::test]
    async fn a_store_that_fetches_keeps_the_contract() {
        crate::contract::check(Arc::new(MemoryStore::remote())).await;
    }
}
