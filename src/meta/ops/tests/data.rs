use super::*;
use crate::records::{CHUNK_SIZE, MAX_FILE_SIZE, flags};

/// The records of a chunk as (pos, id, len).
async fn records(v: &Volume, ino: Ino, index: u32) -> Vec<(u32, u64, u32)> {
    let found = v.chunk(ino, index).await.expect("read");
    found.iter().map(|slice| (slice.pos, slice.id.0, slice.len)).collect()
}

fn mib(count: u32) -> u32 {
    count << 20
}

#[tokio::test]
async fn a_slice_makes_the_file_grow() {
    let v = Volume::plain().await;
    let ino = v.file(ROOT, "f").await;
    v.clock.advance(Duration::from_secs(9));
    let written = Timestamp::from_secs(START + 3);
    let slice = Slice { pos: 100, id: SliceId(1), size: 5000, off: 0, len: 5000 };
    let outcome = v.write_slice(ino, 2, slice, written).await.expect("written");
    assert_eq!(outcome.attr.length, 2 * CHUNK_SIZE + 5100);
    assert_eq!((outcome.attr.mtime, outcome.attr.ctime), (written, v.clock.now()));
    assert_eq!(outcome.records, 1);
    let outcome = v.write_slice(ino, 0, Slice { id: SliceId(2), ..slice }, written).await.expect("written");
    assert_eq!(outcome.attr.length, 2 * CHUNK_SIZE + 5100, "inside the file");
    assert_eq!(v.chunk(ino, 2).await.expect("read"), [slice]);
    assert_eq!(v.chunk(ino, 1).await.expect("read"), [], "never written");
    v.audit().await;
}

#[tokio::test]
async fn impossible_slices_are_refused() {
    let v = Volume::plain().await;
    let (ino, dir) = (v.file(ROOT, "f").await, v.dir(ROOT, "d").await);
    let good = Slice { pos: 0, id: SliceId(1), size: 10, off: 0, len: 10 };
    let bad = [Slice { len: 0, ..good }, Slice { off: 1, ..good }, Slice { pos: mib(64) - 9, ..good }];
    for slice in bad {
        refused!(v.write_slice(ino, 0, slice, Timestamp::default()).await, Error::Invalid { .. });
    }
    refused!(v.write_slice(ino, u32::MAX, good, Timestamp::default()).await, Error::TooBig { .. });
    refused!(v.write_slice(dir, 0, good, Timestamp::default()).await, Error::IsDirectory { .. });
    refused!(v.write_slice(Ino(99), 0, good, Timestamp::default()).await, Error::NoInode { .. });
    assert_eq!(v.chunk(ino, 0).await.expect("read"), []);
}

#[tokio::test]
async fn record_counts_are_hints() {
    let v = Volume::plain().await;
    let ino = v.file(ROOT, "f").await;
    for expected in 1..=3 {
        assert_eq!(v.write(ino, 0, 0, 10).await.expect("written").records, expected);
    }
    let other = v.second().await;
    assert_eq!(other.write(ino, 0, 0, 10).await.expect("written").records, 1, "not known yet");
    assert_eq!(other.chunk(ino, 0).await.expect("read").len(), 4);
    assert_eq!(other.write(ino, 0, 0, 10).await.expect("written").records, 5);
}

#[tokio::test]
async fn truncate_writes_zero_records_as_the_format_says() {
    let v = Volume::plain().await;
    let ino = v.file(ROOT, "f").await;
    v.truncate(&root(), ino, 10).await.expect("grows");
    assert_eq!(records(&v, ino, 0).await, [(0, 0, 10)]);
    v.truncate(&root(), ino, 3 * CHUNK_SIZE + 5).await.expect("grows");
    assert_eq!(records(&v, ino, 0).await, [(0, 0, 10), (10, 0, mib(64) - 10)]);
    assert_eq!(records(&v, ino, 1).await, [], "a chunk without records gets none");
    assert_eq!(records(&v, ino, 3).await, [(0, 0, 5)]);

    v.write(ino, 1, 0, 7).await.expect("written");
    v.clock.advance(Duration::from_secs(4));
    let attr = v.truncate(&root(), ino, 100).await.expect("shrinks");
    assert_eq!((attr.length, attr.mtime, attr.ctime), (100, v.clock.now(), v.clock.now()));
    assert_eq!(records(&v, ino, 0).await.last(), Some(&(100, 0, mib(64) - 100)));
    assert_eq!(records(&v, ino, 1).await, [(0, 1, 7), (0, 0, mib(64))]);
    assert_eq!(records(&v, ino, 3).await, [(0, 0, 5), (0, 0, 5)]);
    let before = records(&v, ino, 0).await;
    v.truncate(&root(), ino, 100).await.expect("nothing to cut");
    assert_eq!(records(&v, ino, 0).await, before);
    v.truncate(&root(), ino, 0).await.expect("shrinks");
    v.truncate(&root(), ino, CHUNK_SIZE).await.expect("to the border");
    assert_eq!(records(&v, ino, 0).await.last(), Some(&(0, 0, mib(64))));
    v.audit().await;
}

