//! A process dies, and another one goes on with what it left.

use stead_base::{Errno, Ino};

use super::{RDWR, Rig};
use crate::{Caller, FlockRequest, Inherited, NewNode, XattrFlag};

/// Asks as the kernel does after FUSE_NOTIFY_RESEND.
fn again(request: u64) -> Caller {
    Caller::root().asking(request, true)
}

#[tokio::test]
async fn handles_are_found_again_with_what_was_committed() {
    let rig = Rig::shared().await;
    let (ino, fh) = rig.create("file").await;
    rig.write(fh, 0, b"committed").await;
    rig.vfs.fsync(&rig.caller, fh, false).await.unwrap();
    let dir = rig.vfs.opendir(&rig.caller, Ino::ROOT).await.unwrap().fh;
    let closed = rig.open(ino).await;
    rig.close(closed).await.unwrap();

    let (rig, inherited) = rig.crash().await;
    assert_eq!(inherited, Inherited { handles: 2, lost: 0, gone: 0 });
    assert_eq!(rig.read(fh, 0, 100).await, "committed");
    rig.write(fh, 9, b" and more").await;
    rig.close(fh).await.unwrap();
    let mut names = Vec::new();
    let sink = |entry: crate::DirEntry<'_>| {
        names.push(entry.name.to_vec());
        false
    };
    rig.vfs.readdir(&rig.caller, dir, 0, false, sink).await.unwrap();
    assert!(names.contains(&b"file".to_vec()), "{names:?}");
    let new = rig.open(ino).await;
    assert_ne!(new, fh, "a number is never given twice");
    assert_ne!(new, closed);
    assert_eq!(rig.read(new, 0, 100).await, "committed and more");
}

#[tokio::test]
async fn lost_writes_are_told_by_whoever_wrote_them_until_close_or_fsync_has() {
    let rig = Rig::shared().await;
    let (ino, writer) = rig.create("file").await;
    rig.write(writer, 0, b"kept").await;
    rig.flush(writer).await.unwrap();
    rig.write(writer, 0, b"lost").await;
    let reader = rig.open(ino).await;
    let (_other, clean) = rig.create("other").await;
    rig.write(clean, 0, b"kept").await;
    rig.flush(clean).await.unwrap();

    let (rig, inherited) = rig.crash().await;
    assert_eq!(inherited, Inherited { handles: 3, lost: 1, gone: 0 });
    assert_eq!(rig.read(writer, 0, 9).await, "kept");
    for _attempt in 0..2 {
        assert_eq!(rig.vfs.write(&rig.caller, writer, 4, b"x").await, Err(Errno::EIO));
    }
    rig.flush(reader).await.unwrap();
    rig.close(clean).await.unwrap();

    // Nobody was told yet, so the next one still knows.
    let (rig, inherited) = rig.crash().await;
    assert_eq!(inherited.lost, 1);
    assert_eq!(rig.vfs.fsync(&rig.caller, writer, false).await, Err(Errno::EIO));
    rig.write(writer, 4, b" on").await;
    rig.vfs.fsync(&rig.caller, writer, false).await.unwrap();
    let (rig, inherited) = rig.crash().await;
    assert_eq!(inherited.lost, 0);
    assert_eq!(rig.read(writer, 0, 9).await, "kept on");
    rig.close(writer).await.unwrap();
}

#[tokio::test]
async fn one_handles_flush_says_nothing_of_what_another_wrote_later() {
    let rig = Rig::shared().await;
    let (ino, first) = rig.create("file").await;
    let second = rig.open(ino).await;
    rig.write(first, 0, b"first").await;
    rig.flush(first).await.unwrap();
    rig.write(second, 5, b"second").await;
    let (rig, inherited) = rig.crash().await;
    assert_eq!(inherited, Inherited { handles: 2, lost: 1, gone: 0 });
    rig.close(first).await.unwrap();
    assert_eq!(rig.close(second).await, Err(Errno::EIO));
}

