//! A real mount: needs root and `/dev/fuse`.

use std::fs::{self, File, OpenOptions};
use std::io::{Read as _, Seek as _, SeekFrom, Write as _};
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::os::unix::fs::{FileExt as _, MetadataExt as _, PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use stead_base::SystemClock;
use stead_chunk::{ChunkConfig, ChunkStore};
use stead_meta::Meta;
use stead_meta::format::Format;
use stead_meta::memory::MemoryStore;
use stead_meta::ops::MetaOptions;
use stead_vfs::{Vfs, VfsConfig};
use tempfile::TempDir;
use tokio::runtime::Runtime;

use crate::{FuseConfig, Session};

/// A volume in memory, mounted until it is dropped.
struct Mounted {
    dir: TempDir,
    vfs: Arc<Vfs>,
    session: Option<Session>,
    runtime: Runtime,
}

impl Mounted {
    fn new(config: FuseConfig) -> Self {
        let runtime = Runtime::new().unwrap();
        let vfs = runtime.block_on(volume());
        let dir = tempfile::tempdir().unwrap();
        let fd = mount_at(dir.path());
        let session = Session::serve(Arc::clone(&vfs), fd, config, runtime.handle().clone()).unwrap();
        Self { dir, vfs, session: Some(session), runtime }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Unmounts and waits until the session has ended.
    fn end(&mut self) {
        if let Some(session) = self.session.take() {
            umount2(self.dir.path(), MntFlags::MNT_DETACH).unwrap();
            let ended = async { tokio::time::timeout(Duration::from_secs(10), session.wait()).await };
            self.runtime.block_on(ended).expect("the session ends with the mount").unwrap();
        }
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        if std::thread::panicking() {
            // Whatever is still open must not keep the next test from mounting.
            let _ = umount2(self.dir.path(), MntFlags::MNT_DETACH);
        } else {
            self.end();
        }
    }
}

async fn volume() -> Arc<Vfs> {
    let store = Arc::new(MemoryStore::new());
    let format = Format { trash_days: 0, ..Format::new("test", "mem", "memory") };
    let format = Meta::write_format(&*store, &format, &SystemClock).await.unwrap();
    let meta = Meta::new(store, format, MetaOptions::default()).await.unwrap();
    meta.start_session().await.unwrap();
    let objects = Arc::new(stead_object::MemoryStore::new());
    let chunks = ChunkStore::open(ChunkConfig::default(), objects).unwrap();
    Vfs::new(VfsConfig::default(), meta, chunks, Arc::new(SystemClock))
}

fn mount_at(dir: &Path) -> OwnedFd {
    let device = OpenOptions::new().read(true).write(true).open("/dev/fuse").expect("these tests need /dev/fuse");
    let options =
        format!("fd={},rootmode=40000,user_id=0,group_id=0,allow_other,default_permissions", device.as_raw_fd());
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV;
    mount(Some("test"), dir, Some("fuse.steadfast"), flags, Some(options.as_str())).expect("these tests need root");
    device.into()
}

#[test]
fn files_are_written_and_read() {
    let mounted = Mounted::new(FuseConfig::default());
    let path = mounted.path("file");
    let content: Vec<u8> = (0..3_000_000u32).map(|n| (n % 251) as u8).collect();
    fs::write(&path, &content).unwrap();
    assert_eq!(fs::metadata(&path).unwrap().len(), content.len() as u64);
    assert_eq!(fs::read(&path).unwrap(), content);

    let file = OpenOptions::new().read(true).write(true).open(&path).unwrap();
    file.write_all_at(b"in between", 1_000_000).unwrap();
    let mut read = [0; 10];
    file.read_exact_at(&mut read, 1_000_000).unwrap();
    assert_eq!(&read, b"in between");
    assert_eq!(file.metadata().unwrap().blksize(), 65536);
    file.set_len(5).unwrap();
    file.sync_all().unwrap();
    assert_eq!(fs::read(&path).unwrap(), &content[..5]);
}

#[test]
fn appending_and_truncating_follow_open_flags() {
    let mounted = Mounted::new(FuseConfig::default());
    let path = mounted.path("log");
    for line in ["one\n", "two\n"] {
        let mut log = OpenOptions::new().append(true).create(true).open(&path).unwrap();
        log.write_all(line.as_bytes()).unwrap();
    }
    assert_eq!(fs::read_to_string(&path).unwrap(), "one\ntwo\n");
    let exists = OpenOptions::new().write(true).create_new(true).open(&path);
    assert_eq!(exists.unwrap_err().kind(), std::io::ErrorKind::AlreadyExists);
    let mut file = File::create(&path).unwrap();
    assert_eq!(file.metadata().unwrap().len(), 0);
    file.seek(SeekFrom::Start(10)).unwrap();
    file.write_all(b"x").unwrap();
    drop(file);
    assert_eq!(fs::read(&path).unwrap(), [vec![0; 10], vec![b'x']].concat());
}

#[test]
fn names_come_and_go() {
    let mounted = Mounted::new(FuseConfig::default());
    fs::create_dir_all(mounted.path("a/b/c")).unwrap();
    fs::write(mounted.path("a/f"), "f").unwrap();
    fs::hard_link(mounted.path("a/f"), mounted.path("a/b/g")).unwrap();
    assert_eq!(fs::metadata(mounted.path("a/f")).unwrap().nlink(), 2);
    symlink("b/g", mounted.path("a/s")).unwrap();
    assert_eq!(fs::read_to_string(mounted.path("a/s")).unwrap(), "f");
    assert_eq!(fs::read_link(mounted.path("a/s")).unwrap(), Path::new("b/g"));
    fs::rename(mounted.path("a/b"), mounted.path("d")).unwrap();
    let mut names: Vec<_> = fs::read_dir(mounted.path("d")).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    names.sort();
    assert_eq!(names, ["c", "g"]);
    let mut open = File::open(mounted.path("d/g")).unwrap();
    fs::remove_file(mounted.path("d/g")).unwrap();
    fs::remove_file(mounted.path("a/f")).unwrap();
    assert_eq!(open.metadata().unwrap().nlink(), 0);
    let mut text = String::new();
    open.read_to_string(&mut text).unwrap();
    assert_eq!(text, "f");
    assert!(fs::remove_dir(mounted.path("d")).is_err());
    fs::remove_dir_all(mounted.path("d")).unwrap();
    assert!(!mounted.path("d").exists());
}

#[test]
fn attributes_are_set() {
    let mounted = Mounted::new(FuseConfig::default());
    let path = mounted.path("file");
    fs::write(&path, "x").unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o4711)).unwrap();
    assert_eq!(fs::metadata(&path).unwrap().mode(), 0o104_711);
    nix::unistd::chown(&path, Some(1234.into()), Some(5678.into())).unwrap();
    let metadata = fs::metadata(&path).unwrap();
    assert_eq!((metadata.uid(), metadata.gid()), (1234, 5678));
    let file = OpenOptions::new().write(true).open(&path).unwrap();
    (&file).write_all(b"later").unwrap();
    let then = std::time::UNIX_EPOCH + Duration::new(1_000_000, 5_000);
    file.set_modified(then).unwrap();
    drop(file);
    assert_eq!(fs::metadata(&path).unwrap().modified().unwrap(), then);
}

