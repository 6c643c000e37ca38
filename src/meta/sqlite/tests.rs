use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::future::join_all;
use stead_base::{SystemClock, Timestamp};
use tempfile::TempDir;

use super::*;
use crate::contract;
use crate::damage::{self, Damage};
use crate::records::{DirStat, NodeType, Slice, Write};
use crate::store::transact;

/// The schema of a file that the Go client 1.4.2 made.
const GO_SCHEMA: &str = include_str!("testdata/go_schema.json");
/// Rows that the Go client 1.4.2 wrote.
const GO_VOLUME: &str = include_str!("testdata/go_volume.sql");

fn options() -> ConnectOptions {
    ConnectOptions { create: true, ..ConnectOptions::new(Arc::new(SystemClock)) }
}

fn file(dir: &TempDir) -> PathBuf {
    dir.path().join("meta.db")
}

async fn open(dir: &TempDir) -> SqliteStore {
    SqliteStore::open(&file(dir), &options()).await.unwrap()
}

async fn fresh() -> (TempDir, SqliteStore) {
    let dir = TempDir::new().unwrap();
    let store = open(&dir).await;
    store.initialize().await.unwrap();
    (dir, store)
}

/// A store on the rows of the Go client.
async fn go_volume() -> (TempDir, SqliteStore) {
    let (dir, store) = fresh().await;
    let connection = Connection::open(file(&dir)).unwrap();
    connection.execute_batch("DELETE FROM jfs_counter").unwrap();
    connection.execute_batch(GO_VOLUME).unwrap();
    (dir, store)
}

async fn one(store: &SqliteStore, key: Key) -> Option<Record> {
    store.read(&[key]).await.unwrap().remove(0)
}

async fn put(store: &dyn Store, writes: Vec<Write>) -> Result<()> {
    commit(store, TxOptions::default(), writes).await
}

async fn commit(store: &dyn Store, options: TxOptions, writes: Vec<Write>) -> Result<()> {
    transact(store, options, move |txn| {
        writes.iter().cloned().for_each(|write| txn.write(write));
        Ok(())
    })
    .await
}

async fn add_one(store: &dyn Store) -> Result<()> {
    put(store, vec![Write::AddCounter(Counter::UsedSpace, 1)]).await
}

async fn used_space(store: &SqliteStore) -> Option<Record> {
    one(store, Key::Counter(Counter::UsedSpace)).await
}

