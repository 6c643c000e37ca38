//! How long calls take. Run by hand, with optimisation:
//! `cargo test -p stead-object --release figures -- --ignored --nocapture`.

use std::future::Future;
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use futures::future::join_all;

use crate::s3::tests::minio::Minio;
use crate::{FileStore, ObjectStore, s3};

/// Microseconds per call of the middle one of `rounds` calls, one after the other.
async fn median<F: Future<Output = ()>>(rounds: usize, mut call: impl FnMut(usize) -> F) -> u128 {
    let mut times = Vec::new();
    for round in 0..rounds {
        let start = Instant::now();
        call(round).await;
        times.push(start.elapsed());
    }
    times.sort();
    times[rounds / 2].as_micros()
}

/// Microseconds per call with 16 callers at once.
async fn shared<F: Future<Output = ()>>(rounds: usize, call: impl Fn(usize) -> F) -> u128 {
    let start = Instant::now();
    join_all((0..16).map(|caller| {
        let call = &call;
        async move {
            for round in (caller..rounds).step_by(16) {
                call(round).await;
            }
        }
    }))
    .await;
    start.elapsed().as_micros() / rounds as u128
}

async fn measure(name: &str, store: Arc<dyn ObjectStore>) {
    for (label, size, rounds) in [("4 KiB", 4 << 10, 2000), ("128 KiB", 128 << 10, 500), ("4 MiB", 4 << 20, 64)] {
        let body = Bytes::from(vec![7; size]);
        let put = |n: usize| {
            let (store, body) = (&store, body.clone());
            async move { store.put(&format!("v/chunks/0/{}/{label}{n}", n / 100), body).await.unwrap() }
        };
        let get = |n: usize| {
            let store = &store;
            async move {
                let read = store.get(&format!("v/chunks/0/{}/{label}{n}", n / 100), None).await.unwrap();
                assert_eq!(read.len(), size);
            }
        };
        let (puts, gets) = (median(rounds, put).await, median(rounds, get).await);
        let (puts16, gets16) = (shared(rounds, put).await, shared(rounds, get).await);
        println!("{name} {label}: put {puts} µs, get {gets} µs; of 16 at once: put {puts16} µs, get {gets16} µs");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "prints figures"]
async fn figures_of_files() {
    let dir = tempfile::tempdir().unwrap();
    let store = Arc::new(FileStore::new(dir.path().to_str().unwrap()).unwrap());
    measure("file", store.clone()).await;
    let start = Instant::now();
    for n in 0..20 {
        store.put(&format!("s/{n}"), Bytes::from(vec![7; 4096])).await.unwrap();
        store.sync().await.unwrap();
    }
    println!("file: put of 4 KiB and sync: {:?}", start.elapsed() / 20);
    let hop = median(2000, |_| async { tokio::task::spawn_blocking(|| ()).await.unwrap() }).await;
    println!("handing work to another thread and back: {hop} µs");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "prints figures"]
async fn figures_of_s3() {
    let server = Minio::start().await;
    let store = s3::tests::store(&server, "figures").await;
    store.create_bucket().await.unwrap();
    measure("s3", Arc::new(store)).await;
}
