use std::os::unix::fs::PermissionsExt;
use std::time::Duration;

use stead_base::ManualClock;
use tempfile::TempDir;

use super::*;

fn store() -> (TempDir, FileStore) {
    let dir = tempfile::tempdir().expect("a directory for the test");
    let store = FileStore::new(dir.path().join("bucket").to_str().expect("text")).unwrap();
    (dir, store)
}

async fn made() -> (TempDir, FileStore) {
    let (dir, store) = store();
    store.create_bucket().await.unwrap();
    (dir, store)
}

#[tokio::test]
async fn files_behave_as_every_store_does() {
    let (_dir, store) = store();
    crate::behaviour::check(Arc::new(store)).await;
}

#[tokio::test]
async fn an_object_is_a_file_at_bucket_and_key() {
    let (dir, store) = made().await;
    store.put("vol/chunks/0/0/5_0_3", Bytes::from_static(b"abc")).await.unwrap();
    let path = dir.path().join("bucket/vol/chunks/0/0/5_0_3");
    assert_eq!(fs::read(&path).unwrap(), b"abc");
    let names = fs::read_dir(path.parent().unwrap()).unwrap().count();
    assert_eq!(names, 1, "no temporary file is left");
    let probe = dir.path().join("probe");
    fs::write(&probe, "").unwrap();
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode();
    assert_eq!(mode(&path), mode(&probe), "0666 & umask, as any new file");
}

#[tokio::test]
async fn keys_that_leave_the_bucket_are_refused() {
    let (_dir, store) = made().await;
    for key in ["../x", "a/../../x", "/etc/passwd", "a//b", "a/./b", "", "/", "a\0b", "..", "a/.."] {
        let error = store.put(key, Bytes::new()).await.unwrap_err();
        assert!(matches!(error, Error::Config { field: "key", .. }), "{key:?}: {error}");
        assert!(store.get(key, None).await.is_err() && store.delete(key).await.is_err());
        assert!(store.head(key).await.is_err());
    }
    store.list("../", "", 1).await.unwrap_err();
}

#[tokio::test]
async fn a_relative_bucket_is_refused() {
    let error = FileStore::new("data/objects").unwrap_err().to_string();
    assert!(error.contains("bucket \"data/objects\"") && error.contains("absolute"), "{error}");
    assert_eq!(FileStore::new("file:///a//b/").unwrap().describe(), "file:///a/b/");
}

#[tokio::test]
async fn a_missing_bucket_is_told_and_never_made_by_a_put() {
    let (dir, store) = store();
    for error in [
        store.put("a/b", Bytes::new()).await.unwrap_err(),
        store.get("a/b", None).await.unwrap_err(),
        store.list("", "", 1).await.unwrap_err(),
        store.list("a/b", "", 1).await.unwrap_err(),
    ] {
        assert!(matches!(error, Error::NoBucket { .. }), "{error}");
    }
    assert!(!dir.path().join("bucket").exists());
    crate::check(&store).await.unwrap();
    assert_eq!(fs::read_dir(dir.path().join("bucket")).unwrap().count(), 0, "the check made it and left it empty");
}

#[tokio::test]
async fn temporary_files_are_no_objects_and_dead_ones_go() {
    let dir = tempfile::tempdir().unwrap();
    let clock = Arc::new(ManualClock::new(SystemClock.now()));
    let store = FileStore::with_clock(dir.path().to_str().unwrap(), clock.clone()).unwrap();
    let temporary = dir.path().join(".jfs.5_0_3.tmp.123");
    fs::write(&temporary, "x").unwrap();
    fs::create_dir(dir.path().join("empty")).unwrap();
    assert!(store.list("", "", 10).await.unwrap().is_empty());
    assert!(temporary.exists(), "its writer may live");
    clock.advance(Duration::from_secs(25 * 3600));
    store.list("", "", 10).await.unwrap();
    assert!(!temporary.exists());
}

#[tokio::test]
async fn io_errors_have_their_kinds() {
    let (_dir, store) = made().await;
    let kind = |kind: ErrorKind| store.error("k", true, &kind.into());
    assert!(matches!(kind(ErrorKind::StorageFull), Error::Full { .. }));
    assert!(matches!(kind(ErrorKind::QuotaExceeded), Error::Full { .. }));
    assert!(matches!(kind(ErrorKind::PermissionDenied), Error::Denied { .. }));
    assert!(matches!(kind(ErrorKind::ReadOnlyFilesystem), Error::Denied { .. }));
    assert!(kind(ErrorKind::StaleNetworkFileHandle).is_temporary());
    assert!(store.error("k", true, &rustix::io::Errno::MFILE.into()).is_temporary());
}

