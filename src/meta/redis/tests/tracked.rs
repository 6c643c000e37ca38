//! A store that the server tells of changes: of all with `client-cache=true`, of what it has asked for otherwise.

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

/// Makes a directory as an operation does: where nothing was.
async fn make_directory(store: &RedisStore, parent: Ino, called: &str, ino: Ino) {
    let called = name(called);
    within(store, move |txn| {
        assert_eq!(txn.get_unlikely(&Key::Attr(ino))?, None);
        let entry = Entry { kind: NodeType::Directory, ino };
        txn.write(Write::SetAttr(ino, attr(NodeType::Directory, 4096)));
        txn.write(Write::SetEntry(parent, called.clone(), entry));
        Ok(())
    })
    .await
    .expect("commits");
}

async fn make_file(store: &RedisStore, dir: Ino, called: &str, ino: u64, length: u64) {
    let writes =
        vec![Write::SetAttr(Ino(ino), attr(NodeType::File, length)), Write::SetEntry(dir, name(called), file(ino))];
    put(store, writes).await;
}

fn session(sid: u64) -> Write {
    Write::PutSession(stead_base::SessionId(sid), i64::MAX / 4, bytes::Bytes::from_static(b"{}"))
}

async fn length_of(store: &RedisStore, dir: Ino, called: &str) -> u64 {
    let found = store.lookup(dir, &name(called)).await.expect("lookup").expect("it is there");
    found.1.expect("it has attributes").length
}

#[tokio::test]
async fn what_was_asked_for_or_written_is_told_of_by_default() {
    let server = RedisServer::start();
    let (ours, theirs) = (server.store().await, server.store().await);
    make_directory(&theirs, Ino::ROOT, "d", Ino(2)).await;
    make_file(&theirs, Ino(2), "x", 3, 5).await;
    // The attributes behind a name can be declared only when it is known what it leads to.
    for _time in 0..2 {
        assert_eq!(length_of(&ours, Ino(2), "x").await, 5);
    }
    let before = evals(&server).await;
    for _time in 0..10 {
        assert_eq!(length_of(&ours, Ino(2), "x").await, 5);
    }
    assert_eq!(evals(&server).await, before);

    put(&theirs, vec![Write::SetAttr(Ino(3), attr(NodeType::File, 6))]).await;
    until(async || length_of(&ours, Ino(2), "x").await == 6).await;
    // Our own commits end nothing.
    for length in 7..12 {
        put(&ours, vec![Write::SetAttr(Ino(3), attr(NodeType::File, length))]).await;
        let before = evals(&server).await;
        assert_eq!(length_of(&ours, Ino(2), "x").await, length);
        assert_eq!(evals(&server).await, before);
        put(&theirs, vec![Write::SetAttr(Ino(3), attr(NodeType::File, length + 100))]).await;
        until(async || length_of(&ours, Ino(2), "x").await == length + 100).await;
    }
    put(&theirs, vec![Write::DelEntry(Ino(2), name("x"))]).await;
    until(async || ours.lookup(Ino(2), &name("x")).await.expect("lookup").is_none()).await;
}

#[tokio::test]
async fn who_is_alone_knows_what_is_not_in_directories_of_its_own() {
    let server = RedisServer::start();
    let (ours, theirs) = (server.store().await, server.store().await);
    put(&ours, vec![session(1)]).await;
    make_directory(&ours, Ino::ROOT, "d", Ino(2)).await;
    assert_eq!(ours.lookup(Ino(2), &name("first")).await.expect("lookup"), None);
    let before = evals(&server).await;
    for n in 0..100 {
        let called = format!("f{n}");
        assert_eq!(ours.lookup(Ino(2), &name(&called)).await.expect("lookup"), None);
        make_file(&ours, Ino(2), &called, 10 + n, n).await;
        assert_eq!(length_of(&ours, Ino(2), &called).await, n);
    }
    assert_eq!(evals(&server).await - before, 100, "nothing but the commits");
    put(&ours, vec![Write::DelEntry(Ino(2), name("f1"))]).await;
    assert_eq!(ours.lookup(Ino(2), &name("f1")).await.expect("lookup"), None);

    // Somebody without a session, such as a controller, is told of.
    make_file(&theirs, Ino(2), "theirs", 200, 5).await;
    until(async || ours.lookup(Ino(2), &name("theirs")).await.expect("lookup").is_some()).await;

    // Beside another client every name is asked for.
    make_directory(&ours, Ino::ROOT, "e", Ino(3)).await;
    put(&theirs, vec![session(2)]).await;
    let tracking = ours.link.tracking().expect("the default");
    until(async || ours.sole.is_known(tracking).is_none()).await;
    let before = evals(&server).await;
    for n in 0..10 {
        assert_eq!(ours.lookup(Ino(3), &name(&format!("g{n}"))).await.expect("lookup"), None);
    }
    assert_eq!(evals(&server).await - before, 10);
}

