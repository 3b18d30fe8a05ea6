#!/usr/bin/env bash
# Cargo for ARM64, into target/arm64: `arm64.sh build …`, `arm64.sh test …` (under qemu).
#
# With rustup's own compiler if it has the target (rustup target add aarch64-unknown-linux-gnu), else with Debian's rustc-web, whose
# standard library for ARM64 is a package; `--rustup-has-it` says which. `scripts/setup.sh arm64` installs what is missing.
set -euo pipefail
cd "$(dirname "$0")/.."
triple=aarch64-unknown-linux-gnu

rustup_has_it() {
    local libraries
    libraries=$(rustc --print target-libdir --target "$triple" 2>/dev/null) && compgen -G "$libraries/libstd-*.rlib" >/dev/null
}

if [ "${1:-}" = --rustup-has-it ]; then
    rustup_has_it
    exit
fi
command=${1:?usage: arm64.sh CARGO-COMMAND ARGUMENT…}
shift
rustup_has_it || export RUSTC=/usr/bin/rustc
export CARGO_TARGET_DIR=${CARGO_TARGET_DIR:-target}/arm64
exec cargo "$command" --target "$triple" "$@"
