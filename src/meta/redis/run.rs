//! Running a transaction: the body runs against what is known, fetches happen in one round trip each, and one script
//! compares and writes.
//!
//! Invariant: an outcome is handed out only if everything that the body compared was read or verified by the server
//! during this call.

use std::collections::{BTreeSet, HashMap};
use std::time::Duration;

use bytes::Bytes;
use redis::{Cmd, FromRedisValue, Value};
use stead_base::Ino;
use tokio::time::Instant;

use super::RedisStore;
use super::commit::{Commit, Expected};
use super::fault::{Fault, Patience};
use super::keys::{self, Place};
use super::link::again;
use super::script;
use super::seeds::Seed;
use super::tokens::Slot;
use super::tracking;
use super::watched::Watched;
use super::writes::{self, Command};
use crate::error::{Error, Result};
use crate::records::{Key, Record, Write};
use crate::store::{Body, Check, Outcome, Source, Step, Stop, Txn};

/// Conflicts after which a transaction gives up (format.md §0).
const ATTEMPTS: u32 = 50;
/// Conflicts after which it is tried again at once, with the fresh values that came with the refusal.
const AT_ONCE: u32 = 4;
/// How old a seed may be that serves as a hint.
const HINT_AGE: Duration = Duration::from_secs(1);
/// Places that a commit changes and the server is to tell of.
const WATCHED: usize = 16;
/// Records in one fetch; more would hold the server up.
const FETCH: usize = 512;

/// A record as the server has it: `None` is an absent one.
pub(super) type Raw = Option<Bytes>;

/// What became of a commit.
enum Committed {
    Yes {
        /// Whether the server will tell of what was to be watched.
        is_told: bool,
    },
    /// Nothing was written: these of the compared records, by position, have other values now.
    Changed(Vec<(usize, Raw)>),
}

impl RedisStore {
    pub(super) async fn transaction(&self, mut body: Body) -> Result<Outcome> {
        let mut view = View::new(self);
        let mut conflicts = 0;
        loop {
            let ended = view.run(&mut body);
            let (outcome, writes) = match ended {
                Err(Stop::NotYet) => {
                    let wanted = view.take_wanted()?;
                    self.fetch_into(&mut view, wanted).await?;
                    continue;
                }
                Err(Stop::Failed(error)) => (Err(error), Vec::new()),
                Ok((outcome, writes)) => (Ok(outcome), writes),
            };
            if writes.is_empty() {
                let unverified = view.unverified();
                if unverified.is_empty() {
                    return outcome;
                }
                self.fetch_into(&mut view, unverified).await?;
                continue;
            }
            if self.commit_view(&mut view, &writes).await? {
                return outcome;
            }
            conflicts += 1;
            if conflicts == ATTEMPTS {
                return Err(Error::Conflict { attempts: ATTEMPTS });
            }
            if conflicts > AT_ONCE {
                let longest = Duration::from_millis(u64::from(conflicts).pow(2));
                tokio::time::sleep(longest.mul_f64(rand::random())).await;
            }
        }
    }

    /// Reads records in one round trip per 512.
    pub(super) async fn fetch(&self, wanted: &[Key]) -> Result<Vec<Raw>> {
        let at = Instant::now();
        let mut found = Vec::with_capacity(wanted.len());
        for wanted in wanted.chunks(FETCH) {
            let places: Vec<Place> = wanted.iter().map(|key| self.keys.place(key)).collect();
            found.extend(self.fetch_places(&places).await?);
        }
        for (key, raw) in wanted.iter().zip(&found) {
            self.seeds.put(key, raw.clone(), at);
        }
        Ok(found)
    }

    async fn fetch_places(&self, places: &[Place]) -> Result<Vec<Raw>> {
        let found: Vec<Raw> = self
            .link
            .eval(&script::FETCH, &[&self.tokens.key], |call| {
                for place in places {
                    call.arg(place.how).arg(&place.key).arg(&place.field);
                }
            })
            .await?;
        if found.len() == places.len() {
            Ok(found)
        } else {
            Err(self.link.unexpected("another number of records than was asked for"))
        }
    }

