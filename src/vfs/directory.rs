//! An open directory: a snapshot of its entries that is loaded page by page as it is read, each page while the reader has
//! the one before.
//!
//! An entry keeps its place in the snapshot, so an offset stays good for seekdir(3) however the directory changes.
//! Reading from the start again (rewinddir(3)) takes a new snapshot.
//!
//! A directory may have millions of entries, so what is kept of one is its name, its inode and its type, packed: 16 bytes
//! and the name. Attributes are kept until the reader has them; if it comes back, fresh ones are asked for.

use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;
use std::time::Duration;

use hashbrown::HashTable;
use hashbrown::hash_table::Entry as Slot;
use stead_base::Ino;
use stead_meta::Meta;
use stead_meta::records::{Attr, NodeType};
use stead_meta::store::{Cursor, Listed};
use tokio::sync::{Mutex, MutexGuard};
use tokio::time::Instant;
use tokio_util::task::AbortOnDropHandle;

use crate::attr::Entry;
use crate::errno::{Result, fail};

/// Entries that are asked for at a time.
const PAGE: usize = 1000;
/// For so long a page may wait for a reader who is busy with the one before.
const PATIENCE: Duration = Duration::from_secs(1);

/// One entry as readdir(3) shows it.
#[derive(Debug)]
pub struct DirEntry<'a> {
    /// The name.
    pub name: &'a [u8],
    /// Where reading goes on after this entry.
    pub next: u64,
    /// The inode.
    pub ino: Ino,
    /// Its type.
    pub kind: NodeType,
    /// What it leads to, if that was asked for and is known.
    pub entry: Option<Entry>,
}

/// One entry of the snapshot.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Item<'a> {
    pub(crate) ino: Ino,
    pub(crate) kind: NodeType,
    pub(crate) name: &'a [u8],
    pub(crate) attr: Option<&'a Attr>,
    /// When the attributes were asked for.
    pub(crate) loaded: Instant,
}

/// An open directory.
#[derive(Debug)]
pub(crate) struct DirHandle {
    pub(crate) ino: Ino,
    snapshot: Mutex<Snapshot>,
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

/// What was loaded so far.
#[derive(Debug, Default)]
pub(crate) struct Snapshot {
    pages: Pages,
    repeats: Repeats,
    from: Cursor,
    complete: bool,
    /// Pages before this one have given their attributes away.
    taken: usize,
    /// The next page, which is on its way while the reader has the last one.
    ahead: Option<Ahead>,
}

/// A page that was asked for before anybody needed it.
#[derive(Debug)]
struct Ahead {
    asked: Instant,
    with_attrs: bool,
    /// With the time when it came.
    answer: AbortOnDropHandle<(stead_meta::Result<Answer>, Instant)>,
}

type Answer = stead_meta::store::Page<Listed>;

impl Ahead {
    fn ask(meta: &Arc<Meta>, dir: Ino, with_attrs: bool, from: Cursor) -> Self {
        let meta = Arc::clone(meta);
        let answer = tokio::spawn(async move { (meta.list(dir, with_attrs, from, PAGE).await, Instant::now()) });
        Self { asked: Instant::now(), with_attrs, answer: AbortOnDropHandle::new(answer) }
    }

    /// `None` if it failed or has waited for too long: whoever needs it asks once more.
    async fn page(self) -> Option<(Instant, Answer)> {
        let (answer, came) = self.answer.await.ok()?;
        let page = answer.ok().filter(|_page| came.elapsed() < PATIENCE)?;
        Some((self.asked, page))
    }
}

impl Snapshot {
    /// The entry at `index`, after loading as many pages as it takes.
    pub(crate) async fn get(
        &mut self,
        meta: &Arc<Meta>,
        dir: Ino,
        index: usize,
        with_attrs: bool,
    ) -> Result<Option<Item<'_>>> {
        while index >= self.pages.len() && !self.complete {
            self.load(meta, dir, with_attrs).await?;
            self.taken(index);
        }
        Ok(self.pages.get(index))
    }

