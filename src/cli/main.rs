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
    let log = log::arguments(&cli);
    match cli.command {
        Command::Mount(args) => in_runtime(Command::Mount(MountArgs { log: cli.log, ..args }), log),
        Command::Completion(args) => commands::completion::run(&args),
        Command::Version => {
            println!("stead {}", env!("CARGO_PKG_VERSION"));
            Ok(())
        }
        command => in_runtime(command, log),
    }
}

fn in_runtime(command: Command, log: Vec<String>) -> Result<(), exit::Failure> {
    let runtime = runtime()?;
    let ended = runtime.block_on(commands::run(command, log));
    // What mattered has been waited for; a thread that hangs in a dead disk or server must not keep the process.
    runtime.shutdown_timeout(LAST_WORKS);
    ended
}

/// How long blocking work may go on after a command has ended.
const LAST_WORKS: Duration = Duration::from_secs(5);

/// Few threads: whoever calls a file system on this machine, and often its engine, needs the other processors, and a thread
/// that has a sibling wakes it to share work that is done by then.
fn runtime() -> Result<tokio::runtime::Runtime, exit::Failure> {
    let threads = std::thread::available_parallelism().map_or(1, |n| (n.get() / 2).clamp(1, 8));
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(threads)
        // What other threads have done is looked for after every other step: it is mostly what somebody waits for.
        .global_queue_interval(2)
        .enable_all()
        .build();
    runtime.map_err(|error| exit::Failure::general(format!("cannot start threads: {error}")))
}
