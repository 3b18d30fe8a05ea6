# shellcheck shell=bash
# What test-systemd.sh and test-vm.sh share: tools, the cached root folder, fleetd's API, mosquitto, and waiting. The script that
# reads this file defines `guest COMMAND` (runs a shell command as root inside the machine) and `fail`, and sets `test_name` and `net_pid`, a
# process in the network that the machine's fleetd listens in.
# shellcheck disable=SC2034,SC2154

# Debian keeps mke2fs and others from people's PATH.
PATH=$PATH:/usr/sbin:/sbin
device=studio-001
email=operator@example.org
http=127.0.0.1:8180
mqtt_port=1883
url=http://$http/api/v1
started_at=$SECONDS

step() { printf '%4d s  %s\n' $((SECONDS - started_at)) "$*"; }
die() { printf '%s: %s\n' "$test_name" "$*" >&2; exit 1; }

# A program of ours in that network.
in_net() { nsenter -t "$net_pid" -n "$@"; }

# --- Before anything starts ---

# Builds the binaries, or with `with_packages` the packages of debug binaries, as whoever calls, then goes on as root: a container and a root
# folder need it.
build_and_become_root() {
    packages=${CARGO_TARGET_DIR:-target}/system/packages
    if [ "${1:-}" != --built ]; then
        if [ -n "${with_packages:-}" ]; then
            rm -rf "$packages"
            # With what the packages' manual pages are written by, so that nothing is built a second time for it.
            cargo build --locked -p agent -p fleetd -p broker -p manual
            packaging/deb/build.sh --no-build --profile dev --output "$packages"
        else
            cargo build --locked -p agent -p fleetd
        fi
        if [ "$(id -u)" -ne 0 ]; then
            command -v sudo >/dev/null || die "this test needs root; run it as root"
            exec sudo "CARGO_TARGET_DIR=${CARGO_TARGET_DIR:-}" "SUITE=${SUITE:-}" "PARTS=${PARTS:-}" "KEEP=${KEEP:-}" "CUTS=${CUTS:-}" "$0" --built
        fi
    fi
    bin=${CARGO_TARGET_DIR:-target}/debug
    if ! [ -x "$bin/fleetd" ] || ! [ -x "$bin/r58-fleet-agent" ]; then die "$bin has no binaries; run this without --built"; fi
}

