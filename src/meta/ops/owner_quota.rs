//! Usage and limits of users and groups (format.md §7.3). Once it is enabled, the usage of everybody is kept, in the
//! transaction that causes it: every inode but the two roots counts for its owner and its group, in the trash as well.

use std::collections::{BTreeMap, BTreeSet, HashSet};

use bytes::Bytes;
use stead_base::Ino;
use tracing::info;

use crate::error::{Error, Result};
use crate::format::Format;
use crate::records::{Key, Principal, Quota, Record, Write};
use crate::store::{Cursor, Step, Store, Txn};

use super::Meta;
use super::ledger::Amount;
use super::quota::{ATTEMPTS, limit};

/// Inodes fetched at a time when all are counted.
const PAGE: usize = 5000;
/// Of somebody who owns nothing and is not limited.
const NONE: Quota = Quota { max_space: -1, max_inodes: -1, used_space: 0, used_inodes: 0 };

/// The users and groups that have a limit.
pub(super) async fn load(store: &dyn Store, format: &Format) -> Result<BTreeSet<Principal>> {
    if !format.user_group_quota {
        return Ok(BTreeSet::new());
    }
    let quotas = store.list_owner_quotas().await?.into_iter();
    Ok(quotas.filter(|(_of, quota)| is_limited(quota)).map(|(of, _quota)| of).collect())
}

const fn is_limited(quota: &Quota) -> bool {
    quota.max_space > 0 || quota.max_inodes > 0
}

/// What is stored of somebody's usage, and what was counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OwnerUsage {
    /// Whose.
    pub of: Principal,
    /// As it was stored.
    pub quota: Quota,
    /// Bytes that were counted.
    pub space: i64,
    /// Inodes that were counted.
    pub inodes: i64,
}

impl OwnerUsage {
    const fn holds(&self) -> bool {
        self.quota.used_space == self.space && self.quota.used_inodes == self.inodes
    }
}

impl Meta {
    /// Limits and usage of a user or a group; `None` if nothing is known of it.
    ///
    /// # Errors
    /// Those of the engine.
    pub async fn get_owner_quota(&self, of: Principal) -> Result<Option<Quota>> {
        Ok(match self.read_one(Key::OwnerQuota(of)).await? {
            Some(Record::Quota(quota)) => Some(quota),
            _ => None,
        })
    }

    /// Limits what a user or a group may own, in bytes and inodes. `None` keeps a limit, 0 is no limit. The first limit of
    /// a volume enables the accounts of all ([`Meta::enable_owner_quotas`]); other clients enforce it after a heartbeat
    /// at the latest.
    ///
    /// # Errors
    /// [`Error::Invalid`] for a limit of 8 EiB or more, and those of the engine.
    pub async fn set_owner_quota(
        &self,
        of: Principal,
        max_space: Option<u64>,
        max_inodes: Option<u64>,
    ) -> Result<Quota> {
        self.writable()?;
        let (space, inodes) = (limit("space", max_space)?, limit("inodes", max_inodes)?);
        self.enable_owner_quotas().await?;
        let quota = self
            .transact(move |txn| {
                let mut quota = txn.owner_quota(of)?.unwrap_or(NONE);
                quota.max_space = space.unwrap_or(quota.max_space);
                quota.max_inodes = inodes.unwrap_or(quota.max_inodes);
                txn.write(Write::SetOwnerQuota(of, quota));
                Ok(quota)
            })
            .await?;
        self.reload_quotas().await?;
        Ok(quota)
    }

    /// Lifts the limits of a user or a group; its usage is kept.
    ///
    /// # Errors
    /// Those of the engine.
    pub async fn del_owner_quota(&self, of: Principal) -> Result<()> {
        self.writable()?;
        self.transact(move |txn| {
            if let Some(quota) = txn.owner_quota(of)? {
                txn.write(Write::SetOwnerQuota(of, Quota { max_space: -1, max_inodes: -1, ..quota }));
            }
            Ok(())
        })
        .await?;
        self.reload_quotas().await
    }

    /// Limits and usage of everybody who owns something or is limited.
    ///
    /// # Errors
    /// Those of the engine.
    pub async fn list_owner_quotas(&self) -> Result<Vec<(Principal, Quota)>> {
        self.store.list_owner_quotas().await
    }

