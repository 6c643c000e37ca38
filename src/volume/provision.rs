//! Making, finding, growing and removing volumes.
//!
//! Every operation may be repeated, by the same or another controller, and after a crash between any two steps: the
//! record is written first (`creating`) and says `ready` last, each step in between succeeds when it is already done,
//! and a deletion removes the record last.

mod compare;
mod content;
mod directory;
mod erasure;
mod file_system;
mod flush;
mod group;
mod list;
mod modify;
mod removal;
mod snapshot;
#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::sync::Arc;

use stead_base::Clock;
use stead_meta::url::MetaUrl;
use tracing::info;

use removal::Removals;

use crate::capacity::CapacityRange;
use crate::engine::{self, FileSystem};
use crate::error::{Error, Result};
use crate::mount::Secret;
use crate::mutable::MutableParams;
use crate::names::VolumeId;
use crate::params::{Provisioning, VolumeContext, VolumeParams};
use crate::record::{Record, Recorded, Records, State};
use crate::secrets::VolumeSecrets;
use crate::source::Source;

pub use group::{Group, GroupRequest};
pub use list::{Listing, Page, Position, SnapshotFilter};
pub use snapshot::{Snapshot, SnapshotRequest};

/// A volume that is to exist.
#[derive(Clone, Debug)]
pub struct VolumeRequest {
    /// The same name means the same volume.
    pub name: String,
    /// Its size.
    pub capacity: CapacityRange,
    /// What it is made of.
    pub params: VolumeParams,
    /// Settings that can be changed later; they win over `params`.
    pub mutable: MutableParams,
    /// What it begins with; `None` = empty.
    pub source: Option<Source>,
    /// Where.
    pub secrets: VolumeSecrets,
}

impl VolumeRequest {
    fn record(&self, path: Option<(String, bool)>) -> Record {
        let (path, chosen_path) = path.map_or((None, false), |(path, chosen)| (Some(path), chosen));
        Record {
            state: State::Creating,
            name: self.name.clone(),
            path,
            chosen_path,
            capacity: self.capacity.chosen(),
            inodes: self.params.inodes,
            mode: self.params.mode,
            uid: self.params.uid,
            gid: self.params.gid,
            mount_options: self.params.mount_options.clone(),
            share: self.params.share,
            worker: self.params.worker.clone(),
            claim: self.params.claim.clone(),
            source: self.source.clone(),
            cloning: None,
            modified: self.mutable,
        }
    }
}

/// A volume that exists.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Volume {
    /// Its id.
    pub id: VolumeId,
    /// Bytes; 0 = without limit.
    pub capacity: u64,
    /// What the node gets to see with each use: [`VolumeContext`].
    pub context: HashMap<String, String>,
    /// What it began with.
    pub source: Option<Source>,
}

impl Volume {
    fn of(id: VolumeId, record: &Record) -> Result<Self> {
        let provisioning = if id.own_file_system()?.is_some() { "filesystem" } else { "directory" };
        let (mount_options, worker, claim) =
            (record.mount_options.clone(), record.worker.clone(), record.claim.clone());
        let context = VolumeContext { path: record.volume_path()?, mount_options, share: record.share, worker, claim };
        let (capacity, source) = (record.capacity, record.source.clone());
        Ok(Self { id, capacity, context: context.attributes(provisioning), source })
    }
}

/// The control path's operations. A restart loses nothing: what is being removed is found again.
#[derive(Clone, Debug)]
pub struct Volumes {
    clock: Arc<dyn Clock>,
    removals: Removals,
}

impl Volumes {
    /// Takes the clock that stamps what is made.
    pub fn new(clock: Arc<dyn Clock>) -> Self {
        Self { clock, removals: Removals::default() }
    }

    /// Makes a volume, complete with its limits, or finds the one that an equal request made.
    ///
    /// # Errors
    /// [`Error::Exists`] when another request made a volume of that name; what is wrong with address, bucket or names.
    pub async fn create(&self, request: &VolumeRequest) -> Result<Volume> {
        match &request.params.provisioning {
            Provisioning::Directory { path } => self.create_directory(request, path.as_ref()).await,
            Provisioning::FileSystem { .. } if request.source.is_some() => {
                let why = "snapshots and clones lie in their source's file system: use provisioning: directory";
                Err(Error::Unsupported { what: "a content source for a file system of its own", why })
            }
            Provisioning::FileSystem { databases } => self.create_file_system(request, *databases).await,
        }
    }

    /// Finds a volume that this driver made.
    ///
    /// # Errors
    /// [`Error::NotFound`].
    pub async fn find(&self, id: &VolumeId, secrets: &VolumeSecrets) -> Result<Volume> {
        let (file_system, record) = self.recorded(id, secrets).await?;
        file_system.meta.drain().await;
        Volume::of(id.clone(), &record)
    }