#[tokio::test]
async fn what_took_effect_is_not_impossible_when_it_is_asked_again() {
    let rig = Rig::shared().await;
    let vfs = &rig.vfs;
    let (ino, _fh) = rig.create("file").await;
    let names: [&[u8]; 4] = [b"gone", b"gone-dir", b"old", b"there"];
    for name in names {
        vfs.mkdir(&rig.caller, Ino::ROOT, name, 0o755, 0).await.unwrap();
    }
    let made = vfs.create(&Caller::root().asking(10, false), Ino::ROOT, b"made", (0o644, 0), RDWR | libc::O_EXCL).await;
    let (made, opened) = made.unwrap();
    let dir = vfs.mkdir(&rig.caller, Ino::ROOT, b"dir", 0o755, 0).await.unwrap();
    vfs.link(&rig.caller, ino, Ino::ROOT, b"link").await.unwrap();
    vfs.rmdir(&rig.caller, Ino::ROOT, b"gone-dir").await.unwrap();
    vfs.rename(&rig.caller, (Ino::ROOT, b"old"), (Ino::ROOT, b"new"), 0).await.unwrap();
    vfs.setxattr(&rig.caller, ino, b"user.x", b"1", XattrFlag::Create).await.unwrap();
    let unnoted = vfs.create(&Caller::root(), Ino::ROOT, b"unnoted", (0o644, 0), RDWR | libc::O_EXCL).await.unwrap();
    vfs.release(&rig.caller, unnoted.1.fh).await.unwrap();

    let (rig, _) = rig.crash().await;
    let vfs = &rig.vfs;
    let flags = RDWR | libc::O_EXCL;
    let (entry, found) = vfs.create(&again(10), Ino::ROOT, b"made", (0o644, 0), flags).await.unwrap();
    assert_eq!((entry.attributes.ino, found.fh), (made.attributes.ino, opened.fh), "not opened twice");
    let (entry, _) = vfs.create(&again(11), Ino::ROOT, b"unnoted", (0o644, 0), flags).await.unwrap();
    assert_eq!(entry.attributes.ino, unnoted.0.attributes.ino);
    let entry = vfs.mkdir(&again(12), Ino::ROOT, b"dir", 0o755, 0).await.unwrap();
    assert_eq!(entry.attributes.ino, dir.attributes.ino);
    vfs.link(&again(13), ino, Ino::ROOT, b"link").await.unwrap();
    vfs.rmdir(&again(14), Ino::ROOT, b"gone-dir").await.unwrap();
    vfs.unlink(&again(15), Ino::ROOT, b"never there").await.unwrap();
    vfs.rename(&again(16), (Ino::ROOT, b"old"), (Ino::ROOT, b"new"), 0).await.unwrap();
    vfs.setxattr(&again(17), ino, b"user.x", b"1", XattrFlag::Create).await.unwrap();
    vfs.release(&again(18), 4711).await.unwrap();

    // Who asks for the first time is told what is so.
    let caller = Caller::root().asking(20, false);
    assert_eq!(vfs.mkdir(&caller, Ino::ROOT, b"dir", 0o755, 0).await.unwrap_err(), Errno::EEXIST);
    assert_eq!(vfs.rmdir(&caller, Ino::ROOT, b"gone-dir").await, Err(Errno::ENOENT));
    assert_eq!(vfs.release(&caller, 4711).await, Err(Errno::EBADF));
    // Nor is what another client made taken for ours.
    let other = rig.second().await;
    other.vfs.mknod(&other.caller, Ino::ROOT, b"theirs", NewNode::file(0o644, 0)).await.unwrap();
    assert_eq!(vfs.mkdir(&again(21), Ino::ROOT, b"theirs", 0o755, 0).await.unwrap_err(), Errno::EEXIST);
    assert_eq!(vfs.link(&again(22), ino, Ino::ROOT, b"theirs").await.unwrap_err(), Errno::EEXIST);
}

#[tokio::test]
async fn locks_and_files_without_a_name_outlive_the_process() {
    let rig = Rig::shared().await;
    let (ino, fh) = rig.create("file").await;
    rig.write(fh, 0, b"nameless").await;
    rig.flush(fh).await.unwrap();
    rig.vfs.set_lock(&rig.caller, fh, 5, Some(crate::LockKind::Write), (0, 9), 1, false).await.unwrap();
    let (_kept, locked) = rig.create("locked").await;
    rig.vfs.flock(&rig.caller, locked, 7, FlockRequest::Write, false).await.unwrap();
    rig.vfs.unlink(&rig.caller, Ino::ROOT, b"file").await.unwrap();

    let (rig, inherited) = rig.crash().await;
    assert_eq!(inherited, Inherited { handles: 2, lost: 0, gone: 0 });
    assert_eq!(rig.read(fh, 0, 100).await, "nameless");
    let other = rig.second().await;
    let theirs = other.vfs.lookup(&other.caller, Ino::ROOT, b"locked").await.unwrap().attributes.ino;
    let theirs = other.open(theirs).await;
    let lock = || other.vfs.flock(&other.caller, theirs, 1, FlockRequest::Write, false);
    assert_eq!(lock().await, Err(Errno::EAGAIN), "the lock is still held");
    rig.vfs.flock(&rig.caller, locked, 7, FlockRequest::Unlock, false).await.unwrap();
    lock().await.unwrap();

    // As close(2) of the process that locked.
    rig.vfs.flush(&rig.caller, fh, 5).await.unwrap();
    let held = rig.vfs.get_lock(&rig.caller, fh, 6, crate::LockKind::Write, (0, 9)).await.unwrap();
    assert_eq!(held, None);
    rig.vfs.release(&rig.caller, fh).await.unwrap();
    assert!(rig.meta.getattr(ino).await.is_err(), "removed with its last close");
}
