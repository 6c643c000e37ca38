//! What an operator sees of a process: its log, and a page with metrics and health.

mod exposition;
mod http;
mod log;

pub use exposition::{Counter, Exposition, Kind, Labels, Timings, labels};
pub use http::{Page, serve};
pub use log::{LogFormat, LogTarget, init, tag};
