//! `stead`: arguments, environment and configuration files become config structs; everything else lives in the crates
//! below. The only reader of the environment.

mod args;
mod commands;
mod exit;
mod log;

use std::process::ExitCode;

use clap::Parser;

use crate::args::{Cli, Command};

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
    match cli.command {
        Command::Completion(args) => commands::completion::run(&args),
        Command::Version => {
            println!("stead {}", env!("CARGO_PKG_VERSION"));
            Ok(())
        }
        command => runtime()?.block_on(commands::run(command)),
    }
}

/// Few threads: most answers are given on the kernel's threads, and an idle worker is to be small.
fn runtime() -> Result<tokio::runtime::Runtime, exit::Failure> {
    let threads = std::thread::available_parallelism().map_or(2, |n| n.get().clamp(2, 8));
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(threads).enable_all().build();
    runtime.map_err(|error| exit::Failure::general(format!("cannot start threads: {error}")))
}
