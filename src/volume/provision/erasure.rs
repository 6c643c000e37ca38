//! The deletion of a volume with a file system of its own, which takes as long as it has objects.
//!
//! Its record says first that it is being deleted. What has to be remembered beyond that lies in the bucket, as nothing
//! else leads from a Secret to its volumes: an object beside their prefixes names the volume and its engine, until all of
//! it is gone.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use stead_meta::url::MetaUrl;
use stead_object::ObjectStore;
use tokio::task::JoinError;
use tracing::{info, warn};

use super::Volumes;
use super::file_system::address;
use crate::engine::{self, FileSystem};
use crate::error::{Error, Result};
use crate::names::VolumeId;
use crate::record::{Records, State};
use crate::secrets::VolumeSecrets;

/// No file system can have this prefix.
const NOTES: &str = ".stead-deleting/";
/// Objects that are listed at once.
const BATCH: usize = 500;
/// Calls at the same time that remove some.
const PARALLEL: usize = 16;

/// What is remembered of a deletion. The UUID is in the object's name.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Note {
    volume: VolumeId,
    engine: String,
}

fn key(uuid: &str) -> String {
    format!("{NOTES}{uuid}")
}

impl Volumes {
    /// Marks the volume, remembers the deletion, and removes everything: for a while in sight of the caller, then in the
    /// background. Where it cannot be remembered, the caller waits.
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
        // Nobody asks again for what was answered: it has to be remembered.
        file_system.meta.store().sync().await?;
        let remembered = remember(id, secrets, &file_system).await;
        let erasing = {
            let (me, id, secrets) = (self.clone(), id.clone(), secrets.clone());
            tokio::spawn(async move { me.erase(&id, &secrets, file_system).await })
        };
        let answer = match remembered {
            Ok(true) => match tokio::time::timeout(self.removals.patience, erasing).await {
                Ok(ended) => flat(ended),
                Err(_elapsed) => {
                    info!("the volume is gone, its data is removed in the background");
                    Ok(())
                }
            },
            Ok(false) => flat(erasing.await),
            Err(error) => {
                warn!(%error, "a deletion cannot be remembered, so it has to end now");
                flat(erasing.await)
            }
        };
        self.resume_file_systems_once(secrets);
        answer
    }

    /// Goes on with what earlier controllers were told to delete, with the first call for the bucket.
    pub(super) fn resume_file_systems_once(&self, secrets: &VolumeSecrets) {
        let (me, secrets) = (self.clone(), secrets.clone());
        tokio::spawn(async move { me.resume_file_systems(&secrets).await });
    }

    /// The same, until all is done that can be done.
    pub(super) async fn resume_file_systems(&self, secrets: &VolumeSecrets) {
        let place = format!("{} with {}", secrets.bucket.as_deref().unwrap_or_default(), secrets.meta);
        if !self.removals.is_new(&place) {
            return;
        }
        if let Err(error) = self.finish_noted(secrets).await {
            self.removals.failed(&place, &error);
        }
    }

    async fn finish_noted(&self, secrets: &VolumeSecrets) -> Result<()> {
        let Some(bucket) = engine::bucket(secrets).await? else { return Ok(()) };
        let notes = match bucket.list(NOTES, "", BATCH).await {
            // Nothing was ever there.
            Err(stead_object::Error::NoBucket { .. }) => return Ok(()),
            listed => listed?,
        };
        for object in notes {
            let note = match bucket.get(&object.key, None).await {
                Err(stead_object::Error::NotFound { .. }) => continue,
                read => read?,
            };
            match serde_json::from_slice::<Note>(&note) {
                Ok(note) => self.finish_note(&object.key, &note, secrets, &*bucket).await?,
                Err(error) => warn!(object = object.key, %error, "not a note of a deletion"),
            }
        }
        Ok(())
    }

    async fn finish_note(
        &self,
        key: &str,
        note: &Note,
        secrets: &VolumeSecrets,
        bucket: &dyn ObjectStore,
    ) -> Result<()> {
        // Other Secrets may name the same bucket and another engine.
        if note.engine != engine_of(&note.volume, secrets)? {
            return Ok(());
        }
        let file_system = self.existing(&note.volume, secrets).await?;
        if let Some(file_system) = file_system
            && key.strip_prefix(NOTES) == Some(&file_system.meta.format().uuid)
        {
            let record = Records::of(&file_system.meta).find(&note.volume).await?;
            if record.is_some_and(|record| record.state != State::Deleting) {
                file_system.meta.drain().await;
                warn!(volume = %note.volume, "a note says that it is being deleted, its record does not; it stays");
                return Ok(());
            }
            return self.erase(&note.volume, secrets, file_system).await;
        }
        // A death after the engine was emptied, or another volume there since.
        Ok(bucket.delete(key).await?)
    }

    /// Objects first: while the Format is there, a repeat finds what is left. The note goes last.
    async fn erase(&self, id: &VolumeId, secrets: &VolumeSecrets, file_system: FileSystem) -> Result<()> {
        let uuid = file_system.meta.format().uuid.clone();
        let Some(_claim) = self.removals.claim(&uuid, "") else {
            file_system.meta.drain().await;
            return Ok(());
        };
        let _turn = self.removals.turns.acquire().await;
        let erased = self.erase_all(id, secrets, file_system).await;
        if let Err(error) = &erased {
            warn!(volume = %id, %error, "what was deleted cannot be removed yet");
            return erased;
        }
        if let Some(bucket) = engine::bucket(secrets).await? {
            bucket.delete(&key(&uuid)).await?;
        }
        Ok(())
    }

    async fn erase_all(&self, id: &VolumeId, secrets: &VolumeSecrets, file_system: FileSystem) -> Result<()> {
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

/// The address of a volume's engine, without secrets.
fn engine_of(id: &VolumeId, secrets: &VolumeSecrets) -> Result<String> {
    match id.own_file_system()? {
        Some((home, name)) => Ok(address(secrets, home, name)?.url.to_string()),
        None => Ok(String::new()),
    }
}

/// Notes the deletion. False: the Secret names no bucket, so nobody would find the note.
async fn remember(id: &VolumeId, secrets: &VolumeSecrets, file_system: &FileSystem) -> Result<bool> {
    let Some(bucket) = engine::bucket(secrets).await? else { return Ok(false) };
    let note = Note { volume: id.clone(), engine: engine_of(id, secrets)? };
    let note = serde_json::to_vec(&note).expect("a note has only text");
    bucket.put(&key(&file_system.meta.format().uuid), Bytes::from(note)).await?;
    bucket.sync().await?;
    Ok(true)
}

fn flat(ended: Result<Result<()>, JoinError>) -> Result<()> {
    ended.unwrap_or_else(|panicked| Err(failed(&panicked)))
}

fn failed(error: &JoinError) -> Error {
    stead_object::Error::Other { store: "deletion".to_owned(), why: error.to_string() }.into()
}

async fn remove_objects(objects: &Arc<dyn ObjectStore>) -> Result<usize> {
    let mut removed = 0;
    loop {
        let page = objects.list("", "", BATCH).await?;
        if page.is_empty() {
            return Ok(removed);
        }
        let keys: Vec<_> = page.into_iter().map(|object| object.key).collect();
        stead_object::delete_all(&**objects, &keys, PARALLEL).await?;
        removed += keys.len();
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
