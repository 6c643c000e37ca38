//! A Redis server of its own for each test that needs one.

use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use stead_base::SystemClock;

use super::RedisStore;
use crate::url::{ConnectOptions, MetaUrl, RedisUrl};

/// A `redis-server` on a free loopback port, stopped when dropped.
#[derive(Debug)]
pub(crate) struct RedisServer {
    child: Option<Child>,
    dir: tempfile::TempDir,
    port: u16,
    args: Vec<String>,
}

impl RedisServer {
    /// A server that keeps nothing.
    pub(crate) fn start() -> Self {
        Self::start_with(&["--save", "", "--appendonly", "no"])
    }

    /// A server with the given configuration besides port and directory.
    pub(crate) fn start_with(args: &[&str]) -> Self {
        Self::start_in(tempfile::tempdir().expect("a directory for the server"), args)
    }

    /// The same in a directory that holds what the configuration names; `{port}` stands for the port.
    pub(crate) fn start_in(dir: tempfile::TempDir, args: &[&str]) -> Self {
        let port = free_port();
        let mut server = Self {
            child: None,
            dir,
            port,
            args: args.iter().map(|arg| arg.replace("{port}", &port.to_string())).collect(),
        };
        server.spawn();
        server
    }

    /// Starts the process again, with the same port and directory.
    pub(crate) fn spawn(&mut self) {
        let mut command = Command::new("redis-server");
        command.args(["--bind", "127.0.0.1", "--port", &self.port.to_string(), "--dir"]);
        command.arg(self.dir.path()).arg("--unixsocket").arg(self.socket());
        command.args(["--logfile", "log"]).args(&self.args);
        command.stdout(Stdio::null()).stderr(Stdio::null());
        let child = command.spawn().expect("these tests need redis-server (Debian package redis-server)");
        self.child = Some(child);
        let begun = Instant::now();
        while !self.answers() {
            assert!(begun.elapsed() < Duration::from_secs(20), "redis-server does not start: {}", self.log());
            #[expect(clippy::disallowed_methods, reason = "a test waits for a process")]
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    fn answers(&self) -> bool {
        use std::io::{Read, Write};
        let Ok(mut stream) = std::os::unix::net::UnixStream::connect(self.socket()) else { return false };
        let mut reply = [0; 1];
        stream.write_all(b"PING\r\n").is_ok() && stream.read_exact(&mut reply).is_ok()
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self.dir.path().join("log")).unwrap_or_default()
    }

    /// Kills the process.
    pub(crate) fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill().expect("the process is ours");
            child.wait().expect("the process is ours");
        }
    }

    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.as_ref().expect("it runs").id()
    }

    pub(crate) fn dir(&self) -> &Path {
        self.dir.path()
    }

    pub(crate) fn socket(&self) -> PathBuf {
        self.dir.path().join("socket")
    }

    pub(crate) fn address(&self) -> String {
        format!("redis://127.0.0.1:{}/1", self.port)
    }

    /// A store on this server.
    pub(crate) async fn store(&self) -> Arc<RedisStore> {
        let url = redis_url(&self.address());
        Arc::new(RedisStore::connect(&url, &options()).await.expect("the server runs"))
    }

    /// A client besides the store, in database 0 of a node of a cluster.
    pub(crate) async fn client(&self) -> redis::aio::MultiplexedConnection {
        let in_cluster = self.args.iter().any(|arg| arg == "--cluster-enabled");
        let address = format!("redis://127.0.0.1:{}/{}", self.port, u8::from(!in_cluster));
        let client = redis::Client::open(address).expect("a valid address");
        patiently(client).await.expect("the server runs")
    }
}

/// A connection on which an answer may take long.
pub(crate) async fn patiently(client: redis::Client) -> redis::RedisResult<redis::aio::MultiplexedConnection> {
    let config = redis::AsyncConnectionConfig::new().set_response_timeout(Some(Duration::from_secs(30)));
    client.get_multiplexed_async_connection_with_config(&config).await
}

/// A port that is free, as is the one 10,000 above it, where nodes of a cluster talk to each other.
pub(crate) fn free_port() -> u16 {
    loop {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let port = listener.local_addr().expect("it is bound").port();
        if port < 55_000 && TcpListener::bind(("127.0.0.1", port + 10_000)).is_ok() {
            return port;
        }
    }
}

impl Drop for RedisServer {
    fn drop(&mut self) {
        self.kill();
    }
}

pub(crate) fn redis_url(address: &str) -> RedisUrl {
    match address.parse() {
        Ok(MetaUrl::Redis(url)) => url,
        other => panic!("{address} reads as {other:?}"),
    }
}

pub(crate) fn options() -> ConnectOptions {
    ConnectOptions::new(Arc::new(SystemClock))
}
