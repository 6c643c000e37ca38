//! Locks of open files: between mounts, with waiting, and what gives them back.

use std::time::Duration;

use stead_base::{Errno, Ino};
use stead_meta::ops::MetaOptions;

use super::{RDWR, Rig};
use crate::{FlockRequest, HandleId, LOCK_EOF, LockKind, VfsConfig};

const WRITE: Option<LockKind> = Some(LockKind::Write);
const READ: Option<LockKind> = Some(LockKind::Read);

impl Rig {
    async fn lock(&self, fh: HandleId, owner: u64, kind: Option<LockKind>, wait: bool) -> crate::Result<()> {
        self.vfs.set_lock(&self.caller, fh, owner, kind, (0, LOCK_EOF), 7, wait).await
    }

    async fn flock(&self, fh: HandleId, request: FlockRequest, wait: bool) -> crate::Result<()> {
        self.vfs.flock(&self.caller, fh, 0xABCD, request, wait).await
    }

    async fn is_free(&self, fh: HandleId) -> bool {
        self.vfs.get_lock(&self.caller, fh, 99, LockKind::Write, (0, LOCK_EOF)).await.unwrap().is_none()
    }
}

async fn two() -> (Rig, Rig, Ino, HandleId, HandleId) {
    let a = Rig::new().await;
    let b = a.second().await;
    let (ino, fh) = a.create("f").await;
    let other = b.open(ino).await;
    (a, b, ino, fh, other)
}

/// Long enough for a wait that could end to have ended.
async fn a_while() {
    tokio::time::sleep(Duration::from_millis(200)).await;
}

#[tokio::test]
async fn a_lock_of_another_mount_is_waited_for() {
    let (a, b, _ino, fh, other) = two().await;
    a.lock(fh, 1, WRITE, false).await.unwrap();
    assert_eq!(b.lock(other, 1, READ, false).await, Err(Errno::EAGAIN));
    let waiting = tokio::spawn(async move { (b.lock(other, 1, READ, true).await, b) });
    a_while().await;
    assert!(!waiting.is_finished());
    a.lock(fh, 1, None, false).await.unwrap();
    let (granted, b) = waiting.await.unwrap();
    assert_eq!(granted, Ok(()));
    assert_eq!(a.lock(fh, 1, WRITE, false).await, Err(Errno::EAGAIN));
    b.lock(other, 1, None, false).await.unwrap();
}

#[tokio::test]
async fn a_wait_that_is_given_up_leaves_no_lock() {
    let (a, b, _ino, fh, other) = two().await;
    a.flock(fh, FlockRequest::Write, false).await.unwrap();
    for after in [0, 1, 5, 40] {
        let wait = b.flock(other, FlockRequest::Write, true);
        assert!(tokio::time::timeout(Duration::from_millis(after), wait).await.is_err());
    }
    a.flock(fh, FlockRequest::Unlock, false).await.unwrap();
    a_while().await;
    a.flock(fh, FlockRequest::Write, false).await.unwrap();
}

#[tokio::test]
async fn a_lock_that_was_granted_to_nobody_is_given_back() {
    let (a, b, _ino, fh, other) = two().await;
    // Dropped after its first poll: the question is on its way to the engine, the lock is free.
    let mut wait = Box::pin(b.lock(other, 1, WRITE, true));
    assert!(futures::poll!(wait.as_mut()).is_pending());
    drop(wait);
    a_while().await;
    assert!(a.is_free(fh).await);
}

#[tokio::test]
async fn two_readers_that_want_to_write_do_not_wait_for_each_other() {
    let (a, b, _ino, fh, other) = two().await;
    a.flock(fh, FlockRequest::Read, false).await.unwrap();
    b.flock(other, FlockRequest::Read, false).await.unwrap();
    let second = async {
        b.flock(other, FlockRequest::Write, true).await.unwrap();
        b.flock(other, FlockRequest::Unlock, false).await.unwrap();
    };
    let first = async {
        a.flock(fh, FlockRequest::Write, true).await.unwrap();
        a.flock(fh, FlockRequest::Unlock, false).await.unwrap();
    };
    let both = Box::pin(async { tokio::join!(first, second) });
    tokio::time::timeout(Duration::from_secs(10), both).await.expect("one after the other");
}

#[tokio::test]
async fn any_close_of_a_process_gives_its_ranges_back() {
    let (a, b, ino, fh, other) = two().await;
    let second = a.open(ino).await;
    a.lock(fh, 1, WRITE, false).await.unwrap();
    a.lock(fh, 2, None, false).await.unwrap();
    a.vfs.flush(&a.caller, second, 2).await.unwrap();
    assert!(!b.is_free(other).await, "another process closes");
    a.vfs.flush(&a.caller, second, 1).await.unwrap();
    assert!(b.is_free(other).await, "the process closes another descriptor of the file");
}

