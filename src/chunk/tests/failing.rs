//! Cache directories whose disk fails or hangs.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Instant;

use nix::sys::stat::Mode;
use nix::unistd::mkfifo;
use stead_base::SystemClock;

use super::*;
use crate::Writeback;

const NEVER: Duration = Duration::from_secs(3600);

fn patient(dir: &Path, pause: Duration) -> ChunkConfig {
    ChunkConfig { disk_pause: pause, ..on_disk(dir) }
}

fn staging(config: ChunkConfig, delay: Duration) -> ChunkConfig {
    let writeback = Writeback { threshold: 0, delay, hours: None, clock: Arc::new(SystemClock) };
    ChunkConfig { writeback: Some(writeback), ..config }
}

fn below(dir: &Path, path: &str) -> PathBuf {
    dir.join(UUID).join(path)
}

fn cached(dir: &Path, id: u64) -> PathBuf {
    below(dir, &format!("raw/chunks/0/0/{id}_0_1000"))
}

/// Everything below `path` fails until it is mended.
struct Broken {
    path: PathBuf,
    away: PathBuf,
}

impl Broken {
    fn new(path: PathBuf) -> Self {
        let away = path.with_extension("away");
        fs::rename(&path, &away).unwrap();
        fs::write(&path, b"in the way").unwrap();
        Self { path, away }
    }

    fn mend(self) {
        fs::remove_file(&self.path).unwrap();
        fs::rename(self.away, self.path).unwrap();
    }
}

/// A file on whose opening everybody waits until this is dropped.
struct Hanging(PathBuf);

impl Hanging {
    fn new(path: PathBuf) -> Self {
        fs::remove_file(&path).unwrap();
        mkfifo(&path, Mode::S_IRWXU).unwrap();
        Self(path)
    }
}

impl Drop for Hanging {
    fn drop(&mut self) {
        drop(fs::File::options().read(true).write(true).open(&self.0));
    }
}

/// A store that has blocks on disk and none in memory.
async fn filled(config: ChunkConfig, objects: &Arc<FakeStore>, ids: impl IntoIterator<Item = u64>) -> Arc<ChunkStore> {
    let store = open(config.clone(), objects);
    for id in ids {
        put(&store, id, &pattern(id, 1000)).await;
    }
    store.drain().await;
    open(config, objects)
}

async fn read(store: &Arc<ChunkStore>, id: u64) {
    assert_eq!(store.read(SliceId(id), 1000, 0, 1000).await.unwrap(), pattern(id, 1000), "{id}");
}

async fn is_out(store: &Arc<ChunkStore>) {
    eventually("the end of its use", || store.usage().blockcache_dirs_out_of_use == 1).await;
}

#[tokio::test]
async fn a_directory_whose_disk_fails_is_left_alone() {
    let (dir, objects) = (tempfile::tempdir().unwrap(), Arc::new(FakeStore::default()));
    let store = filled(patient(dir.path(), NEVER), &objects, 1..=4).await;
    let broken = Broken::new(below(dir.path(), "raw/chunks"));
    for id in 1..=3 {
        read(&store, id).await;
    }
    is_out(&store).await;
    broken.mend();
    let gets = objects.get_count();
    read(&store, 4).await;
    assert_eq!(objects.get_count(), gets + 1, "nothing is read from it");
    let drops = store.usage().blockcache_drops;
    put(&store, 5, &pattern(5, 1000)).await;
    store.drain().await;
    assert!(!cached(dir.path(), 5).exists(), "nothing is stored in it");
    assert_eq!(store.usage().blockcache_drops, drops + 1);
}

