//! Settings of the layer.

use std::time::Duration;

/// How a [`crate::Vfs`] behaves.
#[derive(Clone, Debug)]
pub struct VfsConfig {
    /// How long the kernel may keep attributes.
    pub attr_cache: Duration,
    /// How long the kernel may keep names of anything but directories.
    pub entry_cache: Duration,
    /// How long the kernel may keep names of directories.
    pub dir_entry_cache: Duration,
    /// How long the kernel may keep that a name does not exist.
    pub negative_entry_cache: Duration,
    /// How long attributes may be reused at open, instead of asking the engine; zero = never.
    pub open_cache: Duration,
    /// Do not list the virtual files in the root; they can be opened all the same.
    pub hide_internal: bool,
    /// Name them `.jfs.accesslog`, `.jfs.config`, …
    pub prefix_internal: bool,
    /// Largest read-ahead of one handle in bytes, all streams of it together; 0 = none.
    pub max_readahead: u64,
    /// Written data that was not touched for so long is uploaded and committed.
    pub flush_idle: Duration,
    /// Written data is uploaded and committed after so long, even while more is written to the same place.
    pub flush_age: Duration,
    /// Open slices of one file at most; the oldest is committed when there are more.
    pub max_open_slices: usize,
    /// Serve the ioctls of chattr(1) and lsattr(1).
    pub enable_ioctl: bool,
    /// Owner of the virtual files: whoever serves the mount.
    pub uid: u32,
    /// Its group.
    pub gid: u32,
}

impl Default for VfsConfig {
    fn default() -> Self {
        Self {
            attr_cache: Duration::from_secs(1),
            entry_cache: Duration::from_secs(1),
            dir_entry_cache: Duration::from_secs(1),
            negative_entry_cache: Duration::ZERO,
            open_cache: Duration::ZERO,
            hide_internal: false,
            prefix_internal: false,
            max_readahead: 8 << 20,
            flush_idle: Duration::from_secs(5),
            flush_age: Duration::from_secs(30),
            max_open_slices: 64,
            enable_ioctl: false,
            uid: 0,
            gid: 0,
        }
    }
}
