#!/usr/bin/env bash
# Every shell script of the project, checked.
set -euo pipefail
cd "$(dirname "$0")/.."
git ls-files -z -- '*.sh' '.ci/run' 'packaging/**/postinst' 'packaging/**/prerm' 'packaging/**/postrm' 'packaging/**/preinst' |
    xargs -0 -r shellcheck
