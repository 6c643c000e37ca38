//! The record of a volume: what was asked for and how far it got. It lies in the file system itself, so that any
//! controller, today's or tomorrow's, recognises a repeated request and finishes what a crash interrupted.
//!
//! `/.stead/volumes/<id>` is an empty file; the record is the JSON in its extended attribute `user.stead.request`.
//! A volume with a file system of its own has the attribute at its root, so that a workload finds an empty directory.
//! Creating the attribute is the atomic claim: of two controllers, one writes it and the other reads it.

use serde::{Deserialize, Serialize};
use stead_base::Ino;
use stead_meta::Error as MetaError;
use stead_meta::ops::{Caller, Meta, NewNode, XattrFlag};
use stead_meta::store::Cursor;

use crate::error::{Error, Result};
use crate::names::{VolumeId, VolumePath};

const DIRECTORY: &str = "/.stead/volumes";
const ATTRIBUTE: &[u8] = b"user.stead.request";
const PAGE: usize = 1000;

/// How far a volume got.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum State {
    /// Claimed; directory or limits may be missing.
    Creating,
    /// Complete.
    Ready,
    /// Parts of it are gone.
    Deleting,
}

/// What was asked for. Unknown members of a newer version are an error: better none than half understood.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Record {
    pub(crate) state: State,
    /// The request's name.
    pub(crate) name: String,
    /// The directory of a directory volume; `None` = the whole file system.
    pub(crate) path: Option<String>,
    /// Whether the path was chosen by a `pathPattern`, and may be shared.
    pub(crate) chosen_path: bool,
    /// Bytes as of the last expansion; 0 = no limit.
    pub(crate) capacity: u64,
    pub(crate) inodes: Option<u64>,
    pub(crate) mode: u16,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    pub(crate) mount_options: String,
}

impl Record {
    pub(crate) fn volume_path(&self) -> Result<Option<VolumePath>> {
        self.path.as_deref().map(VolumePath::parse).transpose()
    }

    /// Whether `other` asks for the same volume; capacities are compared as ranges elsewhere.
    ///
    /// # Errors
    /// [`Error::Exists`] names the first difference.
    pub(crate) fn check_same(&self, id: &VolumeId, other: &Self) -> Result<()> {
        let members = [
            ("name", self.name.clone(), other.name.clone()),
            ("path", format!("{:?}", self.path), format!("{:?}", other.path)),
            ("inodes", format!("{:?}", self.inodes), format!("{:?}", other.inodes)),
            ("mode", format!("{:04o}", self.mode), format!("{:04o}", other.mode)),
            ("uid", self.uid.to_string(), other.uid.to_string()),
            ("gid", self.gid.to_string(), other.gid.to_string()),
            ("mountOptions", self.mount_options.clone(), other.mount_options.clone()),
        ];
        match members.into_iter().find(|(_, existing, requested)| existing != requested) {
            None => Ok(()),
            Some((what, existing, requested)) => Err(Error::Exists { id: id.to_string(), what, existing, requested }),
        }
    }
}

/// The records of one file system.
pub(crate) struct Records<'a> {
    meta: &'a Meta,
}

impl<'a> Records<'a> {
    pub(crate) fn of(meta: &'a Meta) -> Self {
        Self { meta }
    }

    /// The record of a volume, if it has one.
    pub(crate) async fn find(&self, id: &VolumeId) -> Result<Option<Record>> {
        match self.file(id).await? {
            Some(file) => self.read(id, file).await,
            None => Ok(None),
        }
    }

    /// Writes `record` unless the volume has one. Returns the one that it has.
    pub(crate) async fn claim(&self, id: &VolumeId, record: &Record) -> Result<Record> {
        let file = self.make_file(id).await?;
        match self.meta.set_xattr(&Caller::root(), file, ATTRIBUTE, &encode(record), XattrFlag::Create).await {
            Ok(()) => Ok(record.clone()),
            Err(MetaError::XattrExists { .. }) => {
                let existing = self.read(id, file).await?;
                existing.ok_or_else(|| Error::BeingDeleted { id: id.to_string() })
            }
            Err(error) => Err(error.into()),
        }
    }

