//! What this mount knows of an inode while it is open: attributes, the view of its chunks, data not yet committed.
//!
//! Two things could make an old state win over a new one: an answer of the metadata engine that was on its way while this
//! mount changed the inode, and a cached view of a chunk that has a new slice. So attributes carry the time they were
//! asked for and lose against a later local change, and views carry an epoch that each local change moves on.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use stead_base::Ino;
use stead_meta::Meta;
use stead_meta::records::Attr;
use stead_meta::view::{Piece, view};
use tokio::time::Instant;

use crate::attr::Attributes;
use crate::errno::{Result, fail};
use crate::kernel::{State, state};
use crate::writer::{FileWriter, lay_over};

/// The visible pieces of a chunk.
pub(crate) type View = Arc<Vec<Piece>>;

/// An inode that has open handles or data that is not committed.
pub(crate) struct OpenInode {
    pub(crate) ino: Ino,
    pub(crate) writer: FileWriter,
    /// Held while this mount changes the inode's metadata, so that what comes back is noted in the order it happened.
    pub(crate) change: tokio::sync::Mutex<()>,
    /// Held while the kernel drops pages, and while anybody is told attributes that were asked for.
    pub(crate) telling: tokio::sync::Mutex<()>,
    known: Mutex<Known>,
    views: Mutex<Views>,
}

struct Known {
    attr: Attr,
    /// The attributes are those of this moment or later.
    fetched: Instant,
    /// When this mount last changed the inode.
    changed: Option<Instant>,
    /// Somebody said that they are not good any more.
    stale: bool,
}

impl Known {
    /// Whether what the engine was asked for at `asked` may be older than what is known.
    fn outdates(&self, asked: Instant) -> bool {
        self.changed.is_some_and(|changed| changed >= asked) || self.fetched > asked
    }
}

#[derive(Default)]
struct Views {
    epoch: u64,
    /// Records that were remembered before this are not to be used.
    bound: Option<Instant>,
    chunks: HashMap<u32, View>,
}

impl OpenInode {
    fn new(ino: Ino, attr: Attr, fetched: Instant) -> Self {
        Self {
            ino,
            writer: FileWriter::default(),
            change: tokio::sync::Mutex::default(),
            telling: tokio::sync::Mutex::default(),
            known: Mutex::new(Known { attr, fetched, changed: None, stale: false }),
            views: Mutex::default(),
        }
    }

    /// The attributes as of now: what is known, with the data that is not committed.
    pub(crate) fn attr(&self) -> Attr {
        // In this order: what is committed in between is then counted twice, not missed.
        let pending = self.writer.pending_change();
        let mut attr = self.known.lock().attr.clone();
        lay_over(&mut attr, pending);
        attr
    }

    /// The inode's flags, [`stead_meta::records::flags`].
    pub(crate) fn flags(&self) -> u8 {
        self.known.lock().attr.flags
    }

    /// Bytes of the file.
    pub(crate) fn length(&self) -> u64 {
        let pending = self.writer.length();
        pending.max(self.known.lock().attr.length)
    }

    /// What is known, if it is younger than `max_age` and not older than `bound`, and may be told.
    fn recent(&self, max_age: Duration, bound: Option<Instant>) -> Option<Attributes> {
        let _telling = self.telling.try_lock().ok()?;
        let (fetched, stale) = {
            let known = self.known.lock();
            (known.fetched, known.stale)
        };
        let timeout = max_age.checked_sub(fetched.elapsed())?;
        let young = !stale && !timeout.is_zero() && bound.is_none_or(|bound| fetched > bound);
        young.then(|| Attributes { ino: self.ino, attr: self.attr(), timeout })
    }

    /// Takes note of attributes that the engine was asked for at `asked`, unless something younger is known. Returns
    /// whether they show a change of the content that this mount did not make.
    pub(crate) fn freshen(&self, attr: Attr, asked: Instant) -> bool {
        let mut known = self.known.lock();
        if known.outdates(asked) {
            return false;
        }
        let differs = state(&known.attr) != state(&attr);
        if differs {
            self.forget_views();
        }
        known.attr = attr;
        known.fetched = asked;
        known.stale = false;
        differs
    }

    /// What holds now; it may be kept until it is `max_age` old.
    pub(crate) fn attributes(&self, max_age: Duration) -> Attributes {
        let timeout = max_age.saturating_sub(self.known.lock().fetched.elapsed());
        Attributes { ino: self.ino, attr: self.attr(), timeout }
    }

    /// The state of the content as it is committed, as far as is known.
    pub(crate) fn committed_state(&self) -> State {
        state(&self.known.lock().attr)
    }

    /// The attributes may be too old whatever their age.
    pub(crate) fn forget_age(&self) {
        self.known.lock().stale = true;
    }

    fn is_older_than(&self, age: Duration) -> bool {
        let known = self.known.lock();
        known.stale || known.fetched.elapsed() >= age
    }

