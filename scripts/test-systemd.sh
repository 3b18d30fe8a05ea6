#!/usr/bin/env bash
# The packages under a systemd that has booted, in a container: installed, upgraded, removed, watched, and in place of an older agent; and
# commands that restart real units. Needs root (asks sudo for it) and what `scripts/setup.sh system` installs; takes about ten minutes. The
# container has a network of its own without any way out; everything is removed at the end but the root folder's cache in
# target/system. PARTS="restarts older" runs these parts alone.
set -euo pipefail
cd "$(dirname "$0")/.."
# Part of the names of the container and of the work folder.
test_name=r58-test-systemd
# shellcheck source=scripts/system/common.sh
. scripts/system/common.sh
# shellcheck source=scripts/system/commands.sh
. scripts/system/commands.sh
# shellcheck source=scripts/system/container.sh
. scripts/system/container.sh
# shellcheck source=scripts/system/packages.sh
. scripts/system/packages.sh
# shellcheck source=scripts/system/restarts.sh
. scripts/system/restarts.sh
# shellcheck source=scripts/system/watched.sh
. scripts/system/watched.sh
# shellcheck source=scripts/system/older.sh
. scripts/system/older.sh

need systemd-nspawn mmdebstrap nsenter curl jq mosquitto_pub mosquitto_sub dpkg-deb
with_packages=1
build_and_become_root "$@"

make_work_folder
root=$work/root
trap clean_up EXIT
trap 'exit 130' INT
trap 'exit 143' TERM
watch_the_time 1800

step "unpacking"
unpack_root "$root" systemd-sysv dbus procps iproute2 ca-certificates python3
install_machine "$root"
systemctl_in "$root" enable r58-api.service app-status.socket boot-count.service
prepare_packages

step "booting"
switch_on
step "systemd is $(guest 'systemctl is-system-running' || true): $(guest 'systemctl --version | head -n 1')"
install_server
install_and_enrol

part_watched() {
    security r58-fleet-agent 40
    security fleetd 20
    sandbox
    journal_fields
    killed
    watchdogs
    backs_off
}
part_restarts() {
    restarts_by_systemctl
    restarts_by_mosquitto
    restarts_while_live
    restarts_by_bus
}
part_packages() {
    upgrades
    removals
    broker_package
}
part_older() {
    set_up_older
    cannot_take_over
    takes_over
    gives_back
    removal_gives_back
    interrupted_take_over
}
for part in ${PARTS:-watched restarts packages older}; do "part_$part"; done
[ -n "${PARTS:-}" ] || server_removals
step "all is well"
