#!/usr/bin/env bash
# The agent under a systemd that has booted, in a container: its packaged unit, and commands that restart real units.
# Needs root (asks sudo for it) and what `scripts/setup.sh system` installs; takes about five minutes. The container has
# a network of its own without any way out; everything is removed at the end but the root folder's cache in
# target/system.
set -euo pipefail
cd "$(dirname "$0")/.."
# Part of the names of the container and of the work folder.
test_name=r58-test-systemd
# shellcheck source=scripts/system/common.sh
. scripts/system/common.sh
# shellcheck source=scripts/system/commands.sh
. scripts/system/commands.sh

need systemd-nspawn mmdebstrap nsenter curl jq mosquitto_pub mosquitto_sub strip
build_and_become_root "$@"

nspawn='' leader='' watchdog=''
make_work_folder
root=$work/root

clean_up() {
    trap - EXIT INT TERM
    if [ -n "$nspawn" ]; then
        # TERM asks the systemd inside to power off.
        kill -TERM "$nspawn" 2>/dev/null || true
        for _ in $(seq 150); do kill -0 "$nspawn" 2>/dev/null || break; sleep 0.1; done
        kill -KILL "$nspawn" 2>/dev/null || true
        wait "$nspawn" 2>/dev/null || true
    fi
    [ -z "$watchdog" ] || kill -TERM "$watchdog" 2>/dev/null || true
    stop_listening
    rm -rf --one-file-system "$work"
}
trap clean_up EXIT
trap 'exit 130' INT
trap 'exit 143' TERM
watch_the_time 1200

guest() { nsenter -t "$leader" -a env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin /bin/sh -c "$1"; }

fail() {
    printf '\n%s: %s\n' "$test_name" "$1" >&2
    for unit in fleetd r58-fleet-agent; do
        printf -- '--- the last lines of %s\n' "$unit" >&2
        guest "journalctl -q --no-pager -o short-precise -u $unit -n 40" >&2 || true
    done
    tell_more
    exit 1
}

step "unpacking"
unpack_root "$root" systemd-sysv dbus procps iproute2
install_agent "$root"
password=$(random_hex)
strip -o "$root/usr/bin/fleetd" "$bin/fleetd"
install -m 644 packaging/deb/fleetd.service "$root/usr/lib/systemd/system/"
install -D -m 644 packaging/deb/r58-fleetd.sysusers "$root/usr/lib/sysusers.d/r58-fleetd.conf"
install -D -m 644 packaging/deb/tmpfiles/r58-fleetd.conf "$root/usr/lib/tmpfiles.d/r58-fleetd.conf"
mkdir -m 755 "$root/etc/r58-fleet"
(umask 077 && printf '%s\n' "FLEET_HTTP_LISTEN=$http" "FLEET_MQTT_LISTEN=127.0.0.1:$mqtt_port" \
    "FLEET_ADMIN_EMAIL=$email" "FLEET_ADMIN_PASSWORD=$password" >"$root/etc/r58-fleet/fleetd.env")
systemctl_in "$root" enable fleetd.service

step "booting"
# Where this machine has no systemd, nobody can be asked for a scope.
keep_unit=()
[ -d /run/systemd/system ] || keep_unit=(--keep-unit)
systemd-nspawn -D "$root" --boot --register=no "${keep_unit[@]}" --private-network -M "$test_name-$$" --console=pipe \
    </dev/null >"$work/console.log" 2>&1 &
nspawn=$!

