//! What every [`Store`] must keep, as one suite: each implementation runs [`check`] on an empty engine in its tests.

mod owned;
mod scans;
mod together;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use bytes::Bytes;
use stead_base::{Ino, SessionId, SliceId, Timestamp};

use crate::error::Error;
use crate::records::{Attr, Counter, DirStat, Entry, Job, Key, Name, NodeType, Quota, Record, Slice, Write};
use crate::store::{Cursor, Listed, Step, Store, TxOptions, Txn, transact};

/// Runs the whole suite; leaves the engine empty.
pub(crate) async fn check(store: Arc<dyn Store>) {
    store.initialize().await.expect("initialize");
    store.initialize().await.expect("initialize twice");
    let s = store.as_ref();
    attributes_and_entries(s).await;
    hard_links(s).await;
    chunks(s).await;
    symlinks_and_xattrs(s).await;
    numbers(s).await;
    usage(s).await;
    slice_references(s).await;
    deleted_and_delayed(s).await;
    sessions(s).await;
    owned::locks(s).await;
    owned::locks_go_with_their_session(s).await;
    owned::access_lists(s).await;
    owned::detached_trees(s).await;
    owned::quotas_of_owners(s).await;
    jobs(s).await;
    scans::listing_is_paged(s).await;
    scans::scans_find_everything(s).await;
    scans::a_scan_finds_what_stays_while_others_write(&store).await;
    a_failing_body_writes_nothing(s).await;
    a_body_sees_the_state_before_it(s).await;
    read_keeps_the_order(s).await;
    together::increments_are_not_lost(&store).await;
    together::one_of_many_creates(&store).await;
    together::an_emptiness_check_holds(&store).await;
    together::numbers_are_given_once(&store).await;
    a_settings_change_is_seen(s).await;
    store.sync().await.expect("sync");
    store.erase().await.expect("erase");
    assert_eq!(get(s, Key::Setting).await, None, "erased");
    assert_eq!(get(s, Key::Attr(Ino(10))).await, None, "erased");
}

async fn put(store: &dyn Store, writes: Vec<Write>) {
    transact(store, TxOptions::default(), move |txn| {
        writes.iter().cloned().for_each(|write| txn.write(write));
        Ok(())
    })
    .await
    .expect("writes without reads commit");
}

async fn get(store: &dyn Store, key: Key) -> Option<Record> {
    let outside = store.read(std::slice::from_ref(&key)).await.expect("read").remove(0);
    let compared = within(store, {
        let key = key.clone();
        move |txn| txn.get(&key)
    })
    .await;
    let hint = within(store, {
        let key = key.clone();
        move |txn| txn.hint(&key)
    })
    .await;
    assert_eq!(outside, compared, "{key:?} reads alike in and outside of a transaction");
    assert_eq!(outside, hint, "{key:?} reads alike as a hint");
    outside
}

async fn within<T: Send + 'static>(store: &dyn Store, body: impl FnMut(&mut Txn<'_>) -> Step<T> + Send + 'static) -> T {
    transact(store, TxOptions::default(), body).await.expect("the body ends well")
}

fn name(text: &str) -> Name {
    Name::entry(text.as_bytes()).expect("a valid name")
}

fn attr(kind: NodeType, length: u64) -> Attr {
    let time = |secs, nanos| Timestamp { secs, nanos };
    Attr {
        flags: 0x21,
        kind,
        mode: 0o7751,
        uid: 1000,
        gid: u32::MAX - 1,
        atime: time(1_700_000_000, 123_456_789),
        mtime: time(1_700_000_001, 999_999_999),
        ctime: time(1, 0),
        nlink: 3,
        length,
        rdev: 0x801,
        parent: Ino(1),
        access_acl: 0,
        default_acl: 0,
        tier: 0,
    }
}

fn slice(pos: u32, id: u64) -> Slice {
    Slice { pos, id: SliceId(id), size: 100, off: 7, len: 50 }
}

