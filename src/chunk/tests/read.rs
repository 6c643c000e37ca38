//! Reading slices without a disk cache.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::fake::Fault;
use super::*;
use crate::Error;

const SIZE: u32 = 3 * BLOCK + 1000;

/// A store with slice 1 of [`SIZE`] bytes in it, and nothing in any cache.
async fn filled(config: ChunkConfig) -> (Arc<FakeStore>, Arc<ChunkStore>, Vec<u8>) {
    let objects = Arc::new(FakeStore::default());
    let data = pattern(1, SIZE);
    put(&open(config.clone(), &objects), 1, &data).await;
    let store = open(config, &objects);
    (objects, store, data)
}

#[tokio::test]
async fn every_compression_brings_the_bytes_back() {
    for compression in ALL {
        for hash_prefix in [false, true] {
            let (objects, store, data) = filled(ChunkConfig { compression, hash_prefix, ..config() }).await;
            assert_eq!(store.read(SliceId(1), SIZE, 0, SIZE).await.unwrap(), data);
            let stored: usize = objects.objects.lock().values().map(bytes::Bytes::len).sum();
            assert_eq!(stored < data.len(), compression != Compression::None);
        }
    }
}

#[tokio::test]
async fn ranges_outside_the_slice_are_refused() {
    let (_, store, _) = filled(config()).await;
    for (off, len) in [(0, SIZE + 1), (SIZE, 1), (u32::MAX, 2)] {
        assert!(matches!(store.read(SliceId(1), SIZE, off, len).await, Err(Error::OutOfRange { .. })));
        assert!(store.try_read(SliceId(1), SIZE, off, len).is_none());
    }
    assert!(store.read(SliceId(1), SIZE, SIZE, 0).await.unwrap().is_empty());
    assert_eq!(store.read(SliceId::HOLE, 10, 2, 3).await.unwrap(), vec![0; 3]);
}

#[tokio::test]
async fn a_sequential_reader_fetches_each_block_once() {
    let (objects, store, data) = filled(config()).await;
    for off in (0..SIZE).step_by(10_000) {
        let len = 10_000.min(SIZE - off);
        let part = store.read(SliceId(1), SIZE, off, len).await.unwrap();
        assert_eq!(part, data[off as usize..(off + len) as usize]);
    }
    assert_eq!(*objects.gets.lock(), [None, None, None, None]);
    assert_eq!(
        store.try_read(SliceId(1), SIZE, BLOCK - 10, 20).unwrap(),
        data[BLOCK as usize - 10..BLOCK as usize + 10]
    );
}

#[tokio::test]
async fn a_small_random_read_fetches_only_its_range() {
    let (objects, store, data) = filled(config()).await;
    let part = store.read(SliceId(1), SIZE, BLOCK + 5000, 4096).await.unwrap();
    assert_eq!(part, data[BLOCK as usize + 5000..BLOCK as usize + 9096]);
    assert_eq!(*objects.gets.lock(), [Some(5000..9096)]);
    assert!(store.try_read(SliceId(1), SIZE, BLOCK + 5000, 4096).is_none());
}

#[tokio::test]
async fn a_small_random_read_has_the_whole_block_fetched_behind_it() {
    let (objects, store, _) = filled(ChunkConfig { prefetch: 1, ..config() }).await;
    store.read(SliceId(1), SIZE, BLOCK + 5000, 4096).await.unwrap();
    eventually("the prefetch", || store.try_read(SliceId(1), SIZE, BLOCK, BLOCK).is_some()).await;
    let mut gets = objects.gets.lock().clone();
    gets.sort_by_key(Option::is_some);
    assert_eq!(gets, [None, Some(5000..9096)]);
}

#[tokio::test]
async fn a_compressed_block_is_always_fetched_whole() {
    let (objects, store, data) = filled(ChunkConfig { compression: Compression::Lz4, ..config() }).await;
    let part = store.read(SliceId(1), SIZE, BLOCK + 5000, 10).await.unwrap();
    assert_eq!(part, data[BLOCK as usize + 5000..BLOCK as usize + 5010]);
    assert_eq!(*objects.gets.lock(), [None]);
}

