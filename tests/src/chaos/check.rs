//! The checker: compares what the agents say they spooled and what was done to their machines with the server's
//! database. Pure.
//!
//! - Every record that was there before the check, and that the device still holds or was told is committed, is stored;
//!   once; as it was. Records that are gone are counted by the reason that allows it; another is a complaint.
//! - The server has nothing that no agent has spooled.
//! - Every command has ended, and its end goes with how often its effect was seen.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use agent::outbox::Kind;
use protocol::codec;
use protocol::message::{CommandReport, Event, Heartbeat};

use super::database::{Command, Database, Name, Stored};
use super::ledger::{Asked, Effect, Ledger};
use super::spool::{Fate, Record, Spool};

/// States in which a command stays.
pub const ENDED: [&str; 7] =
    ["completed", "failed", "timed_out", "indeterminate", "rejected", "cancelled", "expired"];

/// What was found.
#[derive(Debug, Default)]
pub struct Report {
    /// What must not be.
    pub complaints: Vec<String>,
    /// What became of the records.
    pub records: Records,
    /// Commands by how they ended, and by what else became of them.
    pub commands: BTreeMap<String, usize>,
    /// Effects that were seen.
    pub effects: usize,
    /// How often a device's state has come to another identity.
    pub new_identities: usize,
}

/// Each record is in exactly one of these, but the last two.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Records {
    /// Stored, once, as it was.
    pub stored: usize,
    /// Kept nowhere by themselves, but committed: reported configs.
    pub committed: usize,
    /// Given up by the device, which told the server.
    pub voided: usize,
    /// Not acknowledged when the test took them away with the device's state.
    pub taken_away: usize,
    /// Acknowledged; then a restore made the server forget them, and the device no longer had them.
    pub forgotten: usize,
    /// Not needed by a new identity of the state, or sent again under it.
    pub left_behind: usize,
    /// Too new for this check.
    pub too_new: usize,
    /// Spooled in all.
    pub all: usize,
}

impl Records {
    /// Where a record belongs whose number the server has from another one, of a time that an older copy of the state has
    /// undone. `forgot`: a restore has taken it from the server. None: that other one was taken for it, and it is lost.
    fn of_twin(&mut self, record: &Record, forgot: bool) -> Option<&mut usize> {
        match record.fate {
            Fate::TakenAway if !record.acked => Some(&mut self.taken_away),
            // That it goes on under another number was checked when that happened.
            Fate::LeftBehind if !record.acked => Some(&mut self.left_behind),
            Fate::TakenAway | Fate::Removed if forgot => Some(&mut self.forgotten),
            _ => None,
        }
    }
}

impl fmt::Display for Records {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { stored, committed, voided, taken_away, forgotten, left_behind, too_new, all } = self;
        write!(
            f,
            "{all} records: {stored} stored once, {committed} committed (reported configs), {voided} given up by void, \
             {taken_away} unacknowledged in a state that was taken away, {forgotten} acknowledged and forgotten by a \
             restore after their device had lost them, {left_behind} left behind by a new identity, {too_new} newer \
             than the check"
        )
    }
}

/// Compares everything. `spools` by device.
#[must_use]
pub fn check(ledger: &Ledger, spools: &BTreeMap<String, Spool>, database: &Database) -> Report {
    let mut report = Report::default();
    let mut expected: BTreeSet<Name> = BTreeSet::new();
    for device in &ledger.devices {
        let Some(spool) = spools.get(device) else {
            report.complaints.push(format!("{device}: its own record is missing"));
            continue;
        };
        report.new_identities += spool.renewed;
        for complaint in &spool.complaints {
            report.complaints.push(format!("{device}: {complaint}"));
        }
        for record in &spool.records {
            expected.insert((device.clone(), record.state.clone(), record.seq));
            report.record(ledger, device, spool, record, database);
        }
    }
    for (name, copies) in &database.records {
        if copies.len() > 1 {
            report.complaints.push(format!("{name:?}: stored {} times: {copies:?}", copies.len()));
        }
        if !expected.contains(name) {
            report.complaints.push(format!("{name:?}: stored, and no agent has spooled it: {copies:?}"));
        }
        if let Some(Stored::Poison(reason)) = copies.iter().find(|copy| matches!(copy, Stored::Poison(_))) {
            report.complaints.push(format!("{name:?}: the server cannot read it: {reason}"));
        }
    }
    report.all_commands(ledger, database);
    report
}

