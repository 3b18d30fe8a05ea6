#!/usr/bin/env bash
# The whole system on this machine: a server with its broker and dashboard, and this machine as a device. Everything
# lives in a temporary folder that is removed at the end. DEMO_SECONDS=20 ends by itself and tells by its exit status
# whether heartbeats came through the broker into the database, and whether a command ran.
set -euo pipefail
cd "$(dirname "$0")/.."

seconds=${DEMO_SECONDS:-0}
case $seconds in '' | *[!0-9]*) echo "demo: DEMO_SECONDS is a whole number of seconds, not '$seconds'" >&2; exit 2 ;; esac

bold='' dim='' off=''
if [ -t 1 ] && [ -z "${NO_COLOR:-}" ]; then bold=$'\e[1m' dim=$'\e[2m' off=$'\e[0m'; fi

cargo build --locked --release --bin fleetd --bin r58-fleet-agent
bin=${CARGO_TARGET_DIR:-target}/release

work=$(mktemp -d "${TMPDIR:-/tmp}/r58-fleet-demo.XXXXXX")
server='' agent='' recording='' results=''
stop() {
    trap - EXIT INT TERM
    # The agent before the server, so that its goodbye still gets there.
    for pid in $results $recording $agent $server; do
        kill -TERM "$pid" 2>/dev/null || continue
        for _ in $(seq 50); do kill -0 "$pid" 2>/dev/null || break; sleep 0.1; done
        kill -KILL "$pid" 2>/dev/null || true
    done
    rm -rf "$work"
}
trap stop EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

fail() {
    printf '\ndemo: %s\n' "$1" >&2
    for log in fleetd agent; do
        [ -s "$work/$log.log" ] || continue
        printf -- '--- the last lines of %s\n' "$log" >&2
        tail -n 15 "$work/$log.log" >&2
    done
    exit 1
}

# Free ports: the usual ones if nobody has them, else any.
port_or_any() { if (exec 3<>"/dev/tcp/127.0.0.1/$1") 2>/dev/null; then echo 0; else echo "$1"; fi; }

password=$(od -An -N12 -tx1 /dev/urandom | tr -d ' \n')
email=admin@example.com
export FLEET_DATA_DIR=$work/data
mkdir -m 700 "$FLEET_DATA_DIR"

FLEET_HTTP_LISTEN=127.0.0.1:$(port_or_any 8180) FLEET_MQTT_LISTEN=127.0.0.1:$(port_or_any 1883) \
    FLEET_ADMIN_EMAIL=$email FLEET_ADMIN_PASSWORD=$password \
    "$bin/fleetd" serve >"$work/fleetd.log" 2>&1 &
server=$!

addresses=$FLEET_DATA_DIR/addresses.json
for _ in $(seq 150); do
    kill -0 "$server" 2>/dev/null || fail "the server did not start"
    if [ -s "$addresses" ]; then
        http=$(jq -r '.http // empty' "$addresses") mqtt=$(jq -r '.mqtt // empty' "$addresses")
        if [ -n "$http" ] && curl -fsS -o /dev/null "http://$http/ready" 2>/dev/null; then break; fi
    fi
    sleep 0.1
done
url=http://${http:-}
curl -fsS -o /dev/null "$url/ready" || fail "the server is not ready"
mqtt_port=${mqtt##*:}

# This machine becomes a device, as an installer would do it: with an enrolment key, given on standard input.
device=demo-$(hostname | tr 'A-Z.' 'a-z-' | tr -cd 'a-z0-9_-' | cut -c1-40)
export STATE_DIR=$work/state RUNTIME_DIRECTORY=$work/run HEARTBEAT_INTERVAL=2
mkdir -m 700 "$STATE_DIR" "$RUNTIME_DIRECTORY"
printf 'FLEET_ENABLED=true\n' >"$work/fleet.conf"
chmod 600 "$work/fleet.conf"
"$bin/fleetd" enrollment-key add --org default --uses 1 2>>"$work/fleetd.log" |
    "$bin/r58-fleet-agent" enroll "$url" --key - --device-id "$device" --config "$work/fleet.conf" >"$work/agent.log" 2>&1 ||
    fail "this machine could not be enrolled"

# What the agent looks after here is pretended: a recording that grows for a while, and a service that nobody has. Its
# systemctl writes down what it was told to do, and leaves this machine's own services alone.
mkdir "$work/recordings" "$work/bin"
cat >"$work/bin/systemctl" <<'SYSTEMCTL'
#!/bin/sh
here=$(dirname "$0")
for word in "$@"; do case $word in -*) ;; *) break ;; esac; done
case $word in
show) printf 'LoadState=loaded\nActiveState=%s\nSubState=running\nInvocationID=%s\n' \
    "$(cat "$here/state" 2>/dev/null || echo failed)" "$(cat "$here/invocation" 2>/dev/null || printf '%032d' 1)" ;;
restart) echo active >"$here/state"; date +%s%N | md5sum | cut -c1-32 >"$here/invocation" ;;
is-system-running) echo running ;;
*) exit 1 ;;
esac
SYSTEMCTL
chmod +x "$work/bin/systemctl"
record() { for _ in $(seq 40); do date >>"$work/recordings/show.mkv"; sleep 1; done; }
record &
recording=$!
PATH=$work/bin:$PATH RECORDINGS_DIR=$work/recordings APP_STATUS_URL=http://127.0.0.1:9/status \
    "$bin/r58-fleet-agent" run --config "$work/fleet.conf" >>"$work/agent.log" 2>&1 &
agent=$!

