//! Attributes that an open(2) may reuse (option `open-cache`): faster, at the price of close-to-open consistency with
//! other clients, which is why there is none by default.

use lru::LruCache;
use parking_lot::Mutex;
use stead_base::Ino;
use stead_meta::ops::Caller;
use stead_meta::records::Attr;
use tokio::time::Instant;

use crate::Vfs;
use crate::errno::{Result, fail};

/// Files whose attributes are kept.
const KEPT: std::num::NonZeroUsize = std::num::NonZeroUsize::new(10_000).expect("not zero");

/// Attributes by inode, with the time they were asked for.
pub(crate) struct OpenCache(Mutex<LruCache<Ino, (Attr, Instant)>>);

impl OpenCache {
    pub(crate) fn new() -> Self {
        Self(Mutex::new(LruCache::new(KEPT)))
    }
}

impl Vfs {
    /// Has the metadata layer open a file. Returns its attributes and when the engine was asked for them.
    pub(crate) async fn open_attr(&self, caller: &Caller, ino: Ino, flags: i32) -> Result<(Attr, Instant)> {
        let max_age = self.config.open_cache;
        let kept = if max_age.is_zero() { None } else { self.open_cache.0.lock().get(&ino).cloned() };
        if let Some((attr, asked)) = kept
            && asked.elapsed() < max_age
            && !self.recent.inode_since(asked, ino)
        {
            self.meta.open_known(ino, flags, &attr).map_err(fail)?;
            return Ok((attr, asked));
        }
        let asked = Instant::now();
        let attr = self.meta.open(caller, ino, flags).await.map_err(fail)?;
        if !max_age.is_zero() {
            self.open_cache.0.lock().put(ino, (attr.clone(), asked));
        }
        Ok((attr, asked))
    }
}
