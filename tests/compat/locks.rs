//! Locks, access lists and accounts that both clients keep: each reads what the other one stored, byte for byte.

use std::fs::{File, OpenOptions, TryLockError};
use std::os::fd::AsRawFd as _;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, fcntl};
use nix::libc;
use stead_tests::{Client, Engine, Mount, TempVolume, pause};

use crate::NO_CACHES;

/// A volume with the two mounts, ours first.
fn both(engine: Engine, options: &[&str]) -> (TempVolume, Mount, Mount) {
    let volume = TempVolume::format(engine, Client::Go, options);
    let ours = Mount::start(Client::Stead, &volume, "ours", &NO_CACHES);
    let theirs = Mount::start(Client::Go, &volume, "theirs", &NO_CACHES);
    (volume, ours, theirs)
}

fn open(mount: &Mount, name: &str) -> File {
    let opened = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(mount.path().join(name));
    opened.expect("opened")
}

/// Tries again until it works: the kernel tells of a close after close(2) has returned.
fn soon(what: &str, mut works: impl FnMut() -> bool) {
    let start = Instant::now();
    while !works() {
        assert!(start.elapsed() < Duration::from_secs(10), "{what}: not within 10 s");
        pause(Duration::from_millis(20));
    }
}

#[test]
fn flocks_exclude_the_other_client_on_redis() {
    flocks(Engine::Redis);
}

#[test]
fn flocks_exclude_the_other_client_on_sqlite() {
    flocks(Engine::Sqlite);
}

fn flocks(engine: Engine) {
    let (volume, ours, theirs) = both(engine, &[]);
    for (holder, waiter) in [(&ours, &theirs), (&theirs, &ours)] {
        let (held, wanted) = (open(holder, "f"), open(waiter, "f"));
        held.lock_shared().expect("locked");
        wanted.try_lock_shared().expect("readers share");
        assert!(matches!(wanted.try_lock(), Err(TryLockError::WouldBlock)), "a reader is in the way");
        wanted.unlock().expect("unlocked");
        held.lock().expect("the only one");
        let waiting = thread::spawn(move || wanted.lock().map(|()| wanted));
        pause(Duration::from_millis(300));
        assert!(!waiting.is_finished(), "waits for the other client");
        held.unlock().expect("unlocked");
        let wanted = waiting.join().expect("no panic").expect("locked");
        assert!(matches!(held.try_lock_shared(), Err(TryLockError::WouldBlock)));
        drop(wanted);
        soon("the last close unlocks", || held.try_lock().is_ok());
    }
    ours.unmount();
    theirs.unmount();
    volume.assert_sound();
}

fn lock(kind: i32, start: i64, len: i64) -> libc::flock {
    let short = |number: i32| i16::try_from(number).expect("a small number");
    libc::flock { l_type: short(kind), l_whence: short(libc::SEEK_SET), l_start: start, l_len: len, l_pid: 0 }
}

fn set(file: &File, kind: i32, start: i64, len: i64) -> Result<(), Errno> {
    fcntl(file, FcntlArg::F_SETLK(&lock(kind, start, len))).map(|_| ())
}

/// The kind, start and length of what keeps somebody from writing there.
fn in_the_way(file: &File, start: i64, len: i64) -> Option<(i32, i64, i64)> {
    let mut found = lock(libc::F_WRLCK, start, len);
    fcntl(file, FcntlArg::F_GETLK(&mut found)).unwrap_or_else(|error| panic!("{}: {error}", file.as_raw_fd()));
    let kind = i32::from(found.l_type);
    (kind != libc::F_UNLCK).then_some((kind, found.l_start, found.l_len))
}

#[test]
fn ranges_exclude_the_other_client_on_redis() {
    ranges(Engine::Redis);
}

#[test]
fn ranges_exclude_the_other_client_on_sqlite() {
    ranges(Engine::Sqlite);
}

