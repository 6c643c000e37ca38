//! Snapshots and clones: what is in them, what outlives what, and what a crash leaves.

use std::ops::ControlFlow;

use stead_meta::ops::CloneOptions;

use super::*;
use crate::names::SnapshotId;
use crate::record::SnapshotRecord;

impl Place {
    fn snapshot(&self, name: &str, volume: &str) -> SnapshotRequest {
        let volume = VolumeId::parse(volume).expect("right");
        SnapshotRequest { name: name.to_owned(), volume, secrets: self.secrets() }
    }

    fn restored(&self, name: &str, required: i64, source: &Source) -> VolumeRequest {
        VolumeRequest { source: Some(source.clone()), ..self.request(name, required, &[]) }
    }

    /// A volume with a directory of files, of owner 7 and mode 0750, and its file system.
    pub(super) async fn filled(&self, name: &str) -> FileSystem {
        let volume = self.request(name, 1 << 20, &[("mode", "0750"), ("uid", "7")]);
        self.volumes.create(&volume).await.expect("created");
        let file_system = self.file_system(name).await;
        let (top, _) = file_system.meta.resolve_path(&format!("/{name}")).await.expect("there");
        let (dir, _) = file_system.meta.mkdir(&Caller::root(), top, b"d", 0o700, 0).await.expect("new");
        for n in 0..FILES {
            write(&file_system, dir, &format!("f{n}"), b"hello").await;
        }
        file_system
    }
}

pub(super) const FILES: usize = 120;
/// Files and their directory: a block for each of them.
const SIZE: u64 = (FILES as u64 + 1) * 4096;

async fn write(file_system: &FileSystem, dir: Ino, name: &str, bytes: &'static [u8]) {
    let meta = &file_system.meta;
    let (file, _) = meta.create(&Caller::root(), dir, name.as_bytes(), 0o644, 0, true).await.expect("new");
    let (id, size) = (meta.new_slice().await.expect("allocated"), u32::try_from(bytes.len()).expect("short"));
    let key = format!("chunks/{}/{}/{id}_0_{size}", id.0 / 1_000_000, id.0 / 1000);
    file_system.objects.put(&key, bytes::Bytes::from_static(bytes)).await.expect("written");
    let slice = stead_meta::records::Slice { pos: 0, id, size, off: 0, len: size };
    meta.write_slice(file, 0, slice, stead_base::Timestamp::from_secs(1)).await.expect("committed");
    meta.close(file).await.expect("open");
}

pub(super) async fn blocks(file_system: &FileSystem) -> usize {
    file_system.objects.list("chunks/", "", 1000).await.expect("listed").len()
}

async fn quota(file_system: &FileSystem, path: &str) -> stead_meta::records::Quota {
    let (directory, _) = file_system.meta.resolve_path(path).await.expect("there");
    file_system.meta.get_quota(directory).await.expect("readable").expect("set")
}

fn of_snapshot(id: &str) -> Source {
    Source::Snapshot(SnapshotId::parse(id).expect("right"))
}

fn of_volume(id: &str) -> Source {
    Source::Volume(VolumeId::parse(id).expect("right"))
}

#[tokio::test]
async fn a_snapshot_keeps_what_was_and_a_volume_begins_with_it() {
    let place = Place::new();
    let file_system = place.filled("v").await;
    let before = quota(&file_system, "/v").await;
    let snapshot = place.volumes.create_snapshot(&place.snapshot("s", "v")).await.expect("taken");
    assert_eq!((snapshot.id.as_str(), snapshot.size, snapshot.ready), ("s", SIZE, true));
    assert_eq!(quota(&file_system, "/v").await, before, "a snapshot does not count in the volume's quota");
    assert_eq!(names(&file_system, "/v").await, ["d"], "and is not in the volume");
    let root = Caller::root();
    let (dir, _) = file_system.meta.resolve_path("/v/d").await.expect("there");
    file_system.meta.unlink(&root, dir, b"f0").await.expect("removed");
    write(&file_system, dir, "later", b"later").await;

    let restored = place.volumes.create(&place.restored("r", 1 << 20, &of_snapshot("s"))).await.expect("restored");
    assert_eq!(restored.source, Some(of_snapshot("s")));
    let restored = names(&file_system, "/r/d").await;
    assert!(restored.len() == FILES && !restored.contains(&"later".to_owned()), "{restored:?}");
    let (_, attr) = file_system.meta.resolve_path("/r").await.expect("there");
    assert_eq!((attr.mode, attr.uid), (0o750, 7), "mode and owner are the source's");
    let quota = quota(&file_system, "/r").await;
    assert_eq!((quota.max_space, quota.used_space.cast_unsigned()), (1 << 20, SIZE));

    place.volumes.create(&place.restored("c", 1 << 20, &of_volume("v"))).await.expect("cloned");
    let cloned = names(&file_system, "/c/d").await;
    assert!(cloned.len() == FILES && cloned.contains(&"later".to_owned()), "{cloned:?}");
}

