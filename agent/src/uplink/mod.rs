//! Getting records to the server: what to send next, and when to send it again. Pure: it takes the time and what has
//! happened, and says what to do; the socket and the database are elsewhere.
//!
//! On every connection the birth goes first, and records follow only after an acknowledgement, and after the disk has it
//! that they may have been sent: so a later acknowledgement shows whether the disk is an older copy. Records that stay
//! unacknowledged for 30 s after the broker took them (then 60 s, up to 5 min) lead to a new birth, and what its
//! acknowledgement does not cover is sent again. So while the server is away only births are repeated.
//!
//! Time is a [`Duration`] since any fixed point, on a clock that never goes back.

mod window;

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::time::Duration;

use protocol::ranges::RangeSet;

use crate::outbox::{Change, Kind, Outbox, Refused, STAMP_BYTES, Verdict};
use window::Window;

/// From the broker's receipt to the first repetition.
const FIRST_RESEND: Duration = Duration::from_secs(30);
/// The longest wait between repetitions.
const LONGEST_RESEND: Duration = Duration::from_secs(300);
/// A broker that has not confirmed a packet after this is not reached any more.
const RECEIPT_TIMEOUT: Duration = Duration::from_secs(75);
/// After the disk has refused to note what may have been sent.
const RELEASE_AGAIN: Duration = Duration::from_secs(30);
/// Packets without receipt at a time; far below the number that the MQTT client can number.
const MOST_WITHOUT_RECEIPT: usize = 16;

/// Names one packet that was handed to the link; never used twice.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PacketId(pub u64);

/// What to do now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// Publish the birth.
    Birth(PacketId),
    /// Publish these records, all of one kind, in one payload.
    Records(PacketId, Kind, Vec<u64>),
    /// Commit that records below this number may have been sent, then say so by [`Uplink::released`], or by
    /// [`Uplink::not_released`] if that cannot be.
    Release(u64),
    /// The broker does not answer: end this connection and make another.
    DropLink,
    /// The server knows records of this state that it cannot have from here: an older copy was restored, or there is
    /// another one. Give the state a new identity, then begin again with [`Uplink::new`] and a new connection.
    NewIdentity,
}

#[derive(Debug)]
enum Phase {
    /// No connection, or one that is of no use any more.
    Down,
    /// Birth, and no records before it is acknowledged.
    Greeting(Greeting),
    /// Records flow.
    Open,
    /// Waits for a new identity.
    Foreign { told: bool },
}

#[derive(Debug)]
struct Greeting {
    /// The last birth; none yet if it is still to be sent.
    birth: Option<Sent>,
    /// Births without answer before it, or repetitions of the records that led to it.
    attempts: u32,
    /// Not later than this, whatever the attempts: the server is known to be back.
    hurry: Option<Duration>,
}

/// When a packet went out, and when the broker had it.
#[derive(Debug, Clone, Copy)]
struct Sent {
    id: PacketId,
    at: Duration,
    receipt_at: Option<Duration>,
}

impl Sent {
    fn is_overdue(&self, now: Duration) -> bool {
        self.receipt_at.is_none() && now >= self.at + RECEIPT_TIMEOUT
    }
}

#[derive(Debug)]
struct Packet {
    sent: Sent,
    /// Those that are not acknowledged yet.
    seqs: Vec<u64>,
    bytes: usize,
    /// How often the most repeated of its records was sent before.
    attempts: u32,
    /// For the measurement: what was acknowledged, and under way, when it went out.
    delivered_before: u64,
    under_way_before: usize,
    /// Not later than this, whatever the attempts.
    hurry: Option<Duration>,
}

impl Packet {
    /// When it must be sent again; never before the broker has it.
    fn due(&self) -> Option<Duration> {
        let due = self.sent.receipt_at? + resend_wait(self.attempts);
        Some(self.hurry.map_or(due, |hurry| due.min(hurry)))
    }
}

