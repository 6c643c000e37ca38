//! What every [`ObjectStore`] must keep; each store runs this against itself.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::future::join_all;
use stead_base::{Clock, SystemClock};

use crate::{Error, ObjectStore};

/// Runs everything. The store must be empty; it is left empty.
pub(crate) async fn check(store: Arc<dyn ObjectStore>) {
    store.create_bucket().await.expect("the bucket can be made");
    store.create_bucket().await.expect("making it again is no error");
    round_trips(&*store).await;
    missing_keys(&*store).await;
    ranges(&*store).await;
    heads(&*store).await;
    listing_order_and_pages(&*store).await;
    replacing_is_atomic(&store).await;
    many_at_once(&store).await;
    deleting_many(&*store).await;
    crate::check(&*store).await.expect("the check passes");
    store.sync().await.expect("sync succeeds");
    assert_eq!(keys(&*store, "", "", 10).await, Vec::<String>::new(), "left empty");
}

async fn keys(store: &dyn ObjectStore, prefix: &str, after: &str, limit: usize) -> Vec<String> {
    let found = store.list(prefix, after, limit).await.expect("the listing succeeds");
    found.into_iter().map(|info| info.key).collect()
}

/// Bytes that differ from place to place.
fn body(len: usize) -> Bytes {
    (0..len).map(|at| u8::try_from(at * 31 % 251).expect("below 251")).collect()
}

async fn round_trips(store: &dyn ObjectStore) {
    for len in [0, 1, 4096, 100_000, 4 << 20] {
        let key = format!("chunks/0/0/5_0_{len}");
        store.put(&key, body(len)).await.expect("the put succeeds");
        let read = store.get(&key, None).await.expect("the get succeeds");
        assert!(read == body(len), "{len} bytes came back as {}", read.len());
        assert!(store.get(&key, None).await.expect("again, from caches if there are any") == body(len));
        store.delete(&key).await.expect("the delete succeeds");
        assert_missing(&store.get(&key, None).await.map(drop), &key);
    }
    for key in ["a b/c+d", "ümlaut/日本", "%41&=?#", "a.tmp", ".jfs.a", "x/y/.z"] {
        store.put(key, body(3)).await.expect("any text is a key");
        assert_eq!(keys(store, "", "", 10).await, [key]);
        assert_eq!(store.get(key, None).await.expect(key), body(3));
        store.delete(key).await.expect("the delete succeeds");
    }
}

fn assert_missing(result: &crate::Result<()>, expected: &str) {
    match result {
        Err(Error::NotFound { key, .. }) => assert!(key.ends_with(expected), "{key} names the key"),
        other => panic!("{expected}: not found is expected, not {other:?}"),
    }
}

async fn missing_keys(store: &dyn ObjectStore) {
    assert_missing(&store.get("no/such", None).await.map(drop), "no/such");
    assert_missing(&store.get("no/such", Some(5..7)).await.map(drop), "no/such");
    assert_missing(&store.get("no/such", Some(5..5)).await.map(drop), "no/such");
    assert_missing(&store.head("no/such").await.map(drop), "no/such");
    store.delete("no/such").await.expect("deleting a missing key succeeds");
    store.put("dir/file", body(1)).await.expect("the put succeeds");
    assert_missing(&store.get("dir", None).await.map(drop), "dir");
    assert_missing(&store.head("dir").await.map(drop), "dir");
    store.delete("dir").await.expect("what is no object is deleted without effect");
    store.delete("dir/file").await.expect("and the object is still there to delete");
}

async fn ranges(store: &dyn ObjectStore) {
    let whole = body(1000);
    store.put("r", whole.clone()).await.expect("the put succeeds");
    for range in [0..1000, 0..1, 999..1000, 10..20, 990..2000, 0..u64::MAX, 1000..1001, 5000..6000, 7..7, 5000..5000] {
        let read = store.get("r", Some(range.clone())).await.expect("every range is fine");
        let cut = |at: u64| usize::try_from(at.min(1000)).expect("small");
        assert_eq!(read, whole[cut(range.start)..cut(range.end)], "{range:?}");
    }
    store.put("r", Bytes::new()).await.expect("the put succeeds");
    assert_eq!(store.get("r", Some(0..10)).await.expect("a range of nothing"), "");
    store.delete("r").await.expect("the delete succeeds");
}

async fn heads(store: &dyn ObjectStore) {
    store.put("h/x", body(77)).await.expect("the put succeeds");
    let info = store.head("h/x").await.expect("the head succeeds");
    assert_eq!((info.key.as_str(), info.size), ("h/x", 77));
    let now = SystemClock.now();
    let apart = now.since(info.modified) + info.modified.since(now);
    assert!(apart < Duration::from_secs(60), "{:?} is about now", info.modified);
    assert_eq!(store.list("h/", "", 10).await.expect("the listing succeeds").len(), 1);
    store.delete("h/x").await.expect("the delete succeeds");
}

