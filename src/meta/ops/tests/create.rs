use super::*;
use crate::records::{Write, flags};

#[tokio::test]
async fn a_new_file_has_the_attributes_that_were_asked_for() {
    let v = Volume::plain().await;
    let caller = user(1000);
    let (ino, attr) = v.mknod(&caller, ROOT, b"f", NewNode::file(0o4777, 0o22)).await.expect("made");
    assert_eq!((attr.mode, attr.uid, attr.gid, attr.nlink, attr.length), (0o4755, 1000, 1000, 1, 0));
    assert_eq!((attr.parent, attr.atime, attr.mtime, attr.ctime), (ROOT, v.clock.now(), v.clock.now(), v.clock.now()));
    assert_eq!(ino, Ino(2), "0 and 1 are never used");
    let (dir, attr) = v.mkdir(&caller, ROOT, b"d", 0o777, 0o27).await.expect("made");
    assert_eq!((attr.mode, attr.nlink, attr.length), (0o750, 2, 4096));
    assert_eq!(v.attr(ROOT).await.nlink, 3, "a directory links to its parent");
    let (_ino, attr) = v.symlink(&caller, dir, b"l", b"../f").await.expect("made");
    assert_eq!((attr.mode, attr.length, attr.kind), (0o777, 4, NodeType::Symlink));
    let device = NewNode { kind: NodeType::BlockDevice, rdev: 0x801, ..NewNode::file(0o600, 0) };
    let (ino, _attr) = v.mknod(&caller, dir, b"b", device).await.expect("made");
    assert_eq!(v.attr(ino).await.rdev, 0x801);
    v.audit().await;
}

#[tokio::test]
async fn a_new_name_changes_its_directory_unless_that_is_young() {
    let v = Volume::plain().await;
    let dir = v.dir(ROOT, "d").await;
    v.clock.advance(Duration::from_secs(1));
    v.file(dir, "f").await;
    assert_eq!(v.attr(dir).await.mtime, v.clock.now());

    let slow = MetaOptions { skip_dir_mtime: Duration::from_secs(10), ..options(&v.clock) };
    let slow = Volume::open(Arc::clone(&v.store), Arc::clone(&v.clock), slow).await;
    let before = slow.attr(dir).await.mtime;
    slow.clock.advance(Duration::from_secs(9));
    slow.file(dir, "g").await;
    assert_eq!(slow.attr(dir).await.mtime, before, "younger than the window");
    slow.dir(dir, "h").await;
    assert_eq!(slow.attr(dir).await.mtime, v.clock.now(), "a sub-directory always counts");
}

#[tokio::test]
async fn setgid_directories_pass_their_group_on() {
    let v = Volume::plain().await;
    let (dir, _attr) = v.mkdir(&Caller::new(0, 50, 0), ROOT, b"d", 0o2777, 0).await.expect("made");
    let (_ino, attr) = v.mkdir(&user(1000), dir, b"sub", 0o755, 0).await.expect("made");
    assert_eq!((attr.gid, attr.mode), (50, 0o2755), "a directory is setgid too");
    let (_ino, attr) = v.mknod(&user(1000), dir, b"f", NewNode::file(0o2755, 0)).await.expect("made");
    assert_eq!((attr.gid, attr.mode), (50, 0o755), "no setgid program for a group that is not one's own");
}

#[tokio::test]
async fn the_flag_that_skips_the_trash_is_inherited() {
    let v = Volume::with_trash().await;
    let dir = v.dir(ROOT, "d").await;
    let set = SetAttr { flags: Some(flags::SKIP_TRASH | flags::APPEND), ..SetAttr::default() };
    v.setattr(&root(), dir, set).await.expect("set");
    let sub = v.dir(dir, "sub").await;
    assert_eq!(v.attr(sub).await.flags, flags::SKIP_TRASH, "and no other flag");
}

