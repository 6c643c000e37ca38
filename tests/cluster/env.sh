# What the scripts of the cluster share; sourced by them.
#
# Everything of a cluster lies below CLUSTER_RUN, and everything that runs in it does so in a network, a mount and a process
# namespace of its own: no address, route, firewall rule or mount of the machine changes, and it ends with the namespaces.
HERE=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
KUBERNETES=1.35.4
HELM=v4.3.1
CACHE=${XDG_CACHE_HOME:-$HOME/.cache}/steadfast
BIN=${CLUSTER_BIN:-$CACHE/cluster-$KUBERNETES/bin}
RUN=${CLUSTER_RUN:-${TMPDIR:-/tmp}/stead-cluster}
# Directories of a node that the cluster has for itself.
PRIVATE=(/var/lib/kubelet /var/lib/steadfast /var/lib/cni /run/netns /run/containerd /var/log/pods /var/log/containers
  /usr/libexec/kubernetes)
# What a kubelet sets.
SYSCTLS=(vm/overcommit_memory vm/panic_on_oom kernel/panic kernel/panic_on_oops kernel/keys/root_maxkeys
  kernel/keys/root_maxbytes)
NODE=node-1
BRIDGE=pods0
# The node's address, known in the namespace only: pods reach the API server and the back ends there.
ADDRESS=10.244.0.1
POD_NET=10.244.0.0/24
SERVICE_NET=10.96.0.0/16
SERVICE_ADDRESS=10.96.0.1
API_PORT=6443
ETCD_PORT=12379
REDIS_PORT=6379
REDIS_PASSWORD=red1s-Secret
MINIO_PORT=9000
MINIO_USER=minio-user
MINIO_PASSWORD=minio-Secret
CRI=$RUN/containerd.sock
export PATH=$BIN:$PATH

ctr() { command ctr -a "$CRI" -n k8s.io "$@"; }
pid_of() { cat "$RUN/pids/$1" 2>/dev/null; }
# Process ids are used again, so a recorded one is ours only if it began when it was recorded.
born() { awk '{ sub(/^.*\) /, ""); print $20 }' "/proc/$1/stat" 2>/dev/null; }
alive() {
  local pid
  pid=$(pid_of "$1") && [[ -n $pid && -n $(born "$pid") && $(born "$pid") == "$(cat "$RUN/pids/$1.born" 2>/dev/null)" ]]
}
# The process that another one, such as nsenter, waits for.
child_of() { cat "/proc/$1/task/$1/children" 2>/dev/null | tr -d ' '; }
# Starts something in the cluster's namespaces, with its output in a log, and records it.
start() {
  local name=$1 namespace
  shift
  # Before, so that the process has no child but the one that is to be recorded.
  namespace=$(pid_of namespace)
  setsid nsenter -t "$namespace" -m -n -p -- "$@" >>"$RUN/logs/$name.log" 2>&1 </dev/null &
  record "$name" $!
}
# record NAME PID: the child of that process is NAME.
record() {
  local pid
  for _ in $(seq 250); do
    pid=$(child_of "$2") && [[ -n $pid ]] && break
    sleep 0.02
  done
  [[ -n $pid ]] || { echo "$1 has not started: $(tail -n 5 "$RUN/logs/$1.log")" >&2; return 1; }
  echo "$pid" >"$RUN/pids/$1"
  born "$pid" >"$RUN/pids/$1.born"
}
# Runs something inside the cluster's namespaces; its working directory is /.
inside() { nsenter -t "$(pid_of namespace)" -m -n -p -- "$@"; }
kubectl() { inside "$BIN/kubectl" --kubeconfig "$RUN/admin.kubeconfig" "$@"; }
