//! Several servers that hold one volume: replicas with sentinels, and a cluster.
//!
//! Replication is asynchronous, so a server that is killed may take acknowledged commits with it. That is not ours to
//! prevent; these tests stop the writes and wait for the replica before they kill.

use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use super::away::nothing_is_lost_or_doubled;
use super::notices::Listener;
use super::*;
use crate::redis::server::{free_port, patiently};
use crate::url::RedisUrl;

const PLAIN: [&str; 6] = ["--save", "", "--appendonly", "no", "--repl-diskless-sync-delay", "0"];

/// Waits until a question is answered with `true`.
async fn until(what: &str, mut asked: impl AsyncFnMut() -> bool) {
    let begun = Instant::now();
    while !asked().await {
        assert!(begun.elapsed() < Duration::from_secs(60), "waited too long until {what}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

async fn info(server: &RedisServer, section: &str) -> String {
    ask(server, &[b"INFO", section.as_bytes()]).await
}

async fn follows(replica: &RedisServer) {
    until("the replica has everything", async || {
        let said = info(replica, "replication").await;
        said.contains("master_link_status:up") && said.contains("master_sync_in_progress:0")
    })
    .await;
}

/// Kills a master whose replica has everything that was acknowledged.
async fn kill_replicated(master: &mut RedisServer) {
    let () = ask(master, &[b"CLIENT", b"PAUSE", b"30000", b"WRITE"]).await;
    let acknowledged: u64 = ask(master, &[b"WAIT", b"1", b"10000"]).await;
    assert_eq!(acknowledged, 1, "the replica has everything");
    master.kill();
}

/// A sentinel's process.
struct Sentinel {
    child: Child,
    port: u16,
    _dir: tempfile::TempDir,
}

impl Sentinel {
    fn start(master: u16, more: &str) -> Self {
        let (dir, port) = (tempfile::tempdir().expect("a directory"), free_port());
        let config = format!(
            "port {port}\nbind 127.0.0.1\ndir {0}\nlogfile {0}/log\nsentinel monitor main 127.0.0.1 {master} 2\n\
             sentinel down-after-milliseconds main 600\nsentinel failover-timeout main 3000\n{more}",
            dir.path().display(),
        );
        let file = dir.path().join("sentinel.conf");
        std::fs::write(&file, config).expect("the directory is ours");
        let mut command = Command::new("redis-server");
        command.arg(&file).arg("--sentinel").stdout(Stdio::null()).stderr(Stdio::null());
        Self { child: command.spawn().expect("these tests need redis-server"), port, _dir: dir }
    }

    async fn client(&self, password: &str) -> Option<redis::aio::MultiplexedConnection> {
        let client = redis::Client::open(format!("redis://:{password}@127.0.0.1:{}", self.port));
        client.expect("a valid address").get_multiplexed_async_connection().await.ok()
    }
}

impl Drop for Sentinel {
    fn drop(&mut self) {
        self.child.kill().expect("the process is ours");
        self.child.wait().expect("the process is ours");
    }
}

/// A master, a replica, and three sentinels that know each other.
struct Watched {
    master: RedisServer,
    replica: RedisServer,
    sentinels: Vec<Sentinel>,
}

impl Watched {
    async fn start() -> Self {
        let auth = ["--requirepass", "data", "--masterauth", "data"];
        let master = RedisServer::start_with(&[PLAIN.as_slice(), auth.as_slice()].concat());
        let to = format!("127.0.0.1 {}", master.port());
        let replica = RedisServer::start_with(&[PLAIN.as_slice(), &auth, &["--replicaof", &to]].concat());
        let more = "sentinel auth-pass main data\nrequirepass watch\nsentinel sentinel-pass watch\n";
        let sentinels: Vec<_> = (0..3).map(|_n| Sentinel::start(master.port(), more)).collect();
        let group = Self { master, replica, sentinels };
        for sentinel in &group.sentinels {
            until("the sentinels know each other and the replica", async || {
                let Some(mut client) = sentinel.client("watch").await else { return false };
                let said: Result<String, _> = redis::cmd("INFO").arg("sentinel").query_async(&mut client).await;
                said.is_ok_and(|said| said.contains("status=ok") && said.contains("slaves=1,sentinels=3"))
            })
            .await;
        }
        group
    }

    fn address(&self) -> String {
        let ports: Vec<_> = self.sentinels.iter().map(|sentinel| format!("127.0.0.1:{}", sentinel.port)).collect();
        format!("redis://:data@main,{}/1", ports.join(","))
    }

    async fn store(&self) -> Result<RedisStore> {
        connect(&self.address(), Some("watch")).await
    }
}

async fn connect(address: &str, sentinel_password: Option<&str>) -> Result<RedisStore> {
    let sentinel_password = sentinel_password.map(str::to_owned);
    let url = RedisUrl { sentinel_password, ..redis_url(address) };
    RedisStore::connect(&url, &options()).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_contract_holds_through_sentinel() {
    let group = Watched::start().await;
    crate::contract::check(Arc::new(group.store().await.expect("the sentinels know the master"))).await;

    let address = group.address();
    let error = connect(&address, None).await.expect_err("no password for the sentinels");
    assert!(matches!(error, Error::Denied { .. }), "{error:?}");
    let error = connect(&address.replace("main", "other"), Some("watch")).await.expect_err("unknown");
    assert!(matches!(&error, Error::Address { why, .. } if why.contains("\"other\"")), "{error:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_fail_over_by_sentinel_loses_and_doubles_nothing() {
    let mut group = Watched::start().await;
    let store = Arc::new(group.store().await.expect("the sentinels know the master"));
    nothing_is_lost_or_doubled(store, 150, async {
        tokio::time::sleep(Duration::from_millis(200)).await;
        kill_replicated_with(&mut group.master, "data").await;
        let replica = &group.replica;
        until("the replica is promoted", async || {
            let said: String = with_password(replica, "data", &["INFO", "replication"]).await;
            said.contains("role:master")
        })
        .await;
    })
    .await;
}

async fn with_password<T: FromRedisValue>(server: &RedisServer, password: &str, words: &[&str]) -> T {
    let address = format!("redis://:{password}@127.0.0.1:{}/0", server.port());
    let client = redis::Client::open(address).expect("a valid address");
    let mut connection = patiently(client).await.expect("the server runs");
    let mut command = Cmd::new();
    command.arg(words);
    command.query_async(&mut connection).await.expect("the server answers")
}

async fn kill_replicated_with(master: &mut RedisServer, password: &str) {
    let () = with_password(master, password, &["CLIENT", "PAUSE", "30000", "WRITE"]).await;
    let acknowledged: u64 = with_password(master, password, &["WAIT", "1", "10000"]).await;
    assert_eq!(acknowledged, 1, "the replica has everything");
    master.kill();
}

/// Three masters, and a replica of the one that has the slot of database 1.
struct Cluster {
    masters: Vec<RedisServer>,
    replica: RedisServer,
}

/// `{1}` lies in slot 9842, which the second third has.
const OWNER: usize = 1;

impl Cluster {
    async fn start() -> Self {
        let cluster = ["--cluster-enabled", "yes", "--cluster-node-timeout", "1000", "--cluster-config-file", "nodes"];
        let args = [PLAIN.as_slice(), cluster.as_slice()].concat();
        let masters: Vec<_> = (0..3).map(|_n| RedisServer::start_with(&args)).collect();
        let replica = RedisServer::start_with(&args);
        for (master, (first, last)) in masters.iter().zip([(0, 5000), (5001, 10_000), (10_001, 16_383)]) {
            let mut slots = redis::cmd("CLUSTER");
            slots.arg("ADDSLOTS").arg((first..=last).collect::<Vec<u32>>());
            let () = slots.query_async(&mut master.client().await).await.expect("the slots are free");
        }
        let first = masters[0].port().to_string();
        for node in masters.iter().skip(1).chain([&replica]) {
            let () = ask(node, &[b"CLUSTER", b"MEET", b"127.0.0.1", first.as_bytes()]).await;
        }
        let owner: String = ask(&masters[OWNER], &[b"CLUSTER", b"MYID"]).await;
        until("the replica knows its master", async || {
            let mut replicate = redis::cmd("CLUSTER");
            replicate.arg("REPLICATE").arg(&owner);
            let done: Result<(), _> = replicate.query_async(&mut replica.client().await).await;
            done.is_ok()
        })
        .await;
        follows(&replica).await;
        for node in masters.iter().chain([&replica]) {
            until("all nodes agree", async || {
                let said: String = ask(node, &[b"CLUSTER", b"INFO"]).await;
                said.contains("cluster_state:ok") && said.contains("cluster_known_nodes:4")
            })
            .await;
        }
        Self { masters, replica }
    }

    async fn store(&self, nodes: &[usize]) -> Arc<RedisStore> {
        let nodes: Vec<_> = nodes.iter().map(|node| format!("127.0.0.1:{}", self.masters[*node].port())).collect();
        let url = redis_url(&format!("redis://{}/1", nodes.join(",")));
        Arc::new(RedisStore::connect(&url, &options()).await.expect("the cluster runs"))
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_contract_holds_in_a_cluster() {
    let cluster = Cluster::start().await;
    crate::contract::check(cluster.store(&[0, 2]).await).await;
    // A single node is recognised, and sees the same volume under the same names.
    put(&*cluster.store(&[0, 2]).await, vec![Write::SetAttr(Ino(7), attr(NodeType::File, 3))]).await;
    let listener = Listener::with(cluster.store(&[0]).await).await;
    cluster.store(&[2]).await.notify().await.expect("said");
    listener.hears(1).await;
    let found = cluster.store(&[2]).await.read(&[Key::Attr(Ino(7))]).await.expect("read");
    assert_eq!(found, [Some(Record::Attr(attr(NodeType::File, 3)))]);
    let keys: Vec<String> = ask(&cluster.masters[OWNER], &[b"KEYS", b"{1}i*"]).await;
    assert_eq!(keys, ["{1}i7"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_fail_over_in_a_cluster_loses_and_doubles_nothing() {
    let mut cluster = Cluster::start().await;
    let store = cluster.store(&[0]).await;
    nothing_is_lost_or_doubled(store, 150, async {
        tokio::time::sleep(Duration::from_millis(200)).await;
        kill_replicated(&mut cluster.masters[OWNER]).await;
        let replica = &cluster.replica;
        until("the replica is promoted", async || info(replica, "replication").await.contains("role:master")).await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slot_that_moves_to_another_node_is_followed() {
    let cluster = Cluster::start().await;
    let store = cluster.store(&[0]).await;
    nothing_is_lost_or_doubled(store, 150, async {
        tokio::time::sleep(Duration::from_millis(100)).await;
        let () = ask(&cluster.replica, &[b"CLUSTER", b"FAILOVER"]).await;
        let replica = &cluster.replica;
        until("the replica is promoted", async || info(replica, "replication").await.contains("role:master")).await;
    })
    .await;
}
