# shellcheck shell=bash
# Taking over from an older agent, and the ways back: a unit of the same name in /etc/systemd/system that runs a Python program, which posts
# heartbeats over HTTP. Read after packages.sh.
# shellcheck disable=SC2034,SC2154

old_agent=/usr/libexec/r58-fleet-agent/old-agent
old_unit=/etc/systemd/system/r58-fleet-agent.service
old_config=/opt/r58-app/shared/config/fleet.conf
# Seconds between its heartbeats; ours takes it over.
interval=8

# A device as it was before there was a package: another one than that of the other steps.
set_up_older() {
    step "a device with an older agent"
    package '-P r58-fleet-agent'
    guest 'rm -rf /etc/systemd/system/r58-fleet-agent.service.d'
    cp -r --no-preserve=ownership scripts/system/older/. "$root/"
    device=studio-002
    guest "umask 077; mkdir -p ${old_config%/*}
        token=\$(runuser -u r58-fleet -- fleetd device register --device-id $device) &&
        printf '%s\n' FLEET_URL=http://$http DEVICE_ID=$device DEVICE_TOKEN=\$token HEARTBEAT_INTERVAL=$interval LED_COLOUR=blue >$old_config
        systemctl daemon-reload && systemctl enable --now r58-fleet-agent" || fail "the older agent does not start"
    guest "sha256sum $old_unit $old_unit.d/* $old_config" >"$work/older.sha256"
    guest "grep -v DEVICE_TOKEN $old_config" >"$work/older.conf"
    wait_for_heartbeat 60
    older_runs || fail "the older agent does not run"
}

older_runs() { guest "tr '\\0' ' ' </proc/$(agent_pid)/cmdline" | grep -q fleet_agent.py; }
ours_runs() { [ "$(guest "readlink /proc/$(agent_pid)/exe" || true)" = /usr/bin/r58-fleet-agent ]; }
older_is_whole() { guest "sha256sum --quiet -c -" <"$work/older.sha256" || fail "the older agent's files are not what they were"; }

token_has_changed() {
    sed -i "\\| $old_config\$|d" "$work/older.sha256"
    guest "sha256sum $old_config" >>"$work/older.sha256"
}

# no_gap_since TIME: between no two heartbeats that the server has since then was more than an interval, and a second for this machine.
no_gap_since() {
    local gap
    gap=$(api GET "/devices/$device/heartbeats?page_size=1500&since=$1" |
        jq '[.items[].received_at | sub("\\.[0-9]+"; "") | fromdate] | sort | [., .[1:]] | transpose | map(select(.[1]) | .[1] - .[0]) | max')
    { [ "$gap" != null ] && [ "$gap" -le $((interval + 1)) ]; } || fail "$gap s without a heartbeat"
    step "the longest time without a heartbeat: $gap s; the interval: $interval s"
}
# Both agents have sent some.
some_heartbeats() { sleep $((2 * interval)); wait_for_heartbeat 30; }

takes_over() {
    local since
    since=$(now)
    step "the package takes over from it"
    install_package r58-fleet-agent
    dpkg_said 'this agent runs in place of the older one'
    dpkg_said 'unknown key LED_COLOUR'
    ours_runs || fail "our agent does not run"
    guest "test ! -e $old_unit && test ! -e $old_unit.d && grep -q '^#LED_COLOUR=blue' /etc/r58-fleet-agent/fleet.conf" ||
        fail "the older unit is still there, or its configuration was not taken over"
    [ "$(guest "readlink /etc/systemd/system/multi-user.target.wants/r58-fleet-agent.service")" = /usr/lib/systemd/system/r58-fleet-agent.service ] ||
        fail "another unit than ours is enabled"
    ! guest 'systemctl cat r58-fleet-agent-trial' >/dev/null 2>&1 || fail "the trial has left a unit"
    until_true 60 "what the agent says of itself: connected" agent_is_connected
    some_heartbeats
    no_gap_since "$since"

    step "once more, and after an upgrade: nothing changes"
    local pid
    pid=$(agent_pid)
    guest "$old_agent take-over" || fail "taking over a second time"
    [ "$(agent_pid)" = "$pid" ] || fail "taking over a second time has restarted the agent"
    install_package r58-fleet-agent-next
    ours_runs || fail "our agent does not run after an upgrade"
}

