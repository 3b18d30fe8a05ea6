#!/usr/bin/env bash
# A server and agents in networks of their own, and everything that networks do to them: docs/networks.md. Needs root (asks sudo for
# it) and what `scripts/setup.sh networks` installs; takes about 15 minutes. Arguments go to target/debug/networks (--help). All
# of it lives in namespaces that end with this script, whatever ends it; nothing of this machine's network is touched.
set -euo pipefail
cd "$(dirname "$0")/.."

if [ "${1:-}" != --built ]; then
    cargo build --locked -p agent -p fleetd -p end-to-end --bins
    # A thousand of them.
    cargo build --locked --release -p agent -p fleetd --bins
    target=${CARGO_TARGET_DIR:-target}
    mkdir -p "$target"
    page=$(mktemp "$target/networks.XXXXXX")
    trap 'rm -f "$page"' EXIT
    as_root=()
    if [ "$(id -u)" -ne 0 ]; then
        command -v sudo >/dev/null || { echo "test-networks: this test needs root; run it as root" >&2; exit 1; }
        as_root=(sudo)
    fi
    "${as_root[@]}" "$0" --built "$target/debug/networks" --out "$page" "$@"
    # Written after a whole run in which all is well.
    [ ! -s "$page" ] || cat "$page" >docs/networks.md
    exit
fi
shift
# A network without anything in it to begin with; processes that end with the first of them, and it with this script.
exec timeout --foreground --kill-after=10 2700 unshare --net --mount --pid --fork --kill-child --mount-proc "$@"
