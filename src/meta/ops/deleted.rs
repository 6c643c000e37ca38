//! The data of deleted files: chunk lists go with their slice references, slices that nobody refers to go with their
//! blocks (format.md §2.6, §2.10). Each step can be repeated, so a death in between loses nothing but time.

use std::collections::{BTreeMap, HashSet, VecDeque};
use std::sync::Arc;

use futures::future::{self, try_join};
use futures::stream::{self, StreamExt, TryStreamExt};
use parking_lot::Mutex;
use stead_base::{Ino, SliceId, failpoint};
use tokio::sync::Semaphore;
use tokio::time::sleep;
use tracing::{debug, warn};

use crate::error::{Error, Result};
use crate::records::{CHUNK_SIZE, Key, Record, Slice, Write};
use crate::store::Txn;

use super::{Meta, SliceRemover};

/// A file that was cut has chunk lists beyond its end: so many more are looked for.
const CHUNKS_BEYOND: u32 = 16;
/// The data of a file with at most so many chunks goes at once.
const FEW_CHUNKS: u32 = 16;
/// Deleted files that are looked at together.
const MOST_FILES: usize = 10_000_000;
/// Files that are removed at the same time when somebody waits for it, and slices of which each is removed by itself.
const PARALLEL: usize = 32;

/// Small files, or slices, that are removed together.
pub(super) const BATCH: usize = 64;
/// Batches at the same time, if there are so many files.
const BATCHES: usize = 4;

/// The data that is being removed.
#[derive(Debug)]
pub(super) struct Deletes {
    /// For large files, one each.
    permits: Semaphore,
    waiting: Mutex<Waiting>,
}

/// Small files that wait, and how many tasks take them.
#[derive(Debug, Default)]
struct Waiting {
    files: VecDeque<(Ino, u64)>,
    takers: usize,
}

impl Deletes {
    pub(super) fn new(most: usize) -> Self {
        Self { permits: Semaphore::new(most.min(Semaphore::MAX_PERMITS)), waiting: Mutex::default() }
    }

    /// True: the caller has to start one more task that takes files until there are none.
    fn add(&self, file: (Ino, u64)) -> bool {
        let mut waiting = self.waiting.lock();
        waiting.files.push_back(file);
        let more = waiting.takers == 0 || (waiting.takers < BATCHES && waiting.files.len() > waiting.takers * BATCH);
        waiting.takers += usize::from(more);
        more
    }

    fn has_batch(&self) -> bool {
        self.waiting.lock().files.len() >= BATCH
    }

    /// The next ones. With `None`, the task that asks is done: there are none, or others take what is less than a batch.
    fn take(&self) -> Option<Vec<(Ino, u64)>> {
        let mut waiting = self.waiting.lock();
        if waiting.takers > 1 && waiting.files.len() < BATCH {
            waiting.takers -= 1;
            return None;
        }
        let batch: Vec<_> = {
            let count = waiting.files.len().min(BATCH);
            waiting.files.drain(..count).collect()
        };
        if batch.is_empty() {
            waiting.takers -= 1;
            return None;
        }
        Some(batch)
    }
}

fn chunks(length: u64) -> u32 {
    u32::try_from(length.div_ceil(CHUNK_SIZE)).unwrap_or(u32::MAX)
}

impl Meta {
    /// Removes the data of a file that has just been deleted. What is not done when the client ends is left to the
    /// hourly job of any client. Small files that are deleted meanwhile go together: each then costs a share of three
    /// round trips, not three.
    pub(super) fn delete_in_background(&self, ino: Ino, length: u64) {
        let Some(me) = self.me.upgrade() else { return };
        if self.options.max_deletes == 0 || self.remover.read().is_none() {
            return;
        }
        let stopping = self.tasks.stopping();
        let work = async move {
            let work = async {
                if chunks(length) > FEW_CHUNKS {
                    let _turn = me.deletes.permits.acquire().await;
                    me.report(ino, me.delete_data(ino, length).await);
                } else {
                    me.delete_waiting().await;
                }
            };
            tokio::select! {
                biased;
                () = stopping.cancelled() => {}
                () = work => {}
            }
        };
        if chunks(length) > FEW_CHUNKS || self.deletes.add((ino, length)) {
            self.tasks.spawn("delete", work);
        }
    }

