//! Workers in pods of their own: each has a runner for itself, which is reached through a directory that only root and the
//! workers' user may enter, and that only this pod has mounted.

use std::collections::HashSet;
use std::fs;
use std::os::unix::fs::{DirBuilderExt, chown};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use stead_k8s::{Cluster, Owner, Pods, Progress, Template, UpdateStrategy, Worker, pod_name, worker_pod};
use stead_keeper::launch::WorkerLaunch;
use stead_keeper::{Channel, Process};
use stead_volume::WorkerSettings;
use tokio::sync::Notify;
use tokio::time::{Instant, sleep, timeout};
use tracing::{info, warn};
use uuid::Uuid;

use super::launcher::Needs;
use super::mount_id::MountId;
use super::process::ProcessId;
use crate::error::{Error, Result};

/// How long a pod may take until its runner listens: its image may have to be fetched.
const START: Duration = Duration::from_secs(75);
/// How often to look whether it listens.
const LOOK: Duration = Duration::from_millis(25);
/// How often to ask how far a pod is.
const ASK: Duration = Duration::from_secs(1);
/// How long the cluster may take to say how a pod has ended.
const FATE: Duration = Duration::from_secs(5);
/// Pods of workers that have ended are there for so long, so that somebody can ask how.
const LINGER: Duration = Duration::from_secs(10);
/// How often to look for pods that nobody needs.
const SWEEP: Duration = Duration::from_secs(60);

/// The pod of a worker, as it is remembered across a restart of the node service.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Record {
    pod: String,
    worker: ProcessId,
    /// The fingerprint of what it was made from; `None` = made by a version that did not note it.
    #[serde(default)]
    made_from: Option<u64>,
}

/// Makes pods for workers, and removes those that nobody needs.
#[derive(Clone, Debug)]
pub(crate) struct PodLauncher {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    pods: Pods,
    template: PathBuf,
    node: String,
    own_pod: Option<String>,
    /// The user that workers run as.
    user: (u32, u32),
    /// Per pod a directory with its socket, and a record beside it.
    root: PathBuf,
    keeper_dir: PathBuf,
    owner: Mutex<Option<Owner>>,
    /// Pods that have no record yet.
    starting: Mutex<HashSet<String>>,
    ended: Notify,
}

/// Where pods come from.
#[derive(Clone, Debug)]
pub struct PodMode {
    /// Where they run.
    pub cluster: Cluster,
    /// What they are made from: read anew for each.
    pub template: PathBuf,
    /// The pod of this process; worker pods belong to its `DaemonSet`. `None`: to nobody.
    pub own_pod: Option<String>,
}

impl PodLauncher {
    /// Takes its place in the state directory. Pods that nobody needs are removed from now on.
    ///
    /// # Errors
    /// A directory that cannot be made.
    pub(crate) fn new(mode: PodMode, launch: &WorkerLaunch, state: &Path, node: &str) -> Result<Self> {
        let (root, keeper_dir) = (state.join("pods"), keeper_dir(state));
        for dir in [&root, &keeper_dir] {
            fs::create_dir_all(dir).map_err(|error| failed(dir, &error))?;
        }
        let pods = Pods::new(&mode.cluster, node);
        let inner = Arc::new(Inner {
            pods,
            template: mode.template,
            node: node.to_owned(),
            own_pod: mode.own_pod,
            user: (launch.uid, launch.gid),
            root,
            keeper_dir,
            owner: Mutex::default(),
            starting: Mutex::default(),
            ended: Notify::new(),
        });
        tokio::spawn(Inner::sweep_on(Arc::downgrade(&inner)));
        Ok(Self { inner })
    }

    /// Has a pod made and waits until its runner listens. `begin` has the runner start the worker.
    ///
    /// # Errors
    /// A template or a cluster that cannot be used, a pod that cannot run. Then it is gone again.
    pub(crate) async fn start(
        &self,
        id: &MountId,
        needs: &Needs,
        begin: impl AsyncFnOnce(Channel) -> Result<(Channel, Process)>,
    ) -> Result<(Channel, Process)> {
        let settings = &needs.settings;
        let template = Template::read(&self.inner.template)?;
        self.check_staging(&template.clone().with(settings), needs)?;
        let suffix = Uuid::new_v4().simple().to_string()[..10].to_owned();
        let name = pod_name(id.as_str(), &suffix);
        let starting = Starting::new(&self.inner, name.clone());
        let started = async {
            let channel = self.inner.make(&name, &suffix, id, &template, settings).await?;
            let (channel, process) = begin(channel).await?;
            self.inner.remember(&suffix, &name, &process, template.clone().with(settings).fingerprint())?;
            Ok((channel, process))
        };
        let started = started.await;
        drop(starting);
        match &started {
            Ok((_, process)) => self.inner.watch(process),
            Err(_) => self.inner.ended.notify_one(),
        }
        started
    }

