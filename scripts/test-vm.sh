#!/usr/bin/env bash
# The agent in a virtual machine that really reboots and really loses its power; fleetd runs outside, in a network
# namespace that only the machine is connected to. Needs root (asks sudo for it), an x86-64 machine and what
# `scripts/setup.sh system` installs; takes about ten minutes, because the machine's processor is computed. Everything is
# removed at the end but the root folder's cache in target/system.
set -euo pipefail
cd "$(dirname "$0")/.."
# Part of the work folder's name.
test_name=r58-test-vm
# shellcheck source=scripts/system/common.sh
. scripts/system/common.sh
# shellcheck source=scripts/system/commands.sh
. scripts/system/commands.sh

[ "$(uname -m)" = x86_64 ] || die "this test is for x86-64 machines"
need qemu-system-x86_64 mke2fs mmdebstrap unshare nsenter ip curl jq mosquitto_pub mosquitto_sub strip
build_and_become_root "$@"

namespace='' fleetd='' qemu='' watchdog=''
make_work_folder
control_port=7777

clean_up() {
    trap - EXIT INT TERM
    local pid
    for pid in $qemu $fleetd $namespace; do kill -TERM "$pid" 2>/dev/null || true; done
    for pid in $qemu $fleetd $namespace; do
        for _ in $(seq 100); do kill -0 "$pid" 2>/dev/null || break; sleep 0.1; done
        kill -KILL "$pid" 2>/dev/null || true
    done
    [ -z "$watchdog" ] || kill -TERM "$watchdog" 2>/dev/null || true
    stop_listening
    rm -rf --one-file-system "$work"
}
trap clean_up EXIT
trap 'exit 130' INT
trap 'exit 143' TERM
watch_the_time 2400

