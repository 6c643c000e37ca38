//! The seam between the semantics and the engines: [`Store`] runs closures as atomic transactions over typed records.
//!
//! # Transactions are restartable functions
//!
//! A transaction's body is a synchronous closure over a [`Txn`]: it reads records and announces writes, nothing else.
//! It may run several times, so it must not have effects of its own.
//! * A store that reads at once (SQLite, memory) runs it once, under its write lock.
//! * A store behind a network (Redis) runs it against what it has already fetched. A read of something else stops the
//!   body ([`Stop::NotYet`]); the store fetches everything that was asked for in **one** round trip and runs it again.
//!   [`Txn::prime`] names all records that will be needed, so that one fetch brings them all. At the end one script
//!   compares every checked read and applies every write, or returns the fresh values for the next run.
//!
//! Within a body, reads see the state before the transaction, never its own writes.
//!
//! A store may seed a body with values it remembers: the comparison at the end makes that safe. What a body reports as
//! its outcome without a write (an error, or plain success) is only believed when every checked value was read or
//! verified during this call.

use std::any::Any;
use std::collections::BTreeMap;

use async_trait::async_trait;
use bytes::Bytes;
use stead_base::{Ino, SessionId, SliceId};
use tokio::time::Instant;

use crate::error::{Error, Result};
use crate::records::{
    AclRule, Attr, Counter, DirStat, Entry, Job, Key, LockKind, LockOwner, LockRange, LockTable, Name, Principal,
    Quota, Record, Slice, Write,
};

/// Why a transaction's body stopped early.
#[derive(Debug)]
pub enum Stop {
    /// Something it asked for has not been fetched; it will be run again.
    NotYet,
    /// The operation failed; nothing is written.
    Failed(Error),
}

impl From<Error> for Stop {
    fn from(error: Error) -> Self {
        Self::Failed(error)
    }
}

/// What a body's steps return.
pub type Step<T> = std::result::Result<T, Stop>;

/// What a body returns: type-erased, so that `Store` stays object-safe. [`transact`] hides that.
pub type Outcome = Box<dyn Any + Send>;

/// A transaction's body.
pub type Body = Box<dyn FnMut(&mut Txn<'_>) -> Step<Outcome> + Send>;

/// How a read takes part in the commit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Check {
    /// The transaction only commits if this record is unchanged.
    Compare,
    /// A hint (usage for a limit, a list's length): may be stale by the time of the commit, but was read from the
    /// engine, not from a cache, within the last second.
    Hint,
}

/// Where a [`Txn`] takes its reads from.
pub trait Source {
    /// The record, `None` if it does not exist, or [`Stop::NotYet`] after noting that it is wanted.
    fn get(&mut self, key: &Key, check: Check) -> Step<Option<Record>>;

    /// The same for a record that most probably does not exist: need not be fetched, since the commit compares it.
    fn get_unlikely(&mut self, key: &Key) -> Step<Option<Record>> {
        self.get(key, Check::Compare)
    }
}

/// A running transaction.
pub struct Txn<'a> {
    source: &'a mut dyn Source,
    writes: Vec<Write>,
}

