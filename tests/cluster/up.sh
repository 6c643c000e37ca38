#!/usr/bin/env bash
# Starts a Kubernetes of one node with Redis and MinIO beside it, all in namespaces of its own:  up.sh
#
# CLUSTER_RUN is the directory for all of its state, CLUSTER_BIN has its programs (build.sh), CLUSTER_MINIO is a program
# `minio`, CLUSTER_E2E a directory with programs of upstream's suite, if that is to run. Afterwards `. env.sh` gives `kubectl` and `inside`; down.sh ends it.
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/env.sh"
BEGUN=$(date +%s%N)
say() { printf '[%5d ms] %s\n' $((($(date +%s%N) - BEGUN) / 1000000)) "$*"; }
[[ -z $(ls -A "$RUN" 2>/dev/null) ]] || { echo "$RUN is not empty: down.sh ends a cluster" >&2; exit 1; }
mkdir -p "$RUN"/{pids,logs,pki,cni,minio,redis,private,sysctl}
mkdir -p -m 700 "$RUN/etcd"
RUN=$(readlink -f "$RUN")
# Directories that a node has for itself are the cluster's own; those that the machine lacks go when it ends.
for directory in "${PRIVATE[@]}"; do
  [[ -d $directory ]] || { mkdir -p "$directory" && echo "$directory" >>"$RUN/made"; }
  mkdir -p "$RUN/private$directory"
done
# Of kernel parameters the kubelet gets copies to write to.
for name in "${SYSCTLS[@]}"; do
  [[ -e /proc/sys/$name ]] || continue
  mkdir -p "$RUN/sysctl/$(dirname "$name")" && cat "/proc/sys/$name" >"$RUN/sysctl/$name"
