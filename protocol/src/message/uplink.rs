//! What a device says, besides heartbeats.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::codec::Bytes;
use crate::id::{CommandId, StateId};
use crate::ranges::RangeSet;

/// Published on every connect, before any record.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Birth {
    /// The device's state database.
    pub state_id: StateId,
    /// Rises by one with every connection of this state database.
    pub connection: u64,
    /// The sequence number that the next new record will have.
    pub next_seq: u64,
    /// The kernel's boot id.
    pub boot_id: String,
    /// Version of the agent.
    pub agent_version: String,
    /// Version of the application, if known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub app_version: Option<String>,
    /// Machine architecture, as `uname -m` says it.
    pub arch: String,
    /// Names of the inputs; heartbeats refer to them by position. At most 64.
    #[serde(default)]
    pub inputs: Vec<String>,
    /// Command types that this agent can run.
    #[serde(default)]
    pub command_types: Vec<String>,
    /// Heartbeat interval, seconds.
    pub interval_seconds: u32,
    /// How it is connected: `mqtts`, `mqtt`, `wss` or `https`.
    pub transport: String,
    /// The device's clock: milliseconds since 1970.
    #[serde(default)]
    pub ts: i64,
    /// Milliseconds since boot.
    #[serde(default)]
    pub since_boot_ms: u64,
    /// The application's systemd unit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub app_unit: Option<String>,
}

/// Whether a device is there; retained, and the device's last will.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Presence {
    /// The device's state database.
    pub state_id: StateId,
    /// The connection that this is about.
    pub connection: u64,
    /// Whether it stands.
    pub online: bool,
}

/// One step of a command, as the device reports it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct CommandReport {
    /// Sequence number of the record.
    pub seq: u64,
    /// Connection number of the birth that it follows, modulo 65536.
    pub connection: u16,
    /// The device's clock: milliseconds since 1970.
    pub ts: i64,
    /// The command.
    pub id: CommandId,
    /// Rises by one with every report about this command.
    pub report_seq: u32,
    /// The state as text; see [`crate::command::CommandState`]. Text, so that a newer state does not hide the rest.
    pub state: String,
    /// Why it is held, rejected or indeterminate.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Progress, percent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub progress_percent: Option<u8>,
    /// What came out of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub result: Option<serde_json::Value>,
    /// What went wrong.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// With `held` for `awaiting_lease`: repeated by the server in `go`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub nonce: Option<Bytes>,
    /// With a rotation: SHA-256 of the new token.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub token_sha256: Option<Bytes>,
}

/// The config that the device runs with.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reported {
    /// Sequence number of the record.
    pub seq: u64,
    /// Connection number of the birth that it follows, modulo 65536.
    pub connection: u16,
    /// The device's clock: milliseconds since 1970.
    pub ts: i64,
    /// The desired version that this answers; 0 if none was ever received.
    pub desired_version: u64,
    /// Keys and values in force.
    #[serde(default)]
    pub config: BTreeMap<String, String>,
    /// Keys that could not be applied, and why.
    #[serde(default)]
    pub errors: BTreeMap<String, String>,
}

/// A batch of log records; one record of the outbox.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogBatch {
    /// Sequence number of the record.
    pub seq: u64,
    /// Connection number of the birth that it follows, modulo 65536.
    pub connection: u16,
    /// The device's clock: milliseconds since 1970.
    pub ts: i64,
    /// The lines, oldest first.
    pub records: Vec<LogRecord>,
}

/// One log line.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogRecord {
    /// The device's clock: milliseconds since 1970.
    pub ts: i64,
    /// The systemd unit.
    pub unit: String,
    /// Severity: `emerg`, `alert`, `crit`, `err`, `warning`, `notice`, `info` or `debug` (RFC 5424, table 2).
    pub level: String,
    /// The text.
    pub message: String,
    /// Structured fields.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub fields: BTreeMap<String, String>,
}

/// What must be told at once.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Event {
    /// Sequence number of the record.
    pub seq: u64,
    /// Connection number of the birth that it follows, modulo 65536.
    pub connection: u16,
    /// The device's clock: milliseconds since 1970.
    pub ts: i64,
    /// Which event; see [`event`] for those of this version.
    pub kind: String,
    /// Details for people and dashboards.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub details: Option<serde_json::Value>,
    /// With [`event::OUTBOX_THINNED`]: the sequence numbers that will never come.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub void: Vec<Void>,
}

/// Event kinds of this version.
pub mod event {
    /// A recording or stream began.
    pub const SHOW_STARTED: &str = "show_started";
    /// It ended.
    pub const SHOW_ENDED: &str = "show_ended";
    /// The device is connected in another way than before.
    pub const TRANSPORT_CHANGED: &str = "transport_changed";
    /// Records were given up for want of room; `void` says which.
    pub const OUTBOX_THINNED: &str = "outbox_thinned";
}

/// Records that are gone: every number in `lo..=hi` except those that `kept` names. On the wire `[lo, hi, kept]`.
///
/// `kept` is a bitmap: bit `i % 8` (least significant first) of byte `i / 8` stands for the number `lo + i`; bits past
/// its end are 0. Every second record of a week fits in about a kilobyte this way.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Void(pub u64, pub u64, pub Bytes);

impl Void {
    /// The shortest list of voids that names exactly the numbers of `gone`. Numbers that are further than
    /// `max_gap` from the one before begin a new void; at most 2^16 numbers are in one.
    #[must_use]
    pub fn from_gone(gone: &RangeSet, max_gap: u64) -> Vec<Self> {
        const LONGEST: u64 = 1 << 16;
        let mut voids: Vec<Self> = Vec::new();
        for &(lo, hi) in gone.as_slice() {
            match voids.last_mut() {
                Some(Self(first, last, kept)) if lo - *last <= max_gap && hi - *first < LONGEST => {
                    (*last + 1..lo).for_each(|n| set_bit(&mut kept.0, n - *first));
                    *last = hi;
                }
                _ => voids.push(Self(lo, hi, Bytes::default())),
            }
        }
        voids
    }

    /// The numbers that are gone, or `None` if the void is not well-formed: it ends before it begins, or its bitmap is
    /// longer than the range.
    #[must_use]
    pub fn gone(&self) -> Option<RangeSet> {
        let Self(lo, hi, kept) = self;
        let span = hi.checked_sub(*lo)?;
        if kept.0.len() as u64 > span / 8 + 1 {
            return None;
        }
        // Runs of gone numbers between kept ones, in order, so that building the set is linear.
        let mut runs = Vec::new();
        let mut next = *lo;
        for (i, byte) in kept.0.iter().enumerate().filter(|(_, byte)| **byte != 0) {
            for bit in (0..8u64).filter(|bit| byte >> bit & 1 == 1) {
                let n = lo.checked_add(i as u64 * 8 + bit).filter(|n| n <= hi)?;
                if n > next {
                    runs.push((next, n - 1));
                }
                if n == *hi {
                    return Some(runs.into_iter().collect());
                }
                next = n + 1; // n < hi, so this cannot overflow.
            }
        }
        runs.push((next, *hi));
        Some(runs.into_iter().collect())
    }
}

fn set_bit(bitmap: &mut Vec<u8>, index: u64) {
    // The index is below 2^16 (see `from_gone`).
    let byte = (index / 8) as usize;
    if bitmap.len() <= byte {
        bitmap.resize(byte + 1, 0);
    }
    bitmap[byte] |= 1 << (index % 8);
}
