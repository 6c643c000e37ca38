//! Write-back staging: blocks wait on the local disk and are uploaded behind the writer's back, the oldest first.
//!
//! A record may then name a block that only this machine has: other clients get an error for it until it is uploaded. What
//! a killed process leaves is found and uploaded by the next one that uses the cache directory, with or without staging.

use std::collections::{BTreeMap, HashMap};
use std::io;
use std::sync::{Arc, Weak};
use std::time::Duration;

use bytes::Bytes;
use parking_lot::Mutex;
use stead_base::failpoint;
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore, oneshot};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use crate::block::BlockId;
use crate::config::Writeback;
use crate::disk::{DiskCache, Unusable};
use crate::store::ChunkStore;
use crate::usage::Counter;
use crate::{Error, Result};

/// Blocks written to the local disk at the same time.
const WRITES: usize = 16;
/// After a failed upload the store is left alone, and a directory that could not be read, for longer with each failure in
/// a row.
const LONGEST_PAUSE: Duration = Duration::from_secs(60);

/// The blocks that are staged and not uploaded.
#[derive(Debug)]
pub(crate) struct Staging {
    /// `None`: nothing new is staged.
    writeback: Option<Writeback>,
    queue: Mutex<Queue>,
    changed: Notify,
    writes: Semaphore,
    stop: CancellationToken,
    delayed_ms: Counter,
    pub(crate) errors: Counter,
    pub(crate) written: Counter,
}

#[derive(Debug, Default)]
struct Queue {
    last: u64,
    /// By number, the oldest first; what is being uploaded is not among them.
    waiting: BTreeMap<u64, Staged>,
    /// All of them, also those being uploaded.
    numbers: HashMap<BlockId, u64>,
    bytes: u64,
    /// Of the store.
    trouble: Option<Trouble>,
    /// Of cache directories, by their number.
    unreadable: HashMap<usize, Trouble>,
}

/// Failures in a row.
#[derive(Clone, Copy, Debug)]
struct Trouble {
    failures: u32,
    until: Instant,
    /// One block tries whether it is over.
    tried: bool,
}

impl Trouble {
    fn after(former: Option<Self>) -> Self {
        let failures = former.map_or(1, |former| former.failures + 1);
        let pause = Duration::from_secs(1 << failures.min(6)).min(LONGEST_PAUSE);
        Self { failures, until: Instant::now() + pause, tried: false }
    }
}

#[derive(Clone, Copy, Debug)]
struct Staged {
    block: BlockId,
    /// The number of the directory that it lies in.
    dir: usize,
    since: Instant,
    /// Upload without delay.
    hurry: bool,
}

/// What is to be done now.
enum Next {
    Upload(u64, Staged),
    Wait(Duration),
    Nothing,
}

impl Staging {
    pub(crate) fn new(writeback: Option<Writeback>) -> Arc<Self> {
        Arc::new(Self {
            writeback,
            queue: Mutex::default(),
            changed: Notify::new(),
            writes: Semaphore::new(WRITES),
            stop: CancellationToken::new(),
            delayed_ms: Counter::default(),
            errors: Counter::default(),
            written: Counter::default(),
        })
    }

    /// Whether a block of this length is to be staged.
    pub(crate) fn wants(&self, len: u32) -> bool {
        let wanted = |writeback: &Writeback| writeback.threshold == 0 || u64::from(len) < writeback.threshold;
        self.writeback.as_ref().is_some_and(wanted)
    }

    /// Blocks and bytes that wait or are being uploaded.
    pub(crate) fn size(&self) -> (u64, u64) {
        let queue = self.queue.lock();
        (queue.numbers.len() as u64, queue.bytes)
    }

    /// `staging_writing_blocks`.
    pub(crate) fn writing(&self) -> u64 {
        (WRITES - self.writes.available_permits()) as u64
    }

    /// `staging_block_delay_seconds`.
    pub(crate) fn delay_seconds(&self) -> u64 {
        self.delayed_ms.get() / 1000
    }

    pub(crate) fn stop(&self) {
        self.stop.cancel();
    }

    /// Whether a block waits or is being uploaded.
    pub(crate) fn holds(&self, block: BlockId) -> bool {
        self.queue.lock().numbers.contains_key(&block)
    }

    fn add(&self, block: BlockId, dir: usize, hurry: bool) {
        let mut queue = self.queue.lock();
        if !queue.numbers.contains_key(&block) {
            queue.last += 1;
            let number = queue.last;
            queue.numbers.insert(block, number);
            queue.bytes += u64::from(block.len);
            queue.waiting.insert(number, Staged { block, dir, since: Instant::now(), hurry });
        }
        drop(queue);
        self.changed.notify_one();
    }

    /// Takes a block out; whether it was there.
    fn forget(&self, block: BlockId) -> bool {
        let mut queue = self.queue.lock();
        let Some(number) = queue.numbers.remove(&block) else { return false };
        queue.waiting.remove(&number);
        queue.bytes -= u64::from(block.len);
        true
    }

