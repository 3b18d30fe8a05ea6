# shellcheck shell=bash
# SQLite as the agent has it on devices: without what it has no use for but fleetd has, JSON and dates
# (docs/decisions/0022-the-size-of-the-agent.md). Read by what builds and tests the device's agent.
export CFLAGS="${CFLAGS:-} -DSQLITE_OMIT_JSON -DSQLITE_OMIT_DATETIME_FUNCS"
