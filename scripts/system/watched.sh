# shellcheck shell=bash
# What systemd does for the services and against them: watchdog, waits between failed starts, sandbox, journal. Read after packages.sh.
# shellcheck disable=SC2034,SC2154

# security UNIT MOST: the exposure that systemd itself computes for the running unit, tenths of which are MOST at most.
security() {
    local said figure
    said=$(guest "systemd-analyze --no-pager security $1" | tail -n 1)
    figure=$(grep -o '[0-9]*\.[0-9]' <<<"$said" | tail -n 1)
    { [ -n "$figure" ] && [ "${figure/./}" -le "$2" ]; } || fail "systemd-analyze security: $said"
    step "systemd-analyze security: ${said#*level for }"
}

# What the agent's sandbox lets through and what not: the packaged unit with a script in place of the program.
sandbox() {
    step "the agent's sandbox"
    sed -e 's/^Type=.*/Type=oneshot/' -e '/^\(WatchdogSec\|Restart\|ExecStartPre\|RuntimeDirectory\)/d' \
        -e 's|^ExecStart=.*|ExecStart=/usr/local/libexec/r58-test/sandbox|' \
        "$root/usr/lib/systemd/system/r58-fleet-agent.service" >"$root/etc/systemd/system/r58-test-sandbox.service"
    note r58-api
    guest 'systemctl daemon-reload && systemctl start r58-test-sandbox' ||
        fail "the sandbox is not as it has to be: $(guest 'journalctl -q --no-pager -o cat -u r58-test-sandbox')"
    started_since 1 r58-api
    guest 'test -e /usr/installed-by-the-test && rm /usr/installed-by-the-test' || fail "a transient unit has not installed anything"
}

# stopped_loop UNIT [COMMAND…]: its process stands still; systemd notices, ends it and starts another. COMMAND says that it works.
stopped_loop() {
    local unit=$1 pid before
    shift
    step "$unit stands still"
    guest "mkdir -p /run/systemd/system/$unit.service.d && printf '[Service]\nWatchdogSec=5\n' >/run/systemd/system/$unit.service.d/watchdog.conf
        systemctl daemon-reload && systemctl restart $unit" || fail "$unit does not start with a shorter watchdog"
    pid=$(show "$unit" MainPID)
    # As long as it turns it is fed.
    sleep 11
    [ "$(show "$unit" MainPID)" = "$pid" ] || fail "$unit has been restarted though it turns"
    guest "kill -STOP $pid"
    until_true 30 "another process of $unit" is_another "$unit" "$pid"
    until_true 30 "$unit active" is_active "$unit"
    guest "journalctl -q --no-pager -o cat -u $unit" | grep -q 'Watchdog timeout' || fail "it was not the watchdog that restarted $unit"
    guest "rm /run/systemd/system/$unit.service.d/watchdog.conf && systemctl daemon-reload && systemctl restart $unit"
}
is_another() { local pid; pid=$(show "$1" MainPID) && [ "$pid" -gt 0 ] && [ "$pid" != "$2" ]; }

watchdogs() {
    stopped_loop fleetd
    until_true 60 "fleetd" in_net curl -fsS -m 5 "http://$http/ready"
    stopped_loop r58-fleet-agent
    comes_online
}

killed() {
    step "the server is killed"
    local pid
    pid=$(show fleetd MainPID)
    guest "kill -KILL $pid"
    until_true 60 "another process of fleetd" is_another fleetd "$pid"
    until_true 60 "fleetd" in_net curl -fsS -m 5 "http://$http/ready"
    has_waited fleetd
    step "the agent is killed"
    kill_agent
    has_waited r58-fleet-agent
    comes_online
}
has_waited() { guest "journalctl -q --no-pager -o cat -u $1" | grep -q 'waiting 2 s' || fail "$1 was started again without a wait"; }

# Seconds at which systemd had to start the agent again.
attempts() { guest "journalctl -q --no-pager -o short-unix -u r58-fleet-agent --since=@$1 | grep 'Scheduled restart job' | cut -d. -f1"; }
has_tried() { [ "$(attempts "$1" | wc -l)" -ge "$2" ]; }
backs_off() {
    step "the agent fails again and again: longer and longer waits"
    local since times began
    since=$(guest 'date +%s')
    guest 'mkdir -p /run/systemd/system/r58-fleet-agent.service.d
        printf "[Service]\nExecStart=\nExecStart=/bin/false\nRestartSec=100ms\n" >/run/systemd/system/r58-fleet-agent.service.d/fails.conf
        systemctl daemon-reload; systemctl restart --no-block r58-fleet-agent'
    until_true 60 "four attempts" has_tried "$since" 4
    mapfile -t times < <(attempts "$since")
    # 2, 4 and 8 s, and what the machine needs for a start.
    { [ $((times[2] - times[1])) -gt $((times[1] - times[0])) ] && [ $((times[3] - times[2])) -ge 7 ]; } || fail "the attempts came at ${times[*]}"
    began=$SECONDS
    guest 'rm /run/systemd/system/r58-fleet-agent.service.d/fails.conf; systemctl daemon-reload; systemctl restart r58-fleet-agent' ||
        fail "the agent does not start"
    [ $((SECONDS - began)) -lt 8 ] || fail "whoever starts it by hand has to wait"
    comes_online
    ! guest 'journalctl -q --no-pager -o cat -b' | grep -q 'Unknown key' || fail "this systemd does not know a key of a unit"
}

# A program finds what was done by a command without reading sentences.
journal_fields() {
    step "the journal has fields"
    note r58-api
    order restart_service '{"service": "r58-api"}'
    ends 90 completed
    local lines
    lines=$(guest "journalctl -q --no-pager -o json COMMAND_ID=$id")
    jq -es --arg device "$device" 'all(.DEVICE_ID == $device and ._SYSTEMD_UNIT == "r58-fleet-agent.service" and .PRIORITY == "6")
        and (map(.STATE) | index("acked") and index("running") and index("completed"))' <<<"$lines" >/dev/null ||
        fail "the journal's lines of command $id: $lines"
}
