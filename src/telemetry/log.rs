//! The log: one line per event, on standard error or appended to a file, as text or JSON.

use std::fmt;
use std::fs::OpenOptions;
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;
use std::sync::{Mutex, OnceLock};

use tracing::{Event, Subscriber};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::writer::BoxMakeWriter;
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields};
use tracing_subscriber::registry::LookupSpan;

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
        LogFormat::Text => builder.with_ansi(false).map_event_format(|lines| Tagged { lines, format }).try_init(),
        LogFormat::Json => {
            builder.json().flatten_event(true).map_event_format(|lines| Tagged { lines, format }).try_init()
        }
    };
    started.map_err(|error| io::Error::other(error.to_string()))
}

static TAG: OnceLock<(&'static str, String)> = OnceLock::new();

/// Adds a field to all further lines of this process, which is about one thing alone. The first one counts.
pub fn tag(name: &'static str, value: &str) {
    let _first = TAG.set((name, value.to_owned()));
}

/// Lines with what [`tag`] says.
struct Tagged<F> {
    lines: F,
    format: LogFormat,
}

impl<S, N, F> FormatEvent<S, N> for Tagged<F>
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
    F: FormatEvent<S, N>,
{
    fn format_event(&self, context: &FmtContext<'_, S, N>, mut writer: Writer<'_>, event: &Event<'_>) -> fmt::Result {
        let Some((name, value)) = TAG.get() else { return self.lines.format_event(context, writer, event) };
        let mut line = String::new();
        self.lines.format_event(context, Writer::new(&mut line), event)?;
        writer.write_str(&tagged(&line, name, value, self.format))
    }
}

fn tagged(line: &str, name: &str, value: &str, format: LogFormat) -> String {
    match (format, line.strip_prefix('{')) {
        (LogFormat::Json, Some(members)) => format!("{{\"{name}\":{value:?},{members}"),
        _ => format!("{} {name}={value:?}\n", line.trim_end()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tag_is_a_field_like_others() {
        let text = tagged("now INFO serving pid=7\n", "volume", "pvc-1", LogFormat::Text);
        assert_eq!(text, "now INFO serving pid=7 volume=\"pvc-1\"\n");
        let json = tagged("{\"level\":\"INFO\"}\n", "volume", "pvc-1", LogFormat::Json);
        assert_eq!(json, "{\"volume\":\"pvc-1\",\"level\":\"INFO\"}\n");
    }
}
