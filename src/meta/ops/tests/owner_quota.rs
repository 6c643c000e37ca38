//! Usage and limits of users and groups.

use super::*;
use crate::records::{Principal, Quota};

const USER: Principal = Principal::User(1000);
const GROUP: Principal = Principal::Group(1000);

async fn counted() -> Volume {
    let v = Setup { user_group_quota: true, trash_days: 1, ..Setup::default() }.volume().await;
    let everybody = SetAttr { mode: Some(0o777), ..SetAttr::default() };
    v.setattr(&root(), ROOT, everybody).await.expect("set");
    v
}

async fn used(v: &Volume, of: Principal) -> (i64, i64) {
    let quota = v.get_owner_quota(of).await.expect("read").unwrap_or_default();
    (quota.used_space, quota.used_inodes)
}

async fn made(v: &Volume, caller: &Caller, name: &str) -> Ino {
    v.mknod(caller, ROOT, name.as_bytes(), NewNode::file(0o644, 0)).await.expect("made").0
}

#[tokio::test]
async fn usage_follows_every_change() {
    let v = counted().await;
    let caller = user(1000);
    let ino = made(&v, &caller, "f").await;
    v.write(ino, 0, 0, 10_000).await.expect("written");
    assert_eq!(used(&v, USER).await, (12_288, 1));
    v.truncate(&caller, ino, 1).await.expect("cut");
    assert_eq!((used(&v, USER).await, used(&v, GROUP).await), ((4096, 1), (4096, 1)));
    v.link(&caller, ino, ROOT, b"g").await.expect("linked");
    assert_eq!(used(&v, USER).await, (4096, 1), "a second name adds nothing");
    let given = SetAttr { uid: Some(2000), ..SetAttr::default() };
    v.setattr(&root(), ino, given).await.expect("given away");
    assert_eq!((used(&v, USER).await, used(&v, GROUP).await), ((0, 0), (4096, 1)));
    assert_eq!(used(&v, Principal::User(2000)).await, (4096, 1));
    v.unlink(&caller, ROOT, b"f").await.expect("unlinked");
    v.unlink(&caller, ROOT, b"g").await.expect("unlinked");
    assert_eq!(used(&v, GROUP).await, (4096, 1), "the trash counts");
    v.audit().await;
}

#[tokio::test]
async fn users_come_before_groups_and_the_volume() {
    let v = Setup { user_group_quota: true, inodes: 2, ..Setup::default() }.volume().await;
    let everybody = SetAttr { mode: Some(0o777), ..SetAttr::default() };
    v.setattr(&root(), ROOT, everybody).await.expect("set");
    let caller = user(1000);
    made(&v, &caller, "f").await;
    made(&v, &caller, "g").await;
    let refused = || v.mknod(&caller, ROOT, b"h", NewNode::file(0o644, 0));
    refused!(refused().await, Error::NoSpace { .. });
    v.set_owner_quota(GROUP, None, Some(2)).await.expect("limited");
    refused!(refused().await, Error::OwnerQuotaExceeded { of: GROUP, what: "inodes", limit: 2 });
    v.set_owner_quota(USER, Some(8192), None).await.expect("limited");
    refused!(refused().await, Error::OwnerQuotaExceeded { of: USER, what: "space", limit: 8192 });
    let file = v.lookup(ROOT, b"f").await.expect("there").0;
    v.write(file, 0, 0, 4096).await.expect("within the block that counts already");
    refused!(v.write(file, 0, 4096, 1).await, Error::OwnerQuotaExceeded { of: USER, .. });
    v.del_owner_quota(USER).await.expect("lifted");
    v.write(file, 0, 4096, 1).await.expect("no limit any more");
    assert_eq!(used(&v, USER).await, (12_288, 2), "usage is kept");
    v.audit().await;
}

#[tokio::test]
async fn another_client_learns_of_a_limit_with_its_heartbeat() {
    let v = counted().await;
    let other = v.second().await;
    other.start_session().await.expect("starts");
    v.set_owner_quota(USER, None, Some(1)).await.expect("limited");
    made(&v, &user(1000), "f").await;
    other.beat().await;
    refused!(
        other.mknod(&user(1000), ROOT, b"g", NewNode::file(0o644, 0)).await,
        Error::OwnerQuotaExceeded { of: USER, .. }
    );
}

#[tokio::test]
async fn the_first_limit_counts_everything_there_is() {
    let v = Volume::with_trash().await;
    let everybody = SetAttr { mode: Some(0o777), ..SetAttr::default() };
    v.setattr(&root(), ROOT, everybody).await.expect("set");
    let ino = made(&v, &user(1000), "f").await;
    v.write(ino, 0, 0, 5000).await.expect("written");
    made(&v, &user(1000), "trashed").await;
    v.unlink(&user(1000), ROOT, b"trashed").await.expect("unlinked");
    v.symlink(&user(1000), ROOT, b"l", b"f").await.expect("made");
    assert_eq!(v.get_owner_quota(USER).await.expect("read"), None);
    let quota = v.set_owner_quota(USER, Some(1 << 30), None).await.expect("limited");
    let expected = Quota { max_space: 1 << 30, max_inodes: -1, used_space: 16_384, used_inodes: 3 };
    assert_eq!(quota, expected);
    assert!(v.format().user_group_quota, "the volume says so to everybody");
    v.audit().await;
}

#[tokio::test]
async fn a_wrong_account_is_found_and_mended() {
    let v = counted().await;
    made(&v, &user(1000), "f").await;
    assert_eq!(v.check_owner_quotas(false).await.expect("checked"), []);
    v.transact(|txn| {
        txn.write(crate::records::Write::AddOwnerQuotaUsed(USER, 4096, 1));
        txn.write(crate::records::Write::AddOwnerQuotaUsed(Principal::Group(5), 4096, 1));
        Ok(())
    })
    .await
    .expect("damaged");
    let found = v.check_owner_quotas(false).await.expect("checked");
    let found: Vec<_> = found.iter().map(|usage| (usage.of, usage.quota.used_inodes, usage.inodes)).collect();
    assert_eq!(found, [(USER, 2, 1), (Principal::Group(5), 1, 0)]);
    v.check_owner_quotas(true).await.expect("mended");
    assert_eq!(v.check_owner_quotas(false).await.expect("checked"), []);
    v.audit().await;
}

#[tokio::test]
async fn a_directory_s_account_is_found_and_mended() {
    let v = Volume::plain().await;
    let dir = v.dir(ROOT, "q").await;
    v.filled(dir, "f", 10).await;
    refused!(v.check_quota(dir, false).await, Error::Invalid { .. });
    v.set_quota(dir, Some(1 << 30), None).await.expect("set");
    assert!(v.check_quota(dir, false).await.expect("checked").holds());
    v.transact(move |txn| {
        txn.write(crate::records::Write::AddDirQuotaUsed(dir, -4096, 1));
        Ok(())
    })
    .await
    .expect("damaged");
    let check = v.check_quota(dir, false).await.expect("checked");
    assert_eq!((check.quota.used_space, check.quota.used_inodes, check.space, check.inodes), (0, 2, 4096, 1));
    v.check_quota(dir, true).await.expect("mended");
    v.audit().await;
    assert_eq!(v.meta.list_quotas().await.expect("listed").len(), 1);
}
