//! A dump of the Go client is loaded, dumped again and compared; broken ones leave nothing behind.

use std::io::Cursor;
use std::sync::Mutex;

use proptest::prelude::*;
use serde_json::Value;
use stead_base::{ManualClock, SliceId};
use stead_meta::memory::MemoryStore;
use stead_meta::records::{DirStat, LOADING, Name};
use stead_meta::url::{ConnectOptions, MetaUrl, connect};

use super::*;
use crate::dump::{self, Options};
use crate::open::Opened;
use crate::progress::Quiet;

/// Written by the Go client: ACLs, hard links, holes, shared slices, odd names, every type, the trash, a quota.
const SAMPLE: &str = include_str!("sample.json");

fn clock() -> Arc<dyn Clock> {
    Arc::new(ManualClock::new(Timestamp::from_secs(1_800_000_000)))
}

fn memory() -> Arc<dyn Store> {
    Arc::new(MemoryStore::new())
}

async fn loaded(store: &Arc<dyn Store>, text: &str) -> Result<Loaded> {
    let input = Box::new(Cursor::new(text.as_bytes().to_vec()));
    load(store, input, &clock(), &Quiet).await
}

/// Somewhere to write that can be looked at afterwards.
#[derive(Clone, Default)]
struct Shared(Arc<Mutex<Vec<u8>>>);

