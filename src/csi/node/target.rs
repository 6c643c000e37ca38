//! The directory that the kubelet names: checked, made, covered by a mount, removed.

use std::fs;
use std::io::ErrorKind;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Component, Path, PathBuf};
use std::time::Duration;

use stead_keeper::mount::{self, FuseRoot};
use stead_keeper::{Error as KeeperError, mountinfo, within};
use tracing::{debug, warn};

use crate::error::{Error, Result};

/// Longest time of a system call that may reach a volume.
pub(crate) const SYSCALL: Duration = Duration::from_secs(10);

/// Reads a target path: absolute, no `..`, not the root.
pub(crate) fn parse(field: &'static str, text: &str) -> Result<PathBuf> {
    let wrong = |why| Err(Error::Field { field, value: text.to_owned(), why });
    if text.is_empty() {
        return Err(Error::Missing { field });
    }
    let path = Path::new(text);
    if !path.is_absolute() || text.contains('\0') {
        return wrong("expected an absolute path");
    }
    if path.components().any(|part| part == Component::ParentDir) {
        return wrong("must not contain '..'");
    }
    if path.file_name().is_none() {
        return wrong("must not be the root");
    }
    Ok(path.components().collect())
}

/// The path as mountinfo has it. The target itself is not touched: it may be a dead mount.
pub(crate) fn resolve(path: &Path) -> PathBuf {
    let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else { return path.to_owned() };
    parent.canonicalize().map_or_else(|_absent| path.to_owned(), |parent| parent.join(name))
}

/// Makes the target directory if it is not there. Nothing is mounted on it yet. Returns whether it is new.
pub(crate) fn make(path: &Path) -> Result<bool> {
    let wrong = |why: String| Error::Target { path: path.to_owned(), why };
    match fs::symlink_metadata(path) {
        Ok(found) if found.is_dir() => Ok(false),
        Ok(_) => Err(wrong("exists and is no directory".to_owned())),
        Err(error) if error.kind() == ErrorKind::NotFound => {
            let made = fs::DirBuilder::new().recursive(true).mode(0o750).create(path);
            made.map(|()| true).map_err(|error| wrong(error.to_string()))
        }
        Err(error) => Err(wrong(error.to_string())),
    }
}

/// Refuses a directory that holds something: a mount would hide it, and it would show when the mount is gone.
pub(crate) fn check_empty(path: &Path) -> Result<()> {
    let wrong = |why: String| Error::Target { path: path.to_owned(), why };
    let mut entries = fs::read_dir(path).map_err(|error| wrong(error.to_string()))?;
    match entries.next() {
        None => Ok(()),
        Some(Ok(entry)) => Err(wrong(format!("must be empty, and there is {:?}", entry.file_name()))),
        Some(Err(error)) => Err(wrong(error.to_string())),
    }
}

/// Makes a directory immutable: while nothing is mounted on it, nothing can be written to the node's own disk.
pub(crate) fn protect(path: &Path) {
    if let Err(error) = mount::set_immutable(path, true) {
        debug!(%error, "the directory under the mount stays writable");
    }
}

/// A mounted root, or a directory in it.
#[derive(Clone, Debug)]
pub(crate) struct Source {
    pub(crate) root: PathBuf,
    pub(crate) directory: Option<String>,
}

impl Source {
    /// Holds what is to be bound.
    pub(crate) fn open(&self) -> stead_keeper::Result<FuseRoot> {
        let root = FuseRoot::open(&self.root)?;
        match &self.directory {
            None => Ok(root),
            Some(directory) => root.below(Path::new(directory)),
        }
    }
}

/// Binds what is mounted at `source` on the target. The directory below is made immutable first: should the mount
/// vanish, nothing can be written to the node's own disk.
pub(crate) async fn bind(source: Source, target: PathBuf, read_only: bool) -> Result<()> {
    let bound = within("bind a volume", SYSCALL, move || {
        protect(&target);
        source.open()?.bind(&target, read_only)
    });
    Ok(bound.await?)
}

/// Takes away every mount on the target, gently first.
pub(crate) async fn unmount(target: &Path) -> Result<()> {
    // Mounts can be stacked; so many are more than anybody makes.
    for _ in 0..16 {
        if mountinfo::at(target)?.is_none() {
            return Ok(());
        }
        let path = target.to_owned();
        match within("unmount", SYSCALL, move || mount::umount(&path, false)).await {
            Ok(()) => {}
            Err(error @ (KeeperError::Call { .. } | KeeperError::Deadline { .. })) => {
                warn!(target = %target.display(), %error, "detaching the mount instead");
                let path = target.to_owned();
                within("detach a mount", SYSCALL, move || mount::umount(&path, true)).await?;
            }
            Err(error) => return Err(error.into()),
        }
    }
    Err(Error::Target { path: target.to_owned(), why: "mounts keep appearing on it".to_owned() })
}

/// Removes the directory that [`make`] made; never what is in it.
pub(crate) fn remove(target: &Path) -> Result<()> {
    let found = match fs::symlink_metadata(target) {
        Ok(found) => found,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(Error::State { path: target.to_owned(), why: error.to_string() }),
    };
    let removed = if found.is_dir() {
        if let Err(error) = mount::set_immutable(target, false) {
            debug!(%error, "no flag to clear");
        }
        fs::remove_dir(target)
    } else {
        fs::remove_file(target)
    };
    removed.map_err(|error| Error::State { path: target.to_owned(), why: error.to_string() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_sound_paths_are_targets() {
        for text in ["", "relative", "/a/../b", "/", "/a\0b"] {
            let error = parse("target_path", text).expect_err(text);
            assert_eq!(error.code(), tonic::Code::InvalidArgument, "{error}");
        }
        assert_eq!(parse("target_path", "/a//b/").expect("fine"), Path::new("/a/b"));
    }

    #[test]
    fn a_target_is_made_once_and_removed_empty() {
        let dir = tempfile::tempdir().expect("a place");
        let target = dir.path().join("pod/target");
        assert!(make(&target).expect("new"));
        assert!(!make(&target).expect("there"));
        fs::write(target.join("precious"), "x").expect("writable");
        assert!(remove(&target).is_err());
        fs::remove_file(target.join("precious")).expect("there");
        remove(&target).expect("empty");
        remove(&target).expect("a repeat is fine");
        fs::write(&target, "a file").expect("new");
        let error = make(&target).expect_err("a file");
        assert_eq!(error.code(), tonic::Code::InvalidArgument, "{error}");
    }

    #[tokio::test]
    async fn what_is_no_mounted_volume_is_never_bound() {
        let dir = tempfile::tempdir().expect("a place");
        let (root, target) = (dir.path().join("source"), dir.path().join("target"));
        make(&root).expect("new");
        make(&target).expect("new");
        assert!(bind(Source { root, directory: None }, target.clone(), false).await.is_err());
        assert!(!mount::is_mounted(&target).expect("readable"));
        remove(&target).expect("the flag is cleared");
    }
}
