//! One worker per volume: mounted and started together, watched, drained.

use std::collections::HashMap;
use std::fs::{File, OpenOptions};
use std::io::{Read, Seek, SeekFrom};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use nix::sys::signal::Signal;
use parking_lot::Mutex;
use stead_keeper::launch::{self, WorkerLaunch};
use stead_keeper::mount::{self, MountSpec};
use stead_keeper::{Channel, Message, within};
use stead_volume::{VolumeId, VolumeMount};
use tokio::process::Child;
use tracing::{error, info, warn};

use super::process::ProcessId;
use super::state::StateDir;
use super::target;
use crate::error::{Error, Result};

/// How long a worker may take until it serves.
const START: Duration = Duration::from_secs(60);
/// How long it may flush what is not stored yet before a call gives up waiting.
const DRAIN: Duration = Duration::from_secs(60);
/// A log that has grown beyond this is put aside when a worker starts.
const MAX_LOG: u64 = 16 << 20;
/// The end of a log that is told when a worker dies at its start.
const LOG_TAIL: u64 = 2000;

/// What this process holds of a running worker; a worker from before a restart has none.
struct Held {
    process: ProcessId,
    channel: Arc<Channel>,
    /// While it is open, the kernel keeps the mount.
    _device: OwnedFd,
}

/// The workers of this node.
#[derive(Clone)]
pub(crate) struct Workers {
    launch: WorkerLaunch,
    state: StateDir,
    held: Arc<Mutex<HashMap<VolumeId, Held>>>,
}

impl Workers {
    pub(crate) fn new(launch: WorkerLaunch, state: StateDir) -> Self {
        Self { launch, state, held: Arc::default() }
    }

    /// Mounts a volume at its place and starts the worker that serves it. Whatever fails, nothing stays.
    pub(crate) async fn start(&self, id: &VolumeId, volume: VolumeMount) -> Result<ProcessId> {
        let dir = self.state.mount_point(id);
        target::unmount(&dir).await?;
        target::make(&dir)?;
        let result = self.mount_and_serve(id, volume, &dir).await;
        if result.is_err() {
            self.take_down(id).await;
        }
        result
    }

    async fn mount_and_serve(&self, id: &VolumeId, volume: VolumeMount, dir: &Path) -> Result<ProcessId> {
        let device = mount::open_device()?;
        let options = &volume.config.options;
        let max_read = u32::try_from(options.max_fuse_io.0).unwrap_or(u32::MAX);
        let spec = MountSpec::volume(&volume.name, options.read_only, max_read).with_options(&options.fuse_options);
        let (copy, place) = (launch::keep(&device)?, dir.to_owned());
        within("mount", target::SYSCALL, move || mount::mount(copy.as_fd(), &place, &spec)).await?;
        let (mut child, channel) = launch::start(&self.launch, self.open_log(id)?)?;
        if let Err(error) = self.hand_over(id, volume, dir, &device, &channel).await {
            if let Err(error) = child.kill().await {
                warn!(volume = %id, %error, "cannot end the worker that failed");
            }
            return Err(error);
        }
        let ended = || self.failed(id, "start", "it ended at once", None);
        let pid = child.id().and_then(|pid| i32::try_from(pid).ok()).ok_or_else(ended)?;
        let process = ProcessId::of(pid).ok_or_else(ended)?;
        info!(volume = %id, pid, mount = %dir.display(), "worker serves");
        let held = Held { process, channel: Arc::new(channel), _device: device };
        self.held.lock().insert(id.clone(), held);
        self.watch(id.clone(), process, child);
        Ok(process)
    }

    /// Gives the worker its configuration and the FUSE descriptor, and waits until it serves.
    async fn hand_over(
        &self,
        id: &VolumeId,
        mut volume: VolumeMount,
        dir: &Path,
        device: &OwnedFd,
        channel: &Channel,
    ) -> Result<()> {
        dir.clone_into(&mut volume.config.mount_point);
        let config = serde_json::to_value(&volume.config).expect("a configuration has only text keys");
        channel.send(&Message::Mount { config }, &[device.as_raw_fd()]).await?;
        match tokio::time::timeout(START, channel.recv()).await {
            Ok(Ok((Message::Serving { .. }, _))) => Ok(()),
            Ok(Ok((Message::Failed { stage, error, exit_code }, _))) => {
                Err(self.failed(id, &stage, &error, Some(exit_code)))
            }
            Ok(Ok((other, _))) => Err(self.failed(id, "start", &format!("unexpected answer {}", other.kind()), None)),
            Ok(Err(stead_keeper::Error::Closed)) => {
                let tail = tail(&self.state.log(id));
                Err(self.failed(id, "start", &format!("it ended without an answer: {tail}"), None))
            }
            Ok(Err(error)) => Err(error.into()),
            Err(_elapsed) => Err(self.slow(id, "served", START)),
        }
    }

