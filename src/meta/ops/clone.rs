//! Clones of files and trees: new inodes that name the same slices (format.md §2.5, §2.9).
//!
//! A tree is cloned out of sight: its top is a detached node without a parent until everything below it is there, and only
//! then gets its name. So nobody ever sees half a clone, a clone of a directory into itself ends, and what a death leaves
//! behind is found among the detached nodes. Until then the clone counts in the volume, not in anybody's quota.

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};

use futures::stream::{self, FuturesUnordered, StreamExt, TryStreamExt};
use parking_lot::Mutex;
use stead_base::{Ino, failpoint};
use tracing::warn;

use crate::error::{Error, Result};
use crate::records::{Attr, CHUNK_SIZE, Entry, Key, Name, NodeType, Write, flags};
use crate::store::{Cursor, Listed, Step, Txn};

use super::Meta;
use super::context::{Context, directory, existing, exists, permits, takes_names};
use super::deleted::{add_references, references};
use super::ledger::{Ledger, Limits};
use super::trash::{Dropped, Left, drop_name, trash_keys};
use super::types::Caller;

/// Entries that are read together.
const PAGE: usize = 1000;
/// Entries of one directory that one transaction clones.
const BATCH: usize = 50;
/// Batches of one directory under way at the same time.
const BATCHES: usize = 4;
/// Chunks of a longer file are looked up before they are read.
const FEW_CHUNKS: u64 = 8;

/// How [`Meta::clone_tree`] clones.
#[derive(Clone, Copy, Debug)]
pub struct CloneOptions {
    /// Replace what has the name, by the rules of rename(2).
    pub overwrite: bool,
    /// Keep owner, group, mode and times; otherwise the clone belongs to the caller and is new.
    pub preserve: bool,
    /// Names of one file stay names of one file; otherwise each becomes a file.
    pub hard_links: bool,
    /// Mode bits that are cleared, unless they are preserved.
    pub umask: u16,
    /// Directories that are cloned at the same time, at least 1.
    pub concurrency: usize,
}

impl Default for CloneOptions {
    fn default() -> Self {
        Self { overwrite: false, preserve: false, hard_links: false, umask: 0o22, concurrency: 8 }
    }
}

impl Meta {
    /// Clones a file or a tree under a new name; no data is copied. What the source's files have not committed is not
    /// seen. Each file is cloned as it was at one moment, a tree is not. `progress` is told how many inodes there are by
    /// now, and may end the whole. Returns the clone's top.
    ///
    /// # Errors
    /// [`Error::Exists`], [`Error::AccessDenied`] for what the caller may not read or write, the rules for directories
    /// and limits; [`Error::Interrupted`]. Then nothing is left.
    pub async fn clone_tree(
        &self,
        caller: &Caller,
        src: Ino,
        dst_parent: Ino,
        dst_name: &[u8],
        options: CloneOptions,
        progress: &(dyn Fn(u64) -> ControlFlow<()> + Send + Sync),
    ) -> Result<(Ino, Attr)> {
        let top = self.clone_top().await?;
        self.clone_tree_as(top, caller, src, (dst_parent, dst_name), options, progress).await
    }

    /// An inode for the top of a clone that is yet to be made. Who writes it down before the clone begins can find with
    /// [`Meta::discard_clone`] what a death left of it.
    ///
    /// # Errors
    /// Those of the engine.
    pub async fn clone_top(&self) -> Result<Ino> {
        self.writable()?;
        self.new_inode().await
    }

    /// As [`Meta::clone_tree`]; `top`, which [`Meta::clone_top`] gave for this clone alone, becomes its top.
    ///
    /// # Errors
    /// As of [`Meta::clone_tree`].
    pub async fn clone_tree_as(
        &self,
        top: Ino,
        caller: &Caller,
        src: Ino,
        (dst_parent, dst_name): (Ino, &[u8]),
        options: CloneOptions,
        progress: &(dyn Fn(u64) -> ControlFlow<()> + Send + Sync),
    ) -> Result<(Ino, Attr)> {
        self.writable()?;
        let (src, dst_parent, dst_name) = (self.real(src), self.real(dst_parent), Name::entry(dst_name)?);
        self.free_name(dst_parent, &dst_name)?;
        let source = self.getattr(src).await?;
        let place = Place { dir: dst_parent, name: dst_name, overwrite: options.overwrite };
        self.check_place(caller, &place, source.is_dir()).await?;
        let cloning = Cloning::new(self, caller, options, progress);
        let made = match cloning.all(src, top, source.is_dir()).await {
            Ok(()) => cloning.attach(top, &place).await,
            Err(error) => Err(error),
        };
        match made {
            Ok(attr) => {
                self.note_stats([dst_parent]);
                self.guesses.note(dst_parent, &place.name, top);
                if attr.is_dir() {
                    self.directories.remember(top, dst_parent);
                }
                Ok((top, attr))
            }
            Err(error) => {
                if let Err(error) = self.remove_detached(top).await {
                    warn!(%top, %error, "a clone that failed is left to the clean-up of detached nodes");
                }
                Err(error)
            }
        }
    }