macro_rules! typed_reads {
    ($($(#[$doc:meta])* $fn:ident($($arg:ident: $ty:ty),*) -> $variant:ident($out:ty) = $key:expr;)*) => {$(
        $(#[$doc])*
        pub fn $fn(&mut self, $($arg: $ty),*) -> Step<Option<$out>> {
            let key = $key;
            match self.get(&key)? {
                None => Ok(None),
                Some(Record::$variant(value)) => Ok(Some(value)),
                Some(other) => Err(wrong_record(&key, &other)),
            }
        }
    )*};
}

fn wrong_record(key: &Key, record: &Record) -> Stop {
    Stop::Failed(Error::Corrupt { key: format!("{key:?}"), why: format!("unexpected {record:?}") })
}

impl<'a> Txn<'a> {
    /// A transaction that reads from `source`.
    pub fn new(source: &'a mut dyn Source) -> Self {
        Self { source, writes: Vec::new() }
    }

    /// Announces records that will be read, so that a store behind a network fetches them together.
    pub fn prime(&mut self, keys: &[Key]) -> Step<()> {
        let mut missing = false;
        for key in keys {
            match self.source.get(key, Check::Compare) {
                Ok(_) => {}
                Err(Stop::NotYet) => missing = true,
                Err(failed) => return Err(failed),
            }
        }
        if missing { Err(Stop::NotYet) } else { Ok(()) }
    }

    /// Reads a record; the commit depends on it.
    pub fn get(&mut self, key: &Key) -> Step<Option<Record>> {
        self.source.get(key, Check::Compare)
    }

    /// Reads a record that most probably does not exist, without a round trip where that can be spared; the commit
    /// depends on it.
    pub fn get_unlikely(&mut self, key: &Key) -> Step<Option<Record>> {
        self.source.get_unlikely(key)
    }

    /// Reads a record as a hint; the commit does not depend on it.
    pub fn hint(&mut self, key: &Key) -> Step<Option<Record>> {
        self.source.get(key, Check::Hint)
    }

    typed_reads! {
        /// The attributes of an inode.
        attr(ino: Ino) -> Attr(Attr) = Key::Attr(ino);
        /// A directory entry.
        entry(parent: Ino, name: &Name) -> Entry(Entry) = Key::Entry(parent, name.clone());
        /// The records of a chunk.
        slices(ino: Ino, index: u32) -> Slices(Vec<Slice>) = Key::Chunk(ino, index);
        /// The directories of a hard-linked inode.
        parents(ino: Ino) -> Parents(BTreeMap<Ino, i64>) = Key::Parents(ino);
        /// A symlink's target.
        symlink(ino: Ino) -> Bytes(Bytes) = Key::Symlink(ino);
        /// An extended attribute.
        xattr(ino: Ino, name: &Name) -> Bytes(Bytes) = Key::Xattr(ino, name.clone());
        /// Statistics of a directory.
        dir_stat(ino: Ino) -> DirStat(DirStat) = Key::DirStat(ino);
        /// Quota of a directory.
        dir_quota(ino: Ino) -> Quota(Quota) = Key::DirQuota(ino);
        /// Quota of a user or group.
        owner_quota(of: Principal) -> Quota(Quota) = Key::OwnerQuota(of);
        /// An access control list.
        acl(id: u32) -> Acl(AclRule) = Key::Acl(id);
    }

    /// Locks of a whole file.
    pub fn flocks(&mut self, ino: Ino) -> Step<BTreeMap<LockOwner, LockKind>> {
        self.flocks_if_any(ino).map(Option::unwrap_or_default)
    }

    /// Locks of ranges of a file.
    pub fn plocks(&mut self, ino: Ino) -> Step<BTreeMap<LockOwner, Vec<LockRange>>> {
        self.plocks_if_any(ino).map(Option::unwrap_or_default)
    }

    typed_reads! {
        /// Locks of a whole file, if it has any.
        flocks_if_any(ino: Ino) -> Flocks(BTreeMap<LockOwner, LockKind>) = Key::Flocks(ino);
        /// Locks of ranges of a file, if it has any.
        plocks_if_any(ino: Ino) -> Plocks(BTreeMap<LockOwner, Vec<LockRange>>) = Key::Plocks(ino);
    }

    /// A counter; absent is 0.
    pub fn counter(&mut self, counter: Counter) -> Step<i64> {
        self.number(Key::Counter(counter)).map(|n| n.unwrap_or(0))
    }

    /// References of a slice.
    pub fn slice_refs(&mut self, id: SliceId, size: u32) -> Step<i64> {
        // Most slices have one reference, which stores that count the others report for no record.
        let key = Key::SliceRef(id, size);
        match self.get_unlikely(&key)? {
            None => Ok(0),
            Some(Record::Number(count)) => Ok(count),
            Some(other) => Err(wrong_record(&key, &other)),
        }
    }

    /// Whether a directory has any entry.
    pub fn has_entries(&mut self, dir: Ino) -> Step<bool> {
        Ok(self.get_unlikely(&Key::AnyEntry(dir))?.is_some())
    }

    fn number(&mut self, key: Key) -> Step<Option<i64>> {
        match self.get(&key)? {
            None => Ok(None),
            Some(Record::Number(value)) => Ok(Some(value)),
            Some(other) => Err(wrong_record(&key, &other)),
        }
    }

    /// Announces a change.
    pub fn write(&mut self, write: Write) {
        self.writes.push(write);
    }

    /// Whether a change was announced.
    pub(crate) fn has_writes(&self) -> bool {
        !self.writes.is_empty()
    }

    /// The changes, in order: for the store, once the body has ended well.
    pub fn into_writes(self) -> Vec<Write> {
        self.writes
    }
}

/// How a transaction is to be committed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TxOptions {
    /// The commit, and every earlier one, must survive a power failure (fsync). Otherwise it survives the death of any
    /// process, and a power failure as the engine is configured.
    pub durable: bool,
}

/// One page of a scan and where the next one starts.
#[derive(Clone, Debug)]
pub struct Page<T> {
    /// The items.
    pub items: Vec<T>,
    /// Records that do not decode ([`Error::Corrupt`]) and are therefore not among the items. Nothing may be removed
    /// as unreferenced after a scan that met one.
    pub corrupt: Vec<Error>,
    /// To be handed back for the next page; `None` when this was the last.
    pub next: Option<Cursor>,
}

/// Where a scan goes on: opaque to everyone but the store that made it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Cursor(pub Vec<u8>);

/// A name with what it leads to, as a directory scan finds it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listed {
    /// The name.
    pub name: Name,
    /// The entry.
    pub entry: Entry,
    /// Its attributes, when they were asked for and exist.
    pub attr: Option<Attr>,
}

