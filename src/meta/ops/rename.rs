//! rename, with NOREPLACE, EXCHANGE and RESTORE (format.md §2.9).

use std::collections::BTreeMap;

use stead_base::{Ino, failpoint};

use crate::error::{Error, Result};
use crate::records::{Attr, Entry, Key, Name, Write, flags as inode_flags};
use crate::store::{Step, Txn};

use super::Meta;
use super::attributes::not_permitted;
use super::context::{Context, directory, existing, exists, named, no_entry, not_flagged, not_sticky, takes_names};
use super::ledger::{Amount, Ledger, Limits};
use super::trash::{Dropped, Left, drop_name, trash_keys};
use super::types::{Caller, rename_flags};

impl Meta {
    /// Gives an inode another name, replacing what had it. Returns what has the new name now.
    ///
    /// # Errors
    /// [`Error::NoEntry`], [`Error::Exists`], [`Error::NotEmpty`], [`Error::NotDirectory`], [`Error::IsDirectory`],
    /// [`Error::NotPermitted`], [`Error::AccessDenied`], [`Error::QuotaExceeded`]; [`Error::Invalid`] and
    /// [`Error::NotSupported`] for flags.
    pub async fn rename(
        &self,
        caller: &Caller,
        parent: Ino,
        name: &[u8],
        new_parent: Ino,
        new_name: &[u8],
        flags: u32,
    ) -> Result<(Ino, Attr)> {
        self.writable()?;
        let mode = Mode::of(flags)?;
        let (from, to) = (self.real(parent), self.real(new_parent));
        let (name, new_name) = (Name::entry(name)?, Name::entry(new_name)?);
        self.free_name(to, &new_name)?;
        if self.is_trash_name(from, &name) {
            return Err(not_permitted(Ino::TRASH, "the trash stays"));
        }
        self.note_stats([from, to]);
        let mut guesses = self.guesses.keys(from, &name);
        guesses.extend(self.guesses.keys(to, &new_name));
        let mut moving =
            Moving { caller: caller.clone(), from, name, to, new_name, mode, guesses, trees: BTreeMap::new() };
        loop {
            let ctx = self.context();
            let asked = moving.clone();
            failpoint::hit("meta.rename.before-commit");
            match self.transact(move |txn| rename(txn, &ctx, &asked)).await? {
                Renamed::Done { ino, attr, left } => {
                    failpoint::hit("meta.rename.after-commit");
                    self.guesses.note(to, &moving.new_name, ino);
                    if attr.is_dir() {
                        self.directories.remember(ino, to);
                    }
                    if mode == Mode::Exchange {
                        self.directories.forget_all();
                    }
                    self.finish(left);
                    return Ok((ino, attr));
                }
                Renamed::NeedsTree(dir) => {
                    let tree = self.summary(dir).await?;
                    let amount =
                        Amount { space: tree.size.cast_signed(), inodes: (tree.files + tree.dirs).cast_signed() };
                    moving.trees.insert(dir, amount);
                }
            }
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mode {
    Replace,
    NoReplace,
    Exchange,
    Restore,
}

impl Mode {
    fn of(flags: u32) -> Result<Self> {
        const RESTORE: u32 = rename_flags::RESTORE | rename_flags::NOREPLACE;
        match flags {
            0 => Ok(Self::Replace),
            rename_flags::NOREPLACE => Ok(Self::NoReplace),
            rename_flags::EXCHANGE => Ok(Self::Exchange),
            RESTORE => Ok(Self::Restore),
            _ if flags & !(rename_flags::WHITEOUT | rename_flags::NOREPLACE) == 0 => {
                Err(Error::NotSupported { what: "renaming with a whiteout" })
            }
            _ => Err(Error::Invalid {
                field: "rename flags",
                value: format!("{flags:#x}"),
                expected: "0, NOREPLACE (1) or EXCHANGE (2)",
            }),
        }
    }
}

/// What is to be moved where.
#[derive(Clone, Debug)]
struct Moving {
    caller: Caller,
    from: Ino,
    name: Name,
    to: Ino,
    new_name: Name,
    mode: Mode,
    guesses: Vec<Key>,
    /// Usage of directories that move from one quota to another, the directory included.
    trees: BTreeMap<Ino, Amount>,
}

enum Renamed {
    Done {
        ino: Ino,
        attr: Attr,
        left: Left,
    },
    /// The directory moves between quotas: its usage is needed. Nothing was written.
    NeedsTree(Ino),
}

/// One of the two names.
struct Side {
    entry: Entry,
    attr: Attr,
}

fn rename(txn: &mut Txn<'_>, ctx: &Context, asked: &Moving) -> Step<Renamed> {
    let mut keys = vec![
        Key::Attr(asked.from),
        Key::Attr(asked.to),
        Key::Entry(asked.from, asked.name.clone()),
        Key::Entry(asked.to, asked.new_name.clone()),
    ];
    keys.extend(asked.guesses.iter().cloned());
    keys.extend(trash_keys(ctx));
    ctx.prime(txn, &keys, &[asked.from, asked.to])?;

    let (from, to) = (directory(txn, asked.from)?, directory(txn, asked.to)?);
    let entry = named(txn, asked.from, &asked.name)?;
    let target = txn.entry(asked.to, &asked.new_name)?;
    let mut inodes = vec![Key::Attr(entry.ino)];
    inodes.extend(target.map(|target| Key::Attr(target.ino)));
    txn.prime(&inodes)?;
    let source = Side { entry, attr: existing(txn, entry.ino)? };
    check_directories(asked, &from, &to)?;
    check_source(asked, &from, &to, &source)?;
    let target = match target {
        Some(target) if target.ino == entry.ino => {
            return Ok(Renamed::Done { ino: entry.ino, attr: source.attr, left: Left::Nothing });
        }
        Some(entry) => Some(Side { entry, attr: existing(txn, entry.ino)? }),
        None => None,
    };
    let mut parents = Parents::new(asked, from, to);
    let mut ledger = Ledger::default();
    if let Some(dir) = account(txn, ctx, asked, &mut ledger, &source, 1)? {
        return Ok(Renamed::NeedsTree(dir));
    }
    match (asked.mode, target) {
        (Mode::Exchange, Some(target)) => exchange(txn, ctx, asked, parents, ledger, source, target),
        (Mode::Exchange, None) => Err(no_entry(asked.to, &asked.new_name).into()),
        (Mode::NoReplace | Mode::Restore, Some(_)) => Err(exists(asked.to, &asked.new_name).into()),
        (_, target) => {
            let left = match target {
                Some(target) => replace(txn, ctx, asked, &mut parents, &mut ledger, &source, target)?,
                None => Left::Nothing,
            };
            let attr = put(txn, ctx, asked, &mut parents, &source)?;
            parents.write(txn, ctx);
            ledger.settle(txn, ctx, Limits::Quotas)?;
            let ino = source.entry.ino;
            Ok(Renamed::Done { ino, attr, left })
        }
    }
}

/// The attributes of the two directories; one and the same when the name stays in its directory.
struct Parents {
    from: Ino,
    to: Ino,
    from_attr: Attr,
    to_attr: Attr,
    from_links: i64,
    to_links: i64,
}

impl Parents {
    fn new(asked: &Moving, from_attr: Attr, to_attr: Attr) -> Self {
        Self { from: asked.from, to: asked.to, from_attr, to_attr, from_links: 0, to_links: 0 }
    }

    fn write(mut self, txn: &mut Txn<'_>, ctx: &Context) {
        if self.from == self.to {
            self.to_links += self.from_links;
        } else if !self.from.is_trash() && change(ctx, &mut self.from_attr, self.from_links) {
            txn.write(Write::SetAttr(self.from, self.from_attr));
        }
        if change(ctx, &mut self.to_attr, self.to_links) {
            txn.write(Write::SetAttr(self.to, self.to_attr));
        }
    }
}

fn change(ctx: &Context, dir: &mut Attr, links: i64) -> bool {
    dir.nlink = dir.nlink.saturating_add_signed(i32::try_from(links).expect("one directory at most moves each way"));
    ctx.touch(dir, links != 0)
}

fn check_directories(asked: &Moving, from: &Attr, to: &Attr) -> Result<()> {
    match (asked.mode, asked.from.is_trash()) {
        (Mode::Restore, true) if asked.caller.is_root() => {}
        (Mode::Restore, _) => return Err(not_permitted(asked.from, "only root restores, and only from the trash")),
        (_, true) => return Err(not_permitted(asked.from, "entries of the trash are restored, not renamed")),
        (_, false) => {}
    }
    not_flagged(asked.from, from, inode_flags::IMMUTABLE | inode_flags::APPEND)?;
    if asked.mode == Mode::Restore && !asked.to.is_trash() {
        // Into a directory that is in the trash itself: so a removed tree becomes whole again.
        return not_flagged(asked.to, to, inode_flags::IMMUTABLE);
    }
    takes_names(asked.to, to)
}

fn check_source(asked: &Moving, from: &Attr, to: &Attr, source: &Side) -> Result<()> {
    let ino = source.entry.ino;
    if ino == asked.to || ino == to.parent {
        return Err(not_permitted(ino, "a directory does not move into itself"));
    }
    not_flagged(ino, &source.attr, inode_flags::IMMUTABLE | inode_flags::APPEND)?;
    not_sticky(&asked.caller, from, ino, &source.attr)?;
    let leaves = asked.from != asked.to && source.attr.is_dir() && from.mode & 0o1000 != 0;
    if leaves && !asked.caller.is_root() && asked.caller.uid != source.attr.uid {
        return Err(Error::AccessDenied { ino, why: "a directory leaves a sticky one only with its owner" });
    }
    Ok(())
}

/// Books the move of one side; `direction` is 1 from source to destination, -1 back. `Some` names a directory whose
/// usage must be known.
fn account(
    txn: &mut Txn<'_>,
    ctx: &Context,
    asked: &Moving,
    ledger: &mut Ledger,
    side: &Side,
    direction: i64,
) -> Step<Option<Ino>> {
    if asked.from == asked.to {
        return Ok(None);
    }
    ledger.entry(asked.from, -direction, &side.attr);
    ledger.entry(asked.to, direction, &side.attr);
    if ctx.quotas_above(txn, asked.from)? == ctx.quotas_above(txn, asked.to)? {
        return Ok(None);
    }
    let amount = if side.attr.is_dir() {
        match asked.trees.get(&side.entry.ino) {
            Some(amount) => *amount,
            None => return Ok(Some(side.entry.ino)),
        }
    } else {
        Amount { space: side.attr.space(), inodes: 1 }
    };
    ledger.tree(asked.from, -direction * amount.space, -direction * amount.inodes);
    ledger.tree(asked.to, direction * amount.space, direction * amount.inodes);
    Ok(None)
}

/// Checks the target and takes its name away.
fn replace(
    txn: &mut Txn<'_>,
    ctx: &Context,
    asked: &Moving,
    parents: &mut Parents,
    ledger: &mut Ledger,
    source: &Side,
    target: Side,
) -> Step<Left> {
    let ino = target.entry.ino;
    let target_is_dir = target.attr.is_dir();
    not_flagged(ino, &target.attr, inode_flags::IMMUTABLE | inode_flags::APPEND)?;
    match (source.attr.is_dir(), target_is_dir) {
        (false, true) => return Err(Error::IsDirectory { ino }.into()),
        (true, false) => return Err(Error::NotDirectory { ino }.into()),
        (true, true) if txn.has_entries(ino)? => return Err(Error::NotEmpty { ino }.into()),
        _ => {}
    }
    not_sticky(&asked.caller, &parents.to_attr, ino, &target.attr)?;
    if target_is_dir {
        parents.to_links -= 1;
    }
    txn.write(Write::DelEntry(asked.to, asked.new_name.clone()));
    let gone =
        Dropped { dir: asked.to, name: &asked.new_name, entry: target.entry, attr: target.attr, skip_trash: false };
    drop_name(txn, ctx, ledger, gone)
}

/// Moves the source under its new name.
fn put(txn: &mut Txn<'_>, ctx: &Context, asked: &Moving, parents: &mut Parents, source: &Side) -> Step<Attr> {
    let entry = source.entry;
    let mut attr = source.attr.clone();
    attr.ctime = ctx.now;
    // In this order the directory's hash never is without an entry, and so never gone, before the last write to it: a node
    // of a Redis cluster whose slot is moving refuses, in the middle of a script, to write to a key that it has not.
    txn.write(Write::SetEntry(asked.to, asked.new_name.clone(), entry));
    txn.write(Write::DelEntry(asked.from, asked.name.clone()));
    move_parent(txn, entry.ino, &mut attr, asked.from, asked.to);
    if attr.is_dir() && asked.from != asked.to {
        parents.from_links -= 1;
        parents.to_links += 1;
    }
    if asked.mode == Mode::Restore && attr.is_dir() && ctx.dir_stats && !txn.has_entries(entry.ino)? {
        // A directory loses its statistics with its name. Those of one that is no longer empty are recomputed.
        txn.write(Write::InitDirStat(entry.ino));
    }
    txn.write(Write::SetAttr(entry.ino, attr.clone()));
    Ok(attr)
}

fn move_parent(txn: &mut Txn<'_>, ino: Ino, attr: &mut Attr, from: Ino, to: Ino) {
    if from == to {
        return;
    }
    if attr.parent.0 > 0 {
        attr.parent = to;
    } else {
        txn.write(Write::AddParent(ino, to, 1));
        txn.write(Write::AddParent(ino, from, -1));
    }
}

fn exchange(
    txn: &mut Txn<'_>,
    ctx: &Context,
    asked: &Moving,
    mut parents: Parents,
    mut ledger: Ledger,
    source: Side,
    target: Side,
) -> Step<Renamed> {
    let ino = target.entry.ino;
    not_flagged(ino, &target.attr, inode_flags::IMMUTABLE | inode_flags::APPEND)?;
    not_sticky(&asked.caller, &parents.to_attr, ino, &target.attr)?;
    if ino == asked.from {
        return Err(not_permitted(ino, "a directory does not move into itself").into());
    }
    if let Some(dir) = account(txn, ctx, asked, &mut ledger, &target, -1)? {
        return Ok(Renamed::NeedsTree(dir));
    }
    if asked.from != asked.to {
        let links = i64::from(source.attr.is_dir()) - i64::from(target.attr.is_dir());
        parents.from_links -= links;
        parents.to_links += links;
    }
    let (mut moved, mut back) = (source.attr, target.attr);
    move_parent(txn, source.entry.ino, &mut moved, asked.from, asked.to);
    move_parent(txn, ino, &mut back, asked.to, asked.from);
    moved.ctime = ctx.now;
    back.ctime = ctx.now;
    txn.write(Write::SetAttr(source.entry.ino, moved.clone()));
    txn.write(Write::SetAttr(ino, back));
    txn.write(Write::SetEntry(asked.to, asked.new_name.clone(), source.entry));
    txn.write(Write::SetEntry(asked.from, asked.name.clone(), target.entry));
    parents.write(txn, ctx);
    ledger.settle(txn, ctx, Limits::Quotas)?;
    Ok(Renamed::Done { ino: source.entry.ino, attr: moved, left: Left::Nothing })
}
