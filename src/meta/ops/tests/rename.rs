use super::*;

async fn renamed(v: &Volume, from: (Ino, &str), to: (Ino, &str), flags: u32) -> Result<(Ino, Attr)> {
    v.rename(&root(), from.0, from.1.as_bytes(), to.0, to.1.as_bytes(), flags).await
}

#[tokio::test]
async fn a_move_changes_parents_and_links() {
    let v = Volume::plain().await;
    let (a, b) = (v.dir(ROOT, "a").await, v.dir(ROOT, "b").await);
    let (dir, file) = (v.dir(a, "d").await, v.filled(a, "f", 5000).await);
    v.clock.advance(Duration::from_secs(1));
    let (ino, attr) = renamed(&v, (a, "d"), (b, "e"), 0).await.expect("moved");
    assert_eq!((ino, attr.parent, attr.ctime), (dir, b, v.clock.now()));
    assert_eq!((v.attr(a).await.nlink, v.attr(b).await.nlink), (2, 3));
    assert_eq!((v.attr(a).await.mtime, v.attr(b).await.mtime), (v.clock.now(), v.clock.now()));
    renamed(&v, (a, "f"), (b, "f"), 0).await.expect("moved");
    assert_eq!(v.attr(file).await.parent, b);
    assert_eq!(v.names(b).await, ["e", "f"]);
    v.audit().await;
}

#[tokio::test]
async fn a_target_is_replaced() {
    for trash_days in [0, 1] {
        let v = Setup { trash_days, ..Setup::default() }.volume().await;
        let (file, old) = (v.file(ROOT, "f").await, v.filled(ROOT, "g", 10).await);
        assert_eq!(renamed(&v, (ROOT, "f"), (ROOT, "g"), 0).await.expect("replaced").0, file);
        assert_eq!(v.names(ROOT).await, ["g"]);
        if trash_days == 0 {
            refused!(v.getattr(old).await, Error::NoInode { .. });
        } else {
            assert_eq!(v.names(v.hour().await).await, [format!("1-{old}-g")]);
        }
        v.dir(ROOT, "d").await;
        let empty = v.dir(ROOT, "e").await;
        renamed(&v, (ROOT, "d"), (ROOT, "e"), 0).await.expect("an empty directory");
        assert_eq!(v.attr(ROOT).await.nlink, 3);
        assert_eq!(v.getattr(empty).await.is_ok(), trash_days == 1);
        v.audit().await;
    }
}

#[tokio::test]
async fn an_open_target_stays_until_it_is_closed() {
    let v = Volume::plain().await;
    v.file(ROOT, "f").await;
    let old = v.filled(ROOT, "g", 10).await;
    v.meta.open(&root(), old, 0).await.expect("opened");
    renamed(&v, (ROOT, "f"), (ROOT, "g"), 0).await.expect("replaced");
    assert_eq!(v.attr(old).await.nlink, 0);
    v.close(old).await.expect("closed");
    refused!(v.getattr(old).await, Error::NoInode { .. });
    v.audit().await;
}

#[tokio::test]
async fn kinds_must_fit() {
    let v = Volume::plain().await;
    v.file(ROOT, "f").await;
    let dir = v.dir(ROOT, "d").await;
    let sub = v.dir(dir, "sub").await;
    refused!(renamed(&v, (ROOT, "f"), (ROOT, "d"), 0).await, Error::IsDirectory { .. });
    refused!(renamed(&v, (ROOT, "d"), (ROOT, "f"), 0).await, Error::NotDirectory { .. });
    v.dir(ROOT, "e").await;
    refused!(renamed(&v, (ROOT, "e"), (ROOT, "d"), 0).await, Error::NotEmpty { .. });
    refused!(renamed(&v, (ROOT, "d"), (dir, "x"), 0).await, Error::NotPermitted { .. });
    refused!(renamed(&v, (ROOT, "d"), (sub, "x"), 0).await, Error::NotPermitted { .. });
    refused!(renamed(&v, (ROOT, "x"), (ROOT, "y"), 0).await, Error::NoEntry { .. });
    refused!(renamed(&v, (ROOT, "f"), (ROOT, ".trash"), 0).await, Error::Exists { .. });
    v.audit().await;
}

#[tokio::test]
async fn the_same_inode_is_left_alone() {
    let v = Volume::plain().await;
    let file = v.file(ROOT, "f").await;
    v.link(&root(), file, ROOT, b"g").await.expect("linked");
    renamed(&v, (ROOT, "f"), (ROOT, "g"), 0).await.expect("nothing to do");
    renamed(&v, (ROOT, "f"), (ROOT, "f"), 0).await.expect("nothing to do");
    assert_eq!(v.names(ROOT).await, ["f", "g"], "rename(2): both stay");
}

