#!/usr/bin/env bash
# The README's two commands on a machine that has nothing: a minimal Debian in a folder of its own, with git, make, this machine's Rust
# and its settings for package downloads, and a clone of what is committed here.
#
#   scripts/test-fresh.sh [SUITE [COMMAND]]     Debian 12 (bookworm) unless another is named; COMMAND in place of the two
#
# Needs root (asks sudo) and mmdebstrap; takes half an hour to an hour, without nextest and as busy as the machine is, and 20 GB in /var/tmp (TMPDIR), which go at the end. It shares this machine's
# network, so that ports which are taken here are taken there.
set -euo pipefail
cd "$(dirname "$0")/.."
suite=${1:-bookworm}

say() { printf 'test-fresh: %s\n' "$*"; }

for tool in mmdebstrap git cargo rustc; do
    command -v "$tool" >/dev/null || { say "$tool is missing" >&2; exit 1; }
done
sysroot=$(rustc --print sysroot)
if [ "$(id -u)" -ne 0 ]; then
    exec sudo --preserve-env "PATH=$PATH" "HOME=$HOME" "$0" "$@"
fi
if [ -z "${FRESH_WORK:-}" ]; then
    FRESH_WORK=$(mktemp -d "${TMPDIR:-/var/tmp}/r58-test-fresh.XXXXXX")
    export FRESH_WORK
    # What is mounted in the folder is mounted for one child alone, and gone with it: what is removed here are never this machine's files.
    trap 'rm -rf --one-file-system "$FRESH_WORK"' EXIT
    trap 'exit 130' INT
    trap 'exit 143' TERM
    unshare --mount --propagation private --pid --fork --kill-child "$0" "$@"
    exit
fi
root=$FRESH_WORK/root

say "a minimal $suite"
mmdebstrap --quiet --variant=apt --include=git,make,ca-certificates "$suite" "$root"
cp /etc/resolv.conf "$root/etc/resolv.conf"
printf '127.0.0.1 localhost\n::1 localhost\n127.0.1.1 fresh\n' >"$root/etc/hosts"

# share PATH [ro]: this machine's file or folder in the same place, if it is there.
share() {
    [ -e "$1" ] || return 0
    if [ -d "$1" ]; then mkdir -p "$root$1"; else mkdir -p "$root$(dirname "$1")" && touch "$root$1"; fi
    mount --rbind "$1" "$root$1"
    [ "${2:-}" != ro ] || mount -o remount,bind,ro "$root$1"
}
mount -t proc proc "$root/proc"
share /sys ro
share /dev
# As a machine has it, not as this one may happen to have it.
mount -t tmpfs -o mode=1777 tmpfs "$root/dev/shm"
# Rust, and where packages of every kind come from.
rustup=${RUSTUP_HOME:-$HOME/.rustup}
share "$rustup" ro
[[ $sysroot = "$rustup"/* ]] || share "$sysroot" ro
share "${CARGO_HOME:-$HOME/.cargo}"
# mmdebstrap has left a list of its own.
rm -f "$root/etc/apt/sources.list"
for setting in /etc/apt/sources.list /etc/apt/sources.list.d /etc/apt/auth.conf.d /etc/apt/trusted.gpg.d /etc/pip.conf "$HOME/.config/pip" \
    "${PIP_FIND_LINKS:-}" /etc/ssl/certs /usr/share/ca-certificates /usr/local/share/ca-certificates; do
    [ -z "$setting" ] || share "$setting" ro
done
for setting in /etc/apt/apt.conf.d/*proxy* /etc/apt/apt.conf.d/99*; do share "$setting" ro; done

say "a clone"
git clone --quiet --no-hardlinks . "$root/srv/r58-fleet"

kept=()
for name in $(compgen -e); do
    case $name in
    *_proxy | *_PROXY | PIP_* | SSL_* | *_CA_BUNDLE | CARGO_HOME | CARGO_HTTP_* | CARGO_REGISTRIES_* | RUSTUP_*) kept+=("$name=${!name}") ;;
    esac
done
in_it() {
    chroot "$root" env -i HOME="$HOME" TERM=dumb LANG=C.UTF-8 "${kept[@]}" \
        PATH="${CARGO_HOME:-$HOME/.cargo}/bin:$sysroot/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin" \
        /bin/sh -c "cd /srv/r58-fleet && $1"
}

if [ $# -gt 1 ]; then
    say "$2"
    in_it "$2"
    exit
fi
say "make demo"
in_it 'DEMO_SECONDS=20 make demo'
say "make test"
in_it 'make test'
say "both do what the README says"
