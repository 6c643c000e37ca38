//! Snapshots: clones of the directories of volumes, out of everybody's sight.

use stead_base::Timestamp;
use stead_meta::ops::Meta;
use tracing::info;

use super::Volumes;
use super::content::{SNAPSHOTS, Size, discard, refuse_own_file_system};
use super::flush::write_back;
use super::removal::put_aside;
use crate::error::{Error, Kind, Result};
use crate::names::{GroupId, SnapshotId, VolumeId};
use crate::record::{Recorded, Records, SnapshotRecord, State, found};
use crate::secrets::VolumeSecrets;
use crate::source::Source;

/// A snapshot that is to exist.
#[derive(Clone, Debug)]
pub struct SnapshotRequest {
    /// The same name means the same snapshot.
    pub name: String,
    /// What it is taken of.
    pub volume: VolumeId,
    /// Where.
    pub secrets: VolumeSecrets,
}

/// A snapshot that exists.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Snapshot {
    /// Its id.
    pub id: SnapshotId,
    /// The volume that it was taken of, which may be gone.
    pub volume: VolumeId,
    /// The group that it is part of.
    pub group: Option<GroupId>,
    /// Everything that was committed before is in it.
    pub created: Timestamp,
    /// Bytes that a volume needs to hold it.
    pub size: u64,
    /// Whether volumes can be made of it.
    pub ready: bool,
}

impl Snapshot {
    pub(super) fn of(id: SnapshotId, record: SnapshotRecord) -> Self {
        let SnapshotRecord { state, volume, group, created, size, .. } = record;
        Self { id, volume, group, created, size, ready: state == State::Ready }
    }
}

impl Volumes {
    /// Takes a snapshot, which is complete when this returns, or finds the one that an equal request took.
    ///
    /// # Errors
    /// [`Error::Exists`] when there is one of that name and another volume; [`Error::NotFound`] for the volume.
    pub async fn create_snapshot(&self, request: &SnapshotRequest) -> Result<Snapshot> {
        let id = SnapshotId::parse(&request.name)?;
        refuse_own_file_system(&request.volume)?;
        let no_volume = || Error::NotFound { thing: "volume", id: request.volume.to_string() };
        let file_system = self.shared(&request.secrets).await?.ok_or_else(no_volume)?;
        self.resume_once(&file_system.meta, &request.secrets);
        let result = self.take(&id, &request.volume, None, &file_system.meta).await;
        file_system.meta.drain().await;
        Ok(Snapshot::of(id, result?))
    }

    /// Removes a snapshot. Volumes that were made of it stay; what does not exist is removed already.
    ///
    /// # Errors
    /// [`Error::InGroup`] for one that can only go with its group; what could not be removed: a repeat goes on from there.
    pub async fn delete_snapshot(&self, id: &SnapshotId, secrets: &VolumeSecrets) -> Result<()> {
        let Some(file_system) = self.shared(secrets).await? else { return Ok(()) };
        let deleted = match refuse_member(id, &file_system.meta).await {
            Ok(()) => delete(id, &file_system.meta).await,
            Err(error) => Err(error),
        };
        self.finish_deletion(file_system, secrets, deleted).await
    }

    pub(super) async fn take(
        &self,
        id: &SnapshotId,
        volume: &VolumeId,
        group: Option<&GroupId>,
        meta: &Meta,
    ) -> Result<SnapshotRecord> {
        let records = Records::of_snapshots(meta);
        let known = records.find(id).await?;
        if let Some(record) = &known {
            check_repeat(id, record, volume, group)?;
            if record.state == State::Ready {
                return Ok(record.clone());
            }
        }
        let source = Source::Volume(volume.clone());
        let trees = meta.make_dirs(SNAPSHOTS, 0o700, 0, 0).await?;
        let name = id.as_str().as_bytes();
        // A clone that has its name was complete when somebody died.
        let taken = found(meta.lookup(trees, name).await)?.is_some();
        if !taken {
            match source.tree(meta).await {
                // The members of a group are asked for together.
                Ok(tree) if group.is_none() => write_back(meta, &[tree]).await,
                Ok(_) => {}
                Err(error) => {
                    if let (Kind::NotFound, Some(mut record)) = (error.kind(), known) {
                        discard(meta, &mut record).await?;
                        records.remove(id).await?;
                    }
                    return Err(error);
                }
            }
        }
        let created = self.clock.now();
        let wanted = SnapshotRecord {
            state: State::Creating,
            volume: volume.clone(),
            group: group.cloned(),
            created,
            size: 0,
            inodes: 0,
            cloning: None,
        };
        let mut record = records.claim(id, &wanted).await?;
        check_repeat(id, &record, volume, group)?;
        if !taken {
            record.created = created;
            source.clone_to(meta, (trees, name), &records, (id, &mut record)).await?;
        }
        let (tree, _) = meta.lookup(trees, name).await?;
        let size = Size::of(meta, tree).await?;
        record = SnapshotRecord { state: State::Ready, size: size.space, inodes: size.inodes, cloning: None, ..record };
        records.replace(id, &record).await?;
        info!(snapshot = %id, %volume, size = record.size, "taken");
        Ok(record)
    }
}

fn check_repeat(id: &SnapshotId, existing: &SnapshotRecord, volume: &VolumeId, group: Option<&GroupId>) -> Result<()> {
    if existing.state == State::Deleting {
        return Err(Records::<SnapshotRecord>::being_deleted(id));
    }
    let group_of = |group: Option<&GroupId>| group.map_or_else(|| "none".to_owned(), ToString::to_string);
    let members = [
        ("source volume", existing.volume.to_string(), volume.to_string()),
        ("group", group_of(existing.group.as_ref()), group_of(group)),
    ];
    match members.into_iter().find(|(_, existing, requested)| existing != requested) {
        None => Ok(()),
        Some((what, existing, requested)) => {
            Err(Error::Exists { thing: SnapshotRecord::THING, id: id.to_string(), what, existing, requested })
        }
    }
}

/// Refuses what a group that is there holds.
async fn refuse_member(id: &SnapshotId, meta: &Meta) -> Result<()> {
    let record = Records::of_snapshots(meta).find(id).await?;
    let Some(group) = record.and_then(|record| record.group) else { return Ok(()) };
    match Records::of_groups(meta).find(&group).await? {
        Some(_) => Err(Error::InGroup { snapshot: id.to_string(), group: group.to_string() }),
        None => Ok(()),
    }
}

pub(super) async fn delete(id: &SnapshotId, meta: &Meta) -> Result<Option<String>> {
    let records = Records::of_snapshots(meta);
    let Some(mut record) = records.find(id).await? else {
        // A crash before the record was written, or after it was removed, leaves at most an empty file.
        return records.remove(id).await.map(|()| None);
    };
    if record.state != State::Deleting {
        record.state = State::Deleting;
        records.replace(id, &record).await?;
    }
    discard(meta, &mut record).await?;
    let aside = match found(meta.resolve_path(SNAPSHOTS).await)? {
        Some((trees, _)) => put_aside(meta, trees, id.as_str().as_bytes()).await?,
        None => None,
    };
    records.remove(id).await?;
    // Nobody asks again for what was answered: it has to be remembered.
    meta.store().sync().await?;
    info!(snapshot = %id, "deleted");
    Ok(aside)
}