impl Report {
    fn record(&mut self, ledger: &Ledger, device: &str, spool: &Spool, record: &Record, database: &Database) {
        self.records.all += 1;
        let name = (device.to_owned(), record.state.clone(), record.seq);
        let of_state = database.committed.get(&(name.0.clone(), name.1.clone()));
        let committed = of_state.is_some_and(|ranges| ranges.contains(record.seq));
        let stored = database.records.get(&name);
        let forgot = ledger.forgot(device, &record.state, record.seq);
        let overlaid =
            || format!("{name:?}: another record of its number was taken for it: {:?}", record.fate);
        let counted = match stored {
            Some(copies) if copies.iter().any(|copy| is_copy(record, copy)) => &mut self.records.stored,
            Some(copies) if spool.tampered > 0 && is_of_another(spool, record, copies) => {
                match self.records.of_twin(record, forgot) {
                    Some(group) => group,
                    None => return self.complaints.push(overlaid()),
                }
            }
            Some(copies) => {
                return self.complaints.push(format!("{name:?}: stored as something else: {copies:?}"));
            }
            None if committed && record.kind == Kind::Reported => &mut self.records.committed,
            None if committed && record.fate == Fate::Removed => &mut self.records.voided,
            None if committed && spool.tampered > 0 && has_twin(spool, record) => {
                match self.records.of_twin(record, forgot) {
                    Some(group) => group,
                    None => return self.complaints.push(overlaid()),
                }
            }
            None if committed => {
                return self
                    .complaints
                    .push(format!("{name:?}: committed, and not stored: {:?}", record.fate));
            }
            None if !record.due => &mut self.records.too_new,
            None if record.fate == Fate::Held => {
                return self.complaints.push(format!("{name:?}: held by the device, and not stored"));
            }
            None if record.acked && !forgot => {
                let fate = record.fate;
                return self
                    .complaints
                    .push(format!("{name:?}: acknowledged, and not stored; on the device: {fate:?}"));
            }
            None if record.fate == Fate::LeftBehind => &mut self.records.left_behind,
            None if record.acked => &mut self.records.forgotten,
            None if record.fate == Fate::TakenAway => &mut self.records.taken_away,
            None => {
                return self.complaints.push(format!("{name:?}: removed by the agent, and not committed"));
            }
        };
        *counted += 1;
    }

    fn all_commands(&mut self, ledger: &Ledger, database: &Database) {
        let mut by_reference: BTreeMap<&str, Vec<&Command>> = BTreeMap::new();
        for command in &database.commands {
            *self.commands.entry(command.status.clone()).or_default() += 1;
            self.history(command);
            if let Some(reference) = &command.reference {
                by_reference.entry(reference).or_default().push(command);
            }
        }
        let forgotten: BTreeMap<Option<&str>, &str> =
            ledger.forgotten_commands.iter().map(|f| (f.reference.as_deref(), f.id.as_str())).collect();
        let known: BTreeSet<&str> = database.commands.iter().map(|command| command.id.as_str()).collect();
        for asked in &ledger.asked {
            let reference = Asked::reference(asked.number);
            let commands = by_reference.get(reference.as_str()).map_or(&[][..], Vec::as_slice);
            let was_forgotten = forgotten.get(&Some(reference.as_str()));
            if commands.len() > 1 {
                self.complaints.push(format!("{reference}: one request, {} commands", commands.len()));
            }
            let accepted = asked.accepted.as_deref();
            if accepted.is_some_and(|id| !known.contains(id)) && was_forgotten.is_none() {
                self.complaints
                    .push(format!("{reference}: accepted as {accepted:?}, and not in the database"));
            }
            if was_forgotten.is_some() && commands.is_empty() {
                *self.commands.entry("forgotten by a restore".to_owned()).or_default() += 1;
            }
            self.effect(ledger, asked, commands.first().copied(), was_forgotten.is_some());
        }
        self.reboots(ledger, &by_reference, &forgotten);
        self.configs(ledger, &by_reference, &forgotten);
    }

    /// The steps of one command.
    fn history(&mut self, command: &Command) {
        let Command { id, status, history, why, .. } = command;
        let name = format!("{id} ({}, {}, {why})", command.device, command.kind);
        if !ENDED.contains(&status.as_str()) {
            self.complaints.push(format!("{name}: not ended: {status}: {history:?}"));
        }
        if history.windows(2).any(|pair| pair[0].0 >= pair[1].0) {
            self.complaints.push(format!("{name}: the history's revisions do not rise: {history:?}"));
        }
        let ends: Vec<&(i64, String, String)> =
            history.iter().filter(|(_, status, _)| ENDED.contains(&status.as_str())).collect();
        // An end that the server has inferred is replaced by the device's own, once.
        let inferred_first = ends.len() == 2 && ends[0].1 == "indeterminate";
        if ENDED.contains(&status.as_str()) && ends.len() != 1 && !inferred_first {
            self.complaints.push(format!("{name}: ended {} times: {history:?}", ends.len()));
        }
    }

