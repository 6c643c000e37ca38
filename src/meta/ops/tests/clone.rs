use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::sync::atomic::AtomicU64;

use super::*;

fn go_on(_count: u64) -> ControlFlow<()> {
    ControlFlow::Continue(())
}

/// A tree with everything that a tree can have; 5 directories, 66 files, a link and a pipe.
async fn forest(v: &Volume) -> Ino {
    let top = v.dir(ROOT, "top").await;
    for n in 0..3 {
        let dir = v.dir(top, &format!("d{n}")).await;
        for m in 0..20 {
            v.filled(dir, &format!("f{m}"), 5000).await;
        }
    }
    let deep = v.dir(top, "deep").await;
    let file = v.filled(deep, "many", 100).await;
    for index in [1, 9, 30] {
        v.write(file, index, 10, 100).await.expect("written");
        v.write(file, index, 50, 100).await.expect("written");
    }
    v.set_xattr(&root(), file, b"user.note", b"kept", XattrFlag::Any).await.expect("set");
    v.link(&root(), file, top, b"again").await.expect("linked");
    v.symlink(&root(), deep, b"l", b"../d0").await.expect("linked");
    v.mknod(&root(), deep, b"p", NewNode { kind: NodeType::Fifo, ..NewNode::file(0o640, 0) }).await.expect("made");
    for name in ["x", "y", "z", "w"] {
        v.file(deep, name).await;
    }
    top
}

/// Everything visible of a tree by path: kind, mode, owner, length and records.
async fn seen(v: &Volume, top: Ino) -> BTreeMap<String, String> {
    let (mut found, mut waiting) = (BTreeMap::new(), vec![(String::new(), top)]);
    while let Some((path, dir)) = waiting.pop() {
        for item in v.list_all(dir, true).await.expect("listed").into_values() {
            let path = format!("{path}/{}", item.name);
            let (ino, attr) = (item.entry.ino, item.attr.expect("there"));
            if attr.is_dir() {
                waiting.push((path.clone(), ino));
            }
            let mut records = Vec::new();
            for index in 0..32 {
                records.extend(v.chunk(ino, index).await.expect("read"));
            }
            let xattr = v.list_xattrs(ino).await.expect("listed");
            found.insert(path, format!("{:?} {:o} {} {records:?} {xattr:?}", attr.kind, attr.mode, attr.length));
        }
    }
    found
}

#[tokio::test]
async fn a_clone_is_the_same_and_stands_alone() {
    for trash_days in [0, 1] {
        let v = Setup { store: MemoryStore::remote(), trash_days, ..Setup::default() }.volume().await;
        let (top, to) = (forest(&v).await, v.dir(ROOT, "to").await);
        v.set_quota(to, Some(1 << 40), None).await.expect("set");
        let options = CloneOptions { umask: 0, ..CloneOptions::default() };
        let last = AtomicU64::new(0);
        let progress = |count| {
            last.fetch_max(count, Ordering::Relaxed);
            go_on(count)
        };
        let (made, attr) = v.clone_tree(&user(0), top, to, b"new", options, &progress).await.expect("cloned");
        assert_eq!((attr.nlink, attr.parent), (6, to));
        assert_eq!(last.into_inner(), 73);
        assert_eq!(seen(&v, made).await, seen(&v, top).await);
        let again = v.lookup(made, b"again").await.expect("there").1;
        assert_eq!((again.nlink, again.parent), (1, made), "a link becomes a file");
        v.audit().await;
        let before = seen(&v, made).await;
        v.remove_tree(&root(), ROOT, b"top", true, &|_count| ()).await.expect("removed");
        v.audit().await;
        assert_eq!(*v.removed.slices.lock(), [], "the clone refers to all slices");
        assert_eq!(seen(&v, made).await, before);
        v.remove_tree(&root(), to, b"new", true, &|_count| ()).await.expect("removed");
        v.audit().await;
        assert_eq!(v.removed.slices.lock().len(), 67, "nobody refers to any");
    }
}

#[tokio::test]
async fn hard_links_are_kept_when_asked_for() {
    let v = Volume::plain().await;
    let top = forest(&v).await;
    v.set_quota(ROOT, Some(1 << 40), None).await.expect("set");
    let options = CloneOptions { hard_links: true, ..CloneOptions::default() };
    let (made, _attr) = v.clone_tree(&root(), top, ROOT, b"new", options, &go_on).await.expect("cloned");
    let (first, attr) = v.lookup(made, b"again").await.expect("there");
    let deep = v.lookup(made, b"deep").await.expect("there").0;
    assert_eq!((v.lookup(deep, b"many").await.expect("there").0, attr.nlink, attr.parent), (first, 2, Ino(0)));
    v.audit().await;
}

#[tokio::test]
async fn a_clone_belongs_to_its_maker_or_as_before() {
    let v = Volume::plain().await;
    let file = v.filled(ROOT, "f", 10).await;
    v.clock.advance(Duration::from_secs(9));
    let options = CloneOptions { umask: 0o77, ..CloneOptions::default() };
    let (_ino, attr) = v.clone_tree(&user(5), file, ROOT, b"mine", options, &go_on).await.expect("cloned");
    assert_eq!((attr.uid, attr.gid, attr.mode, attr.mtime), (5, 5, 0o600, v.clock.now()));
    let options = CloneOptions { preserve: true, ..options };
    let (_ino, attr) = v.clone_tree(&root(), file, ROOT, b"same", options, &go_on).await.expect("cloned");
    assert_eq!((attr.uid, attr.mode, attr.mtime.secs), (0, 0o644, START));
    v.setattr(&root(), file, SetAttr { mode: Some(0o600), ..SetAttr::default() }).await.expect("set");
    let refused = v.clone_tree(&user(5), file, ROOT, b"no", options, &go_on).await;
    refused!(refused, Error::AccessDenied { .. });
    v.audit().await;
}