async fn attributes_and_entries(s: &dyn Store) {
    let file = Ino(10);
    assert_eq!(get(s, Key::Attr(file)).await, None);
    assert_eq!(get(s, Key::AnyEntry(Ino(1))).await, None);
    assert!(s.lookup(Ino(1), &name("a")).await.expect("lookup").is_none());

    let entry = Entry { kind: NodeType::File, ino: file };
    let first = attr(NodeType::File, 1 << 40);
    put(s, vec![Write::SetAttr(file, first.clone()), Write::SetEntry(Ino(1), name("a"), entry)]).await;
    assert_eq!(get(s, Key::Attr(file)).await, Some(Record::Attr(first.clone())));
    assert_eq!(get(s, Key::Entry(Ino(1), name("a"))).await, Some(Record::Entry(entry)));
    assert_eq!(get(s, Key::AnyEntry(Ino(1))).await, Some(Record::Present));
    assert_eq!(s.lookup(Ino(1), &name("a")).await.expect("lookup"), Some((entry, Some(first.clone()))));

    let changed = Attr { access_acl: 3, default_acl: 4, tier: 2, nlink: 0, ..first };
    let other = Entry { kind: NodeType::Directory, ino: Ino(Ino::TRASH.0 + 1) };
    put(s, vec![Write::SetAttr(file, changed.clone()), Write::SetEntry(Ino(1), name("a"), other)]).await;
    assert_eq!(get(s, Key::Attr(file)).await, Some(Record::Attr(changed)));
    assert_eq!(get(s, Key::Entry(Ino(1), name("a"))).await, Some(Record::Entry(other)));
    assert_eq!(
        s.lookup(Ino(1), &name("a")).await.expect("lookup"),
        Some((other, None)),
        "an entry without attributes, with an inode beyond 2^53"
    );

    put(s, vec![Write::DelAttr(file), Write::DelEntry(Ino(1), name("a"))]).await;
    assert_eq!(get(s, Key::Attr(file)).await, None);
    assert_eq!(get(s, Key::AnyEntry(Ino(1))).await, None, "an emptied directory");
}

async fn hard_links(s: &dyn Store) {
    let file = Ino(11);
    let entry = Entry { kind: NodeType::File, ino: file };
    let hard = Attr { parent: Ino(0), ..attr(NodeType::File, 0) };
    put(
        s,
        vec![
            Write::SetAttr(file, hard),
            Write::SetEntry(Ino(1), name("x"), entry),
            Write::SetEntry(Ino(2), name("y"), entry),
            Write::SetEntry(Ino(2), name("z"), entry),
            Write::AddParent(file, Ino(1), 1),
            Write::AddParent(file, Ino(2), 1),
            Write::AddParent(file, Ino(2), 1),
        ],
    )
    .await;
    let parents = |of: &[(u64, i64)]| {
        let map: BTreeMap<Ino, i64> = of.iter().map(|(dir, count)| (Ino(*dir), *count)).collect();
        Some(Record::Parents(map))
    };
    assert_eq!(get(s, Key::Parents(file)).await, parents(&[(1, 1), (2, 2)]));
    put(
        s,
        vec![
            Write::DelEntry(Ino(1), name("x")),
            Write::AddParent(file, Ino(1), -1),
            Write::DelEntry(Ino(2), name("z")),
            Write::AddParent(file, Ino(2), -1),
        ],
    )
    .await;
    assert_eq!(get(s, Key::Parents(file)).await, parents(&[(2, 1)]), "0 vanishes");
    put(s, vec![Write::DelEntry(Ino(2), name("y")), Write::DelParents(file), Write::DelAttr(file)]).await;
    assert_eq!(get(s, Key::Parents(file)).await, None);
}

async fn chunks(s: &dyn Store) {
    let file = Ino(12);
    put(s, vec![Write::AppendSlicesIfExists(file, 0, slice(0, 1))]).await;
    assert_eq!(get(s, Key::Chunk(file, 0)).await, None, "nothing to append to");
    put(
        s,
        vec![
            Write::AppendSlices(file, 0, vec![slice(0, 1)]),
            Write::AppendSlices(file, 0, vec![slice(1, 2), slice(2, 3)]),
            Write::AppendSlicesIfExists(file, 0, slice(3, 0)),
            Write::AppendSlices(file, 70_000, vec![slice(9, 9)]),
        ],
    )
    .await;
    let list = |of: &[Slice]| Some(Record::Slices(of.to_vec()));
    let all = [slice(0, 1), slice(1, 2), slice(2, 3), slice(3, 0)];
    assert_eq!(get(s, Key::Chunk(file, 0)).await, list(&all));
    put(s, vec![Write::ReplaceSlices(file, 0, 3, vec![slice(5, 5)])]).await;
    assert_eq!(get(s, Key::Chunk(file, 0)).await, list(&[slice(5, 5), slice(3, 0)]));

    let indices = |found: Vec<u32>| found.into_iter().collect::<BTreeSet<_>>();
    let found = s.list_chunks(file, 0..u32::MAX).await.expect("list_chunks");
    assert_eq!(indices(found), BTreeSet::from([0, 70_000]));
    let found = s.list_chunks(file, 1..70_000).await.expect("list_chunks");
    assert_eq!(indices(found), BTreeSet::new(), "the end of a range does not belong to it");
    put(s, vec![Write::DelChunk(file, 0), Write::DelChunk(file, 70_000)]).await;
    assert_eq!(get(s, Key::Chunk(file, 0)).await, None);
}