fn resend_wait(attempts: u32) -> Duration {
    FIRST_RESEND.saturating_mul(1u32.checked_shl(attempts).unwrap_or(u32::MAX)).min(LONGEST_RESEND)
}

/// The state machine, with the outbox that it empties.
#[derive(Debug)]
pub struct Uplink {
    outbox: Outbox,
    phase: Phase,
    packets: Vec<Packet>,
    /// How often records were sent before on this connection, if they were.
    repeats: BTreeMap<u64, u32>,
    /// After a refusal of the disk: no release is asked for before.
    release_at: Duration,
    window: Window,
    delivered_bytes: u64,
    next_packet: u64,
}

impl Uplink {
    /// Not connected, with everything in `outbox` to be sent.
    #[must_use]
    pub fn new(outbox: Outbox) -> Self {
        Self {
            outbox,
            phase: Phase::Down,
            packets: Vec::new(),
            repeats: BTreeMap::new(),
            release_at: Duration::ZERO,
            window: Window::new(),
            delivered_bytes: 0,
            next_packet: 0,
        }
    }

    /// The outbox.
    #[must_use]
    pub fn outbox(&self) -> &Outbox {
        &self.outbox
    }

    /// Whether the server has acknowledged a birth of this connection, and nothing since casts doubt on it.
    #[must_use]
    pub fn is_open(&self) -> bool {
        matches!(self.phase, Phase::Open)
    }

    /// What must change to take in a record; see [`Outbox::plan`]. While records flow it is released in the same
    /// transaction.
    ///
    /// # Errors
    /// The record is too large, or there is no room.
    pub fn plan(&self, kind: Kind, body: Vec<u8>, ts_ms: i64) -> Result<Change, Refused> {
        Ok(self.releasing(self.outbox.plan(kind, body, ts_ms)?))
    }

    /// What must change to drop records that can never be sent.
    #[must_use]
    pub fn plan_drop(&self, poison: &[u64], ts_ms: i64) -> Change {
        self.releasing(self.outbox.plan_drop(poison, ts_ms))
    }

    fn releasing(&self, change: Change) -> Change {
        Change { released: self.is_open().then_some(change.next_seq), ..change }
    }

    /// The database has committed that records below this number may have been sent.
    pub fn released(&mut self, below: u64) {
        self.outbox.release(below);
    }

    /// The database has refused that; it is asked again in a while. What was released before flows meanwhile.
    pub fn not_released(&mut self, now: Duration) {
        self.release_at = now + RELEASE_AGAIN;
    }

    /// The database has committed `change`.
    pub fn committed(&mut self, change: &Change) {
        self.outbox.apply(change);
    }

    /// A connection stands, and what the server sends is being listened to.
    pub fn connected(&mut self) {
        self.disconnected();
        self.window.begin();
        self.phase = Phase::Greeting(Greeting { birth: None, attempts: 0, hurry: None });
    }

    /// The connection is gone. Everything unacknowledged waits for the next one.
    pub fn disconnected(&mut self) {
        if self.packets.iter().any(|packet| packet.sent.receipt_at.is_none()) {
            self.window.lost();
        }
        for packet in std::mem::take(&mut self.packets) {
            self.outbox.mark_waiting(&packet.seqs);
        }
        self.repeats.clear();
        if !matches!(self.phase, Phase::Foreign { .. }) {
            self.phase = Phase::Down;
        }
    }

    /// The broker has this packet.
    pub fn receipt(&mut self, id: PacketId, now: Duration) {
        if let Phase::Greeting(Greeting { birth: Some(birth), .. }) = &mut self.phase
            && birth.id == id
        {
            birth.receipt_at.get_or_insert(now);
        }
        if let Some(packet) = self.packets.iter_mut().find(|packet| packet.sent.id == id) {
            packet.sent.receipt_at.get_or_insert(now);
            self.window.received();
        }
    }

