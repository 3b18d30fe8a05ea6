//! Whether a disruptive command may run now. The device decides, so that it also holds without a network.

use protocol::command::limits::LEASE_MS;

use super::{Entry, Moment};
use crate::app_status::Liveness;

/// What the server wants of this device, as far as commands depend on it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Wanted {
    /// The version of `desired` that was applied last; 0 if none was.
    pub version: u64,
    /// Nothing disruptive from the first time until the second, milliseconds since 1970.
    pub show_locks: Vec<(i64, i64)>,
    /// The group of which one member at a time may be disrupted.
    pub redundancy_group: Option<String>,
}

/// Everything that a decision looks at.
#[derive(Clone, Copy)]
pub struct Facts<'a> {
    /// The clock that counts since boot.
    pub now: Moment,
    /// The device's own clock, which goes into reports and decides nothing: milliseconds since 1970.
    pub ts_ms: i64,
    /// What time it is, if that has been confirmed in this boot: milliseconds since 1970.
    pub trusted_ms: Option<i64>,
    /// Whether the application may be interrupted, and why, as seen last.
    pub app: (Liveness, &'a str),
    /// What the server wants.
    pub wanted: &'a Wanted,
    /// Whether the server answers.
    pub connected: bool,
    /// Random bytes for a question for a lease; none if the system gives none.
    pub nonce: Option<[u8; 16]>,
    /// Whether the server is not yet known to have the record with this number.
    pub undelivered: &'a dyn Fn(u64) -> bool,
}

/// Why a command is held.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Hold {
    /// The device may not know of a show lock.
    AwaitingDesired {
        /// The version that the command knows of.
        needs: u64,
        /// The version that was applied.
        has: u64,
    },
    /// Nobody has confirmed the time in this boot, so nobody knows whether a lock stands.
    ClockUnconfirmed,
    /// A lock stands until then: milliseconds since 1970.
    ShowLock(i64),
    /// The application records or streams.
    Live(String),
    /// That cannot be said.
    AppStatusUnknown(String),
    /// Another device of the redundancy group may be disrupted at this moment.
    AwaitingLease,
}

impl Hold {
    /// The fixed word with which a reason begins.
    #[must_use]
    pub const fn word(&self) -> &'static str {
        match self {
            Self::AwaitingDesired { .. } => "awaiting_desired",
            Self::ClockUnconfirmed => "clock_unconfirmed",
            Self::ShowLock(_) => "show_lock",
            Self::Live(_) => "live",
            Self::AppStatusUnknown(_) => "app_status_unknown",
            Self::AwaitingLease => "awaiting_lease",
        }
    }

    /// The word and what a person wants to know.
    #[must_use]
    pub fn text(&self) -> String {
        let word = self.word();
        match self {
            Self::AwaitingDesired { needs, has } => {
                format!("{word}: the device has version {has} of what is wanted of it, and waits for {needs}")
            }
            Self::ClockUnconfirmed => {
                format!("{word}: neither a server nor NTP has confirmed the time since this boot")
            }
            Self::ShowLock(until_ms) => match jiff::Timestamp::from_millisecond(*until_ms) {
                Ok(until) => format!("{word}: until {until}"),
                Err(_) => format!("{word}: without end"),
            },
            Self::Live(because) | Self::AppStatusUnknown(because) => format!("{word}: {because}"),
            Self::AwaitingLease => {
                format!("{word}: the server lets one device of the redundancy group go at a time")
            }
        }
    }
}

/// A question for a lease, and whether it was granted. It lives as long as the process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Lease {
    nonce: [u8; 16],
    /// Whose: with another group the partners are others, and nobody has asked them.
    group: Option<String>,
    asked_at_ms: u64,
    granted: bool,
}

impl Lease {
    pub(super) fn asked(nonce: [u8; 16], facts: &Facts<'_>) -> Self {
        let group = facts.wanted.redundancy_group.clone();
        Self { nonce, group, asked_at_ms: facts.now.boottime_ms, granted: false }
    }

    /// Notes a `go`; returns whether it was an answer to this question, in time.
    pub(super) fn go(&mut self, nonce: &[u8], facts: &Facts<'_>) -> bool {
        let answers = self.nonce == nonce && self.is_fresh(facts);
        self.granted |= answers;
        answers
    }

    /// Good for so long from the asking, whenever it was granted.
    pub(super) fn is_fresh(&self, facts: &Facts<'_>) -> bool {
        let age_ms = facts.now.boottime_ms.saturating_sub(self.asked_at_ms);
        age_ms < LEASE_MS && self.group == facts.wanted.redundancy_group
    }
}

/// The first reason that keeps a disruptive command from running now. An override passes a lock and the application,
/// nothing else.
pub(super) fn hold(entry: &Entry, facts: &Facts<'_>, lease: Option<&Lease>) -> Option<Hold> {
    let needs = entry.command.as_ref().map_or(0, |command| command.desired_version);
    let has = facts.wanted.version;
    if needs > has {
        return Some(Hold::AwaitingDesired { needs, has });
    }
    let Some(trusted_ms) = facts.trusted_ms else { return Some(Hold::ClockUnconfirmed) };
    if entry.override_reason.is_none() {
        let stands = |lock: &&(i64, i64)| lock.0 <= trusted_ms && trusted_ms < lock.1;
        if let Some(until) = facts.wanted.show_locks.iter().filter(stands).map(|lock| lock.1).max() {
            return Some(Hold::ShowLock(until));
        }
        match facts.app {
            (Liveness::Live, because) => return Some(Hold::Live(because.to_owned())),
            (Liveness::Unknown, because) => return Some(Hold::AppStatusUnknown(because.to_owned())),
            (Liveness::Idle, _) => {}
        }
    }
    let leased = lease.is_some_and(|lease| lease.granted && lease.is_fresh(facts));
    (facts.wanted.redundancy_group.is_some() && !leased).then_some(Hold::AwaitingLease)
}
