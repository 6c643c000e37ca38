//! Removes many objects.

use futures::{StreamExt, stream};

use crate::{ObjectStore, Result};

/// Removes all objects under `keys`, with up to `parallel` calls at the same time (0 means 1).
///
/// # Errors
/// The first that came. The other calls were made all the same; of keys that went with the same call some may be left, also
/// such that were not tried.
pub async fn delete_all(store: &dyn ObjectStore, keys: &[String], parallel: usize) -> Result<()> {
    let parts = keys.chunks(store.deletes_together().max(1));
    let calls: Vec<_> = parts.map(|part| delete(store, part)).collect();
    let results: Vec<_> = stream::iter(calls).buffer_unordered(parallel.max(1)).collect().await;
    results.into_iter().collect()
}

async fn delete(store: &dyn ObjectStore, keys: &[String]) -> Result<()> {
    match keys {
        [key] => store.delete(key).await,
        several => store.delete_many(several).await,
    }
}
