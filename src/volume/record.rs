//! The record of a volume or snapshot: what was asked for and how far it got. It lies in the file system itself, so that
//! any controller, today's or tomorrow's, recognises a repeated request and finishes what a crash interrupted.
//!
//! `/.stead/volumes/<id>` is an empty file; the record is the JSON in its extended attribute `user.stead.request`. So it
//! is for snapshots, below `/.stead/snapshot-records`, and for groups of them, below `/.stead/group-records`.
//! A volume with a file system of its own has the attribute at its root, so that a workload finds an empty directory.
//! Creating the attribute is the atomic claim: of two controllers, one writes it and the other reads it.

use std::fmt::Display;
use std::marker::PhantomData;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use stead_base::{Ino, Timestamp};
use stead_meta::Error as MetaError;
use stead_meta::ops::{Caller, Meta, NewNode, XattrFlag};
use stead_meta::store::Cursor;

use crate::claim::ByClaim;
use crate::error::{Error, Result};
use crate::mutable::MutableParams;
use crate::names::{GroupId, SnapshotId, VolumeId, VolumePath};
use crate::params::{Claim, MOUNT_OPTIONS, SHARE};
use crate::share::Share;
use crate::source::Source;
use crate::worker::WorkerSettings;

const ATTRIBUTE: &[u8] = b"user.stead.request";
const PAGE: usize = 1000;

/// What is recorded in one directory.
pub(crate) trait Recorded: Clone + Serialize + DeserializeOwned {
    /// What it is called in messages.
    const THING: &'static str;
    /// Where the records lie.
    const DIRECTORY: &'static str;
    /// Names a record's file.
    type Id: Display;

    fn parse_id(text: &str) -> Result<Self::Id>;

    /// Whether the record lies at the root of the file system instead.
    fn at_root(_id: &Self::Id) -> Result<bool> {
        Ok(false)
    }

    fn state(&self) -> State;
}

/// What is made by cloning a tree.
pub(crate) trait Cloned: Recorded {
    /// The top of a clone under way, so that what a death leaves of it can be found.
    fn cloning(&mut self) -> &mut Option<u64>;
}

/// How far a volume, snapshot or group got.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum State {
    /// Claimed; tree or limits may be missing.
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
    #[serde(default, skip_serializing_if = "Share::is_default")]
    pub(crate) share: Share,
    #[serde(default, skip_serializing_if = "WorkerSettings::is_empty")]
    pub(crate) worker: WorkerSettings,
    /// For whom; a repeat need not know it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) claim: Option<Claim>,
    /// What it began with; `None` = empty.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) source: Option<Source>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) cloning: Option<u64>,
    /// What was changed since, or asked for as changeable: it wins over the members above.
    #[serde(default, skip_serializing_if = "MutableParams::is_empty")]
    pub(crate) modified: MutableParams,
}

impl Recorded for Record {
    const THING: &'static str = "volume";
    const DIRECTORY: &'static str = "/.stead/volumes";
    type Id = VolumeId;

    fn parse_id(text: &str) -> Result<VolumeId> {
        VolumeId::parse(text)
    }

    fn at_root(id: &VolumeId) -> Result<bool> {
        Ok(id.own_file_system()?.is_some())
    }

    fn state(&self) -> State {
        self.state
    }
}

impl Cloned for Record {
    fn cloning(&mut self) -> &mut Option<u64> {
        &mut self.cloning
    }
}

/// A snapshot: the clone of a volume's directory.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct SnapshotRecord {
    pub(crate) state: State,
    /// The volume that it was taken of, which may be gone.
    pub(crate) volume: VolumeId,
    /// When the clone began: what was committed before is in it.
    pub(crate) created: Timestamp,
    /// The group that it is part of, and goes with.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) group: Option<GroupId>,
    /// Bytes and inodes that its content counts in a quota; 0 until it is complete.
    pub(crate) size: u64,
    pub(crate) inodes: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) cloning: Option<u64>,
}

impl Recorded for SnapshotRecord {
    const THING: &'static str = "snapshot";
    const DIRECTORY: &'static str = "/.stead/snapshot-records";
    type Id = SnapshotId;

    fn parse_id(text: &str) -> Result<SnapshotId> {
        SnapshotId::parse(text)
    }

    fn state(&self) -> State {
        self.state
    }
}

