use super::*;
use crate::records::{CHUNK_SIZE, flags};
use crate::view::view;

/// The visible pieces of a chunk as (pos, id, off, len).
async fn shown(v: &Volume, ino: Ino, index: u32) -> Vec<(u32, u64, u32, u32)> {
    let records = v.chunk(ino, index).await.expect("read");
    view(&records).iter().map(|piece| (piece.pos, piece.id.0, piece.off, piece.len)).collect()
}

const MIB: u32 = 1 << 20;

#[tokio::test]
async fn a_copy_names_the_same_slices() {
    let v = Volume::plain().await;
    let (from, to) = (v.filled(ROOT, "from", 10_000).await, v.filled(ROOT, "to", 100).await);
    v.write(from, 0, 20_000, 5000).await.expect("written");
    v.clock.advance(Duration::from_secs(5));
    let (copied, attr) = v.copy_range(&root(), from, 4000, to, 50, 18_000, 0).await.expect("copied");
    assert_eq!((copied, attr.length), (18_000, 18_050));
    assert_eq!((attr.mtime, attr.ctime), (v.clock.now(), v.clock.now()));
    assert_eq!(
        shown(&v, to, 0).await,
        [(0, 2, 0, 50), (50, 1, 4000, 6000), (6050, 0, 0, 10_000), (16_050, 3, 0, 2000)]
    );
    v.audit().await;
    v.unlink(&root(), ROOT, b"from").await.expect("unlinked");
    v.audit().await;
    assert_eq!(*v.removed.slices.lock(), [], "the copy refers to both slices");
    v.unlink(&root(), ROOT, b"to").await.expect("unlinked");
    v.audit().await;
    assert_eq!(v.removed.slices.lock().len(), 3, "nobody refers to any slice");
}

#[tokio::test]
async fn a_copy_is_cut_at_the_borders_of_chunks() {
    let v = Setup { store: MemoryStore::remote(), ..Setup::default() }.volume().await;
    let (from, to) = (v.file(ROOT, "from").await, v.file(ROOT, "to").await);
    for index in 0..10 {
        v.write(from, index, 0, 64 * MIB).await.expect("written");
    }
    let length = 9 * CHUNK_SIZE + 7;
    let (copied, attr) = v.copy_range(&root(), from, 100, to, CHUNK_SIZE - 5, length, 0).await.expect("copied");
    assert_eq!((copied, attr.length), (length, CHUNK_SIZE - 5 + length));
    assert_eq!(shown(&v, to, 0).await, [(0, 0, 0, 64 * MIB - 5), (64 * MIB - 5, 1, 100, 5)]);
    assert_eq!(shown(&v, to, 1).await, [(0, 1, 105, 64 * MIB - 105), (64 * MIB - 105, 2, 0, 105)]);
    assert_eq!(shown(&v, to, 10).await, [(0, 10, 105, 2)]);
    v.audit().await;
}

#[tokio::test]
async fn a_copy_ends_where_its_source_ends() {
    let v = Volume::plain().await;
    let (from, to) = (v.filled(ROOT, "from", 10).await, v.file(ROOT, "to").await);
    assert_eq!(v.copy_range(&root(), from, 4, to, 0, 100, 0).await.expect("copied").0, 6);
    assert_eq!(v.copy_range(&root(), from, 10, to, 0, 100, 0).await.expect("copied").0, 0);
    v.truncate(&root(), from, 20).await.expect("grown");
    let (copied, attr) = v.copy_range(&root(), from, 4, to, 0, 100, 0).await.expect("copied");
    assert_eq!((copied, attr.length), (16, 16));
    assert_eq!(shown(&v, to, 0).await, [(0, 1, 4, 6), (6, 0, 0, 10)], "what the source does not have is zeros");
    v.audit().await;
}

#[tokio::test]
async fn what_copy_file_range_refuses() {
    let v = Setup { capacity: 1 << 20, ..Setup::default() }.volume().await;
    let (file, dir) = (v.filled(ROOT, "f", 100).await, v.dir(ROOT, "d").await);
    let other = v.file(ROOT, "o").await;
    let caller = root();
    let copy = |src, src_off, dst, dst_off, len, flags| v.copy_range(&caller, src, src_off, dst, dst_off, len, flags);
    refused!(copy(file, 0, file, 50, 51, 0).await, Error::Invalid { .. });
    refused!(copy(file, 50, file, 0, 51, 0).await, Error::Invalid { .. });
    assert_eq!(copy(file, 0, file, 50, 50, 0).await.expect("side by side").0, 50);
    refused!(copy(file, 0, other, 0, 1, 1).await, Error::Invalid { .. });
    refused!(copy(dir, 0, other, 0, 1, 0).await, Error::IsDirectory { .. });
    refused!(copy(file, 0, dir, 0, 1, 0).await, Error::IsDirectory { .. });
    refused!(copy(file, 0, other, u64::MAX, 1, 0).await, Error::TooBig { .. });
    refused!(copy(file, 0, other, 2 << 20, 10, 0).await, Error::NoSpace { .. });
    let set = SetAttr { flags: Some(flags::APPEND), ..SetAttr::default() };
    v.setattr(&root(), other, set).await.expect("set");
    refused!(copy(file, 0, other, 0, 1, 0).await, Error::NotPermitted { .. });
    v.audit().await;
}
