//! Deletions whose removal takes longer than anybody waits, and is cut short.

use std::time::Duration;

use super::snapshots::{FILES, blocks};
use super::*;
use crate::configured::Named;

/// A controller that does not get to removing anything.
async fn stuck() -> Volumes {
    let mut volumes = Volumes::new(Arc::new(SystemClock));
    volumes.removals.patience = Duration::ZERO;
    let turns = u32::try_from(volumes.removals.turns.available_permits()).expect("few");
    volumes.removals.turns.acquire_many(turns).await.expect("open").forget();
    volumes
}

async fn waiting(file_system: &FileSystem) -> usize {
    names(file_system, "/.stead/deleting").await.len()
}

async fn until_removed(file_system: &FileSystem) {
    for _ in 0..500 {
        if waiting(file_system).await == 0 && blocks(file_system).await == 0 {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("{} trees and {} blocks are left", waiting(file_system).await, blocks(file_system).await);
}

#[tokio::test]
async fn a_large_volume_is_gone_at_once_and_removed_after_a_restart() {
    let place = Place::new();
    let file_system = place.filled("v").await;
    let (dead, secrets, id) = (stuck().await, place.secrets(), VolumeId::parse("v").expect("right"));
    for _repeat in 0..2 {
        dead.delete(&id, &secrets).await.expect("gone for everybody");
    }
    assert_eq!((waiting(&file_system).await, blocks(&file_system).await), (1, FILES));
    assert_eq!(place.volumes.find(&id, &secrets).await.expect_err("gone").kind(), Kind::NotFound);
    // The name is free, as often as it is wanted.
    dead.create(&place.request("v", 4096, &[])).await.expect("as new");
    dead.delete(&id, &secrets).await.expect("gone for everybody");
    dead.create(&place.request("v", 4096, &[])).await.expect("as new");
    assert!(names(&file_system, "/v").await.is_empty());
    assert_eq!(waiting(&file_system).await, 2);

    let next = Volumes::new(Arc::new(SystemClock));
    next.resume_deletions(&[Named { name: "fs".to_owned(), secrets: place.secrets() }]).await;
    assert_eq!((waiting(&file_system).await, blocks(&file_system).await), (0, 0));
    next.find(&id, &secrets).await.expect("the new one is not touched");
}

#[tokio::test]
async fn without_configuration_the_next_call_goes_on() {
    type Call = fn(Volumes, VolumeRequest) -> std::pin::Pin<Box<dyn Future<Output = Result<()>>>>;
    let create: Call = |next, request| Box::pin(async move { next.create(&request).await.map(|_| ()) });
    let delete: Call = |next, request| {
        Box::pin(async move { next.delete(&VolumeId::parse("unknown").expect("right"), &request.secrets).await })
    };
    for call in [create, delete] {
        let place = Place::new();
        let file_system = place.filled("v").await;
        stuck().await.delete(&VolumeId::parse("v").expect("right"), &place.secrets()).await.expect("gone");
        call(Volumes::new(Arc::new(SystemClock)), place.request("w", 0, &[])).await.expect("works");
        until_removed(&file_system).await;
    }
}

#[tokio::test]
async fn a_crash_before_the_record_is_removed_is_finished_by_a_repeat() {
    let place = Place::new();
    let file_system = place.filled("v").await;
    let (meta, id) = (&file_system.meta, VolumeId::parse("v").expect("right"));
    let records = Records::of(meta);
    let record = records.find(&id).await.expect("readable").expect("there");
    records.replace(&id, &Record { state: State::Deleting, ..record }).await.expect("there");
    removal::put_aside(meta, Ino::ROOT, b"v").await.expect("moved").expect("there");
    Volumes::new(Arc::new(SystemClock)).delete(&id, &place.secrets()).await.expect("finished");
    assert!(names(&file_system, "/.stead/volumes").await.is_empty());
    until_removed(&file_system).await;
}

#[tokio::test]
async fn a_large_snapshot_is_gone_at_once_too() {
    let place = Place::new();
    let file_system = place.filled("v").await;
    let volume = VolumeId::parse("v").expect("right");
    let request = SnapshotRequest { name: "s".to_owned(), volume: volume.clone(), secrets: place.secrets() };
    let (dead, secrets) = (stuck().await, place.secrets());
    let snapshot = dead.create_snapshot(&request).await.expect("taken").id;
    dead.delete_snapshot(&snapshot, &secrets).await.expect("gone for everybody");
    dead.delete(&volume, &secrets).await.expect("gone for everybody");
    assert_eq!((waiting(&file_system).await, names(&file_system, "/.stead/snapshots").await.len()), (2, 0));
    let next = Volumes::new(Arc::new(SystemClock));
    next.resume_deletions(&[Named { name: "fs".to_owned(), secrets }]).await;
    assert_eq!((waiting(&file_system).await, blocks(&file_system).await), (0, 0));
}
