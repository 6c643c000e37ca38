#!/usr/bin/env bash
# Builds what is measured and runs it: both clients in one run, as root. See README.md.
set -euo pipefail
cd "$(dirname "$0")/../.."
[[ $(id -u) == 0 ]] || { echo "bench: mounting and dropping the kernel's caches needs root" >&2; exit 2; }
tests/run.sh tools
cargo build --release --locked -p stead-cli
mkdir -p target/test-logs
# The tables are what README.md holds; the commands behind them go to standard error.
cargo run --release --locked -q -p stead-tests --example bench | tee target/test-logs/bench.md
