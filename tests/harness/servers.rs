//! Redis and MinIO on free loopback ports, each with a directory of its own.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use tempfile::TempDir;

use nix::sys::signal::Signal;

use crate::process::{Process, children, eventually, pause, signal_to};
use crate::tools;

const STARTS: Duration = Duration::from_secs(30);

/// A TCP port on 127.0.0.1 that was free a moment ago. It lies below those that the kernel gives to outgoing connections:
/// a client that calls a server which is away could otherwise get the server's port, and be connected to itself.
pub fn free_port() -> u16 {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let free = |port: &u16| TcpListener::bind(("127.0.0.1", *port)).is_ok();
    let candidates = std::iter::repeat_with(|| {
        let n = std::process::id().wrapping_mul(97).wrapping_add(NEXT.fetch_add(1, Ordering::Relaxed));
        20_000 + u16::try_from(n % 12_000).expect("below 12,000")
    });
    candidates.take(12_000).find(free).expect("a free port")
}

/// How a Redis server keeps its data and whom it lets in.
#[derive(Clone, Debug, Default)]
pub struct RedisOptions {
    /// Append-only file, synced at every write.
    pub durable: bool,
    /// A supervisor starts it again when it dies.
    pub comes_back: bool,
    /// `requirepass`.
    pub password: Option<String>,
    /// Follows the server on this port of 127.0.0.1.
    pub replica_of: Option<u16>,
}

/// A Redis server.
pub struct Redis {
    process: Option<Process>,
    options: RedisOptions,
    port: u16,
    dir: TempDir,
}

impl Redis {
    /// Starts one in memory.
    pub fn start() -> Self {
        Self::start_with(RedisOptions::default())
    }

    /// Starts one.
    pub fn start_with(options: RedisOptions) -> Self {
        let dir = tempfile::Builder::new().prefix("redis-").tempdir().expect("a temporary directory");
        let mut redis = Self { process: None, options, port: free_port(), dir };
        redis.resume();
        redis
    }

    /// Starts it again on the same port with what it had kept.
    pub fn resume(&mut self) {
        let mut command = if self.options.comes_back { supervised() } else { Command::new(tools::redis_server()) };
        command.args(["--bind", "127.0.0.1", "--port", &self.port.to_string(), "--save", ""]);
        command.args(["--maxmemory-policy", "noeviction", "--dir"]).arg(self.dir.path());
        if self.options.durable {
            command.args(["--appendonly", "yes", "--appendfsync", "always"]);
        }
        if let Some(password) = &self.options.password {
            command.args(["--requirepass", password]);
        }
        if let Some(master) = self.options.replica_of {
            command.args(["--replicaof", &format!("127.0.0.1 {master}")]);
        }
        let mut process = Process::start("redis-server", &mut command, &self.dir.path().join("log"));
        self.wait_until_it_answers(&mut process);
        self.process = Some(process);
    }

    fn wait_until_it_answers(&self, process: &mut Process) {
        let begun = Instant::now();
        loop {
            process.expect_alive();
            let answer = self.try_ask("PING");
            // NOAUTH is an answer too.
            if answer.as_ref().is_ok_and(|answer| answer.starts_with("+PONG") || answer.starts_with("-NOAUTH")) {
                break;
            }
            assert!(
                begun.elapsed() < STARTS,
                "redis-server: {answer:?} to PING after {STARTS:?}:\n{}",
                process.log_tail()
            );
            pause(Duration::from_millis(20));
        }
    }

    /// `kill -9`, and waits until its supervisor has brought it back. Nothing is forked from this process, which may
    /// hold files open that wait for the very server.
    pub fn kill_and_wait(&mut self) {
        let mut process = self.process.take().expect("it runs");
        let servers = children(process.id());
        assert_eq!(servers.len(), 1, "a supervisor of one server");
        signal_to(servers[0], Signal::SIGKILL);
        eventually("the server is gone", STARTS, || (!children(process.id()).contains(&servers[0])).then_some(()));
        self.wait_until_it_answers(&mut process);
        self.process = Some(process);
    }

    /// `kill -9`; [`Redis::resume`] brings it back.
    pub fn kill(&mut self) {
        self.process.take().expect("it runs").kill();
    }