token() {
    jq -n --arg email "$email" --arg password "$password" '{$email, $password}' |
        curl -fsS -H 'Content-Type: application/json' -d @- "$url/api/v1/auth/login" | jq -r .access_token
}
bearer=$(token) || fail "cannot log in"
user=$(curl -fsS -H @- "$url/api/v1/auth/me" <<<"Authorization: Bearer $bearer" | jq -r .username)

cat <<TEXT

${bold}R58 Fleet is running.${off}

  dashboard   ${bold}$url/${off}
  log in as   ${bold}$email${off}
  password    ${bold}$password${off}
  device      $device

Try these in another terminal:

  TOKEN=\$(curl -s -H 'Content-Type: application/json' -d '{"email":"$email","password":"$password"}' $url/api/v1/auth/login | jq -r .access_token)
  curl -s -H "Authorization: Bearer \$TOKEN" $url/api/v1/devices | jq
  curl -s -H "Authorization: Bearer \$TOKEN" "$url/api/v1/devices/$device/heartbeats?page_size=3" | jq
  mosquitto_sub -h 127.0.0.1 -p $mqtt_port -u $email -P '$password' -t 'fleet/v1/default/view/+' -v
  mosquitto_sub -h 127.0.0.1 -p $mqtt_port -u $email -P '$password' -t 'fleet/v1/server/+' -C 1 -v
  mosquitto_pub -h 127.0.0.1 -p $mqtt_port -u $email -P '$password' -q 1 -t fleet/v1/default/operator/$user/command -m '{"to":"$device","type":"ping"}'
  $bin/r58-fleet-agent status --config $work/fleet.conf   ${dim}# with STATE_DIR=$STATE_DIR RUNTIME_DIRECTORY=$RUNTIME_DIRECTORY${off}

Heartbeats as they arrive in the database, and what becomes of two commands: a ping, and the restart of a service, which waits
until the recording has ended (Ctrl-C stops everything):

TEXT

# The tools read the password from a file, so that it is on no command line.
export XDG_CONFIG_HOME=$work/tools
mkdir -m 700 "$XDG_CONFIG_HOME"
printf '%s\n' '-h 127.0.0.1' "-p $mqtt_port" "-u $email" "-P $password" '-q 1' | tee "$XDG_CONFIG_HOME/mosquitto_pub" >"$XDG_CONFIG_HOME/mosquitto_sub"
operator=fleet/v1/default/operator/$user
mosquitto_sub -t "$operator/result" >"$work/results" 2>>"$work/agent.log" &
results=$!
send() { mosquitto_pub -t "$operator/command" -m "$1" || fail "a command could not be published"; }
told=0
tell_results() {
    local lines
    lines=$(wc -l <"$work/results")
    [ "$lines" -gt "$told" ] || return 0
    sed -n "$((told + 1)),${lines}p" "$work/results" |
        jq -r '"command   \(.ref // .id)  \(.status)  \(.reason // .error // (.result | select(. != null) | tojson) // "")"'
    told=$lines
}

# `get` and `heartbeats` keep the token off every command line.
get() { curl -fsS -H @- "$1" <<<"Authorization: Bearer $bearer"; }
heartbeats() {
    get "$url/api/v1/devices/$device/heartbeats?page_size=50" | jq -r --argjson last "$1" '
        [.items[] | select(.seq != null and .seq > $last)] | reverse | .[] |
        [.seq, .received_at, (.metrics.cpu_percent // "-"), (.metrics.mem_percent // "-"),
         (.metrics.disk_free_gb // "-"), (.metrics.temperature_c // "-"), .uptime_seconds] | @tsv'
}

sent=''
last=0 count=0 started=$SECONDS renewed=$SECONDS
while [ "$seconds" -eq 0 ] || [ $((SECONDS - started)) -lt "$seconds" ]; do
    kill -0 "$server" 2>/dev/null || fail "the server has stopped"
    kill -0 "$agent" 2>/dev/null || fail "the agent has stopped"
    if [ $((SECONDS - renewed)) -gt 600 ]; then
        bearer=$(token) || fail "cannot log in again"
        renewed=$SECONDS
    fi
    rows=$(heartbeats "$last") || fail "the server does not answer"
    while IFS=$'\t' read -r seq at cpu mem disk temp uptime; do
        [ -n "$seq" ] || continue
        printf 'heartbeat %-5s %s  cpu %s %%  memory %s %%  disk free %s GB  temperature %s °C  up %s s\n' \
            "$seq" "$at" "$cpu" "$mem" "$disk" "$temp" "$uptime"
        last=$seq count=$((count + 1))
    done <<<"$rows"
    if [ "$count" -gt 0 ] && [ -z "$sent" ]; then
        send "{\"to\":\"$device\",\"type\":\"ping\",\"ref\":\"ping\"}"
        send "{\"to\":\"$device\",\"type\":\"restart_service\",\"payload\":{\"service\":\"mediamtx\"},\"ref\":\"restart\"}"
        sent=yes
    fi
    tell_results
    sleep 1
done

[ "$count" -gt 0 ] || fail "no heartbeat came through the broker into the database within $seconds s"
completed() { jq -e -s "any(.[]; .ref == \"$1\" and .status == \"completed\")" "$work/results" >/dev/null; }
completed ping || fail "the ping did not come back within $seconds s"
# The recording takes 40 s, and counts as going on for 30 s more.
[ "$seconds" -lt 120 ] || completed restart || fail "the service was not restarted after the recording"
printf '\n%s heartbeats came through the broker into the database.\n' "$count"