fn name(text: &str) -> Name {
    Name::entry(text.as_bytes()).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn keeps_the_contract_of_a_store() {
    let dir = TempDir::new().unwrap();
    contract::check(Arc::new(open(&dir).await)).await;
}

#[tokio::test]
async fn the_tables_are_those_of_the_go_client() {
    let (dir, _store) = fresh().await;
    let connection = Connection::open(file(&dir)).unwrap();
    let mut statement =
        connection.prepare("SELECT type, name, tbl_name, sql FROM sqlite_master ORDER BY type, name").unwrap();
    let ours: Vec<serde_json::Value> = statement
        .query_map([], |row| {
            let texts: [Option<String>; 4] = [row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?];
            Ok(serde_json::json!(texts))
        })
        .unwrap()
        .map(rusqlite::Result::unwrap)
        .collect();
    let theirs: Vec<serde_json::Value> = serde_json::from_str(GO_SCHEMA).unwrap();
    assert_eq!(ours, theirs);
}

#[tokio::test]
async fn a_new_file_has_the_counters_of_the_go_client_and_keeps_them() {
    let (_dir, store) = fresh().await;
    assert_eq!(one(&store, Key::Counter(Counter::NextInode)).await, Some(Record::Number(2)));
    assert_eq!(one(&store, Key::Counter(Counter::NextTrash)).await, None);
    assert_eq!(store.allocate(Counter::NextInode, 1024).await.unwrap(), 2);
    assert_eq!(store.allocate(Counter::NextChunk, 4096).await.unwrap(), 1);
    assert_eq!(store.allocate(Counter::NextSession, 1).await.unwrap(), 1);
    store.initialize().await.unwrap();
    assert_eq!(one(&store, Key::Counter(Counter::NextInode)).await, Some(Record::Number(1026)));
    assert_eq!(one(&store, Key::Counter(Counter::NextChunk)).await, Some(Record::Number(4097)));
    assert_eq!(one(&store, Key::Counter(Counter::NextSession)).await, Some(Record::Number(1)));
}

#[tokio::test]
async fn what_the_go_client_wrote_is_read() {
    let (_dir, store) = go_volume().await;
    let (entry, attr) = store.lookup(Ino(2), &name("f")).await.unwrap().unwrap();
    let attr = attr.unwrap();
    assert_eq!((entry.ino, attr.kind, attr.nlink, attr.length), (Ino(3), NodeType::File, 3, 6));
    assert_eq!(attr.atime, Timestamp { secs: 1_795_273_066, nanos: 149_433_991 });
    let parents = Record::Parents([(Ino(1), 1), (Ino(2), 2)].into());
    assert_eq!(one(&store, Key::Parents(Ino(3))).await, Some(parents));
    let slice = |pos, id, len| Slice { pos, id: SliceId(id), size: len, off: 0, len };
    let overlapping = Record::Slices(vec![slice(0, 2, 3000), slice(500, 3, 10)]);
    assert_eq!(one(&store, Key::Chunk(Ino(7), 0)).await, Some(overlapping));
    assert_eq!(store.list_chunks(Ino(6), 0..9).await.unwrap(), [0, 1]);
    let blue = Record::Bytes(Bytes::from_static(b"blue"));
    assert_eq!(one(&store, Key::Xattr(Ino(3), name("user.color"))).await, Some(blue));
    assert_eq!(store.list_xattrs(Ino(3)).await.unwrap(), [name("user.color")]);
    let target = Record::Bytes(Bytes::from_static(b"d/f"));
    assert_eq!(one(&store, Key::Symlink(Ino(4))).await, Some(target));
    let stat = DirStat { length: 12, space: 8192, inodes: 2 };
    assert_eq!(one(&store, Key::DirStat(Ino(2))).await, Some(Record::DirStat(stat)));
    let quota = Quota { max_space: 1 << 30, max_inodes: 100, used_space: 8192, used_inodes: 2 };
    assert_eq!(store.list_quotas().await.unwrap(), [(Ino(2), quota)]);
    assert_eq!(used_space(&store).await, Some(Record::Number(100_036_608)));
    assert_eq!(one(&store, Key::SliceRef(SliceId(2), 3000)).await, Some(Record::Number(1)));
    let Some(Record::Bytes(setting)) = one(&store, Key::Setting).await else { panic!("there is a setting") };
    assert_eq!(crate::format::Format::parse(&setting).unwrap().encode(), setting);
}

/// All rows of a table, with the storage class of each value.
fn dump(dir: &TempDir, table: &str) -> Vec<Vec<rusqlite::types::Value>> {
    let connection = Connection::open(file(dir)).unwrap();
    let mut statement = connection.prepare(&format!("SELECT * FROM {table} ORDER BY 1")).unwrap();
    let columns = statement.column_count();
    let rows = statement.query_map([], |row| (0..columns).map(|at| row.get(at)).collect()).unwrap();
    rows.map(rusqlite::Result::unwrap).collect()
}

#[tokio::test]
async fn rows_are_written_as_the_go_client_does() {
    let (dir, store) = go_volume().await;
    let before: Vec<_> = ["jfs_node", "jfs_symlink", "jfs_setting", "jfs_dir_stats", "jfs_dir_quota"]
        .map(|table| (table, dump(&dir, table)))
        .into();
    let inodes = [1, 2, 3, 4, 5, 6, 7, 8, 9, Ino::TRASH.0, Ino::TRASH.0 + 1].map(Ino);
    for ino in inodes {
        let Some(Record::Attr(attr)) = one(&store, Key::Attr(ino)).await else { panic!("inode {ino} is there") };
        put(&store, vec![Write::DelAttr(ino), Write::SetAttr(ino, attr)]).await.unwrap();
    }
    let Some(Record::Bytes(target)) = one(&store, Key::Symlink(Ino(4))).await else { panic!("sym is there") };
    let Some(Record::Bytes(setting)) = one(&store, Key::Setting).await else { panic!("there is a setting") };
    let Some(Record::DirStat(stat)) = one(&store, Key::DirStat(Ino(2))).await else { panic!("d has statistics") };
    let Some(Record::Quota(quota)) = one(&store, Key::DirQuota(Ino(2))).await else { panic!("d has a quota") };
    let again = vec![
        Write::DelSymlink(Ino(4)),
        Write::SetSymlink(Ino(4), target),
        Write::SetSetting(setting),
        Write::DelDirStat(Ino(2)),
        Write::SetDirStat(Ino(2), stat),
        Write::DelDirQuota(Ino(2)),
        Write::SetDirQuota(Ino(2), quota),
    ];
    put(&store, again).await.unwrap();
    for (table, rows) in before {
        assert_eq!(dump(&dir, table), rows, "{table}");
    }
}

#[tokio::test]
async fn appended_slices_stay_bytes() {
    let (dir, store) = go_volume().await;
    let slice = Slice { pos: 1, id: SliceId(9), size: 2, off: 0, len: 2 };
    for ino in [Ino(7), Ino(8)] {
        put(&store, vec![Write::AppendSlices(ino, 0, vec![slice])]).await.unwrap();
    }
    put(&store, vec![Write::AppendSlicesIfExists(Ino(8), 0, slice)]).await.unwrap();
    let Some(Record::Slices(slices)) = one(&store, Key::Chunk(Ino(7), 0)).await else { panic!("slices are there") };
    assert_eq!((slices.len(), slices[2]), (3, slice));
    let blobs = dump(&dir, "jfs_chunk").iter().filter(|row| matches!(row[3], rusqlite::types::Value::Blob(_))).count();
    assert_eq!(blobs, 5, "also the one that was text");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn two_stores_on_one_file_lose_no_increment() {
    let (dir, first) = fresh().await;
    let stores = [Arc::new(first), Arc::new(open(&dir).await)];
    let tasks: Vec<_> = (0..16)
        .map(|n| {
            let store = Arc::clone(&stores[n % 2]);
            tokio::spawn(async move {
                for _round in 0..100 {
                    add_one(store.as_ref()).await.unwrap();
                }
                store.allocate(Counter::NextChunk, 10).await.unwrap()
            })
        })
        .collect();
    let mut firsts: Vec<u64> = join_all(tasks).await.into_iter().map(|task| task.unwrap()).collect();
    firsts.sort_unstable();
    assert_eq!(firsts, (0..16).map(|n| 1 + n * 10).collect::<Vec<_>>());
    for store in &stores {
        assert_eq!(used_space(store).await, Some(Record::Number(1600)));
    }
}

#[tokio::test]
async fn a_work_that_fails_half_way_takes_nobody_with_it() {
    for durable in [false, true] {
        let (_dir, store) = fresh().await;
        let add = Write::AddCounter(Counter::UsedSpace, 1);
        // Durable ones go to the thread, which takes those together that came while it synced.
        let outcomes = join_all((0..20).map(|n| {
            let mut writes = vec![add.clone()];
            if n % 5 == 0 {
                writes.push(Write::ReplaceSlices(Ino(5), 0, 1, vec![]));
            }
            commit(&store, TxOptions { durable }, writes)
        }))
        .await;
        let failed: Vec<usize> = (0..20).filter(|n| outcomes[*n].is_err()).collect();
        assert_eq!(failed, [0, 5, 10, 15]);
        assert!(matches!(outcomes[5], Err(Error::Corrupt { .. })), "{:?}", outcomes[5]);
        assert_eq!(used_space(&store).await, Some(Record::Number(16)));
    }
}

#[tokio::test]
async fn a_panicking_body_is_an_error_and_the_writer_lives_on() {
    for durable in [false, true] {
        let (_dir, store) = fresh().await;
        let options = TxOptions { durable };
        let panics = transact::<(), _>(&store, options, |txn| {
            txn.write(Write::AddCounter(Counter::UsedSpace, 1));
            panic!("as a test")
        });
        let fine = commit(&store, options, vec![Write::AddCounter(Counter::UsedSpace, 1)]);
        let (panicked, fine) = tokio::join!(panics, fine);
        assert!(panicked.unwrap_err().to_string().contains("panicked"));
        fine.unwrap();
        assert_eq!(used_space(&store).await, Some(Record::Number(1)));
    }
}

#[tokio::test]
async fn the_log_is_copied_into_the_database_before_it_grows_large() {
    let (dir, store) = fresh().await;
    let log = dir.path().join("meta.db-wal");
    for n in 0..12_000 {
        put(&store, vec![Write::SetSymlink(Ino(n % 100 + 2), Bytes::from(vec![7; 3000]))]).await.unwrap();
    }
    store.sync().await.unwrap();
    let megabytes = std::fs::metadata(log).unwrap().len() >> 20;
    assert!(megabytes < 48, "12,000 rows of 3000 bytes left {megabytes} MiB of log");
    assert!(std::fs::metadata(file(&dir)).unwrap().len() > 300_000, "the rows are in the database");
}

#[tokio::test]
async fn a_sync_writes_to_the_log_only_when_commits_wait_for_it() {
    let (dir, store) = fresh().await;
    let log_size = || std::fs::metadata(dir.path().join("meta.db-wal")).unwrap().len();
    let grows = async || {
        let before = log_size();
        store.sync().await.unwrap();
        log_size() > before
    };
    store.sync().await.unwrap();
    assert!(!grows().await, "nothing was committed");
    add_one(&store).await.unwrap();
    assert!(grows().await, "our own commit");
    assert!(!grows().await);
    add_one(&open(&dir).await).await.unwrap();
    assert!(grows().await, "the commit of another process");
    assert!(!grows().await);
}

#[tokio::test]
async fn a_locked_file_is_waited_for_but_not_for_ever() {
    let (dir, patient) = fresh().await;
    let short = ConnectOptions { retry_for: Duration::from_millis(30), ..options() };
    let hasty = SqliteStore::open(&file(&dir), &short).await.unwrap();
    let other = Connection::open(file(&dir)).unwrap();
    other.execute_batch("BEGIN IMMEDIATE").unwrap();
    let gave_up = add_one(&hasty).await.unwrap_err();
    assert!(matches!(&gave_up, Error::Unavailable { why, .. } if why.contains("locked")), "{gave_up}");
    assert_eq!(used_space(&hasty).await, Some(Record::Number(0)), "reading goes on");
    let release = async {
        tokio::time::sleep(Duration::from_millis(100)).await;
        other.execute_batch("COMMIT").unwrap();
    };
    let (added, ()) = tokio::join!(add_one(&patient), release);
    added.unwrap();
    assert_eq!(used_space(&patient).await, Some(Record::Number(1)));
}

#[tokio::test]
async fn a_row_that_does_not_decode_is_named() {
    let (dir, store) = go_volume().await;
    let other = Connection::open(file(&dir)).unwrap();
    other
        .execute_batch(
            "UPDATE jfs_node SET type = 9 WHERE inode = 3; UPDATE jfs_node SET mode = -1 WHERE inode = 5; \
             UPDATE jfs_chunk SET slices = X'00' WHERE inode = 7; UPDATE jfs_node SET length = 'x' WHERE inode = 6",
        )
        .unwrap();
    for (key, text) in [
        (Key::Attr(Ino(3)), "corrupt record attributes of inode 3: node type 9"),
        (Key::Attr(Ino(5)), "corrupt record attributes of inode 5: column mode holds -1"),
        (Key::Attr(Ino(6)), "corrupt record attributes of inode 6: column length holds no integer"),
        (Key::Chunk(Ino(7), 0), "corrupt record Chunk(Ino(7), 0): 1 bytes, expected a multiple of 24"),
    ] {
        let error = store.read(std::slice::from_ref(&key)).await.unwrap_err().to_string();
        assert!(error.starts_with(text), "{error}");
        let inside = transact(&store, TxOptions::default(), move |txn| txn.get(&key)).await.unwrap_err();
        assert!(matches!(inside, Error::Corrupt { .. }), "{inside}");
    }
    assert!(one(&store, Key::Attr(Ino(4))).await.is_some(), "others are not touched by it");
}

#[tokio::test]
async fn a_file_that_cannot_be_used_is_named() {
    let dir = TempDir::new().unwrap();
    let no_create = ConnectOptions { create: false, ..options() };
    let why = async |path: &Path, options: &ConnectOptions| {
        SqliteStore::open(path, options).await.map(drop).unwrap_err().to_string()
    };
    let missing = why(&file(&dir), &no_create).await;
    assert!(missing.ends_with("meta.db: no such file"), "{missing}");
    let nowhere = why(&dir.path().join("no/meta.db"), &options()).await;
    assert!(nowhere.ends_with("the directory of the file does not exist"), "{nowhere}");
    let directory = why(dir.path(), &options()).await;
    assert!(directory.ends_with("not a file"), "{directory}");
    std::fs::write(file(&dir), [7; 5000]).unwrap();
    let garbage = why(&file(&dir), &options()).await;
    assert!(garbage.contains("meta.db: file is not a database"), "{garbage}");
}

#[tokio::test]
async fn a_file_without_tables_holds_no_records() {
    let dir = TempDir::new().unwrap();
    let store = open(&dir).await;
    assert_eq!(one(&store, Key::Setting).await, None);
    assert!(matches!(add_one(&store).await, Err(Error::NotFormatted { .. })));
}

#[tokio::test]
async fn a_file_of_an_older_client_gets_the_columns_it_lacks() {
    let (dir, store) = go_volume().await;
    drop(store);
    let other = Connection::open(file(&dir)).unwrap();
    let older = "ALTER TABLE jfs_node DROP COLUMN tier_id; DROP TABLE jfs_dir_stats";
    other.execute_batch(older).unwrap();
    let store = open(&dir).await;
    let Some(Record::Attr(attr)) = one(&store, Key::Attr(Ino(3))).await else { panic!("inode 3 is there") };
    assert_eq!(attr.tier, 0);
    put(&store, vec![Write::InitDirStat(Ino(2))]).await.unwrap();
}

#[test]
fn faults_of_the_engine_become_errors_of_their_kind() {
    let explained = |code: i32| {
        let error = rusqlite::Error::SqliteFailure(rusqlite::ffi::Error::new(code), None);
        Fault::Sql(error).explain("sqlite3://x.db")
    };
    use rusqlite::ffi::{SQLITE_BUSY, SQLITE_CORRUPT, SQLITE_FULL, SQLITE_PERM, SQLITE_READONLY};
    assert!(matches!(explained(SQLITE_FULL), Error::EngineFull { .. }));
    assert!(matches!(explained(SQLITE_READONLY), Error::Denied { .. }));
    assert!(matches!(explained(SQLITE_PERM), Error::Denied { .. }));
    assert!(matches!(explained(SQLITE_BUSY), Error::Unavailable { .. }));
    let corrupt = explained(SQLITE_CORRUPT);
    assert!(matches!(&corrupt, Error::Engine { engine, .. } if engine == "sqlite3://x.db"), "{corrupt}");
}

#[test]
fn times_come_back_to_the_nanosecond() {
    for (time, stored) in [
        (Timestamp { secs: 1, nanos: 123_456_789 }, (1_123_456, 789)),
        (Timestamp { secs: -1, nanos: 999_999_999 }, (-1, 999)),
        (Timestamp { secs: -2, nanos: 250_000_000 }, (-1_750_000, 0)),
    ] {
        assert_eq!(rows::split_time(time), stored);
    }
}

#[tokio::test]
async fn a_damaged_record_is_an_error_of_its_object_only() {
    let (dir, store) = fresh().await;
    let spoil = async |damage: Damage| {
        let sql = match damage {
            Damage::ShortAttr(ino) => format!("UPDATE jfs_node SET mode = 'x' WHERE inode = {ino}"),
            Damage::UnknownType(ino) => format!("UPDATE jfs_node SET type = 15 WHERE inode = {ino}"),
            Damage::NoAttr(ino) => format!("DELETE FROM jfs_node WHERE inode = {ino}"),
            Damage::OddSlices(ino) => format!("UPDATE jfs_chunk SET slices = slices || 'odd' WHERE inode = {ino}"),
            Damage::Entry(dir, name) => {
                format!("UPDATE jfs_edge SET type = -1 WHERE parent = {dir} AND name = CAST('{name}' AS BLOB)")
            }
        };
        assert_eq!(Connection::open(file(&dir)).unwrap().execute(&sql, []).unwrap(), 1, "{sql}");
    };
    damage::only_the_object_suffers(Arc::new(store), spoil).await;
}

#[tokio::test]
async fn numbers_of_access_lists_are_those_of_the_go_client() {
    let (dir, store) = fresh().await;
    let insert = "INSERT INTO jfs_acl (owner, `group`, mask, other, named_users, named_groups) \
                  VALUES (6, 4, 6, 4, X'000003E80006', X'')";
    let theirs = Connection::open(file(&dir)).unwrap();
    theirs.execute(insert, []).unwrap();
    assert_eq!(store.allocate(Counter::AclMaxId, 1).await.unwrap(), 2, "SQLite gave them 1");
    let rule = AclRule { owner: 6, group: 4, mask: 6, other: 4, users: vec![(1000, 6)], groups: vec![] };
    assert_eq!(one(&store, Key::Acl(1)).await, Some(Record::Acl(rule.clone())));
    put(&store, vec![Write::SetAcl(2, rule)]).await.unwrap();
    theirs.execute(insert, []).unwrap();
    assert_eq!(theirs.last_insert_rowid(), 3);
    let rows: i64 = theirs.query_row("SELECT count(DISTINCT hex(named_users)) FROM jfs_acl", [], |r| r.get(0)).unwrap();
    assert_eq!(rows, 1, "the same bytes");
}
