//! [`RedisStore`]: metadata in Redis with the Go client's keys (format.md §2), on a server of version 4 or later, by TCP,
//! TLS or a Unix socket; the server may be the master that Sentinel names or a node of a cluster ([`locate`]).
//!
//! * One connection carries all operations at the same time; it is made anew when it is lost ([`link`]).
//! * A transaction is optimistic without WATCH: one Lua script compares every record that was read and applies every
//!   write. With the reads remembered ([`seeds`]) a transaction costs one round trip ([`run`]).
//! * What was asked for is believed until the server tells of a change ([`tracking`]; [`watched`] reads the answers to what
//!   is to be told of), that a name is free only of a volume's only client ([`sole`]).
//! * A lost reply is no lost or doubled transaction: each commit leaves a token ([`tokens`]).
//!
//! Replication is asynchronous: a fail-over may lose the last commits although they were acknowledged, unless the server
//! is told to refuse writes without a replica (`min-replicas-to-write`). What is lost is lost as a whole and in order,
//! tokens included, so that an operation in flight is neither lost nor doubled in what remains. A number that was given
//! out twice for that reason is noticed when an inode is made ([`crate::ops`]).
//!
//! The volume has its database number for its own, but other keys in it are left alone. How much survives a power
//! failure is the server's configuration (`appendonly`, `appendfsync`); [`Store::sync`] cannot add to it.

mod commit;
mod fault;
mod health;
mod keys;
mod link;
mod locate;
mod notices;
mod pages;
mod run;
mod scan;
mod script;
mod seeds;
mod sole;
mod tokens;
mod tracking;
mod watched;
mod writes;

use std::ops::Range;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use stead_base::{Ino, SessionId, SliceId, Tasks};
use tokio::task::yield_now;
use tokio::time::Instant;

use crate::error::Result;
use crate::records::{AclRule, Attr, Counter, Entry, Job, Key, LockTable, Name, Principal, Quota, Record, Slice};
use crate::store::{Body, ChangeHook, Cursor, Listed, NoticeHook, Outcome, Page, SessionRecord, Store, TxOptions};
use crate::url::{ConnectOptions, RedisUrl};

use keys::Keys;
use link::Link;
use seeds::Seeds;
use sole::Sole;
use tokens::Tokens;
use tracking::{Place, Tracking, Trust};

/// Metadata in Redis.
#[derive(Debug)]
pub struct RedisStore {
    link: Link,
    keys: Keys,
    seeds: Arc<Seeds>,
    tokens: Tokens,
    sole: Sole,
    tasks: Tasks,
}

impl RedisStore {
    /// Connects; warns in the log if the server's configuration endangers the volume, and mends what it may.
    ///
    /// # Errors
    /// [`Error::Unavailable`](crate::Error::Unavailable) when nobody answers within the connect timeout,
    /// [`Error::Denied`](crate::Error::Denied) for a wrong user or password,
    /// [`Error::Address`](crate::Error::Address) for a database that the server or a master that the sentinels do not
    /// have, [`Error::Engine`](crate::Error::Engine) for a server that is too old.
    pub async fn connect(url: &RedisUrl, options: &ConnectOptions) -> Result<Self> {
        let seeds = Arc::new(Seeds::new(url.tuning.client_cache_size.unwrap_or_default()));
        let link = Link::open(url, options, &seeds).await?;
        let keys = Keys::new(link.locator().prefix());
        let store = Self {
            link,
            tokens: Tokens::new(keys.tokens(rand::random())),
            seeds,
            keys,
            sole: Sole::default(),
            tasks: Tasks::new(),
        };
        store.check_server().await?;
        Ok(store)
    }

    /// What a name leads to if that is as good as an answer: nobody has changed it, or the server would have told. What it
    /// does not lead to is believed of a volume's only client: another one's new name has to be seen at once, and what the
    /// server tells may be a moment behind what it has answered the other.
    async fn remembered(&self, parent: Ino, name: &Name) -> Option<Option<(Entry, Option<Attr>)>> {
        let tracking = self.link.tracking()?;
        self.look_for_room(tracking).await;
        let found = self.trusted(tracking, parent, name)?;
        if found.is_none() && tracking.is_optional() && !self.is_alone(tracking).await {
            return None;
        }
        // What has come in by now is taken note of meanwhile.
        yield_now().await;
        let found = self.trusted(tracking, parent, name)?;
        let believed = found.is_some() || !tracking.is_optional() || self.sole.is_known(tracking) == Some(true);
        believed.then_some(found)
    }

    /// Asks from time to time whether the server has room to tell of more.
    async fn look_for_room(&self, tracking: &Tracking) {
        if !tracking.wonders_about_room() {
            return;
        }
        let at = Instant::now();
        if let Ok(stats) = self.link.send(redis::cmd("INFO").arg("stats")).await {
            tracking.learn_room(&stats, None, at);
        }
    }

