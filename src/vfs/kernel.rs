//! What the kernel keeps of the volume, and when it is told to forget: close-to-open consistency.
//!
//! The kernel keeps pages, attributes and names. Changes through this mount it makes to its copies by itself, and they stay
//! good. Changes of other clients are learned when attributes come back from the engine: at open, where pages are dropped
//! unless the file is in the state in which it was last seen; in between, for files that are open, whenever somebody asks
//! for attributes, when a commit finds a state that is not the one it was left in, and by asking for the attributes of
//! open files once they are older than the attribute cache allows.
//!
//! What is learned counts for READ at once, so that pages are filled from the new state from then on; then the kernel drops
//! those that it has; and only then anybody is **told** the new length ([`OpenInode::telling`]): the kernel fills up the last
//! page with zeros, and would show them where another client has appended.

use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use stead_base::{Ino, Timestamp};
use stead_meta::records::Attr;
use tokio::time::{Instant, timeout};
use tracing::{debug, warn};

use crate::Vfs;
use crate::attr::Attributes;
use crate::errno::fail;
use crate::inode::OpenInode;

/// Open files whose attributes are asked for in one round.
const REVALIDATED: usize = 1024;
/// How long a commit waits for the kernel. It may itself be what makes room for the pages that the kernel has to write
/// before it can drop them.
const PATIENCE: Duration = Duration::from_secs(1);

/// Whoever can make the kernel forget.
pub trait KernelCache: Send + Sync {
    /// Drops pages and attributes of an inode. The result resolves when that has happened; the kernel may have to wait for
    /// answers to READ and WRITE first.
    fn forget_inode(&self, ino: Ino) -> BoxFuture<'static, ()>;

    /// Drops what is known of a name. Does not wait.
    fn forget_entry(&self, parent: Ino, name: &[u8]);
}

/// What tells whether the content of a file may have changed.
pub(crate) type State = (Timestamp, u64);

pub(crate) fn state(attr: &Attr) -> State {
    (attr.mtime, attr.length)
}

impl Vfs {
    /// From now on `kernel` is told what to forget.
    pub fn set_kernel_cache(&self, kernel: Arc<dyn KernelCache>) {
        *self.kernel.write() = Some(kernel);
    }

    /// Another client has changed or removed what `name` leads to.
    pub fn entry_changed(&self, parent: Ino, name: &[u8]) {
        if let Some(kernel) = &*self.kernel.read() {
            kernel.forget_entry(parent, name);
        }
    }

    /// Another client has changed the inode: nothing that was kept of it is good any more.
    pub async fn inode_changed(&self, ino: Ino) {
        self.seen.lock().pop(&ino);
        if let Some(open) = self.inodes.get(ino) {
            open.forget_views();
            open.forget_age();
        }
        self.forget_pages(ino).await;
    }

    /// Changes of other clients may have been missed. Whoever reads from pages of an open file would not ask; for
    /// anything else the kernel asks at open, and once its cache times are over.
    pub async fn everything_changed(&self) {
        debug!("changes of other clients may have been missed");
        for ino in self.inodes.all() {
            self.inode_changed(ino).await;
        }
    }

    async fn forget_pages(&self, ino: Ino) {
        let kernel = self.kernel.read().clone();
        if let Some(kernel) = kernel {
            debug!(%ino, "changed by another client");
            kernel.forget_inode(ino).await;
        }
    }

    /// Whether the kernel's pages of a file that is being opened are those of its present state.
    pub(crate) fn keeps_pages(&self, ino: Ino, attr: &Attr) -> bool {
        self.seen.lock().put(ino, state(attr)) == Some(state(attr))
    }

    /// Takes note of attributes that were asked for at `asked`.
    pub(crate) async fn learn(&self, ino: Ino, attr: Attr, asked: Instant) -> Attributes {
        let Some(open) = self.inodes.get(ino) else {
            return Attributes { ino, attr, timeout: self.config.attr_cache.saturating_sub(asked.elapsed()) };
        };
        let _telling = open.telling.lock().await;
        if open.freshen(attr, asked) {
            self.seen.lock().pop(&ino);
            self.forget_pages(ino).await;
        }
        open.attributes(self.config.attr_cache)
    }

    /// A change of ours has brought the file from the state `before` to that of `attr`. The caller holds
    /// [`OpenInode::change`].
    pub(crate) async fn changed(&self, open: &OpenInode, before: State, attr: Attr) {
        let ours = open.committed_state() == before;
        {
            let mut seen = self.seen.lock();
            match seen.get_mut(&open.ino) {
                Some(state_seen) if ours && *state_seen == before => *state_seen = state(&attr),
                Some(_) => _ = seen.pop(&open.ino),
                None => {}
            }
        }
        if !ours {
            open.forget_views();
            let told = async {
                let _telling = open.telling.lock().await;
                open.changed(attr.clone());
                self.forget_pages(open.ino).await;
            };
            if timeout(PATIENCE, told).await.is_err() {
                warn!(ino = %open.ino, "the kernel takes long to drop pages that another client has changed");
            }
        }
        open.changed(attr);
    }

    /// Asks for the attributes of files that are open and were not asked for lately: whoever reads from pages does not
    /// ask, and would never learn of another client's change.
    pub(crate) async fn revalidate(&self) {
        let old = self.inodes.older_than(self.config.attr_cache, REVALIDATED);
        if old.is_empty() {
            return;
        }
        let asked = Instant::now();
        match self.meta.getattrs(&old).await {
            Ok(found) => {
                for (ino, attr) in old.into_iter().zip(found) {
                    // One that is gone stays as it was for those that have it open.
                    if let Some(attr) = attr {
                        self.learn(ino, attr, asked).await;
                    }
                }
            }
            Err(error) => debug!(errno = fail(error).name(), "attributes of open files"),
        }
    }
}