    /// Staged blocks must not go with a pod.
    fn check_staging(&self, template: &Template, needs: &Needs) -> Result<()> {
        match needs.staging.iter().find(|dir| !template.keeps(dir)) {
            None => Ok(()),
            Some(dir) => {
                let why = format!(
                    "mount option writeback: {} is in none of the caches that outlive a worker's pod (hostPath, \
                     persistentVolumeClaim)",
                    dir.display()
                );
                Err(stead_k8s::Error::Template { path: self.inner.template.clone(), why }.into())
            }
        }
    }

    /// What a pod for these settings would be made from now, if that is another one than the worker's and the template asks
    /// for updates by themselves.
    ///
    /// # Errors
    /// A template that cannot be used.
    pub(crate) fn update(&self, worker: ProcessId, needs: &Needs) -> Result<Option<u64>> {
        let template = Template::read(&self.inner.template)?;
        let Some((_, record)) = self.inner.records().into_iter().find(|(_, record)| record.worker == worker) else {
            return Ok(None);
        };
        // Where another template has its caches, nobody would find what is staged.
        let by_itself = template.update_strategy == UpdateStrategy::RollingUpdate && needs.staging.is_empty();
        let now = template.with(&needs.settings).fingerprint();
        Ok((by_itself && record.made_from != Some(now)).then_some(now))
    }

    /// How the pod of a worker that has ended did, if the cluster says so.
    pub(crate) async fn fate(&self, pid: i32) -> Option<String> {
        let record = self.inner.records().into_iter().find(|(_, record)| record.worker.pid == pid)?.1;
        let ended = async {
            loop {
                match self.inner.pods.progress(&record.pod).await {
                    Ok(Progress::Ended(how)) if !how.is_empty() => return Some(how),
                    Ok(Progress::Gone) | Err(_) => return None,
                    Ok(_) => sleep(ASK / 4).await,
                }
            }
        };
        timeout(FATE, ended).await.ok().flatten()
    }
}

/// Where the node service listens for workers in pods.
pub(crate) fn keeper_dir(state: &Path) -> PathBuf {
    state.join("keeper")
}

fn failed(path: &Path, error: &std::io::Error) -> Error {
    Error::State { path: path.to_owned(), why: error.to_string() }
}

/// Nobody takes a pod for one that is not needed as long as this is there.
struct Starting<'a> {
    inner: &'a Inner,
    name: String,
}

impl<'a> Starting<'a> {
    fn new(inner: &'a Inner, name: String) -> Self {
        inner.starting.lock().insert(name.clone());
        Self { inner, name }
    }
}

impl Drop for Starting<'_> {
    fn drop(&mut self) {
        self.inner.starting.lock().remove(&self.name);
    }
}