    fn trusted(&self, tracking: &Tracking, parent: Ino, name: &Name) -> Option<Option<(Entry, Option<Attr>)>> {
        let never_given = self.seeds.never_given(parent, name);
        if never_given.is_some_and(|since| tracking.trust_in(Place::Directory(parent), since) == Trust::Unchanged) {
            return Some(None);
        }
        let seed = |key: &Key| {
            let seed = self.seeds.get(key)?;
            (tracking.trust(key, seed.at) == Trust::Unchanged).then_some(seed.raw)
        };
        let key = Key::Entry(parent, name.clone());
        let Some(raw) = seed(&key)? else { return Some(None) };
        let entry = self.decode_entry(&key, &raw).ok()?;
        let attr = seed(&Key::Attr(entry.ino))?;
        Some(Some((entry, self.decode_attr(entry.ino, attr.as_ref()).ok()?)))
    }

    fn decode(&self, key: &Key, raw: Option<&Bytes>) -> Result<Option<Record>> {
        keys::decode(&self.keys, key, raw)
    }

    fn decode_entry(&self, key: &Key, raw: &Bytes) -> Result<Entry> {
        match self.decode(key, Some(raw))? {
            Some(Record::Entry(entry)) => Ok(entry),
            other => Err(self.link.unexpected(format!("{other:?}"))),
        }
    }

    fn decode_attr(&self, ino: Ino, raw: Option<&Bytes>) -> Result<Option<Attr>> {
        match self.decode(&Key::Attr(ino), raw)? {
            None => Ok(None),
            Some(Record::Attr(attr)) => Ok(Some(attr)),
            Some(other) => Err(self.link.unexpected(format!("{other:?}"))),
        }
    }

    /// An entry as it was answered together with its attributes; both are remembered.
    fn found(&self, key: Key, raw: &Bytes, attr: Option<Bytes>, at: Instant) -> Result<(Entry, Option<Attr>)> {
        let entry = self.decode_entry(&key, raw)?;
        let decoded = self.decode_attr(entry.ino, attr.as_ref())?;
        self.seeds.put(&key, Some(raw.clone()), at);
        self.seeds.put(&Key::Attr(entry.ino), attr, at);
        Ok((entry, decoded))
    }
}

#[async_trait]
impl Store for RedisStore {
    fn describe(&self) -> String {
        self.link.engine().to_owned()
    }

    async fn run(&self, body: Body, _options: TxOptions) -> Result<Outcome> {
        self.transaction(body).await
    }

    async fn read(&self, keys: &[Key]) -> Result<Vec<Option<Record>>> {
        let found = self.fetch(keys).await?;
        let pairs = keys.iter().zip(&found);
        pairs.map(|(key, raw)| self.decode(key, raw.as_ref())).collect()
    }

    async fn lookup(&self, parent: Ino, name: &Name) -> Result<Option<(Entry, Option<Attr>)>> {
        if let Some(found) = self.remembered(parent, name).await {
            return Ok(found);
        }
        let at = Instant::now();
        let (dir, key) = (self.keys.entries(parent), Key::Entry(parent, name.clone()));
        // What is declared is told of later; that the name leads there is a guess.
        let guess = self.seeds.get(&key).and_then(|seed| Some(self.decode_entry(&key, &seed.raw?).ok()?.ino));
        let declared = [Some(dir), guess.map(|ino| self.keys.attr(ino))];
        let declared: Vec<&[u8]> = declared.iter().flatten().map(Vec::as_slice).collect();
        let fill = |call: &mut redis::Cmd| {
            call.arg(name.as_bytes()).arg(self.keys.prefix());
        };
        let watches = self.link.tracking().is_some_and(Tracking::watches);
        let (found, is_told): (Option<(Bytes, Option<Bytes>)>, _) = if watches {
            self.link.eval_watched(&script::LOOKUP, &declared, fill).await?
        } else {
            (self.link.eval(&script::LOOKUP, &declared, fill).await?, false)
        };
        if is_told {
            self.watch([Place::Directory(parent)], at);
        }
        match found {
            Some((raw, attr)) => {
                let found = self.found(key, &raw, attr, at)?;
                if is_told {
                    self.watch(guess.filter(|ino| *ino == found.0.ino).map(Place::Inode), at);
                }
                Ok(Some(found))
            }
            None => {
                self.seeds.put(&key, None, at);
                Ok(None)
            }
        }
    }

    fn remembers(&self) -> bool {
        true
    }

    fn recall(&self, key: &Key) -> Option<(Option<Record>, Instant)> {
        let (seed, ours) = self.seeds.get_with_origin(key)?;
        let trust = self.link.tracking().map_or(Trust::Unknown, |tracking| tracking.trust(key, seed.at));
        let at = match trust {
            Trust::Unchanged => Instant::now(),
            Trust::Changed if !ours => return None,
            Trust::Changed | Trust::Unknown => seed.at,
        };
        Some((self.decode(key, seed.raw.as_ref()).ok()?, at))
    }

