use std::sync::atomic::AtomicU64;

use super::*;
use crate::store::Cursor;

async fn forest(v: &Volume) -> Ino {
    let top = v.dir(ROOT, "top").await;
    for n in 0..3 {
        let dir = v.dir(top, &format!("d{n}")).await;
        for m in 0..40 {
            v.filled(dir, &format!("f{m}"), 10).await;
        }
    }
    v.symlink(&root(), top, b"l", b"d0").await.expect("linked");
    top
}

#[tokio::test]
async fn a_tree_is_removed_whole() {
    for (trash_days, skip_trash) in [(0, false), (1, false), (1, true)] {
        let v = Setup { store: MemoryStore::remote(), trash_days, ..Setup::default() }.volume().await;
        forest(&v).await;
        let last = AtomicU64::new(0);
        let progress = |count| {
            last.fetch_max(count, Ordering::Relaxed);
        };
        let removed = v.remove_tree(&root(), ROOT, b"top", skip_trash, &progress).await.expect("removed");
        assert_eq!((removed, last.into_inner()), (125, 125));
        assert!(v.names(ROOT).await.is_empty());
        let trashed = v.store.snapshot().attrs.keys().any(|ino| ino.0 > Ino::TRASH.0);
        assert_eq!(trashed, trash_days == 1 && !skip_trash);
        v.audit().await;
    }
}

#[tokio::test]
async fn a_single_file_is_a_tree_too() {
    let v = Volume::plain().await;
    v.file(ROOT, "f").await;
    assert_eq!(v.remove_tree(&root(), ROOT, b"f", false, &|_count| ()).await.expect("removed"), 1);
    refused!(v.remove_tree(&root(), ROOT, b"f", false, &|_count| ()).await, Error::NoEntry { .. });
}

#[tokio::test]
async fn a_tree_of_somebody_else_stays() {
    let v = Volume::plain().await;
    forest(&v).await;
    refused!(v.remove_tree(&user(5), ROOT, b"top", false, &|_count| ()).await, Error::AccessDenied { .. });
    assert_eq!(v.summary(ROOT).await.expect("summed").files, 121);
}

#[tokio::test]
async fn a_summary_adds_everything_up() {
    let v = Volume::plain().await;
    let top = forest(&v).await;
    let total = v.summary(top).await.expect("summed");
    assert_eq!((total.files, total.dirs, total.length, total.size), (121, 4, 1200, 125 * 4096));
    refused!(v.summary(Ino(9999)).await, Error::NoInode { .. });
}

#[tokio::test]
async fn paths_are_resolved_and_made() {
    let v = Volume::plain().await;
    let made = v.make_dirs("/a//b/./c", 0o2750, 7, 8).await.expect("made");
    let (ino, attr) = v.resolve_path("a/b/c/").await.expect("found");
    assert_eq!((ino, attr.mode, attr.uid, attr.gid), (made, 0o2750, 7, 8));
    assert_eq!(v.make_dirs("a/b/c", 0o700, 0, 0).await.expect("there"), made);
    assert_eq!(v.attr(made).await.mode, 0o2750, "what is there is left alone");
    assert_eq!(v.resolve_path("a/b/../b/c").await.expect("found").0, made);
    assert_eq!(v.resolve_path("/").await.expect("found").0, ROOT);
    assert_eq!(v.resolve_path("/..").await.expect("found").0, ROOT);
    v.file(made, "f").await;
    refused!(v.resolve_path("a/b/c/f/g").await, Error::NotDirectory { .. });
    refused!(v.resolve_path("a/x").await, Error::NoEntry { .. });
    refused!(v.make_dirs("a/b/c/f/g", 0o755, 0, 0).await, Error::NotDirectory { .. });
    v.audit().await;
}

#[tokio::test]
async fn listing_and_links_read_back() {
    let v = Volume::plain().await;
    let top = forest(&v).await;
    let page = v.list(top, true, Cursor::default(), 2).await.expect("listed");
    assert_eq!(page.items.len(), 2);
    let rest = v.list(top, true, page.next.expect("more"), 10).await.expect("listed");
    assert_eq!((rest.items.len(), rest.next), (2, None));
    let (link, _attr) = v.lookup(top, b"l").await.expect("there");
    assert_eq!(v.readlink(link).await.expect("a link"), b"d0".as_slice());
    refused!(v.readlink(top).await, Error::Invalid { .. });
    refused!(v.parent_of(link).await, Error::NotDirectory { .. });
    refused!(v.getattr(Ino(9999)).await, Error::NoInode { .. });
}

/// Deeper than what goes in one recursion.
#[tokio::test]
async fn a_tree_of_any_depth_is_removed() {
    let v = Volume::plain().await;
    let top = v.dir(ROOT, "top").await;
    let (mut dir, mut beside) = (top, top);
    for level in 0..300 {
        dir = v.dir(dir, "d").await;
        if level < 100 {
            beside = v.dir(beside, "beside").await;
        }
    }
    v.file(dir, "f").await;
    let removed = v.remove_tree(&root(), ROOT, b"top", true, &|_count| ()).await.expect("removed");
    assert_eq!(removed, 1 + 300 + 100 + 1);
    v.audit().await;
}
