//! The log: one line per event, on standard error or appended to a file, as text or JSON.

use std::fs::OpenOptions;
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;
use std::sync::Mutex;

use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::writer::BoxMakeWriter;

/// How a line looks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LogFormat {
    /// For people.
    #[default]
    Text,
    /// One JSON object per line.
    Json,
}

/// Where the lines go.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum LogTarget {
    /// Standard error.
    #[default]
    Stderr,
    /// Appended to a file, created with mode 0600.
    File(PathBuf),
}

/// Starts logging for the whole process. `filter` is in the syntax of `tracing`: `info`, `debug,stead_meta=trace`.
///
/// # Errors
/// The filter does not parse, the file cannot be opened, or logging was started before.
pub fn init(filter: &str, format: LogFormat, target: &LogTarget) -> io::Result<()> {
    let invalid = |why: String| io::Error::new(io::ErrorKind::InvalidInput, why);
    let filter = EnvFilter::try_new(filter).map_err(|error| invalid(format!("log level {filter:?}: {error}")))?;
    let writer = match target {
        LogTarget::Stderr => BoxMakeWriter::new(io::stderr),
        LogTarget::File(path) => {
            let file = OpenOptions::new().create(true).append(true).mode(0o600).open(path);
            BoxMakeWriter::new(Mutex::new(
                file.map_err(|error| invalid(format!("log file {}: {error}", path.display())))?,
            ))
        }
    };
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(writer).with_target(false);
    let started = match format {
        LogFormat::Text => builder.with_ansi(false).try_init(),
        LogFormat::Json => builder.json().flatten_event(true).try_init(),
    };
    started.map_err(|error| io::Error::other(error.to_string()))
}
