//! Listings.

use std::collections::BTreeSet;

use stead_base::{Errno, Ino};
use stead_meta::records::NodeType;

use super::Rig;
use crate::{DirEntry, VfsConfig};

/// (name, inode, length) of each entry, `at_a_time` per call.
async fn list(rig: &Rig, fh: u64, mut offset: u64, plus: bool, at_a_time: usize) -> Vec<(String, Ino, u64)> {
    let mut all = Vec::new();
    loop {
        let (mut taken, from) = (0, offset);
        let take = |shown: DirEntry<'_>| {
            if taken == at_a_time {
                return true;
            }
            let name = String::from_utf8(shown.name.to_vec()).unwrap();
            all.push((name, shown.ino, shown.entry.map_or(0, |entry| entry.attributes.attr.length)));
            (taken, offset) = (taken + 1, shown.next);
            false
        };
        rig.vfs.readdir(&rig.caller, fh, from, plus, take).await.unwrap();
        if taken == 0 {
            return all;
        }
    }
}

fn names(listed: &[(String, Ino, u64)]) -> BTreeSet<&str> {
    listed.iter().map(|(name, _, _)| name.as_str()).collect()
}

#[tokio::test]
async fn a_directory_lists_each_entry_once() {
    let rig = Rig::new().await;
    let dir = rig.vfs.mkdir(&rig.caller, Ino::ROOT, b"d", 0o755, 0).await.unwrap().attributes.ino;
    for n in 0..2500 {
        rig.vfs.mkdir(&rig.caller, dir, format!("{n}").as_bytes(), 0o755, 0).await.unwrap();
    }
    let fh = rig.vfs.opendir(&rig.caller, dir).await.unwrap().fh;
    for (plus, at_a_time) in [(false, 7), (true, 1000), (false, 5000)] {
        let listed = list(&rig, fh, 0, plus, at_a_time).await;
        assert_eq!(listed.len(), 2502);
        assert_eq!(names(&listed).len(), 2502);
        assert_eq!(listed[0], (".".to_owned(), dir, 0));
        assert_eq!(listed[1], ("..".to_owned(), Ino::ROOT, 0));
    }
    rig.vfs.releasedir(&rig.caller, fh).await.unwrap();
    assert_eq!(rig.vfs.releasedir(&rig.caller, fh).await, Err(Errno::EBADF));
}

#[tokio::test]
async fn an_offset_holds_while_the_directory_changes() {
    let rig = Rig::new().await;
    let dir = rig.vfs.mkdir(&rig.caller, Ino::ROOT, b"d", 0o755, 0).await.unwrap().attributes.ino;
    for n in 0..10 {
        rig.vfs.mkdir(&rig.caller, dir, format!("{n}").as_bytes(), 0o755, 0).await.unwrap();
    }
    let fh = rig.vfs.opendir(&rig.caller, dir).await.unwrap().fh;
    let before = list(&rig, fh, 0, false, 100).await;
    for n in 0..5 {
        rig.vfs.rmdir(&rig.caller, dir, format!("{n}").as_bytes()).await.unwrap();
    }
    rig.vfs.mkdir(&rig.caller, dir, b"00", 0o755, 0).await.unwrap();
    assert_eq!(list(&rig, fh, 9, false, 100).await, before[9..]);
    let again = list(&rig, fh, 0, false, 100).await;
    assert_eq!(names(&again), BTreeSet::from([".", "..", "00", "5", "6", "7", "8", "9"]), "rewinding looks again");
}

#[tokio::test]
async fn a_listing_knows_nothing_older_than_our_changes() {
    let rig = Rig::new().await;
    let dir = rig.vfs.mkdir(&rig.caller, Ino::ROOT, b"d", 0o755, 0).await.unwrap().attributes.ino;
    let mut handles = Vec::new();
    for name in ["kept", "grown", "open", "removed", "replaced"] {
        let made = rig.vfs.create(&rig.caller, dir, name.as_bytes(), (0o644, 0), super::RDWR).await.unwrap();
        handles.push((made.0.attributes.ino, made.1.fh));
    }
    let fh = rig.vfs.opendir(&rig.caller, dir).await.unwrap().fh;
    // Takes the snapshot.
    rig.vfs.readdir(&rig.caller, fh, 0, true, |shown| shown.next > 2).await.unwrap();
    rig.write(handles[1].1, 0, b"12345").await;
    rig.close(handles[1].1).await.unwrap();
    rig.write(handles[2].1, 0, b"123").await;
    rig.vfs.unlink(&rig.caller, dir, b"removed").await.unwrap();
    rig.vfs.unlink(&rig.caller, dir, b"replaced").await.unwrap();
    let new = rig.vfs.mkdir(&rig.caller, dir, b"replaced", 0o755, 0).await.unwrap().attributes.ino;
    let listed = list(&rig, fh, 2, true, 100).await;
    let length = |name| listed.iter().find(|entry| entry.0 == name).map(|entry| entry.2);
    assert_eq!((length("kept"), length("grown"), length("open")), (Some(0), Some(5), Some(3)));
    assert_eq!(length("removed"), None);
    assert!(listed.contains(&("replaced".to_owned(), new, 4096)), "{listed:?}");
}

#[tokio::test]
async fn the_root_shows_the_virtual_files() {
    let rig = Rig::new().await;
    let fh = rig.vfs.opendir(&rig.caller, Ino::ROOT).await.unwrap().fh;
    let listed = list(&rig, fh, 0, true, 3).await;
    assert_eq!(names(&listed), BTreeSet::from([".", "..", ".accesslog", ".config", ".stats", ".trash"]));
    let hidden = VfsConfig { hide_internal: true, ..VfsConfig::default() };
    let rig = Rig::with(hidden, Default::default()).await;
    let fh = rig.vfs.opendir(&rig.caller, Ino::ROOT).await.unwrap().fh;
    assert_eq!(list(&rig, fh, 0, false, 3).await.len(), 2);
    let trash = rig.vfs.lookup(&rig.caller, Ino::ROOT, b".trash").await.unwrap();
    assert_eq!((trash.attributes.ino, trash.attributes.attr.kind), (Ino::TRASH, NodeType::Directory));
}
