//! The engine as the file system calls it: what somebody waits for is counted here, and nowhere else.

use std::future::Future;
use std::ops::Deref;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use stead_base::{Distribution, Histogram, Ino};

use crate::error::Result;
use crate::records::{Attr, Counter, Entry, Key, Name, Record};
use crate::store::{Cursor, Listed, Page, Step, Store, TxOptions, Txn, transact};

/// A kind of call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Call {
    /// Reads and changes records as a whole; restarts are part of it.
    Transaction,
    /// Reads records.
    Read,
    /// Finds a name and its attributes.
    Lookup,
    /// Reads a page of a directory.
    List,
    /// Takes numbers for inodes or slices.
    Allocate,
    /// Makes commits survive a power failure.
    Sync,
}

impl Call {
    /// All kinds.
    pub const ALL: [Self; 6] = [Self::Transaction, Self::Read, Self::Lookup, Self::List, Self::Allocate, Self::Sync];

    /// What the metrics call it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Transaction => "transaction",
            Self::Read => "read",
            Self::Lookup => "lookup",
            Self::List => "list",
            Self::Allocate => "allocate",
            Self::Sync => "sync",
        }
    }
}

/// How often the engine was called, and how long that took: round trips, retries and waiting for a lost engine included.
#[derive(Debug)]
pub struct CallStats {
    times: [Histogram; Call::ALL.len()],
    restarts: AtomicU64,
}

impl CallStats {
    fn new() -> Self {
        Self { times: Call::ALL.map(|_call| Histogram::of_seconds(1e-4, 1.5, 30)), restarts: AtomicU64::new(0) }
    }

    /// The times of one kind of call, in seconds.
    pub fn times(&self, call: Call) -> Distribution {
        self.times[call as usize].distribution()
    }

    /// Commits that were refused because somebody else had changed a record meanwhile.
    pub fn restarts(&self) -> u64 {
        self.restarts.load(Ordering::Relaxed)
    }
}

/// A [`Store`] whose calls are counted. Those that only background work makes go through as they are.
#[derive(Debug)]
pub(crate) struct Timed {
    store: Arc<dyn Store>,
    stats: Arc<CallStats>,
}

impl Deref for Timed {
    type Target = Arc<dyn Store>;

    fn deref(&self) -> &Self::Target {
        &self.store
    }
}

impl Timed {
    pub(crate) fn new(store: Arc<dyn Store>) -> Self {
        Self { store, stats: Arc::new(CallStats::new()) }
    }

    pub(crate) fn stats(&self) -> &CallStats {
        &self.stats
    }

    pub(crate) async fn transact<T: Send + 'static>(
        &self,
        mut body: impl FnMut(&mut Txn<'_>) -> Step<T> + Send + 'static,
    ) -> Result<T> {
        let stats = Arc::clone(&self.stats);
        let mut committing = false;
        let body = move |txn: &mut Txn<'_>| {
            stats.restarts.fetch_add(u64::from(committing), Ordering::Relaxed);
            let ended = body(txn);
            committing = ended.is_ok() && txn.has_writes();
            ended
        };
        self.timed(Call::Transaction, transact(self.store.as_ref(), TxOptions::default(), body)).await
    }

    pub(crate) async fn read(&self, keys: &[Key]) -> Result<Vec<Option<Record>>> {
        self.timed(Call::Read, self.store.read(keys)).await
    }

    pub(crate) async fn lookup(&self, parent: Ino, name: &Name) -> Result<Option<(Entry, Option<Attr>)>> {
        self.timed(Call::Lookup, self.store.lookup(parent, name)).await
    }

    pub(crate) async fn list_entries(
        &self,
        dir: Ino,
        with_attrs: bool,
        from: Cursor,
        limit: usize,
    ) -> Result<Page<Listed>> {
        self.timed(Call::List, self.store.list_entries(dir, with_attrs, from, limit)).await
    }

    pub(crate) async fn allocate(&self, counter: Counter, count: u64) -> Result<u64> {
        self.timed(Call::Allocate, self.store.allocate(counter, count)).await
    }

    pub(crate) async fn sync(&self) -> Result<()> {
        self.timed(Call::Sync, self.store.sync()).await
    }

    async fn timed<T>(&self, call: Call, work: impl Future<Output = T>) -> T {
        let begun = Instant::now();
        let done = work.await;
        self.stats.times[call as usize].note_time(begun.elapsed());
        done
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;

    use super::*;
    use crate::memory::MemoryStore;
    use crate::records::Write;

    fn timed(store: MemoryStore) -> Timed {
        Timed::new(Arc::new(store))
    }

    #[tokio::test]
    async fn each_kind_of_call_is_counted() {
        let store = timed(MemoryStore::new());
        store.read(&[Key::Setting]).await.unwrap();
        store.lookup(Ino::ROOT, &Name::entry(b"x").unwrap()).await.unwrap();
        store.list_entries(Ino::ROOT, false, Cursor::default(), 10).await.unwrap();
        store.allocate(Counter::NextInode, 1).await.unwrap();
        store.sync().await.unwrap();
        store.transact(|_txn| Ok(())).await.unwrap();
        for call in Call::ALL {
            let times = store.stats().times(call);
            assert!(times.count == 1 && times.sum > 0.0, "{call:?}: {times:?}");
        }
        assert_eq!(store.stats().restarts(), 0);
    }

    #[tokio::test]
    async fn only_a_refused_commit_is_a_restart() {
        let memory = Arc::new(MemoryStore::remote());
        let store = Timed::new(Arc::clone(&memory) as Arc<dyn Store>);
        let add = |txn: &mut Txn<'_>| {
            txn.write(Write::AddCounter(Counter::UsedSpace, 1));
            Ok(())
        };
        let read_and_add = |mut interfere: bool| {
            let memory = Arc::clone(&memory);
            move |txn: &mut Txn<'_>| {
                txn.prime(&[Key::Counter(Counter::UsedSpace)])?;
                if std::mem::take(&mut interfere) {
                    let other = transact(&*memory, TxOptions::default(), add).now_or_never();
                    other.expect("it has nothing to fetch").expect("committed");
                }
                add(txn)
            }
        };
        store.transact(read_and_add(false)).await.unwrap();
        assert_eq!(store.stats().restarts(), 0, "a fetch is no restart");
        store.transact(read_and_add(true)).await.unwrap();
        assert_eq!(store.stats().restarts(), 1);
        assert_eq!(store.stats().times(Call::Transaction).count, 2);
    }
}
