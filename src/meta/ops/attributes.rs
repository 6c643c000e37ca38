//! lookup, getattr, setattr, readlink, list.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use stead_base::{Ino, Timestamp};
use tokio::time::Instant;

use crate::error::{Error, Result};
use crate::records::{Attr, Key, Name, NodeType, Record, Write, flags};
use crate::store::{Cursor, Listed, Page, Step, Txn};

use super::Meta;
use super::acl::{self, Ruled};
use super::context::{Context, existing, mode_permits, no_entry, not_flagged};
use super::ledger::{Ledger, Limits};
use super::types::{Caller, Changed, SetAttr, SetTime};
use super::volume::root_attr;

/// The name of the trash in the root (format.md §2.4).
pub(super) const TRASH_NAME: &[u8] = b".trash";

impl Meta {
    /// Where a name leads. `.trash` in the root leads to the trash, unless the mount shows a sub-directory.
    ///
    /// # Errors
    /// [`Error::NoEntry`], [`Error::Corrupt`] for a name whose inode has no attributes, and the rules for names.
    pub async fn lookup(&self, parent: Ino, name: &[u8]) -> Result<(Ino, Attr)> {
        let (parent, name) = (self.real(parent), Name::entry(name)?);
        if self.is_trash_name(parent, &name) {
            return Ok((Ino::TRASH, self.getattr(Ino::TRASH).await?));
        }
        let found = self.store.lookup(parent, &name).await?;
        let (entry, attr) = found.ok_or_else(|| no_entry(parent, &name))?;
        let attr = attr.ok_or_else(|| Error::Corrupt {
            key: format!("attributes of inode {}", entry.ino),
            why: format!("missing, although {name:?} in directory {parent} leads there"),
        })?;
        self.guesses.note(parent, &name, entry.ino);
        Ok((entry.ino, attr))
    }

    /// The attributes of an inode.
    ///
    /// # Errors
    /// [`Error::NoInode`].
    pub async fn getattr(&self, ino: Ino) -> Result<Attr> {
        match self.stored_attr(self.real(ino)).await? {
            Some(attr) => Ok(attr),
            // A volume that never had a trash shows an empty one.
            None if ino == Ino::TRASH => Ok(root_attr(0o555, Timestamp::default())),
            None => Err(Error::NoInode { ino }),
        }
    }

    /// [`Meta::getattr`] of several inodes in one round trip; `None` for one that does not exist.
    ///
    /// # Errors
    /// Those of the engine.
    pub async fn getattrs(&self, inodes: &[Ino]) -> Result<Vec<Option<Attr>>> {
        let keys: Vec<_> = inodes.iter().map(|ino| Key::Attr(self.real(*ino))).collect();
        let records = self.store.read(&keys).await?.into_iter();
        Ok(records
            .map(|record| match record {
                Some(Record::Attr(attr)) => Some(attr),
                _ => None,
            })
            .collect())
    }

    /// The attributes of an inode as they were at the given moment, at most `max_age` ago: what the engine was asked for
    /// lately, with every change that this client has made. `None`: it has to be asked.
    pub fn recent_attr(&self, ino: Ino, max_age: Duration) -> Option<(Attr, Instant)> {
        let (record, at) = self.store.recall(&Key::Attr(self.real(ino)))?;
        match record {
            Some(Record::Attr(attr)) if at.elapsed() < max_age => Some((attr, at)),
            _ => None,
        }
    }

    /// Changes attributes by the rules of chmod(2), chown(2) and utimensat(2), and format.md §2.9.
    ///
    /// # Errors
    /// [`Error::NotPermitted`], [`Error::AccessDenied`], [`Error::NoInode`].
    pub async fn setattr(&self, caller: &Caller, ino: Ino, set: SetAttr) -> Result<Changed> {
        self.writable()?;
        let (ctx, caller, ino) = (self.context(), caller.clone(), self.real(ino));
        self.transact_ruled(move |txn| setattr(txn, &ctx, &caller, ino, &set)).await
    }

