//! What the suites share: servers, volumes, mounts and CSI services as guards, and the work that is done on them.
//!
//! Invariant: everything that a guard starts is stopped by process id when the guard goes, also while a test panics, and
//! everything it mounts is unmounted. Nothing is skipped for want of a tool: a missing one fails with its name.

pub mod cluster;
pub mod crash;
pub mod csi;
pub mod mount;
pub mod odd;
pub mod pattern;
pub mod pods;
pub mod process;
pub mod proxy;
pub mod servers;
pub mod tools;
pub mod tree;
pub mod verify;
pub mod volume;

pub use cluster::Cluster;
pub use csi::Services;
pub use mount::{Client, Mount};
pub use process::{Process, eventually, pause, run};
pub use servers::{Minio, Redis};
pub use volume::{Engine, Setup, TempVolume};
