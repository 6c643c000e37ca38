use super::*;
use crate::records::flags;

async fn owned(v: &Volume, mode: u16) -> Ino {
    v.mknod(&user(1000), ROOT, b"f", NewNode::file(mode, 0)).await.expect("made").0
}

fn mode(mode: u16) -> SetAttr {
    SetAttr { mode: Some(mode), ..SetAttr::default() }
}

fn owner(uid: Option<u32>, gid: Option<u32>) -> SetAttr {
    SetAttr { uid, gid, ..SetAttr::default() }
}

#[tokio::test]
async fn only_the_owner_changes_the_mode() {
    let v = Volume::plain().await;
    let ino = owned(&v, 0o644).await;
    v.clock.advance(Duration::from_secs(5));
    let attr = v.setattr(&user(1000), ino, mode(0o600)).await.expect("owner");
    assert_eq!((attr.mode, attr.ctime), (0o600, v.clock.now()));
    assert_ne!(attr.mtime, v.clock.now());
    v.setattr(&root(), ino, mode(0o640)).await.expect("root");
    refused!(v.setattr(&user(1001), ino, mode(0o777)).await, Error::NotPermitted { .. });
    assert_eq!(v.attr(ino).await.mode, 0o640);
}

#[tokio::test]
async fn setgid_needs_membership() {
    let v = Volume::plain().await;
    let ino = owned(&v, 0o644).await;
    v.setattr(&root(), ino, owner(None, Some(7))).await.expect("root");
    let attr = v.setattr(&user(1000), ino, mode(0o2755)).await.expect("owner");
    assert_eq!(attr.mode, 0o755, "not in group 7");
    let member = Caller { groups: Some(vec![7]), ..user(1000) };
    assert_eq!(v.setattr(&member, ino, mode(0o2755)).await.expect("owner").mode, 0o2755);
}

#[tokio::test]
async fn only_root_gives_files_away() {
    let v = Volume::plain().await;
    let ino = owned(&v, 0o644).await;
    refused!(v.setattr(&user(1000), ino, owner(Some(1001), None)).await, Error::NotPermitted { .. });
    refused!(v.setattr(&user(1001), ino, owner(None, Some(1001))).await, Error::NotPermitted { .. });
    refused!(v.setattr(&user(1000), ino, owner(None, Some(7))).await, Error::NotPermitted { .. });
    let member = Caller { groups: Some(vec![7]), ..user(1000) };
    assert_eq!(v.setattr(&member, ino, owner(None, Some(7))).await.expect("member").gid, 7);
    let unknown = Caller::new(1000, 1000, 1);
    v.setattr(&unknown, ino, owner(None, Some(8))).await.expect("the kernel has checked groups we do not know");
    let attr = v.setattr(&root(), ino, owner(Some(5), Some(6))).await.expect("root");
    assert_eq!((attr.uid, attr.gid), (5, 6));
}

#[tokio::test]
async fn a_new_owner_clears_set_id_bits() {
    let v = Volume::plain().await;
    for (caller, before, after) in
        [(user(1000), 0o6755, 0o755), (user(1000), 0o6745, 0o745), (root(), 0o6755, 0o755), (root(), 0o6745, 0o2745)]
    {
        let ino = owned(&v, before).await;
        let attr = v.setattr(&caller, ino, owner(None, Some(1000))).await.expect("allowed");
        assert_eq!(attr.mode, after, "{caller:?} on {before:o}");
        v.unlink(&root(), ROOT, b"f").await.expect("unlinked");
    }
    let (dir, _attr) = v.mkdir(&root(), ROOT, b"d", 0o6755, 0).await.expect("made");
    let attr = v.setattr(&root(), dir, owner(Some(3), Some(3))).await.expect("root");
    assert_eq!(attr.mode, 0o6755, "directories keep theirs");
}