impl Inner {
    async fn make(
        &self,
        name: &str,
        suffix: &str,
        id: &MountId,
        template: &Template,
        settings: &WorkerSettings,
    ) -> Result<Channel> {
        let runner_dir = self.root.join(suffix);
        self.make_dir(&runner_dir)?;
        let owner = self.owner().await?;
        let pod = worker_pod(
            template,
            &Worker {
                name,
                node: &self.node,
                volume: id.as_str(),
                uid: self.user.0,
                gid: self.user.1,
                runner_dir: &runner_dir,
                keeper_dir: &self.keeper_dir,
                owner: owner.as_ref(),
                settings,
            },
        );
        let began = Instant::now();
        self.pods.create(&pod).await?;
        let channel = self.connect(name, &runner_dir.join("runner.sock")).await?;
        let ms = u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX);
        info!(volume = %id, pod = name, ms, "the worker's pod runs");
        Ok(channel)
    }

    /// For root and the workers' user alone.
    fn make_dir(&self, dir: &Path) -> Result<()> {
        fs::DirBuilder::new().mode(0o700).create(dir).map_err(|error| failed(dir, &error))?;
        if nix::unistd::geteuid().is_root() {
            chown(dir, Some(self.user.0), Some(self.user.1)).map_err(|error| failed(dir, &error))?;
        }
        Ok(())
    }

    /// Asks once; a pod stays in its `DaemonSet`.
    async fn owner(&self) -> Result<Option<Owner>> {
        let Some(own_pod) = &self.own_pod else { return Ok(None) };
        if let Some(known) = self.owner.lock().clone() {
            return Ok(Some(known));
        }
        let owner = self.pods.owner_of(own_pod).await?;
        self.owner.lock().clone_from(&owner);
        Ok(owner)
    }

    async fn connect(&self, name: &str, socket: &Path) -> Result<Channel> {
        let end = Instant::now() + START;
        let mut why = String::new();
        let mut ask = Instant::now() + ASK;
        loop {
            if let Ok(channel) = Channel::connect(socket) {
                return Ok(channel);
            }
            if Instant::now() >= ask {
                // The pod may run while nobody can be asked.
                match self.pods.progress(name).await {
                    Ok(Progress::Starting(reason)) => why = reason,
                    Ok(progress) => progress.error(name).map_or(Ok(()), Err)?,
                    Err(error) => why = error.to_string(),
                }
                ask = Instant::now() + ASK;
            }
            if Instant::now() >= end {
                return Err(stead_k8s::Error::SlowPod { name: name.to_owned(), limit: START, why }.into());
            }
            sleep(LOOK).await;
        }
    }

    fn record_file(&self, suffix: &str) -> PathBuf {
        self.root.join(suffix).with_extension("json")
    }

    fn remember(&self, suffix: &str, pod: &str, process: &Process, made_from: u64) -> Result<()> {
        let Some(worker) = process.pid().and_then(ProcessId::of) else {
            let why = "its process is not seen from here: the node service needs hostPID".to_owned();
            return Err(stead_k8s::Error::Pod { name: pod.to_owned(), why }.into());
        };
        let (path, record) =
            (self.record_file(suffix), Record { pod: pod.to_owned(), worker, made_from: Some(made_from) });
        let temporary = path.with_extension("tmp");
        let json = serde_json::to_vec(&record).expect("a text and numbers");
        // Not for after a stop of the machine: no process outlives that.
        fs::write(&temporary, json).and_then(|()| fs::rename(&temporary, &path)).map_err(|error| failed(&path, &error))
    }

    /// What is remembered, by suffix.
    fn records(&self) -> Vec<(String, Record)> {
        let record = |suffix: String| {
            let read = fs::read(self.record_file(&suffix)).ok()?;
            Some((suffix, serde_json::from_slice(&read).ok()?))
        };
        self.suffixes().into_iter().filter_map(record).collect()
    }

    /// The directories of pods.
    fn suffixes(&self) -> Vec<String> {
        let entries = fs::read_dir(&self.root).into_iter().flatten().flatten();
        let directories = entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()));
        directories.filter_map(|entry| entry.file_name().into_string().ok()).collect()
    }

    /// Has its pod removed some time after its end.
    fn watch(self: &Arc<Self>, process: &Process) {
        use std::os::fd::AsFd as _;
        let copy = process.as_fd().try_clone_to_owned().map_err(|error| error.to_string());
        match copy.and_then(|copy| Process::of(copy).map_err(|error| error.to_string())) {
            Ok(process) => {
                let inner = Arc::clone(self);
                tokio::spawn(async move {
                    process.ended().await;
                    sleep(LINGER).await;
                    inner.ended.notify_one();
                });
            }
            Err(error) => warn!(error, "the end of a pod's worker will be seen late"),
        }
    }

    /// Removes pods that nobody needs, for as long as there is a launcher.
    async fn sweep_on(inner: std::sync::Weak<Self>) {
        loop {
            let Some(inner) = inner.upgrade() else { return };
            if let Err(error) = inner.sweep().await {
                warn!(%error, "pods of workers that have ended may be left");
            }
            // A notice while nobody waits for one is kept.
            drop(timeout(SWEEP, inner.ended.notified()).await);
        }
    }

    /// Removes the pods of workers that do not run, and what they left.
    pub(crate) async fn sweep(&self) -> Result<()> {
        let names = self.pods.names(self.owner().await?.as_ref()).await?;
        let records = self.records();
        let needed = |pod: &str| {
            let lives = |record: &Record| record.pod == pod && record.worker.is_alive();
            self.starting.lock().contains(pod) || records.iter().any(|(_, record)| lives(record))
        };
        for name in names.iter().filter(|name| !needed(name)) {
            self.pods.delete(name).await?;
            info!(pod = name, "the pod of a worker that has ended is removed");
        }
        for suffix in self.suffixes() {
            let pod = |name: &String| name.ends_with(&format!("-{suffix}"));
            let alive = records.iter().any(|(known, record)| *known == suffix && record.worker.is_alive());
            if !alive && !self.starting.lock().iter().any(pod) {
                self.forget(&suffix);
            }
        }
        Ok(())
    }

    fn forget(&self, suffix: &str) {
        let (dir, record) = (self.root.join(suffix), self.record_file(suffix));
        for removed in [fs::remove_dir_all(&dir), fs::remove_file(&record)] {
            match removed {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                    warn!(pod = suffix, %error, "what a pod has left stays");
                }
                _ => {}
            }
        }
    }
}
