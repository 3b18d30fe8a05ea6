//! One device's part of a batch, as it grows: statements for one transaction, and what follows from its commit.

use std::collections::BTreeMap;

use protocol::{id::StateId, topic::Uplink};

use super::{Loaded, Reply};
use crate::{
    domain::{
        lane::{Stored, Taken},
        sample::Sample,
    },
    store::{
        Statement,
        device_state::{self, Heard},
        heartbeats::Insert,
        records::{self, Committed},
        reports,
    },
};

/// What is to be written.
pub(super) struct Draft {
    /// When the batch is taken, ms since 1970.
    pub(super) now: i64,
    insert: Insert,
    pub(super) statements: Vec<Statement>,
    pub(super) replies: Vec<Reply>,
    /// An acknowledgement is due.
    pub(super) acknowledge: bool,
    /// It follows a birth, so it carries everything.
    pub(super) full_ack: bool,
    /// The device's view changes.
    pub(super) changed: bool,
    /// Records stored, by kind.
    pub(super) kinds: BTreeMap<&'static str, u64>,
    /// Commands that this batch moves.
    pub(super) touched: super::commands::Touched,
    /// Heartbeats that are not among the statements yet.
    heartbeats: Vec<Sample>,
    /// The newest sign of life among them, by the time at which it was taken.
    alive: Option<i64>,
    /// Poison was stored.
    poisoned: bool,
    /// The committed set has grown since it was last sealed.
    grown: bool,
    /// Committed sets of state databases that this batch has left.
    left: BTreeMap<StateId, Committed>,
}

impl Draft {
    pub(super) fn new(now: i64, insert: Insert) -> Self {
        Self {
            now,
            insert,
            statements: Vec::new(),
            replies: Vec::new(),
            acknowledge: false,
            full_ack: false,
            changed: false,
            kinds: BTreeMap::new(),
            touched: super::commands::Touched::default(),
            heartbeats: Vec::new(),
            alive: None,
            poisoned: false,
            grown: false,
            left: BTreeMap::new(),
        }
    }

    pub(super) fn birth(&mut self, loaded: &mut Loaded, ip_address: Option<&str>) {
        self.heard(loaded);
        let Some(born) = &loaded.lane.born else { return };
        self.statements.push(device_state::put_birth(&loaded.key, &born.birth, ip_address, self.now));
        self.acknowledge = true;
        self.full_ack = true;
        self.changed = true;
        if loaded.lane.was_lost() {
            self.lost(loaded);
        }
    }

    pub(super) fn lost(&mut self, loaded: &mut Loaded) {
        self.heard(loaded);
        let Some(born) = &loaded.lane.born else { return };
        let birth = &born.birth;
        let state_id = birth.state_id.to_string();
        self.statements.push(device_state::put_will(&loaded.key, &state_id, birth.connection, self.now));
    }

    pub(super) fn records(&mut self, loaded: &Loaded, uplink: Option<Uplink>, taken: Taken) {
        let Some(born) = &loaded.lane.born else { return };
        self.acknowledge |= taken.acknowledge;
        self.grown |= !taken.stored.is_empty();
        let (key, state_id, now) = (&loaded.key, born.birth.state_id, self.now);
        for stored in taken.stored {
            let kind = match stored {
                Stored::Alive(at) => {
                    self.alive = self.alive.max(Some(at));
                    self.changed = true;
                    continue;
                }
                Stored::Heartbeat(sample) => {
                    self.heartbeats.push(*sample);
                    self.changed = true;
                    "heartbeat"
                }
                Stored::Report(report) => {
                    self.statements.push(reports::put_report(key, state_id, &report, now));
                    "status"
                }
                Stored::Reported(reported) => {
                    self.statements.push(device_state::put_reported(key, &reported, now));
                    "reported"
                }
                Stored::Log(batch) => {
                    self.statements.extend(reports::put_log(key, state_id, &batch, now));
                    "log"
                }
                Stored::Event(event) => {
                    self.statements.push(reports::put_event(key, state_id, &event, now));
                    "event"
                }
                Stored::Poison { seq, raw, size_bytes, reason } => {
                    let topic = super::topic_label(uplink);
                    let put = records::put_poison(key, state_id, seq, topic, &raw, size_bytes, &reason, now);
                    self.statements.push(put);
                    self.poisoned = true;
                    "poison"
                }
            };
            *self.kinds.entry(kind).or_default() += 1;
        }
    }

    /// Writes the heartbeats gathered so far: all into the table, of all that they say of the device the newest.
    fn heard(&mut self, loaded: &mut Loaded) {
        let samples = std::mem::take(&mut self.heartbeats);
        let heard = self.alive.take().map_or(Heard::Spooled, Heard::Connected);
        // Of two that were taken at the same time the later one counts.
        if let Some(latest) = samples.iter().max_by_key(|sample| sample.at) {
            let day = self.insert.day();
            if loaded.heard_on.replace(day) != Some(day) {
                self.statements.push(self.insert.keep_head(&loaded.key));
            }
            self.statements.extend(self.insert.rows(&loaded.key, &samples));
            self.statements.push(device_state::put_heard(&loaded.key, latest, heard, day));
        }
    }

    /// What has to be done once at the end of the batch.
    pub(super) fn finish(&mut self, loaded: &mut Loaded) {
        self.heard(loaded);
        self.seal_committed(loaded);
        if self.poisoned {
            self.statements.push(records::trim_poison(&loaded.key));
        }
    }

    /// Writes the committed set of the present state database, if it has grown.
    pub(super) fn seal_committed(&mut self, loaded: &mut Loaded) {
        let Some(born) = &loaded.lane.born else { return };
        let (state_id, ranges) = (born.birth.state_id, &loaded.lane.committed);
        if std::mem::take(&mut self.grown) {
            let put = records::put_committed(&loaded.key, state_id, ranges, loaded.revision, self.now);
            self.statements.push(put);
            loaded.revision += 1;
        }
    }

    /// Remembers the committed set of a state database that a birth may leave.
    pub(super) fn leave(&mut self, loaded: &Loaded) {
        if let Some(born) = &loaded.lane.born {
            let committed = Committed { ranges: loaded.lane.committed.clone(), revision: loaded.revision };
            self.left.insert(born.birth.state_id, committed);
        }
    }

    /// The committed set of a state database that this batch has left.
    pub(super) fn sealed(&self, state_id: StateId) -> Option<Committed> {
        self.left.get(&state_id).cloned()
    }
}
