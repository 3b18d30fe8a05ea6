//! The order of sending: command reports, then the newest heartbeat, then the rest, oldest first.
//!
//! A void record is as old as the first number that it names: it takes the place of the records that it stands for.
//! By its own number it would come last, and until then each record with a gone one on either side would be a range of
//! its own in the server's committed set; that set is bounded, so a heavily thinned backlog would stop halfway. Before
//! everything else the void records would fill the set by themselves, with the gone numbers. In their place they close
//! gaps as fast as they open them: what is sent next lies between the numbers just told. And the oldest record always
//! follows on what is committed, so the server can take it however full its set is.

use protocol::codec::limit;

use super::{Entry, Kind, Outbox, STAMP_BYTES, Standing};

impl Outbox {
    /// The records to send next, all of one kind, ascending; empty if none waits. They fit one payload, and
    /// `room_bytes` if more than one.
    #[must_use]
    pub fn next_to_send(&mut self, room_bytes: usize) -> (Kind, Vec<u64>) {
        while self.entries.get(self.waiting_from).is_some_and(|entry| !self.is_waiting(entry)) {
            self.waiting_from += 1;
        }
        if let Some(first) = self.first_waiting(self.waiting_from, |kind| kind == Kind::Report) {
            return (Kind::Report, self.batch_from(first, u64::MAX, room_bytes));
        }
        let newest = self.entries.iter().rev().find(|entry| entry.kind == Kind::Heartbeat);
        if let Some(newest) = newest.filter(|entry| self.is_waiting(entry)) {
            return (Kind::Heartbeat, vec![newest.seq]);
        }
        let record = self.first_waiting(self.waiting_from, |kind| kind != Kind::Void);
        match (record, self.first_void()) {
            (Some(first), void) if void.is_none_or(|(place, _)| self.entries[first].seq < place) => {
                let before = void.map_or(u64::MAX, |(place, _)| place);
                (self.entries[first].kind, self.batch_from(first, before, room_bytes))
            }
            (_, Some((_, seq))) => (Kind::Void, vec![seq]),
            (_, None) => (Kind::Heartbeat, Vec::new()),
        }
    }

    /// Whether any record waits to be sent.
    #[must_use]
    pub fn has_waiting(&self) -> bool {
        self.first_waiting(self.waiting_from, |_| true).is_some()
    }

    /// Notes that these were handed to the link.
    pub fn mark_sent(&mut self, seqs: &[u64]) {
        self.mark(seqs, |standing| if standing == Standing::Pending { Standing::Sent } else { standing });
    }

    /// These must be sent again, unless they have been acknowledged.
    pub fn mark_waiting(&mut self, seqs: &[u64]) {
        self.mark(seqs, |standing| if standing == Standing::Sent { Standing::Pending } else { standing });
        self.waiting_from = 0;
    }

    fn mark(&mut self, seqs: &[u64], change: impl Fn(Standing) -> Standing) {
        for seq in seqs {
            if let Some(at) = self.position(*seq) {
                self.entries[at].standing = change(self.entries[at].standing);
            }
        }
    }

    fn first_waiting(&self, from: usize, of_kind: impl Fn(Kind) -> bool) -> Option<usize> {
        let wanted = |entry: &Entry| self.is_waiting(entry) && of_kind(entry.kind);
        self.entries.range(from.min(self.entries.len())..).position(wanted).map(|at| from + at)
    }

    /// The waiting void record that names the smallest number: that number, and its own.
    fn first_void(&self) -> Option<(u64, u64)> {
        let is_waiting = |seq: u64| self.position(seq).is_some_and(|at| self.is_waiting(&self.entries[at]));
        let waiting = self.void_places.iter().filter(|(seq, _)| is_waiting(**seq));
        waiting.map(|(seq, place)| (*place, *seq)).min()
    }

    /// The waiting entry at `first` and those of its kind that follow it among the waiting ones, with numbers below
    /// `before`. Reports overtake everything, so other kinds between them are skipped; anywhere else another kind ends
    /// the batch.
    fn batch_from(&self, first: usize, before: u64, room_bytes: usize) -> Vec<u64> {
        let kind = self.entries[first].kind;
        let Some(most) = kind.max_batch_bytes() else { return vec![self.entries[first].seq] };
        // The array's own header takes up to 5 bytes.
        let mut left = most.min(room_bytes).saturating_sub(5);
        let mut batch = Vec::new();
        let candidates = self.entries.range(first..).take_while(|entry| entry.seq < before);
        for entry in candidates.filter(|entry| self.is_waiting(entry)) {
            if entry.kind != kind {
                if kind == Kind::Report {
                    continue;
                }
                break;
            }
            let bytes = entry.body_bytes as usize + STAMP_BYTES;
            if !batch.is_empty() && (bytes > left || batch.len() == limit::RECORDS_PER_BATCH) {
                break;
            }
            left = left.saturating_sub(bytes);
            batch.push(entry.seq);
        }
        batch
    }
}
