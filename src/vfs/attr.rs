//! Attributes as the kernel wants them.

use std::time::Duration;

use stead_base::Ino;
use stead_meta::records::{Attr, NodeType};

/// Attributes of an inode and how long the kernel may keep them.
#[derive(Clone, Debug)]
pub struct Attributes {
    /// The inode.
    pub ino: Ino,
    /// What is known of it.
    pub attr: Attr,
    /// Zero = ask again at once.
    pub timeout: Duration,
}

/// A name that was found or made.
#[derive(Clone, Debug)]
pub struct Entry {
    /// What it leads to.
    pub attributes: Attributes,
    /// How long the kernel may keep the name.
    pub timeout: Duration,
}

/// The file type bits of `st_mode` (inode(7)).
pub const fn type_bits(kind: NodeType) -> u32 {
    match kind {
        NodeType::File => libc::S_IFREG,
        NodeType::Directory => libc::S_IFDIR,
        NodeType::Symlink => libc::S_IFLNK,
        NodeType::Fifo => libc::S_IFIFO,
        NodeType::BlockDevice => libc::S_IFBLK,
        NodeType::CharDevice => libc::S_IFCHR,
        NodeType::Socket => libc::S_IFSOCK,
    }
}

/// What the file type bits of a mode stand for; a mode without any is a regular file (mknod(2)).
pub const fn kind_of(mode: u32) -> Option<NodeType> {
    Some(match mode & libc::S_IFMT {
        libc::S_IFREG | 0 => NodeType::File,
        libc::S_IFDIR => NodeType::Directory,
        libc::S_IFLNK => NodeType::Symlink,
        libc::S_IFIFO => NodeType::Fifo,
        libc::S_IFBLK => NodeType::BlockDevice,
        libc::S_IFCHR => NodeType::CharDevice,
        libc::S_IFSOCK => NodeType::Socket,
        _ => return None,
    })
}

/// The whole `st_mode`.
pub fn st_mode(attr: &Attr) -> u32 {
    type_bits(attr.kind) | u32::from(attr.mode)
}
