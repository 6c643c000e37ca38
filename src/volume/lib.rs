//! The volume as the control path sees it: parameters and secrets parsed once, the configuration of a mount,
//! provisioning, expansion and deletion.
//!
//! Knows the metadata engine and the object store; nothing of FUSE, VFS or Kubernetes.

mod mount;

pub use mount::{MOUNT_OPTIONS, MountConfig, MountOptions, OptionError, OptionSpec, Secret};