    /// Removes what is left of a clone that never got its name. One that has its name, and what was never begun, stay as
    /// they are.
    ///
    /// # Errors
    /// Those of the engine; a repeat goes on.
    pub async fn discard_clone(&self, top: Ino) -> Result<()> {
        self.writable()?;
        match self.read_one(Key::Detached(top)).await? {
            Some(_since) => self.remove_detached(top).await,
            None => Ok(()),
        }
    }

    /// Says early what would be found at the end.
    async fn check_place(&self, caller: &Caller, place: &Place, is_dir: bool) -> Result<()> {
        let (place, caller) = (place.clone(), caller.clone());
        self.transact(move |txn| place.check(txn, &caller, is_dir).map(|_found| ())).await
    }

    /// Removes a clone that never got its name, with everything below it.
    ///
    /// # Errors
    /// Those of the engine.
    pub(super) async fn remove_detached(&self, top: Ino) -> Result<()> {
        let Some(attr) = self.stored_attr(top).await? else {
            return self
                .transact(move |txn| {
                    txn.write(Write::DelDetached(top));
                    Ok(())
                })
                .await;
        };
        if attr.is_dir() {
            self.empty(&Caller::root(), top, true, &|_count| ()).await?;
        }
        let ctx = self.context();
        let left = self.transact(move |txn| drop_detached(txn, &ctx, top)).await?;
        self.finish(left);
        Ok(())
    }
}

/// Makes an inode without a name the top of a detached tree, if it is still as it was.
pub(super) fn detach(txn: &mut Txn<'_>, ctx: &Context, ino: Ino, was: &Attr) -> Step<bool> {
    if txn.attr(ino)?.as_ref() != Some(was) {
        return Ok(false);
    }
    txn.write(Write::AddDetached(ino, ctx.now.secs));
    txn.write(Write::DelParents(ino));
    txn.write(Write::SetAttr(ino, Attr { parent: Ino(0), ..was.clone() }));
    Ok(true)
}

/// Removes the top, unless it has got its name meanwhile.
fn drop_detached(txn: &mut Txn<'_>, ctx: &Context, top: Ino) -> Step<Left> {
    txn.prime(&[Key::Attr(top), Key::Detached(top), Key::AnyEntry(top)])?;
    let attr = txn.attr(top)?;
    if txn.get(&Key::Detached(top))?.is_none() {
        return Ok(Left::Nothing);
    }
    txn.write(Write::DelDetached(top));
    let Some(attr) = attr else { return Ok(Left::Nothing) };
    if txn.has_entries(top)? {
        return Err(Error::NotEmpty { ino: top }.into());
    }
    let mut ledger = Ledger::default();
    txn.write(Write::DelDirStat(top));
    if attr.kind == NodeType::Symlink {
        txn.write(Write::DelSymlink(top));
    }
    let left = super::trash::remove_inode(txn, ctx, &mut ledger, top, &attr);
    ledger.settle(txn, ctx, Limits::None)?;
    Ok(left)
}

/// Where a clone is to be seen.
#[derive(Clone, Debug)]
struct Place {
    dir: Ino,
    name: Name,
    overwrite: bool,
}

