#!/usr/bin/env bash
# Looks at the packages in target/packages (`make deb deb-arm64` builds them): what they depend on, how large they are, what is in them and what stays when they
# are upgraded, and that lintian has nothing to say. With arguments only at these packages: test-packages.sh FILE.deb…
set -euo pipefail
cd "$(dirname "$0")/.."

# What was promised for small devices, in bytes: the agent's package, and its binary.
agent_deb_max=2000000
agent_binary_max=4000000

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
failures=0
fail() { printf 'test-packages: %s: %s\n' "$file" "$*" >&2; failures=$((failures + 1)); }

version=$(sed -n 's/^version = "\(.*\)"/\1/p' Cargo.toml | head -n 1)
if [ $# -eq 0 ]; then
    for name in r58-fleet-agent r58-fleetd r58-fleet-broker; do
        for architecture in amd64 arm64; do set -- "$@" "${CARGO_TARGET_DIR:-target}/packages/${name}_$version-1_$architecture.deb"; done
    done
fi

# names FIELD: the packages in it, without versions and alternatives.
names() { dpkg-deb --field "$deb" "$1" | tr ',' '\n' | sed -E 's/^ *([^ |(]+).*/\1/' | LC_ALL=C sort -u | paste -sd' '; }
has() { [ -e "$root/$1" ] || fail "/$1 is not in it"; }

for deb; do
    file=$(basename "$deb")
    [ -e "$deb" ] || { fail "is not there: make deb deb-arm64"; continue; }
    name=$(dpkg-deb --field "$deb" Package) architecture=$(dpkg-deb --field "$deb" Architecture)
    root=$work/$file
    dpkg-deb --raw-extract "$deb" "$root"
    case $name in
        r58-fleet-agent) program=r58-fleet-agent expected='libc6 libgcc-s1 libsystemd0' ;;
        r58-fleetd) program=fleetd expected='ca-certificates libc6 libgcc-s1 libsystemd0 systemd' ;;
        r58-fleet-broker) program=fleet-broker expected='libc6 libgcc-s1 libsystemd0 systemd' ;;
        *) fail "is none of ours"; continue ;;
    esac
    binary=$root/usr/bin/$program
    has "usr/bin/$program"
    [ "$(dpkg-deb --field "$deb" Version)" = "$version-1" ] || fail "is not of version $version"
    [ "$(names Depends)" = "$expected" ] || fail "depends on $(names Depends), and should on $expected"

    case $architecture in amd64) machine=X86-64 ;; arm64) machine=AArch64 ;; *) machine=none ;; esac
    LC_ALL=C readelf --file-header "$binary" | grep -q "Machine:.*$machine" || fail "its binary is not for $architecture"
    ! LC_ALL=C readelf --sections --wide "$binary" | grep -qE ' \.(symtab|debug_info) ' || fail "its binary has symbols that nobody needs"

    if [ "$name" = r58-fleet-agent ]; then
        deb_size=$(stat -c %s "$deb") binary_size=$(stat -c %s "$binary")
        printf 'test-packages: %s has %s bytes of %s, its binary %s of %s\n' "$file" "$deb_size" $agent_deb_max "$binary_size" $agent_binary_max
        [ "$deb_size" -le $agent_deb_max ] || fail "has $deb_size bytes; $agent_deb_max are allowed"
        [ "$binary_size" -le $agent_binary_max ] || fail "its binary has $binary_size bytes; $agent_binary_max are allowed"
        [[ " $(names Recommends) " = *' ca-certificates '* ]] || fail "does not recommend ca-certificates"
        # Enrolment writes fleet.conf: a package that had it would ask questions at each upgrade, and take it away at the end.
        [ ! -e "$root/DEBIAN/conffiles" ] || fail "has configuration files: $(paste -sd' ' "$root/DEBIAN/conffiles")"
        [ ! -e "$root/etc" ] || fail "has files in /etc"
        has usr/share/r58-fleet-agent/fleet.conf
        ! grep -qE '^[^#;[:space:]]' "$root/usr/share/r58-fleet-agent/fleet.conf" || fail "its template of fleet.conf sets something"
    else
        # Everything in /etc survives an upgrade.
        (cd "$root" && find etc -type f -printf '/%p\n' | LC_ALL=C sort) >"$work/etc"
        LC_ALL=C sort "$root/DEBIAN/conffiles" | diff - "$work/etc" >&2 || fail "its conffiles are not what is in /etc"
    fi
    for state in var opt run srv home; do [ ! -e "$root/$state" ] || fail "has files in /$state"; done

    # A man page for each command that the shell completes, of any depth, and completions for three shells.
    has "usr/share/bash-completion/completions/$program"
    has "usr/share/zsh/vendor-completions/_$program"
    has "usr/share/fish/vendor_completions.d/$program.fish"
    sed -n -E "s/^ {8}(${program//-/__(subcmd__)?}(__[a-z_]+)?)\)$/\1/p" "$root/usr/share/bash-completion/completions/$program" |
        sed -E -e '/__help(__|$)/d' -e 's/__(subcmd__)?/-/g' | LC_ALL=C sort >"$work/commands"
    (cd "$root/usr/share/man/man1" && find . -name '*.1.gz' -printf '%f\n' | sed 's/\.1\.gz$//' | LC_ALL=C sort) >"$work/pages"
    [ -s "$work/commands" ] || fail "the completions of bash name no command"
    diff "$work/commands" "$work/pages" >&2 || fail "its man pages are not of the commands that are completed"

    for document in changelog.Debian.gz NOTICES.gz copyright; do has "usr/share/doc/$name/$document"; done
    zcat "$root/usr/share/doc/$name/changelog.Debian.gz" >"$work/changelog"
    dpkg-parsechangelog --file "$work/changelog" --show-field Version 2>&1 | grep -qx "$version-1" || fail "its changelog does not begin with $version-1"

    lintian --allow-root --fail-on error,warning "$deb" || fail "lintian is not content"
done

[ "$failures" -eq 0 ] || exit 1
printf 'test-packages: %s packages are as they should be\n' $#
