//! What has happened in a run: a simulation in which nothing goes wrong proves nothing.

use std::collections::BTreeMap;

use protocol::command::{CommandState, Mover};

/// Counts of what has happened, by name.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Coverage {
    /// Names and counts.
    pub happened: BTreeMap<&'static str, u64>,
    /// Commands that moved from one state to another at the server, who moved them, and whether the end before was
    /// inferred.
    moves: BTreeMap<(&'static str, &'static str, &'static str, bool), u64>,
}

/// What must be reached: each of these at least once in a run that is long enough.
const EVENTS: [&str; 49] = [
    "agent killed",
    "agent killed before a write",
    "agent killed after a write",
    "agent killed between journal and its number",
    "write refused by the device's disk",
    "device's database opened again under the process",
    "machine rebooted",
    "power cut",
    "older copy of the device's state put back",
    "older copy noticed by its numbers",
    "older copy noticed that had caught up",
    "database behind its journal number set aside",
    "device's state lost",
    "server killed",
    "server killed before a commit",
    "server killed after a commit",
    "commit lost to another",
    "server restored from a backup",
    "packet lost",
    "packet repeated",
    "packet overtaken",
    "connection lost on both sides",
    "connection lost on the device's side alone",
    "connection lost on the server's side alone",
    "line stalled",
    "broker does not confirm",
    "record of another connection left alone",
    "record stored before, acknowledged again",
    "record sent again after a restore of the server",
    "records thinned",
    "outbox full",
    "acknowledged record made room",
    "device's clock jumped forward",
    "device's clock jumped back",
    "time confirmed by NTP",
    "override",
    "cancel",
    "show lock",
    "command created as sent",
    "lease given",
    "lease given after a restore",
    "lease said again",
    "query answered by a device that does not know the command",
    "cancel came before its command",
    "command for a lost state rejected",
    "effect orphaned and done later",
    "effect never done",
    "second look found a reason",
    "late report",
];

/// The words of holds.
pub(super) const HOLDS: [&str; 6] =
    ["awaiting_desired", "clock_unconfirmed", "show_lock", "live", "app_status_unknown", "awaiting_lease"];

impl Coverage {
    pub(crate) fn count(&mut self, what: &'static str) {
        *self.happened.entry(what).or_insert(0) += 1;
    }

    pub(crate) fn moved(&mut self, from: CommandState, to: CommandState, mover: Mover, inferred: bool) {
        *self.moves.entry((from.as_str(), to.as_str(), name(mover), inferred)).or_insert(0) += 1;
    }

    /// Adds another run's counts.
    pub fn add(&mut self, other: &Self) {
        for (what, count) in &other.happened {
            *self.happened.entry(what).or_insert(0) += count;
        }
        for (moved, count) in &other.moves {
            *self.moves.entry(*moved).or_insert(0) += count;
        }
    }

    /// What has not happened although it should have: events, holds, and moves that the rules allow.
    #[must_use]
    pub fn missing(&self) -> Vec<String> {
        let events = EVENTS.iter().chain(&HOLDS).filter(|what| !self.happened.contains_key(*what));
        let events = events.map(|what| (*what).to_owned());
        let mut missing: Vec<String> = events.collect();
        for (from, to, mover, inferred) in allowed_moves() {
            if !self.moves.contains_key(&(from.as_str(), to.as_str(), name(mover), inferred)) {
                let guess = if inferred { " (inferred)" } else { "" };
                missing.push(format!("{from}{guess} → {to} by {}", name(mover)));
            }
        }
        missing
    }

    /// For people: every count.
    #[must_use]
    pub fn table(&self) -> String {
        let mut text = String::new();
        for (what, count) in &self.happened {
            text.push_str(&format!("  {count:>10}  {what}\n"));
        }
        for ((from, to, mover, inferred), count) in &self.moves {
            let guess = if *inferred { " (inferred)" } else { "" };
            text.push_str(&format!("  {count:>10}  {from}{guess} → {to} by {mover}\n"));
        }
        text
    }
}

const fn name(mover: Mover) -> &'static str {
    match mover {
        Mover::Server => "server",
        Mover::Inference => "inference",
        Mover::Device => "device",
    }
}

/// Every move that the rules allow at the server.
fn allowed_moves() -> impl Iterator<Item = (CommandState, CommandState, Mover, bool)> {
    let movers = [Mover::Server, Mover::Inference, Mover::Device];
    let pairs = CommandState::ALL.iter().flat_map(|from| CommandState::ALL.iter().map(|to| (*from, *to)));
    pairs.flat_map(move |(from, to)| movers.map(|mover| (from, to, mover))).flat_map(|(from, to, mover)| {
        let is_guess = from == CommandState::Indeterminate;
        from.may_become(to, mover, is_guess).then_some((from, to, mover, is_guess))
    })
}
