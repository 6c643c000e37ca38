//! Copies and compactions: what they leave in the store, and what readers see meanwhile.

use std::sync::Arc;
use std::time::Duration;

use stead_base::{Errno, Ino};
use stead_meta::ops::MetaOptions;
use stead_meta::records::Slice;
use stead_object::{Failing, Fault, ObjectStore, Op, Rule};
use tokio_util::sync::CancellationToken;

use super::{BLOCK, Rig};
use crate::{CopyRange, HandleId, VfsConfig, compact_tree};

/// A file of `count` slices of one block each, one behind the other.
async fn in_slices(rig: &Rig, name: &str, count: u8) -> (Ino, HandleId) {
    let (ino, fh) = rig.create(name).await;
    for n in 0..count {
        rig.write(fh, u64::from(n) * u64::from(BLOCK), &vec![n + 1; BLOCK as usize]).await;
        rig.flush(fh).await.unwrap();
    }
    (ino, fh)
}

async fn objects(rig: &Rig) -> usize {
    rig.objects.list("", "", 1000).await.unwrap().len()
}

async fn records(rig: &Rig, ino: Ino) -> Vec<Slice> {
    rig.meta.chunk(ino, 0).await.unwrap()
}

fn whole(from: HandleId, to: HandleId, to_offset: u64, length: u64) -> CopyRange {
    CopyRange { from, from_offset: 0, to, to_offset, length, flags: 0 }
}

#[tokio::test]
async fn a_copy_sees_what_is_not_committed_and_moves_no_data() {
    let rig = Rig::new().await;
    let ((_, from), (ino, to)) = (rig.create("from").await, rig.create("to").await);
    rig.write(from, 0, &vec![7; BLOCK as usize]).await;
    rig.write(to, 10, b"older").await;
    let copied = rig.vfs.copy_file_range(&rig.caller, whole(from, to, 10, u64::from(BLOCK))).await;
    assert_eq!(copied, Ok(u64::from(BLOCK)));
    assert_eq!(objects(&rig).await, 2, "the source's block and that of the older bytes");
    assert_eq!(rig.length(ino).await, u64::from(BLOCK) + 10);
    assert_eq!(rig.read(to, 8, 4).await, [0, 0, 7, 7][..]);
    rig.close(from).await.unwrap();
    rig.vfs.unlink(&rig.caller, Ino::ROOT, b"from").await.unwrap();
    rig.meta.finish_deletions(&Default::default()).await.unwrap();
    assert_eq!(rig.read(to, 12, BLOCK).await, vec![7; BLOCK as usize - 2], "the copy outlives its source");
}

#[tokio::test]
async fn a_copy_between_wrong_handles_is_refused() {
    let rig = Rig::new().await;
    let (ino, fh) = rig.create("a").await;
    rig.write(fh, 0, b"data").await;
    let read_only = rig.vfs.open(&rig.caller, ino, libc::O_RDONLY).await.unwrap().fh;
    let write_only = rig.vfs.open(&rig.caller, ino, libc::O_WRONLY).await.unwrap().fh;
    for range in [whole(write_only, fh, 10, 2), whole(fh, read_only, 10, 2), whole(fh, 99, 10, 2)] {
        assert_eq!(rig.vfs.copy_file_range(&rig.caller, range).await, Err(Errno::EBADF), "{range:?}");
    }
    assert_eq!(rig.vfs.copy_file_range(&rig.caller, whole(fh, fh, 2, 4)).await, Err(Errno::EINVAL));
}

#[tokio::test]
async fn a_compaction_leaves_one_slice_and_nothing_else() {
    let rig = Rig::new().await;
    let (ino, fh) = in_slices(&rig, "a", 4).await;
    rig.write(fh, 100, &[99; 50]).await;
    rig.flush(fh).await.unwrap();
    let before = rig.read(fh, 0, 4 * BLOCK).await;
    assert_eq!(rig.vfs.compact(ino, 0).await.map_err(|error| error.to_string()), Ok(true));
    assert_eq!(records(&rig, ino).await.len(), 1);
    assert_eq!(objects(&rig).await, 4, "the blocks of the new slice");
    assert_eq!(rig.read(fh, 0, 5 * BLOCK).await, before);
}

#[tokio::test]
async fn a_reader_with_an_old_view_finds_the_new_slice() {
    let rig = Rig::new().await;
    let (ino, _fh) = in_slices(&rig, "a", 4).await;
    let other = rig.second().await;
    let theirs = other.open(ino).await;
    assert_eq!(other.read(theirs, 0, 1).await, [1][..]);
    rig.vfs.compact(ino, 0).await.unwrap();
    let last = other.read(theirs, 3 * u64::from(BLOCK), BLOCK).await;
    assert_eq!(last, vec![4; BLOCK as usize], "the blocks that its view names are gone");
}

