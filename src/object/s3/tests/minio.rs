//! A MinIO server for the time of a test.

use std::net::TcpListener;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

pub(crate) const ACCESS_KEY: &str = "test-user";
pub(crate) const SECRET_KEY: &str = "test-password-1";

const VERSION: &str = "minio-v0.0.0-20260212201848-7aac2a2c5b7c";
const ATTEMPTS: usize = 3;

/// Stops the server, and removes its data, when dropped.
pub(crate) struct Minio {
    process: Child,
    port: u16,
    _data: TempDir,
}

impl Minio {
    /// Starts one and waits until it serves. Another process may take the port first, so there are several attempts.
    pub(crate) async fn start() -> Self {
        for _ in 0..ATTEMPTS {
            let mut server = Self::launch();
            if server.is_ready().await {
                return server;
            }
        }
        panic!("{} did not begin to serve", binary().display());
    }

    pub(crate) fn endpoint(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    fn launch() -> Self {
        let (data, port) = (tempfile::tempdir().expect("a directory for the test"), free_port());
        let process = Command::new(binary())
            .args(["server", "--quiet", "--address", &format!("127.0.0.1:{port}")])
            .arg(data.path())
            .env("MINIO_BROWSER", "off")
            .env("MINIO_ROOT_USER", ACCESS_KEY)
            .env("MINIO_ROOT_PASSWORD", SECRET_KEY)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("the server can be started");
        Self { process, port, _data: data }
    }

    /// False if it ended, or took longer than 30 seconds.
    async fn is_ready(&mut self) -> bool {
        for _ in 0..300 {
            if self.process.try_wait().expect("a child can be asked").is_some() {
                return false;
            }
            if healthy(self.port).await {
                return true;
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        false
    }
}

impl Drop for Minio {
    fn drop(&mut self) {
        self.process.kill().expect("our own child can be killed");
        self.process.wait().expect("and waited for");
    }
}

async fn healthy(port: u16) -> bool {
    let Ok(mut stream) = TcpStream::connect(("127.0.0.1", port)).await else { return false };
    let request = b"GET /minio/health/ready HTTP/1.0\r\nHost: localhost\r\n\r\n";
    let mut answer = Vec::new();
    let asked = stream.write_all(request).await.is_ok() && stream.read_to_end(&mut answer).await.is_ok();
    asked && answer.starts_with(b"HTTP/1.0 200")
}

pub(crate) fn free_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port of the loopback");
    listener.local_addr().expect("a bound socket has an address").port()
}

fn binary() -> PathBuf {
    let variable = std::env::var_os;
    let path = variable("STEADFAST_MINIO").map_or_else(
        || {
            let home = variable("HOME").map(|home| PathBuf::from(home).join(".cache"));
            let cache = variable("XDG_CACHE_HOME").map(PathBuf::from).or(home);
            cache.unwrap_or_default().join("steadfast").join(VERSION).join("minio")
        },
        PathBuf::from,
    );
    assert!(path.is_file(), "{} is missing; tests/run.sh builds it", path.display());
    path
}
