//! Whole trees: removal and sums.

use std::ops::ControlFlow;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};

use futures::stream::{self, FuturesUnordered, StreamExt, TryStreamExt};
use serde_json::{Value, json};
use stead_base::{Errno, Ino};
use stead_meta::ops::{Caller, CloneOptions};
use stead_meta::records::{Attr, CHUNK_SIZE, NodeType};
use stead_meta::store::{Cursor, Listed, Page};
use tokio::sync::Semaphore;
use tracing::warn;

use super::request::Request;
use super::{Answer, Done};
use crate::Vfs;
use crate::errno::{Result, ToErrno, fail};

/// Entries of a directory that are read at once.
const PAGE: usize = 1000;
/// Directories that are read at the same time.
const PARALLEL: usize = 16;
/// Chunks compacted at the same time, at most.
const MOST_THREADS: u16 = 64;
/// Levels of a tree whose sums are shown one by one, at most.
const MOST_DEPTH: usize = 64;
/// Bit of the flags of a removal.
const SKIP_TRASH: u8 = 1;
/// Bits of the mode of a clone.
const OVERWRITE: u8 = 1;
const PRESERVE: u8 = 2;
const HARD_LINKS: u8 = 8;

impl Vfs {
    /// Body: u64 parent, name behind its length, optionally flags (bit 0: not through the trash) and threads.
    pub(super) async fn remove(&self, caller: &Caller, mut request: Request<'_>, done: &Done) -> Result<Answer> {
        let (parent, name) = (request.ino()?, request.name()?);
        let skip_trash = request.u8_or(0) & SKIP_TRASH != 0;
        if skip_trash && !caller.is_root() {
            return Err(Errno::EPERM);
        }
        let progress = |_removed| done.add(1, 0);
        let removed = self.meta.remove_tree(caller, parent, name, skip_trash, &progress).await;
        // The kernel did not ask for it, so it does not know.
        self.entry_changed(parent, name);
        removed.map_err(fail).map(|_count| Answer::Done)
    }

    /// Body: u64 source, u64 its directory, u64 directory of the clone, its name behind its length, u16 umask, u8 mode,
    /// optionally u8 threads.
    pub(super) async fn clone(&self, caller: &Caller, mut request: Request<'_>, done: &Done) -> Result<Answer> {
        let (source, _its_directory, parent) = (request.ino()?, request.ino()?, request.ino()?);
        let (name, umask, mode) = (request.name()?, request.u16()?, request.u8()?);
        let options = CloneOptions {
            overwrite: mode & OVERWRITE != 0,
            preserve: mode & PRESERVE != 0,
            hard_links: mode & HARD_LINKS != 0,
            umask,
            concurrency: request.u8_or(4).max(1).into(),
        };
        let told = AtomicU64::new(0);
        let progress = |cloned: u64| {
            done.add(cloned.saturating_sub(told.fetch_max(cloned, Ordering::Relaxed)), 0);
            ControlFlow::Continue(())
        };
        self.clone_tree(caller, source, (parent, name), options, &progress).await?;
        self.entry_changed(parent, name);
        Ok(Answer::Done)
    }

    /// Body: u64 inode, u16 threads.
    pub(super) async fn compact_below(&self, mut request: Request<'_>, done: &Done) -> Result<Answer> {
        let (top, threads) = (request.ino()?, request.u16()?.clamp(1, MOST_THREADS));
        let mut failed = false;
        let mut waiting = vec![top];
        while let Some(ino) = waiting.pop() {
            let attr = self.meta.getattr(ino).await.map_err(fail)?;
            match attr.kind {
                NodeType::Directory => waiting.extend(self.files_in(ino).await?),
                NodeType::File => failed |= !self.compact_file(ino, attr.length, threads, done).await?,
                _ => {}
            }
        }
        if failed { Err(Errno::EIO) } else { Ok(Answer::Done) }
    }

    /// Files and directories in a directory.
    async fn files_in(&self, dir: Ino) -> Result<Vec<Ino>> {
        let (mut found, mut from) = (Vec::new(), Cursor::default());
        loop {
            let page = self.meta.list(dir, false, from, PAGE).await.map_err(fail)?;
            let wanted = |kind| matches!(kind, NodeType::File | NodeType::Directory);
            found.extend(page.items.iter().filter(|item| wanted(item.entry.kind)).map(|item| item.entry.ino));
            match page.next {
                Some(next) => from = next,
                None => return Ok(found),
            }
        }
    }

