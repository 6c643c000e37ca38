//! What happens when data cannot be written back, or not be read.

use std::time::Duration;

use stead_base::{Errno, Ino, SliceId};
use stead_meta::ops::MetaOptions;
use stead_meta::records::Slice;
use stead_object::{Error, Fault, Op, Rule};

use super::{BLOCK, Rig};
use crate::VfsConfig;
use crate::flush::{Failure, MAX_ATTEMPTS};

fn full() -> Fault {
    Fault::Fail(Error::Full { store: "test".to_owned(), why: "as told".to_owned() })
}

#[tokio::test]
async fn a_failed_upload_is_told_once_and_the_data_is_kept() {
    let rig = Rig::new().await;
    let (ino, fh) = rig.create("a").await;
    rig.write(fh, 0, b"precious").await;
    rig.objects.add(Rule::on(Op::Put));
    assert_eq!(rig.flush(fh).await, Err(Errno::EIO));
    assert_eq!(rig.meta.getattr(ino).await.unwrap().length, 0, "no record without data");
    assert_eq!(rig.read(fh, 0, 100).await, "precious", "what was written can still be read");
    rig.objects.heal();
    rig.vfs.fsync(&rig.caller, fh, false).await.expect("the next try brings it to the store");
    rig.close(fh).await.unwrap();
    let other = rig.second().await;
    let theirs = other.open(ino).await;
    assert_eq!(other.read(theirs, 0, 100).await, "precious");
}

#[tokio::test]
async fn every_handle_hears_of_a_failure() {
    let rig = Rig::new().await;
    let (ino, first) = rig.create("a").await;
    let second = rig.open(ino).await;
    rig.write(first, 0, b"x").await;
    rig.objects.add(Rule::on(Op::Put).fault(full()).times(1));
    assert_eq!(rig.flush(first).await, Err(Errno::ENOSPC));
    assert_eq!(rig.vfs.write(&rig.caller, second, 1, b"y").await, Err(Errno::ENOSPC), "told at the next write");
    rig.write(second, 1, b"y").await;
    assert_eq!(rig.flush(first).await, Ok(()));
    assert_eq!(rig.close(second).await, Ok(()));
    assert_eq!(rig.read(first, 0, 10).await, "xy");
}

#[tokio::test]
async fn a_failure_in_the_background_is_told_at_close() {
    let rig = Rig::new().await;
    let (_, fh) = rig.create("a").await;
    rig.objects.add(Rule::on(Op::Put).times(1));
    // The full block is uploaded while writing goes on.
    rig.write(fh, 0, &vec![1; BLOCK as usize]).await;
    tokio::time::sleep(Duration::from_millis(50)).await;
    let closed = rig.close(fh).await;
    // The first try in the background failed; the flush tries again and succeeds, so nothing is lost and nothing told.
    assert_eq!(closed, Ok(()));
}

#[tokio::test]
async fn a_lost_answer_of_the_store_is_no_loss() {
    let rig = Rig::new().await;
    let (ino, fh) = rig.create("a").await;
    rig.write(fh, 0, b"data").await;
    let lost = Error::Temporary { store: "test".to_owned(), why: "lost".to_owned() };
    rig.objects.add(Rule::on(Op::Put).fault(Fault::FailAfter(lost)).times(1));
    assert_eq!(rig.flush(fh).await, Err(Errno::EIO));
    assert_eq!(rig.close(fh).await, Ok(()));
    assert_eq!(rig.meta.chunk(ino, 0).await.unwrap().len(), 1, "one record, not two");
}

#[tokio::test]
async fn a_full_volume_is_told_and_leaves_no_blocks() {
    let rig = Rig::new().await;
    let (ino, fh) = rig.create("a").await;
    let dir = rig.vfs.mkdir(&rig.caller, stead_base::Ino::ROOT, b"d", 0o755, 0).await.unwrap().attributes.ino;
    rig.vfs.rename(&rig.caller, (stead_base::Ino::ROOT, b"a"), (dir, b"a"), 0).await.unwrap();
    rig.meta.set_quota(dir, Some(8192), None).await.unwrap();
    rig.write(fh, 0, &vec![1; 3 * BLOCK as usize]).await;
    assert_eq!(rig.flush(fh).await, Err(Errno::EDQUOT));
    assert_eq!(rig.length(ino).await, 0);
    assert_eq!(rig.read(fh, 0, 10).await, "");
    assert_eq!(rig.close(fh).await, Ok(()), "told once");
    use stead_object::ObjectStore as _;
    let left = rig.objects.list("", "", 100).await.unwrap();
    assert!(left.iter().all(|object| !object.key.contains("chunks/")), "{left:?}");
}

