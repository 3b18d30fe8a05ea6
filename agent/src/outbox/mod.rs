//! What is kept for the server, and in which order it goes out. Pure: an index of the records in the state database,
//! which holds their bodies. Changes are planned here, committed there, and then applied here.
//!
//! Invariants:
//! - Entries are in ascending order of their numbers, and every number is below `next_seq`.
//! - Only a record below `released` is ever handed to a link, and the database has committed that number before. So an
//!   acknowledgement of any other one is of records that this database has not sent: it is an older copy of another.
//! - A record that the server has not committed leaves the outbox only by being thinned (heartbeats and logs) or as
//!   poison, and then a `void` record names it, in the same transaction.
//! - The cost of all entries stays within the budget; only command reports may go a little beyond it.

mod kind;
mod order;
mod room;
mod void;

#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, VecDeque};

use protocol::ranges::RangeSet;

pub use kind::Kind;
pub use room::Refused;
use void::Voided;

/// Room for records, by [`cost_bytes`]. SQLite leaves pages up to half empty after thinning, so that the file stays
/// within 16 MiB. It holds more than 30 days of heartbeats at the default interval.
pub const BUDGET_BYTES: u64 = 8 * 1024 * 1024;
/// With this much in unacknowledged command reports, no new commands are taken.
pub const REPORTS_HIGH_BYTES: u64 = 1024 * 1024;
/// Bytes that sequence and connection number add to a stored body, at most.
pub(crate) const STAMP_BYTES: usize = 12;

/// What the server, and the link, are known to have of a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Standing {
    /// To be sent, once it is released; may have been sent before.
    Pending,
    /// Handed to the link, not acknowledged by the server.
    Sent,
    /// Committed by the server.
    Acked,
}

/// One record of the index.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Entry {
    seq: u64,
    /// Length of the stored body.
    body_bytes: u32,
    kind: Kind,
    standing: Standing,
}

impl Entry {
    fn cost(self) -> u64 {
        cost_bytes(self.body_bytes as usize)
    }
}

/// A record as the database stores it: the body has 0 for sequence and connection number.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Row {
    /// Sequence number.
    pub seq: u64,
    /// What it is.
    pub kind: Kind,
    /// The encoded record.
    pub body: Vec<u8>,
}

/// What one transaction changes: to be committed by the database, then given to [`Outbox::apply`].
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Change {
    /// Records that go, ascending.
    pub delete: Vec<u64>,
    /// Records that come, ascending.
    pub insert: Vec<Row>,
    /// The next number afterwards.
    pub next_seq: u64,
    /// What the server has committed, if that is to be stored too.
    pub committed: Option<RangeSet>,
    /// Below which number records may be handed to a link from now on, if that is to be stored too.
    pub released: Option<u64>,
    /// What the index notes besides; of no concern to the database.
    pub(crate) notes: Notes,
}

/// The part of a [`Change`] that only the index needs.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Notes {
    /// The windows of void records that this writes anew; see `void.rs`.
    voided: Vec<(u64, Voided)>,
    /// Where the next thinning begins.
    thin_from: Option<u64>,
}

/// What the index is made of when the database is opened.
#[derive(Debug, Clone, Default)]
pub struct Loaded {
    /// The next number.
    pub next_seq: u64,
    /// What the server had committed when that was last stored.
    pub committed: RangeSet,
    /// Below which number records may have been handed to a link.
    pub released: u64,
    /// Number, kind and body length of every record, ascending.
    pub records: Vec<(u64, Kind, u32)>,
    /// Every `void` record with the numbers that it names.
    pub voids: Vec<(u64, RangeSet)>,
}

/// What an acknowledgement means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// It fits what was sent.
    Fits,
    /// It covers numbers that were not released: the database is an older copy, or somebody else has one too. A new
    /// state id is due.
    NotOurs,
}

