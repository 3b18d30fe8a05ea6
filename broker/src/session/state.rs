//! What a session knows: its subscriptions, what waits for the client, and what is on its way in either direction.
//!
//! Pure: no task, socket or clock. It hands out what to send next and takes acknowledgements in any order. It owns the
//! client's packet identifiers; the router knows nothing of them.

use std::collections::{BTreeSet, VecDeque};

use super::index::Index;
use crate::channel::{Kinds, Scope};
use crate::filter::matches;
use crate::message::Message;

/// What a queued message costs beside its bytes.
const ENTRY_BYTES: usize = 64;
/// Room for so many entries is kept when there are none.
const KEEP_ENTRIES: usize = 4;
/// MQTT has so many packet identifiers, from 1.
const PACKET_IDS: u64 = u16::MAX as u64;

/// So many filters are compared one by one; for more there is an index.
const FEW_SUBSCRIPTIONS: usize = 8;

/// One subscription.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Subscription {
    pub(crate) filter: String,
    pub(crate) qos: u8,
    pub(crate) no_local: bool,
    pub(crate) retain_as_published: bool,
}

/// A message that waits for the client or is on its way to it.
#[derive(Clone, Debug)]
struct Waiting {
    message: Message,
    qos: u8,
    retain: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// PUBLISH sent; PUBACK or PUBREC is awaited.
    Published,
    /// PUBREL sent; PUBCOMP is awaited.
    Released,
}

#[derive(Debug)]
struct Inflight {
    /// Its place in the order of all packet identifiers that were ever given out.
    number: u64,
    stage: Stage,
    /// Sent on the connection of now, rather than an earlier one.
    sent_here: bool,
    /// Kept until the client has it; `None` where it will never be sent again.
    waiting: Option<Waiting>,
}

/// The next packet for the client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Next {
    Publish { message: Message, qos: u8, retain: bool, packet_id: u16, dup: bool },
    Release { packet_id: u16 },
}

/// What became of an offered message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Offer {
    Queued,
    /// No subscription matches, or it is QoS 0 and the client is away.
    NotWanted,
    /// It matches and there is no room.
    Full,
}

/// What a PUBREC leads to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Received {
    /// Answer with PUBREL.
    Release,
    /// The client refused the message: nothing more to do.
    Refused,
    /// Not one of ours: answer with PUBREL and "packet identifier not found".
    Unknown,
}

/// What a QoS 2 PUBLISH is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Incoming {
    /// New: publish it.
    First,
    /// It has been published already.
    Repeated,
    /// More than agreed are unreleased.
    TooMany,
}

fn packet_id_of(number: u64) -> u16 {
    // Below 65,536.
    (number % PACKET_IDS + 1) as u16
}

/// The state of one session.
#[derive(Debug)]
pub(crate) struct SessionState {
    /// Its number: what it publishes carries it as origin.
    id: u64,
    /// Messages have to be kept until they are acknowledged, because the session may be resumed.
    keeps: bool,
    limit_bytes: usize,
    subscriptions: Vec<Subscription>,
    /// Over the subscriptions as they are, if they are many and a message came since they changed.
    index: Option<Index>,
    queue: VecDeque<Waiting>,
    queued_bytes: usize,
    /// In the order of their numbers.
    inflight: VecDeque<Inflight>,
    /// How many of them are still to be sent on the connection of now.
    unsent: usize,
    /// Bytes of those that are kept.
    kept_bytes: usize,
    /// The number of the next packet identifier.
    next_number: u64,
    unreleased: BTreeSet<u16>,
}

impl SessionState {
    /// An empty session. Past `limit_bytes` of waiting messages it takes no more.
    pub(crate) fn new(id: u64, keeps: bool, limit_bytes: usize) -> SessionState {
        SessionState {
            id,
            keeps,
            limit_bytes,
            subscriptions: Vec::new(),
            index: None,
            queue: VecDeque::new(),
            queued_bytes: 0,
            inflight: VecDeque::new(),
            unsent: 0,
            kept_bytes: 0,
            next_number: 0,
            unreleased: BTreeSet::new(),
        }
    }

    /// Whether sent messages have to be kept for a later connection.
    pub(crate) fn set_keeps(&mut self, keeps: bool) {
        self.keeps = keeps;
    }

    /// Adds or replaces a subscription; true if its filter is new.
    pub(crate) fn subscribe(&mut self, subscription: Subscription) -> bool {
        match self.subscriptions.iter_mut().find(|known| known.filter == subscription.filter) {
            Some(known) => {
                *known = subscription;
                false
            }
            None => {
                self.subscriptions.push(subscription);
                self.index = None;
                true
            }
        }
    }

    /// True if there was such a subscription.
    pub(crate) fn unsubscribe(&mut self, filter: &str) -> bool {
        let before = self.subscriptions.len();
        self.subscriptions.retain(|known| known.filter != filter);
        self.index = None;
        self.subscriptions.len() < before
    }

    pub(crate) fn subscription(&self, filter: &str) -> Option<&Subscription> {
        self.subscriptions.iter().find(|known| known.filter == filter)
    }

