#!/usr/bin/env bash
# Builds programs of the cluster from Go modules:  build.sh kubernetes|sidecars|helm|e2e DIRECTORY
#
# The versions are pinned in modules/*/go.mod. Of node-driver-registrar and livenessprobe nothing is needed: the node
# service registers itself and answers its own liveness.
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/env.sh"
export CGO_ENABLED=0 GOFLAGS="-trimpath -buildvcs=false -mod=mod"
mkdir -p "$2"
BIN=$(readlink -f "$2")
go() { command "${GO:-go}" "$@"; }

# The kubelet refuses to be a version that it does not know.
stamp() {
  local package
  printf -- '-s -w'
  for package in k8s.io/component-base/version k8s.io/client-go/pkg/version; do
    printf -- ' -X %s.gitVersion=v%s -X %s.gitMajor=1 -X %s.gitMinor=%s -X %s.gitTreeState=clean' \
      $package $KUBERNETES $package $package "$(cut -d. -f2 <<<$KUBERNETES)" $package
  done
}

# A module's directory is read-only in the module cache; go may want to write go.sum.
in_module() {
  WORK=$(mktemp -d)
  trap 'rm -rf "$WORK"' EXIT
  cp "$HERE/modules/$1"/go.* "$WORK/"
  cd "$WORK"
}

case $1 in
  kubernetes)
    in_module kubernetes
    go build -p 2 -ldflags "$(stamp)" -o "$BIN/" k8s.io/kubernetes/cmd/{kube-apiserver,kube-controller-manager} \
      k8s.io/kubernetes/cmd/{kube-scheduler,kube-proxy,kubelet,kubectl}
    ;;
  e2e)
    in_module kubernetes
    go test -c -p 2 -ldflags "$(stamp)" -o "$BIN/e2e.test" k8s.io/kubernetes/test/e2e
    go build -p 2 -ldflags "$(stamp)" -o "$BIN/" k8s.io/kubernetes/test/images/agnhost
    ;;
  sidecars)
    in_module sidecars
    go build -p 2 -ldflags "-s -w" -o "$BIN/" \
      github.com/kubernetes-csi/external-provisioner/v6/cmd/csi-provisioner \
      github.com/kubernetes-csi/external-resizer/v2/cmd/csi-resizer \
      github.com/kubernetes-csi/external-snapshotter/v8/cmd/{csi-snapshotter,snapshot-controller}
    # Definitions that every cluster with snapshots has.
    crds=$(go list -m -f '{{.Dir}}' github.com/kubernetes-csi/external-snapshotter/client/v8)/config/crd
    mkdir -p "$BIN/snapshot-crds"
    install -m 644 "$crds"/*.storage.k8s.io_*.yaml "$BIN/snapshot-crds/"
    ;;
  helm)
    module=helm.sh/helm/${HELM%%.*}
    GOFLAGS="-trimpath -buildvcs=false" GOBIN=$BIN \
      go install -p 2 -ldflags "-s -w -X $module/internal/version.version=$HELM" "$module/cmd/helm@$HELM"
    ;;
  *) echo "usage: build.sh kubernetes|sidecars|helm|e2e DIRECTORY" >&2; exit 2 ;;
esac