#[tokio::test]
async fn the_last_close_gives_back_what_belongs_to_the_open_file() {
    let (a, b, _ino, fh, other) = two().await;
    a.flock(fh, FlockRequest::Write, false).await.unwrap();
    a.lock(fh, 0xF11E, WRITE, false).await.unwrap();
    a.vfs.flush(&a.caller, fh, 1).await.unwrap();
    assert!(!b.is_free(other).await, "the owner is the open file, not a process");
    a.vfs.release(&a.caller, fh).await.unwrap();
    assert!(b.is_free(other).await);
    b.flock(other, FlockRequest::Write, false).await.unwrap();
}

#[tokio::test]
async fn what_was_written_under_a_lock_is_seen_under_the_next() {
    let (a, b, ino, fh, other) = two().await;
    assert_eq!(b.length(ino).await, 0);
    a.lock(fh, 1, WRITE, false).await.unwrap();
    a.write(fh, 0, b"hello").await;
    a.lock(fh, 1, None, false).await.unwrap();
    b.lock(other, 1, READ, false).await.unwrap();
    assert_eq!((b.length(ino).await, b.read(other, 0, 10).await), (5, "hello".into()));
}

#[tokio::test]
async fn a_mount_without_a_session_leaves_locks_to_the_kernel() {
    let (a, _b, ino, _fh, _other) = two().await;
    let options = MetaOptions { read_only: true, ..MetaOptions::default() };
    let reader = Rig::mount(a.store, a.objects, VfsConfig::default(), options).await;
    assert!(a.vfs.enable_locks() && !reader.vfs.enable_locks());
    let fh = reader.vfs.open(&reader.caller, ino, libc::O_RDONLY).await.unwrap().fh;
    assert_eq!(reader.flock(fh, FlockRequest::Read, false).await, Err(Errno::ENOLCK));
}

#[tokio::test]
async fn flags_are_set_and_shown_as_chattr_has_them() {
    let rig = Rig::new().await;
    let (ino, _fh) = rig.create("off").await;
    assert_eq!(rig.vfs.ioctl(&rig.caller, ino, 0x8008_6601, &[], 8).await, Err(Errno::ENOTTY));
    let config = VfsConfig { enable_ioctl: true, ..VfsConfig::default() };
    let rig = Rig::with(config, MetaOptions::default()).await;
    let (vfs, caller, (ino, fh)) = (&rig.vfs, &rig.caller, rig.create("f").await);
    let set = |flags: u32| async move { vfs.ioctl(caller, ino, 0x4008_6602, &flags.to_ne_bytes(), 0).await };
    set(0x31).await.unwrap();
    let shown = vfs.ioctl(caller, ino, 0x8008_6601, &[], 4).await.unwrap();
    assert_eq!(shown.as_ref(), 0x31_u32.to_ne_bytes());
    let shown = vfs.ioctl(caller, ino, 0x801C_581F, &[], 28).await.unwrap();
    assert_eq!((shown.len(), shown[0]), (28, 0x18));
    assert_eq!(vfs.write(caller, fh, 0, b"x").await, Err(Errno::EPERM), "also through a handle that is open");
    set(0x20).await.unwrap();
    assert_eq!(vfs.write(caller, fh, 0, b"x").await, Err(Errno::EPERM));
    let appending = vfs.open(caller, ino, RDWR | libc::O_APPEND).await.unwrap().fh;
    rig.write(appending, 0, b"x").await;
    assert_eq!(set(0x80).await, Err(Errno::ENOTSUP));
    assert_eq!(vfs.ioctl(caller, ino, 0x4008_6602, &[0; 3], 0).await, Err(Errno::EINVAL));
    set(0).await.unwrap();
    rig.write(fh, 0, b"y").await;
}

#[tokio::test]
async fn a_file_without_a_name_is_written_and_read() {
    let rig = Rig::new().await;
    let made = rig.vfs.tmpfile(&rig.caller, Ino::ROOT, (0o600, 0), RDWR).await.unwrap();
    let (ino, fh) = (made.0.attributes.ino, made.1.fh);
    rig.write(fh, 0, b"secret").await;
    assert_eq!(rig.read(fh, 0, 10).await, "secret");
    rig.close(fh).await.unwrap();
    assert_eq!(rig.vfs.getattr(&rig.caller, ino).await.unwrap_err(), Errno::ENOENT);
}