async fn symlinks_and_xattrs(s: &dyn Store) {
    let node = Ino(13);
    let (target, value) = (Bytes::from_static(b"../\xff/x"), Bytes::from_static(b"\x00\xff"));
    put(
        s,
        vec![
            Write::SetSymlink(node, target.clone()),
            Write::SetXattr(node, name("user.a"), value.clone()),
            Write::SetXattr(node, name("user.b"), Bytes::new()),
        ],
    )
    .await;
    assert_eq!(get(s, Key::Symlink(node)).await, Some(Record::Bytes(target)));
    assert_eq!(get(s, Key::Xattr(node, name("user.a"))).await, Some(Record::Bytes(value.clone())));
    assert_eq!(
        get(s, Key::Xattr(node, name("user.b"))).await,
        Some(Record::Bytes(Bytes::new())),
        "an empty value is a value"
    );
    put(s, vec![Write::SetXattr(node, name("user.b"), value.clone())]).await;
    assert_eq!(get(s, Key::Xattr(node, name("user.b"))).await, Some(Record::Bytes(value)), "replaced");
    let names: BTreeSet<Name> = s.list_xattrs(node).await.expect("list_xattrs").into_iter().collect();
    assert_eq!(names, BTreeSet::from([name("user.a"), name("user.b")]));
    put(s, vec![Write::DelXattr(node, name("user.a")), Write::DelSymlink(node)]).await;
    assert_eq!(get(s, Key::Xattr(node, name("user.a"))).await, None);
    assert_eq!(get(s, Key::Symlink(node)).await, None);
    put(s, vec![Write::DelXattrs(node)]).await;
    assert!(s.list_xattrs(node).await.expect("list_xattrs").is_empty());
}

async fn numbers(s: &dyn Store) {
    for counter in [Counter::UsedSpace, Counter::TotalInodes, Counter::NextTrash] {
        let value = move |txn: &mut Txn<'_>| txn.counter(counter);
        assert_eq!(within(s, value).await, 0, "{counter:?} starts at 0");
        put(s, vec![Write::AddCounter(counter, 1 << 40), Write::AddCounter(counter, -5)]).await;
        assert_eq!(within(s, value).await, (1 << 40) - 5);
        put(s, vec![Write::AddCounter(counter, 5 - (1 << 40))]).await;
        assert_eq!(within(s, value).await, 0);
    }
}

async fn usage(s: &dyn Store) {
    let dir = Ino(14);
    let delta = DirStat { length: 10, space: 4096, inodes: 1 };
    put(s, vec![Write::AddDirStat(dir, delta), Write::AddDirQuotaUsed(dir, 1, 1)]).await;
    assert_eq!(get(s, Key::DirStat(dir)).await, None, "nothing to add to");
    assert_eq!(get(s, Key::DirQuota(dir)).await, None, "nothing to add to");

    put(s, vec![Write::InitDirStat(dir), Write::AddDirStat(dir, delta)]).await;
    assert_eq!(get(s, Key::DirStat(dir)).await, Some(Record::DirStat(delta)));
    let back = DirStat { length: -10, space: 0, inodes: -1 };
    put(s, vec![Write::AddDirStat(dir, back)]).await;
    let left = DirStat { length: 0, space: 4096, inodes: 0 };
    assert_eq!(get(s, Key::DirStat(dir)).await, Some(Record::DirStat(left)));
    put(s, vec![Write::SetDirStat(dir, delta)]).await;
    assert_eq!(get(s, Key::DirStat(dir)).await, Some(Record::DirStat(delta)));

    let quota = Quota { max_space: 1 << 40, max_inodes: -1, used_space: 4096, used_inodes: 1 };
    put(s, vec![Write::SetDirQuota(dir, quota), Write::AddDirQuotaUsed(dir, 8192, -1)]).await;
    let used = Quota { used_space: 12288, used_inodes: 0, ..quota };
    assert_eq!(get(s, Key::DirQuota(dir)).await, Some(Record::Quota(used)));
    assert_eq!(s.list_quotas().await.expect("list_quotas"), [(dir, used)]);
    put(s, vec![Write::ClearDirStats]).await;
    assert_eq!(get(s, Key::DirStat(dir)).await, None);
    assert_eq!(get(s, Key::DirQuota(dir)).await, Some(Record::Quota(used)), "quotas are something else");
    put(s, vec![Write::SetDirStat(dir, delta), Write::DelDirStat(dir), Write::DelDirQuota(dir)]).await;
    assert_eq!(get(s, Key::DirStat(dir)).await, None);
    assert_eq!(get(s, Key::DirQuota(dir)).await, None);
    assert!(s.list_quotas().await.expect("list_quotas").is_empty());
}

