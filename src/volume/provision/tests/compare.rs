//! What counts as a change of a tree since it was cloned.

use std::ops::ControlFlow;

use stead_meta::ops::{CloneOptions, SetAttr};

use super::*;
use crate::provision::compare::is_unchanged;

/// Something that changes the tree.
type Change<'a> = std::pin::Pin<Box<dyn Future<Output = ()> + 'a>>;

#[tokio::test]
async fn every_change_is_seen() {
    let place = Place::new();
    let file_system = place.filled("v").await;
    let (meta, root) = (&file_system.meta, Caller::root());
    let (top, _) = meta.resolve_path("/v").await.expect("there");
    let (dir, _) = meta.resolve_path("/v/d").await.expect("there");
    let (file, _) = meta.resolve_path("/v/d/f1").await.expect("there");
    let parent = meta.make_dirs("/clones", 0o700, 0, 0).await.expect("made");
    let changes: [(&str, Change<'_>); 5] = [
        ("new", Box::pin(async { _ = meta.mkdir(&root, dir, b"new", 0o700, 0).await.expect("new") })),
        ("gone", Box::pin(async { meta.unlink(&root, dir, b"f0").await.map(drop).expect("there") })),
        ("renamed", Box::pin(async { _ = meta.rename(&root, dir, b"f2", top, b"f2", 0).await.expect("there") })),
        ("mode of a file", Box::pin(async { chmod(meta, file, 0o600).await })),
        ("mode of the top", Box::pin(async { chmod(meta, top, 0o700).await })),
    ];
    for (what, change) in changes {
        let options = CloneOptions { preserve: true, hard_links: true, ..CloneOptions::default() };
        let go_on = |_| ControlFlow::Continue(());
        let cloned = meta.clone_tree(&root, top, parent, what.as_bytes(), options, &go_on).await;
        let (clone, _) = cloned.expect("cloned");
        assert!(is_unchanged(meta, top, clone).await.expect("readable"), "before: {what}");
        change.await;
        assert!(!is_unchanged(meta, top, clone).await.expect("readable"), "{what}");
    }
}

async fn chmod(meta: &stead_meta::Meta, ino: Ino, mode: u16) {
    let set = SetAttr { mode: Some(mode), ..SetAttr::default() };
    meta.setattr(&Caller::root(), ino, set).await.expect("changed");
}
