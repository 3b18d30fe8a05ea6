//! What was measured, as a table for `docs/networks.md`.

use std::collections::BTreeMap;
use std::time::Duration;

use super::course::Seen;
use super::venue::Counted;

/// One scenario.
#[derive(Debug)]
pub(super) struct Row {
    pub(super) name: &'static str,
    what: &'static str,
    lasts: Duration,
    /// While the fault lasted.
    pub(super) seen: Seen,
    /// From the end of the fault to the first new heartbeat in the database.
    pub(super) online: Option<Duration>,
    /// From the end of the fault until everything from before had arrived.
    pub(super) drained: Option<Duration>,
    /// Spooled, stored.
    pub(super) records: Option<(u64, u64)>,
    pub(super) commands: Option<Commands>,
    /// Attempts and connections that failed.
    pub(super) attempts: Option<usize>,
    pub(super) counted: Option<Counted>,
    /// Processor time, KiB of memory.
    pub(super) cost: Option<(Duration, u64)>,
}

/// What became of commands.
#[derive(Debug)]
pub(super) struct Commands {
    pub(super) asked: usize,
    pub(super) ended: BTreeMap<String, usize>,
}

/// The table's head.
const HEAD: &str = "\
| scenario | what happens | for | noticed by device, server | link during it, after | commands of meanwhile ended after | online again | backlog drained \
| records made, stored, thinned | commands | failed attempts | SYN packets, bytes up, down | processor, memory |
|---|---|--:|--:|--:|--:|--:|--:|--:|---|--:|--:|--:|
";

impl Row {
    pub(super) fn new(name: &'static str, what: &'static str, lasts: Duration) -> Self {
        Self {
            name,
            what,
            lasts,
            seen: Seen::default(),
            online: None,
            drained: None,
            records: None,
            commands: None,
            attempts: None,
            counted: None,
            cost: None,
        }
    }

    /// Over which link the device was connected, and how long it took to find it.
    fn link(&self) -> String {
        let all: Vec<&str> = self.seen.rungs.iter().map(String::as_str).collect();
        match (self.seen.back, &self.seen.last_rung) {
            (Some(back), _) => format!("{}, {}", all.join(" and "), seconds(Some(back))),
            // It was never lost, or nobody noticed.
            (None, Some(link)) => link.clone(),
            (None, None) => "none".to_owned(),
        }
    }

    fn line(&self) -> String {
        let records = self.records.map_or_else(dash, |(spooled, stored)| {
            format!("{spooled}, {stored}, {}", spooled.saturating_sub(stored))
        });
        let commands = self.commands.as_ref().map_or_else(dash, |commands| {
            let ended: Vec<String> = commands.ended.iter().map(|(end, n)| format!("{n} {end}")).collect();
            format!("{} asked: {}", commands.asked, ended.join(", "))
        });
        let counted = self.counted.map_or_else(dash, |counted| {
            format!("{}, {} kB, {} kB", counted.attempts, counted.up / 1000, counted.down / 1000)
        });
        let cost = self.cost.map_or_else(dash, |(cpu, kib)| {
            format!("{:.1} s, {:.1} MiB", cpu.as_secs_f64(), kib as f64 / 1024.0)
        });
        let attempts = self.attempts.map_or_else(dash, |attempts| attempts.to_string());
        format!(
            "| `{}` | {} | {} | {}, {} | {} | {} | {} | {} | {records} | {commands} | {attempts} | {counted} | {cost} |\n",
            self.name,
            self.what,
            length(self.lasts),
            seconds(self.seen.noticed),
            seconds(self.seen.offline),
            self.link(),
            seconds(self.seen.commands),
            seconds(self.online),
            seconds(self.drained),
        )
    }
}

/// All rows, in their order.
pub(super) fn table(rows: &[Row]) -> String {
    HEAD.chars().chain(rows.iter().flat_map(|row| row.line().chars().collect::<Vec<_>>())).collect()
}

fn dash() -> String {
    "–".to_owned()
}

fn seconds(time: Option<Duration>) -> String {
    time.map_or_else(dash, |time| format!("{:.1} s", time.as_secs_f64()))
}

fn length(time: Duration) -> String {
    match time.as_secs() {
        0 => dash(),
        s if s >= 24 * 3600 => format!("{} days", s / 24 / 3600),
        s if s % 60 == 0 => format!("{} min", s / 60),
        s => format!("{s} s"),
    }
}
