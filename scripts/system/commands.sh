# shellcheck shell=bash
# Sending commands to the machine's device and seeing what became of them: over HTTP and with mosquitto. Read after
# common.sh.
# shellcheck disable=SC2154

listener=''
people=fleet/v1/default/operator

# --- Sending ---

# order TYPE PAYLOAD [FIELDS]: makes a command over HTTP; its id is then in `id`. FIELDS is more JSON, as '"priority": 1'.
order() {
    local body answer
    body="{\"type\": \"$1\", \"payload\": $2${3:+, $3}}"
    answer=$(api POST "/devices/$device/commands" "$body") || fail "$1 $2 is not taken: $answer"
    id=$(jq -r .id <<<"$answer")
}

# order_by_mqtt VERSION TYPE PAYLOAD: as a person does from a terminal, with VERSION mqttv311 or mqttv5; the id is then in `id`.
# Every result that comes afterwards is a line of the file `results`.
order_by_mqtt() {
    local version=$1 type=$2 payload=$3 ref user results
    # The password belongs to this run alone.
    local as=(-h 127.0.0.1 -p "$mqtt_port" -u "$email" -P "$password" -V "$version" -q 1)
    ref=by-$version-$RANDOM$RANDOM
    user=$(api GET /auth/me | jq -r .username)
    results=$work/results-$version
    : >"$results"
    # It says when it has subscribed, at once by stdbuf; only then something is sent.
    nsenter -t "$net_pid" -n stdbuf -oL mosquitto_sub "${as[@]}" -d -t "$people/$user/result" >"$results" 2>&1 &
    listener=$!
    until_true 20 "mosquitto_sub" grep -q '^Subscribed' "$results"
    in_net mosquitto_pub "${as[@]}" -t "$people/$user/command" \
        -m "{\"to\": \"$device\", \"type\": \"$type\", \"payload\": $payload, \"ref\": \"$ref\"}" ||
        fail "mosquitto_pub with $version"
    id=''
    until_true 20 "an answer on the result topic" accepted "$results" "$ref"
    id=$(results_of "$results" "$ref" | jq -rs 'map(select(.id)) | .[0].id')
    told_in=$results told_ref=$ref
}
results_of() { grep '^{' "$1" | jq -c --arg ref "$2" 'select(.ref == $ref)'; }
accepted() { results_of "$1" "$2" | jq -es 'any(.status == "accepted")'; }
told_on_mqtt() { results_of "$told_in" "$told_ref" | jq -es --arg status "$1" 'any(.status == $status)'; }
stop_listening() {
    [ -z "$listener" ] || kill "$listener" 2>/dev/null || true
    [ -z "$listener" ] || wait "$listener" 2>/dev/null || true
    listener=''
}

# --- What became of it ---

is_open() { case $1 in pending | sent | acked | held | running) ;; *) return 1 ;; esac; }
command_is() { [ "$(api GET "/commands/$1" | jq -r .status)" = "$2" ]; }
command_has_ended() { ! is_open "$(api GET "/commands/$1" | jq -r '.status // "pending"')"; }
held_because() { api GET "/commands/$1" | jq -e --arg reason "$2" '.status == "held" and ((.held_reason // "") | startswith($reason))'; }

# ends SECONDS STATUS…: the command `id` ends within so long and as one of these. Once at the end, it stays.
ends() {
    local limit=$1 status wanted
    shift
    until_true "$limit" "an end of command $id" command_has_ended "$id"
    status=$(api GET "/commands/$id" | jq -r .status)
    for wanted; do
        [ "$status" != "$wanted" ] || return 0
    done
    fail "command $id is $status and not $*: $(api GET "/commands/$id" | jq -c '{error, result, history}')"
}
# Why it failed or was rejected.
error_says() {
    local why
    why=$(api GET "/commands/$id" | jq -r '.error // .reason // ""')
    case $why in *"$1"*) ;; *) fail "command $id does not say '$1' but '$why'" ;; esac
}
# Every state that it went through stands in the history once, but for `held`, whose reasons change.
history_is() {
    local history
    history=$(api GET "/commands/$id" | jq -r '[.history[].status] | map(select(. != "held")) | join(" ")')
    [ "$history" = "$*" ] || fail "command $id went through: $history; expected: $*"
}

# --- The effect ---

starts() { guest "grep -c '^$1 ' /var/lib/r58-test/starts || true"; }
invocation() { guest "systemctl show --value --property=InvocationID $1"; }
app_says() { guest "echo $1 >/var/lib/r58-test/app-status"; }

# note UNIT: how things are before.
note() { noted_starts=$(starts "$1") noted_invocation=$(invocation "$1"); }
# started_since TIMES UNIT: since `note` the unit was started so many times, and its present run is another one if that is more than none.
started_since() {
    local times=$(($(starts "$2") - noted_starts))
    [ "$times" -eq "$1" ] || fail "$2 was started $times times and not $1"
    if [ "$1" -eq 0 ]; then
        [ "$(invocation "$2")" = "$noted_invocation" ] || fail "$2 is not the run that it was"
    else
        [ "$(invocation "$2")" != "$noted_invocation" ] || fail "$2 is the same run as before"
    fi
}

# A new process of the agent takes 30 s until it calls the application idle; what disrupts waits for that.
agent_pid() { guest 'systemctl show --value --property=MainPID r58-fleet-agent'; }
agent_is_another() { local pid; pid=$(agent_pid) && [ "$pid" -gt 0 ] && [ "$pid" != "$1" ]; }
# By the kernel, in the middle of whatever it does.
kill_agent() {
    local pid
    pid=$(agent_pid)
    guest "kill -KILL $pid"
    until_true 60 "another process of the agent" agent_is_another "$pid"
}

# For the end of `fail`: what the device and the server know. With KEEP=1 everything goes on until Enter is pressed.
tell_more() {
    printf -- '--- the agent says\n' >&2
    guest 'r58-fleet-agent status; grep . /var/lib/r58-test/starts /var/lib/r58-test/app-status' >&2 || true
    if [ -n "${id:-}" ]; then
        printf -- '--- fleetd says\n' >&2
        api GET "/commands/$id" | jq . >&2 || true
    fi
    if [ "${KEEP:-0}" = 1 ]; then
        printf 'Kept until Enter is pressed. A process in it: %s\n' "$net_pid" >&2
        read -r _ || true
    fi
}