#[tokio::test]
async fn names_that_were_forgotten_are_asked_for() {
    let server = RedisServer::start();
    let ours = server.store().await;
    put(&ours, vec![session(1)]).await;
    make_directory(&ours, Ino::ROOT, "d", Ino(2)).await;
    make_directory(&ours, Ino::ROOT, "e", Ino(3)).await;
    for n in 0..70_000 {
        make_file(&ours, Ino(2), &format!("f{n}"), 10 + n, n).await;
    }
    for n in [0, 1, 9_999, 69_999] {
        assert_eq!(length_of(&ours, Ino(2), &format!("f{n}")).await, n);
    }
    let before = evals(&server).await;
    assert_eq!(ours.lookup(Ino(2), &name("none")).await.expect("lookup"), None);
    assert_eq!(evals(&server).await - before, 1);
}

#[tokio::test]
async fn a_server_that_may_not_tell_serves_all_the_same() {
    let server = RedisServer::start();
    let () = ask(&server, &[b"ACL", b"SETUSER", b"u", b"on", b">p", b"~*", b"&*", b"+@all", b"-client"]).await;
    let address = server.address().replace("redis://", "redis://u:p@");
    let ours = RedisStore::connect(&redis_url(&address), &options()).await.expect("connects");
    make_directory(&ours, Ino::ROOT, "d", Ino(2)).await;
    for expected in 1..4 {
        let before = evals(&server).await;
        assert!(ours.lookup(Ino::ROOT, &name("d")).await.expect("lookup").is_some());
        assert_eq!(evals(&server).await - before, 1, "{expected}");
    }
    let told = redis_url(&format!("{address}?client-cache=true"));
    assert!(RedisStore::connect(&told, &options()).await.is_err(), "what was asked for is not left out in silence");
}

/// What is committed is answered as such, whatever becomes of the telling.
#[tokio::test]
async fn a_commit_that_is_not_to_be_told_of_is_one_all_the_same() {
    let server = RedisServer::start();
    let () = ask(&server, &[b"ACL", b"SETUSER", b"u", b"on", b">p", b"~*", b"&*", b"+@all"]).await;
    let address = server.address().replace("redis://", "redis://u:p@");
    let ours = RedisStore::connect(&redis_url(&address), &options()).await.expect("connects");
    make_directory(&ours, Ino::ROOT, "d", Ino(2)).await;
    let before = evals(&server).await;
    assert!(ours.lookup(Ino::ROOT, &name("d")).await.expect("lookup").is_some());
    assert_eq!(evals(&server).await, before, "it is told of what it has made");
    let () = ask(&server, &[b"ACL", b"SETUSER", b"u", b"-exists"]).await;
    make_directory(&ours, Ino::ROOT, "e", Ino(3)).await;
    let before = evals(&server).await;
    assert!(ours.lookup(Ino::ROOT, &name("e")).await.expect("lookup").is_some());
    assert_eq!(evals(&server).await - before, 1, "nothing is believed that is not told of");
}

/// A server whose table is full forgets what it was to tell of, in silence where our own command is the reason.
#[tokio::test]
async fn a_table_that_fills_up_ends_all_trust() {
    let args = ["--save", "", "--appendonly", "no", "--tracking-table-max-keys", "40"];
    let server = RedisServer::start_with(&args);
    let (ours, theirs) = (server.store().await, server.store().await);
    make_directory(&theirs, Ino::ROOT, "d", Ino(2)).await;
    for n in 0..30 {
        make_file(&theirs, Ino(2), &format!("f{n}"), 10 + n, n).await;
    }
    for n in (0..30).chain(0..30) {
        length_of(&ours, Ino(2), &format!("f{n}")).await;
    }
    tokio::time::sleep(Duration::from_millis(2100)).await;
    let before = evals(&server).await;
    for _time in 0..10 {
        length_of(&ours, Ino(2), "f1").await;
    }
    assert_eq!(evals(&server).await - before, 10);
}

#[test]
fn servers_that_would_tell_in_the_middle_of_an_answer_are_not_asked_to() {
    use super::super::tracking::check_version;
    for (version, can) in
        [("6.2.14", false), ("7.0.4", false), ("7.0.5", true), ("7.0.15", true), ("7.2.4", true), ("8.0.0", true)]
    {
        assert_eq!(check_version(&format!("# Server\r\nredis_version:{version}\r\n")).is_ok(), can, "{version}");
    }
    assert!(check_version("").is_err());
}
