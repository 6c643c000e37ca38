//! The end of a volume: its objects, then its metadata. While the metadata is there, a repeat finds what is left.

use std::sync::Arc;

use serde::Serialize;
use stead_object::{ObjectStore, delete_all};

use crate::error::{Error, Result};
use crate::open::Opened;
use crate::progress::{Progress, Unit};

/// Objects that are listed at once.
const BATCH: usize = 1000;
/// Calls at the same time that remove some.
const PARALLEL: usize = 16;
/// Says whose prefix it is (format.md §1.3).
const UUID_OBJECT: &str = "juicefs_uuid";

/// What went.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Destroyed {
    /// Objects.
    pub objects: u64,
    /// Their bytes.
    pub bytes: u64,
}

/// Makes sure that the volume is the one that is meant and that nobody works with it.
///
/// # Errors
/// [`Error::Refused`] names the UUID, the sessions, or the volume that the objects belong to. `force` skips the latter two.
pub async fn check(volume: &Opened, objects: &dyn ObjectStore, uuid: &str, force: bool) -> Result<()> {
    if volume.format.uuid != uuid {
        return Err(Error::Refused(format!("the volume there has the UUID {}, not {uuid}", volume.format.uuid)));
    }
    if force {
        return Ok(());
    }
    let now = volume.clock.now().secs;
    let sessions = volume.store.list_sessions().await?;
    let alive: Vec<String> = sessions.iter().filter(|s| s.expire >= now).map(|s| s.sid.to_string()).collect();
    if !alive.is_empty() {
        let why = "the volume is mounted; unmount it first, or --force";
        return Err(Error::Refused(format!("sessions {}: {why}", alive.join(", "))));
    }
    match objects.get(UUID_OBJECT, None).await {
        Ok(found) if found != uuid.as_bytes() => {
            let found = String::from_utf8_lossy(&found[..found.len().min(64)]).into_owned();
            let why = format!("belongs to the volume with UUID {found}; --force removes its objects all the same");
            Err(Error::Refused(format!("{}: {why}", objects.describe())))
        }
        Ok(_) | Err(stead_object::Error::NotFound { .. }) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

/// Removes everything below the volume's prefix and every record. Nothing brings it back.
///
/// # Errors
/// What could not be removed; the metadata is still there then.
pub async fn destroy(volume: &Opened, objects: &Arc<dyn ObjectStore>, progress: &dyn Progress) -> Result<Destroyed> {
    let meter = progress.part("Removing objects", Unit::Items, None);
    let mut done = Destroyed::default();
    loop {
        let page = objects.list("", "", BATCH).await?;
        if page.is_empty() {
            break;
        }
        for object in &page {
            done.objects += 1;
            done.bytes += object.size;
        }
        let keys: Vec<_> = page.into_iter().map(|object| object.key).collect();
        delete_all(&**objects, &keys, PARALLEL).await?;
        meter.add(keys.len() as u64);
    }
    volume.store.erase().await?;
    Ok(done)
}
