//! What is mounted and served once: state, worker, log and figures go by its name.

use std::fmt;
use std::path::Path;

use stead_volume::{VolumeId, VolumeMount};

/// The name of a mount on this node, which is also that of a file: of the volume if it has one worker.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct MountId(String);

/// A name with an ending has to be one of a file.
const LONGEST: usize = 240;

impl MountId {
    /// The mount that a volume is asked of: `pod` is the UID of the pod that uses it, if it is known.
    pub(crate) fn of(volume: &VolumeMount, id: &VolumeId, pod: Option<&str>, target: &Path) -> Self {
        // No two pods have one target.
        let pod = pod.map_or_else(|| target.to_string_lossy(), Into::into);
        Self(volume.mount_name(id, &pod))
    }

    /// The mount that a volume does not share.
    pub(crate) fn of_volume(id: &VolumeId) -> Self {
        Self(id.to_string())
    }

    /// The mount of a file of this name.
    pub(crate) fn parse(name: &str) -> Option<Self> {
        let is_sound = !matches!(name, "" | "." | "..") && name.len() <= LONGEST && !name.contains('/');
        is_sound.then(|| Self(name.to_owned()))
    }

    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for MountId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}