# One line goes in, the command in base64; what comes back ends with the exit status.
guest() {
    local answer
    # shellcheck disable=SC2016
    answer=$(in_net timeout 60 bash -c '
        exec 3<>"/dev/tcp/127.0.0.1/$1" && printf "%s\n" "$2" >&3 && cat <&3' - "$control_port" "$(base64 -w0 <<<"$1")" 2>/dev/null) || return 255
    local status=${answer##*$'\n'}
    answer=${answer%$'\n'*}
    [ -z "${answer%$'\n'}" ] || printf '%s\n' "${answer%$'\n'}"
    return "${status:-255}"
}

fail() {
    printf '\n%s: %s\n' "$test_name" "$1" >&2
    printf -- '--- the last lines of the console, fleetd and the agent\n' >&2
    tail -n 15 "$work/console.log" >&2 || true
    tail -n 30 "$work/fleetd.log" >&2 || true
    guest 'journalctl -q --no-pager -o short-precise -u r58-fleet-agent -n 40' >&2 || true
    tell_more
    exit 1
}

step "unpacking"
root=$work/root
unpack_root "$root" systemd-sysv dbus procps iproute2 linux-image-cloud-amd64 initramfs-tools zstd
install_agent "$root"
cp -r --no-preserve=ownership scripts/system/vm/. "$root/"
systemctl_in "$root" enable control.socket systemd-networkd.service
printf '/dev/vda / ext4 errors=remount-ro 0 1\n' >"$root/etc/fstab"
cp "$root"/boot/vmlinuz-* "$work/kernel"
cp "$root"/boot/initrd.img-* "$work/initrd"
mke2fs -q -t ext4 -d "$root" "$work/disk.img" 2G >"$work/mke2fs.log" 2>&1 || { cat "$work/mke2fs.log" >&2; die "mke2fs cannot make the disk"; }
rm -rf --one-file-system "$root"

step "starting fleetd"
unshare --net sh -c 'ip link set lo up && exec sleep 3600' &
namespace=$! net_pid=$!
until_lo() { in_net ip -o link show up | grep -q ' lo:'; }
until_true 10 "a network namespace" until_lo
password=$(random_hex)
export FLEET_DATA_DIR=$work/data
mkdir -m 700 "$FLEET_DATA_DIR"
# Listening everywhere it tells the device the address that the device called it by.
FLEET_HTTP_LISTEN=$http FLEET_MQTT_LISTEN=0.0.0.0:$mqtt_port FLEET_ADMIN_EMAIL=$email FLEET_ADMIN_PASSWORD=$password \
    nsenter -t "$namespace" -n "$bin/fleetd" serve >"$work/fleetd.log" 2>&1 &
fleetd=$!
until_true 60 "fleetd" in_net curl -fsS -m 5 "http://$http/ready"

# On a busy host the first ticks of the computed timer come late, and the kernel would not believe in it: no_timer_check.
# What the machine sends to 10.0.2.2 arrives at the namespace's loopback, and there is nothing else to reach.
switch_on() {
    # Not by in_net, whose shell would be the process that is killed.
    nsenter -t "$namespace" -n qemu-system-x86_64 -accel tcg -cpu max -m 512 -display none -no-user-config -nodefaults -monitor none \
        -kernel "$work/kernel" -initrd "$work/initrd" -append "root=/dev/vda rw console=ttyS0 net.ifnames=0 no_timer_check quiet" \
        -drive "file=$work/disk.img,format=raw,if=virtio,cache=writeback" \
        -netdev "user,id=net,hostfwd=tcp:127.0.0.1:$control_port-:7777" -device virtio-net-pci,netdev=net,romfile= \
        -device virtio-rng-pci -serial stdio </dev/null >>"$work/console.log" 2>&1 &
    qemu=$!
    wait_for_boot
}
# The console asks for a login once in each boot. Whoever asks the machine itself while it boots makes that longer.
boots=0
has_booted() { [ "$(grep -c 'login:' "$work/console.log")" -eq "$boots" ]; }
wait_for_boot() {
    boots=$((boots + 1))
    until_true 400 "boot $boots" has_booted
}
# What the disk's controller has not been given yet is lost; no process in there hears of it.
cut_the_power() {
    kill -KILL "$qemu"
    wait "$qemu" 2>/dev/null || true
    qemu=''
}

step "switching the machine on"
switch_on
until_true 300 "systemd in the machine" system_is_up
step "systemd is $(guest 'systemctl is-system-running' || true)"

step "enrolling"
configure_agent
key=$("$bin/fleetd" enrollment-key add --org default --uses 1 2>>"$work/fleetd.log")
guest "echo $key | r58-fleet-agent enroll http://10.0.2.2:${http##*:} --key - --device-id $device" >"$work/enroll.log" ||
    { cat "$work/enroll.log" >&2; fail "enrolment"; }
guest 'systemctl is-active --quiet r58-fleet-agent' || fail "enrolment has not started the agent's service"
wait_for_heartbeat 120
device_is online || fail "the device is not online"
until_true 60 "what the agent says of itself: connected" agent_is_connected


boot_id() { guest 'cat /proc/sys/kernel/random/boot_id'; }
# Every boot so far was ordered or a power cut.
boots_are_right() {
    local counted
    counted=$(starts boot)
    [ "$counted" -eq "$boots" ] || fail "the machine has booted $counted times; $boots were meant"
}
# The agent calls the application idle 30 s after its own start.
device_is_idle() { api GET "/devices/$device" | jq -e '.status == "online" and .live == false'; }
power_cut() {
    local before
    before=$(boot_id)
    cut_the_power
    switch_on
    [ "$(boot_id)" != "$before" ] || fail "that was no power cut"
    wait_for_heartbeat 300
    boots_are_right
}

step "a reboot"
until_true 120 "an idle device" device_is_idle
before=$(boot_id)
order reboot '{"delay_seconds": 0}'
wait_for_boot
[ "$(boot_id)" != "$before" ] || fail "the boot id is the same"
ends 120 completed
history_is pending sent acked running completed
boots_are_right

step "a power cut while a reboot is held, because the application records"
app_says recording
order reboot '{"delay_seconds": 0}'
until_true 120 "held because it is live" held_because "$id" live
power_cut
step "held again, until the recording ends"
until_true 120 "held because it is live" held_because "$id" live
app_says idle
wait_for_boot
ends 120 completed
boots_are_right

step "a power cut while a reboot waits for its time"
until_true 120 "an idle device" device_is_idle
order reboot '{"delay_seconds": 20}'
until_true 20 "the device's answer" command_is "$id" acked
power_cut
wait_for_boot
ends 120 completed
boots_are_right

# How a restart may end that the power was taken from, and how often the unit may have been started then.
truth() {
    local status times error
    status=$(api GET "/commands/$id" | jq -r .status)
    error=$(api GET "/commands/$id" | jq -r '.error // ""')
    times=$(($(starts vdoninja) - noted_starts))
    case $status:$times in
    completed:1 | failed:0 | indeterminate:[01]) ;;
    *) fail "the unit was started $times times, and the command says $status ($error)" ;;
    esac
    step "the command says $status${error:+ ($error)}; the unit was started $times times"
}
has_begun() { [ "$(starts vdoninja)" -gt "$noted_starts" ]; }

step "a power cut while a unit is being restarted"
until_true 120 "an idle device" device_is_idle
note vdoninja
order restart_service '{"service": "vdoninja"}'
until_true 90 "the beginning of the restart" has_begun
power_cut
ends 120 indeterminate
truth

for round in $(seq "${CUTS:-2}"); do
    until_true 120 "an idle device" device_is_idle
    note vdoninja
    tenths=$((RANDOM % 200))
    step "a power cut $((tenths / 10)).$((tenths % 10)) s after a restart was ordered ($round)"
    order restart_service '{"service": "vdoninja"}'
    sleep "$((tenths / 10)).$((tenths % 10))"
    power_cut
    ends 180 completed failed indeterminate
    truth
done

[ "$(state_ids | wc -l)" -eq 1 ] || fail "the agent has made a new state database"
guest 'test -s /var/lib/r58-fleet-agent/journal-high' || fail "the agent has no journal-high file"
boots_are_right
step "all is well: one state database through $boots boots"
