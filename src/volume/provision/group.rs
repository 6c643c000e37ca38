//! Groups of snapshots, all of one moment. A group is a record; its members are snapshots that name it and go with it.

use std::collections::BTreeSet;
use std::fmt::Display;

use stead_base::Timestamp;
use stead_meta::Error as MetaError;
use stead_meta::ops::Meta;
use tracing::{info, warn};

use super::compare::is_unchanged;
use super::content::{SNAPSHOTS, refuse_own_file_system};
use super::flush::write_back;
use super::snapshot::delete as delete_snapshot;
use super::{Snapshot, Volumes};
use crate::configured::Named;
use crate::error::{Error, Kind, Result};
use crate::names::{GroupId, SnapshotId, VolumeId};
use crate::record::{GroupRecord, Recorded, Records, State};
use crate::secrets::VolumeSecrets;
use crate::source::Source;

/// How often all members are taken until nothing is written in between.
const ATTEMPTS: usize = 5;

/// A group of snapshots that is to exist.
#[derive(Clone, Debug)]
pub struct GroupRequest {
    /// The same name means the same group.
    pub name: String,
    /// What its snapshots are taken of, one of each.
    pub volumes: BTreeSet<VolumeId>,
    /// Where all of them lie.
    pub secrets: VolumeSecrets,
}

/// A group of snapshots that exists.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Group {
    /// Its id.
    pub id: GroupId,
    /// In the order of their volumes.
    pub snapshots: Vec<Snapshot>,
    /// Everything that was committed before is in them.
    pub created: Timestamp,
}

impl Volumes {
    /// Takes snapshots of several volumes, or finds those that an equal request took. They are complete when this returns,
    /// and together what the volumes were at one moment.
    ///
    /// # Errors
    /// [`Error::Exists`] when there is a group of that name and other volumes; [`Error::NotFound`] for a volume;
    /// [`Error::Changing`] when the volumes are written to all the time. Then nothing is left.
    pub async fn create_group(&self, request: &GroupRequest) -> Result<Group> {
        let id = GroupId::parse(&request.name)?;
        for volume in &request.volumes {
            refuse_own_file_system(volume).map_err(|error| not_together(volume, error))?;
        }
        let nothing = || Error::NotFound { thing: "file system", id: request.secrets.name.clone() };
        let file_system = self.shared(&request.secrets).await?.ok_or_else(nothing)?;
        self.resume_once(&file_system.meta, &request.secrets);
        let (meta, mut aside) = (file_system.meta, Vec::new());
        let result = self.take_group(&id, request, &meta, &mut aside).await;
        if aside.is_empty() {
            meta.drain().await;
        } else {
            // Nobody waits for the remains of attempts.
            drop(self.removals.start(meta, aside));
        }
        result
    }

    /// Removes a group with its snapshots. What does not exist is removed already. `named` are the snapshots that the caller
    /// takes for the group's; none is any.
    ///
    /// # Errors
    /// [`Error::Members`]; what could not be removed: a repeat goes on from there.
    pub async fn delete_group(&self, id: &GroupId, named: &[SnapshotId], secrets: &VolumeSecrets) -> Result<()> {
        let Some(file_system) = self.shared(secrets).await? else { return Ok(()) };
        let mut aside = Vec::new();
        let deleted = delete(id, named, &file_system.meta, &mut aside).await;
        if deleted.is_err() && !aside.is_empty() {
            drop(self.removals.start(file_system.meta, aside));
            return deleted;
        }
        self.finish_deletion(file_system, secrets, deleted.map(|()| aside)).await
    }

    /// Finds a group in one of these file systems.
    ///
    /// # Errors
    /// [`Error::NotFound`]; [`Error::Members`], as of [`Volumes::delete_group`].
    pub async fn find_group(&self, id: &GroupId, named: &[SnapshotId], of: &[Named]) -> Result<Group> {
        for place in of {
            let Some(file_system) = self.shared(&place.secrets).await? else { continue };
            let records = Records::of_groups(&file_system.meta);
            match records.complete(id).await {
                Ok(record) => {
                    check_named(id, &record, named)?;
                    return describe(id, &record, &file_system.meta).await;
                }
                Err(error) if error.kind() == Kind::NotFound => {}
                Err(error) => return Err(error),
            }
        }
        Err(Records::<GroupRecord>::not_found(id))
    }

    async fn take_group(
        &self,
        id: &GroupId,
        request: &GroupRequest,
        meta: &Meta,
        aside: &mut Vec<String>,
    ) -> Result<Group> {
        let records = Records::of_groups(meta);
        let volumes: Vec<VolumeId> = request.volumes.iter().cloned().collect();
        let wanted = GroupRecord { state: State::Creating, volumes, created: self.clock.now() };
        if let Some(existing) = records.find(id).await? {
            check_repeat(id, &existing, &wanted)?;
            if existing.state == State::Ready {
                return describe(id, &existing, meta).await;
            }
        } else {
            for volume in &wanted.volumes {
                Source::Volume(volume.clone()).tree(meta).await?;
            }
        }
        let mut record = records.claim(id, &wanted).await?;
        check_repeat(id, &record, &wanted)?;
        match self.cut(id, &mut record, meta, aside).await {
            Ok(()) => describe(id, &record, meta).await,
            Err(error) => {
                if let Err(error) = delete(id, &[], meta, aside).await {
                    warn!(group = %id, %error, "what is left of it goes with a repeat or its deletion");
                }
                Err(error)
            }
        }
    }