impl Place {
    /// The directory, and what has the name.
    fn check(&self, txn: &mut Txn<'_>, caller: &Caller, is_dir: bool) -> Step<(Attr, Option<(Entry, Attr)>)> {
        txn.prime(&[Key::Attr(self.dir), Key::Entry(self.dir, self.name.clone())])?;
        let dir = directory(txn, self.dir)?;
        takes_names(self.dir, &dir)?;
        if !permits(txn, caller, &dir, 3)? {
            return Err(Error::AccessDenied { ino: self.dir, why: "the caller may not write to it" }.into());
        }
        let Some(entry) = txn.entry(self.dir, &self.name)? else { return Ok((dir, None)) };
        if !self.overwrite {
            return Err(exists(self.dir, &self.name).into());
        }
        let attr = existing(txn, entry.ino)?;
        super::context::not_flagged(entry.ino, &attr, flags::IMMUTABLE | flags::APPEND)?;
        super::context::not_sticky(caller, &dir, entry.ino, &attr)?;
        match (is_dir, attr.is_dir()) {
            (true, false) => Err(Error::NotDirectory { ino: entry.ino }.into()),
            (false, true) => Err(Error::IsDirectory { ino: entry.ino }.into()),
            (true, true) if txn.has_entries(entry.ino)? => Err(Error::NotEmpty { ino: entry.ino }.into()),
            _ => Ok((dir, Some((entry, attr)))),
        }
    }
}

/// An inode to be cloned.
#[derive(Clone, Debug)]
struct Item {
    src: Ino,
    new: Ino,
    /// `None`: the top.
    name: Option<Name>,
    /// The source's length when its chunks were looked up.
    length: u64,
    /// Chunks of a long file that have records.
    chunks: Vec<u32>,
    xattrs: Vec<Name>,
}

/// A directory whose entries are to be cloned.
#[derive(Clone, Copy, Debug)]
struct Pending {
    src: Ino,
    new: Ino,
}

/// A name of a file that has several.
struct Linked {
    src: Ino,
    dir: Ino,
    name: Name,
}

/// What a transaction made of an item.
enum Made {
    Inode(Pending, Attr),
    /// The source is gone, or no longer what the directory says.
    Gone,
    /// It has grown: its chunks are to be looked up again.
    Grown(Item),
}

struct Cloning<'a> {
    meta: &'a Meta,
    caller: &'a Caller,
    options: CloneOptions,
    progress: &'a (dyn Fn(u64) -> ControlFlow<()> + Send + Sync),
    inodes: AtomicU64,
    /// What the clone counts in quotas: space, and one per name.
    space: AtomicI64,
    names: AtomicI64,
    linked: Mutex<BTreeMap<Ino, Vec<Linked>>>,
}

impl<'a> Cloning<'a> {
    fn new(
        meta: &'a Meta,
        caller: &'a Caller,
        options: CloneOptions,
        progress: &'a (dyn Fn(u64) -> ControlFlow<()> + Send + Sync),
    ) -> Self {
        let (inodes, space, names) = (AtomicU64::new(0), AtomicI64::new(0), AtomicI64::new(0));
        Self { meta, caller, options, progress, inodes, space, names, linked: Mutex::default() }
    }

    /// Clones everything, detached.
    async fn all(&self, src: Ino, top: Ino, is_dir: bool) -> Result<()> {
        let made = self.batch(Ino(0), vec![self.looked_up(src, top, None).await?]).await?;
        let Some(top) = made.first() else { return Err(Error::NoInode { ino: src }) };
        if !is_dir {
            return Ok(());
        }
        let (mut waiting, mut running) = (vec![top.0], FuturesUnordered::new());
        loop {
            while running.len() < self.options.concurrency.max(1)
                && let Some(next) = waiting.pop()
            {
                running.push(self.directory(next));
            }
            match running.next().await {
                Some(found) => waiting.extend(found?),
                None => break,
            }
        }
        drop(running);
        let linked = std::mem::take(&mut *self.linked.lock());
        // Collected, as a closure would keep the future from being sent to another thread.
        let groups: Vec<_> = linked.into_values().map(|names| self.link(names)).collect();
        stream::iter(groups).buffer_unordered(self.options.concurrency.max(1)).try_collect().await
    }