#[tokio::test]
async fn a_full_disk_is_told_as_full() {
    // /dev/full answers every write with ENOSPC.
    let error = OpenOptions::new().write(true).open("/dev/full").unwrap().write_all(b"x").unwrap_err();
    let (_dir, store) = made().await;
    assert!(matches!(store.error("k", true, &error), Error::Full { .. }));
}

#[tokio::test]
async fn cached_reads_agree_with_blocking_ones() {
    let (dir, store) = made().await;
    store.put("k", Bytes::from_static(b"0123456789")).await.unwrap();
    let path = dir.path().join("bucket/k");
    for range in [None, Some(0..4), Some(8..20), Some(10..11), Some(3..3)] {
        let slow = read::blocking(&path, range.clone(), true).unwrap();
        // A file system without RWF_NOWAIT answers None, which is right as well.
        if let Some(fast) = read::cached(&path, range.clone()) {
            assert_eq!(fast, slow, "{range:?}");
        }
    }
    assert!(read::cached(&dir.path().join("bucket"), None).is_none(), "a directory is no object");
}

#[tokio::test]
async fn large_bodies_come_back_whole_whether_or_not_they_pass_the_page_cache() {
    let (dir, store) = made().await;
    let fill = |len: usize| {
        stead_bulk::filled(len, |body| {
            body.iter_mut().zip((0..=250).cycle()).for_each(|(byte, n)| *byte = n);
            Ok::<(), std::convert::Infallible>(())
        })
        .unwrap()
    };
    let bodies = [4 << 20, (4 << 20) - 1, (1 << 20) + 511, 1 << 20, 300 << 10].map(fill);
    // More at once than may go to the disk directly; some lie at no multiple of anything.
    let puts = (0..20).map(|n| {
        let (store, body) = (&store, bodies[n % bodies.len()].slice(n % 3..));
        async move { store.put(&format!("d/{n}"), body).await }
    });
    futures::future::try_join_all(puts).await.unwrap();
    store.sync().await.unwrap();
    for n in 0..20 {
        let (path, body) = (dir.path().join(format!("bucket/d/{n}")), bodies[n % bodies.len()].slice(n % 3..));
        for (start, end) in [(0, body.len()), (0, body.len() + 7), (0, (1 << 20) + 5), (5, body.len())] {
            let part = read::blocking(&path, Some(start as u64..end as u64), true).unwrap();
            assert!(part == body.slice(start..end.min(body.len())), "{n}: {start}..{end}");
        }
    }
}

#[tokio::test]
async fn sync_after_puts_and_deletes_succeeds() {
    let (_dir, store) = made().await;
    for n in 0..300 {
        store.put(&format!("d/{}/{n}", n % 3), Bytes::from_static(b"x")).await.unwrap();
    }
    store.sync().await.unwrap();
    store.put("e/f", Bytes::from_static(b"x")).await.unwrap();
    store.delete("e/f").await.unwrap();
    store.delete("e/").await.unwrap();
    store.sync().await.unwrap();
}

#[tokio::test]
async fn one_that_cannot_be_removed_is_named() {
    let (_dir, store) = made().await;
    let names = ["a", "b", "c"].map(str::to_owned);
    for name in &names {
        store.put(name, Bytes::new()).await.unwrap();
    }
    let too_long = "x".repeat(300);
    let error = store.delete_many(&[names[0].clone(), too_long.clone(), names[1].clone()]).await.unwrap_err();
    assert!(error.to_string().contains(&too_long), "{error}");
    assert_eq!(store.list("", "", 10).await.unwrap().len(), 2, "those before it are gone");
    store.delete_many(&names).await.expect("and the others can be removed");
    assert!(store.list("", "", 10).await.unwrap().is_empty());
}

#[tokio::test]
async fn nothing_is_gone_while_the_bucket_is_away() {
    let (dir, store) = made().await;
    store.put("a", Bytes::new()).await.unwrap();
    let (bucket, aside) = (dir.path().join("bucket"), dir.path().join("aside"));
    fs::rename(&bucket, &aside).unwrap();
    for error in [store.delete("a").await.unwrap_err(), store.delete_many(&["a".to_owned()]).await.unwrap_err()] {
        assert!(matches!(error, Error::NoBucket { .. }), "{error}");
    }
    fs::rename(&aside, &bucket).unwrap();
    store.delete("a").await.unwrap();
    assert_eq!(store.deletes_together(), 64, "that it is a local disk is known from its return on");
}
