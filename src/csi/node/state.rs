//! What a node remembers of its mounts across a restart: targets and worker, in one JSON file per mount. Never a secret.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use stead_volume::{Share, VolumeId};
use tracing::warn;

use super::events::User;
use super::mount_id::MountId;
use super::process::ProcessId;
use crate::error::{Error, Result};

/// Logs of workers that are kept when the node service starts.
const MAX_LOGS: usize = 200;

/// What one worker serves on this node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct MountState {
    /// The volume's id; of what several volumes share, the name of the mount.
    pub(crate) volume: String,
    /// What the worker is shared by.
    #[serde(default, skip_serializing_if = "Share::is_default")]
    pub(crate) share: Share,
    /// File system and directory that are served.
    pub(crate) identity: String,
    /// The worker was asked to end; of the targets there is the last one.
    pub(crate) draining: bool,
    /// Where it is published.
    pub(crate) targets: BTreeMap<PathBuf, TargetState>,
}

/// A place where a volume is published.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct TargetState {
    /// The volume, where several share the mount.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) volume: Option<VolumeId>,
    /// Its directory in the mount.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) directory: Option<String>,
    /// Number of the CSI access mode.
    pub(crate) mode: i32,
    /// Bound read-only.
    pub(crate) read_only: bool,
    /// The group that may use it.
    pub(crate) group: Option<u32>,
    /// For whom, if the kubelet has said so (`podInfoOnMount`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) user: Option<User>,
}

/// Who serves a mount, and since when.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct WorkerRecord {
    /// `None` = a process that is not seen from here.
    #[serde(flatten)]
    pub(crate) process: Option<ProcessId>,
    /// Seconds since 1970 at which the volume was mounted; 0 = not known.
    #[serde(default)]
    pub(crate) mounted: i64,
    /// Workers that have served this mount before.
    #[serde(default)]
    pub(crate) restarts: u32,
    /// What its keeper knows.
    #[serde(default)]
    pub(crate) condition: Condition,
}

/// How a worker is, as its keeper has seen it last; that its process is gone is seen without being noted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Condition {
    #[default]
    Serving,
    /// It does not answer.
    Silent,
    /// The mount was given up.
    Aborted,
}

impl MountState {
    /// Of one volume, or of a mount that several share.
    pub(crate) fn new(volume: &str, share: Share, identity: String) -> Self {
        Self { volume: volume.to_owned(), share, identity, draining: false, targets: BTreeMap::new() }
    }

    /// The volume that is published at one of its targets.
    pub(crate) fn volume_of<'a>(&'a self, target: &'a TargetState) -> &'a str {
        target.volume.as_ref().map_or(&self.volume, VolumeId::as_str)
    }

    /// The volumes, each once and with its targets; a mount without targets counts as one.
    pub(crate) fn volumes(&self) -> BTreeMap<&str, Vec<(&Path, &TargetState)>> {
        let mut volumes: BTreeMap<_, Vec<_>> = BTreeMap::new();
        for (path, target) in &self.targets {
            volumes.entry(self.volume_of(target)).or_default().push((&**path, target));
        }
        if volumes.is_empty() {
            volumes.insert(&self.volume, Vec::new());
        }
        volumes
    }
}

/// The directory of a node's state.
#[derive(Clone, Debug)]
pub(crate) struct StateDir {
    root: PathBuf,
}

impl StateDir {
    /// Makes the directories that are missing.
    pub(crate) fn open(path: &Path) -> Result<Self> {
        let failed = |error: std::io::Error| Error::State { path: path.to_owned(), why: error.to_string() };
        for name in ["mounts", "volumes", "workers", "logs"] {
            fs::create_dir_all(path.join(name)).map_err(failed)?;
        }
        forget_old_logs(&path.join("logs"), |_log| false).map_err(failed)?;
        // Mount points are compared with those in mountinfo, which has no symbolic links.
        Ok(Self { root: path.canonicalize().map_err(failed)? })
    }

