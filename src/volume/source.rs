//! What a volume can begin with.

use serde::{Deserialize, Serialize};

use crate::names::{SnapshotId, VolumeId};

/// What a new volume is a clone of.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Source {
    /// What a volume was when the snapshot was taken.
    Snapshot(SnapshotId),
    /// What a volume is.
    Volume(VolumeId),
}

impl Source {
    /// For messages; `None` is a volume that begins empty.
    pub(crate) fn described(source: Option<&Self>) -> String {
        source.map_or_else(|| "none".to_owned(), ToString::to_string)
    }
}

impl std::fmt::Display for Source {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Snapshot(id) => write!(f, "snapshot {id}"),
            Self::Volume(id) => write!(f, "volume {id}"),
        }
    }
}