/// The index.
#[derive(Debug)]
pub struct Outbox {
    entries: VecDeque<Entry>,
    next_seq: u64,
    committed: RangeSet,
    committed_is_stored: bool,
    released: u64,
    budget_bytes: u64,
    cost_bytes: u64,
    /// Entries before this position are acknowledged or sent: where the search for the oldest waiting one begins.
    waiting_from: usize,
    thin_from: u64,
    /// What must be told of each window; see `void.rs`.
    voids: BTreeMap<u64, Voided>,
    /// Every void record, acknowledged or not, with the first number that it names: its place in the order of sending.
    void_places: BTreeMap<u64, u64>,
}

impl Outbox {
    /// The index of an opened database.
    #[must_use]
    pub fn load(loaded: Loaded, budget_bytes: u64) -> Self {
        let mut outbox = Self {
            entries: VecDeque::with_capacity(loaded.records.len()),
            next_seq: loaded.next_seq,
            committed: RangeSet::new(),
            committed_is_stored: true,
            released: loaded.released,
            budget_bytes,
            cost_bytes: 0,
            waiting_from: 0,
            thin_from: 0,
            voids: BTreeMap::new(),
            void_places: BTreeMap::new(),
        };
        for (seq, kind, body_bytes) in loaded.records {
            if kind == Kind::Void {
                outbox.void_places.insert(seq, seq);
            }
            outbox.push(Entry { seq, body_bytes, kind, standing: Standing::Pending });
        }
        for (seq, gone) in &loaded.voids {
            outbox.place_void(*seq, gone);
            if !loaded.committed.contains(*seq) {
                void::remember(&mut outbox.voids, *seq, gone);
            }
        }
        outbox.take_committed(&loaded.committed);
        outbox.committed_is_stored = true;
        outbox
    }

    /// The number that the next new record will have.
    #[must_use]
    pub fn next_seq(&self) -> u64 {
        self.next_seq
    }

    /// What the server is known to have committed.
    #[must_use]
    pub fn committed(&self) -> &RangeSet {
        &self.committed
    }

    /// Whether there are records that may not be sent yet, since nothing on the disk says that they may have been.
    #[must_use]
    pub fn has_unreleased(&self) -> bool {
        self.entries.back().is_some_and(|entry| entry.seq >= self.released)
    }

    /// Records that the server has not committed.
    #[must_use]
    pub fn depth(&self) -> usize {
        self.entries.iter().filter(|entry| entry.standing != Standing::Acked).count()
    }

    /// The cost of records that the server has not committed, in bytes.
    #[must_use]
    pub fn unacked_bytes(&self) -> u64 {
        let unacked = |entry: &&Entry| entry.standing != Standing::Acked;
        self.entries.iter().filter(unacked).map(|entry| entry.cost()).sum()
    }

    /// Whether new commands may be taken: their reports have room.
    #[must_use]
    pub fn takes_commands(&self) -> bool {
        let reports = |entry: &&Entry| entry.kind == Kind::Report && entry.standing != Standing::Acked;
        self.entries.iter().filter(reports).map(|entry| entry.cost()).sum::<u64>() < REPORTS_HIGH_BYTES
    }

    /// The cost of everything kept, in bytes.
    #[must_use]
    pub fn cost_bytes(&self) -> u64 {
        self.cost_bytes
    }

    /// What a record is and how long its body is, if it is still here.
    #[must_use]
    pub fn get(&self, seq: u64) -> Option<(Kind, usize)> {
        self.position(seq).map(|at| (self.entries[at].kind, self.entries[at].body_bytes as usize))
    }

    /// Whether a record is here and the server is not known to have it.
    #[must_use]
    pub fn is_undelivered(&self, seq: u64) -> bool {
        self.position(seq).is_some_and(|at| self.entries[at].standing != Standing::Acked)
    }

    /// Records that a new state must take over: not committed, and not about numbers of the old state. Ascending.
    #[must_use]
    pub fn to_take_over(&self) -> Vec<u64> {
        let takes = |entry: &&Entry| entry.standing != Standing::Acked && entry.kind != Kind::Void;
        self.entries.iter().filter(takes).map(|entry| entry.seq).collect()
    }