gives_back() {
    local since
    since=$(now)
    step "the way back, after the server has changed the token"
    wait_for_heartbeat 30
    order rotate_token '{}'
    ends 90 completed
    guest "$old_agent give-back" || fail "give-back"
    older_runs || fail "the older agent does not run"
    some_heartbeats
    no_gap_since "$since"
    guest "grep -v DEVICE_TOKEN $old_config" | cmp -s - "$work/older.conf" || fail "more than the token has changed in the older configuration"
    token_has_changed
    older_is_whole
    step "an upgrade leaves it alone"
    install_package r58-fleet-agent
    older_runs || fail "an upgrade has taken over though a person wanted the older agent"
}

removal_gives_back() {
    local since
    step "taking over again, then removing the package"
    guest "$old_agent take-over" || fail "take-over"
    ours_runs || fail "our agent does not run"
    since=$(now)
    wait_for_heartbeat 30
    package '-r r58-fleet-agent'
    until_true 10 "the older agent" older_runs
    some_heartbeats
    no_gap_since "$since"
    older_is_whole
    step "installing it again, after an admin has given the older agent another token"
    guest "token=\$(runuser -u r58-fleet -- fleetd device rotate-token --device-id $device) &&
        sed -i \"s/^DEVICE_TOKEN=.*/DEVICE_TOKEN=\$token/\" $old_config && systemctl restart r58-fleet-agent" || fail "another token"
    token_has_changed
    install_package r58-fleet-agent
    ours_runs || fail "our agent does not run: $(guest 'cat /tmp/dpkg.log')"
    until_true 60 "what the agent says of itself: connected" agent_is_connected
    step "purging it"
    package '-P r58-fleet-agent'
    until_true 10 "the older agent" older_runs
    older_runs || fail "the older agent does not run"
    guest 'systemctl is-enabled --quiet r58-fleet-agent' || fail "the older agent will not start at the next boot"
    older_is_whole
}

# The older agent has read its configuration when it started; ours reads an address where nobody is.
cannot_take_over() {
    step "ours does not reach the server: the older agent goes on"
    local since
    since=$(now)
    guest "sed -i 's|^FLEET_URL=.*|FLEET_URL=http://127.0.0.1:9|' $old_config"
    guest "PATIENCE_SECONDS=10 DEBIAN_FRONTEND=noninteractive dpkg -i /srv/packages/r58-fleet-agent.deb >/tmp/dpkg.log 2>&1" || fail "dpkg -i"
    dpkg_said 'the older agent goes on, because this one does not reach the server'
    older_runs || fail "the older agent does not run"
    guest 'test ! -e /run/systemd/system/r58-fleet-agent-trial.service' || fail "the trial has left a unit"
    some_heartbeats
    no_gap_since "$since"
    guest "sed -i 's|^FLEET_URL=.*|FLEET_URL=http://$http|' $old_config"
    package '-P r58-fleet-agent'
    until_true 10 "the older agent" older_runs
    older_is_whole
}

# The script dies after one of its steps, and then the power goes. The next boot has one of the two agents, whole.
interrupted_take_over() {
    local last
    package '--unpack /srv/packages/r58-fleet-agent.deb'
    # shellcheck disable=SC2016
    for last in 'import ||' 'try_out ||' 'rm -rf "$kept"' 'replace "$units/$unit"' 'rm -f "$units/$unit"'; do
        step "the power fails while it takes over, after: ${last%% ||}"
        guest "$old_agent restore" || fail "restore"
        until_true 10 "the older agent" older_runs
        # shellcheck disable=SC2016
        awk -v last="$last" '{ print } index($0, last) { print "kill -KILL $$"; found = 1 } END { exit !found }' "$root$old_agent" >"$root/srv/dies" ||
            fail "there is no such step"
        guest 'mkdir -p /etc/r58-fleet-agent; sh /srv/dies take-over' >"$work/dies.log" 2>&1 && fail "it has not died"
        cut_the_power
        switch_on
        until_true 60 "fleetd" in_net curl -fsS -m 5 "http://$http/ready"
        wait_for_heartbeat 60
        case $last in *'rm -f'*) ours_runs ;; *) older_runs ;; esac || fail "the wrong agent runs"
    done

    step "dpkg is killed in the last of these steps, and goes on later"
    guest "$old_agent restore && { sh /srv/dies take-over || older_runs=1; }" >"$work/dies.log" 2>&1 || fail "restore"
    older_runs || fail "the older agent does not run"
    package '--configure -a'
    ours_runs || fail "our agent does not run"
    until_true 60 "what the agent says of itself: connected" agent_is_connected
    package '-P r58-fleet-agent'
    until_true 10 "the older agent" older_runs
    older_is_whole
}