    /// The server says what it has committed of this state. Returns whether this opened the connection for records.
    pub fn acknowledged(&mut self, ranges: &RangeSet, now: Duration) -> bool {
        if matches!(self.phase, Phase::Foreign { .. }) {
            return false;
        }
        if self.outbox.judge(ranges) == Verdict::NotOurs {
            self.phase = Phase::Foreign { told: false };
            return false;
        }
        self.outbox.take_committed(ranges);
        self.settle(ranges, now);
        let answered = matches!(&self.phase, Phase::Greeting(Greeting { birth: Some(_), .. }));
        if answered {
            // What was due before the birth and is still not covered did not get through.
            let (again, under_way) =
                std::mem::take(&mut self.packets).into_iter().partition(|packet| is_due(packet, now));
            self.packets = under_way;
            self.repeat(again);
            self.phase = Phase::Open;
        }
        answered
    }

    /// What the birth says has changed: a new one is due before any more records.
    pub fn birth_has_changed(&mut self) {
        if matches!(self.phase, Phase::Open | Phase::Greeting(_)) {
            self.phase = Phase::Greeting(Greeting { birth: None, attempts: 0, hurry: None });
        }
    }

    /// A server process says that it has just started: no reason to wait longer than `wait` with repetitions.
    pub fn server_is_back(&mut self, now: Duration, wait: Duration) {
        match &mut self.phase {
            Phase::Greeting(greeting) => greeting.hurry = Some(now + wait),
            Phase::Open => self.packets.iter_mut().for_each(|packet| packet.hurry = Some(now + wait)),
            Phase::Down | Phase::Foreign { .. } => {}
        }
    }

    /// These records of a packet cannot be sent after all, and have left the outbox.
    pub fn withdrawn(&mut self, id: PacketId, seqs: &[u64]) {
        if let Some(packet) = self.packets.iter_mut().find(|packet| packet.sent.id == id) {
            packet.seqs.retain(|seq| !seqs.contains(seq));
        }
        self.packets.retain(|packet| !packet.seqs.is_empty());
    }

    /// What to do now, one thing at a time: call until it returns `None`.
    pub fn poll(&mut self, now: Duration) -> Option<Action> {
        match &self.phase {
            Phase::Down | Phase::Foreign { told: true } => return None,
            Phase::Foreign { told: false } => {
                self.phase = Phase::Foreign { told: true };
                return Some(Action::NewIdentity);
            }
            Phase::Greeting(_) | Phase::Open => {}
        }
        if self.all_sent().any(|sent| sent.is_overdue(now)) {
            self.disconnected();
            return Some(Action::DropLink);
        }
        if matches!(self.phase, Phase::Open) {
            let due = self.packets.iter().filter(|packet| is_due(packet, now));
            match due.map(|packet| packet.attempts).max() {
                None if self.outbox.has_unreleased() && now >= self.release_at => {
                    return Some(Action::Release(self.outbox.next_seq()));
                }
                None => return self.next_records(now),
                Some(attempts) => {
                    let greeting =
                        Greeting { birth: None, attempts: attempts.saturating_add(1), hurry: None };
                    self.phase = Phase::Greeting(greeting);
                }
            }
        }
        self.next_birth(now)
    }

    /// When [`Self::poll`] must be called again if nothing happens before.
    #[must_use]
    pub fn wake_at(&self) -> Option<Duration> {
        let receipts = self
            .all_sent()
            .filter(|sent| sent.receipt_at.is_none())
            .map(|sent| sent.at + RECEIPT_TIMEOUT)
            .min();
        let repeat = match &self.phase {
            Phase::Down | Phase::Foreign { .. } => return None,
            Phase::Greeting(greeting) => greeting.due(),
            Phase::Open => {
                let release = self.outbox.has_unreleased().then_some(self.release_at);
                self.packets.iter().filter_map(Packet::due).chain(release).min()
            }
        };
        receipts.into_iter().chain(repeat).min()
    }

