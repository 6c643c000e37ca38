//! A real mount: needs root and `/dev/fuse`.

use std::collections::BTreeSet;
use std::fs::{self, File, OpenOptions};
use std::io::{Read as _, Seek as _, SeekFrom, Write as _};
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::os::unix::fs::{FileExt as _, MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::sync::Arc;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, AtFlags, FcntlArg, Flock, FlockArg, OFlag, fcntl};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sys::stat::Mode;
use nix::unistd::{Whence, linkat};
use stead_base::{SessionId, SystemClock};
use stead_chunk::{ChunkConfig, ChunkStore};
use stead_meta::Meta;
use stead_meta::format::Format;
use stead_meta::memory::MemoryStore;
use stead_meta::ops::MetaOptions;
use stead_object::{Failing, Fault, Op, Rule};
use stead_vfs::{Segment, Vfs, VfsConfig};
use tempfile::TempDir;
use tokio::runtime::Runtime;

use crate::{FuseConfig, Session, Unanswered};

/// A volume in memory, mounted until it is dropped.
struct Mounted {
    dir: TempDir,
    vfs: Arc<Vfs>,
    session: Option<Session>,
    /// Keeps the connection open whoever serves it.
    device: OwnedFd,
    runtime: Runtime,
}

/// What the clients of a volume share.
#[derive(Clone)]
struct Volume {
    store: Arc<MemoryStore>,
    objects: Arc<Failing>,
}

impl Volume {
    fn new() -> Self {
        let objects = Arc::new(Failing::new(Arc::new(stead_object::MemoryStore::new())));
        Self { store: Arc::new(MemoryStore::new()), objects }
    }

    async fn open(&self) -> Arc<Vfs> {
        self.open_over(Segment::shared().unwrap(), None).await
    }

    /// As who goes on with what is in `segment` and with the session `sid`.
    async fn open_over(&self, segment: Segment, sid: Option<SessionId>) -> Arc<Vfs> {
        let format = Format { trash_days: 0, ..Format::new("test", "mem", "memory") };
        let format = Meta::write_format(&*self.store, &format, &SystemClock).await.unwrap();
        let meta = Meta::new(Arc::clone(&self.store) as _, format, MetaOptions::default()).await.unwrap();
        match sid {
            None => meta.start_session().await.unwrap(),
            Some(sid) => meta.resume_session(sid).await.unwrap(),
        };
        let chunks = ChunkStore::open(ChunkConfig::default(), Arc::clone(&self.objects) as _).unwrap();
        let config = VfsConfig { enable_ioctl: true, ..VfsConfig::default() };
        Vfs::over(segment, config, meta, chunks, Arc::new(SystemClock))
    }
}

impl Mounted {
    fn new(config: FuseConfig) -> Self {
        Self::of(&Volume::new(), config)
    }