    /// Clones the entries of a directory. Returns those that are directories.
    async fn directory(&self, dir: Pending) -> Result<Vec<Pending>> {
        let (mut found, mut seen, mut from) = (Vec::new(), std::collections::BTreeSet::new(), Cursor::default());
        loop {
            let page = self.meta.store.list_entries(dir.src, true, from, PAGE).await?;
            let fresh: Vec<Listed> = page.items.into_iter().filter(|item| seen.insert(item.name.clone())).collect();
            let fresh = self.set_linked_aside(dir.new, fresh);
            let batches: Vec<_> = fresh.chunks(BATCH).map(|listed| self.listed(dir.new, listed)).collect();
            let batches = stream::iter(batches).buffer_unordered(BATCHES);
            let made: Vec<Vec<(Pending, Attr)>> = batches.try_collect().await?;
            found.extend(made.into_iter().flatten().filter(|(_new, attr)| attr.is_dir()).map(|(new, _attr)| new));
            match page.next {
                Some(next) => from = next,
                None => break,
            }
        }
        if !found.is_empty() {
            let (new, dirs) = (dir.new, u32::try_from(found.len()).unwrap_or(u32::MAX));
            self.meta
                .transact(move |txn| {
                    let mut attr = directory(txn, new)?;
                    attr.nlink = dirs.saturating_add(2);
                    txn.write(Write::SetAttr(new, attr));
                    Ok(())
                })
                .await?;
        }
        Ok(found)
    }

    fn set_linked_aside(&self, dir: Ino, listed: Vec<Listed>) -> Vec<Listed> {
        if !self.options.hard_links {
            return listed;
        }
        let is_linked = |item: &Listed| item.attr.as_ref().is_some_and(|attr| !attr.is_dir() && attr.nlink > 1);
        let (aside, rest): (Vec<_>, Vec<_>) = listed.into_iter().partition(is_linked);
        let mut linked = self.linked.lock();
        for item in aside {
            let src = item.entry.ino;
            linked.entry(src).or_default().push(Linked { src, dir, name: item.name });
        }
        rest
    }

    async fn listed(&self, dir: Ino, listed: &[Listed]) -> Result<Vec<(Pending, Attr)>> {
        let items = listed.iter().map(|item| async move {
            let new = self.meta.new_inode().await?;
            let length = item.attr.as_ref().map_or(0, |attr| attr.length);
            self.item(item.entry.ino, new, Some(item.name.clone()), length).await
        });
        let items: Vec<_> = items.collect();
        let items: Vec<Item> = stream::iter(items).buffered(BATCH).try_collect().await?;
        self.batch(dir, items).await
    }

    async fn looked_up(&self, src: Ino, new: Ino, name: Option<Name>) -> Result<Item> {
        let attr = self.meta.stored_attr(src).await?;
        self.item(src, new, name, attr.map_or(0, |attr| attr.length)).await
    }

    /// Looks up what a transaction cannot find by itself.
    async fn item(&self, src: Ino, new: Ino, name: Option<Name>, length: u64) -> Result<Item> {
        let xattrs = self.meta.store.list_xattrs(src).await?;
        let length = length.max(FEW_CHUNKS * CHUNK_SIZE);
        let many = length > FEW_CHUNKS * CHUNK_SIZE;
        let chunks = if many { self.meta.store.list_chunks(src, 0..chunk_count(length)).await? } else { Vec::new() };
        Ok(Item { src, new, name, length, chunks, xattrs })
    }

    /// Clones items into one directory. Returns what was made.
    async fn batch(&self, dir: Ino, mut items: Vec<Item>) -> Result<Vec<(Pending, Attr)>> {
        let mut all = Vec::new();
        while !items.is_empty() {
            let (ctx, caller, options) = (self.meta.context(), self.caller.clone(), self.options);
            let batch = Arc::new(std::mem::take(&mut items));
            failpoint::hit("meta.clone.before-batch");
            let made = self.meta.transact(move |txn| clone_batch(txn, &ctx, &caller, options, dir, &batch)).await?;
            for made in made {
                match made {
                    Made::Inode(new, attr) => {
                        self.count(attr.space(), 1);
                        all.push((new, attr));
                    }
                    Made::Gone => {}
                    Made::Grown(item) => items.push(self.looked_up(item.src, item.new, item.name).await?),
                }
            }
            let inodes = self.inodes.fetch_add(all.len() as u64, Ordering::Relaxed) + all.len() as u64;
            if (self.progress)(inodes).is_break() {
                return Err(Error::Interrupted);
            }
        }
        Ok(all)
    }

    fn count(&self, space: i64, names: i64) {
        self.space.fetch_add(space, Ordering::Relaxed);
        self.names.fetch_add(names, Ordering::Relaxed);
    }

