#!/usr/bin/env bash
# Every shell script of the project, checked.
set -euo pipefail
cd "$(dirname "$0")/.."
git ls-files -z -- '*.sh' '.ci/run' 'packaging/deb/*inst' 'packaging/deb/*rm' \
    packaging/deb/back-off packaging/deb/old-agent 'scripts/system/*/usr/local/libexec/*' |
    xargs -0 -r shellcheck
