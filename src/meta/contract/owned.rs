//! Locks, access control lists, detached trees, quotas of users and groups.

use super::*;
use crate::records::{AclRule, LockKind, LockOwner, LockRange, LockTable, Principal};

fn owner(sid: u64, owner: u64) -> LockOwner {
    LockOwner { sid: SessionId(sid), owner }
}

pub(super) async fn locks(s: &dyn Store) {
    let file = Ino(30);
    let (first, second) = (owner(1, u64::MAX), owner(u64::MAX >> 1, 0xA0));
    assert_eq!(get(s, Key::Flocks(file)).await, None);
    assert_eq!(get(s, Key::Plocks(file)).await, None);
    let flocks = vec![
        Write::SetFlock(file, first, Some(LockKind::Write)),
        Write::SetFlock(file, second, Some(LockKind::Read)),
        Write::SetFlock(file, first, Some(LockKind::Read)),
    ];
    put(s, flocks).await;
    let held = [(first, LockKind::Read), (second, LockKind::Read)].into();
    assert_eq!(get(s, Key::Flocks(file)).await, Some(Record::Flocks(held)));
    assert_eq!(get(s, Key::Plocks(file)).await, None, "the two kinds know nothing of each other");

    let range = |kind, start, end| LockRange { kind, pid: u32::MAX, start, end };
    // Bytes that look like what a store may put between records.
    let ranges = vec![range(LockKind::Write, 0x3a20, 0x2031_3a31), range(LockKind::Read, 1 << 40, i64::MAX as u64)];
    put(s, vec![Write::SetPlock(file, first, ranges[..1].to_vec()), Write::SetPlock(file, second, ranges.clone())])
        .await;
    put(s, vec![Write::SetPlock(file, first, ranges.clone())]).await;
    let held = [(first, ranges.clone()), (second, ranges)].into();
    assert_eq!(get(s, Key::Plocks(file)).await, Some(Record::Plocks(held)));

    put(s, vec![Write::SetFlock(file, first, None), Write::SetFlock(file, owner(9, 9), None)]).await;
    let held = [(second, LockKind::Read)].into();
    assert_eq!(get(s, Key::Flocks(file)).await, Some(Record::Flocks(held)));
    let last = [first, second].map(|owner| Write::SetPlock(file, owner, Vec::new()));
    put(s, [vec![Write::SetFlock(file, second, None)], last.to_vec()].concat()).await;
    assert_eq!(get(s, Key::Flocks(file)).await, None, "none is left");
    assert_eq!(get(s, Key::Plocks(file)).await, None, "none is left");
}

pub(super) async fn locks_go_with_their_session(s: &dyn Store) {
    let (dead, alive) = (owner(3, 1), owner(31, 1));
    let range = vec![LockRange { kind: LockKind::Write, pid: 7, start: 0, end: 9 }];
    let mut writes = vec![Write::PutSession(dead.sid, 1000, Bytes::from_static(b"{}"))];
    for holder in [dead, owner(3, 2), alive] {
        for ino in [Ino(31), Ino(32)] {
            writes.push(Write::SetFlock(ino, holder, Some(LockKind::Read)));
            writes.push(Write::AddLocked(holder.sid, LockTable::Flock, ino));
        }
        writes.push(Write::SetPlock(Ino(31), holder, range.clone()));
        writes.push(Write::AddLocked(holder.sid, LockTable::Plock, Ino(31)));
    }
    put(s, writes).await;
    let listed = async |sid| s.list_locks(sid).await.expect("list_locks").into_iter().collect::<BTreeSet<_>>();
    let held = [(LockTable::Flock, Ino(31)), (LockTable::Flock, Ino(32)), (LockTable::Plock, Ino(31))];
    assert_eq!(listed(dead.sid).await, held.into());
    assert_eq!(listed(SessionId(4)).await, BTreeSet::new());

    s.clean_session(dead.sid).await.expect("clean_session");
    s.clean_session(dead.sid).await.expect("once more");
    assert_eq!(listed(dead.sid).await, BTreeSet::new());
    assert_eq!(listed(alive.sid).await, held.into(), "session 31 is not session 3");
    for ino in [Ino(31), Ino(32)] {
        let left = Some(Record::Flocks([(alive, LockKind::Read)].into()));
        assert_eq!(get(s, Key::Flocks(ino)).await, left);
    }
    assert_eq!(get(s, Key::Plocks(Ino(31))).await, Some(Record::Plocks([(alive, range)].into())));
    assert_eq!(get(s, Key::Session(dead.sid)).await, None);

    let mut writes = vec![Write::SetPlock(Ino(31), alive, Vec::new())];
    writes.extend(held.map(|(table, ino)| Write::DelLocked(alive.sid, table, ino)));
    writes.extend([Ino(31), Ino(32)].map(|ino| Write::SetFlock(ino, alive, None)));
    put(s, writes).await;
    assert_eq!(listed(alive.sid).await, BTreeSet::new());
}