    /// False: a chunk could not be compacted, and the log says why.
    async fn compact_file(&self, ino: Ino, length: u64, threads: u16, done: &Done) -> Result<bool> {
        let end = u32::try_from(length.div_ceil(CHUNK_SIZE)).unwrap_or(u32::MAX);
        let indices = self.meta.store().list_chunks(ino, 0..end).await.map_err(fail)?;
        let mut compacted =
            stream::iter(indices).map(|index| self.compact(ino, index)).buffer_unordered(threads.into());
        let mut right = true;
        while let Some(result) = compacted.next().await {
            done.add(1, 0);
            if let Err(error) = result {
                warn!(%ino, %error, "not compacted");
                right = false;
            }
        }
        Ok(right)
    }

    /// Body: u64 inode, u8 depth, u8 most entries of a directory, u8 strict: sums are always exact.
    pub(super) async fn summary(&self, mut request: Request<'_>, done: &Done) -> Result<Value> {
        let (ino, depth, most) = (request.ino()?, request.u8()?, request.u8()?);
        let mut tree = Sum { ino, path: String::new(), kind: NodeType::Directory, ..Sum::default() };
        let attr = match self.meta.getattr(ino).await {
            Ok(attr) => attr,
            Err(error) => return Ok(json!({"Errno": error.errno().0, "Tree": tree.shown()})),
        };
        tree.add(&attr, done);
        if attr.is_dir() {
            let walk = Walk { vfs: self, done, most: most.into(), turns: Semaphore::new(PARALLEL) };
            tree = walk.below(tree, usize::from(depth).min(MOST_DEPTH)).await?;
        }
        Ok(json!({"Errno": 0, "Tree": tree.shown()}))
    }
}

/// The sums of a tree and, near its top, of the trees in it.
struct Sum {
    ino: Ino,
    path: String,
    kind: NodeType,
    size: u64,
    files: u64,
    dirs: u64,
    children: Vec<Self>,
}

impl Default for Sum {
    fn default() -> Self {
        let (path, kind, children) = (String::new(), NodeType::File, Vec::new());
        Self { ino: Ino(0), path, kind, size: 0, files: 0, dirs: 0, children }
    }
}

impl Sum {
    fn add(&mut self, attr: &Attr, done: &Done) {
        let size = attr.space().unsigned_abs();
        self.size += size;
        if attr.is_dir() {
            self.dirs += 1
        } else {
            self.files += 1
        }
        done.add(1, size);
    }

    fn include(&mut self, other: &Self) {
        self.size += other.size;
        self.files += other.files;
        self.dirs += other.dirs;
    }

    /// Keeps the largest children; the others are shown as one.
    fn keep_largest(&mut self, most: usize) {
        self.children.sort_by(|a, b| b.size.cmp(&a.size).then_with(|| a.path.cmp(&b.path)));
        if self.children.len() > most {
            let mut rest = Self { path: joined(&self.path, "..."), ..Self::default() };
            self.children.drain(most..).for_each(|child| rest.include(&child));
            self.children.push(rest);
        }
    }

    fn shown(&self) -> Value {
        let mut shown = json!({
            "Inode": self.ino.0,
            "Path": self.path,
            "Type": self.kind as u8,
            "Size": self.size,
            "Files": self.files,
            "Dirs": self.dirs,
        });
        if !self.children.is_empty() {
            shown["Children"] = self.children.iter().map(Self::shown).collect();
        }
        shown
    }
}

fn joined(directory: &str, name: &str) -> String {
    if directory.is_empty() { name.to_owned() } else { format!("{directory}/{name}") }
}

struct Walk<'a> {
    vfs: &'a Vfs,
    done: &'a Done,
    most: usize,
    turns: Semaphore,
}

