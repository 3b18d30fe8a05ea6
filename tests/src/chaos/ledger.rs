//! What the test itself knows at the end of a run: what it asked for, what it took away from the server, what was done to
//! the machines. Kept as a file in the run's folder, so that the checker can be asked again.

use std::collections::BTreeMap;
use std::path::Path;

use protocol::ranges::RangeSet;
use serde::{Deserialize, Serialize};

use super::plan::Kind;

/// What an operator asked for, and what is known of the answer.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Asked {
    /// Its number in the plan.
    pub number: usize,
    /// The device.
    pub device: String,
    /// What is to happen.
    pub effect: Effect,
    /// The operator was told that it is accepted, under this id.
    pub accepted: Option<String>,
    /// Why it was refused, if it was.
    pub refused: Option<String>,
}

impl Asked {
    /// The operator's own name for it.
    #[must_use]
    pub fn reference(number: usize) -> String {
        format!("c{number}")
    }
}

/// How the effect of a request is seen.
#[derive(Debug, Clone, Serialize, Deserialize, PartialEq, Eq)]
pub enum Effect {
    /// Not at all.
    Unseen,
    /// This line in the machine's list; with `fails`, the command ends badly all the same.
    Line {
        /// The line.
        line: String,
        /// It ends as `failed`.
        fails: bool,
    },
    /// One of the machine's reboots.
    Reboot,
    /// This value of the config's key.
    Config(u64),
}

impl Effect {
    /// Of a request.
    #[must_use]
    pub fn of(kind: Kind, number: usize) -> Self {
        let line = |line: String, fails| Self::Line { line, fails };
        match kind {
            Kind::Ping | Kind::RotateToken | Kind::NoScript => Self::Unseen,
            Kind::Script(tenths) => line(format!("work-{tenths} c{number}"), false),
            Kind::FailingScript => line(format!("fails c{number}"), true),
            Kind::Restart => line(format!("restart {}", unit(number)), false),
            Kind::Reboot => Self::Reboot,
            Kind::Config => Self::Config(config_value(number)),
        }
    }
}

/// The unit that the restart of this number names.
#[must_use]
pub fn unit(number: usize) -> String {
    format!("unit-{number}")
}

/// The value that the config change of this number sets.
#[must_use]
pub fn config_value(number: usize) -> u64 {
    1000 + number as u64
}

/// A command that a restore has made the server forget.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Forgotten {
    /// Its id.
    pub id: String,
    /// The operator's name for it.
    pub reference: Option<String>,
    /// Its device.
    pub device: String,
}

/// Everything that the checker is told besides the database and the agents' files.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Ledger {
    /// The devices.
    pub devices: Vec<String>,
    /// What was asked for, by number.
    pub asked: Vec<Asked>,
    /// What restores have made the server forget: device, state id, numbers.
    pub forgotten: BTreeMap<String, BTreeMap<String, Vec<(u64, u64)>>>,
    /// Commands that restores have made the server forget.
    pub forgotten_commands: Vec<Forgotten>,
    /// What was done to each machine, in order.
    pub effects: BTreeMap<String, Vec<String>>,
    /// How often the power of each device was cut.
    pub power_cuts: BTreeMap<String, usize>,
    /// The value of the config's key on each device, if it was ever changed.
    pub config: BTreeMap<String, u64>,
}

impl Ledger {
    /// Notes what a restore takes away: what was committed before it, and what is in the backup.
    pub fn forget(&mut self, device: &str, state: &str, before: &RangeSet, backup: &RangeSet) {
        let entry = self.forgotten.entry(device.to_owned()).or_default().entry(state.to_owned()).or_default();
        let mut all: RangeSet = entry.iter().copied().collect();
        for &(lo, hi) in before.as_slice() {
            (lo..=hi).filter(|seq| !backup.contains(*seq)).for_each(|seq| {
                all.insert(seq);
            });
        }
        *entry = all.as_slice().to_vec();
    }

    /// Whether a restore has taken this record away.
    #[must_use]
    pub fn forgot(&self, device: &str, state: &str, seq: u64) -> bool {
        let ranges = self.forgotten.get(device).and_then(|states| states.get(state));
        ranges.is_some_and(|ranges| ranges.iter().any(|(lo, hi)| (*lo..=*hi).contains(&seq)))
    }

    /// Writes it into the run's folder.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn write(&self, folder: &Path) -> std::io::Result<()> {
        let text = serde_json::to_string_pretty(self).map_err(std::io::Error::other)?;
        std::fs::write(folder.join("ledger.json"), text)
    }

    /// Reads it from the run's folder.
    ///
    /// # Errors
    /// The file cannot be read.
    pub fn read(folder: &Path) -> std::io::Result<Self> {
        serde_json::from_slice(&std::fs::read(folder.join("ledger.json"))?).map_err(std::io::Error::other)
    }
}
