//! Groups of snapshots: of one moment, deleted as one, and what a crash leaves.

use std::sync::atomic::{AtomicU32, Ordering};

use super::*;
use crate::configured::Named;
use crate::names::{GroupId, SnapshotId};
use crate::record::{GroupRecord, SnapshotRecord};

impl Place {
    fn group(&self, name: &str, volumes: &[&str]) -> GroupRequest {
        let volumes = volumes.iter().map(|id| VolumeId::parse(id).expect("right")).collect();
        GroupRequest { name: name.to_owned(), volumes, secrets: self.secrets() }
    }

    fn named(&self) -> [Named; 1] {
        [Named { name: "fs".to_owned(), secrets: self.secrets() }]
    }
}

fn id(name: &str) -> GroupId {
    GroupId::parse(name).expect("right")
}

fn member(name: &str) -> SnapshotId {
    SnapshotId::parse(name).expect("right")
}

async fn nothing_is_left(file_system: &FileSystem) {
    for dir in ["group-records", "snapshot-records", "snapshots"] {
        assert!(names(file_system, &format!("/.stead/{dir}")).await.is_empty(), "{dir}");
    }
}

#[tokio::test]
async fn a_group_lives_and_goes_as_one() {
    let place = Place::new();
    let file_system = place.filled("v").await;
    place.volumes.create(&place.request("w", 0, &[])).await.expect("created");
    let group = place.volumes.create_group(&place.group("g", &["w", "v"])).await.expect("taken");
    let described: Vec<_> = group.snapshots.iter().map(|one| (one.id.as_str(), one.volume.as_str())).collect();
    assert_eq!(described, [("g@0", "v"), ("g@1", "w")]);
    assert!(group.snapshots.iter().all(|one| one.ready && one.group == Some(id("g"))));
    assert_eq!(place.volumes.create_group(&place.group("g", &["v", "w"])).await.expect("found"), group);
    let error = place.volumes.create_group(&place.group("g", &["v"])).await.expect_err("others");
    assert!(error.kind() == Kind::Exists && error.to_string().contains("source volumes"), "{error}");

    let restored = VolumeRequest { source: Some(Source::Snapshot(member("g@0"))), ..place.request("r", 0, &[]) };
    place.volumes.create(&restored).await.expect("restored");
    let error = place.volumes.delete_snapshot(&member("g@0"), &place.secrets()).await.expect_err("not alone");
    assert!(error.kind() == Kind::Invalid && error.to_string().contains("group snapshot g"), "{error}");

    let found = place.volumes.find_group(&id("g"), &[member("g@1"), member("g@0")], &place.named()).await;
    assert_eq!(found.expect("there"), group);
    let (other, secrets) = ([member("g@0")], place.secrets());
    let error = place.volumes.find_group(&id("g"), &other, &place.named()).await.expect_err("another list");
    assert_eq!(error.kind(), Kind::Invalid, "{error}");
    let error = place.volumes.delete_group(&id("g"), &other, &secrets).await.expect_err("another list");
    assert!(error.kind() == Kind::Invalid && error.to_string().contains("g@0, g@1"), "{error}");

    for _repeat in 0..2 {
        place.volumes.delete_group(&id("g"), &[], &secrets).await.expect("deleted");
    }
    nothing_is_left(&file_system).await;
    let error = place.volumes.find_group(&id("g"), &[], &place.named()).await.expect_err("gone");
    assert_eq!(error.kind(), Kind::NotFound, "{error}");
    assert!(!names(&file_system, "/r/d").await.is_empty(), "what was made of it stays");
}

#[tokio::test]
async fn volumes_that_cannot_be_in_a_group_are_refused_and_leave_nothing() {
    let place = Place::new();
    let error = place.volumes.create_group(&place.group("g", &["v"])).await.expect_err("no file system yet");
    assert_eq!(error.kind(), Kind::NotFound, "{error}");
    let file_system = place.filled("v").await;
    for (volumes, kind, named) in [
        (["v", "unknown"], Kind::NotFound, "volume unknown"),
        (["v", "fs@file@own"], Kind::Precondition, "volume fs@file@own cannot be in a group"),
        (["v", "fs@nonsense"], Kind::NotFound, "fs@nonsense"),
    ] {
        let error = place.volumes.create_group(&place.group("g", &volumes)).await.expect_err(named);
        assert!(error.kind() == kind && error.to_string().contains(named), "{named}: {error}");
    }
    assert!(!names(&file_system, "/.stead").await.contains(&"group-records".to_owned()), "nothing was claimed");
}

