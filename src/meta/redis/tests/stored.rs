//! What is stored, key by key, as the Go client stores it (format.md §2).

use bytes::Bytes;
use stead_base::{SessionId, SliceId};

use super::*;
use crate::codec;
use crate::records::{DirStat, Quota, Slice};

type Raw = Option<Vec<u8>>;

async fn get(server: &RedisServer, key: &str) -> Raw {
    ask(server, &[b"GET", key.as_bytes()]).await
}

async fn hget(server: &RedisServer, key: &str, field: &str) -> Raw {
    ask(server, &[b"HGET", key.as_bytes(), field.as_bytes()]).await
}

fn text(text: &str) -> Raw {
    Some(text.as_bytes().to_vec())
}

fn slice(id: u64) -> Slice {
    Slice { pos: 0, id: SliceId(id), size: 10, off: 0, len: 10 }
}

#[tokio::test]
async fn inodes_and_names() {
    let server = RedisServer::start();
    let store = server.store().await;
    put(
        &store,
        vec![
            Write::SetSetting(Bytes::from_static(b"{}")),
            Write::SetAttr(Ino(5), attr(NodeType::File, 5)),
            Write::SetEntry(Ino(1), name("a b"), file(5)),
            Write::SetSymlink(Ino(6), Bytes::from_static(b"../x")),
            Write::SetXattr(Ino(5), name("user.a"), Bytes::from_static(b"v")),
            Write::AddParent(Ino(5), Ino(1), 1),
            Write::AddParent(Ino(5), Ino(2), 2),
            Write::AddParent(Ino(5), Ino(1), -1),
            Write::AddCounter(Counter::UsedSpace, 4096),
            Write::AddCounter(Counter::TotalInodes, 1),
            Write::AddCounter(Counter::NextTrash, 1),
        ],
    )
    .await;
    assert_eq!(get(&server, "setting").await, text("{}"));
    let stored = get(&server, "i5").await.expect("it is there");
    assert_eq!((stored.len(), stored), (72, codec::encode_attr(&attr(NodeType::File, 5))));
    assert_eq!(hget(&server, "d1", "a b").await, Some(vec![1, 0, 0, 0, 0, 0, 0, 0, 5]));
    assert_eq!(get(&server, "s6").await, text("../x"));
    assert_eq!(hget(&server, "x5", "user.a").await, text("v"));
    assert_eq!((hget(&server, "p5", "1").await, hget(&server, "p5", "2").await), (None, text("2")));
    for (counter, value) in [("usedSpace", "4096"), ("totalInodes", "1"), ("nextTrash", "1")] {
        assert_eq!(get(&server, counter).await, text(value), "{counter}");
    }
    assert_eq!(store.allocate(Counter::NextInode, 1024).await.expect("allocate"), 1);
    assert_eq!(store.allocate(Counter::NextInode, 1024).await.expect("allocate"), 1025);
    assert_eq!(get(&server, "nextinode").await, text("2048"), "the last owned number");
    assert_eq!(store.allocate(Counter::NextSession, 1).await.expect("allocate"), 1);
    assert_eq!(get(&server, "nextsession").await, text("1"));
    assert_eq!(store.allocate(Counter::NextChunk, 4096).await.expect("allocate"), 1);
    assert_eq!(get(&server, "nextchunk").await, text("4096"));
}

#[tokio::test]
async fn statistics_and_quotas() {
    let server = RedisServer::start();
    let store = server.store().await;
    let delta = DirStat { length: 5, space: 4096, inodes: 1 };
    put(&store, vec![Write::InitDirStat(Ino(2))]).await;
    for hash in ["dirDataLength", "dirUsedSpace", "dirUsedInodes"] {
        assert_eq!(hget(&server, hash, "2").await, text("0"), "{hash}");
    }
    let quota = Quota { max_space: 1 << 30, max_inodes: -1, used_space: 4096, used_inodes: 1 };
    put(
        &store,
        vec![
            Write::AddDirStat(Ino(2), delta),
            Write::AddDirStat(Ino(3), delta),
            Write::SetDirQuota(Ino(2), quota),
            Write::AddDirQuotaUsed(Ino(2), 4096, 1),
            Write::AddDirQuotaUsed(Ino(3), 4096, 1),
        ],
    )
    .await;
    assert_eq!(hget(&server, "dirDataLength", "2").await, text("5"));
    assert_eq!(hget(&server, "dirUsedSpace", "2").await, text("4096"));
    assert_eq!(hget(&server, "dirUsedInodes", "2").await, text("1"));
    assert_eq!(hget(&server, "dirQuota", "2").await, Some(codec::encode_quota_limits(quota).to_vec()));
    assert_eq!(hget(&server, "dirQuotaUsedSpace", "2").await, text("8192"));
    assert_eq!(hget(&server, "dirQuotaUsedInodes", "2").await, text("2"));
    for hash in ["dirDataLength", "dirUsedSpace", "dirQuota", "dirQuotaUsedSpace"] {
        assert_eq!(hget(&server, hash, "3").await, None, "{hash}: nothing to add to");
    }
    put(&store, vec![Write::DelDirStat(Ino(2)), Write::DelDirQuota(Ino(2))]).await;
    let left: Vec<String> = ask(&server, &[b"KEYS", b"dir*"]).await;
    assert!(left.is_empty(), "{left:?}");
}