# need TOOL…: every tool is there, or the way to get it is said.
need() {
    local tool missing=()
    for tool; do
        command -v "$tool" >/dev/null || missing+=("$tool")
    done
    [ ${#missing[@]} -eq 0 ] || die "not found: ${missing[*]}. On Debian: scripts/setup.sh system"
}

# Everything of a run is in here and goes at the end. Not in /tmp, which may be in memory.
make_work_folder() {
    work=$(mktemp -d "${TMPDIR:-/var/tmp}/$test_name.XXXXXX")
    chmod 700 "$work"
    umask 022
}

# watch_the_time SECONDS: ends this script (and what it started) when it takes longer.
watch_the_time() {
    local limit=$1 self=$$
    (
        trap 'kill "$pause" 2>/dev/null; exit' TERM
        sleep "$limit" &
        pause=$!
        wait "$pause"
        printf '%s: not done after %s s\n' "$test_name" "$limit" >&2
        kill -TERM "$self"
    ) &
    watchdog=$!
}

# unpack_root FOLDER PACKAGE…: a minimal Debian of this machine's own release, so that its C library is the one that the
# binaries were linked with. Made once, then unpacked from a file under target/system (remove that to have it made anew).
unpack_root() {
    local root=$1 suite packages cache tar
    shift
    # shellcheck source=/dev/null
    suite=${SUITE:-$(. /etc/os-release && echo "${VERSION_CODENAME:-}")}
    [ -n "$suite" ] || die "cannot tell this machine's Debian release; name one: SUITE=bookworm"
    packages=$(IFS=,; echo "$*")
    cache=${CARGO_TARGET_DIR:-target}/system
    tar=$cache/$suite-$(uname -m)-$(sha256sum <<<"$packages" | cut -c1-12).tar
    if [ ! -s "$tar" ]; then
        step "making a root folder of $suite with ${packages//,/, } (once)"
        mkdir -p "$cache"
        # No start-up notes from a package's scripts; a failure shows them.
        mmdebstrap --quiet --format=tar --variant=minbase --include="$packages" "$suite" "$tar.part" 2>"$work/mmdebstrap.log" ||
            { tail -n 20 "$work/mmdebstrap.log" >&2; die "mmdebstrap cannot make a root folder of $suite"; }
        mv "$tar.part" "$tar"
        # For `cargo clean` by the one who called sudo.
        chown "${SUDO_UID:-0}:${SUDO_GID:-0}" "$cache" "$tar"
    fi
    mkdir -m 755 "$root"
    tar -C "$root" -xf "$tar"
}

# install_machine ROOT: the units that stand for a recorder's.
install_machine() {
    local root=$1
    cp -r --no-preserve=ownership scripts/system/machine/. "$root/"
    mkdir -p "$root/var/lib/r58-test" "$root/var/log/journal" "$root/opt/r58-app"
    echo idle >"$root/var/lib/r58-test/app-status"
    : >"$root/var/lib/r58-test/starts"
    : >"$root/etc/machine-id"
    echo r58-test >"$root/etc/hostname"
    printf '%s\n' '127.0.0.1 localhost' '127.0.1.1 r58-test' >"$root/etc/hosts"
}

# install_agent ROOT: the agent with its packaged unit, on such a machine.
install_agent() {
    local root=$1
    strip -o "$root/usr/bin/r58-fleet-agent" "$bin/r58-fleet-agent"
    install -m 644 packaging/deb/r58-fleet-agent.service "$root/usr/lib/systemd/system/"
    install -D -m 755 packaging/deb/back-off "$root/usr/libexec/r58-fleet-agent/back-off"
    mkdir -m 755 "$root/etc/r58-fleet-agent"
    install_machine "$root"
    systemctl_in "$root" enable r58-fleet-agent.service r58-api.service app-status.socket boot-count.service
}

# systemctl_in ROOT ARG…: of this machine's systemd or, where it has none, the root folder's own.
systemctl_in() {
    local root=$1
    shift
    chroot "$root" systemctl --quiet "$@"
}

# The configuration that an installer leaves before enrolment.
configure_agent() {
    guest "umask 077
        printf '%s\n' HEARTBEAT_INTERVAL=2 ALLOWED_SERVICES=r58-api,r58-fleet-agent,mediamtx,vdoninja,ghost \\
            >/etc/r58-fleet-agent/fleet.conf"
}

system_is_up() { case $(guest 'systemctl is-system-running' || true) in running | degraded) ;; *) return 1 ;; esac; }

random_hex() { od -An -N16 -tx1 /dev/urandom | tr -d ' \n'; }

# --- Waiting ---

# until_true SECONDS WHAT COMMAND ARG…: polls until the command succeeds; else the test fails with WHAT.
until_true() {
    local limit=$1 what=$2 end=$((SECONDS + $1))
    shift 2
    until "$@" >/dev/null 2>&1; do
        [ "$SECONDS" -lt "$end" ] || fail "$what: not within $limit s"
        sleep 0.3
    done
}

# --- fleetd ---

bearer='' bearer_since=0
# api METHOD PATH [JSON]: prints the answer; fails unless it is a 2xx. No secret is on a command line.
api() {
    local method=$1 path=$2 arguments=()
    if [ -z "$bearer" ] || [ $((SECONDS - bearer_since)) -gt 600 ]; then
        bearer=$(jq -n --arg email "$email" --arg password "$password" '{$email, $password}' |
            in_net curl -fsS -m 20 -H 'Content-Type: application/json' -d @- "$url/auth/login" | jq -r .access_token) || return 1
        bearer_since=$SECONDS
    fi
    [ $# -lt 3 ] || arguments=(-H 'Content-Type: application/json' -d "$3")
    in_net curl --fail-with-body -sS -m 20 -X "$method" -H @- "${arguments[@]}" "$url$path" <<<"Authorization: Bearer $bearer"
}

agent_is_connected() { guest 'r58-fleet-agent status'; }
device_is() { [ "$(api GET "/devices/$device" | jq -r .status)" = "$1" ]; }
# Since a moment (RFC 3339) a heartbeat has come.
heartbeat_since() { [ "$(api GET "/devices/$device/heartbeats?page_size=1&since=$1" | jq .total)" -gt 0 ]; }
now() { date -u +%Y-%m-%dT%H:%M:%S.%3NZ; }

wait_for_heartbeat() {
    local since
    since=$(now)
    until_true "$1" "a heartbeat" heartbeat_since "$since"
}

state_ids() { api GET "/devices/$device/records" | jq -r '.items[].state_id' | sort; }
