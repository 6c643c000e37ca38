//! What nobody refers to any more: blocks without a slice, files and slices that wait for their end, inodes without a name.
//!
//! Invariant: a block is only removed if it is older than the scan by the time that a client may need to commit it, and if a
//! second scan, after the listing, does not meet its slice either. After a scan that met records which do not decode,
//! nothing is removed for not being named.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use serde::Serialize;
use stead_base::{SliceId, Timestamp};
use stead_chunk::Naming;
use stead_meta::Meta;
use stead_meta::ops::{LeakAges, SliceRemover};
use stead_object::{ObjectStore, delete_all};

use crate::blocks::{self, Found, Use};
use crate::error::Result;
use crate::open::Opened;
use crate::progress::{Progress, Unit};

/// Blocks that are looked at once more and removed together.
const BATCH: usize = 10_000;
/// Calls at the same time that remove the blocks of slices.
const PARALLEL: usize = 16;

/// What is to be done.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// Remove what is found; otherwise only tell.
    pub delete: bool,
    /// Calls at the same time that remove blocks.
    pub threads: usize,
    /// Younger blocks are left alone.
    pub skip_younger: Duration,
}

/// A number of things and of their bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct Count {
    /// Things.
    pub count: u64,
    /// Bytes.
    pub bytes: u64,
}

impl Count {
    fn add(&mut self, bytes: u64) {
        self.count += 1;
        self.bytes += bytes;
    }
}

/// What was found, and what was removed.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct Collected {
    /// Objects below `chunks/`.
    pub scanned: Count,
    /// Blocks of files.
    pub valid: Count,
    /// Blocks of slices that compactions replaced, kept as long as the trash.
    pub compacted: Count,
    /// Blocks of slices that are about to be removed.
    pub pending: Count,
    /// Blocks that are too young to say.
    pub skipped: Count,
    /// Blocks that nobody refers to.
    pub leaked: Count,
    /// Deleted files whose data is still there.
    pub deleted_files: u64,
    /// Inodes without a name, names that lead nowhere, chunks of no file, unfinished clones.
    pub leaked_records: u64,
    /// Records that do not decode.
    pub corrupt: Vec<String>,
    /// What was removed of `leaked`.
    pub removed: Count,
    /// What was removed of `leaked_records`.
    pub removed_records: u64,
    /// Slices of deleted files that could not be removed; the hourly job of a mount tries again.
    pub kept_slices: u64,
}

impl Collected {
    /// Whether something is left that does not belong there.
    pub fn is_clean(&self) -> bool {
        self.corrupt.is_empty()
            && self.leaked.count == self.removed.count
            && self.leaked_records == self.removed_records
            && self.kept_slices == 0
    }
}

/// Looks for leaked blocks and records, and removes them if asked to.
///
/// # Errors
/// Those of the engine and of the object storage.
pub async fn collect(
    volume: &Opened,
    objects: &Arc<dyn ObjectStore>,
    options: &Options,
    progress: &dyn Progress,
) -> Result<Collected> {
    let meta = volume.meta(!options.delete).await?;
    let naming = blocks::naming(&volume.format);
    meta.set_slice_remover(Arc::new(Remover { objects: Arc::clone(objects), naming }));
    let mut report = Collected::default();
    records(&meta, options, &mut report).await?;
    // As of now: what is written while the scans go on is younger in any case.
    let young = before(volume.clock.now(), options.skip_younger);
    let slices = blocks::slices(&meta, &*progress.part("Scanning slices", Unit::Items, None)).await?;
    report.corrupt.extend(slices.corrupt);
    // Several scans meet the same record.
    report.corrupt.sort_unstable();
    report.corrupt.dedup();
    let mut named = slices.named;
    let may_remove = options.delete && report.corrupt.is_empty();
    let meter = progress.part("Scanning objects", Unit::Items, None);
    let mut leaked = Vec::new();
    blocks::each_page(&**objects, naming, async |page| {
        meter.add(page.len() as u64);
        for found in page {
            if let Some(found) = sort(found, naming, &mut named, young, &mut report) {
                leaked.push(found);
            }
        }
        if may_remove && leaked.len() >= BATCH {
            remove(&meta, objects, std::mem::take(&mut leaked), options.threads, &mut report).await?;
        }
        Ok(())
    })
    .await?;
    if may_remove {
        remove(&meta, objects, leaked, options.threads, &mut report).await?;
    }
    Ok(report)
}