#[tokio::test]
async fn slices_and_their_references() {
    let server = RedisServer::start();
    let store = server.store().await;
    put(
        &store,
        vec![
            Write::AppendSlices(Ino(5), 0, vec![slice(1), slice(2), slice(3), slice(4)]),
            Write::NewSlice(SliceId(1), 10),
            Write::AddSliceRef(SliceId(2), 10, 1),
            Write::AddSliceRef(SliceId(3), 10, -1),
            Write::ReplaceSlices(Ino(5), 0, 2, vec![slice(8), slice(9)]),
            Write::AppendSlicesIfExists(Ino(5), 0, slice(0)),
            Write::AppendSlicesIfExists(Ino(5), 1, slice(0)),
            Write::AddDelayedSlices(SliceId(9), 1_700_000_000, vec![(SliceId(1), 10)]),
            Write::AddDelayedSlices(SliceId(8), 1_700_000_000, Vec::new()),
            Write::AddDeleted(Ino(7), 42, 1_700_000_000),
        ],
    )
    .await;
    let list: Vec<Vec<u8>> = ask(&server, &[b"LRANGE", b"c5_0", b"0", b"-1"]).await;
    assert_eq!(list, [8, 9, 3, 4, 0].map(|id| codec::encode_slice(slice(id)).to_vec()));
    assert_eq!(ask::<i64>(&server, &[b"EXISTS", b"c5_1"]).await, 0);
    assert_eq!(hget(&server, "sliceRef", "k1_10").await, None, "one reference");
    assert_eq!(hget(&server, "sliceRef", "k2_10").await, text("1"), "two references");
    assert_eq!(hget(&server, "sliceRef", "k3_10").await, text("-1"), "none: pending delete");
    assert_eq!(hget(&server, "delSlices", "9_1700000000").await, Some(vec![0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 10]));
    assert_eq!(ask::<i64>(&server, &[b"HLEN", b"delSlices"]).await, 1, "nothing to delay, nothing stored");
    assert_eq!(ask::<String>(&server, &[b"ZSCORE", b"delfiles", b"7:42"]).await, "1700000000");
}

#[tokio::test]
async fn a_long_list_of_slices_keeps_its_order() {
    let server = RedisServer::start();
    let (store, many) = (server.store().await, (0..2500).map(slice).collect::<Vec<_>>());
    put(&store, vec![Write::AppendSlices(Ino(5), 0, many.clone())]).await;
    put(&store, vec![Write::ReplaceSlices(Ino(5), 0, 1, many.clone())]).await;
    let Some(Record::Slices(stored)) = store.read(&[Key::Chunk(Ino(5), 0)]).await.expect("read").remove(0) else {
        panic!("the chunk is there");
    };
    assert_eq!(stored, [&many, &many[1..]].concat());
}

#[tokio::test]
async fn sessions() {
    let server = RedisServer::start();
    let (store, sid) = (server.store().await, SessionId(3));
    put(
        &store,
        vec![
            Write::PutSession(sid, 1_700_000_060, Bytes::from_static(b"{}")),
            Write::TouchSession(sid, 1_700_000_072, Bytes::from_static(b"{other}")),
            Write::AddSustained(sid, Ino(5)),
        ],
    )
    .await;
    assert_eq!(hget(&server, "sessionInfos", "3").await, text("{}"), "still there, so not replaced");
    assert_eq!(ask::<String>(&server, &[b"ZSCORE", b"allSessions", b"3"]).await, "1700000072");
    assert_eq!(ask::<Vec<String>>(&server, &[b"SMEMBERS", b"session3"]).await, ["5"]);

    for (lock, owner) in [("lockf5", "3_00000000000000AB"), ("lockf5", "31_0000000000000001"), ("lockp6", "3_01")] {
        let () = ask(&server, &[b"HSET", lock.as_bytes(), owner.as_bytes(), b"W"]).await;
        let () = ask(&server, &[b"SADD", b"locked3", lock.as_bytes()]).await;
    }
    store.clean_session(sid).await.expect("clean_session");
    assert_eq!(ask::<Vec<String>>(&server, &[b"HKEYS", b"lockf5"]).await, ["31_0000000000000001"]);
    let left: Vec<String> = ask(&server, &[b"KEYS", b"*"]).await;
    let mut left: Vec<&str> = left.iter().map(String::as_str).filter(|key| !key.starts_with("stead")).collect();
    left.sort_unstable();
    assert_eq!(left, ["lockf5", "session3"], "locks and registration are gone, sustained inodes are the caller's");
}

#[tokio::test]
async fn each_client_has_a_hash_of_tokens_that_expires() {
    let server = RedisServer::start();
    let store = server.store().await;
    put(&store, vec![Write::AddCounter(Counter::UsedSpace, 1)]).await;
    put(&store, vec![Write::AddCounter(Counter::UsedSpace, 1)]).await;
    let keys: Vec<String> = ask(&server, &[b"KEYS", b"stead*"]).await;
    assert_eq!(keys.len(), 1, "{keys:?}");
    let slots: Vec<(u16, u64)> = ask(&server, &[b"HGETALL", keys[0].as_bytes()]).await;
    assert_eq!(slots, [(0, 4)], "one slot is enough for one at a time");
    let left: i64 = ask(&server, &[b"TTL", keys[0].as_bytes()]).await;
    assert!((3590..=3600).contains(&left), "{left}");
}
