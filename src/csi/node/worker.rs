//! One worker per mount: mounted and started together, watched, drained.

use std::collections::{BTreeSet, HashMap};
use std::fs::{File, OpenOptions};
use std::io::{Read, Seek, SeekFrom};
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use nix::sys::signal::Signal;
use parking_lot::Mutex;
use serde_json::Value;
use stead_base::{Clock, SystemClock};
use stead_keeper::launch;
use stead_keeper::mount::{self, MountSpec};
use stead_keeper::{Channel, Message, Peer, Process, within};
use stead_volume::{MountConfig, VolumeMount};
use tokio::time::Instant;
use tracing::{error, info, warn};

use super::events::{Notice, Reporter, User};
use super::figures::{Figures, Measured};
use super::keeper::{self, Command, Health, KeeperHandle, Kept, Told};
use super::launcher::{Launcher, Needs};
use super::mount_id::MountId;
use super::process::ProcessId;
use super::state::{Condition, StateDir, WorkerRecord};
use super::target;
use crate::error::{Error, Result};

/// What a worker of an earlier node service brings.
pub(crate) struct Resumed {
    pub(crate) config: MountConfig,
    pub(crate) session: Value,
    pub(crate) device: OwnedFd,
    pub(crate) segment: OwnedFd,
}

/// A process that waits for its order, or has it.
#[derive(Debug)]
pub(crate) struct Started {
    pub(crate) channel: Channel,
    pub(crate) process: Process,
}

/// How long a worker that lives may take to find a new node service.
const RESUME: Duration = Duration::from_secs(5);
/// How often to look whether it has.
const LOOK: Duration = Duration::from_millis(20);
/// How long a worker may take until it serves.
const START: Duration = Duration::from_secs(60);
/// How long it may flush what is not stored yet before a call gives up waiting.
const DRAIN: Duration = Duration::from_secs(60);
/// How long a keeper may take to hear of other credentials.
const OFFER: Duration = Duration::from_secs(1);
/// How long a publication waits until its worker knows the volume's limits.
const LEARN: Duration = Duration::from_secs(10);
/// How often to look whether workers are as they would be started now.
const UPDATE: Duration = Duration::from_secs(5);
/// After this an update that failed is tried again: an image may be there now.
const RETRY: Duration = Duration::from_secs(600);
/// A log that has grown beyond this is put aside when a worker starts.
const MAX_LOG: u64 = 16 << 20;
/// The end of a log that is told when a worker dies at its start.
const LOG_TAIL: u64 = 2000;

/// The workers of this node.
#[derive(Clone)]
pub(crate) struct Workers {
    launcher: Launcher,
    reporter: Reporter,
    state: StateDir,
    kept: Arc<Mutex<HashMap<MountId, KeeperHandle>>>,
    figures: Arc<Figures>,
}

impl Workers {
    pub(crate) fn new(launcher: Launcher, reporter: Reporter, state: StateDir) -> Self {
        Self { launcher, reporter, state, kept: Arc::default(), figures: Arc::default() }
    }

    pub(crate) fn mount_point(&self, id: &MountId) -> PathBuf {
        self.state.mount_point(id)
    }

    pub(crate) fn log(&self, id: &MountId) -> PathBuf {
        self.state.log(id)
    }

    pub(crate) fn figures(&self) -> &Figures {
        &self.figures
    }

    /// The pods that use a volume, as far as they are known: for logs.
    pub(crate) fn pods(&self, id: &MountId) -> Option<String> {
        let state = self.state.load(id).ok().flatten()?;
        let users = state.targets.values().filter_map(|target| target.user.as_ref());
        let pods: BTreeSet<_> = users.map(User::to_string).collect();
        (!pods.is_empty()).then(|| pods.into_iter().collect::<Vec<_>>().join(" "))
    }

    /// How many mounts are kept.
    pub(crate) fn mounts(&self) -> usize {
        self.kept.lock().len()
    }

