//! Records of a wrong form: the operation that meets one fails, names it, and leaves everything as it was.

use bytes::Bytes;
use stead_base::{SessionId, SliceId};

use super::*;
use crate::damage::{self, Damage};
use crate::records::{DirStat, LockKind, LockOwner, LockTable, Principal, Slice};
use crate::store::Cursor;

#[tokio::test]
async fn a_damaged_record_is_an_error_of_its_object_only() {
    let server = RedisServer::start();
    let spoil = async |damage: Damage| {
        let words: Vec<Vec<u8>> = match damage {
            Damage::ShortAttr(ino) => vec![b"SET".into(), format!("i{ino}").into(), vec![0; 20]],
            Damage::UnknownType(ino) => {
                let key = format!("i{ino}");
                let mut stored: Vec<u8> = ask(&server, &[b"GET", key.as_bytes()]).await;
                stored[1] |= 0xF0;
                vec![b"SET".into(), key.into(), stored]
            }
            Damage::NoAttr(ino) => vec![b"DEL".into(), format!("i{ino}").into()],
            Damage::OddSlices(ino) => vec![b"RPUSH".into(), format!("c{ino}_0").into(), b"odd".into()],
            Damage::Entry(dir, name) => vec![b"HSET".into(), format!("d{dir}").into(), name.into(), b"bad".into()],
        };
        let words: Vec<&[u8]> = words.iter().map(Vec::as_slice).collect();
        let () = ask(&server, &words).await;
    };
    damage::only_the_object_suffers(server.store().await, spoil).await;
}

/// A value of another type than the record's, for each kind of write: nothing of the transaction happens.
#[tokio::test]
async fn a_commit_that_meets_a_wrong_type_changes_nothing() {
    let server = RedisServer::start();
    let slice = Slice { pos: 0, id: SliceId(1), size: 1, off: 0, len: 1 };
    let (sid, owner) = (SessionId(1), LockOwner { sid: SessionId(1), owner: 1 });
    let text = Bytes::from_static(b"x");
    let cases = [
        ("usedSpace", Write::AddCounter(Counter::UsedSpace, 1)),
        ("d7", Write::SetEntry(Ino(7), name("a"), file(5))),
        ("d7", Write::DelEntry(Ino(7), name("a"))),
        ("x7", Write::SetXattr(Ino(7), name("user.a"), text.clone())),
        ("p7", Write::AddParent(Ino(7), Ino(1), 1)),
        ("c7_0", Write::AppendSlices(Ino(7), 0, vec![slice])),
        ("c7_0", Write::AppendSlicesIfExists(Ino(7), 0, slice)),
        ("c7_0", Write::ReplaceSlices(Ino(7), 0, 1, vec![slice])),
        ("sliceRef", Write::AddSliceRef(SliceId(1), 1, 1)),
        ("dirUsedInodes", Write::InitDirStat(Ino(7))),
        ("dirQuota", Write::AddDirQuotaUsed(Ino(7), 1, 1)),
        ("dirQuotaUsedInodes", Write::AddDirQuotaUsed(Ino(7), 1, 1)),
        ("groupQuotaUsedSpace", Write::AddOwnerQuotaUsed(Principal::Group(7), 1, 1)),
        ("session1", Write::AddSustained(sid, Ino(7))),
        ("delfiles", Write::AddDeleted(Ino(7), 1, 1)),
        ("delSlices", Write::DelDelayedSlices(SliceId(1), 1)),
        ("sessionInfos", Write::TouchSession(sid, 1, text)),
        ("allSessions", Write::DelSession(sid)),
        ("lockf7", Write::SetFlock(Ino(7), owner, Some(LockKind::Read))),
        ("locked1", Write::AddLocked(sid, LockTable::Flock, Ino(7))),
        ("detachedNodes", Write::AddDetached(Ino(7), 1)),
    ];
    for (key, write) in cases {
        // A set where none is used, a list where sets are.
        let spoil: &[u8] = if ["session1", "locked1"].contains(&key) { b"RPUSH" } else { b"SADD" };
        let () = ask(&server, &[spoil, key.as_bytes(), b"wrong"]).await;
        let store = server.store().await;
        let told = format!("{write:?}");
        let failed = within(&store, move |txn| {
            txn.write(Write::SetAttr(Ino(5), attr(NodeType::File, 5)));
            txn.write(Write::AddCounter(Counter::TotalInodes, 1));
            txn.write(write.clone());
            Ok(())
        })
        .await;
        assert!(matches!(failed, Err(Error::Corrupt { .. })), "{told}: {failed:?}");
        let mut left: Vec<String> = ask(&server, &[b"KEYS", b"*"]).await;
        left.retain(|key| !key.starts_with("stead"));
        assert_eq!(left, [key], "{told}");
        let () = ask(&server, &[b"DEL", key.as_bytes()]).await;
    }
}

