//! What we ask of the API server of a cluster: events about what happens to somebody's mount, pods for workers,
//! and what claims say.
//!
//! Invariant: no mount that is served needs any of this. Whatever asks here has a limit of time, and events are dropped
//! rather than waited for.

mod claims;
mod cluster;
mod error;
mod events;
#[cfg(feature = "fake")]
pub mod fake;
mod pod;
mod pods;
mod template;

pub use claims::Claims;
pub use cluster::Cluster;
pub use error::{Error, Result};
pub use events::{Events, Happening, Kind, Subject};
pub use pod::{KEEPER_SOCKET, RUNNER_SOCKET, Worker, pod_name, worker_pod};
pub use pods::{Owner, Pods, Progress};
pub use template::{Template, UpdateStrategy};
