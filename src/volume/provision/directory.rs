//! Volumes that are directories of a shared file system, with a quota each.

use std::collections::HashSet;

use stead_base::Ino;
use stead_meta::Error as MetaError;
use stead_meta::ops::{Caller, Meta};
use tracing::{info, warn};

use super::{Volume, VolumeRequest, Volumes, check_repeat};
use crate::engine::{self, FileSystem};
use crate::error::{Error, Result};
use crate::names::{VolumeId, VolumePath};
use crate::record::{Record, Records, State, found};

/// Where trees wait for their removal: a rename takes a volume out of sight at once, whatever its size.
const DELETING: &str = "/.stead/deleting";

impl Volumes {
    pub(super) async fn create_directory(&self, request: &VolumeRequest, path: Option<&VolumePath>) -> Result<Volume> {
        let id = VolumeId::of_directory(&request.name)?;
        let secrets = &request.secrets;
        let chosen = path.is_some();
        let path = path.map_or_else(|| VolumePath::parse(id.as_str()), |path| Ok(path.clone()))?;
        let format = || secrets.new_format(&secrets.name);
        let store = engine::engine_to_format(&secrets.meta, format, secrets, &self.clock).await?;
        let file_system = engine::ensure(store, format, &secrets.name, secrets, &self.clock).await?;
        let wanted = request.record(Some((path.as_str().to_owned(), chosen)));
        let result = make(&id, &path, request, &wanted, &file_system).await;
        file_system.meta.drain().await;
        Volume::of(id, &result?)
    }
}

async fn make(
    id: &VolumeId,
    path: &VolumePath,
    request: &VolumeRequest,
    wanted: &Record,
    file_system: &FileSystem,
) -> Result<Record> {
    let meta = &*file_system.meta;
    if (wanted.capacity > 0 || wanted.inodes.is_some()) && !meta.format().dir_stats {
        let why = "the file system keeps no statistics of directories; turn on its dir-stats";
        return Err(Error::Unsupported { what: "a quota", why });
    }
    let records = Records::of(meta);
    if records.find(id).await?.is_none() && (wanted.chosen_path || exists(meta, path).await?) {
        refuse_overlap(id, path, wanted.chosen_path, &records).await?;
    }
    let mut record = records.claim(id, wanted).await?;
    check_repeat(id, &record, wanted, request.capacity)?;
    if record.state == State::Ready && exists(meta, path).await? {
        return Ok(record);
    }
    meta.make_dirs(&format!("/{}", path.as_str()), record.mode, record.uid, record.gid).await?;
    set_quota(file_system, path, &record).await?;
    record.state = State::Ready;
    records.replace(id, &record).await?;
    info!(volume = %id, path = path.as_str(), capacity = record.capacity, "created");
    Ok(record)
}

async fn exists(meta: &Meta, path: &VolumePath) -> Result<bool> {
    Ok(find(meta, path).await?.is_some())
}

async fn find(meta: &Meta, path: &VolumePath) -> Result<Option<Ino>> {
    match meta.resolve_path(&format!("/{}", path.as_str())).await {
        Err(MetaError::NotDirectory { .. }) => Ok(None),
        other => found(other.map(|(ino, _)| ino)),
    }
}

/// Only equal paths that patterns chose may be shared: then the last volume removes the tree. In any other overlap one
/// volume would lie in another and go with it.
async fn refuse_overlap(id: &VolumeId, path: &VolumePath, chosen: bool, records: &Records<'_>) -> Result<()> {
    for (other, record) in records.all().await? {
        let Some(other_path) = record.volume_path()? else { continue };
        let shared = chosen && record.chosen_path && other_path == *path;
        if other != *id && other_path.overlaps(path) && !shared {
            let why = format!("volume {other} lies at {:?}", other_path.as_str());
            return Err(Error::InUse { place: format!("directory {:?}", path.as_str()), why });
        }
    }
    Ok(())
}

/// Limits the directory to what the record says. A shared directory keeps the larger limit.
pub(super) async fn set_quota(file_system: &FileSystem, path: &VolumePath, record: &Record) -> Result<()> {
    if record.capacity == 0 && record.inodes.is_none() {
        return Ok(());
    }
    let meta = &file_system.meta;
    let (directory, _) = meta.resolve_path(&format!("/{}", path.as_str())).await?;
    let mut capacity = record.capacity;
    if record.chosen_path
        && let Some(quota) = meta.get_quota(directory).await?
    {
        capacity = capacity.max(u64::try_from(quota.max_space).unwrap_or(0));
    }
    meta.set_quota(directory, Some(capacity), record.inodes).await?;
    Ok(())
}

pub(super) async fn delete(id: &VolumeId, file_system: &FileSystem) -> Result<()> {
    let meta = &*file_system.meta;
    let records = Records::of(meta);
    let Some(mut record) = records.find(id).await? else {
        // A crash before the record was written, or after it was removed, leaves at most an empty file.
        return records.remove(id).await;
    };
    if record.state != State::Deleting {
        record.state = State::Deleting;
        records.replace(id, &record).await?;
    }
    let deleting = meta.make_dirs(DELETING, 0o700, 0, 0).await?;
    let others = meta.deleted_files().await?;
    remove(meta, deleting, id).await?;
    if let Some(path) = record.volume_path()? {
        if record.chosen_path && is_shared(id, &path, &records).await? {
            info!(volume = %id, path = path.as_str(), "other volumes use the directory; it stays");
        } else if let Some(directory) = find(meta, &path).await? {
            meta.del_quota(directory).await?;
            put_aside(meta, &path, deleting, id).await?;
            remove(meta, deleting, id).await?;
        }
    }
    finish(meta, id, &others).await?;
    records.remove(id).await?;
    info!(volume = %id, "deleted");
    Ok(())
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

async fn put_aside(meta: &Meta, path: &VolumePath, deleting: Ino, id: &VolumeId) -> Result<()> {
    let (parent, name) = path.as_str().rsplit_once('/').unwrap_or(("", path.as_str()));
    let (parent, _) = meta.resolve_path(&format!("/{parent}")).await?;
    let moved = meta.rename(&Caller::root(), parent, name.as_bytes(), deleting, id.as_str().as_bytes(), 0).await;
    found(moved.map(|_| ())).map(|_| ())
}

/// Removes the tree that was put aside; its data goes with it, past the trash.
async fn remove(meta: &Meta, deleting: Ino, id: &VolumeId) -> Result<()> {
    let quiet = |_removed: u64| {};
    let removed = meta.remove_tree(&Caller::root(), deleting, id.as_str().as_bytes(), true, &quiet).await;
    found(removed).map(|_| ())
}

/// Removes the blocks of the removed files, apart from files that others deleted before. What cannot be removed now is
/// left to the hourly clean-up.
async fn finish(meta: &Meta, id: &VolumeId, others: &HashSet<(Ino, u64)>) -> Result<()> {
    let left = meta.finish_deletions(others).await?;
    if left > 0 {
        warn!(volume = %id, slices = left, "data of deleted files is left to the hourly clean-up");
    }
    Ok(())
}
