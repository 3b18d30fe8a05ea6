#!/usr/bin/env bash
# The agent for ARM64 under qemu-user: its own tests, then the binary that devices get as the device of a server of this machine's own kind, in the end-to-end
# tests that look at a device from outside. `scripts/setup.sh arm64` installs what this needs.
set -euo pipefail
cd "$(dirname "$0")/.."
target=${CARGO_TARGET_DIR:-$PWD/target}
binary=$target/arm64/aarch64-unknown-linux-gnu/device/r58-fleet-agent

scripts/build-agent.sh --arm64
LC_ALL=C readelf --file-header "$binary" | grep -q 'Machine: *AArch64' || { echo "test-arm64: $binary is not for ARM64" >&2; exit 1; }

# Where the machine does not start ARM64 programs by itself, qemu does. What is run by `emulated` may also start others: in a user
# namespace of its own the kernel (Linux 6.7) is told what such a program is.
agent=$target/arm64/agent
run=() emulated=() skipped=()
if [ "$(uname -m)" != aarch64 ]; then
    run=(qemu-aarch64-static -L /)
    # qemu starts programs by a plain fork: whoever starts one that is not there hears of it only by exit status 127.
    skipped=(--skip child::tests::a_program_that_is_not_there_is_an_error
        --skip effect::tests::scripts::a_script_that_cannot_be_started_says_what_is_missing)
    if ! "$binary" version >/dev/null 2>&1; then
        # shellcheck disable=SC2016
        emulated=(unshare --user --map-root-user --mount sh -euc '
            mount -t binfmt_misc binfmt_misc /proc/sys/fs/binfmt_misc
            printf %s "$0" >/proc/sys/fs/binfmt_misc/register
            exec "$@"'
            ":qemu-aarch64:M::$(printf '\\x%s' 7f 45 4c 46 02 01 01 00 00 00 00 00 00 00 00 00 02 00 b7 00):$(
                printf '\\x%s' ff ff ff ff ff ff ff 00 ff ff ff ff ff ff ff ff fe ff ff ff):$(command -v qemu-aarch64-static):F")
        "${emulated[@]}" "$binary" version >/dev/null ||
            { echo "test-arm64: neither this kernel nor qemu starts ARM64 programs: Linux 6.7 can, or Debian's qemu-user-binfmt" >&2; exit 1; }
    fi
fi
printf '#!/bin/sh\nexec %s"%s" "$@"\n' "${run:+${run[*]} }" "$binary" >"$agent"
chmod +x "$agent"
"$agent" version | grep -q '(aarch64)$' || { echo "test-arm64: $binary does not run here" >&2; exit 1; }

# shellcheck source=scripts/agent-sqlite.sh
(. scripts/agent-sqlite.sh && "${emulated[@]}" scripts/arm64.sh test --locked --tests --package protocol --package agent -- "${skipped[@]}")

cargo build --locked --package fleetd --bins
FLEET_TEST_AGENT=$agent cargo test --locked --package end-to-end --test heartbeats --test commands --test tls
echo "test-arm64: the ARM64 agent enrols, reports, obeys and tells how it is"