    async fn fetch_into(&self, view: &mut View<'_>, wanted: Vec<Key>) -> Result<()> {
        let found = self.fetch(&wanted).await?;
        for (key, raw) in wanted.into_iter().zip(found) {
            view.verified(key, raw);
        }
        Ok(())
    }

    /// True when the writes are done; otherwise the view has the fresh values.
    async fn commit_view(&self, view: &mut View<'_>, writes: &[Write]) -> Result<bool> {
        let at = Instant::now();
        let compared = view.compared();
        let places: Vec<Expected> =
            compared.iter().map(|key| (self.keys.place(key), view.known[key].raw.clone())).collect();
        if let Some(tracking) = self.link.tracking() {
            tracking.announce(writes);
        }
        let new_directories = view.new_directories(writes);
        let mut changed: BTreeSet<_> = writes.iter().filter_map(tracking::Place::changed_by).collect();
        changed.extend(new_directories.iter().copied().map(tracking::Place::Directory));
        let watched = self.worth_watching(&changed);
        if watched.is_empty() {
            self.unwatch(changed.clone());
        }
        let commands = writes::commands(&self.keys, writes);
        let doubt = Doubt { store: self, writes, changed: &changed, ended: false };
        let committed = self.commit(&places, &commands, &self.watched_keys(&watched)).await?;
        let (done, mut fresh): (_, HashMap<usize, Raw>) = match committed {
            Committed::Yes { is_told } => (Some(is_told), HashMap::new()),
            Committed::Changed(fresh) => (None, fresh.into_iter().collect()),
        };
        for (n, key) in compared.into_iter().enumerate() {
            match fresh.remove(&n) {
                Some(raw) => {
                    self.seeds.put(&key, raw.clone(), at);
                    view.verified(key, raw);
                }
                None => view.confirmed(&key),
            }
        }
        if done.is_some() {
            self.seeds.apply(&self.keys, writes, at);
            self.sole.note(writes);
        }
        doubt.end();
        match done {
            Some(true) => {
                self.watch(watched, at);
                for dir in new_directories {
                    self.seeds.made_directory(dir, at);
                }
            }
            Some(false) => self.unwatch(changed),
            None => {}
        }
        Ok(done.is_some())
    }

    /// Notes `value` at `place` if what `claim` makes of the present number says so. True if this call has done it.
    pub(super) async fn set_number_if(&self, place: Place, value: i64, claim: impl Fn(i64) -> bool) -> Result<bool> {
        let mut raw = self.fetch_places(std::slice::from_ref(&place)).await?.pop().flatten();
        loop {
            let last = match &raw {
                None => 0,
                Some(raw) => crate::codec::decode_number(&place, raw)?,
            };
            if !claim(last) {
                return Ok(false);
            }
            let write = writes::set(place.key.clone(), value.to_string());
            match self.commit(&[(place.clone(), raw)], &[write], &[]).await? {
                Committed::Yes { .. } => return Ok(true),
                Committed::Changed(fresh) => raw = fresh.into_iter().next().and_then(|(_n, raw)| raw),
            }
        }
    }

    async fn commit(&self, expected: &[Expected], writes: &[Command], watched: &[Vec<u8>]) -> Result<Committed> {
        let slot = self.tokens.slot().await;
        let mut patience = self.link.patience();
        let declared = self.declared(expected, writes, watched);
        let keys: Vec<&[u8]> = declared.iter().map(Vec::as_slice).collect();
        let commit = Commit::new(expected, writes);
        loop {
            let (operation, at, renews) = (slot.operation(), Instant::now(), slot.renews());
            let fill = |call: &mut Cmd| {
                call.arg(&self.tokens.key).arg(slot.number).arg(operation).arg(u8::from(renews)).arg(watched.len());
                commit.fill(call);
            };
            match self.link.send_script_and_watch(&script::COMMIT, &keys, fill, !watched.is_empty()).await {
                Ok(Watched { answer: Value::Int(done @ (1 | 2)), is_told }) => {
                    if renews {
                        slot.renewed(at);
                    }
                    return Ok(Committed::Yes { is_told: is_told && done == 1 });
                }
                // Another operation of this slot was fenced meanwhile: it goes with the next number.
                Ok(Watched { answer: Value::Int(0), .. }) => {}
                Ok(Watched { answer, .. }) => return self.changed(answer).map(Committed::Changed),
                Err(Fault::Unknown(why)) => {
                    patience.pause(why).await?;
                    if self.took_effect(&slot, operation, &mut patience).await? {
                        return Ok(Committed::Yes { is_told: false });
                    }
                }
                Err(fault) => again(fault, &mut patience).await?,
            }
        }
    }

