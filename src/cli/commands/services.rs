//! The processes that serve: controller, node, worker.

use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};

use stead_csi::{ControllerConfig, NodeConfig, PodMode, WorkerMode, run_controller, run_node};
use stead_k8s::Cluster;
use stead_keeper::launch::WorkerLaunch;
use tokio_util::sync::CancellationToken;

use super::environment;
use crate::args::{ControllerArgs, NodeArgs, NodeMode, RunnerArgs, WorkerArgs};
use crate::exit::Failure;

pub(crate) async fn controller(args: ControllerArgs) -> Result<(), Failure> {
    let stop = environment::stop_on_signal()?;
    let claims = if args.claims { Some(cluster(args.kubeconfig.as_deref()).await?) } else { None };
    let config = ControllerConfig {
        endpoint: args.service.endpoint,
        driver_name: args.service.driver_name,
        file_systems: args.file_systems,
        claims,
        metrics: args.service.metrics,
    };
    run_controller(config, stop).await.map_err(|error| Failure::general(error.to_string()))
}

/// `log` are the arguments that say how this process logs; its workers log likewise.
pub(crate) async fn node(args: NodeArgs, log: Vec<String>) -> Result<(), Failure> {
    let stop = environment::stop_on_signal()?;
    let mode = mode(&args).await?;
    let events = if args.events { Some(cluster(args.kubeconfig.as_deref()).await?) } else { None };
    let exe = args.worker_exe.map_or_else(own_program, Ok)?;
    let config = NodeConfig {
        endpoint: args.service.endpoint,
        driver_name: args.service.driver_name,
        node_id: args.node_id,
        topology: args.topology.into_iter().collect(),
        state_dir: args.state_dir,
        registrations: args.registration_dir,
        metrics: args.service.metrics,
        worker: WorkerLaunch { exe, arguments: log, uid: args.worker_uid, gid: args.worker_gid },
        mode,
        events,
    };
    run_node(config, stop, environment::hangups()?).await.map_err(|error| Failure::general(error.to_string()))
}

/// Where workers run. What belongs to one mode is refused with another.
async fn mode(args: &NodeArgs) -> Result<WorkerMode, Failure> {
    let given = args.mode.unwrap_or(if args.runner_socket.is_some() { NodeMode::Runner } else { NodeMode::Process });
    match (given, &args.runner_socket, &args.worker_template) {
        (NodeMode::Process, None, None) => Ok(WorkerMode::Process),
        (NodeMode::Runner, Some(socket), None) => Ok(WorkerMode::Runner { socket: socket.clone() }),
        (NodeMode::Pod, None, Some(template)) => {
            let cluster = cluster(args.kubeconfig.as_deref()).await?;
            let (template, own_pod) = (template.clone(), args.pod_name.clone());
            Ok(WorkerMode::Pod(PodMode { cluster, template, own_pod }))
        }
        _ => {
            let why = "--runner-socket belongs to --mode runner, and --worker-template to --mode pod";
            Err(Failure::usage(why.to_owned()))
        }
    }
}

async fn cluster(kubeconfig: Option<&Path>) -> Result<Cluster, Failure> {
    Cluster::connect(kubeconfig).await.map_err(|error| Failure::usage(error.to_string()))
}

/// See [`node`].
pub(crate) async fn runner(args: RunnerArgs, log: Vec<String>) -> Result<(), Failure> {
    let stop = environment::stop_on_signal()?;
    let launch = WorkerLaunch { exe: own_program()?, arguments: log, uid: args.worker_uid, gid: args.worker_gid };
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