#[tokio::test]
async fn names_are_checked() {
    let v = Volume::plain().await;
    let caller = root();
    let make = |name: &'static [u8]| v.mknod(&caller, ROOT, name, NewNode::file(0, 0));
    for name in [b"".as_slice(), b".", b"..", b"a/b", b"a\0b"] {
        refused!(v.mknod(&root(), ROOT, name, NewNode::file(0, 0)).await, Error::InvalidName { .. });
    }
    refused!(make(&[b'x'; 256]).await, Error::NameTooLong { length: 256 });
    make(&[b'x'; 255]).await.expect("255 bytes are fine");
    make(b"\xff\xfe").await.expect("any bytes are fine");
    refused!(make(b"\xff\xfe").await, Error::Exists { .. });
    refused!(make(b".trash").await, Error::Exists { .. });
    refused!(v.mknod(&root(), Ino(99), b"f", NewNode::file(0, 0)).await, Error::NoInode { ino: Ino(99) });
    let file = v.file(ROOT, "f").await;
    refused!(v.mknod(&root(), file, b"g", NewNode::file(0, 0)).await, Error::NotDirectory { .. });
    for target in [b"".as_slice(), b"a\0"] {
        refused!(v.symlink(&root(), ROOT, b"l", target).await, Error::Invalid { .. });
    }
    refused!(v.symlink(&root(), ROOT, b"l", &[b'x'; 4097]).await, Error::TooLarge { .. });
    v.audit().await;
}

#[tokio::test]
async fn create_opens_what_is_there_unless_exclusive() {
    let v = Volume::plain().await;
    let (ino, _attr) = v.create(&root(), ROOT, b"f", 0o644, 0, true).await.expect("made");
    refused!(v.create(&root(), ROOT, b"f", 0o644, 0, true).await, Error::Exists { .. });
    let (again, _attr) = v.create(&root(), ROOT, b"f", 0o600, 0, false).await.expect("opened");
    assert_eq!(again, ino);
    v.dir(ROOT, "d").await;
    refused!(v.create(&root(), ROOT, b"d", 0o644, 0, false).await, Error::IsDirectory { .. });

    v.unlink(&root(), ROOT, b"f").await.expect("unlinked");
    v.close(ino).await.expect("closed");
    assert_eq!(v.attr(ino).await.nlink, 0, "it was opened twice");
    v.close(ino).await.expect("closed");
    refused!(v.getattr(ino).await, Error::NoInode { .. });
    v.audit().await;
}

#[tokio::test]
async fn nothing_is_made_in_immutable_or_trashed_directories() {
    let v = Volume::with_trash().await;
    let dir = v.dir(ROOT, "d").await;
    let set = SetAttr { flags: Some(flags::IMMUTABLE), ..SetAttr::default() };
    v.setattr(&root(), dir, set).await.expect("set");
    refused!(v.mkdir(&root(), dir, b"x", 0, 0).await, Error::NotPermitted { .. });

    let gone = v.dir(ROOT, "gone").await;
    v.rmdir(&root(), ROOT, b"gone").await.expect("removed");
    let hour = v.hour().await;
    let file = v.file(ROOT, "f").await;
    refused!(v.mkdir(&root(), gone, b"x", 0, 0).await, Error::NoInode { .. });
    refused!(v.link(&root(), file, gone, b"x").await, Error::NoInode { .. });
    for trash in [hour, Ino::TRASH] {
        refused!(v.mkdir(&root(), trash, b"x", 0, 0).await, Error::NotPermitted { .. });
        refused!(v.link(&root(), file, trash, b"x").await, Error::NotPermitted { .. });
        refused!(v.rename(&root(), ROOT, b"f", trash, b"x", 0).await, Error::NotPermitted { .. });
    }
    v.audit().await;
}

