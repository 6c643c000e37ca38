//! What was put and may still be lost in a power failure.

use std::collections::HashSet;
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

use parking_lot::Mutex;

/// More files than this are not synced one by one; the whole file system is.
const MAX_FILES: usize = 256;
/// Files that are synced at the same time.
const PARALLEL: usize = 8;
/// The settled directories are forgotten at this number, which costs an fsync each when they come again.
const MAX_SETTLED: usize = 65_536;

/// The files below a root that no sync has reached.
#[derive(Debug)]
pub(super) struct Unsynced {
    root: PathBuf,
    state: Mutex<State>,
    /// Held by the one sync that is under way: a second one must not return before the files that the first one took
    /// are safe.
    turn: Mutex<()>,
}

#[derive(Debug, Default)]
struct State {
    files: HashSet<PathBuf>,
    too_many: bool,
    /// Directories whose sub-directories are known to be on the disk.
    settled: HashSet<PathBuf>,
}

impl Unsynced {
    pub(super) fn below(root: PathBuf) -> Self {
        Self { root, state: Mutex::default(), turn: Mutex::default() }
    }

    /// `path` has just got its content and name.
    pub(super) fn add(&self, path: PathBuf) {
        let mut state = self.state.lock();
        if !state.too_many {
            state.files.insert(path);
        }
        if state.files.len() > MAX_FILES {
            state.too_many = true;
            state.files.clear();
        }
    }

    pub(super) fn remove(&self, path: &Path) {
        self.state.lock().files.remove(path);
    }

    /// Directories have just been made between the root and `dir`.
    pub(super) fn made_dirs(&self, dir: &Path) {
        let mut state = self.state.lock();
        for made in self.chain(dir) {
            state.settled.remove(made);
        }
    }

    /// Brings everything added so far to the disk. Blocks.
    pub(super) fn sync(&self) -> io::Result<()> {
        let _turn = self.turn.lock();
        let (files, too_many) = {
            let mut state = self.state.lock();
            (std::mem::take(&mut state.files), std::mem::take(&mut state.too_many))
        };
        let done = if too_many { self.sync_everything() } else { self.sync_files(&files) };
        if done.is_err() {
            let mut state = self.state.lock();
            state.files.extend(files);
            state.too_many |= too_many;
        }
        done
    }

    fn sync_everything(&self) -> io::Result<()> {
        Ok(rustix::fs::syncfs(File::open(&self.root)?)?)
    }

    fn sync_files(&self, files: &HashSet<PathBuf>) -> io::Result<()> {
        let files: Vec<_> = files.iter().map(PathBuf::as_path).collect();
        for parent in sync_contents(&files)? {
            self.sync_names(parent)?;
        }
        Ok(())
    }

    /// Makes the names in `dir` safe, and its own name and those of the directories above it.
    fn sync_names(&self, dir: &Path) -> io::Result<()> {
        sync_path(dir, File::sync_all)?;
        for above in self.chain(dir).skip(1) {
            // Marked before the fsync, so that a directory made after it unmarks it again.
            if self.state.lock().settle(above)
                && let Err(error) = sync_path(above, File::sync_all)
            {
                self.state.lock().settled.remove(above);
                return Err(error);
            }
        }
        Ok(())
    }

    /// `dir` and the directories above it, up to the root.
    fn chain<'a>(&'a self, dir: &'a Path) -> impl Iterator<Item = &'a Path> {
        dir.ancestors().take_while(|above| above.starts_with(&self.root))
    }
}

impl State {
    /// Marks `dir`; false if it was marked already.
    fn settle(&mut self, dir: &Path) -> bool {
        if self.settled.len() >= MAX_SETTLED {
            self.settled.clear();
        }
        self.settled.insert(dir.to_owned())
    }
}

/// Syncs files, several at a time: a journal then commits them together. Returns the directories that hold them.
fn sync_contents<'a>(files: &[&'a Path]) -> io::Result<HashSet<&'a Path>> {
    let sync_some = |part: &[&'a Path]| -> io::Result<Vec<&'a Path>> {
        let mut parents = Vec::new();
        for file in part {
            if sync_path(file, File::sync_data)? {
                parents.extend(file.parent());
            }
        }
        Ok(parents)
    };
    let mut parts = files.chunks(files.len().div_ceil(PARALLEL).max(1));
    let own = parts.next().unwrap_or_default();
    std::thread::scope(|scope| {
        let others: Vec<_> = parts.map(|part| scope.spawn(move || sync_some(part))).collect();
        let mut parents: HashSet<_> = sync_some(own)?.into_iter().collect();
        for other in others {
            parents.extend(other.join().map_err(|_panicked| io::Error::other("a sync was given up"))??);
        }
        Ok(parents)
    })
}

/// Opens and syncs; false if it was deleted meanwhile.
fn sync_path(path: &Path, sync: impl Fn(&File) -> io::Result<()>) -> io::Result<bool> {
    match File::open(path) {
        Ok(file) => sync(&file).map(|()| true),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sync_empties_the_list_and_skips_deleted_files() {
        let root = tempfile::tempdir().unwrap();
        let unsynced = Unsynced::below(root.path().to_owned());
        let dir = root.path().join("a/b");
        std::fs::create_dir_all(&dir).unwrap();
        std::fs::write(dir.join("x"), "x").unwrap();
        unsynced.made_dirs(&dir);
        unsynced.add(dir.join("x"));
        unsynced.add(dir.join("gone"));
        unsynced.sync().unwrap();
        let state = unsynced.state.lock();
        assert!(state.files.is_empty());
        let expected: HashSet<_> = [root.path().to_owned(), root.path().join("a")].into();
        assert_eq!(state.settled, expected);
    }

    #[test]
    fn too_many_files_sync_the_file_system() {
        let root = tempfile::tempdir().unwrap();
        let unsynced = Unsynced::below(root.path().to_owned());
        for n in 0..=MAX_FILES {
            unsynced.add(root.path().join(n.to_string()));
        }
        assert!(unsynced.state.lock().too_many && unsynced.state.lock().files.is_empty());
        unsynced.sync().unwrap();
        assert!(!unsynced.state.lock().too_many);
    }

    #[test]
    fn a_failed_sync_is_not_forgotten() {
        let root = tempfile::tempdir().unwrap();
        let unsynced = Unsynced::below(root.path().to_owned());
        // A path below a file cannot be opened, with another error than "not found".
        std::fs::write(root.path().join("file"), "x").unwrap();
        unsynced.add(root.path().join("file/below"));
        unsynced.sync().unwrap_err();
        assert_eq!(unsynced.state.lock().files.len(), 1);
    }
}
