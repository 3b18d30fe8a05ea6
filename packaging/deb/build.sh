#!/usr/bin/env bash
# Builds Debian packages into target/packages:
#
#   packaging/deb/build.sh [--arm64 | --target TRIPLE] [--no-build] [--profile PROFILE] [--output FOLDER] [agent|fleetd|broker ...]
#
# Without names all three, for this machine. --arm64 is for ARM64 from any machine, as scripts/arm64.sh does it; --target for what `cross` builds.
# --no-build takes the binaries that are there already. The agent is built as devices get it, the others with the profile `release`, unless PROFILE
# is given; such packages are for tests, and not packed as small. `scripts/setup.sh deb` (and `arm64`) installs what this needs.
set -euo pipefail
cd "$(dirname "$0")/../.."

where=() target=() triple=$(rustc --print host-tuple) cargo=cargo build=1 profile='' packages=()
binaries=${CARGO_TARGET_DIR:-target}
# Not cargo-deb's own target/debian: whatever it builds, also for a test, it first removes what lies there of the same name.
output=$binaries/packages
while [ $# -gt 0 ]; do
    case $1 in
        # arm64.sh names the target by itself.
        --arm64) triple=aarch64-unknown-linux-gnu cargo=scripts/arm64.sh binaries=$binaries/arm64 where=(--arm64) ;;
        --target) triple=${2:?--target needs a triple} target=(--target "$triple") where=("${target[@]}"); shift ;;
        --no-build) build='' ;;
        --profile) profile=${2:?--profile needs a name}; shift ;;
        --output) output=${2:?--output needs a folder}; shift ;;
        agent | fleetd | broker) packages+=("$1") ;;
        *) echo "build.sh: unknown argument $1 (see the top of $0)" >&2; exit 2 ;;
    esac
    shift
done
[ ${#packages[@]} -gt 0 ] || packages=(agent fleetd broker)
cargo deb --version >/dev/null 2>&1 || { echo "build.sh: cargo-deb is missing: scripts/setup.sh deb" >&2; exit 1; }

field() { sed -n "s/^$2 = \"\(.*\)\"/\1/p" "$1" | head -n 1; }
# The same sources make the same package.
: "${SOURCE_DATE_EPOCH:=$(git log -1 --format=%ct 2>/dev/null || stat -c %Y CHANGELOG.md)}"
export SOURCE_DATE_EPOCH

# What the programs say about themselves does not depend on the machine that they are for: this machine's own build tells it.
generated=packaging/deb/generated
cargo run --locked --quiet --package manual -- "$generated"

for package in "${packages[@]}"; do
    with=${profile:-release}
    case $package in
        agent) program=r58-fleet-agent name=r58-fleet-agent with=${profile:-device} ;;
        fleetd) program=fleetd name=r58-fleetd ;;
        broker) program=fleet-broker name=r58-fleet-broker ;;
    esac
    if [ -n "$build" ] && [ "$with" = device ]; then
        scripts/build-agent.sh "${where[@]}"
    elif [ -n "$build" ]; then
        "$cargo" build "${target[@]}" --locked --package "$package" --bin "$program" --profile "$with"
    fi
    folder=$generated/$program
    awk -v package="$name" -v version="$(field Cargo.toml version)" -v maintainer="$(field "$package/Cargo.toml" maintainer)" \
        -v date="$(LC_ALL=C date -u -R -d "@$SOURCE_DATE_EPOCH")" \
        -f packaging/deb/changelog.awk CHANGELOG.md >"$folder/changelog"
    packaging/deb/copyright.sh "$package" "$triple" "$folder"
    gzip -9nf "$folder/NOTICES"
    [ "$cargo" = cargo ] || target=(--target "$triple")
    CARGO_TARGET_DIR=$binaries cargo deb --quiet --locked --package "$package" --no-build --profile "$with" "${target[@]}" \
        --output "$output/" ${profile:+--fast}
done
