//! The thread that writes: it runs all waiting transactions in one SQLite transaction and commits them together.
//!
//! Works are restartable, so a batch in which one work fails half-way is rolled back and its works run one by one.
//! Nobody is answered before the commit, also not with a failure: what a body saw may be rolled back.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use rusqlite::Connection;
use tokio::sync::oneshot;

use super::fault::{Fault, Patience};
use crate::error::Error;
use crate::store::Outcome;

/// The most works in one commit: bounds how long the first one waits for the last.
const BATCH: usize = 256;

/// How a work failed.
#[derive(Debug)]
pub(super) enum Failure {
    /// Without having written anything.
    Clean(Error),
    /// Half-way: its writes must be rolled back.
    Dirty(Fault),
}

/// What runs inside a transaction; may run several times.
pub(super) type Work = Box<dyn FnMut(&Connection) -> Result<Outcome, Failure> + Send>;

type Answer = Result<Outcome, Fault>;

struct Order {
    work: Work,
    durable: bool,
    since: Instant,
    reply: oneshot::Sender<Answer>,
}

/// The handle of the thread, which ends when this is dropped.
#[derive(Debug)]
pub(super) struct Writer {
    orders: mpsc::Sender<Order>,
}

impl Writer {
    pub(super) fn start(connection: Connection, retry_for: Duration) -> Result<Self, Error> {
        let (orders, waiting) = mpsc::channel();
        let thread = WriterThread { connection, retry_for, syncing: false, unsynced: true, seen: 0 };
        let spawned =
            std::thread::Builder::new().name("sqlite-writer".to_owned()).spawn(move || thread.serve(&waiting));
        spawned.map_err(|error| gone(&error.to_string()))?;
        Ok(Self { orders })
    }

    /// Runs `work` in a transaction and returns once it is committed.
    pub(super) async fn submit(&self, durable: bool, work: Work) -> Answer {
        let (reply, answer) = oneshot::channel();
        let since = Instant::now();
        let order = Order { work, durable, since, reply };
        if self.orders.send(order).is_err() {
            return Err(Fault::Meta(gone("it has ended")));
        }
        answer.await.unwrap_or_else(|_| Err(Fault::Meta(gone("it gave no answer"))))
    }
}

fn gone(why: &str) -> Error {
    Error::Engine { engine: "SQLite writer".to_owned(), why: why.to_owned() }
}

struct WriterThread {
    connection: Connection,
    retry_for: Duration,
    /// Whether the connection syncs at each commit.
    syncing: bool,
    /// Whether there are commits of ours that no sync has covered.
    unsynced: bool,
    /// SQLite's data version at the last sync: it moves with the commits of others.
    seen: i64,
}

impl WriterThread {
    fn serve(mut self, orders: &mpsc::Receiver<Order>) {
        while let Ok(first) = orders.recv() {
            let mut batch = vec![first];
            batch.extend(orders.try_iter().take(BATCH - 1));
            self.commit(batch);
        }
    }

    fn commit(&mut self, mut batch: Vec<Order>) {
        match self.attempt(&mut batch) {
            Ok(answers) => {
                for (order, answer) in batch.into_iter().zip(answers) {
                    // Nobody waits any more for a cancelled operation.
                    let _ = order.reply.send(answer);
                }
            }
            Err(fault) => {
                self.roll_back();
                match <[Order; 1]>::try_from(batch) {
                    Ok([alone]) => drop(alone.reply.send(Err(fault))),
                    Err(batch) => batch.into_iter().for_each(|order| self.commit(vec![order])),
                }
            }
        }
    }

    /// Runs and commits the batch; after an error nothing of it must stay.
    fn attempt(&mut self, batch: &mut [Order]) -> Result<Vec<Answer>, Fault> {
        let durable = batch.iter().any(|order| order.durable);
        self.set_syncing(durable)?;
        self.begin(batch)?;
        let before = self.connection.total_changes();
        let answers =
            batch.iter_mut().map(|order| run(&self.connection, &mut order.work)).collect::<Result<Vec<_>, _>>()?;
        self.unsynced |= self.connection.total_changes() != before;
        if durable {
            self.force_sync()?;
        }
        self.exec("COMMIT")?;
        self.unsynced &= !durable;
        Ok(answers)
    }

    /// SQLite allows this outside of a transaction only.
    fn set_syncing(&mut self, syncing: bool) -> Result<(), Fault> {
        if self.syncing != syncing {
            self.connection.pragma_update(None, "synchronous", if syncing { "FULL" } else { "NORMAL" })?;
            self.syncing = syncing;
        }
        Ok(())
    }

    /// Takes the write lock, waiting for other processes as long as the oldest order may wait.
    fn begin(&self, batch: &[Order]) -> Result<(), Fault> {
        let waited = batch.first().map_or(Duration::ZERO, |oldest| oldest.since.elapsed());
        let mut patience = Patience::new(self.retry_for.saturating_sub(waited));
        loop {
            match self.exec("BEGIN IMMEDIATE") {
                Err(fault) if fault.is_busy() => match patience.next_wait() {
                    Some(wait) => std::thread::park_timeout(wait),
                    None => return Err(fault),
                },
                outcome => return outcome,
            }
        }
    }

    /// Makes the coming commit sync the log. A commit that changes no page would not, though earlier commits, of this
    /// or another process, may wait for a sync: storing the unused `user_version` once more changes a page.
    fn force_sync(&mut self) -> Result<(), Fault> {
        let version = self.connection.pragma_query_value(None, "data_version", |row| row.get(0))?;
        if self.unsynced || self.seen != version {
            let unused: i64 = self.connection.pragma_query_value(None, "user_version", |row| row.get(0))?;
            self.connection.pragma_update(None, "user_version", unused)?;
            self.seen = version;
            self.unsynced = true;
        }
        Ok(())
    }

    fn roll_back(&self) {
        // Some errors have rolled back already; a failure to roll back is reported by the next BEGIN.
        if !self.connection.is_autocommit() {
            let _ = self.exec("ROLLBACK");
        }
    }

    fn exec(&self, sql: &str) -> Result<(), Fault> {
        self.connection.prepare_cached(sql)?.execute([])?;
        Ok(())
    }
}

/// The answer of one work, or the fault that asks for a roll-back.
fn run(connection: &Connection, work: &mut Work) -> Result<Answer, Fault> {
    match catch_unwind(AssertUnwindSafe(|| work(connection))) {
        Ok(Ok(outcome)) => Ok(Ok(outcome)),
        Ok(Err(Failure::Clean(error))) => Ok(Err(Fault::Meta(error))),
        Ok(Err(Failure::Dirty(fault))) => Err(fault),
        Err(_panic) => Err(Fault::Meta(gone("a transaction's body panicked"))),
    }
}
