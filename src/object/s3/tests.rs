pub(crate) mod minio;

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::*;
use minio::{Minio, free_port};

fn config(bucket: String) -> StorageConfig {
    StorageConfig {
        storage: "s3".into(),
        bucket,
        access_key: Some(minio::ACCESS_KEY.into()),
        secret_key: Some(minio::SECRET_KEY.into()),
        ..StorageConfig::default()
    }
}

pub(crate) async fn store(server: &Minio, bucket: &str) -> S3Store {
    S3Store::open(&config(format!("{}/{bucket}", server.endpoint()))).await.expect("the address is right")
}

/// One server for all, since it takes seconds to start.
#[tokio::test]
async fn a_real_server() {
    let server = Minio::start().await;
    crate::behaviour::check(Arc::new(store(&server, "behaviour").await)).await;
    long_listings(&store(&server, "listing").await).await;
    a_missing_bucket(&store(&server, "missing").await).await;
    wrong_keys(&server).await;
    anonymous_readers(&server).await;
    a_server_that_goes_away(server).await;
}

async fn long_listings(store: &S3Store) {
    store.create_bucket().await.unwrap();
    let keys: Vec<String> = (0..1105).map(|n| format!("l/{n:05}")).collect();
    for some in keys.chunks(50) {
        futures::future::join_all(some.iter().map(|key| store.put(key, Bytes::new()))).await;
    }
    let found = store.list("l/", "", 2000).await.unwrap();
    assert!(found.iter().map(|info| &info.key).eq(keys.iter()), "{} of 1105", found.len());
    assert_eq!(store.list("l/", "", 1003).await.unwrap().len(), 1003);
    assert_eq!(store.list("l/", "l/01000", 2000).await.unwrap().len(), 104);
}

async fn a_missing_bucket(store: &S3Store) {
    for error in [
        store.put("k", Bytes::new()).await.unwrap_err(),
        store.get("k", None).await.unwrap_err(),
        store.list("", "", 1).await.unwrap_err(),
    ] {
        assert!(matches!(error, Error::NoBucket { .. }), "{error:?}");
    }
    crate::check(store).await.expect("the check makes the bucket");
    assert!(store.list("", "", 10).await.unwrap().is_empty());
}

async fn wrong_keys(server: &Minio) {
    let mut wrong = config(format!("{}/listing", server.endpoint()));
    wrong.secret_key = Some("not-the-secret".into());
    let error = crate::check(&S3Store::open(&wrong).await.unwrap()).await.unwrap_err();
    assert!(matches!(error, Error::Denied { .. }) && error.to_string().contains("SignatureDoesNotMatch"), "{error}");
    assert!(!error.to_string().contains("not-the-secret"));
    wrong.access_key = Some("nobody".into());
    let error = crate::check(&S3Store::open(&wrong).await.unwrap()).await.unwrap_err();
    assert!(matches!(error, Error::Denied { .. }) && error.to_string().contains("InvalidAccessKeyId"), "{error}");
    wrong.access_key = Some(minio::ACCESS_KEY.into());
    wrong.secret_key = Some(minio::SECRET_KEY.into());
    wrong.session_token = Some("no-token".into());
    let error = S3Store::open(&wrong).await.unwrap().head("l/00000").await.unwrap_err();
    assert!(matches!(error, Error::Denied { .. }), "a token is sent, and this one is wrong: {error:?}");
}

async fn anonymous_readers(server: &Minio) {
    let mut anonymous = config(format!("{}/listing", server.endpoint()));
    anonymous.access_key = Some("anonymous".into());
    anonymous.secret_key = None;
    let anonymous = S3Store::open(&anonymous).await.unwrap();
    let error = anonymous.get("l/00000", None).await.unwrap_err();
    assert!(matches!(error, Error::Denied { .. }) && error.to_string().contains("AccessDenied"), "{error:?}");
    let policy = r#"{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Principal":"*","Action":"s3:GetObject",
        "Resource":"arn:aws:s3:::listing/*"}]}"#;
    let owner = store(server, "listing").await;
    owner.client.put_bucket_policy().bucket("listing").policy(policy).send().await.expect("the policy is taken");
    assert_eq!(anonymous.get("l/00000", None).await.expect("now anyone may read"), "");
}

