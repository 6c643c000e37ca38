//! Redis and MinIO on free loopback ports, each with a directory of its own.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use tempfile::TempDir;

use crate::process::{Process, eventually, pause};
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
    /// `requirepass`.
    pub password: Option<String>,
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
        let mut command = Command::new(tools::redis_server());
        command.args(["--bind", "127.0.0.1", "--port", &self.port.to_string(), "--save", ""]);
        command.args(["--maxmemory-policy", "noeviction", "--dir"]).arg(self.dir.path());
        if self.options.durable {
            command.args(["--appendonly", "yes", "--appendfsync", "always"]);
        }
        if let Some(password) = &self.options.password {
            command.args(["--requirepass", password]);
        }
        let mut process = Process::start("redis-server", &mut command, &self.dir.path().join("log"));
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
        self.process = Some(process);
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
        let mut stream = TcpStream::connect(self.address())?;
        stream.set_read_timeout(Some(Duration::from_secs(5)))?;
        let password = self.options.password.as_ref().filter(|_| line != "PING");
        let login = password.map(|password| format!("AUTH {password}\r\n")).unwrap_or_default();
        stream.write_all(format!("{login}{line}\r\nQUIT\r\n").as_bytes())?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        Ok(answer)
    }

    fn address(&self) -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], self.port))
    }
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