    /// Begins to keep the usage of all users and groups, and counts what is there. Nothing if that is done already. What
    /// other clients change before their next heartbeat may be missed: [`Meta::check_owner_quotas`] finds and mends it.
    ///
    /// # Errors
    /// Those of the engine.
    pub async fn enable_owner_quotas(&self) -> Result<()> {
        self.writable()?;
        if self.reload().await?.user_group_quota {
            return Ok(());
        }
        let stale: Vec<Principal> = self.store.list_owner_quotas().await?.into_iter().map(|(of, _quota)| of).collect();
        let engine = self.store.describe();
        self.transact(move |txn| enable(txn, &engine, &stale)).await?;
        self.reload().await?;
        info!("counting what users and groups own");
        self.check_owner_quotas(true).await?;
        Ok(())
    }

    /// Counts what everybody owns, and returns where that differs from what is stored; with `repair`, stores it.
    ///
    /// # Errors
    /// [`Error::Corrupt`] if an inode cannot be read and therefore not be counted; those of the engine.
    pub async fn check_owner_quotas(&self, repair: bool) -> Result<Vec<OwnerUsage>> {
        if repair {
            self.writable()?;
        }
        let mut wrong = BTreeMap::new();
        for attempt in 1..=ATTEMPTS {
            let stored: BTreeMap<Principal, Quota> = self.store.list_owner_quotas().await?.into_iter().collect();
            let counted = self.count_owners().await?;
            let last = attempt == ATTEMPTS;
            let mut changing = false;
            if !repair {
                wrong.clear();
            }
            for usage in compare(&stored, &counted) {
                let settled = self.transact(move |txn| settle_usage(txn, usage, repair, last)).await?;
                changing |= !settled;
                wrong.insert(usage.of, usage);
            }
            if !changing {
                break;
            }
        }
        Ok(wrong.into_values().collect())
    }

    async fn count_owners(&self) -> Result<BTreeMap<Principal, Amount>> {
        let mut counted: BTreeMap<Principal, Amount> = BTreeMap::new();
        let mut seen: HashSet<Ino> = [Ino::ROOT, Ino::TRASH].into();
        let mut from = Some(Cursor::default());
        while let Some(cursor) = from {
            let page = self.store.scan_attrs(cursor, PAGE).await?;
            if let Some(error) = page.corrupt.into_iter().next() {
                return Err(error);
            }
            for (ino, attr) in page.items {
                if seen.insert(ino) {
                    for of in [Principal::User(attr.uid), Principal::Group(attr.gid)] {
                        counted.entry(of).or_default().add(attr.space(), 1);
                    }
                }
            }
            from = page.next;
        }
        Ok(counted)
    }
}

fn enable(txn: &mut Txn<'_>, engine: &str, stale: &[Principal]) -> Step<()> {
    let Some(Record::Bytes(json)) = txn.get(&Key::Setting)? else {
        return Err(Error::NotFormatted { engine: engine.to_owned() }.into());
    };
    let format = Format { user_group_quota: true, ..Format::parse(&json)? };
    txn.write(Write::SetSetting(Bytes::from(format.encode())));
    for of in stale {
        txn.write(Write::DelOwnerQuota(*of));
    }
    Ok(())
}

/// Where the two differ.
fn compare(stored: &BTreeMap<Principal, Quota>, counted: &BTreeMap<Principal, Amount>) -> Vec<OwnerUsage> {
    let everybody: BTreeSet<Principal> = stored.keys().chain(counted.keys()).copied().collect();
    let usages = everybody.into_iter().map(|of| {
        let amount = counted.get(&of).copied().unwrap_or_default();
        let quota = stored.get(&of).copied().unwrap_or(NONE);
        OwnerUsage { of, quota, space: amount.space, inodes: amount.inodes }
    });
    usages.filter(|usage| !usage.holds()).collect()
}

/// Stores a count if it is to be stored. False: usage changed while it was counted.
fn settle_usage(txn: &mut Txn<'_>, usage: OwnerUsage, repair: bool, last: bool) -> Step<bool> {
    let mut quota = txn.owner_quota(usage.of)?.unwrap_or(NONE);
    if quota != usage.quota && !last {
        return Ok(false);
    }
    if repair {
        (quota.used_space, quota.used_inodes) = (usage.space, usage.inodes);
        txn.write(Write::SetOwnerQuota(usage.of, quota));
    }
    Ok(true)
}