    /// What the workers tell of their mounts; those that do not answer within `limit` tell nothing.
    pub(crate) async fn measured(&self, limit: Duration) -> Vec<(MountId, Option<Measured>)> {
        let mut kept: Vec<_> = self.kept.lock().iter().map(|(id, keeper)| (id.clone(), keeper.clone())).collect();
        kept.sort_by(|(one, _), (other, _)| one.cmp(other));
        let asked = kept.into_iter().map(async |(id, keeper)| (id, keeper.measured(limit).await));
        futures::future::join_all(asked).await
    }

    /// Where the node service is found by workers.
    pub(crate) fn keeper_socket(&self) -> PathBuf {
        self.launcher.keeper_socket(self.state.root())
    }

    /// The same place as it is seen from here.
    pub(crate) fn listen_at(&self) -> PathBuf {
        self.launcher.listen_at(self.state.root())
    }

    /// Tells the users of a volume.
    pub(crate) fn tell(&self, id: &MountId, notice: Notice<'_>) {
        self.reporter.tell(id, notice);
    }

    /// Tells the users of a volume that another worker has followed one that died; nobody waits until it is known how.
    pub(crate) fn tell_of_death(&self, id: &MountId, died: Process) {
        if self.reporter.is_heard() {
            let (workers, id) = (self.clone(), id.clone());
            tokio::spawn(async move {
                let how = workers.launcher.fate(&died).await;
                workers.tell(&id, Notice::Restarted { how: &how });
            });
        }
    }

    /// Mounts a volume at its place and starts the worker that serves it. Whatever fails, nothing stays.
    pub(crate) async fn start(&self, id: &MountId, volume: VolumeMount) -> Result<()> {
        let dir = self.state.mount_point(id);
        target::unmount(&dir).await?;
        target::make(&dir)?;
        target::protect(&dir);
        let result = self.mount_and_serve(id, volume, &dir).await;
        if result.is_err() {
            self.take_down(id).await;
        }
        result
    }

    async fn mount_and_serve(&self, id: &MountId, mut volume: VolumeMount, dir: &Path) -> Result<()> {
        let device = self.figures.timed("mount", self.mount(&mut volume, dir)).await?;
        let config = serde_json::to_value(&volume.config).expect("a configuration has only text keys");
        let order = Message::Mount { config, keeper: Some(self.keeper_socket()) };
        let fds = [device.as_raw_fd()];
        let starting = async {
            let started = self.prepare(id, &Needs::of(&volume.config)).await?;
            Box::pin(self.order(id, started, &order, &fds)).await
        };
        let (Started { channel, process }, told) = Box::pin(self.figures.timed("start", starting)).await?;
        let Told { session, segment } = told;
        self.keep(id, Kept { config: volume.config, device, segment, session, channel, process });
        Ok(())
    }

    async fn mount(&self, volume: &mut VolumeMount, dir: &Path) -> Result<OwnedFd> {
        let device = mount::open_device()?;
        let options = &volume.config.options;
        let max_read = u32::try_from(options.max_fuse_io.0).unwrap_or(u32::MAX);
        let spec = MountSpec::volume(&volume.name, options.read_only, max_read).with_options(&options.fuse_options);
        let (copy, place) = (launch::keep(&device)?, dir.to_owned());
        within("mount", target::SYSCALL, move || mount::mount(copy.as_fd(), &place, &spec)).await?;
        dir.clone_into(&mut volume.config.mount_point);
        Ok(device)
    }

    fn keep(&self, id: &MountId, kept: Kept) {
        let handle = keeper::keep(id.clone(), self.clone(), kept);
        self.kept.lock().insert(id.clone(), handle);
    }

    /// Starts a process that waits for its order.
    pub(crate) async fn prepare(&self, id: &MountId, needs: &Needs) -> Result<Started> {
        let begun = self.launcher.start(id, needs, self.open_log(id)?).await;
        let (channel, process) = begun.inspect_err(|_error| self.figures.start_failures.count())?;
        Ok(Started { channel, process })
    }