    /// The reader has what lies before `index`: drops the attributes of pages that end there.
    pub(crate) fn taken(&mut self, index: usize) {
        while let Some(page) = self.pages.0.get_mut(self.taken).filter(|page| page.end() <= index) {
            page.attrs = Vec::new();
            self.taken += 1;
        }
    }

    async fn load(&mut self, meta: &Arc<Meta>, dir: Ino, with_attrs: bool) -> Result<()> {
        let (loaded, listed) = self.next_page(meta, dir, with_attrs).await?;
        self.pages.0.push(Page::new(self.pages.len(), loaded));
        for item in listed.items {
            if self.repeats.is_new(&self.pages, item.name.as_bytes()) {
                self.pages.push(item, with_attrs);
            }
        }
        self.pages.pack();
        match listed.next {
            Some(cursor) => {
                self.from = cursor.clone();
                self.ahead = Some(Ahead::ask(meta, dir, with_attrs, cursor));
            }
            None => {
                self.complete = true;
                self.repeats = Repeats::default();
            }
        }
        Ok(())
    }

    /// The next page, and when it was asked for.
    async fn next_page(&mut self, meta: &Meta, dir: Ino, with_attrs: bool) -> Result<(Instant, Answer)> {
        let ahead = self.ahead.take().filter(|ahead| ahead.with_attrs || !with_attrs);
        if let Some(ahead) = ahead
            && let Some(page) = ahead.page().await
        {
            return Ok(page);
        }
        let asked = Instant::now();
        Ok((asked, meta.list(dir, with_attrs, self.from.clone(), PAGE).await.map_err(fail)?))
    }
}

/// The entries by their places.
#[derive(Debug, Default)]
struct Pages(Vec<Page>);

/// What was loaded at a time.
#[derive(Debug)]
struct Page {
    /// Place of the first entry.
    first: usize,
    entries: Vec<Packed>,
    /// All names, one after the other.
    names: Vec<u8>,
    /// One for each entry if they were asked for, until the reader has them.
    attrs: Vec<Option<Attr>>,
    loaded: Instant,
}

/// An entry; its name begins where that of the one before ends.
#[derive(Debug)]
struct Packed {
    ino: Ino,
    name_end: u32,
    kind: NodeType,
}

impl Page {
    fn new(first: usize, loaded: Instant) -> Self {
        Self { first, entries: Vec::new(), names: Vec::new(), attrs: Vec::new(), loaded }
    }

    /// The place behind the last entry.
    fn end(&self) -> usize {
        self.first + self.entries.len()
    }

    fn name(&self, at: usize) -> &[u8] {
        let start = at.checked_sub(1).map_or(0, |before| self.entries[before].name_end);
        &self.names[start as usize..self.entries[at].name_end as usize]
    }
}

impl Pages {
    fn len(&self) -> usize {
        self.0.last().map_or(0, Page::end)
    }

    fn find(&self, index: usize) -> Option<(&Page, usize)> {
        let page = self.0.get(self.0.partition_point(|page| page.end() <= index))?;
        Some((page, index - page.first))
    }

    fn get(&self, index: usize) -> Option<Item<'_>> {
        let (page, at) = self.find(index)?;
        let Packed { ino, kind, .. } = page.entries[at];
        let attr = page.attrs.get(at).and_then(Option::as_ref);
        Some(Item { ino, kind, name: page.name(at), attr, loaded: page.loaded })
    }

    /// The name of an entry that is there.
    fn name(&self, index: usize) -> &[u8] {
        self.find(index).map_or(&[], |(page, at)| page.name(at))
    }

    /// Adds an entry to the last page.
    fn push(&mut self, item: Listed, with_attr: bool) {
        let Some(page) = self.0.last_mut() else { return };
        page.names.extend_from_slice(item.name.as_bytes());
        let name_end = u32::try_from(page.names.len()).expect("the names of a page have less than 4 GiB");
        page.entries.push(Packed { ino: item.entry.ino, name_end, kind: item.entry.kind });
        page.attrs.extend(with_attr.then_some(item.attr));
    }

    /// The last page is complete: it needs no room to grow.
    fn pack(&mut self) {
        if let Some(page) = self.0.last_mut() {
            page.entries.shrink_to_fit();
            page.names.shrink_to_fit();
        }
    }
}