    /// What of this a commit has the server tell of. Little: of most of what large ones change nobody will ask.
    fn worth_watching(&self, changed: &BTreeSet<tracking::Place>) -> BTreeSet<tracking::Place> {
        let watches = self.link.tracking().is_some_and(tracking::Tracking::watches);
        if watches && changed.len() <= WATCHED { changed.clone() } else { BTreeSet::new() }
    }

    fn watched_keys(&self, watched: &BTreeSet<tracking::Place>) -> Vec<Vec<u8>> {
        let key = |place: &tracking::Place| match place {
            tracking::Place::Inode(ino) => self.keys.attr(*ino),
            tracking::Place::Directory(dir) => self.keys.entries(*dir),
            tracking::Place::Sessions => self.keys.named("allSessions"),
        };
        watched.iter().map(key).collect()
    }

    pub(super) fn watch(&self, watched: impl IntoIterator<Item = tracking::Place>, at: Instant) {
        if let Some(tracking) = self.link.tracking() {
            tracking.watch(watched, at);
        }
    }

    pub(super) fn unwatch(&self, changed: impl IntoIterator<Item = tracking::Place>) {
        if let Some(tracking) = self.link.tracking() {
            tracking.unwatch(changed);
        }
    }

    /// The keys of a commit: those that the server is to tell of, and in a cluster all others.
    fn declared(&self, expected: &[Expected], writes: &[Command], watched: &[Vec<u8>]) -> Vec<Vec<u8>> {
        let mut keys = watched.to_vec();
        // One at least, which is what a proxy goes by.
        if keys.is_empty() || self.keys.are_declared() {
            keys.push(self.tokens.key.clone());
        }
        if self.keys.are_declared() {
            keys.extend(expected.iter().flat_map(|(place, _raw)| self.keys.behind(place.how, &place.key)));
            let first = |command: &Command| command.args.first().map(|key| self.keys.behind(command.name, key));
            keys.extend(writes.iter().filter_map(first).flatten());
        }
        keys
    }

    fn changed(&self, reply: Value) -> Result<Vec<(usize, Raw)>> {
        let pairs: Vec<(usize, Raw)> = Vec::from_redis_value(reply).map_err(|error| self.link.unexpected(error))?;
        let from_one = pairs.into_iter();
        Ok(from_one.map(|(n, raw)| (n.saturating_sub(1), raw)).collect())
    }

    async fn took_effect(&self, slot: &Slot<'_>, operation: u64, patience: &mut Patience) -> Result<bool> {
        loop {
            let fill = |call: &mut Cmd| {
                call.arg(slot.number).arg(operation);
            };
            match self.link.send_script(&script::RESOLVE, &[&self.tokens.key], fill).await {
                Ok(reply) => return Ok(reply == Value::Int(1)),
                Err(fault) => again(fault, patience).await?,
            }
        }
    }
}

/// While a commit is under way: if its end is not seen, because of an error or since nobody waits for it any more, what it
/// may have written is not known, and the server may not tell of it.
struct Doubt<'a> {
    store: &'a RedisStore,
    writes: &'a [Write],
    changed: &'a BTreeSet<tracking::Place>,
    ended: bool,
}

impl Doubt<'_> {
    fn end(mut self) {
        self.ended = true;
    }
}

impl Drop for Doubt<'_> {
    fn drop(&mut self) {
        if !self.ended {
            self.store.seeds.doubt(self.writes);
            self.store.unwatch(self.changed.iter().copied());
        }
    }
}

/// What a transaction knows.
struct View<'a> {
    store: &'a RedisStore,
    known: HashMap<Key, Known>,
    wanted: Vec<Key>,
}

