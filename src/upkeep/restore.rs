//! Getting things back from the trash.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use serde::Serialize;
use stead_meta::Meta;
use stead_meta::ops::RestoreOptions;

use crate::error::Result;
use crate::progress::{Progress, Unit};

/// What became of the entries of an hour of the trash.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct Restored {
    /// The hour.
    pub hour: String,
    /// Moved to where they were.
    pub restored: u64,
    /// Left in the trash, since the directory that they were in is not in the trash and `put_back` was not asked for.
    pub skipped: u64,
    /// Left in the trash, since something has their name or their directory is gone; the log says which.
    pub failed: u64,
}

/// Restores what was removed in the hour `hour`, such as `2026-01-31-23` (UTC).
///
/// # Errors
/// A text that is no hour, or an hour in which nothing was removed.
pub async fn restore(
    meta: &Arc<Meta>,
    hour: &str,
    put_back: bool,
    threads: usize,
    progress: &dyn Progress,
) -> Result<Restored> {
    let meter = progress.part(&format!("Restoring {hour}"), Unit::Items, None);
    let shown = AtomicU64::new(0);
    let tell = |now: stead_meta::ops::Restored| {
        let done = now.restored + now.skipped + now.failed;
        meter.add(done.saturating_sub(shown.swap(done, Ordering::Relaxed)));
    };
    let done = meta.restore(hour, RestoreOptions { put_back, concurrency: threads }, &tell).await?;
    let stead_meta::ops::Restored { restored, skipped, failed } = done;
    Ok(Restored { hour: hour.to_owned(), restored, skipped, failed })
}