    /// Stops it in an orderly way; [`Redis::resume`] brings it back.
    pub fn halt(&mut self) {
        self.process = None;
    }

    /// `redis://127.0.0.1:PORT/DB`, with the password if there is one.
    pub fn url(&self, db: u32) -> String {
        let user = self.options.password.as_ref().map(|password| format!(":{password}@")).unwrap_or_default();
        format!("redis://{user}127.0.0.1:{}/{db}", self.port)
    }

    /// Sends one inline command on a new connection and gives the raw answer.
    pub fn ask(&self, line: &str) -> String {
        self.try_ask(line).unwrap_or_else(|error| panic!("redis-server, asked {line}: {error}"))
    }

    fn try_ask(&self, line: &str) -> std::io::Result<String> {
        let password = self.options.password.as_ref().filter(|_| line != "PING");
        let login = password.map(|password| format!("AUTH {password}\r\n")).unwrap_or_default();
        ask(self.port, line, &login)
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], self.port))
    }
}

/// A Redis server and its replica, and three sentinels that make the one the master when the other dies.
pub struct Watched {
    master: Redis,
    replica: Redis,
    sentinels: Vec<Sentinel>,
}

struct Sentinel {
    _process: Process,
    port: u16,
    _dir: TempDir,
}

impl Watched {
    /// Starts all of them, and waits until they know each other.
    pub fn start() -> Self {
        let master = Redis::start();
        let options = RedisOptions { replica_of: Some(master.port), ..RedisOptions::default() };
        let replica = Redis::start_with(options);
        let sentinels = (0..3).map(|_number| Sentinel::start(master.port)).collect();
        let group = Self { master, replica, sentinels };
        group.wait_until_safe();
        group
    }

    /// A volume's address: the name of the group, and its sentinels.
    pub fn url(&self, db: u32) -> String {
        let sentinels: Vec<_> = self.sentinels.iter().map(|sentinel| format!("127.0.0.1:{}", sentinel.port)).collect();
        format!("redis://main,{}/{db}", sentinels.join(","))
    }

    /// `kill -9` of the master once its replica has everything that was acknowledged: replication is asynchronous, and
    /// what it loses is not the client's to prevent. Waits until the replica is the master; the dead one comes back as
    /// its replica.
    pub fn fail_over(&mut self) {
        self.wait_until_safe();
        self.master.ask("CLIENT PAUSE 60000 WRITE");
        let offset = |server: &Redis| info(server, "master_repl_offset");
        let all = offset(&self.master);
        eventually("the replica has everything", STARTS, || (offset(&self.replica) == all).then_some(()));
        self.master.kill();
        eventually("the replica is the master", STARTS, || (info(&self.replica, "role") == "master").then_some(()));
        std::mem::swap(&mut self.master, &mut self.replica);
        self.master.options.replica_of = None;
        self.replica.options.replica_of = Some(self.master.port);
        self.replica.resume();
    }

    /// Every sentinel could do its work now.
    fn wait_until_safe(&self) {
        let master = format!("address=127.0.0.1:{},slaves=1,sentinels=3", self.master.port);
        for sentinel in &self.sentinels {
            eventually("the sentinels know each other and the replica", STARTS, || {
                let known = ask(sentinel.port, "INFO sentinel", "").ok()?;
                (known.contains("status=ok") && known.contains(&master)).then_some(())
            });
        }
        eventually("the replica follows", STARTS, || (info(&self.replica, "master_link_status") == "up").then_some(()));
    }
}

/// One member of what a server tells of its replication; empty when it tells nothing of it.
fn info(server: &Redis, member: &str) -> String {
    let told = server.ask("INFO replication");
    let value = told.lines().find_map(|line| line.strip_prefix(member)?.strip_prefix(':'));
    value.unwrap_or_default().to_owned()
}