#[tokio::test]
async fn a_name_is_only_replaced_when_asked_for() {
    let v = Volume::with_trash().await;
    let (file, dir) = (v.filled(ROOT, "f", 10).await, v.dir(ROOT, "d").await);
    v.filled(ROOT, "old", 20).await;
    let refused = CloneOptions::default();
    refused!(v.clone_tree(&root(), file, ROOT, b"old", refused, &go_on).await, Error::Exists { .. });
    let options = CloneOptions { overwrite: true, ..refused };
    refused!(v.clone_tree(&root(), file, ROOT, b"d", options, &go_on).await, Error::IsDirectory { .. });
    refused!(v.clone_tree(&root(), dir, ROOT, b"old", options, &go_on).await, Error::NotDirectory { .. });
    let (made, _attr) = v.clone_tree(&root(), file, ROOT, b"old", options, &go_on).await.expect("cloned");
    assert_eq!(v.lookup(ROOT, b"old").await.expect("there").0, made);
    assert_eq!(v.names(v.hour().await).await.len(), 1, "the old one is in the trash");
    v.clone_tree(&root(), dir, ROOT, b"d", options, &go_on).await.expect("onto itself, empty");
    v.file(v.lookup(ROOT, b"d").await.expect("there").0, "x").await;
    refused!(v.clone_tree(&root(), dir, ROOT, b"d", options, &go_on).await, Error::NotEmpty { .. });
    v.audit().await;
}

#[tokio::test]
async fn a_clone_into_itself_ends() {
    let v = Volume::plain().await;
    let top = forest(&v).await;
    let options = CloneOptions::default();
    v.clone_tree(&root(), top, top, b"copy", options, &go_on).await.expect("cloned");
    assert_eq!(v.summary(top).await.expect("summed").dirs, 10);
    v.audit().await;
}

#[tokio::test]
async fn a_clone_that_fails_or_is_ended_leaves_nothing() {
    let v = Setup { store: MemoryStore::remote(), ..Setup::default() }.volume().await;
    let (top, to) = (forest(&v).await, v.dir(ROOT, "to").await);
    let before = v.store.snapshot();
    let options = CloneOptions::default();
    let stop = |count| if count > 30 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) };
    refused!(v.clone_tree(&root(), top, to, b"new", options, &stop).await, Error::Interrupted);
    v.settle().await;
    v.set_quota(to, Some(20 * 4096), None).await.expect("set");
    refused!(v.clone_tree(&root(), top, to, b"new", options, &go_on).await, Error::QuotaExceeded { .. });
    v.audit().await;
    let after = v.store.snapshot();
    assert_eq!((after.attrs.len(), after.chunks.len()), (before.attrs.len(), before.chunks.len()));
    assert!(after.detached.is_empty() && after.deleted.is_empty());
}

#[tokio::test]
async fn what_a_dead_client_left_of_a_clone_is_cleaned_up() {
    let v = Volume::plain().await;
    let top = forest(&v).await;
    let inodes = v.store.snapshot().attrs.len();
    let (caller, options) = (root(), CloneOptions::default());
    let dies = |count| if count > 40 { panic!("dies") } else { ControlFlow::Continue(()) };
    let half = v.clone_tree(&caller, top, ROOT, b"new", options, &dies);
    let died = std::panic::AssertUnwindSafe(half);
    futures::FutureExt::catch_unwind(died).await.expect_err("died");
    v.audit().await;
    assert_eq!(v.store.snapshot().detached.len(), 1);
    refused!(v.lookup(ROOT, b"new").await, Error::NoEntry { .. });
    for (hours, left) in [(23, 1), (2, 0)] {
        v.clock.advance(Duration::from_secs(hours * 3600));
        v.run_job(crate::records::Job::CleanupFiles).await.expect("runs");
        v.audit().await;
        assert_eq!(v.store.snapshot().detached.len(), left);
    }
    assert_eq!(v.store.snapshot().attrs.len(), inodes);
}

#[tokio::test]
async fn a_clone_that_was_written_down_can_be_discarded_until_it_has_its_name() {
    let v = Volume::plain().await;
    let forest = forest(&v).await;
    let inodes = v.store.snapshot().attrs.len();
    let (caller, options) = (root(), CloneOptions::default());
    let top = v.clone_top().await.expect("a number");
    v.discard_clone(top).await.expect("nothing was begun");
    let dies = |count| if count > 40 { panic!("dies") } else { ControlFlow::Continue(()) };
    let half = v.clone_tree_as(top, &caller, forest, (ROOT, b"new"), options, &dies);
    futures::FutureExt::catch_unwind(std::panic::AssertUnwindSafe(half)).await.expect_err("died");
    assert!(v.store.snapshot().attrs.len() > inodes);
    v.discard_clone(top).await.expect("removed");
    v.audit().await;
    assert_eq!(v.store.snapshot().attrs.len(), inodes);
    let top = v.clone_top().await.expect("a number");
    let (made, _attr) = v.clone_tree_as(top, &caller, forest, (ROOT, b"new"), options, &go_on).await.expect("cloned");
    assert_eq!(made, top);
    v.discard_clone(top).await.expect("it has its name");
    assert_eq!(seen(&v, top).await, seen(&v, forest).await);
}
