//! What the workers of a node are shared by.

use serde::{Deserialize, Serialize};

/// Publications on a node that have one worker in common.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Share {
    /// Those of one volume for one pod.
    Pod,
    /// Those of one volume.
    #[default]
    Volume,
    /// Those of all volumes of one file system with equal options.
    FileSystem,
}

impl Share {
    pub(crate) const VALUES: &'static str = "pod, volume or filesystem";

    pub(crate) fn parse(text: &str) -> Option<Self> {
        [Self::Pod, Self::Volume, Self::FileSystem].into_iter().find(|share| share.as_str() == text)
    }

    /// As it is written in a StorageClass.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Pod => "pod",
            Self::Volume => "volume",
            Self::FileSystem => "filesystem",
        }
    }

    /// Whether it is what goes without saying.
    pub fn is_default(&self) -> bool {
        *self == Self::default()
    }
}