    /// Removes the data of the small files that wait for it, until none does. What is less than a batch waits for more.
    async fn delete_waiting(&self) {
        let delay = self.options.delete_delay;
        loop {
            if !delay.is_zero() && !self.deletes.has_batch() {
                sleep(delay).await;
            }
            let Some(batch) = self.deletes.take() else { return };
            if batch.len() > 1 && self.delete_few(&batch).await.is_ok() {
                continue;
            }
            for (ino, length) in batch {
                self.report(ino, self.delete_few(&[(ino, length)]).await);
            }
        }
    }

    fn report(&self, ino: Ino, done: Result<()>) {
        if let Err(error) = done {
            warn!(%ino, %error, "cannot remove the data of a deleted file yet");
        }
    }

    /// Removes all data of a deleted file; its mark goes last.
    pub(super) async fn delete_data(&self, ino: Ino, length: u64) -> Result<()> {
        let end = chunks(length);
        if end <= FEW_CHUNKS {
            return self.delete_few(&[(ino, length)]).await;
        }
        let range = 0..end.saturating_add(CHUNKS_BEYOND);
        for index in self.store.list_chunks(ino, range).await? {
            self.delete_chunk(ino, index).await?;
        }
        failpoint::hit("meta.delete.before-unmark");
        self.transact(move |txn| {
            txn.write(Write::DelDeleted(ino, length));
            Ok(())
        })
        .await
    }

    /// [`Meta::delete_data`] of files with few chunks: one transaction for all lists, and one for all marks.
    pub(super) async fn delete_few(&self, files: &[(Ino, u64)]) -> Result<()> {
        let present = self.lists_of(files).await?;
        let dropped = if present.is_empty() { Vec::new() } else { self.drop_lists(present).await? };
        let mut gone = Vec::new();
        if !dropped.is_empty() {
            self.store.sync().await?;
            gone = self.remove_blocks(&dropped).await;
        }
        failpoint::hit("meta.delete.before-unmark");
        let files = files.to_vec();
        self.transact(move |txn| {
            for (id, size) in &gone {
                txn.write(Write::ForgetSlice(*id, *size));
            }
            for (ino, length) in &files {
                txn.write(Write::DelDeleted(*ino, *length));
            }
            Ok(())
        })
        .await
    }

    /// The chunk lists that deleted files have; where there will be some they are read, for the transaction that follows.
    async fn lists_of(&self, files: &[(Ino, u64)]) -> Result<Vec<(Ino, u32)>> {
        let within = |(ino, length): &(Ino, u64)| (0..chunks(*length)).map(|index| (*ino, index)).collect::<Vec<_>>();
        let likely = files.iter().flat_map(within).collect::<Vec<_>>();
        let keys: Vec<Key> = likely.iter().map(|(ino, index)| Key::Chunk(*ino, *index)).collect();
        let beyond = |(ino, length): &(Ino, u64)| (*ino, chunks(*length)..chunks(*length) + CHUNKS_BEYOND);
        let beyond: Vec<_> = files.iter().map(beyond).collect();
        let (lists, beyond) = try_join(self.store.read(&keys), self.store.list_chunks_of(&beyond)).await?;
        let present = likely.into_iter().zip(&lists).filter_map(|(chunk, list)| list.is_some().then_some(chunk));
        Ok(present.chain(beyond).collect())
    }