    /// Gives a process its order, and waits until it serves.
    pub(crate) async fn order(
        &self,
        id: &MountId,
        started: Started,
        order: &Message,
        fds: &[RawFd],
    ) -> Result<(Started, Told)> {
        let served = self.order_to_serve(id, started, order, fds).await;
        let counter = if served.is_ok() { &self.figures.started } else { &self.figures.start_failures };
        counter.count();
        served
    }

    async fn order_to_serve(
        &self,
        id: &MountId,
        Started { channel, process }: Started,
        order: &Message,
        fds: &[RawFd],
    ) -> Result<(Started, Told)> {
        match self.hand_over(id, order, fds, &channel).await {
            Ok(told) => {
                // What the worker takes for its number may be one of a pid namespace of its own.
                let pid = process.pid();
                info!(volume = %id, pid, order = order.kind(), "worker serves");
                self.record(id, pid.and_then(ProcessId::of), matches!(order, Message::Adopt { .. }))?;
                Ok((Started { channel, process }, told))
            }
            Err(error) => {
                process.signal(Signal::SIGKILL);
                process.ended().await;
                Err(error)
            }
        }
    }

    /// Notes who serves a volume from now on.
    fn record(&self, id: &MountId, process: Option<ProcessId>, follows: bool) -> Result<()> {
        let before = if follows { self.state.load_worker(id)? } else { None };
        let record = match before {
            Some(WorkerRecord { mounted, restarts, .. }) => {
                WorkerRecord { process, mounted, restarts: restarts + 1, condition: Condition::Serving }
            }
            None => WorkerRecord { process, mounted: SystemClock.now().secs, ..WorkerRecord::default() },
        };
        self.state.save_worker(id, &record)
    }

    /// Notes how a worker is, for whoever lists volumes.
    pub(crate) fn note(&self, id: &MountId, condition: Condition) {
        let noted = self.state.load_worker(id).and_then(|record| match record {
            Some(record) => self.state.save_worker(id, &WorkerRecord { condition, ..record }),
            None => Ok(()),
        });
        if let Err(error) = noted {
            warn!(volume = %id, %error, "cannot note how the worker is");
        }
    }

