//! Volumes that are directories of a shared file system, with a quota each.

use std::collections::HashSet;
use std::fmt::Display;

use stead_base::Ino;
use stead_meta::Error as MetaError;
use stead_meta::ops::{Caller, Meta};
use tracing::{info, warn};

use super::content::discard;
use super::flush::write_back;
use super::modify::check_quota_works;
use super::removal::put_aside;
use super::{Volume, VolumeRequest, Volumes, check_repeat};
use crate::engine::{self, FileSystem};
use crate::error::{Error, Kind, Result};
use crate::names::{VolumeId, VolumePath};
use crate::record::{Record, Records, State, found};
use crate::source::Source;

impl Volumes {
    pub(super) async fn create_directory(&self, request: &VolumeRequest, path: Option<&VolumePath>) -> Result<Volume> {
        let id = VolumeId::of_directory(&request.name)?;
        request.mutable.check_for_directory()?;
        let secrets = &request.secrets;
        let chosen = path.is_some();
        let path = path.map_or_else(|| VolumePath::parse(id.as_str()), |path| Ok(path.clone()))?;
        let format = || secrets.new_format(&secrets.name);
        let store = engine::engine_to_format(&secrets.meta, format, secrets, &self.clock).await?;
        let file_system = engine::ensure(store, format, &secrets.name, secrets, &self.clock).await?;
        let wanted = request.record(Some((path.as_str().to_owned(), chosen)));
        self.resume_once(&file_system.meta, secrets);
        let result = make(&id, path, request, wanted, &file_system).await;
        file_system.meta.drain().await;
        Volume::of(id, &result?)
    }
}

async fn make(
    id: &VolumeId,
    path: VolumePath,
    request: &VolumeRequest,
    mut wanted: Record,
    file_system: &FileSystem,
) -> Result<Record> {
    let meta = &*file_system.meta;
    check_quota_works(&wanted, meta)?;
    let records = Records::of(meta);
    let known = records.find(id).await?;
    if let Some(known) = &known {
        wanted.keep(&request.params.by_claim, known);
    }
    let (wanted, path) = (&wanted, &wanted.volume_path()?.unwrap_or(path));
    let there = exists(meta, path).await?;
    match &known {
        None if wanted.chosen_path || there => refuse_overlap(id, path, wanted, &records).await?,
        None => {}
        Some(record) => check_repeat(id, record, wanted, request.capacity)?,
    }
    if let Some(source) = &request.source {
        check_source(source, id, (path, there), (known, wanted), file_system).await?;
    }
    let mut record = records.claim(id, wanted).await?;
    check_repeat(id, &record, wanted, request.capacity)?;
    if record.state == State::Ready && there {
        return Ok(record);
    }
    match &request.source {
        // A clone that has its name was complete when somebody died.
        Some(_) if there => {}
        Some(source) => clone(source, id, path, &mut record, meta).await?,
        None => _ = meta.make_dirs(&rooted(path.as_str()), record.mode, record.uid, record.gid).await?,
    }
    set_quota(file_system, path, &record).await?;
    record.state = State::Ready;
    records.replace(id, &record).await?;
    info!(volume = %id, path = path.as_str(), capacity = record.capacity, "created");
    Ok(record)
}

/// Whether the source is there and fits. A volume that was begun and cannot be finished any more is forgotten.
async fn check_source(
    source: &Source,
    id: &VolumeId,
    (path, there): (&VolumePath, bool),
    (known, wanted): (Option<Record>, &Record),
    file_system: &FileSystem,
) -> Result<()> {
    let meta = &*file_system.meta;
    match (&known, there) {
        (Some(_), true) => return Ok(()),
        (None, true) => {
            let why = "a volume with a content source needs a directory of its own, and this one exists".to_owned();
            return Err(Error::InUse { place: format!("directory {:?}", path.as_str()), why });
        }
        (_, false) => {}
    }
    let Err(error) = source.check_fits(meta, wanted).await else { return Ok(()) };
    if let (Kind::NotFound | Kind::OutOfRange, Some(mut record)) = (error.kind(), known) {
        discard(meta, &mut record).await?;
        Records::of(meta).remove(id).await?;
    }
    Err(error)
}

async fn clone(source: &Source, id: &VolumeId, path: &VolumePath, record: &mut Record, meta: &Meta) -> Result<()> {
    if let Source::Volume(_) = source {
        write_back(meta, &[source.tree(meta).await?]).await;
    }
    let (parent, name) = split(path);
    let parent = meta.make_dirs(&parent, record.mode, record.uid, record.gid).await?;
    source.clone_to(meta, (parent, name), &Records::of(meta), (id, record)).await
}