    /// Removes chunk lists with their references. Returns the slices that nobody refers to any more: nobody ever will.
    async fn drop_lists(&self, lists: Vec<(Ino, u32)>) -> Result<Vec<(SliceId, u32)>> {
        let body = move |txn: &mut Txn<'_>| {
            txn.prime(&lists.iter().map(|(ino, index)| Key::Chunk(*ino, *index)).collect::<Vec<_>>())?;
            let mut slices = Vec::new();
            for (ino, index) in &lists {
                slices.extend(txn.slices(*ino, *index)?.unwrap_or_default());
                txn.write(Write::DelChunk(*ino, *index));
            }
            let used = references(slices.iter());
            release_references(txn, &used);
            let mut dropped = Vec::new();
            for ((id, size), count) in used {
                if txn.slice_refs(id, size)? <= count {
                    dropped.push((id, size));
                }
            }
            Ok(dropped)
        };
        failpoint::hit("meta.delete.before-chunk");
        let dropped = self.transact(body).await?;
        failpoint::hit("meta.delete.after-chunk");
        Ok(dropped)
    }

    pub(super) async fn delete_chunk(&self, ino: Ino, index: u32) -> Result<()> {
        let body = move |txn: &mut Txn<'_>| {
            let slices = txn.slices(ino, index)?.unwrap_or_default();
            txn.write(Write::DelChunk(ino, index));
            let used = references(slices.iter());
            release_references(txn, &used);
            Ok(used.into_keys().collect::<Vec<_>>())
        };
        failpoint::hit("meta.delete.before-chunk");
        let dropped = self.transact(body).await?;
        failpoint::hit("meta.delete.after-chunk");
        self.remove_unreferenced(&dropped).await
    }

    /// Files that were removed until now and whose data is not gone yet, whoever removed them: (inode, length).
    ///
    /// # Errors
    /// Those of the engine.
    pub async fn deleted_files(&self) -> Result<HashSet<(Ino, u64)>> {
        Ok(self.store.list_deleted(self.now().secs, MOST_FILES).await?.into_iter().collect())
    }

    /// Removes the data of all files that were removed until now, `but` those given, and of all slices that nobody
    /// refers to, and waits until it is gone. Returns how many slices could not be removed; the hourly job tries them
    /// again.
    ///
    /// # Errors
    /// Those of the engine; [`Error::NotSupported`] for a client that does not know where the data is.
    pub async fn finish_deletions(&self, but: &HashSet<(Ino, u64)>) -> Result<usize> {
        if self.remover.read().is_none() {
            return Err(Error::NotSupported { what: "removing data without an object store" });
        }
        let files = self.deleted_files().await?;
        let files = stream::iter(files.into_iter().filter(|file| !but.contains(file)).map(Ok));
        files.try_for_each_concurrent(PARALLEL, |(ino, length)| self.delete_data(ino, length)).await?;
        // Those that are just being removed are among them: to remove them twice is the way to know when they are gone.
        let pending = self.store.list_unreferenced().await?;
        let batches = pending.chunks(BATCH).map(<[_]>::to_vec).map(async |some| self.remove_slices(&some).await);
        let removed = stream::iter(batches).buffer_unordered(BATCHES);
        let removed = removed.try_fold(0, |sum, gone| future::ok(sum + gone)).await?;
        Ok(pending.len() - removed)
    }

    /// Removes those of `slices` that have no reference left, once no power failure can bring back the records that
    /// referred to them.
    pub(super) async fn remove_unreferenced(&self, slices: &[(SliceId, u32)]) -> Result<()> {
        if slices.is_empty() {
            return Ok(());
        }
        self.store.sync().await?;
        let keys: Vec<Key> = slices.iter().map(|(id, size)| Key::SliceRef(*id, *size)).collect();
        let refs = self.store.read(&keys).await?;
        let is_unused = |refs: &Option<Record>| matches!(refs, Some(Record::Number(count)) if *count <= 0);
        let unused = slices.iter().zip(refs).filter_map(|(slice, refs)| is_unused(&refs).then_some(*slice));
        self.remove_slices(&unused.collect::<Vec<_>>()).await.map(drop)
    }

    /// Removes the blocks of slices, then what is known of them. Returns how many are gone: the others stay "pending delete".
    pub(super) async fn remove_slices(&self, slices: &[(SliceId, u32)]) -> Result<usize> {
        let gone = self.remove_blocks(slices).await;
        if gone.is_empty() {
            return Ok(0);
        }
        self.transact(move |txn| {
            for (id, size) in &gone {
                txn.write(Write::ForgetSlice(*id, *size));
            }
            Ok(gone.len())
        })
        .await
    }

    /// Returns those whose blocks are gone.
    async fn remove_blocks(&self, slices: &[(SliceId, u32)]) -> Vec<(SliceId, u32)> {
        let Some(remover) = self.remover.read().clone() else {
            return Vec::new();
        };
        let mut gone = Vec::new();
        for some in slices.chunks(BATCH) {
            gone.extend(remove_some(&remover, some).await);
            failpoint::hit("meta.delete.after-blocks");
        }
        gone
    }
}