/// Tells names that have come already: some engines may show one twice.
#[derive(Debug, Default)]
struct Repeats {
    hasher: RandomState,
    /// The places of all entries, by their names. `None` while names come in order, in which nothing comes twice.
    places: Option<HashTable<u32>>,
}

impl Repeats {
    /// Whether `name` is not among the entries. If so, it has to be the next one.
    fn is_new(&mut self, pages: &Pages, name: &[u8]) -> bool {
        let next = u32::try_from(pages.len()).expect("a directory has less than 2^32 entries");
        if self.places.is_none() && (next == 0 || pages.name(pages.len() - 1) < name) {
            return true;
        }
        let known = |place: &u32| pages.name(*place as usize);
        let hash = |place: &u32| self.hasher.hash_one(known(place));
        let places = self.places.get_or_insert_with(|| {
            let mut places = HashTable::new();
            for place in 0..next {
                places.insert_unique(hash(&place), place, hash);
            }
            places
        });
        match places.entry(self.hasher.hash_one(name), |place| known(place) == name, hash) {
            Slot::Occupied(_) => false,
            Slot::Vacant(free) => {
                free.insert(next);
                true
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use stead_meta::records::{Entry, Name};

    use super::*;

    fn listed(name: &str, ino: u64) -> Listed {
        let name = Name::stored(Bytes::copy_from_slice(name.as_bytes()));
        Listed { name, entry: Entry { kind: NodeType::File, ino: Ino(ino) }, attr: None }
    }

    /// Takes pages of names as an engine gives them.
    fn taken(pages: &[&[String]]) -> (Pages, Repeats) {
        let (mut all, mut repeats) = (Pages::default(), Repeats::default());
        for names in pages {
            all.0.push(Page::new(all.len(), Instant::now()));
            for name in *names {
                if repeats.is_new(&all, name.as_bytes()) {
                    all.push(listed(name, 1), false);
                }
            }
            all.pack();
        }
        (all, repeats)
    }

    fn names(pages: &Pages) -> Vec<String> {
        (0..pages.len()).map(|at| String::from_utf8(pages.get(at).unwrap().name.to_vec()).unwrap()).collect()
    }

    #[test]
    fn names_that_come_twice_are_shown_once() {
        let page = |from: u32, to: u32| (from..to).rev().map(|n| format!("name-{n}")).collect::<Vec<_>>();
        let (pages, repeats) = taken(&[&page(0, 500), &page(300, 900), &[], &page(0, 1000)]);
        let expected = [page(0, 500), page(500, 900), page(900, 1000)].concat();
        assert_eq!(names(&pages), expected);
        assert_eq!(repeats.places.map(|places| places.len()), Some(1000));
        assert!(pages.get(1000).is_none());
    }

    #[test]
    fn names_in_order_need_no_table_until_one_is_not() {
        let sorted: Vec<_> = (0..300).map(|n| format!("{n:03}")).collect();
        let (pages, repeats) = taken(&[&sorted[..100], &sorted[100..]]);
        assert_eq!(names(&pages), sorted);
        assert!(repeats.places.is_none());
        let (pages, _repeats) = taken(&[&sorted, &[sorted[299].clone(), sorted[7].clone(), "new".to_owned()]]);
        assert_eq!(names(&pages)[300..], ["new"]);
    }

    #[test]
    fn an_entry_takes_sixteen_bytes_and_its_name() {
        assert_eq!(size_of::<Packed>(), 16);
    }
}