    /// Where a symbolic link leads.
    ///
    /// # Errors
    /// [`Error::Invalid`] for an inode that is no symbolic link.
    pub async fn readlink(&self, ino: Ino) -> Result<Bytes> {
        match self.read_one(Key::Symlink(ino)).await? {
            Some(Record::Bytes(target)) => Ok(target),
            _ => {
                let kind = self.getattr(ino).await?.kind;
                Err(Error::Invalid { field: "inode", value: format!("{ino} ({kind:?})"), expected: "a symbolic link" })
            }
        }
    }

    /// A page of a directory, without `.` and `..`; see [`crate::store::Store::list_entries`] for what may come twice.
    ///
    /// # Errors
    /// Those of the engine.
    pub async fn list(&self, dir: Ino, with_attrs: bool, from: Cursor, limit: usize) -> Result<Page<Listed>> {
        self.store.list_entries(self.real(dir), with_attrs, from, limit).await
    }

    /// The whole directory, each name once, in the order of names. What does not decode is left out.
    pub(super) async fn list_all(&self, dir: Ino, with_attrs: bool) -> Result<BTreeMap<Name, Listed>> {
        Ok(self.list_checked(dir, with_attrs).await?.0)
    }

    /// The same, and the records that do not decode.
    pub(super) async fn list_checked(
        &self,
        dir: Ino,
        with_attrs: bool,
    ) -> Result<(BTreeMap<Name, Listed>, Vec<Error>)> {
        let (mut found, mut corrupt, mut from) = (BTreeMap::new(), Vec::new(), Cursor::default());
        loop {
            let page = self.store.list_entries(dir, with_attrs, from, 1000).await?;
            found.extend(page.items.into_iter().map(|item| (item.name.clone(), item)));
            corrupt.extend(page.corrupt);
            match page.next {
                Some(next) => from = next,
                None => return Ok((found, corrupt)),
            }
        }
    }

    /// What `..` leads to; of the visible root, itself.
    ///
    /// # Errors
    /// [`Error::NoInode`], [`Error::NotDirectory`].
    pub async fn parent_of(&self, dir: Ino) -> Result<Ino> {
        if self.real(dir) == self.root {
            return Ok(Ino::ROOT);
        }
        let attr = self.getattr(dir).await?;
        if !attr.is_dir() {
            return Err(Error::NotDirectory { ino: dir });
        }
        Ok(if attr.parent == self.root { Ino::ROOT } else { attr.parent })
    }

    /// Whether this is `.trash` in a root that shows it.
    pub(super) fn is_trash_name(&self, parent: Ino, name: &Name) -> bool {
        parent == Ino::ROOT && self.root == Ino::ROOT && name.as_bytes() == TRASH_NAME
    }

    pub(super) async fn stored_attr(&self, ino: Ino) -> Result<Option<Attr>> {
        Ok(match self.read_one(Key::Attr(ino)).await? {
            Some(Record::Attr(attr)) => Some(attr),
            _ => None,
        })
    }
}

fn setattr(txn: &mut Txn<'_>, ctx: &Context, caller: &Caller, ino: Ino, set: &SetAttr) -> Step<Ruled<Changed>> {
    let old = existing(txn, ino)?;
    if old.parent.0 > Ino::TRASH.0 {
        return Err(not_permitted(ino, "it lies in the trash").into());
    }
    check_flags(ino, &old, set)?;
    let mut new = old.clone();
    set_owner(caller, ino, &mut new, set)?;
    set_mode(caller, ino, &mut new, set)?;
    set_times(ctx, caller, ino, &mut new, set)?;
    if set.mode.is_some()
        && let Some(rule) = acl::change_mode(txn, ctx, &mut new)?
    {
        return Ok(Ruled::Needs(rule));
    }
    if let Some(flags) = set.flags.filter(|flags| *flags != old.flags) {
        if !caller.is_root() {
            return Err(not_permitted(ino, "only root changes inode flags").into());
        }
        new.flags = flags;
    }
    if *set == SetAttr::default() {
        return Ok(Ruled::Done(Changed::from(&old, new)));
    }
    if set.ctime.is_none() {
        new.ctime = ctx.now;
    }
    if (old.uid, old.gid) != (new.uid, new.gid) && ino != Ino::ROOT && ino != Ino::TRASH {
        let mut ledger = Ledger::default();
        ledger.given(&old, &new);
        ledger.settle(txn, ctx, Limits::None)?;
    }
    txn.write(Write::SetAttr(ino, new.clone()));
    Ok(Ruled::Done(Changed::from(&old, new)))
}