async fn slice_references(s: &dyn Store) {
    let (id, size) = (SliceId(77), 12_345);
    let refs = move |txn: &mut Txn<'_>| txn.slice_refs(id, size);
    put(s, vec![Write::NewSlice(id, size)]).await;
    assert_eq!(within(s, refs).await, 1);
    put(s, vec![Write::AddSliceRef(id, size, 1)]).await;
    assert_eq!(within(s, refs).await, 2);
    put(s, vec![Write::AddSliceRef(id, size, -1)]).await;
    assert_eq!(within(s, refs).await, 1);
    assert!(s.list_unreferenced().await.expect("list_unreferenced").is_empty());
    put(s, vec![Write::AddSliceRef(id, size, -1)]).await;
    assert_eq!(within(s, refs).await, 0);
    assert_eq!(s.list_unreferenced().await.expect("list_unreferenced"), [(id, size)]);
    put(s, vec![Write::ForgetSlice(id, size)]).await;
    assert!(s.list_unreferenced().await.expect("list_unreferenced").is_empty());
}

async fn deleted_and_delayed(s: &dyn Store) {
    put(s, vec![Write::AddDeleted(Ino(15), 5, 100), Write::AddDeleted(Ino(16), 6, 200)]).await;
    assert_eq!(get(s, Key::Deleted(Ino(15), 5)).await, Some(Record::Present));
    assert_eq!(s.list_deleted(99, 10).await.expect("list_deleted"), []);
    assert_eq!(s.list_deleted(100, 10).await.expect("list_deleted"), [(Ino(15), 5)]);
    assert_eq!(s.list_deleted(200, 10).await.expect("list_deleted").len(), 2);
    assert_eq!(s.list_deleted(200, 1).await.expect("list_deleted").len(), 1);
    put(s, vec![Write::DelDeleted(Ino(15), 5), Write::DelDeleted(Ino(16), 6)]).await;
    assert_eq!(get(s, Key::Deleted(Ino(15), 5)).await, None);

    let old = vec![(SliceId(1), 10), (SliceId(2), 20)];
    put(s, vec![Write::AddDelayedSlices(SliceId(3), 100, old.clone())]).await;
    assert_eq!(s.list_delayed(100).await.expect("list_delayed"), []);
    assert_eq!(s.list_delayed(101).await.expect("list_delayed"), [(SliceId(3), 100, old)]);
    put(s, vec![Write::DelDelayedSlices(SliceId(3), 100)]).await;
    assert_eq!(s.list_delayed(101).await.expect("list_delayed"), []);
}

async fn sessions(s: &dyn Store) {
    let (sid, json) = (SessionId(7), Bytes::from_static(b"{\"HostName\":\"h\"}"));
    let listed = |found: Vec<crate::store::SessionRecord>| -> Vec<(u64, i64, Bytes)> {
        found.into_iter().map(|session| (session.sid.0, session.expire, session.info)).collect()
    };
    put(
        s,
        vec![
            Write::PutSession(sid, 1000, json.clone()),
            Write::AddSustained(sid, Ino(17)),
            Write::AddSustained(sid, Ino(18)),
        ],
    )
    .await;
    assert_eq!(get(s, Key::Session(sid)).await, Some(Record::Bytes(json.clone())));
    assert_eq!(get(s, Key::Sustained(sid, Ino(17))).await, Some(Record::Present));
    put(s, vec![Write::TouchSession(sid, 2000, json.clone())]).await;
    let found = s.list_sessions().await.expect("list_sessions");
    assert_eq!(listed(found), [(7, 2000, json.clone())]);

    put(s, vec![Write::DelSustained(sid, Ino(18))]).await;
    assert_eq!(s.list_sustained(sid).await.expect("list_sustained"), [Ino(17)]);
    s.clean_session(sid).await.expect("clean_session");
    assert!(s.list_sessions().await.expect("list_sessions").is_empty());
    assert_eq!(s.list_sustained(sid).await.expect("list_sustained"), [Ino(17)], "sustained inodes are the caller's");
    put(s, vec![Write::DelSustained(sid, Ino(17)), Write::TouchSession(sid, 3000, json.clone())]).await;
    let found = s.list_sessions().await.expect("list_sessions");
    assert_eq!(listed(found), [(7, 3000, json)], "a removed session comes back");
    put(s, vec![Write::DelSession(sid)]).await;
    assert!(s.list_sessions().await.expect("list_sessions").is_empty());
    assert_eq!(get(s, Key::Session(sid)).await, None);
}

