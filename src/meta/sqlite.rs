//! [`SqliteStore`]: metadata in one SQLite file with the Go client's tables (format.md §4), for one node and any number
//! of processes on it, the Go client among them.
//!
//! * One connection writes. Its thread takes all transactions that are waiting, runs each body inside one `BEGIN
//!   IMMEDIATE` and commits once, so that tasks share the cost of a commit ([`writer`]).
//! * What is read outside of a transaction runs at once on the caller's thread: microseconds on a connection of its own
//!   with prepared statements. In WAL mode readers and the writer do not wait for each other.
//! * Every commit survives the death of the process. Only those that are asked to be durable are synced to the disk,
//!   and such a sync covers all commits before it.

mod apply;
mod checkpoint;
mod fault;
mod locks;
mod readers;
mod rows;
mod scan;
mod schema;
mod writer;

use std::ops::Range;
use std::path::{Path, PathBuf};

use async_trait::async_trait;
use rusqlite::Connection;
use stead_base::{Ino, SessionId, SliceId};

use crate::error::{Error, Result};
use crate::records::{AclRule, Attr, Counter, Entry, Job, Key, LockTable, Name, Principal, Quota, Record, Slice};
use crate::store::{Body, Cursor, Listed, Outcome, Page, SessionRecord, Source, Step, Stop, Store, TxOptions, Txn};
use crate::url::ConnectOptions;

use checkpoint::Checkpointer;
use fault::{Fault, Patience};
use readers::Readers;
use writer::{Failure, Writer};

/// Metadata in an SQLite file.
#[derive(Debug)]
pub struct SqliteStore {
    place: Place,
    readers: Readers,
    writer: Writer,
}

/// The file and how long to wait for it.
#[derive(Clone, Debug)]
struct Place {
    path: PathBuf,
    retry_for: std::time::Duration,
}

impl Place {
    fn describe(&self) -> String {
        format!("sqlite3://{}", self.path.display())
    }

    fn explain(&self, fault: Fault) -> Error {
        fault.explain(&self.describe())
    }
}

impl SqliteStore {
    /// Opens the file; with [`ConnectOptions::create`] also one that does not exist yet. Tables are made by
    /// [`Store::initialize`].
    ///
    /// # Errors
    /// [`Error::Address`] when there is no such file, [`Error::Denied`] when it must not be read and written,
    /// [`Error::Engine`] when it is no SQLite database.
    pub async fn open(path: &Path, options: &ConnectOptions) -> Result<Self> {
        let place = Place { path: path.to_owned(), retry_for: options.retry_for };
        let (create, connect_timeout) = (options.create, options.connect_timeout);
        let opened = tokio::task::spawn_blocking(move || {
            let connection = schema::open_file(&place, create, connect_timeout)?;
            let writer = Writer::start(connection, place.retry_for, Checkpointer::start(place.path.clone())?)?;
            Ok(Self { readers: Readers::new(place.path.clone()), writer, place })
        });
        opened.await.expect("opening does not panic")
    }

    /// Runs `work` on the writing connection, inside a transaction.
    async fn writing<T: Send + 'static>(
        &self,
        durable: bool,
        mut work: impl FnMut(&Connection) -> Result<T, Fault> + Send + 'static,
    ) -> Result<T> {
        let work = Box::new(move |connection: &Connection| match work(connection) {
            Ok(value) => Ok(Box::new(value) as Outcome),
            Err(fault) => Err(Failure::Dirty(fault)),
        });
        let outcome = self.writer.submit(durable, work).await;
        let outcome = outcome.map_err(|fault| self.place.explain(fault))?;
        Ok(*outcome.downcast().expect("the work above made it"))
    }

    /// Runs `read` on this thread.
    async fn reading<T>(&self, read: impl Fn(&Connection) -> Result<T, Fault> + Send + Sync) -> Result<T> {
        let mut patience = Patience::new(self.place.retry_for);
        loop {
            match self.readers.with(&read) {
                Err(fault) if fault.is_busy() => match patience.next_wait() {
                    Some(wait) => tokio::time::sleep(wait).await,
                    None => return Err(self.place.explain(fault)),
                },
                outcome => return outcome.map_err(|fault| self.place.explain(fault)),
            }
        }
    }
}

/// Where a transaction's body reads from: the writing connection, inside the transaction.
struct Current<'a> {
    connection: &'a Connection,
    engine: &'a str,
}

impl Source for Current<'_> {
    fn get(&mut self, key: &Key, _check: crate::store::Check) -> Step<Option<Record>> {
        rows::read(self.connection, key).map_err(|fault| Stop::Failed(fault.explain(self.engine)))
    }
}

/// Runs a body and, if it ends well, applies what it announced: a body that fails has written nothing.
fn run_body(connection: &Connection, engine: &str, body: &mut Body) -> Result<Outcome, Failure> {
    let mut source = Current { connection, engine };
    let mut txn = Txn::new(&mut source);
    let value = body(&mut txn).map_err(|stop| match stop {
        Stop::Failed(error) => Failure::Clean(error),
        Stop::NotYet => Failure::Clean(Error::Engine {
            engine: engine.to_owned(),
            why: "a transaction waits for a record although all are at hand".to_owned(),
        }),
    })?;
    for write in txn.into_writes() {
        apply::apply(connection, &write).map_err(Failure::Dirty)?;
    }
    Ok(value)
}

