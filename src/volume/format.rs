//! `format` by hand: makes a file system, or changes the settings of one.

use std::sync::Arc;

use stead_base::Clock;
use stead_meta::format::Format;
use stead_meta::ops::Meta;

use crate::engine::{check_place, engine_to_format, ensure, stored_format};
use crate::error::Result;
use crate::secrets::VolumeSecrets;

/// What is to happen to a file system that is there already.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Existing {
    /// It stays as it is.
    Keep,
    /// It gets the settings that were given; the others stay.
    Update,
}

/// Makes the file system that `wanted` describes, its bucket checked with a real object, or changes the one that is there.
/// A new one that says nothing of its storage keeps its objects in the directory `local`. Returns what is stored now;
/// secrets in it are encrypted.
///
/// # Errors
/// Names the engine, the bucket or the member that is wrong. Nothing has been changed then.
pub async fn format(wanted: &VolumeSecrets, local: &str, existing: Existing, clock: &Arc<dyn Clock>) -> Result<Format> {
    let new = || {
        let mut complete = wanted.clone();
        let storage = complete.storage.get_or_insert_with(|| "file".to_owned());
        if storage == "file" {
            complete.bucket.get_or_insert_with(|| local.to_owned());
        }
        complete.new_format(&wanted.name)
    };
    let store = engine_to_format(&wanted.meta, new, wanted, clock).await?;
    let Some(old) = stored_format(&*store).await? else {
        let made = ensure(store, new, &wanted.name, wanted, clock).await?;
        return Ok(made.meta.format().as_ref().clone());
    };
    if existing == Existing::Keep {
        return Ok(old);
    }
    let new = wanted.changed(&old)?;
    new.check_update(&old)?;
    check_place(&new, &old, wanted).await?;
    Ok(Meta::write_format(&*store, &new, clock.as_ref()).await?)
}
