//! Blocks that wait on the local disk.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;

use stead_base::SystemClock;

use super::*;
use crate::Writeback;

fn staging(dir: &Path, delay: Duration, threshold: u64) -> ChunkConfig {
    let writeback = Writeback { threshold, delay, hours: None, clock: Arc::new(SystemClock) };
    ChunkConfig { writeback: Some(writeback), ..on_disk(dir) }
}

fn now(dir: &Path) -> ChunkConfig {
    staging(dir, Duration::ZERO, 0)
}

fn later(dir: &Path) -> ChunkConfig {
    staging(dir, Duration::from_secs(3600), 0)
}

fn file(dir: &Path, kind: &str, id: u64, len: u32) -> PathBuf {
    dir.join(UUID).join(kind).join(format!("chunks/0/0/{id}_0_{len}"))
}

fn staged(dir: &Path, id: u64, len: u32) -> PathBuf {
    file(dir, "rawstaging", id, len)
}

#[tokio::test]
async fn a_block_is_on_the_disk_before_it_is_reported() {
    let (dir, objects) = (tempfile::tempdir().unwrap(), Arc::new(FakeStore::default()));
    let store = open(later(dir.path()), &objects);
    put(&store, 1, b"hello world\n").await;
    put(&store, 2, &pattern(2, BLOCK)).await;
    assert_eq!(fs::read(staged(dir.path(), 1, 12)).unwrap(), b"hello world\n\xF0\xFF\x72\x92");
    assert_eq!(fs::metadata(file(dir.path(), "raw", 2, BLOCK)).unwrap().nlink(), 2, "a link, as the Go client has it");
    store.sync().await.unwrap();
    assert_eq!(objects.puts.load(Ordering::SeqCst), 0);
    let usage = store.usage();
    assert_eq!((usage.staging_blocks, usage.staging_block_bytes), (2, u64::from(BLOCK) + 12));
    assert_eq!(usage.staging_write_bytes, u64::from(BLOCK) + 12);
}

#[tokio::test]
async fn staged_blocks_are_uploaded_and_stay_cached() {
    let (dir, objects) = (tempfile::tempdir().unwrap(), Arc::new(FakeStore::default()));
    let store = open(now(dir.path()), &objects);
    for id in 1..=5 {
        put(&store, id, &pattern(id, 1000)).await;
    }
    eventually("the upload", || store.usage().staging_blocks == 0).await;
    eventually("the clean-up", || (1..=5).all(|id| !staged(dir.path(), id, 1000).exists())).await;
    assert_eq!(objects.keys().len(), 5);
    assert!(objects.syncs.load(Ordering::SeqCst) > 0, "durable before the staged file goes");
    assert!(file(dir.path(), "raw", 3, 1000).exists());
}

#[tokio::test]
async fn what_a_dead_process_staged_is_read_and_uploaded_by_the_next_in_order() {
    let (dir, objects) = (tempfile::tempdir().unwrap(), Arc::new(FakeStore::default()));
    let store = open(later(dir.path()), &objects);
    for id in [30, 1, 2] {
        put(&store, id, &pattern(id, 1000)).await;
    }
    drop(store);
    fs::remove_file(file(dir.path(), "raw", 2, 1000)).unwrap();
    objects.close_gate();
    // Staging is off now; what is there has been promised all the same.
    let store = open(ChunkConfig { max_uploads: 1, ..on_disk(dir.path()) }, &objects);
    for id in [1, 2, 30] {
        assert_eq!(store.read(SliceId(id), 1000, 0, 1000).await.unwrap(), pattern(id, 1000), "the store is away");
    }
    eventually("the first upload", || objects.running.load(Ordering::SeqCst) == 1).await;
    assert_eq!(store.usage().staging_blocks, 3);
    objects.gate.add_permits(1);
    eventually("all", || store.usage().staging_blocks == 0).await;
    assert_eq!(objects.keys(), ["chunks/0/0/1_0_1000", "chunks/0/0/2_0_1000", "chunks/0/0/30_0_1000"]);
    assert_eq!(objects.most_running.load(Ordering::SeqCst), 1);
    store.drain().await;
}

