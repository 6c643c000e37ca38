//! What a service is started with. The command line fills it in.

use std::collections::HashMap;
use std::path::PathBuf;

use stead_k8s::Cluster;
pub use stead_keeper::launch::WorkerLaunch;

pub use crate::node::PodMode;

/// The controller service.
#[derive(Clone, Debug)]
pub struct ControllerConfig {
    /// The socket to serve on: an absolute path, with or without `unix://`.
    pub endpoint: String,
    /// Name of the driver.
    pub driver_name: String,
    /// A directory of mounted Secrets: the file systems that calls without a Secret are about. `None`: no such calls.
    pub file_systems: Option<PathBuf>,
    /// The cluster whose claims are asked for labels and annotations. `None`: StorageClasses that need them do not work.
    pub claims: Option<Cluster>,
    /// Where `/metrics` and `/healthz` are served (`host:port`). `None`: nowhere.
    pub metrics: Option<String>,
}

/// The node service.
#[derive(Clone, Debug)]
pub struct NodeConfig {
    /// The socket to serve on: an absolute path, with or without `unix://`.
    pub endpoint: String,
    /// Name of the driver.
    pub driver_name: String,
    /// Name of this node.
    pub node_id: String,
    /// What the kubelet puts on the node as labels (CSI `accessible_topology`): keys and values. Volumes can be used on all
    /// nodes; empty unless somebody else wants it.
    pub topology: HashMap<String, String>,
    /// Where mounts (`mounts/`), their records (`volumes/`) and the logs of workers (`logs/`) are kept. Mounts made there
    /// must be visible to the kubelet (mount propagation).
    pub state_dir: PathBuf,
    /// The kubelet's directory of registrations, where this service says that it is there. `None`: somebody else does. The
    /// kubelet must find `endpoint` under the same path.
    pub registrations: Option<PathBuf>,
    /// Where `/metrics` and `/healthz` are served (`host:port`). `None`: nowhere.
    pub metrics: Option<String>,
    /// How workers are started.
    pub worker: WorkerLaunch,
    /// Where.
    pub mode: WorkerMode,
    /// The cluster whose pods and claims get events about their mounts. `None`: nobody is told.
    pub events: Option<Cluster>,
}

/// Where workers run.
#[derive(Clone, Debug)]
pub enum WorkerMode {
    /// As processes that the node service starts.
    Process,
    /// As processes that a runner starts (`stead runner`), which may have no privilege at all.
    Runner {
        /// Where the runner listens. Workers find the node service in the same directory.
        socket: PathBuf,
    },
    /// In pods of their own. The node service has to be in the pid namespace of the machine.
    Pod(PodMode),
}
