//! Whole trees and paths: resolve, make, sum up, remove.

use std::collections::BTreeMap;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use futures::stream::{self, TryStreamExt};
use parking_lot::Mutex;
use stead_base::Ino;

use crate::error::{Error, Result};
use crate::records::{Attr, Name, NodeType};
use crate::store::{Listed, Store};

use super::Meta;
use super::context::{acl_permits, mode_permits, no_entry};
use super::remove::What;
use super::types::{Caller, Summary};

/// Entries of one directory that are removed at the same time.
const PARALLEL: usize = 16;
/// Files of one directory that one transaction removes.
const BATCH: usize = 200;
/// What lies deeper is removed first, by itself: a stack has an end.
const MAX_DEPTH: usize = 64;

type Work<'a, T> = Pin<Box<dyn Future<Output = Result<T>> + Send + 'a>>;

/// The components of a path; empty ones and `.` mean nothing.
fn components(path: &str) -> impl Iterator<Item = &str> {
    path.split('/').filter(|part| !part.is_empty() && *part != ".")
}

/// The directory of a path below the volume's root.
pub(super) async fn find_directory(store: &dyn Store, path: &str) -> Result<Ino> {
    let mut at = Ino::ROOT;
    for part in components(path) {
        let name = Name::entry(part.as_bytes())?;
        let found = store.lookup(at, &name).await?;
        let (entry, _attr) = found.ok_or_else(|| no_entry(at, &name))?;
        if entry.kind != NodeType::Directory {
            return Err(Error::NotDirectory { ino: entry.ino });
        }
        at = entry.ino;
    }
    Ok(at)
}

impl Meta {
    /// Where a path below the visible root leads. `..` is understood, symbolic links are not followed.
    ///
    /// # Errors
    /// [`Error::NoEntry`], [`Error::NotDirectory`].
    pub async fn resolve_path(&self, path: &str) -> Result<(Ino, Attr)> {
        let (mut at, mut attr) = (Ino::ROOT, self.getattr(Ino::ROOT).await?);
        for part in components(path) {
            if !attr.is_dir() {
                return Err(Error::NotDirectory { ino: at });
            }
            (at, attr) = if part == ".." {
                let parent = self.parent_of(at).await?;
                (parent, self.getattr(parent).await?)
            } else {
                self.lookup(at, part.as_bytes()).await?
            };
        }
        Ok((at, attr))
    }

    /// The directory of a path; those that are missing are made with the given mode and owner. Others are left alone.
    ///
    /// # Errors
    /// [`Error::NotDirectory`], and as of [`Meta::mknod`].
    pub async fn make_dirs(&self, path: &str, mode: u16, uid: u32, gid: u32) -> Result<Ino> {
        let owner = Caller::new(uid, gid, 0);
        let mut at = Ino::ROOT;
        for part in components(path) {
            let found = match self.lookup(at, part.as_bytes()).await {
                Err(Error::NoEntry { .. }) => match self.mkdir(&owner, at, part.as_bytes(), mode, 0).await {
                    Err(Error::Exists { .. }) => self.lookup(at, part.as_bytes()).await,
                    made => made,
                },
                found => found,
            };
            let (ino, attr) = found?;
            if !attr.is_dir() {
                return Err(Error::NotDirectory { ino });
            }
            at = ino;
        }
        Ok(at)
    }

    /// Adds up a tree. A file counts once for each of its names; what lies in `.trash` does not belong to the root.
    ///
    /// # Errors
    /// [`Error::NoInode`].
    pub async fn summary(&self, ino: Ino) -> Result<Summary> {
        let ino = self.real(ino);
        let top = self.stored_attr(ino).await?.ok_or(Error::NoInode { ino })?;
        let mut total = Summary::default();
        total.add(&top);
        let mut waiting = if top.is_dir() { vec![ino] } else { Vec::new() };
        while let Some(dir) = waiting.pop() {
            for listed in self.list_all(dir, true).await?.into_values() {
                let Some(attr) = &listed.attr else { continue };
                total.add(attr);
                if attr.is_dir() {
                    waiting.push(listed.entry.ino);
                }
            }
        }
        Ok(total)
    }

    /// Removes a name with everything below it, through the trash unless `skip_trash`. `progress` is told the number
    /// of entries removed so far. Returns how many were removed in all.
    ///
    /// # Errors
    /// [`Error::NoEntry`], and what keeps an entry from being removed; what was removed until then stays removed.
    pub async fn remove_tree(
        &self,
        caller: &Caller,
        parent: Ino,
        name: &[u8],
        skip_trash: bool,
        progress: &(dyn Fn(u64) + Send + Sync),
    ) -> Result<u64> {
        self.writable()?;
        let (ino, attr) = self.lookup(parent, name).await?;
        let tree = Tree::new(self, caller, skip_trash, progress);
        let parent = self.real(parent);
        while !tree.remove(parent, name, ino, attr.is_dir(), 0).await? {
            tree.empty_deep().await?;
        }
        Ok(tree.removed.into_inner())
    }

