# shellcheck shell=bash
# A container with a systemd of its own that boots from the folder `root`, and how test-systemd.sh looks into it. Read after common.sh.
# shellcheck disable=SC2034,SC2154

nspawn='' leader='' watchdog=''

switch_off() {
    [ -n "$nspawn" ] || return 0
    # TERM asks the systemd inside to power off.
    kill -TERM "$nspawn" 2>/dev/null || true
    for _ in $(seq 150); do kill -0 "$nspawn" 2>/dev/null || break; sleep 0.1; done
    kill -KILL "$nspawn" 2>/dev/null || true
    wait "$nspawn" 2>/dev/null || true
    nspawn=''
}

clean_up() {
    trap - EXIT INT TERM
    switch_off
    [ -z "$watchdog" ] || kill -TERM "$watchdog" 2>/dev/null || true
    stop_listening
    rm -rf --one-file-system "$work"
}

guest() { nsenter -t "$leader" -a env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin /bin/sh -c "$1"; }

fail() {
    printf '\n%s: %s\n' "$test_name" "$1" >&2
    for unit in fleetd r58-fleet-agent r58-fleet-agent-trial fleet-broker; do
        printf -- '--- the last lines of %s\n' "$unit" >&2
        guest "journalctl -q --no-pager -o short-precise -u $unit -n 30" >&2 || true
    done
    tell_more
    exit 1
}

switch_on() {
    # Where this machine has no systemd, nobody can be asked for a scope.
    local keep_unit=()
    [ -d /run/systemd/system ] || keep_unit=(--keep-unit)
    systemd-nspawn -D "$root" --boot --register=no "${keep_unit[@]}" --private-network -M "$test_name-$$" --console=pipe \
        </dev/null >>"$work/console.log" 2>&1 &
    nspawn=$!
    leader=''
    for _ in $(seq 100); do
        if find_leader; then break; fi
        kill -0 "$nspawn" 2>/dev/null || { cat "$work/console.log" >&2; die "systemd-nspawn ended"; }
        sleep 0.1
    done
    [ -n "$leader" ] || { cat "$work/console.log" >&2; die "there is no systemd in the container"; }
    until_true 60 "systemd in the container" system_is_up
}

# Without a chance for anybody in it to tidy up.
cut_the_power() {
    kill -KILL "$leader"
    wait "$nspawn" 2>/dev/null || true
    nspawn=''
}

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

show() { guest "systemctl show --value --property=$2 $1"; }
is_active() { guest "systemctl is-active --quiet $1"; }
