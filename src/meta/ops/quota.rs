//! Quotas of directories, and the room that statfs(2) shows (format.md §7.3).

use std::collections::BTreeSet;
use std::sync::Arc;

use stead_base::Ino;

use crate::error::{Error, Result};
use crate::records::{Counter, Key, Quota, Record, Write};
use crate::store::{Step, Store, Txn};

use super::Meta;
use super::context::{Context, directory};
use super::owner_quota;
use super::types::StatFs;

/// Shown as the size of a volume without a limit, doubled until at most 80 % of it are used.
const UNLIMITED_SPACE: u64 = 1 << 50;
/// Shown as free inodes of a volume without a limit, doubled until at most 80 % are used.
const UNLIMITED_INODES: u64 = 10 << 20;
/// Usage that changes while it is counted is counted again, so often.
pub(super) const ATTEMPTS: usize = 5;

pub(super) async fn load(store: &dyn Store) -> Result<BTreeSet<Ino>> {
    let quotas = store.list_quotas().await?;
    Ok(quotas.into_iter().map(|(dir, _quota)| dir).collect())
}

impl Meta {
    /// The quota of a directory, with its usage.
    ///
    /// # Errors
    /// Those of the engine.
    pub async fn get_quota(&self, dir: Ino) -> Result<Option<Quota>> {
        Ok(match self.read_one(Key::DirQuota(self.real(dir))).await? {
            Some(Record::Quota(quota)) => Some(quota),
            _ => None,
        })
    }

    /// Limits what lies below a directory, in bytes and inodes. `None` keeps a limit, 0 is no limit. Usage is counted
    /// before this returns; other clients enforce a new quota after a heartbeat at the latest.
    ///
    /// # Errors
    /// [`Error::NotDirectory`], [`Error::NoInode`], [`Error::Invalid`] for a limit of 8 EiB or more.
    pub async fn set_quota(&self, dir: Ino, max_space: Option<u64>, max_inodes: Option<u64>) -> Result<Quota> {
        self.writable()?;
        let dir = self.real(dir);
        let limits = (limit("space", max_space)?, limit("inodes", max_inodes)?);
        let fresh = self.transact(move |txn| set_limits(txn, dir, limits.0, limits.1)).await?;
        self.reload_quotas().await?;
        if fresh {
            self.check_quota(dir, true).await?;
        }
        self.get_quota(dir).await?.ok_or(Error::NoInode { ino: dir })
    }

    /// Removes a directory's quota; none is no error.
    ///
    /// # Errors
    /// Those of the engine.
    pub async fn del_quota(&self, dir: Ino) -> Result<()> {
        self.writable()?;
        let dir = self.real(dir);
        self.transact(move |txn| {
            txn.write(Write::DelDirQuota(dir));
            Ok(())
        })
        .await?;
        self.reload_quotas().await
    }

    /// Looks which directories, users and groups have limits; each heartbeat does. What is changed below one that is not
    /// known does not count in it.
    ///
    /// # Errors
    /// Those of the engine.
    pub async fn reload_quotas(&self) -> Result<()> {
        let quotas = load(self.store.as_ref()).await?;
        *self.quotas.write() = Arc::new(quotas);
        let limited = owner_quota::load(self.store.as_ref(), &self.format()).await?;
        *self.limited.write() = Arc::new(limited);
        Ok(())
    }

    /// All directories that have a quota.
    ///
    /// # Errors
    /// Those of the engine.
    pub async fn list_quotas(&self) -> Result<Vec<(Ino, Quota)>> {
        self.store.list_quotas().await
    }

    /// Counts what lies below a directory that has a quota, and compares; with `repair`, stores what was counted.
    ///
    /// # Errors
    /// [`Error::Invalid`] if the directory has no quota; [`Error::NoInode`].
    pub async fn check_quota(&self, dir: Ino, repair: bool) -> Result<QuotaCheck> {
        let dir = self.real(dir);
        if repair {
            self.writable()?;
        }
        let mut attempt = 0;
        loop {
            attempt += 1;
            let before = self.get_quota(dir).await?.ok_or(Error::Invalid {
                field: "directory",
                value: dir.to_string(),
                expected: "one that has a quota",
            })?;
            let tree = self.summary(dir).await?;
            let check = QuotaCheck {
                quota: before,
                space: tree.size.cast_signed() - 4096,
                inodes: (tree.files + tree.dirs).cast_signed() - 1,
            };
            let settled = self.transact(move |txn| settle_count(txn, dir, check, repair, attempt == ATTEMPTS)).await?;
            if settled {
                return Ok(check);
            }
        }
    }

