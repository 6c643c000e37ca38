//! What an operation changes in the usage of the volume, of owners, of directories and of quotas: collected while its body runs,
//! checked against the limits, and written in the same transaction. So usage is exact at every moment.

use std::collections::BTreeMap;

use stead_base::Ino;

use crate::error::Error;
use crate::records::{Attr, Counter, DirStat, Key, NodeType, Principal, Quota, Record, Write};
use crate::store::{Step, Txn};

use super::context::Context;

/// Which limits a change has to keep.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Limits {
    /// Of owners, of the volume and of directories.
    All,
    /// Of directories: a move adds nothing to the volume or its owner.
    Quotas,
    /// None: whatever frees space must be possible in a full volume, even if the trash needs a directory for it.
    None,
}

/// Bytes and inodes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Amount {
    pub(super) space: i64,
    pub(super) inodes: i64,
}

impl Amount {
    pub(super) fn add(&mut self, space: i64, inodes: i64) {
        self.space += space;
        self.inodes += inodes;
    }

    const fn grows(self) -> bool {
        self.space > 0 || self.inodes > 0
    }
}

/// The changes of one operation.
#[derive(Debug, Default)]
pub(super) struct Ledger {
    volume: Amount,
    owners: BTreeMap<Principal, Amount>,
    children: BTreeMap<Ino, DirStat>,
    trees: BTreeMap<Ino, Amount>,
}

impl Ledger {
    /// An inode appears in the volume (+1) or leaves it (-1).
    pub(super) fn inode(&mut self, sign: i64, attr: &Attr) {
        self.volume.add(sign * attr.space(), sign);
        self.owned(attr, sign * attr.space(), sign);
    }

    /// A file's length changes.
    pub(super) fn resized(&mut self, old: &Attr, new: &Attr) {
        let space = new.space() - old.space();
        self.volume.add(space, 0);
        self.owned(new, space, 0);
    }

    /// An inode gets another owner or group.
    pub(super) fn given(&mut self, old: &Attr, new: &Attr) {
        self.owned(old, -old.space(), -1);
        self.owned(new, new.space(), 1);
    }

    fn owned(&mut self, attr: &Attr, space: i64, inodes: i64) {
        for principal in [Principal::User(attr.uid), Principal::Group(attr.gid)] {
            self.owners.entry(principal).or_default().add(space, inodes);
        }
    }

    /// A name with everything that counts for it appears in `dir` (+1) or leaves it (-1).
    pub(super) fn child(&mut self, dir: Ino, sign: i64, attr: &Attr) {
        self.entry(dir, sign, attr);
        self.tree(dir, sign * attr.space(), sign);
    }

    /// The same for the directory's own statistics only.
    pub(super) fn entry(&mut self, dir: Ino, sign: i64, attr: &Attr) {
        let stat = self.children.entry(dir).or_default();
        stat.length += sign * file_length(attr);
        stat.space += sign * attr.space();
        stat.inodes += sign;
    }

    /// The usage below `dir`, as quotas count it, changes.
    pub(super) fn tree(&mut self, dir: Ino, space: i64, inodes: i64) {
        self.trees.entry(dir).or_default().add(space, inodes);
    }

    /// A file that has `names` names in `dir` changes its length.
    pub(super) fn grown(&mut self, dir: Ino, names: i64, old: &Attr, new: &Attr) {
        let space = names * (new.space() - old.space());
        let stat = self.children.entry(dir).or_default();
        stat.length += names * (file_length(new) - file_length(old));
        stat.space += space;
        self.tree(dir, space, 0);
    }

