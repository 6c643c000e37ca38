//! The disk cache below a store.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use super::*;
use crate::{Error, Eviction, Verify};

const GOLDEN: &[u8] = b"hello world\n\xF0\xFF\x72\x92";

fn raw(dir: &Path, key: &str) -> PathBuf {
    dir.join(UUID).join("raw").join(key)
}

fn files(dir: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut dirs = vec![dir.join(UUID).join("raw")];
    while let Some(dir) = dirs.pop() {
        for entry in fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() { dirs.push(path) } else { found.push(path) }
        }
    }
    found.sort();
    found
}

#[tokio::test]
async fn a_small_block_is_cached_when_written_as_the_go_client_does() {
    let (dir, objects) = (tempfile::tempdir().unwrap(), Arc::new(FakeStore::default()));
    let store = open(on_disk(dir.path()), &objects);
    put(&store, 1, b"hello world\n").await;
    put(&store, 2, &pattern(2, BLOCK)).await;
    store.drain().await;
    let path = raw(dir.path(), "chunks/0/0/1_0_12");
    assert_eq!(files(dir.path()), std::slice::from_ref(&path), "full blocks are not cached when written");
    assert_eq!(fs::read(&path).unwrap(), GOLDEN);
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    let id = fs::read_to_string(dir.path().join(UUID).join(".lock")).unwrap();
    assert_eq!(uuid::Uuid::parse_str(&id).unwrap().get_version_num(), 4);
    open(on_disk(dir.path()), &objects);
    assert_eq!(fs::read_to_string(dir.path().join(UUID).join(".lock")).unwrap(), id);
    assert_eq!(fs::read_dir(dir.path().join(UUID)).unwrap().count(), 2, "raw and .lock, nothing else");
}

#[tokio::test]
async fn a_file_of_the_go_client_is_read() {
    let (dir, objects) = (tempfile::tempdir().unwrap(), Arc::new(FakeStore::default()));
    let path = raw(dir.path(), "chunks/0/0/1_0_12");
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, GOLDEN).unwrap();
    let store = open(on_disk(dir.path()), &objects);
    assert_eq!(&store.read(SliceId(1), 12, 6, 5).await.unwrap()[..], b"world");
    assert_eq!(objects.get_count(), 0);
}

#[tokio::test]
async fn large_blocks_are_cached_when_read_or_when_asked_for() {
    let (dir, objects) = (tempfile::tempdir().unwrap(), Arc::new(FakeStore::default()));
    let store = open(on_disk(dir.path()), &objects);
    put(&store, 2, &pattern(2, BLOCK)).await;
    store.read(SliceId(2), BLOCK, 0, BLOCK).await.unwrap();
    store.drain().await;
    assert_eq!(files(dir.path()).len(), 1);
    let eager = ChunkConfig { cache_large_write: true, ..on_disk(dir.path()) };
    let store = open(eager, &objects);
    put(&store, 3, &pattern(3, BLOCK)).await;
    store.drain().await;
    assert_eq!(files(dir.path()).len(), 2);
    let usage = store.usage();
    assert_eq!((usage.blockcache_writes, usage.blockcache_write_bytes), (1, BLOCK.into()));
}

#[tokio::test]
async fn the_cache_survives_a_restart() {
    let (dir, objects) = (tempfile::tempdir().unwrap(), Arc::new(FakeStore::default()));
    let size = 2 * BLOCK + 50_000;
    let data = pattern(6, size);
    let store = open(on_disk(dir.path()), &objects);
    put(&store, 6, &data).await;
    store.read(SliceId(6), size, 0, size).await.unwrap();
    store.drain().await;
    let gets = objects.get_count();
    let store = open(on_disk(dir.path()), &objects);
    assert_eq!(store.read(SliceId(6), size, 0, size).await.unwrap(), data);
    let again = open(on_disk(dir.path()), &objects);
    assert_eq!(again.read(SliceId(6), size, 70_000, 40).await.unwrap(), data[70_000..70_040]);
    assert_eq!(objects.get_count(), gets);
    let expected = u64::from(size) + 3 * 4096;
    eventually("the scan", || {
        let usage = again.usage();
        usage.blockcache_bytes - usage.store_cache_size_bytes == expected
    })
    .await;
}

