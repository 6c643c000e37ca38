//! Statistics of directories that have none, or impossible ones: the root of a volume of the Go client before its first
//! flush, or a directory that it made just before it died. They are recomputed in the background from a listing.
//!
//! While that runs, the statistics hold a large negative number, which says "recompute me" to everybody, and changes are
//! added to it. The result is stored only if nothing was added meanwhile.

use std::num::NonZeroUsize;

use lru::LruCache;
use parking_lot::Mutex;
use stead_base::Ino;
use tracing::{debug, warn};

use crate::error::Result;
use crate::records::{DirStat, Key, NodeType, Record, Write};
use crate::store::{Listed, Txn};

use super::Meta;

/// Stands for statistics that are being recomputed.
const MARK: DirStat = DirStat { length: -(1 << 60), space: -(1 << 60), inodes: -(1 << 40) };
const ATTEMPTS: usize = 8;

/// Directories whose statistics are known to be there.
#[derive(Debug)]
pub(super) struct CheckedStats(Mutex<LruCache<Ino, ()>>);

impl Default for CheckedStats {
    fn default() -> Self {
        let capacity = NonZeroUsize::new(100_000).expect("not zero");
        Self(Mutex::new(LruCache::new(capacity)))
    }
}

impl CheckedStats {
    /// True when the directory was not known.
    pub(super) fn insert(&self, dir: Ino) -> bool {
        self.0.lock().put(dir, ()).is_none()
    }

    pub(super) fn remove(&self, dir: Ino) {
        self.0.lock().pop(&dir);
    }
}

impl Meta {
    /// Something in these directories is about to change: sees to it once that they have statistics.
    pub(super) fn note_stats(&self, dirs: impl IntoIterator<Item = Ino>) {
        if !self.format().dir_stats {
            return;
        }
        for dir in dirs {
            if self.checked_stats.insert(dir)
                && let Some(me) = self.me.upgrade()
            {
                self.tasks.spawn("dirstat", async move {
                    if let Err(error) = me.repair_dir_stat(dir).await {
                        warn!(%dir, %error, "cannot check the statistics of a directory");
                        me.checked_stats.remove(dir);
                    }
                });
            }
        }
    }

    /// Recomputes the statistics of a directory if they are missing or negative.
    pub(super) async fn repair_dir_stat(&self, dir: Ino) -> Result<()> {
        if !broken(self.dir_stat(dir).await?) {
            return Ok(());
        }
        let marked = self
            .transact(move |txn| {
                txn.prime(&[Key::Attr(dir), Key::DirStat(dir)])?;
                let needed = txn.attr(dir)?.is_some_and(|attr| attr.is_dir()) && broken(txn.dir_stat(dir)?);
                if needed {
                    txn.write(Write::SetDirStat(dir, MARK));
                }
                Ok(needed)
            })
            .await?;
        if !marked {
            return Ok(());
        }
        for attempt in 1..=ATTEMPTS {
            let before = self.dir_stat(dir).await?;
            let found = count(self.list_all(dir, true).await?.values());
            let last = attempt == ATTEMPTS;
            if self.store_dir_stat(dir, before, found, last).await? {
                debug!(%dir, "recomputed the statistics of a directory");
                return Ok(());
            }
        }
        Ok(())
    }

    /// Stores `found` if the statistics are still `before`; `anyhow` does so in any case.
    async fn store_dir_stat(&self, dir: Ino, before: Option<DirStat>, found: DirStat, anyhow: bool) -> Result<bool> {
        let body = move |txn: &mut Txn<'_>| {
            txn.prime(&[Key::Attr(dir), Key::DirStat(dir)])?;
            let now = txn.dir_stat(dir)?;
            if txn.attr(dir)?.is_none() {
                txn.write(Write::DelDirStat(dir));
                return Ok(true);
            }
            if now != before && !anyhow {
                return Ok(false);
            }
            txn.write(Write::SetDirStat(dir, found));
            Ok(true)
        };
        self.transact(body).await
    }

    async fn dir_stat(&self, dir: Ino) -> Result<Option<DirStat>> {
        Ok(match self.read_one(Key::DirStat(dir)).await? {
            Some(Record::DirStat(stat)) => Some(stat),
            _ => None,
        })
    }
}

fn broken(stat: Option<DirStat>) -> bool {
    stat.is_none_or(|stat| stat.length < 0 || stat.space < 0 || stat.inodes < 0)
}

pub(super) fn count<'a>(items: impl Iterator<Item = &'a Listed>) -> DirStat {
    let mut stat = DirStat::default();
    for item in items {
        stat.inodes += 1;
        stat.space += item.attr.as_ref().map_or(4096, crate::records::Attr::space);
        if let Some(attr) = item.attr.as_ref().filter(|attr| attr.kind == NodeType::File) {
            stat.length += attr.length.cast_signed();
        }
    }
    stat
}
