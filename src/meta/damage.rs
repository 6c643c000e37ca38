//! What damaged records do to a volume: one scenario, which each engine's tests run with a way to spoil its records.

use std::sync::Arc;
use std::time::Duration;

use stead_base::{Clock, Ino, ManualClock, SystemClock};

use crate::error::{Error, Result};
use crate::format::Format;
use crate::ops::{Caller, LeakAges, Meta, MetaOptions, NewNode};
use crate::records::Slice;
use crate::store::{Cursor, Store};

/// How a record is spoiled.
#[derive(Debug)]
pub(crate) enum Damage {
    /// Attributes that end early.
    ShortAttr(Ino),
    /// Attributes of a node type that does not exist.
    UnknownType(Ino),
    /// No attributes although a name leads to the inode.
    NoAttr(Ino),
    /// A list of slices of the chunk 0 with a record of a wrong length.
    OddSlices(Ino),
    /// An entry that cannot be read.
    Entry(Ino, &'static str),
}

fn refused<T: std::fmt::Debug>(what: &str, outcome: Result<T>) {
    assert!(matches!(outcome, Err(Error::Corrupt { .. })), "{what}: {outcome:?}");
}

/// Spoils some files of a directory; each gives [`Error::Corrupt`], and everything else works as before.
pub(crate) async fn only_the_object_suffers(store: Arc<dyn Store>, spoil: impl AsyncFn(Damage)) {
    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    store.initialize().await.expect("initialize");
    let format = Format::new("test-volume", "file", "/data/");
    Meta::write_format(store.as_ref(), &format, clock.as_ref()).await.expect("formats");
    let options = MetaOptions { clock, ..MetaOptions::default() };
    let meta = Meta::new(Arc::clone(&store), format.clone(), options).await.expect("opens");
    let root = Caller::root();
    let mut files = Vec::new();
    for name in ["short", "odd-type", "lost", "slices", "entry", "sound"] {
        let (ino, _attr) = meta.mknod(&root, Ino::ROOT, name.as_bytes(), NewNode::file(0o644, 0)).await.expect("mknod");
        let id = meta.new_slice().await.expect("a slice");
        let slice = Slice { pos: 0, id, size: 100, off: 0, len: 100 };
        meta.write_slice(ino, 0, slice, meta_now()).await.expect("write");
        files.push(ino);
    }
    let [short, odd, lost, slices, entry, sound] = files[..] else { panic!("six files") };
    spoil(Damage::ShortAttr(short)).await;
    spoil(Damage::UnknownType(odd)).await;
    spoil(Damage::NoAttr(lost)).await;
    spoil(Damage::OddSlices(slices)).await;
    spoil(Damage::Entry(Ino::ROOT, "entry")).await;

    // A client that has seen nothing of it before.
    let fresh = Meta::new(Arc::clone(&store), format, MetaOptions::default()).await.expect("opens");
    for meta in [&meta, &fresh] {
        refused("lost", meta.lookup(Ino::ROOT, b"lost").await);
        for name in ["short", "odd-type", "entry"] {
            refused(name, meta.lookup(Ino::ROOT, name.as_bytes()).await);
            refused(name, meta.unlink(&root, Ino::ROOT, name.as_bytes()).await);
        }
        refused("short", meta.getattr(short).await);
        refused("odd-type", meta.getattr(odd).await);
        refused("slices", meta.chunk(slices, 0).await);
        assert_eq!(meta.getattr(slices).await.expect("its attributes are sound").length, 100);
        assert_eq!(meta.getattr(entry).await.expect("its attributes are sound").length, 100);
        assert_eq!(meta.lookup(Ino::ROOT, b"sound").await.expect("sound").0, sound);
        assert_eq!(meta.chunk(sound, 0).await.expect("sound").len(), 1);
        let page = meta.list(Ino::ROOT, true, Cursor::default(), 100).await.expect("lists");
        let names: std::collections::BTreeSet<String> = page.items.iter().map(|item| item.name.to_string()).collect();
        let expected = ["lost", "odd-type", "short", "slices", "sound"].map(str::to_owned);
        assert_eq!(names, expected.into(), "all but the one whose entry says nothing");
        assert_eq!(page.corrupt.len(), 3, "{:?}", page.corrupt);
    }
    for _round in 0..2 {
        meta.mknod(&root, Ino::ROOT, b"new", NewNode::file(0o644, 0)).await.expect("mknod");
        meta.unlink(&root, Ino::ROOT, b"new").await.expect("unlink");
    }
    let clock: Arc<dyn Clock> = Arc::new(ManualClock::new(meta_now().plus(Duration::from_secs(7200))));
    let format = Meta::load_format(store.as_ref()).await.expect("formatted");
    let later = Meta::new(Arc::clone(&store), format, MetaOptions { clock, ..MetaOptions::default() });
    let later = later.await.expect("opens");
    let leaks = later.find_leaks(LeakAges::default()).await.expect("goes on");
    assert!(leaks.inodes.is_empty() && !leaks.corrupt.is_empty(), "what an unreadable entry may name: {leaks:?}");
    refused("removal", later.remove_leaks(&leaks).await);
    let scanned = store.scan_attrs(Cursor::default(), 1000).await.expect("scans");
    assert_eq!(scanned.corrupt.len(), 2, "{:?}", scanned.corrupt);
    let scanned = store.scan_chunks(Cursor::default(), 1000).await.expect("scans");
    assert_eq!(scanned.corrupt.len(), 1, "{:?}", scanned.corrupt);
}

fn meta_now() -> stead_base::Timestamp {
    SystemClock.now()
}
