//! The store against a real server.

mod away;
mod damage;
mod golden;
mod groups;
mod notices;
mod proxy;
mod scans;
mod speed;
mod stored;
mod tls;
mod tracked;
mod trips;

use std::sync::Arc;

use redis::{Cmd, FromRedisValue};
use stead_base::{Ino, Timestamp};

use super::RedisStore;
use super::server::{RedisServer, options, redis_url};
use crate::error::{Error, Result};
use crate::records::{Attr, Counter, Entry, Key, Name, NodeType, Record, Write};
use crate::store::{Step, Stop, Store, TxOptions, Txn, transact};

fn name(text: &str) -> Name {
    Name::entry(text.as_bytes()).expect("a valid name")
}

fn attr(kind: NodeType, length: u64) -> Attr {
    Attr {
        flags: 0,
        kind,
        mode: 0o644,
        uid: 1000,
        gid: 1000,
        atime: Timestamp::from_secs(1_700_000_000),
        mtime: Timestamp::from_secs(1_700_000_000),
        ctime: Timestamp::from_secs(1_700_000_000),
        nlink: 1,
        length,
        rdev: 0,
        parent: Ino::ROOT,
        access_acl: 0,
        default_acl: 0,
        tier: 0,
    }
}

fn file(ino: u64) -> Entry {
    Entry { kind: NodeType::File, ino: Ino(ino) }
}

async fn within<T: Send + 'static>(
    store: &RedisStore,
    body: impl FnMut(&mut Txn<'_>) -> Step<T> + Send + 'static,
) -> Result<T> {
    transact(store, TxOptions::default(), body).await
}

async fn put(store: &RedisStore, writes: Vec<Write>) {
    let write = move |txn: &mut Txn<'_>| {
        writes.iter().cloned().for_each(|write| txn.write(write));
        Ok(())
    };
    within(store, write).await.expect("writes without reads commit");
}

/// Adds one to an inode's length, by comparison, and to a counter, blindly: a doubled or lost commit shows in both.
async fn increment(store: &RedisStore, ino: Ino) -> Result<()> {
    within(store, move |txn| {
        let mut attr = txn.attr(ino)?.ok_or(Error::NoInode { ino })?;
        attr.length += 1;
        txn.write(Write::SetAttr(ino, attr));
        txn.write(Write::AddCounter(Counter::UsedSpace, 1));
        Ok(())
    })
    .await
}

/// The length and the counter of [`increment`].
async fn counted(store: &RedisStore, inos: &[Ino]) -> (u64, i64) {
    let keys: Vec<Key> = inos.iter().copied().map(Key::Attr).collect();
    let mut sum = 0;
    for record in store.read(&keys).await.expect("read") {
        match record {
            Some(Record::Attr(attr)) => sum += attr.length,
            other => panic!("no attributes but {other:?}"),
        }
    }
    match store.read(&[Key::Counter(Counter::UsedSpace)]).await.expect("read").remove(0) {
        Some(Record::Number(number)) => (sum, number),
        other => panic!("no number but {other:?}"),
    }
}

