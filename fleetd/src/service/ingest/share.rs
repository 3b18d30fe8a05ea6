//! How much of one device a batch takes: a device that floods the server is not to fill the commits of the others.

use crate::domain::lane::{Stored, Taken};

/// Records and log lines of one device in one batch. An agent has at most 512 KiB under way, with at least 39 bytes to a
/// heartbeat, so its own never reach this.
pub(super) const RECORDS_MAX: u64 = 16_384;
/// Bytes of one device in one batch: twice what an agent has under way.
pub(super) const BYTES_MAX: usize = 1 << 20;

/// What a batch has taken of a device so far.
#[derive(Default)]
pub(super) struct Share {
    records: u64,
    bytes: usize,
}

impl Share {
    /// Whether the rest must wait. One message may go beyond the bounds: it is whole, or not looked at.
    pub(super) fn is_used_up(&self) -> bool {
        self.records >= RECORDS_MAX || self.bytes >= BYTES_MAX
    }

    /// Counts a message. Records that were not stored count too: they had to be read.
    pub(super) fn use_up(&mut self, payload_bytes: usize, taken: &Taken) {
        let rows = |stored: &Stored| match stored {
            Stored::Alive(_) => 0,
            Stored::Log(batch) => batch.records.len().max(1) as u64,
            _ => 1,
        };
        let stored: u64 = taken.stored.iter().map(rows).sum();
        self.records += stored + taken.duplicates + taken.mismatched + taken.unnumbered + taken.gaps;
        self.bytes += payload_bytes;
    }
}
