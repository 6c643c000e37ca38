use std::collections::HashSet;

use super::*;
use crate::records::flags;

#[tokio::test]
async fn a_removed_file_takes_its_data_with_it() {
    let v = Volume::plain().await;
    let ino = v.filled(ROOT, "f", 100).await;
    v.write(ino, 1, 0, 10).await.expect("written");
    v.truncate(&root(), ino, 0).await.expect("cut: its chunks lie beyond its end");
    v.unlink(&root(), ROOT, b"f").await.expect("unlinked");
    refused!(v.lookup(ROOT, b"f").await, Error::NoEntry { .. });
    v.settle().await;
    assert_eq!(*v.removed.slices.lock(), [(SliceId(1), 100), (SliceId(2), 10)]);
    let state = v.store.snapshot();
    assert!(state.deleted.is_empty() && state.chunks.is_empty() && state.slice_refs.is_empty());
    v.audit().await;
}

/// Whoever holds a file open sees all of it, also without a name (xattr(7) knows inodes, not names).
#[tokio::test]
async fn an_open_file_without_a_name_keeps_its_attributes_until_it_is_closed() {
    let v = Volume::plain().await;
    v.start_session().await.expect("started");
    let (ino, _attr) = v.create(&root(), ROOT, b"f", 0o644, 0, true).await.expect("made and open");
    v.set_xattr(&root(), ino, b"user.one", b"1", XattrFlag::Any).await.expect("set");
    v.unlink(&root(), ROOT, b"f").await.expect("unlinked");
    assert_eq!(v.get_xattr(ino, b"user.one").await.expect("kept"), "1");
    v.close(ino).await.expect("closed");
    v.settle().await;
    assert!(v.store.snapshot().xattrs.is_empty(), "they go with the file");
    v.audit().await;
}

#[tokio::test]
async fn blocks_that_cannot_be_removed_are_tried_again() {
    let v = Volume::plain().await;
    v.filled(ROOT, "f", 100).await;
    v.removed.fails.store(true, Ordering::Relaxed);
    v.unlink(&root(), ROOT, b"f").await.expect("unlinked");
    v.settle().await;
    let pending = v.store.snapshot().slice_refs;
    assert_eq!(pending.get(&(SliceId(1), 100)), Some(&0), "pending delete");
    v.removed.fails.store(false, Ordering::Relaxed);
    assert_eq!(v.run_job(crate::records::Job::CleanupSlices).await.expect("runs"), 1);
    assert!(v.store.snapshot().slice_refs.is_empty());
}

#[tokio::test]
async fn a_slice_that_cannot_be_removed_keeps_no_other() {
    let v = Volume::plain().await;
    let mut files = Vec::new();
    for name in ["one", "two", "three"] {
        files.push((v.filled(ROOT, name, 100).await, 100));
        *v.meta.remover.write() = None;
        v.unlink(&root(), ROOT, name.as_bytes()).await.expect("unlinked by a tool that cannot remove data");
        v.meta.set_slice_remover(Arc::clone(&v.removed) as Arc<dyn SliceRemover>);
    }
    *v.removed.stuck.lock() = Some(SliceId(2));
    v.delete_few(&files).await.expect("the others go");
    assert_eq!(v.store.snapshot().slice_refs, [((SliceId(2), 100), 0)].into(), "pending delete");
    let removed: HashSet<_> = v.removed.slices.lock().iter().copied().collect();
    assert_eq!(removed, [(SliceId(1), 100), (SliceId(3), 100)].into());
    assert_eq!(v.finish_deletions(&HashSet::new()).await.expect("runs"), 1, "is still there");
    *v.removed.stuck.lock() = None;
    assert_eq!(v.finish_deletions(&HashSet::new()).await.expect("and that one later"), 0);
    v.audit().await;
}

#[tokio::test(start_paused = true)]
async fn files_that_are_deleted_soon_after_each_other_go_together() {
    let v = Volume::plain().await;
    let delete_delay = Duration::from_millis(20);
    let options = MetaOptions { delete_delay, ..options(&v.clock) };
    let waiting = Volume::open(Arc::clone(&v.store), Arc::clone(&v.clock), options).await;
    waiting.start_session().await.expect("started");
    // Those of the second round come while the task is still there that took the first ones.
    for (round, count) in [5, 70].into_iter().enumerate() {
        for n in 0..count {
            let name = format!("{round}-{n}");
            waiting.filled(ROOT, &name, 100).await;
            waiting.unlink(&root(), ROOT, name.as_bytes()).await.expect("unlinked");
            waiting.settle().await;
        }
        tokio::time::sleep(delete_delay + Duration::from_millis(1)).await;
        waiting.settle().await;
    }
    tokio::time::sleep(2 * delete_delay).await;
    waiting.settle().await;
    assert_eq!(*waiting.removed.together.lock(), [5, 64, 6]);
    waiting.audit().await;
}

