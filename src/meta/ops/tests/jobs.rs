use super::*;
use crate::records::{Job, Key, Record, Write};

#[tokio::test]
async fn a_session_tells_who_it_is() {
    let v = Volume::plain().await;
    let sid = v.session();
    assert_eq!(sid, SessionId(1));
    let found = v.store.list_sessions().await.expect("listed").remove(0);
    assert_eq!(found.expire, START + 60, "five heartbeats");
    let info: serde_json::Value = serde_json::from_slice(&found.info).expect("JSON");
    assert_eq!(info["MountTime"], "2026-01-02T03:04:05.000000000Z");
    assert_eq!(info["HostName"], "localhost");
    assert_eq!(info["ProcessID"], std::process::id());
    assert!(info["Version"].as_str().is_some_and(|version| version.starts_with("1.4.0+")));

    v.clock.advance(Duration::from_secs(12));
    v.store.clean_session(sid).await.expect("wrongly removed");
    v.beat().await;
    let found = v.store.list_sessions().await.expect("listed").remove(0);
    assert_eq!((found.sid, found.expire), (sid, START + 72), "the heartbeat brings it back");
    assert!(!found.info.is_empty());
    v.close_session().await.expect("closed");
    assert!(v.store.list_sessions().await.expect("listed").is_empty());
}

#[tokio::test]
async fn a_dead_session_is_cleaned_by_another_client() {
    let v = Volume::plain().await;
    let ino = v.filled(ROOT, "f", 10).await;
    v.meta.open(&root(), ino, 0).await.expect("opened");
    v.unlink(&root(), ROOT, b"f").await.expect("unlinked");
    let other = v.second().await;
    other.start_session().await.expect("starts");
    v.clock.advance(Duration::from_secs(60));
    other.beat().await;
    assert_eq!(v.store.list_sessions().await.expect("listed").len(), 2, "not yet stale");
    v.clock.advance(Duration::from_secs(11));
    other.beat().await;
    let left: Vec<SessionId> =
        v.store.list_sessions().await.expect("listed").into_iter().map(|session| session.sid).collect();
    assert_eq!(left, [other.session()]);
    refused!(other.getattr(ino).await, Error::NoInode { .. });
    other.settle().await;
    assert_eq!(other.removed.slices.lock().len(), 1, "with its data");
    other.audit().await;
}

#[tokio::test]
async fn closing_the_session_removes_what_it_kept() {
    let v = Volume::plain().await;
    let ino = v.filled(ROOT, "f", 10).await;
    v.meta.open(&root(), ino, 0).await.expect("opened");
    v.unlink(&root(), ROOT, b"f").await.expect("unlinked");
    v.close_session().await.expect("closed");
    refused!(v.getattr(ino).await, Error::NoInode { .. });
    assert_eq!(v.session(), SessionId::NONE);
    v.audit().await;
}

#[tokio::test]
async fn a_job_runs_once_an_hour() {
    let v = Volume::plain().await;
    v.transact(|txn| {
        txn.write(Write::NewSlice(SliceId(7), 10));
        txn.write(Write::AddSliceRef(SliceId(7), 10, -1));
        Ok(())
    })
    .await
    .expect("a slice nobody refers to");
    v.removed.fails.store(true, Ordering::Relaxed);
    assert_eq!(v.run_job(Job::CleanupSlices).await.expect("runs"), 1);
    assert_eq!(v.run_job(Job::CleanupSlices).await.expect("too early"), 0);
    v.removed.fails.store(false, Ordering::Relaxed);
    v.clock.advance(Duration::from_secs(54 * 60));
    assert_eq!(v.run_job(Job::CleanupSlices).await.expect("runs"), 1);
    assert_eq!(*v.removed.slices.lock(), [(SliceId(7), 10)]);
}

#[tokio::test]
async fn old_deleted_files_are_finished() {
    let v = Volume::plain().await;
    let ino = v.filled(ROOT, "f", 10).await;
    *v.meta.remover.write() = None;
    v.unlink(&root(), ROOT, b"f").await.expect("unlinked by a tool that cannot remove data");
    v.settle().await;
    assert!(matches!(v.read_one(Key::Deleted(ino, 10)).await, Ok(Some(Record::Present))));
    let other = v.second().await;
    assert_eq!(other.run_job(Job::CleanupFiles).await.expect("runs"), 0, "too young");
    v.clock.advance(Duration::from_secs(3600));
    assert_eq!(other.run_job(Job::CleanupFiles).await.expect("runs"), 1);
    assert_eq!(*other.removed.slices.lock(), [(SliceId(1), 10)]);
    assert!(v.store.snapshot().deleted.is_empty());
}

