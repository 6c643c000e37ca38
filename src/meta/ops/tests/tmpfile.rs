//! Files that are made without a name, and flagged inodes.

use super::*;
use crate::records::flags;

#[tokio::test]
async fn a_file_without_a_name_goes_with_its_last_close() {
    let v = Setup { user_group_quota: true, trash_days: 1, ..Setup::default() }.volume().await;
    let (ino, attr) = v.tmpfile(&root(), ROOT, 0o600, 0).await.expect("made");
    assert_eq!((attr.nlink, attr.mode, attr.kind), (0, 0o600, NodeType::File));
    v.write(ino, 0, 0, 5000).await.expect("written");
    v.audit().await;
    v.close(ino).await.expect("closed");
    v.settle().await;
    refused!(v.getattr(ino).await, Error::NoInode { .. });
    assert_eq!(v.removed.slices.lock().len(), 1, "its data is gone at once");
    v.audit().await;
}

#[tokio::test]
async fn a_file_without_a_name_can_get_one() {
    let v = Volume::plain().await;
    let dir = v.dir(ROOT, "d").await;
    v.set_quota(dir, Some(1 << 20), None).await.expect("set");
    let (ino, _attr) = v.tmpfile(&root(), ROOT, 0o600, 0).await.expect("made");
    v.write(ino, 0, 0, 5000).await.expect("written");
    let attr = v.link(&root(), ino, dir, b"f").await.expect("named");
    assert_eq!((attr.nlink, attr.parent), (1, dir));
    v.close(ino).await.expect("closed");
    v.audit().await;
    assert_eq!(v.lookup(dir, b"f").await.expect("there").0, ino);
    let other = v.second().await;
    other.start_session().await.expect("starts");
    let (ino, _attr) = v.tmpfile(&root(), ROOT, 0o600, 0).await.expect("made");
    refused!(other.link(&root(), ino, dir, b"g").await, Error::NoInode { .. });
}

#[tokio::test]
async fn a_file_without_a_name_goes_with_a_dead_session() {
    let v = Volume::plain().await;
    let other = v.second().await;
    other.start_session().await.expect("starts");
    let (ino, _attr) = v.tmpfile(&root(), ROOT, 0o600, 0).await.expect("made");
    v.clock.advance(Duration::from_secs(1000));
    other.beat().await;
    refused!(other.getattr(ino).await, Error::NoInode { .. });
    v.audit().await;
}

async fn flagged(v: &Volume, ino: Ino, bits: u8) {
    let set = SetAttr { flags: Some(bits), ..SetAttr::default() };
    v.setattr(&root(), ino, set).await.expect("flagged");
}

#[tokio::test]
async fn nothing_about_an_immutable_inode_changes() {
    let v = Volume::plain().await;
    let dir = v.dir(ROOT, "d").await;
    let file = v.filled(dir, "f", 10).await;
    flagged(&v, file, flags::IMMUTABLE).await;
    flagged(&v, dir, flags::IMMUTABLE).await;
    let (root, mode) = (root(), SetAttr { mode: Some(0), ..SetAttr::default() });
    refused!(v.setattr(&root, file, mode).await, Error::NotPermitted { .. });
    let times = SetAttr { mtime: Some(SetTime::Now), ..SetAttr::default() };
    refused!(v.setattr(&root, file, times.clone()).await, Error::NotPermitted { .. });
    refused!(v.truncate(&root, file, 0).await, Error::NotPermitted { .. });
    refused!(v.fallocate(&root, file, 0, 0, 100).await, Error::NotPermitted { .. });
    refused!(v.meta.open(&root, file, 1).await, Error::NotPermitted { .. });
    refused!(v.link(&root, file, ROOT, b"g").await, Error::NotPermitted { .. });
    refused!(v.set_xattr(&root, file, b"user.a", b"", XattrFlag::Any).await, Error::NotPermitted { .. });
    refused!(v.unlink(&root, dir, b"f").await, Error::NotPermitted { .. });
    refused!(v.mkdir(&root, dir, b"sub", 0, 0).await, Error::NotPermitted { .. });
    refused!(v.tmpfile(&root, dir, 0, 0).await, Error::NotPermitted { .. });
    refused!(v.rename(&root, dir, b"f", ROOT, b"f", 0).await, Error::NotPermitted { .. });
    refused!(v.rename(&root, ROOT, b"d", ROOT, b"e", 0).await, Error::NotPermitted { .. });
    flagged(&v, dir, 0).await;
    refused!(v.unlink(&root, dir, b"f").await, Error::NotPermitted { .. });
    flagged(&v, file, flags::APPEND).await;
    v.setattr(&root, file, times).await.expect("touched");
    v.meta.open(&root, file, 0o2001).await.expect("opened to append");
    refused!(v.meta.open(&root, file, 0o1).await, Error::NotPermitted { .. });
    refused!(v.truncate(&root, file, 100).await, Error::NotPermitted { .. });
    flagged(&v, file, 0).await;
    v.unlink(&root, dir, b"f").await.expect("unlinked");
}