#[tokio::test]
async fn damaged_files_are_deleted_and_fetched_again() {
    let (dir, objects) = (tempfile::tempdir().unwrap(), Arc::new(FakeStore::default()));
    let data = pattern(6, BLOCK);
    let path = raw(dir.path(), &format!("chunks/0/0/6_0_{BLOCK}"));
    put(&open(on_disk(dir.path()), &objects), 6, &data).await;
    let damages: [fn(&mut Vec<u8>); 5] = [
        |bytes| bytes[100_000] ^= 4,
        |bytes| bytes.truncate(1000),
        |bytes| bytes.truncate(BLOCK as usize + 4),
        |bytes| bytes.extend_from_slice(b"more of it"),
        |bytes| bytes.resize(2 * BLOCK as usize, 0),
    ];
    for (round, damage) in damages.into_iter().enumerate() {
        for (off, len) in [(0, BLOCK), (100_000, 1)] {
            let store = open(on_disk(dir.path()), &objects);
            store.read(SliceId(6), BLOCK, 0, BLOCK).await.unwrap();
            store.drain().await;
            let mut bytes = fs::read(&path).unwrap();
            damage(&mut bytes);
            fs::write(&path, bytes).unwrap();
            let gets = objects.get_count();
            let fresh = open(on_disk(dir.path()), &objects);
            let found = fresh.read(SliceId(6), BLOCK, off, len).await.unwrap();
            assert_eq!(found, data[off as usize..(off + len) as usize], "round {round}");
            assert_eq!(objects.get_count(), gets + 1, "round {round}");
            fresh.drain().await;
            assert!(fs::metadata(&path).map_or(len == 1, |meta| meta.size() == u64::from(BLOCK) + 32));
        }
    }
}

#[tokio::test]
async fn eviction_keeps_the_limit_and_what_was_used_last() {
    let (dir, objects) = (tempfile::tempdir().unwrap(), Arc::new(FakeStore::default()));
    let cost = 100_000 + 4096;
    let small =
        ChunkConfig { cache_size: 5 * cost, eviction: Eviction::Lru, buffer_size: 1 << 20, ..on_disk(dir.path()) };
    let store = open(small.clone(), &objects);
    for id in 1..=12 {
        put(&store, id, &pattern(id, 100_000)).await;
        store.drain().await;
        assert!(files(dir.path()).len() <= 5);
    }
    let kept: Vec<_> = (8..=12).map(|id| raw(dir.path(), &format!("chunks/0/0/{id}_0_100000"))).collect();
    let mut sorted = kept.clone();
    sorted.sort();
    assert_eq!(files(dir.path()), sorted);
    assert_eq!(store.usage().blockcache_evicts, 7);
    // A new process evicts by the files' own times.
    let store = open(small, &objects);
    eventually("the scan", || store.usage().blockcache_blocks == 5).await;
    put(&store, 13, &pattern(13, 100_000)).await;
    store.drain().await;
    assert_eq!(files(dir.path()).len(), 5);
}

#[tokio::test]
async fn what_does_not_fit_is_not_cached_where_nothing_may_leave() {
    let (dir, objects) = (tempfile::tempdir().unwrap(), Arc::new(FakeStore::default()));
    let limit = 3 * (1000 + 4096);
    let store = open(ChunkConfig { cache_size: limit, eviction: Eviction::None, ..on_disk(dir.path()) }, &objects);
    for id in 1..=5 {
        put(&store, id, &pattern(id, 1000)).await;
        store.drain().await;
    }
    assert_eq!(files(dir.path()), [1, 2, 3].map(|id| raw(dir.path(), &format!("chunks/0/0/{id}_0_1000"))));
    let usage = store.usage();
    assert_eq!((usage.blockcache_evicts, usage.blockcache_drops), (0, 2));
    assert_eq!(store.read(SliceId(5), 1000, 0, 1000).await.unwrap(), pattern(5, 1000));
}