impl Walk<'_> {
    /// Adds what is below a directory; the children are kept down to `depth`.
    fn below(&self, mut sum: Sum, depth: usize) -> Pin<Box<dyn Future<Output = Result<Sum>> + Send + '_>> {
        Box::pin(async move {
            if depth == 0 {
                return self.total(sum).await;
            }
            let (mut directories, mut from) = (Vec::new(), Cursor::default());
            loop {
                let page = self.page(sum.ino, from).await?;
                for listed in page.items {
                    let Some(attr) = listed.attr else { continue };
                    let path = joined(&sum.path, &listed.name.to_string());
                    let mut child = Sum { ino: listed.entry.ino, path, kind: attr.kind, ..Sum::default() };
                    child.add(&attr, self.done);
                    if attr.is_dir() {
                        directories.push(child);
                    } else {
                        sum.include(&child);
                        sum.children.push(child);
                    }
                }
                match page.next {
                    Some(next) => from = next,
                    None => break,
                }
            }
            let below = directories.into_iter().map(|child| self.below(child, depth - 1));
            let mut below = stream::iter(below).buffer_unordered(PARALLEL);
            while let Some(child) = below.try_next().await? {
                sum.include(&child);
                sum.children.push(child);
            }
            sum.keep_largest(self.most);
            Ok(sum)
        })
    }

    /// Adds what is below a directory, however deep that is: a stack has an end, and this is not called by root alone.
    async fn total(&self, mut sum: Sum) -> Result<Sum> {
        let (mut waiting, mut read) = (vec![sum.ino], FuturesUnordered::new());
        loop {
            while read.len() < PARALLEL
                && let Some(dir) = waiting.pop()
            {
                read.push(self.entries(dir));
            }
            let Some(found) = read.try_next().await? else { return Ok(sum) };
            let (entries, directories) = found;
            sum.include(&entries);
            waiting.extend(directories);
        }
    }

    /// The sums of the entries of a directory, and the directories among them.
    async fn entries(&self, dir: Ino) -> Result<(Sum, Vec<Ino>)> {
        let (mut sum, mut directories, mut from) = (Sum::default(), Vec::new(), Cursor::default());
        loop {
            let page = self.page(dir, from).await?;
            for listed in page.items {
                let Some(attr) = listed.attr else { continue };
                sum.add(&attr, self.done);
                if attr.is_dir() {
                    directories.push(listed.entry.ino);
                }
            }
            match page.next {
                Some(next) => from = next,
                None => return Ok((sum, directories)),
            }
        }
    }

    async fn page(&self, dir: Ino, from: Cursor) -> Result<Page<Listed>> {
        let _turn = self.turns.acquire().await;
        self.vfs.meta.list(dir, true, from, PAGE).await.map_err(fail)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tests::Rig;

    /// Deeper than a stack would bear; anybody may ask for this.
    #[tokio::test]
    async fn a_tree_of_any_depth_is_summed_up() {
        let rig = Rig::new().await;
        let (top, _attr) = rig.meta.mkdir(&rig.caller, Ino::ROOT, b"top", 0o755, 0).await.expect("made");
        let mut dir = top;
        for _level in 0..3000 {
            (dir, _) = rig.meta.mkdir(&rig.caller, dir, b"d", 0o755, 0).await.expect("made");
        }
        rig.meta.create(&rig.caller, dir, b"f", 0o644, 0, true).await.expect("made");
        for depth in [0, 2, u8::MAX] {
            let body = [&top.0.to_be_bytes()[..], &[depth, 10, 1]].concat();
            let answer = rig.vfs.summary(Request(&body), &Done::default()).await.expect("summed up");
            let tree = &answer["Tree"];
            assert_eq!((tree["Dirs"].as_u64(), tree["Files"].as_u64()), (Some(3001), Some(1)), "depth {depth}");
            let shown = std::iter::successors(Some(tree), |tree| tree["Children"].get(0)).count();
            assert_eq!(shown, 1 + usize::from(depth).min(MOST_DEPTH));
        }
    }

    #[test]
    fn the_largest_children_are_kept_and_the_rest_is_one() {
        let child = |path: &str, size| Sum { path: path.to_owned(), size, files: 1, ..Sum::default() };
        let mut sum = Sum { path: "a".to_owned(), ..Sum::default() };
        sum.children = vec![child("a/x", 1), child("a/y", 30), child("a/z", 2), child("a/b", 30)];
        sum.keep_largest(2);
        let shown: Vec<_> = sum.children.iter().map(|child| (child.path.as_str(), child.size, child.files)).collect();
        assert_eq!(shown, [("a/b", 30, 1), ("a/y", 30, 1), ("a/...", 3, 2)]);
    }
}