    fn failed(&self, id: &VolumeId, stage: &str, error: &str, exit_code: Option<i32>) -> Error {
        let (stage, error) = (stage.to_owned(), error.to_owned());
        Error::Worker { volume: id.to_string(), stage, error, exit_code, log: self.state.log(id) }
    }

    fn slow(&self, id: &VolumeId, what: &'static str, limit: Duration) -> Error {
        Error::SlowWorker { volume: id.to_string(), what, limit, log: self.state.log(id) }
    }

    /// Waits for the end of a worker. With it goes our copy of the descriptor, so that whoever still uses the mount gets
    /// an error instead of waiting for ever.
    fn watch(&self, id: VolumeId, process: ProcessId, mut child: Child) {
        let held = Arc::clone(&self.held);
        let log = self.state.log(&id);
        tokio::spawn(async move {
            let status = child.wait().await;
            let mut held = held.lock();
            if held.get(&id).is_some_and(|held| held.process == process) {
                held.remove(&id);
            }
            match status {
                Ok(status) if status.success() => info!(volume = %id, pid = process.pid, "worker has ended"),
                Ok(status) => error!(volume = %id, pid = process.pid, %status, log = %log.display(), "worker died"),
                Err(error) => error!(volume = %id, pid = process.pid, %error, "worker is lost"),
            }
        });
    }

    /// Asks a worker to flush and end, waits for that, and unmounts. The targets are unmounted already.
    ///
    /// # Errors
    /// [`Error::SlowWorker`] while it still flushes: a repeat waits on.
    pub(crate) async fn stop(&self, id: &VolumeId, worker: Option<ProcessId>) -> Result<()> {
        if let Some(worker) = worker.filter(|worker| worker.is_alive()) {
            let dir = self.state.mount_point(id);
            // First, so that the kernel hands over what it has not written yet.
            target::unmount(&dir).await?;
            let channel = self.held.lock().get(id).map(|held| Arc::clone(&held.channel));
            let told = match channel {
                Some(channel) => channel.send(&Message::Drain, &[]).await.is_ok(),
                None => false,
            };
            if !told {
                worker.signal(Signal::SIGTERM);
            }
            if !worker.ended_within(DRAIN).await {
                return Err(self.slow(id, "ended", DRAIN));
            }
        }
        self.take_down(id).await;
        Ok(())
    }

    /// Removes what a worker that is gone leaves behind.
    pub(crate) async fn take_down(&self, id: &VolumeId) {
        self.held.lock().remove(id);
        let dir = self.state.mount_point(id);
        let removed = match target::unmount(&dir).await {
            Ok(()) => target::remove(&dir),
            Err(error) => Err(error),
        };
        if let Err(error) = removed {
            warn!(volume = %id, %error, "cannot clean up after the worker");
        }
    }

    fn open_log(&self, id: &VolumeId) -> Result<File> {
        let path = self.state.log(id);
        let failed = |error: std::io::Error| Error::State { path: path.clone(), why: error.to_string() };
        if std::fs::metadata(&path).is_ok_and(|found| found.len() > MAX_LOG) {
            std::fs::rename(&path, path.with_extension("log.1")).map_err(failed)?;
        }
        OpenOptions::new().create(true).append(true).mode(0o600).open(&path).map_err(failed)
    }
}

/// The last lines of a log.
fn tail(path: &Path) -> String {
    let read = || {
        let mut file = File::open(path)?;
        let length = file.seek(SeekFrom::End(0))?;
        file.seek(SeekFrom::Start(length.saturating_sub(LOG_TAIL)))?;
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes)?;
        Ok::<_, std::io::Error>(bytes)
    };
    read().map_or_else(|error| error.to_string(), |bytes| String::from_utf8_lossy(&bytes).trim().to_owned())
}