#[tokio::test]
async fn flags_are_kept() {
    let v = Volume::plain().await;
    let (a, b) = (v.dir(ROOT, "a").await, v.dir(ROOT, "b").await);
    let (dir, file) = (v.dir(a, "d").await, v.filled(b, "f", 9000).await);
    refused!(renamed(&v, (a, "d"), (b, "f"), 1).await, Error::Exists { .. });
    refused!(renamed(&v, (a, "d"), (b, "x"), 2).await, Error::NoEntry { .. });
    renamed(&v, (a, "d"), (b, "f"), 2).await.expect("exchanged");
    assert_eq!((v.lookup(b, b"f").await.expect("there").0, v.lookup(a, b"d").await.expect("there").0), (dir, file));
    assert_eq!((v.attr(a).await.nlink, v.attr(b).await.nlink), (2, 3));
    assert_eq!((v.attr(dir).await.parent, v.attr(file).await.parent), (b, a));
    refused!(renamed(&v, (a, "d"), (b, "x"), 4).await, Error::NotSupported { .. });
    refused!(renamed(&v, (a, "d"), (b, "x"), 5).await, Error::NotSupported { .. });
    refused!(renamed(&v, (a, "d"), (b, "x"), 3).await, Error::Invalid { .. });
    refused!(renamed(&v, (a, "d"), (b, "x"), 0x40).await, Error::Invalid { .. });
    renamed(&v, (a, "d"), (b, "x"), 1).await.expect("a free name");
    v.audit().await;
}

#[tokio::test]
async fn hard_links_move_between_directories() {
    let v = Volume::plain().await;
    let (a, b) = (v.dir(ROOT, "a").await, v.dir(ROOT, "b").await);
    let file = v.filled(a, "f", 10).await;
    v.link(&root(), file, ROOT, b"g").await.expect("linked");
    renamed(&v, (a, "f"), (b, "f"), 0).await.expect("moved");
    v.audit().await;
    v.filled(ROOT, "h", 20).await;
    renamed(&v, (b, "f"), (ROOT, "h"), 2).await.expect("exchanged");
    v.audit().await;
}

#[tokio::test]
async fn sticky_directories_protect_names() {
    let v = Volume::plain().await;
    let (tmp, _attr) = v.mkdir(&user(1), ROOT, b"tmp", 0o1777, 0).await.expect("made");
    let (open, _attr) = v.mkdir(&user(1), ROOT, b"open", 0o777, 0).await.expect("made");
    v.mknod(&user(2), tmp, b"f", NewNode::file(0o666, 0)).await.expect("made");
    v.mknod(&user(3), open, b"g", NewNode::file(0o666, 0)).await.expect("made");
    v.mkdir(&user(2), tmp, b"d", 0o777, 0).await.expect("made");
    refused!(v.rename(&user(3), tmp, b"f", tmp, b"x", 0).await, Error::AccessDenied { .. });
    refused!(v.rename(&user(3), open, b"g", tmp, b"f", 0).await, Error::AccessDenied { .. });
    refused!(v.rename(&user(1), tmp, b"d", open, b"d", 0).await, Error::AccessDenied { .. });
    v.rename(&user(2), tmp, b"d", open, b"d", 0).await.expect("its owner");
    v.rename(&user(2), tmp, b"f", tmp, b"x", 0).await.expect("its owner");
}

#[tokio::test]
async fn the_trash_gives_back() {
    let v = Volume::with_trash().await;
    let (file, dir) = (v.filled(ROOT, "f", 10).await, v.dir(ROOT, "d").await);
    v.unlink(&root(), ROOT, b"f").await.expect("unlinked");
    v.rmdir(&root(), ROOT, b"d").await.expect("removed");
    let hour = v.hour().await;
    let name = format!("1-{file}-f");
    refused!(renamed(&v, (hour, &name), (ROOT, "f"), 0).await, Error::NotPermitted { .. });
    let by_user = v.rename(&user(1), hour, name.as_bytes(), ROOT, b"f", 0x21).await;
    refused!(by_user, Error::NotPermitted { .. });
    renamed(&v, (hour, &name), (ROOT, "f"), 0x21).await.expect("restored");
    renamed(&v, (hour, &format!("1-{dir}-d")), (ROOT, "d"), 0x21).await.expect("restored");
    assert_eq!((v.attr(file).await.parent, v.attr(dir).await.parent), (ROOT, ROOT));
    assert_eq!((v.attr(ROOT).await.nlink, v.attr(hour).await.nlink), (3, 2), "the trash's attributes stay");
    v.file(dir, "inside").await;
    v.audit().await;
    refused!(renamed(&v, (ROOT, "f"), (ROOT, "g"), 0x21).await, Error::NotPermitted { .. });
}