#[tokio::test]
async fn a_damaged_block_is_never_uploaded() {
    let (dir, objects) = (tempfile::tempdir().unwrap(), Arc::new(FakeStore::default()));
    let store = open(later(dir.path()), &objects);
    for id in 1..=3 {
        put(&store, id, &pattern(id, 1000)).await;
    }
    drop(store);
    let mut bytes = fs::read(staged(dir.path(), 1, 1000)).unwrap();
    bytes[500] ^= 1;
    fs::write(staged(dir.path(), 1, 1000), bytes).unwrap();
    fs::File::options().write(true).open(staged(dir.path(), 2, 1000)).unwrap().set_len(999).unwrap();
    let store = open(on_disk(dir.path()), &objects);
    eventually("the good one", || store.usage().staging_blocks == 0 && !objects.keys().is_empty()).await;
    assert_eq!(objects.keys(), ["chunks/0/0/3_0_1000"]);
    assert_eq!(store.usage().staging_block_errors, 2);
    assert!(
        staged(dir.path(), 1, 1000).exists() && staged(dir.path(), 2, 1000).exists(),
        "kept for whoever can use it"
    );
}

#[tokio::test]
async fn a_failed_upload_is_tried_again() {
    let (dir, objects) = (tempfile::tempdir().unwrap(), Arc::new(FakeStore::default()));
    objects.fail_puts(1);
    let store = open(now(dir.path()), &objects);
    put(&store, 1, b"hello world\n").await;
    eventually("the failure", || store.usage().staging_block_errors == 1).await;
    assert!(staged(dir.path(), 1, 12).exists());
    eventually("the second attempt", || store.usage().staging_blocks == 0).await;
    assert_eq!(objects.keys().len(), 1);
}

#[tokio::test]
async fn what_cannot_be_staged_is_uploaded_at_once() {
    let (dir, objects) = (tempfile::tempdir().unwrap(), Arc::new(FakeStore::default()));
    let store = open(later(dir.path()), &objects);
    fs::create_dir_all(dir.path().join(UUID).join("rawstaging/chunks/0")).unwrap();
    fs::write(dir.path().join(UUID).join("rawstaging/chunks/0/0"), b"in the way").unwrap();
    put(&store, 2, b"direct").await;
    assert_eq!(objects.keys(), ["chunks/0/0/2_0_6"]);
    assert_eq!(store.usage().staging_block_errors, 1);
}

#[tokio::test]
async fn blocks_from_the_threshold_on_are_not_staged() {
    let (dir, objects) = (tempfile::tempdir().unwrap(), Arc::new(FakeStore::default()));
    let store = open(staging(dir.path(), Duration::from_secs(3600), 1000), &objects);
    put(&store, 1, &pattern(1, 999)).await;
    put(&store, 2, &pattern(2, 1000)).await;
    assert_eq!(objects.keys(), ["chunks/0/0/2_0_1000"]);
}

#[tokio::test]
async fn a_removed_slice_is_not_uploaded_any_more() {
    let (dir, objects) = (tempfile::tempdir().unwrap(), Arc::new(FakeStore::default()));
    let store = open(later(dir.path()), &objects);
    put(&store, 1, b"hello world\n").await;
    store.remove(&[(SliceId(1), 12)]).await.unwrap();
    assert!(!staged(dir.path(), 1, 12).exists());
    assert_eq!(store.usage().staging_blocks, 0);
    // Also when its upload is under way.
    objects.close_gate();
    let store = open(now(dir.path()), &objects);
    put(&store, 2, b"hello world\n").await;
    eventually("the upload", || objects.running.load(Ordering::SeqCst) == 1).await;
    store.remove(&[(SliceId(2), 12)]).await.unwrap();
    objects.open_gate();
    eventually("the end of the upload", || objects.running.load(Ordering::SeqCst) == 0).await;
    store.tasks.close();
    store.tasks.wait().await;
    assert!(objects.keys().is_empty(), "{:?}", objects.keys());
}

#[tokio::test]
async fn a_drain_leaves_what_is_staged() {
    let (dir, objects) = (tempfile::tempdir().unwrap(), Arc::new(FakeStore::default()));
    objects.close_gate();
    let store = open(now(dir.path()), &objects);
    put(&store, 1, b"hello world\n").await;
    eventually("the upload", || objects.running.load(Ordering::SeqCst) == 1).await;
    tokio::time::timeout(Duration::from_secs(5), store.drain()).await.expect("it does not wait for the store");
    assert!(staged(dir.path(), 1, 12).exists());
}
