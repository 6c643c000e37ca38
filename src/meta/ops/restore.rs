//! Getting things back from the trash (format.md §2.12).

use std::collections::HashSet;

use futures::stream::{self, StreamExt};
use stead_base::Ino;
use tracing::warn;

use crate::error::{Error, Result};
use crate::records::{Name, NodeType};

use super::Meta;
use super::trash::hour_of;
use super::types::{Caller, rename_flags};

/// How [`Meta::restore`] restores.
#[derive(Clone, Copy, Debug)]
pub struct RestoreOptions {
    /// Put everything back where it was. Otherwise only what lay in a directory that is in the trash itself returns to
    /// that directory: the removed trees are whole again, inside the trash.
    pub put_back: bool,
    /// Entries that are moved at the same time, at least 1.
    pub concurrency: usize,
}

impl Default for RestoreOptions {
    fn default() -> Self {
        Self { put_back: false, concurrency: 10 }
    }
}

/// What became of the entries of an hour.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Restored {
    /// Moved back.
    pub restored: u64,
    /// Left where they are, since their directory is not in the trash.
    pub skipped: u64,
    /// Something has the name, or the directory is gone; the log says which.
    pub failed: u64,
}

impl Meta {
    /// Restores what was removed in one hour, such as `2026-01-31-23` (UTC). What cannot be moved stays in the trash.
    /// `progress` is told what was done so far.
    ///
    /// # Errors
    /// [`Error::Invalid`] for a text that is no hour, [`Error::NoEntry`] when nothing was removed in it.
    pub async fn restore(
        &self,
        hour: &str,
        options: RestoreOptions,
        progress: &(dyn Fn(Restored) + Send + Sync),
    ) -> Result<Restored> {
        self.writable()?;
        let name = Name::entry(hour.as_bytes())?;
        if hour_of(&name).is_none() {
            let expected = "an hour of the trash, such as 2026-01-31-23";
            return Err(Error::Invalid { field: "hour", value: hour.to_owned(), expected });
        }
        let (hour, _attr) = self.lookup(Ino::TRASH, name.as_bytes()).await?;
        let entries = self.list_all(hour, false).await?;
        let dirs = entries.values().filter(|item| item.entry.kind == NodeType::Directory);
        let dirs: HashSet<Ino> = dirs.map(|item| item.entry.ino).collect();
        let mut total = Restored::default();
        let moves = stream::iter(entries.into_keys()).map(|name| self.restore_one(hour, name, options.put_back, &dirs));
        let mut moves = moves.buffer_unordered(options.concurrency.max(1));
        while let Some(moved) = moves.next().await {
            match moved {
                Some(true) => total.restored += 1,
                Some(false) => total.failed += 1,
                None => total.skipped += 1,
            }
            progress(total);
        }
        drop(moves);
        for dir in dirs {
            // A directory lost its statistics when it was removed.
            self.checked_stats.remove(dir);
            self.repair_dir_stat(dir).await?;
        }
        Ok(total)
    }

    /// `None`: not wanted.
    async fn restore_one(&self, hour: Ino, name: Name, put_back: bool, dirs: &HashSet<Ino>) -> Option<bool> {
        const FLAGS: u32 = rename_flags::NOREPLACE | rename_flags::RESTORE;
        let Some((parent, original)) = origin(&name) else {
            warn!(%name, "not the name of a removed entry");
            return Some(false);
        };
        if !put_back && !dirs.contains(&parent) {
            return None;
        }
        match self.rename(&Caller::root(), hour, name.as_bytes(), parent, original, FLAGS).await {
            Ok(_moved) => Some(true),
            Err(error) => {
                warn!(%name, %error, "not restored");
                Some(false)
            }
        }
    }
}

/// Where an entry of the trash was, and how it was called.
fn origin(name: &Name) -> Option<(Ino, &[u8])> {
    let mut parts = name.as_bytes().splitn(3, |byte| *byte == b'-');
    let parent = std::str::from_utf8(parts.next()?).ok()?.parse().ok()?;
    parts.next()?;
    Some((Ino(parent), parts.next()?))
}