/// A registered session.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SessionRecord {
    /// Its number.
    pub sid: SessionId,
    /// When it expires, unix seconds.
    pub expire: i64,
    /// The JSON of format.md §7.1; empty when it is missing.
    pub info: Bytes,
}

/// What another client has changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// The attributes of an inode.
    Inode(Ino),
    /// Where a name leads, perhaps: something in the directory changed.
    Entry(Ino, Name),
    /// Anything: changes may have been missed.
    Everything,
}

/// Whoever wants to know what other clients change; must not wait.
pub type ChangeHook = std::sync::Arc<dyn Fn(Change) + Send + Sync>;

/// Whoever is told that another client wants to be noticed; must not wait.
pub type NoticeHook = std::sync::Arc<dyn Fn() + Send + Sync>;

/// A metadata engine. One contract suite (`contract.rs`) runs against every implementation.
///
/// All methods may be called concurrently. Every error that is worth a retry (a lost connection, a fail-over) has been
/// retried inside for as long as the store's retry time; what comes out is final.
#[async_trait]
pub trait Store: Send + Sync + std::fmt::Debug {
    /// The engine and its address for messages, without any secret: `redis://host:6379/1`.
    fn describe(&self) -> String;

    /// Runs `body` until it has committed, failed, or met 50 conflicts ([`Error::Conflict`]).
    async fn run(&self, body: Body, options: TxOptions) -> Result<Outcome>;

    /// Reads records outside of a transaction, in one round trip, in the order of `keys`.
    async fn read(&self, keys: &[Key]) -> Result<Vec<Option<Record>>>;

    /// Finds a name and its inode's attributes in one round trip. `Some((entry, None))` is an entry whose attributes
    /// are missing.
    async fn lookup(&self, parent: Ino, name: &Name) -> Result<Option<(Entry, Option<Attr>)>>;

    /// Whether [`Store::recall`] remembers, so that it pays to fetch with one question what the next one will ask.
    fn remembers(&self) -> bool {
        false
    }

    /// What is remembered of a record, and a moment at which the engine had it so. Never older than what this client
    /// itself has done to attributes and entries. Costs no round trip; `None` when nothing is remembered, which a
    /// store that reads in microseconds never does.
    fn recall(&self, key: &Key) -> Option<(Option<Record>, Instant)> {
        let _ = key;
        None
    }

    /// Calls `hook` for what other clients change of the records that are remembered. False: this engine does not tell.
    fn on_change(&self, hook: ChangeHook) -> bool {
        drop(hook);
        false
    }

    /// Calls `hook` whenever a client calls [`Store::notify`], as long as this store lives, and when that may have been
    /// missed. False: this engine does not tell, but it costs microseconds to look.
    ///
    /// # Errors
    /// This server cannot tell.
    async fn listen(&self, hook: NoticeHook) -> Result<bool> {
        drop(hook);
        Ok(false)
    }

    /// Has the clients look that listen.
    async fn notify(&self) -> Result<()> {
        Ok(())
    }

    /// Takes `count` numbers: returns the first of `first .. first + count`. Never hands out one twice, whatever the
    /// stored form ("last owned" or "next free") is.
    async fn allocate(&self, counter: Counter, count: u64) -> Result<u64>;

    /// True for one caller per period: when the last run of `job` is at or before `now - period`, notes `now` (unix seconds).
    async fn claim_job(&self, job: Job, now: i64, period: i64) -> Result<bool>;

    /// Entries of a directory in pages of about `limit`. Entries that exist throughout the scan come at least once
    /// (a caller that keeps the list drops repeats by name); those added or removed meanwhile may or may not come.
    async fn list_entries(&self, dir: Ino, with_attrs: bool, from: Cursor, limit: usize) -> Result<Page<Listed>>;

