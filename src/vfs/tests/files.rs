//! Reading and writing.

use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt as _;
use futures::future::BoxFuture;
use parking_lot::Mutex;
use stead_base::{Errno, Ino};
use stead_meta::ops::{SetAttr, SetTime, fallocate_mode};
use stead_meta::records::{CHUNK_SIZE, MAX_FILE_SIZE};

use super::{BLOCK, RDWR, Rig};
use crate::{KernelCache, VfsConfig};

#[tokio::test]
async fn a_write_is_read_back_before_and_after_it_is_committed() {
    let rig = Rig::new().await;
    let (ino, fh) = rig.create("a").await;
    rig.write(fh, 0, b"hello ").await;
    rig.write(fh, 6, b"world").await;
    assert_eq!(rig.meta.getattr(ino).await.unwrap().length, 0, "nothing is committed yet");
    assert_eq!(rig.length(ino).await, 11);
    assert_eq!(rig.read(fh, 0, 100).await, "hello world");
    rig.flush(fh).await.unwrap();
    assert_eq!(rig.meta.getattr(ino).await.unwrap().length, 11);
    assert_eq!(rig.meta.chunk(ino, 0).await.unwrap().len(), 1, "one slice for one run of writes");
    assert_eq!(rig.read(fh, 6, 100).await, "world");
    assert_eq!(rig.read(fh, 11, 100).await, "");
    rig.close(fh).await.unwrap();
    assert_eq!(rig.vfs.open_handles(), 0);
}

#[tokio::test]
async fn uncommitted_data_lies_over_committed_data() {
    let rig = Rig::new().await;
    let (_, fh) = rig.create("a").await;
    rig.write(fh, 0, &[1; 1000]).await;
    rig.flush(fh).await.unwrap();
    rig.write(fh, 100, &[2; 100]).await;
    rig.write(fh, 150, &[3; 10]).await;
    rig.write(fh, 2000, &[4; 10]).await;
    let all = rig.read(fh, 0, 4000).await;
    assert_eq!(all.len(), 2010);
    for (range, value) in [(0..100, 1), (100..150, 2), (150..160, 3), (160..200, 2), (200..1000, 1), (1000..2000, 0)] {
        assert!(all[range.clone()].iter().all(|byte| *byte == value), "{range:?}");
    }
    assert_eq!(all[2000..], [4; 10]);
}

#[tokio::test]
async fn a_younger_write_wins_however_slices_are_arranged() {
    let rig = Rig::new().await;
    let (ino, fh) = rig.create("a").await;
    rig.write(fh, 0, &[1; 100]).await;
    rig.write(fh, 200, &[2; 100]).await;
    // Continues the first slice, but the second one lies in its way.
    rig.write(fh, 100, &[3; 150]).await;
    rig.flush(fh).await.unwrap();
    let all = rig.read(fh, 0, 1000).await;
    assert_eq!((all[99], all[100], all[249], all[250], all.len()), (1, 3, 3, 2, 300));
    assert_eq!(rig.meta.chunk(ino, 0).await.unwrap().len(), 3);
}

#[tokio::test]
async fn another_client_sees_what_was_closed() {
    let rig = Rig::new().await;
    let other = rig.second().await;
    let (ino, fh) = rig.create("a").await;
    rig.write(fh, 0, &vec![7; 3 * BLOCK as usize + 5]).await;
    rig.close(fh).await.unwrap();
    let theirs = other.open(ino).await;
    assert_eq!(other.read(theirs, 0, 4 * BLOCK).await, vec![7; 3 * BLOCK as usize + 5]);
    other.write(theirs, 1, b"x").await;
    other.close(theirs).await.unwrap();
    let fh = rig.open(ino).await;
    assert_eq!(rig.read(fh, 0, 3).await[..], [7, b'x', 7]);
}