#[tokio::test]
async fn times_follow_utimensat() {
    let v = Volume::plain().await;
    let ino = owned(&v, 0o664).await;
    let at = Timestamp { secs: -5, nanos: 7 };
    let set = |atime, mtime| SetAttr { atime, mtime, ..SetAttr::default() };
    v.clock.advance(Duration::from_secs(9));
    let attr = v.setattr(&user(1000), ino, set(Some(SetTime::At(at)), None)).await.expect("owner");
    assert_eq!((attr.atime, attr.ctime), (at, v.clock.now()));
    let attr = v.setattr(&user(1000), ino, set(None, Some(SetTime::Now))).await.expect("owner");
    assert_eq!((attr.atime, attr.mtime), (at, v.clock.now()));

    let writer = Caller { groups: Some(vec![1000]), ..user(1001) };
    v.setattr(&writer, ino, set(Some(SetTime::Now), Some(SetTime::Now))).await.expect("may write");
    refused!(v.setattr(&writer, ino, set(Some(SetTime::At(at)), None)).await, Error::NotPermitted { .. });
    refused!(v.setattr(&user(1002), ino, set(Some(SetTime::Now), None)).await, Error::AccessDenied { .. });
}

#[tokio::test]
async fn flags_are_roots_and_nothing_changes_nothing() {
    let v = Volume::plain().await;
    let ino = owned(&v, 0o644).await;
    let before = v.attr(ino).await;
    v.clock.advance(Duration::from_secs(9));
    assert_eq!(v.setattr(&user(1), ino, SetAttr::default()).await.expect("nothing").attr, before);
    let set = SetAttr { flags: Some(flags::APPEND), ..SetAttr::default() };
    refused!(v.setattr(&user(1000), ino, set.clone()).await, Error::NotPermitted { .. });
    assert_eq!(v.setattr(&root(), ino, set).await.expect("root").flags, flags::APPEND);
}

#[tokio::test]
async fn what_lies_in_the_trash_keeps_its_attributes() {
    let v = Volume::with_trash().await;
    let ino = owned(&v, 0o644).await;
    v.unlink(&root(), ROOT, b"f").await.expect("unlinked");
    refused!(v.setattr(&root(), ino, mode(0)).await, Error::NotPermitted { .. });
    refused!(v.truncate(&root(), ino, 5).await, Error::NotPermitted { .. });
    refused!(v.meta.open(&root(), ino, 1).await, Error::NotPermitted { .. });
    v.meta.open(&root(), ino, 0).await.expect("reading is fine");
}

#[tokio::test]
async fn xattrs_follow_setxattr() {
    let v = Volume::plain().await;
    let ino = owned(&v, 0o644).await;
    let caller = user(1000);
    refused!(v.get_xattr(ino, b"user.a").await, Error::NoXattr { .. });
    refused!(v.set_xattr(&caller, ino, b"user.a", b"1", XattrFlag::Replace).await, Error::NoXattr { .. });
    v.set_xattr(&caller, ino, b"user.a", b"1", XattrFlag::Create).await.expect("created");
    refused!(v.set_xattr(&caller, ino, b"user.a", b"2", XattrFlag::Create).await, Error::XattrExists { .. });
    v.set_xattr(&caller, ino, b"user.a", b"2", XattrFlag::Replace).await.expect("replaced");
    v.set_xattr(&caller, ino, b"user.b", b"", XattrFlag::Any).await.expect("set");
    assert_eq!(v.get_xattr(ino, b"user.a").await.expect("set"), b"2".as_slice());
    assert_eq!(v.list_xattrs(ino).await.expect("listed").len(), 2);
    refused!(v.set_xattr(&caller, ino, b"user.c", &[0; 65_537], XattrFlag::Any).await, Error::TooLarge { .. });
    refused!(v.set_xattr(&caller, ino, b"trusted.c", b"", XattrFlag::Any).await, Error::NotPermitted { .. });
    refused!(v.set_xattr(&user(1001), ino, b"user.c", b"", XattrFlag::Any).await, Error::AccessDenied { .. });
    let acl = b"system.posix_acl_access";
    refused!(v.set_xattr(&root(), ino, acl, b"", XattrFlag::Any).await, Error::NotSupported { .. });
    v.remove_xattr(&caller, ino, b"user.b").await.expect("removed");
    refused!(v.remove_xattr(&caller, ino, b"user.b").await, Error::NoXattr { .. });
    v.unlink(&root(), ROOT, b"f").await.expect("unlinked");
    v.audit().await;
}

#[tokio::test]
async fn xattrs_are_served_on_request_only() {
    let v = Setup { enable_xattr: false, ..Setup::default() }.volume().await;
    refused!(v.get_xattr(ROOT, b"user.a").await, Error::NotSupported { .. });
    refused!(v.set_xattr(&root(), ROOT, b"user.a", b"", XattrFlag::Any).await, Error::NotSupported { .. });
    refused!(v.list_xattrs(ROOT).await, Error::NotSupported { .. });
}