    /// Clones a file under all the names that it has in the tree.
    async fn link(&self, names: Vec<Linked>) -> Result<()> {
        let Some(first) = names.first() else { return Ok(()) };
        let new = self.meta.new_inode().await?;
        let item = self.looked_up(first.src, new, Some(first.name.clone())).await?;
        let made = self.batch(first.dir, vec![item]).await?;
        let Some((new, attr)) = made.into_iter().next() else { return Ok(()) };
        let more = names.len() - 1;
        if more > 0 {
            self.count(attr.space() * more.cast_signed() as i64, more.cast_signed() as i64);
            let ctx = self.meta.context();
            self.meta.transact(move |txn| link_batch(txn, &ctx, new.new, &names)).await?;
        }
        Ok(())
    }

    /// Gives the clone its name.
    async fn attach(&self, top: Ino, place: &Place) -> Result<Attr> {
        let (ctx, caller, place) = (self.meta.context(), self.caller.clone(), place.clone());
        let usage = (self.space.load(Ordering::Relaxed), self.names.load(Ordering::Relaxed));
        failpoint::hit("meta.clone.before-attach");
        let (attr, left) = self.meta.transact(move |txn| attach(txn, &ctx, &caller, top, &place, usage)).await?;
        failpoint::hit("meta.clone.after-attach");
        self.meta.finish(left);
        Ok(attr)
    }
}

/// How many chunks a file of `length` bytes can have.
fn chunk_count(length: u64) -> u32 {
    u32::try_from(length.div_ceil(CHUNK_SIZE)).unwrap_or(u32::MAX)
}

fn clone_batch(
    txn: &mut Txn<'_>,
    ctx: &Context,
    caller: &Caller,
    options: CloneOptions,
    dir: Ino,
    items: &[Item],
) -> Step<Vec<Made>> {
    let keys: Vec<Key> = items.iter().flat_map(Item::keys).collect();
    ctx.prime(txn, &keys, &[])?;
    let (mut ledger, mut made) = (Ledger::default(), Vec::with_capacity(items.len()));
    for item in items {
        let Some(source) = txn.attr(item.src)? else {
            made.push(Made::Gone);
            continue;
        };
        let Some(chunks) = item.chunks_of(&source) else {
            made.push(Made::Grown(item.clone()));
            continue;
        };
        let wanted = if source.is_dir() { 5 } else { 4 };
        if !permits(txn, caller, &source, wanted)? {
            return Err(Error::AccessDenied { ino: item.src, why: "the caller may not read it" }.into());
        }
        let attr = cloned_attr(ctx, caller, options, dir, &source);
        txn.write(Write::SetAttr(item.new, attr.clone()));
        item.clone_content(txn, &source, chunks)?;
        if source.is_dir() && ctx.dir_stats {
            txn.write(Write::InitDirStat(item.new));
        }
        match &item.name {
            Some(name) => {
                txn.write(Write::SetEntry(dir, name.clone(), Entry { kind: attr.kind, ino: item.new }));
                ledger.entry(dir, 1, &attr);
            }
            None => txn.write(Write::AddDetached(item.new, ctx.now.secs)),
        }
        ledger.inode(1, &attr);
        made.push(Made::Inode(Pending { src: item.src, new: item.new }, attr));
    }
    ledger.settle(txn, ctx, Limits::All)?;
    Ok(made)
}

impl Item {
    fn keys(&self) -> Vec<Key> {
        let mut keys = vec![Key::Attr(self.src)];
        keys.extend(self.chunks.iter().map(|chunk| Key::Chunk(self.src, *chunk)));
        keys.extend(self.xattrs.iter().map(|name| Key::Xattr(self.src, name.clone())));
        keys
    }

    /// The chunks of the source that may have records; `None` when it has grown since they were looked up.
    fn chunks_of(&self, source: &Attr) -> Option<Vec<u32>> {
        match source.kind {
            NodeType::File if source.length <= FEW_CHUNKS * CHUNK_SIZE => {
                Some((0..chunk_count(source.length)).collect())
            }
            NodeType::File if source.length > self.length => None,
            NodeType::File => Some(self.chunks.clone()),
            _ => Some(Vec::new()),
        }
    }