    fn on_change(&self, hook: ChangeHook) -> bool {
        self.link.tracking().is_some_and(|tracking| tracking.set_hook(hook))
    }

    async fn listen(&self, hook: NoticeHook) -> Result<bool> {
        self.subscribe(hook).await.map(|()| true)
    }

    async fn notify(&self) -> Result<()> {
        self.publish().await
    }

    async fn allocate(&self, counter: Counter, count: u64) -> Result<u64> {
        let mut add = redis::cmd("INCRBY");
        add.arg(self.keys.counter(counter)).arg(count);
        // A repeat after a lost reply skips numbers, which is allowed. The reply is the last number owned.
        let last: u64 = self.link.query(&add).await?;
        last.checked_sub(count)
            .map(|before| before + 1)
            .ok_or_else(|| self.link.unexpected(format!("{counter:?} stands at {last}")))
    }

    async fn claim_job(&self, job: Job, now: i64, period: i64) -> Result<bool> {
        let due = |last| last <= now.saturating_sub(period);
        self.set_number_if(self.keys.job(job), now, due).await
    }

    async fn list_entries(&self, dir: Ino, with_attrs: bool, from: Cursor, limit: usize) -> Result<Page<Listed>> {
        self.page(dir, with_attrs, from, limit).await
    }

    async fn list_xattrs(&self, ino: Ino) -> Result<Vec<Name>> {
        self.xattrs(ino).await
    }

    async fn list_chunks(&self, ino: Ino, range: Range<u32>) -> Result<Vec<u32>> {
        self.chunks(ino, range).await
    }

    async fn list_chunks_of(&self, files: &[(Ino, Range<u32>)]) -> Result<Vec<(Ino, u32)>> {
        self.chunks_of(files).await
    }

    async fn list_sessions(&self) -> Result<Vec<SessionRecord>> {
        self.sessions().await
    }

    async fn list_sustained(&self, sid: SessionId) -> Result<Vec<Ino>> {
        self.sustained(sid).await
    }

    async fn clean_session(&self, sid: SessionId) -> Result<()> {
        let keys = [self.keys.locked(sid), self.keys.named("sessionInfos"), self.keys.named("allSessions")];
        let keys = keys.each_ref().map(Vec::as_slice);
        let clean = self.link.eval(&script::CLEAN_SESSION, &keys, |call| {
            call.arg(sid.0).arg(self.keys.named("lock"));
        });
        let cleaned = clean.await;
        self.unwatch([Place::Sessions]);
        cleaned
    }

    async fn list_deleted(&self, before: i64, limit: usize) -> Result<Vec<(Ino, u64)>> {
        self.deleted(before, limit).await
    }

    async fn list_unreferenced(&self) -> Result<Vec<(SliceId, u32)>> {
        self.unreferenced().await
    }

    async fn renew_slice_refs(&self) -> Result<u64> {
        self.move_old_refs().await
    }

    async fn list_delayed(&self, before: i64) -> Result<Vec<(SliceId, i64, Vec<(SliceId, u32)>)>> {
        self.delayed(before).await
    }

    async fn list_quotas(&self) -> Result<Vec<(Ino, Quota)>> {
        self.quotas().await
    }

    async fn list_owner_quotas(&self) -> Result<Vec<(Principal, Quota)>> {
        self.owner_quotas().await
    }

    async fn list_acls(&self) -> Result<Vec<(u32, AclRule)>> {
        self.acls().await
    }

    async fn list_detached(&self) -> Result<Vec<(Ino, i64)>> {
        self.detached().await
    }

    async fn list_locks(&self, sid: SessionId) -> Result<Vec<(LockTable, Ino)>> {
        self.locks(sid).await
    }

    async fn scan_attrs(&self, from: Cursor, limit: usize) -> Result<Page<(Ino, Attr)>> {
        self.all_attrs(from, limit).await
    }

    async fn scan_chunks(&self, from: Cursor, limit: usize) -> Result<Page<(Ino, u32, Vec<Slice>)>> {
        self.all_chunks(from, limit).await
    }

    async fn scan_slice_refs(&self, from: Cursor, limit: usize) -> Result<Page<(SliceId, u32, i64)>> {
        self.all_slice_refs(from, limit).await
    }

    async fn sync(&self) -> Result<()> {
        Ok(())
    }

    /// Nothing to prepare: absent counters are 0 (format.md §1.3).
    async fn initialize(&self) -> Result<()> {
        Ok(())
    }

    async fn erase(&self) -> Result<()> {
        self.remove_everything().await
    }
}

#[cfg(test)]
pub(crate) mod server;
#[cfg(test)]
mod tests;
