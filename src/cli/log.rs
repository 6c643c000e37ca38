//! Which log a command gets.

use stead_telemetry::{LogFormat, LogTarget};

use crate::args::{Cli, Command, NodeCommand};
use crate::exit::Failure;

/// Services log what they do; commands that a person waits for only what goes wrong.
pub(crate) fn init(cli: &Cli) -> Result<(), Failure> {
    let usual = match cli.command {
        Command::Node(ref command) if matches!(**command, NodeCommand::List(_)) => "warn",
        Command::Mount(_) | Command::Controller(_) | Command::Node(_) | Command::Runner(_) | Command::Worker(_) => {
            "info"
        }
        _ if cli.quiet => "error",
        _ => "warn",
    };
    let filter = cli.log_level.as_deref().unwrap_or(usual);
    let format = if cli.log_json { LogFormat::Json } else { LogFormat::Text };
    let target = cli.log.clone().map_or(LogTarget::Stderr, LogTarget::File);
    stead_telemetry::init(filter, format, &target).map_err(|error| Failure::usage(error.to_string()))
}

/// The arguments with which a process of this program logs as this one was told to.
pub(crate) fn arguments(cli: &Cli) -> Vec<String> {
    let level = cli.log_level.iter().map(|level| format!("--log-level={level}"));
    level.chain(cli.log_json.then(|| "--log-json".to_owned())).collect()
}