    /// The room that a directory's file system shows: the volume's, or that of the tightest quota above `ino`.
    ///
    /// # Errors
    /// Those of the engine.
    pub async fn statfs(&self, ino: Ino) -> Result<StatFs> {
        let (ctx, dir) = (self.context(), self.real(ino));
        self.transact(move |txn| statfs(txn, &ctx, dir)).await
    }
}

/// What a quota says is in use, and what is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct QuotaCheck {
    /// As it was stored.
    pub quota: Quota,
    /// Bytes that were counted.
    pub space: i64,
    /// Inodes that were counted.
    pub inodes: i64,
}

impl QuotaCheck {
    /// Whether the two agree.
    pub const fn holds(&self) -> bool {
        self.quota.used_space == self.space && self.quota.used_inodes == self.inodes
    }
}

/// Stores a count if it is to be stored. False: usage changed while it was counted.
fn settle_count(txn: &mut Txn<'_>, dir: Ino, check: QuotaCheck, repair: bool, last: bool) -> Step<bool> {
    let Some(mut quota) = txn.dir_quota(dir)? else { return Ok(true) };
    if quota != check.quota && !last {
        return Ok(false);
    }
    if repair && !check.holds() {
        (quota.used_space, quota.used_inodes) = (check.space, check.inodes);
        txn.write(Write::SetDirQuota(dir, quota));
    }
    Ok(true)
}

pub(super) fn limit(field: &'static str, value: Option<u64>) -> Result<Option<i64>> {
    let checked = value.map(|value| {
        i64::try_from(value).map_err(|_too_large| Error::Invalid {
            field,
            value: value.to_string(),
            expected: "a limit below 2^63",
        })
    });
    checked.transpose()
}

/// True when the directory had no quota before, so that its usage is to be counted.
fn set_limits(txn: &mut Txn<'_>, dir: Ino, space: Option<i64>, inodes: Option<i64>) -> Step<bool> {
    txn.prime(&[Key::Attr(dir), Key::DirQuota(dir)])?;
    directory(txn, dir)?;
    let old = txn.dir_quota(dir)?;
    let none = Quota { max_space: -1, max_inodes: -1, ..Quota::default() };
    let mut quota = old.unwrap_or(none);
    quota.max_space = space.unwrap_or(quota.max_space);
    quota.max_inodes = inodes.unwrap_or(quota.max_inodes);
    txn.write(Write::SetDirQuota(dir, quota));
    Ok(old.is_none())
}

fn statfs(txn: &mut Txn<'_>, ctx: &Context, dir: Ino) -> Step<StatFs> {
    let counters = [Counter::UsedSpace, Counter::TotalInodes].map(Key::Counter);
    ctx.prime_hints(txn, counters.to_vec(), &[dir])?;
    let (used, iused) = (hinted(txn, Counter::UsedSpace)?, hinted(txn, Counter::TotalInodes)?);
    let mut shown = of_volume(ctx, used, iused);
    for quota in ctx.quotas_above(txn, dir)? {
        if let Some(Record::Quota(quota)) = txn.hint(&Key::DirQuota(quota))? {
            shrink(&mut shown, &quota);
        }
    }
    Ok(shown)
}

fn hinted(txn: &mut Txn<'_>, counter: Counter) -> Step<u64> {
    Ok(match txn.hint(&Key::Counter(counter))? {
        Some(Record::Number(number)) => number.max(0).cast_unsigned(),
        _ => 0,
    })
}

fn of_volume(ctx: &Context, used: u64, iused: u64) -> StatFs {
    let mut total = ctx.capacity;
    if total == 0 {
        total = UNLIMITED_SPACE;
        while used / 4 * 5 > total && total < 1 << 62 {
            total *= 2;
        }
    }
    let iavail = if ctx.inodes > 0 {
        ctx.inodes.saturating_sub(iused)
    } else {
        let mut avail = UNLIMITED_INODES;
        while iused / 4 > avail {
            avail *= 2;
        }
        avail
    };
    StatFs { total, avail: total.saturating_sub(used), iused, iavail }
}

/// Shows a quota's room instead, as far as it is tighter.
fn shrink(shown: &mut StatFs, quota: &Quota) {
    let left = |limit: i64, used: i64| limit.saturating_sub(used.max(0)).max(0).cast_unsigned();
    if quota.max_space > 0 {
        let avail = left(quota.max_space, quota.used_space);
        if avail < shown.avail {
            shown.avail = avail;
            shown.total = quota.max_space.cast_unsigned();
        }
    }
    if quota.max_inodes > 0 {
        let iavail = left(quota.max_inodes, quota.used_inodes);
        if iavail < shown.iavail {
            shown.iavail = iavail;
            shown.iused = quota.used_inodes.max(0).cast_unsigned();
        }
    }
}