impl Cloned for SnapshotRecord {
    fn cloning(&mut self) -> &mut Option<u64> {
        &mut self.cloning
    }
}

/// A group of snapshots: member number n is of the volume number n.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct GroupRecord {
    pub(crate) state: State,
    /// In order, each once.
    pub(crate) volumes: Vec<VolumeId>,
    /// When the members were taken, as far as they are.
    pub(crate) created: Timestamp,
}

impl Recorded for GroupRecord {
    const THING: &'static str = "group snapshot";
    const DIRECTORY: &'static str = "/.stead/group-records";
    type Id = GroupId;

    fn parse_id(text: &str) -> Result<GroupId> {
        GroupId::parse(text)
    }

    fn state(&self) -> State {
        self.state
    }
}

impl GroupRecord {
    pub(crate) fn members(&self, id: &GroupId) -> Vec<SnapshotId> {
        (0..self.volumes.len()).map(|nth| id.member(nth)).collect()
    }
}

impl Record {
    /// The limit of inodes as of now; 0 and `None` = none.
    pub(crate) fn inode_limit(&self) -> Option<u64> {
        self.modified.inodes.or(self.inodes)
    }

    pub(crate) fn volume_path(&self) -> Result<Option<VolumePath>> {
        self.path.as_deref().map(VolumePath::parse).transpose()
    }

    /// Takes over from an earlier request what the claim chose then.
    pub(crate) fn keep(&mut self, by_claim: &ByClaim, earlier: &Self) {
        if by_claim.path && earlier.chosen_path {
            self.path.clone_from(&earlier.path);
        }
        if by_claim.sets(MOUNT_OPTIONS) {
            self.mount_options.clone_from(&earlier.mount_options);
        }
        if by_claim.sets(SHARE) {
            self.share = earlier.share;
        }
        for setting in WorkerSettings::names().filter(|name| by_claim.sets(name)) {
            self.worker.keep(setting, &earlier.worker);
        }
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
            ("share", self.share.as_str().to_owned(), other.share.as_str().to_owned()),
            ("settings of workers", format!("{:?}", self.worker), format!("{:?}", other.worker)),
            ("content source", Source::described(self.source.as_ref()), Source::described(other.source.as_ref())),
        ];
        match members.into_iter().find(|(_, existing, requested)| existing != requested) {
            None => Ok(()),
            Some((what, existing, requested)) => {
                Err(Error::Exists { thing: Self::THING, id: id.to_string(), what, existing, requested })
            }
        }
    }
}

/// The records of one kind in one file system.
pub(crate) struct Records<'a, R = Record> {
    meta: &'a Meta,
    of: PhantomData<fn() -> R>,
}

impl<'a> Records<'a> {
    pub(crate) fn of(meta: &'a Meta) -> Self {
        Self { meta, of: PhantomData }
    }
}

impl<'a> Records<'a, SnapshotRecord> {
    pub(crate) fn of_snapshots(meta: &'a Meta) -> Self {
        Self { meta, of: PhantomData }
    }
}

impl<'a> Records<'a, GroupRecord> {
    pub(crate) fn of_groups(meta: &'a Meta) -> Self {
        Self { meta, of: PhantomData }
    }
}