#[tokio::test]
async fn an_interrupted_group_is_taken_anew_as_a_whole_or_deleted() {
    let place = Place::new();
    let file_system = place.filled("v").await;
    place.volumes.create(&place.request("w", 0, &[])).await.expect("created");
    let request = place.group("g", &["v", "w"]);
    let groups = Records::of_groups(&file_system.meta);
    for deleted in [false, true] {
        let old = place.volumes.create_group(&request).await.expect("taken");
        // A death when one of two was taken; and then the volume changed.
        let half =
            GroupRecord { state: State::Creating, ..groups.find(&id("g")).await.expect("readable").expect("there") };
        groups.replace(&id("g"), &half).await.expect("there");
        delete_member(&file_system, "g@1").await;
        let (dir, _) = file_system.meta.resolve_path("/v/d").await.expect("there");
        file_system
            .meta
            .mkdir(&Caller::root(), dir, format!("later-{deleted}").as_bytes(), 0o700, 0)
            .await
            .expect("new");
        let error = place.volumes.find_group(&id("g"), &[], &place.named()).await.expect_err("not all there");
        assert_eq!(error.kind(), Kind::Busy, "{error}");
        if deleted {
            place.volumes.delete_group(&id("g"), &[], &place.secrets()).await.expect("deleted");
            nothing_is_left(&file_system).await;
        }
        let new = place.volumes.create_group(&request).await.expect("taken again");
        assert!(new.created > old.created && new.snapshots.len() == 2);
        let content = names(&file_system, "/.stead/snapshots/g@0/d").await;
        assert!(content.contains(&format!("later-{deleted}")), "not the one of another moment: {content:?}");
    }
    // A death in the middle of a deletion.
    let half = GroupRecord { state: State::Deleting, ..groups.find(&id("g")).await.expect("readable").expect("there") };
    groups.replace(&id("g"), &half).await.expect("there");
    delete_member(&file_system, "g@0").await;
    let error = place.volumes.create_group(&request).await.expect_err("it goes");
    assert_eq!(error.kind(), Kind::Busy, "{error}");
    place.volumes.delete_group(&id("g"), &[member("g@0"), member("g@1")], &place.secrets()).await.expect("deleted");
    nothing_is_left(&file_system).await;
}

async fn delete_member(file_system: &FileSystem, name: &str) {
    crate::provision::snapshot::delete(&member(name), &file_system.meta).await.expect("deleted");
}

#[tokio::test]
async fn a_member_never_takes_the_place_of_a_snapshot_of_other_making() {
    let place = Place::new();
    let file_system = place.filled("v").await;
    let volume = VolumeId::parse("v").expect("right");
    let alone = SnapshotRequest { name: "g@0".to_owned(), volume, secrets: place.secrets() };
    let snapshot = place.volumes.create_snapshot(&alone).await.expect("taken");
    let error = place.volumes.create_group(&place.group("g", &["v"])).await.expect_err("the name is taken");
    assert!(error.kind() == Kind::Exists && error.to_string().contains("another group"), "{error}");
    assert!(names(&file_system, "/.stead/group-records").await.is_empty());
    assert_eq!(place.volumes.create_snapshot(&alone).await.expect("still there"), snapshot);
    place.volumes.delete_snapshot(&snapshot.id, &place.secrets()).await.expect("deleted");
    let record: Option<SnapshotRecord> =
        Records::of_snapshots(&file_system.meta).find(&snapshot.id).await.expect("readable");
    assert_eq!(record, None);
}

/// A clock that, told to, makes somebody write between the first member and the second.
#[derive(Debug)]
struct Interrupting {
    file_system: Arc<stead_meta::Meta>,
    left: AtomicU32,
}

impl Clock for Interrupting {
    fn now(&self) -> stead_base::Timestamp {
        if self.left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1)).is_ok() {
            let (meta, nth) = (Arc::clone(&self.file_system), self.left.load(Ordering::Relaxed));
            let write = async move {
                let (dir, _) = meta.resolve_path("/v").await.expect("there");
                meta.mkdir(&Caller::root(), dir, format!("new{nth}").as_bytes(), 0o700, 0).await.expect("new");
            };
            std::thread::scope(|scope| {
                let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
                scope.spawn(move || runtime.block_on(write));
            });
        }
        SystemClock.now()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_group_is_of_one_moment_or_not_there() {
    let place = Place::new();
    let file_system = place.filled("v").await;
    place.volumes.create(&place.request("w", 0, &[])).await.expect("created");
    for (writes, succeeds) in [(12, true), (100_000, false)] {
        let clock = Interrupting { file_system: Arc::clone(&file_system.meta), left: AtomicU32::new(writes) };
        let result = Volumes::new(Arc::new(clock)).create_group(&place.group("g", &["v", "w"])).await;
        match result {
            Ok(_) => {
                assert!(succeeds, "somebody wrote all the time");
                let (volume, cloned) =
                    (names(&file_system, "/v").await, names(&file_system, "/.stead/snapshots/g@0").await);
                assert_eq!(volume, cloned);
                place.volumes.delete_group(&id("g"), &[], &place.secrets()).await.expect("deleted");
            }
            Err(error) => {
                assert!(!succeeds && error.kind() == Kind::Unavailable, "{error}");
                assert!(error.to_string().contains("written to"), "{error}");
            }
        }
        nothing_is_left(&file_system).await;
    }
}