#[tokio::test]
async fn a_read_that_fails_is_an_error_never_zeros() {
    let rig = Rig::new().await;
    let (ino, fh) = rig.create("a").await;
    rig.write(fh, 0, &vec![1; 2 * BLOCK as usize]).await;
    rig.close(fh).await.unwrap();
    let other = rig.second().await;
    let theirs = other.open(ino).await;
    rig.objects.add(Rule::on(Op::Get));
    assert_eq!(other.vfs.read(&other.caller, theirs, 0, BLOCK).await, Err(Errno::EIO));
    rig.objects.heal();
    assert_eq!(other.read(theirs, 0, BLOCK).await, vec![1; BLOCK as usize]);
}

#[tokio::test]
async fn a_writer_that_waits_for_room_hears_why_there_is_none() {
    let rig = Rig::new().await;
    let (_, fh) = rig.create("a").await;
    rig.objects.add(Rule::on(Op::Put));
    let part = vec![1; 1 << 20];
    let write_on = async {
        let mut offset = 0;
        loop {
            if let Err(errno) = rig.vfs.write(&rig.caller, fh, offset, &part).await {
                return errno;
            }
            offset += part.len() as u64;
        }
    };
    let told = tokio::time::timeout(Duration::from_secs(60), write_on).await;
    assert_eq!(told.expect("the writer does not hang"), Errno::EIO);
    rig.objects.heal();
    assert_eq!(rig.flush(fh).await, Ok(()));
}

#[tokio::test]
async fn draining_commits_everything() {
    let rig = Rig::with(VfsConfig::default(), MetaOptions::default()).await;
    let mut made = Vec::new();
    for n in 0..20 {
        let (ino, fh) = rig.create(&format!("f{n}")).await;
        rig.write(fh, 0, format!("content {n}").as_bytes()).await;
        made.push(ino);
    }
    rig.vfs.drain().await.unwrap();
    let other = rig.second().await;
    for (n, ino) in made.into_iter().enumerate() {
        let fh = other.open(ino).await;
        assert_eq!(other.read(fh, 0, 100).await, format!("content {n}"));
    }
}

/// Uploads what waits to be committed, and gives its record to the engine, whose answer nobody hears. With `arrives` false
/// the record is lost too. Returns the slice.
async fn commit_unheard(rig: &Rig, ino: Ino, arrives: bool) -> SliceId {
    let inode = rig.vfs.inodes.get(ino).unwrap();
    // Nobody else is to commit it meanwhile.
    let _turn = inode.writer.committing.lock().await;
    inode.writer.seal_all();
    let [job] = &inode.writer.jobs(2)[..] else { panic!("one slice waits") };
    let mut data = job.data.lock().await;
    // Full blocks may be on their way already.
    if data.id().is_none() {
        data.set_id(rig.meta.new_slice().await.unwrap());
    }
    let (id, size) = (data.id().unwrap(), data.finish().await.unwrap());
    inode.writer.give(job.sequence);
    if arrives {
        let slice = Slice { pos: job.pos, id, size, off: 0, len: size };
        rig.meta.write_slice(ino, job.index, slice, inode.writer.mtime()).await.unwrap();
    }
    id
}

/// Small slices are still in memory when they are asked for again, full blocks only in the store.
const SIZES: [u32; 2] = [1000, 2 * BLOCK];