#[tokio::test]
async fn a_commit_that_meets_no_number_changes_nothing() {
    let server = RedisServer::start();
    let () = ask(&server, &[b"SET", b"totalInodes", b"7"]).await;
    let () = ask(&server, &[b"SET", b"usedSpace", b"many"]).await;
    let () = ask(&server, &[b"HSET", b"sliceRef", b"k1_1", b"12x"]).await;
    let store = server.store().await;
    for write in [Write::AddCounter(Counter::UsedSpace, 1), Write::AddSliceRef(SliceId(1), 1, 1)] {
        let failed = within(&store, move |txn| {
            txn.write(Write::AddCounter(Counter::TotalInodes, -1));
            txn.write(Write::SetEntry(Ino(1), name("a"), file(5)));
            txn.write(write.clone());
            Ok(())
        })
        .await;
        let why = failed.expect_err("no number").to_string();
        assert!(why.contains("not a number") || why.contains("not an integer"), "{why}");
        assert_eq!(ask::<i64>(&server, &[b"EXISTS", b"d1"]).await, 0, "{why}");
        assert_eq!(ask::<i64>(&server, &[b"GET", b"totalInodes"]).await, 7, "{why}: taken back");
    }
}

/// Statistics are recomputed: that some cannot be read stops nobody.
#[tokio::test]
async fn statistics_of_a_wrong_form_fail_no_commit() {
    let server = RedisServer::start();
    let store = server.store().await;
    let () = ask(&server, &[b"HSET", b"dirUsedSpace", b"7", b"many"]).await;
    let () = ask(&server, &[b"SADD", b"dirUsedInodes", b"wrong"]).await;
    let add = Write::AddDirStat(Ino(7), DirStat { length: 1, space: 1, inodes: 1 });
    put(&store, vec![add, Write::SetAttr(Ino(5), attr(NodeType::File, 5))]).await;
    assert_eq!(ask::<i64>(&server, &[b"EXISTS", b"i5"]).await, 1);
}

#[tokio::test]
async fn reads_of_a_wrong_type_name_the_key() {
    let server = RedisServer::start();
    let store = server.store().await;
    for key in ["i5", "c5_0", "d5", "lockp5", "dirUsedSpace"] {
        let () = ask(&server, &[b"SADD", key.as_bytes(), b"wrong"]).await;
    }
    put(&store, vec![Write::SetEntry(Ino(1), name("a"), file(5))]).await;
    let reads = [
        (Key::Attr(Ino(5)), "i5"),
        (Key::Chunk(Ino(5), 0), "c5_0"),
        (Key::Entry(Ino(5), name("a")), "d5"),
        (Key::Plocks(Ino(5)), "lockp5"),
    ];
    for (key, named) in reads {
        match store.read(&[key]).await {
            Err(Error::Corrupt { key, .. }) => assert_eq!(key, named),
            other => panic!("{named}: {other:?}"),
        }
    }
    let found = store.lookup(Ino(1), &name("a")).await;
    assert!(matches!(&found, Err(Error::Corrupt { key, .. }) if key == "i5"), "{found:?}");
    let page = store.list_entries(Ino(1), true, Cursor::default(), 10).await.expect("a page");
    assert_eq!((page.items.len(), page.corrupt.len()), (1, 1), "{page:?}");
    let page = store.scan_chunks(Cursor::default(), 100).await.expect("a page");
    assert_eq!((page.items.len(), page.corrupt.len()), (0, 1), "{page:?}");
}

/// What another server's cursor would skip comes all the same.
#[tokio::test]
async fn a_scan_begins_again_on_another_server() {
    let mut server = RedisServer::start_with(&["--appendonly", "yes"]);
    let store = server.store().await;
    put(&store, (100..2100).map(|ino| Write::SetAttr(Ino(ino), attr(NodeType::File, ino))).collect()).await;
    let first = store.scan_attrs(Cursor::default(), 200).await.expect("a page");
    server.kill();
    server.spawn();
    let (mut found, mut from) = (std::collections::BTreeSet::new(), first.next);
    while let Some(cursor) = from {
        let page = store.scan_attrs(cursor, 200).await.expect("a page");
        found.extend(page.items.into_iter().map(|(ino, _attr)| ino.0));
        from = page.next;
    }
    assert_eq!(found.len(), 2000);
}
