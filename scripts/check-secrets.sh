#!/usr/bin/env bash
# Looks for secrets in everything that a run of the tests has written: `check-secrets.sh LOGS [OUTPUT]`. LOGS is a folder with what
# the programs have logged, OUTPUT a file with what the tests have printed. No log may have a password that the tests use, a
# session's token, the hash of a password, or 64 hexadecimal characters in a row, which all other secrets are.
set -euo pipefail
logs=$1 output=${2:-}

planted='correct horse battery|a tractor under quiet lamps|a wrong password of somebody'
session='eyJ[A-Za-z0-9_-]{10,}\.[A-Za-z0-9_-]{10,}\.'
# shellcheck disable=SC2016 # a dollar, not a variable
hash='\$argon2id?\$'
token='(^|[^0-9a-f])[0-9a-f]{64}([^0-9a-f]|$)'

# A search that can find nothing shows nothing.
for sample in 'password=correct horse battery' "$(printf 'eyJ%024d.%024d.x' 1 1)" "\$argon2id\$v=19" "token $(printf '%064d' 7)"; do
    grep -qE "$planted|$session|$hash|$token" <<<"$sample" || { echo "check-secrets: it does not find '$sample'" >&2; exit 2; }
done

count=$(find "$logs" -type f -name '*.log' | wc -l)
[ "$count" -gt 0 ] || { echo "check-secrets: no logs in $logs" >&2; exit 2; }
found=0
grep -rnEI "$planted|$session|$hash|$token" "$logs" --include='*.log' && found=1
if [ -n "$output" ] && [ -e "$output" ]; then
    grep -nE "$session|$hash" "$output" && found=1
fi
if [ "$found" -ne 0 ]; then
    echo "check-secrets: the lines above have secrets in them" >&2
    exit 1
fi
printf 'check-secrets: no secret in %s logs (%s)\n' "$count" "$(du -sh "$logs" | cut -f1)"
