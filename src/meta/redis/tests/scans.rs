//! Scans and the removal of a volume.

use std::collections::BTreeMap;

use stead_base::SliceId;

use super::*;
use crate::records::{Job, Quota, Slice};
use crate::redis::keys;

#[tokio::test]
async fn erasing_leaves_foreign_keys_alone() {
    let server = RedisServer::start();
    let store = server.store().await;
    let foreign = ["i5x", "session", "stead", "steadfast", "c5", "c5_", "other", "idea", "locked-door", "x-1"];
    for key in foreign {
        let () = ask(&server, &[b"SET", key.as_bytes(), b"theirs"]).await;
    }
    let mut writes: Vec<Write> = (2..3000).map(|ino| Write::SetAttr(Ino(ino), attr(NodeType::File, ino))).collect();
    writes.push(Write::SetSetting("{}".into()));
    writes.push(Write::AddCounter(Counter::UsedSpace, 1));
    put(&store, writes).await;
    for key in ["lockf7", "lockp7", "session3", "locked3", "acl", "txnLog", "nextCleanupSlices", "k5_4096"] {
        let () = ask(&server, &[b"SET", key.as_bytes(), b"ours"]).await;
    }
    store.erase().await.expect("erase");
    let mut left: Vec<String> = ask(&server, &[b"KEYS", b"*"]).await;
    left.sort_unstable();
    let mut expected = foreign.map(str::to_owned);
    expected.sort_unstable();
    assert_eq!(left, expected);
}

#[test]
fn every_place_is_one_that_erasing_finds() {
    let keys = keys::Keys::default();
    let ino = Ino(Ino::TRASH.0 + 1);
    for key in [
        keys.attr(ino),
        keys.entries(ino),
        keys.parents(ino),
        keys.chunk(ino, 7),
        keys.symlink(ino),
        keys.xattrs(ino),
        keys.sustained(stead_base::SessionId(1)),
        keys.locked(stead_base::SessionId(1)),
        keys.tokens(u64::MAX),
        keys.tokens(0),
        keys.job(Job::CleanupSlices).key,
        keys.counter(Counter::NextInode),
    ] {
        assert!(keys::is_ours(&key), "{}", String::from_utf8_lossy(&key));
    }
}

#[tokio::test]
async fn a_large_directory_is_listed_in_pages() {
    let server = RedisServer::start();
    let (store, dir) = (server.store().await, Ino(2));
    let all: BTreeMap<Name, Entry> = (0..3000).map(|n| (name(&format!("file {n}")), file(100 + n))).collect();
    put(&store, all.iter().map(|(name, entry)| Write::SetEntry(dir, name.clone(), *entry)).collect()).await;
    let (mut found, mut pages, mut from) = (BTreeMap::new(), 0, Default::default());
    loop {
        let page = store.list_entries(dir, true, from, 200).await.expect("list_entries");
        assert!(page.items.len() < 500, "{} items in a page", page.items.len());
        found.extend(page.items.into_iter().map(|item| (item.name, item.entry)));
        pages += 1;
        match page.next {
            Some(next) => from = next,
            None => break,
        }
    }
    assert_eq!(found, all);
    assert!(pages > 5, "{pages} pages");
}

#[tokio::test]
async fn chunks_are_found_by_probing_and_by_scanning() {
    let server = RedisServer::start();
    let (store, ino) = (server.store().await, Ino(5));
    let one = Slice { pos: 0, id: SliceId(1), size: 1, off: 0, len: 1 };
    let indices = [0, 999, 1000, 1001, 2500, 99_999, 100_000, 1 << 30];
    let mut writes: Vec<Write> = indices.iter().map(|index| Write::AppendSlices(ino, *index, vec![one])).collect();
    writes.push(Write::AppendSlices(Ino(55), 3, vec![one]));
    put(&store, writes).await;
    let list = async |range| store.list_chunks(ino, range).await.expect("list_chunks");
    assert_eq!(list(0..100_000).await, indices[..6]);
    assert_eq!(list(1..1001).await, [999, 1000]);
    assert!(list(0..0).await.is_empty());
    assert_eq!(list(0..u32::MAX).await, indices);
    assert_eq!(list(1000..(1 << 30)).await, indices[2..7]);
}