#[tokio::test]
async fn source_snapshot_and_copies_outlive_each_other() {
    let place = Place::new();
    let file_system = place.filled("v").await;
    let snapshot = place.volumes.create_snapshot(&place.snapshot("s", "v")).await.expect("taken");
    let restored = place.volumes.create(&place.restored("r", 0, &of_snapshot("s"))).await.expect("restored").id;
    place.delete(&VolumeId::parse("v").expect("right")).await;
    assert_eq!(place.volumes.create_snapshot(&place.snapshot("s", "v")).await.expect("still there"), snapshot);
    let second = place.volumes.create(&place.restored("r2", 0, &of_snapshot("s"))).await.expect("restored").id;
    place.delete(&second).await;
    for _repeat in 0..2 {
        place.volumes.delete_snapshot(&snapshot.id, &place.secrets()).await.expect("deleted");
    }
    assert_eq!(names(&file_system, "/r/d").await.len(), FILES);
    assert_eq!(blocks(&file_system).await, FILES, "what a copy refers to stays");
    assert!(names(&file_system, "/.stead/snapshots").await.is_empty());
    assert!(names(&file_system, "/.stead/snapshot-records").await.is_empty());
    place.volumes.create(&place.restored("r", 0, &of_snapshot("s"))).await.expect("a late repeat needs no source");
    place.delete(&restored).await;
    assert_eq!(blocks(&file_system).await, 0, "the last one takes the data along");
}

#[tokio::test]
async fn a_repeat_finds_the_snapshot_and_other_sources_are_refused() {
    let place = Place::new();
    place.filled("v").await;
    place.volumes.create(&place.request("other", 0, &[])).await.expect("created");
    let first = place.volumes.create_snapshot(&place.snapshot("s", "v")).await.expect("taken");
    assert_eq!(place.volumes.create_snapshot(&place.snapshot("s", "v")).await.expect("found"), first);
    let error = place.volumes.create_snapshot(&place.snapshot("s", "other")).await.expect_err("another volume");
    assert_eq!(error.kind(), Kind::Exists, "{error}");
    place.volumes.create(&place.restored("r", 0, &of_snapshot("s"))).await.expect("restored");
    for request in [place.restored("r", 0, &of_volume("v")), place.request("r", 0, &[])] {
        let error = place.volumes.create(&request).await.expect_err("another source");
        assert!(error.kind() == Kind::Exists && error.to_string().contains("content source"), "{error}");
    }
}

#[tokio::test]
async fn sources_that_are_missing_too_large_or_elsewhere_are_refused() {
    let place = Place::new();
    let error = place.volumes.create_snapshot(&place.snapshot("s", "v")).await.expect_err("no file system yet");
    assert_eq!(error.kind(), Kind::NotFound, "{error}");
    let file_system = place.filled("v").await;
    place.volumes.create_snapshot(&place.snapshot("s", "v")).await.expect("taken");
    let own = [("provisioning", "filesystem")];
    let into_own = VolumeRequest { source: Some(of_snapshot("s")), ..place.request("own", 0, &own) };
    let few = VolumeRequest { source: Some(of_volume("v")), ..place.request("few", 0, &[("inodes", "5")]) };
    for (request, kind, why) in [
        (place.restored("r", 0, &of_snapshot("no")), Kind::NotFound, "snapshot no does not exist"),
        (place.restored("r", 0, &of_volume("no")), Kind::NotFound, "volume no does not exist"),
        (place.restored("r", 4096, &of_snapshot("s")), Kind::OutOfRange, "snapshot s holds"),
        (place.restored("r", 4096, &of_volume("v")), Kind::OutOfRange, "volume v holds"),
        (few, Kind::OutOfRange, "inodes"),
        (into_own, Kind::Invalid, "directory"),
        (place.restored("r", 0, &of_volume("fs@file@own")), Kind::Invalid, "directory"),
    ] {
        let error = place.volumes.create(&request).await.expect_err(why);
        assert!(error.kind() == kind && error.to_string().contains(why), "{why}: {error}");
    }
    let error = place.volumes.create_snapshot(&place.snapshot("s2", "fs@file@own")).await.expect_err("not supported");
    assert_eq!(error.kind(), Kind::Invalid, "{error}");
    assert_eq!(names(&file_system, "/.stead/volumes").await, ["v"], "nothing was claimed");
    place.volumes.create(&place.restored("r", 1 << 20, &of_snapshot("s"))).await.expect("the name is free");
}

