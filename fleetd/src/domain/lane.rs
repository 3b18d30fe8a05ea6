//! One device's stream of records, as a pure state machine: what is stored, what is acknowledged, what is left alone.
//!
//! Invariants:
//! * A record counts as committed only through [`Lane::committed`], which the caller stores in the same transaction as
//!   the record itself. What it names was stored, or declared void by the device.
//! * A record is taken only if its connection number is that of the last birth (modulo 65536); its state id is that
//!   birth's. Others are left uncommitted: the device repeats its birth before it sends again.

#[cfg(test)]
mod tests;

use protocol::{
    codec::{self, CodecError, Record, Value, limit},
    message::{Birth, CommandReport, Event, Heartbeat, LogBatch, Presence, Reported, Void},
    ranges::RangeSet,
    topic::Uplink,
};

use super::{
    sample::Sample,
    timing::{Anchor, is_fresh},
};

/// Most ranges that the committed set of one state database may have: keeps an acknowledgement under 256 KiB. What
/// would make more is left uncommitted until gaps have closed; see [`Lane::commit`].
pub const RANGES_MAX: usize = 20_000;
/// With this many ranges a record by itself makes no further one. The rest is for voids: an agent's names at most 1024
/// ranges, so there is room for one whatever else the set is full of, and the records between them then close gaps.
pub const APART_MAX: usize = 16_000;
/// What is kept of a record that could not be understood, in bytes.
pub const POISON_MAX_BYTES: usize = 8 * 1024;

/// A device's last birth and when it arrived (ms since 1970).
#[derive(Clone, Debug, PartialEq)]
pub struct Born {
    /// The message.
    pub birth: Birth,
    /// Its arrival.
    pub at: i64,
}

/// What the server holds of one device's stream.
#[derive(Clone, Debug, Default)]
pub struct Lane {
    /// The last birth; records need one.
    pub born: Option<Born>,
    /// The committed numbers of the birth's state database.
    pub committed: RangeSet,
    /// The retained presence as the broker has it, if it was seen.
    pub presence: Option<Presence>,
}

/// Something to store, in this order.
#[derive(Clone, Debug, PartialEq)]
pub enum Stored {
    /// A sign of life, taken at this time.
    Alive(i64),
    /// A heartbeat.
    Heartbeat(Box<Sample>),
    /// A command report.
    Report(CommandReport),
    /// A reported config.
    Reported(Reported),
    /// Log lines.
    Log(LogBatch),
    /// An event.
    Event(Event),
    /// A record that could not be understood, or not be believed.
    Poison {
        /// Its number.
        seq: u64,
        /// The record, cut to [`POISON_MAX_BYTES`].
        raw: Vec<u8>,
        /// Its whole size.
        size_bytes: usize,
        /// What is wrong with it.
        reason: String,
    },
}

/// What a message of records leads to.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Taken {
    /// To store, together with the committed set.
    pub stored: Vec<Stored>,
    /// Whether an acknowledgement is due: something was taken, or was there already.
    pub acknowledge: bool,
    /// Records that were stored before.
    pub duplicates: u64,
    /// Records of another connection than the last birth's.
    pub mismatched: u64,
    /// Records without a number that can be read.
    pub unnumbered: u64,
    /// Records left uncommitted since the set has too many gaps.
    pub gaps: u64,
    /// Why the message as a whole cannot be read.
    pub malformed: Option<String>,
}

/// What a presence message means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PresenceMeans {
    /// The connection of the last birth was lost.
    Lost,
    /// It stands, as known.
    Stands,
    /// It is about another connection: ignored, and to be rewritten unless a birth follows.
    Stale,
}

impl Lane {
    /// Takes a birth. `committed`: what is committed of the birth's state database.
    pub fn born(&mut self, birth: Birth, at: i64, committed: RangeSet) {
        self.born = Some(Born { birth, at });
        self.committed = committed;
    }

    /// Takes a presence message.
    pub fn presence(&mut self, presence: Presence) -> PresenceMeans {
        self.presence = Some(presence);
        match &self.born {
            Some(born) if is_about(&presence, &born.birth) => {
                if presence.online {
                    PresenceMeans::Stands
                } else {
                    PresenceMeans::Lost
                }
            }
            _ => PresenceMeans::Stale,
        }
    }

    /// Whether the presence that was seen last says that the last birth's connection was lost. Topics are not ordered
    /// among each other: a will may arrive before the birth of the connection that it ends.
    #[must_use]
    pub fn was_lost(&self) -> bool {
        match (&self.presence, &self.born) {
            (Some(presence), Some(born)) => !presence.online && is_about(presence, &born.birth),
            _ => false,
        }
    }

    /// The presence that the retained one should be replaced with, if it is not of the last birth.
    #[must_use]
    pub fn presence_correction(&self) -> Option<Presence> {
        let (presence, born) = (self.presence?, self.born.as_ref()?);
        let right =
            Presence { state_id: born.birth.state_id, connection: born.birth.connection, online: true };
        (!is_about(&presence, &born.birth)).then_some(right)
    }

