//! What an agent says of its own outbox (`agent::spool_file`), read as a history: which records there were, which of them
//! the server has acknowledged, and what became of each. Pure.
//!
//! The test adds lines of its own while the agent is stopped: `X WHAT` when it has tampered with the state, and at any
//! time `Q`, before a check: what was spooled until then must have arrived.

use std::collections::BTreeMap;

use agent::outbox::Kind;
use protocol::ranges::RangeSet;

/// One record of one device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// State id, in hex.
    pub state: String,
    /// Its number.
    pub seq: u64,
    /// What it is.
    pub kind: Kind,
    /// As stored.
    pub body: Vec<u8>,
    /// The agent has taken over an acknowledgement of it.
    pub acked: bool,
    /// It was there before the last `Q`.
    pub due: bool,
    /// Where it is now.
    pub fate: Fate,
}

/// What became of a record on the device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    /// It is in the outbox.
    Held,
    /// The agent removed it.
    Removed,
    /// The state was given a new identity, and this is one of those that a new one does not need: it is acknowledged,
    /// tells of numbers of the old one, or goes on under another number.
    LeftBehind,
    /// The test took it away.
    TakenAway,
}

/// A record of a state that was opened: number, kind, body.
type Found = (u64, Kind, Vec<u8>);

/// The history of one device.
#[derive(Debug, Default)]
pub struct Spool {
    /// Every record, in the order in which they were first seen.
    pub records: Vec<Record>,
    /// How often the test has tampered with the state.
    pub tampered: usize,
    /// How often the state was given another identity.
    pub renewed: usize,
    /// What must not be.
    pub complaints: Vec<String>,
    /// In the outbox now: state id and number, to the place in `records`.
    held: BTreeMap<(String, u64), usize>,
    /// Every record by what it is.
    known: BTreeMap<(String, u64, Vec<u8>), usize>,
    state: Option<String>,
    tampered_since_opening: bool,
    renewing: bool,
}

impl Spool {
    /// Reads the file's text. A last line without an end is a line that is still being written.
    #[must_use]
    pub fn read(text: &str) -> Self {
        let mut spool = Self::default();
        let mut opening: Option<(String, Vec<Found>)> = None;
        for line in text.split_inclusive('\n').filter(|line| line.ends_with('\n')) {
            let words: Vec<&str> = line.split_whitespace().collect();
            if let (Some("H"), Some((_, found)), Some(record)) =
                (words.first().copied(), &mut opening, parse(&words))
            {
                found.push(record);
                continue;
            }
            if let Some((state, found)) = opening.take() {
                spool.opened(state, found);
            }
            match words.as_slice() {
                ["O", state] => opening = Some(((*state).to_owned(), Vec::new())),
                ["S", state, ..] => match parse(&words) {
                    Some((seq, kind, body)) => spool.spooled(state, seq, kind, body),
                    None => spool.complaints.push(format!("an unreadable line: {line}")),
                },
                ["G", state, seq] => spool.removed(state, seq.parse().unwrap_or(0)),
                ["N", _] => spool.renewing = true,
                ["A", state] => spool.acked(state, ""),
                ["A", state, ranges] => spool.acked(state, ranges),
                ["X", ..] => {
                    spool.tampered += 1;
                    spool.tampered_since_opening = true;
                }
                ["Q"] => spool.records.iter_mut().for_each(|record| record.due = true),
                _ => spool.complaints.push(format!("an unreadable line: {line}")),
            }
        }
        if let Some((state, found)) = opening.take() {
            spool.opened(state, found);
        }
        spool
    }

    /// Records that are in the outbox, and were when the check began.
    pub fn held_and_due(&self) -> impl Iterator<Item = &Record> {
        self.records.iter().filter(|record| record.due && record.fate == Fate::Held)
    }

    fn spooled(&mut self, state: &str, seq: u64, kind: Kind, body: Vec<u8>) {
        let key = (state.to_owned(), seq);
        let place = self.place(&key, kind, body);
        if self.held.insert(key, place).is_some() {
            self.complaints
                .push(format!("{state} {seq}: a number of a record that is there was given out again"));
        }
    }

    /// The place of this record; a new one if it was never seen.
    fn place(&mut self, key: &(String, u64), kind: Kind, body: Vec<u8>) -> usize {
        let (state, seq) = key.clone();
        let whole = (state.clone(), seq, body.clone());
        if let Some(place) = self.known.get(&whole) {
            self.records[*place].fate = Fate::Held;
            return *place;
        }
        let place = self.records.len();
        self.records.push(Record { state, seq, kind, body, acked: false, due: false, fate: Fate::Held });
        let range = (key.0.clone(), seq, Vec::new())..(key.0.clone(), seq + 1, Vec::new());
        if self.tampered == 0 && self.known.range(range).next().is_some() {
            self.complaints.push(format!("{} {seq}: the number was used twice", key.0));
        }
        self.known.insert(whole, place);
        place
    }

    fn removed(&mut self, state: &str, seq: u64) {
        if let Some(place) = self.held.remove(&(state.to_owned(), seq)) {
            self.records[place].fate = Fate::Removed;
        }
    }

