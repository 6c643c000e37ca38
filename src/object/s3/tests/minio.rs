//! A MinIO server for the time of a test.

use std::net::TcpListener;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use bytes::Bytes;
use tempfile::TempDir;

use crate::{Error, ObjectStore, S3Store};

pub(crate) const ACCESS_KEY: &str = "test-user";
pub(crate) const SECRET_KEY: &str = "test-password-1";

const VERSION: &str = "minio-v0.0.0-20260212201848-7aac2a2c5b7c";
const ATTEMPTS: usize = 3;

/// Stops the server, and removes its data, when dropped.
pub(crate) struct Minio {
    process: Child,
    port: u16,
    scheme: &'static str,
    data: TempDir,
}

impl Minio {
    /// Starts one and waits until it serves. Another process may take the port first, so there are several attempts.
    pub(crate) async fn start() -> Self {
        Self::start_with(None).await
    }

    /// One that speaks TLS with a certificate for 127.0.0.1 of its own; see [`Minio::certificate`].
    pub(crate) async fn start_tls() -> Self {
        let made = rcgen::generate_simple_self_signed(["127.0.0.1".to_owned()]).expect("a certificate can be made");
        Self::start_with(Some((made.cert.pem(), made.signing_key.serialize_pem()))).await
    }

    async fn start_with(tls: Option<(String, String)>) -> Self {
        for _ in 0..ATTEMPTS {
            let mut server = Self::launch(tls.as_ref());
            if server.is_ready().await {
                return server;
            }
        }
        panic!("{} did not begin to serve", binary().display());
    }

    pub(crate) fn endpoint(&self) -> String {
        format!("{}://127.0.0.1:{}", self.scheme, self.port)
    }

    /// The PEM file with the server's certificate.
    pub(crate) fn certificate(&self) -> PathBuf {
        self.data.path().join("certs/public.crt")
    }

    fn launch(tls: Option<&(String, String)>) -> Self {
        let (data, port) = (tempfile::tempdir().expect("a directory for the test"), free_port());
        let certs = data.path().join("certs");
        std::fs::create_dir(&certs).expect("a directory for certificates");
        if let Some((certificate, key)) = tls {
            std::fs::write(certs.join("public.crt"), certificate).expect("the certificate can be written");
            std::fs::write(certs.join("private.key"), key).expect("the key can be written");
        }
        let process = Command::new(binary())
            .args(["server", "--quiet", "--address", &format!("127.0.0.1:{port}")])
            .arg("--certs-dir")
            .arg(certs)
            .arg(data.path().join("data"))
            .env("MINIO_BROWSER", "off")
            .env("MINIO_ROOT_USER", ACCESS_KEY)
            .env("MINIO_ROOT_PASSWORD", SECRET_KEY)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("the server can be started");
        Self { process, port, scheme: if tls.is_some() { "https" } else { "http" }, data }
    }

    /// False if it ended, or took longer than 30 seconds.
    async fn is_ready(&mut self) -> bool {
        for _ in 0..300 {
            if self.process.try_wait().expect("a child can be asked").is_some() {
                return false;
            }
            if self.serves().await {
                return true;
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        false
    }

    /// A port that is open, and even a healthy answer, come before the server knows its buckets.
    async fn serves(&self) -> bool {
        let trust =
            if self.scheme == "https" { format!("?ca-certs={}", self.certificate().display()) } else { String::new() };
        let config = super::config(format!("{}/ready{trust}", self.endpoint()));
        let store = S3Store::open(&config).await.expect("the address is right");
        let asked = tokio::time::timeout(Duration::from_secs(1), store.put("ready", Bytes::new())).await;
        matches!(asked, Ok(Err(Error::NoBucket { .. })))
    }
}

impl Drop for Minio {
    fn drop(&mut self) {
        self.process.kill().expect("our own child can be killed");
        self.process.wait().expect("and waited for");
    }
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