#[tokio::test]
async fn an_open_file_notices_what_another_client_appended() {
    let config = VfsConfig { attr_cache: Duration::ZERO, ..VfsConfig::default() };
    let rig = Rig::with(config, Default::default()).await;
    let other = rig.second().await;
    let (ino, fh) = rig.create("log").await;
    rig.write(fh, 0, b"one").await;
    rig.flush(fh).await.unwrap();
    assert_eq!(rig.read(fh, 0, 10).await, "one");
    let theirs = other.open(ino).await;
    other.write(theirs, 3, b"two").await;
    other.close(theirs).await.unwrap();
    assert_eq!(rig.length(ino).await, 6, "getattr asks the engine");
    assert_eq!(rig.read(fh, 0, 10).await, "onetwo");
}

#[tokio::test]
async fn writes_across_a_chunk_border_are_one_file() {
    let rig = Rig::new().await;
    let (ino, fh) = rig.create("a").await;
    rig.write(fh, CHUNK_SIZE - 10, &[5; 30]).await;
    rig.close(fh).await.unwrap();
    let fh = rig.open(ino).await;
    let all = rig.read(fh, CHUNK_SIZE - 20, 100).await;
    assert_eq!(all[..], [vec![0; 10], vec![5; 30]].concat());
    assert_eq!(rig.read(fh, 0, 10).await[..], [0; 10]);
}

#[tokio::test]
async fn truncation_cuts_what_was_not_committed() {
    let rig = Rig::new().await;
    let (ino, fh) = rig.create("a").await;
    rig.write(fh, 0, &[9; 100]).await;
    let cut = rig.vfs.setattr(&rig.caller, ino, SetAttr::default(), Some(10)).await.unwrap();
    assert_eq!(cut.attr.length, 10);
    rig.write(fh, 20, &[8; 5]).await;
    assert_eq!(rig.read(fh, 0, 100).await[..], [vec![9; 10], vec![0; 10], vec![8; 5]].concat());
    let empty = rig.vfs.open(&rig.caller, ino, RDWR | libc::O_TRUNC).await.unwrap();
    assert_eq!(rig.read(empty.fh, 0, 100).await, "");
}

#[tokio::test]
async fn a_time_that_was_set_outlives_the_commit() {
    let rig = Rig::new().await;
    let (ino, fh) = rig.create("a").await;
    rig.write(fh, 0, b"x").await;
    let then = stead_base::Timestamp::from_secs(1000);
    let set = SetAttr { mtime: Some(SetTime::At(then)), ..SetAttr::default() };
    assert_eq!(rig.vfs.setattr(&rig.caller, ino, set, None).await.unwrap().attr.mtime, then);
    rig.close(fh).await.unwrap();
    assert_eq!(rig.meta.getattr(ino).await.unwrap().mtime, then);
}

#[tokio::test]
async fn holes_are_punched() {
    let rig = Rig::new().await;
    let (ino, fh) = rig.create("a").await;
    rig.write(fh, 0, &[1; 100]).await;
    let mode = fallocate_mode::PUNCH_HOLE | fallocate_mode::KEEP_SIZE;
    rig.vfs.fallocate(&rig.caller, fh, mode, 10, 20).await.unwrap();
    assert_eq!(rig.read(fh, 0, 100).await[..], [vec![1; 10], vec![0; 20], vec![1; 70]].concat());
    rig.vfs.fallocate(&rig.caller, fh, 0, 0, 500).await.unwrap();
    assert_eq!(rig.length(ino).await, 500);
}

#[tokio::test]
async fn handles_allow_what_they_were_opened_for() {
    let rig = Rig::new().await;
    let (ino, fh) = rig.create("a").await;
    let reader = rig.vfs.open(&rig.caller, ino, libc::O_RDONLY).await.unwrap().fh;
    let writer = rig.vfs.open(&rig.caller, ino, libc::O_WRONLY).await.unwrap().fh;
    assert_eq!(rig.vfs.write(&rig.caller, reader, 0, b"x").await, Err(Errno::EBADF));
    assert_eq!(rig.vfs.read(&rig.caller, writer, 0, 1).await, Err(Errno::EBADF));
    assert_eq!(rig.vfs.read(&rig.caller, 4711, 0, 1).await, Err(Errno::EBADF));
    assert_eq!(rig.vfs.write(&rig.caller, fh, MAX_FILE_SIZE - 1, b"x").await, Err(Errno::EFBIG));
    assert_eq!(rig.vfs.write(&rig.caller, fh, u64::MAX, b"x").await, Err(Errno::EFBIG));
}