    /// The disk is full: what waits for its time waits no longer.
    fn hurry(&self) {
        self.queue.lock().waiting.values_mut().for_each(|staged| staged.hurry = true);
        self.changed.notify_one();
    }

    fn next(&self) -> Next {
        let mut queue = self.queue.lock();
        let now = Instant::now();
        if let Some(trouble) = queue.trouble.filter(|trouble| trouble.until > now) {
            return Next::Wait(trouble.until - now);
        }
        let is_left_alone = |dir| queue.unreadable.get(&dir).is_some_and(|trouble: &Trouble| trouble.until > now);
        let first = queue.waiting.iter().find(|(_, staged)| !is_left_alone(staged.dir));
        let Some((number, staged)) = first.map(|(&number, &staged)| (number, staged)) else {
            return queue.first_end(now).map_or(Next::Nothing, Next::Wait);
        };
        let wait = if staged.hurry { Duration::ZERO } else { self.wait_of(staged, now) };
        if wait > Duration::ZERO {
            return Next::Wait(queue.first_end(now).map_or(wait, |end| end.min(wait)));
        }
        // One block tries, the others of its directory wait for what becomes of it.
        if let Some(trouble) = queue.unreadable.get_mut(&staged.dir) {
            (trouble.until, trouble.tried) = (now + LONGEST_PAUSE, true);
        }
        queue.waiting.remove(&number);
        Next::Upload(number, staged)
    }

    fn wait_of(&self, staged: Staged, now: Instant) -> Duration {
        let Some(writeback) = &self.writeback else { return Duration::ZERO };
        let delay = (staged.since + writeback.delay).saturating_duration_since(now);
        delay.max(writeback.hours.as_ref().map_or(Duration::ZERO, |hours| hours.until_open(&*writeback.clock)))
    }

    fn failed(&self, number: u64, staged: Staged) {
        let mut queue = self.queue.lock();
        queue.trouble = Some(Trouble::after(queue.trouble));
        queue.put_back(number, staged);
        drop(queue);
        self.errors.add(1);
        self.changed.notify_one();
    }

    fn succeeded(&self, staged: Staged) {
        self.queue.lock().trouble = None;
        self.delayed_ms.add(u64::try_from(staged.since.elapsed().as_millis()).unwrap_or(u64::MAX));
    }

    /// The directory of a block could not be read: the others go on.
    fn unreadable(&self, number: u64, staged: Staged) {
        let mut queue = self.queue.lock();
        let former = queue.unreadable.get(&staged.dir).copied();
        // What was begun together fails together, and counts once.
        if former.is_none_or(|trouble| trouble.tried) {
            queue.unreadable.insert(staged.dir, Trouble::after(former));
        }
        queue.put_back(number, staged);
        drop(queue);
        self.errors.add(1);
        self.changed.notify_one();
    }

    fn readable(&self, staged: Staged) {
        if self.queue.lock().unreadable.remove(&staged.dir).is_some() {
            self.changed.notify_one();
        }
    }
}

impl Queue {
    fn put_back(&mut self, number: u64, staged: Staged) {
        if self.numbers.contains_key(&staged.block) {
            self.waiting.insert(number, Staged { hurry: true, ..staged });
        }
    }

    /// How long until the first of the directories that are left alone may be tried, if any block waits for it.
    fn first_end(&self, now: Instant) -> Option<Duration> {
        let ends = self.unreadable.values().filter(|trouble| trouble.until > now);
        ends.map(|trouble| trouble.until - now).min().filter(|_| !self.waiting.is_empty())
    }
}

/// Uploads what is staged until the store is closed. Holds the store only while there is something to do.
pub(crate) async fn drain(store: Weak<ChunkStore>, staging: Arc<Staging>, slots: Arc<Semaphore>) {
    if !recover(&store).await {
        return;
    }
    loop {
        let wait = match staging.next() {
            Next::Upload(number, staged) => {
                let slot = tokio::select! {
                    () = staging.stop.cancelled() => return,
                    slot = Arc::clone(&slots).acquire_owned() => slot,
                };
                let (Ok(slot), Some(store)) = (slot, store.upgrade()) else { return };
                store.tasks.clone().spawn(upload(store, number, staged, slot));
                continue;
            }
            Next::Wait(wait) => wait,
            Next::Nothing => Duration::MAX,
        };
        tokio::select! {
            () = staging.stop.cancelled() => return,
            () = staging.changed.notified() => {}
            () = tokio::time::sleep(wait) => {}
        }
    }
}

/// Looks for what an earlier process staged. `false`: the store is gone.
async fn recover(store: &Weak<ChunkStore>) -> bool {
    let Some(store) = store.upgrade() else { return false };
    if store.disk.is_off() {
        return true;
    }
    let looking = Arc::clone(&store);
    let found = store.runtime.spawn_blocking(move || looking.disk.find_staged()).await.unwrap_or_default();
    if !found.is_empty() {
        info!(blocks = found.len(), "blocks that an earlier mount staged are uploaded now");
    }
    found.into_iter().for_each(|block| store.staging.add(block, store.disk.number(block), true));
    true
}

