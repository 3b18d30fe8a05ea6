//! The device's state folder: what its database and the number beside it hold once they were fsynced. It stands for
//! `agent::state`, whose own tests kill real processes at every write.

use std::collections::BTreeMap;

use agent::command::Entry;
use agent::outbox::{Change, Kind, Loaded, Row};
use protocol::id::{CommandId, StateId};
use protocol::message::{Desired, Event, Reported, Void};
use protocol::ranges::RangeSet;

/// The state database.
#[derive(Debug, Clone)]
pub(crate) struct Disk {
    pub(crate) state_id: StateId,
    pub(crate) next_seq: u64,
    /// Records below this number may have been sent.
    pub(crate) released: u64,
    pub(crate) connection: u64,
    pub(crate) journal_number: u64,
    pub(crate) committed: RangeSet,
    pub(crate) outbox: BTreeMap<u64, Row>,
    /// Each command with the number of its last change.
    pub(crate) journal: BTreeMap<CommandId, (u64, Entry)>,
    pub(crate) desired: Option<Desired>,
    pub(crate) reported: Option<Reported>,
}

/// The folder.
#[derive(Debug, Clone, Default)]
pub(crate) struct Folder {
    pub(crate) disk: Option<Disk>,
    /// The highest journal number in use, by the file beside the database.
    pub(crate) high: Option<u64>,
}

impl Folder {
    /// As `State::open`: a database that is behind the number beside it is set aside. `new_id` is for a new database.
    /// Returns whether one was set aside.
    pub(crate) fn open(&mut self, new_id: StateId) -> bool {
        let high = self.high.unwrap_or(0);
        let behind = self.disk.as_ref().is_some_and(|disk| disk.journal_number < high);
        if behind || self.disk.is_none() {
            self.disk = Some(Disk {
                state_id: new_id,
                next_seq: 1,
                released: 1,
                connection: 0,
                journal_number: high,
                committed: RangeSet::new(),
                outbox: BTreeMap::new(),
                journal: BTreeMap::new(),
                desired: None,
                reported: None,
            });
        }
        behind
    }
}

impl Disk {
    pub(crate) fn load(&self) -> Loaded {
        let voids = self.outbox.values().filter(|row| row.kind == Kind::Void);
        Loaded {
            next_seq: self.next_seq,
            released: self.released,
            committed: self.committed.clone(),
            records: self
                .outbox
                .values()
                .map(|row| (row.seq, row.kind, u32::try_from(row.body.len()).unwrap_or(u32::MAX)))
                .collect(),
            voids: voids.map(|row| (row.seq, gone(&row.body))).collect(),
        }
    }

    pub(crate) fn open_commands(&self) -> Vec<Entry> {
        self.journal.values().map(|(_, entry)| entry).filter(|entry| entry.state.is_open()).cloned().collect()
    }

    /// As `write_change`.
    pub(crate) fn write(&mut self, change: &Change) {
        for seq in &change.delete {
            self.outbox.remove(seq);
        }
        self.outbox.extend(change.insert.iter().map(|row| (row.seq, row.clone())));
        self.next_seq = self.next_seq.max(change.next_seq);
        self.released = self.released.max(change.released.unwrap_or(0));
        if let Some(committed) = &change.committed {
            self.committed = committed.clone();
        }
    }

    /// As `State::journal`: returns the change's number.
    pub(crate) fn journal(&mut self, entry: Entry) -> u64 {
        self.journal_number += 1;
        self.journal.insert(entry.id.clone(), (self.journal_number, entry));
        self.journal_number
    }

    /// As `State::renew`.
    pub(crate) fn renew(&mut self, take_over: &[u64], new_id: StateId) {
        let mut kept = BTreeMap::new();
        for (seq, from) in (1u64..).zip(take_over) {
            if let Some(row) = self.outbox.remove(from) {
                kept.insert(seq, Row { seq, ..row });
            }
        }
        self.state_id = new_id;
        self.next_seq = kept.len() as u64 + 1;
        self.released = 1;
        self.outbox = kept;
        self.committed = RangeSet::new();
        self.journal.values_mut().for_each(|(_, entry)| entry.record_seq = 0);
    }

    /// What its void records name.
    pub(crate) fn voided(&self) -> RangeSet {
        let mut all = RangeSet::new();
        for row in self.outbox.values().filter(|row| row.kind == Kind::Void) {
            all.extend(&gone(&row.body));
        }
        all
    }
}

/// What a void record names.
pub(crate) fn gone(body: &[u8]) -> RangeSet {
    let mut gone = RangeSet::new();
    if let Ok(event) = protocol::codec::decode::<Event>(body, Kind::Void.max_record_bytes()) {
        event.void.iter().filter_map(Void::gone).for_each(|set| gone.extend(&set));
    }
    gone
}