    /// The filters, each once.
    pub(crate) fn filters(&self) -> impl Iterator<Item = &str> {
        self.subscriptions.iter().map(|subscription| subscription.filter.as_str())
    }

    pub(crate) fn subscription_count(&self) -> usize {
        self.subscriptions.len()
    }

    /// The kinds of messages that the subscriptions need.
    pub(crate) fn kinds(&self, scope: &Scope) -> Kinds {
        self.subscriptions.iter().fold(Kinds::default(), |kinds, s| kinds.union(scope.kinds(&s.filter)))
    }

    /// QoS and retain flag with which a message is to be delivered, `None` if it is not for this client. Several
    /// matching subscriptions give one delivery, with the best QoS among them.
    fn grant(&mut self, message: &Message) -> Option<(u8, bool)> {
        let mut granted: Option<(u8, bool)> = None;
        let subscriptions = &self.subscriptions;
        let own = message.origin() == self.id;
        let mut add = |subscription: &Subscription| {
            if !(subscription.no_local && own) {
                let (qos, retain) = granted.unwrap_or((0, false));
                granted = Some((
                    qos.max(subscription.qos.min(message.qos())),
                    retain || (subscription.retain_as_published && message.retain()),
                ));
            }
        };
        let topic = message.topic();
        if subscriptions.len() <= FEW_SUBSCRIPTIONS {
            subscriptions.iter().filter(|known| matches(&known.filter, topic)).for_each(add);
        } else {
            let filters = || subscriptions.iter().map(|known| known.filter.as_str());
            let index = self.index.get_or_insert_with(|| Index::of(filters()));
            index.matching(topic, |position| add(&subscriptions[position]));
        }
        granted
    }

    /// Queues a fresh message if it is for this client. While the client is away QoS 0 is not kept.
    pub(crate) fn offer(&mut self, message: &Message, connected: bool) -> Offer {
        let Some((qos, retain)) = self.grant(message) else { return Offer::NotWanted };
        if qos == 0 && !connected {
            return Offer::NotWanted;
        }
        if self.queued_bytes >= self.limit_bytes {
            return Offer::Full;
        }
        self.enqueue(Waiting { message: message.clone(), qos, retain });
        Offer::Queued
    }

    /// Queues a retained message for a new subscription; its caller asks for [`SessionState::wants_retained`] first.
    pub(crate) fn offer_retained(&mut self, message: &Message, subscription_qos: u8) {
        let qos = subscription_qos.min(message.qos());
        self.enqueue(Waiting { message: message.clone(), qos, retain: true });
    }

    /// True while so little is queued that the next retained messages can be fetched.
    pub(crate) fn wants_retained(&self) -> bool {
        self.queue.len() < 32 && self.queued_bytes < self.limit_bytes
    }

    fn enqueue(&mut self, waiting: Waiting) {
        self.queued_bytes += waiting.message.len() + ENTRY_BYTES;
        self.queue.push_back(waiting);
    }

    /// True if the queue has taken in less than its limit.
    pub(crate) fn has_room(&self) -> bool {
        self.queued_bytes < self.limit_bytes
    }

    /// What to send next, if anything may be sent: at most `window` publishes of QoS 1 and 2 are under way.
    pub(crate) fn next(&mut self, window: usize) -> Option<Next> {
        if self.unsent > 0 {
            return self.next_unsent(window);
        }
        let first = self.queue.front()?;
        // What is kept for the next connection counts like what waits.
        let full = self.inflight.len() >= window || self.kept_bytes >= self.limit_bytes;
        if first.qos > 0 && full {
            return None;
        }
        let waiting = self.queue.pop_front()?;
        self.queued_bytes -= waiting.message.len() + ENTRY_BYTES;
        if self.queue.is_empty() && self.queue.capacity() > KEEP_ENTRIES {
            // A burst's room is given back.
            self.queue = VecDeque::new();
        }
        let Waiting { message, qos, retain } = waiting;
        let mut packet_id = 0;
        if qos > 0 {
            let number = self.free_number();
            packet_id = packet_id_of(number);
            let waiting = self.keeps.then(|| Waiting { message: message.clone(), qos, retain });
            self.kept_bytes += waiting.as_ref().map_or(0, |waiting| waiting.message.len() + ENTRY_BYTES);
            self.inflight.push_back(Inflight { number, stage: Stage::Published, sent_here: true, waiting });
        }
        Some(Next::Publish { message, qos, retain, packet_id, dup: false })
    }

    /// What was under way on an earlier connection and has not been sent again. The window holds back nothing but
    /// publishes.
    fn next_unsent(&mut self, window: usize) -> Option<Next> {
        let under_way = self.inflight.len() - self.unsent;
        let mut again = None;
        for entry in self.inflight.iter_mut().filter(|entry| !entry.sent_here) {
            if entry.stage == Stage::Published && entry.waiting.is_some() {
                again.get_or_insert(entry);
                continue;
            }
            entry.sent_here = true;
            self.unsent -= 1;
            return Some(Next::Release { packet_id: packet_id_of(entry.number) });
        }
        let entry = again.filter(|_| under_way < window)?;
        let Waiting { message, qos, retain } = entry.waiting.clone()?;
        entry.sent_here = true;
        self.unsent -= 1;
        Some(Next::Publish { message, qos, retain, packet_id: packet_id_of(entry.number), dup: true })
    }

