//! What is mounted on this node, for people: from the records, /proc and mountinfo, so also while no node service runs.
//! No volume is asked anything, as one that hangs would keep whoever asks.

use std::collections::HashSet;
use std::path::{Path, PathBuf};

use serde::Serialize;
use stead_base::{Clock, SystemClock};
use stead_keeper::mountinfo;

use super::mount_id::MountId;
use super::process::ProcessId;
use super::state::{Condition, MountState, StateDir, TargetState, WorkerRecord};
use crate::error::Result;
use crate::proto::volume_capability::access_mode::Mode;

/// A volume on this node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct NodeVolume {
    /// Its id.
    pub volume: String,
    /// Its mount: the volume's id, unless several volumes share one, or it has several.
    pub mount: String,
    /// File system and directory that are served.
    pub identity: String,
    /// How its mount is.
    pub health: VolumeHealth,
    /// The process of its worker, as far as it is seen from here.
    pub worker: Option<i32>,
    /// Workers that have served this mount before.
    pub restarts: u32,
    /// How long it has been mounted, in seconds; `None` = not known.
    pub mounted_seconds: Option<u64>,
    /// Where it is published.
    pub targets: Vec<NodeTarget>,
}

/// A place where a volume is published.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct NodeTarget {
    /// The directory.
    pub path: PathBuf,
    /// Whether something is mounted there.
    pub mounted: bool,
    /// The CSI access mode.
    pub mode: String,
    /// Bound read-only.
    pub read_only: bool,
    /// The pod that uses it, as `namespace/name`, if the kubelet has told.
    pub pod: Option<String>,
}

/// How a mount is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum VolumeHealth {
    /// It answers.
    Serving,
    /// Its worker lives and answers nothing.
    Hung,
    /// Its worker is gone and the next one does not serve yet.
    BetweenWorkers,
    /// It was given up: whoever uses it gets an error.
    Aborted,
    /// It is unmounted; its worker still writes back.
    Draining,
    /// There is no mount.
    NotMounted,
}

impl VolumeHealth {
    /// In a word or two.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Serving => "serving",
            Self::Hung => "hung",
            Self::BetweenWorkers => "between workers",
            Self::Aborted => "aborted",
            Self::Draining => "draining",
            Self::NotMounted => "not mounted",
        }
    }
}

/// The volumes of the node whose service has this state directory.
///
/// # Errors
/// A state directory that is not there or cannot be read.
pub(crate) fn volumes(state_dir: &Path) -> Result<Vec<NodeVolume>> {
    let state = StateDir::existing(state_dir)?;
    let mounted: HashSet<PathBuf> = mountinfo::read()?.into_iter().map(|entry| entry.mount_point).collect();
    let mut found = Vec::new();
    for id in state.list()? {
        found.extend(volumes_of(&state, &id, &mounted)?);
    }
    Ok(found)
}

/// Empty: it has been taken back since it was listed.
fn volumes_of(state: &StateDir, id: &MountId, mounted: &HashSet<PathBuf>) -> Result<Vec<NodeVolume>> {
    let Some(known) = state.load(id)? else { return Ok(Vec::new()) };
    let record = state.load_worker(id)?.unwrap_or_default();
    let worker = record.process.filter(|process| process.is_alive());
    let is_mounted = mounted.contains(&state.mount_point(id));
    let age = u64::try_from(SystemClock.now().secs.saturating_sub(record.mounted)).unwrap_or(0);
    let volume = |(volume, targets): (&str, Vec<(&Path, &TargetState)>)| NodeVolume {
        volume: volume.to_owned(),
        mount: id.to_string(),
        identity: identity(&known, &targets),
        health: health(is_mounted, known.draining, worker, &record),
        worker: worker.map(|process| process.pid),
        restarts: record.restarts,
        mounted_seconds: (is_mounted && record.mounted > 0).then_some(age),
        targets: targets.into_iter().map(|(path, state)| target(path, state, mounted)).collect(),
    };
    Ok(known.volumes().into_iter().map(volume).collect())
}

/// Of one of several volumes, the root of the mount and the directory in it.
fn identity(known: &MountState, targets: &[(&Path, &TargetState)]) -> String {
    let directory = targets.first().and_then(|(_, target)| target.directory.as_deref());
    format!("{}{}", known.identity, directory.unwrap_or_default())
}

fn target(path: &Path, state: &TargetState, mounted: &HashSet<PathBuf>) -> NodeTarget {
    let mode = Mode::try_from(state.mode).map_or("unknown", |mode| mode.as_str_name()).to_owned();
    let pod = state.user.as_ref().map(ToString::to_string);
    NodeTarget { path: path.to_owned(), mounted: mounted.contains(path), mode, read_only: state.read_only, pod }
}

fn health(is_mounted: bool, draining: bool, worker: Option<ProcessId>, record: &WorkerRecord) -> VolumeHealth {
    match (is_mounted, record.condition) {
        (false, _) if draining && worker.is_some() => VolumeHealth::Draining,
        (false, _) => VolumeHealth::NotMounted,
        (true, Condition::Aborted) => VolumeHealth::Aborted,
        // One that was never seen has no process to look for.
        (true, _) if worker.is_none() && record.process.is_some() => VolumeHealth::BetweenWorkers,
        (true, Condition::Silent) => VolumeHealth::Hung,
        (true, Condition::Serving) => VolumeHealth::Serving,
    }
}