#[async_trait]
impl Store for SqliteStore {
    fn describe(&self) -> String {
        self.place.describe()
    }

    async fn run(&self, mut body: Body, options: TxOptions) -> Result<Outcome> {
        let engine = self.describe();
        let work = Box::new(move |connection: &Connection| run_body(connection, &engine, &mut body));
        let outcome = self.writer.submit(options.durable, work).await;
        outcome.map_err(|fault| self.place.explain(fault))
    }

    async fn read(&self, keys: &[Key]) -> Result<Vec<Option<Record>>> {
        let read = self.reading(|connection| rows::read_all(connection, keys)).await;
        match read {
            // What has no table yet has no rows.
            Err(Error::NotFormatted { .. }) => Ok(vec![None; keys.len()]),
            read => read,
        }
    }

    async fn lookup(&self, parent: Ino, name: &Name) -> Result<Option<(Entry, Option<Attr>)>> {
        self.reading(|connection| rows::lookup(connection, parent, name)).await
    }

    async fn allocate(&self, counter: Counter, count: u64) -> Result<u64> {
        self.writing(false, move |connection| apply::allocate(connection, counter, count)).await
    }

    async fn claim_job(&self, job: Job, now: i64, period: i64) -> Result<bool> {
        self.writing(false, move |connection| apply::claim_job(connection, job, now, period)).await
    }

    async fn list_entries(&self, dir: Ino, with_attrs: bool, from: Cursor, limit: usize) -> Result<Page<Listed>> {
        self.reading(|connection| scan::entries(connection, dir, with_attrs, &from, limit)).await
    }

    async fn list_xattrs(&self, ino: Ino) -> Result<Vec<Name>> {
        self.reading(|connection| scan::xattrs(connection, ino)).await
    }

    async fn list_chunks(&self, ino: Ino, range: Range<u32>) -> Result<Vec<u32>> {
        self.reading(|connection| scan::chunks(connection, ino, &range)).await
    }

    async fn list_sessions(&self) -> Result<Vec<SessionRecord>> {
        self.reading(scan::sessions).await
    }

    async fn list_sustained(&self, sid: SessionId) -> Result<Vec<Ino>> {
        self.reading(|connection| scan::sustained(connection, sid)).await
    }

    async fn clean_session(&self, sid: SessionId) -> Result<()> {
        self.writing(false, move |connection| apply::clean_session(connection, sid)).await
    }

    async fn list_deleted(&self, before: i64, limit: usize) -> Result<Vec<(Ino, u64)>> {
        self.reading(|connection| scan::deleted(connection, before, limit)).await
    }

    async fn list_unreferenced(&self) -> Result<Vec<(SliceId, u32)>> {
        self.reading(scan::unreferenced).await
    }

    async fn list_delayed(&self, before: i64) -> Result<Vec<(SliceId, i64, Vec<(SliceId, u32)>)>> {
        self.reading(|connection| scan::delayed(connection, before)).await
    }

    async fn list_quotas(&self) -> Result<Vec<(Ino, Quota)>> {
        self.reading(scan::quotas).await
    }

    async fn list_owner_quotas(&self) -> Result<Vec<(Principal, Quota)>> {
        self.reading(scan::owner_quotas).await
    }

    async fn list_acls(&self) -> Result<Vec<(u32, AclRule)>> {
        self.reading(scan::acls).await
    }

    async fn list_detached(&self) -> Result<Vec<(Ino, i64)>> {
        self.reading(scan::detached).await
    }

    async fn list_locks(&self, sid: SessionId) -> Result<Vec<(LockTable, Ino)>> {
        self.reading(|connection| locks::of_session(connection, sid)).await
    }

    async fn scan_attrs(&self, from: Cursor, limit: usize) -> Result<Page<(Ino, Attr)>> {
        self.reading(|connection| scan::all_attrs(connection, &from, limit)).await
    }

    async fn scan_chunks(&self, from: Cursor, limit: usize) -> Result<Page<(Ino, u32, Vec<Slice>)>> {
        self.reading(|connection| scan::all_chunks(connection, &from, limit)).await
    }

    async fn scan_slice_refs(&self, from: Cursor, limit: usize) -> Result<Page<(SliceId, u32, i64)>> {
        self.reading(|connection| scan::all_slice_refs(connection, &from, limit)).await
    }

    async fn sync(&self) -> Result<()> {
        self.writing(true, |_connection| Ok(())).await
    }

    async fn initialize(&self) -> Result<()> {
        self.writing(true, schema::create).await
    }

    async fn erase(&self) -> Result<()> {
        self.writing(true, schema::empty).await
    }
}

#[cfg(test)]
mod tests;
