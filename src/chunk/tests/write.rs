//! Writing slices.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use super::*;
use crate::{Error, MAX_SLICE, PAGE_SIZE};

#[tokio::test]
async fn objects_have_the_names_and_bytes_of_the_format() {
    let objects = Arc::new(FakeStore::default());
    let store = open(config(), &objects);
    put(&store, 5, &pattern(5, 100_000)).await;
    put(&store, 1, b"hello world\n").await;
    put(&store, 7, &pattern(7, BLOCK + 10)).await;
    assert_eq!(
        objects.keys(),
        ["chunks/0/0/1_0_12", "chunks/0/0/5_0_100000", "chunks/0/0/7_0_262144", "chunks/0/0/7_1_10"]
    );
    assert_eq!(&objects.objects.lock()["chunks/0/0/1_0_12"][..], b"hello world\n");
    assert_eq!(store.block_key(SliceId(5), 0, 100_000), "chunks/0/0/5_0_100000");
    let hashed = open(ChunkConfig { hash_prefix: true, ..config() }, &objects);
    put(&hashed, 300, b"x").await;
    assert!(objects.keys().contains(&"chunks/2C/0/300_0_1".to_owned()));
}

#[tokio::test]
async fn full_blocks_go_up_while_writing_goes_on_and_give_their_memory_back() {
    let objects = Arc::new(FakeStore::default());
    let store = open(config(), &objects);
    let data = pattern(3, 2 * BLOCK + 5000);
    let mut writer = store.writer();
    writer.write(0, &data).unwrap();
    writer.upload_full_blocks();
    assert_eq!(objects.puts.load(Ordering::SeqCst), 0, "there is no id yet");
    assert!(writer.can_write(0));
    writer.set_id(SliceId(9));
    writer.upload_full_blocks();
    assert!(!writer.can_write(2 * BLOCK - 1) && writer.can_write(2 * BLOCK));
    assert!(matches!(writer.write(0, b"late"), Err(Error::Sealed { off: 0 })));
    eventually("giving memory back", || writer.memory() == PAGE_SIZE as u64).await;
    assert_eq!(store.usage().used_buffer_size_bytes, PAGE_SIZE as u64);
    writer.write(2 * BLOCK + 4000, b"changed before its upload").unwrap();
    assert_eq!(writer.finish().await.unwrap(), data.len() as u32);
    assert_eq!(store.budget().used(), 0);
    let back = store.read(SliceId(9), writer.len(), 2 * BLOCK + 4000, 7).await.unwrap();
    assert_eq!(&back[..], b"changed");
    assert!(matches!(writer.write(2 * BLOCK + 5000, b"x"), Err(Error::Sealed { .. })));
}

#[tokio::test]
async fn what_was_never_written_is_zeros() {
    let objects = Arc::new(FakeStore::default());
    let store = open(config(), &objects);
    let mut writer = store.writer();
    writer.write(3 * BLOCK - 1, b"ab").unwrap();
    assert_eq!(writer.memory(), 2 * PAGE_SIZE as u64);
    let mut back = vec![7; 8];
    assert!(writer.read(3 * BLOCK - 4, &mut back));
    assert_eq!(back, *b"\0\0\0ab\0\0\0");
    writer.set_id(SliceId(4));
    assert_eq!(writer.finish().await.unwrap(), 3 * BLOCK + 1);
    let all = store.read(SliceId(4), 3 * BLOCK + 1, 0, 3 * BLOCK + 1).await.unwrap();
    assert!(all[..3 * BLOCK as usize - 1].iter().all(|&b| b == 0));
    assert_eq!(&all[3 * BLOCK as usize - 1..], b"ab");
}

#[tokio::test]
async fn a_failed_upload_keeps_the_data_for_the_next_try() {
    let objects = Arc::new(FakeStore::default());
    let store = open(config(), &objects);
    let data = pattern(11, 3 * BLOCK + 1);
    let mut writer = store.writer();
    writer.set_id(SliceId(11));
    writer.write(0, &data).unwrap();
    assert!(matches!(store.writer().finish().await, Err(Error::NoId)));
    objects.fail_puts(4);
    let error = writer.finish().await.expect_err("every put fails");
    assert_eq!(error.to_string(), "block chunks/0/0/11_0_262144: fake://: broken on purpose");
    let mut back = vec![0; data.len()];
    assert!(writer.read(0, &mut back));
    assert_eq!(back, data);
    assert!(store.budget().used() >= u64::from(3 * BLOCK));
    objects.fail_puts(1);
    writer.finish().await.expect_err("one put still fails");
    assert_eq!(writer.finish().await.unwrap(), data.len() as u32);
    assert_eq!(store.read(SliceId(11), writer.len(), 0, writer.len()).await.unwrap(), data);
    assert_eq!(store.usage().object_request_errors, 5);
}

#[tokio::test]
async fn a_background_failure_is_tried_again_by_finish() {
    let objects = Arc::new(FakeStore::default());
    let store = open(config(), &objects);
    let mut writer = store.writer();
    writer.set_id(SliceId(2));
    objects.fail_puts(1);
    writer.write(0, &pattern(2, BLOCK)).unwrap();
    writer.upload_full_blocks();
    store.drain().await;
    assert!(objects.keys().is_empty());
    writer.finish().await.unwrap();
    assert_eq!(objects.keys().len(), 1);
}

