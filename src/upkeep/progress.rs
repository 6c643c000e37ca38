//! How far work is: told by the library, shown by whoever started it.

use std::sync::Arc;

/// What is counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unit {
    /// Things: files, objects, slices.
    Items,
    /// Bytes.
    Bytes,
}

/// Shows the parts of a piece of work.
pub trait Progress: Send + Sync {
    /// A part begins; `total` is how much it will count, if that is known. It ends when the meter is dropped.
    fn part(&self, name: &str, unit: Unit, total: Option<u64>) -> Arc<dyn Meter>;
}

/// Counts one part.
pub trait Meter: Send + Sync {
    /// So much more is done.
    fn add(&self, count: u64);
}

/// Shows nothing.
#[derive(Clone, Copy, Debug, Default)]
pub struct Quiet;

impl Progress for Quiet {
    fn part(&self, _name: &str, _unit: Unit, _total: Option<u64>) -> Arc<dyn Meter> {
        Arc::new(Self)
    }
}

impl Meter for Quiet {
    fn add(&self, _count: u64) {}
}
