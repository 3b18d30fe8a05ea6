#!/usr/bin/env bash
# The agent as devices get it, for this machine or another: `build-agent.sh [--arm64 | --target TRIPLE]`. With CARGO=cross in a container.
set -euo pipefail
cd "$(dirname "$0")/.."
cargo=${CARGO:-cargo}
if [ "${1:-}" = --arm64 ]; then
    cargo=scripts/arm64.sh
    shift
fi
# shellcheck source=scripts/agent-sqlite.sh
. scripts/agent-sqlite.sh
# Code that stands in several places becomes a function, also in the standard library and on x86-64.
exec "$cargo" rustc "$@" --locked --package agent --bin r58-fleet-agent --profile device -- -C llvm-args=-enable-machine-outliner=always
