//! A cluster of one node without its programs: an API server that remembers, and a kubelet that gives each pod namespaces
//! of its own (processes, mounts) in which it sees the directories that it has mounted.

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError};

use serde_json::{Value, json};
use stead_k8s::fake::ApiServer;
use tokio::runtime::Runtime;

use crate::csi::UNPRIVILEGED;
use crate::tools;

/// Starts and stops containers as it is told, line by line, and tells how they end. A process of its own: a child of one
/// that has files of a mount open closes them, which waits for a worker.
const KUBELET: &str = r#"
dir=$1 user=$2 program=$3 container=$4
signal() { kill -"$1" $(cat "/proc/$2/task/$2/children" 2>/dev/null) 2>/dev/null; }
while read -r what name runner node; do
    case $what in
        start) (
            unshare --pid --mount --fork sh -c "$container" container "$runner" "$node" "$dir" "$user" "$program" \
                </dev/null >/dev/null 2>>"$dir/pods.log" &
            echo $! >"$dir/pod-$name"
            wait $!
            echo "$name $?"
        ) & ;;
        stop) signal TERM "$(cat "$dir/pod-$name")" ;;
    esac
done
# The first process of a namespace takes all others along.
for file in "$dir"/pod-*; do
    [ -e "$file" ] && signal KILL "$(cat "$file")"
done
wait
"#;

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

/// The cluster.
pub struct Cluster {
    server: Arc<ApiServer>,
    kubelet: Child,
    orders: Orders,
    runtime: Option<Runtime>,
}

type Orders = Arc<Mutex<Option<ChildStdin>>>;

impl Cluster {
    /// Starts one whose node has its files below `dir`.
    pub fn start(dir: &Path) -> Self {
        let runtime = Runtime::new().expect("threads");
        let server = Arc::new(runtime.block_on(ApiServer::start()));
        let mut kubelet = Command::new("sh");
        kubelet.args(["-c", KUBELET, "kubelet"]).arg(dir).arg(UNPRIVILEGED.to_string()).arg(tools::stead());
        kubelet.arg(CONTAINER).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut kubelet = kubelet.spawn().expect("a shell");
        let orders: Orders = Arc::new(Mutex::new(kubelet.stdin.take()));
        let (starts, stops) = (Arc::clone(&orders), Arc::clone(&orders));
        server.on_new_pod(move |pod| {
            let path = |number: usize| pod["spec"]["volumes"][number]["hostPath"]["path"].as_str().expect("a path");
            order(&starts, &format!("start {} {} {}", name_of(pod), path(0), path(1)));
        });
        server.on_deleted_pod(move |pod| order(&stops, &format!("stop {}", name_of(pod))));
        let told = BufReader::new(kubelet.stdout.take().expect("a pipe"));
        let told_to = Arc::downgrade(&server);
        std::thread::spawn(move || {
            for line in told.lines().map_while(Result::ok) {
                let Some((name, code)) = line.split_once(' ') else { continue };
                let phase = if code == "0" { "Succeeded" } else { "Failed" };
                if let Some(server) = told_to.upgrade() {
                    server.set_status(name, json!({"phase": phase}));
                }
            }
        });
        Self { server, kubelet, orders, runtime: Some(runtime) }
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
        // Without orders it ends, and its containers with it.
        drop(self.orders.lock().unwrap_or_else(PoisonError::into_inner).take());
        let _ended = self.kubelet.wait();
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

fn order(orders: &Orders, line: &str) {
    if let Some(kubelet) = &mut *orders.lock().unwrap_or_else(PoisonError::into_inner) {
        writeln!(kubelet, "{line}").expect("the kubelet listens");
    }
}

fn name_of(pod: &Value) -> String {
    pod["metadata"]["name"].as_str().expect("pods have names").to_owned()
}
