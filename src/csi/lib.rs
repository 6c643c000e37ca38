//! The gRPC border: the Container Storage Interface 1.12 over a Unix socket, for the controller and for a node.
//!
//! A handler parses its request into types that cannot be wrong, checks, acts, and answers. Work goes on when a caller
//! gives up, so that nothing is left half-done; volumes are worked on one call at a time. Secrets come with the calls and
//! are neither stored nor logged.

mod capability;
mod config;
mod controller;
mod error;
mod identity;
mod locks;
mod node;
mod page;
pub mod proto;
mod registration;
mod rpc;
mod server;

use std::path::Path;
use std::sync::Arc;

use stead_base::SystemClock;
use stead_k8s::Claims;
use stead_volume::Volumes;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;
use tonic::service::Routes;

pub use config::{ControllerConfig, NodeConfig, PodMode, WorkerLaunch, WorkerMode};
pub use node::{NodeTarget, NodeVolume, VolumeHealth};
pub use server::ServeError;

use node::{PATIENCE, Sole};
use proto::controller_server::ControllerServer;
use proto::group_controller_server::GroupControllerServer;
use proto::identity_server::IdentityServer;
use proto::node_server::NodeServer;

/// The volumes of the node whose service has this state directory, whether that service runs or not. Asks no volume, so
/// it does not wait for one that hangs.
///
/// # Errors
/// A state directory that is not there or cannot be read.
pub fn node_volumes(state_dir: &Path) -> Result<Vec<NodeVolume>, ServeError> {
    node::volumes(state_dir).map_err(|error| ServeError::State(error.to_string()))
}

/// Serves the controller until `stop` is cancelled.
///
/// # Errors
/// A socket that cannot be used.
pub async fn run_controller(config: ControllerConfig, stop: CancellationToken) -> Result<(), ServeError> {
    let identity = identity::IdentityService::controller(&config.driver_name);
    let (volumes, claims) = (Volumes::new(Arc::new(SystemClock)), config.claims.map(Claims::new));
    let controller = controller::ControllerService::new(volumes, config.file_systems, claims);
    controller.resume();
    page::serve(config.metrics.as_deref(), &config.endpoint, None, stop.clone()).await?;
    let routes = Routes::new(IdentityServer::new(identity))
        .add_service(GroupControllerServer::new(controller.clone()))
        .add_service(ControllerServer::new(controller));
    server::serve(&config.endpoint, routes, stop).await
}

/// Serves a node until `stop` is cancelled. Mounts and their workers stay. Each notice of `replace` has all workers replaced
/// by new ones, which go on with the mounts.
///
/// # Errors
/// A socket or a state directory that cannot be used, also because another node service uses it.
pub async fn run_node(config: NodeConfig, stop: CancellationToken, replace: Arc<Notify>) -> Result<(), ServeError> {
    let (endpoint, metrics) = (config.endpoint.clone(), config.metrics.clone());
    let _sole = tokio::select! {
        sole = Sole::in_directory(&config.state_dir, PATIENCE) => {
            sole.map_err(|error| ServeError::State(error.to_string()))?
        }
        () = stop.cancelled() => return Ok(()),
    };
    let registering = registration::run(&config, stop.clone())?;
    let identity = identity::IdentityService::node(&config.driver_name, &config.state_dir);
    let node = node::NodeService::open(config).map_err(|error| ServeError::State(error.to_string()))?;
    let routes = Routes::new(IdentityServer::new(identity)).add_service(NodeServer::new(node.clone()));
    page::serve(metrics.as_deref(), &endpoint, Some(node.clone()), stop.clone()).await?;
    let replacing = async {
        loop {
            replace.notified().await;
            node.replace_workers().await;
        }
    };
    tokio::select! {
        served = server::serve(&endpoint, routes, stop) => served,
        failed = registering => Err(failed),
        () = replacing => Ok(()),
    }
}
