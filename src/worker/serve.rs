//! A mount that serves, and how it ends.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use stead_base::{Errno, Tasks};
use stead_chunk::ChunkStore;
use stead_fuse::{Session, Unanswered};
use stead_meta::ops::Meta;
use stead_vfs::Vfs;
use stead_volume::MountConfig;
use tokio::sync::{mpsc, oneshot};
use tracing::{error, info, warn};

use crate::error::{Error, Stage};
use crate::stages::SessionState;
use crate::storage::Reconfigure;

/// How long an end asked for by a signal waits for applications to close their files.
const GRACE: Duration = Duration::from_secs(3);

/// Why a mount ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// Somebody unmounted it.
    Unmounted,
    /// The process was asked to end.
    Stopped,
    /// Another worker goes on.
    HandedOver,
    /// The volume was removed or replaced; nothing more was written to it.
    VolumeGone,
}

/// A mount that serves.
pub struct Serving {
    pub(crate) config: MountConfig,
    pub(crate) meta: Arc<Meta>,
    pub(crate) chunks: Arc<ChunkStore>,
    pub(crate) vfs: Arc<Vfs>,
    pub(crate) session: Session,
    pub(crate) tasks: Tasks,
    pub(crate) reconfigure: mpsc::Sender<Reconfigure>,
    /// Of all of its metrics.
    pub(crate) labels: String,
    /// How long the stages of its start took.
    pub(crate) stages: Vec<(Stage, Duration)>,
}

impl Serving {
    /// Serves until the mount is gone or `stop` is done, then drains: no acknowledged byte is lost.
    ///
    /// # Errors
    /// Data that could not be flushed.
    pub async fn run(mut self, stop: impl Future<Output = ()>) -> Result<End, Error> {
        let end = tokio::select! {
            end = self.ended() => end,
            () = stop => End::Stopped,
        };
        self.end(end).await
    }

    /// Waits until the mount or the volume is gone. To be given up and waited for again at any time.
    pub(crate) async fn ended(&mut self) -> End {
        tokio::select! {
            _ = self.session.wait() => End::Unmounted,
            reason = self.meta.gone() => {
                error!(%reason, "the volume is not the one that was mounted any more");
                End::VolumeGone
            }
        }
    }

    /// Drains.
    ///
    /// # Errors
    /// Data that could not be flushed.
    pub(crate) async fn end(self, end: End) -> Result<End, Error> {
        let Self { config, meta, chunks, vfs, mut session, tasks, .. } = self;
        let unmounted = session.wait();
        info!(?end, "draining");
        if end != End::Unmounted && !(config.owns_mount && leave(&config, unmounted).await) {
            // Applications still write: what is acknowledged from here on would be lost, so nothing is any more.
            vfs.freeze();
        }
        let flushed = vfs.drain().await;
        tasks.drain().await;
        chunks.drain().await;
        meta.drain().await;
        if let Err(error) = meta.close_session().await {
            warn!(%error, "the session is left to expire");
        }
        flushed.map_err(|errno| {
            error!(%errno, "some data could not be flushed");
            Error::Io { what: "flush at the end".to_owned(), error: std::io::Error::from_raw_os_error(errno.0) }
        })?;
        Ok(end)
    }
}

/// How long changes that were asked for may take before a handover is given up.
const CHANGES: Duration = Duration::from_secs(10);
/// How often data is written back that came while other data was.
const FLUSHES: u32 = 5;

impl Serving {
    /// What a worker after this one must know.
    pub(crate) fn state(&self) -> SessionState {
        SessionState { negotiated: self.session.negotiated().clone(), sid: self.meta.session().0 }
    }

    /// Stops answering once nothing would be lost without this process. What the kernel asks from then on, and what it has
    /// asked and has no answer to, is for the next worker.
    ///
    /// # Errors
    /// Why not; then it serves on.
    pub(crate) async fn hand_over(&mut self) -> Result<(), Error> {
        let refused = |why: &str| Error::Io { what: "hand over".to_owned(), error: std::io::Error::other(why) };
        let unanswered = self.session.suspend(CHANGES).await;
        self.vfs.freeze();
        let ready = match unanswered {
            Unanswered::Changes => Err(refused("changes that were asked for take too long")),
            Unanswered::Repeatable => self.flush().await.map_err(|errno| refused(errno.name())),
        };
        if ready.is_err() {
            self.vfs.thaw();
            self.session.resume();
        } else {
            self.session.silence();
        }
        ready
    }

    async fn flush(&self) -> Result<(), Errno> {
        let mut flushed = self.vfs.flush_for_successor().await;
        for _again in 1..FLUSHES {
            if flushed != Err(Errno::EAGAIN) {
                break;
            }
            flushed = self.vfs.flush_for_successor().await;
        }
        flushed
    }

    /// Ends after [`Serving::hand_over`]: the session with the engine stays.
    pub(crate) async fn leave(self) {
        let Self { meta, chunks, vfs, tasks, .. } = self;
        if let Err(errno) = vfs.drain().await {
            error!(%errno, "data is left that came after the handover");
        }
        tasks.drain().await;
        chunks.drain().await;
        meta.drain().await;
    }

    /// Uses other credentials for the object storage.
    ///
    /// # Errors
    /// They do not open it; the old ones stay in use.
    pub(crate) async fn reconfigure(&mut self, config: MountConfig) -> Result<(), Error> {
        let (done, answer) = oneshot::channel();
        let ended = || Error::BadInput("the worker is about to end".to_owned());
        self.reconfigure.send(Reconfigure { config: config.clone(), done }).await.map_err(|_ended| ended())?;
        answer.await.map_err(|_ended| ended())??;
        self.config = config;
        Ok(())
    }
}

/// Takes the mount away from new callers and waits a moment for those inside; whether all of them have left.
async fn leave(config: &MountConfig, unmounted: impl Future<Output = std::io::Result<()>>) -> bool {
    let dir = config.mount_point.clone();
    match stead_keeper::within("unmount", GRACE, move || stead_keeper::mount::umount(&dir, true)).await {
        Ok(()) => tokio::time::timeout(GRACE, unmounted).await.is_ok(),
        Err(error) => {
            warn!(%error, "not unmounted");
            false
        }
    }
}
