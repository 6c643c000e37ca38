//! Decorators: stores that change how another store is asked.

pub(crate) mod encrypted;
pub(crate) mod failing;
pub(crate) mod measured;
pub(crate) mod prefixed;
pub(crate) mod retried;
pub(crate) mod sharded;
pub(crate) mod swappable;
pub(crate) mod throttled;
pub(crate) mod time_limited;
