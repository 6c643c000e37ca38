//! The worker: builds the layers of one mount from a [`MountConfig`](stead_volume::MountConfig) in the order of the
//! start-up [`Stage`]s, serves it, and drains it.
//!
//! It calls no mount(2) and needs no privilege: whoever mounts hands it the FUSE descriptor. Knows nothing of Kubernetes
//! or gRPC.

mod control;
mod error;
mod page;
mod serve;
mod stages;
mod storage;

pub use control::run_controlled;
pub use error::{Error, ExitCode, Stage, StartError};
pub use serve::{End, Serving};
pub use stages::{Process, start};
