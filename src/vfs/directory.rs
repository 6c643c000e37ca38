//! An open directory: a snapshot of its entries that is loaded page by page as it is read.
//!
//! An entry keeps its place in the snapshot, so an offset stays good for seekdir(3) however the directory changes.
//! Reading from the start again (rewinddir(3)) takes a new snapshot.

use std::collections::HashSet;

use stead_base::Ino;
use stead_meta::Meta;
use stead_meta::records::{Attr, Name, NodeType};
use stead_meta::store::Cursor;
use tokio::sync::{Mutex, MutexGuard};
use tokio::time::Instant;

use crate::attr::Entry;
use crate::errno::{Result, fail};

/// Entries that are asked for at a time.
const PAGE: usize = 1000;

/// One entry as readdir(3) shows it.
#[derive(Debug)]
pub struct DirEntry<'a> {
    /// The name.
    pub name: &'a [u8],
    /// Where reading goes on after this entry.
    pub next: u64,
    /// What it leads to. Without attributes asked for, only inode and type mean something.
    pub entry: Entry,
}

/// One entry of the snapshot.
#[derive(Debug)]
pub(crate) struct Item {
    pub(crate) ino: Ino,
    pub(crate) kind: NodeType,
    pub(crate) name: Name,
    pub(crate) attr: Option<Attr>,
    /// When the attributes were asked for.
    pub(crate) loaded: Instant,
}

/// An open directory.
#[derive(Debug)]
pub(crate) struct DirHandle {
    pub(crate) ino: Ino,
    snapshot: Mutex<Snapshot>,
}

/// What was loaded so far.
#[derive(Debug, Default)]
pub(crate) struct Snapshot {
    items: Vec<Item>,
    /// Names so far, kept only when there is more than one page.
    names: HashSet<Name>,
    from: Cursor,
    complete: bool,
}

impl DirHandle {
    pub(crate) fn new(ino: Ino) -> Self {
        Self { ino, snapshot: Mutex::default() }
    }

    /// The snapshot, for as long as one reader takes from it.
    pub(crate) async fn snapshot(&self) -> MutexGuard<'_, Snapshot> {
        self.snapshot.lock().await
    }
}

impl Snapshot {
    /// The entry at `index`, after loading as many pages as it takes.
    pub(crate) async fn get(&mut self, meta: &Meta, dir: Ino, index: usize, with_attrs: bool) -> Result<Option<&Item>> {
        while index >= self.items.len() && !self.complete {
            self.load(meta, dir, with_attrs).await?;
        }
        Ok(self.items.get(index))
    }

    async fn load(&mut self, meta: &Meta, dir: Ino, with_attrs: bool) -> Result<()> {
        let loaded = Instant::now();
        let page = meta.list(dir, with_attrs, self.from.clone(), PAGE).await.map_err(fail)?;
        let single = self.items.is_empty() && page.next.is_none();
        for listed in page.items {
            if single || self.names.insert(listed.name.clone()) {
                self.items.push(Item {
                    ino: listed.entry.ino,
                    kind: listed.entry.kind,
                    name: listed.name,
                    attr: listed.attr,
                    loaded,
                });
            }
        }
        match page.next {
            Some(cursor) => self.from = cursor,
            None => {
                self.complete = true;
                self.names = HashSet::new();
            }
        }
        Ok(())
    }
}