    /// Takes over a change that the database has committed.
    pub fn apply(&mut self, change: &Change) {
        if !change.delete.is_empty() {
            let mut cost = self.cost_bytes;
            self.entries.retain(|entry| {
                let goes = change.delete.binary_search(&entry.seq).is_ok();
                if goes {
                    cost -= entry.cost();
                }
                !goes
            });
            self.cost_bytes = cost;
            self.waiting_from = 0;
            self.void_places.retain(|seq, _| change.delete.binary_search(seq).is_err());
        }
        for row in &change.insert {
            // A body is limited to 256 KiB.
            let body_bytes = u32::try_from(row.body.len()).unwrap_or(u32::MAX);
            self.push(Entry { seq: row.seq, body_bytes, kind: row.kind, standing: Standing::Pending });
        }
        self.next_seq = self.next_seq.max(change.next_seq);
        if let Some(released) = change.released {
            self.release(released);
        }
        for (window, voided) in &change.notes.voided {
            voided.iter().for_each(|(seq, gone)| self.place_void(*seq, gone));
            self.voids.insert(*window, voided.clone());
        }
        if let Some(from) = change.notes.thin_from {
            self.thin_from = from;
        }
        if change.committed.as_ref() == Some(&self.committed) {
            self.committed_is_stored = true;
        }
    }

    /// The database has committed that records below this number may be handed to a link.
    pub fn release(&mut self, below: u64) {
        let held_back_from = self.entries.partition_point(|entry| entry.seq < self.released);
        self.waiting_from = self.waiting_from.min(held_back_from);
        self.released = self.released.max(below);
    }

    /// Whether `ranges` can be an acknowledgement of this database's records.
    #[must_use]
    pub fn judge(&self, ranges: &RangeSet) -> Verdict {
        let is_foreign = ranges.max().is_some_and(|max| max >= self.released);
        if is_foreign { Verdict::NotOurs } else { Verdict::Fits }
    }

    /// Takes in the whole set of what the server has committed. Records that it no longer covers wait again.
    pub fn take_committed(&mut self, ranges: &RangeSet) {
        if *ranges == self.committed {
            return;
        }
        let slice = ranges.as_slice();
        let mut at = 0;
        for entry in &mut self.entries {
            while slice.get(at).is_some_and(|range| range.1 < entry.seq) {
                at += 1;
            }
            let covered = slice.get(at).is_some_and(|range| range.0 <= entry.seq);
            match (covered, entry.standing) {
                (true, _) => entry.standing = Standing::Acked,
                (false, Standing::Acked) => entry.standing = Standing::Pending,
                (false, _) => {}
            }
        }
        self.waiting_from = 0;
        void::forget_committed(&mut self.voids, ranges);
        self.committed = ranges.clone();
        self.committed_is_stored = false;
    }

    /// To be sent, and it may be.
    fn is_waiting(&self, entry: &Entry) -> bool {
        entry.standing == Standing::Pending && entry.seq < self.released
    }

    fn place_void(&mut self, seq: u64, gone: &RangeSet) {
        // One that cannot be read names nothing: it stands where it is.
        self.void_places.insert(seq, gone.as_slice().first().map_or(seq, |first| first.0));
    }

    fn push(&mut self, entry: Entry) {
        self.cost_bytes += entry.cost();
        self.entries.push_back(entry);
    }

    fn position(&self, seq: u64) -> Option<usize> {
        self.entries.binary_search_by_key(&seq, |entry| entry.seq).ok()
    }
}

/// What a stored body of this length costs: its share of the database's pages.
#[must_use]
pub fn cost_bytes(body_bytes: usize) -> u64 {
    const PAGE: usize = 4096;
    const ROW: usize = 16;
    match PAGE / (body_bytes + ROW) {
        0 => ((body_bytes + ROW).div_ceil(PAGE - ROW) * PAGE) as u64,
        in_a_page => PAGE.div_ceil(in_a_page) as u64,
    }
}
