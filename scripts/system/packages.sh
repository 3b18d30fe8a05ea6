# shellcheck shell=bash
# The packages in the container: installed, upgraded, removed, purged. Read after commands.sh.
# shellcheck disable=SC2034,SC2154

agent_package=r58-fleet-agent
# The packages as built, and each of them once more with a higher version, in the machine's /srv/packages.
prepare_packages() {
    local here=$root/srv/packages package
    mkdir -p "$here"
    for package in r58-fleet-agent r58-fleetd r58-fleet-broker; do
        cp "$packages/$package"_*.deb "$here/$package.deb"
        dpkg-deb -R "$here/$package.deb" "$work/again"
        sed -i 's/^Version: .*/&+next/' "$work/again/DEBIAN/control"
        dpkg-deb -Znone --root-owner-group -b "$work/again" "$here/$package-next.deb" >/dev/null
        rm -rf "$work/again"
    done
}

# package ACTION NAME…: dpkg, whose words are shown if it fails.
package() { guest "DEBIAN_FRONTEND=noninteractive dpkg $1 >/tmp/dpkg.log 2>&1 || { cat /tmp/dpkg.log >&2; exit 1; }" || fail "dpkg $1"; }
install_package() { package "-i /srv/packages/$1.deb"; }
dpkg_said() { guest "grep -q '$1' /tmp/dpkg.log" || fail "dpkg has not said '$1': $(guest 'cat /tmp/dpkg.log')"; }
version_of() { guest "dpkg-query -W -f '\${Version}' $1"; }

install_server() {
    step "installing r58-fleetd"
    mkdir -m 755 "$root/etc/r58-fleet"
    password=$(random_hex)
    (umask 077 && printf '%s\n' "FLEET_HTTP_LISTEN=$http" "FLEET_MQTT_LISTEN=127.0.0.1:$mqtt_port" \
        "FLEET_ADMIN_EMAIL=$email" "FLEET_ADMIN_PASSWORD=$password" >"$root/etc/r58-fleet/fleetd.env")
    install_package r58-fleetd
    is_active fleetd || fail "the package has not started fleetd"
    until_true 60 "fleetd" in_net curl -fsS -m 5 "http://$http/ready"
    [ "$(show fleetd User)" = r58-fleet ] || fail "fleetd runs as $(show fleetd User)"
    guest 'systemctl is-enabled --quiet fleetd' || fail "fleetd is not enabled"
}

enrolment_key() { guest "runuser -u r58-fleet -- fleetd enrollment-key add --org default --uses 1"; }

enrol() {
    guest "printf %s '$(enrolment_key)' | r58-fleet-agent enroll http://$http --key - --device-id $device" >"$work/enroll.log" 2>&1 ||
        { cat "$work/enroll.log" >&2; fail "enrolment"; }
    is_active r58-fleet-agent || fail "enrolment has not started the agent's service"
}
comes_online() {
    wait_for_heartbeat 60
    device_is online || fail "the device is not online"
    until_true 60 "what the agent says of itself: connected" agent_is_connected
}

install_and_enrol() {
    step "installing r58-fleet-agent"
    install_package r58-fleet-agent
    dpkg_said 'enrol this device now'
    guest 'systemctl is-enabled --quiet r58-fleet-agent' || fail "the agent is not enabled"
    ! is_active r58-fleet-agent || fail "the agent runs before it is enrolled"
    configure_agent
    step "enrolling"
    enrol
    comes_online
}

upgrades() {
    step "an upgrade while a restart that was ordered goes on"
    local pid
    pid=$(agent_pid)
    note vdoninja
    order restart_service '{"service": "vdoninja"}'
    until_true 90 "the beginning of the restart" has_begun vdoninja
    install_package r58-fleet-agent-next
    case $(version_of r58-fleet-agent) in *+next) ;; *) fail "the version is still $(version_of r58-fleet-agent)" ;; esac
    agent_is_another "$pid" || fail "the upgrade has not restarted the agent"
    ends 90 completed
    history_is pending sent acked running completed
    started_since 1 vdoninja

    step "an upgrade of the server"
    pid=$(show fleetd MainPID)
    install_package r58-fleetd-next
    [ "$(show fleetd MainPID)" != "$pid" ] || fail "the upgrade has not restarted fleetd"
    until_true 60 "fleetd" in_net curl -fsS -m 5 "http://$http/ready"
    comes_online

    step "back to the version before"
    install_package r58-fleetd
    install_package r58-fleet-agent
    until_true 60 "fleetd" in_net curl -fsS -m 5 "http://$http/ready"
    comes_online
}

