//! Servers and connections that go away, and servers that refuse.

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use super::proxy::Proxy;
use super::*;
use crate::url::ConnectOptions;

fn patient(millis: u64) -> ConnectOptions {
    ConnectOptions { retry_for: Duration::from_millis(millis), ..options() }
}

/// Lets 16 tasks increment 4 inodes `rounds` times each while `disturb` runs, and checks that nothing is lost or doubled.
pub(super) async fn nothing_is_lost_or_doubled(store: Arc<RedisStore>, rounds: u64, disturb: impl Future<Output = ()>) {
    let inos = [Ino(10), Ino(11), Ino(12), Ino(13)];
    put(&store, inos.map(|ino| Write::SetAttr(ino, attr(NodeType::File, 0))).to_vec()).await;
    let tasks: Vec<_> = (0..16usize)
        .map(|task| {
            let store = Arc::clone(&store);
            tokio::spawn(async move {
                for round in 0..rounds {
                    let result = increment(&store, inos[task % 4]).await;
                    assert!(result.is_ok(), "task {task}, round {round}: {result:?}");
                }
            })
        })
        .collect();
    disturb.await;
    for task in tasks {
        task.await.expect("no task panics");
    }
    let total = 16 * rounds;
    assert_eq!(counted(&store, &inos).await, (total, total.cast_signed()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_connections_lose_and_double_nothing() {
    let server = RedisServer::start();
    let store = server.store().await;
    let mut killed = 0u64;
    let mut admin = server.client().await;
    nothing_is_lost_or_doubled(store, 150, async {
        for _kill in 0..40 {
            tokio::time::sleep(Duration::from_millis(20)).await;
            let mut kill = redis::cmd("CLIENT");
            kill.arg("KILL").arg("TYPE").arg("normal").arg("SKIPME").arg("yes");
            killed += kill.query_async::<u64>(&mut admin).await.expect("we may kill");
        }
    })
    .await;
    assert!(killed >= 10, "only {killed} connections were killed");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn lost_replies_lose_and_double_nothing() {
    let server = RedisServer::start();
    let proxy = Proxy::start(&server.address()).await;
    let store = RedisStore::connect(&redis_url(&proxy.address), &options()).await.expect("the proxy runs");
    proxy.faults.lose_reply.store(7, Ordering::Relaxed);
    nothing_is_lost_or_doubled(Arc::new(store), 40, async {}).await;
    let met = proxy.faults.met.load(Ordering::Relaxed);
    assert!(met >= 10, "only {met} replies were lost");
}

#[tokio::test]
async fn a_commit_that_arrives_after_it_was_given_up_is_refused() {
    let server = RedisServer::start();
    let proxy = Proxy::start(&server.address()).await;
    let store = RedisStore::connect(&redis_url(&proxy.address), &options()).await.expect("the proxy runs");
    for round in 1..=3 {
        proxy.faults.deliver_late.store(1, Ordering::Relaxed);
        // Nothing is compared: only the token can tell the late command from a new one.
        put(&store, vec![Write::AddCounter(Counter::UsedSpace, 1), Write::SetSetting("x".into())]).await;
        assert_eq!(proxy.faults.met.load(Ordering::Relaxed), round);
        tokio::time::sleep(Duration::from_millis(700)).await;
        let used: i64 = ask(&server, &[b"GET", b"usedSpace"]).await;
        assert_eq!(used, i64::from(round));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn work_waits_for_a_server_that_restarts() {
    let mut server = RedisServer::start_with(&["--save", "", "--appendonly", "yes", "--appendfsync", "always"]);
    let store = server.store().await;
    nothing_is_lost_or_doubled(store, 100, async {
        for _restart in 0..3 {
            tokio::time::sleep(Duration::from_millis(150)).await;
            server.kill();
            tokio::time::sleep(Duration::from_millis(300)).await;
            server.spawn();
        }
    })
    .await;
}

async fn blind(store: &RedisStore, write: Write) -> Result<()> {
    within(store, move |txn| {
        txn.write(write.clone());
        Ok(())
    })
    .await
}

#[tokio::test]
async fn a_server_that_stays_away_is_named_when_the_time_is_over() {
    let mut server = RedisServer::start();
    let store = RedisStore::connect(&redis_url(&server.address()), &patient(400)).await.expect("it runs");
    server.kill();
    let begun = Instant::now();
    for result in [
        store.lookup(Ino(1), &name("x")).await.map(drop),
        blind(&store, Write::DelAttr(Ino(5))).await,
        store.allocate(Counter::NextInode, 1).await.map(drop),
    ] {
        match result {
            Err(Error::Unavailable { engine, .. }) => assert_eq!(engine, store.describe()),
            other => panic!("{other:?}"),
        }
    }
    let took = begun.elapsed();
    assert!((1100..4000).contains(&took.as_millis()), "three times 400 ms took {took:?}");
    server.spawn();
    assert_eq!(store.lookup(Ino(1), &name("x")).await.expect("it is back"), None);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_hangs_is_waited_for() {
    let server = RedisServer::start();
    let store = server.store().await;
    put(&store, vec![Write::SetAttr(Ino(5), attr(NodeType::File, 0))]).await;
    signal(&server, "STOP");
    let waiting = tokio::spawn({
        let store = Arc::clone(&store);
        async move { increment(&store, Ino(5)).await }
    });
    // Longer than a command may take: the commit lies in the server's socket when a new connection is made.
    tokio::time::sleep(Duration::from_millis(5600)).await;
    signal(&server, "CONT");
    waiting.await.expect("no panic").expect("commits in the end");
    assert_eq!(counted(&store, &[Ino(5)]).await, (1, 1));
}

pub(super) fn signal(server: &RedisServer, name: &str) {
    let status = std::process::Command::new("kill").arg(format!("-{name}")).arg(server.pid().to_string()).status();
    assert!(status.expect("kill(1) is there").success());
}

#[tokio::test]
async fn a_first_connection_fails_at_once_and_says_why() {
    let server = RedisServer::start_with(&["--save", "", "--requirepass", "right"]);
    let address = server.address();
    let at = |user: &str, db: u32| {
        let place = address.trim_start_matches("redis://").trim_end_matches("/1");
        format!("redis://{user}{place}/{db}")
    };
    let connect = async |address: &str| RedisStore::connect(&redis_url(address), &options()).await;

    connect(&at(":right@", 1)).await.expect("the right password");
    for user in ["", ":wrong@", "nobody:right@"] {
        for db in [0, 1] {
            let error = connect(&at(user, db)).await.expect_err("it must be refused");
            assert!(matches!(error, Error::Denied { .. }), "{user} {db}: {error:?}");
            assert!(!error.to_string().contains("right"), "{error}");
        }
    }
    let error = connect(&at(":right@", 99)).await.expect_err("there are 16 databases");
    assert!(matches!(error, Error::Address { .. }), "{error:?}");

    let begun = Instant::now();
    for nowhere in ["redis://127.0.0.1:1/0", "redis://no-such-host.invalid/0", "unix:///no/such/socket"] {
        let error = connect(nowhere).await.expect_err("nobody is there");
        assert!(matches!(error, Error::Unavailable { .. }), "{nowhere}: {error:?}");
    }
    assert!(begun.elapsed() < Duration::from_secs(5), "refused at once");
}

#[tokio::test]
async fn a_full_server_is_said_to_be_full() {
    let server = RedisServer::start();
    let store = server.store().await;
    put(&store, vec![Write::SetAttr(Ino(5), attr(NodeType::File, 0))]).await;
    let () = ask(&server, &[b"CONFIG", b"SET", b"maxmemory", b"1"]).await;
    let full = within(&store, |txn| {
        txn.write(Write::DelAttr(Ino(5)));
        txn.write(Write::SetAttr(Ino(6), attr(NodeType::File, 0)));
        Ok(())
    });
    let full = full.await;
    assert!(matches!(full, Err(Error::EngineFull { .. })), "{full:?}");
    let () = ask(&server, &[b"CONFIG", b"SET", b"maxmemory", b"0"]).await;
    let kept = store.read(&[Key::Attr(Ino(5)), Key::Attr(Ino(6))]).await.expect("read");
    assert!(kept[0].is_some() && kept[1].is_none(), "all or nothing");
}

#[tokio::test]
async fn a_replica_is_waited_for_until_it_is_the_master() {
    let server = RedisServer::start();
    let store = server.store().await;
    let () = ask(&server, &[b"REPLICAOF", b"127.0.0.1", b"1"]).await;
    let promote = async {
        tokio::time::sleep(Duration::from_millis(300)).await;
        let () = ask(&server, &[b"REPLICAOF", b"NO", b"ONE"]).await;
    };
    let write = blind(&store, Write::AddCounter(Counter::UsedSpace, 1));
    let (written, ()) = tokio::join!(write, promote);
    written.expect("commits once it is the master");
    let used: i64 = ask(&server, &[b"GET", b"usedSpace"]).await;
    assert_eq!(used, 1);
}

#[tokio::test]
async fn a_dangerous_configuration_is_noticed() {
    let server = RedisServer::start();
    let dangers = server.store().await.dangers().await.expect("INFO is allowed");
    assert!(dangers.len() == 1 && dangers[0].contains("appendonly"), "{dangers:?}");
    let eager = ["--save", "60 1", "--maxmemory", "100mb", "--maxmemory-policy", "allkeys-lru"];
    let server = RedisServer::start_with(&eager);
    assert!(server.store().await.dangers().await.expect("INFO is allowed").is_empty());
    let policy: Vec<String> = ask(&server, &[b"CONFIG", b"GET", b"maxmemory-policy"]).await;
    assert_eq!(policy[1], "noeviction", "it was set when the store connected");
    let stubborn = [eager.as_slice(), &["--rename-command", "CONFIG", ""]].concat();
    let server = RedisServer::start_with(&stubborn);
    let dangers = server.store().await.dangers().await.expect("INFO is allowed");
    assert!(dangers.len() == 1 && dangers[0].contains("allkeys-lru"), "{dangers:?}");
    let server = RedisServer::start_with(&["--appendonly", "yes", "--save", ""]);
    assert!(server.store().await.dangers().await.expect("INFO is allowed").is_empty());
}
