//! A cluster of one node without its programs: an API server that remembers, and a kubelet that gives each pod namespaces
//! of its own (processes, mounts) in which it sees the directories that it has mounted.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError};

use nix::sys::signal::Signal;
use serde_json::{Value, json};
use stead_k8s::fake::ApiServer;
use tokio::runtime::Runtime;

use crate::csi::UNPRIVILEGED;
use crate::process::{children, signal_to};
use crate::tools;

/// Becomes a container: other mounts, an empty /run but for the two directories, another /proc, another user. Nothing looks
/// at mounts of volumes, which nobody may serve at this moment.
const CONTAINER: &str = r#"
set -e
mkdir -p "$3/mounted"
mount -t tmpfs none "$3/mounted"
mkdir "$3/mounted/stead" "$3/mounted/stead-node"
mount --bind "$1" "$3/mounted/stead"
mount --bind -o ro "$2" "$3/mounted/stead-node"
mount --rbind "$3/mounted" /run
mount -t proc proc /proc
exec setpriv --reuid "$4" --regid "$4" --clear-groups --inh-caps=-all "$5" runner --once --socket /run/stead/runner.sock
"#;

type Containers = Arc<Mutex<HashMap<String, Child>>>;

/// The cluster.
pub struct Cluster {
    server: Arc<ApiServer>,
    containers: Containers,
    runtime: Option<Runtime>,
}

impl Cluster {
    /// Starts one whose node has its files below `dir`.
    pub fn start(dir: &Path) -> Self {
        let runtime = Runtime::new().expect("threads");
        let server = Arc::new(runtime.block_on(ApiServer::start()));
        let containers = Containers::default();
        let (dir, log, made) = (dir.to_owned(), dir.join("pods.log"), Arc::clone(&containers));
        let kubelet = Arc::downgrade(&server);
        server.on_new_pod(move |pod| {
            let name = name_of(pod);
            let child = container(pod, &dir, &log);
            let pid = child.id();
            lock(&made).insert(name.clone(), child);
            let (made, kubelet) = (Arc::clone(&made), kubelet.clone());
            std::thread::spawn(move || {
                wait_for(pid);
                let status = lock(&made).get_mut(&name).and_then(|child| child.wait().ok());
                let phase = if status.is_some_and(|status| status.success()) { "Succeeded" } else { "Failed" };
                if let Some(server) = kubelet.upgrade() {
                    server.set_status(&name, json!({"phase": phase}));
                }
            });
        });
        let removed = Arc::clone(&containers);
        server.on_deleted_pod(move |pod| {
            if let Some(child) = lock(&removed).remove(&name_of(pod)) {
                children(child.id()).into_iter().for_each(|pid| signal_to(pid, Signal::SIGTERM));
            }
        });
        Self { server, containers, runtime: Some(runtime) }
    }

    /// What the node service needs to find it.
    pub fn kubeconfig(&self) -> String {
        self.server.kubeconfig()
    }

    /// The names of all pods.
    pub fn pods(&self) -> Vec<String> {
        self.server.pods().iter().map(name_of).collect()
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        for child in lock(&self.containers).values_mut() {
            // The first process of a namespace takes all others along.
            children(child.id()).into_iter().for_each(|pid| signal_to(pid, Signal::SIGKILL));
        }
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

fn lock(containers: &Containers) -> std::sync::MutexGuard<'_, HashMap<String, Child>> {
    containers.lock().unwrap_or_else(PoisonError::into_inner)
}

fn name_of(pod: &Value) -> String {
    pod["metadata"]["name"].as_str().expect("pods have names").to_owned()
}

/// Waits until a child has ended, and leaves it to be collected.
fn wait_for(pid: u32) {
    use nix::sys::wait::{Id, WaitPidFlag, waitid};
    let pid = nix::unistd::Pid::from_raw(i32::try_from(pid).expect("process ids fit"));
    // One that is collected already has ended, too.
    let _collected = waitid(Id::Pid(pid), WaitPidFlag::WEXITED | WaitPidFlag::WNOWAIT);
}

fn container(pod: &Value, dir: &Path, log: &Path) -> Child {
    let host_path = |number: usize| {
        let path = pod["spec"]["volumes"][number]["hostPath"]["path"].as_str().expect("a directory of the node");
        PathBuf::from(path)
    };
    let output = std::fs::File::options().create(true).append(true).open(log).expect("a log");
    let mut command = Command::new("unshare");
    command.args(["--pid", "--mount", "--fork", "sh", "-c", CONTAINER, "container"]);
    command.arg(host_path(0)).arg(host_path(1)).arg(dir).arg(UNPRIVILEGED.to_string()).arg(tools::stead());
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(output).spawn().expect("tests of pods need root")
}
