//! A mount that serves, and how it ends.

use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use stead_base::Tasks;
use stead_chunk::ChunkStore;
use stead_fuse::Session;
use stead_meta::ops::Meta;
use stead_vfs::Vfs;
use stead_volume::MountConfig;
use tracing::{error, info, warn};

use crate::error::Error;

/// How long an end asked for by a signal waits for applications to close their files.
const GRACE: Duration = Duration::from_secs(3);

/// Why a mount ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// Somebody unmounted it.
    Unmounted,
    /// The process was asked to end.
    Stopped,
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
}

impl Serving {
    /// Serves until the mount is gone or `stop` is done, then drains: no acknowledged byte is lost.
    ///
    /// # Errors
    /// Data that could not be flushed.
    pub async fn run(self, stop: impl Future<Output = ()>) -> Result<End, Error> {
        let Self { config, meta, chunks, vfs, session, tasks } = self;
        let mut unmounted = pin!(session.wait());
        let end = tokio::select! {
            _ = &mut unmounted => End::Unmounted,
            () = stop => End::Stopped,
            reason = meta.gone() => {
                error!(%reason, "the volume is not the one that was mounted any more");
                End::VolumeGone
            }
        };
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