    fn acked(&mut self, state: &str, ranges: &str) {
        let pairs = ranges.split(',').filter_map(|range| {
            let (lo, hi) = range.split_once('-')?;
            Some((lo.parse().ok()?, hi.parse().ok()?))
        });
        let ranges: RangeSet = pairs.collect::<Vec<(u64, u64)>>().into_iter().collect();
        for ((of, seq), place) in &self.held {
            if of == state && ranges.contains(*seq) {
                self.records[*place].acked = true;
            }
        }
    }

    fn opened(&mut self, state: String, found: Vec<Found>) {
        let same = self.state.as_ref().is_none_or(|before| *before == state);
        let before = std::mem::take(&mut self.held);
        let bodies: Vec<&Vec<u8>> = found.iter().map(|(_, _, body)| body).collect();
        let mut gone = Vec::new();
        for (key, place) in before {
            let is_there = same && found.iter().any(|f| f.0 == key.1 && f.2 == self.records[place].body);
            if !is_there {
                let goes_on = bodies.contains(&&self.records[place].body);
                gone.push((place, goes_on));
            }
        }
        for (place, goes_on) in gone {
            let record = &mut self.records[place];
            // The lines of an agent's last change may be missing: what it removed by itself had been acknowledged.
            record.fate = match () {
                () if self.tampered_since_opening => Fate::TakenAway,
                () if self.renewing && !same => Fate::LeftBehind,
                () => Fate::Removed,
            };
            let may_go = record.acked || record.kind == Kind::Void || goes_on;
            if record.fate != Fate::TakenAway && !may_go {
                self.complaints.push(format!("{} {}: the agent has forgotten it", record.state, record.seq));
            }
        }
        if !same {
            self.renewed += 1;
            if !self.renewing && !self.tampered_since_opening {
                self.complaints.push(format!("{state}: a new identity for no reason"));
            }
        }
        for (seq, kind, body) in found {
            let key = (state.clone(), seq);
            let place = self.place(&key, kind, body);
            self.held.insert(key, place);
        }
        self.state = Some(state);
        self.tampered_since_opening = false;
        self.renewing = false;
    }
}

fn parse(words: &[&str]) -> Option<Found> {
    let [_, _, seq, kind, body] = words else { return None };
    let digits = body.as_bytes();
    if !digits.len().is_multiple_of(2) {
        return None;
    }
    let body = digits
        .chunks(2)
        .map(|pair| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok())
        .collect::<Option<_>>()?;
    Some((seq.parse().ok()?, Kind::from_number(kind.parse().ok()?)?, body))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fates(spool: &Spool) -> Vec<(u64, bool, Fate)> {
        spool.records.iter().map(|r| (r.seq, r.acked, r.fate)).collect()
    }

    #[test]
    fn what_was_acknowledged_and_what_the_test_took_away_is_told_apart() {
        let spool =
            Spool::read("O aa\nS aa 1 1 01\nS aa 2 1 02\nA aa 1-1\nX deleted\nO bb\nS bb 1 1 03\nQ\nS bb 2");
        assert_eq!(
            fates(&spool),
            [(1, true, Fate::TakenAway), (2, false, Fate::TakenAway), (1, false, Fate::Held)]
        );
        assert_eq!(spool.complaints, Vec::<String>::new());
        assert_eq!(spool.held_and_due().count(), 1);
    }

    #[test]
    fn an_agent_that_forgets_by_itself_is_complained_of() {
        let spool = Spool::read("O aa\nS aa 1 1 01\nO aa\n");
        assert_eq!(spool.complaints.len(), 1, "{:?}", spool.complaints);
        let spool = Spool::read("O aa\nS aa 1 1 01\nO bb\nH bb 1 1 01\n");
        assert_eq!(spool.complaints.len(), 1, "{:?}", spool.complaints);
    }

    #[test]
    fn a_new_identity_takes_over_what_was_not_acknowledged() {
        let text = "O aa\nS aa 1 1 01\nS aa 2 1 02\nA aa 1-1\nN aa\nO bb\nH bb 1 1 02\n";
        let spool = Spool::read(text);
        assert_eq!(
            fates(&spool),
            [(1, true, Fate::LeftBehind), (2, false, Fate::LeftBehind), (1, false, Fate::Held)]
        );
        assert_eq!((spool.renewed, spool.complaints.len()), (1, 0));
        let spool = Spool::read(&text.replace("H bb 1 1 02\n", ""));
        assert_eq!(spool.complaints.len(), 1);
    }

    #[test]
    fn an_older_copy_brings_records_back_and_may_use_numbers_again() {
        let text = "O aa\nS aa 1 1 01\nS aa 2 1 02\nX copy\nO aa\nH aa 1 1 01\nS aa 2 1 09\n";
        let spool = Spool::read(text);
        assert_eq!(
            fates(&spool),
            [(1, false, Fate::Held), (2, false, Fate::TakenAway), (2, false, Fate::Held)]
        );
        assert_eq!(spool.complaints, Vec::<String>::new());
    }
}
