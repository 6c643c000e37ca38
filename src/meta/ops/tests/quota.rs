use super::*;

async fn used(v: &Volume, dir: Ino) -> (i64, i64) {
    let quota = v.get_quota(dir).await.expect("read").expect("set");
    (quota.used_space, quota.used_inodes)
}

#[tokio::test]
async fn usage_is_counted_when_a_quota_is_set() {
    let v = Volume::plain().await;
    let dir = v.dir(ROOT, "q").await;
    let sub = v.dir(dir, "sub").await;
    v.filled(sub, "f", 10).await;
    let quota = v.set_quota(dir, Some(1 << 20), None).await.expect("set");
    assert_eq!((quota.max_space, quota.max_inodes), (1 << 20, -1), "a limit that was never set is -1");
    assert_eq!((quota.used_space, quota.used_inodes), (8192, 2), "the directory itself does not count");
    let quota = v.set_quota(dir, None, Some(5)).await.expect("set");
    assert_eq!((quota.max_space, quota.max_inodes, quota.used_inodes), (1 << 20, 5, 2), "others are kept");
    v.audit().await;
    v.del_quota(dir).await.expect("removed");
    assert_eq!(v.get_quota(dir).await.expect("read"), None);
    let file = v.file(ROOT, "f").await;
    refused!(v.set_quota(file, Some(1), None).await, Error::NotDirectory { .. });
    refused!(v.set_quota(dir, Some(u64::MAX), None).await, Error::Invalid { .. });
}

#[tokio::test]
async fn limits_hold_for_everything_below() {
    let v = Volume::plain().await;
    let dir = v.dir(ROOT, "q").await;
    let sub = v.dir(dir, "sub").await;
    v.set_quota(dir, Some(20_480), Some(3)).await.expect("set");
    let file = v.file(sub, "f").await;
    v.write(file, 0, 0, 16_384).await.expect("all that is left");
    refused!(v.write(file, 0, 16_384, 1).await, Error::QuotaExceeded { what: "space", limit: 20_480, .. });
    refused!(v.truncate(&root(), file, 16_385).await, Error::QuotaExceeded { .. });
    refused!(v.fallocate(&root(), file, 0, 0, 16_385).await, Error::QuotaExceeded { .. });
    v.truncate(&root(), file, 0).await.expect("less is fine");
    v.file(sub, "g").await;
    refused!(v.mkdir(&root(), dir, b"h", 0, 0).await, Error::QuotaExceeded { what: "inodes", limit: 3, .. });
    refused!(v.link(&root(), file, dir, b"h").await, Error::QuotaExceeded { .. });
    v.file(ROOT, "outside").await;
    refused!(v.rename(&root(), ROOT, b"outside", sub, b"h", 0).await, Error::QuotaExceeded { .. });
    v.rename(&root(), ROOT, b"outside", sub, b"g", 0).await.expect("replacing adds nothing");
    v.rename(&root(), sub, b"g", dir, b"g", 0).await.expect("inside the same quota");
    assert_eq!(used(&v, dir).await, (12_288, 3));
    v.audit().await;
}

#[tokio::test]
async fn a_tree_takes_its_usage_along() {
    let v = Setup { store: MemoryStore::remote(), ..Setup::default() }.volume().await;
    let (a, b) = (v.dir(ROOT, "a").await, v.dir(ROOT, "b").await);
    let tree = v.dir(a, "tree").await;
    v.filled(tree, "f", 5000).await;
    let other = v.dir(b, "other").await;
    v.filled(other, "g", 1).await;
    for dir in [a, b, ROOT] {
        v.set_quota(dir, Some(1 << 40), None).await.expect("set");
    }
    assert_eq!((used(&v, a).await, used(&v, b).await), ((12_288, 2), (8192, 2)));
    v.rename(&root(), a, b"tree", b, b"tree", 0).await.expect("moved");
    assert_eq!((used(&v, a).await, used(&v, b).await), ((0, 0), (20_480, 4)));
    v.file(tree, "h").await;
    assert_eq!((used(&v, a).await, used(&v, b).await), ((0, 0), (24_576, 5)), "the new way up is known");
    v.dir(a, "x").await;
    v.rename(&root(), b, b"tree", a, b"x", rename_flags::EXCHANGE).await.expect("exchanged");
    assert_eq!((used(&v, a).await, used(&v, b).await), ((16_384, 3), (12_288, 3)));
    v.audit().await;
}

#[tokio::test]
async fn the_trash_does_not_count_in_quotas() {
    let v = Volume::with_trash().await;
    let dir = v.dir(ROOT, "q").await;
    v.set_quota(dir, None, Some(1)).await.expect("set");
    v.filled(dir, "f", 9000).await;
    v.unlink(&root(), dir, b"f").await.expect("unlinked");
    assert_eq!(used(&v, dir).await, (0, 0));
    v.file(dir, "g").await;
    v.rmdir(&root(), ROOT, b"q").await.expect_err("not empty");
    v.unlink(&root(), dir, b"g").await.expect("unlinked");
    v.rmdir(&root(), ROOT, b"q").await.expect("removed");
    assert_eq!(v.get_quota(dir).await.expect("read"), None, "a removed directory has no quota");
    v.audit().await;
}

#[tokio::test]
async fn another_client_learns_of_a_quota_with_its_heartbeat() {
    let v = Volume::plain().await;
    let other = v.second().await;
    let dir = v.dir(ROOT, "q").await;
    v.set_quota(dir, None, Some(1)).await.expect("set");
    other.beat().await;
    other.file(dir, "f").await;
    refused!(other.mkdir(&root(), dir, b"g", 0, 0).await, Error::QuotaExceeded { .. });
    other.rename(&root(), ROOT, b"q", ROOT, b"r", 0).await.expect("moved");
    v.audit().await;
}

#[tokio::test]
async fn statfs_shows_limits() {
    let v = Volume::plain().await;
    v.filled(ROOT, "f", 10).await;
    let shown = v.statfs(ROOT).await.expect("shown");
    assert_eq!((shown.total, shown.avail), (1 << 50, (1 << 50) - 4096));
    assert_eq!((shown.iused, shown.iavail), (1, 10 << 20));

    let dir = v.dir(ROOT, "q").await;
    let sub = v.dir(dir, "sub").await;
    v.set_quota(dir, Some(1 << 20), Some(10)).await.expect("set");
    v.set_quota(sub, Some(1 << 30), None).await.expect("set");
    let shown = v.statfs(sub).await.expect("shown");
    assert_eq!((shown.total, shown.avail), (1 << 20, (1 << 20) - 4096), "the tightest");
    assert_eq!((shown.iused, shown.iavail), (1, 9));

    let v = Setup { capacity: 1 << 30, inodes: 100, ..Setup::default() }.volume().await;
    v.filled(ROOT, "f", 5000).await;
    let shown = v.statfs(ROOT).await.expect("shown");
    assert_eq!((shown.total, shown.avail), (1 << 30, (1 << 30) - 8192));
    assert_eq!((shown.iused, shown.iavail), (1, 99));
}
