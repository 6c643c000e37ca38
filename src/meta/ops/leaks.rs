//! What gc and fsck ask of the metadata: which slices are in use, and what no longer hangs together.
//!
//! Everything here runs while clients work. A scan is no snapshot, so whatever it finds is looked at once more before it is
//! reported, and nothing is called leaked that is younger than a client may need to finish what it has begun. Nothing is
//! removed after a scan that met records which do not decode.

use std::collections::{BTreeMap, HashSet};
use std::time::Duration;

use stead_base::{Ino, SessionId, SliceId};

use crate::error::{Error, Result};
use crate::records::{Attr, Entry, Key, Name, Record, Write};
use crate::store::{Cursor, Page, Txn};

use super::Meta;
use super::clone::detach;

/// Records that are scanned together.
const PAGE: usize = 1000;

/// Who uses a slice.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SliceUse {
    /// A record of this chunk of this inode, in the tree, in the trash, detached, or deleted a moment ago.
    Chunk(Ino, u32),
    /// A compaction replaced it; it is kept as long as the trash.
    Delayed,
    /// Nobody: its blocks are about to be removed.
    Pending,
}

/// What does not belong to the tree.
#[derive(Debug, Default)]
pub struct Leaks {
    /// Inodes without a name.
    pub inodes: Vec<(Ino, Attr)>,
    /// Names that lead nowhere: directory, name, and where to.
    pub entries: Vec<(Ino, Name, Entry)>,
    /// Chunks of inodes that are gone.
    pub chunks: Vec<(Ino, u32)>,
    /// Clones that were never finished.
    pub detached: Vec<Ino>,
    /// Records that do not decode. As long as there are some, [`Meta::remove_leaks`] removes nothing.
    pub corrupt: Vec<Error>,
}

/// How far [`Meta::find_leaks`] is patient.
#[derive(Clone, Copy, Debug)]
pub struct LeakAges {
    /// Younger inodes without a name are not leaked.
    pub inodes: Duration,
    /// Younger unfinished clones are not.
    pub detached: Duration,
}

impl Default for LeakAges {
    fn default() -> Self {
        Self { inodes: Duration::from_secs(3600), detached: Duration::from_secs(24 * 3600) }
    }
}

impl Meta {
    /// Calls `visit` for every use of every slice, in no order; holes do not come. A slice that never comes may still be
    /// in use: a write may not have committed it yet (its objects are then young), or a clone may have taken it from a
    /// chunk that the scan had before it to one behind it. [`Meta::unused`] has the last word. Returns the records that
    /// do not decode: with any of them, nothing may be removed for not being named.
    ///
    /// # Errors
    /// Those of the engine.
    pub async fn each_slice(&self, visit: &mut (dyn FnMut(SliceId, u32, SliceUse) + Send)) -> Result<Vec<Error>> {
        let (mut corrupt, mut from) = (Vec::new(), Cursor::default());
        // The chunks first: what is compacted or deleted meanwhile moves from them to those that wait, and is met there.
        loop {
            let page = self.store.scan_chunks(from, PAGE).await?;
            corrupt.extend(page.corrupt);
            for (ino, index, slices) in page.items {
                for slice in slices.iter().filter(|slice| !slice.id.is_hole()) {
                    visit(slice.id, slice.size, SliceUse::Chunk(ino, index));
                }
            }
            match page.next {
                Some(next) => from = next,
                None => break,
            }
        }
        for (_new, _since, slices) in unless_corrupt(self.store.list_delayed(i64::MAX).await, &mut corrupt)? {
            slices.iter().for_each(|(id, size)| visit(*id, *size, SliceUse::Delayed));
        }
        for (id, size) in unless_corrupt(self.store.list_unreferenced().await, &mut corrupt)? {
            visit(id, size, SliceUse::Pending);
        }
        Ok(corrupt)
    }

    /// Those of `slices` that are certainly in use by nobody: another scan does not meet them, and no number of
    /// references is stored, as it is for whatever was cloned or copied meanwhile.
    ///
    /// # Errors
    /// Those of the engine; the first record that does not decode.
    pub async fn unused(&self, slices: &HashSet<SliceId>) -> Result<HashSet<SliceId>> {
        let mut left = slices.clone();
        let corrupt = self
            .each_slice(&mut |id, _size, _use| {
                left.remove(&id);
            })
            .await?;
        let mut corrupt = corrupt.into_iter();
        let mut from = Cursor::default();
        loop {
            let page = self.store.scan_slice_refs(from, PAGE).await?;
            if let Some(corrupt) = corrupt.next().or_else(|| page.corrupt.into_iter().next()) {
                return Err(corrupt);
            }
            for (id, _size, _refs) in page.items {
                left.remove(&id);
            }
            match page.next {
                Some(next) => from = next,
                None => return Ok(left),
            }
        }
    }