#[tokio::test]
async fn an_unlinked_file_lives_as_long_as_it_is_open() {
    let rig = Rig::new().await;
    let (ino, fh) = rig.create("a").await;
    rig.write(fh, 0, b"still").await;
    rig.vfs.unlink(&rig.caller, Ino::ROOT, b"a").await.unwrap();
    rig.write(fh, 5, b" here").await;
    rig.flush(fh).await.unwrap();
    assert_eq!(rig.read(fh, 0, 100).await, "still here");
    assert_eq!(rig.vfs.getattr(&rig.caller, ino).await.unwrap().attr.nlink, 0);
    rig.close(fh).await.unwrap();
    assert_eq!(rig.vfs.getattr(&rig.caller, ino).await.unwrap_err(), Errno::ENOENT);
}

#[tokio::test]
async fn a_renamed_file_keeps_its_handle() {
    let rig = Rig::new().await;
    let (_, fh) = rig.create("a").await;
    rig.write(fh, 0, b"one").await;
    rig.vfs.rename(&rig.caller, (Ino::ROOT, b"a"), (Ino::ROOT, b"b"), 0).await.unwrap();
    rig.write(fh, 3, b"two").await;
    rig.close(fh).await.unwrap();
    let found = rig.vfs.lookup(&rig.caller, Ino::ROOT, b"b").await.unwrap();
    assert_eq!(found.attributes.attr.length, 6);
}

#[tokio::test]
async fn pages_are_kept_while_nothing_changed() {
    let rig = Rig::new().await;
    let (ino, fh) = rig.create("a").await;
    rig.write(fh, 0, b"x").await;
    rig.close(fh).await.unwrap();
    let mut kept = Vec::new();
    for _ in 0..2 {
        let opened = rig.vfs.open(&rig.caller, ino, libc::O_RDONLY).await.unwrap();
        kept.push(opened.keep_cache);
        rig.close(opened.fh).await.unwrap();
    }
    let other = rig.second().await;
    let theirs = other.open(ino).await;
    other.write(theirs, 0, b"y").await;
    other.close(theirs).await.unwrap();
    kept.push(rig.vfs.open(&rig.caller, ino, libc::O_RDONLY).await.unwrap().keep_cache);
    assert_eq!(kept, [true, true, false], "our own write is in the kernel's pages, theirs is not");
}

#[tokio::test]
async fn an_open_may_reuse_attributes_for_as_long_as_it_is_told_to() {
    for (open_cache, seen) in [(Duration::ZERO, 2), (Duration::from_secs(60), 1)] {
        let rig = Rig::with(VfsConfig { open_cache, ..VfsConfig::default() }, Default::default()).await;
        let (ino, fh) = rig.create("a").await;
        rig.write(fh, 0, b"x").await;
        rig.close(fh).await.unwrap();
        rig.close(rig.open(ino).await).await.unwrap();
        let other = rig.second().await;
        let theirs = other.open(ino).await;
        other.write(theirs, 0, b"yy").await;
        other.close(theirs).await.unwrap();
        let ours = rig.open(ino).await;
        assert_eq!(rig.read(ours, 0, 9).await.len(), seen, "{open_cache:?}");
        // A change of our own is never missed.
        rig.write(ours, 0, b"zzz").await;
        rig.close(ours).await.unwrap();
        let ours = rig.open(ino).await;
        assert_eq!(rig.read(ours, 0, 9).await, "zzz");
    }
}

/// A kernel that notes which inodes it is to forget.
#[derive(Default)]
struct Forgetful(Mutex<Vec<Ino>>);

impl KernelCache for Forgetful {
    fn forget_inode(&self, ino: Ino) -> BoxFuture<'static, ()> {
        self.0.lock().push(ino);
        std::future::ready(()).boxed()
    }

    fn forget_entry(&self, _parent: Ino, _name: &[u8]) {}
}

