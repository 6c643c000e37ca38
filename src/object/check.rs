//! Whether a store can be written, read and cleaned (format.md §1.3).

use std::future::Future;
use std::time::Duration;

use bytes::Bytes;

use crate::layers::retried::with_patience;
use crate::{Error, ObjectStore, Result};

/// How long the retries of one step may go on, so that a wrong address is told soon.
const PATIENCE: Duration = Duration::from_secs(1);
/// How long one step may take.
const STEP: Duration = Duration::from_millis(4_500);

/// Puts, reads back and deletes an object `testing/…` of 100 random bytes. A bucket that does not exist is created.
/// The store must be the one with the volume's prefix.
///
/// # Errors
/// The first error, within five seconds also where the store retries much longer; [`Error::Other`] when other bytes
/// came back than were put.
pub async fn check(store: &dyn ObjectStore) -> Result<()> {
    let key = format!("testing/{}", random_name());
    let body: Bytes = (0..100).map(|_| rand::random::<u8>()).collect();
    put(store, &key, &body).await?;
    let read = step(store, "get", store.get(&key, None)).await?;
    if read != body {
        let why = format!("{key} was put with {} bytes and read back as {} other bytes", body.len(), read.len());
        return Err(Error::Other { store: store.describe(), why });
    }
    clean(store, &key).await
}

/// Puts an object `testing/…`, as [`check`] does, and returns its key: whoever has no time now removes it later with
/// [`clean`].
///
/// # Errors
/// As [`check`]; a bucket that does not exist is not created.
pub async fn check_put(store: &dyn ObjectStore) -> Result<String> {
    let key = format!("testing/{}", random_name());
    step(store, "put", store.put(&key, Bytes::from_static(b"may be removed"))).await?;
    Ok(key)
}

/// Removes what [`check_put`] has put.
///
/// # Errors
/// The object is left behind.
pub async fn clean(store: &dyn ObjectStore, key: &str) -> Result<()> {
    step(store, "delete", store.delete(key)).await?;
    step(store, "delete", store.delete("testing/")).await
}

async fn put(store: &dyn ObjectStore, key: &str, body: &Bytes) -> Result<()> {
    match step(store, "put", store.put(key, body.clone())).await {
        Err(Error::NoBucket { .. }) => {
            step(store, "create bucket", store.create_bucket()).await?;
            step(store, "put", store.put(key, body.clone())).await
        }
        done => done,
    }
}

async fn step<T>(store: &dyn ObjectStore, name: &str, call: impl Future<Output = Result<T>>) -> Result<T> {
    let limited = tokio::time::timeout(STEP, with_patience(PATIENCE, call)).await;
    limited.unwrap_or_else(|_elapsed| {
        Err(Error::Temporary { store: store.describe(), why: format!("{name} got no answer within {STEP:?}") })
    })
}

fn random_name() -> String {
    const LETTERS: &[u8] = b"abcdefghijklmnopqrstuvwxyz0123456789";
    (0..10).map(|_| char::from(LETTERS[rand::random_range(0..LETTERS.len())])).collect()
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::{Failing, Fault, MemoryStore, Op, Retried, Rule};

    #[tokio::test]
    async fn a_good_store_passes_and_is_left_clean() {
        let store = MemoryStore::new();
        check(&store).await.unwrap();
        assert!(store.list("", "", 10).await.unwrap().is_empty());
    }

    #[tokio::test]
    async fn that_it_can_be_written_is_shown_by_one_object() {
        let store = Failing::new(Arc::new(MemoryStore::new()));
        let key = check_put(&store).await.unwrap();
        assert_eq!(store.list("", "", 10).await.unwrap().len(), 1);
        clean(&store, &key).await.unwrap();
        assert!(store.list("", "", 10).await.unwrap().is_empty());
        let denied = Error::Denied { store: "x".into(), why: "no".into() };
        store.add(Rule::on(Op::Put).fault(Fault::Fail(denied)));
        assert!(matches!(check_put(&store).await, Err(Error::Denied { .. })));
        assert_eq!(store.calls(Op::CreateBucket), 0);
    }

    #[tokio::test]
    async fn wrong_bytes_are_noticed() {
        let store = Failing::new(Arc::new(MemoryStore::new()));
        store.add(Rule::on(Op::Get).fault(Fault::Corrupt));
        let error = check(&store).await.unwrap_err();
        assert!(error.to_string().contains("read back as 100 other bytes"), "{error}");
    }

    #[tokio::test(start_paused = true)]
    async fn an_answer_comes_within_five_seconds_behind_retries_and_from_a_silent_store() {
        for fault in [Fault::Fail(Error::Temporary { store: "x".into(), why: "refused".into() }), Fault::Hang] {
            let failing = Arc::new(Failing::new(Arc::new(MemoryStore::new())));
            failing.add(Rule::on(Op::Put).fault(fault));
            let start = tokio::time::Instant::now();
            let error = check(&Retried::new(failing, 1000)).await.unwrap_err();
            assert!(error.is_temporary(), "{error}");
            assert!(start.elapsed() < Duration::from_secs(5));
        }
    }

    #[tokio::test]
    async fn a_missing_bucket_is_made() {
        let store = Failing::new(Arc::new(MemoryStore::new()));
        let missing = Error::NoBucket { store: "x".into(), why: "gone".into() };
        store.add(Rule::on(Op::Put).times(1).fault(Fault::Fail(missing)));
        check(&store).await.unwrap();
        assert_eq!(store.calls(Op::CreateBucket), 1);
    }
}
