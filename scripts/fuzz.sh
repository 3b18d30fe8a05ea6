#!/usr/bin/env bash
# Runs every fuzz target for the given number of seconds.
set -euo pipefail
cd "$(dirname "$0")/.."
seconds=${1:-30}
if ! cargo +nightly --version >/dev/null 2>&1; then
    echo "fuzz: a nightly toolchain is needed: rustup toolchain install nightly" >&2
    exit 1
fi
cargo fuzz --version >/dev/null 2>&1 || cargo install cargo-fuzz --locked
for folder in */fuzz; do
    while read -r target; do
        echo "fuzz: $folder/$target for $seconds s"
        # Where new inputs go, and those that are part of the project, if there are some.
        corpora=("$folder/corpus/$target")
        mkdir -p "${corpora[0]}"
        [ ! -d "$folder/seeds/$target" ] || corpora+=("$folder/seeds/$target")
        cargo +nightly fuzz run --fuzz-dir "$folder" "$target" "${corpora[@]}" -- -max_total_time="$seconds" -rss_limit_mb=2048
    done < <(cargo +nightly fuzz list --fuzz-dir "$folder")
done