#[tokio::test]
async fn the_size_is_kept_whoever_leaves() {
    let (dir, objects) = (tempfile::tempdir().unwrap(), Arc::new(FakeStore::default()));
    let limit = 5 * (1000 + 4096);
    let store = open(ChunkConfig { cache_size: limit, ..on_disk(dir.path()) }, &objects);
    for id in 1..=40 {
        put(&store, id, &pattern(id, 1000)).await;
        store.drain().await;
    }
    assert_eq!(files(dir.path()).len(), 5);
    assert_eq!(store.usage().blockcache_evicts, 35);
}

#[tokio::test]
async fn what_nobody_uses_expires() {
    let (dir, objects) = (tempfile::tempdir().unwrap(), Arc::new(FakeStore::default()));
    let store = open(on_disk(dir.path()), &objects);
    for id in 1..=3 {
        put(&store, id, &pattern(id, 1000)).await;
    }
    store.drain().await;
    let old = std::time::UNIX_EPOCH + Duration::from_secs(1_000_000);
    let times = fs::FileTimes::new().set_accessed(old).set_modified(old);
    for id in [1, 3] {
        let path = raw(dir.path(), &format!("chunks/0/0/{id}_0_1000"));
        fs::File::options().write(true).open(path).unwrap().set_times(times).unwrap();
    }
    let fresh = raw(dir.path(), "chunks/0/0/2_0_1000");
    let patient = open(ChunkConfig { cache_expire: Duration::from_secs(3600), ..on_disk(dir.path()) }, &objects);
    eventually("the scan", || patient.usage().blockcache_evicts == 2).await;
    assert_eq!(files(dir.path()), [fresh]);
    let hasty = open(ChunkConfig { cache_expire: Duration::from_millis(100), ..on_disk(dir.path()) }, &objects);
    eventually("the end of what is not used any longer", || files(dir.path()).is_empty()).await;
    assert_eq!(hasty.read(SliceId(1), 1000, 0, 1000).await.unwrap(), pattern(1, 1000));
}

#[tokio::test]
async fn files_without_checksums_are_written_and_read_by_whoever_wants_them() {
    let (dir, objects) = (tempfile::tempdir().unwrap(), Arc::new(FakeStore::default()));
    let plain = ChunkConfig { verify: Verify::None, cache_mode: 0o644, ..on_disk(dir.path()) };
    let store = open(plain, &objects);
    put(&store, 1, b"hello world\n").await;
    store.drain().await;
    let path = raw(dir.path(), "chunks/0/0/1_0_12");
    assert_eq!(fs::read(&path).unwrap(), b"hello world\n");
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o644);
    assert_eq!(fs::metadata(path.parent().unwrap()).unwrap().permissions().mode() & 0o111, 0o111);
    let verifying = open(on_disk(dir.path()), &objects);
    assert_eq!(&verifying.read(SliceId(1), 12, 6, 5).await.unwrap()[..], b"world");
    assert_eq!(objects.get_count(), 0);
}

#[tokio::test]
async fn a_full_disk_takes_nothing_more() {
    let (dir, objects) = (tempfile::tempdir().unwrap(), Arc::new(FakeStore::default()));
    let guarded = ChunkConfig { free_space_ratio: 1.0, ..on_disk(dir.path()) };
    let store = open(guarded, &objects);
    put(&store, 1, b"hello world\n").await;
    store.drain().await;
    assert!(files(dir.path()).is_empty());
    assert_eq!(store.usage().blockcache_drops, 1);
    assert_eq!(&store.read(SliceId(1), 12, 0, 12).await.unwrap()[..], b"hello world\n");
}

