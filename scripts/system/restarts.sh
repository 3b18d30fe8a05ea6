# shellcheck shell=bash
# `restart_service` on real units, ending in each possible way. Read after commands.sh.
# shellcheck disable=SC2154

# What went over the system's D-Bus to systemd. `systemctl` has a way of its own and does not show here.
watch_the_bus() { guest 'systemd-run -q --unit=bus-monitor -p StandardOutput=file:/var/lib/r58-test/bus busctl monitor org.freedesktop.systemd1'; }
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

restarts_by_systemctl() {
    watch_the_bus
    restarts "systemctl" "control process exited with error code"
    [ "$(restarts_over_bus)" -eq 0 ] || fail "the agent has used the D-Bus though there is a systemctl"
}

restarts_by_mosquitto() {
    local version
    for version in mqttv311 mqttv5; do
        step "a restart by mosquitto_pub, $version"
        note r58-api
        order_by_mqtt "$version" restart_service '{"service": "r58-api"}'
        until_true 90 "completed on the result topic" told_on_mqtt completed
        ends 10 completed
        started_since 1 r58-api
        stop_listening
    done
}

restarts_while_live() {
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
}

restarts_by_bus() {
    step "taking systemctl from the agent's PATH"
    local before over_bus
    guest 'printf "[Service]\nEnvironment=PATH=/nonexistent\n" >/etc/systemd/system/r58-fleet-agent.service.d/no-systemctl.conf
        systemctl daemon-reload && systemctl restart r58-fleet-agent' || fail "the agent does not start without systemctl"
    before=$(restarts_over_bus)
    restarts "D-Bus" "result: exit-code"
    # r58-api, mediamtx, vdoninja, the agent, and perhaps the one that is not there.
    over_bus=$(($(restarts_over_bus) - before))
    { [ "$over_bus" -ge 4 ] && [ "$over_bus" -le 5 ]; } || fail "$over_bus restarts went over the D-Bus"
    guest 'rm /etc/systemd/system/r58-fleet-agent.service.d/no-systemctl.conf
        systemctl daemon-reload && systemctl restart r58-fleet-agent' || fail "the agent does not start"
}