pub(super) async fn access_lists(s: &dyn Store) {
    let first = s.allocate(Counter::AclMaxId, 1).await.expect("allocate");
    let second = s.allocate(Counter::AclMaxId, 1).await.expect("allocate");
    assert!(first > 0 && second == first + 1, "{first}, {second}");
    assert_eq!(within(s, |txn| txn.counter(Counter::AclMaxId)).await, second.cast_signed());
    let id = |number: u64| u32::try_from(number).expect("a small number");
    let full = AclRule {
        owner: 7,
        group: 5,
        mask: 4,
        other: 0,
        users: vec![(0, 7), (u32::MAX - 1, 0)],
        groups: vec![(1000, 6)],
    };
    let unset = AclRule::UNSET;
    let empty = AclRule { owner: unset, group: unset, mask: unset, other: unset, users: vec![], groups: vec![] };
    let rules = [(id(first), full), (id(second), empty)];
    assert_eq!(get(s, Key::Acl(rules[0].0)).await, None);
    put(s, rules.clone().map(|(id, rule)| Write::SetAcl(id, rule)).to_vec()).await;
    for (id, rule) in &rules {
        assert_eq!(get(s, Key::Acl(*id)).await, Some(Record::Acl(rule.clone())));
    }
    let mut listed = s.list_acls().await.expect("list_acls");
    listed.sort_by_key(|(id, _rule)| *id);
    assert_eq!(listed, rules);
    let third = s.allocate(Counter::AclMaxId, 1).await.expect("allocate");
    assert_eq!(third, second + 1, "storing a rule takes no number");
}

pub(super) async fn detached_trees(s: &dyn Store) {
    let (first, second) = (Ino(33), Ino(u64::MAX >> 2));
    put(s, vec![Write::AddDetached(first, 1_700_000_000), Write::AddDetached(second, 1)]).await;
    assert_eq!(get(s, Key::Detached(first)).await, Some(Record::Present));
    let mut listed = s.list_detached().await.expect("list_detached");
    listed.sort_unstable();
    assert_eq!(listed, [(first, 1_700_000_000), (second, 1)]);
    put(s, vec![Write::DelDetached(first), Write::DelDetached(second), Write::DelDetached(Ino(34))]).await;
    assert_eq!(get(s, Key::Detached(first)).await, None);
    assert!(s.list_detached().await.expect("list_detached").is_empty());
}

pub(super) async fn quotas_of_owners(s: &dyn Store) {
    let (user, group) = (Principal::User(0), Principal::Group(0));
    assert_eq!(get(s, Key::OwnerQuota(user)).await, None);
    put(s, vec![Write::AddOwnerQuotaUsed(user, 8192, 2), Write::AddOwnerQuotaUsed(user, -4096, -1)]).await;
    let used = Quota { max_space: -1, max_inodes: -1, used_space: 4096, used_inodes: 1 };
    assert_eq!(get(s, Key::OwnerQuota(user)).await, Some(Record::Quota(used)), "a row without limits");
    assert_eq!(get(s, Key::OwnerQuota(group)).await, None, "users and groups are apart");

    let limited = Quota { max_space: 1 << 40, max_inodes: 0, used_space: 7, used_inodes: 3 };
    put(s, vec![Write::SetOwnerQuota(group, limited), Write::AddOwnerQuotaUsed(group, 1, 1)]).await;
    let grown = Quota { used_space: 8, used_inodes: 4, ..limited };
    assert_eq!(get(s, Key::OwnerQuota(group)).await, Some(Record::Quota(grown)));
    let listed: BTreeSet<_> = s.list_owner_quotas().await.expect("list_owner_quotas").into_iter().map(sorted).collect();
    assert_eq!(listed, BTreeSet::from([(user, used), (group, grown)].map(sorted)));
    assert!(s.list_quotas().await.expect("list_quotas").is_empty(), "those of directories");
    put(s, vec![Write::DelOwnerQuota(user), Write::DelOwnerQuota(group)]).await;
    assert_eq!(get(s, Key::OwnerQuota(user)).await, None);
    assert!(s.list_owner_quotas().await.expect("list_owner_quotas").is_empty());
    put(s, vec![Write::AddOwnerQuotaUsed(user, 1, 1), Write::SetOwnerQuota(group, limited)]).await;
    put(s, vec![Write::ClearOwnerQuotas]).await;
    assert!(s.list_owner_quotas().await.expect("list_owner_quotas").is_empty());
    put(s, vec![Write::AddOwnerQuotaUsed(user, 1, 1)]).await;
    let fresh = Quota { used_space: 1, used_inodes: 1, ..used };
    assert_eq!(get(s, Key::OwnerQuota(user)).await, Some(Record::Quota(fresh)), "nothing is left of the usage");
    put(s, vec![Write::ClearOwnerQuotas]).await;
}

fn sorted((of, quota): (Principal, Quota)) -> (Principal, [i64; 4]) {
    (of, [quota.max_space, quota.max_inodes, quota.used_space, quota.used_inodes])
}