/// The data of a block; `None` if there is nothing to be uploaded now.
async fn read(store: &ChunkStore, number: u64, staged: Staged) -> Option<Bytes> {
    let block = staged.block;
    let found = store.on_disk(move |disk| disk.staged_data(block)).await;
    let found = found.unwrap_or_else(|| Err(io::Error::from(io::ErrorKind::TimedOut).into()));
    let key = store.naming.key(block);
    match &found {
        Err(Unusable::Io(error)) if error.kind() != io::ErrorKind::NotFound => {
            warn!(key, %error, "a staged block cannot be read; it will be tried again");
            store.staging.unreadable(number, staged);
            return None;
        }
        _ => store.staging.readable(staged),
    }
    if let Err(Unusable::Damaged(why)) = &found {
        // It stays where it is for whoever can still make something of it.
        error!(key, why, "a staged block is damaged and cannot be uploaded: its data is lost");
        store.staging.errors.add(1);
    }
    if found.is_err() {
        // Damaged, or uploaded by another mount with this cache directory.
        store.staging.forget(block);
    }
    found.ok()
}

async fn upload(store: Arc<ChunkStore>, number: u64, staged: Staged, _slot: OwnedSemaphorePermit) {
    let block = staged.block;
    let key = store.naming.key(block);
    let Some(plain) = read(&store, number, staged).await else { return };
    let put = tokio::select! {
        () = store.staging.stop.cancelled() => return,
        put = store.put_durably(block, plain) => put,
    };
    match put {
        Ok(()) => {
            failpoint::hit("chunk.staged.before-unlink");
            store.staging.succeeded(staged);
            if store.staging.forget(block) {
                store.unstage(block).await;
            } else if let Err(error) = store.remove_blocks(&[block]).await {
                warn!(key, %error, "a block that was removed while it was uploaded is left behind");
            }
        }
        Err(error) => {
            warn!(key, %error, "a staged block cannot be uploaded; it will be tried again");
            store.staging.failed(number, staged);
        }
    }
}

impl ChunkStore {
    /// Puts a block where only this machine has it. `false`: it has to go to the store at once.
    pub(crate) async fn stage(self: &Arc<Self>, block: BlockId, plain: impl Fn() -> Option<Bytes>) -> bool {
        let Ok(_permit) = self.staging.writes.acquire().await else { return false };
        let Some(plain) = plain() else { return true };
        match self.write_staged(block, plain.clone()).await {
            Ok(()) => {
                if block.len < self.naming.block_size {
                    self.counters.evicts.add(self.memory.insert(block, plain));
                }
                self.staging.written.add(block.len.into());
                self.staging.add(block, self.disk.number(block), false);
                true
            }
            Err(error) => {
                if !self.disk.is_out_of_use(block) {
                    warn!(key = self.naming.key(block), %error, "cannot stage a block; it is uploaded at once");
                }
                self.staging.errors.add(1);
                self.staging.hurry();
                false
            }
        }
    }

    /// Nothing is left of what nobody waits for any longer.
    async fn write_staged(&self, block: BlockId, plain: Bytes) -> io::Result<()> {
        let (report, mut outcome) = oneshot::channel();
        let write = move |disk: &DiskCache| {
            if let Err(Ok(())) = report.send(disk.stage(block, &plain)) {
                disk.unstage(block);
            }
        };
        self.on_disk(write).await;
        outcome.close();
        outcome.try_recv().unwrap_or_else(|_nothing| Err(io::ErrorKind::TimedOut.into()))
    }

    /// Takes back what waits to be uploaded of a block.
    pub(crate) async fn cancel_staged(&self, block: BlockId) {
        if self.staging.forget(block) {
            self.unstage(block).await;
        }
    }

    async fn unstage(&self, block: BlockId) {
        // If the disk hangs, or the process ends, the next one uploads the block again.
        let _ = self.on_disk(move |disk| disk.unstage(block)).await;
    }

    /// In the store for good: whoever has fsynced the staged file was promised no less.
    async fn put_durably(&self, block: BlockId, plain: Bytes) -> Result<()> {
        failpoint::hit("chunk.staged.before-put");
        self.put(block, plain).await?;
        self.objects.sync().await.map_err(|source| Error::Sync { source })
    }

    pub(crate) async fn sync_staged(&self) -> Result<()> {
        if !self.disk.has_unsynced() {
            return Ok(());
        }
        let disk = Arc::clone(&self.disk);
        let synced = self.runtime.spawn_blocking(move || disk.sync_staged()).await;
        let why = match synced {
            Ok(Ok(())) => return Ok(()),
            Ok(Err(error)) => error.to_string(),
            Err(ended) => ended.to_string(),
        };
        Err(Error::Staging { why })
    }
}
