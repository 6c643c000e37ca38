//! What operations cost on a store behind a network: one fetch and one commit.

use super::*;

async fn cost<T>(v: &Volume, work: impl Future<Output = Result<T>>) -> u64 {
    v.settle().await;
    let before = v.store.trips();
    assert!(work.await.is_ok(), "the operation ends well");
    v.store.trips() - before
}

async fn remote(trash_days: u32) -> Volume {
    let v = Setup { store: MemoryStore::remote(), trash_days, capacity: 1 << 40, ..Setup::default() }.volume().await;
    let dir = v.dir(ROOT, "d").await;
    v.set_quota(dir, Some(1 << 40), Some(1 << 20)).await.expect("set");
    v.filled(dir, "warm", 10).await;
    v.unlink(&root(), dir, b"warm").await.expect("unlinked");
    v.settle().await;
    v
}

#[tokio::test]
async fn an_operation_is_one_fetch_and_one_commit() {
    for trash_days in [0, 1] {
        let v = remote(trash_days).await;
        let dir = v.lookup(ROOT, b"d").await.expect("there").0;
        let caller = root();
        assert_eq!(cost(&v, v.create(&caller, dir, b"f", 0o644, 0, true)).await, 2, "create");
        let file = v.lookup(dir, b"f").await.expect("there").0;
        assert_eq!(cost(&v, v.write(file, 0, 0, 100)).await, 2, "write");
        assert_eq!(cost(&v, v.chunk(file, 0)).await, 1, "chunk");
        assert_eq!(cost(&v, v.getattr(file)).await, 1, "getattr");
        assert_eq!(cost(&v, v.lookup(dir, b"f")).await, 1, "lookup");
        assert_eq!(cost(&v, v.setattr(&caller, file, SetAttr { mode: Some(0), ..SetAttr::default() })).await, 2);
        assert_eq!(cost(&v, v.truncate(&caller, file, 5)).await, 2, "truncate");
        assert_eq!(cost(&v, v.mkdir(&caller, dir, b"sub", 0o755, 0)).await, 2, "mkdir");
        assert_eq!(cost(&v, v.rename(&caller, dir, b"f", dir, b"g", 0)).await, 2, "rename");
        assert_eq!(cost(&v, v.rmdir(&caller, dir, b"sub")).await, 2, "rmdir");
        *v.meta.remover.write() = None;
        v.close(file).await.expect("closed");
        assert_eq!(cost(&v, v.unlink(&caller, dir, b"g")).await, 2, "unlink");
        assert_eq!(cost(&v, v.statfs(dir)).await, 2, "statfs");
    }
}