    /// The directory of a node service that may run or not.
    pub(crate) fn existing(path: &Path) -> Result<Self> {
        let failed = |error: std::io::Error| Error::State { path: path.to_owned(), why: error.to_string() };
        Ok(Self { root: path.canonicalize().map_err(failed)? })
    }

    /// Removes the oldest logs of workers beyond a number, but not those that are needed.
    pub(crate) fn forget_old_logs(&self, is_needed: impl Fn(&Path) -> bool) -> Result<()> {
        let path = self.root.join("logs");
        forget_old_logs(&path, is_needed).map_err(|error| Error::State { path, why: error.to_string() })
    }

    /// The directory itself.
    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    fn worker_file(&self, id: &MountId) -> PathBuf {
        self.root.join("workers").join(format!("{id}.json"))
    }

    /// The process that serves a mount; `None` = nobody, or a process that is not seen from here.
    pub(crate) fn worker(&self, id: &MountId) -> Result<Option<ProcessId>> {
        Ok(self.load_worker(id)?.and_then(|record| record.process))
    }

    /// What is noted of who serves a mount.
    pub(crate) fn load_worker(&self, id: &MountId) -> Result<Option<WorkerRecord>> {
        read(&self.worker_file(id))
    }

    /// Forgets who served a mount.
    pub(crate) fn forget_worker(&self, id: &MountId) -> Result<()> {
        forget(self.worker_file(id))
    }

    /// Notes who serves a mount.
    pub(crate) fn save_worker(&self, id: &MountId, worker: &WorkerRecord) -> Result<()> {
        let path = self.worker_file(id);
        let temporary = path.with_extension("tmp");
        let failed = |error: std::io::Error| Error::State { path: path.clone(), why: error.to_string() };
        // Not for after a stop of the machine: no process outlives that.
        fs::write(&temporary, serde_json::to_vec(worker).expect("numbers")).map_err(failed)?;
        fs::rename(&temporary, &path).map_err(failed)
    }

    /// Where it is mounted.
    pub(crate) fn mount_point(&self, id: &MountId) -> PathBuf {
        self.root.join("mounts").join(id.as_str())
    }

    /// Where a mount's worker writes its log.
    pub(crate) fn log(&self, id: &MountId) -> PathBuf {
        self.root.join("logs").join(format!("{id}.log"))
    }

    fn file(&self, id: &MountId) -> PathBuf {
        self.root.join("volumes").join(format!("{id}.json"))
    }

    /// What is known of a mount.
    pub(crate) fn load(&self, id: &MountId) -> Result<Option<MountState>> {
        read(&self.file(id))
    }

    /// The mounts of which something is known, by name.
    pub(crate) fn list(&self) -> Result<Vec<MountId>> {
        let path = self.root.join("volumes");
        let failed = |error: std::io::Error| Error::State { path: path.clone(), why: error.to_string() };
        let mut ids = Vec::new();
        for entry in fs::read_dir(&path).map_err(failed)? {
            let name = entry.map_err(failed)?.file_name();
            // What is being written has another ending.
            ids.extend(name.to_str().and_then(|name| name.strip_suffix(".json")).and_then(MountId::parse));
        }
        ids.sort();
        Ok(ids)
    }

    /// The mount by which a volume is published at a target.
    pub(crate) fn find(&self, volume: &VolumeId, target: &Path) -> Result<Option<(MountId, MountState)>> {
        let is_it = |state: &MountState| {
            state.targets.get(target).is_some_and(|target| state.volume_of(target) == volume.as_str())
        };
        // Most volumes have one of their own.
        let own = MountId::of_volume(volume);
        if let Some(state) = self.load(&own)?.filter(is_it) {
            return Ok(Some((own, state)));
        }
        Ok(self.readable()?.into_iter().find(|(_, state)| is_it(state)))
    }

    /// Whatever is known, without what cannot be read: that concerns its own volumes only.
    pub(crate) fn readable(&self) -> Result<Vec<(MountId, MountState)>> {
        let load = |id: MountId| match self.load(&id) {
            Ok(state) => state.map(|state| (id, state)),
            Err(error) => {
                warn!(%error, "passed over");
                None
            }
        };
        Ok(self.list()?.into_iter().filter_map(load).collect())
    }