    /// Looks for what does not belong to the tree.
    ///
    /// # Errors
    /// Those of the engine.
    pub async fn find_leaks(&self, ages: LeakAges) -> Result<Leaks> {
        let mut leaks = Leaks::default();
        let detached = self.store.list_detached().await?;
        let oldest = self.now().secs - ages.detached.as_secs().cast_signed();
        leaks.detached = detached.iter().filter(|(_ino, since)| *since < oldest).map(|(ino, _since)| *ino).collect();
        let mut named: HashSet<Ino> = detached.into_iter().map(|(ino, _since)| ino).collect();
        named.extend([Ino::ROOT, Ino::TRASH]);
        named.extend(self.all_sustained().await?);
        self.follow_entries(&mut named, &mut leaks).await?;
        self.find_nameless(&named, ages.inodes, &mut leaks).await?;
        self.find_stray_chunks(&mut leaks).await?;
        self.find_unreadable(&mut leaks).await?;
        Ok(leaks)
    }

    /// Removes what [`Meta::find_leaks`] found, each thing after another look at it. Returns how many went.
    ///
    /// # Errors
    /// Those of the engine; the first of the records that do not decode.
    pub async fn remove_leaks(&self, leaks: &Leaks) -> Result<u64> {
        self.writable()?;
        if let Some(corrupt) = leaks.corrupt.first() {
            return Err(corrupt.clone());
        }
        let mut gone = 0;
        for top in &leaks.detached {
            self.remove_detached(*top).await?;
            gone += 1;
        }
        for (ino, attr) in &leaks.inodes {
            if !self.has_name(*ino, attr).await? && self.detach(*ino, attr.clone()).await? {
                self.remove_detached(*ino).await?;
                gone += 1;
            }
        }
        for (dir, name, entry) in &leaks.entries {
            gone += u64::from(self.drop_entry(*dir, name.clone(), *entry).await?);
        }
        for (ino, index) in &leaks.chunks {
            if self.is_stray(*ino).await? {
                self.delete_chunk(*ino, *index).await?;
                gone += 1;
            }
        }
        Ok(gone)
    }

    async fn all_sustained(&self) -> Result<Vec<Ino>> {
        let mut kept = Vec::new();
        for session in self.store.list_sessions().await? {
            kept.extend(self.store.list_sustained(session.sid).await?);
        }
        kept.extend(self.store.list_sustained(SessionId::NONE).await?);
        Ok(kept)
    }

    /// Notes all inodes that have a name, and names that lead nowhere.
    async fn follow_entries(&self, named: &mut HashSet<Ino>, leaks: &mut Leaks) -> Result<()> {
        let mut from = Cursor::default();
        loop {
            let page: Page<(Ino, Attr)> = self.store.scan_attrs(from, PAGE).await?;
            for (dir, _attr) in page.items.iter().filter(|(_ino, attr)| attr.is_dir()) {
                let (entries, corrupt) = self.list_checked(*dir, true).await?;
                leaks.corrupt.extend(corrupt);
                for item in entries.into_values() {
                    named.insert(item.entry.ino);
                    if item.attr.is_none() && self.leads_nowhere(*dir, &item.name, item.entry).await? {
                        leaks.entries.push((*dir, item.name, item.entry));
                    }
                }
            }
            match page.next {
                Some(next) => from = next,
                None => return Ok(()),
            }
        }
    }

    async fn leads_nowhere(&self, dir: Ino, name: &Name, entry: Entry) -> Result<bool> {
        match self.store.lookup(dir, name).await {
            // There is something, if only it could be read.
            Err(Error::Corrupt { .. }) => Ok(false),
            found => Ok(matches!(found?, Some((now, None)) if now == entry)),
        }
    }

    async fn find_nameless(&self, named: &HashSet<Ino>, age: Duration, leaks: &mut Leaks) -> Result<()> {
        let oldest = self.now().secs - age.as_secs().cast_signed();
        let mut from = Cursor::default();
        loop {
            let page = self.store.scan_attrs(from, PAGE).await?;
            leaks.corrupt.extend(page.corrupt);
            for (ino, attr) in page.items {
                if !named.contains(&ino) && attr.ctime.secs < oldest && !self.has_name(ino, &attr).await? {
                    leaks.inodes.push((ino, attr));
                }
            }
            match page.next {
                Some(next) => from = next,
                None => return Ok(()),
            }
        }
    }

