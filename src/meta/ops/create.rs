//! mknod, create, mkdir, symlink, link (format.md §2.9).

use bytes::Bytes;
use stead_base::{Ino, failpoint};
use tracing::warn;

use crate::error::{Error, Result};
use crate::records::{Attr, Entry, Key, MAX_SYMLINK, Name, NodeType, Write, flags};
use crate::store::{Step, Txn};

use super::Meta;
use super::acl::{self, Ruled};
use super::context::{Context, directory, existing, exists, not_flagged, takes_names};
use super::ledger::{Ledger, Limits};
use super::tmpfile;
use super::types::{Caller, NewNode};

impl Meta {
    /// Makes an inode of any kind under a new name.
    ///
    /// # Errors
    /// [`Error::Exists`], the rules for names and directories, and limits: [`Error::NoSpace`], [`Error::QuotaExceeded`].
    pub async fn mknod(&self, caller: &Caller, parent: Ino, name: &[u8], new: NewNode) -> Result<(Ino, Attr)> {
        let (parent, name) = (self.real(parent), Name::entry(name)?);
        let made = self.make(caller, parent, &name, new).await?;
        if made.fresh { Ok((made.ino, made.attr)) } else { Err(exists(parent, &name)) }
    }

    /// Makes a directory.
    ///
    /// # Errors
    /// As of [`Meta::mknod`].
    pub async fn mkdir(&self, caller: &Caller, parent: Ino, name: &[u8], mode: u16, umask: u16) -> Result<(Ino, Attr)> {
        self.mknod(caller, parent, name, NewNode::directory(mode, umask)).await
    }

    /// Makes a symbolic link.
    ///
    /// # Errors
    /// As of [`Meta::mknod`]; [`Error::Invalid`] or [`Error::TooLarge`] for the target.
    pub async fn symlink(&self, caller: &Caller, parent: Ino, name: &[u8], target: &[u8]) -> Result<(Ino, Attr)> {
        let new = NewNode::symlink(Bytes::copy_from_slice(target));
        self.mknod(caller, parent, name, new).await
    }

    /// Makes a file and opens it; unless `exclusive`, an existing file is opened. To be followed by [`Meta::close`].
    ///
    /// # Errors
    /// As of [`Meta::mknod`]; [`Error::IsDirectory`] if a directory has the name.
    pub async fn create(
        &self,
        caller: &Caller,
        parent: Ino,
        name: &[u8],
        mode: u16,
        umask: u16,
        exclusive: bool,
    ) -> Result<(Ino, Attr)> {
        let (parent, name) = (self.real(parent), Name::entry(name)?);
        let made = self.make(caller, parent, &name, NewNode::file(mode, umask)).await?;
        if !made.fresh {
            match made.attr.kind {
                _ if exclusive => return Err(exists(parent, &name)),
                NodeType::File => {}
                NodeType::Directory => return Err(Error::IsDirectory { ino: made.ino }),
                _ => return Err(exists(parent, &name)),
            }
        }
        self.opened.open(made.ino);
        Ok((made.ino, made.attr))
    }

    /// Gives an inode that is no directory another name, or one of [`Meta::tmpfile`] its first.
    ///
    /// # Errors
    /// [`Error::Exists`], [`Error::NotPermitted`] for directories, and the rules for directories and quotas.
    pub async fn link(&self, caller: &Caller, ino: Ino, parent: Ino, name: &[u8]) -> Result<Attr> {
        self.writable()?;
        let (ctx, parent, name) = (self.context(), self.real(parent), Name::entry(name)?);
        let _ = caller; // Who may link is the kernel's decision; the parameter is there for a changelog to name.
        self.free_name(parent, &name)?;
        self.note_stats([parent]);
        let noted = name.clone();
        let attr = self.transact(move |txn| link(txn, &ctx, ino, parent, &name)).await?;
        self.guesses.note(parent, &noted, ino);
        Ok(attr)
    }

    async fn make(&self, caller: &Caller, parent: Ino, name: &Name, new: NewNode) -> Result<Made> {
        self.writable()?;
        check_new(&new)?;
        self.free_name(parent, name)?;
        let is_dir = new.kind == NodeType::Directory;
        failpoint::hit("meta.create.before-commit");
        let made = loop {
            let ino = self.new_inode().await?;
            let (ctx, caller, noted, new) = (self.context(), caller.clone(), name.clone(), new.clone());
            let body = move |txn: &mut Txn<'_>| make(txn, &ctx, &caller, parent, &noted, ino, &new);
            match self.transact_ruled(body).await? {
                Some(made) => break made,
                // An engine that failed over may have lost that it gave the number away.
                None => warn!(%ino, "the engine gave out the number of an existing inode, taking another"),
            }
        };
        failpoint::hit("meta.create.after-commit");
        self.guesses.note(parent, name, made.ino);
        self.note_stats([parent]);
        if made.fresh && is_dir {
            self.directories.remember(made.ino, parent);
            self.checked_stats.insert(made.ino);
        }
        Ok(made)
    }

    /// Refuses names that are taken by something that is not stored.
    pub(super) fn free_name(&self, parent: Ino, name: &Name) -> Result<()> {
        if self.is_trash_name(parent, name) { Err(exists(parent, name)) } else { Ok(()) }
    }
}

/// What has the name now.
struct Made {
    ino: Ino,
    attr: Attr,
    fresh: bool,
}