#[tokio::test]
async fn several_directories_share_the_blocks() {
    let (one, two) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let objects = Arc::new(FakeStore::default());
    let both = ChunkConfig { cache_dirs: vec![one.path().to_owned(), two.path().to_owned()], ..config() };
    let store = open(both.clone(), &objects);
    for id in 1..=40 {
        put(&store, id, &pattern(id, 1000)).await;
    }
    store.drain().await;
    let (first, second) = (files(one.path()).len(), files(two.path()).len());
    assert!(first > 0 && second > 0 && first + second == 40, "{first} and {second}");
    // The order in which they are named does not matter: the identity does.
    let swapped = ChunkConfig { cache_dirs: both.cache_dirs.into_iter().rev().collect(), ..config() };
    let store = open(swapped, &objects);
    for id in 1..=40 {
        assert_eq!(store.read(SliceId(id), 1000, 0, 1000).await.unwrap(), pattern(id, 1000));
    }
    assert_eq!(objects.get_count(), 0);
}

#[tokio::test]
async fn removed_slices_leave_the_disk() {
    let (dir, objects) = (tempfile::tempdir().unwrap(), Arc::new(FakeStore::default()));
    let store = open(on_disk(dir.path()), &objects);
    put(&store, 1, b"hello world\n").await;
    store.remove(&[(SliceId(1), 12)]).await.unwrap();
    store.drain().await;
    assert!(files(dir.path()).is_empty());
    assert_eq!(store.usage().blockcache_blocks, 0);
}

#[tokio::test]
async fn the_scan_removes_leftovers_and_leaves_strangers_alone() {
    let (dir, objects) = (tempfile::tempdir().unwrap(), Arc::new(FakeStore::default()));
    let place = |name: &str, content: &[u8]| {
        let path = raw(dir.path(), name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, content).unwrap();
        path
    };
    let cut = place("chunks/0/0/3_0_100", b"short");
    let stale = place("chunks/0/0/4_0_100.x.tmp", b"half");
    let old = std::time::UNIX_EPOCH + Duration::from_secs(1_000_000);
    fs::File::options().write(true).open(&stale).unwrap().set_modified(old).unwrap();
    let fresh = place("chunks/0/0/5_0_100.x.tmp", b"half");
    let wrong_place = place("chunks/7/7/5_0_4", b"data");
    let stranger = place("chunks/notes.txt", b"mine");
    let good = place("chunks/0/0/1_0_12", GOLDEN);
    let store = open(on_disk(dir.path()), &objects);
    eventually("the scan", || store.usage().blockcache_blocks == 1 && !cut.exists() && !stale.exists()).await;
    for kept in [fresh, wrong_place, stranger, good] {
        assert!(kept.exists(), "{}", kept.display());
    }
}

#[tokio::test]
async fn a_directory_that_cannot_be_used_is_an_error_at_open() {
    let (dir, objects) = (tempfile::tempdir().unwrap(), Arc::new(FakeStore::default()));
    let file = dir.path().join("file");
    fs::write(&file, b"").unwrap();
    let error = ChunkStore::open(on_disk(&file), objects as _).expect_err("it is a file");
    assert!(matches!(error, Error::CacheDir { .. }));
    let text = format!("cache directory {}/{UUID}: cannot be used, it has to be writable: ", file.display());
    assert!(error.to_string().starts_with(&text), "{error}");
}

#[tokio::test]
async fn a_queue_that_is_full_drops_blocks_and_loses_no_data() {
    let (dir, objects) = (tempfile::tempdir().unwrap(), Arc::new(FakeStore::default()));
    let tight = ChunkConfig { buffer_size: 1 << 20, cache_large_write: true, ..on_disk(dir.path()) };
    let store = open(tight, &objects);
    let size = 100 * BLOCK;
    put(&store, 1, &pattern(1, size)).await;
    store.drain().await;
    let usage = store.usage();
    assert_eq!(usage.blockcache_writes + usage.blockcache_drops, 100);
    assert_eq!(store.read(SliceId(1), size, 0, size).await.unwrap(), pattern(1, size));
}
