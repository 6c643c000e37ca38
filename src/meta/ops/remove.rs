//! unlink and rmdir (format.md §2.9).

use stead_base::{Ino, failpoint};

use crate::error::{Error, Result};
use crate::records::{Key, Name, Write, flags};
use crate::store::{Step, Txn};

use super::Meta;
use super::attributes::not_permitted;
use super::context::{Context, directory, named, not_flagged, not_sticky};
use super::ledger::{Ledger, Limits};
use super::trash::{Dropped, Left, drop_name, needs_hour, trash_keys};
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
        failpoint::hit("meta.remove.before-commit");
        let left = self.transact(body).await?;
        failpoint::hit("meta.remove.after-commit");
        self.finish(left);
        Ok(())
    }

    /// Takes names of files away from one directory, in one transaction. Returns those that are gone; the others are more
    /// than files with one name, and are to be taken away one by one.
    pub(super) async fn take_away_files(
        &self,
        caller: &Caller,
        parent: Ino,
        files: &[(Name, Ino)],
        skip_trash: bool,
    ) -> Result<Vec<Name>> {
        self.writable()?;
        let (ctx, caller, files) = (self.context(), caller.clone(), files.to_vec());
        self.note_stats([parent]);
        for (name, _ino) in &files {
            self.guesses.take(parent, name);
        }
        failpoint::hit("meta.remove.before-commit");
        let body = move |txn: &mut Txn<'_>| take_away_files(txn, &ctx, &caller, parent, &files, skip_trash);
        let (gone, left) = self.transact(body).await?;
        failpoint::hit("meta.remove.after-commit");
        for left in left {
            self.finish(left);
        }
        Ok(gone)
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

fn take_away_files(
    txn: &mut Txn<'_>,
    ctx: &Context,
    caller: &Caller,
    parent: Ino,
    files: &[(Name, Ino)],
    skip_trash: bool,
) -> Step<(Vec<Name>, Vec<Left>)> {
    let mut keys = vec![Key::Attr(parent)];
    for (name, ino) in files {
        keys.extend([Key::Entry(parent, name.clone()), Key::Attr(*ino)]);
    }
    if !skip_trash {
        keys.extend(trash_keys(ctx));
    }
    ctx.prime(txn, &keys, &[parent])?;
    let mut dir = directory(txn, parent)?;
    if parent.is_trash() && !caller.is_root() {
        return Err(not_permitted(parent, "only root empties the trash").into());
    }
    not_flagged(parent, &dir, flags::IMMUTABLE | flags::APPEND)?;
    let (mut ledger, mut gone, mut left) = (Ledger::default(), Vec::new(), Vec::new());
    for (name, ino) in files {
        let Some(entry) = txn.entry(parent, name)? else {
            gone.push(name.clone());
            continue;
        };
        // A body does not see its own writes: an inode may occur once, and the hour's directory be made once.
        let attr = match txn.attr(entry.ino)? {
            Some(attr) if entry.ino == *ino && attr.nlink <= 1 && !attr.is_dir() => attr,
            _ => continue,
        };
        if !gone.is_empty() && needs_hour(txn, ctx, skip_trash || parent.is_trash())? {
            break;
        }
        not_flagged(entry.ino, &attr, flags::IMMUTABLE | flags::APPEND)?;
        not_sticky(caller, &dir, entry.ino, &attr)?;
        txn.write(Write::DelEntry(parent, name.clone()));
        left.push(drop_name(txn, ctx, &mut ledger, Dropped { dir: parent, name, entry, attr, skip_trash })?);
        gone.push(name.clone());
    }
    if !parent.is_trash() && ctx.touch(&mut dir, false) {
        txn.write(Write::SetAttr(parent, dir));
    }
    ledger.settle(txn, ctx, Limits::None)?;
    Ok((gone, left))
}
