#!/usr/bin/env bash
# Starts the API server of a cluster, also after it was stopped.
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/env.sh"
start kube-apiserver kube-apiserver --etcd-servers "http://127.0.0.1:$ETCD_PORT" \
  --bind-address "$ADDRESS" --secure-port "$API_PORT" --advertise-address "$ADDRESS" \
  --service-cluster-ip-range "$SERVICE_NET" --authorization-mode Node,RBAC --enable-admission-plugins NodeRestriction \
  --allow-privileged --client-ca-file "$RUN/pki/ca.crt" --cert-dir "$RUN/pki/apiserver" \
  --tls-cert-file "$RUN/pki/apiserver.crt" --tls-private-key-file "$RUN/pki/apiserver.key" \
  --service-account-issuer https://kubernetes.default.svc --service-account-key-file "$RUN/pki/accounts.pub" \
  --service-account-signing-key-file "$RUN/pki/accounts.key" --kubelet-preferred-address-types InternalIP \
  --kubelet-client-certificate "$RUN/pki/admin.crt" --kubelet-client-key "$RUN/pki/admin.key" \
  --audit-policy-file "$HERE/audit.yaml" --audit-log-path "$RUN/logs/audit.log"
