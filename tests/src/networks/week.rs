//! The server is gone for a week by the device's clocks, and the outbox is at its limit.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::backlog::{self, Times};
use super::course::{self, Course};
use super::report::Row;

/// Its name for `--only`.
pub(super) const NAME: &str = "server-gone";
/// What happens, for the table.
pub(super) const WHAT: &str = "the server is gone for a week by the device's clocks, with a heartbeat every 5 s: more than the outbox holds";

const WEEK: Duration = Duration::from_secs(7 * 24 * 3600);
const EVERY: Duration = Duration::from_secs(5);
/// How long the agent goes on by itself before the server is back: long enough for its waits to grow.
const ALONE: Duration = Duration::from_secs(90);
/// More than the folder may ever hold (16 MiB, and the log of the last changes beside them).
const STATE_BYTES: u64 = 17 * 1024 * 1024;

/// What happens between the beginning and the comparison.
pub(super) fn middle(course: &mut Course<'_>, row: &mut Row) {
    let week_ms = i64::try_from(WEEK.as_millis()).unwrap_or(i64::MAX);
    course.site.set_clocks(-week_ms, 0);
    course.site.start();
    course.commands_end("before the server goes");

    course.note("the server goes");
    let failures = course.site.failures();
    let counted = course.site.net.counted();
    course.site.server.kill();
    course.watch(Duration::from_secs(10), |_, look| !look.connected());
    course.site.agent.stop();
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let now_ms = i64::try_from(now.as_millis()).unwrap_or(i64::MAX);
    let heartbeats = WEEK.as_secs() / EVERY.as_secs();
    let times = Times {
        from_ms: now_ms - week_ms,
        from_boot_ms: course.site.boot_ms(),
        every_ms: u64::try_from(EVERY.as_millis()).unwrap_or(u64::MAX),
    };
    let given_up = backlog::alone(&course.site.agent.state_dir(), heartbeats, times);
    let given_up = given_up.expect("the state of an agent that does not run can be written");
    course.note(&format!("a week has passed: {heartbeats} heartbeats, of which {given_up} were given up"));
    course.site.set_clocks(0, week_ms);
    course.site.start_agent();
    let seen = course.endure(ALONE, false);
    let held = course.site.state_bytes();
    if held > STATE_BYTES {
        course.complain(format!("the state folder holds {held} bytes"));
    }
    row.attempts = Some(course.site.failures() - failures);
    row.counted = Some(course.site.net.counted().since(counted));

    course.note("the server comes back");
    course.site.server.start_again();
    let cpu = course.site.agent.cpu_time();
    (row.online, row.drained) = course.recover();
    row.cost = Some((course.site.agent.cpu_time().saturating_sub(cpu), course.site.agent.own_memory_kib()));
    row.seen = seen;
    course::hold_to_pace(course, row, ALONE);
}

/// Its line in the table.
pub(super) fn row() -> Row {
    Row::new(NAME, WHAT, WEEK)
}