#[tokio::test]
async fn a_finish_that_is_given_up_can_be_called_again() {
    let objects = Arc::new(FakeStore::default());
    let store = open(config(), &objects);
    let mut writer = store.writer();
    writer.set_id(SliceId(2));
    writer.write(0, &pattern(2, BLOCK + 1)).unwrap();
    objects.close_gate();
    tokio::time::timeout(Duration::from_millis(20), writer.finish()).await.expect_err("the store hangs");
    objects.open_gate();
    writer.finish().await.unwrap();
    assert_eq!(objects.puts.load(Ordering::SeqCst), 2, "nothing was sent twice");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn uploads_of_all_writers_are_bounded() {
    let objects = Arc::new(FakeStore::default());
    let store = open(ChunkConfig { max_uploads: 3, ..config() }, &objects);
    objects.close_gate();
    let writers: Vec<_> = (1..=4)
        .map(|id| {
            let store = Arc::clone(&store);
            tokio::spawn(async move { put(&store, id, &pattern(id, 3 * BLOCK)).await.len() })
        })
        .collect();
    eventually("three uploads", || objects.running.load(Ordering::SeqCst) == 3).await;
    assert_eq!(store.usage().object_request_uploading, 3);
    objects.open_gate();
    for writer in writers {
        assert_eq!(writer.await.unwrap(), 3 * BLOCK);
    }
    assert_eq!(objects.most_running.load(Ordering::SeqCst), 3);
}

#[tokio::test]
async fn a_slow_store_makes_writers_wait_for_the_budget() {
    let objects = Arc::new(FakeStore::default());
    let store = open(ChunkConfig { buffer_size: 5 * 4 * u64::from(BLOCK), ..config() }, &objects);
    let limit = store.budget().limit();
    assert_eq!(limit, 4 * u64::from(BLOCK));
    objects.close_gate();
    let mut writer = store.writer();
    writer.set_id(SliceId(1));
    for n in 0..4 {
        let room = store.budget().try_reserve(BLOCK.into()).expect("there is room");
        drop(room);
        writer.write(n * BLOCK, &pattern(1, BLOCK)).unwrap();
        writer.upload_full_blocks();
    }
    assert!(store.budget().try_reserve(1).is_none(), "the budget is used up");
    let waiting = tokio::spawn({
        let budget = Arc::clone(store.budget());
        async move { budget.reserve(BLOCK.into()).await.bytes() }
    });
    store.budget().pressure().await;
    assert!(!waiting.is_finished());
    objects.open_gate();
    eventually("the reservation", || waiting.is_finished()).await;
    assert_eq!(waiting.await.unwrap(), u64::from(BLOCK));
    assert_eq!(writer.finish().await.unwrap(), 4 * BLOCK);
}

#[tokio::test]
async fn a_small_write_takes_one_page() {
    let objects = Arc::new(FakeStore::default());
    let store = open(config(), &objects);
    let mut writer = store.writer();
    writer.write(0, b"x").unwrap();
    writer.write(5, b"").unwrap();
    assert_eq!((writer.len(), writer.is_empty()), (1, false));
    assert_eq!(store.budget().used(), PAGE_SIZE as u64);
    drop(writer);
    assert_eq!(store.budget().used(), 0);
}

#[tokio::test]
async fn a_slice_ends_at_64_mib() {
    let objects = Arc::new(FakeStore::default());
    let mut writer = open(config(), &objects).writer();
    writer.write(MAX_SLICE - 1, b"x").unwrap();
    assert!(!writer.can_write(MAX_SLICE));
    for off in [MAX_SLICE - 1, MAX_SLICE, u32::MAX] {
        assert!(matches!(writer.write(off, b"xy"), Err(Error::TooLong { .. })));
    }
}

#[tokio::test]
async fn uploaded_blocks_can_be_read_back_before_finish() {
    let objects = Arc::new(FakeStore::default());
    let store = open(config(), &objects);
    let data = pattern(8, 2 * BLOCK + 100);
    let mut writer = store.writer();
    writer.set_id(SliceId(8));
    writer.write(0, &data).unwrap();
    writer.upload_full_blocks();
    store.drain().await;
    let mut out = vec![0; 10];
    assert!(!writer.read(BLOCK - 5, &mut out) && writer.read(2 * BLOCK, &mut out));
    let back = writer.read_back(BLOCK - 5, BLOCK + 50).await.unwrap();
    assert_eq!(back, data[BLOCK as usize - 5..2 * BLOCK as usize + 45]);
    writer.finish().await.unwrap();
    let tail = writer.read_back(2 * BLOCK + 90, 20).await.unwrap();
    assert_eq!(tail, [&data[2 * BLOCK as usize + 90..], &[0; 10]].concat());
}

#[tokio::test]
async fn a_discarded_slice_leaves_no_object() {
    let objects = Arc::new(FakeStore::default());
    let store = open(config(), &objects);
    let mut writer = store.writer();
    writer.set_id(SliceId(8));
    writer.write(0, &pattern(8, 2 * BLOCK + 100)).unwrap();
    writer.upload_full_blocks();
    writer.discard().await.unwrap();
    assert!(objects.keys().is_empty());
    assert_eq!((objects.puts.load(Ordering::SeqCst), store.budget().used()), (2, 0));
}

#[test]
fn writing_works_on_threads_that_are_not_of_the_runtime() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let objects = Arc::new(FakeStore::default());
    let (opened, shared) = (config(), Arc::clone(&objects));
    let store = runtime.block_on(async move { open(opened, &shared) });
    let mut writer = store.writer();
    writer.set_id(SliceId(1));
    writer.write(0, &pattern(1, BLOCK)).unwrap();
    writer.upload_full_blocks();
    store.prefetch(SliceId(1), BLOCK, 0, BLOCK);
    assert_eq!(runtime.block_on(writer.finish()).unwrap(), BLOCK);
}