    fn effect(&mut self, ledger: &Ledger, asked: &Asked, command: Option<&Command>, forgotten: bool) {
        let Effect::Line { line, fails } = &asked.effect else { return };
        let reference = Asked::reference(asked.number);
        let all = ledger.effects.get(&asked.device).map_or(&[][..], Vec::as_slice);
        let seen = all.iter().filter(|effect| *effect == line).count();
        self.effects += seen;
        if seen > 1 {
            self.complaints.push(format!("{reference}: \"{line}\" was done {seen} times: {command:?}"));
            return;
        }
        let Some(command) = command else {
            // A forgotten command may have run; one that nobody accepted may not.
            if seen > 0 && !forgotten {
                self.complaints.push(format!("{reference}: \"{line}\" was done without a command"));
            }
            return;
        };
        let right = match command.status.as_str() {
            "completed" => seen == 1 && !fails,
            "indeterminate" | "timed_out" => true,
            "failed" => *fails || seen == 0,
            _ => seen == 0,
        };
        if !right && ENDED.contains(&command.status.as_str()) {
            self.complaints.push(format!("{reference}: \"{line}\" was done {seen} times: {command:?}"));
        }
    }

    /// Reboots carry no name: they are counted for each device.
    fn reboots(
        &mut self,
        ledger: &Ledger,
        commands: &BTreeMap<&str, Vec<&Command>>,
        forgotten: &BTreeMap<Option<&str>, &str>,
    ) {
        for device in &ledger.devices {
            let effects = ledger.effects.get(device).map_or(&[][..], Vec::as_slice);
            let seen = effects.iter().filter(|effect| *effect == "reboot").count();
            self.effects += seen;
            let (mut sure, mut unsure) = (0, 0);
            let asked = ledger.asked.iter().filter(|asked| asked.device == *device);
            for asked in asked.filter(|asked| asked.effect == Effect::Reboot) {
                let reference = Asked::reference(asked.number);
                let status = commands.get(reference.as_str()).map(|all| all[0].status.as_str());
                match status {
                    Some("completed") => sure += 1,
                    Some("indeterminate") => unsure += 1,
                    None if forgotten.contains_key(&Some(reference.as_str())) => unsure += 1,
                    _ => {}
                }
            }
            // A power cut reboots as well, and a reboot that was about to be made is then found done.
            let cuts = ledger.power_cuts.get(device).copied().unwrap_or(0);
            if seen + cuts < sure || seen > sure + unsure {
                self.complaints.push(format!(
                    "{device}: rebooted {seen} times; {sure} commands say so and {unsure} do not know"
                ));
            }
        }
    }

    /// The key in the config has a value that was asked for and may have been set.
    fn configs(
        &mut self,
        ledger: &Ledger,
        commands: &BTreeMap<&str, Vec<&Command>>,
        forgotten: &BTreeMap<Option<&str>, &str>,
    ) {
        for (device, value) in &ledger.config {
            let may_be = ledger.asked.iter().filter(|asked| asked.device == *device).any(|asked| {
                let reference = Asked::reference(asked.number);
                let status = commands.get(reference.as_str()).map(|all| all[0].status.as_str());
                let may_have_run = match status {
                    Some(status) => ["completed", "indeterminate"].contains(&status),
                    None => forgotten.contains_key(&Some(reference.as_str())),
                };
                asked.effect == Effect::Config(*value) && may_have_run
            });
            if !may_be {
                self.complaints.push(format!("{device}: nobody has set its config to {value}"));
            }
        }
    }
}

/// Whether this is what the device has spooled.
fn is_copy(record: &Record, stored: &Stored) -> bool {
    const LIMIT: usize = codec::limit::LARGEST_BYTES;
    match (record.kind, stored) {
        (Kind::Heartbeat, Stored::Heartbeat(ts)) => {
            codec::decode::<Heartbeat>(&record.body, LIMIT).is_ok_and(|heartbeat| heartbeat.ts == *ts)
        }
        (Kind::Report, Stored::Report(ts, id, number, state)) => {
            codec::decode::<CommandReport>(&record.body, LIMIT).is_ok_and(|report| {
                report.ts == *ts
                    && report.id.as_str() == id
                    && u64::from(report.report_seq) == *number
                    && report.state == *state
            })
        }
        (Kind::Event | Kind::Void, Stored::Event(ts, kind)) => codec::decode::<Event>(&record.body, LIMIT)
            .is_ok_and(|event| event.ts == *ts && event.kind == *kind),
        (Kind::Log, Stored::Log) => true,
        _ => false,
    }
}

/// Another record of the same number.
fn twins<'a>(spool: &'a Spool, record: &'a Record) -> impl Iterator<Item = &'a Record> {
    spool.records.iter().filter(move |other| {
        other.state == record.state && other.seq == record.seq && other.body != record.body
    })
}

fn has_twin(spool: &Spool, record: &Record) -> bool {
    twins(spool, record).next().is_some()
}

fn is_of_another(spool: &Spool, record: &Record, copies: &[Stored]) -> bool {
    twins(spool, record).any(|other| copies.iter().any(|copy| is_copy(other, copy)))
}
