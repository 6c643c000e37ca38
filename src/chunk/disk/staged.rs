//! Blocks that are not in the store yet: `rawstaging/<key>`, linked into `raw/<key>` so that they are read like any other
//! (format §5.5). Nothing in here is removed but by whoever knows that the block is in the store, or no longer wanted.

use std::collections::HashSet;
use std::fs::{self, File};
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};

use bytes::Bytes;
use rustix::fs::syncfs;
use stead_base::failpoint;
use tracing::warn;

use super::dir::{CacheDir, Shared};
use super::file::{self, CacheFile, Unusable};
use super::health::Kind;
use super::scan;
use crate::Verify;
use crate::block::{BlockId, parse_name};

/// Below the root of a cache directory.
pub(super) const DIR: &str = "rawstaging";
/// Beyond this many files one sync of the file system is cheaper than one of each.
const MAX_SYNCS: usize = 16;

impl CacheDir {
    /// Writes a block and links it into the cache. From then on it survives the death of this process, and after
    /// [`CacheDir::sync_staged`] a power failure.
    ///
    /// # Errors
    /// No room, or a disk that fails or is out of use since it did: nothing is left behind.
    pub(super) fn stage(&self, block: BlockId, data: &[u8]) -> io::Result<()> {
        let staged = self.shared.attempt(Kind::Write, || self.shared.stage(block, data));
        staged.unwrap_or_else(|| Err(io::Error::other("the cache directory is out of use")))
    }

    /// All bytes of a staged block, verified, whatever the state of the directory. That it is not found means that it was
    /// uploaded and removed.
    pub(super) fn staged_data(&self, block: BlockId) -> Result<Bytes, Unusable> {
        // Whatever the mount verifies otherwise: this is about to become the only copy.
        match CacheFile::open(&self.shared.staged_path(block), block.len, Verify::Extend) {
            Err(Unusable::Io(error)) if error.kind() == ErrorKind::NotFound => {
                self.shared.confirm()?;
                Err(error.into())
            }
            opened => opened?.read(0..block.len),
        }
    }

    /// Forgets a block that is in the store, or that nobody wants any more.
    pub(super) fn unstage(&self, block: BlockId) {
        self.shared.unsynced.lock().remove(&block);
        let path = self.shared.staged_path(block);
        match fs::remove_file(&path) {
            Err(error) if error.kind() != ErrorKind::NotFound => {
                warn!(path = %path.display(), %error, "cannot remove a staged file: it will be uploaded again");
            }
            _ => {}
        }
    }

    pub(super) fn has_unsynced(&self) -> bool {
        !self.shared.unsynced.lock().is_empty() || self.shared.syncing.is_locked()
    }

    /// Makes every block that was staged before the call survive a power failure.
    pub(super) fn sync_staged(&self) -> io::Result<()> {
        let shared = &self.shared;
        // Whoever comes while another one syncs must not return before that one has.
        let _turn = shared.syncing.lock();
        let blocks = std::mem::take(&mut *shared.unsynced.lock());
        let done = shared.sync_blocks(&blocks);
        if done.is_err() {
            shared.unsynced.lock().extend(blocks);
        }
        done
    }

    /// What an earlier process left, the oldest slice first.
    pub(super) fn find_staged(&self) -> Vec<BlockId> {
        let mut found = Vec::new();
        let mut dirs = vec![PathBuf::from("chunks")];
        let now = scan::touched(&self.shared.root).unwrap_or(0);
        while let Some(dir) = dirs.pop() {
            // A directory that vanishes or cannot be read has nothing to offer.
            for entry in fs::read_dir(self.shared.root.join(DIR).join(&dir)).into_iter().flatten().flatten() {
                let below = dir.join(entry.file_name());
                match entry.metadata() {
                    Ok(meta) if meta.is_dir() => dirs.push(below),
                    Ok(meta) if scan::is_leftover(&entry, &meta, now) => {}
                    _ => found.extend(self.shared.staged_at(&below)),
                }
            }
        }
        found.sort_unstable();
        found
    }
}

impl Shared {
    pub(super) fn staged_path(&self, block: BlockId) -> PathBuf {
        self.root.join(DIR).join(self.naming.key(block))
    }

    fn stage(&self, block: BlockId, data: &[u8]) -> io::Result<()> {
        if !self.has_room_to_stage(u64::from(block.len)) {
            return Err(io::Error::new(ErrorKind::StorageFull, "the share of the disk that stays free is reached"));
        }
        let path = self.staged_path(block);
        let temporary = super::dir::temporary(&path);
        failpoint::hit("chunk.stage.before-write");
        if failpoint::fails("chunk.stage.write") {
            return Err(io::Error::other("fail point"));
        }
        self.unsynced.lock().insert(block);
        if let Err(error) = file::write(&path, &temporary, data, self.bounds.files) {
            self.unsynced.lock().remove(&block);
            return Err(error);
        }
        failpoint::hit("chunk.stage.after-rename");
        self.link(block, &path);
        Ok(())
    }

    fn staged_at(&self, path: &Path) -> Option<BlockId> {
        let block = parse_name(path.file_name()?.to_str()?)?;
        (Path::new(&self.naming.key(block)) == path).then_some(block)
    }

    /// A block is read from where it is staged if this fails, so that it is no more than a pity.
    fn link(&self, block: BlockId, staged: &Path) {
        let path = self.path(block);
        let link = || fs::hard_link(staged, &path);
        let linked = match (link(), path.parent()) {
            (Err(error), Some(parent)) if error.kind() == ErrorKind::NotFound => {
                file::make_dir(parent, self.bounds.files.mode).and_then(|()| link())
            }
            (linked, _) => linked,
        };
        match linked {
            Err(error) if error.kind() != ErrorKind::AlreadyExists => {
                warn!(path = %path.display(), %error, "cannot link a staged file into the cache");
            }
            _ => self.index.touch(block),
        }
    }

    fn sync_blocks(&self, blocks: &HashSet<BlockId>) -> io::Result<()> {
        if blocks.is_empty() {
            return Ok(());
        }
        if blocks.len() > MAX_SYNCS {
            return Ok(syncfs(File::open(&self.root)?)?);
        }
        let mut dirs = HashSet::new();
        for &block in blocks {
            let path = self.staged_path(block);
            match File::open(&path) {
                Ok(file) => file.sync_data()?,
                // Uploaded and removed meanwhile.
                Err(error) if error.kind() == ErrorKind::NotFound => continue,
                Err(error) => return Err(error),
            }
            dirs.extend(path.ancestors().skip(1).take_while(|dir| dir.starts_with(&self.root)).map(Path::to_owned));
        }
        dirs.into_iter().try_for_each(|dir| File::open(dir)?.sync_all())
    }
}