# systemd in the container is the child of nspawn that is process 1 in there.
find_leader() {
    local status
    for status in /proc/[0-9]*/status; do
        awk -v parent="$nspawn" '$1 == "PPid:" { child = $2 == parent } $1 == "NSpid:" { first = NF > 2 && $NF == 1 }
            END { exit !(child && first) }' "$status" 2>/dev/null || continue
        leader=${status#/proc/}
        leader=${leader%/status}
        net_pid=$leader
        return 0
    done
    return 1
}
for _ in $(seq 100); do
    if find_leader; then break; fi
    kill -0 "$nspawn" 2>/dev/null || { cat "$work/console.log" >&2; die "systemd-nspawn ended"; }
    sleep 0.1
done
[ -n "$leader" ] || { cat "$work/console.log" >&2; die "there is no systemd in the container"; }

until_true 60 "systemd in the container" system_is_up
step "systemd is $(guest 'systemctl is-system-running' || true)"
until_true 60 "fleetd" in_net curl -fsS -m 5 "http://$http/ready"
[ "$(guest 'systemctl is-active r58-fleet-agent' || true)" = inactive ] || fail "the agent runs before it is enrolled"

step "enrolling"
configure_agent
guest "runuser -u r58-fleet -- fleetd enrollment-key add --org default --uses 1 |
    r58-fleet-agent enroll http://$http --key - --device-id $device" >"$work/enroll.log" 2>&1 || { cat "$work/enroll.log" >&2; fail "enrolment"; }
guest 'systemctl is-active --quiet r58-fleet-agent' || fail "enrolment has not started the agent's service"
wait_for_heartbeat 60
device_is online || fail "the device is not online"
until_true 60 "what the agent says of itself: connected" agent_is_connected

# What went over the system's D-Bus to systemd. `systemctl` has a way of its own and does not show here.
guest 'systemd-run -q --unit=bus-monitor -p StandardOutput=file:/var/lib/r58-test/bus busctl monitor org.freedesktop.systemd1'
restarts_over_bus() { guest 'grep -c Member=RestartUnit /var/lib/r58-test/bus || true'; }

# Restarts that end in each possible way. Every start of a unit leaves a line, so nothing happens twice unseen.
restarts() {
    step "$1: a restart"
    note r58-api
    order restart_service '{"service": "r58-api"}'
    ends 90 completed
    history_is pending sent acked running completed
    started_since 1 r58-api

    step "$1: of a unit that does not start"
    note mediamtx
    order restart_service '{"service": "mediamtx"}'
    ends 60 failed
    error_says "$2"
    history_is pending sent acked running failed
    started_since 1 mediamtx

    step "$1: of a unit that is not there"
    order restart_service '{"service": "ghost"}'
    ends 60 failed rejected
    error_says ghost.service

    step "$1: of a unit that is not allowed"
    note systemd-journald
    order restart_service '{"service": "systemd-journald"}'
    ends 60 rejected
    error_says ALLOWED_SERVICES
    started_since 0 systemd-journald

    step "$1: the agent is killed in the middle of it"
    note vdoninja
    order restart_service '{"service": "vdoninja"}'
    until_true 90 "the beginning of the restart" has_begun vdoninja
    command_is "$id" running || fail "the restart has begun, and the command is not running"
    kill_agent
    guest 'systemctl is-active vdoninja || true' | grep -qx activating || fail "the agent's end has ended the restart"
    ends 90 completed
    history_is pending sent acked running completed
    started_since 1 vdoninja

    step "$1: of the agent itself"
    note r58-fleet-agent
    order restart_service '{"service": "r58-fleet-agent"}'
    ends 60 completed
    history_is pending sent acked running completed
    started_since 1 r58-fleet-agent
}
has_begun() { [ "$(starts "$1")" -gt "$noted_starts" ]; }

restarts "systemctl" "control process exited with error code"
[ "$(restarts_over_bus)" -eq 0 ] || fail "the agent has used the D-Bus though there is a systemctl"

for version in mqttv311 mqttv5; do
    step "a restart by mosquitto_pub, $version"
    note r58-api
    order_by_mqtt "$version" restart_service '{"service": "r58-api"}'
    until_true 90 "completed on the result topic" told_on_mqtt completed
    ends 10 completed
    started_since 1 r58-api
    stop_listening
done

step "a restart while the application records"
app_says recording
note r58-api
order restart_service '{"service": "r58-api"}'
until_true 30 "held because it is live" held_because "$id" live
sleep 5
held_because "$id" live >/dev/null || fail "the command is not held any more"
started_since 0 r58-api
app_says idle
ends 90 completed
started_since 1 r58-api

step "taking systemctl from the agent's PATH"
guest 'printf "[Service]\nEnvironment=PATH=/nonexistent\n" >/etc/systemd/system/r58-fleet-agent.service.d/no-systemctl.conf
    systemctl daemon-reload && systemctl restart r58-fleet-agent' || fail "the agent does not start without systemctl"
before=$(restarts_over_bus)
restarts "D-Bus" "result: exit-code"
# r58-api, mediamtx, vdoninja, the agent, and perhaps the one that is not there.
over_bus=$(($(restarts_over_bus) - before))
{ [ "$over_bus" -ge 4 ] && [ "$over_bus" -le 5 ]; } || fail "$over_bus restarts went over the D-Bus"
step "all is well"