#[tokio::test]
async fn truncate_over_very_many_chunks_looks_for_those_that_exist() {
    let v = Setup { store: MemoryStore::remote(), ..Setup::default() }.volume().await;
    let ino = v.file(ROOT, "f").await;
    v.write(ino, 20_000, 0, 7).await.expect("written");
    v.truncate(&root(), ino, MAX_FILE_SIZE - 1).await.expect("grows");
    v.truncate(&root(), ino, 1).await.expect("shrinks");
    assert_eq!(records(&v, ino, 20_000).await, [(0, 1, 7), (7, 0, mib(64) - 7), (0, 0, mib(64))]);
    refused!(v.truncate(&root(), ino, MAX_FILE_SIZE).await, Error::TooBig { .. });
}

#[tokio::test]
async fn a_change_of_content_by_a_user_clears_set_id_bits() {
    let v = Volume::plain().await;
    for (caller, before, after) in [(user(1), 0o6777, 0o777), (user(1), 0o6767, 0o2767), (root(), 0o6777, 0o6777)] {
        let (ino, _attr) = v.mknod(&root(), ROOT, b"f", NewNode::file(before, 0)).await.expect("made");
        assert_eq!(v.truncate(&caller, ino, 5).await.expect("cut").mode, after, "{before:o}");
        v.unlink(&root(), ROOT, b"f").await.expect("unlinked");
    }
}

#[tokio::test]
async fn fallocate_zeros_and_reserves() {
    use fallocate_mode::{KEEP_SIZE, PUNCH_HOLE, ZERO_RANGE};
    let v = Volume::plain().await;
    let ino = v.filled(ROOT, "f", 10_000).await;
    let caller = root();
    let allocate = |mode, offset, length| v.fallocate(&caller, ino, mode, offset, length);
    assert_eq!(allocate(0, 5000, 20_000).await.expect("plain").length, 25_000);
    assert_eq!(records(&v, ino, 0).await.len(), 1, "plain preallocation writes no record");
    assert_eq!(allocate(KEEP_SIZE, 0, 99_000).await.expect("kept").length, 25_000);
    allocate(PUNCH_HOLE | KEEP_SIZE, 20_000, 99_000).await.expect("punched");
    assert_eq!(records(&v, ino, 0).await.last(), Some(&(20_000, 0, 5000)), "to the old end");
    allocate(ZERO_RANGE, CHUNK_SIZE - 10, 30).await.expect("zeroed");
    assert_eq!(records(&v, ino, 0).await.len(), 2, "nothing to zero beyond the end");
    let attr = allocate(ZERO_RANGE, CHUNK_SIZE - 10, 15).await.expect("zeroed");
    assert_eq!(attr.length, CHUNK_SIZE + 20);
    assert_eq!(records(&v, ino, 0).await.last(), Some(&(mib(64) - 10, 0, 10)));
    assert_eq!(records(&v, ino, 1).await, [(0, 0, 5)]);
    refused!(allocate(PUNCH_HOLE, 0, 1).await, Error::Invalid { .. });
    refused!(allocate(0, 0, 0).await, Error::Invalid { .. });
    refused!(allocate(8, 0, 1).await, Error::NotSupported { .. });
    refused!(allocate(0x20, 0, 1).await, Error::NotSupported { .. });
    refused!(allocate(0, u64::MAX, 1).await, Error::TooBig { .. });
    v.audit().await;
}

#[tokio::test]
async fn flagged_files_are_not_changed() {
    let v = Volume::plain().await;
    let ino = v.filled(ROOT, "f", 10).await;
    let caller = root();
    let open = |flags| v.meta.open(&caller, ino, flags);
    let set = |flags| SetAttr { flags: Some(flags), ..SetAttr::default() };
    v.setattr(&root(), ino, set(flags::APPEND)).await.expect("set");
    open(libc_flags::APPEND | 1).await.expect("appending");
    refused!(open(1).await, Error::NotPermitted { .. });
    refused!(open(libc_flags::APPEND | libc_flags::TRUNCATE | 1).await, Error::NotPermitted { .. });
    refused!(v.truncate(&root(), ino, 0).await, Error::NotPermitted { .. });
    v.setattr(&root(), ino, set(flags::IMMUTABLE)).await.expect("set");
    refused!(open(libc_flags::APPEND | 1).await, Error::NotPermitted { .. });
    refused!(v.fallocate(&root(), ino, 0, 0, 99).await, Error::NotPermitted { .. });
    open(0).await.expect("reading");
}

mod libc_flags {
    pub(super) const TRUNCATE: i32 = 0o1000;
    pub(super) const APPEND: i32 = 0o2000;
}

#[tokio::test]
async fn slice_numbers_are_given_once() {
    let v = Setup { store: MemoryStore::remote(), ..Setup::default() }.volume().await;
    let other = v.second().await;
    let mut seen = std::collections::BTreeSet::new();
    for _round in 0..5000 {
        for client in [&v, &other] {
            let id = client.new_slice().await.expect("a number");
            assert!(!id.is_hole() && seen.insert(id), "{id} twice");
        }
    }
}