fn check_new(new: &NewNode) -> Result<()> {
    let Some(target) = &new.target else {
        return match new.kind {
            NodeType::Symlink => Err(Error::Invalid {
                field: "symlink target",
                value: String::new(),
                expected: "1 to 4096 bytes without NUL",
            }),
            _ => Ok(()),
        };
    };
    if target.len() > MAX_SYMLINK {
        return Err(Error::TooLarge { length: target.len(), limit: MAX_SYMLINK });
    }
    if target.is_empty() || target.contains(&0) {
        return Err(Error::Invalid {
            field: "symlink target",
            value: String::from_utf8_lossy(target).into_owned(),
            expected: "1 to 4096 bytes without NUL",
        });
    }
    Ok(())
}

/// `None`: there is an inode of that number.
fn make(
    txn: &mut Txn<'_>,
    ctx: &Context,
    caller: &Caller,
    parent: Ino,
    name: &Name,
    ino: Ino,
    new: &NewNode,
) -> Step<Ruled<Option<Made>>> {
    ctx.prime(txn, &[Key::Attr(parent), Key::Entry(parent, name.clone())], &[parent])?;
    let mut dir = directory(txn, parent)?;
    takes_names(parent, &dir)?;
    if let Some(entry) = txn.entry(parent, name)? {
        let attr = existing(txn, entry.ino)?;
        return Ok(Ruled::Done(Some(Made { ino: entry.ino, attr, fresh: false })));
    }
    if txn.get_unlikely(&Key::Attr(ino))?.is_some() {
        return Ok(Ruled::Done(None));
    }
    let mut attr = new_attr(ctx, caller, parent, &dir, new);
    if let Some(rule) = acl::inherit(txn, ctx, &dir, new, &mut attr)? {
        return Ok(Ruled::Needs(rule));
    }
    let is_dir = attr.is_dir();
    txn.write(Write::SetAttr(ino, attr.clone()));
    if let Some(target) = &new.target {
        txn.write(Write::SetSymlink(ino, target.clone()));
    }
    txn.write(Write::SetEntry(parent, name.clone(), Entry { kind: new.kind, ino }));
    if is_dir {
        dir.nlink += 1;
        if ctx.dir_stats {
            txn.write(Write::InitDirStat(ino));
        }
    }
    if ctx.touch(&mut dir, is_dir) {
        txn.write(Write::SetAttr(parent, dir));
    }
    let mut ledger = Ledger::default();
    ledger.inode(1, &attr);
    ledger.child(parent, 1, &attr);
    ledger.settle(txn, ctx, Limits::All)?;
    Ok(Ruled::Done(Some(Made { ino, attr, fresh: true })))
}

pub(super) fn new_attr(ctx: &Context, caller: &Caller, parent: Ino, dir: &Attr, new: &NewNode) -> Attr {
    let is_dir = new.kind == NodeType::Directory;
    let mut mode = match new.kind {
        NodeType::Symlink => 0o777,
        _ => new.mode & 0o7777 & !new.umask,
    };
    let mut gid = caller.gid;
    if dir.mode & 0o2000 != 0 {
        gid = dir.gid;
        if is_dir {
            mode |= 0o2000;
        } else if mode & 0o2010 == 0o2010 && !caller.is_root() && !caller.in_group(gid) {
            mode &= !0o2000;
        }
    }
    Attr {
        flags: dir.flags & flags::SKIP_TRASH,
        kind: new.kind,
        mode,
        uid: caller.uid,
        gid,
        atime: ctx.now,
        mtime: ctx.now,
        ctime: ctx.now,
        nlink: if is_dir { 2 } else { 1 },
        length: match &new.target {
            Some(target) => target.len() as u64,
            None if is_dir => 4096,
            None => 0,
        },
        rdev: new.rdev,
        parent,
        access_acl: 0,
        default_acl: 0,
        tier: dir.tier,
    }
}

fn link(txn: &mut Txn<'_>, ctx: &Context, ino: Ino, parent: Ino, name: &Name) -> Step<Attr> {
    ctx.prime(txn, &[Key::Attr(ino), Key::Attr(parent), Key::Entry(parent, name.clone())], &[parent])?;
    let mut dir = directory(txn, parent)?;
    takes_names(parent, &dir)?;
    let mut attr = existing(txn, ino)?;
    if attr.is_dir() {
        let why = "a directory has one name only";
        return Err(Error::NotPermitted { ino, why }.into());
    }
    not_flagged(ino, &attr, flags::IMMUTABLE | flags::APPEND)?;
    if attr.parent.0 > Ino::TRASH.0 {
        return Err(Error::NoInode { ino }.into());
    }
    if txn.entry(parent, name)?.is_some() {
        return Err(exists(parent, name).into());
    }
    if attr.nlink == 0 {
        tmpfile::name(txn, ctx, ino, &mut attr, parent)?;
    } else {
        if attr.parent.0 > 0 {
            txn.write(Write::AddParent(ino, attr.parent, 1));
            attr.parent = Ino(0);
        }
        attr.nlink += 1;
        txn.write(Write::AddParent(ino, parent, 1));
    }
    attr.ctime = ctx.now;
    txn.write(Write::SetAttr(ino, attr.clone()));
    txn.write(Write::SetEntry(parent, name.clone(), Entry { kind: attr.kind, ino }));
    if ctx.touch(&mut dir, false) {
        txn.write(Write::SetAttr(parent, dir));
    }
    let mut ledger = Ledger::default();
    ledger.child(parent, 1, &attr);
    ledger.settle(txn, ctx, Limits::All)?;
    Ok(attr)
}
