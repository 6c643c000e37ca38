//! What a writer was promised, and what of it is not so.

use std::fs;
use std::path::{Path, PathBuf};

use crate::pattern;

/// Unit of a file that is written over in place.
pub(super) const BLOCK: usize = 8 << 10;

/// A file that was acknowledged: content by seed and size.
#[derive(Clone, Debug)]
pub(super) struct Acknowledged {
    pub(super) path: PathBuf,
    pub(super) seed: u64,
    pub(super) size: u64,
    /// What it may be instead: seed and size of a change that nobody has heard of.
    pub(super) or: Option<(u64, u64)>,
    /// More may have been written than anybody was told.
    pub(super) may_be_longer: bool,
}

/// A file that is written over in place, block by block.
#[derive(Clone, Debug)]
pub(super) struct Blocks {
    path: PathBuf,
    /// The seed of each block that was acknowledged; `None` is zeros, and so are blocks that were never written.
    seeds: Vec<Option<u64>>,
    /// A block that was written, and what; nobody was told whether it is there.
    pub(super) pending: Option<(u64, Option<u64>)>,
}

/// What one writer was promised.
#[derive(Debug, Default)]
pub struct Ledger {
    pub(super) root: PathBuf,
    pub(super) files: Vec<Acknowledged>,
    pub(super) blocks: Vec<Blocks>,
    pub(super) dirs: Vec<PathBuf>,
    pub(super) gone: Vec<PathBuf>,
    /// What was wrong already while it wrote.
    pub(super) wrong: Vec<String>,
    /// The error that ended it; `None` when it was asked to stop.
    pub ended: Option<String>,
}

impl Ledger {
    /// How many files were acknowledged.
    pub fn files(&self) -> usize {
        self.files.len() + self.blocks.len()
    }

    /// Everything lies below it.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// The same promises seen through another mount, where `root` is its directory.
    pub fn moved(&self, root: &Path) -> Self {
        let at = |path: &PathBuf| root.join(path.strip_prefix(&self.root).expect("below the ledger's root"));
        Self {
            root: root.to_owned(),
            files: self.files.iter().map(|file| Acknowledged { path: at(&file.path), ..file.clone() }).collect(),
            blocks: self.blocks.iter().map(|file| Blocks { path: at(&file.path), ..file.clone() }).collect(),
            dirs: self.dirs.iter().map(at).collect(),
            gone: self.gone.iter().map(at).collect(),
            wrong: self.wrong.clone(),
            ended: self.ended.clone(),
        }
    }

    /// What is not as it was acknowledged.
    pub fn faults(&self) -> Vec<String> {
        let missing = self.dirs.iter().filter(|dir| !dir.is_dir()).map(|dir| format!("{}: lost", dir.display()));
        let risen = self.gone.iter().filter(|path| path.exists()).map(|path| format!("{}: is back", path.display()));
        let wrong = self.files.iter().filter_map(Acknowledged::fault);
        let blocks = self.blocks.iter().flat_map(Blocks::faults);
        self.wrong.iter().cloned().chain(missing).chain(risen).chain(wrong).chain(blocks).collect()
    }
}

impl Acknowledged {
    pub(super) fn new(path: PathBuf, seed: u64, size: u64) -> Self {
        Self { path, seed, size, or: None, may_be_longer: false }
    }

    fn fault(&self) -> Option<String> {
        let length = fs::metadata(&self.path).map_or(0, |meta| meta.len());
        let checked = if self.may_be_longer && length > self.size {
            pattern::check_prefix(&self.path, self.seed, self.size)
        } else {
            pattern::check(&self.path, self.seed, self.size)
        };
        checked.filter(|_fault| self.or.is_none_or(|(seed, size)| pattern::check(&self.path, seed, size).is_some()))
    }
}

impl Blocks {
    /// Blocks of such a file.
    pub(super) const COUNT: u64 = 24;

    pub(super) fn new(path: PathBuf) -> Self {
        Self { path, seeds: vec![None; usize::try_from(Self::COUNT).expect("few")], pending: None }
    }

    /// What was pending is there.
    pub(super) fn acknowledge(&mut self) {
        if let Some((block, seed)) = self.pending.take() {
            self.seeds[usize::try_from(block).expect("few")] = seed;
        }
    }

    fn faults(&self) -> Vec<String> {
        let found = match fs::read(&self.path) {
            Ok(found) => found,
            Err(error) if self.seeds.iter().any(Option::is_some) => {
                return vec![format!("{}: {error}", self.path.display())];
            }
            // Nothing of it was acknowledged.
            Err(_absent) => return Vec::new(),
        };
        let wrong = |(block, seed): (usize, &Option<u64>)| {
            let pending = self.pending.and_then(|(at, seed)| (at == block as u64).then_some(seed));
            let wanted = content(*seed);
            let may = pending.map_or_else(|| wanted.clone(), content);
            let at = |n: usize| found.get(block * BLOCK + n).copied().unwrap_or_default();
            let wrong = (0..BLOCK).find(|&n| at(n) != wanted[n] && at(n) != may[n])?;
            Some(format!("{}: wrong byte at {} in block {block}", self.path.display(), block * BLOCK + wrong))
        };
        self.seeds.iter().enumerate().filter_map(wrong).collect()
    }
}

fn content(seed: Option<u64>) -> Vec<u8> {
    seed.map_or_else(|| vec![0; BLOCK], |seed| pattern::bytes(seed, BLOCK))
}