    async fn hand_over(&self, id: &MountId, order: &Message, fds: &[RawFd], channel: &Channel) -> Result<Told> {
        channel.send(order, fds).await?;
        match tokio::time::timeout(START, channel.recv()).await {
            Ok(Ok((Message::Serving { session, stages, .. }, mut fds))) => {
                for (stage, micros) in stages {
                    self.figures.worker_stages.note([&stage], Duration::from_micros(micros));
                }
                Ok(Told { session, segment: fds.pop() })
            }
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

    /// Takes back what a worker of an earlier node service has kept: `mount_point` says of which volume.
    pub(crate) fn resume(&self, peer: Peer, mount_point: &Path, channel: Channel, told: Resumed) -> Result<()> {
        let id = mount_point.file_name().and_then(|name| name.to_str()).and_then(MountId::parse);
        let id = id.filter(|id| self.state.mount_point(id) == mount_point);
        let refused = |why: &str| {
            let why = format!("process {} of user {} for {}: {why}", peer.pid, peer.uid, mount_point.display());
            Error::from(stead_keeper::Error::Protocol { why })
        };
        let id = id.ok_or_else(|| refused("no volume is mounted there"))?;
        let recorded = self.state.worker(&id)?;
        if self.keeper(&id).is_some() {
            return Err(refused("the mount is kept already"));
        }
        if peer.uid != self.launcher.uid() {
            return Err(refused("workers run as another user"));
        }
        if peer.pid == 0 {
            return Err(refused("its process is not seen from here: share the machine's pid namespace (hostPID)"));
        }
        if recorded.is_none_or(|worker| worker.pid != peer.pid || !worker.is_alive()) {
            return Err(refused("it is not the worker that was started"));
        }
        let Resumed { config, session, device, segment } = told;
        let process = Process::open(peer.pid)?;
        info!(volume = %id, pid = peer.pid, "worker from before is back");
        self.keep(&id, Kept { config, device, segment: Some(segment), session, channel, process });
        Ok(())
    }

    fn keeper(&self, id: &MountId) -> Option<KeeperHandle> {
        self.kept.lock().get(id).cloned()
    }

    /// Whether the volume is served. A worker from before is waited for.
    ///
    /// # Errors
    /// [`Error::BetweenWorkers`]: it will be, and whoever uses it waits: nothing may be taken down.
    pub(crate) async fn is_serving(&self, id: &MountId) -> Result<bool> {
        let end = Instant::now() + RESUME;
        loop {
            if let Some(keeper) = self.keeper(id) {
                return match keeper.settled(START).await {
                    Health::Serving => Ok(true),
                    Health::Waiting => Err(Error::BetweenWorkers { volume: id.to_string() }),
                    Health::Ended => Ok(false),
                };
            }
            let recorded = self.state.worker(id).ok().flatten();
            if !recorded.is_some_and(ProcessId::is_alive) {
                return Ok(false);
            }
            if Instant::now() >= end {
                warn!(volume = %id, "the worker lives and does not say so");
                return Ok(true);
            }
            tokio::time::sleep(LOOK).await;
        }
    }

    /// Uses the credentials of a new publication for a volume that is served already.
    ///
    /// # Errors
    /// They do not open the storage; the old ones stay in use.
    pub(crate) async fn refresh(&self, id: &MountId, volume: &VolumeMount) -> Result<()> {
        let Some(keeper) = self.keeper(id) else { return Ok(()) };
        keeper.ask(|answer| Command::Refresh(Box::new(volume.config.clone()), answer)).await
    }

    /// The same while there is no worker, without waiting for one: the next is started with them first.
    pub(crate) async fn offer(&self, id: &MountId, volume: &VolumeMount) {
        if let Some(keeper) = self.keeper(id).filter(KeeperHandle::is_between_workers) {
            let (unheard, _) = tokio::sync::oneshot::channel();
            let offered = keeper.tell(Command::Refresh(Box::new(volume.config.clone()), unheard));
            if tokio::time::timeout(OFFER, offered).await.is_err() {
                warn!(volume = %id, "the next worker is being started; credentials may follow later");
            }
        }
    }

    /// Has a worker that serves already look for limits that directories have got since, instead of with its next heartbeat.
    ///
    /// # Errors
    /// Those of the engine, in the worker's words. A worker that does not answer soon, such as one of an earlier version, is
    /// not waited for.
    pub(crate) async fn learn_limits(&self, id: &MountId) -> Result<()> {
        let Some(keeper) = self.keeper(id) else { return Ok(()) };
        let asked = tokio::time::timeout(LEARN, keeper.ask(Command::LearnLimits)).await;
        asked.unwrap_or_else(|_elapsed| {
            warn!(volume = %id, "the worker has not learnt of the new volume's limits yet");
            Ok(())
        })
    }

    /// Replaces every worker by one of the program that is configured now.
    pub(crate) async fn replace_all(&self) {
        for (id, keeper) in self.keepers() {
            _ = self.replace(&id, &keeper).await;
        }
    }

    fn keepers(&self) -> Vec<(MountId, KeeperHandle)> {
        self.kept.lock().iter().map(|(id, keeper)| (id.clone(), keeper.clone())).collect()
    }

    /// Says in the log what came of it, too.
    async fn replace(&self, id: &MountId, keeper: &KeeperHandle) -> Result<()> {
        // First, or a mount would wait for what may not come.
        let replaced = match self.prepare(id, keeper.needs()).await {
            Ok(next) => keeper.ask(|answer| Command::Replace(next, answer)).await,
            Err(error) => Err(error),
        };
        match &replaced {
            Ok(()) => info!(volume = %id, "worker replaced"),
            Err(error) => error!(volume = %id, %error, "the worker stays"),
        }
        replaced
    }

    /// Replaces workers that are not as they would be started now, one after the other, for as long as the process lives.
    pub(crate) async fn update_on(self) {
        let mut tried: HashMap<MountId, (u64, Instant)> = HashMap::new();
        let mut said = String::new();
        loop {
            tokio::time::sleep(UPDATE).await;
            for (id, keeper) in self.keepers() {
                let Some(worker) = self.state.worker(&id).ok().flatten() else { continue };
                match self.launcher.update(worker, keeper.needs()) {
                    // What did not help a moment ago is not tried at once again.
                    Ok(Some(wanted))
                        if !tried.get(&id).is_some_and(|(what, when)| *what == wanted && when.elapsed() < RETRY) =>
                    {
                        info!(volume = %id, "the template of workers has changed");
                        tried.insert(id.clone(), (wanted, Instant::now()));
                        if let Err(Error::BetweenWorkers { .. }) = self.replace(&id, &keeper).await {
                            tried.remove(&id);
                        }
                    }
                    Ok(_) => {}
                    Err(error) if error.to_string() != said => {
                        said = error.to_string();
                        warn!(%error, "workers are not updated");
                    }
                    Err(_known) => {}
                }
            }
        }
    }

    pub(crate) fn failed(&self, id: &MountId, stage: &str, error: &str, exit_code: Option<i32>) -> Error {
        let (stage, error) = (stage.to_owned(), error.to_owned());
        Error::Worker { volume: id.to_string(), stage, error, exit_code, log: self.state.log(id) }
    }

    fn slow(&self, id: &MountId, what: &'static str, limit: Duration) -> Error {
        Error::SlowWorker { volume: id.to_string(), what, limit, log: self.state.log(id) }
    }

    /// The keeper of a volume has nothing to keep any more.
    pub(crate) fn ended(&self, id: &MountId) {
        self.kept.lock().remove(id);
    }

    /// Asks a worker to flush and end, waits for that, and unmounts. The targets are unmounted already.
    ///
    /// # Errors
    /// [`Error::SlowWorker`] while it still flushes: a repeat waits on.
    pub(crate) async fn stop(&self, id: &MountId) -> Result<()> {
        let recorded = self.state.worker(id)?.filter(|worker| worker.is_alive());
        if self.keeper(id).is_some() || recorded.is_some() {
            let dir = self.state.mount_point(id);
            // First, so that the kernel hands over what it has not written yet.
            target::unmount(&dir).await?;
        }
        let ended = match (self.keeper(id), recorded) {
            (Some(keeper), _) => {
                keeper.tell(Command::Drain).await;
                keeper.ended_within(DRAIN).await
            }
            (None, Some(worker)) => {
                worker.signal(Signal::SIGTERM);
                worker.ended_within(DRAIN).await
            }
            (None, None) => true,
        };
        if !ended {
            return Err(self.slow(id, "ended", DRAIN));
        }
        self.take_down(id).await;
        Ok(())
    }

    /// Removes what a worker that is gone leaves behind.
    pub(crate) async fn take_down(&self, id: &MountId) {
        let dir = self.state.mount_point(id);
        let removed = match target::unmount(&dir).await {
            Ok(()) => target::remove(&dir).and_then(|()| self.state.forget_worker(id)),
            Err(error) => Err(error),
        };
        if let Err(error) = removed {
            warn!(volume = %id, %error, "cannot clean up after the worker");
        }
    }

    fn open_log(&self, id: &MountId) -> Result<File> {
        let path = self.state.log(id);
        let failed = |error: std::io::Error| Error::State { path: path.clone(), why: error.to_string() };
        if !path.exists() {
            // Each pod may have one of its own.
            self.state.forget_old_logs(|log| self.kept.lock().keys().any(|id| self.state.log(id) == log))?;
        }
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
