//! One module per command. Each reads its arguments, calls the crates below, and prints.

pub(crate) mod completion;
mod environment;
mod format;
mod info;
mod mount;
mod quickstart;
mod services;
mod status;
mod umount;

use crate::args::Command;
use crate::exit::Failure;

/// Runs a command that needs the runtime.
pub(crate) async fn run(command: Command) -> Result<(), Failure> {
    match command {
        Command::Format(args) => format::run(*args).await,
        Command::Mount(args) => mount::run(args).await,
        Command::Umount(args) => umount::run(&args).await,
        Command::Status(args) => status::run(&args).await,
        Command::Info(args) => info::run(&args).await,
        Command::Controller(args) => services::controller(args).await,
        Command::Node(args) => services::node(args).await,
        Command::Worker(args) => services::worker(&args).await,
        Command::Quickstart(args) => quickstart::run(args).await,
        Command::Completion(args) => completion::run(&args),
        Command::Version => Ok(()),
    }
}
