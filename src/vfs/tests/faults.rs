//! What happens when data cannot be written back, or not be read.

use std::time::Duration;

use stead_base::Errno;
use stead_meta::ops::MetaOptions;
use stead_object::{Error, Fault, Op, Rule};

use super::{BLOCK, Rig};
use crate::VfsConfig;

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