    /// Takes a payload of records that arrived at `received_at` (ms since 1970). Without `uplink` it came on a topic that
    /// this version does not know: its records are kept raw, so that a newer device can forget them.
    pub fn records(&mut self, uplink: Option<Uplink>, payload: &[u8], received_at: i64) -> Taken {
        let mut taken = Taken::default();
        let Some(uplink) = uplink else {
            let result =
                self.each::<Unread>(payload, limit::LARGEST_BYTES, &mut taken, |_, _, never| match never {});
            taken.malformed = result.err().map(|error| error.to_string());
            return taken;
        };
        let result = match uplink {
            Uplink::Heartbeat => {
                let limit_bytes = heartbeat_limit(payload);
                self.each(payload, limit_bytes, &mut taken, |lane, stored, heartbeat: Heartbeat| {
                    lane.heartbeat(&heartbeat, received_at, stored)
                        .map_err(|reason| Box::new((heartbeat, reason)))
                })
            }
            Uplink::Status => self.each(payload, limit::COMMAND_BYTES, &mut taken, |_, stored, report| {
                stored.push(Stored::Report(report));
                Ok(())
            }),
            Uplink::Reported => {
                self.each(payload, limit::COMMAND_BYTES, &mut taken, |_, stored, reported| {
                    stored.push(Stored::Reported(reported));
                    Ok(())
                })
            }
            Uplink::Log => {
                self.each(payload, limit::LOG_BATCH_BYTES, &mut taken, |_, stored, batch: LogBatch| {
                    if batch.records.len() > limit::RECORDS_PER_BATCH {
                        let reason = format!("more than {} lines", limit::RECORDS_PER_BATCH);
                        return Err(Box::new((batch, reason)));
                    }
                    stored.push(Stored::Log(batch));
                    Ok(())
                })
            }
            Uplink::Event => self.each(payload, limit::COMMAND_BYTES, &mut taken, |_, stored, event| {
                stored.push(Stored::Event(event));
                Ok(())
            }),
            Uplink::Birth | Uplink::Presence => Ok(()),
        };
        if let Err(error) = result {
            taken.malformed = Some(error.to_string());
        }
        taken
    }

    fn each<T>(
        &mut self,
        payload: &[u8],
        limit_bytes: usize,
        taken: &mut Taken,
        // What is refused comes back, to be kept raw.
        mut accept: impl FnMut(&mut Self, &mut Vec<Stored>, T) -> Result<(), Box<(T, String)>>,
    ) -> Result<(), CodecError>
    where
        T: serde::de::DeserializeOwned + serde::Serialize + Numbered,
    {
        let (records, unnumbered) = codec::decode_records::<T>(payload, limit_bytes)?;
        taken.unnumbered += unnumbered as u64;
        for record in records {
            let (seq, connection) = match &record {
                Record::Good(good) => (good.seq(), Some(good.connection())),
                Record::Poison { seq, raw, .. } => (*seq, connection_of(raw)),
            };
            if i64::try_from(seq).is_err() {
                taken.unnumbered += 1;
                continue;
            }
            if !self.is_of_birth(connection) {
                taken.mismatched += 1;
                continue;
            }
            if self.committed.contains(seq) {
                taken.duplicates += 1;
                taken.acknowledge = true;
                continue;
            }
            let gone = match &record {
                Record::Good(good) => named_gone(seq, good.void()),
                Record::Poison { .. } => Ok(RangeSet::new()),
            };
            let (gone, refused) = gone.map_or_else(|why| (RangeSet::new(), Some(why)), |gone| (gone, None));
            if !self.commit(seq, &gone) {
                taken.gaps += 1;
                continue;
            }
            taken.acknowledge = true;
            match record {
                Record::Good(good) => {
                    let accepted = match refused {
                        None => accept(self, &mut taken.stored, good),
                        Some(why) => Err(Box::new((good, why.to_owned()))),
                    };
                    if let Err(refused) = accepted {
                        let (refused, reason) = *refused;
                        let raw = codec::encode_named(&refused).unwrap_or_default();
                        taken.stored.push(poison(seq, raw, reason));
                    }
                }
                Record::Poison { seq, raw, reason } => taken.stored.push(poison(seq, raw, reason)),
            }
        }
        Ok(())
    }

    /// Counts a record, and the numbers that it says are gone, as committed, unless the set would have too many ranges
    /// then. No order of arrival locks up for good:
    /// * a record next to a range makes no further one, and is always taken;
    /// * a void is taken if the set with it has room, or has no more ranges than before: it may well close gaps;
    /// * what is not taken is not poison. The device keeps it and sends it again, the oldest first, which lies next to
    ///   what is committed. Were a void acknowledged without effect, its gaps would stay open for ever.
    fn commit(&mut self, seq: u64, gone: &RangeSet) -> bool {
        let ranges = self.committed.as_slice().len();
        if gone.is_empty() {
            let touches = |n: Option<u64>| n.is_some_and(|n| self.committed.contains(n));
            // Nothing is below the first number, 1.
            let is_apart = seq > 1 && !touches(seq.checked_sub(1)) && !touches(seq.checked_add(1));
            if is_apart && ranges >= APART_MAX {
                return false;
            }
            self.committed.insert(seq);
            return true;
        }
        let mut committed = self.committed.clone();
        committed.extend(gone);
        committed.insert(seq);
        if committed.as_slice().len() > RANGES_MAX.max(ranges) {
            return false;
        }
        self.committed = committed;
        true
    }

