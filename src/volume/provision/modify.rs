//! Changing the settings of a volume while it is in use. Mounts see them with their next heartbeat.

use stead_meta::ops::Meta;
use tracing::info;

use super::{Volumes, directory};
use crate::engine::FileSystem;
use crate::error::{Error, Result};
use crate::mutable::MutableParams;
use crate::names::VolumeId;
use crate::record::{Record, Records};
use crate::secrets::VolumeSecrets;

impl Volumes {
    /// Changes settings of a volume; those that are not named stay.
    ///
    /// # Errors
    /// [`Error::NotFound`]; [`Error::Parameter`] for a setting that this kind of volume does not have.
    pub async fn modify(&self, id: &VolumeId, secrets: &VolumeSecrets, params: MutableParams) -> Result<()> {
        let (file_system, mut record) = self.recorded(id, secrets).await?;
        if !params.is_empty() {
            self.change(id, params, &mut record, &file_system).await?;
        }
        file_system.meta.drain().await;
        Ok(())
    }

    async fn change(
        &self,
        id: &VolumeId,
        params: MutableParams,
        record: &mut Record,
        file_system: &FileSystem,
    ) -> Result<()> {
        let path = record.volume_path()?;
        if path.is_some() {
            params.check_for_directory()?;
        }
        record.modified = params.over(record.modified);
        check_quota_works(record, &file_system.meta)?;
        // The record first: whatever is repeated, creation and expansion as well, takes the settings from there.
        Records::of(&file_system.meta).replace(id, record).await?;
        match path {
            // Its creation is not finished, and does the rest.
            Some(path) if directory::find(&file_system.meta, &path).await?.is_none() => {}
            Some(path) => directory::set_quota(file_system, &path, record).await?,
            None => self.set_limits(file_system, record).await?,
        }
        info!(volume = %id, ?params, "modified");
        Ok(())
    }
}

/// Quotas are kept with the statistics of directories.
pub(super) fn check_quota_works(record: &Record, meta: &Meta) -> Result<()> {
    let limited = record.capacity > 0 || record.inode_limit().is_some();
    if record.path.is_some() && limited && !meta.format().dir_stats {
        let why = "the file system keeps no statistics of directories; turn on its dir-stats";
        return Err(Error::Unsupported { what: "a quota", why });
    }
    Ok(())
}
