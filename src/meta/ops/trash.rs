//! What becomes of an inode that loses a name: it moves to the trash, keeps its other names, stays while it is open,
//! or goes (format.md §2.9, §2.12, §2.13).

use chrono::{DateTime, NaiveDateTime, Utc};
use stead_base::{Ino, Timestamp};

use crate::records::{Attr, Counter, Entry, Key, MAX_NAME, Name, NodeType, Write, flags};
use crate::store::{Step, Txn};

use super::context::Context;
use super::ledger::Ledger;

const HOUR: &str = "%Y-%m-%d-%H";

/// The name of the hourly directory for a time, UTC.
pub(super) fn hour_name(time: Timestamp) -> Name {
    let time = DateTime::<Utc>::from_timestamp(time.secs, 0).unwrap_or_default();
    Name::stored(time.format(HOUR).to_string().into())
}

/// When the hour of such a directory began, unix seconds; `None` for other names.
pub(super) fn hour_of(name: &Name) -> Option<i64> {
    let text = std::str::from_utf8(name.as_bytes()).ok()?;
    let start = NaiveDateTime::parse_from_str(&format!("{text}:00"), "%Y-%m-%d-%H:%M").ok()?;
    Some(start.and_utc().timestamp())
}

/// The name of an entry in the trash: where it was, what it is, how it was called.
pub(super) fn trash_name(parent: Ino, ino: Ino, name: &Name) -> Name {
    let mut bytes = format!("{parent}-{ino}-").into_bytes();
    bytes.extend_from_slice(name.as_bytes());
    bytes.truncate(MAX_NAME);
    Name::stored(bytes.into())
}

/// The keys that [`drop_name`] needs to move something to the trash.
pub(super) fn trash_keys(ctx: &Context) -> Vec<Key> {
    if ctx.trash { vec![Key::Entry(Ino::TRASH, hour_name(ctx.now))] } else { Vec::new() }
}

/// Whether the next name that goes to the trash makes the directory of its hour.
pub(super) fn needs_hour(txn: &mut Txn<'_>, ctx: &Context, skip_trash: bool) -> Step<bool> {
    Ok(ctx.trash && !skip_trash && txn.entry(Ino::TRASH, &hour_name(ctx.now))?.is_none())
}

/// What is left to do after the commit for an inode that lost a name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Left {
    /// Nothing.
    Nothing,
    /// The inode is gone; data of this length is to be removed.
    Data(Ino, u64),
    /// The inode goes when it is closed.
    Open(Ino),
}

/// One name of an inode, about to be taken away.
pub(super) struct Dropped<'a> {
    pub(super) dir: Ino,
    pub(super) name: &'a Name,
    pub(super) entry: Entry,
    pub(super) attr: Attr,
    /// Remove it even if there is a trash.
    pub(super) skip_trash: bool,
}

/// Does everything about the inode itself; the entry in its directory is the caller's.
pub(super) fn drop_name(txn: &mut Txn<'_>, ctx: &Context, ledger: &mut Ledger, gone: Dropped<'_>) -> Step<Left> {
    ledger.child(gone.dir, -1, &gone.attr);
    if gone.attr.is_dir() {
        txn.write(Write::DelDirStat(gone.entry.ino));
        txn.write(Write::DelDirQuota(gone.entry.ino));
    }
    let skips = gone.skip_trash || gone.dir.is_trash() || gone.attr.flags & flags::SKIP_TRASH != 0;
    if ctx.trash && !skips {
        let hour = hour_directory(txn, ctx)?;
        let name = trash_name(gone.dir, gone.entry.ino, gone.name);
        let hard_linked = !gone.attr.is_dir() && gone.attr.nlink > 1;
        if !hard_linked || txn.entry(hour.ino, &name)?.is_none() {
            move_to_trash(txn, ctx, ledger, gone, &hour, name);
            return Ok(Left::Nothing);
        }
    }
    Ok(remove(txn, ctx, ledger, gone))
}

struct HourDirectory {
    ino: Ino,
    name: Name,
    missing: bool,
}