#[tokio::test]
async fn concurrent_misses_share_one_request() {
    let (objects, store, data) = filled(config()).await;
    objects.close_gate();
    let readers: Vec<_> = (0..20)
        .map(|n| {
            let store = Arc::clone(&store);
            tokio::spawn(async move { store.read(SliceId(1), SIZE, n * 100, BLOCK / 2).await })
        })
        .collect();
    tokio::time::sleep(Duration::from_millis(20)).await;
    readers[0].abort();
    objects.open_gate();
    for (n, reader) in readers.into_iter().enumerate().skip(1) {
        let part = reader.await.unwrap().expect("the first caller's end is not the others'");
        assert_eq!(part, data[n * 100..n * 100 + BLOCK as usize / 2]);
    }
    assert_eq!(objects.get_count(), 1);
}

#[tokio::test]
async fn a_request_that_nobody_waits_for_ends_and_is_not_joined() {
    let (objects, store, data) = filled(config()).await;
    objects.close_gate();
    for whole in [true, false] {
        let want = if whole { (0, BLOCK) } else { (5000, 100) };
        let reader = tokio::spawn({
            let store = Arc::clone(&store);
            async move { store.read(SliceId(1), SIZE, want.0, want.1).await }
        });
        eventually("request", || objects.running.load(Ordering::SeqCst) == 1).await;
        reader.abort();
        eventually("an end of the request", || objects.running.load(Ordering::SeqCst) == 0).await;
    }
    objects.open_gate();
    assert_eq!(store.read(SliceId(1), SIZE, 5000, 100).await.unwrap(), data[5000..5100]);
    assert_eq!(objects.get_count(), 3);
}

#[tokio::test]
async fn concurrent_reads_of_the_same_range_share_one_request() {
    let (objects, store, data) = filled(config()).await;
    objects.close_gate();
    let reads = futures::future::join_all((0..5).map(|_| store.read(SliceId(1), SIZE, 5000, 100)));
    let (results, ()) = tokio::join!(reads, async {
        tokio::time::sleep(Duration::from_millis(10)).await;
        objects.open_gate();
    });
    for part in results {
        assert_eq!(part.unwrap(), data[5000..5100]);
    }
    assert_eq!(*objects.gets.lock(), [Some(5000..5100)]);
}

#[tokio::test]
async fn a_shared_failure_is_everybodys_and_the_next_read_tries_anew() {
    let (objects, store, _) = filled(config()).await;
    objects.close_gate();
    objects.fail_gets([Fault::Error]);
    let reads = (0..3).map(|_| store.read(SliceId(1), SIZE, 0, BLOCK));
    let all = futures::future::join_all(reads);
    let (results, ()) = tokio::join!(all, async {
        tokio::time::sleep(Duration::from_millis(10)).await;
        objects.open_gate();
    });
    assert!(results.iter().all(Result::is_err));
    assert_eq!(objects.get_count(), 1);
    store.read(SliceId(1), SIZE, 0, BLOCK).await.expect("the store works again");
}

#[tokio::test]
async fn an_object_of_the_wrong_length_is_asked_for_once_more_and_then_named() {
    let (objects, store, data) = filled(config()).await;
    objects.fail_gets([Fault::Short]);
    assert_eq!(store.read(SliceId(1), SIZE, 0, BLOCK).await.unwrap(), data[..BLOCK as usize]);
    for (fault, found) in [(Fault::Short, BLOCK - 1), (Fault::Long, BLOCK + 1)] {
        objects.fail_gets([fault, fault]);
        let error = store.read(SliceId(1), SIZE, BLOCK, BLOCK).await.expect_err("wrong length");
        let text = format!("block chunks/0/0/1_1_{BLOCK}: the store has {found} bytes where {BLOCK} belong");
        assert_eq!(error.to_string(), text);
    }
    objects.fail_gets([Fault::Long, Fault::Long]);
    let ranged = store.read(SliceId(1), SIZE, BLOCK + 10, 5).await;
    assert!(matches!(ranged, Err(Error::WrongLength { expected: 5, found: 6, .. })));
}