    /// Replaces what is known of a mount: whole or not at all, also when the machine stops.
    pub(crate) fn save(&self, id: &MountId, state: &MountState) -> Result<()> {
        let path = self.file(id);
        let failed = |error: std::io::Error| Error::State { path: path.clone(), why: error.to_string() };
        let temporary = self.root.join("volumes").join(format!(".{id}.tmp"));
        let json = serde_json::to_vec_pretty(state).expect("paths of targets were texts in the request");
        let mut file = File::create(&temporary).map_err(failed)?;
        file.write_all(&json).and_then(|()| file.sync_all()).map_err(failed)?;
        fs::rename(&temporary, &path).map_err(failed)?;
        File::open(self.root.join("volumes")).and_then(|directory| directory.sync_all()).map_err(failed)
    }

    /// Forgets a mount.
    pub(crate) fn remove(&self, id: &MountId) -> Result<()> {
        forget(self.file(id))
    }
}

fn read<T: serde::de::DeserializeOwned>(path: &Path) -> Result<Option<T>> {
    let damaged = |why: String| Error::State { path: path.to_owned(), why };
    match fs::read(path) {
        Ok(json) => serde_json::from_slice(&json).map(Some).map_err(|error| damaged(error.to_string())),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(damaged(error.to_string())),
    }
}

fn forget(path: PathBuf) -> Result<()> {
    match fs::remove_file(&path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(Error::State { path, why: error.to_string() })
        }
        _ => Ok(()),
    }
}