#[test]
fn a_large_directory_is_listed_and_removed() {
    let mounted = Mounted::new(FuseConfig::default());
    let dir = mounted.path("d");
    fs::create_dir(&dir).unwrap();
    for n in 0..3000 {
        fs::write(dir.join(format!("{n}")), "x").unwrap();
    }
    let total: u64 = fs::read_dir(&dir).unwrap().map(|entry| entry.unwrap().metadata().unwrap().len()).sum();
    assert_eq!(total, 3000);
    fs::remove_dir_all(&dir).unwrap();
    assert_eq!(fs::read_dir(mounted.dir.path()).unwrap().count(), 4, "the virtual files");
}

#[test]
fn programs_can_be_mapped_and_run() {
    let mounted = Mounted::new(FuseConfig::default());
    let program = mounted.path("true");
    fs::copy("/bin/true", &program).unwrap();
    assert!(std::process::Command::new(&program).status().unwrap().success());
}

#[test]
fn a_session_ends_with_its_mount_and_nothing_is_lost() {
    let mut mounted = Mounted::new(FuseConfig::default());
    let file = File::create(mounted.path("open")).unwrap();
    (&file).write_all(b"not flushed").unwrap();
    drop(file);
    mounted.end();
    mounted.runtime.block_on(mounted.vfs.drain()).unwrap();
    assert_eq!(fs::read_dir(mounted.dir.path()).unwrap().count(), 0);
}