struct Known {
    raw: Raw,
    /// Read or verified by the server during this call.
    verified: bool,
    /// When it was read.
    at: Instant,
    /// How the present run of the body has used it.
    used: Option<Check>,
}

impl<'a> View<'a> {
    fn new(store: &'a RedisStore) -> Self {
        Self { store, known: HashMap::new(), wanted: Vec::new() }
    }

    fn run(&mut self, body: &mut Body) -> Step<(Outcome, Vec<Write>)> {
        self.wanted.clear();
        for known in self.known.values_mut() {
            known.used = None;
        }
        let mut txn = Txn::new(self);
        let outcome = body(&mut txn)?;
        Ok((outcome, txn.into_writes()))
    }

    fn take_wanted(&mut self) -> Result<Vec<Key>> {
        if self.wanted.is_empty() {
            return Err(Error::Engine {
                engine: self.store.link.engine().to_owned(),
                why: "a transaction waits for a record although all are at hand".to_owned(),
            });
        }
        Ok(std::mem::take(&mut self.wanted))
    }

    /// Seeds that the body relied on.
    fn unverified(&self) -> Vec<Key> {
        let used = self.known.iter().filter(|(_key, known)| known.used.is_some());
        let seeds = used.filter(|(_key, known)| !known.verified);
        seeds.map(|(key, _known)| key.clone()).collect()
    }

    fn compared(&self) -> Vec<Key> {
        let used = self.known.iter();
        used.filter(|(_key, known)| known.used == Some(Check::Compare)).map(|(key, _known)| key.clone()).collect()
    }

    /// Directories that these writes make where nothing was.
    fn new_directories(&self, writes: &[Write]) -> Vec<Ino> {
        let absent = |ino: Ino| {
            let known = self.known.get(&Key::Attr(ino));
            known.is_some_and(|known| known.used == Some(Check::Compare) && known.raw.is_none())
        };
        let made = writes.iter().filter_map(|write| match write {
            Write::SetAttr(ino, attr) if attr.is_dir() && absent(*ino) => Some(*ino),
            _ => None,
        });
        made.collect()
    }

    fn verified(&mut self, key: Key, raw: Raw) {
        let known = Known { raw, verified: true, at: Instant::now(), used: None };
        self.known.insert(key, known);
    }

    fn confirmed(&mut self, key: &Key) {
        if let Some(known) = self.known.get_mut(key) {
            known.verified = true;
        }
    }

    /// What is known of a record, from this call or an earlier one.
    fn find(&mut self, key: &Key) -> Option<&mut Known> {
        if !self.known.contains_key(key) {
            let seed = self.store.seeds.get(key).or_else(|| self.never_given(key))?;
            let known = Known { raw: seed.raw, verified: false, at: seed.at, used: None };
            self.known.insert(key.clone(), known);
        }
        self.known.get_mut(key)
    }
}

impl View<'_> {
    fn never_given(&self, key: &Key) -> Option<Seed> {
        let Key::Entry(dir, name) = key else { return None };
        let at = self.store.seeds.never_given(*dir, name)?;
        Some(Seed { raw: None, at })
    }
}

impl Source for View<'_> {
    fn get(&mut self, key: &Key, check: Check) -> Step<Option<Record>> {
        let usable = |known: &Known| known.verified || check == Check::Compare || known.at.elapsed() <= HINT_AGE;
        let raw = match self.find(key) {
            Some(known) if usable(known) => {
                if known.used != Some(Check::Compare) {
                    known.used = Some(check);
                }
                known.raw.clone()
            }
            _ => {
                if !self.wanted.contains(key) {
                    self.wanted.push(key.clone());
                }
                return Err(Stop::NotYet);
            }
        };
        Ok(keys::decode(&self.store.keys, key, raw.as_ref())?)
    }

    fn get_unlikely(&mut self, key: &Key) -> Step<Option<Record>> {
        if self.find(key).is_none() {
            // Wrong like any seed, that costs no more than asking would have.
            let absent = Known { raw: None, verified: false, at: Instant::now(), used: None };
            self.known.insert(key.clone(), absent);
        }
        self.get(key, Check::Compare)
    }
}