#[tokio::test]
async fn only_pending_slices_are_listed_and_zeros_are_dropped() {
    let server = RedisServer::start();
    let store = server.store().await;
    for (field, value) in
        [("k1_10", "-1"), ("k2_10", "0"), ("k3_10", "1"), ("k4_10", "-2"), ("k5_10", "-x"), ("odd", "-1")]
    {
        let () = ask(&server, &[b"HSET", b"sliceRef", field.as_bytes(), value.as_bytes()]).await;
    }
    let pending = store.list_unreferenced().await.expect("list_unreferenced");
    assert_eq!(pending, [(SliceId(1), 10), (SliceId(4), 10)]);
    let mut left: Vec<String> = ask(&server, &[b"HKEYS", b"sliceRef"]).await;
    left.sort_unstable();
    assert_eq!(left, ["k1_10", "k3_10", "k4_10", "k5_10", "odd"]);
}

/// Slices that are kept for longer must not be taken for leaked because of a name that says nothing.
#[tokio::test]
async fn delayed_slices_under_a_wrong_name_are_an_error() {
    let server = RedisServer::start();
    let store = server.store().await;
    let () = ask(&server, &[b"HSET", b"delSlices", b"9", &[0; 12]]).await;
    match store.list_delayed(i64::MAX).await {
        Err(Error::Corrupt { key, .. }) => assert_eq!(key, "delSlices 9"),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn old_slice_references_are_moved_into_the_hash_once() {
    let server = RedisServer::start();
    let store = server.store().await;
    for (key, value) in [("k1_10", "2"), ("k2_10", "0"), ("k3_10", "-1"), ("k4_10", "odd"), ("k5", "1")] {
        let () = ask(&server, &[b"SET", key.as_bytes(), value.as_bytes()]).await;
    }
    let () = ask(&server, &[b"HSET", b"sliceRef", b"k1_10", b"1"]).await;
    assert_eq!(store.renew_slice_refs().await.expect("renew_slice_refs"), 3);
    assert_eq!(store.renew_slice_refs().await.expect("renew_slice_refs"), 0);
    let references = store.read(&[Key::SliceRef(SliceId(1), 10)]).await.expect("read");
    assert_eq!(references, [Some(Record::Number(4))], "three more than one");
    assert_eq!(ask::<i64>(&server, &[b"HLEN", b"sliceRef"]).await, 1);
    let mut left: Vec<String> = ask(&server, &[b"KEYS", b"k*"]).await;
    left.sort_unstable();
    assert_eq!(left, ["k4_10", "k5"]);
}

#[tokio::test]
async fn members_of_old_forms_are_passed_over() {
    let server = RedisServer::start();
    let store = server.store().await;
    for member in ["5:10", "legacy", "5:10:20", "6:x"] {
        let () = ask(&server, &[b"ZADD", b"delfiles", b"100", member.as_bytes()]).await;
    }
    assert_eq!(store.list_deleted(100, 10).await.expect("list_deleted"), [(Ino(5), 10)]);
}

#[tokio::test]
async fn a_quota_without_usage_counts_nothing() {
    let server = RedisServer::start();
    let store = server.store().await;
    let limits = [[0; 7].as_slice(), &[9], &[0xFF; 8]].concat();
    let () = ask(&server, &[b"HSET", b"dirQuota", b"7", &limits]).await;
    let quota = Quota { max_space: 9, max_inodes: -1, ..Quota::default() };
    assert_eq!(store.list_quotas().await.expect("list_quotas"), [(Ino(7), quota)]);
    assert_eq!(store.read(&[Key::DirQuota(Ino(7))]).await.expect("read"), [Some(Record::Quota(quota))]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_of_many_clients_gets_a_job() {
    let server = RedisServer::start();
    for now in [1_700_000_000, 1_700_003_600] {
        let mut claims = Vec::new();
        for _client in 0..8 {
            let store = server.store().await;
            claims.push(tokio::spawn(async move { store.claim_job(Job::CleanupFiles, now, 3240).await }));
        }
        let mut won = 0;
        for claim in claims {
            won += u32::from(claim.await.expect("no panic").expect("claim_job"));
        }
        assert_eq!(won, 1);
        let kept: i64 = ask(&server, &[b"GET", b"lastCleanupFiles"]).await;
        assert_eq!(kept, now);
    }
}