# What of the agent is left on the disk, but for what dpkg itself remembers and this test has put there.
left_of_agent() {
    guest "find / -xdev \\( -path /proc -o -path /srv -o -path /var/lib/dpkg -o -path /var/log -o -path /var/lib/r58-test \\) -prune -o \\
        -name '*r58-fleet-agent*' ! -path '/etc/systemd/system/r58-fleet-agent.service.d*' -print"
}

removals() {
    local ids
    ids=$(state_ids)
    step "removing the agent, installing it again"
    package '-r r58-fleet-agent'
    guest 'test ! -e /usr/bin/r58-fleet-agent && test -s /etc/r58-fleet-agent/fleet.conf && test -d /var/lib/r58-fleet-agent' ||
        fail "removal has left the program, or taken the enrolment away"
    ! is_active r58-fleet-agent || fail "the agent runs after its removal"
    until_true 60 "the device offline" device_is offline
    install_package r58-fleet-agent
    comes_online
    [ "$(state_ids)" = "$ids" ] || fail "the agent has made a new state database"

    step "purging it"
    package '-P r58-fleet-agent'
    [ -z "$(left_of_agent)" ] || fail "purging has left $(left_of_agent)"
    until_true 60 "the device offline" device_is offline

    step "installing it after that, with a new enrolment"
    install_package r58-fleet-agent
    ! is_active r58-fleet-agent || fail "the agent runs without enrolment"
    configure_agent
    guest "runuser -u r58-fleet -- fleetd device allow-reenrollment --device-id $device" >/dev/null || fail "re-enrolment is not allowed"
    enrol
    comes_online
    [ "$(state_ids)" != "$ids" ] || fail "the state has outlived the purge"
}

server_removals() {
    step "removing the server, installing it again"
    package '-r r58-fleetd'
    ! is_active fleetd || fail "fleetd runs after its removal"
    install_package r58-fleetd
    until_true 60 "fleetd" in_net curl -fsS -m 5 "http://$http/ready"
    wait_for_heartbeat 60

    step "the backup of the night"
    guest 'systemctl start fleetd-backup.service && find /var/backups/r58-fleet -name "fleet-*.tar.zst" -size +0 | grep -q .' || fail "there is no backup"

    step "purging the server: its data stay"
    package '-P r58-fleetd'
    dpkg_said 'the data stay in /var/lib/r58-fleet'
    guest 'test -s /var/lib/r58-fleet/fleet.db && test ! -e /etc/r58-fleet && test ! -e /usr/lib/systemd/system/fleetd.service' ||
        fail "purging has left a configuration, or taken the data away"
}

broker_package() {
    step "r58-fleet-broker: installing, starting, removing, purging"
    install_package r58-fleet-broker
    ! is_active fleet-broker || fail "the broker runs though nobody may log in"
    # A port of its own beside fleetd's, and one account.
    guest "umask 077 && echo FLEET_MQTT_LISTEN=127.0.0.1:1884 >/etc/r58-fleet/fleet-broker.env &&
        hash=\$(echo $password | fleet-broker hash token) &&
        printf '[[person]]\norg = \"default\"\nuser = \"olga\"\nrole = \"operator\"\napi_key_sha256 = \"%s\"\n' \"\$hash\" \
            >/etc/r58-fleet/fleet-broker-credentials.toml &&
        systemd-tmpfiles --create r58-fleet-broker.conf && systemctl start fleet-broker" || fail "the broker does not start"
    is_active fleet-broker || fail "the broker is not active"
    until_true 20 "a log-in" in_net mosquitto_pub -h 127.0.0.1 -p 1884 -u default/olga -P "$password" -q 1 -t fleet/v1/default/operator/olga/command -m '{}'
    security fleet-broker 20
    stopped_loop fleet-broker
    install_package r58-fleet-broker-next
    is_active fleet-broker || fail "the broker is not active after an upgrade"
    package '-r r58-fleet-broker'
    ! is_active fleet-broker || fail "the broker runs after its removal"
    install_package r58-fleet-broker
    is_active fleet-broker || fail "the broker does not run after it was installed again"
    package '-P r58-fleet-broker'
    guest 'test ! -e /etc/r58-fleet/fleet-broker-credentials.toml && test ! -e /etc/r58-fleet/fleet-broker.toml && test ! -e /usr/bin/fleet-broker' ||
        fail "purging has left something of the broker"
}
