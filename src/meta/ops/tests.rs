//! Tests of the operations against stores in memory: one per rule, and random sequences against a model.

mod acl;
mod audit;
mod clone;
mod compact;
mod copy;
mod create;
mod data;
mod flush;
mod jobs;
mod leaks;
mod locks;
mod owner_quota;
mod quota;
mod random;
mod remove;
mod rename;
mod restore;
mod setattr;
mod slices;
mod tmpfile;
mod tree;
mod trips;
mod volume;

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use parking_lot::Mutex;
use stead_base::{Clock, Ino, ManualClock, SliceId, Timestamp};

use super::*;
use crate::memory::MemoryStore;
use crate::records::{Attr, Name, NodeType, Slice};

const ROOT: Ino = Ino::ROOT;
/// 2026-01-02 03:04:05 UTC.
const START: i64 = 1_767_323_045;

fn user(uid: u32) -> Caller {
    Caller { groups: Some(Vec::new()), ..Caller::new(uid, uid, 1) }
}

fn root() -> Caller {
    Caller::root()
}

/// Notes the slices whose blocks are gone.
#[derive(Debug, Default)]
struct Removed {
    slices: Mutex<Vec<(SliceId, u32)>>,
    /// How many went with each call.
    together: Mutex<Vec<usize>>,
    fails: std::sync::atomic::AtomicBool,
    /// One that cannot be removed.
    stuck: Mutex<Option<SliceId>>,
}

#[async_trait]
impl SliceRemover for Removed {
    async fn remove_slices(&self, slices: &[(SliceId, u32)]) -> std::result::Result<(), String> {
        if self.fails.load(Ordering::Relaxed) {
            return Err("the object store is away".to_owned());
        }
        let stuck = *self.stuck.lock();
        if slices.iter().any(|(id, _size)| Some(*id) == stuck) {
            return Err("some objects cannot be removed".to_owned());
        }
        self.slices.lock().extend(slices);
        self.together.lock().push(slices.len());
        Ok(())
    }
}

/// A volume in memory with one client.
struct Volume {
    meta: Arc<Meta>,
    store: Arc<MemoryStore>,
    clock: Arc<ManualClock>,
    removed: Arc<Removed>,
}

impl std::ops::Deref for Volume {
    type Target = Meta;

    fn deref(&self) -> &Meta {
        &self.meta
    }
}

/// How a test's volume differs from the usual one.
struct Setup {
    store: MemoryStore,
    trash_days: u32,
    capacity: u64,
    inodes: u64,
    enable_xattr: bool,
    enable_acl: bool,
    user_group_quota: bool,
}

impl Default for Setup {
    fn default() -> Self {
        Self {
            store: MemoryStore::new(),
            trash_days: 0,
            capacity: 0,
            inodes: 0,
            enable_xattr: true,
            enable_acl: false,
            user_group_quota: false,
        }
    }
}

impl Setup {
    async fn volume(self) -> Volume {
        let clock = Arc::new(ManualClock::new(Timestamp::from_secs(START)));
        let mut format = Format::new("test-volume", "file", "/data/");
        format.trash_days = self.trash_days;
        format.capacity = self.capacity;
        format.inodes = self.inodes;
        format.enable_acl = self.enable_acl;
        format.user_group_quota = self.user_group_quota;
        let store = Arc::new(self.store);
        Meta::write_format(store.as_ref(), &format, clock.as_ref()).await.expect("formats");
        let options = MetaOptions { enable_xattr: self.enable_xattr, ..options(&clock) };
        let volume = Volume::open(store, clock, options).await;
        volume.start_session().await.expect("starts");
        volume
    }
}

fn options(clock: &Arc<ManualClock>) -> MetaOptions {
    MetaOptions { skip_dir_mtime: Duration::ZERO, clock: Arc::clone(clock) as Arc<dyn Clock>, ..MetaOptions::default() }
}

impl Volume {
    async fn plain() -> Self {
        Setup::default().volume().await
    }

    async fn with_trash() -> Self {
        Setup { trash_days: 1, ..Setup::default() }.volume().await
    }

    async fn open(store: Arc<MemoryStore>, clock: Arc<ManualClock>, options: MetaOptions) -> Self {
        let format = Meta::load_format(store.as_ref()).await.expect("formatted");
        let engine: Arc<dyn Store> = Arc::clone(&store) as Arc<dyn Store>;
        let meta = Meta::new(engine, format, options).await.expect("opens");
        let removed = Arc::new(Removed::default());
        meta.set_slice_remover(Arc::clone(&removed) as Arc<dyn SliceRemover>);
        Self { meta, store, clock, removed }
    }

    /// A second client of the same volume.
    async fn second(&self) -> Self {
        let options = MetaOptions { enable_xattr: true, ..options(&self.clock) };
        Self::open(Arc::clone(&self.store), Arc::clone(&self.clock), options).await
    }

    async fn dir(&self, parent: Ino, name: &str) -> Ino {
        self.mkdir(&root(), parent, name.as_bytes(), 0o755, 0).await.expect("mkdir").0
    }

    async fn file(&self, parent: Ino, name: &str) -> Ino {
        self.mknod(&root(), parent, name.as_bytes(), NewNode::file(0o644, 0)).await.expect("mknod").0
    }

    /// A file with one slice of `length` bytes.
    async fn filled(&self, parent: Ino, name: &str, length: u32) -> Ino {
        let ino = self.file(parent, name).await;
        self.write(ino, 0, 0, length).await.expect("write");
        ino
    }

    async fn write(&self, ino: Ino, index: u32, pos: u32, len: u32) -> Result<WriteOutcome> {
        let id = self.new_slice().await.expect("a slice");
        self.write_slice(ino, index, Slice { pos, id, size: len, off: 0, len }, self.clock.now()).await
    }

    async fn attr(&self, ino: Ino) -> Attr {
        self.getattr(ino).await.expect("getattr")
    }

    /// Waits for what runs in the background.
    async fn settle(&self) {
        for _turn in 0..2000 {
            tokio::task::yield_now().await;
        }
    }

    /// Every invariant of the stored records.
    async fn audit(&self) {
        self.settle().await;
        audit::audit(&self.store.snapshot(), &self.format());
    }

    async fn names(&self, dir: Ino) -> Vec<String> {
        let found = self.list_all(self.real(dir), false).await.expect("list");
        found.keys().map(Name::to_string).collect()
    }

    /// The hourly trash directory of now.
    async fn hour(&self) -> Ino {
        let name = trash::hour_name(self.clock.now());
        self.lookup(Ino::TRASH, name.as_bytes()).await.expect("the hour is there").0
    }
}

/// Asserts that a result is an error of a kind.
macro_rules! refused {
    ($result:expr, $kind:pat) => {{
        let result = $result;
        assert!(matches!(result, Err($kind)), "{} expected, got {result:?}", stringify!($kind));
    }};
}
use refused;
