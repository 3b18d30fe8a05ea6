//! What everything in a simulated world shares: chance, time, what happened, and what is known to be true.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use protocol::id::{CommandId, StateId};
use protocol::ranges::RangeSet;

use super::bug::Bug;
use super::coverage::Coverage;
use super::mix::Mix;
use super::rng::Rng;

/// The simulated present at the beginning, ms since 1970.
pub(crate) const BEGIN_MS: i64 = 1_766_916_000_000;

/// The process is dead: whoever hears it returns at once.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Died;

/// What happens at a write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mishap {
    None,
    DiesBefore,
    DiesAfter,
    /// Refused; the process goes on.
    Refused,
    /// Committed, and what comes after has failed: nobody knows what is on disk.
    FailsAfter,
}

pub(crate) struct Env {
    pub(crate) rng: Rng,
    /// The true time, ms since 1970.
    pub(crate) now_ms: i64,
    pub(crate) mix: &'static Mix,
    pub(crate) bug: Option<Bug>,
    pub(crate) coverage: Coverage,
    /// Which devices are in the redundancy group.
    pub(crate) grouped: Vec<bool>,
    /// Nothing goes wrong any more: everything must come to its end.
    pub(crate) calm: bool,
    /// The first rule that was broken.
    pub(crate) violation: Option<String>,
    /// The last events, and how many of them are kept.
    trace: VecDeque<String>,
    events: usize,
    next_token: u64,
    pub(crate) ledger: Ledger,
}

/// What really is, beyond what any program knows: the checks compare with it.
#[derive(Debug, Default)]
pub(crate) struct Ledger {
    /// By device and state database: the numbers that the server's database counts as committed,
    pub(crate) durable: BTreeMap<(usize, StateId), RangeSet>,
    /// and those that it ever did.
    pub(crate) ever_durable: BTreeMap<(usize, StateId), RangeSet>,
    /// What each record is; more than one if an older copy has given a number out twice.
    pub(crate) made: BTreeMap<(usize, StateId, u64), Vec<u64>>,
    /// Acknowledged records that made room.
    pub(crate) evicted: BTreeSet<(usize, StateId, u64)>,
    /// How often the server was restored.
    pub(crate) restores: u32,
    /// How often each effect happened.
    pub(crate) effects: BTreeMap<CommandId, u32>,
    /// Effects that have begun and not ended.
    pub(crate) under_way: BTreeMap<CommandId, UnderWay>,
    /// Commands that a person has let pass a show.
    pub(crate) overridden: BTreeSet<CommandId>,
    /// The state database that each device gave birth with last, as the server knows it.
    pub(crate) current_state: BTreeMap<usize, StateId>,
    /// The desired version that the server had when it sent a command first: the device takes one copy only.
    pub(crate) sent_with: BTreeMap<CommandId, u64>,
}

#[derive(Debug, Clone)]
pub(crate) struct UnderWay {
    pub(crate) device: usize,
    pub(crate) state_id: StateId,
    pub(crate) disruptive: bool,
}

impl Env {
    pub(crate) fn new(seed: u64, mix: &'static Mix, bug: Option<Bug>, events: usize) -> Self {
        Self {
            rng: Rng::new(seed),
            now_ms: BEGIN_MS,
            mix,
            bug,
            coverage: Coverage::default(),
            grouped: Vec::new(),
            calm: false,
            violation: None,
            trace: VecDeque::new(),
            events,
            next_token: 0,
            ledger: Ledger::default(),
        }
    }

    pub(crate) fn has(&self, bug: Bug) -> bool {
        self.bug == Some(bug)
    }

    pub(crate) fn count(&mut self, what: &'static str) {
        self.coverage.count(what);
    }

    /// Notes an event for the case that this world fails.
    pub(crate) fn note(&mut self, text: impl FnOnce() -> String) {
        if self.events > 0 {
            if self.trace.len() == self.events {
                self.trace.pop_front();
            }
            self.trace.push_back(format!("{:>12} ms  {}", self.now_ms - BEGIN_MS, text()));
        }
    }

    pub(crate) fn take_trace(&mut self) -> Vec<String> {
        std::mem::take(&mut self.trace).into()
    }

    /// A rule was broken.
    pub(crate) fn broken(&mut self, what: impl FnOnce() -> String) {
        if self.violation.is_none() {
            let what = what();
            self.note(|| format!("BROKEN: {what}"));
            self.violation = Some(what);
        }
    }

    pub(crate) fn check(&mut self, holds: bool, what: impl FnOnce() -> String) {
        if !holds {
            self.broken(what);
        }
    }

    /// True so often in a thousand, and never once all is calm.
    pub(crate) fn mishap(&mut self, permille: u64) -> bool {
        !self.calm && self.rng.chance(permille)
    }

    pub(crate) fn at_write(&mut self) -> Mishap {
        if !self.mishap(self.mix.write_fails_permille) {
            return Mishap::None;
        }
        match self.rng.below(6) {
            0 | 1 => Mishap::DiesBefore,
            2 | 3 => Mishap::DiesAfter,
            4 => Mishap::Refused,
            _ => Mishap::FailsAfter,
        }
    }

    /// The highest number of a state database that the server ever had; 0 if it had none.
    pub(crate) fn ever_max(&self, device: usize, state_id: StateId) -> u64 {
        self.ledger.ever_durable.get(&(device, state_id)).and_then(RangeSet::max).unwrap_or(0)
    }

    /// A number that no other record has.
    pub(crate) fn token(&mut self) -> u64 {
        self.next_token += 1;
        self.next_token
    }
}

/// Whether every number of `part` is in `whole`.
pub(crate) fn is_within(part: &RangeSet, whole: &RangeSet) -> bool {
    let slice = whole.as_slice();
    part.as_slice().iter().all(|(lo, hi)| {
        let after = slice.partition_point(|range| range.0 <= *lo);
        after > 0 && slice[after - 1].1 >= *hi
    })
}
