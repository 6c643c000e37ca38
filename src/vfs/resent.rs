//! Requests that the process before this one was asked already (`Caller::again`): it died before it answered, and what was
//! asked may have taken effect. Then it must not look as if it were impossible.
//!
//! The kernel had locked what a change of names is about while it asked, so nobody of this mount can have come in between.
//! Another client can have: what it did within the moments between two processes is taken for ours.

use stead_base::{Errno, Ino};
use stead_meta::ops::Caller;
use stead_meta::records::Attr;
use tokio::time::Instant;

use crate::Vfs;
use crate::attr::Entry;
use crate::errno::{Result, fail};

/// Closing what is closed.
pub(crate) fn closed_before(caller: &Caller) -> Result<()> {
    if caller.again { Ok(()) } else { Err(Errno::EBADF) }
}

/// Removing what is gone.
pub(crate) fn or_gone_before(caller: &Caller, removed: Result<()>) -> Result<()> {
    match removed {
        Err(Errno::ENOENT) if caller.again => Ok(()),
        removed => removed,
    }
}

impl Vfs {
    /// Whether what has the name now was made by this very request.
    pub(crate) async fn made_before(&self, caller: &Caller, parent: Ino, name: &[u8]) -> Result<bool> {
        if !caller.again {
            return Ok(false);
        }
        match self.meta.lookup(parent, name).await.map_err(fail) {
            Ok((ino, _attr)) => Ok(self.segment().has_numbered(ino)),
            Err(Errno::ENOENT) => Ok(false),
            Err(errno) => Err(errno),
        }
    }

    /// Renaming what has the new name already; gives its inode.
    pub(crate) async fn or_moved_before(
        &self,
        caller: &Caller,
        moved: Result<Ino>,
        (parent, name): (Ino, &[u8]),
    ) -> Result<Ino> {
        match moved {
            Err(Errno::ENOENT) if caller.again => {
                self.meta.lookup(parent, name).await.map(|(ino, _attr)| ino).map_err(fail)
            }
            moved => moved,
        }
    }

    /// Linking what has the name already.
    pub(crate) async fn or_linked_before(
        &self,
        caller: &Caller,
        linked: Result<Attr>,
        ino: Ino,
        (parent, name): (Ino, &[u8]),
    ) -> Result<Attr> {
        if !caller.again || linked != Err(Errno::EEXIST) {
            return linked;
        }
        let (found, attr) = self.meta.lookup(parent, name).await.map_err(fail)?;
        if found == ino { Ok(attr) } else { linked }
    }

    /// The entry that leads to an inode, whatever its name.
    pub(crate) async fn known_entry(&self, ino: Ino) -> Result<Entry> {
        let asked = Instant::now();
        let attr = self.meta.getattr(ino).await.map_err(fail)?;
        Ok(self.entry(ino, attr, asked).await)
    }
}