#[tokio::test]
async fn nothing_is_kept_of_open_files_once_changes_may_have_been_missed() {
    let config = VfsConfig { attr_cache: Duration::from_secs(3600), ..VfsConfig::default() };
    let rig = Rig::with(config, Default::default()).await;
    let (ino, fh) = rig.create("open").await;
    let (_ino, closed) = rig.create("closed").await;
    rig.close(closed).await.unwrap();
    rig.write(fh, 0, b"ours").await;
    rig.flush(fh).await.unwrap();
    assert_eq!(rig.read(fh, 0, 10).await, "ours");
    let kernel = Arc::new(Forgetful::default());
    rig.vfs.set_kernel_cache(Arc::<Forgetful>::clone(&kernel));
    let other = rig.second().await;
    let theirs = other.open(ino).await;
    other.write(theirs, 0, b"theirs").await;
    other.close(theirs).await.unwrap();
    assert_eq!(rig.length(ino).await, 4, "nobody has told us");
    rig.vfs.everything_changed().await;
    assert_eq!(*kernel.0.lock(), [ino], "its pages go, those of a closed file are checked when it is opened");
    assert_eq!(rig.length(ino).await, 6);
    assert_eq!(rig.read(fh, 0, 10).await, "theirs");
}

#[tokio::test]
async fn data_that_waits_is_committed_by_itself() {
    let config = VfsConfig { flush_idle: Duration::from_millis(10), ..VfsConfig::default() };
    let rig = Rig::with(config, Default::default()).await;
    let (ino, fh) = rig.create("a").await;
    rig.write(fh, 0, b"waiting").await;
    let committed = async {
        while rig.meta.getattr(ino).await.unwrap().length < 7 {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), committed).await.expect("the write-back commits it");
    assert_eq!(rig.read(fh, 0, 10).await, "waiting");
}

#[tokio::test]
async fn many_scattered_writes_do_not_pile_up() {
    let config = VfsConfig { max_open_slices: 4, ..VfsConfig::default() };
    let rig = Rig::with(config, Default::default()).await;
    let (ino, fh) = rig.create("a").await;
    for n in 0..50u64 {
        rig.write(fh, n * 1000, &[u8::try_from(n).unwrap(); 10]).await;
    }
    rig.flush(fh).await.unwrap();
    assert_eq!(rig.length(ino).await, 49 * 1000 + 10);
    for n in 0..50u64 {
        assert_eq!(rig.read(fh, n * 1000, 10).await[..], [u8::try_from(n).unwrap(); 10]);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn writers_at_the_same_time_do_not_mix() {
    let rig = Arc::new(Rig::new().await);
    let (ino, _fh) = rig.create("a").await;
    let span = 5 * u64::from(BLOCK) + 123;
    let writers: Vec<_> = (0..8u8)
        .map(|n| {
            let rig = Arc::clone(&rig);
            tokio::spawn(async move {
                let fh = rig.open(ino).await;
                for step in 0..span / 1000 {
                    rig.write(fh, u64::from(n) * span + step * 1000, &[n + 1; 1000]).await;
                    if step % 50 == 7 {
                        rig.flush(fh).await.unwrap();
                    }
                }
                rig.close(fh).await.unwrap();
            })
        })
        .collect();
    for writer in writers {
        writer.await.unwrap();
    }
    let fh = rig.open(ino).await;
    for n in 0..8u8 {
        let all = rig.read(fh, u64::from(n) * span, u32::try_from(span / 1000 * 1000).unwrap()).await;
        assert!(all.iter().all(|byte| *byte == n + 1), "writer {n}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn more_than_fits_into_memory_can_be_written() {
    let rig = Rig::new().await;
    let (ino, fh) = rig.create("big").await;
    let part = vec![0x5A; 1 << 20];
    let total = rig.chunks.budget().limit() / (1 << 20) + 40;
    for n in 0..total {
        rig.write(fh, n << 20, &part).await;
        assert!(rig.chunks.budget().used() <= rig.chunks.budget().limit() + (4 << 20));
    }
    rig.close(fh).await.unwrap();
    assert_eq!(rig.length(ino).await, total << 20);
    assert_eq!(rig.chunks.budget().used(), 0, "nothing stays behind");
}
