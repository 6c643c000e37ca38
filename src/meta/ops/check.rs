//! What fsck checks of directories and counters, and how it repairs them (format.md §2.3, §2.8, §7.3).
//!
//! Clients go on meanwhile: a directory is only called wrong if it was the same before and after its entries were counted,
//! and only repaired if it still is.

use stead_base::Ino;

use crate::error::{Error, Result};
use crate::records::{Attr, Counter, DirStat, Key, Record, Write};
use crate::store::{Cursor, Txn};

use super::Meta;
use super::dirstat::count;

/// Records that are scanned together.
const PAGE: usize = 1000;
/// A directory that changes while it is looked at is looked at so often.
const ATTEMPTS: usize = 5;

/// Something that is not as the format says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Damage {
    /// A directory's number of links is not 2 + its sub-directories.
    DirLinks {
        /// What is stored.
        found: u32,
        /// What is right.
        right: u32,
    },
    /// A directory's statistics are not those of its entries; `None`: there are none.
    DirStat {
        /// What is stored.
        found: Option<DirStat>,
        /// What is right.
        right: DirStat,
    },
    /// An inode says that it lies in another directory.
    Parent {
        /// The inode.
        ino: Ino,
        /// Where it says it lies.
        found: Ino,
    },
    /// A file's number of links is not that of its names.
    FileLinks {
        /// The file.
        ino: Ino,
        /// What is stored.
        found: u32,
        /// What is right.
        right: u32,
    },
}

/// Usage of the whole volume.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Usage {
    /// Bytes.
    pub space: i64,
    /// Inodes.
    pub inodes: i64,
}

impl Usage {
    /// The records that it is stored in.
    pub(super) fn keys() -> [Key; 2] {
        [Counter::UsedSpace, Counter::TotalInodes].map(Key::Counter)
    }

    /// What these records say.
    pub(super) fn of(records: impl IntoIterator<Item = Option<Record>>) -> Self {
        let mut numbers = records.into_iter().map(|record| match record {
            Some(Record::Number(number)) => number,
            _ => 0,
        });
        Self { space: numbers.next().unwrap_or(0), inodes: numbers.next().unwrap_or(0) }
    }
}

impl Meta {
    /// Compares a directory and its children with what its entries say, and sets right what is wrong if asked to.
    ///
    /// # Errors
    /// Those of the engine; [`Error::Conflict`] for a directory that never keeps still.
    pub async fn check_directory(&self, dir: Ino, repair: bool) -> Result<Vec<Damage>> {
        let dir = self.real(dir);
        for _attempt in 0..ATTEMPTS {
            let before = self.directory_state(dir).await?;
            let Some(attr) = before.0.clone() else { return Ok(Vec::new()) };
            if !attr.is_dir() {
                return Err(Error::NotDirectory { ino: dir });
            }
            let entries = self.list_all(dir, true).await?;
            let mut found = self
                .wrong_children(dir, entries.values().filter_map(|item| Some((item.entry.ino, item.attr.as_ref()?))))
                .await?;
            let dirs = entries.values().filter(|item| item.entry.kind == crate::records::NodeType::Directory).count();
            let (right, stat) = (u32::try_from(dirs + 2).unwrap_or(u32::MAX), count(entries.values()));
            if !dir.is_trash() && attr.nlink != right {
                found.push(Damage::DirLinks { found: attr.nlink, right });
            }
            let has_stats = self.format().dir_stats && !dir.is_trash() && attr.parent.0 <= Ino::TRASH.0;
            if has_stats && before.1 != Some(stat) {
                found.push(Damage::DirStat { found: before.1, right: stat });
            }
            if found.is_empty() || self.directory_state(dir).await? == before {
                if repair && !found.is_empty() && !self.repair_directory(dir, before, found.clone()).await? {
                    continue;
                }
                return Ok(found);
            }
        }
        Err(Error::Conflict { attempts: 5 })
    }

    async fn directory_state(&self, dir: Ino) -> Result<(Option<Attr>, Option<DirStat>)> {
        let mut found = self.store.read(&[Key::Attr(dir), Key::DirStat(dir)]).await?.into_iter();
        let attr = match found.next().flatten() {
            Some(Record::Attr(attr)) => Some(attr),
            _ => None,
        };
        let stat = match found.next().flatten() {
            Some(Record::DirStat(stat)) => Some(stat),
            _ => None,
        };
        Ok((attr, stat))
    }

