//! open and close: which files this client keeps alive (format.md §2.13).

use stead_base::{Ino, failpoint};
use tracing::warn;

use crate::error::{Error, Result};
use crate::records::{Attr, Key, NodeType, Record, Write, flags as inode_flags};
use crate::store::Txn;

use super::Meta;
use super::attributes::not_permitted;
use super::context::not_flagged;
use super::ledger::{Ledger, Limits};
use super::trash::{Left, remove_inode};
use super::types::Caller;

// Of open(2); the kernel's numbers on Linux, as FUSE passes them.
const ACCESS_MODE: i32 = 0o3;
const WRITE_ONLY: i32 = 0o1;
const TRUNCATE: i32 = 0o1000;
const APPEND: i32 = 0o2000;

impl Meta {
    /// Opens a file or a directory with the flags of open(2), and counts it: the file stays, even without a name,
    /// until [`Meta::close`].
    ///
    /// # Errors
    /// [`Error::NoInode`]; [`Error::NotPermitted`] for writing to immutable, append-only or trashed files.
    pub async fn open(&self, caller: &Caller, ino: Ino, flags: i32) -> Result<Attr> {
        let _ = caller; // Permissions are the kernel's; the flags of an inode hold for everybody.
        let ino = self.real(ino);
        let writes = flags & (ACCESS_MODE | TRUNCATE | APPEND) != 0;
        if writes {
            self.writable()?;
        }
        self.opened.open(ino);
        let attr = self.attr_to_open(ino, flags).await.and_then(|attr| {
            check_open(ino, &attr, flags, writes)?;
            Ok(attr)
        });
        if attr.is_err() {
            self.close(ino).await?;
        }
        attr
    }

    /// [`Meta::open`] for a caller that knows the attributes: counts the file without asking the engine.
    ///
    /// # Errors
    /// As of [`Meta::open`].
    pub fn open_known(&self, ino: Ino, flags: i32, attr: &Attr) -> Result<()> {
        let ino = self.real(ino);
        let writes = flags & (ACCESS_MODE | TRUNCATE | APPEND) != 0;
        if writes {
            self.writable()?;
        }
        check_open(ino, attr, flags, writes)?;
        self.opened.open(ino);
        Ok(())
    }

    /// Counts a file that a client before this one, whose session was resumed, has left open. `attr` as of now.
    pub fn opened_before(&self, ino: Ino, attr: &Attr) {
        let ino = self.real(ino);
        self.opened.open(ino);
        if attr.nlink == 0 {
            self.opened.lost_name(ino);
        }
    }

    /// The attributes; for somebody who will read, a store that remembers fetches the first chunk with them.
    async fn attr_to_open(&self, ino: Ino, flags: i32) -> Result<Attr> {
        if !self.store.remembers() || flags & ACCESS_MODE == WRITE_ONLY || flags & TRUNCATE != 0 {
            return self.getattr(ino).await;
        }
        let found = self.store.read(&[Key::Attr(ino), Key::Chunk(ino, 0)]).await?;
        match found.into_iter().next().flatten() {
            Some(Record::Attr(attr)) => Ok(attr),
            _ => self.getattr(ino).await,
        }
    }

    /// Ends what [`Meta::open`] or [`Meta::create`] began. The last close of a file without a name removes it.
    ///
    /// # Errors
    /// Those of the engine.
    pub async fn close(&self, ino: Ino) -> Result<()> {
        let ino = self.real(ino);
        if self.opened.close(ino) {
            self.release(ino).await?;
        }
        Ok(())
    }

    /// Removes a file that has lost its last name and its last user.
    pub(super) async fn release(&self, ino: Ino) -> Result<()> {
        self.release_for(self.session(), ino).await
    }

    /// The same for a file that another session kept.
    pub(super) async fn release_for(&self, sid: stead_base::SessionId, ino: Ino) -> Result<()> {
        let ctx = self.context();
        let body = move |txn: &mut Txn<'_>| {
            let attr = txn.attr(ino)?;
            txn.write(Write::DelSustained(sid, ino));
            let Some(attr) = attr.filter(|attr| attr.nlink == 0) else {
                return Ok(Left::Nothing);
            };
            let mut ledger = Ledger::default();
            let left = remove_inode(txn, &ctx, &mut ledger, ino, &attr);
            ledger.settle(txn, &ctx, Limits::None)?;
            Ok(left)
        };
        failpoint::hit("meta.release.before-commit");
        let left = self.transact(body).await?;
        failpoint::hit("meta.release.after-commit");
        self.finish(left);
        Ok(())
    }

    /// [`Meta::release`] where nobody waits; what fails is left to whoever cleans the session.
    pub(super) fn release_in_background(&self, ino: Ino) {
        if let Some(me) = self.me.upgrade() {
            self.tasks.spawn("release", async move {
                if let Err(error) = me.release(ino).await {
                    warn!(%ino, %error, "cannot remove an unlinked file");
                }
            });
        }
    }
}

fn check_open(ino: Ino, attr: &Attr, flags: i32, writes: bool) -> Result<(), Error> {
    if !writes {
        return Ok(());
    }
    if attr.is_dir() {
        return Err(Error::IsDirectory { ino });
    }
    if attr.parent.0 > Ino::TRASH.0 && attr.kind == NodeType::File {
        return Err(not_permitted(ino, "it lies in the trash"));
    }
    let appends = flags & APPEND != 0 && flags & TRUNCATE == 0;
    let refused = if appends { inode_flags::IMMUTABLE } else { inode_flags::IMMUTABLE | inode_flags::APPEND };
    not_flagged(ino, attr, refused)
}