#[tokio::test]
async fn damaged_compressed_objects_are_errors() {
    for compression in [Compression::Lz4, Compression::Zstd] {
        let (objects, store, _) = filled(ChunkConfig { compression, ..config() }).await;
        for fault in [Fault::Short, Fault::Long] {
            objects.fail_gets([fault, fault]);
            let error = store.read(SliceId(1), SIZE, 0, BLOCK).await;
            assert!(matches!(error, Err(Error::Corrupt { .. })), "{compression:?} {fault:?}: {error:?}");
        }
        store.read(SliceId(1), SIZE, 0, BLOCK).await.expect("nothing bad was kept");
    }
}

#[tokio::test]
async fn a_missing_block_is_told_apart() {
    let (_, store, _) = filled(config()).await;
    let error = store.read(SliceId(99), 10, 0, 10).await.expect_err("no such slice");
    assert!(error.is_not_found());
    assert_eq!(error.to_string(), "block chunks/0/0/99_0_10: fake://: no object \"chunks/0/0/99_0_10\"");
}

#[tokio::test]
async fn prefetched_blocks_are_in_memory() {
    let (objects, store, data) = filled(config()).await;
    store.prefetch(SliceId(1), SIZE, BLOCK - 1, 2);
    store.prefetch(SliceId(1), SIZE, 0, 1);
    eventually("the prefetch", || store.usage().blockcache_blocks == 2).await;
    store.drain().await;
    assert_eq!(objects.get_count(), 2);
    assert_eq!(store.try_read(SliceId(1), SIZE, 0, 2 * BLOCK).unwrap(), data[..2 * BLOCK as usize]);
    store.prefetch(SliceId(1), SIZE, 2 * BLOCK, 1);
    store.drain().await;
    assert_eq!(objects.get_count(), 2, "nothing is prefetched after drain");
}

#[tokio::test]
async fn prefetching_is_bounded_and_can_be_cancelled() {
    let objects = Arc::new(FakeStore::default());
    let small = ChunkConfig { buffer_size: 1 << 20, ..config() };
    let size = 20 * BLOCK;
    put(&open(small.clone(), &objects), 1, &pattern(1, size)).await;
    let store = open(small, &objects);
    objects.close_gate();
    let (cancelled, before) = (CancellationToken::new(), objects.most_running.swap(0, Ordering::SeqCst));
    assert!(before > 0);
    store.prefetch_until(SliceId(1), size, 0, size, &cancelled);
    eventually("requests", || objects.running.load(Ordering::SeqCst) == 3).await;
    cancelled.cancel();
    eventually("an end of the requests", || objects.running.load(Ordering::SeqCst) == 0).await;
    let demanded = tokio::spawn({
        let store = Arc::clone(&store);
        async move { store.read(SliceId(1), size, 10 * BLOCK, BLOCK).await }
    });
    eventually("request", || objects.running.load(Ordering::SeqCst) == 1).await;
    objects.open_gate();
    assert_eq!(demanded.await.unwrap().unwrap().len(), BLOCK as usize);
    store.drain().await;
    assert_eq!(objects.get_count(), 4, "three were under way, one was asked for");
}

#[tokio::test]
async fn removed_slices_are_gone_from_store_and_memory() {
    let (objects, store, _) = filled(config()).await;
    store.read(SliceId(1), SIZE, 0, SIZE).await.unwrap();
    store.remove(&[(SliceId(1), SIZE)]).await.unwrap();
    store.remove(&[(SliceId::HOLE, 1 << 20)]).await.unwrap();
    assert!(objects.keys().is_empty());
    assert!(store.try_read(SliceId(1), SIZE, 0, 1).is_none());
    store.remove(&[(SliceId(1), SIZE)]).await.expect("removing twice is no error");
}

#[tokio::test]
async fn usage_counts_hits_and_misses() {
    let (_, store, _) = filled(config()).await;
    store.read(SliceId(1), SIZE, 0, BLOCK).await.unwrap();
    store.read(SliceId(1), SIZE, 0, 100).await.unwrap();
    store.sync().await.unwrap();
    let usage = store.usage();
    assert_eq!((usage.blockcache_miss, usage.blockcache_miss_bytes), (1, BLOCK.into()));
    assert_eq!((usage.blockcache_hits, usage.blockcache_hit_bytes), (1, 100));
    assert_eq!((usage.blockcache_blocks, usage.object_get_bytes), (1, BLOCK.into()));
}