    /// One more client of a volume.
    fn of(volume: &Volume, config: FuseConfig) -> Self {
        let runtime = Runtime::new().unwrap();
        let vfs = runtime.block_on(volume.open());
        let dir = tempfile::tempdir().unwrap();
        let device = mount_at(dir.path());
        let fd = device.try_clone().unwrap();
        let session = Session::serve(Arc::clone(&vfs), fd, config, runtime.handle().clone()).unwrap();
        Self { dir, vfs, session: Some(session), device, runtime }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Unmounts and waits until the session has ended.
    fn end(&mut self) {
        if let Some(mut session) = self.session.take() {
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
    let mounted = Mounted::new(FuseConfig { readers: 2, max_write: 1 << 20, ..FuseConfig::default() });
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

fn seek(file: &File, offset: i64, whence: Whence) -> nix::Result<i64> {
    nix::unistd::lseek(file, offset, whence)
}

#[test]
fn holes_and_data_are_found() {
    let mounted = Mounted::new(FuseConfig::default());
    let file = File::create(mounted.path("sparse")).unwrap();
    let far = 3 * (64 << 20) + 5000;
    file.write_all_at(&[1; 10_000], 100_000).unwrap();
    file.write_all_at(&[1; 10_000], far).unwrap();
    let far = i64::try_from(far).unwrap();
    for committed in [false, true] {
        if committed {
            file.sync_all().unwrap();
        }
        assert_eq!(seek(&file, 0, Whence::SeekHole), Ok(0), "committed: {committed}");
        assert_eq!(seek(&file, 0, Whence::SeekData), Ok(100_000));
        assert_eq!(seek(&file, 100_500, Whence::SeekHole), Ok(110_000));
        assert_eq!(seek(&file, 110_000, Whence::SeekData), Ok(far));
        assert_eq!(seek(&file, far, Whence::SeekHole), Ok(far + 10_000));
        assert_eq!(seek(&file, far + 10_000, Whence::SeekData), Err(Errno::ENXIO));
    }
    file.set_len(1 << 40).unwrap();
    assert_eq!(seek(&file, far, Whence::SeekHole), Ok(far + 10_000));
}

#[test]
fn what_another_client_writes_is_seen_at_the_next_open() {
    let volume = Volume::new();
    let (one, two) = (Mounted::of(&volume, FuseConfig::default()), Mounted::of(&volume, FuseConfig::default()));
    for round in 0..20 {
        let text = format!("{round:10}").repeat(1000);
        fs::write(one.path("file"), &text).unwrap();
        assert_eq!(fs::read_to_string(two.path("file")).unwrap(), text);
        fs::write(two.path("file"), text.to_uppercase() + "more").unwrap();
        assert_eq!(fs::read_to_string(one.path("file")).unwrap(), text.to_uppercase() + "more");
    }
}

#[test]
fn an_open_file_shows_what_another_client_writes_in_place() {
    let volume = Volume::new();
    let (one, two) = (Mounted::of(&volume, FuseConfig::default()), Mounted::of(&volume, FuseConfig::default()));
    fs::write(one.path("file"), [b'a'; 10_000]).unwrap();
    let reader = File::open(two.path("file")).unwrap();
    let read = |at| {
        let mut byte = [0];
        reader.read_exact_at(&mut byte, at).map(|()| byte[0])
    };
    assert_eq!(read(5000).unwrap(), b'a');
    let writer = OpenOptions::new().write(true).open(one.path("file")).unwrap();
    writer.write_all_at(b"b", 5000).unwrap();
    writer.sync_all().unwrap();
    eventually(|| read(5000).unwrap() == b'b');
    // The page that was the last one ends in zeros until it is dropped.
    writer.write_all_at(&[b'c'; 1000], 10_000).unwrap();
    writer.sync_all().unwrap();
    eventually(|| reader.metadata().unwrap().len() == 11_000);
    assert_eq!(read(10_001).unwrap(), b'c');
}

fn eventually(mut condition: impl FnMut() -> bool) {
    let began = Instant::now();
    while !condition() {
        assert!(began.elapsed() < Duration::from_secs(10), "not within ten seconds");
        std::thread::yield_now();
    }
}

#[test]
fn pages_survive_own_writes() {
    let mounted = Mounted::new(FuseConfig::default());
    let path = mounted.path("file");
    fs::write(&path, vec![1; 1 << 20]).unwrap();
    let reads =
        || mounted.vfs.stats().all().find(|(op, ..)| *op == stead_vfs::Op::Read).map_or(0, |(_, count, ..)| count);
    assert_eq!(fs::read(&path).unwrap().len(), 1 << 20);
    let before = reads();
    let file = OpenOptions::new().read(true).write(true).open(&path).unwrap();
    file.write_all_at(&[2; 4096], 0).unwrap();
    file.sync_all().unwrap();
    file.metadata().unwrap();
    drop(file);
    assert_eq!(fs::read(&path).unwrap()[4000..5000], [[2; 96].as_slice(), &[1; 904]].concat());
    assert_eq!(reads(), before, "everything came from the kernel's pages");
}

/// A process that waits for the lock of a file.
fn waiter(path: &Path) -> Child {
    let child = Command::new("flock").arg(path).arg("true").spawn().expect("flock(1) of util-linux");
    let stack = format!("/proc/{}/wchan", child.id());
    eventually(|| fs::read_to_string(&stack).is_ok_and(|wchan| wchan.contains("request_wait_answer")));
    child
}

#[test]
fn flock_holds_between_clients_and_its_wait_can_be_interrupted() {
    let volume = Volume::new();
    let (one, two) = (Mounted::of(&volume, FuseConfig::default()), Mounted::of(&volume, FuseConfig::default()));
    let file = File::create(one.path("file")).unwrap();
    let lock = Flock::lock(file, FlockArg::LockExclusive).unwrap();
    let other = File::open(two.path("file")).unwrap();
    let (other, refused) = Flock::lock(other, FlockArg::LockExclusiveNonblock).unwrap_err();
    assert_eq!(refused, Errno::EAGAIN);
    let mut killed = waiter(&two.path("file"));
    killed.kill().unwrap();
    let began = Instant::now();
    killed.wait().unwrap();
    assert!(began.elapsed() < Duration::from_secs(3), "{:?}", began.elapsed());
    let mut patient = waiter(&two.path("file"));
    drop(lock);
    assert!(patient.wait().unwrap().success());
    Flock::lock(other, FlockArg::LockExclusiveNonblock).expect("the waiter that was killed has no lock");
}

#[test]
fn locks_of_ranges_hold_between_clients() {
    let volume = Volume::new();
    let (one, two) = (Mounted::of(&volume, FuseConfig::default()), Mounted::of(&volume, FuseConfig::default()));
    fs::write(one.path("file"), "0123456789").unwrap();
    let open = |mounted: &Mounted| OpenOptions::new().read(true).write(true).open(mounted.path("file")).unwrap();
    let (ours, theirs) = (open(&one), open(&two));
    let range = |kind: i32, start, len| libc::flock {
        l_type: i16::try_from(kind).unwrap(),
        l_whence: 0,
        l_start: start,
        l_len: len,
        l_pid: 0,
    };
    fcntl(&ours, FcntlArg::F_OFD_SETLK(&range(libc::F_WRLCK, 0, 5))).unwrap();
    assert_eq!(fcntl(&theirs, FcntlArg::F_OFD_SETLK(&range(libc::F_RDLCK, 4, 1))), Err(Errno::EAGAIN));
    fcntl(&theirs, FcntlArg::F_OFD_SETLK(&range(libc::F_WRLCK, 5, 5))).unwrap();
    let mut asked = range(libc::F_WRLCK, 0, 0);
    fcntl(&theirs, FcntlArg::F_OFD_GETLK(&mut asked)).unwrap();
    assert_eq!((i32::from(asked.l_type), asked.l_start, asked.l_len), (libc::F_WRLCK, 0, 5));
    drop(ours);
    eventually(|| fcntl(&theirs, FcntlArg::F_OFD_SETLK(&range(libc::F_WRLCK, 0, 10))).is_ok());
}

#[test]
fn ranges_are_copied_by_the_volume() {
    let mounted = Mounted::new(FuseConfig::default());
    let content: Vec<u8> = (0..300_000u32).map(|n| (n % 251) as u8).collect();
    fs::write(mounted.path("from"), &content).unwrap();
    let (mut from, mut to) = (File::open(mounted.path("from")).unwrap(), File::create(mounted.path("to")).unwrap());
    from.seek(SeekFrom::Start(1000)).unwrap();
    to.seek(SeekFrom::Start(50)).unwrap();
    // Which is copy_file_range(2) between files.
    assert_eq!(std::io::copy(&mut from.take(200_000), &mut to).unwrap(), 200_000);
    let copy = fs::read(mounted.path("to")).unwrap();
    assert_eq!(copy, [&[0; 50][..], &content[1000..201_000]].concat());
    let asked = mounted.vfs.stats().all().any(|(op, ..)| op == stead_vfs::Op::CopyFileRange);
    assert!(asked, "the kernel did not copy by itself");
}

#[test]
fn a_running_program_is_not_truncated() {
    let mounted = Mounted::new(FuseConfig::default());
    let program = mounted.path("sleep");
    fs::copy("/bin/sleep", &program).unwrap();
    for _ in 0..10 {
        let mut running = Command::new(&program).arg("60").spawn().unwrap();
        // Rust's own OpenOptions refuse what Linux has a meaning for.
        let flags = OFlag::O_RDONLY | OFlag::O_TRUNC;
        assert_eq!(nix::fcntl::open(&program, flags, Mode::empty()).unwrap_err(), Errno::ETXTBSY);
        assert!(running.try_wait().unwrap().is_none(), "it runs on");
        running.kill().unwrap();
        running.wait().unwrap();
    }
    assert_eq!(fs::read(&program).unwrap(), fs::read("/bin/sleep").unwrap());
}

#[test]
fn chattr_makes_a_file_immutable() {
    let mounted = Mounted::new(FuseConfig::default());
    fs::write(mounted.path("file"), "x").unwrap();
    let chattr = |flag| Command::new("chattr").arg(flag).arg(mounted.path("file")).status().unwrap().success();
    assert!(chattr("+i"));
    let refused = OpenOptions::new().write(true).open(mounted.path("file")).unwrap_err();
    assert_eq!(refused.raw_os_error(), Some(libc::EPERM));
    assert!(chattr("-i"));
    fs::write(mounted.path("file"), "y").unwrap();
}

#[test]
fn a_file_without_a_name_gets_one_or_goes() {
    let mounted = Mounted::new(FuseConfig::default());
    let open = || OpenOptions::new().write(true).custom_flags(libc::O_TMPFILE).open(mounted.dir.path()).unwrap();
    let (kept, gone) = (open(), open());
    (&kept).write_all(b"kept").unwrap();
    (&gone).write_all(b"gone").unwrap();
    assert_eq!(kept.metadata().unwrap().nlink(), 0);
    let path = format!("/proc/self/fd/{}", kept.as_raw_fd());
    linkat(AT_FDCWD, &*path, AT_FDCWD, &mounted.path("name"), AtFlags::AT_SYMLINK_FOLLOW).unwrap();
    drop((kept, gone));
    assert_eq!(fs::read_to_string(mounted.path("name")).unwrap(), "kept");
    assert_eq!(fs::read_dir(mounted.dir.path()).unwrap().count(), 5, "and the virtual files");
}

#[test]
fn a_read_from_a_dead_store_can_be_interrupted() {
    let volume = Volume::new();
    let one = Mounted::of(&volume, FuseConfig::default());
    fs::write(one.path("file"), [1; 4096]).unwrap();
    let two = Mounted::of(&volume, FuseConfig::default());
    volume.objects.add(Rule::on(Op::Get).fault(Fault::Hang));
    // Past the page cache, where only an answer ends the wait.
    let from = format!("if={}", two.path("file").display());
    let mut reader = Command::new("dd").args([&*from, "of=/dev/null", "iflag=direct", "status=none"]).spawn().unwrap();
    let wchan = format!("/proc/{}/wchan", reader.id());
    // Where it sleeps has no name on every kernel and at every time: after two seconds it certainly waits.
    let started = Instant::now();
    let waits = || fs::read_to_string(&wchan).is_ok_and(|wchan| wchan.contains("request_wait_answer"));
    while started.elapsed() < Duration::from_secs(2) && !waits() {
        std::thread::yield_now();
    }
    assert!(reader.try_wait().unwrap().is_none(), "nobody answers the read");
    reader.kill().unwrap();
    let began = Instant::now();
    reader.wait().unwrap();
    assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
    volume.objects.heal();
    assert_eq!(fs::read(two.path("file")).unwrap(), [1; 4096]);
}

#[test]
fn a_listing_can_be_left_and_taken_up_while_entries_go() {
    let mounted = Mounted::new(FuseConfig::default());
    let dir = mounted.path("d");
    fs::create_dir(&dir).unwrap();
    for n in 0..3000 {
        File::create(dir.join(format!("{n}"))).unwrap();
    }
    let mut seen = BTreeSet::new();
    for (count, entry) in fs::read_dir(&dir).unwrap().enumerate() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        if count % 2 == 0 {
            fs::remove_file(dir.join(&name)).unwrap();
        }
        assert!(seen.insert(name), "each name once");
    }
    assert_eq!(seen.len(), 3000, "what was removed hid nothing else");
    assert_eq!(fs::read_dir(&dir).unwrap().count(), 1500);
}

/// What a thread of its own asks of a mount.
type Call = Box<dyn FnOnce(&Path) -> std::io::Result<()> + Send>;

#[test]
fn another_process_goes_on_with_what_was_asked_and_not_answered() {
    let volume = Volume::new();
    let mut mounted = Mounted::of(&volume, FuseConfig::default());
    let path = mounted.path("file");
    fs::write(&path, [1; 8192]).unwrap();
    let open = File::options().read(true).write(true).open(&path).unwrap();
    let mut session = mounted.session.take().unwrap();

    let (tell, told) = std::sync::mpsc::channel();
    let (asker, dir) = (tell, mounted.dir.path().to_owned());
    let ask = |what: &'static str, call: Call| {
        let (tell, dir) = (asker.clone(), dir.clone());
        std::thread::spawn(move || tell.send((what, call(&dir))));
    };
    let direct = File::options().read(true).custom_flags(libc::O_DIRECT).open(&path).unwrap();
    session.silence();
    ask("read in vain", Box::new(move |_dir| direct.read_exact_at(&mut [0; 4096], 4096)));
    ask("asked in vain", Box::new(|dir| fs::create_dir(dir.join("asked in vain"))));
    assert!(told.recv_timeout(Duration::from_millis(300)).is_err(), "it is silent");
    mounted.runtime.block_on(session.suspend(Duration::ZERO));
    ask("asked of nobody", Box::new(|dir| fs::create_dir(dir.join("asked of nobody"))));
    assert!(told.recv_timeout(Duration::from_millis(300)).is_err(), "nobody answers");

    let sid = mounted.vfs.session();
    let fd = mounted.vfs.segment().fd().unwrap().try_clone_to_owned().unwrap();
    let next = mounted.runtime.block_on(volume.open_over(Segment::open(fd).unwrap(), Some(sid)));
    mounted.runtime.block_on(next.inherit()).unwrap();
    let device = mounted.device.try_clone().unwrap();
    let (negotiated, runtime) = (session.negotiated().clone(), mounted.runtime.handle().clone());
    let adopted = Session::adopt(Arc::clone(&next), device, negotiated, &FuseConfig::default(), runtime).unwrap();
    mounted.session = Some(adopted);
    mounted.vfs = next;
    for _asked in 0..3 {
        let (what, answer) = told.recv_timeout(Duration::from_secs(10)).expect("answered");
        answer.unwrap_or_else(|error| panic!("{what}: {error}"));
    }
    let mut read = [0; 4096];
    open.read_exact_at(&mut read, 0).unwrap();
    assert_eq!(read, [1; 4096]);
    open.write_all_at(b"on", 0).unwrap();
    open.sync_all().unwrap();
    assert!(mounted.path("asked of nobody").exists());
}

#[test]
fn a_suspended_session_reads_on() {
    let mut mounted = Mounted::new(FuseConfig::default());
    let mut session = mounted.session.take().unwrap();
    let unanswered = mounted.runtime.block_on(session.suspend(Duration::from_secs(1)));
    assert_eq!(unanswered, Unanswered::Repeatable);
    let path = mounted.path("file");
    let writer = std::thread::spawn(move || fs::write(path, "content"));
    std::thread::yield_now();
    session.resume();
    writer.join().unwrap().unwrap();
    mounted.session = Some(session);
    assert_eq!(fs::read_to_string(mounted.path("file")).unwrap(), "content");
}

/// Not a test of behaviour: prints what the adapter can do with everything in memory.
#[test]
#[ignore = "a measurement, to be run alone in release mode"]
fn measure() {
    for (readers, max_write) in [(1, 128 << 10), (2, 128 << 10), (1, 1 << 20), (2, 1 << 20)] {
        let mounted = Mounted::new(FuseConfig { readers, max_write, ..FuseConfig::default() });
        println!("readers {readers}, max_write {} KiB", max_write >> 10);
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
