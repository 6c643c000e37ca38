//! What there is: volumes, snapshots, room. Only complete ones are listed, as nobody was told of the others.

use std::collections::HashSet;

use stead_base::Ino;
use stead_meta::ops::Meta;

use super::{Snapshot, Volume, Volumes};
use crate::configured::Named;
use crate::engine::FileSystem;
use crate::error::{Error, Result};
use crate::names::{SnapshotId, VolumeId};
use crate::record::{Record, Recorded, Records, SnapshotRecord, State};

/// What has no limit has this much room, as statfs(2) of an empty volume says.
const UNLIMITED: u64 = 1 << 50;

/// A place in a list: after this one. It stays right when what it names is gone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Position {
    file_system: String,
    id: String,
}

impl Position {
    const FORM: &str = "after:";

    /// Reads what [`Position`] shows; `None` for anything else.
    pub fn parse(token: &str) -> Option<Self> {
        let (file_system, id) = token.strip_prefix(Self::FORM)?.split_once('/')?;
        // Ids of volumes and of snapshots have the same form.
        let id = VolumeId::parse(id).ok()?.to_string();
        Some(Self { file_system: file_system.to_owned(), id })
    }
}

impl std::fmt::Display for Position {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}{}/{}", Self::FORM, self.file_system, self.id)
    }
}

/// Which part of a list.
#[derive(Clone, Debug, Default)]
pub struct Page {
    /// `None` = from the beginning.
    pub after: Option<Position>,
    /// `None` = all.
    pub limit: Option<usize>,
}

/// A part of a list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listing<T> {
    /// In the order of file systems and ids.
    pub items: Vec<T>,
    /// Where the next part begins, if there is one.
    pub next: Option<Position>,
}

/// Which snapshots; `None` = any.
#[derive(Clone, Debug, Default)]
pub struct SnapshotFilter {
    /// The one of this id.
    pub id: Option<SnapshotId>,
    /// Those of this volume.
    pub volume: Option<VolumeId>,
}

impl SnapshotFilter {
    fn passes(&self, id: &SnapshotId, record: &SnapshotRecord) -> bool {
        self.id.as_ref().is_none_or(|wanted| wanted == id)
            && self.volume.as_ref().is_none_or(|wanted| *wanted == record.volume)
    }
}

impl Volumes {
    /// The directory volumes of these file systems.
    ///
    /// # Errors
    /// [`Error::Configured`] names the file system that cannot be asked.
    pub async fn list(&self, of: &[Named], page: &Page) -> Result<Listing<Volume>> {
        let volume = |id: VolumeId, record: Record| match record.state {
            State::Ready => Volume::of(id, &record).map(Some),
            State::Creating | State::Deleting => Ok(None),
        };
        self.listed(of, page, |meta| Records::of(meta), &volume).await
    }

    /// The snapshots of these file systems.
    ///
    /// # Errors
    /// [`Error::Configured`] names the file system that cannot be asked.
    pub async fn list_snapshots(
        &self,
        of: &[Named],
        filter: &SnapshotFilter,
        page: &Page,
    ) -> Result<Listing<Snapshot>> {
        let snapshot = |id: SnapshotId, record: SnapshotRecord| {
            let wanted = record.state == State::Ready && filter.passes(&id, &record);
            Ok(wanted.then(|| Snapshot::of(id, record)))
        };
        self.listed(of, page, |meta| Records::of_snapshots(meta), &snapshot).await
    }

    /// Bytes that a new volume can have: in the file system with the most room, as nobody says which it will be.
    ///
    /// # Errors
    /// [`Error::Configured`] names the file system that cannot be asked.
    pub async fn room(&self, of: &[Named]) -> Result<u64> {
        let mut most = 0;
        for place in of {
            let room = self.room_of(place).await.map_err(|error| in_place(place, error))?;
            most = most.max(room);
        }
        Ok(most)
    }

    async fn room_of(&self, place: &Named) -> Result<u64> {
        if let Some(file_system) = self.shared(&place.secrets).await? {
            return Ok(file_system.meta.statfs(Ino::ROOT).await?.avail);
        }
        match place.secrets.new_format(&place.secrets.name)?.capacity {
            0 => Ok(UNLIMITED),
            bytes => Ok(bytes),
        }
    }

    async fn listed<R: Recorded, T>(
        &self,
        of: &[Named],
        page: &Page,
        records: impl for<'a> Fn(&'a Meta) -> Records<'a, R>,
        pick: &(impl Fn(R::Id, R) -> Result<Option<T>> + Sync),
    ) -> Result<Listing<T>> {
        let mut list = Filling { items: Vec::new(), last: None, limit: page.limit };
        for (place, file_system) in self.each(of).await? {
            let from = match &page.after {
                Some(after) if place.name < after.file_system => continue,
                Some(after) if place.name == after.file_system => Some(after.id.as_str()),
                _ => None,
            };
            let more = list.add(&place.name, &records(&file_system.meta), from, pick).await;
            if more.map_err(|error| in_place(place, error))? {
                return Ok(Listing { items: list.items, next: list.last });
            }
        }
        Ok(Listing { items: list.items, next: None })
    }

    /// Those that are there, each once, though two Secrets may lead to the same one.
    async fn each<'a>(&self, of: &'a [Named]) -> Result<Vec<(&'a Named, FileSystem)>> {
        let (mut seen, mut each) = (HashSet::new(), Vec::new());
        for place in of {
            let opened = self.shared(&place.secrets).await.map_err(|error| in_place(place, error))?;
            if let Some(file_system) = opened
                && seen.insert(file_system.meta.format().uuid.clone())
            {
                each.push((place, file_system));
            }
        }
        Ok(each)
    }
}

fn in_place(place: &Named, error: Error) -> Error {
    Error::Configured { name: place.name.clone(), source: Box::new(error) }
}

struct Filling<T> {
    items: Vec<T>,
    last: Option<Position>,
    limit: Option<usize>,
}

impl<T> Filling<T> {
    /// Adds what one file system has after `from`. Whether there is more than may be added.
    async fn add<R: Recorded>(
        &mut self,
        place: &str,
        records: &Records<'_, R>,
        from: Option<&str>,
        pick: &(impl Fn(R::Id, R) -> Result<Option<T>> + Sync),
    ) -> Result<bool> {
        let mut files = records.files().await?;
        files.sort_unstable();
        for (name, file) in files.into_iter().filter(|(name, _)| from.is_none_or(|from| name.as_str() > from)) {
            let id = R::parse_id(&name)?;
            let Some(record) = records.read(&id, file).await? else { continue };
            let Some(item) = pick(id, record)? else { continue };
            if self.limit.is_some_and(|limit| self.items.len() >= limit) {
                return Ok(true);
            }
            self.items.push(item);
            self.last = Some(Position { file_system: place.to_owned(), id: name });
        }
        Ok(false)
    }
}