    async fn wrong_children(
        &self,
        dir: Ino,
        children: impl Iterator<Item = (Ino, &Attr)> + Send,
    ) -> Result<Vec<Damage>> {
        let mut found = Vec::new();
        for (ino, attr) in children {
            if attr.parent == dir && (attr.is_dir() || attr.nlink == 1) {
                continue;
            }
            if attr.parent.0 > 0 {
                found.extend((attr.parent != dir).then_some(Damage::Parent { ino, found: attr.parent }));
                found.extend((!attr.is_dir() && attr.nlink != 1).then_some(Damage::FileLinks {
                    ino,
                    found: attr.nlink,
                    right: 1,
                }));
                continue;
            }
            let Some(Record::Parents(parents)) = self.read_one(Key::Parents(ino)).await? else { continue };
            let right = u32::try_from(parents.values().sum::<i64>()).unwrap_or(u32::MAX);
            if right != attr.nlink {
                found.push(Damage::FileLinks { ino, found: attr.nlink, right });
            }
        }
        Ok(found)
    }

    /// False: the directory is no longer as it was.
    async fn repair_directory(
        &self,
        dir: Ino,
        before: (Option<Attr>, Option<DirStat>),
        damage: Vec<Damage>,
    ) -> Result<bool> {
        self.writable()?;
        let body = move |txn: &mut Txn<'_>| {
            txn.prime(&[Key::Attr(dir), Key::DirStat(dir)])?;
            let (Some(mut attr), stat) = (txn.attr(dir)?, txn.dir_stat(dir)?) else { return Ok(false) };
            if Some(&attr) != before.0.as_ref() || stat != before.1 {
                return Ok(false);
            }
            for damage in &damage {
                match damage {
                    Damage::DirLinks { right, .. } => {
                        attr.nlink = *right;
                        txn.write(Write::SetAttr(dir, attr.clone()));
                    }
                    Damage::DirStat { right, .. } => txn.write(Write::SetDirStat(dir, *right)),
                    // Which of two directories or numbers is right cannot be told from here.
                    Damage::Parent { .. } | Damage::FileLinks { .. } => {}
                }
            }
            Ok(true)
        };
        self.transact(body).await
    }

    /// What the volume's counters say, and what all inodes together use. With `repair` the counters are set right, unless
    /// somebody changed them meanwhile: then both are what they were, and the check can be repeated.
    ///
    /// # Errors
    /// Those of the engine; the first record that does not decode.
    pub async fn check_usage(&self, repair: bool) -> Result<(Usage, Usage)> {
        let before = self.stored_usage().await?;
        let (mut counted, mut from) = (Usage { space: 0, inodes: 0 }, Cursor::default());
        let mut seen = std::collections::HashSet::new();
        loop {
            let page = self.store.scan_attrs(from, PAGE).await?;
            if let Some(corrupt) = page.corrupt.into_iter().next() {
                return Err(corrupt);
            }
            for (ino, attr) in page.items {
                if ino != Ino::ROOT && ino != Ino::TRASH && seen.insert(ino) {
                    counted.space += attr.space();
                    counted.inodes += 1;
                }
            }
            match page.next {
                Some(next) => from = next,
                None => break,
            }
        }
        if repair && before != counted {
            self.writable()?;
            let body = move |txn: &mut Txn<'_>| {
                txn.prime(&[Key::Counter(Counter::UsedSpace), Key::Counter(Counter::TotalInodes)])?;
                let now = Usage { space: txn.counter(Counter::UsedSpace)?, inodes: txn.counter(Counter::TotalInodes)? };
                if now == before {
                    txn.write(Write::AddCounter(Counter::UsedSpace, counted.space - before.space));
                    txn.write(Write::AddCounter(Counter::TotalInodes, counted.inodes - before.inodes));
                }
                Ok(())
            };
            self.transact(body).await?;
        }
        Ok((before, counted))
    }

    async fn stored_usage(&self) -> Result<Usage> {
        let found = self.store.read(&Usage::keys()).await?;
        Ok(Usage::of(found))
    }
}