#[tokio::test]
async fn the_trash_expires() {
    let v = Volume::with_trash().await;
    let dir = v.dir(ROOT, "d").await;
    v.filled(dir, "f", 10).await;
    v.unlink(&root(), dir, b"f").await.expect("unlinked");
    v.rmdir(&root(), ROOT, b"d").await.expect("removed");
    // The hour began at 03:00; it is kept for 24 + 2 hours after that.
    v.clock.advance(Duration::from_secs(26 * 3600 - 300));
    assert_eq!(v.run_job(Job::CleanupTrash).await.expect("runs"), 0);
    v.clock.advance(Duration::from_secs(3600));
    assert_eq!(v.run_job(Job::CleanupTrash).await.expect("runs"), 3);
    assert!(v.names(Ino::TRASH).await.is_empty());
    v.settle().await;
    assert_eq!(v.removed.slices.lock().len(), 1);
    let state = v.store.snapshot();
    assert_eq!(state.attrs.len(), 2, "the roots");
    assert!(state.deleted.is_empty());
    v.audit().await;
}

#[tokio::test]
async fn slices_that_a_compaction_replaced_wait_for_the_trash() {
    let v = Volume::with_trash().await;
    let now = v.clock.now().secs;
    v.transact(move |txn| {
        txn.write(Write::NewSlice(SliceId(1), 10));
        txn.write(Write::NewSlice(SliceId(2), 20));
        txn.write(Write::AddSliceRef(SliceId(2), 20, 1));
        txn.write(Write::AddDelayedSlices(SliceId(3), now, vec![(SliceId(1), 10), (SliceId(2), 20)]));
        Ok(())
    })
    .await
    .expect("compacted");
    v.clock.advance(Duration::from_secs(86_400));
    assert_eq!(v.run_job(Job::CleanupTrash).await.expect("runs"), 0, "a day, not more");
    v.clock.advance(Duration::from_secs(3600));
    assert_eq!(v.run_job(Job::CleanupTrash).await.expect("runs"), 1);
    assert_eq!(*v.removed.slices.lock(), [(SliceId(1), 10)]);
    assert_eq!(v.store.snapshot().slice_refs.get(&(SliceId(2), 20)), Some(&1));
}

#[tokio::test]
async fn missing_statistics_are_recomputed() {
    let v = Volume::plain().await;
    let dir = v.dir(ROOT, "d").await;
    v.filled(dir, "f", 5000).await;
    v.transact(move |txn| {
        txn.write(Write::DelDirStat(dir));
        Ok(())
    })
    .await
    .expect("as the Go client leaves it");
    let other = v.second().await;
    other.file(dir, "g").await;
    other.settle().await;
    v.audit().await;
}

#[tokio::test(start_paused = true)]
async fn the_background_beats_and_stops() {
    let v = Volume::plain().await;
    v.meta.start_background();
    v.clock.advance(Duration::from_secs(12));
    tokio::time::sleep(Duration::from_secs(13)).await;
    let found = v.store.list_sessions().await.expect("listed").remove(0);
    assert_eq!(found.expire, START + 72);
    v.drain().await;
    v.close_session().await.expect("closed");
}

#[tokio::test]
async fn finished_deletions_leave_nothing() {
    let v = Volume::plain().await;
    v.removed.fails.store(true, Ordering::Relaxed);
    for name in ["a", "b", "c"] {
        v.filled(ROOT, name, 100).await;
        v.unlink(&root(), ROOT, name.as_bytes()).await.expect("unlinked");
    }
    assert_eq!(v.finish_deletions(&Default::default()).await.expect("tried"), 3, "the store is away");
    v.removed.fails.store(false, Ordering::Relaxed);
    assert_eq!(v.finish_deletions(&Default::default()).await.expect("done"), 0);
    assert_eq!(v.removed.slices.lock().len(), 3);
    let state = v.store.snapshot();
    assert!(state.deleted.is_empty() && state.slice_refs.is_empty() && state.chunks.is_empty());
}
