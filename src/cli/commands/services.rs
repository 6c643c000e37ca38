//! The processes that serve: controller, node, worker.

use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};

use stead_csi::{ControllerConfig, NodeConfig, WorkerMode, run_controller, run_node};
use stead_keeper::launch::WorkerLaunch;
use tokio_util::sync::CancellationToken;

use super::environment;
use crate::args::{ControllerArgs, NodeArgs, RunnerArgs, WorkerArgs};
use crate::exit::Failure;

pub(crate) async fn controller(args: ControllerArgs) -> Result<(), Failure> {
    let stop = environment::stop_on_signal()?;
    let config = ControllerConfig {
        endpoint: args.service.endpoint,
        driver_name: args.service.driver_name,
        file_systems: args.file_systems,
        metrics: args.service.metrics,
    };
    run_controller(config, stop).await.map_err(|error| Failure::general(error.to_string()))
}

pub(crate) async fn node(args: NodeArgs) -> Result<(), Failure> {
    let stop = environment::stop_on_signal()?;
    let exe = args.worker_exe.map_or_else(own_program, Ok)?;
    let mode = args.runner_socket.map_or(WorkerMode::Process, |socket| WorkerMode::Runner { socket });
    let config = NodeConfig {
        endpoint: args.service.endpoint,
        driver_name: args.service.driver_name,
        node_id: args.node_id,
        state_dir: args.state_dir,
        registrations: args.registration_dir,
        metrics: args.service.metrics,
        worker: WorkerLaunch { exe, uid: args.worker_uid, gid: args.worker_gid },
        mode,
    };
    run_node(config, stop, environment::hangups()?).await.map_err(|error| Failure::general(error.to_string()))
}

pub(crate) async fn runner(args: RunnerArgs) -> Result<(), Failure> {
    let stop = environment::stop_on_signal()?;
    let launch = WorkerLaunch { exe: own_program()?, uid: args.worker_uid, gid: args.worker_gid };
    if args.once {
        return one_worker(&args.socket, launch, stop).await;
    }
    let ran = stead_keeper::runner::run(&args.socket, launch, stop.cancelled_owned()).await;
    ran.map_err(|error| Failure::general(error.to_string()))
}

/// Fails as its worker does, so that a pod shows it.
async fn one_worker(socket: &Path, launch: WorkerLaunch, stop: CancellationToken) -> Result<(), Failure> {
    let ran = stead_keeper::runner::run_once(socket, launch, stop.cancelled_owned()).await;
    match ran.map_err(|error| Failure::general(error.to_string()))? {
        Some(status) if !status.success() => {
            // As shells do it.
            let code = status.code().or_else(|| status.signal().map(|signal| 128 + signal));
            let code = code.and_then(|code| u8::try_from(code).ok()).unwrap_or(1);
            Err(Failure::with_code(code, format!("the worker has ended: {status}")))
        }
        _ => Ok(()),
    }
}

fn own_program() -> Result<PathBuf, Failure> {
    std::env::current_exe().map_err(|error| Failure::general(format!("own program: {error}")))
}

pub(crate) async fn worker(args: &WorkerArgs) -> Result<(), Failure> {
    let stop = environment::stop_on_signal()?;
    stead_worker::run_controlled(args.control_fd, environment::process(), stop.cancelled_owned()).await?;
    Ok(())
}