    /// Names of the extended attributes of an inode.
    async fn list_xattrs(&self, ino: Ino) -> Result<Vec<Name>>;

    /// Indices in `range` of chunks that have records.
    async fn list_chunks(&self, ino: Ino, range: std::ops::Range<u32>) -> Result<Vec<u32>>;

    /// The same for several files: (inode, index). Cheap where, as mostly, there are none.
    async fn list_chunks_of(&self, files: &[(Ino, std::ops::Range<u32>)]) -> Result<Vec<(Ino, u32)>> {
        let mut found = Vec::new();
        for (ino, range) in files {
            found.extend(self.list_chunks(*ino, range.clone()).await?.into_iter().map(|index| (*ino, index)));
        }
        Ok(found)
    }

    /// All sessions, expired or not.
    async fn list_sessions(&self) -> Result<Vec<SessionRecord>>;

    /// Unlinked inodes that a session keeps.
    async fn list_sustained(&self, sid: SessionId) -> Result<Vec<Ino>>;

    /// Removes what a dead session left behind except its sustained inodes: locks and the registration.
    async fn clean_session(&self, sid: SessionId) -> Result<()>;

    /// Deleted files since `before` (unix seconds) or earlier that still wait for their data to go: (ino, length).
    async fn list_deleted(&self, before: i64, limit: usize) -> Result<Vec<(Ino, u64)>>;

    /// Slices without references whose blocks may still exist ("pending delete"). Also drops entries that mean nothing.
    async fn list_unreferenced(&self) -> Result<Vec<(SliceId, u32)>>;

    /// Delayed slices that were put there before `before`: (compacted slice, unix second, replaced slices).
    async fn list_delayed(&self, before: i64) -> Result<Vec<(SliceId, i64, Vec<(SliceId, u32)>)>>;

    /// Brings slice references that very old clients wrote into the present form, for gc; returns how many there were.
    async fn renew_slice_refs(&self) -> Result<u64> {
        Ok(0)
    }

    /// All directories that have a quota.
    async fn list_quotas(&self) -> Result<Vec<(Ino, Quota)>>;

    /// All quotas of users and groups.
    async fn list_owner_quotas(&self) -> Result<Vec<(Principal, Quota)>>;

    /// All access control lists.
    async fn list_acls(&self) -> Result<Vec<(u32, AclRule)>>;

    /// Tops of trees that are not attached: (inode, unix second).
    async fn list_detached(&self) -> Result<Vec<(Ino, i64)>>;

    /// Lock tables in which a session has locks, or had some lately.
    async fn list_locks(&self, sid: SessionId) -> Result<Vec<(LockTable, Ino)>>;

    /// All inodes, those without a name among them.
    ///
    /// This scan and the next two go through the volume in pages of about `limit` items, some of them perhaps empty,
    /// in no order. What exists throughout the scan comes at least once, whatever others write and also if the engine
    /// fails over; what is added or removed meanwhile may or may not come.
    async fn scan_attrs(&self, from: Cursor, limit: usize) -> Result<Page<(Ino, Attr)>>;

    /// The records of all chunks: (inode, index, slices).
    async fn scan_chunks(&self, from: Cursor, limit: usize) -> Result<Page<(Ino, u32, Vec<Slice>)>>;

    /// Slices with a stored number of references, zero and less among them. Redis need not have one for a slice that
    /// is used once.
    async fn scan_slice_refs(&self, from: Cursor, limit: usize) -> Result<Page<(SliceId, u32, i64)>>;

    /// Makes every commit so far survive a power failure, as fsync(2) promises; a no-op where the engine decides itself.
    async fn sync(&self) -> Result<()>;

    /// Prepares an empty engine: creates tables, initial counters. Existing content is untouched. Called by `format`.
    async fn initialize(&self) -> Result<()>;

    /// Removes every record of the volume. Only for `destroy` and the deletion of a volume that has an engine of its own.
    async fn erase(&self) -> Result<()>;
}

/// Runs `body` as one atomic transaction on `store` and returns its value.
pub async fn transact<T, F>(store: &dyn Store, options: TxOptions, mut body: F) -> Result<T>
where
    T: Send + 'static,
    F: FnMut(&mut Txn<'_>) -> Step<T> + Send + 'static,
{
    let outcome = store.run(Box::new(move |txn| body(txn).map(|value| Box::new(value) as Outcome)), options).await?;
    Ok(*outcome.downcast().expect("a store returns what the body returned"))
}
