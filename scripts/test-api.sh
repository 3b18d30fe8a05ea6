#!/usr/bin/env bash
# A generator of requests against a server of its own: what the OpenAPI document allows and what it does not, as admin, viewer, device and nobody.
# The server has a fresh database and listens on loopback alone; it is stopped at the end. The seed is fixed (SEED=), so that a run that
# fails fails again; a failure prints the request as a line of curl. FACTOR=3 takes three times the time, on a slow machine or to look longer.
set -euo pipefail
cd "$(dirname "$0")/.."

seed=${SEED:-1} factor=${FACTOR:-1}
case $seed$factor in '' | *[!0-9]*) echo "test-api: SEED and FACTOR are whole numbers" >&2; exit 2 ;; esac
fleetd=${CARGO_TARGET_DIR:-target}/debug/fleetd
python=$PWD/target/venv/bin/python
work=$(mktemp -d "${TMPDIR:-/tmp}/r58-fleet-api.XXXXXX")
server=''
stop() {
    trap - EXIT INT TERM
    if [ -n "$server" ]; then
        kill -TERM "$server" 2>/dev/null || true
        wait "$server" 2>/dev/null || true
    fi
    rm -rf "$work"
}
trap stop EXIT
trap 'exit 130' INT
trap 'exit 143' TERM
fail() {
    echo "test-api: $1" >&2
    tail -n 15 "$work/fleetd.log" >&2 || true
    exit 1
}

# One person asks far more often than a person may; what comes from this machine says from where it comes, see scripts/api/hooks.py.
export FLEET_DATA_DIR=$work/data FLEET_RATE_LIMIT_REQUESTS=1000000 FLEET_TRUSTED_PROXIES=127.0.0.1
mkdir -m 700 "$FLEET_DATA_DIR"
password=$(od -An -N12 -tx1 /dev/urandom | tr -d ' \n')
FLEET_HTTP_LISTEN=127.0.0.1:0 FLEET_MQTT_LISTEN=127.0.0.1:0 FLEET_ADMIN_EMAIL=root@example.org FLEET_ADMIN_PASSWORD=$password \
    "$fleetd" serve >"$work/fleetd.log" 2>&1 &
server=$!
addresses=$FLEET_DATA_DIR/addresses.json
for _ in $(seq 150); do
    kill -0 "$server" 2>/dev/null || fail "the server did not start"
    [ -s "$addresses" ] && curl -fsS -o /dev/null "http://$(jq -r .http "$addresses")/ready" 2>/dev/null && break
    sleep 0.1
done
url=http://$(jq -r .http "$addresses")
curl -fsS -o /dev/null "$url/ready" || fail "the server is not ready"

# ask TOKEN METHOD PATH [BODY]: the answer, or the end.
ask() {
    curl -fsS -X "$2" "$url/api/v1$3" ${1:+-H "Authorization: Bearer $1"} ${4:+-H 'Content-Type: application/json' -d "$4"} ||
        fail "$2 $3 was refused"
}
sign_in() {
    ask '' POST /auth/login "{\"email\": \"$1@example.org\", \"password\": \"$password\"}" | jq -r .access_token
}
person() {
    ask "$root" POST /users "{\"email\": \"$1@example.org\", \"name\": \"$1\", \"role\": \"$2\", \"password\": \"$password\"}" | jq -r .id
}
root=$(sign_in root)
person vera viewer >/dev/null
viewer=$(sign_in vera)
device=$(ask "$root" POST /devices/register '{"device_id": "cam-1"}' | jq -r .token)
ask "$root" PATCH /devices/cam-1 '{"tags": ["hall-2"], "redundancy_group": "pair"}' >/dev/null
command=$(ask "$root" POST /devices/cam-1/commands '{"type": "ping"}' | jq -r .id)
user=$(person eve operator)
org=$(ask "$root" POST /orgs '{"slug": "other", "name": "Other"}' | jq -r .id)

# What the variable parts of a path mean, so that half of the requests meet something. What takes a thing away for good keeps its random
# id here: the next request would meet nothing. The stateful phase makes such things itself, and takes them away.
config() {
    cat <<TOML
seed = $seed
hooks = "$PWD/scripts/api/hooks.py"
[cache]
enabled = false
[generation]
database = "none"
# Every check but this: many rules are no schema (an expiry in the future, a password that is not easy to guess, text counted in bytes), so
# that what the document allows may be refused.
[checks.positive_data_acceptance]
enabled = false
[auth]
# Credentials are given; none are made by signing up.
auto-signup = false
[[operations]]
include-path-regex = "^/api/v1/devices/\\\\{id\\\\}"
exclude-operation-id = "decommissionDevice"
parameters = { "path.id" = "cam-1" }
[[operations]]
include-path-regex = "^/api/v1/commands/\\\\{id\\\\}"
parameters = { "path.id" = "$command" }
[[operations]]
include-operation-id = ["getUser", "updateUser", "resetPassword"]
parameters = { "path.id" = "$user" }
# "register" is a device's id as well: there GET, PATCH and DELETE are about that device, and Allow says so.
[[operations]]
include-path = "/api/v1/devices/register"
[operations.checks.allow_header_conformance]
enabled = false
[[operations]]
include-operation-id = ["getOrg", "updateOrg"]
parameters = { "path.id" = "$org" }
[[operations]]
include-path-regex = "^/api/v1/show-locks/"
parameters = { "path.tag" = "hall-2" }
[[operations]]
include-path-regex = "^/api/v1/redundancy-groups/"
parameters = { "path.name" = "pair" }
$1
TOML
}

# run NAME SECONDS PHASES CREDENTIAL
run() {
    echo "test-api: as $1"
    config "$4" >"$work/schemathesis.toml"
    # It leaves files where it is started.
    (cd "$work" && "$python" -m schemathesis.cli --config-file schemathesis.toml run "$url/api/v1/openapi.json" --phases "$3" \
        --max-time $(($2 * factor)) --max-examples 30 --request-timeout 30 --no-shrink --warnings off) | tee "$work/run.log" || failed="$failed $1"
    skipped=$(sed -n 's/^ *Skipped: *\([0-9]\+\)$/\1/p' "$work/run.log")
    [ -z "$skipped" ] || echo "test-api: as $1: no time for $skipped operations; FACTOR=3 gives three times as much"
    kill -0 "$server" 2>/dev/null || fail "the server has ended"
}
failed=''
run nobody 40 coverage ''
run device 60 coverage,fuzzing "[auth.openapi.deviceToken]
api_key = \"$device\""
run viewer 60 coverage,fuzzing "[auth.openapi.bearer]
bearer = \"$viewer\""
run admin 100 coverage,fuzzing,stateful "[auth.openapi.bearer]
bearer = \"$root\""

# Nothing has locked out whoever asked.
ask "$root" GET /auth/me >/dev/null
sign_in root >/dev/null
if grep -qE 'panicked|a request failed|a handler ended early' "$work/fleetd.log"; then
    fail "the server's log tells of a fault"
fi
[ -z "$failed" ] || fail "not as it should be:$failed"