    /// This mount changed the inode, and these are its attributes since. The caller holds [`OpenInode::change`].
    pub(crate) fn changed(&self, attr: Attr) {
        let now = Instant::now();
        let mut known = self.known.lock();
        known.attr = attr;
        known.fetched = now;
        known.changed = Some(now);
    }

    /// The view of a chunk if it is in memory.
    pub(crate) fn cached_view(&self, index: u32) -> Option<View> {
        self.views.lock().chunks.get(&index).cloned()
    }

    /// The view of a chunk, from memory or from the engine.
    pub(crate) async fn view(&self, meta: &Meta, index: u32) -> Result<View> {
        let (epoch, bound) = {
            let views = self.views.lock();
            if let Some(view) = views.chunks.get(&index) {
                return Ok(Arc::clone(view));
            }
            (views.epoch, views.bound)
        };
        // Not older than the attributes that say how long the file is.
        let fetched = self.known.lock().fetched;
        let since = bound.map_or(fetched, |bound| bound.max(fetched));
        let slices = meta.chunk_since(self.ino, index, since).await.map_err(fail)?;
        let pieces = Arc::new(view(&slices));
        let mut views = self.views.lock();
        if views.epoch == epoch {
            views.chunks.insert(index, Arc::clone(&pieces));
        }
        Ok(pieces)
    }

    /// The chunk has a new record.
    pub(crate) fn forget_view(&self, index: u32) {
        let mut views = self.views.lock();
        views.epoch += 1;
        views.bound = Some(Instant::now());
        views.chunks.remove(&index);
    }

    /// Any chunk may have changed.
    pub(crate) fn forget_views(&self) {
        let mut views = self.views.lock();
        views.epoch += 1;
        views.bound = Some(Instant::now());
        views.chunks.clear();
    }
}

/// All open inodes.
#[derive(Default)]
pub(crate) struct InodeTable {
    open: Mutex<HashMap<Ino, Slot>>,
    /// When this mount last gave or took a name. Whose it was is not known, so what was known of any inode before has
    /// to be asked for again.
    links_changed: Mutex<Option<Instant>>,
}

struct Slot {
    inode: Arc<OpenInode>,
    handles: usize,
}

impl InodeTable {
    /// One handle more; `attr` is what the engine said when it was asked at `asked`.
    pub(crate) fn open(&self, ino: Ino, attr: Attr, asked: Instant) -> Arc<OpenInode> {
        let mut table = self.open.lock();
        let slot = table
            .entry(ino)
            .or_insert_with(|| Slot { inode: Arc::new(OpenInode::new(ino, attr.clone(), asked)), handles: 0 });
        slot.handles += 1;
        slot.inode.freshen(attr, asked);
        Arc::clone(&slot.inode)
    }

    /// One handle less. An inode with uncommitted data stays until [`InodeTable::tidy`].
    pub(crate) fn close(&self, ino: Ino) {
        if let Some(slot) = self.open.lock().get_mut(&ino) {
            slot.handles = slot.handles.saturating_sub(1);
        }
        self.tidy(ino);
    }

    /// Whether no other handle of it is open.
    pub(crate) fn has_one_handle(&self, ino: Ino) -> bool {
        self.open.lock().get(&ino).is_some_and(|slot| slot.handles == 1)
    }

    /// Drops the inode if nothing needs it any more.
    pub(crate) fn tidy(&self, ino: Ino) {
        let mut table = self.open.lock();
        if let Some(slot) = table.get(&ino)
            && slot.handles == 0
            && !slot.inode.writer.is_dirty()
        {
            table.remove(&ino);
        }
    }

    pub(crate) fn get(&self, ino: Ino) -> Option<Arc<OpenInode>> {
        self.open.lock().get(&ino).map(|slot| Arc::clone(&slot.inode))
    }

    /// What is known of an open inode, if it is younger than `max_age`.
    pub(crate) fn recent(&self, ino: Ino, max_age: Duration) -> Option<Attributes> {
        let bound = *self.links_changed.lock();
        self.get(ino)?.recent(max_age, bound)
    }

    /// All of them.
    pub(crate) fn all(&self) -> Vec<Ino> {
        self.open.lock().keys().copied().collect()
    }

    /// Open ones whose attributes are older than `age`, `limit` at most.
    pub(crate) fn older_than(&self, age: Duration, limit: usize) -> Vec<Ino> {
        let table = self.open.lock();
        let old = table.values().filter(|slot| slot.handles > 0 && slot.inode.is_older_than(age));
        old.map(|slot| slot.inode.ino).take(limit).collect()
    }

    /// This mount gave or took a name.
    pub(crate) fn links_changed(&self) {
        *self.links_changed.lock() = Some(Instant::now());
    }

    /// Those with uncommitted data.
    pub(crate) fn dirty(&self) -> Vec<Arc<OpenInode>> {
        let table = self.open.lock();
        let dirty = table.values().filter(|slot| slot.inode.writer.is_dirty());
        dirty.map(|slot| Arc::clone(&slot.inode)).collect()
    }
}
