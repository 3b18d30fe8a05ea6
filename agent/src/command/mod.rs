//! What becomes of commands on this device. Pure: no database, no effect, no clock inside; it takes the time and what
//! has happened, and says what to do next, one [`Step`] at a time.
//!
//! Every change of an entry is planned as a [`Write`], committed to the state database together with its report, and
//! only then taken over by [`Commands::applied`]: what the database has not committed has not happened.
//!
//! Invariants:
//! - An effect begins only after `running` was committed, and at most once for each id: an entry that is `running`
//!   when the agent starts is probed, never run again.
//! - Nothing leaves a terminal state. Each report's number is one higher than the one before.
//! - At most one disruptive effect at a time, and none while [`show_mode::hold`] finds a reason against it, asked again
//!   with a fresh look at the application immediately before.
//! - A command that is held holds back no other.
//! - After a start nothing begins before a server has recognised the state: the whole folder may be an older copy, from
//!   before an effect, or even from before its command, which the server then says again. For the same reason nothing is
//!   said to end without its effect before then.

pub mod clock;
mod entry;
mod hear;
mod queue;
pub mod show_mode;
mod work;

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;

use protocol::command::{CommandState, open_digest};
use protocol::id::CommandId;
use serde::{Deserialize, Serialize};

pub use entry::{Entry, Moment, Words, Write};
pub use hear::{Heard, accepted, id_of};
pub use show_mode::{Facts, Hold, Wanted};
pub use work::{End, Probe};

use show_mode::Lease;
use work::{Lane, Work};

/// Commands that may be open at a time; each may have 64 KiB.
pub const MOST_OPEN: usize = 128;

/// What to do next.
#[derive(Debug, Clone, PartialEq)]
pub enum Step {
    /// Commit this, then call [`Commands::applied`].
    Write(Box<Write>),
    /// Check the payload once more and note what the effect will change; then [`Commands::prepared`].
    Prepare(CommandId),
    /// Look at the application; then [`Commands::looked`].
    Look(CommandId),
    /// Do it; then [`Commands::ended`].
    Begin(CommandId),
    /// Find out whether it was done; then [`Commands::probed`].
    Probe(CommandId),
}

/// An open command as a person on site sees it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OpenCommand {
    /// Its id.
    pub id: String,
    /// Its type.
    #[serde(rename = "type")]
    pub kind: String,
    /// Its state.
    pub state: String,
    /// Why it does not run now; absent if it does.
    pub held_reason: Option<String>,
}

/// The open commands, and what is being done about them.
#[derive(Debug, Default)]
pub struct Commands {
    open: BTreeMap<CommandId, Entry>,
    works: BTreeMap<CommandId, Work>,
    leases: BTreeMap<CommandId, Lease>,
    /// Whether the state was read from a disk that no server has recognised since. It may be an older copy of everything,
    /// which a server notices by the numbers of the records: what it holds, or is told again, may have been done.
    unrecognised: bool,
}

impl Commands {
    /// Takes over what the database has, at the start or when it had to be opened again. Effects that this process has
    /// begun go on.
    pub fn load(&mut self, open: Vec<Entry>) {
        self.open = open.into_iter().map(|entry| (entry.id.clone(), entry)).collect();
        self.works.retain(|_, work| work.is_under_way());
        self.leases.clear();
        self.unrecognised = true;
    }

    /// An open command.
    #[must_use]
    pub fn get(&self, id: &CommandId) -> Option<&Entry> {
        self.open.get(id)
    }

    /// Every open command.
    pub fn open(&self) -> impl Iterator<Item = &Entry> {
        self.open.values()
    }

