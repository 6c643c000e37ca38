//! Requests about names, attributes and directories.

use stead_base::{Errno, Ino, Timestamp};
use stead_vfs::{NewNode, SetAttr, SetTime, XattrFlag, kind_of};

use crate::abi::{self, fattr};
use crate::reply::{self, Answer, Body, Listing};
use crate::server::Context;

/// The permission bits of a mode.
pub(crate) fn permissions(mode: u32) -> u16 {
    u16::try_from(mode & 0o7777).expect("twelve bits fit into sixteen")
}

pub(crate) async fn lookup(cx: Context, name: Vec<u8>) -> Answer {
    let found = cx.vfs.lookup(&cx.caller, cx.node, &name).await;
    let keep_missing = cx.vfs.config().negative_entry_cache;
    match found {
        Err(Errno::ENOENT) if !keep_missing.is_zero() => Ok(reply::no_entry(keep_missing)),
        found => found.map(reply::entry),
    }
}

pub(crate) async fn getattr(cx: Context) -> Answer {
    cx.vfs.getattr(&cx.caller, cx.node).await.map(reply::attr)
}

pub(crate) async fn setattr(cx: Context, set: abi::SetattrIn) -> Answer {
    let given = |bit: u32| set.valid & bit != 0;
    let time = |bit, now, secs: u64, nanos| match (given(bit), given(now)) {
        (false, _) => None,
        (true, true) => Some(SetTime::Now),
        (true, false) => Some(SetTime::At(Timestamp { secs: secs.cast_signed(), nanos })),
    };
    let change = SetAttr {
        mode: given(fattr::MODE).then(|| permissions(set.mode)),
        uid: given(fattr::UID).then_some(set.uid),
        gid: given(fattr::GID).then_some(set.gid),
        atime: time(fattr::ATIME, fattr::ATIME_NOW, set.atime, set.atimensec),
        mtime: time(fattr::MTIME, fattr::MTIME_NOW, set.mtime, set.mtimensec),
        ctime: time(fattr::CTIME, 0, set.ctime, set.ctimensec),
        flags: None,
    };
    let size = given(fattr::SIZE).then_some(set.size);
    cx.vfs.setattr(&cx.caller, cx.node, change, size).await.map(reply::attr)
}

pub(crate) async fn readlink(cx: Context) -> Answer {
    cx.vfs.readlink(&cx.caller, cx.node).await.map(Body::Data)
}

pub(crate) async fn symlink(cx: Context, name: Vec<u8>, target: Vec<u8>) -> Answer {
    cx.vfs.symlink(&cx.caller, cx.node, &name, &target).await.map(reply::entry)
}

pub(crate) async fn mknod(cx: Context, node: abi::MknodIn, name: Vec<u8>) -> Answer {
    let kind = kind_of(node.mode).ok_or(Errno::EINVAL)?;
    let (mode, umask) = (permissions(node.mode), permissions(node.umask));
    let new = NewNode { kind, mode, umask, rdev: node.rdev, target: None };
    cx.vfs.mknod(&cx.caller, cx.node, &name, new).await.map(reply::entry)
}

pub(crate) async fn mkdir(cx: Context, dir: abi::MkdirIn, name: Vec<u8>) -> Answer {
    let (mode, umask) = (permissions(dir.mode), permissions(dir.umask));
    cx.vfs.mkdir(&cx.caller, cx.node, &name, mode, umask).await.map(reply::entry)
}

pub(crate) async fn unlink(cx: Context, name: Vec<u8>) -> Answer {
    cx.vfs.unlink(&cx.caller, cx.node, &name).await.map(reply::done)
}

pub(crate) async fn rmdir(cx: Context, name: Vec<u8>) -> Answer {
    cx.vfs.rmdir(&cx.caller, cx.node, &name).await.map(reply::done)
}

pub(crate) async fn rename(cx: Context, name: Vec<u8>, new_parent: Ino, new_name: Vec<u8>, flags: u32) -> Answer {
    cx.vfs.rename(&cx.caller, (cx.node, &name), (new_parent, &new_name), flags).await.map(reply::done)
}

/// The node of the request is the directory of the new name.
pub(crate) async fn link(cx: Context, inode: Ino, name: Vec<u8>) -> Answer {
    cx.vfs.link(&cx.caller, inode, cx.node, &name).await.map(reply::entry)
}

pub(crate) async fn opendir(cx: Context) -> Answer {
    cx.vfs.opendir(&cx.caller, cx.node).await.map(reply::opened)
}

pub(crate) async fn readdir(cx: Context, what: abi::ReadIn, plus: bool) -> Answer {
    let mut listing = Listing::new(what.size);
    cx.vfs.readdir(&cx.caller, what.fh, what.offset, plus, |shown| listing.add(&shown, plus)).await?;
    Ok(listing.body())
}

pub(crate) async fn releasedir(cx: Context, fh: u64) -> Answer {
    cx.vfs.releasedir(&cx.caller, fh).await.map(reply::done)
}

pub(crate) async fn fsyncdir(cx: Context) -> Answer {
    cx.vfs.fsyncdir(&cx.caller, cx.node).await.map(reply::done)
}

pub(crate) async fn statfs(cx: Context) -> Answer {
    cx.vfs.statfs(&cx.caller, cx.node).await.map(reply::statfs)
}

pub(crate) async fn getxattr(cx: Context, name: Vec<u8>, size: u32) -> Answer {
    reply::xattr(cx.vfs.getxattr(&cx.caller, cx.node, &name).await?, size)
}

pub(crate) async fn listxattr(cx: Context, size: u32) -> Answer {
    reply::xattr(cx.vfs.listxattr(&cx.caller, cx.node).await?, size)
}

pub(crate) async fn setxattr(cx: Context, name: Vec<u8>, value: Vec<u8>, flags: u32) -> Answer {
    let flag = match flags.cast_signed() {
        libc::XATTR_CREATE => XattrFlag::Create,
        libc::XATTR_REPLACE => XattrFlag::Replace,
        _ => XattrFlag::Any,
    };
    cx.vfs.setxattr(&cx.caller, cx.node, &name, &value, flag).await.map(reply::done)
}

pub(crate) async fn removexattr(cx: Context, name: Vec<u8>) -> Answer {
    cx.vfs.removexattr(&cx.caller, cx.node, &name).await.map(reply::done)
}
