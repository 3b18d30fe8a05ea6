#!/usr/bin/env bash
# Builds Debian packages into target/debian:
#
#   packaging/deb/build.sh [--target TRIPLE] [--profile PROFILE] [--no-build] [--output FOLDER] [agent|fleetd|broker ...]
#
# Without names all three. --no-build takes the binaries that are there already (from `cross`, say). PROFILE is `device`
# for the agent and `release` for the others unless given. Needs cargo-deb (cargo install cargo-deb --locked).
set -euo pipefail
cd "$(dirname "$0")/../.."

target='' profile='' build=1 output=() packages=()
while [ $# -gt 0 ]; do
    case $1 in
        --target) target=${2:?--target needs a triple}; shift ;;
        --profile) profile=${2:?--profile needs a name}; shift ;;
        --no-build) build=0 ;;
        --output) output=(--output "${2:?--output needs a folder}/"); shift ;;
        agent | fleetd | broker) packages+=("$1") ;;
        *) echo "build.sh: unknown argument $1 (see the top of $0)" >&2; exit 2 ;;
    esac
    shift
done
[ ${#packages[@]} -gt 0 ] || packages=(agent fleetd broker)
cargo deb --version >/dev/null 2>&1 || { echo "build.sh: cargo-deb is missing: cargo install cargo-deb --locked" >&2; exit 1; }

declare -A binary=([agent]=r58-fleet-agent [fleetd]=fleetd [broker]=fleet-broker)
generated=packaging/deb/generated
target_args=()
[ -z "$target" ] || target_args=(--target "$target")

for package in "${packages[@]}"; do
    with=${profile:-$([ "$package" = agent ] && echo device || echo release)}
    if [ "$build" = 1 ]; then
        cargo build --locked --package "$package" --profile "$with" "${target_args[@]}"
    fi
    if [ "$package" = agent ]; then
        # What the program says about itself does not depend on the machine, so this machine's own build tells it.
        [ "$with" = dev ] || cargo build --locked --package agent
        self=${CARGO_TARGET_DIR:-target}/debug/${binary[agent]}
        mkdir -p "$generated/man" "$generated/completions"
        "$self" man >"$generated/man/r58-fleet-agent.1"
        for command in run enroll import status version completion man; do
            "$self" man "$command" >"$generated/man/r58-fleet-agent-$command.1"
        done
        "$self" completion bash >"$generated/completions/r58-fleet-agent"
    fi
    cargo deb --locked --package "$package" --no-build --profile "$with" "${target_args[@]}" "${output[@]}" ${profile:+--fast}
done
