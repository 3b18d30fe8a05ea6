//! The kinds of records, and what each means for topic, limits and order.

use protocol::codec::limit;
use protocol::topic::Uplink;

/// What a record is. The numbers are those in the state database: append only.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Kind {
    /// A heartbeat.
    Heartbeat = 1,
    /// A command report.
    Report = 2,
    /// Reported config.
    Reported = 3,
    /// A batch of log lines.
    Log = 4,
    /// Something that must be told at once.
    Event = 5,
    /// The event that tells which records are gone.
    Void = 6,
}

impl Kind {
    /// Every kind.
    pub const ALL: [Self; 6] =
        [Self::Heartbeat, Self::Report, Self::Reported, Self::Log, Self::Event, Self::Void];

    /// The number in the database.
    #[must_use]
    pub const fn number(self) -> u8 {
        self as u8
    }

    /// The kind with this number in the database.
    #[must_use]
    pub fn from_number(number: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.number() == number)
    }

    /// Where records of this kind are published.
    #[must_use]
    pub const fn topic(self) -> Uplink {
        match self {
            Self::Heartbeat => Uplink::Heartbeat,
            Self::Report => Uplink::Status,
            Self::Reported => Uplink::Reported,
            Self::Log => Uplink::Log,
            Self::Event | Self::Void => Uplink::Event,
        }
    }

    /// The largest record, in bytes as sent.
    #[must_use]
    pub const fn max_record_bytes(self) -> usize {
        match self {
            Self::Heartbeat => limit::HEARTBEAT_BYTES,
            Self::Log => limit::LOG_BATCH_BYTES,
            Self::Report | Self::Reported | Self::Event | Self::Void => limit::COMMAND_BYTES,
        }
    }

    /// The largest payload with several records, in bytes, or `None` if each record travels by itself.
    #[must_use]
    pub(crate) const fn max_batch_bytes(self) -> Option<usize> {
        match self {
            Self::Heartbeat => Some(limit::HEARTBEAT_BATCH_BYTES),
            Self::Report => Some(limit::COMMAND_BYTES),
            _ => None,
        }
    }

    /// Whether records of this kind may be given up for want of room.
    #[must_use]
    pub(crate) const fn may_be_thinned(self) -> bool {
        matches!(self, Self::Heartbeat | Self::Log)
    }
}
