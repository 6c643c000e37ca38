//! Volumes with a file system of their own: engine (a Redis database, a SQLite file), Format, object prefix, trash.

use std::sync::Arc;

use stead_base::Ino;
use stead_meta::format::Format;
use stead_meta::ops::{Caller, Meta, SetAttr};
use stead_meta::url::MetaUrl;
use tracing::info;

use super::{Volume, VolumeRequest, Volumes, check_repeat};
use crate::address::{self, Address};
use crate::engine::{self, FileSystem};
use crate::error::{Error, Result};
use crate::names::{Home, VolumeId, format_name};
use crate::params::Databases;
use crate::record::{Record, Records, State};
use crate::secrets::VolumeSecrets;

pub(super) fn address(secrets: &VolumeSecrets, home: Home, name: &str) -> Result<Address> {
    address::own(&secrets.meta_text, &secrets.meta, home, name)
}

/// Whether an engine is a file that is not there.
pub(super) fn is_missing_file(url: &MetaUrl) -> bool {
    matches!(url, MetaUrl::Sqlite { path } if !path.exists())
}

impl Volumes {
    pub(super) async fn create_file_system(
        &self,
        request: &VolumeRequest,
        databases: Option<Databases>,
    ) -> Result<Volume> {
        let name = format_name(&request.name);
        self.resume_file_systems_once(&request.secrets);
        let (home, file_system) = self.claim(request, databases, &name).await?;
        let id = VolumeId::of_file_system(home, &name);
        let wanted = request.record(None);
        let result = self.make_own(&id, request, wanted, &file_system).await;
        file_system.meta.drain().await;
        Volume::of(id, &result?)
    }

    /// Finds the file system `name`, or formats it where there is room. Writing the Format is the claim.
    async fn claim(
        &self,
        request: &VolumeRequest,
        databases: Option<Databases>,
        name: &str,
    ) -> Result<(Home, FileSystem)> {
        let secrets = &request.secrets;
        let format = || {
            let mut format = secrets.new_format(name)?;
            format.capacity = request.capacity.chosen();
            format.inodes = request.params.inodes.unwrap_or(0);
            request.mutable.apply(&mut format);
            Ok(format)
        };
        let range = match (&secrets.meta, databases) {
            (MetaUrl::Sqlite { .. }, _) => {
                let url = address(secrets, Home::File, name)?.url;
                let store = engine::engine_to_format(&url, format, secrets, &self.clock).await?;
                return Ok((Home::File, engine::ensure(store, format, name, secrets, &self.clock).await?));
            }
            (MetaUrl::Redis(_), Some(range)) => range,
            (MetaUrl::Redis(_), None) => {
                let expected = "a range of Redis databases that the driver may take, such as 1-15";
                return Err(Error::parameter("databases", "", expected));
            }
        };
        for number in self.candidates(secrets, range, name).await? {
            let url = address(secrets, Home::Database(number), name)?.url;
            let store = engine::engine(&url, false, &self.clock).await?;
            match engine::ensure(Arc::clone(&store), format, name, secrets, &self.clock).await {
                Ok(file_system) => return Ok((Home::Database(number), file_system)),
                // Another volume was quicker; a prefix that is in use is the same everywhere.
                Err(error @ Error::InUse { .. }) => match engine::stored_format(&*store).await? {
                    Some(format) if format.name != name => {}
                    _ => return Err(error),
                },
                Err(error) => return Err(error),
            }
        }
        Err(Error::NoDatabase { range: range.to_string() })
    }

    /// The database that holds `name`, else those that hold nothing.
    async fn candidates(&self, secrets: &VolumeSecrets, range: Databases, name: &str) -> Result<Vec<u32>> {
        let mut free = Vec::new();
        for number in range.first..=range.last {
            let url = address(secrets, Home::Database(number), name)?.url;
            let store = engine::engine(&url, false, &self.clock).await?;
            match engine::stored_format(&*store).await? {
                Some(format) if format.name == name => return Ok(vec![number]),
                Some(_) => {}
                None => free.push(number),
            }
        }
        Ok(free)
    }

    async fn make_own(
        &self,
        id: &VolumeId,
        request: &VolumeRequest,
        mut wanted: Record,
        file_system: &FileSystem,
    ) -> Result<Record> {
        let records = Records::of(&file_system.meta);
        let mut record = records.claim(id, &wanted).await?;
        wanted.keep(&request.params.by_claim, &record);
        check_repeat(id, &record, &wanted, request.capacity)?;
        if record.state == State::Ready {
            return Ok(record);
        }
        self.set_limits(file_system, &record).await?;
        let root =
            SetAttr { mode: Some(record.mode), uid: Some(record.uid), gid: Some(record.gid), ..SetAttr::default() };
        file_system.meta.setattr(&Caller::root(), Ino::ROOT, root).await?;
        record.state = State::Ready;
        records.replace(id, &record).await?;
        info!(volume = %id, capacity = record.capacity, "created");
        Ok(record)
    }

    /// Writes the limits of the record into the Format.
    pub(super) async fn set_limits(&self, file_system: &FileSystem, record: &Record) -> Result<()> {
        let store = file_system.meta.store();
        let old = Meta::load_format(store.as_ref()).await?;
        let mut new = Format { capacity: record.capacity, inodes: record.inodes.unwrap_or(0), ..old.clone() };
        record.modified.apply(&mut new);
        if new != old {
            Meta::write_format(store.as_ref(), &new, self.clock.as_ref()).await?;
        }
        Ok(())
    }
}
