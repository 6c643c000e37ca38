//! The privileged half of a mount: opens `/dev/fuse`, calls mount(2), starts the unprivileged worker and hands it the
//! file descriptor over a socket; binds the mounted root into its targets and takes everything down again.
//!
//! Invariant: nothing here knows what a worker serves. A mount's configuration passes through as opaque JSON, so that
//! the side that holds privileges never parses volumes, and a copy of the descriptor kept here outlives any worker.

pub mod channel;
mod deadline;
mod error;
mod fusermount;
pub mod launch;
pub mod mount;
pub mod mountinfo;
mod process;
pub mod runner;

pub use channel::{Channel, Listener, Message, Peer};
pub use deadline::within;
pub use error::{Error, Result};
pub use fusermount::{mount_unprivileged, umount_unprivileged};
pub use process::Process;