/// Those whose blocks are gone.
async fn remove_some(remover: &Arc<dyn SliceRemover>, slices: &[(SliceId, u32)]) -> Vec<(SliceId, u32)> {
    if slices.len() > 1 {
        match remover.remove_slices(slices).await {
            Ok(()) => return slices.to_vec(),
            Err(why) => debug!(slices = slices.len(), why, "cannot remove slices together"),
        }
    }
    // Each by itself: one that cannot be removed keeps no other.
    let each = slices.iter().copied().map(|slice| remove_one(Arc::clone(remover), slice));
    stream::iter(each).buffer_unordered(PARALLEL).filter_map(future::ready).collect().await
}

/// The slice, when its blocks are gone.
async fn remove_one(remover: Arc<dyn SliceRemover>, slice: (SliceId, u32)) -> Option<(SliceId, u32)> {
    if let Err(why) = remover.remove_slices(&[slice]).await {
        let (id, size) = slice;
        warn!(slice = %id, size, why, "cannot remove the blocks of a slice yet");
        return None;
    }
    Some(slice)
}

/// How often each slice is used.
pub(super) fn references<'s>(slices: impl Iterator<Item = &'s Slice>) -> BTreeMap<(SliceId, u32), i64> {
    let mut used = BTreeMap::new();
    for slice in slices.filter(|slice| !slice.id.is_hole()) {
        *used.entry((slice.id, slice.size)).or_default() += 1;
    }
    used
}

/// Adds as many references of each slice.
pub(super) fn add_references(txn: &mut Txn<'_>, used: &BTreeMap<(SliceId, u32), i64>) {
    for ((id, size), count) in used {
        txn.write(Write::AddSliceRef(*id, *size, *count));
    }
}

fn release_references(txn: &mut Txn<'_>, used: &BTreeMap<(SliceId, u32), i64>) {
    for ((id, size), count) in used {
        txn.write(Write::AddSliceRef(*id, *size, -count));
    }
}

/// Takes one reference of each of `slices` away.
pub(super) fn release_each(txn: &mut Txn<'_>, slices: &[(SliceId, u32)]) {
    for (id, size) in slices.iter().filter(|(id, _size)| !id.is_hole()) {
        txn.write(Write::AddSliceRef(*id, *size, -1));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_less_than_a_batch_is_left_to_one_task() {
        let deletes = Deletes::new(1);
        let file = |n: usize| (Ino(n as u64 + 2), 1);
        let begun = (0..BATCHES * BATCH).filter(|n| deletes.add(file(*n))).count();
        assert_eq!(begun, BATCHES);
        for _ in 0..BATCHES {
            assert_eq!(deletes.take().map(|batch| batch.len()), Some(BATCH));
        }
        assert!(!deletes.add(file(0)), "there are tasks");
        for _ in 1..BATCHES {
            assert_eq!(deletes.take(), None, "others are there");
        }
        assert_eq!(deletes.take(), Some(vec![file(0)]));
        assert_eq!(deletes.take(), None);
        assert!(deletes.add(file(1)), "the last one has ended");
    }
}
