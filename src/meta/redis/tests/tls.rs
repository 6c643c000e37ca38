//! TLS, with an authority made for the test.

use std::path::Path;
use std::process::Command;

use super::*;

const AUTHORITY: [&str; 4] = ["-subj", "/CN=test authority", "-out", "ca.pem"];
const SERVER: [&str; 8] =
    ["-subj", "/CN=server", "-addext", "subjectAltName=IP:127.0.0.1", "-CA", "ca.pem", "-CAkey", "ca.key"];

fn openssl(dir: &Path, key: &str, args: &[&str]) {
    let mut command = Command::new("openssl");
    command.args(["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2"]);
    let made = command.args(["-keyout", key]).args(args).current_dir(dir).output();
    let made = made.expect("this test needs openssl (Debian package openssl)");
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
}

fn server() -> RedisServer {
    let dir = tempfile::tempdir().expect("a directory");
    openssl(dir.path(), "ca.key", &AUTHORITY);
    let end = ["-addext", "basicConstraints=critical,CA:FALSE", "-out", "server.pem"];
    openssl(dir.path(), "server.key", &[SERVER.as_slice(), end.as_slice()].concat());
    let files = ["--tls-cert-file", "server.pem", "--tls-key-file", "server.key", "--tls-ca-cert-file", "ca.pem"];
    let ports = ["--save", "", "--port", "0", "--tls-port", "{port}"];
    RedisServer::start_in(dir, &[ports.as_slice(), files.as_slice()].concat())
}

async fn connect(server: &RedisServer, params: &str) -> Result<RedisStore> {
    let address = server.address().replace("redis://", "rediss://");
    RedisStore::connect(&redis_url(&format!("{address}?{params}")), &options()).await
}

#[tokio::test]
async fn both_sides_are_checked() {
    let server = server();
    let dir = server.dir().display().to_string();
    let ca = format!("tls-ca-cert-file={dir}/ca.pem");
    let identity = format!("tls-cert-file={dir}/server.pem&tls-key-file={dir}/server.key");

    let store = connect(&server, &format!("{ca}&{identity}")).await.expect("both are known to each other");
    put(&store, vec![Write::AddCounter(Counter::UsedSpace, 1)]).await;
    let used = store.read(&[Key::Counter(Counter::UsedSpace)]).await.expect("read");
    assert_eq!(used, [Some(Record::Number(1))]);

    let insecure = connect(&server, &format!("insecure-skip-verify=1&{identity}")).await;
    insecure.expect("nothing is checked");
    for (params, what) in [(identity.as_str(), "an authority we do not know"), (ca.as_str(), "we show no certificate")]
    {
        let error = connect(&server, params).await.expect_err(what);
        assert!(matches!(error, Error::Unavailable { .. }), "{what}: {error:?}");
    }
    let error = connect(&server, "tls-ca-cert-file=/no/such/file").await.expect_err("no file");
    assert!(matches!(&error, Error::Address { why, .. } if why.contains("/no/such/file")), "{error:?}");
}