    /// The next number whose packet identifier is not in use; the window is far below 65,535, so there is one.
    fn free_number(&mut self) -> u64 {
        loop {
            let number = self.next_number;
            self.next_number += 1;
            if self.place(packet_id_of(number)).is_none() {
                return number;
            }
        }
    }

    /// Where the packet identifier is in `inflight`.
    fn place(&self, packet_id: u16) -> Option<usize> {
        let first = self.inflight.front()?.number;
        if packet_id_of(first) == packet_id {
            return Some(0);
        }
        if self.next_number - first > PACKET_IDS {
            // The oldest stands for so long that the identifiers have gone round: their order says nothing.
            return self.inflight.iter().position(|entry| packet_id_of(entry.number) == packet_id);
        }
        let offset = u64::from(packet_id).checked_sub(1)?;
        let ahead = (offset + PACKET_IDS - first % PACKET_IDS) % PACKET_IDS;
        self.inflight.binary_search_by_key(&(first + ahead), |entry| entry.number).ok()
    }

    fn remove(&mut self, place: usize) {
        let Some(entry) = self.inflight.remove(place) else { return };
        self.unsent -= usize::from(!entry.sent_here);
        self.kept_bytes -= entry.waiting.map_or(0, |waiting| waiting.message.len() + ENTRY_BYTES);
        if self.inflight.is_empty() && self.inflight.capacity() > KEEP_ENTRIES {
            self.inflight = VecDeque::new();
        }
    }

    fn end(&mut self, packet_id: u16, stage: Stage) {
        if let Some(place) = self.place(packet_id)
            && self.inflight[place].stage == stage
        {
            self.remove(place);
        }
    }

    /// A sent message that will not be acknowledged after all (it was too large for the client).
    pub(crate) fn forget(&mut self, packet_id: u16) {
        if let Some(place) = self.place(packet_id) {
            self.remove(place);
        }
    }

    /// PUBACK.
    pub(crate) fn acknowledged(&mut self, packet_id: u16) {
        self.end(packet_id, Stage::Published);
    }

    /// PUBREC.
    pub(crate) fn received(&mut self, packet_id: u16, refused: bool) -> Received {
        let Some(place) = self.place(packet_id) else { return Received::Unknown };
        if refused {
            self.remove(place);
            return Received::Refused;
        }
        let entry = &mut self.inflight[place];
        entry.stage = Stage::Released;
        self.kept_bytes -= entry.waiting.take().map_or(0, |waiting| waiting.message.len() + ENTRY_BYTES);
        Received::Release
    }

    /// PUBCOMP.
    pub(crate) fn completed(&mut self, packet_id: u16) {
        self.end(packet_id, Stage::Released);
    }

    /// A QoS 2 PUBLISH came in; at most `limit` may be unreleased.
    pub(crate) fn incoming(&mut self, packet_id: u16, limit: usize) -> Incoming {
        if self.unreleased.contains(&packet_id) {
            return Incoming::Repeated;
        }
        if self.unreleased.len() >= limit {
            return Incoming::TooMany;
        }
        self.unreleased.insert(packet_id);
        Incoming::First
    }

    /// PUBREL; true if the id was known.
    pub(crate) fn release(&mut self, packet_id: u16) -> bool {
        self.unreleased.remove(&packet_id)
    }

    /// The client is back: what it has not acknowledged is sent again, also of filters that it has unsubscribed since; what
    /// it may no longer see is dropped. `allowed` tells whether it may subscribe to a filter, or to a topic.
    pub(crate) fn resume(&mut self, allowed: impl Fn(&str) -> bool) {
        self.subscriptions.retain(|subscription| allowed(&subscription.filter));
        self.index = None;
        let subscriptions = std::mem::take(&mut self.subscriptions);
        let visible = |waiting: &Waiting| {
            let topic = waiting.message.topic();
            subscriptions.iter().any(|subscription| matches(&subscription.filter, topic)) || allowed(topic)
        };
        self.queue.retain(visible);
        self.queued_bytes = self.queue.iter().map(|w| w.message.len() + ENTRY_BYTES).sum();
        self.inflight.retain(|entry| entry.waiting.as_ref().is_none_or(visible));
        for entry in &mut self.inflight {
            entry.sent_here = false;
        }
        self.unsent = self.inflight.len();
        let kept = self.inflight.iter().filter_map(|entry| entry.waiting.as_ref());
        self.kept_bytes = kept.map(|waiting| waiting.message.len() + ENTRY_BYTES).sum();
        self.subscriptions = subscriptions;
    }

    /// The client has gone: QoS 0 messages are not kept for it.
    pub(crate) fn detach(&mut self) {
        self.queue.retain(|waiting| waiting.qos > 0);
        self.queued_bytes = self.queue.iter().map(|w| w.message.len() + ENTRY_BYTES).sum();
    }
}