/// Where removed names go now.
fn hour_directory(txn: &mut Txn<'_>, ctx: &Context) -> Step<HourDirectory> {
    let name = hour_name(ctx.now);
    if let Some(entry) = txn.entry(Ino::TRASH, &name)? {
        return Ok(HourDirectory { ino: entry.ino, name, missing: false });
    }
    let number = txn.counter(Counter::NextTrash)? + 1;
    Ok(HourDirectory { ino: Ino(Ino::TRASH.0 + number.unsigned_abs()), name, missing: true })
}

fn make_hour_directory(txn: &mut Txn<'_>, ctx: &Context, ledger: &mut Ledger, hour: &HourDirectory) {
    let attr = Attr {
        flags: 0,
        kind: NodeType::Directory,
        mode: 0o555,
        uid: 0,
        gid: 0,
        atime: ctx.now,
        mtime: ctx.now,
        ctime: ctx.now,
        nlink: 2,
        length: 4096,
        rdev: 0,
        parent: Ino::TRASH,
        access_acl: 0,
        default_acl: 0,
        tier: 0,
    };
    ledger.inode(1, &attr);
    ledger.child(Ino::TRASH, 1, &attr);
    let entry = Entry { kind: NodeType::Directory, ino: hour.ino };
    txn.write(Write::AddCounter(Counter::NextTrash, 1));
    txn.write(Write::SetAttr(hour.ino, attr));
    txn.write(Write::SetEntry(Ino::TRASH, hour.name.clone(), entry));
    if ctx.dir_stats {
        txn.write(Write::InitDirStat(hour.ino));
    }
}

fn move_to_trash(
    txn: &mut Txn<'_>,
    ctx: &Context,
    ledger: &mut Ledger,
    gone: Dropped<'_>,
    hour: &HourDirectory,
    name: Name,
) {
    if hour.missing {
        make_hour_directory(txn, ctx, ledger, hour);
    }
    let Dropped { dir, entry, mut attr, .. } = gone;
    attr.ctime = ctx.now;
    if attr.parent.0 > 0 {
        attr.parent = hour.ino;
    } else {
        txn.write(Write::AddParent(entry.ino, hour.ino, 1));
        txn.write(Write::AddParent(entry.ino, dir, -1));
    }
    ledger.child(hour.ino, 1, &attr);
    txn.write(Write::SetAttr(entry.ino, attr));
    txn.write(Write::SetEntry(hour.ino, name, entry));
}

/// Takes the name away for good.
fn remove(txn: &mut Txn<'_>, ctx: &Context, ledger: &mut Ledger, gone: Dropped<'_>) -> Left {
    let Dropped { dir, entry, mut attr, .. } = gone;
    let ino = entry.ino;
    attr.ctime = ctx.now;
    attr.nlink = if attr.is_dir() { 0 } else { attr.nlink.saturating_sub(1) };
    if attr.nlink > 0 {
        if attr.parent.0 == 0 {
            txn.write(Write::AddParent(ino, dir, -1));
        }
        txn.write(Write::SetAttr(ino, attr));
        return Left::Nothing;
    }
    if attr.parent.0 == 0 {
        txn.write(Write::DelParents(ino));
    }
    if attr.kind == NodeType::File && ctx.sid.0 > 0 && ctx.opened.is_open(ino) {
        txn.write(Write::SetAttr(ino, attr));
        txn.write(Write::AddSustained(ctx.sid, ino));
        return Left::Open(ino);
    }
    if attr.kind == NodeType::Symlink {
        txn.write(Write::DelSymlink(ino));
    }
    remove_inode(txn, ctx, ledger, ino, &attr)
}

/// Removes an inode without a name.
pub(super) fn remove_inode(txn: &mut Txn<'_>, ctx: &Context, ledger: &mut Ledger, ino: Ino, attr: &Attr) -> Left {
    ledger.inode(-1, attr);
    txn.write(Write::DelAttr(ino));
    txn.write(Write::DelXattrs(ino));
    if attr.kind != NodeType::File {
        return Left::Nothing;
    }
    txn.write(Write::AddDeleted(ino, attr.length, ctx.now.secs));
    Left::Data(ino, attr.length)
}
