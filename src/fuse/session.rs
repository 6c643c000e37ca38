//! A mounted session: the threads that read requests, from INIT to unmount.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::thread;

use fuser::{Config, InitFlags, KernelConfig, SessionACL};
use stead_vfs::Vfs;
use tokio::runtime::Handle;
use tokio::sync::oneshot;
use tracing::debug;

use crate::adapter::Adapter;

/// What is asked of the kernel at INIT. What it does not know is left out.
const WANTED: [InitFlags; 8] = [
    InitFlags::FUSE_ASYNC_READ,
    InitFlags::FUSE_ASYNC_DIO,
    InitFlags::FUSE_ATOMIC_O_TRUNC,
    InitFlags::FUSE_AUTO_INVAL_DATA,
    InitFlags::FUSE_CACHE_SYMLINKS,
    InitFlags::FUSE_DO_READDIRPLUS,
    InitFlags::FUSE_PARALLEL_DIROPS,
    InitFlags::FUSE_READDIRPLUS_AUTO,
];

/// How the kernel is to talk to us.
#[derive(Clone, Debug)]
pub struct FuseConfig {
    /// Largest write request in bytes, 4 KiB ..= 1 MiB (the kernel's `max_pages_limit`).
    pub max_write: u32,
    /// Bytes that the kernel reads ahead by itself; at most what it offers.
    pub max_readahead: u32,
    /// Requests in the background (read-ahead, writes of pages) before the kernel holds back.
    pub max_background: u16,
    /// Threads that read requests.
    pub threads: usize,
}

impl Default for FuseConfig {
    fn default() -> Self {
        Self { max_write: 128 << 10, max_readahead: 1 << 20, max_background: 128, threads: 2 }
    }
}

impl FuseConfig {
    pub(crate) fn apply(&self, kernel: &mut KernelConfig) {
        for flag in WANTED {
            if kernel.add_capabilities(flag).is_err() {
                debug!(?flag, "the kernel does not know this capability");
            }
        }
        // Each setter refuses what is out of range and names the nearest value that is not.
        if let Err(nearest) = kernel.set_max_write(self.max_write.clamp(4096, 1 << 20)) {
            let _accepted = kernel.set_max_write(nearest);
        }
        if let Err(nearest) = kernel.set_max_readahead(self.max_readahead) {
            let _accepted = kernel.set_max_readahead(nearest);
        }
        if let Err(nearest) = kernel.set_max_background(self.max_background) {
            let _accepted = kernel.set_max_background(nearest);
        }
    }
}

/// A session that is being served.
#[derive(Debug)]
pub struct Session {
    ended: oneshot::Receiver<io::Result<()>>,
}

impl Session {
    /// Serves the FUSE connection `fd`, which whoever opened it has mounted, and returns when the kernel has agreed on the
    /// protocol (INIT): from then on requests are answered. Waits for INIT on the calling thread, which the mount sends at
    /// once. `runtime` runs what cannot be answered without waiting.
    ///
    /// # Errors
    /// The connection is gone, was initialised before, or speaks a version that is too old.
    pub fn serve(vfs: Arc<Vfs>, fd: OwnedFd, config: FuseConfig, runtime: Handle) -> io::Result<Self> {
        let mut options = Config::default();
        // Whether others may come in is decided by the mount's own options, `allow_other` and `default_permissions`.
        options.acl = SessionACL::All;
        options.n_threads = Some(config.threads.max(1));
        let adapter = Adapter::new(vfs, config, runtime);
        let session = fuser::Session::from_fd(adapter, fd, SessionACL::All, options)?;
        let (sender, ended) = oneshot::channel();
        thread::Builder::new().name("fuse".to_owned()).spawn(move || {
            // Nobody may be waiting any more.
            let _unheard = sender.send(session.run());
        })?;
        Ok(Self { ended })
    }

    /// Waits until the file system is unmounted.
    ///
    /// # Errors
    /// The connection broke.
    pub async fn wait(self) -> io::Result<()> {
        let ended = self.ended.await;
        ended.unwrap_or_else(|_died| Err(io::Error::other("the thread of the session died")))
    }
}
