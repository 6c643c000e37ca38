//! What is mounted on this node, for people: from the records, /proc and mountinfo, so also while no node service runs.
//! No volume is asked anything, as one that hangs would keep whoever asks.

use std::path::{Path, PathBuf};

use serde::Serialize;
use stead_base::{Clock, SystemClock};
use stead_keeper::mountinfo;
use stead_volume::VolumeId;

use super::process::ProcessId;
use super::state::{Condition, StateDir, TargetState, VolumeState, WorkerRecord};
use crate::error::Result;
use crate::proto::volume_capability::access_mode::Mode;

/// A volume on this node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct NodeVolume {
    /// Its id.
    pub volume: String,
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
    let found = state.list()?.into_iter().map(|id| volume(&state, &id));
    found.filter_map(Result::transpose).collect()
}

/// `None`: it has been taken back since it was listed.
fn volume(state: &StateDir, id: &VolumeId) -> Result<Option<NodeVolume>> {
    let Some(known) = state.load(id)? else { return Ok(None) };
    let VolumeState { volume, identity, draining, targets } = known;
    let record = state.load_worker(id)?.unwrap_or_default();
    let worker = record.process.filter(|process| process.is_alive());
    let is_mounted = mountinfo::at(&state.mount_point(id))?.is_some();
    let age = u64::try_from(SystemClock.now().secs.saturating_sub(record.mounted)).unwrap_or(0);
    Ok(Some(NodeVolume {
        volume,
        identity,
        health: health(is_mounted, draining, worker, &record),
        worker: worker.map(|process| process.pid),
        restarts: record.restarts,
        mounted_seconds: (is_mounted && record.mounted > 0).then_some(age),
        targets: targets.into_iter().map(target).collect::<Result<_>>()?,
    }))
}

fn target((path, state): (PathBuf, TargetState)) -> Result<NodeTarget> {
    let mounted = mountinfo::at(&path)?.is_some();
    let mode = Mode::try_from(state.mode).map_or("unknown", |mode| mode.as_str_name()).to_owned();
    let pod = state.user.map(|user| user.to_string());
    Ok(NodeTarget { path, mounted, mode, read_only: state.read_only, pod })
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