fn rooted(path: &str) -> String {
    format!("/{path}")
}

/// The directory that holds the last component, and that.
fn split(path: &VolumePath) -> (String, &[u8]) {
    let (parent, name) = path.as_str().rsplit_once('/').unwrap_or(("", path.as_str()));
    (rooted(parent), name.as_bytes())
}

async fn exists(meta: &Meta, path: &VolumePath) -> Result<bool> {
    Ok(find(meta, path).await?.is_some())
}

pub(super) async fn find(meta: &Meta, path: &VolumePath) -> Result<Option<Ino>> {
    match meta.resolve_path(&rooted(path.as_str())).await {
        Err(MetaError::NotDirectory { .. }) => Ok(None),
        other => found(other.map(|(ino, _)| ino)),
    }
}

/// Only equal paths that patterns chose may be shared: then the last volume removes the tree. In any other overlap one
/// volume would lie in another and go with it. A directory that is yet to be cloned is shared with nobody.
async fn refuse_overlap(id: &VolumeId, path: &VolumePath, wanted: &Record, records: &Records<'_>) -> Result<()> {
    for (other, record) in records.all().await? {
        let Some(other_path) = record.volume_path()? else { continue };
        let being_cloned = record.source.is_some() && record.state == State::Creating;
        let shared = wanted.chosen_path && record.chosen_path && other_path == *path && !being_cloned;
        if other != *id && other_path.overlaps(path) && !shared {
            let why = format!("volume {other} lies at {:?}", other_path.as_str());
            return Err(Error::InUse { place: format!("directory {:?}", path.as_str()), why });
        }
    }
    Ok(())
}

/// Limits the directory to what the record says. A shared directory keeps the larger limit.
pub(super) async fn set_quota(file_system: &FileSystem, path: &VolumePath, record: &Record) -> Result<()> {
    if record.capacity == 0 && record.inode_limit().is_none() {
        return Ok(());
    }
    let meta = &file_system.meta;
    let (directory, _) = meta.resolve_path(&rooted(path.as_str())).await?;
    let mut capacity = record.capacity;
    if record.chosen_path
        && let Some(quota) = meta.get_quota(directory).await?
    {
        capacity = capacity.max(u64::try_from(quota.max_space).unwrap_or(0));
    }
    meta.set_quota(directory, Some(capacity), record.inode_limit()).await?;
    Ok(())
}

/// Takes a volume out of sight and forgets it. Returns the tree that has to be removed.
pub(super) async fn delete(id: &VolumeId, meta: &Meta) -> Result<Option<String>> {
    let records = Records::of(meta);
    let Some(mut record) = records.find(id).await? else {
        // A crash before the record was written, or after it was removed, leaves at most an empty file.
        return records.remove(id).await.map(|()| None);
    };
    if record.state != State::Deleting {
        record.state = State::Deleting;
        records.replace(id, &record).await?;
    }
    discard(meta, &mut record).await?;
    let mut aside = None;
    if let Some(path) = record.volume_path()? {
        if record.chosen_path && is_shared(id, &path, &records).await? {
            info!(volume = %id, path = path.as_str(), "other volumes use the directory; it stays");
        } else if let Some(directory) = find(meta, &path).await? {
            meta.del_quota(directory).await?;
            let (parent, name) = split(&path);
            let (parent, _) = meta.resolve_path(&parent).await?;
            aside = put_aside(meta, parent, name).await?;
        }
    }
    records.remove(id).await?;
    // Nobody asks again for what was answered: it has to be remembered.
    meta.store().sync().await?;
    info!(volume = %id, "deleted");
    Ok(aside)
}

async fn is_shared(id: &VolumeId, path: &VolumePath, records: &Records<'_>) -> Result<bool> {
    for (other, record) in records.all().await? {
        let overlaps = record.volume_path()?.is_some_and(|other_path| other_path.overlaps(path));
        if other != *id && record.state != State::Deleting && overlaps {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Removes a tree, if it is there; its data goes with it, past the trash.
pub(super) async fn remove(meta: &Meta, parent: Ino, name: &[u8]) -> Result<()> {
    let quiet = |_removed: u64| {};
    let removed = meta.remove_tree(&Caller::root(), parent, name, true, &quiet).await;
    found(removed).map(|_| ())
}

/// Removes the blocks of the removed files, apart from files that others deleted before. What cannot be removed now is
/// left to the hourly clean-up.
pub(super) async fn finish(meta: &Meta, id: &impl Display, others: &HashSet<(Ino, u64)>) -> Result<()> {
    let left = meta.finish_deletions(others).await?;
    if left > 0 {
        warn!(%id, slices = left, "data of deleted files is left to the hourly clean-up");
    }
    Ok(())
}