    /// Grows a volume and returns its size. A volume that is large enough stays as it is, and none ever shrinks.
    ///
    /// # Errors
    /// [`Error::NotFound`]; [`Error::Capacity`] when it is larger than the limit already.
    pub async fn expand(&self, id: &VolumeId, secrets: &VolumeSecrets, range: CapacityRange) -> Result<u64> {
        let (file_system, mut record) = self.recorded(id, secrets).await?;
        if record.capacity == 0 || record.capacity >= range.chosen() {
            file_system.meta.drain().await;
            return Ok(if record.capacity == 0 { range.chosen() } else { record.capacity });
        }
        record.capacity = range.chosen();
        match record.volume_path()? {
            Some(path) => directory::set_quota(&file_system, &path, &record).await?,
            None => self.set_limits(&file_system, &record).await?,
        }
        Records::of(&file_system.meta).replace(id, &record).await?;
        file_system.meta.drain().await;
        info!(volume = %id, capacity = record.capacity, "expanded");
        Ok(record.capacity)
    }

    /// Removes a volume with its data. What does not exist is removed already. A directory is gone for everybody when this
    /// returns, and its name free; the data of a large one is still being removed then, and is so after a crash as well.
    ///
    /// # Errors
    /// What could not be removed; a repeat goes on from there.
    pub async fn delete(&self, id: &VolumeId, secrets: &VolumeSecrets) -> Result<()> {
        let Some(file_system) = self.existing(id, secrets).await? else { return Ok(()) };
        if id.own_file_system()?.is_some() {
            self.delete_file_system(id, secrets, file_system).await
        } else {
            let deleted = directory::delete(id, &file_system.meta).await;
            self.finish_deletion(file_system, secrets, deleted).await
        }
    }

    async fn finish_deletion(
        &self,
        file_system: FileSystem,
        secrets: &VolumeSecrets,
        deleted: Result<impl IntoIterator<Item = String>>,
    ) -> Result<()> {
        self.resume_once(&file_system.meta, secrets);
        match deleted.map(Vec::from_iter) {
            Ok(aside) if !aside.is_empty() => {
                self.removals.wait(self.removals.start(file_system.meta, aside)).await;
                Ok(())
            }
            deleted => {
                file_system.meta.drain().await;
                deleted.map(|_nothing_to_remove| ())
            }
        }
    }

    /// The file system of a volume that may exist; `None` when it certainly does not.
    async fn existing(&self, id: &VolumeId, secrets: &VolumeSecrets) -> Result<Option<FileSystem>> {
        match id.own_file_system()? {
            Some((home, name)) => self.formatted(&file_system::address(secrets, home, name)?.url, name, secrets).await,
            None => self.shared(secrets).await,
        }
    }

    /// The file system of the Secret, if it is there.
    async fn shared(&self, secrets: &VolumeSecrets) -> Result<Option<FileSystem>> {
        self.formatted(&secrets.meta, &secrets.name, secrets).await
    }

    async fn formatted(&self, url: &MetaUrl, name: &str, secrets: &VolumeSecrets) -> Result<Option<FileSystem>> {
        if file_system::is_missing_file(url) {
            return Ok(None);
        }
        let store = engine::engine(url, false, &self.clock).await?;
        match engine::stored_format(&*store).await? {
            Some(format) if format.name == name => Ok(Some(engine::open(store, format, secrets, &self.clock).await?)),
            _ => Ok(None),
        }
    }

    async fn recorded(&self, id: &VolumeId, secrets: &VolumeSecrets) -> Result<(FileSystem, Record)> {
        let not_found = || Records::<Record>::not_found(id);
        let file_system = self.existing(id, secrets).await?.ok_or_else(not_found)?;
        let record = Records::of(&file_system.meta).find(id).await?.ok_or_else(not_found)?;
        match record.state {
            State::Deleting => Err(Records::<Record>::being_deleted(id)),
            State::Creating | State::Ready => Ok((file_system, record)),
        }
    }
}

/// Compares what is recorded with what is asked for.
///
/// # Errors
/// [`Error::Exists`] when they differ.
fn check_repeat(id: &VolumeId, existing: &Record, wanted: &Record, range: CapacityRange) -> Result<()> {
    if existing.state == State::Deleting {
        return Err(Records::<Record>::being_deleted(id));
    }
    existing.check_same(id, wanted)?;
    if range.fits(existing.capacity) {
        return Ok(());
    }
    let (existing, requested) = (existing.capacity.to_string(), format!("{range:?}"));
    Err(Error::Exists { thing: Record::THING, id: id.to_string(), what: "capacity", existing, requested })
}

/// The engine's address and the name of a volume with a file system of its own; `None` for a directory volume.
pub(crate) fn own_address(id: &VolumeId, secrets: &VolumeSecrets) -> Result<Option<(Secret, String)>> {
    let Some((home, name)) = id.own_file_system()? else { return Ok(None) };
    Ok(Some((file_system::address(secrets, home, name)?.text, name.to_owned())))
}