/// Clones half of a tree for a record, and dies.
async fn dies_cloning(file_system: &FileSystem, from: &str, (parent, name): (&str, &'static str)) -> u64 {
    let meta = Arc::clone(&file_system.meta);
    let (from, _) = meta.resolve_path(from).await.expect("there");
    let parent = meta.make_dirs(parent, 0o700, 0, 0).await.expect("made");
    let top = meta.clone_top().await.expect("a number");
    let half = tokio::spawn(async move {
        let dies = |count| if count > 60 { panic!("dies") } else { ControlFlow::Continue(()) };
        let options = CloneOptions::default();
        meta.clone_tree_as(top, &Caller::root(), from, (parent, name.as_bytes()), options, &dies).await.map(|_| ())
    });
    half.await.expect_err("died");
    top.0
}

async fn inodes(file_system: &FileSystem) -> u64 {
    file_system.meta.statfs(Ino::ROOT).await.expect("readable").iused
}

#[tokio::test]
async fn a_snapshot_that_was_interrupted_is_taken_again_or_deleted_and_leaves_nothing() {
    let place = Place::new();
    let file_system = place.filled("v").await;
    let (records, id) = (Records::of_snapshots(&file_system.meta), SnapshotId::parse("s").expect("right"));
    let secrets = place.secrets();
    // With the directory of what is deleted.
    place.volumes.create_snapshot(&place.snapshot("s", "v")).await.expect("taken");
    place.volumes.delete_snapshot(&id, &secrets).await.expect("deleted");
    place.volumes.create_snapshot(&place.snapshot("s", "v")).await.expect("taken");
    let complete = inodes(&file_system).await;
    let ready = records.find(&id).await.expect("readable").expect("there");
    for deleted in [false, true] {
        place.volumes.delete_snapshot(&id, &secrets).await.expect("deleted");
        let top = dies_cloning(&file_system, "/v", ("/.stead/snapshots", "s")).await;
        let half = SnapshotRecord { state: State::Creating, cloning: Some(top), ..ready.clone() };
        records.claim(&id, &half).await.expect("claimed");
        let error = place.volumes.create(&place.restored("r", 0, &of_snapshot("s"))).await.expect_err("incomplete");
        assert_eq!(error.kind(), Kind::Busy, "{error}");
        if deleted {
            place.volumes.delete_snapshot(&id, &secrets).await.expect("deleted");
        }
        place.volumes.create_snapshot(&place.snapshot("s", "v")).await.expect("taken again");
        assert_eq!(inodes(&file_system).await, complete, "nothing is left of the first attempt");
    }
    // A death after the clone got its name, before the record said so.
    records.replace(&id, &SnapshotRecord { state: State::Creating, size: 0, ..ready.clone() }).await.expect("there");
    let snapshot = place.volumes.create_snapshot(&place.snapshot("s", "v")).await.expect("finished");
    assert_eq!((snapshot.size, snapshot.created), (SIZE, ready.created));
}

#[tokio::test]
async fn a_volume_whose_clone_was_interrupted_is_finished_by_a_repeat_or_forgotten() {
    let place = Place::new();
    let file_system = place.filled("v").await;
    let before = inodes(&file_system).await;
    let request = place.restored("r", 1 << 20, &of_volume("v"));
    let (records, id) = (Records::of(&file_system.meta), VolumeId::parse("r").expect("right"));
    let interrupt = async || {
        let top = dies_cloning(&file_system, "/v", ("/", "r")).await;
        let half = Record { cloning: Some(top), ..request.record(Some(("r".to_owned(), false))) };
        records.claim(&id, &half).await.expect("claimed");
    };
    interrupt().await;
    place.volumes.create(&request).await.expect("finished");
    assert_eq!(names(&file_system, "/r/d").await.len(), FILES);
    place.delete(&id).await;
    assert_eq!(inodes(&file_system).await, before + 1, "but for the directory of what is deleted");
    interrupt().await;
    place.delete(&id).await;
    assert_eq!(inodes(&file_system).await, before + 1);
    interrupt().await;
    place.delete(&VolumeId::parse("v").expect("right")).await;
    let error = place.volumes.create(&request).await.expect_err("the source is gone");
    assert_eq!(error.kind(), Kind::NotFound, "{error}");
    assert!(names(&file_system, "/.stead/volumes").await.is_empty());
    place.volumes.create(&place.request("r", 0, &[])).await.expect("the name is free");
    assert!(names(&file_system, "/r").await.is_empty());
}

#[tokio::test]
async fn a_clone_never_takes_over_a_directory_that_is_there() {
    let place = Place::new();
    let file_system = place.filled("v").await;
    let shared = [("pathPattern", "team/data")];
    place.volumes.create(&place.request("one", 0, &shared)).await.expect("created");
    let source = Some(of_volume("v"));
    let into_shared = VolumeRequest { source: source.clone(), ..place.request("two", 0, &shared) };
    let error = place.volumes.create(&into_shared).await.expect_err("its content would be lost");
    assert_eq!(error.kind(), Kind::Precondition, "{error}");
    let below = VolumeRequest { source, ..place.request("three", 0, &[("pathPattern", "team/copy")]) };
    place.volumes.create(&below).await.expect("a directory of its own");
    assert_eq!(names(&file_system, "/team/copy/d").await.len(), FILES);
}