async fn a_server_that_goes_away(server: Minio) {
    let store = store(&server, "listing").await;
    store.head("l/00000").await.unwrap();
    drop(server);
    let error = store.head("l/00000").await.unwrap_err();
    assert!(error.is_temporary(), "{error:?}");
}

/// A retrying store, as mounts have it.
async fn retrying(bucket: String) -> Arc<dyn ObjectStore> {
    let policy = crate::Policy { prefix: "vol/".into(), retries: 10, ..crate::Policy::default() };
    crate::decorate(Arc::new(S3Store::open(&config(bucket)).await.unwrap()), &policy)
}

#[tokio::test]
async fn a_certificate_must_be_trusted() {
    let server = Minio::start_tls().await;
    let bucket = format!("{}/secure", server.endpoint());
    let trusting = retrying(format!("{bucket}?ca-certs={}", server.certificate().display())).await;
    trusting.create_bucket().await.expect("its certificate is trusted");
    crate::check(&*trusting).await.expect("and bodies that are not hashed are taken over TLS");
    let start = Instant::now();
    let error = retrying(bucket).await.put("k", Bytes::new()).await.unwrap_err();
    assert!(matches!(&error, Error::Other { why, .. } if why.contains("invalid peer certificate")), "{error:?}");
    assert!(start.elapsed() < Duration::from_secs(2), "no retries");
}

#[tokio::test]
async fn a_file_of_certificates_must_be_one() {
    let bucket = "https://127.0.0.1:1/b?ca-certs=/no/such/file";
    let error = S3Store::open(&config(bucket.to_owned())).await.unwrap_err().to_string();
    assert!(error.contains("ca-certs \"/no/such/file\": No such file"), "{error}");
}

async fn check_fails_soon(bucket: String, expected: &str) {
    let start = Instant::now();
    let error = crate::check(&*retrying(bucket).await).await.unwrap_err();
    let took = start.elapsed();
    println!("{error} after {took:?}");
    assert!(error.is_temporary() && error.to_string().contains(expected), "{error}");
    assert!(took < Duration::from_secs(5), "{took:?}");
}

#[tokio::test]
async fn an_address_where_nobody_listens_is_told_soon() {
    check_fails_soon(format!("http://127.0.0.1:{}/b", free_port()), "Connection refused").await;
}

#[tokio::test]
async fn a_name_that_does_not_resolve_is_told_soon() {
    check_fails_soon("http://no-such-host.invalid/b".to_owned(), "no-such-host.invalid").await;
}

#[tokio::test]
async fn a_server_that_accepts_and_is_silent_is_told_soon() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    check_fails_soon(format!("http://127.0.0.1:{port}/b"), "no answer within 4.5s").await;
}

#[tokio::test]
async fn debug_output_has_no_secrets() {
    let store = S3Store::open(&config("http://127.0.0.1:1/b".into())).await.unwrap();
    let shown = format!("{store:?} {}", store.describe());
    assert!(!shown.contains(minio::SECRET_KEY), "{shown}");
    assert_eq!(store.describe(), "s3://127.0.0.1:1/b/");
}

#[test]
fn parts_of_a_body_are_joined() {
    let mut body = Body::default();
    for part in ["", "a", "", "bc", "d"] {
        body.push(Bytes::from_static(part.as_bytes()), 4);
    }
    assert_eq!(body.finish(), "abcd");
}

#[tokio::test]
#[ignore = "shows what is said where no credentials are; depends on the machine"]
async fn no_credentials() {
    let mut config = config(format!("http://127.0.0.1:{}/b", free_port()));
    (config.access_key, config.secret_key) = (None, None);
    let start = Instant::now();
    let store = S3Store::open(&config).await.unwrap();
    println!("{:?} after {:?}", store.put("k", Bytes::new()).await, start.elapsed());
}