    /// Takes all members, again until nothing changed meanwhile. Those of an earlier attempt are of another moment.
    async fn cut(&self, id: &GroupId, record: &mut GroupRecord, meta: &Meta, aside: &mut Vec<String>) -> Result<()> {
        let mut trees = Vec::new();
        for volume in &record.volumes {
            trees.push(Source::Volume(volume.clone()).tree(meta).await?);
        }
        write_back(meta, &trees).await;
        for _attempt in 0..ATTEMPTS {
            delete_members(id, record, meta, aside).await?;
            record.created = self.clock.now();
            for (member, volume) in record.members(id).iter().zip(&record.volumes) {
                self.take(member, volume, Some(id), meta).await?;
            }
            if is_one_moment(id, record, meta).await? {
                record.state = State::Ready;
                Records::of_groups(meta).replace(id, record).await?;
                info!(group = %id, snapshots = record.volumes.len(), "taken");
                return Ok(());
            }
        }
        Err(Error::Changing { group: id.to_string() })
    }
}

async fn is_one_moment(id: &GroupId, record: &GroupRecord, meta: &Meta) -> Result<bool> {
    for (member, volume) in record.members(id).iter().zip(&record.volumes) {
        let source = Source::Volume(volume.clone()).tree(meta).await?;
        let (clone, _) = meta.resolve_path(&format!("{SNAPSHOTS}/{member}")).await?;
        match is_unchanged(meta, source, clone).await {
            Ok(true) => {}
            // What is looked at may be gone by then.
            Ok(false) | Err(MetaError::NoInode { .. } | MetaError::NoEntry { .. }) => return Ok(false),
            Err(error) => return Err(error.into()),
        }
    }
    Ok(true)
}

async fn describe(id: &GroupId, record: &GroupRecord, meta: &Meta) -> Result<Group> {
    let records = Records::of_snapshots(meta);
    let mut snapshots = Vec::new();
    for member in record.members(id) {
        let found = records.complete(&member).await?;
        snapshots.push(Snapshot::of(member, found));
    }
    Ok(Group { id: id.clone(), snapshots, created: record.created })
}

async fn delete(id: &GroupId, named: &[SnapshotId], meta: &Meta, aside: &mut Vec<String>) -> Result<()> {
    let records = Records::of_groups(meta);
    let Some(mut record) = records.find(id).await? else {
        // A crash before the record was written, or after it was removed, leaves at most an empty file.
        return records.remove(id).await;
    };
    check_named(id, &record, named)?;
    if record.state != State::Deleting {
        record.state = State::Deleting;
        records.replace(id, &record).await?;
    }
    delete_members(id, &record, meta, aside).await?;
    records.remove(id).await?;
    // Nobody asks again for what was answered: it has to be remembered.
    meta.store().sync().await?;
    info!(group = %id, "deleted");
    Ok(())
}

/// Snapshots of other making that have such a name stay.
async fn delete_members(id: &GroupId, record: &GroupRecord, meta: &Meta, aside: &mut Vec<String>) -> Result<()> {
    let snapshots = Records::of_snapshots(meta);
    for member in record.members(id) {
        let found = snapshots.find(&member).await?;
        if found.is_none_or(|snapshot| snapshot.group.as_ref() == Some(id)) {
            aside.extend(delete_snapshot(&member, meta).await?);
        }
    }
    Ok(())
}

fn check_repeat(id: &GroupId, existing: &GroupRecord, wanted: &GroupRecord) -> Result<()> {
    if existing.state == State::Deleting {
        return Err(Records::<GroupRecord>::being_deleted(id));
    }
    if existing.volumes == wanted.volumes {
        return Ok(());
    }
    let (existing, requested) = (listed(&existing.volumes), listed(&wanted.volumes));
    let (thing, what) = (GroupRecord::THING, "source volumes");
    Err(Error::Exists { thing, id: id.to_string(), what, existing, requested })
}

fn check_named(id: &GroupId, record: &GroupRecord, named: &[SnapshotId]) -> Result<()> {
    let members = record.members(id);
    if named.is_empty() || named.iter().collect::<BTreeSet<_>>() == members.iter().collect() {
        return Ok(());
    }
    Err(Error::Members { group: id.to_string(), existing: listed(&members), requested: listed(named) })
}

fn listed(names: &[impl Display]) -> String {
    names.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

fn not_together(volume: &VolumeId, error: Error) -> Error {
    match error {
        Error::Unsupported { why, .. } => Error::NotTogether { volume: volume.to_string(), why },
        other => other,
    }
}