    fn clone_content(&self, txn: &mut Txn<'_>, source: &Attr, chunks: Vec<u32>) -> Step<()> {
        let keys: Vec<Key> = chunks.iter().map(|chunk| Key::Chunk(self.src, *chunk)).collect();
        txn.prime(&keys)?;
        for chunk in chunks {
            let records = txn.slices(self.src, chunk)?.unwrap_or_default();
            if !records.is_empty() {
                add_references(txn, &references(records.iter()));
                txn.write(Write::AppendSlices(self.new, chunk, records));
            }
        }
        for name in &self.xattrs {
            if let Some(value) = txn.xattr(self.src, name)? {
                txn.write(Write::SetXattr(self.new, name.clone(), value));
            }
        }
        if source.kind == NodeType::Symlink
            && let Some(target) = txn.symlink(self.src)?
        {
            txn.write(Write::SetSymlink(self.new, target));
        }
        Ok(())
    }
}

fn cloned_attr(ctx: &Context, caller: &Caller, options: CloneOptions, dir: Ino, source: &Attr) -> Attr {
    let mut attr = Attr {
        // What protects the source would only be in the way of the clone.
        flags: source.flags & !(flags::IMMUTABLE | flags::APPEND),
        nlink: if source.is_dir() { 2 } else { 1 },
        parent: dir,
        ..source.clone()
    };
    if !options.preserve {
        (attr.uid, attr.gid) = (caller.uid, caller.gid);
        (attr.atime, attr.mtime, attr.ctime) = (ctx.now, ctx.now, ctx.now);
        // With an ACL the group bits are its mask.
        if attr.access_acl == 0 && attr.kind != NodeType::Symlink {
            attr.mode &= !options.umask;
        }
    }
    attr
}

/// Gives a clone the other names that its source has.
fn link_batch(txn: &mut Txn<'_>, ctx: &Context, new: Ino, names: &[Linked]) -> Step<()> {
    let mut attr = existing(txn, new)?;
    let mut ledger = Ledger::default();
    attr.nlink = u32::try_from(names.len()).unwrap_or(u32::MAX);
    attr.parent = Ino(0);
    for (nth, name) in names.iter().enumerate() {
        txn.write(Write::AddParent(new, name.dir, 1));
        if nth > 0 {
            txn.write(Write::SetEntry(name.dir, name.name.clone(), Entry { kind: attr.kind, ino: new }));
            ledger.entry(name.dir, 1, &attr);
        }
    }
    txn.write(Write::SetAttr(new, attr));
    ledger.settle(txn, ctx, Limits::None)
}

fn attach(
    txn: &mut Txn<'_>,
    ctx: &Context,
    caller: &Caller,
    top: Ino,
    place: &Place,
    (space, names): (i64, i64),
) -> Step<(Attr, Left)> {
    let mut keys = vec![Key::Attr(top), Key::Detached(top), Key::Attr(place.dir)];
    keys.push(Key::Entry(place.dir, place.name.clone()));
    if place.overwrite {
        keys.extend(trash_keys(ctx));
    }
    ctx.prime(txn, &keys, &[place.dir])?;
    let mut attr = existing(txn, top)?;
    if txn.get(&Key::Detached(top))?.is_none() {
        // Somebody took it for the remains of a dead client.
        return Err(Error::NoInode { ino: top }.into());
    }
    let is_dir = attr.is_dir();
    let (mut dir, replaced) = place.check(txn, caller, is_dir)?;
    let (mut ledger, mut left) = (Ledger::default(), Left::Nothing);
    let replaces_dir = replaced.as_ref().is_some_and(|(_entry, attr)| attr.is_dir());
    if let Some((entry, gone)) = replaced {
        let gone = Dropped { dir: place.dir, name: &place.name, entry, attr: gone, skip_trash: false };
        left = drop_name(txn, ctx, &mut ledger, gone)?;
    }
    attr.parent = place.dir;
    if is_dir && !replaces_dir {
        dir.nlink += 1;
    }
    txn.write(Write::SetAttr(top, attr.clone()));
    txn.write(Write::SetEntry(place.dir, place.name.clone(), Entry { kind: attr.kind, ino: top }));
    txn.write(Write::DelDetached(top));
    if ctx.touch(&mut dir, is_dir) {
        txn.write(Write::SetAttr(place.dir, dir));
    }
    ledger.entry(place.dir, 1, &attr);
    ledger.tree(place.dir, space, names);
    ledger.settle(txn, ctx, Limits::Quotas)?;
    Ok((attr, left))
}
