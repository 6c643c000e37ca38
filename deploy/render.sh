#!/usr/bin/env bash
# Renders the chart with its defaults into one file for `kubectl apply -f`:  deploy/render.sh >deploy/kubernetes.yaml
set -euo pipefail
cd "$(dirname "$(readlink -f "$0")")/.."
cat <<'Y'
# Rendered from charts/steadfast by deploy/render.sh: change it there.
apiVersion: v1
kind: Namespace
metadata:
  name: steadfast
  labels:
    # One container of each node mounts; all others are held to "restricted", but for the directories of the node.
    pod-security.kubernetes.io/enforce: privileged
Y
"${HELM:-helm}" template steadfast charts/steadfast --namespace steadfast \
  | sed 's/app.kubernetes.io\/managed-by: Helm/app.kubernetes.io\/managed-by: kubectl/'