    /// Whether a directory that the inode itself names holds it, or may do so in an entry that does not decode, or it is
    /// waiting for its name.
    async fn has_name(&self, ino: Ino, attr: &Attr) -> Result<bool> {
        let keys = [Key::Parents(ino), Key::Detached(ino)];
        let mut found = self.store.read(&keys).await?.into_iter();
        let mut dirs = vec![attr.parent];
        if let Some(Some(Record::Parents(parents))) = found.next() {
            dirs.extend(parents.into_keys());
        }
        if found.next().flatten().is_some() {
            return Ok(true);
        }
        for dir in dirs.into_iter().filter(|dir| dir.0 > 0) {
            let (entries, corrupt) = self.list_checked(dir, false).await?;
            if !corrupt.is_empty() || entries.into_values().any(|item| item.entry.ino == ino) {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Makes a nameless inode the top of a detached tree, if it is still as it was.
    async fn detach(&self, ino: Ino, was: Attr) -> Result<bool> {
        let ctx = self.context();
        self.transact(move |txn| detach(txn, &ctx, ino, &was)).await
    }

    async fn drop_entry(&self, dir: Ino, name: Name, entry: Entry) -> Result<bool> {
        let body = move |txn: &mut Txn<'_>| {
            txn.prime(&[Key::Entry(dir, name.clone()), Key::Attr(entry.ino)])?;
            let gone = txn.entry(dir, &name)? == Some(entry) && txn.attr(entry.ino)?.is_none();
            if gone {
                txn.write(Write::DelEntry(dir, name.clone()));
            }
            Ok(gone)
        };
        let gone = self.transact(body).await?;
        if gone {
            self.check_directory(dir, true).await?;
        }
        Ok(gone)
    }

    /// Notes what does not decode of the records that keep slices and that nothing else here reads.
    async fn find_unreadable(&self, leaks: &mut Leaks) -> Result<()> {
        unless_corrupt(self.store.list_delayed(i64::MAX).await, &mut leaks.corrupt)?;
        let mut from = Cursor::default();
        loop {
            let page = self.store.scan_slice_refs(from, PAGE).await?;
            leaks.corrupt.extend(page.corrupt);
            match page.next {
                Some(next) => from = next,
                None => return Ok(()),
            }
        }
    }

    async fn find_stray_chunks(&self, leaks: &mut Leaks) -> Result<()> {
        let (mut found, mut from) = (BTreeMap::<Ino, Vec<u32>>::new(), Cursor::default());
        loop {
            let page = self.store.scan_chunks(from, PAGE).await?;
            leaks.corrupt.extend(page.corrupt);
            let keys: Vec<Key> = page.items.iter().map(|(ino, _index, _slices)| Key::Attr(*ino)).collect();
            let attrs = unless_corrupt(self.store.read(&keys).await, &mut leaks.corrupt)?;
            for ((ino, index, _slices), attr) in page.items.into_iter().zip(attrs) {
                if attr.is_none() {
                    found.entry(ino).or_default().push(index);
                }
            }
            match page.next {
                Some(next) => from = next,
                None => break,
            }
        }
        if found.is_empty() {
            return Ok(());
        }
        let deleted: HashSet<Ino> =
            self.store.list_deleted(i64::MAX, usize::MAX >> 1).await?.into_iter().map(|file| file.0).collect();
        for (ino, indices) in found.into_iter().filter(|(ino, _indices)| !deleted.contains(ino)) {
            leaks.chunks.extend(indices.into_iter().map(|index| (ino, index)));
        }
        Ok(())
    }

    async fn is_stray(&self, ino: Ino) -> Result<bool> {
        if self.stored_attr(ino).await?.is_some() {
            return Ok(false);
        }
        let deleted = self.store.list_deleted(i64::MAX, usize::MAX >> 1).await?;
        Ok(!deleted.iter().any(|(waiting, _length)| *waiting == ino))
    }
}

/// What was read, or nothing and a note that it holds a record which does not decode.
fn unless_corrupt<T>(list: Result<Vec<T>>, corrupt: &mut Vec<Error>) -> Result<Vec<T>> {
    match list {
        Err(error @ Error::Corrupt { .. }) => {
            corrupt.push(error);
            Ok(Vec::new())
        }
        list => list,
    }
}
