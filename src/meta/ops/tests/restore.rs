use super::*;
use crate::ops::trash::hour_name;

fn hour(v: &Volume) -> String {
    hour_name(v.clock.now()).to_string()
}

#[tokio::test]
async fn a_removed_tree_comes_back() {
    let v = Volume::with_trash().await;
    let top = v.dir(ROOT, "top").await;
    let sub = v.dir(top, "sub").await;
    v.set_quota(top, Some(1 << 30), None).await.expect("set");
    let file = v.filled(sub, "f-1-2", 10).await;
    v.link(&root(), file, top, b"twin").await.expect("linked");
    v.remove_tree(&root(), ROOT, b"top", false, &|_count| ()).await.expect("removed");
    v.audit().await;
    let hour = hour(&v);
    let seen = v.restore(&hour, RestoreOptions::default(), &|_so_far| ()).await.expect("restored");
    assert_eq!(
        seen,
        Restored { restored: 3, skipped: 1, failed: 0 },
        "all but the top, whose directory is not in the trash"
    );
    v.audit().await;
    let back = RestoreOptions { put_back: true, ..RestoreOptions::default() };
    let seen = v.restore(&hour, back, &|_so_far| ()).await.expect("restored");
    assert_eq!(seen, Restored { restored: 1, skipped: 0, failed: 0 });
    v.audit().await;
    assert_eq!(v.resolve_path("top/sub/f-1-2").await.expect("there").0, file);
    assert_eq!(v.resolve_path("top/twin").await.expect("there").0, file);
}

#[tokio::test]
async fn what_is_in_the_way_stays() {
    let v = Volume::with_trash().await;
    for name in ["a", "b"] {
        v.filled(ROOT, name, 10).await;
        v.unlink(&root(), ROOT, name.as_bytes()).await.expect("unlinked");
    }
    v.file(ROOT, "a").await;
    let back = RestoreOptions { put_back: true, ..RestoreOptions::default() };
    let seen = v.restore(&hour(&v), back, &|_so_far| ()).await.expect("restored");
    assert_eq!(seen, Restored { restored: 1, skipped: 0, failed: 1 });
    assert_eq!(v.names(ROOT).await, ["a", "b"]);
    refused!(v.restore("yesterday", back, &|_so_far| ()).await, Error::Invalid { .. });
    refused!(v.restore("2020-01-01-00", back, &|_so_far| ()).await, Error::NoEntry { .. });
    v.audit().await;
}