    /// Replaces the record of a volume that has one.
    ///
    /// # Errors
    /// [`Error::BeingDeleted`] when it has none any more.
    pub(crate) async fn replace(&self, id: &VolumeId, record: &Record) -> Result<()> {
        let gone = || Error::BeingDeleted { id: id.to_string() };
        let file = self.file(id).await?.ok_or_else(gone)?;
        match self.meta.set_xattr(&Caller::root(), file, ATTRIBUTE, &encode(record), XattrFlag::Replace).await {
            Err(MetaError::NoXattr { .. } | MetaError::NoInode { .. }) => Err(gone()),
            other => Ok(other?),
        }
    }

    /// Removes the record; the last step of a deletion.
    pub(crate) async fn remove(&self, id: &VolumeId) -> Result<()> {
        let Some(directory) = self.directory().await? else { return Ok(()) };
        // Past the trash, where it would be taken for a file of somebody.
        let name = id.as_str().as_bytes();
        let removed = self.meta.remove_tree(&Caller::root(), directory, name, true, &|_removed: u64| {}).await;
        found(removed).map(|_| ())
    }

    /// All volumes of the file system whose record is there.
    pub(crate) async fn all(&self) -> Result<Vec<(VolumeId, Record)>> {
        let Some(directory) = self.directory().await? else { return Ok(Vec::new()) };
        let mut records = Vec::new();
        let mut from = Cursor::default();
        loop {
            let page = self.meta.list(directory, false, from, PAGE).await?;
            for listed in page.items {
                let Ok(name) = std::str::from_utf8(listed.name.as_bytes()) else { continue };
                let id = VolumeId::parse(name)?;
                if let Some(record) = self.read(&id, listed.entry.ino).await? {
                    records.push((id, record));
                }
            }
            match page.next {
                Some(next) => from = next,
                None => return Ok(records),
            }
        }
    }

    async fn directory(&self) -> Result<Option<Ino>> {
        found(self.meta.resolve_path(DIRECTORY).await.map(|(ino, _)| ino))
    }

    async fn make_file(&self, id: &VolumeId) -> Result<Ino> {
        if id.own_file_system()?.is_some() {
            return Ok(Ino::ROOT);
        }
        let directory = self.meta.make_dirs(DIRECTORY, 0o700, 0, 0).await?;
        let name = id.as_str().as_bytes();
        match self.meta.mknod(&Caller::root(), directory, name, NewNode::file(0o600, 0)).await {
            Ok((file, _)) => Ok(file),
            Err(MetaError::Exists { .. }) => Ok(self.meta.lookup(directory, name).await?.0),
            Err(error) => Err(error.into()),
        }
    }

    async fn file(&self, id: &VolumeId) -> Result<Option<Ino>> {
        if id.own_file_system()?.is_some() {
            return Ok(Some(Ino::ROOT));
        }
        let Some(directory) = self.directory().await? else { return Ok(None) };
        found(self.meta.lookup(directory, id.as_str().as_bytes()).await.map(|(ino, _)| ino))
    }

    /// `None` when a crash left the file without a record, or it has just been removed.
    async fn read(&self, id: &VolumeId, file: Ino) -> Result<Option<Record>> {
        match self.meta.get_xattr(file, ATTRIBUTE).await {
            Ok(json) => serde_json::from_slice(&json)
                .map(Some)
                .map_err(|error| Error::Record { id: id.to_string(), why: error.to_string() }),
            Err(MetaError::NoXattr { .. } | MetaError::NoInode { .. }) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }
}

fn encode(record: &Record) -> Vec<u8> {
    serde_json::to_vec(record).expect("a record has only text keys")
}

/// `None` instead of an error for what is not there.
pub(crate) fn found<T>(result: Result<T, MetaError>) -> Result<Option<T>> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(MetaError::NoEntry { .. } | MetaError::NoInode { .. }) => Ok(None),
        Err(error) => Err(error.into()),
    }
}
