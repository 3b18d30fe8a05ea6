//! Making room: acknowledged records go first, the oldest before the others; then heartbeats and logs are thinned.

use protocol::ranges::RangeSet;

use super::void::{self, Voided};
use super::{Change, Entry, Kind, Outbox, Row, STAMP_BYTES, Standing, cost_bytes};
use crate::record;

/// Heartbeats of 7 days at the default interval of 60 s: the newest that are never thinned.
pub(super) const PROTECTED_HEARTBEATS: usize = 7 * 24 * 60;
/// Reports may exceed the budget by this much: they are never given up, and new commands stop at half of it.
const REPORTS_RESERVE_BYTES: u64 = 2 * super::REPORTS_HIGH_BYTES;

/// Why a record is not taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// Larger than the protocol allows for its kind.
    #[error("the record has {bytes} bytes, at most {limit} are allowed")]
    TooLarge {
        /// As sent.
        bytes: usize,
        /// Of its kind.
        limit: usize,
    },
    /// No room, and nothing left that may be thinned.
    #[error("the outbox is full of records that must not be given up; it needs a connection to the server")]
    Full,
}

impl Outbox {
    /// What must change to take in a record, which gets the last of the new numbers. `ts_ms` is the device's clock, for
    /// the void record if one is due.
    ///
    /// # Errors
    /// The record is too large, or there is no room.
    pub fn plan(&self, kind: Kind, body: Vec<u8>, ts_ms: i64) -> Result<Change, Refused> {
        let (bytes, limit) = (body.len() + STAMP_BYTES, kind.max_record_bytes());
        if bytes > limit {
            return Err(Refused::TooLarge { bytes, limit });
        }
        let reserve = if kind == Kind::Report { REPORTS_RESERVE_BYTES } else { 0 };
        let ceiling = self.budget_bytes + reserve;
        let needed = cost_bytes(body.len());

        let mut delete = Vec::new();
        let mut gone = Vec::new();
        let mut thin_from = None;
        let mut excess = (self.cost_bytes + needed).saturating_sub(ceiling);
        if excess > 0 {
            let freed = self.evict(excess, &mut delete);
            excess = excess.saturating_sub(freed);
        }
        if excess > 0 {
            // Some more at once, so that not every heartbeat brings a void record, and room for that record.
            let (freed, next) = self.thin(excess + ceiling / 32, &mut gone);
            thin_from = Some(next);
            let (windows, _) = void::merge(&self.voids, &gone);
            let shares = windows.values().flat_map(void::shares);
            let told: u64 = shares.map(|share| cost_bytes(void_body(&share, ts_ms).len())).sum();
            if freed < excess + told {
                return Err(Refused::Full);
            }
        }
        let mut change = self.give_up(delete, &gone, ts_ms);
        change.insert.push(Row { seq: change.next_seq, kind, body });
        change.next_seq += 1;
        change.notes.thin_from = thin_from;
        Ok(change)
    }

    /// What must change to drop records that can never be sent.
    #[must_use]
    pub fn plan_drop(&self, poison: &[u64], ts_ms: i64) -> Change {
        let here: Vec<u64> = poison.iter().copied().filter(|seq| self.position(*seq).is_some()).collect();
        self.give_up(Vec::new(), &here, ts_ms)
    }

    /// A change without a new record: `delete` goes quietly, `gone` with void records.
    fn give_up(&self, mut delete: Vec<u64>, gone: &[u64], ts_ms: i64) -> Change {
        let (windows, replaced) = void::merge(&self.voids, gone);
        delete.extend(gone);
        delete.extend(replaced);
        delete.sort_unstable();
        delete.dedup();
        let mut change = Change {
            delete,
            next_seq: self.next_seq,
            committed: (!self.committed_is_stored).then(|| self.committed.clone()),
            ..Change::default()
        };
        for (window, gone) in windows {
            let mut voided = Voided::new();
            for share in void::shares(&gone) {
                let seq = change.next_seq;
                change.insert.push(Row { seq, kind: Kind::Void, body: void_body(&share, ts_ms) });
                voided.insert(seq, share);
                change.next_seq += 1;
            }
            change.notes.voided.push((window, voided));
        }
        change
    }

    /// Adds the oldest acknowledged records to `delete` until they cost `excess`, or there are no more.
    fn evict(&self, excess: u64, delete: &mut Vec<u64>) -> u64 {
        let mut freed = 0;
        for entry in self.entries.iter().filter(|entry| entry.standing == Standing::Acked) {
            if freed >= excess {
                break;
            }
            freed += entry.cost();
            delete.push(entry.seq);
        }
        freed
    }

    /// Adds every second record that may be thinned to `gone`, from where the last thinning stopped and then from the
    /// oldest, until they cost `wanted` or all have been looked at once. Returns their cost, and where to go on.
    fn thin(&self, wanted: u64, gone: &mut Vec<u64>) -> (u64, u64) {
        let protected_from = self.protected_from();
        let may_go = |entry: &&Entry| {
            entry.kind.may_be_thinned()
                && entry.standing == Standing::Pending
                && (entry.kind != Kind::Heartbeat || entry.seq < protected_from)
        };
        let start = self.entries.partition_point(|entry| entry.seq < self.thin_from);
        let candidates = self.entries.range(start..).chain(self.entries.range(..start)).filter(may_go);

        let mut freed = 0;
        let mut next = self.thin_from;
        // Heartbeats and logs alternate each by themselves: neither loses a whole span to the other.
        let mut keep = [true, true];
        for entry in candidates {
            if freed >= wanted {
                break;
            }
            let keep = &mut keep[usize::from(entry.kind == Kind::Log)];
            if !*keep {
                freed += entry.cost();
                gone.push(entry.seq);
                next = entry.seq + 1;
            }
            *keep = !*keep;
        }
        gone.sort_unstable();
        (freed, next)
    }

    /// From this number on heartbeats are not thinned: the newest 7 days of them, unless they are so large that they
    /// would take more than three quarters of the budget.
    fn protected_from(&self) -> u64 {
        let mut room = self.budget_bytes / 4 * 3;
        let mut from = u64::MAX;
        let unacked = |entry: &&Entry| entry.kind == Kind::Heartbeat && entry.standing != Standing::Acked;
        for entry in self.entries.iter().rev().filter(unacked).take(PROTECTED_HEARTBEATS) {
            match room.checked_sub(entry.cost()) {
                Some(rest) => room = rest,
                None => break,
            }
            from = entry.seq;
        }
        from
    }
}

fn void_body(gone: &RangeSet, ts_ms: i64) -> Vec<u8> {
    record::void_body(void::entries(gone), ts_ms)
}