fn ranges(engine: Engine) {
    let (volume, ours, theirs) = both(engine, &[]);
    for (holder, asker) in [(&ours, &theirs), (&theirs, &ours)] {
        let (held, asking) = (open(holder, "f"), open(asker, "f"));
        set(&held, libc::F_RDLCK, 0, 100).expect("locked");
        set(&held, libc::F_WRLCK, 40, 20).expect("the middle becomes another");
        set(&held, libc::F_UNLCK, 80, 10).expect("a hole");
        set(&held, libc::F_WRLCK, 1000, 0).expect("to the end");
        for (start, expected) in [
            (0, Some((libc::F_RDLCK, 0, 40))),
            (40, Some((libc::F_WRLCK, 40, 20))),
            (60, Some((libc::F_RDLCK, 60, 20))),
            (80, None),
            (90, Some((libc::F_RDLCK, 90, 10))),
            (100, None),
            (2000, Some((libc::F_WRLCK, 1000, 0))),
        ] {
            assert_eq!(in_the_way(&asking, start, 1), expected, "byte {start}");
        }
        assert_eq!(set(&asking, libc::F_RDLCK, 50, 1), Err(Errno::EAGAIN));
        set(&asking, libc::F_RDLCK, 0, 40).expect("readers share");
        // POSIX: any close of the file by the process. The Go client only looks at the descriptor that locked.
        drop(if std::ptr::eq(holder, &ours) { open(holder, "f") } else { held });
        soon("a close unlocks", || in_the_way(&asking, 0, 0).is_none());
    }
    ours.unmount();
    theirs.unmount();
    volume.assert_sound();
}

/// u8 version 2, three zero bytes, then (tag, permissions, id).
fn list(entries: &[(u16, u16, u32)]) -> Vec<u8> {
    let entries = entries.iter().flat_map(|(tag, granted, id)| {
        [tag.to_ne_bytes().as_slice(), &granted.to_ne_bytes(), &id.to_ne_bytes()].concat()
    });
    [2, 0, 0, 0].into_iter().chain(entries).collect()
}

#[test]
fn both_read_and_share_access_lists_on_redis() {
    let (volume, ours, theirs) = both(Engine::Redis, &["--enable-acl"]);
    access_lists(&ours, &theirs);
    let redis = volume.redis.as_ref().expect("a server");
    let last = redis.ask("SELECT 1\r\nGET aclMaxId");
    assert!(last.contains("\r\n2\r\n"), "two rules, and each client uses those of the other: {last:?}");
    ours.unmount();
    theirs.unmount();
    volume.assert_sound();
}

#[test]
fn both_read_and_share_access_lists_on_sqlite() {
    let (volume, ours, theirs) = both(Engine::Sqlite, &["--enable-acl"]);
    access_lists(&ours, &theirs);
    ours.unmount();
    theirs.unmount();
    volume.assert_sound();
}

fn access_lists(ours: &Mount, theirs: &Mount) {
    const NOBODY: u32 = u32::MAX;
    let rule =
        list(&[(1, 7, NOBODY), (2, 7, 1000), (4, 5, NOBODY), (8, 4, 2000), (0x10, 6, NOBODY), (0x20, 5, NOBODY)]);
    let get = |path: &Path, name| xattr::get(path, name).expect("read").unwrap_or_default();
    for (writer, reader, name) in [(ours, theirs, "ours"), (theirs, ours, "theirs")] {
        let (written, read) = (writer.path().join(name), reader.path().join(name));
        std::fs::create_dir(&written).expect("made");
        xattr::set(&written, "system.posix_acl_default", &rule).expect("set");
        assert_eq!(get(&read, "system.posix_acl_default"), rule);
        std::fs::write(written.join("file"), "x").expect("written");
        let inherited = get(&written.join("file"), "system.posix_acl_access");
        assert_eq!(get(&read.join("file"), "system.posix_acl_access"), inherited);
        std::fs::write(read.join("other"), "x").expect("written");
        assert_eq!(
            get(&read.join("other"), "system.posix_acl_access"),
            inherited,
            "the other client inherits the same"
        );
    }
}
