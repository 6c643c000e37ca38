//! Words from one client to others.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use super::*;

/// Counts what it hears.
pub(super) struct Listener {
    heard: Arc<AtomicUsize>,
    _store: Arc<RedisStore>,
}

impl Listener {
    pub(super) async fn with(store: Arc<RedisStore>) -> Self {
        let heard = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&heard);
        let hook = Arc::new(move || _ = count.fetch_add(1, Ordering::Relaxed));
        assert!(store.listen(hook).await.expect("this server tells"));
        Self { heard, _store: store }
    }

    pub(super) async fn hears(&self, times: usize) {
        let begun = Instant::now();
        while self.heard.load(Ordering::Relaxed) < times {
            assert!(begun.elapsed() < Duration::from_secs(20), "nothing is heard");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        assert_eq!(self.heard.load(Ordering::Relaxed), times);
    }
}

#[tokio::test]
async fn everybody_who_listens_is_told_also_after_the_server_was_away() {
    let mut server = RedisServer::start();
    let (one, two, speaker) =
        (Listener::with(server.store().await).await, Listener::with(server.store().await).await, server.store().await);
    let other = redis_url(&format!("redis://127.0.0.1:{}/2", server.port()));
    let elsewhere = RedisStore::connect(&other, &options()).await.expect("the server runs");
    elsewhere.notify().await.expect("said in another database");
    speaker.notify().await.expect("said");
    one.hears(1).await;
    two.hears(1).await;
    server.kill();
    server.spawn();
    one.hears(2).await;
    two.hears(2).await;
    speaker.notify().await.expect("said");
    one.hears(3).await;
    two.hears(3).await;
}

#[tokio::test]
async fn a_server_that_does_not_tell_says_so() {
    // Before version 6 there is no HELLO.
    for missing in ["SUBSCRIBE", "HELLO"] {
        let server = RedisServer::start_with(&["--save", "", "--rename-command", missing, ""]);
        let store = server.store().await;
        store.listen(Arc::new(|| ())).await.expect_err("there is no such command");
        put(&store, vec![Write::SetAttr(Ino(5), attr(NodeType::File, 5))]).await;
    }
}
