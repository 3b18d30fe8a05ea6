#!/usr/bin/env bash
# The files in packaging/docker without Docker: buildah builds the image, the server runs in it, and its health is asked as Docker
# would. What would come from a registry is made here: the base image by mmdebstrap, and in place of the stage that compiles (the
# same command as `make build`'s) the binary that is there. Needs root (asks sudo) and what `scripts/setup.sh docker` installs.
set -euo pipefail
cd "$(dirname "$0")/.."

say() { printf 'test-docker: %s\n' "$*"; }
die() { say "$*" >&2; exit 1; }

if [ "${1:-}" != --built ]; then
    cargo build --locked -p fleetd --bin fleetd
    if [ "$(id -u)" -ne 0 ]; then
        exec sudo "CARGO_TARGET_DIR=${CARGO_TARGET_DIR:-}" "PATH=$PATH" "HOME=$HOME" "$0" --built
    fi
fi
binary=$PWD/${CARGO_TARGET_DIR:-target}/debug/fleetd
[ -x "$binary" ] || die "$binary is missing"

work=$(mktemp -d /var/tmp/r58-test-docker.XXXXXX)
net=r58-docker-$$
container='' server=''
image() { buildah --root "$work/root" --runroot "$work/run" --storage-driver vfs "$@"; }
clean_up() {
    trap - EXIT INT TERM
    [ -z "$server" ] || kill -TERM "$server" 2>/dev/null || true
    [ -z "$server" ] || wait "$server" 2>/dev/null || true
    [ -z "$container" ] || image rm "$container" >/dev/null 2>&1 || true
    ip netns del "$net" 2>/dev/null || true
    rm -rf --one-file-system "$work"
}
trap clean_up EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

say "the Dockerfile's style"
# DL3008: a package whose version is pinned breaks the build at its first security update; Debian 12 keeps its versions.
target/venv/bin/hadolint --ignore DL3008 packaging/docker/Dockerfile packaging/cross/Dockerfile

say "the Compose file"
target/venv/bin/python - packaging/docker/compose.yaml <<'PY'
import re, sys, yaml
text = open(sys.argv[1]).read()
# What Compose puts in for variables; the ones that must be set are told by `:?`.
compose = yaml.safe_load(re.sub(r"\$\{(\w+)[^}]*\}", r"\1.example.org", text))
fleetd = compose["services"]["fleetd"]
http = fleetd["environment"]["FLEET_HTTP_LISTEN"].rsplit(":")[-1]
mqtt = fleetd["environment"]["FLEET_MQTT_LISTEN"].rsplit(":")[-1]
labels = fleetd["labels"]
assert labels["traefik.http.services.r58-fleet.loadbalancer.server.port"] == http
assert labels["traefik.tcp.services.r58-fleet-mqtts.loadbalancer.server.port"] == mqtt
entry_points = " ".join(compose["services"]["traefik"]["command"])
for label, value in labels.items():
    if label.endswith(".entrypoints"):
        assert f"--entrypoints.{value}.address" in entry_points, value
    if label.endswith(".certresolver"):
        assert f"--certificatesresolvers.{value}." in entry_points, value
subnet = compose["networks"]["proxy"]["ipam"]["config"][0]["subnet"]
assert fleetd["environment"]["FLEET_TRUSTED_PROXIES"] == subnet
for service in compose["services"].values():
    for volume in service.get("volumes", []):
        name = volume.split(":")[0]
        assert name.startswith("/") or name in compose["volumes"], name
    assert all(network in compose["networks"] for network in service["networks"])
print("its names, ports and networks fit together")
PY

say "what goes to the build"
printf 'FROM scratch\nCOPY . /\n' >"$work/Context"
image bud --quiet --ignorefile .dockerignore --file "$work/Context" --tag context . >/dev/null
container=$(image from --pull-never localhost/context)
(cd "$(image mount "$container")" && [ ! -e target ] && [ ! -e .git ] && cargo metadata --locked --no-deps --format-version 1 >/dev/null)
image rm "$container" >/dev/null
container=''

say "the image"
mmdebstrap --quiet --variant=minbase --format=tar bookworm "$work/base.tar"
printf 'FROM scratch\nADD base.tar /\n' >"$work/Base"
image bud --quiet --tag docker.io/library/debian:12-slim --file "$work/Base" "$work" >/dev/null
mkdir -p "$work/context/target/release"
strip -o "$work/context/target/release/fleetd" "$binary"
cp LICENSE-MIT LICENSE-APACHE "$work/context/"
sed '/^FROM rust/,/^RUN cargo build/c FROM scratch AS build\nCOPY target/release/fleetd /src/target/release/fleetd' \
    packaging/docker/Dockerfile >"$work/Dockerfile"
image bud --quiet --pull-never --isolation chroot --network host --format docker --tag r58-fleetd \
    --file "$work/Dockerfile" "$work/context" >/dev/null

say "the server in it"
container=$(image from --pull-never localhost/r58-fleetd)
root=$(image mount "$container")
ip netns add "$net"
ip -n "$net" link set lo up
ip netns exec "$net" buildah --root "$work/root" --runroot "$work/run" --storage-driver vfs run --isolation chroot --network host \
    "$container" -- /usr/bin/fleetd serve >"$work/log" 2>&1 &
server=$!
# As it stands in the file: a list in JSON over two lines.
health=$(sed -n '/^HEALTHCHECK/,/\]$/p' packaging/docker/Dockerfile | tail -n 1)
is_healthy() {
    local command
    mapfile -d '' command < <(jq --join-output 'map(. + "\u0000") | add' <<<"$health")
    ip netns exec "$net" chroot "$root" "${command[@]}" 2>/dev/null
}
[ "$(jq length <<<"$health")" = 3 ] || die "no HEALTHCHECK found"
for _ in $(seq 100); do
    if is_healthy; then break; fi
    kill -0 "$server" 2>/dev/null || { cat "$work/log" >&2; die "the server ended"; }
    sleep 0.2
done
is_healthy || { cat "$work/log" >&2; die "it is not healthy after 20 s"; }
owner=$(stat -c %u:%g:%a "$root/var/lib/r58-fleet")
[ "$owner" = 5858:5858:700 ] || die "the data folder is $owner"
pid=$(pgrep -f '^/usr/bin/fleetd serve$' -n)
[ "$(stat -c %u:%g "/proc/$pid")" = 5858:5858 ] || die "it does not run as 5858:5858"
kill -TERM "$pid"
for _ in $(seq 100); do kill -0 "$server" 2>/dev/null || break; sleep 0.2; done
wait "$server" || { cat "$work/log" >&2; die "it did not end well"; }
server=''
if is_healthy; then die "a server that has ended is called healthy"; fi
say "all is well"
