//! The layer without a kernel: metadata and objects in memory, faults as told.

mod directories;
mod faults;
mod figures;
mod files;
mod locks;
mod model;
mod names;
mod requests;
mod slices;
mod successor;

use std::sync::Arc;

use bytes::Bytes;
use stead_base::{Clock, Ino, SessionId, SliceId, SystemClock};
use stead_chunk::{ChunkConfig, ChunkStore};
use stead_meta::Meta;
use stead_meta::format::Format;
use stead_meta::memory::MemoryStore;
use stead_meta::ops::{MetaOptions, SliceRemover};
use stead_object::{Failing, Measured};

use crate::{Caller, HandleId, Inherited, Segment, Vfs, VfsConfig};

pub(crate) const BLOCK: u32 = 64 << 10;
pub(crate) const RDWR: i32 = libc::O_RDWR;

/// Removes blocks as a worker does.
struct Remover(Arc<ChunkStore>);

#[async_trait::async_trait]
impl SliceRemover for Remover {
    async fn remove_slices(&self, slices: &[(SliceId, u32)]) -> Result<(), String> {
        self.0.remove(slices).await.map_err(|error| error.to_string())
    }
}

/// A mounted volume, and the seams at which a test can interfere.
pub(crate) struct Rig {
    pub(crate) vfs: Arc<Vfs>,
    pub(crate) meta: Arc<Meta>,
    pub(crate) chunks: Arc<ChunkStore>,
    pub(crate) objects: Arc<Failing>,
    pub(crate) store: Arc<MemoryStore>,
    pub(crate) caller: Caller,
}

impl Rig {
    pub(crate) async fn new() -> Self {
        Self::with(VfsConfig::default(), MetaOptions::default()).await
    }

    pub(crate) async fn with(config: VfsConfig, options: MetaOptions) -> Self {
        let store = Arc::new(MemoryStore::new());
        let objects = Arc::new(Failing::new(Arc::new(stead_object::MemoryStore::new())));
        let format = Format { trash_days: 0, ..Format::new("test", "mem", "memory") };
        let clock: Arc<dyn Clock> = Arc::new(SystemClock);
        Meta::write_format(&*store, &format, &*clock).await.unwrap();
        Self::mount(store, objects, config, options).await
    }

    /// One more mount of a volume.
    pub(crate) async fn mount(
        store: Arc<MemoryStore>,
        objects: Arc<Failing>,
        config: VfsConfig,
        options: MetaOptions,
    ) -> Self {
        Self::mount_over(Segment::private().unwrap(), None, store, objects, config, options).await
    }

    async fn mount_over(
        segment: Segment,
        session: Option<SessionId>,
        store: Arc<MemoryStore>,
        objects: Arc<Failing>,
        config: VfsConfig,
        options: MetaOptions,
    ) -> Self {
        let format = Meta::load_format(&*store).await.unwrap();
        let meta = Meta::new(Arc::clone(&store) as _, format, options).await.unwrap();
        meta.hear_flush_requests().await;
        match session {
            None => meta.start_session().await.unwrap(),
            Some(sid) => meta.resume_session(sid).await.unwrap(),
        };
        let settings = ChunkConfig { block_size: BLOCK, ..ChunkConfig::default() };
        let measured = Measured::new(Arc::clone(&objects) as _, Arc::clone(&settings.requests));
        let chunks = ChunkStore::open(settings, Arc::new(measured)).unwrap();
        meta.set_slice_remover(Arc::new(Remover(Arc::clone(&chunks))));
        let clock = Arc::new(SystemClock);
        let vfs = Vfs::over(segment, config, Arc::clone(&meta), Arc::clone(&chunks), clock);
        Self { vfs, meta, chunks, objects, store, caller: Caller::root() }
    }

    /// A mount that a successor can go on with.
    pub(crate) async fn shared() -> Self {
        let Self { store, objects, .. } = Self::new().await;
        let segment = Segment::shared().unwrap();
        Self::mount_over(segment, None, store, objects, VfsConfig::default(), Self::with_xattrs()).await
    }

    fn with_xattrs() -> MetaOptions {
        MetaOptions { enable_xattr: true, ..MetaOptions::default() }
    }

    /// Dies without a word, and another one goes on.
    pub(crate) async fn crash(self) -> (Self, Inherited) {
        let segment = Segment::open(self.vfs.segment().fd().unwrap().try_clone_to_owned().unwrap()).unwrap();
        let (store, objects, sid) = (Arc::clone(&self.store), Arc::clone(&self.objects), self.meta.session());
        drop(self);
        let (config, options) = (VfsConfig::default(), Self::with_xattrs());
        let next = Self::mount_over(segment, Some(sid), store, objects, config, options).await;
        let inherited = next.vfs.inherit().await.unwrap();
        (next, inherited)
    }

    /// Another client of the same volume.
    pub(crate) async fn second(&self) -> Self {
        let (store, objects) = (Arc::clone(&self.store), Arc::clone(&self.objects));
        Self::mount(store, objects, VfsConfig::default(), MetaOptions::default()).await
    }

    pub(crate) async fn create(&self, name: &str) -> (Ino, HandleId) {
        let made = self.vfs.create(&self.caller, Ino::ROOT, name.as_bytes(), (0o644, 0), RDWR).await;
        let (entry, opened) = made.unwrap();
        (entry.attributes.ino, opened.fh)
    }

    pub(crate) async fn open(&self, ino: Ino) -> HandleId {
        self.vfs.open(&self.caller, ino, RDWR).await.unwrap().fh
    }

    pub(crate) async fn write(&self, fh: HandleId, offset: u64, data: &[u8]) {
        let written = self.vfs.write(&self.caller, fh, offset, data).await.unwrap();
        assert_eq!(written as usize, data.len());
    }

    pub(crate) async fn read(&self, fh: HandleId, offset: u64, size: u32) -> Bytes {
        self.vfs.read(&self.caller, fh, offset, size).await.unwrap()
    }

    pub(crate) async fn flush(&self, fh: HandleId) -> crate::Result<()> {
        self.vfs.flush(&self.caller, fh, 0).await
    }

    /// What close(2) does.
    pub(crate) async fn close(&self, fh: HandleId) -> crate::Result<()> {
        let flushed = self.flush(fh).await;
        self.vfs.release(&self.caller, fh).await.unwrap();
        flushed
    }

    pub(crate) async fn length(&self, ino: Ino) -> u64 {
        self.vfs.getattr(&self.caller, ino).await.unwrap().attr.length
    }
}