#[tokio::test]
async fn a_record_that_another_client_compacted_before_we_asked_for_it_names_no_missing_block() {
    for size in SIZES {
        let rig = Rig::new().await;
        let (ino, fh) = rig.create("a").await;
        rig.write(fh, 0, &vec![1; size as usize]).await;
        rig.flush(fh).await.unwrap();
        rig.write(fh, size.into(), &vec![2; size as usize]).await;
        let unheard = commit_unheard(&rig, ino, true).await;
        let other = rig.second().await;
        assert_eq!(other.vfs.compact(ino, 0).await.map_err(|error| error.to_string()), Ok(true));
        assert_eq!(rig.flush(fh).await, Ok(()), "size {size}");
        let records = rig.meta.chunk(ino, 0).await.unwrap();
        assert!(records.iter().all(|record| record.id != unheard), "size {size}: {records:?}");
        let reader = rig.second().await;
        let theirs = reader.open(ino).await;
        let written = [vec![1; size as usize], vec![2; size as usize]].concat();
        assert_eq!(reader.read(theirs, 0, 3 * size).await, written, "size {size}");
        assert_eq!(rig.read(fh, 0, 3 * size).await, written, "size {size}");
    }
}

#[tokio::test]
async fn a_record_that_did_not_arrive_is_given_again_with_a_slice_of_its_own() {
    for size in SIZES {
        let rig = Rig::new().await;
        let (ino, fh) = rig.create("a").await;
        rig.write(fh, 10, &vec![3; size as usize]).await;
        let unheard = commit_unheard(&rig, ino, false).await;
        assert_eq!(rig.flush(fh).await, Ok(()), "size {size}");
        let records = rig.meta.chunk(ino, 0).await.unwrap();
        assert!(matches!(records[..], [record] if record.id != unheard), "size {size}: {records:?}");
        let reader = rig.second().await;
        let theirs = reader.open(ino).await;
        assert_eq!(reader.read(theirs, 10, size).await, vec![3; size as usize], "size {size}");
    }
}

#[tokio::test]
async fn data_that_cannot_be_read_back_now_waits_for_another_try() {
    let rig = Rig::new().await;
    let (ino, fh) = rig.create("a").await;
    rig.write(fh, 0, &vec![4; 2 * BLOCK as usize]).await;
    commit_unheard(&rig, ino, false).await;
    rig.objects.add(Rule::on(Op::Get));
    assert_eq!(rig.flush(fh).await, Err(Errno::EIO));
    rig.objects.heal();
    assert_eq!(rig.flush(fh).await, Ok(()));
    let reader = rig.second().await;
    let theirs = reader.open(ino).await;
    assert_eq!(reader.read(theirs, 0, 2 * BLOCK).await, vec![4; 2 * BLOCK as usize]);
}

#[tokio::test]
async fn a_record_that_arrived_unheard_is_not_given_again() {
    let rig = Rig::new().await;
    let (ino, fh) = rig.create("a").await;
    rig.write(fh, 0, b"data").await;
    let unheard = commit_unheard(&rig, ino, true).await;
    assert_eq!(rig.flush(fh).await, Ok(()));
    assert!(matches!(rig.meta.chunk(ino, 0).await.unwrap()[..], [record] if record.id == unheard));
    assert_eq!(rig.read(fh, 0, 10).await, "data");
}

#[tokio::test]
async fn a_slice_that_is_given_up_keeps_its_blocks_if_its_record_may_have_arrived() {
    let rig = Rig::new().await;
    let (ino, fh) = rig.create("a").await;
    rig.write(fh, 0, &vec![5; 2 * BLOCK as usize]).await;
    commit_unheard(&rig, ino, true).await;
    let inode = rig.vfs.inodes.get(ino).unwrap();
    let job = inode.writer.jobs(1).pop().unwrap();
    for _ in 1..MAX_ATTEMPTS {
        inode.writer.failed(job.sequence, Errno::EIO);
    }
    let end = rig.vfs.not_committed(&inode, job, Failure::Later(Errno::EIO)).await;
    assert!(matches!(end, Failure::Never(Errno::EIO)), "it is given up");
    let reader = rig.second().await;
    let theirs = reader.open(ino).await;
    assert_eq!(reader.read(theirs, 0, 2 * BLOCK).await, vec![5; 2 * BLOCK as usize]);
}
