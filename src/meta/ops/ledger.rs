//! What an operation changes in the usage of the volume, of directories and of quotas: collected while its body runs,
//! checked against the limits, and written in the same transaction. So usage is exact at every moment.

use std::collections::BTreeMap;

use stead_base::Ino;

use crate::error::Error;
use crate::records::{Attr, Counter, DirStat, Key, NodeType, Quota, Record, Write};
use crate::store::{Step, Txn};

use super::context::Context;

/// Which limits a change has to keep.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Limits {
    /// Of the volume and of directories.
    All,
    /// Of directories: a move adds nothing to the volume.
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
    fn add(&mut self, space: i64, inodes: i64) {
        self.space += space;
        self.inodes += inodes;
    }
}

/// The changes of one operation.
#[derive(Debug, Default)]
pub(super) struct Ledger {
    volume: Amount,
    children: BTreeMap<Ino, DirStat>,
    trees: BTreeMap<Ino, Amount>,
}

impl Ledger {
    /// Inodes appear in the volume or leave it.
    pub(super) fn volume(&mut self, space: i64, inodes: i64) {
        self.volume.add(space, inodes);
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
    pub(super) fn settle(self, txn: &mut Txn<'_>, ctx: &Context, limits: Limits) -> Step<()> {
        let quotas = self.quotas(txn, ctx)?;
        if limits == Limits::All {
            check_volume(txn, ctx, self.volume)?;
        }
        if limits != Limits::None {
            for (dir, change) in &quotas {
                check_quota(txn, *dir, *change)?;
            }
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
    if change.space <= 0 && change.inodes <= 0 {
        return Ok(());
    }
    let Some(Record::Quota(quota)) = txn.hint(&Key::DirQuota(dir))? else {
        return Ok(());
    };
    Ok(within(dir, &quota, change)?)
}

fn within(dir: Ino, quota: &Quota, change: Amount) -> Result<(), Error> {
    for (what, limit, used, change) in [
        ("space", quota.max_space, quota.used_space, change.space),
        ("inodes", quota.max_inodes, quota.used_inodes, change.inodes),
    ] {
        if limit > 0 && change > 0 && used.saturating_add(change) > limit {
            return Err(Error::QuotaExceeded { dir, what, limit });
        }
    }
    Ok(())
}
