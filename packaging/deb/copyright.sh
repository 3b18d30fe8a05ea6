#!/usr/bin/env bash
# `copyright.sh agent|fleetd|broker TRIPLE FOLDER` writes the package's FOLDER/copyright, and into FOLDER/NOTICES the licences of all libraries
# that are compiled in, each text once, with the libraries that it came with.
set -euo pipefail
cd "$(dirname "$0")/../.."
package=$1 triple=$2 folder=$3
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

# name TAB version TAB licence, of what runs in the program.
cargo tree --locked --package "$package" --edges normal,no-proc-macro --target "$triple" --prefix none --no-dedupe --format '{p}|{l}' |
    grep -v '(/' | sed -E 's/^([^ ]+) v([^ |]+)[^|]*\|/\1\t\2\t/' | LC_ALL=C sort -u >"$work/libraries"
# name TAB version TAB folder, of everything in the lock file.
cargo metadata --locked --format-version 1 --filter-platform "$triple" |
    jq -r '.packages[] | [.name, .version, (.manifest_path | rtrimstr("/Cargo.toml"))] | @tsv' >"$work/folders"

# A text for a field: indented, a dot for an empty line.
indented() { sed -e 's/[[:space:]]*$//' -e 's/^$/./' -e 's/^/ /'; }

{
    cat <<'TEXT'
Format: https://www.debian.org/doc/packaging-manuals/copyright-format/1.0/
Upstream-Name: R58 Fleet
Comment:
 These libraries are compiled into the program. Their licences are in the file NOTICES.gz beside this one.
 .
TEXT
    awk -F '\t' '{ printf " %s %s: %s\n", $1, $2, $3 }' "$work/libraries"
    printf '\nFiles: *\nCopyright: %s\nLicense: MIT or Apache-2.0\n' "$(sed -n 's/^Copyright (c) //p' LICENSE-MIT)"
    printf '\nLicense: MIT\n'
    sed -n '/^Permission is hereby/,$p' LICENSE-MIT | indented
    printf '\nLicense: Apache-2.0\n On Debian systems the text is in /usr/share/common-licenses/Apache-2.0.\n'
} >"$folder/copyright"

# Texts that differ in blanks alone are one.
mkdir "$work/texts" "$work/users"
while IFS=$'\t' read -r name version _; do
    source=$(awk -F '\t' -v name="$name" -v version="$version" '$1 == name && $2 == version { print $3; exit }' "$work/folders")
    find "$source" -maxdepth 1 -type f \( -iname 'licen[cs]e*' -o -iname 'copying*' -o -iname 'copyright*' -o -iname 'notice*' -o -iname 'unlicense*' \) |
        LC_ALL=C sort | while read -r text; do
        key=$(tr -d '[:space:]' <"$text" | sha256sum | cut -c1-32)
        [ -e "$work/texts/$key" ] || cp "$text" "$work/texts/$key"
        echo "$name $version" >>"$work/users/$key"
    done
done <"$work/libraries"
for users in "$work"/users/*; do
    printf '%s\n\n' "$(LC_ALL=C sort -u "$users" | paste -sd, | sed 's/,/, /g' | fold -s -w 100)"
    cat "$work/texts/$(basename "$users")"
    printf '\n\n%s\n\n' ----------------------------------------------------------------------
done >"$folder/NOTICES"