    /// Removes everything in a directory.
    pub(super) async fn empty(
        &self,
        caller: &Caller,
        dir: Ino,
        skip_trash: bool,
        progress: &(dyn Fn(u64) + Send + Sync),
    ) -> Result<u64> {
        let tree = Tree::new(self, caller, skip_trash, progress);
        while !tree.empty(dir, 0).await? {
            tree.empty_deep().await?;
        }
        Ok(tree.removed.into_inner())
    }
}

impl Summary {
    fn add(&mut self, attr: &Attr) {
        self.size += attr.space().unsigned_abs();
        match attr.kind {
            NodeType::Directory => self.dirs += 1,
            NodeType::File => {
                self.files += 1;
                self.length += attr.length;
            }
            _ => self.files += 1,
        }
    }
}

/// The removal of a tree.
struct Tree<'a> {
    meta: &'a Meta,
    caller: &'a Caller,
    skip_trash: bool,
    progress: &'a (dyn Fn(u64) + Send + Sync),
    removed: AtomicU64,
    /// Directories at [`MAX_DEPTH`] below where a removal began.
    deep: Mutex<Vec<Ino>>,
}

impl<'a> Tree<'a> {
    fn new(meta: &'a Meta, caller: &'a Caller, skip_trash: bool, progress: &'a (dyn Fn(u64) + Send + Sync)) -> Self {
        Self { meta, caller, skip_trash, progress, removed: AtomicU64::new(0), deep: Mutex::default() }
    }

    /// Empties the directories that were too deep, the deepest first.
    async fn empty_deep(&self) -> Result<()> {
        let mut waiting = std::mem::take(&mut *self.deep.lock());
        while let Some(dir) = waiting.pop() {
            if !self.empty(dir, 0).await? {
                waiting.push(dir);
                waiting.append(&mut self.deep.lock());
            }
        }
        Ok(())
    }

    /// False: it stays until what is too deep below it is removed.
    fn remove<'b>(&'b self, parent: Ino, name: &'b [u8], ino: Ino, is_dir: bool, depth: usize) -> Work<'b, bool> {
        Box::pin(async move {
            let what = if is_dir { What::Directory } else { What::File };
            loop {
                if is_dir && !self.empty(ino, depth).await? {
                    return Ok(false);
                }
                match self.meta.take_away(self.caller, parent, name, what, self.skip_trash).await {
                    // Somebody puts new names into the directory, or was faster.
                    Err(Error::NotEmpty { .. }) => {}
                    Err(Error::NoEntry { .. }) if depth > 0 => return Ok(true),
                    Err(error) => return Err(error),
                    Ok(()) => break,
                }
            }
            let removed = 1 + self.removed.fetch_add(1, Ordering::Relaxed);
            (self.progress)(removed);
            Ok(true)
        })
    }

    /// False: something is left below it that is too deep.
    async fn empty(&self, dir: Ino, depth: usize) -> Result<bool> {
        self.check_access(dir).await?;
        let mut entries = self.meta.list_all(dir, true).await?;
        self.remove_files(dir, &mut entries).await?;
        if depth >= MAX_DEPTH && !entries.is_empty() {
            self.deep.lock().push(dir);
            return Ok(false);
        }
        let all = AtomicBool::new(true);
        let gone = &all;
        stream::iter(entries.into_values().map(Ok))
            .try_for_each_concurrent(PARALLEL, |listed| async move {
                let is_dir = listed.entry.kind == NodeType::Directory;
                let removed = self.remove(dir, listed.name.as_bytes(), listed.entry.ino, is_dir, depth + 1).await?;
                gone.fetch_and(removed, Ordering::Relaxed);
                Ok::<_, Error>(())
            })
            .await?;
        Ok(all.into_inner())
    }

    /// Removes files with one name, many at a time, and takes those that are gone out of `entries`.
    async fn remove_files(&self, dir: Ino, entries: &mut BTreeMap<Name, Listed>) -> Result<()> {
        let plain = |item: &&Listed| item.attr.as_ref().is_some_and(|attr| !attr.is_dir() && attr.nlink <= 1);
        let files: Vec<_> = entries.values().filter(plain).map(|item| (item.name.clone(), item.entry.ino)).collect();
        for files in files.chunks(BATCH) {
            let gone = self.meta.take_away_files(self.caller, dir, files, self.skip_trash).await?;
            for name in &gone {
                entries.remove(name);
            }
            let more = gone.len() as u64;
            (self.progress)(more + self.removed.fetch_add(more, Ordering::Relaxed));
        }
        Ok(())
    }

    /// Who removes names from a directory must be allowed to write and to search it.
    async fn check_access(&self, dir: Ino) -> Result<()> {
        if self.caller.is_root() {
            return Ok(());
        }
        let Some(attr) = self.meta.stored_attr(dir).await? else { return Ok(()) };
        let allowed = match attr.access_acl {
            0 => mode_permits(self.caller, &attr, 0o7),
            id => acl_permits(&*self.meta.acl_rule(id).await?, self.caller, &attr, 0o7),
        };
        if allowed {
            Ok(())
        } else {
            Err(Error::AccessDenied { ino: dir, why: "its directory may not be read and written" })
        }
    }
}