impl Sentinel {
    fn start(master: u16) -> Self {
        let dir = tempfile::Builder::new().prefix("sentinel-").tempdir().expect("a temporary directory");
        let port = free_port();
        let config = format!(
            "port {port}\nbind 127.0.0.1\ndir {}\nsentinel monitor main 127.0.0.1 {master} 2\n\
             sentinel down-after-milliseconds main 3000\nsentinel failover-timeout main 5000\n",
            dir.path().display(),
        );
        let file = dir.path().join("sentinel.conf");
        std::fs::write(&file, config).expect("the directory is ours");
        let mut command = Command::new(tools::redis_server());
        let mut process = Process::start("sentinel", command.arg(&file).arg("--sentinel"), &dir.path().join("log"));
        eventually("the sentinel answers", STARTS, || {
            process.expect_alive();
            ask(port, "PING", "").is_ok_and(|answer| answer.starts_with("+PONG")).then_some(())
        });
        Self { _process: process, port, _dir: dir }
    }
}

/// Sends one inline command on a new connection, after `login`, and gives the raw answer.
fn ask(port: u16, line: &str, login: &str) -> std::io::Result<String> {
    let mut stream = TcpStream::connect(("127.0.0.1", port))?;
    stream.set_read_timeout(Some(Duration::from_secs(5)))?;
    stream.write_all(format!("{login}{line}\r\nQUIT\r\n").as_bytes())?;
    // Sentinels do not know QUIT.
    stream.shutdown(Shutdown::Write)?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    Ok(answer)
}

/// A shell that runs the server with the arguments that follow, again and again.
fn supervised() -> Command {
    const LOOP: &str = r#"trap 'kill $pid; wait; exit' TERM; while :; do "$@" & pid=$!; wait $pid; sleep 0.5; done"#;
    let mut command = Command::new("sh");
    command.args(["-c", LOOP, "sh"]).arg(tools::redis_server());
    command
}

/// A MinIO server with one bucket made on demand.
pub struct Minio {
    _process: Process,
    port: u16,
    dir: TempDir,
}

impl Minio {
    /// Its access key.
    pub const ACCESS_KEY: &'static str = "steadfast-tests";
    /// Its secret key.
    pub const SECRET_KEY: &'static str = "steadfast-tests-secret";

    /// Starts one.
    pub fn start() -> Self {
        let dir = tempfile::Builder::new().prefix("minio-").tempdir().expect("a temporary directory");
        let port = free_port();
        let mut command = Command::new(tools::minio());
        command.envs([("MINIO_BROWSER", "off"), ("MINIO_ROOT_USER", Self::ACCESS_KEY)]);
        command.env("MINIO_ROOT_PASSWORD", Self::SECRET_KEY).env("HOME", dir.path());
        command.args(["server", "--quiet", "--address", &format!("127.0.0.1:{port}")]).arg(dir.path().join("data"));
        let mut process = Process::start("minio", &mut command, &dir.path().join("log"));
        eventually("MinIO answers", STARTS, || {
            process.expect_alive();
            healthy(port).then_some(())
        });
        Self { _process: process, port, dir }
    }

    /// Where it listens on 127.0.0.1.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// `http://127.0.0.1:PORT/BUCKET`.
    pub fn url(&self, bucket: &str) -> String {
        format!("http://127.0.0.1:{}/{bucket}", self.port)
    }

    /// Names of the objects in a bucket, as MinIO's own directory shows them.
    pub fn objects(&self, bucket: &str) -> Vec<String> {
        let root = self.dir.path().join("data").join(bucket);
        let mut found = Vec::new();
        let mut todo = vec![root.clone()];
        while let Some(dir) = todo.pop() {
            for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
                let path = entry.path();
                // An object is a directory that holds its `xl.meta`.
                if path.join("xl.meta").exists() {
                    found.push(path.strip_prefix(&root).expect("below the root").display().to_string());
                } else if path.is_dir() {
                    todo.push(path);
                }
            }
        }
        found
    }
}

fn healthy(port: u16) -> bool {
    let Ok(mut stream) = TcpStream::connect(("127.0.0.1", port)) else { return false };
    let _set = stream.set_read_timeout(Some(Duration::from_secs(2)));
    let asked = write!(stream, "GET /minio/health/cluster HTTP/1.0\r\nHost: localhost\r\n\r\n");
    let mut answer = String::new();
    asked.is_ok() && stream.read_to_string(&mut answer).is_ok() && answer.contains(" 200 ")
}
