//! Metadata of a volume: the Format, the POSIX semantics over typed records, sessions, quotas and the trash, with the
//! engines behind one [`Store`](store::Store) trait.
//!
//! The semantics are written once, in [`ops`]; a store only maps records to its keys and bytes. Knows nothing of data
//! blocks, FUSE or Kubernetes.

mod acl;
pub mod codec;
#[cfg(test)]
pub(crate) mod contract;
#[cfg(test)]
pub(crate) mod damage;
pub mod error;
pub mod format;
#[cfg(test)]
mod golden;
pub mod memory;
pub mod ops;
pub mod records;
pub mod redis;
pub mod sqlite;
pub mod store;
mod timed;
pub mod url;
pub mod view;

pub use error::{Error, Result};
pub use ops::Meta;
pub use timed::{Call, CallStats};
