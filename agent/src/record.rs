//! Records between memory, database and wire.
//!
//! The database keeps the body of a record with 0 for sequence and connection number. Both are filled in when it is
//! sent: the same record may follow several births, and be renumbered when the state gets a new identity.

use protocol::codec::{self, CodecError};
use protocol::message::{self, CommandReport, Event, Heartbeat, LogBatch, Reported, Void};
use protocol::ranges::RangeSet;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::outbox::Kind;

#[cfg(test)]
mod tests;

/// A record to be kept and sent. Its sequence and connection number are overwritten.
#[derive(Debug, Clone, PartialEq)]
pub enum Record {
    /// A heartbeat.
    Heartbeat(Heartbeat),
    /// A command report.
    Report(CommandReport),
    /// Reported config.
    Reported(Reported),
    /// A batch of log lines.
    Log(LogBatch),
    /// Something that must be told at once.
    Event(Event),
}

/// The fields that every record begins with.
trait Stamp: Serialize + DeserializeOwned {
    fn stamp(&mut self, seq: u64, connection: u16);
}

macro_rules! stamp {
    ($($message:ty),+) => {
        $(impl Stamp for $message {
            fn stamp(&mut self, seq: u64, connection: u16) {
                self.seq = seq;
                self.connection = connection;
            }
        })+
    };
}
stamp!(Heartbeat, CommandReport, Reported, LogBatch, Event);

impl Record {
    /// What it is.
    #[must_use]
    pub fn kind(&self) -> Kind {
        match self {
            Self::Heartbeat(_) => Kind::Heartbeat,
            Self::Report(_) => Kind::Report,
            Self::Reported(_) => Kind::Reported,
            Self::Log(_) => Kind::Log,
            Self::Event(_) => Kind::Event,
        }
    }

    /// The body for the database.
    ///
    /// # Errors
    /// A value in it cannot be encoded.
    pub fn into_body(mut self) -> Result<Vec<u8>, CodecError> {
        self.stamped(0, 0)
    }

    /// As it is sent; [`stamp`] makes the same of its body, unless that is too large.
    ///
    /// # Errors
    /// A value in it cannot be encoded.
    pub fn stamped(&mut self, seq: u64, connection: u16) -> Result<Vec<u8>, CodecError> {
        match self {
            Self::Heartbeat(message) => encode(message, seq, connection),
            Self::Report(message) => encode(message, seq, connection),
            Self::Reported(message) => encode(message, seq, connection),
            Self::Log(message) => encode(message, seq, connection),
            Self::Event(message) => encode(message, seq, connection),
        }
    }
}

fn encode<T: Stamp>(message: &mut T, seq: u64, connection: u16) -> Result<Vec<u8>, CodecError> {
    message.stamp(seq, connection);
    codec::encode_packed(message)
}

/// A body from the database as it is sent.
///
/// # Errors
/// It is not a record of this kind, or larger than the protocol allows.
pub fn stamp(kind: Kind, body: &[u8], seq: u64, connection: u16) -> Result<Vec<u8>, CodecError> {
    let limit_bytes = kind.max_record_bytes();
    let stamped = match kind {
        Kind::Heartbeat => stamp_as::<Heartbeat>(body, limit_bytes, seq, connection),
        Kind::Report => stamp_as::<CommandReport>(body, limit_bytes, seq, connection),
        Kind::Reported => stamp_as::<Reported>(body, limit_bytes, seq, connection),
        Kind::Log => stamp_as::<LogBatch>(body, limit_bytes, seq, connection),
        Kind::Event | Kind::Void => stamp_as::<Event>(body, limit_bytes, seq, connection),
    }?;
    if stamped.len() > limit_bytes {
        return Err(CodecError::TooLarge { size_bytes: stamped.len(), limit_bytes });
    }
    Ok(stamped)
}

fn stamp_as<T: Stamp>(body: &[u8], limit: usize, seq: u64, connection: u16) -> Result<Vec<u8>, CodecError> {
    encode(&mut codec::decode::<T>(body, limit)?, seq, connection)
}

/// The body of a void record.
#[must_use]
pub(crate) fn void_body(void: Vec<Void>, ts_ms: i64) -> Vec<u8> {
    let event = Event {
        seq: 0,
        connection: 0,
        ts: ts_ms,
        kind: message::event::OUTBOX_THINNED.to_owned(),
        details: None,
        void,
    };
    // Only text, numbers and bytes: nothing in it can refuse to be encoded.
    codec::encode_packed(&event).unwrap_or_default()
}

/// The numbers that a void record's body names; empty if it cannot be read.
#[must_use]
pub(crate) fn gone(body: &[u8]) -> RangeSet {
    let mut gone = RangeSet::new();
    if let Ok(event) = codec::decode::<Event>(body, Kind::Void.max_record_bytes()) {
        event.void.iter().filter_map(Void::gone).for_each(|set| gone.extend(&set));
    }
    gone
}