impl std::io::Write for Shared {
    fn write(&mut self, data: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(data);
        Ok(data.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

async fn dumped(store: &Arc<dyn Store>, options: &Options) -> Value {
    let format = Meta::load_format(&**store).await.unwrap();
    let volume = Opened { store: Arc::clone(store), format, clock: clock(), passphrase: None };
    let out = Shared::default();
    dump::dump(&volume, Box::new(out.clone()), options, &Quiet).await.unwrap();
    let text = out.0.lock().unwrap().clone();
    serde_json::from_slice(&text).unwrap()
}

async fn check(store: Arc<dyn Store>) {
    let report = loaded(&store, SAMPLE).await.unwrap();
    assert_eq!((report.volume.as_str(), report.inodes, report.space), ("goldie", 14, 200_450_048));
    let mut before: Value = serde_json::from_str(SAMPLE).unwrap();
    let mut after = dumped(&store, &Options::default()).await;
    assert_eq!(before.as_object_mut().unwrap().remove("FSTree"), after.as_object_mut().unwrap().remove("FSTree"));
    assert_eq!(before, after);
    let refs = store.read(&[Key::SliceRef(SliceId(1), 5), Key::SliceRef(SliceId(3), 1)]).await.unwrap();
    assert_eq!(refs, [Some(Record::Number(2)), Some(Record::Number(1))]);
    let stat = store.read(&[Key::DirStat(Ino(3))]).await.unwrap().pop().flatten();
    assert_eq!(stat, Some(Record::DirStat(DirStat { length: 400_005, space: 409_600, inodes: 4 })));
    let link = store.lookup(Ino(2), &Name::entry(b"f1").unwrap()).await.unwrap().unwrap().1.unwrap();
    assert_eq!((link.nlink, link.parent), (2, Ino(0)));
    let quota = store.list_quotas().await.unwrap()[0].1;
    assert_eq!((quota.used_space, quota.used_inodes), (200_433_664, 10));
    let error = loaded(&store, SAMPLE).await.unwrap_err().to_string();
    assert!(error.contains("holds metadata already"), "{error}");
}

#[tokio::test]
async fn a_dump_of_the_go_client_comes_back_the_same_from_memory() {
    check(memory()).await;
}

#[tokio::test]
async fn a_dump_of_the_go_client_comes_back_the_same_from_sqlite() {
    let dir = tempfile::tempdir().unwrap();
    let url: MetaUrl = format!("sqlite3://{}/m.db", dir.path().display()).parse().unwrap();
    let options = ConnectOptions { create: true, ..ConnectOptions::new(clock()) };
    check(connect(&url, &options).await.unwrap()).await;
}

#[tokio::test]
async fn a_sub_directory_becomes_a_volume() {
    let (store, other) = (memory(), memory());
    loaded(&store, SAMPLE).await.unwrap();
    let part = dumped(&store, &Options { subdir: Some("/a/b".to_owned()), ..Options::default() }).await;
    let report = loaded(&other, &part.to_string()).await.unwrap();
    assert_eq!((report.entries, report.inodes), (4, 4));
    let (entry, _) = other.lookup(Ino::ROOT, &Name::entry(b"link").unwrap()).await.unwrap().unwrap();
    assert_eq!(entry.ino, Ino(5));
    let skipped = dumped(&store, &Options { skip_trash: true, ..Options::default() }).await;
    assert_eq!(skipped.get("Trash"), None);
}

#[tokio::test]
async fn what_is_wrong_is_named_with_its_place_and_nothing_is_left() {
    for (from, to, line, why) in [
        ("\"type\":\"fifo\"", "\"type\":\"pipe\"", 84, "unknown type \"pipe\""),
        ("\"inode\":9,", "\"inode\":-9,", 84, "-9 is out of range"),
        ("\"atimensec\":210217120", "\"atimensec\":1000000000", 84, "more than a second"),
        ("\"fifo\": {", "\"..\": {", 83, "\"..\" is no valid name"),
        ("\"pos\":65782272", "\"pos\":65782273000", 90, "out of range"),
        ("\"symlink\": \"../f1\"", "\"symlink\": \"\"", 65, "1 to 4096 bytes"),
        ("\"inode\":4,", "\"inode\":2,", 100, "directory 2 has two names"),
        ("\"Counters\": {", "\"Counters\": [", 23, "expected"),
        ("\"UUID\"", "\"ID\"", 22, "UUID"),
        ("\"inode\":9223372032828243969,", "\"inode\":7,", 110, "inode 7 cannot be here"),
        ("\"inode\":9223372032828243969,", "\"inode\":18446744073709551615,", 110, "leaves no numbers"),
        ("\"inode\":9,", "\"inode\":9223372032828243967,", 84, "leaves no numbers"),
    ] {
        let store = memory();
        assert!(SAMPLE.contains(from), "{from}");
        let error = loaded(&store, &SAMPLE.replacen(from, to, 1)).await.unwrap_err();
        let Error::Dump { line: found, why: said, .. } = &error else { panic!("{to}: {error}") };
        assert!(said.contains(why) && found.abs_diff(line) <= 2, "{to}: line {found}: {said}");
        loaded(&store, SAMPLE).await.expect("the engine is empty again");
    }
}

/// A dump that comes only as far as it is let, and then no further.
struct Stalled {
    text: Cursor<&'static [u8]>,
    go_on: std::sync::mpsc::Receiver<()>,
}

impl std::io::Read for Stalled {
    fn read(&mut self, into: &mut [u8]) -> std::io::Result<usize> {
        let read = self.text.read(into)?;
        if read == 0 {
            // Whoever drops the other end lets the dump end here.
            let _ = self.go_on.recv();
        }
        Ok(read)
    }
}

/// A load that has begun and stands still.
async fn begun(
    store: &Arc<dyn Store>,
    clock: &Arc<dyn Clock>,
) -> (tokio::task::JoinHandle<Result<Loaded>>, std::sync::mpsc::Sender<()>) {
    let (sender, go_on) = std::sync::mpsc::channel();
    let input = Stalled { text: Cursor::new(&SAMPLE.as_bytes()[..SAMPLE.len() / 2]), go_on };
    let (store_of_task, clock_of_task) = (Arc::clone(store), Arc::clone(clock));
    let load = tokio::spawn(async move { load(&store_of_task, Box::new(input), &clock_of_task, &Quiet).await });
    while store.read(&[Key::Session(LOADING)]).await.unwrap() == [None] {
        tokio::task::yield_now().await;
    }
    (load, sender)
}

async fn loaded_at(store: &Arc<dyn Store>, clock: &Arc<dyn Clock>) -> Result<Loaded> {
    load(store, Box::new(SAMPLE.as_bytes()), clock, &Quiet).await
}

#[tokio::test]
async fn a_second_load_is_refused_and_disturbs_nothing() {
    let (store, clock) = (memory(), clock());
    let (first, go_on) = begun(&store, &clock).await;
    let error = loaded_at(&store, &clock).await.unwrap_err().to_string();
    assert!(error.contains("is being loaded by") && error.contains("in 60 seconds"), "{error}");
    let format = Format::new("other", "file", "/data/");
    let error = Meta::write_format(&*store, &format, &*clock).await.unwrap_err().to_string();
    assert!(error.contains("part of a dump"), "{error}");
    drop(go_on);
    let error = first.await.unwrap().unwrap_err();
    assert!(matches!(error, Error::Dump { .. }), "only half of it came: {error}");
    assert_eq!(store.read(&[Key::Session(LOADING)]).await.unwrap(), [None]);
    loaded_at(&store, &clock).await.expect("the engine is empty again");
}

#[tokio::test]
async fn what_a_killed_load_left_goes_with_the_next_one() {
    let manual = Arc::new(ManualClock::new(Timestamp::from_secs(1_800_000_000)));
    let clock: Arc<dyn Clock> = Arc::<ManualClock>::clone(&manual);
    let store = memory();
    let dead = Claim::take(&store, &clock).await.unwrap();
    dead.commit(vec![Write::SetAttr(Ino(77), root_attr(0o755, clock.now()))]).await.unwrap();
    loaded_at(&store, &clock).await.expect_err("it may be alive");
    manual.advance(std::time::Duration::from_secs(61));
    loaded_at(&store, &clock).await.expect("nobody is there any more");
    assert_eq!(store.read(&[Key::Attr(Ino(77)), Key::Session(LOADING)]).await.unwrap(), [None, None]);

    let error = dead.commit(vec![Write::SetAttr(Ino(77), root_attr(0o755, clock.now()))]).await.unwrap_err();
    assert!(error.to_string().contains("somebody else"), "{error}");
    dead.give_up().await.expect_err("it is not theirs");
    assert_eq!(store.read(&[Key::Attr(Ino(77))]).await.unwrap(), [None]);
    Meta::load_format(&*store).await.expect("the volume is untouched");
}

#[tokio::test]
async fn what_no_load_wrote_is_left_alone() {
    let store = memory();
    let body = |txn: &mut stead_meta::store::Txn<'_>| {
        txn.write(Write::SetAttr(Ino(77), root_attr(0o755, Timestamp::from_secs(1))));
        Ok(())
    };
    stead_meta::store::transact(&*store, stead_meta::store::TxOptions::default(), body).await.unwrap();
    let error = loaded(&store, SAMPLE).await.unwrap_err().to_string();
    assert!(error.contains("holds metadata already"), "{error}");
    assert!(store.read(&[Key::Attr(Ino(77))]).await.unwrap()[0].is_some());
}

#[tokio::test]
async fn files_that_are_too_large_together_are_refused() {
    let file = |ino: u64| {
        format!("\"f{ino}\":{{\"attr\":{{\"inode\":{ino},\"type\":\"regular\",\"length\":{}}}}}", (1_u64 << 57) - 1)
    };
    let root = "{\"attr\":{\"inode\":1,\"type\":\"directory\"},\"entries\":{";
    let setting = serde_json::from_str::<Value>(SAMPLE).unwrap()["Setting"].to_string();
    let dump = |files: u64| {
        let files: Vec<String> = (2..2 + files).map(file).collect();
        format!("{{\"Setting\":{setting},\"FSTree\":{root}{}}}}}}}", files.join(","))
    };
    assert_eq!(loaded(&memory(), &dump(63)).await.unwrap().inodes, 63);
    let error = loaded(&memory(), &dump(64)).await.unwrap_err();
    let Error::Dump { why, .. } = &error else { panic!("{error}") };
    assert!(why.contains("more bytes than can be counted"), "{why}");
}

#[tokio::test]
async fn a_dump_that_is_cut_off_is_refused_wherever_it_is() {
    for end in (0..SAMPLE.trim_end().len()).step_by(97) {
        let store = memory();
        let error = loaded(&store, &SAMPLE[..end]).await.unwrap_err();
        assert!(matches!(error, Error::Dump { .. }), "{end}: {error}");
        assert_eq!(store.read(&[Key::Attr(Ino::ROOT)]).await.unwrap(), [None]);
    }
}

#[test]
fn a_deep_tree_needs_no_stack() {
    let depth = 100_000;
    let mut text = String::from("{\"FSTree\":");
    for ino in 1..=depth {
        text.push_str(&format!("{{\"attr\":{{\"inode\":{ino},\"type\":\"directory\"}},\"entries\":{{\"d\":"));
    }
    let (sender, mut batches) = mpsc::channel(1);
    let taker = std::thread::spawn(move || while batches.blocking_recv().is_some() {});
    let parsed = tree::parse(Source::new(Box::new(Cursor::new(text))), sender);
    taker.join().unwrap();
    assert!(matches!(parsed, Err(Error::Dump { .. })));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]

    #[test]
    fn no_change_of_a_dump_makes_the_parser_panic(
        changes in proptest::collection::vec((0..SAMPLE.len(), any::<u8>()), 1..6),
    ) {
        let mut bytes = SAMPLE.as_bytes().to_vec();
        for (at, byte) in changes {
            bytes[at] = byte;
        }
        let (sender, mut batches) = mpsc::channel(1);
        let taker = std::thread::spawn(move || while batches.blocking_recv().is_some() {});
        let _ = tree::parse(Source::new(Box::new(Cursor::new(bytes))), sender);
        taker.join().unwrap();
    }
}