fn before(now: Timestamp, age: Duration) -> Timestamp {
    Timestamp { secs: now.secs.saturating_sub_unsigned(age.as_secs()), ..now }
}

/// What concerns the metadata alone.
async fn records(meta: &Meta, options: &Options, report: &mut Collected) -> Result<()> {
    let leaks = meta.find_leaks(LeakAges::default()).await?;
    let count = leaks.inodes.len() + leaks.entries.len() + leaks.chunks.len() + leaks.detached.len();
    report.leaked_records = count as u64;
    report.deleted_files = meta.deleted_files().await?.len() as u64;
    report.corrupt.extend(leaks.corrupt.iter().map(ToString::to_string));
    if options.delete && leaks.corrupt.is_empty() {
        meta.store().renew_slice_refs().await?;
        report.removed_records = meta.remove_leaks(&leaks).await?;
        report.kept_slices = meta.finish_deletions(&HashSet::new()).await? as u64;
    }
    Ok(())
}

/// Counts a block; hands it back if nobody refers to it.
fn sort(
    found: Found,
    naming: Naming,
    named: &mut HashMap<SliceId, blocks::Named>,
    young: Timestamp,
    report: &mut Collected,
) -> Option<Found> {
    let bytes = found.block.map_or(found.object.size, |block| block.len.into());
    report.scanned.add(bytes);
    let owner = found.block.and_then(|block| named.get(&block.slice).filter(|slice| slice.has(naming, block)));
    match owner.map(|slice| slice.kept) {
        Some(Use::File) => report.valid.add(bytes),
        Some(Use::Delayed) => report.compacted.add(bytes),
        Some(Use::Pending) => report.pending.add(bytes),
        None if found.is_younger(young) => report.skipped.add(bytes),
        None => {
            report.leaked.add(bytes);
            return Some(found);
        }
    }
    None
}

/// Removes leaked blocks, after another look at their slices. What is no block by its name is left alone.
async fn remove(
    meta: &Meta,
    objects: &Arc<dyn ObjectStore>,
    leaked: Vec<Found>,
    threads: usize,
    report: &mut Collected,
) -> Result<()> {
    let ids: HashSet<SliceId> = leaked.iter().filter_map(|found| Some(found.block?.slice)).collect();
    if ids.is_empty() {
        return Ok(());
    }
    let unused = meta.unused(&ids).await?;
    let gone = leaked.into_iter().filter(|found| found.block.is_some_and(|block| unused.contains(&block.slice)));
    let (keys, bytes): (Vec<_>, Vec<_>) =
        gone.map(|found| (found.object.key, found.block.map_or(0, |block| u64::from(block.len)))).unzip();
    delete_all(&**objects, &keys, threads).await?;
    bytes.into_iter().for_each(|bytes| report.removed.add(bytes));
    Ok(())
}

/// Lets the metadata layer remove blocks.
pub(crate) struct Remover {
    pub(crate) objects: Arc<dyn ObjectStore>,
    pub(crate) naming: Naming,
}

#[async_trait]
impl SliceRemover for Remover {
    async fn remove_slices(&self, slices: &[(SliceId, u32)]) -> Result<(), String> {
        let blocks = slices.iter().flat_map(|(id, size)| self.naming.blocks(*id, *size));
        let keys: Vec<_> = blocks.map(|block| self.naming.key(block)).collect();
        delete_all(&*self.objects, &keys, PARALLEL).await.map_err(|error| error.to_string())
    }
}

#[cfg(test)]
mod tests;