done
# Control groups of pods lie below one of our own, in each hierarchy.
GROUP=stead-cluster-$$
echo "$GROUP" >"$RUN/group"
if [[ -e /sys/fs/cgroup/cgroup.controllers ]]; then mkdir "/sys/fs/cgroup/$GROUP"; else
  for hierarchy in /sys/fs/cgroup/*/; do
    [[ -L ${hierarchy%/} ]] || mkdir "$hierarchy$GROUP" 2>/dev/null || true
  done
fi

# wait_for NAME SECONDS COMMAND...
wait_for() {
  local name=$1 end=$((SECONDS + $2))
  shift 2
  until "$@" >/dev/null 2>&1; do
    ((SECONDS < end)) || { echo "$name is not ready:" >&2; tail -n 20 "$RUN/logs/$name.log" >&2; return 1; }
    sleep 0.2
  done
}

# --- namespaces: mounts of pods must be seen by the kubelet, so / is shared inside. Copies of FUSE mounts that are there
# already would keep these alive after their umount. The first process reaps what others leave, and takes all along when it
# ends.
setsid unshare -m -n -p --fork --kill-child --mount-proc --propagation private bash -c '
  run=$0
  awk "\$3 ~ /^fuse/ && \$3 != \"fusectl\" { print \$2 }" /proc/mounts | while read -r point; do
    umount -l "$(printf %b "$point")"
  done
  for directory in "$@"; do mount --bind "$run/private$directory" "$directory" || exit; done
  (cd "$run/sysctl" && find . -type f) | while read -r name; do mount --bind "$run/sysctl/$name" "/proc/sys/$name"; done
  mount --make-rshared / && ip link set lo up && touch "$run/pids/ready" || exit
  while :; do sleep infinity & wait; done' "$RUN" "${PRIVATE[@]}" >"$RUN/logs/namespace.log" 2>&1 </dev/null &
record namespace $!
wait_for namespace 5 test -e "$RUN/pids/ready"

inside ip link add "$BRIDGE" type bridge
# Otherwise it has the lowest address of its ports, which come and go with pods, and who remembers that talks to nobody.
inside ip link set "$BRIDGE" address 02:00:0a:f4:00:01
inside ip address replace "$ADDRESS/24" dev "$BRIDGE"
inside ip link set "$BRIDGE" up
inside ip route add default via "$ADDRESS" dev "$BRIDGE"
inside sh -c 'echo 1 >/proc/sys/net/ipv4/ip_forward'

# --- certificates
cd "$RUN/pki"
key() { openssl ecparam -name prime256v1 -genkey -noout -out "$1.key"; }
certificate() {
  key "$1"
  openssl req -new -key "$1.key" -subj "$2" -out "$1.csr"
  openssl x509 -req -in "$1.csr" -CA ca.crt -CAkey ca.key -CAcreateserial -days 30 -out "$1.crt" \
    -extfile <(echo "$3") 2>/dev/null
}
key ca
openssl req -x509 -new -key ca.key -days 30 -subj /CN=cluster -out ca.crt
names=DNS:localhost,DNS:kubernetes,DNS:kubernetes.default,DNS:kubernetes.default.svc
certificate apiserver /CN=kube-apiserver "subjectAltName=IP:127.0.0.1,IP:$ADDRESS,IP:$SERVICE_ADDRESS,$names"
client() {
  certificate "$1" "$2" extendedKeyUsage=clientAuth
  cat >"$RUN/$1.kubeconfig" <<Y
apiVersion: v1
kind: Config
current-context: cluster
clusters: [{name: cluster, cluster: {server: "https://$ADDRESS:$API_PORT", certificate-authority-data: $(base64 -w0 ca.crt)}}]
users: [{name: $1, user: {client-certificate-data: $(base64 -w0 "$1.crt"), client-key-data: $(base64 -w0 "$1.key")}}]
contexts: [{name: cluster, context: {cluster: cluster, user: $1}}]
Y
  chmod 600 "$RUN/$1.kubeconfig"
}
client admin /O=system:masters/CN=admin
client kubelet "/O=system:nodes/CN=system:node:$NODE"
client controllers /CN=system:kube-controller-manager
client scheduler /CN=system:kube-scheduler
client proxy /CN=system:kube-proxy
openssl genrsa -out accounts.key 2048 2>/dev/null
openssl rsa -in accounts.key -pubout -out accounts.pub 2>/dev/null

# --- back ends of the volumes
start redis redis-server --bind "$ADDRESS" 127.0.0.1 --port "$REDIS_PORT" --save "" --dir "$RUN/redis" \
  --maxmemory-policy noeviction --requirepass "$REDIS_PASSWORD"
if [[ -n ${CLUSTER_MINIO:-} ]]; then
  start minio env MINIO_ROOT_USER="$MINIO_USER" MINIO_ROOT_PASSWORD="$MINIO_PASSWORD" MINIO_BROWSER=off \
    "$CLUSTER_MINIO" server --quiet --address "$ADDRESS:$MINIO_PORT" "$RUN/minio"
fi

# --- control plane
start etcd etcd --name node --data-dir "$RUN/etcd" --unsafe-no-fsync \
  --listen-client-urls "http://127.0.0.1:$ETCD_PORT" --advertise-client-urls "http://127.0.0.1:$ETCD_PORT" \
  --listen-peer-urls "http://127.0.0.1:$((ETCD_PORT + 1))" \
  --initial-advertise-peer-urls "http://127.0.0.1:$((ETCD_PORT + 1))" \
  --initial-cluster "node=http://127.0.0.1:$((ETCD_PORT + 1))"
wait_for etcd 20 inside curl -sf "http://127.0.0.1:$ETCD_PORT/health"
"$HERE/apiserver.sh"
say "API server started"

cat >"$RUN/containerd.toml" <<Y
version = 2
root = "$RUN/containerd/root"
state = "$RUN/containerd/state"
disabled_plugins = ["io.containerd.snapshotter.v1.aufs", "io.containerd.snapshotter.v1.btrfs", "io.containerd.snapshotter.v1.zfs", "io.containerd.snapshotter.v1.devmapper", "io.containerd.tracing.processor.v1.otlp"]
[grpc]
  address = "$CRI"
[ttrpc]
  address = "$CRI.ttrpc"
[plugins."io.containerd.internal.v1.opt"]
  path = "$RUN/containerd/opt"
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "registry.k8s.io/pause:3.10"
  restrict_oom_score_adj = true
  stream_server_address = "127.0.0.1"
  disable_apparmor = true
  [plugins."io.containerd.grpc.v1.cri".containerd]
    snapshotter = "overlayfs"
    default_runtime_name = "runc"
    [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
      runtime_type = "io.containerd.runc.v2"
      [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
        SystemdCgroup = false
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "/usr/lib/cni"
    conf_dir = "$RUN/cni"
Y
cat >"$RUN/cni/10-bridge.conflist" <<Y
{"cniVersion": "0.4.0", "name": "pods", "plugins": [
  {"type": "bridge", "bridge": "$BRIDGE", "isDefaultGateway": true, "ipMasq": true, "hairpinMode": true,
   "ipam": {"type": "host-local", "ranges": [[{"subnet": "$POD_NET", "gateway": "$ADDRESS"}]], "dataDir": "$RUN/cni-ipam"}},
  {"type": "portmap", "capabilities": {"portMappings": true}}]}
Y
start containerd containerd -c "$RUN/containerd.toml"
wait_for containerd 20 ctr version
"$HERE/images.sh" >"$RUN/logs/images.log" 2>&1 || { tail -n 20 "$RUN/logs/images.log" >&2; exit 1; }
say "images imported"

wait_for kube-apiserver 120 kubectl get --raw /readyz
say "API server ready"
# With its usual 20 requests a second claims become bound so late after the scheduler took them for bound that the kubelet
# finds them unbound, and looks again ten seconds later.
start kube-controller-manager kube-controller-manager --kube-api-qps 200 --kube-api-burst 400 --kubeconfig "$RUN/controllers.kubeconfig" --bind-address 127.0.0.1 \
  --authentication-kubeconfig "$RUN/controllers.kubeconfig" --authorization-kubeconfig "$RUN/controllers.kubeconfig" \
  --service-account-private-key-file "$RUN/pki/accounts.key" --root-ca-file "$RUN/pki/ca.crt" \
  --use-service-account-credentials --leader-elect=false --cert-dir "$RUN/pki/controllers"
start kube-scheduler kube-scheduler --kubeconfig "$RUN/scheduler.kubeconfig" --bind-address 127.0.0.1 \
  --authentication-kubeconfig "$RUN/scheduler.kubeconfig" --authorization-kubeconfig "$RUN/scheduler.kubeconfig" \
  --leader-elect=false --cert-dir "$RUN/pki/scheduler"

# --- node: syncFrequency is how long a change of a mounted volume, such as its growth, may wait.
cat >"$RUN/kubelet.yaml" <<Y
apiVersion: kubelet.config.k8s.io/v1beta1
kind: KubeletConfiguration
address: $ADDRESS
healthzBindAddress: 127.0.0.1
readOnlyPort: 0
authentication: {anonymous: {enabled: false}, webhook: {enabled: true}, x509: {clientCAFile: $RUN/pki/ca.crt}}
authorization: {mode: Webhook}
containerRuntimeEndpoint: unix://$CRI
cgroupDriver: cgroupfs
cgroupRoot: /$GROUP
failCgroupV1: false
failSwapOn: false
oomScoreAdj: 0
enforceNodeAllocatable: [pods]
clusterDNS: [$ADDRESS]
clusterDomain: cluster.local
resolvConf: /etc/resolv.conf
imageGCHighThresholdPercent: 100
imageGCLowThresholdPercent: 99
evictionHard: {memory.available: 100Mi, nodefs.available: 1%, nodefs.inodesFree: 1%, imagefs.available: 1%}
nodeStatusUpdateFrequency: 5s
syncFrequency: 5s
volumeStatsAggPeriod: 10s
maxPods: 250
Y
start kubelet kubelet --config "$RUN/kubelet.yaml" --kubeconfig "$RUN/kubelet.kubeconfig" --hostname-override "$NODE" \
  --node-ip "$ADDRESS" --root-dir /var/lib/kubelet --cert-dir "$RUN/pki/kubelet"
start kube-proxy kube-proxy --kubeconfig "$RUN/proxy.kubeconfig" --hostname-override "$NODE" --proxy-mode iptables \
  --nodeport-addresses primary --cluster-cidr "$POD_NET" --conntrack-max-per-core 0 --conntrack-tcp-timeout-established 0 \
  --conntrack-tcp-timeout-close-wait 0 --metrics-bind-address 127.0.0.1:10249 --healthz-bind-address 127.0.0.1:10256
kubectl create clusterrolebinding proxy --clusterrole=system:node-proxier --user=system:kube-proxy >/dev/null
wait_for kubelet 120 kubectl get node "$NODE"
kubectl wait --for=condition=Ready "node/$NODE" --timeout=180s >/dev/null
wait_for kube-controller-manager 60 kubectl -n default get serviceaccount default
say "the node is ready"

# --- what every cluster with snapshots has
kubectl apply -f "$BIN/snapshot-crds" >/dev/null
kubectl apply -f "$HERE/snapshot-controller.yaml" >/dev/null
say "up"
