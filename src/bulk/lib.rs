//! Data by the megabyte: memory that is used again instead of given back, and files that are read and written without a
//! copy in the kernel's page cache.
//!
//! What goes through here is cached elsewhere: by the kernel as pages of the mounted file, or not at all. A second copy
//! below would halve the memory that caches have, and costs more time than the disk needs (a page of the cache has to be
//! found and filled; on a virtual machine the host may have to find one too).

mod direct;
mod mapping;

pub use direct::{ALIGNMENT, LARGE, read, write};
pub use mapping::{Mapping, Spare, filled};