#[test]
fn threads_work_at_the_same_time() {
    let mounted = Mounted::new(FuseConfig { threads: 2, max_write: 1 << 20, ..FuseConfig::default() });
    std::thread::scope(|scope| {
        for thread in 0..8 {
            let dir = mounted.path(&format!("{thread}"));
            scope.spawn(move || {
                fs::create_dir(&dir).unwrap();
                for n in 0..50u32 {
                    let content = vec![thread; 1000 * n as usize];
                    fs::write(dir.join(format!("{n}")), &content).unwrap();
                    assert_eq!(fs::read(dir.join(format!("{n}"))).unwrap(), content);
                }
            });
        }
    });
}

/// Not a test of behaviour: prints what the adapter can do with everything in memory.
#[test]
#[ignore = "a measurement, to be run alone in release mode"]
fn measure() {
    for (threads, max_write) in [(1, 128 << 10), (2, 128 << 10), (1, 1 << 20), (2, 1 << 20)] {
        let mounted = Mounted::new(FuseConfig { threads, max_write, ..FuseConfig::default() });
        println!("threads {threads}, max_write {} KiB", max_write >> 10);
        measure_names(&mounted);
        measure_data(&mounted);
    }
}

fn rate(what: &str, count: u32, work: impl FnOnce()) {
    let started = Instant::now();
    work();
    println!("  {what:<24} {:>9.0} /s", f64::from(count) / started.elapsed().as_secs_f64());
}

fn measure_names(mounted: &Mounted) {
    let path = |n| mounted.path(&format!("f{n}"));
    let count = 10_000;
    rate("create + close", count, || (0..count).for_each(|n| drop(File::create(path(n)).unwrap())));
    rate("stat, cached entry", count, || {
        let file = File::open(path(0)).unwrap();
        for _ in 0..count {
            nix::sys::stat::fstat(&file).unwrap();
        }
    });
    mounted.runtime.block_on(async { tokio::time::sleep(Duration::from_millis(1100)).await });
    rate("stat, lookup", count, || assert!((0..count).all(|n| fs::metadata(path(n)).is_ok())));
    rate("open + close", count, || (0..count).for_each(|n| drop(File::open(path(n)).unwrap())));
    rate("create + write 1K + close", count / 5, || {
        (0..count / 5).for_each(|n| fs::write(mounted.path(&format!("w{n}")), [1; 1024]).unwrap());
    });
    rate("unlink", count, || (0..count).for_each(|n| fs::remove_file(path(n)).unwrap()));
}

fn measure_data(mounted: &Mounted) {
    let (path, part, parts) = (mounted.path("big"), vec![1; 1 << 20], 256);
    rate("write 1M (MB/s)", parts, || {
        let mut file = File::create(&path).unwrap();
        (0..parts).for_each(|_| file.write_all(&part).unwrap());
    });
    rate("read 1M (MB/s)", parts, || {
        let (mut file, mut into) = (File::open(&path).unwrap(), part.clone());
        (0..parts).for_each(|_| file.read_exact(&mut into).unwrap());
    });
    let file = OpenOptions::new().read(true).write(true).open(&path).unwrap();
    let (mut small, count) = ([0; 4096], 20_000);
    rate("write 4K, sequential", count, || {
        (0..count).for_each(|n| file.write_all_at(&small, u64::from(n) * 4096).unwrap());
    });
    rate("read 4K, random", count, || {
        for n in 0..count {
            file.read_exact_at(&mut small, u64::from(n).wrapping_mul(2_654_435_761) % (200 << 20)).unwrap();
        }
    });
}
