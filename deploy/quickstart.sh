#!/usr/bin/env bash
# A first volume on a Debian machine, as root:  deploy/quickstart.sh [stop]
#
# Installs what is missing, builds `stead`, and lets it start its CSI controller (as an unprivileged user) and node
# service on unix sockets with SQLite and a local directory, provision a volume, publish it, write and read a file.
# It prints what lies where. `stop` takes volume, mounts, services and files away again; installed packages stay.
set -euo pipefail
cd "$(dirname "$(readlink -f "$0")")/.."
STATE=${STEAD_QUICKSTART_DIR:-/var/lib/steadfast-quickstart}
# The user that controller and workers run as can reach this copy, wherever the checkout lies.
PROGRAM=$STATE.bin/stead
export PATH=$PATH:$HOME/.cargo/bin DEBIAN_FRONTEND=noninteractive

die() { printf 'quickstart: %s\n' "$*" >&2; exit 2; }

packages() {
  local missing=() name
  for name in build-essential ca-certificates curl; do
    dpkg-query -W -f='${Status}' "$name" 2>/dev/null | grep -q "ok installed" || missing+=("$name")
  done
  [[ ${#missing[@]} == 0 ]] && return
  echo "Installing ${missing[*]}"
  { apt-get update -q && apt-get install -y -q --no-install-recommends --no-remove "${missing[@]}"; } </dev/null >/dev/null \
    || die "apt-get install ${missing[*]} failed"
}

rust() {
  local wanted
  wanted=$(sed -n 's/^rust-version = "\(.*\)"/\1/p' Cargo.toml)
  if command -v cargo >/dev/null; then
    local found
    found=$(cargo --version | awk '{ print $2 }')
    [[ $(printf '%s\n' "$wanted" "$found" | sort -V | head -n 1) == "$wanted" ]] && return
    command -v rustup >/dev/null || die "cargo is $found, but Rust $wanted or newer is needed"
    rustup toolchain install --profile minimal stable </dev/null && return
  fi
  echo "Installing Rust"
  local script
  script=$(curl -fsSL --retry 3 https://sh.rustup.rs) || die "rustup cannot be reached: install Rust $wanted or newer"
  sh -s -- -y -q --profile minimal <<<"$script" || die "rustup failed: install Rust $wanted or newer"
}

start() {
  [[ -c /dev/fuse ]] || modprobe fuse 2>/dev/null || die "there is no /dev/fuse: load the kernel's module fuse"
  [[ ! -e $STATE ]] || die "$STATE is there already: $0 stop takes it away"
  packages
  rust
  echo "Building stead (some minutes the first time)"
  cargo build --release --locked -q -p stead-cli </dev/null
  install -D -m 755 target/release/stead "$PROGRAM"
  "$PROGRAM" quickstart --state-dir "$STATE" || die "see the message above; $0 stop clears up what was begun"
  echo
  echo "To take all of it away: deploy/quickstart.sh stop"
}

stop() {
  if [[ -x $PROGRAM ]]; then
    "$PROGRAM" quickstart --stop --state-dir "$STATE"
    rm -rf -- "$STATE.bin"
  fi
  [[ ! -e $STATE ]] || die "$STATE is still there"
  echo "Nothing of the quick start is left."
}

[[ $(id -u) == 0 ]] || die "the node service mounts file systems, so this needs root"
case ${1-start} in
  start) start ;;
  stop) stop ;;
  *) die "usage: deploy/quickstart.sh [stop]" ;;
esac