#[tokio::test]
async fn it_is_tried_again_and_taken_back() {
    let (dir, objects) = (tempfile::tempdir().unwrap(), Arc::new(FakeStore::default()));
    let store = filled(patient(dir.path(), Duration::from_millis(100)), &objects, 1..=4).await;
    let broken = Broken::new(below(dir.path(), "raw/chunks"));
    for id in 5..=7 {
        put(&store, id, &pattern(id, 1000)).await;
    }
    is_out(&store).await;
    tokio::time::sleep(Duration::from_millis(150)).await;
    put(&store, 8, &pattern(8, 1000)).await;
    store.disk.flush().await;
    assert_eq!(store.usage().blockcache_dirs_out_of_use, 1, "what was tried has failed");
    broken.mend();
    for id in 9..100 {
        put(&store, id, &pattern(id, 1000)).await;
        store.disk.flush().await;
        if store.usage().blockcache_dirs_out_of_use == 0 {
            break;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert_eq!(store.usage().blockcache_dirs_out_of_use, 0);
    for id in 1..=4 {
        read(&store, id).await;
    }
    assert_eq!(objects.get_count(), 0, "what was there before is found again");
}

#[tokio::test]
async fn missing_damaged_and_unwanted_files_are_no_failures() {
    let (dir, objects) = (tempfile::tempdir().unwrap(), Arc::new(FakeStore::default()));
    let store = filled(patient(dir.path(), NEVER), &objects, 1..=10).await;
    for id in 1..=5 {
        fs::remove_file(cached(dir.path(), id)).unwrap();
    }
    for id in 6..=10 {
        fs::write(cached(dir.path(), id), b"short").unwrap();
    }
    for id in 1..=10 {
        read(&store, id).await;
    }
    store.drain().await;
    assert_eq!(store.usage().blockcache_dirs_out_of_use, 0);
    assert!((1..=10).all(|id| cached(dir.path(), id).exists()), "they are cached again");
}

#[tokio::test]
async fn nobody_waits_for_a_disk_that_hangs() {
    let (dir, objects) = (tempfile::tempdir().unwrap(), Arc::new(FakeStore::default()));
    let hasty = ChunkConfig { disk_patience: Duration::from_millis(200), ..patient(dir.path(), NEVER) };
    let store = filled(hasty, &objects, 1..=3).await;
    // It would take the file for one that was cut short.
    eventually("the scan", || store.usage().blockcache_blocks == 3).await;
    let hanging = Hanging::new(cached(dir.path(), 1));
    let began = Instant::now();
    read(&store, 1).await;
    assert!(began.elapsed() < Duration::from_secs(3), "{:?}", began.elapsed());
    assert_eq!(store.usage().blockcache_dirs_out_of_use, 1);
    read(&store, 2).await;
    assert_eq!(objects.get_count(), 2);
    drop(hanging);
    assert_eq!(store.usage().blockcache_dirs_out_of_use, 1, "it answers, but so slowly");
}

#[tokio::test]
async fn staged_blocks_are_found_in_a_directory_that_is_out_of_use() {
    let (dir, objects) = (tempfile::tempdir().unwrap(), Arc::new(FakeStore::default()));
    let config = staging(patient(dir.path(), NEVER), NEVER);
    let store = open(config, &objects);
    let staged = pattern(1, BLOCK);
    put(&store, 1, &staged).await;
    // Other blocks, in a part of the directory that fails.
    fs::write(below(dir.path(), "raw/chunks/1"), b"in the way").unwrap();
    for id in 1_000_001..=1_000_003 {
        objects.objects.lock().insert(format!("chunks/1/1000/{id}_0_1000"), pattern(id, 1000).into());
        read(&store, id).await;
    }
    is_out(&store).await;
    assert_eq!(store.read(SliceId(1), BLOCK, 0, BLOCK).await.unwrap(), staged);
    assert_eq!(objects.get_count(), 3, "it is not in the store");
    // Nothing more is staged there, and what is gets out.
    put(&store, 2, &pattern(2, 1000)).await;
    assert!(objects.keys().contains(&"chunks/0/0/2_0_1000".to_owned()));
    assert!(!below(dir.path(), "rawstaging/chunks/0/0/2_0_1000").exists());
    eventually("the upload", || store.usage().staging_blocks == 0).await;
    assert!(objects.keys().contains(&format!("chunks/0/0/1_0_{BLOCK}")));
}

#[tokio::test]
async fn a_directory_in_which_nothing_can_be_staged_is_left_alone_and_taken_back() {
    let (dir, objects) = (tempfile::tempdir().unwrap(), Arc::new(FakeStore::default()));
    let store = open(staging(patient(dir.path(), Duration::from_secs(1)), NEVER), &objects);
    fs::create_dir(below(dir.path(), "rawstaging")).unwrap();
    let broken = Broken::new(below(dir.path(), "rawstaging"));
    for id in 1..=3 {
        put(&store, id, &pattern(id, BLOCK)).await;
    }
    is_out(&store).await;
    broken.mend();
    put(&store, 4, &pattern(4, BLOCK)).await;
    assert_eq!(objects.keys().len(), 4, "all were uploaded at once");
    tokio::time::sleep(Duration::from_millis(1100)).await;
    put(&store, 5, &pattern(5, BLOCK)).await;
    assert_eq!(store.usage().blockcache_dirs_out_of_use, 0);
    assert_eq!((store.usage().staging_blocks, objects.keys().len()), (1, 4));
}

#[tokio::test]
async fn staged_blocks_are_not_forgotten_while_their_disk_is_not_mounted() {
    let (dir, objects) = (tempfile::tempdir().unwrap(), Arc::new(FakeStore::default()));
    let store = open(staging(on_disk(dir.path()), Duration::from_secs(1)), &objects);
    put(&store, 1, &pattern(1, 1000)).await;
    let (there, away) = (dir.path().join(UUID), dir.path().join("away"));
    fs::rename(&there, &away).unwrap();
    eventually("an attempt", || store.usage().staging_block_errors > 0).await;
    assert_eq!((store.usage().staging_blocks, objects.keys().len()), (1, 0));
    fs::rename(&away, &there).unwrap();
    eventually("the upload", || store.usage().staging_blocks == 0).await;
    assert_eq!(objects.keys(), ["chunks/0/0/1_0_1000"]);
}

#[tokio::test]
async fn staged_blocks_that_cannot_be_read_hold_nobody_up() {
    let (bad, good) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let objects = Arc::new(FakeStore::default());
    let both = ChunkConfig {
        cache_dirs: vec![bad.path().to_owned(), good.path().to_owned()],
        max_uploads: 1,
        ..staging(config(), Duration::from_secs(1))
    };
    let store = open(both, &objects);
    for id in 1..=40 {
        put(&store, id, &pattern(id, 1000)).await;
    }
    let in_bad = fs::read_dir(below(bad.path(), "rawstaging/chunks/0/0")).unwrap().count();
    assert!((1..40).contains(&in_bad), "{in_bad}");
    let broken = Broken::new(below(bad.path(), "rawstaging/chunks"));
    eventually("the others", || objects.keys().len() == 40 - in_bad).await;
    assert_eq!(store.usage().staging_blocks, in_bad as u64);
    broken.mend();
    eventually("all", || store.usage().staging_blocks == 0).await;
    assert_eq!(objects.keys().len(), 40);
}

#[tokio::test]
async fn other_directories_stay_in_use() {
    let (bad, good) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let objects = Arc::new(FakeStore::default());
    let both =
        ChunkConfig { cache_dirs: vec![bad.path().to_owned(), good.path().to_owned()], disk_pause: NEVER, ..config() };
    let store = filled(both, &objects, 1..=40).await;
    let in_good = fs::read_dir(below(good.path(), "raw/chunks/0/0")).unwrap().count();
    let _broken = Broken::new(below(bad.path(), "raw/chunks"));
    for id in 1..=40 {
        read(&store, id).await;
    }
    is_out(&store).await;
    assert_eq!(objects.get_count(), 40 - in_good);
}