    /// Checks the limits and writes everything.
    pub(super) fn settle(mut self, txn: &mut Txn<'_>, ctx: &Context, limits: Limits) -> Step<()> {
        let quotas = self.quotas(txn, ctx)?;
        self.owners.retain(|_principal, change| ctx.owner_usage && *change != Amount::default());
        if limits == Limits::All {
            check_owners(txn, ctx, &self.owners)?;
            check_volume(txn, ctx, self.volume)?;
        }
        if limits != Limits::None {
            for (dir, change) in &quotas {
                check_quota(txn, *dir, *change)?;
            }
        }
        for (principal, change) in self.owners {
            txn.write(Write::AddOwnerQuotaUsed(principal, change.space, change.inodes));
        }
        if self.volume.space != 0 {
            txn.write(Write::AddCounter(Counter::UsedSpace, self.volume.space));
        }
        if self.volume.inodes != 0 {
            txn.write(Write::AddCounter(Counter::TotalInodes, self.volume.inodes));
        }
        for (dir, stat) in self.children {
            if ctx.dir_stats && stat != DirStat::default() {
                txn.write(Write::AddDirStat(dir, stat));
            }
        }
        for (dir, change) in quotas {
            txn.write(Write::AddDirQuotaUsed(dir, change.space, change.inodes));
        }
        Ok(())
    }

    fn quotas(&self, txn: &mut Txn<'_>, ctx: &Context) -> Step<BTreeMap<Ino, Amount>> {
        let mut quotas: BTreeMap<Ino, Amount> = BTreeMap::new();
        for (dir, change) in &self.trees {
            for quota in ctx.quotas_above(txn, *dir)? {
                quotas.entry(quota).or_default().add(change.space, change.inodes);
            }
        }
        quotas.retain(|_dir, change| *change != Amount::default());
        Ok(quotas)
    }
}

const fn file_length(attr: &Attr) -> i64 {
    match attr.kind {
        NodeType::File => attr.length.cast_signed(),
        _ => 0,
    }
}

/// Users first, as they are sorted.
fn check_owners(txn: &mut Txn<'_>, ctx: &Context, owners: &BTreeMap<Principal, Amount>) -> Step<()> {
    let limited = owners.iter().filter(|(principal, change)| ctx.limited.contains(principal) && change.grows());
    for (principal, change) in limited {
        if let Some(Record::Quota(quota)) = txn.hint(&Key::OwnerQuota(*principal))?
            && let Some((what, limit)) = exceeded(&quota, *change)
        {
            return Err(Error::OwnerQuotaExceeded { of: *principal, what, limit }.into());
        }
    }
    Ok(())
}

fn check_volume(txn: &mut Txn<'_>, ctx: &Context, change: Amount) -> Step<()> {
    for (what, limit, counter, change) in [
        ("space", ctx.capacity, Counter::UsedSpace, change.space),
        ("inodes", ctx.inodes, Counter::TotalInodes, change.inodes),
    ] {
        if limit == 0 || change <= 0 {
            continue;
        }
        let used = match txn.hint(&Key::Counter(counter))? {
            Some(Record::Number(used)) => used,
            _ => 0,
        };
        if i128::from(used) + i128::from(change) > i128::from(limit) {
            return Err(Error::NoSpace { what, limit }.into());
        }
    }
    Ok(())
}

fn check_quota(txn: &mut Txn<'_>, dir: Ino, change: Amount) -> Step<()> {
    if change.grows()
        && let Some(Record::Quota(quota)) = txn.hint(&Key::DirQuota(dir))?
        && let Some((what, limit)) = exceeded(&quota, change)
    {
        return Err(Error::QuotaExceeded { dir, what, limit }.into());
    }
    Ok(())
}

/// The limit that a change does not keep.
fn exceeded(quota: &Quota, change: Amount) -> Option<(&'static str, i64)> {
    let limits = [
        ("space", quota.max_space, quota.used_space, change.space),
        ("inodes", quota.max_inodes, quota.used_inodes, change.inodes),
    ];
    let mut broken = limits
        .into_iter()
        .filter(|(_, limit, used, change)| *limit > 0 && *change > 0 && used.saturating_add(*change) > *limit);
    broken.next().map(|(what, limit, _, _)| (what, limit))
}
