//! What an operator does with a volume: change its settings, limit it, dump and load its metadata, check it, clean it up,
//! destroy it. The command line prints what comes out.
//!
//! Invariants:
//! * Nothing that is referenced is ever removed, also while clients write.
//! * A function that fails says what it left as it was; one that is repeated goes on where it stopped.
//! * Each returns a report that can be serialised, and tells a [`Progress`] how far it is.
//!
//! Works on metadata and objects directly, of `vfs` only with its compaction; knows nothing of FUSE or Kubernetes.

pub mod bench;
mod blocks;
pub mod compact;
pub mod config;
pub mod destroy;
pub mod dump;
mod error;
mod escape;
pub mod fsck;
pub mod gc;
pub mod load;
mod open;
mod paths;
mod progress;
pub mod quota;
pub mod restore;
pub mod status;

pub use error::{Error, Result};
pub use open::Opened;
pub use progress::{Meter, Progress, Quiet, Unit};
