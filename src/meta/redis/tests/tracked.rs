//! A store that the server tells of changes.

use std::time::{Duration, Instant};

use parking_lot::Mutex;

use super::trips::evals;
use super::*;
use crate::store::Change;

async fn tracked(server: &RedisServer, params: &str) -> Arc<RedisStore> {
    let url = redis_url(&format!("{}?client-cache=true{params}", server.address()));
    Arc::new(RedisStore::connect(&url, &options()).await.expect("the server runs"))
}

async fn until(mut holds: impl AsyncFnMut() -> bool) {
    let begun = Instant::now();
    while !holds().await {
        assert!(begun.elapsed() < Duration::from_secs(10), "it never happens");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

fn directory(store: &[Write]) -> Vec<Write> {
    let dir = Entry { kind: NodeType::Directory, ino: Ino(2) };
    let mut writes =
        vec![Write::SetAttr(Ino(2), attr(NodeType::Directory, 4096)), Write::SetEntry(Ino::ROOT, name("d"), dir)];
    writes.extend_from_slice(store);
    writes
}

#[tokio::test]
async fn the_contract_holds_with_a_tracked_connection() {
    let server = RedisServer::start();
    crate::contract::check(tracked(&server, "").await).await;
}

#[tokio::test]
async fn what_has_not_changed_is_answered_without_a_call() {
    let server = RedisServer::start();
    let (ours, theirs) = (tracked(&server, "").await, server.store().await);
    put(&theirs, directory(&[])).await;
    let found = ours.lookup(Ino::ROOT, &name("d")).await.expect("lookup").expect("it is there");
    assert_eq!(ours.lookup(Ino(2), &name("x")).await.expect("lookup"), None);

    let before = evals(&server).await;
    for _time in 0..10 {
        assert_eq!(ours.lookup(Ino::ROOT, &name("d")).await.expect("lookup"), Some(found.clone()));
        assert_eq!(ours.lookup(Ino(2), &name("x")).await.expect("lookup"), None);
    }
    assert_eq!(evals(&server).await, before);
    let (_record, at) = ours.recall(&Key::Attr(Ino(2))).expect("it is remembered");
    assert!(at.elapsed() < Duration::from_millis(100), "as if it had been asked for now");

    put(&theirs, vec![Write::SetAttr(Ino(3), attr(NodeType::File, 5)), Write::SetEntry(Ino(2), name("x"), file(3))])
        .await;
    until(async || ours.lookup(Ino(2), &name("x")).await.expect("lookup").is_some()).await;
    put(&theirs, vec![Write::SetAttr(Ino(3), attr(NodeType::File, 6))]).await;
    until(async || {
        let found = ours.lookup(Ino(2), &name("x")).await.expect("lookup").expect("it stays");
        found.1.is_some_and(|attr| attr.length == 6)
    })
    .await;
    put(&theirs, vec![Write::DelEntry(Ino(2), name("x"))]).await;
    until(async || ours.lookup(Ino(2), &name("x")).await.expect("lookup").is_none()).await;
}

#[tokio::test]
async fn changes_of_others_are_told_and_ours_are_not() {
    let server = RedisServer::start();
    let (ours, theirs) = (tracked(&server, "").await, server.store().await);
    put(
        &theirs,
        directory(&[Write::SetAttr(Ino(3), attr(NodeType::File, 5)), Write::SetEntry(Ino(2), name("x"), file(3))]),
    )
    .await;
    let told = Arc::new(Mutex::new(Vec::new()));
    let sink = Arc::clone(&told);
    assert!(ours.on_change(Arc::new(move |change| sink.lock().push(change))), "this store tells");
    ours.lookup(Ino(2), &name("x")).await.expect("lookup");
    put(
        &theirs,
        vec![Write::SetAttr(Ino(3), attr(NodeType::File, 6)), Write::SetAttr(Ino(9), attr(NodeType::File, 6))],
    )
    .await;
    until(async || told.lock().contains(&Change::Inode(Ino(3)))).await;
    put(&theirs, vec![Write::DelEntry(Ino(2), name("x"))]).await;
    until(async || told.lock().contains(&Change::Entry(Ino(2), name("x")))).await;
    assert_eq!(told.lock().len(), 2, "nothing is told of what is not remembered");

    put(&ours, vec![Write::SetAttr(Ino(4), attr(NodeType::File, 1)), Write::SetEntry(Ino(2), name("y"), file(4))])
        .await;
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert_eq!(told.lock().len(), 2, "our own change is no news");
    let () = ask(&server, &[b"FLUSHDB"]).await;
    until(async || told.lock().contains(&Change::Everything)).await;
}

#[tokio::test]
async fn a_lost_connection_ends_all_trust() {
    let server = RedisServer::start();
    let (ours, theirs) = (tracked(&server, "").await, server.store().await);
    put(&theirs, directory(&[])).await;
    ours.lookup(Ino::ROOT, &name("d")).await.expect("lookup");
    let killed: u64 = ask(&server, &[b"CLIENT", b"KILL", b"TYPE", b"normal", b"SKIPME", b"yes"]).await;
    assert!(killed >= 2);
    put(&theirs, vec![Write::DelEntry(Ino::ROOT, name("d"))]).await;
    until(async || ours.lookup(Ino::ROOT, &name("d")).await.expect("lookup").is_none()).await;
    // And it is told again on the new connection.
    put(&theirs, directory(&[])).await;
    until(async || ours.lookup(Ino::ROOT, &name("d")).await.expect("lookup").is_some()).await;
    let before = evals(&server).await;
    ours.lookup(Ino::ROOT, &name("d")).await.expect("lookup");
    assert_eq!(evals(&server).await, before);
}

#[tokio::test]
async fn trust_expires() {
    let server = RedisServer::start();
    let (ours, theirs) =
        (tracked(&server, "&client-cache-expire=50ms&client-cache-size=100").await, server.store().await);
    put(&theirs, directory(&[])).await;
    ours.lookup(Ino::ROOT, &name("d")).await.expect("lookup");
    tokio::time::sleep(Duration::from_millis(80)).await;
    let before = evals(&server).await;
    ours.lookup(Ino::ROOT, &name("d")).await.expect("lookup");
    assert_eq!(evals(&server).await - before, 1);
}
