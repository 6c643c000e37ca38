//! Volumes with a file system of their own: engine (a Redis database, a SQLite file), Format, object prefix, trash.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use stead_base::Ino;
use stead_meta::format::Format;
use stead_meta::ops::{Caller, Meta, SetAttr};
use stead_meta::url::MetaUrl;
use stead_object::ObjectStore;
use tokio::task::JoinSet;
use tracing::info;

use super::{Volume, VolumeRequest, Volumes, check_repeat};
use crate::address::{self, Address};
use crate::engine::{self, FileSystem};
use crate::error::{Error, Result};
use crate::names::{Home, VolumeId, format_name};
use crate::params::Databases;
use crate::record::{Record, Records, State};
use crate::secrets::VolumeSecrets;

/// Objects that are listed at once, and removed at the same time.
const BATCH: usize = 500;
const PARALLEL: usize = 16;

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
        let (home, file_system) = self.claim(request, databases, &name).await?;
        let id = VolumeId::of_file_system(home, &name);
        let wanted = request.record(None);
        let result = self.make_own(&id, request, &wanted, &file_system).await;
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
        wanted: &Record,
        file_system: &FileSystem,
    ) -> Result<Record> {
        let records = Records::of(&file_system.meta);
        let mut record = records.claim(id, wanted).await?;
        check_repeat(id, &record, wanted, request.capacity)?;
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

    /// Objects first: while the Format is there, a repeat finds what is left.
    pub(super) async fn delete_file_system(
        &self,
        id: &VolumeId,
        secrets: &VolumeSecrets,
        file_system: FileSystem,
    ) -> Result<()> {
        let records = Records::of(&file_system.meta);
        if let Some(mut record) = records.find(id).await? {
            record.state = State::Deleting;
            records.replace(id, &record).await?;
        }
        let removed = remove_objects(&file_system.objects).await?;
        file_system.meta.drain().await;
        let store = Arc::clone(file_system.meta.store());
        drop(file_system);
        store.erase().await?;
        drop(store);
        if let Some((home, name)) = id.own_file_system()?
            && let MetaUrl::Sqlite { path } = address(secrets, home, name)?.url
        {
            remove_files(&path)?;
        }
        info!(volume = %id, objects = removed, "deleted");
        Ok(())
    }
}

async fn remove_objects(objects: &Arc<dyn ObjectStore>) -> Result<usize> {
    let mut removed = 0;
    loop {
        let page = objects.list("", "", BATCH).await?;
        if page.is_empty() {
            return Ok(removed);
        }
        removed += page.len();
        let mut running = JoinSet::new();
        for object in page {
            if running.len() >= PARALLEL {
                finished(running.join_next().await)?;
            }
            let objects = Arc::clone(objects);
            running.spawn(async move { objects.delete(&object.key).await });
        }
        while let Some(result) = running.join_next().await {
            finished(Some(result))?;
        }
    }
}

fn finished(result: Option<Result<stead_object::Result<()>, tokio::task::JoinError>>) -> Result<()> {
    match result {
        Some(Ok(deleted)) => Ok(deleted?),
        Some(Err(error)) => {
            Err(stead_object::Error::Other { store: "deletion".to_owned(), why: error.to_string() }.into())
        }
        None => Ok(()),
    }
}

/// Removes a SQLite database with the files that belong to it.
fn remove_files(path: &Path) -> Result<()> {
    for suffix in ["-wal", "-shm", "-journal", ""] {
        let mut name = path.as_os_str().to_owned();
        name.push(suffix);
        let file = PathBuf::from(name);
        match std::fs::remove_file(&file) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                return Err(Error::File { path: file.display().to_string(), why: error.to_string() });
            }
            _ => {}
        }
    }
    Ok(())
}
