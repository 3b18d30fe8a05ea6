#!/usr/bin/env bash
# The agent for ARM64 under qemu-user: its own tests, then the binary that devices get as the device of a server of this machine's own kind, in the end-to-end
# tests that look at a device from outside. `scripts/setup.sh arm64` installs what this needs.
set -euo pipefail
cd "$(dirname "$0")/.."
target=${CARGO_TARGET_DIR:-$PWD/target}
binary=$target/arm64/aarch64-unknown-linux-gnu/device/r58-fleet-agent

scripts/build-agent.sh --arm64
LC_ALL=C readelf --file-header "$binary" | grep -q 'Machine: *AArch64' || { echo "test-arm64: $binary is not for ARM64" >&2; exit 1; }

# The kernel here starts no ARM64 program by itself.
agent=$target/arm64/agent
run=()
[ "$(uname -m)" = aarch64 ] || run=(qemu-aarch64-static -L /)
printf '#!/bin/sh\nexec %s"%s" "$@"\n' "${run:+${run[*]} }" "$binary" >"$agent"
chmod +x "$agent"
"$agent" version | grep -q '(aarch64)$' || { echo "test-arm64: $binary does not run here" >&2; exit 1; }

# shellcheck source=scripts/agent-sqlite.sh
(. scripts/agent-sqlite.sh && scripts/arm64.sh test --locked --package protocol --package agent)

cargo build --locked --package fleetd --bins
FLEET_TEST_AGENT=$agent cargo test --locked --package end-to-end --test heartbeats --test commands --test tls
echo "test-arm64: the ARM64 agent enrols, reports, obeys and tells how it is"