#[tokio::test]
async fn with_a_trash_a_name_moves_there() {
    let v = Volume::with_trash().await;
    let dir = v.dir(ROOT, "d").await;
    let ino = v.filled(dir, "f", 5000).await;
    v.clock.advance(Duration::from_secs(1));
    v.unlink(&root(), dir, b"f").await.expect("unlinked");
    assert_eq!(v.names(Ino::TRASH).await, ["2026-01-02-03"], "the hour, UTC");
    let hour = v.hour().await;
    assert_eq!(hour, Ino(Ino::TRASH.0 + 1));
    assert_eq!(v.names(hour).await, [format!("{dir}-{ino}-f")]);
    let attr = v.attr(ino).await;
    assert_eq!((attr.nlink, attr.parent, attr.ctime), (1, hour, v.clock.now()));
    let attr = v.attr(hour).await;
    assert_eq!((attr.mode, attr.uid, attr.parent, attr.nlink), (0o555, 0, Ino::TRASH, 2));

    v.rmdir(&root(), ROOT, b"d").await.expect("removed");
    assert_eq!(v.names(hour).await, [format!("1-{dir}-d"), format!("{dir}-{ino}-f")], "one hour, one directory");
    v.clock.advance(Duration::from_secs(3600));
    v.file(ROOT, "g").await;
    v.unlink(&root(), ROOT, b"g").await.expect("unlinked");
    assert_eq!(v.hour().await, Ino(Ino::TRASH.0 + 2));
    assert_eq!(v.lookup(ROOT, b".trash").await.expect("shown").0, Ino::TRASH);
    v.audit().await;
}

#[tokio::test]
async fn trash_names_are_cut_to_255_bytes() {
    let v = Volume::with_trash().await;
    let name = "ä".repeat(127);
    let ino = v.file(ROOT, &name).await;
    v.unlink(&root(), ROOT, name.as_bytes()).await.expect("unlinked");
    let found = v.list_all(v.hour().await, false).await.expect("listed");
    let expected = &format!("1-{ino}-{name}").into_bytes()[..255];
    assert_eq!(found.keys().next().map(|name| name.as_bytes().to_vec()), Some(expected.to_vec()));
}

#[tokio::test]
async fn a_hard_link_moves_to_the_trash_by_name() {
    let v = Volume::with_trash().await;
    let (dir, ino) = (v.dir(ROOT, "d").await, v.filled(ROOT, "f", 10).await);
    v.link(&root(), ino, dir, b"g").await.expect("linked");
    v.unlink(&root(), ROOT, b"f").await.expect("unlinked");
    let attr = v.attr(ino).await;
    assert_eq!((attr.nlink, attr.parent), (2, Ino(0)), "neither links nor parent change");
    v.audit().await;
    v.link(&root(), ino, ROOT, b"f").await.expect("linked again");
    v.unlink(&root(), ROOT, b"f").await.expect("unlinked");
    assert_eq!(v.attr(ino).await.nlink, 2, "the same name is in the trash already: this one is gone");
    v.audit().await;
}

#[tokio::test]
async fn flagged_files_go_at_once() {
    let v = Volume::with_trash().await;
    let dir = v.dir(ROOT, "d").await;
    let set = SetAttr { flags: Some(flags::SKIP_TRASH), ..SetAttr::default() };
    v.setattr(&root(), dir, set).await.expect("set");
    let ino = v.file(dir, "f").await;
    v.unlink(&root(), dir, b"f").await.expect("unlinked");
    refused!(v.getattr(ino).await, Error::NoInode { .. });
    v.rmdir(&root(), ROOT, b"d").await.expect("removed");
    assert!(v.names(Ino::TRASH).await.is_empty());
    v.audit().await;
}

#[tokio::test]
async fn only_root_empties_the_trash() {
    let v = Volume::with_trash().await;
    let ino = v.filled(ROOT, "f", 10).await;
    v.unlink(&root(), ROOT, b"f").await.expect("unlinked");
    let (hour, name) = (v.hour().await, format!("1-{ino}-f"));
    refused!(v.unlink(&user(1), hour, name.as_bytes()).await, Error::NotPermitted { .. });
    v.unlink(&root(), hour, name.as_bytes()).await.expect("root may");
    refused!(v.getattr(ino).await, Error::NoInode { .. });
    refused!(v.rmdir(&root(), ROOT, b".trash").await, Error::NotPermitted { .. });
    v.audit().await;
}

