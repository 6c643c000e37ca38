//! How the process of a worker comes to be: the one place that tells the modes apart.

use std::fs::File;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::time::Duration;

use stead_keeper::launch::{self, WorkerLaunch};
use stead_keeper::{Channel, Error as KeeperError, Message, Process};
use stead_volume::{MountConfig, WorkerSettings};
use tracing::warn;

use super::mount_id::MountId;
use super::pods::{PodLauncher, keeper_dir};
use super::process::ProcessId;
use crate::config::WorkerMode;
use crate::error::{Error, Result};

/// How long a runner may take to start a process.
const RUNNER: Duration = Duration::from_secs(10);

/// What a mount asks of the place where its worker runs.
#[derive(Clone, Debug)]
pub(crate) struct Needs {
    pub(crate) settings: WorkerSettings,
    /// Directories with data that is nowhere else for a while.
    pub(crate) staging: Vec<PathBuf>,
}

impl Needs {
    pub(crate) fn of(config: &MountConfig) -> Self {
        let options = &config.options;
        let staging = if options.writeback { options.cache_dir.clone() } else { Vec::new() };
        Self { settings: config.worker.clone(), staging }
    }
}

/// Starts processes for workers.
#[derive(Clone, Debug)]
pub(crate) struct Launcher {
    mode: Mode,
    launch: WorkerLaunch,
}

#[derive(Clone, Debug)]
enum Mode {
    Process,
    Runner { socket: PathBuf },
    Pod(PodLauncher),
}

impl Launcher {
    /// `state` is the node service's directory, `node` where it is.
    ///
    /// # Errors
    /// A directory that cannot be made.
    pub(crate) fn new(mode: WorkerMode, launch: WorkerLaunch, state: &Path, node: &str) -> Result<Self> {
        let mode = match mode {
            WorkerMode::Process => Mode::Process,
            WorkerMode::Runner { socket } => Mode::Runner { socket },
            WorkerMode::Pod(mode) => Mode::Pod(PodLauncher::new(mode, &launch, state, node)?),
        };
        Ok(Self { mode, launch })
    }

    /// The user that workers run as.
    pub(crate) fn uid(&self) -> u32 {
        if nix::unistd::geteuid().is_root() { self.launch.uid } else { nix::unistd::geteuid().as_raw() }
    }

    /// Where the node service listens for workers that an earlier one has started.
    pub(crate) fn listen_at(&self, state: &Path) -> PathBuf {
        match &self.mode {
            Mode::Process => state.join("keeper.sock"),
            // All that workers of a runner see of the node.
            Mode::Runner { socket } => socket.with_file_name("keeper.sock"),
            Mode::Pod(_) => keeper_dir(state).join("keeper.sock"),
        }
    }

    /// The same place as workers see it.
    pub(crate) fn keeper_socket(&self, state: &Path) -> PathBuf {
        match &self.mode {
            Mode::Pod(_) => PathBuf::from(stead_k8s::KEEPER_SOCKET),
            _ => self.listen_at(state),
        }
    }

    /// Makes what a runner needs of this machine and could not make by itself: the directory of its socket, and beside that
    /// one for caches.
    ///
    /// # Errors
    /// They cannot be made, or given to its user.
    pub(crate) fn prepare(&self) -> Result<()> {
        let Mode::Runner { socket } = &self.mode else { return Ok(()) };
        let run = socket.parent().unwrap_or(Path::new("/"));
        for dir in [run.to_owned(), run.with_file_name("cache")] {
            let failed = |error: std::io::Error| Error::State { path: dir.clone(), why: error.to_string() };
            std::fs::create_dir_all(&dir).map_err(failed)?;
            if nix::unistd::geteuid().is_root() {
                std::os::unix::fs::chown(&dir, Some(self.launch.uid), Some(self.launch.gid)).map_err(failed)?;
            }
        }
        Ok(())
    }

    /// Starts a process that waits for its mount at the other end of the channel, and writes its log to `log`.
    pub(crate) async fn start(&self, id: &MountId, needs: &Needs, log: File) -> Result<(Channel, Process)> {
        match &self.mode {
            Mode::Process => {
                let (mut child, channel) = launch::start(&self.launch, log)?;
                let process = Process::open(child.id().and_then(|pid| i32::try_from(pid).ok()).unwrap_or(-1))?;
                tokio::spawn(async move {
                    if let Err(error) = child.wait().await {
                        warn!(%error, "a worker's end");
                    }
                });
                Ok((channel, process))
            }
            Mode::Runner { socket } => begin(Channel::connect(socket)?, &log).await,
            Mode::Pod(pods) => pods.start(id, needs, async |channel| begin(channel, &log).await).await,
        }
    }

    /// What a worker that serves is to be replaced for, if anything; see [`PodLauncher::update`].
    ///
    /// # Errors
    /// A template that cannot be used.
    pub(crate) fn update(&self, worker: ProcessId, needs: &Needs) -> Result<Option<u64>> {
        match &self.mode {
            Mode::Pod(pods) => pods.update(worker, needs),
            Mode::Process | Mode::Runner { .. } => Ok(None),
        }
    }

    /// How a process that was started here has ended, for people.
    pub(crate) async fn fate(&self, process: &Process) -> String {
        let told = match (&self.mode, process.pid()) {
            (Mode::Pod(pods), Some(pid)) => pods.fate(pid).await,
            _ => None,
        };
        match told {
            Some(how) => how,
            None => process.exit_status().await.map_or_else(|| "how is not known".to_owned(), |how| how.to_string()),
        }
    }
}

/// Has the runner at the other end start a worker.
async fn begin(channel: Channel, log: &File) -> Result<(Channel, Process)> {
    channel.send(&Message::Start, &[log.as_raw_fd()]).await?;
    let answer = tokio::time::timeout(RUNNER, channel.recv()).await;
    let answer = answer.map_err(|_elapsed| KeeperError::Deadline { what: "the runner", limit: RUNNER })??;
    match answer {
        (Message::Started, mut fds) if fds.len() == 1 => {
            let process = Process::of(fds.remove(0))?;
            Ok((channel, process))
        }
        (Message::Failed { error, .. }, _) => Err(KeeperError::Protocol { why: error }.into()),
        (other, _) => Err(KeeperError::Protocol { why: format!("runner: {}", other.kind()) }.into()),
    }
}