/// What ioctl_iflags(2) says of flagged inodes: nobody changes their owner, mode or times; of those that are only
/// appended to, the times may become "now".
fn check_flags(ino: Ino, attr: &Attr, set: &SetAttr) -> Result<()> {
    let at = |time| matches!(time, Some(SetTime::At(_)));
    let fixed = set.mode.is_some() || set.uid.is_some() || set.gid.is_some() || at(set.atime) || at(set.mtime);
    if fixed {
        not_flagged(ino, attr, flags::IMMUTABLE | flags::APPEND)
    } else if set.atime.is_some() || set.mtime.is_some() {
        not_flagged(ino, attr, flags::IMMUTABLE)
    } else {
        Ok(())
    }
}

/// chown(2).
fn set_owner(caller: &Caller, ino: Ino, attr: &mut Attr, set: &SetAttr) -> Result<()> {
    let (uid, gid) = (set.uid.unwrap_or(attr.uid), set.gid.unwrap_or(attr.gid));
    if set.uid.is_none() && set.gid.is_none() {
        return Ok(());
    }
    if !caller.is_root() {
        if uid != attr.uid {
            return Err(not_permitted(ino, "only root gives a file away"));
        }
        if caller.uid != attr.uid {
            return Err(not_permitted(ino, "it belongs to somebody else"));
        }
        if gid != attr.gid && !caller.in_group(gid) {
            return Err(not_permitted(ino, "the caller is not in the new group"));
        }
    }
    if attr.kind != NodeType::Directory {
        attr.mode = without_set_id(caller, attr.mode);
    }
    (attr.uid, attr.gid) = (uid, gid);
    Ok(())
}

/// The mode after a change by somebody who must not pass on set-id rights: root keeps setgid where it means locking.
pub(super) const fn without_set_id(caller: &Caller, mode: u16) -> u16 {
    let group_executable = mode & 0o10 != 0;
    let keeps_setgid = caller.is_root() && !group_executable;
    mode & !0o4000 & if keeps_setgid { !0 } else { !0o2000 }
}

/// chmod(2).
fn set_mode(caller: &Caller, ino: Ino, attr: &mut Attr, set: &SetAttr) -> Result<()> {
    let Some(mut mode) = set.mode.map(|mode| mode & 0o7777) else {
        return Ok(());
    };
    if !caller.is_root() {
        // Whoever writes to a file of somebody else makes the kernel take set-id bits away: that much is allowed.
        let only_drops_set_id = mode & 0o1777 == attr.mode & 0o1777 && mode & !attr.mode == 0;
        if caller.uid != attr.uid && !only_drops_set_id {
            return Err(not_permitted(ino, "it belongs to somebody else"));
        }
        if !caller.in_group(attr.gid) {
            mode &= !0o2000;
        }
    }
    attr.mode = mode;
    Ok(())
}

/// utimensat(2).
fn set_times(ctx: &Context, caller: &Caller, ino: Ino, attr: &mut Attr, set: &SetAttr) -> Result<()> {
    let owns = caller.is_root() || caller.uid == attr.uid;
    for time in [set.atime, set.mtime].into_iter().flatten() {
        match time {
            _ if owns => {}
            SetTime::At(_) => return Err(not_permitted(ino, "only its owner sets a time")),
            // Whom an access list gives what, the kernel has checked.
            SetTime::Now if attr.access_acl != 0 || mode_permits(caller, attr, 2) => {}
            SetTime::Now => {
                return Err(Error::AccessDenied { ino, why: "neither owner nor allowed to write" });
            }
        }
    }
    let value = |time| match time {
        SetTime::Now => ctx.now,
        SetTime::At(time) => time,
    };
    attr.atime = set.atime.map_or(attr.atime, value);
    attr.mtime = set.mtime.map_or(attr.mtime, value);
    attr.ctime = set.ctime.map_or(attr.ctime, value);
    Ok(())
}

pub(super) const fn not_permitted(ino: Ino, why: &'static str) -> Error {
    Error::NotPermitted { ino, why }
}
