//! Removes many objects.

use futures::{StreamExt, stream};

use crate::{ObjectStore, Result};

/// Objects that go with one call.
const TOGETHER: usize = 64;

/// Removes all objects under `keys`, with up to `parallel` calls at the same time (0 means 1).
///
/// # Errors
/// The first that came. Of the keys that went with the same call some may be left; the other calls were made all the same.
pub async fn delete_all(store: &dyn ObjectStore, keys: &[String], parallel: usize) -> Result<()> {
    let calls: Vec<_> = keys.chunks(TOGETHER).map(|some| store.delete_many(some)).collect();
    let results: Vec<_> = stream::iter(calls).buffer_unordered(parallel.max(1)).collect().await;
    results.into_iter().collect()
}