async fn jobs(s: &dyn Store) {
    let now = 1_700_000_000;
    let claim = |now| s.claim_job(Job::CleanupTrash, now, 3240);
    assert!(claim(now).await.expect("claim"), "never run");
    assert!(!claim(now + 3239).await.expect("claim"), "too early");
    assert!(claim(now + 3240).await.expect("claim"), "exactly a period later");
    let other = s.claim_job(Job::CleanupFiles, now, 3240).await.expect("claim");
    assert!(other, "jobs are apart");
}

async fn a_failing_body_writes_nothing(s: &dyn Store) {
    let failed = transact::<(), _>(s, TxOptions::default(), |txn| {
        txn.write(Write::SetAttr(Ino(21), attr(NodeType::File, 0)));
        txn.attr(Ino(22))?;
        txn.write(Write::AddCounter(Counter::UsedSpace, 4096));
        Err(Error::NoInode { ino: Ino(22) }.into())
    })
    .await;
    assert!(matches!(failed, Err(Error::NoInode { ino: Ino(22) })), "{failed:?}");
    assert_eq!(get(s, Key::Attr(Ino(21))).await, None);
    assert_eq!(within(s, |txn| txn.counter(Counter::UsedSpace)).await, 0);
}

async fn a_body_sees_the_state_before_it(s: &dyn Store) {
    let (ino, runs) = (Ino(23), Arc::new(AtomicU32::new(0)));
    let counted = Arc::clone(&runs);
    let seen = transact(s, TxOptions { durable: true }, move |txn| {
        counted.fetch_add(1, Ordering::Relaxed);
        txn.prime(&[Key::Attr(ino), Key::Entry(ino, name("n")), Key::Counter(Counter::UsedSpace)])?;
        txn.write(Write::SetAttr(ino, attr(NodeType::File, 1)));
        txn.write(Write::SetAttr(ino, attr(NodeType::File, 2)));
        txn.attr(ino)
    })
    .await
    .expect("commits");
    assert_eq!(seen, None, "own writes are not read");
    assert!(runs.load(Ordering::Relaxed) <= 3, "prime brings everything at once");
    assert_eq!(
        get(s, Key::Attr(ino)).await,
        Some(Record::Attr(attr(NodeType::File, 2))),
        "in order, and the writes of a run that stopped are forgotten"
    );
    put(s, vec![Write::DelAttr(ino)]).await;
}

async fn read_keeps_the_order(s: &dyn Store) {
    put(s, vec![Write::SetAttr(Ino(24), attr(NodeType::File, 24)), Write::SetAttr(Ino(25), attr(NodeType::File, 25))])
        .await;
    let keys = [Ino(25), Ino(99), Ino(24), Ino(25)].map(Key::Attr);
    let lengths: Vec<Option<u64>> = s
        .read(&keys)
        .await
        .expect("read")
        .into_iter()
        .map(|record| match record {
            Some(Record::Attr(attr)) => Some(attr.length),
            _ => None,
        })
        .collect();
    assert_eq!(lengths, [Some(25), None, Some(24), Some(25)]);
    assert!(s.read(&[]).await.expect("read nothing").is_empty());
    put(s, vec![Write::DelAttr(Ino(24)), Write::DelAttr(Ino(25))]).await;
}

async fn a_settings_change_is_seen(s: &dyn Store) {
    for json in [b"{\"a\":1}".as_slice(), b"{\"a\":2}"] {
        let json = Bytes::copy_from_slice(json);
        put(s, vec![Write::SetSetting(json.clone())]).await;
        assert_eq!(get(s, Key::Setting).await, Some(Record::Bytes(json)));
    }
}
