#!/usr/bin/env bash
# Ends a cluster and removes everything of it:  down.sh
set -uo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/env.sh"
[[ -d $RUN/pids ]] || exit 0

# In order first, then by force.
stop() {
  local pid
  if alive "$1"; then
    pid=$(pid_of "$1")
    kill "$pid" 2>/dev/null
    for _ in $(seq 50); do
      alive "$1" || break
      sleep 0.1
    done
    alive "$1" && kill -9 "$pid" 2>/dev/null
  fi
  rm -f "$RUN/pids/$1" "$RUN/pids/$1.born"
}

for name in kube-proxy kubelet kube-scheduler kube-controller-manager; do stop "$name"; done
if [[ -S $CRI ]]; then
  for task in $(ctr tasks ls -q 2>/dev/null); do ctr tasks kill -a -s 9 "$task" >/dev/null 2>&1; done
  sleep 0.5
  for task in $(ctr tasks ls -q 2>/dev/null); do ctr tasks delete -f "$task" >/dev/null 2>&1; done
fi
for name in containerd kube-apiserver etcd minio redis; do stop "$name"; done
# Everything else ends with the first process: shims, workers, processes of pods that started late.
stop namespace
group=$(cat "$RUN/group" 2>/dev/null)
groups=()
[[ -z $group ]] || mapfile -t groups < <(find /sys/fs/cgroup -maxdepth 2 -type d -name "$group")
for directory in "${groups[@]}"; do find "$directory" -depth -type d -exec rmdir {} \; 2>/dev/null; done
# To remove a directory takes away what other namespaces have mounted on it, such as another cluster.
while read -r directory; do
  grep -qs " $directory " /proc/[0-9]*/mountinfo || rmdir "$directory" 2>/dev/null
done < <(cat "$RUN/made" 2>/dev/null)
chattr -R -f -i "$RUN/private"
rm -rf "$RUN"
true
