//! The connection that writes. Its thread runs all waiting transactions in one SQLite transaction and commits them
//! together; a lone one runs without the thread.
//!
//! Works are restartable, so a batch in which one work fails half-way is rolled back and its works run one by one.
//! Nobody is answered before the commit, also not with a failure: what a body saw may be rolled back.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use rusqlite::Connection;
use stead_base::failpoint;
use tokio::sync::oneshot;

use super::checkpoint::{self, Checkpointer};
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

/// The writing connection and its thread, which ends when this is dropped.
///
/// The work of a lone caller runs at once on its thread: handing it over and back would take longer than the work. What
/// may wait (for a sync, for another process) is the thread's, and so is what can share a commit.
#[derive(Debug)]
pub(super) struct Writer {
    orders: mpsc::Sender<Order>,
    state: Arc<Mutex<State>>,
    /// Callers inside [`Writer::submit`].
    callers: AtomicUsize,
}

impl Writer {
    pub(super) fn start(
        connection: Connection,
        retry_for: Duration,
        checkpointer: Checkpointer,
    ) -> Result<Self, Error> {
        let state = State { connection, checkpointer, retry_for, syncing: false, unsynced: true, seen: 0, copied: 0 };
        let state = Arc::new(Mutex::new(state));
        let (orders, inbox) = mpsc::channel();
        let thread = WriterThread { state: Arc::clone(&state), inbox };
        let spawned = std::thread::Builder::new().name("sqlite-writer".to_owned()).spawn(move || thread.serve());
        spawned.map_err(|error| gone(&error.to_string()))?;
        Ok(Self { orders, state, callers: AtomicUsize::new(0) })
    }

    /// Runs `work` in a transaction and returns once it is committed.
    pub(super) async fn submit(&self, durable: bool, mut work: Work) -> Answer {
        let caller = Caller::enter(&self.callers);
        if !durable
            && caller.alone
            && let Some(answer) = self.at_once(&mut work)
        {
            return answer;
        }
        let (reply, answer) = oneshot::channel();
        let order = Order { work, durable, since: Instant::now(), reply };
        if self.orders.send(order).is_err() {
            return Err(Fault::Meta(gone("it has ended")));
        }
        answer.await.unwrap_or_else(|_| Err(Fault::Meta(gone("it gave no answer"))))
    }

    /// The answer of a work for which nobody has to wait.
    fn at_once(&self, work: &mut Work) -> Option<Answer> {
        self.state.try_lock()?.alone(work)
    }
}

/// Counts a caller as long as it waits, also if it is cancelled.
struct Caller<'a> {
    callers: &'a AtomicUsize,
    alone: bool,
}

impl<'a> Caller<'a> {
    fn enter(callers: &'a AtomicUsize) -> Self {
        let alone = callers.fetch_add(1, Ordering::Relaxed) == 0;
        Self { callers, alone }
    }
}

impl Drop for Caller<'_> {
    fn drop(&mut self) {
        self.callers.fetch_sub(1, Ordering::Relaxed);
    }
}

fn gone(why: &str) -> Error {
    Error::Engine { engine: "SQLite writer".to_owned(), why: why.to_owned() }
}

struct WriterThread {
    state: Arc<Mutex<State>>,
    inbox: mpsc::Receiver<Order>,
}

impl WriterThread {
    fn serve(self) {
        while let Ok(first) = self.inbox.recv() {
            let batch = std::iter::once(first).chain(self.inbox.try_iter().take(BATCH - 1)).collect();
            self.state.lock().commit(batch);
        }
    }
}

#[derive(Debug)]
struct State {
    connection: Connection,
    checkpointer: Checkpointer,
    retry_for: Duration,
    /// Whether the connection syncs at each commit.
    syncing: bool,
    /// Whether there are commits of ours that no sync has covered.
    unsynced: bool,
    /// SQLite's data version at the last sync: it moves with the commits of others.
    seen: i64,
    /// Rows that had been changed when the log was last to be copied.
    copied: u64,
}

impl State {
    /// Runs and commits one work, `None` when another process is writing.
    fn alone(&mut self, work: &mut Work) -> Option<Answer> {
        match self.exec("BEGIN IMMEDIATE") {
            Err(fault) if fault.is_busy() => return None,
            Err(fault) => return Some(Err(fault)),
            Ok(()) => {}
        }
        let answer = run(&self.connection, work).and_then(|answer| {
            failpoint::hit("meta.sqlite.before-commit");
            self.exec("COMMIT")?;
            self.unsynced = true;
            self.committed();
            Ok(answer)
        });
        Some(answer.unwrap_or_else(|fault| {
            self.roll_back();
            Err(fault)
        }))
    }

    fn committed(&mut self) {
        let changed = self.connection.total_changes();
        if changed - self.copied >= checkpoint::ROWS {
            self.copied = changed;
            self.checkpointer.ask();
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
        failpoint::hit("meta.sqlite.before-commit");
        self.exec("COMMIT")?;
        self.unsynced &= !durable;
        self.committed();
        self.stop_syncing();
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

    /// Without this, later commits would sync for nothing; it must not turn a commit that succeeded into an error.
    fn stop_syncing(&mut self) {
        let _ = self.set_syncing(false);
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

    fn roll_back(&mut self) {
        // Some errors have rolled back already; a failure to roll back is reported by the next BEGIN.
        if !self.connection.is_autocommit() {
            let _ = self.exec("ROLLBACK");
        }
        self.stop_syncing();
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
