use std::sync::Arc;

use stead_base::SystemClock;
use tempfile::TempDir;

use super::*;
use crate::contract;

async fn open(dir: &TempDir) -> Result<SqliteStore> {
    let options = ConnectOptions {
        create: true,
        ..ConnectOptions::new(Arc::new(SystemClock))
    };
    SqliteStore::open(&dir.path().join("meta.db"), &options).await
}

async fn fresh() -> (TempDir, SqliteStore) {
    let dir = TempDir::new().unwrap();
    let store = open(&dir).await.unwrap();
    store.initialize().await.unwrap();
    (dir, store)
}

#[tokio::test(flavor = "multi_thread")]
async fn keeps_the_contract_of_a_store() {
    let dir = TempDir::new().unwrap();
    contract::check(Arc::new(open(&dir).await.unwrap())).await;
}
