//! Where names led lately, so that a transaction can fetch an entry and its inode at once. A wrong guess costs one more
//! fetch, never a wrong answer: the entry is still read and compared.

use std::num::NonZeroUsize;

use lru::LruCache;
use parking_lot::Mutex;
use stead_base::Ino;

use crate::records::{Key, Name};

const REMEMBERED: NonZeroUsize = NonZeroUsize::new(16_384).expect("not zero");

/// The last places that names led to.
#[derive(Debug)]
pub(super) struct Guesses(Mutex<LruCache<(Ino, Name), Ino>>);

impl Default for Guesses {
    fn default() -> Self {
        Self(Mutex::new(LruCache::new(REMEMBERED)))
    }
}

impl Guesses {
    pub(super) fn note(&self, parent: Ino, name: &Name, ino: Ino) {
        self.0.lock().put((parent, name.clone()), ino);
    }

    /// Forgets a name and says where it led.
    pub(super) fn take(&self, parent: Ino, name: &Name) -> Option<Ino> {
        self.0.lock().pop(&(parent, name.clone()))
    }

    /// The keys of the inode that the name probably leads to, which is about to be removed or moved.
    pub(super) fn keys(&self, parent: Ino, name: &Name) -> Vec<Key> {
        self.take(parent, name).map(Key::Attr).into_iter().collect()
    }
}
