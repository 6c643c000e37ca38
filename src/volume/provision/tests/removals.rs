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

#[tokio::test]
async fn a_file_system_of_its_own_is_removed_after_a_restart() {
    let place = Place::new();
    let request = place.request("own", 1 << 20, &[("provisioning", "filesystem")]);
    let id = place.volumes.create(&request).await.expect("created").id;
    let secrets = place.secrets();
    let dead = stuck().await;
    for _repeat in 0..2 {
        dead.delete(&id, &secrets).await.expect("gone for everybody");
    }
    assert!(place.objects("own").join("juicefs_uuid").exists(), "its data is still there");
    for error in
        [dead.find(&id, &secrets).await.expect_err("it goes"), dead.create(&request).await.expect_err("it goes")]
    {
        assert_eq!(error.kind(), Kind::Busy, "{error}");
    }
    // The same bucket, with another engine that knows nothing of the volume.
    let elsewhere = format!("sqlite3://{}", place.dir.path().join("elsewhere").join("meta.db").display());
    let other = place.secrets_with(&[("metaurl", elsewhere)]);
    Volumes::new(Arc::new(SystemClock)).resume_deletions(&[Named { name: "b".to_owned(), secrets: other }]).await;
    assert_eq!(notes(&place), 1, "not for it to decide");

    let next = Volumes::new(Arc::new(SystemClock));
    next.resume_deletions(&[Named { name: "fs".to_owned(), secrets: place.secrets() }]).await;
    assert!(!place.dir.path().join("own.db").exists() && !place.objects("own").join("juicefs_uuid").exists());
    assert_eq!(notes(&place), 0);
    next.create(&request).await.expect("the name is free");
}

#[tokio::test]
async fn without_configuration_the_next_file_system_of_its_own_goes_on() {
    let place = Place::new();
    let own = |name: &str| place.request(name, 1 << 20, &[("provisioning", "filesystem")]);
    let id = place.volumes.create(&own("one")).await.expect("created").id;
    stuck().await.delete(&id, &place.secrets()).await.expect("gone for everybody");
    Volumes::new(Arc::new(SystemClock)).create(&own("two")).await.expect("created");
    for _ in 0..500 {
        if notes(&place) == 0 {
            assert!(!place.dir.path().join("one.db").exists() && place.dir.path().join("two.db").exists());
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("nobody went on");
}

#[tokio::test]
async fn a_note_that_came_too_late_harms_no_volume() {
    let place = Place::new();
    let request = place.request("own", 1 << 20, &[("provisioning", "filesystem")]);
    let id = place.volumes.create(&request).await.expect("created").id;
    stuck().await.delete(&id, &place.secrets()).await.expect("gone for everybody");
    let dir = place.objects(".stead-deleting");
    let note = std::fs::read_dir(&dir).expect("there").next().expect("one").expect("readable").path();
    let content = std::fs::read(&note).expect("readable");
    let resumed = [Named { name: "fs".to_owned(), secrets: place.secrets() }];
    Volumes::new(Arc::new(SystemClock)).resume_deletions(&resumed).await;
    place.volumes.create(&request).await.expect("a new one of the same name");
    // A death before the note was removed.
    std::fs::create_dir_all(&dir).expect("there");
    std::fs::write(&note, content).expect("written");
    Volumes::new(Arc::new(SystemClock)).resume_deletions(&resumed).await;
    assert_eq!(notes(&place), 0);
    place.volumes.find(&id, &place.secrets()).await.expect("it stays");
    let uuid = place.file_system(id.as_str()).await.meta.format().uuid.clone();
    // One that is wrong altogether.
    std::fs::create_dir_all(&dir).expect("there");
    let wrong = format!(r#"{{"volume":"{id}","engine":"sqlite3://{}"}}"#, place.dir.path().join("own.db").display());
    std::fs::write(dir.join(uuid), wrong).expect("written");
    std::fs::write(dir.join("nonsense"), "no JSON").expect("written");
    Volumes::new(Arc::new(SystemClock)).resume_deletions(&resumed).await;
    place.volumes.find(&id, &place.secrets()).await.expect("its record does not say so");
}

fn notes(place: &Place) -> usize {
    std::fs::read_dir(place.objects(".stead-deleting")).map_or(0, Iterator::count)
}