    fn is_of_birth(&self, connection: Option<u16>) -> bool {
        let Some(born) = &self.born else { return false };
        // A record whose connection cannot be read is poison of the connection that it came on.
        connection.is_none_or(|connection| u64::from(connection) == born.birth.connection % 65_536)
    }

    fn heartbeat(
        &self,
        heartbeat: &Heartbeat,
        received_at: i64,
        stored: &mut Vec<Stored>,
    ) -> Result<(), String> {
        let Some(born) = &self.born else { return Ok(()) };
        let anchor = Anchor::of(&born.birth, born.at);
        let at = anchor.taken_at(heartbeat.ts, heartbeat.since_boot_ms, received_at);
        let mut sample = Sample::from_record(heartbeat, &born.birth, at, received_at);
        sample.check()?;
        if heartbeat.seq < born.birth.next_seq {
            // Taken before the birth: it says nothing of what is open now.
            sample.commands_digest = None;
        }
        if is_fresh(at, received_at, born.birth.interval_seconds.min(3600)) {
            stored.push(Stored::Alive(at));
        }
        stored.push(Stored::Heartbeat(Box::new(sample)));
        Ok(())
    }
}

/// The numbers that the voids of record `seq` name, or why they cannot be believed.
fn named_gone(seq: u64, voids: &[Void]) -> Result<RangeSet, &'static str> {
    let mut ranges = Vec::new();
    for void in voids {
        let gone = void.gone().ok_or("a void that is not well-formed")?;
        // A device can give up only what it had numbered before this record.
        if gone.max().is_some_and(|max| max >= seq) {
            return Err("a void that reaches past its own event");
        }
        ranges.extend_from_slice(gone.as_slice());
    }
    // Gathered, then merged once: a hostile event names so many that one by one they would hold up every device.
    Ok(ranges.into_iter().collect())
}

fn is_about(presence: &Presence, birth: &Birth) -> bool {
    presence.state_id == birth.state_id && presence.connection == birth.connection
}

fn poison(seq: u64, mut raw: Vec<u8>, reason: String) -> Stored {
    let size_bytes = raw.len();
    raw.truncate(POISON_MAX_BYTES);
    Stored::Poison { seq, raw, size_bytes, reason: reason.chars().take(200).collect() }
}

/// A batch is an array (RFC 8949, major type 4); one heartbeat is a map.
fn heartbeat_limit(payload: &[u8]) -> usize {
    match payload.first() {
        Some(first) if first >> 5 == 4 => limit::HEARTBEAT_BATCH_BYTES,
        _ => limit::HEARTBEAT_BYTES,
    }
}

fn connection_of(raw: &[u8]) -> Option<u16> {
    let Ok(Value::Map(fields)) = codec::decode::<Value>(raw, limit::LARGEST_BYTES) else { return None };
    let value =
        fields.get(&Value::Integer(1)).or_else(|| fields.get(&Value::Text("connection".to_owned())))?;
    match value {
        Value::Integer(number) => u16::try_from(*number).ok(),
        _ => None,
    }
}

/// What every record has.
pub trait Numbered {
    /// The sequence number.
    fn seq(&self) -> u64;
    /// The connection number of the birth that it follows, modulo 65536.
    fn connection(&self) -> u16;
    /// What it says is gone.
    fn void(&self) -> &[Void] {
        &[]
    }
}

macro_rules! numbered {
    ($($type:ty),+) => {
        $(impl Numbered for $type {
            fn seq(&self) -> u64 { self.seq }
            fn connection(&self) -> u16 { self.connection }
        })+
    };
}
numbered!(Heartbeat, CommandReport, Reported, LogBatch);

impl Numbered for Event {
    fn seq(&self) -> u64 {
        self.seq
    }
    fn connection(&self) -> u16 {
        self.connection
    }
    fn void(&self) -> &[Void] {
        &self.void
    }
}

/// A record of a kind that this version cannot read: there is none.
enum Unread {}

impl<'de> serde::Deserialize<'de> for Unread {
    fn deserialize<D: serde::Deserializer<'de>>(_: D) -> Result<Self, D::Error> {
        Err(serde::de::Error::custom("this server does not know the topic"))
    }
}

impl serde::Serialize for Unread {
    fn serialize<S: serde::Serializer>(&self, _: S) -> Result<S::Ok, S::Error> {
        match *self {}
    }
}

impl Numbered for Unread {
    fn seq(&self) -> u64 {
        match *self {}
    }
    fn connection(&self) -> u16 {
        match *self {}
    }
}