/// Asks the server directly.
async fn ask<T: FromRedisValue>(server: &RedisServer, words: &[&[u8]]) -> T {
    let mut command = Cmd::new();
    for word in words {
        command.arg(*word);
    }
    command.query_async(&mut server.client().await).await.expect("the server answers")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_store_keeps_the_contract() {
    let server = RedisServer::start();
    crate::contract::check(server.store().await).await;
}

#[tokio::test]
async fn a_unix_socket_works_as_well() {
    let server = RedisServer::start();
    let url = redis_url(&format!("unix://{}?db=1", server.socket().display()));
    let store = RedisStore::connect(&url, &options()).await.expect("the server listens there");
    put(&store, vec![Write::SetAttr(Ino(5), attr(NodeType::File, 5))]).await;
    let read = server.store().await.read(&[Key::Attr(Ino(5))]).await.expect("read");
    assert_eq!(read, [Some(Record::Attr(attr(NodeType::File, 5)))]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sixteen_tasks_on_one_record_lose_no_increment() {
    let server = RedisServer::start();
    let (store, ino) = (server.store().await, Ino(5));
    put(&store, vec![Write::SetAttr(ino, attr(NodeType::File, 0))]).await;
    let tasks: Vec<_> = (0..16)
        .map(|_task| {
            let store = Arc::clone(&store);
            tokio::spawn(async move {
                for _round in 0..25 {
                    increment(&store, ino).await.expect("commits within 50 attempts");
                }
            })
        })
        .collect();
    for task in tasks {
        task.await.expect("no task panics");
    }
    assert_eq!(counted(&store, &[ino]).await, (400, 400));
}

#[tokio::test]
async fn what_another_client_changed_is_seen_by_every_outcome() {
    let server = RedisServer::start();
    let (ours, theirs, ino) = (server.store().await, server.store().await, Ino(5));
    put(&ours, vec![Write::SetAttr(ino, attr(NodeType::File, 1))]).await;
    let length = move |txn: &mut Txn<'_>| Ok(txn.attr(ino)?.map(|attr| attr.length));

    put(&theirs, vec![Write::SetAttr(ino, attr(NodeType::File, 2))]).await;
    assert_eq!(within(&ours, length).await.expect("ends well"), Some(2), "an outcome without a write");

    put(&theirs, vec![Write::SetAttr(ino, attr(NodeType::File, 3))]).await;
    increment(&ours, ino).await.expect("commits");
    assert_eq!(within(&theirs, length).await.expect("ends well"), Some(4), "a commit");

    put(&theirs, vec![Write::DelAttr(ino)]).await;
    assert!(matches!(increment(&ours, ino).await, Err(Error::NoInode { .. })), "another outcome on the second run");
    put(&theirs, vec![Write::SetAttr(ino, attr(NodeType::File, 7))]).await;
    increment(&ours, ino).await.expect("a remembered absence is no error either");
    assert_eq!(within(&theirs, length).await.expect("ends well"), Some(8));
}

#[tokio::test]
async fn a_hint_is_never_older_than_a_second() {
    let server = RedisServer::start();
    let (ours, theirs) = (server.store().await, server.store().await);
    let used = move |txn: &mut Txn<'_>| {
        let used = txn.hint(&Key::Counter(Counter::UsedSpace))?;
        txn.write(Write::AddCounter(Counter::UsedSpace, 1));
        Ok(used)
    };
    assert_eq!(within(&ours, used).await.expect("commits"), None);
    put(&theirs, vec![Write::AddCounter(Counter::UsedSpace, 100)]).await;
    let young = within(&ours, used).await.expect("commits");
    assert!(matches!(young, Some(Record::Number(1 | 101))), "a young one may be remembered: {young:?}");
    tokio::time::sleep(std::time::Duration::from_millis(1100)).await;
    assert_eq!(within(&ours, used).await.expect("commits"), Some(Record::Number(102)));
    assert_eq!(within(&ours, used).await.expect("commits"), Some(Record::Number(103)));
}

#[tokio::test]
async fn a_body_that_waits_for_nothing_is_an_error() {
    let server = RedisServer::start();
    let store = server.store().await;
    let stuck = within::<()>(&store, |_txn| Err(Stop::NotYet)).await;
    assert!(matches!(stuck, Err(Error::Engine { .. })), "{stuck:?}");
}

#[tokio::test]
async fn lookup_is_exact_for_every_inode_number() {
    let server = RedisServer::start();
    let store = server.store().await;
    let numbers = [
        1,
        9_999_999,
        10_000_000,
        10_000_001,
        u64::from(u32::MAX),
        (1 << 53) - 1,
        (1 << 53) + 1,
        99_999_999_999_999,
        100_000_000_000_000,
        Ino::TRASH.0,
        Ino::TRASH.0 + 1,
        Ino::TRASH.0 + 123_457,
        i64::MAX.cast_unsigned(),
        u64::MAX,
    ];
    for (n, number) in (0u64..).zip(numbers) {
        put(
            &store,
            vec![
                Write::SetAttr(Ino(number), attr(NodeType::File, n)),
                Write::SetEntry(Ino::TRASH, name("t"), file(number)),
            ],
        )
        .await;
        let found = store.lookup(Ino::TRASH, &name("t")).await.expect("lookup");
        assert_eq!(found, Some((file(number), Some(attr(NodeType::File, n)))));
        let page = store.list_entries(Ino::TRASH, true, Default::default(), 10).await.expect("list_entries");
        assert_eq!(page.items[0].attr, Some(attr(NodeType::File, n)), "in a listing too: {number}");
    }
}

#[tokio::test]
async fn a_forgotten_script_is_loaded_again() {
    let server = RedisServer::start();
    let store = server.store().await;
    let () = ask(&server, &[b"SCRIPT", b"FLUSH"]).await;
    put(&store, vec![Write::SetAttr(Ino(5), attr(NodeType::File, 5))]).await;
    assert_eq!(store.lookup(Ino(1), &name("x")).await.expect("lookup"), None);
    assert_eq!(store.read(&[Key::Attr(Ino(5))]).await.expect("read").len(), 1);
}

#[tokio::test]
async fn a_record_that_does_not_decode_is_named() {
    let server = RedisServer::start();
    let store = server.store().await;
    let () = ask(&server, &[b"SET", b"i5", b"short"]).await;
    let () = ask(&server, &[b"HSET", b"d1", b"x", b"bad"]).await;
    let why = store.read(&[Key::Attr(Ino(5))]).await.expect_err("it is corrupt").to_string();
    assert!(why.contains("i5"), "{why}");
    let why = store.lookup(Ino(1), &name("x")).await.expect_err("it is corrupt").to_string();
    assert!(why.contains("d1 \"x\""), "{why}");
}