#[tokio::test]
async fn a_full_volume_takes_nothing_new_but_removals() {
    let v = Setup { capacity: 20_000, trash_days: 1, ..Setup::default() }.volume().await;
    let file = v.file(ROOT, "a").await;
    v.write(file, 0, 0, 8192).await.expect("8 KiB of 19.5 KiB");
    let too_much = v.write(file, 0, 8192, 8193).await;
    refused!(too_much, Error::NoSpace { what: "space", limit: 20_000 });
    assert_eq!(v.chunk(file, 0).await.expect("read").len(), 1, "nothing was recorded");
    refused!(v.truncate(&root(), file, 1 << 20).await, Error::NoSpace { .. });
    v.file(ROOT, "b").await;
    v.file(ROOT, "c").await;
    refused!(v.mkdir(&root(), ROOT, b"d", 0, 0).await, Error::NoSpace { what: "space", .. });
    v.truncate(&root(), file, 1).await.expect("smaller is possible");
    v.dir(ROOT, "d").await;
    v.unlink(&root(), ROOT, b"a").await.expect("the trash makes itself room");
    v.audit().await;
}

#[tokio::test]
async fn inodes_have_a_limit_too() {
    let v = Setup { inodes: 1, ..Setup::default() }.volume().await;
    let file = v.file(ROOT, "a").await;
    refused!(v.mkdir(&root(), ROOT, b"e", 0, 0).await, Error::NoSpace { what: "inodes", limit: 1 });
    v.write(file, 0, 0, 1 << 20).await.expect("space has none");
    v.link(&root(), file, ROOT, b"b").await.expect("a name is no inode");
    v.audit().await;
}

#[tokio::test]
async fn hard_links_share_an_inode() {
    let v = Volume::plain().await;
    let (ino, dir) = (v.filled(ROOT, "f", 5000).await, v.dir(ROOT, "d").await);
    v.clock.advance(Duration::from_secs(1));
    let attr = v.link(&root(), ino, dir, b"g").await.expect("linked");
    assert_eq!((attr.nlink, attr.parent, attr.ctime), (2, Ino(0), v.clock.now()));
    v.link(&root(), ino, dir, b"h").await.expect("linked");
    v.write(ino, 0, 5000, 5000).await.expect("all three directories' statistics follow");
    v.audit().await;
    refused!(v.link(&root(), ino, dir, b"g").await, Error::Exists { .. });
    refused!(v.link(&root(), dir, ROOT, b"x").await, Error::NotPermitted { .. });
    refused!(v.link(&root(), Ino(77), ROOT, b"x").await, Error::NoInode { .. });
    v.unlink(&root(), ROOT, b"f").await.expect("unlinked");
    v.unlink(&root(), dir, b"g").await.expect("unlinked");
    let attr = v.attr(ino).await;
    assert_eq!((attr.nlink, attr.parent), (1, Ino(0)), "once linked, the parent stays 0");
    v.audit().await;
    v.unlink(&root(), dir, b"h").await.expect("unlinked");
    refused!(v.getattr(ino).await, Error::NoInode { .. });
    v.audit().await;
}

#[tokio::test]
async fn a_name_is_made_once_however_many_try() {
    let v = Setup { store: MemoryStore::remote(), ..Setup::default() }.volume().await;
    let tries: Vec<_> = (0..16)
        .map(|_n| {
            let meta = Arc::clone(&v.meta);
            tokio::spawn(async move { meta.mknod(&Caller::root(), ROOT, b"same", NewNode::file(0o644, 0)).await })
        })
        .collect();
    let mut made = 0;
    for one in tries {
        match one.await.expect("no panic") {
            Ok(_) => made += 1,
            Err(Error::Exists { .. }) => {}
            Err(other) => panic!("{other}"),
        }
    }
    assert_eq!(made, 1);
    v.audit().await;
}

#[tokio::test]
async fn a_number_that_is_given_out_twice_is_not_used_twice() {
    for store in [MemoryStore::new(), MemoryStore::remote()] {
        let v = Setup { store, ..Setup::default() }.volume().await;
        let first = v.file(ROOT, "first").await;
        let (taken, attr) = (Ino(first.0 + 1), v.attr(first).await);
        // As after a fail-over to a replica that had not heard of the last numbers.
        let theirs = attr.clone();
        v.transact(move |txn| {
            txn.write(Write::SetAttr(taken, theirs.clone()));
            Ok(())
        })
        .await
        .expect("written");
        assert_eq!(v.file(ROOT, "second").await, Ino(first.0 + 2));
        assert_eq!(v.attr(taken).await, attr, "whoever has it keeps it");
    }
}