    /// Whether no command is open and no effect under way.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        self.open.is_empty() && self.works.is_empty()
    }

    /// Whether a disruptive command waits, so that the application is worth a look more often.
    #[must_use]
    pub fn waits_for_the_application(&self) -> bool {
        self.open.values().any(|entry| entry.disruptive && entry.is_waiting())
    }

    /// How many safe commands wait for their turn, which comes soon.
    #[must_use]
    pub fn safe_waiting(&self) -> usize {
        self.open.values().filter(|entry| !entry.disruptive && entry.is_waiting()).count()
    }

    /// The digest of the open commands, for heartbeats.
    #[must_use]
    pub fn digest(&self) -> [u8; 4] {
        open_digest(self.open.values().map(|entry| (&entry.id, entry.state)))
    }

    /// The database has committed this.
    pub fn applied(&mut self, write: &Write) {
        let entry = &write.entry;
        let id = &entry.id;
        match entry.state {
            CommandState::Running => {
                if let Some(work) = self.works.get_mut(id) {
                    work.running_is_journalled();
                }
            }
            // Before its effect; whatever was being prepared is of no use any more.
            _ => {
                if self.works.get(id).is_some_and(|work| !work.effect_may_last()) {
                    self.works.remove(id);
                }
            }
        }
        if let Some(lease) = &write.asks {
            self.leases.insert(id.clone(), lease.clone());
        }
        if entry.state.is_open() {
            self.open.insert(id.clone(), entry.clone());
        } else {
            self.open.remove(id);
            self.leases.remove(id);
        }
    }

    /// The last report about this command was committed once more, as the record with this number.
    pub fn repeated(&mut self, id: &CommandId, record_seq: u64) {
        if let Some(entry) = self.open.get_mut(id) {
            entry.record_seq = record_seq;
        }
    }

    /// What to do now, if anything: call until there is nothing. A write that could not be committed comes again.
    pub fn poll(&mut self, facts: &Facts<'_>) -> Option<Step> {
        self.unrecognised &= !facts.connected;
        self.advance(facts).or_else(|| self.find_out(facts)).or_else(|| self.next(facts))
    }

    /// Whether what this state says of its commands may be untrue: it may be a copy from before their effects.
    fn may_be_older_copy(&self, facts: &Facts<'_>) -> bool {
        self.unrecognised && !facts.connected
    }

    /// The open commands for people, those that run first.
    #[must_use]
    pub fn describe(&self, facts: &Facts<'_>) -> Vec<OpenCommand> {
        let describe = |entry: &Entry| OpenCommand {
            id: entry.id.to_string(),
            kind: entry.command.as_ref().map(|command| command.kind.clone()).unwrap_or_default(),
            state: entry.state.to_string(),
            held_reason: self.why_waiting(entry, facts),
        };
        let mut open: Vec<&Entry> = self.open.values().collect();
        open.sort_by_key(|entry| {
            (entry.is_waiting(), entry.command.as_ref().map(|c| (c.priority, c.created_at)))
        });
        open.into_iter().map(describe).collect()
    }

    /// Why a command does not run now, for people; `None` for one that runs or is about to.
    fn why_waiting(&self, entry: &Entry, facts: &Facts<'_>) -> Option<String> {
        if !entry.is_waiting() || self.works.contains_key(&entry.id) {
            return None;
        }
        if self.unrecognised {
            return Some("server: it has not answered since the agent started".to_owned());
        }
        if let Some(ms) = entry.delay_left_ms(facts.now) {
            return Some(format!("its delay ends in {} s", ms.div_ceil(1000)));
        }
        if entry.disruptive
            && let Some(hold) = show_mode::hold(entry, facts, self.leases.get(&entry.id))
        {
            return Some(hold.text());
        }
        self.busy_with(Lane::of(entry)).map(|other| format!("busy: {other} runs"))
    }

    fn busy_with(&self, lane: Lane) -> Option<&CommandId> {
        let running = |entry: &&Entry| entry.state == CommandState::Running && Lane::of(entry) == lane;
        let worked_on = self.works.iter().find(|(_, work)| work.lane == lane).map(|(id, _)| id);
        worked_on.or_else(|| self.open.values().find(running).map(|entry| &entry.id))
    }
}