    fn next_birth(&mut self, now: Duration) -> Option<Action> {
        let Phase::Greeting(greeting) = &mut self.phase else { return None };
        if greeting.birth.is_some() {
            if greeting.due().is_none_or(|due| now < due) {
                return None;
            }
            greeting.attempts = greeting.attempts.saturating_add(1);
            greeting.hurry = None;
        }
        let id = PacketId(self.next_packet);
        self.next_packet += 1;
        greeting.birth = Some(Sent { id, at: now, receipt_at: None });
        Some(Action::Birth(id))
    }

    fn next_records(&mut self, now: Duration) -> Option<Action> {
        let without_receipt = self.packets.iter().filter(|packet| packet.sent.receipt_at.is_none()).count();
        let under_way: usize = self.packets.iter().map(|packet| packet.bytes).sum();
        let room = self.window.bytes().saturating_sub(under_way);
        if without_receipt >= MOST_WITHOUT_RECEIPT || (room == 0 && !self.packets.is_empty()) {
            return None;
        }
        let (kind, seqs) = self.outbox.next_to_send(room);
        let bytes =
            seqs.iter().filter_map(|seq| self.outbox.get(*seq)).map(|(_, body)| body + STAMP_BYTES).sum();
        // Something always goes, however small the window: else a large record would wait for ever.
        if seqs.is_empty() || (bytes > room && !self.packets.is_empty()) {
            return None;
        }
        self.outbox.mark_sent(&seqs);
        let id = PacketId(self.next_packet);
        self.next_packet += 1;
        self.packets.push(Packet {
            sent: Sent { id, at: now, receipt_at: None },
            attempts: seqs.iter().filter_map(|seq| self.repeats.get(seq)).copied().max().unwrap_or(0),
            seqs: seqs.clone(),
            bytes,
            delivered_before: self.delivered_bytes,
            under_way_before: under_way,
            hurry: None,
        });
        Some(Action::Records(id, kind, seqs))
    }

    /// Takes what is covered out of the packets; complete packets are measured.
    fn settle(&mut self, ranges: &RangeSet, now: Duration) {
        for packet in &mut self.packets {
            packet.seqs.retain(|seq| !ranges.contains(*seq));
        }
        let (complete, open): (Vec<_>, Vec<_>) =
            std::mem::take(&mut self.packets).into_iter().partition(|packet| packet.seqs.is_empty());
        self.packets = open;
        self.delivered_bytes += complete.iter().map(|packet| packet.bytes as u64).sum::<u64>();
        for packet in complete {
            let delivered = self.delivered_bytes - packet.delivered_before;
            let filled = packet.under_way_before + packet.bytes;
            self.window.measured(delivered, now.saturating_sub(packet.sent.at), filled);
        }
        self.repeats.retain(|seq, _| !ranges.contains(*seq));
    }

    fn repeat(&mut self, packets: Vec<Packet>) {
        for packet in packets {
            for seq in &packet.seqs {
                let times = self.repeats.entry(*seq).or_insert(0);
                *times = times.saturating_add(1);
            }
            self.outbox.mark_waiting(&packet.seqs);
        }
    }

    fn all_sent(&self) -> impl Iterator<Item = &Sent> {
        let birth = match &self.phase {
            Phase::Greeting(greeting) => greeting.birth.as_ref(),
            _ => None,
        };
        birth.into_iter().chain(self.packets.iter().map(|packet| &packet.sent))
    }
}

impl Greeting {
    /// When the next birth is due; `None` until the broker has the last one.
    fn due(&self) -> Option<Duration> {
        let Some(birth) = &self.birth else { return Some(Duration::ZERO) };
        let due = birth.receipt_at? + resend_wait(self.attempts);
        Some(self.hurry.map_or(due, |hurry| due.min(hurry)))
    }
}

fn is_due(packet: &Packet, now: Duration) -> bool {
    packet.due().is_some_and(|due| now >= due)
}
