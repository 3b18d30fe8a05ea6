//! What a session knows: its subscriptions, what waits for the client, and what is on its way in either direction.
//!
//! Pure: no task, socket or clock. It hands out what to send next and takes acknowledgements in any order. It owns the
//! client's packet identifiers; the router knows nothing of them.

use std::borrow::Cow;
use std::collections::hash_map::{Entry, HashMap};
use std::collections::{BTreeSet, VecDeque};
use std::hash::{BuildHasher, RandomState};

use super::index::Index;
use crate::account::Share;
use crate::channel::{Kinds, Scope};
use crate::filter::matches;
use crate::message::Message;

/// What a message that waits or is under way costs beside its bytes.
const ENTRY_BYTES: usize = 96;
/// What a subscription costs beside its filter, for each level of that.
const LEVEL_BYTES: usize = 128;
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

impl Waiting {
    fn cost(&self) -> usize {
        cost(&self.message)
    }
}

fn cost(message: &Message) -> usize {
    message.len() + ENTRY_BYTES
}

/// Twice, as a walk over retained messages may go with it; and what the index holds.
fn subscription_cost(filter: &str) -> usize {
    2 * filter.len() + LEVEL_BYTES * (2 + filter.bytes().filter(|byte| *byte == b'/').count())
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

impl Inflight {
    fn cost(&self) -> usize {
        self.waiting.as_ref().map_or(ENTRY_BYTES, Waiting::cost)
    }
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
    /// It matches, and the queue is full.
    Full,
    /// It matches, and whose session this is holds too much in all.
    NoRoom,
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
    /// For everything here that takes memory.
    share: Share,
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
    /// An empty session. Past `limit_bytes` of waiting messages, or past its share, it takes no more.
    pub(crate) fn new(id: u64, keeps: bool, limit_bytes: usize, share: Share) -> SessionState {
        SessionState {
            id,
            keeps,
            limit_bytes,
            share,
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

    pub(crate) fn share(&self) -> &Share {
        &self.share
    }

    /// Whether sent messages have to be kept for a later connection.
    pub(crate) fn set_keeps(&mut self, keeps: bool) {
        self.keeps = keeps;
    }

    /// Adds or replaces a subscription; false if there is no room for it.
    #[must_use]
    pub(crate) fn subscribe(&mut self, subscription: Subscription) -> bool {
        match self.subscriptions.iter_mut().find(|known| known.filter == subscription.filter) {
            Some(known) => {
                *known = subscription;
                true
            }
            None if self.share.try_hold_waiting(subscription_cost(&subscription.filter)) => {
                self.subscriptions.push(subscription);
                self.index = None;
                true
            }
            None => false,
        }
    }

    pub(crate) fn unsubscribe(&mut self, filter: &str) {
        let Some(place) = self.subscriptions.iter().position(|known| known.filter == filter) else { return };
        self.subscriptions.remove(place);
        self.index = None;
        self.share.release(subscription_cost(filter));
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
        if subscriptions.len() <= FEW_SUBSCRIPTIONS {
            let topic = message.topic_bytes();
            subscriptions.iter().filter(|known| matches(&known.filter, topic)).for_each(add);
        } else {
            let filters = || subscriptions.iter().map(|known| known.filter.as_str());
            let index = self.index.get_or_insert_with(|| Index::of(filters()));
            index.matching(message.topic(), |position| add(&subscriptions[position]));
        }
        granted
    }

    /// Queues a fresh message if it is for this client. While the client is away QoS 0 is not kept.
    pub(crate) fn offer(&mut self, message: Cow<'_, Message>, connected: bool) -> Offer {
        let Some((qos, retain)) = self.grant(&message) else { return Offer::NotWanted };
        if qos == 0 && !connected {
            return Offer::NotWanted;
        }
        if !self.has_room() {
            return Offer::Full;
        }
        if !self.share.try_hold_waiting(cost(&message)) {
            return Offer::NoRoom;
        }
        self.enqueue(Waiting { message: message.into_owned(), qos, retain });
        Offer::Queued
    }

    /// As [`SessionState::offer`]; where there is no room, others leave, or it does. Tells how many did.
    pub(crate) fn offer_and_drop(&mut self, message: &Message, connected: bool) -> u64 {
        if self.has_room() && cost(message) > self.queued_bytes / 4 {
            // What leaves the queue would not make enough room.
            return 1;
        }
        let dropped = self.trim();
        match self.offer(Cow::Borrowed(message), connected) {
            Offer::Queued | Offer::NotWanted => dropped,
            Offer::Full | Offer::NoRoom => dropped + 1,
        }
    }

    /// Drops a quarter of what is queued, and tells how many messages: the oldest of the topics that have most, down to what
    /// the others have. So whoever says little is heard, however much others say.
    fn trim(&mut self) -> u64 {
        let hasher = RandomState::new();
        let mut excess: HashMap<u64, usize> = HashMap::new();
        for waiting in &self.queue {
            *excess.entry(hasher.hash_one(waiting.message.topic_bytes())).or_default() += waiting.cost();
        }
        let level = level(excess.values().copied().collect(), self.queued_bytes - self.queued_bytes / 4);
        excess.retain(|_, bytes| {
            *bytes = bytes.saturating_sub(level);
            *bytes > 0
        });
        let before = self.queue.len();
        self.queue.retain(|waiting| {
            let Entry::Occupied(mut left) = excess.entry(hasher.hash_one(waiting.message.topic_bytes()))
            else {
                return true;
            };
            *left.get_mut() = left.get().saturating_sub(waiting.cost());
            if *left.get() == 0 {
                left.remove();
            }
            false
        });
        self.count_queued();
        (before - self.queue.len()) as u64
    }

    /// Queues a retained message for a new subscription, if there is room or nothing else is queued. Its caller asks for
    /// [`SessionState::wants_retained`] first.
    #[must_use]
    pub(crate) fn offer_retained(&mut self, message: &Message, subscription_qos: u8) -> bool {
        if !(self.has_room() && self.share.try_hold_waiting(cost(message))) {
            if !self.queue.is_empty() {
                return false;
            }
            self.share.hold(cost(message));
        }
        let qos = subscription_qos.min(message.qos());
        self.enqueue(Waiting { message: message.clone(), qos, retain: true });
        true
    }

    /// True while so little is queued that the next retained messages can be fetched.
    pub(crate) fn wants_retained(&self) -> bool {
        self.queue.len() < 32 && self.has_room()
    }

    /// Its share holds it already.
    fn enqueue(&mut self, waiting: Waiting) {
        self.queued_bytes += waiting.cost();
        self.queue.push_back(waiting);
    }

    /// True if the queue has taken in less than its limit.
    pub(crate) fn has_room(&self) -> bool {
        self.queued_bytes < self.limit_bytes
    }

    /// True if a queue that was full has room for more than the next message.
    pub(crate) fn has_some_room(&self) -> bool {
        self.queued_bytes <= self.limit_bytes - self.limit_bytes / 16
    }

    pub(crate) fn is_half_empty(&self) -> bool {
        self.queued_bytes <= self.limit_bytes / 2
    }

    /// Counts anew what is held, after messages were dropped.
    fn count_queued(&mut self) {
        self.queued_bytes = self.queue.iter().map(Waiting::cost).sum();
        let inflight: usize = self.inflight.iter().map(Inflight::cost).sum();
        let filters: usize = self.filters().map(subscription_cost).sum();
        self.share.hold_in_all(self.queued_bytes + inflight + filters);
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
        let cost = waiting.cost();
        self.queued_bytes -= cost;
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
            self.kept_bytes += waiting.as_ref().map_or(0, Waiting::cost);
            let entry = Inflight { number, stage: Stage::Published, sent_here: true, waiting };
            self.share.release(cost - entry.cost());
            self.inflight.push_back(entry);
        } else {
            self.share.release(cost);
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
        self.share.release(entry.cost());
        self.kept_bytes -= entry.waiting.as_ref().map_or(0, Waiting::cost);
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
        if let Some(waiting) = entry.waiting.take() {
            self.kept_bytes -= waiting.cost();
            self.share.release(waiting.message.len());
        }
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
        self.inflight.retain(|entry| entry.waiting.as_ref().is_none_or(visible));
        for entry in &mut self.inflight {
            entry.sent_here = false;
        }
        self.unsent = self.inflight.len();
        let kept = self.inflight.iter().filter_map(|entry| entry.waiting.as_ref());
        self.kept_bytes = kept.map(Waiting::cost).sum();
        self.subscriptions = subscriptions;
        self.count_queued();
    }

    /// The client has gone: QoS 0 messages are not kept for it.
    pub(crate) fn detach(&mut self) {
        self.queue.retain(|waiting| waiting.qos > 0);
        self.count_queued();
    }
}

/// What each may keep so that all of them together keep `total`, if who has less than that keeps all of it.
fn level(mut sizes: Vec<usize>, total: usize) -> usize {
    sizes.sort_unstable();
    let (mut left, mut count) = (total, sizes.len());
    for size in sizes {
        let level = left / count;
        if size > level {
            return level;
        }
        left -= size;
        count -= 1;
    }
    usize::MAX
}
