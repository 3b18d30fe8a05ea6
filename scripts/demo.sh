#!/usr/bin/env bash
# The whole system on this machine: a server with its broker and dashboard, and this machine as a device. Everything
# lives in a temporary folder that is removed at the end. DEMO_SECONDS=20 ends by itself and tells by its exit status
# whether heartbeats came through the broker into the database.
set -euo pipefail
cd "$(dirname "$0")/.."

seconds=${DEMO_SECONDS:-0}
case $seconds in '' | *[!0-9]*) echo "demo: DEMO_SECONDS is a whole number of seconds, not '$seconds'" >&2; exit 2 ;; esac

bold='' dim='' off=''
if [ -t 1 ] && [ -z "${NO_COLOR:-}" ]; then bold=$'\e[1m' dim=$'\e[2m' off=$'\e[0m'; fi

cargo build --locked --release --bin fleetd --bin r58-fleet-agent
bin=${CARGO_TARGET_DIR:-target}/release

work=$(mktemp -d "${TMPDIR:-/tmp}/r58-fleet-demo.XXXXXX")
server='' agent=''
stop() {
    trap - EXIT INT TERM
    # The agent first, so that its goodbye still reaches the server.
    for pid in $agent $server; do
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
"$bin/r58-fleet-agent" run --config "$work/fleet.conf" >>"$work/agent.log" 2>&1 &
agent=$!

token() {
    jq -n --arg email "$email" --arg password "$password" '{$email, $password}' |
        curl -fsS -H 'Content-Type: application/json' -d @- "$url/api/v1/auth/login" | jq -r .access_token
}
bearer=$(token) || fail "cannot log in"

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
  $bin/r58-fleet-agent status --config $work/fleet.conf   ${dim}# with STATE_DIR=$STATE_DIR RUNTIME_DIRECTORY=$RUNTIME_DIRECTORY${off}

Heartbeats as they arrive in the database (Ctrl-C stops everything):

TEXT

# `get` and `heartbeats` keep the token off every command line.
get() { curl -fsS -H @- "$1" <<<"Authorization: Bearer $bearer"; }
heartbeats() {
    get "$url/api/v1/devices/$device/heartbeats?page_size=50" | jq -r --argjson last "$1" '
        [.items[] | select(.seq != null and .seq > $last)] | reverse | .[] |
        [.seq, .received_at, (.metrics.cpu_percent // "-"), (.metrics.mem_percent // "-"),
         (.metrics.disk_free_gb // "-"), (.metrics.temperature_c // "-"), .uptime_seconds] | @tsv'
}

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
    sleep 1
done

[ "$count" -gt 0 ] || fail "no heartbeat came through the broker into the database within $seconds s"
printf '\n%s heartbeats came through the broker into the database.\n' "$count"