#[tokio::test(start_paused = true)]
async fn a_slow_reader_outlasts_any_number_of_compactions() {
    let rig = Rig::new().await;
    let (ino, fh) = in_slices(&rig, "a", 2).await;
    let slow = Arc::new(Failing::new(Arc::clone(&rig.objects) as Arc<dyn ObjectStore>));
    slow.add(Rule::on(Op::Get).fault(Fault::Delay(Duration::from_millis(50))));
    let reader = Rig::mount(Arc::clone(&rig.store), slow, VfsConfig::default(), MetaOptions::default()).await;
    let theirs = reader.open(ino).await;
    let compactions = async {
        for n in 0..20 {
            rig.write(fh, 10, &[n; 10]).await;
            rig.flush(fh).await.unwrap();
            rig.vfs.compact(ino, 0).await.unwrap();
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    let (read, ()) = tokio::join!(reader.read(theirs, 0, 1), compactions);
    assert_eq!(read, [1][..], "however often the blocks are gone when it is their turn");
}

#[tokio::test]
async fn a_block_that_is_not_there_is_looked_for_only_so_often() {
    let rig = Rig::new().await;
    let (ino, _fh) = in_slices(&rig, "a", 1).await;
    let [object] = &rig.objects.list("", "", 10).await.unwrap()[..] else { panic!("one block") };
    rig.objects.delete(&object.key).await.unwrap();
    let other = rig.second().await;
    let theirs = other.open(ino).await;
    assert_eq!(other.vfs.read(&other.caller, theirs, 0, 1).await, Err(Errno::EIO));
}

#[tokio::test]
async fn reading_a_chunk_of_many_records_compacts_it() {
    let rig = Rig::new().await;
    let (ino, fh) = in_slices(&rig, "a", 5).await;
    assert_eq!(rig.read(fh, 0, 1).await, [1][..]);
    while records(&rig, ino).await.len() > 1 {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn writing_compacts_after_a_hundred_records() {
    let rig = Rig::new().await;
    let (ino, fh) = rig.create("a").await;
    for n in 0..99 {
        rig.write(fh, n * 100, &[1; 100]).await;
        rig.flush(fh).await.unwrap();
    }
    while records(&rig, ino).await.len() > 1 {
        tokio::task::yield_now().await;
    }
    assert_eq!(rig.read(fh, 0, 99_000).await, vec![1; 9900]);
}

#[tokio::test]
async fn a_compaction_that_fails_leaves_everything() {
    let rig = Rig::new().await;
    let (ino, fh) = in_slices(&rig, "a", 4).await;
    let before = records(&rig, ino).await;
    rig.objects.add(Rule::on(Op::Put).skip(2));
    rig.vfs.compact(ino, 0).await.expect_err("the store does not take the third block");
    rig.objects.heal();
    assert_eq!(records(&rig, ino).await, before);
    assert_eq!(objects(&rig).await, 4, "what was uploaded is gone again");
    assert_eq!(rig.read(fh, 3 * u64::from(BLOCK), 1).await, [4][..]);
}

#[tokio::test]
async fn a_tree_is_compacted() {
    let rig = Rig::new().await;
    for name in ["a", "b", "c"] {
        in_slices(&rig, name, 3).await;
    }
    let stop = CancellationToken::new();
    let (done, failures) = compact_tree(&rig.meta, &rig.chunks, Ino::ROOT, &stop, &|_chunk| ()).await.unwrap();
    assert_eq!((done.chunks, done.records, done.bytes, failures), (3, 9, 9 * u64::from(BLOCK), 0));
    assert_eq!(objects(&rig).await, 9);
}

/// Two clients write, copy and compact one file, a third one reads all the time: nobody ever meets a missing block.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn nobody_meets_a_missing_block() {
    let rig = Rig::new().await;
    let (ino, fh) = in_slices(&rig, "a", 6).await;
    let (second, third) = (rig.second().await, rig.second().await);
    let (theirs, reads) = (second.open(ino).await, third.open(ino).await);
    let block = u64::from(BLOCK);
    let writer = async {
        for n in 0..200_u64 {
            rig.write(fh, n * 7919 % (6 * block), &[n as u8; 5000]).await;
            rig.flush(fh).await.unwrap();
            let range = CopyRange { from_offset: n * 1000 % block, ..whole(fh, fh, 3 * block + n * 31 % block, 9000) };
            rig.vfs.copy_file_range(&rig.caller, range).await.unwrap();
        }
    };
    let compactor = async {
        for n in 0..100_u64 {
            second.write(theirs, n * 104_729 % (6 * block), &[n as u8; 300]).await;
            second.flush(theirs).await.unwrap();
            // Losing the race against the other client is no failure of the volume.
            let _ = second.vfs.compact(ino, 0).await;
        }
    };
    let reader = async {
        for n in 0..400_u64 {
            third.read(reads, n * 65_537 % (5 * block), BLOCK).await;
        }
    };
    tokio::join!(writer, compactor, reader);
    rig.vfs.compact(ino, 0).await.unwrap();
    let (ours, others) = (rig.open(ino).await, third.open(ino).await);
    assert_eq!(rig.read(ours, 0, 6 * BLOCK).await, third.read(others, 0, 6 * BLOCK).await);
}