async fn listing_order_and_pages(store: &dyn ObjectStore) {
    // In the order of their bytes: '-' < '.' < '/' < '0', and a directory sorts with its slash.
    let all = ["a-b", "a.b", "a/-", "a/b/c", "a/b0", "a0", "b/1", "b/2", "ba", "c/d/e/f", "é"];
    for key in all.iter().rev() {
        store.put(key, body(2)).await.expect("the put succeeds");
    }
    assert_eq!(keys(store, "", "", 100).await, all);
    assert_eq!(keys(store, "a/", "", 100).await, ["a/-", "a/b/c", "a/b0"]);
    assert_eq!(keys(store, "a/b", "", 100).await, ["a/b/c", "a/b0"]);
    assert_eq!(keys(store, "b", "b/1", 100).await, ["b/2", "ba"]);
    assert_eq!(keys(store, "b/", "a", 100).await, ["b/1", "b/2"]);
    assert_eq!(keys(store, "b/", "c", 100).await, Vec::<String>::new());
    assert_eq!(keys(store, "none/", "", 100).await, Vec::<String>::new());
    assert_eq!(keys(store, "", "a/b/c", 2).await, ["a/b0", "a0"]);
    assert_eq!(keys(store, "", "a/", 1).await, ["a/-"], "the page may begin after a key that does not exist");
    let mut paged: Vec<String> = Vec::new();
    loop {
        let after = paged.last().cloned().unwrap_or_default();
        let page = keys(store, "", &after, 3).await;
        paged.extend(page.iter().cloned());
        if page.len() < 3 {
            break;
        }
    }
    assert_eq!(paged, all);
    for key in all {
        store.delete(key).await.expect("the delete succeeds");
    }
}

/// Readers see one of two whole objects while writers replace it.
async fn replacing_is_atomic(store: &Arc<dyn ObjectStore>) {
    let (one, two) = (Bytes::from(vec![1; 300_000]), Bytes::from(vec![2; 200_000]));
    store.put("atomic", one.clone()).await.expect("the put succeeds");
    let writer = tokio::spawn({
        let (store, one, two) = (Arc::clone(store), one.clone(), two.clone());
        async move {
            for turn in 0..30 {
                let body = if turn % 2 == 0 { two.clone() } else { one.clone() };
                store.put("atomic", body).await.expect("the put succeeds");
            }
        }
    });
    while !writer.is_finished() {
        let seen = store.get("atomic", None).await.expect("it is always there");
        assert!(seen == one || seen == two, "a mixture of {} bytes", seen.len());
        tokio::task::yield_now().await;
    }
    writer.await.expect("the writer succeeds");
    assert!(store.get("atomic", None).await.expect("still there") == one, "the last put wins");
    store.delete("atomic").await.expect("the delete succeeds");
}

async fn many_at_once(store: &Arc<dyn ObjectStore>) {
    let one = |n: usize| async move {
        let key = format!("many/{}/{n}", n % 7);
        store.put(&key, body(n * 50)).await.expect("the put succeeds");
        assert!(store.get(&key, None).await.expect("read your own write") == body(n * 50));
        key
    };
    let written = join_all((0..100).map(one)).await;
    assert_eq!(keys(&**store, "many/", "", 1000).await.len(), 100);
    join_all(written.iter().map(|key| async { store.delete(key).await.expect("the delete succeeds") })).await;
}

async fn deleting_many(store: &dyn ObjectStore) {
    let names: Vec<String> = (0..1100).map(|n| format!("doomed/{}/{n}", n % 3)).collect();
    for some in names.chunks(50) {
        join_all(some.iter().map(|key| async { store.put(key, body(2)).await.expect("the put succeeds") })).await;
    }
    store.put("doomed/kept", body(2)).await.expect("the put succeeds");
    let with_others = [&["doomed".to_owned(), "no/such".to_owned()], &names[..10]].concat();
    store.delete_many(&with_others).await.expect("what does not exist, or is no object, is no error");
    assert_eq!(keys(store, "doomed/", "", 2000).await.len(), 1091);
    store.delete_many(&names).await.expect("some of them are gone already");
    assert_eq!(keys(store, "doomed/", "", 10).await, ["doomed/kept"]);
    store.delete_many(&["doomed/kept".to_owned()]).await.expect("one is a number, too");
    store.delete_many(&[]).await.expect("and so is none");
}
