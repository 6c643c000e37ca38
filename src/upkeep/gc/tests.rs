//! What is leaked goes; a record that does not decode saves everything that it might name.

use stead_base::{Clock, ManualClock};
use stead_meta::url::{ConnectOptions, MetaUrl, connect};
use stead_object::memory::MemoryStore as Objects;

use super::*;
use crate::progress::Quiet;

const SAMPLE: &str = include_str!("../load/sample.json");
/// A block that no record names.
const LEAKED: &str = "chunks/0/0/77_0_3";

struct Volume {
    opened: Opened,
    objects: Arc<dyn ObjectStore>,
    dir: tempfile::TempDir,
}

impl Volume {
    async fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let clock: Arc<dyn Clock> = Arc::new(ManualClock::new(Timestamp::from_secs(1_800_000_000)));
        let url: MetaUrl = format!("sqlite3://{}/m.db", dir.path().display()).parse().unwrap();
        let options = ConnectOptions { create: true, ..ConnectOptions::new(Arc::clone(&clock)) };
        let store = connect(&url, &options).await.unwrap();
        crate::load::load(&store, Box::new(SAMPLE.as_bytes()), &clock, &Quiet).await.unwrap();
        let format = Meta::load_format(&*store).await.unwrap();
        let opened = Opened { store, format, clock, passphrase: None };
        let written = ManualClock::new(Timestamp::from_secs(1_795_000_000));
        let objects: Arc<dyn ObjectStore> = Arc::new(Objects::with_clock(Arc::new(written)));
        let naming = blocks::naming(&opened.format);
        let meta = opened.meta(true).await.unwrap();
        for (id, slice) in blocks::slices(&meta, &*Quiet.part("", Unit::Items, None)).await.unwrap().named {
            for block in naming.blocks(id, slice.size) {
                objects.put(&naming.key(block), vec![0; block.len as usize].into()).await.unwrap();
            }
        }
        objects.put(LEAKED, b"old"[..].into()).await.unwrap();
        Self { opened, objects, dir }
    }

    /// Changes a record behind the engine's back.
    fn spoil(&self, sql: &str) {
        let connection = rusqlite::Connection::open(self.dir.path().join("m.db")).unwrap();
        connection.execute_batch(sql).unwrap();
    }

    async fn keys(&self) -> Vec<String> {
        let found = self.objects.list("", "", 1000).await.unwrap();
        found.into_iter().map(|object| object.key).collect()
    }

    async fn collect(&self) -> Result<Collected> {
        let options = Options { delete: true, threads: 2, skip_younger: Duration::ZERO };
        collect(&self.opened, &self.objects, &options, &Quiet).await
    }
}

#[tokio::test]
async fn what_nobody_names_goes_and_nothing_else() {
    let volume = Volume::new().await;
    let before = volume.keys().await;
    let report = volume.collect().await.unwrap();
    assert!(report.is_clean(), "{report:?}");
    assert_eq!((report.valid.count, report.removed.count, report.removed_records), (5, 1, 0), "{report:?}");
    let after = volume.keys().await;
    assert_eq!(before.into_iter().filter(|key| key != LEAKED).collect::<Vec<_>>(), after);
}

/// Records of each kind through which a slice is reached.
#[tokio::test]
async fn nothing_goes_while_a_record_cannot_be_read() {
    for (spoil, named) in [
        ("UPDATE jfs_chunk SET slices = x'00' WHERE inode = 11", "Chunk(Ino(11), 0)"),
        ("UPDATE jfs_edge SET inode = 'x' WHERE parent = 1 AND inode = 11", "directory 1"),
        ("UPDATE jfs_edge SET type = 99 WHERE parent = 3 AND inode = 6", "directory 3"),
        ("UPDATE jfs_node SET type = 99 WHERE inode = 11", "inode 11"),
        ("UPDATE jfs_node SET type = 99 WHERE inode = 3", "inode 3"),
        ("UPDATE jfs_chunk_ref SET refs = 'x' WHERE chunkid = 2", "slice 2"),
        ("INSERT INTO jfs_delslices (chunkid, deleted, slices) VALUES (9, 1700000000, x'00')", "replaced by 9"),
    ] {
        let volume = Volume::new().await;
        // Deleted long ago: its blocks would go.
        volume.spoil("INSERT INTO jfs_delfile (inode, length, expire) VALUES (11, 2, 1700000000)");
        volume.spoil(spoil);
        let before = volume.keys().await;
        let told = match volume.collect().await {
            Ok(report) => {
                assert!(!report.is_clean() && report.removed_records == 0, "{spoil}: {report:?}");
                assert_eq!(report.corrupt.len(), 1, "{spoil}: {report:?}");
                report.corrupt[0].clone()
            }
            Err(error) => error.to_string(),
        };
        assert!(told.contains("corrupt record") && told.contains(named), "{spoil}: {told}");
        assert_eq!(volume.keys().await, before, "{spoil}");
    }
}
