//! `stead`: arguments, environment and configuration files become config structs; everything else lives in the crates
//! below. The only reader of the environment.

/// Ends the process quietly when nobody reads the output any more, as with `| head`.
macro_rules! println {
    ($($text:tt)*) => { crate::output::line(format_args!($($text)*)) };
}

mod args;
mod commands;
mod control;
mod exit;
mod log;
mod output;
mod progress;

use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;

use crate::args::{Cli, Command, MountArgs};

fn main() -> ExitCode {
    let cli = Cli::parse();
    match run(cli) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("stead: {failure}");
            ExitCode::from(failure.code)
        }
    }
}

fn run(cli: Cli) -> Result<(), exit::Failure> {
    log::init(&cli)?;
    commands::arm_failpoints()?;
    progress::hide(cli.quiet || cli.no_progress);
    match cli.command {
        Command::Mount(args) => in_runtime(Command::Mount(MountArgs { log: cli.log, ..args })),
        Command::Completion(args) => commands::completion::run(&args),
        Command::Version => {
            println!("stead {}", env!("CARGO_PKG_VERSION"));
            Ok(())
        }
        command => in_runtime(command),
    }
}

fn in_runtime(command: Command) -> Result<(), exit::Failure> {
    let runtime = runtime()?;
    let ended = runtime.block_on(commands::run(command));
    // What mattered has been waited for; a thread that hangs in a dead disk or server must not keep the process.
    runtime.shutdown_timeout(LAST_WORKS);
    ended
}

/// How long blocking work may go on after a command has ended.
const LAST_WORKS: Duration = Duration::from_secs(5);

/// Few threads: most answers are given on the kernel's threads, and an idle worker is to be small.
fn runtime() -> Result<tokio::runtime::Runtime, exit::Failure> {
    let threads = std::thread::available_parallelism().map_or(2, |n| n.get().clamp(2, 8));
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(threads).enable_all().build();
    runtime.map_err(|error| exit::Failure::general(format!("cannot start threads: {error}")))
}
