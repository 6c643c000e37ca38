//! The store against a real server.

use super::server::RedisServer;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_store_keeps_the_contract() {
    let server = RedisServer::start();
    crate::contract::check(server.store().await).await;
}
