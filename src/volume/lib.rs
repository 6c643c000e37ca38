//! The volume as the control path sees it: parameters and secrets parsed once, the configuration of a mount,
//! provisioning, expansion and deletion.
//!
//! Knows the metadata engine and the object store; nothing of FUSE, VFS or Kubernetes.

mod address;
mod capacity;
mod claim;
mod configured;
mod engine;
mod error;
mod format;
mod mount;
mod mutable;
mod names;
mod params;
mod pattern;
mod provision;
mod record;
mod secrets;
mod serve;
mod share;
mod source;
mod worker;

pub use capacity::CapacityRange;
pub use claim::ClaimMetadata;
pub use configured::{FileSystems, Named};
pub use engine::{encryption, open_objects};
pub use error::{Error, Kind, Result};
pub use format::{Existing, format};
pub use mount::{
    CacheChecksum, CacheEviction, MOUNT_OPTIONS, MountConfig, MountOptions, OptionError, OptionSpec, Secret,
};
pub use mutable::MutableParams;
pub use names::{GroupId, SnapshotId, VolumeId, VolumePath};
pub use params::{Claim, Databases, Provisioning, VolumeContext, VolumeParams, check_snapshot_parameters};
pub use provision::{
    Group, GroupRequest, Listing, Page, Position, Snapshot, SnapshotFilter, SnapshotRequest, Volume, VolumeRequest,
    Volumes,
};
pub use secrets::VolumeSecrets;
pub use serve::VolumeMount;
pub use share::Share;
pub use source::Source;
pub use worker::{WorkerCache, WorkerSetting, WorkerSettings, is_absolute, is_name, is_quantity};