impl<R: Recorded> Records<'_, R> {
    pub(crate) fn not_found(id: &R::Id) -> Error {
        Error::NotFound { thing: R::THING, id: id.to_string() }
    }

    pub(crate) fn being_deleted(id: &R::Id) -> Error {
        Error::BeingDeleted { thing: R::THING, id: id.to_string() }
    }

    /// A record, if it is there.
    pub(crate) async fn find(&self, id: &R::Id) -> Result<Option<R>> {
        match self.file(id).await? {
            Some(file) => self.read(id, file).await,
            None => Ok(None),
        }
    }

    /// A record of something that is all there.
    pub(crate) async fn complete(&self, id: &R::Id) -> Result<R> {
        let record = self.find(id).await?.ok_or_else(|| Self::not_found(id))?;
        match record.state() {
            State::Ready => Ok(record),
            State::Creating => Err(Error::NotReady { thing: R::THING, id: id.to_string() }),
            State::Deleting => Err(Self::being_deleted(id)),
        }
    }

    /// Writes `record` unless there is one. Returns the one that is there.
    pub(crate) async fn claim(&self, id: &R::Id, record: &R) -> Result<R> {
        let file = self.make_file(id).await?;
        match self.meta.set_xattr(&Caller::root(), file, ATTRIBUTE, &encode(record), XattrFlag::Create).await {
            Ok(()) => Ok(record.clone()),
            Err(MetaError::XattrExists { .. }) => {
                let existing = self.read(id, file).await?;
                existing.ok_or_else(|| Self::being_deleted(id))
            }
            Err(error) => Err(error.into()),
        }
    }

    /// Replaces a record that is there.
    ///
    /// # Errors
    /// [`Error::BeingDeleted`] when there is none any more.
    pub(crate) async fn replace(&self, id: &R::Id, record: &R) -> Result<()> {
        let gone = || Self::being_deleted(id);
        let file = self.file(id).await?.ok_or_else(gone)?;
        match self.meta.set_xattr(&Caller::root(), file, ATTRIBUTE, &encode(record), XattrFlag::Replace).await {
            Err(MetaError::NoXattr { .. } | MetaError::NoInode { .. }) => Err(gone()),
            other => Ok(other?),
        }
    }

    /// Removes the record; the last step of a deletion.
    pub(crate) async fn remove(&self, id: &R::Id) -> Result<()> {
        let Some(directory) = self.directory().await? else { return Ok(()) };
        // Past the trash, where it would be taken for a file of somebody.
        let name = id.to_string();
        let removed =
            self.meta.remove_tree(&Caller::root(), directory, name.as_bytes(), true, &|_removed: u64| {}).await;
        found(removed).map(|_| ())
    }

    /// All that have a record in the file system.
    pub(crate) async fn all(&self) -> Result<Vec<(R::Id, R)>> {
        let mut records = Vec::new();
        for (name, file) in self.files().await? {
            let id = R::parse_id(&name)?;
            if let Some(record) = self.read(&id, file).await? {
                records.push((id, record));
            }
        }
        Ok(records)
    }

    /// The names of all files, in no order; one may lack its record.
    pub(crate) async fn files(&self) -> Result<Vec<(String, Ino)>> {
        let Some(directory) = self.directory().await? else { return Ok(Vec::new()) };
        let mut files = Vec::new();
        let mut from = Cursor::default();
        loop {
            let page = self.meta.list(directory, false, from, PAGE).await?;
            for listed in page.items {
                let Ok(name) = std::str::from_utf8(listed.name.as_bytes()) else { continue };
                files.push((name.to_owned(), listed.entry.ino));
            }
            match page.next {
                Some(next) => from = next,
                None => return Ok(files),
            }
        }
    }

    async fn directory(&self) -> Result<Option<Ino>> {
        found(self.meta.resolve_path(R::DIRECTORY).await.map(|(ino, _)| ino))
    }

    async fn make_file(&self, id: &R::Id) -> Result<Ino> {
        if R::at_root(id)? {
            return Ok(Ino::ROOT);
        }
        let directory = self.meta.make_dirs(R::DIRECTORY, 0o700, 0, 0).await?;
        let name = id.to_string();
        let name = name.as_bytes();
        match self.meta.mknod(&Caller::root(), directory, name, NewNode::file(0o600, 0)).await {
            Ok((file, _)) => Ok(file),
            Err(MetaError::Exists { .. }) => Ok(self.meta.lookup(directory, name).await?.0),
            Err(error) => Err(error.into()),
        }
    }

    async fn file(&self, id: &R::Id) -> Result<Option<Ino>> {
        if R::at_root(id)? {
            return Ok(Some(Ino::ROOT));
        }
        let Some(directory) = self.directory().await? else { return Ok(None) };
        found(self.meta.lookup(directory, id.to_string().as_bytes()).await.map(|(ino, _)| ino))
    }

    /// `None` when a crash left the file without a record, or it has just been removed.
    pub(crate) async fn read(&self, id: &R::Id, file: Ino) -> Result<Option<R>> {
        match self.meta.get_xattr(file, ATTRIBUTE).await {
            Ok(json) => serde_json::from_slice(&json).map(Some).map_err(|error| Error::Record {
                thing: R::THING,
                id: id.to_string(),
                why: error.to_string(),
            }),
            Err(MetaError::NoXattr { .. } | MetaError::NoInode { .. }) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }
}

fn encode<R: Recorded>(record: &R) -> Vec<u8> {
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