/// Keeps the newest logs of workers: one stays for every volume that was ever here.
fn forget_old_logs(directory: &Path, is_needed: impl Fn(&Path) -> bool) -> std::io::Result<()> {
    let mut logs = Vec::new();
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        // One that is gone by now has been forgotten by somebody else.
        if let Ok(found) = entry.metadata() {
            logs.push((found.modified()?, entry.path()));
        }
    }
    logs.sort();
    let old = logs.len().saturating_sub(MAX_LOGS);
    let mut forgotten = logs.drain(..old).map(|(_, path)| path).filter(|path| !is_needed(path));
    forgotten.try_for_each(|path| match fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn old_logs_are_forgotten() {
        let dir = tempfile::tempdir().expect("a place");
        for number in 0..=MAX_LOGS {
            std::fs::write(dir.path().join(number.to_string()), "").expect("new");
        }
        forget_old_logs(dir.path(), |_log| true).expect("writable");
        assert_eq!(std::fs::read_dir(dir.path()).expect("there").count(), MAX_LOGS + 1, "all are needed");
        forget_old_logs(dir.path(), |_log| false).expect("writable");
        assert_eq!(std::fs::read_dir(dir.path()).expect("there").count(), MAX_LOGS);
    }

    #[test]
    fn a_volume_is_remembered_until_it_is_forgotten() {
        let dir = tempfile::tempdir().expect("a place");
        let state_dir = StateDir::open(dir.path()).expect("writable");
        let id = MountId::parse("v").expect("right");
        assert_eq!(state_dir.load(&id).expect("readable"), None);
        let mut state = MountState::new("v", Share::Volume, "shared:/v".to_owned());
        let process = ProcessId::of(std::process::id().cast_signed());
        let worker = WorkerRecord { process, mounted: 1_700_000_000, restarts: 2, condition: Condition::Silent };
        state_dir.save_worker(&id, &worker).expect("writable");
        assert_eq!(state_dir.worker(&id).expect("readable"), process);
        assert_eq!(state_dir.load_worker(&id).expect("readable"), Some(worker.clone()));
        let unseen = WorkerRecord { process: None, ..worker };
        state_dir.save_worker(&id, &unseen).expect("writable");
        assert_eq!(state_dir.worker(&id).expect("readable"), None);
        assert_eq!(state_dir.load_worker(&id).expect("readable"), Some(unseen));
        state_dir.forget_worker(&id).expect("writable");
        assert_eq!(state_dir.load_worker(&id).expect("readable"), None);
        let (namespace, pod) = ("default".to_owned(), "web-0".to_owned());
        let user = Some(User { namespace, pod, uid: None, claim: None });
        state.targets.insert(
            "/t".into(),
            TargetState { mode: 5, read_only: true, group: Some(7), user, ..TargetState::default() },
        );
        assert!(state_dir.list().expect("readable").is_empty());
        state_dir.save(&id, &state).expect("writable");
        let reopened = StateDir::open(dir.path()).expect("there");
        assert_eq!(reopened.list().expect("readable"), std::slice::from_ref(&id));
        assert_eq!(reopened.load(&id).expect("readable"), Some(state));
        reopened.remove(&id).expect("removed");
        reopened.remove(&id).expect("a repeat is fine");
        assert_eq!(reopened.load(&id).expect("readable"), None);
    }

    #[test]
    fn records_of_an_earlier_version_are_read() {
        let dir = tempfile::tempdir().expect("a place");
        let state_dir = StateDir::open(dir.path()).expect("writable");
        let id = MountId::parse("v").expect("right");
        std::fs::write(dir.path().join("workers/v.json"), r#"{"pid":7,"start":8}"#).expect("new");
        let record = state_dir.load_worker(&id).expect("readable").expect("there");
        assert_eq!((record.process.map(|process| process.pid), record.mounted, record.restarts), (Some(7), 0, 0));
        let target = r#"{"volume":"v","identity":"s:/v","draining":false,
            "targets":{"/t":{"mode":5,"read_only":false,"group":null}}}"#;
        std::fs::write(dir.path().join("volumes/v.json"), target).expect("new");
        assert_eq!(state_dir.load(&id).expect("readable").expect("there").targets[Path::new("/t")].user, None);
        let (found, state) =
            state_dir.find(&VolumeId::parse("v").expect("right"), Path::new("/t")).expect("readable").expect("there");
        assert_eq!((found, state.share), (id, Share::Volume));
    }

    #[test]
    fn a_volume_is_found_in_the_mount_that_it_shares() {
        let dir = tempfile::tempdir().expect("a place");
        let state_dir = StateDir::open(dir.path()).expect("writable");
        let (v, w) = (VolumeId::parse("v").expect("right"), VolumeId::parse("w").expect("right"));
        let shared = MountId::parse("shared@1").expect("right");
        let mut state = MountState::new(shared.as_str(), Share::FileSystem, "shared:/".to_owned());
        for (target, volume) in [("/a", &v), ("/b", &w), ("/c", &v)] {
            let directory = Some(volume.to_string());
            let target_state = TargetState { volume: Some(volume.clone()), directory, ..TargetState::default() };
            state.targets.insert(target.into(), target_state);
        }
        state_dir.save(&shared, &state).expect("writable");
        std::fs::write(dir.path().join("volumes/broken.json"), "{").expect("writable");
        let found = |volume: &VolumeId, target: &str| {
            state_dir.find(volume, Path::new(target)).expect("readable").map(|(id, _)| id)
        };
        assert_eq!((found(&v, "/a"), found(&w, "/b"), found(&v, "/b")), (Some(shared.clone()), Some(shared), None));
        let read = state_dir.readable().expect("readable");
        let volumes: Vec<_> =
            read[0].1.volumes().into_iter().map(|(volume, targets)| (volume, targets.len())).collect();
        assert_eq!((read.len(), &*volumes), (1, &[("v", 2), ("w", 1)][..]));
    }

    #[test]
    fn a_damaged_file_is_named() {
        let dir = tempfile::tempdir().expect("a place");
        let state_dir = StateDir::open(dir.path()).expect("writable");
        std::fs::write(dir.path().join("volumes/v.json"), "{").expect("new");
        let error = state_dir.load(&MountId::parse("v").expect("right")).expect_err("damaged");
        assert!(error.to_string().contains("volumes/v.json"), "{error}");
    }
}
