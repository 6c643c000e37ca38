//! A file system without a history.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use stead_tests::mount::detach;
use stead_tests::process::must;
use tempfile::TempDir;

/// Nothing is taken before it is written.
const BYTES: u64 = 16 << 30;

/// A new ext4 in a file on the local disk. ext4 gives nobody the inode of a file that was deleted in the last five minutes: it
/// passes over them one by one, so that whoever makes files pays for what earlier steps deleted, and for little else.
pub(crate) struct FreshDisk {
    dir: TempDir,
}

impl FreshDisk {
    pub(crate) fn make() -> Self {
        let dir = tempfile::Builder::new().prefix("disk-").tempdir().expect("a temporary directory");
        let disk = Self { dir };
        let image = disk.dir.path().join("image");
        File::create_new(&image).and_then(|file| file.set_len(BYTES)).expect("made");
        std::fs::create_dir(disk.path()).expect("made");
        let limit = Duration::from_secs(60);
        must(Command::new("mkfs.ext4").arg("-q").arg(&image), limit);
        must(Command::new("mount").args(["-o", "loop"]).arg(&image).arg(disk.path()), limit);
        disk
    }

    pub(crate) fn path(&self) -> PathBuf {
        Path::join(self.dir.path(), "mounted")
    }
}

impl Drop for FreshDisk {
    fn drop(&mut self) {
        detach(&self.path());
    }
}
