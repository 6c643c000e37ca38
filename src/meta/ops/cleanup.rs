//! The hourly jobs: old deleted files, unreferenced slices, the trash (format.md §2.10, §2.12). One client runs each.

use std::sync::Arc;
use std::time::Duration;

use stead_base::Ino;
use tracing::{info, warn};

use crate::error::Result;
use crate::records::{Job, Name, Write};

use super::Meta;
use super::deleted::{BATCH, release_each};
use super::remove::What;
use super::trash::hour_of;
use super::types::Caller;

const HOUR: i64 = 3600;
const DAY: i64 = 24 * HOUR;
/// A job that ran less long ago is left alone.
const GUARD: i64 = 54 * 60;
/// Deleted files that one run looks at.
const MOST_FILES: usize = 10_000;

impl Meta {
    pub(super) fn start_jobs(self: &Arc<Self>) {
        let me = Arc::downgrade(self);
        self.tasks.every("jobs", Duration::from_secs(3600), move || {
            let me = me.upgrade();
            async move {
                let Some(me) = me else { return };
                let stopping = me.tasks.stopping();
                tokio::select! {
                    () = stopping.cancelled() => {}
                    () = me.run_jobs() => {}
                }
            }
        });
    }

    async fn run_jobs(&self) {
        for job in [Job::CleanupFiles, Job::CleanupSlices, Job::CleanupTrash] {
            match self.run_job(job).await {
                Ok(0) => {}
                Ok(count) => info!(job = job.stored_name(), count, "cleaned up"),
                Err(error) => warn!(job = job.stored_name(), %error, "clean-up failed"),
            }
        }
    }

    /// Runs a job unless another client did lately. Returns how many things it removed.
    pub(super) async fn run_job(&self, job: Job) -> Result<usize> {
        if !self.store.claim_job(job, self.now().secs, GUARD).await? {
            return Ok(0);
        }
        match job {
            Job::CleanupFiles => self.clean_deleted_files().await,
            Job::CleanupSlices => self.clean_slices().await,
            Job::CleanupTrash => self.clean_trash().await,
            Job::CleanupSessions => self.clean_stale_sessions().await,
        }
    }

    async fn clean_deleted_files(&self) -> Result<usize> {
        if self.remover.read().is_none() {
            return Ok(0);
        }
        let files = self.store.list_deleted(self.now().secs - HOUR, MOST_FILES).await?;
        for (ino, length) in &files {
            self.delete_data(*ino, *length).await?;
        }
        Ok(files.len() + self.clean_detached().await?)
    }

    /// Removes clones that were begun long ago and never finished.
    async fn clean_detached(&self) -> Result<usize> {
        let oldest = self.now().secs - DAY;
        let old = self.store.list_detached().await?.into_iter().filter(|(_ino, since)| *since < oldest);
        let mut removed = 0;
        for (top, _since) in old {
            self.remove_detached(top).await?;
            removed += 1;
        }
        Ok(removed)
    }

    async fn clean_slices(&self) -> Result<usize> {
        let slices = self.store.list_unreferenced().await?;
        for some in slices.chunks(BATCH) {
            self.remove_slices(some).await?;
        }
        Ok(slices.len())
    }

    async fn clean_trash(&self) -> Result<usize> {
        let days = i64::from(self.format().trash_days);
        Ok(self.clean_hours(days).await? + self.clean_delayed(days).await?)
    }

    /// Removes the hourly directories that are too old.
    async fn clean_hours(&self, days: i64) -> Result<usize> {
        let edge = self.now().secs - days * DAY - 2 * HOUR;
        let hours = self.list_all(Ino::TRASH, false).await?;
        let old: Vec<(Name, Ino)> = hours
            .into_iter()
            .filter(|(name, _listed)| hour_of(name).is_some_and(|start| start < edge))
            .map(|(name, listed)| (name, listed.entry.ino))
            .collect();
        let mut removed = 0;
        for (name, ino) in old {
            let count = self.empty(&Caller::root(), ino, true, &|_count| ()).await?;
            self.take_away(&Caller::root(), Ino::TRASH, name.as_bytes(), What::Directory, true).await?;
            removed += usize::try_from(count).unwrap_or(usize::MAX) + 1;
        }
        Ok(removed)
    }

    /// Lets go of slices that compactions replaced.
    async fn clean_delayed(&self, days: i64) -> Result<usize> {
        let delayed = self.store.list_delayed(self.now().secs - days * DAY).await?;
        let count = delayed.len();
        for (id, since, slices) in delayed {
            let released = slices.clone();
            self.transact(move |txn| {
                txn.write(Write::DelDelayedSlices(id, since));
                release_each(txn, &released);
                Ok(())
            })
            .await?;
            self.remove_unreferenced(&slices).await?;
        }
        Ok(count)
    }
}
