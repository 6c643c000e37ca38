//! Round trips, counted on the server.

use std::collections::BTreeMap;
use std::time::Duration;

use stead_base::{SliceId, SystemClock};

use super::away::signal;
use super::proxy::Proxy;
use super::*;
use crate::format::Format;
use crate::ops::{Caller, Meta, MetaOptions, SetAttr, SliceRemover};
use crate::records::Slice;

/// How often each command has been called by clients other than the one that asks.
async fn calls(server: &RedisServer) -> BTreeMap<String, u64> {
    let stats: String = ask(server, &[b"INFO", b"commandstats"]).await;
    let line = |line: &str| {
        let (command, rest) = line.strip_prefix("cmdstat_")?.split_once(":calls=")?;
        Some((command.to_owned(), rest.split(',').next()?.parse().ok()?))
    };
    stats.lines().filter_map(line).collect()
}

pub(super) async fn evals(server: &RedisServer) -> u64 {
    let calls = calls(server).await;
    assert!(!calls.contains_key("eval"), "scripts are called by digest");
    assert!(!calls.contains_key("watch"));
    calls.get("evalsha").copied().unwrap_or_default()
}

fn create(parent: Ino, name: Name, ino: Ino) -> impl FnMut(&mut Txn<'_>) -> Step<()> + Send + 'static {
    move |txn| {
        txn.prime(&[Key::Attr(parent), Key::Entry(parent, name.clone())])?;
        let dir = txn.attr(parent)?.ok_or(Error::NoInode { ino: parent })?;
        if txn.entry(parent, &name)?.is_some() {
            return Err(Error::Exists { parent, name: name.to_string() }.into());
        }
        txn.write(Write::SetAttr(ino, attr(NodeType::File, 0)));
        txn.write(Write::SetEntry(parent, name.clone(), file(ino.0)));
        txn.write(Write::SetAttr(parent, dir));
        txn.write(Write::AddCounter(Counter::TotalInodes, 1));
        Ok(())
    }
}

fn unlink(parent: Ino, name: Name, ino: Ino) -> impl FnMut(&mut Txn<'_>) -> Step<()> + Send + 'static {
    move |txn| {
        txn.prime(&[Key::Attr(parent), Key::Entry(parent, name.clone()), Key::Attr(ino)])?;
        let found = txn.entry(parent, &name)?.ok_or(Error::NoInode { ino })?;
        txn.attr(found.ino)?.ok_or(Error::NoInode { ino })?;
        txn.write(Write::DelAttr(ino));
        txn.write(Write::DelEntry(parent, name.clone()));
        Ok(())
    }
}

#[tokio::test]
async fn a_create_after_its_lookup_is_one_call() {
    let server = RedisServer::start();
    let store = server.store().await;
    let dir = Ino(2);
    put(
        &store,
        vec![
            Write::SetAttr(dir, attr(NodeType::Directory, 4096)),
            Write::SetEntry(Ino::ROOT, name("dir"), Entry { kind: NodeType::Directory, ino: dir }),
        ],
    )
    .await;
    let fresh = server.store().await;
    assert!(fresh.lookup(Ino::ROOT, &name("dir")).await.expect("lookup").is_some());
    assert!(fresh.lookup(dir, &name("new")).await.expect("lookup").is_none());

    let before = evals(&server).await;
    within(&fresh, create(dir, name("new"), Ino(3))).await.expect("commits");
    assert_eq!(evals(&server).await - before, 1, "create");
    let before = evals(&server).await;
    within(&fresh, unlink(dir, name("new"), Ino(3))).await.expect("commits");
    assert_eq!(evals(&server).await - before, 1, "unlink of what we made");
    let before = evals(&server).await;
    within(&fresh, create(dir, name("new"), Ino(4))).await.expect("commits");
    assert_eq!(evals(&server).await - before, 1, "the name is known to be free");
}

#[tokio::test]
async fn unknown_records_cost_one_fetch_and_wrong_seeds_one_more_call() {
    let server = RedisServer::start();
    let (ours, theirs, dir) = (server.store().await, server.store().await, Ino(2));
    put(&theirs, vec![Write::SetAttr(dir, attr(NodeType::Directory, 4096))]).await;

    let before = evals(&server).await;
    within(&ours, create(dir, name("a"), Ino(3))).await.expect("commits");
    assert_eq!(evals(&server).await - before, 2, "a fetch of both and the commit");

    put(&theirs, vec![Write::SetAttr(dir, attr(NodeType::Directory, 4097))]).await;
    assert!(ours.lookup(dir, &name("b")).await.expect("lookup").is_none());
    let before = evals(&server).await;
    within(&ours, create(dir, name("b"), Ino(4))).await.expect("commits");
    assert_eq!(evals(&server).await - before, 2, "the refusal brings the fresh value");
    let kept = theirs.read(&[Key::Attr(dir)]).await.expect("read");
    assert_eq!(kept, [Some(Record::Attr(attr(NodeType::Directory, 4097)))]);
}

/// With Nagle's algorithm a request would wait until the server has acknowledged the one before it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_is_sent_while_another_one_has_no_answer() {
    let server = RedisServer::start();
    let proxy = Proxy::start(&server.address()).await;
    let store = Arc::new(RedisStore::connect(&redis_url(&proxy.address), &options()).await.expect("connects"));
    let mut apart = Vec::new();
    for _round in 0..30 {
        signal(&server, "STOP");
        let ask = |name| {
            let store = Arc::clone(&store);
            tokio::spawn(async move { store.lookup(Ino::ROOT, &name).await })
        };
        let first = ask(name("first"));
        tokio::time::sleep(Duration::from_millis(2)).await;
        let second = ask(name("second"));
        tokio::time::sleep(Duration::from_millis(25)).await;
        signal(&server, "CONT");
        for asked in [first, second] {
            assert!(asked.await.expect("no panic").expect("an answer").is_none());
        }
        let arrivals = proxy.faults.arrivals.lock();
        apart.push(arrivals[arrivals.len() - 1] - arrivals[arrivals.len() - 2]);
    }
    apart.sort_unstable();
    assert!(apart[15] < Duration::from_millis(15), "{apart:?}");
}

#[tokio::test]
async fn outcomes_without_a_write_are_asked_for_once() {
    let server = RedisServer::start();
    let (store, dir) = (server.store().await, Ino(2));
    put(&store, vec![Write::SetAttr(dir, attr(NodeType::Directory, 4096))]).await;
    within(&store, create(dir, name("a"), Ino(3))).await.expect("commits");

    let before = evals(&server).await;
    let again = within(&store, create(dir, name("a"), Ino(4))).await;
    assert!(matches!(again, Err(Error::Exists { .. })), "{again:?}");
    assert_eq!(evals(&server).await - before, 1, "seeds are verified, in one fetch");

    let before = evals(&server).await;
    let other = server.store().await;
    let read = within(&other, move |txn| txn.attr(dir)).await.expect("ends well");
    assert!(read.is_some());
    assert_eq!(evals(&server).await - before, 1, "what was fetched in this call needs no commit");
    let before = evals(&server).await;
    other.lookup(dir, &name("a")).await.expect("lookup");
    store.list_entries(dir, true, Default::default(), 100).await.expect("list_entries");
    store.read(&[Key::Attr(dir), Key::Entry(dir, name("a")), Key::DirStat(dir)]).await.expect("read");
    assert_eq!(evals(&server).await - before, 2, "one call each");
    let calls = calls(&server).await;
    assert_eq!([calls["hscan"], calls["mget"]], [1, 1], "a page is a step and its attributes, without a script");
    store.lookup(dir, &name("a")).await.expect("lookup");
    assert_eq!(evals(&server).await - before, 2, "what nobody else has changed is known");
}

/// A client of a new volume with a warm directory: statistics checked, numbers at hand, the trash of the hour made.
async fn volume(server: &RedisServer, trash_days: u32) -> (Arc<Meta>, Ino) {
    let store: Arc<dyn Store> = server.store().await;
    let mut format = Format::new("trips", "file", "/data/");
    format.trash_days = trash_days;
    Meta::write_format(store.as_ref(), &format, &SystemClock).await.expect("formats");
    let meta = Meta::new(store, format, MetaOptions::default()).await.expect("opens");
    meta.start_session().await.expect("starts");
    let caller = Caller::root();
    let (dir, _attr) = meta.mkdir(&caller, Ino::ROOT, b"d", 0o755, 0).await.expect("mkdir");
    meta.create(&caller, dir, b"warm", 0o644, 0, true).await.expect("create");
    meta.unlink(&caller, dir, b"warm").await.expect("unlink");
    tokio::time::sleep(std::time::Duration::from_millis(100)).await;
    (meta, dir)
}

/// Asserts what an operation costs.
macro_rules! costs {
    ($server:expr, $trips:expr, $work:expr) => {{
        let before = evals(&$server).await;
        let result = $work.await;
        assert_eq!(evals(&$server).await - before, $trips, "{}", stringify!($work));
        result.expect("the operation ends well")
    }};
}

#[tokio::test]
async fn after_the_kernels_lookup_an_operation_is_one_call() {
    for trash_days in [0, 1] {
        let server = RedisServer::start();
        let (meta, dir) = volume(&server, trash_days).await;
        let caller = Caller::root();
        let missing = async |name: &[u8]| drop(meta.lookup(dir, name).await.expect_err("it is not there"));

        missing(b"f").await;
        let (ino, _attr) = costs!(server, 1, meta.create(&caller, dir, b"f", 0o644, 0, true));
        let slice = Slice { pos: 0, id: meta.new_slice().await.expect("a slice"), size: 4096, off: 0, len: 4096 };
        costs!(server, 1, meta.write_slice(ino, 0, slice, Timestamp::from_secs(1)));
        costs!(server, 0, meta.close(ino));
        missing(b"sub").await;
        let (sub, _attr) = costs!(server, 1, meta.mkdir(&caller, dir, b"sub", 0o755, 0));
        missing(b"g").await;
        costs!(server, 1, meta.rename(&caller, dir, b"f", dir, b"g", 0));
        missing(b"h").await;
        costs!(server, 1, meta.create(&caller, dir, b"h", 0o644, 0, true));
        costs!(server, 1, meta.rename(&caller, dir, b"g", dir, b"h", 0));
        costs!(server, 1, meta.setattr(&caller, ino, SetAttr { mode: Some(0o600), ..SetAttr::default() }));
        costs!(server, 1, meta.truncate(&caller, ino, 100));
        costs!(server, 1, meta.rmdir(&caller, dir, b"sub"));
        costs!(server, 1, meta.unlink(&caller, dir, b"h"));
        assert!(matches!(meta.getattr(sub).await, Err(Error::NoInode { .. })) || trash_days == 1);
    }
}

#[tokio::test]
async fn what_others_made_costs_no_more_after_a_lookup() {
    let server = RedisServer::start();
    let (theirs, dir) = volume(&server, 0).await;
    let caller = Caller::root();
    for name in [b"a", b"b", b"c"] {
        theirs.mkdir(&caller, dir, name, 0o755, 0).await.expect("mkdir");
        meta_file(&theirs, dir, &[name[0], b'f']).await;
    }
    let store: Arc<dyn Store> = server.store().await;
    let ours = Meta::new(store, (*theirs.format()).clone(), MetaOptions::default()).await.expect("opens");
    // The first change in a directory makes sure that it has statistics.
    ours.mkdir(&caller, dir, b"own", 0o755, 0).await.expect("mkdir");
    tokio::time::sleep(std::time::Duration::from_millis(100)).await;
    ours.lookup(dir, b"a").await.expect("there");
    costs!(server, 1, ours.rmdir(&caller, dir, b"a"));
    ours.lookup(dir, b"af").await.expect("there");
    costs!(server, 1, ours.unlink(&caller, dir, b"af"));
    let (ino, _attr) = ours.lookup(dir, b"bf").await.expect("there");
    let asked = tokio::time::Instant::now();
    costs!(server, 1, ours.open(&caller, ino, 0));
    let slices = costs!(server, 0, ours.chunk_since(ino, 0, asked));
    assert_eq!(slices.len(), 1, "the first chunk came with the attributes");
    costs!(server, 1, ours.chunk_since(ino, 0, tokio::time::Instant::now()));
    // A directory that is not empty after all is refused by the one call, too.
    let (full, _attr) = ours.lookup(dir, b"b").await.expect("there");
    meta_file(&theirs, full, b"inside").await;
    let before = evals(&server).await;
    assert!(matches!(ours.rmdir(&caller, dir, b"b").await, Err(Error::NotEmpty { .. })));
    assert_eq!(evals(&server).await - before, 1);
}

async fn meta_file(meta: &Meta, dir: Ino, name: &[u8]) {
    let (ino, _attr) = meta.create(&Caller::root(), dir, name, 0o644, 0, true).await.expect("create");
    let slice = Slice { pos: 0, id: meta.new_slice().await.expect("a slice"), size: 10, off: 0, len: 10 };
    meta.write_slice(ino, 0, slice, Timestamp::from_secs(1)).await.expect("write");
    meta.close(ino).await.expect("close");
}

#[tokio::test]
async fn remembered_attributes_follow_what_this_client_does() {
    let server = RedisServer::start();
    let (meta, dir) = volume(&server, 0).await;
    let second = std::time::Duration::from_secs(1);
    let caller = Caller::root();
    let before = evals(&server).await;
    for (n, name) in [b"1", b"2", b"3"].into_iter().enumerate() {
        meta.mkdir(&caller, dir, name, 0o755, 0).await.expect("mkdir");
        let (attr, at) = meta.recent_attr(dir, second).expect("it was just changed");
        assert_eq!(attr.nlink as usize, 3 + n);
        assert!(at.elapsed() < second);
    }
    assert_eq!(evals(&server).await - before, 3, "nothing but the commits");
    assert!(meta.recent_attr(dir, std::time::Duration::ZERO).is_none(), "where nothing may be cached, nothing is");
}

#[tokio::test]
async fn an_answer_from_before_a_commit_of_ours_is_not_remembered() {
    let server = RedisServer::start();
    let store = server.store().await;
    let (key, old) = (Key::Attr(Ino(5)), attr(NodeType::File, 1));
    let asked = tokio::time::Instant::now();
    put(&store, vec![Write::SetAttr(Ino(5), attr(NodeType::File, 2)), Write::AppendSlices(Ino(5), 0, Vec::new())])
        .await;
    store.seeds.put(&key, Some(crate::codec::encode_attr(&old).into()), asked);
    store.seeds.put(&Key::Chunk(Ino(5), 0), None, asked);
    let recalled = store.recall(&key).map(|(record, _at)| record);
    assert_eq!(recalled, Some(Some(Record::Attr(attr(NodeType::File, 2)))));
    assert!(store.recall(&Key::Chunk(Ino(5), 0)).is_none(), "the list has grown since");
    store.seeds.put(&key, Some(crate::codec::encode_attr(&old).into()), tokio::time::Instant::now());
    let recalled = store.recall(&key).map(|(record, _at)| record);
    assert_eq!(recalled, Some(Some(Record::Attr(old))), "another client's change is seen");
}

/// Removes nothing, and takes no time.
#[derive(Debug)]
struct Nowhere;

#[async_trait::async_trait]
impl SliceRemover for Nowhere {
    async fn remove_slices(&self, _slices: &[(SliceId, u32)]) -> Result<(), String> {
        Ok(())
    }
}

#[tokio::test]
async fn the_data_of_a_small_file_goes_with_a_few_calls() {
    let server = RedisServer::start();
    let (meta, dir) = volume(&server, 0).await;
    meta.set_slice_remover(Arc::new(Nowhere));
    let caller = Caller::root();
    meta_file(&meta, dir, b"f").await;
    meta.create(&caller, dir, b"empty", 0o644, 0, true).await.expect("create");
    for (name, calls) in [(b"f".as_slice(), 4), (b"empty", 2)] {
        let (ino, _attr) = meta.lookup(dir, name).await.expect("there");
        meta.close(ino).await.expect("close");
        let before = evals(&server).await;
        meta.unlink(&caller, dir, name).await.expect("unlink");
        tokio::time::sleep(std::time::Duration::from_millis(200)).await;
        assert_eq!(evals(&server).await - before, calls, "one for the name, the others in the background");
    }
    let left: Vec<String> = ask(&server, &[b"KEYS", b"*"]).await;
    let data = left.iter().filter(|key| key.starts_with('c') || *key == "sliceRef" || *key == "delfiles");
    assert_eq!(data.count(), 0, "{left:?}");
}