#[tokio::test]
async fn the_wrong_call_for_the_kind_is_refused() {
    let v = Volume::plain().await;
    let dir = v.dir(ROOT, "d").await;
    v.file(dir, "f").await;
    refused!(v.unlink(&root(), ROOT, b"d").await, Error::IsDirectory { .. });
    refused!(v.rmdir(&root(), dir, b"f").await, Error::NotDirectory { .. });
    refused!(v.rmdir(&root(), ROOT, b"d").await, Error::NotEmpty { .. });
    refused!(v.rmdir(&root(), ROOT, b"x").await, Error::NoEntry { .. });
    refused!(v.unlink(&root(), ROOT, b"x").await, Error::NoEntry { .. });
    v.unlink(&root(), dir, b"f").await.expect("unlinked");
    v.rmdir(&root(), ROOT, b"d").await.expect("removed");
    assert_eq!(v.attr(ROOT).await.nlink, 2);
    v.audit().await;
}

#[tokio::test]
async fn sticky_directories_protect_names() {
    let v = Volume::plain().await;
    let (dir, _attr) = v.mkdir(&user(1), ROOT, b"tmp", 0o1777, 0).await.expect("made");
    for name in [b"a", b"b", b"c"] {
        v.mknod(&user(2), dir, name, NewNode::file(0o666, 0)).await.expect("made");
    }
    refused!(v.unlink(&user(3), dir, b"a").await, Error::AccessDenied { .. });
    v.unlink(&user(2), dir, b"a").await.expect("the file's owner");
    v.unlink(&user(1), dir, b"b").await.expect("the directory's owner");
    v.unlink(&root(), dir, b"c").await.expect("root");
}

#[tokio::test]
async fn flags_keep_names_in_place() {
    let v = Volume::plain().await;
    let (dir, file) = (v.dir(ROOT, "d").await, v.file(ROOT, "f").await);
    v.file(dir, "g").await;
    for flag in [flags::IMMUTABLE, flags::APPEND] {
        let set = SetAttr { flags: Some(flag), ..SetAttr::default() };
        v.setattr(&root(), dir, set.clone()).await.expect("set");
        v.setattr(&root(), file, set).await.expect("set");
        refused!(v.unlink(&root(), ROOT, b"f").await, Error::NotPermitted { .. });
        refused!(v.unlink(&root(), dir, b"g").await, Error::NotPermitted { .. });
        refused!(v.link(&root(), file, ROOT, b"h").await, Error::NotPermitted { .. });
        refused!(v.rename(&root(), ROOT, b"f", ROOT, b"h", 0).await, Error::NotPermitted { .. });
        refused!(v.rename(&root(), dir, b"g", ROOT, b"h", 0).await, Error::NotPermitted { .. });
    }
}

#[tokio::test]
async fn an_open_file_outlives_its_name() {
    let v = Volume::plain().await;
    let ino = v.filled(ROOT, "f", 100).await;
    v.set_xattr(&root(), ino, b"user.x", b"1", XattrFlag::Any).await.expect("set");
    v.meta.open(&root(), ino, 2).await.expect("opened");
    v.unlink(&root(), ROOT, b"f").await.expect("unlinked");
    assert_eq!(v.attr(ino).await.nlink, 0);
    let state = v.store.snapshot();
    assert_eq!(state.sustained.iter().next(), Some(&(v.session(), ino)));
    v.write(ino, 0, 100, 9000).await.expect("still a file");
    v.audit().await;
    v.close(ino).await.expect("closed");
    refused!(v.getattr(ino).await, Error::NoInode { .. });
    v.settle().await;
    assert_eq!(v.removed.slices.lock().len(), 2);
    v.audit().await;
}

#[tokio::test]
async fn an_entry_without_attributes_is_corrupt_and_can_be_removed() {
    let v = Volume::plain().await;
    let ino = v.file(ROOT, "f").await;
    v.transact(move |txn| {
        txn.write(crate::records::Write::DelAttr(ino));
        Ok(())
    })
    .await
    .expect("damaged");
    refused!(v.lookup(ROOT, b"f").await, Error::Corrupt { .. });
    assert_eq!(v.names(ROOT).await, ["f"]);
    v.unlink(&root(), ROOT, b"f").await.expect("unlinked");
    refused!(v.lookup(ROOT, b"f").await, Error::NoEntry { .. });
}

#[tokio::test]
async fn a_volume_without_a_trash_shows_an_empty_one() {
    let v = Volume::plain().await;
    let (ino, attr) = v.lookup(ROOT, b".trash").await.expect("shown");
    assert_eq!((ino, attr.kind, attr.mode), (Ino::TRASH, NodeType::Directory, 0o555));
    assert!(v.names(Ino::TRASH).await.is_empty());
}
