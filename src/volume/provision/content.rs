//! Trees that begin as clones of other trees. No data is copied.

use std::ops::ControlFlow;

use stead_base::Ino;
use stead_meta::ops::{Caller, CloneOptions, Meta};
use tracing::warn;

use super::directory;
use crate::error::{Error, Result};
use crate::names::VolumeId;
use crate::record::{Cloned, Record, Records, SnapshotRecord, found};
use crate::source::Source;

/// Where the trees of snapshots lie: outside of every volume, so in nobody's quota and in no pod's sight.
pub(super) const SNAPSHOTS: &str = "/.stead/snapshots";

/// What a tree counts in a quota.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Size {
    pub(super) space: u64,
    pub(super) inodes: u64,
}

impl Size {
    /// Of a tree, whose quota knows it if there is one.
    pub(super) async fn of(meta: &Meta, tree: Ino) -> Result<Self> {
        if let Some(quota) = meta.get_quota(tree).await? {
            let counted = |used: i64| u64::try_from(used).unwrap_or(0);
            return Ok(Self { space: counted(quota.used_space), inodes: counted(quota.used_inodes) });
        }
        let (total, (_, top)) = (meta.summary(tree).await?, (tree, meta.getattr(tree).await?));
        let own = u64::try_from(top.space()).unwrap_or(0);
        Ok(Self { space: total.size.saturating_sub(own), inodes: (total.files + total.dirs).saturating_sub(1) })
    }
}

impl Source {
    /// The tree, complete.
    ///
    /// # Errors
    /// [`Error::NotFound`]; [`Error::NotReady`] and [`Error::BeingDeleted`] for a tree that is not all there.
    pub(super) async fn tree(&self, meta: &Meta) -> Result<Ino> {
        match self {
            Self::Volume(id) => {
                refuse_own_file_system(id)?;
                let record = Records::of(meta).complete(id).await?;
                let path = record.volume_path()?.ok_or_else(|| Records::<Record>::not_found(id))?;
                directory::find(meta, &path).await?.ok_or_else(|| Records::<Record>::not_found(id))
            }
            Self::Snapshot(id) => {
                Records::of_snapshots(meta).complete(id).await?;
                let tree = found(meta.resolve_path(&format!("{SNAPSHOTS}/{id}")).await)?;
                tree.map(|(tree, _)| tree).ok_or_else(|| Records::<SnapshotRecord>::not_found(id))
            }
        }
    }

    async fn size(&self, meta: &Meta) -> Result<Size> {
        let tree = self.tree(meta).await?;
        match self {
            Self::Volume(_) => Size::of(meta, tree).await,
            Self::Snapshot(id) => {
                let record = Records::of_snapshots(meta).find(id).await?;
                let record = record.ok_or_else(|| Records::<SnapshotRecord>::not_found(id))?;
                Ok(Size { space: record.size, inodes: record.inodes })
            }
        }
    }

    /// Whether a volume with the limits of `record` has room for the tree.
    ///
    /// # Errors
    /// [`Error::SourceLarger`]; as of [`Source::tree`].
    pub(super) async fn check_fits(&self, meta: &Meta, record: &Record) -> Result<()> {
        let size = self.size(meta).await?;
        let limits =
            [("bytes", size.space, record.capacity), ("inodes", size.inodes, record.inode_limit().unwrap_or(0))];
        match limits.into_iter().find(|(_, used, limit)| *limit > 0 && used > limit) {
            None => Ok(()),
            Some((unit, used, limit)) => Err(Error::SourceLarger { begin: self.to_string(), used, unit, limit }),
        }
    }

    /// Clones the tree, with its owners, modes and times. It has its name when all of it is there.
    pub(super) async fn clone_to<R: Cloned>(
        &self,
        meta: &Meta,
        (parent, name): (Ino, &[u8]),
        records: &Records<'_, R>,
        (id, record): (&R::Id, &mut R),
    ) -> Result<()> {
        discard(meta, record).await?;
        let from = self.tree(meta).await?;
        let top = meta.clone_top().await?;
        *record.cloning() = Some(top.0);
        records.replace(id, record).await?;
        let options = CloneOptions { preserve: true, hard_links: true, ..CloneOptions::default() };
        let go_on = |_inodes: u64| ControlFlow::Continue(());
        meta.clone_tree_as(top, &Caller::root(), from, (parent, name), options, &go_on).await?;
        *record.cloning() = None;
        // Another controller may have begun to remove what was being cloned: then parts are missing, and nobody was told.
        if let Err(error) = self.tree(meta).await {
            warn!(%error, "the clone may be incomplete and is removed");
            directory::remove(meta, parent, name).await?;
            return Err(error);
        }
        Ok(())
    }
}

/// Removes what a death left of the clone that a record speaks of.
pub(super) async fn discard<R: Cloned>(meta: &Meta, record: &mut R) -> Result<()> {
    match record.cloning().take() {
        Some(top) => Ok(meta.discard_clone(Ino(top)).await?),
        None => Ok(()),
    }
}

pub(super) fn refuse_own_file_system(id: &VolumeId) -> Result<()> {
    match id.own_file_system() {
        Ok(None) => Ok(()),
        Ok(Some(_)) => {
            let why = "only volumes of provisioning: directory can be cloned, within the file system of their Secret";
            Err(Error::Unsupported { what: "a snapshot or clone of a volume with a file system of its own", why })
        }
        Err(_never_given_out) => Err(Records::<Record>::not_found(id)),
    }
}
