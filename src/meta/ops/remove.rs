//! unlink and rmdir (format.md §2.9).

use stead_base::Ino;

use crate::error::{Error, Result};
use crate::records::{Key, Name, Write, flags};
use crate::store::{Step, Txn};

use super::Meta;
use super::attributes::not_permitted;
use super::context::{Context, directory, named, not_flagged, not_sticky};
use super::ledger::{Ledger, Limits};
use super::trash::{Dropped, Left, drop_name, trash_keys};
use super::types::Caller;

impl Meta {
    /// Takes a name away from an inode that is no directory; with the last name, the inode goes to the trash, or goes.
    ///
    /// # Errors
    /// [`Error::NoEntry`], [`Error::IsDirectory`], [`Error::NotPermitted`], [`Error::AccessDenied`].
    pub async fn unlink(&self, caller: &Caller, parent: Ino, name: &[u8]) -> Result<()> {
        self.take_away(caller, parent, name, What::File, false).await
    }

    /// Removes an empty directory.
    ///
    /// # Errors
    /// [`Error::NoEntry`], [`Error::NotDirectory`], [`Error::NotEmpty`], and as of [`Meta::unlink`].
    pub async fn rmdir(&self, caller: &Caller, parent: Ino, name: &[u8]) -> Result<()> {
        self.take_away(caller, parent, name, What::Directory, false).await
    }

    pub(super) async fn take_away(
        &self,
        caller: &Caller,
        parent: Ino,
        name: &[u8],
        what: What,
        skip_trash: bool,
    ) -> Result<()> {
        self.writable()?;
        let (parent, name) = (self.real(parent), Name::entry(name)?);
        if self.is_trash_name(parent, &name) {
            return Err(not_permitted(Ino::TRASH, "the trash stays"));
        }
        let (ctx, caller) = (self.context(), caller.clone());
        let guess = self.guesses.take(parent, &name);
        self.note_stats([parent]);
        let body = move |txn: &mut Txn<'_>| {
            let asked = Asked { parent, name: &name, what, skip_trash, guess };
            take_away(txn, &ctx, &caller, &asked)
        };
        let left = self.transact(body).await?;
        self.finish(left);
        Ok(())
    }

    /// What an operation leaves to do once it is committed.
    pub(super) fn finish(&self, left: Left) {
        match left {
            Left::Nothing => {}
            Left::Data(ino, length) => self.delete_in_background(ino, length),
            Left::Open(ino) => {
                if !self.opened.lost_name(ino) {
                    self.release_in_background(ino);
                }
            }
        }
    }
}

/// What is to be removed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum What {
    File,
    Directory,
}

struct Asked<'a> {
    parent: Ino,
    name: &'a Name,
    what: What,
    skip_trash: bool,
    guess: Option<Ino>,
}

impl Asked<'_> {
    fn keys(&self, ctx: &Context) -> Vec<Key> {
        let mut keys = vec![Key::Attr(self.parent), Key::Entry(self.parent, self.name.clone())];
        if let Some(ino) = self.guess {
            keys.push(Key::Attr(ino));
            if self.what == What::Directory {
                keys.push(Key::AnyEntry(ino));
            }
        }
        if !self.skip_trash {
            keys.extend(trash_keys(ctx));
        }
        keys
    }
}

fn take_away(txn: &mut Txn<'_>, ctx: &Context, caller: &Caller, asked: &Asked<'_>) -> Step<Left> {
    let (parent, name) = (asked.parent, asked.name);
    ctx.prime(txn, &asked.keys(ctx), &[parent])?;
    let mut dir = directory(txn, parent)?;
    if parent.is_trash() && !caller.is_root() {
        return Err(not_permitted(parent, "only root empties the trash").into());
    }
    not_flagged(parent, &dir, flags::IMMUTABLE | flags::APPEND)?;
    let entry = named(txn, parent, name)?;
    let Some(attr) = txn.attr(entry.ino)? else {
        txn.write(Write::DelEntry(parent, name.clone()));
        return Ok(Left::Nothing);
    };
    match (asked.what, attr.is_dir()) {
        (What::File, true) => return Err(Error::IsDirectory { ino: entry.ino }.into()),
        (What::Directory, false) => return Err(Error::NotDirectory { ino: entry.ino }.into()),
        _ => {}
    }
    not_flagged(entry.ino, &attr, flags::IMMUTABLE | flags::APPEND)?;
    not_sticky(caller, &dir, entry.ino, &attr)?;
    let is_dir = attr.is_dir();
    if is_dir && txn.has_entries(entry.ino)? {
        return Err(Error::NotEmpty { ino: entry.ino }.into());
    }
    let mut ledger = Ledger::default();
    let gone = Dropped { dir: parent, name, entry, attr, skip_trash: asked.skip_trash };
    txn.write(Write::DelEntry(parent, name.clone()));
    let left = drop_name(txn, ctx, &mut ledger, gone)?;
    if is_dir {
        dir.nlink = dir.nlink.saturating_sub(1);
    }
    if !parent.is_trash() && ctx.touch(&mut dir, is_dir) {
        txn.write(Write::SetAttr(parent, dir));
    }
    ledger.settle(txn, ctx, Limits::None)?;
    Ok(left)
}
