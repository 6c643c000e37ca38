//! One module per command. Each reads its arguments, calls the crates below, and prints.

mod bench;
pub(crate) mod completion;
mod config;
mod destroy;
mod dump;
mod environment;
mod format;
mod fsck;
mod info;
mod mount;
mod node_list;
mod quickstart;
mod quota;
mod restore;
mod services;
mod stats;
mod status;
mod tree;
mod umount;
mod warmup;

use stead_base::failpoint;

use crate::args::{Command, NodeCommand};
use crate::exit::Failure;

/// Arms what `STEAD_FAILPOINTS` names; only tests set it.
pub(crate) fn arm_failpoints() -> Result<(), Failure> {
    let Some(plan) = environment::variable("STEAD_FAILPOINTS") else { return Ok(()) };
    failpoint::arm(&plan, environment::kill_self).map_err(|error| Failure::usage(format!("STEAD_FAILPOINTS: {error}")))
}

/// Runs a command that needs the runtime.
/// `log`: how this process logs, as arguments.
pub(crate) async fn run(command: Command, log: Vec<String>) -> Result<(), Failure> {
    match command {
        Command::Format(args) => format::run(*args).await,
        Command::Mount(args) => mount::run(args).await,
        Command::Umount(args) => umount::run(&args).await,
        Command::Status(args) => status::run(&args).await,
        Command::Info(args) => info::run(&args).await,
        Command::Config(args) => config::run(&args).await,
        Command::Quota(args) => quota::run(&args).await,
        Command::Destroy(args) => destroy::run(&args).await,
        Command::Dump(args) => dump::dump(&args).await,
        Command::Load(args) => dump::load(&args).await,
        Command::Bench(args) => bench::run(&args).await,
        Command::Stats(args) => stats::run(&args).await,
        Command::Fsck(args) => fsck::fsck(&args).await,
        Command::Gc(args) => fsck::gc(&args).await,
        Command::Restore(args) => restore::run(&args).await,
        Command::Rmr(args) => tree::remove(&args).await,
        Command::Clone(args) => tree::clone(&args).await,
        Command::Compact(args) => tree::compact(&args).await,
        Command::Summary(args) => tree::summary(&args).await,
        Command::Warmup(args) => warmup::run(&args).await,
        Command::Controller(args) => services::controller(args).await,
        Command::Node(command) => node(*command, log).await,
        Command::Runner(args) => services::runner(args, log).await,
        Command::Worker(args) => services::worker(&args).await,
        Command::Quickstart(args) => quickstart::run(args).await,
        Command::Completion(args) => completion::run(&args),
        Command::Version => Ok(()),
    }
}

async fn node(command: NodeCommand, log: Vec<String>) -> Result<(), Failure> {
    match command {
        NodeCommand::Serve(args) => services::node(args, log).await,
        NodeCommand::List(args) => node_list::run(&args),
    }
}
