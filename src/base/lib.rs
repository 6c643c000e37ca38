//! Words that every other crate shares: identifiers, time, sizes, errno, histograms and the life of background tasks.
//!
//! Nothing here knows of files, stores, FUSE or Kubernetes.

mod clock;
mod errno;
pub mod failpoint;
mod histogram;
mod ids;
mod size;
mod tasks;

pub use clock::{Clock, ManualClock, SystemClock, Timestamp};
pub use errno::Errno;
pub use histogram::{Distribution, Histogram};
pub use ids::{Ino, SessionId, SliceId};
pub use size::{ByteSize, ParseError, parse_duration};
pub use tasks::Tasks;
