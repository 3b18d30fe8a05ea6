//! A client's session: the state that outlives a connection if the client wants it to, and its link to the router.
//!
//! Three parties meet here under one lock, held only for single steps: the connection, which takes what is to be sent;
//! the pump, which brings messages from the router; and publishers, which hand a device its messages directly. A device's
//! session has no link.

mod index;
pub(crate) mod pump;
pub(crate) mod state;
#[cfg(test)]
mod tests;

use std::borrow::Cow;
use std::collections::{HashSet, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::Notify;

use crate::access::{self, SubscribeDecision};
use crate::account::{Account, SESSION_BYTES, Share};
use crate::channel::Scope;
use crate::codec::encode::Granted;
use crate::gate::Gate;
use crate::logs::{Logs, Readers};
use crate::message::Message;
use crate::principal::Principal;
use crate::router::{LinkRefused, LinkSender, RouterGone, lock};
use state::{Offer, SessionState};

/// Retained messages that a new subscription has still to be sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct RetainedJob {
    pub(crate) filter: String,
    pub(crate) qos: u8,
    /// Not what this session has published itself.
    pub(crate) no_local: bool,
    /// The last topic that has been sent.
    pub(crate) after: Option<String>,
}

/// The answer to a SUBSCRIBE, held until the router has the subscription.
#[derive(Clone, Debug)]
pub(crate) struct SubscribeAnswer {
    pub(crate) packet_id: u16,
    pub(crate) granted: Vec<Granted>,
    pub(crate) retained: Vec<RetainedJob>,
}

/// Filters whose answers may wait for the router while the client does not take its messages.
const MAX_UNANSWERED: usize = 1_000;

/// How long publishers wait for a client that is connected, whose queue is full, and that takes less than a sixteenth of it in
/// that time. Then it is given up on until it has taken half of it: its oldest messages make room.
const SERVICE_PATIENCE: Duration = Duration::from_millis(200);
const PERSON_PATIENCE: Duration = Duration::from_millis(50);

/// How far a SUBSCRIBE is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Subscribing {
    Done,
    /// The router has been asked.
    Asked,
    /// The answer has to be written.
    Answered,
}

/// Why a SUBSCRIBE cannot be answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum SubscribeFailed {
    RouterGone,
    /// Too many wait for an answer.
    TooMany,
}

impl From<RouterGone> for SubscribeFailed {
    fn from(_: RouterGone) -> SubscribeFailed {
        SubscribeFailed::RouterGone
    }
}

/// One session.
pub(crate) struct Session {
    /// Its number, also the origin of what it publishes.
    pub(crate) id: u64,
    is_service: bool,
    inner: Mutex<Inner>,
    /// Something is to be sent.
    pub(crate) to_send: Notify,
    /// Room in the queue, or an end: the pump looks again.
    room: Notify,
}

/// What is behind the lock.
pub(crate) struct Inner {
    pub(crate) state: SessionState,
    pub(crate) scope: Scope,
    connected: bool,
    ended: bool,
    /// The pump waits for room.
    is_awaited: bool,
    /// It has waited for too long.
    is_given_up: bool,
    /// What the link is subscribed to.
    readers: Readers,
    link: Option<Arc<LinkSender>>,
    /// Number of the last subscription sent to the router, and of the last one it has confirmed.
    asked: u16,
    confirmed: u16,
    unanswered: VecDeque<(u16, SubscribeAnswer)>,
    /// Answers to be written.
    pub(crate) answers: VecDeque<SubscribeAnswer>,
    pub(crate) retained_jobs: VecDeque<RetainedJob>,
}

/// A message that the pump brings.
pub(crate) struct FromLog {
    channel: Bytes,
    offset: Option<u64>,
    message: Message,
}

/// What became of messages that the pump brought.
#[derive(Debug, Default)]
struct Handed {
    taken: usize,
    /// There is no room for the next one, and the client is there to make some.
    waits: bool,
    /// How many had to leave the queue.
    dropped: u64,
    /// How many the router has lost before.
    lost: u64,
}

impl Session {
    pub(crate) fn new(
        id: u64,
        principal: &Principal,
        keeps: bool,
        limit_bytes: usize,
        account: Option<Arc<Account>>,
    ) -> Session {
        let share = Share::of(account, SESSION_BYTES);
        Session {
            id,
            is_service: matches!(principal, Principal::Service { .. }),
            inner: Mutex::new(Inner {
                state: SessionState::new(id, keeps, limit_bytes, share),
                scope: Scope::of(principal),
                connected: true,
                ended: false,
                is_awaited: false,
                is_given_up: false,
                readers: Readers::default(),
                link: None,
                asked: 0,
                confirmed: 0,
                unanswered: VecDeque::new(),
                answers: VecDeque::new(),
                retained_jobs: VecDeque::new(),
            }),
            to_send: Notify::new(),
            room: Notify::new(),
        }
    }

    /// Whose purse it shares; none for a device.
    pub(crate) fn account(&self) -> Option<Arc<Account>> {
        self.lock().state.share().account()
    }

    /// How long the pump waits for its client.
    fn patience(&self) -> Duration {
        if self.is_service { SERVICE_PATIENCE } else { PERSON_PATIENCE }
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, Inner> {
        lock(&self.inner)
    }

    /// Hands over a message that may be for this client. `Full` means that it is, and that there is no room.
    pub(crate) fn offer(&self, message: Message) -> Offer {
        let mut inner = self.lock();
        let connected = inner.connected;
        let offer = inner.state.offer(Cow::Owned(message), connected);
        drop(inner);
        if offer == Offer::Queued && connected {
            self.to_send.notify_one();
        }
        offer
    }

    /// Takes messages that may be for this client, up to the first one for which the client has to make room.
    fn hand_over(&self, batch: &[FromLog]) -> Handed {
        let mut inner = self.lock();
        let inner = &mut *inner;
        let mut handed = Handed { taken: batch.len(), ..Handed::default() };
        if inner.ended {
            return handed;
        }
        let connected = inner.connected;
        inner.is_given_up &= !inner.state.is_half_empty();
        let mut queued = false;
        for (number, FromLog { channel, offset, message }) in batch.iter().enumerate() {
            match inner.state.offer(Cow::Borrowed(message), connected) {
                Offer::Queued => queued = true,
                Offer::NotWanted => {}
                Offer::Full if connected && !inner.is_given_up => {
                    inner.is_awaited = true;
                    (handed.taken, handed.waits) = (number, true);
                    break;
                }
                Offer::Full | Offer::NoRoom => {
                    handed.dropped += inner.state.offer_and_drop(message, connected);
                    queued = true;
                }
            }
            handed.lost += inner.readers.took(channel, *offset, message).map_or(0, |(_, lost)| lost);
        }
        inner.readers.settle();
        if queued && connected {
            self.to_send.notify_one();
        }
        handed
    }

    /// Tells the pump to look again.
    fn made_room(&self) {
        self.room.notify_one();
    }

    /// Tells the pump if the client has made the room that it waits for.
    pub(crate) fn check_room(&self, inner: &mut Inner) {
        if inner.is_awaited && inner.state.has_some_room() {
            inner.is_awaited = false;
            self.made_room();
        }
    }

    /// The client does not take its messages: nobody waits for it until it does.
    fn give_up(&self) {
        let mut inner = self.lock();
        inner.is_awaited = false;
        inner.is_given_up = true;
    }

    /// Stops to read the router's logs; their names.
    fn leave_logs(&self) -> Vec<String> {
        let readers = std::mem::take(&mut self.lock().readers);
        readers.channels()
    }

    /// The client is there again. Its subscriptions are checked against what it may see now.
    pub(crate) fn attach(&self, logs: &Logs, principal: &Principal, keeps: bool) {
        let mut inner = self.lock();
        inner.connected = true;
        inner.scope = Scope::of(principal);
        inner.state.set_keeps(keeps);
        inner.state.resume(|filter| access::subscribe(principal, filter) == SubscribeDecision::Allow);
        // The connection that asked has gone, and its questions with it.
        inner.unanswered.clear();
        inner.answers.clear();
        inner.retained_jobs.clear();
        // An error means that the router has gone, which everybody finds out by themselves.
        let _ = inner.settle_kinds(logs);
    }

    /// The client has gone, and may be back.
    pub(crate) fn detach(&self) {
        let mut inner = self.lock();
        inner.connected = false;
        inner.state.detach();
        drop(inner);
        self.made_room();
    }

    /// The session is over; its link goes back to the router.
    pub(crate) fn end(&self) {
        let mut inner = self.lock();
        inner.ended = true;
        if let Some(link) = inner.link.take() {
            // Wakes the pump; without a router there is nothing to give back.
            let _ = link.ping();
        }
        drop(inner);
        self.made_room();
    }

    /// Makes sure that a session of a person or a service has a link.
    pub(crate) async fn connect_link(self: &Arc<Self>, gate: &Arc<Gate>) -> Result<(), LinkRefused> {
        if self.lock().link.is_some() {
            return Ok(());
        }
        // In a task of its own: a link whose taker has gone has to go back, or it is lost for good.
        let (gate, session) = (gate.clone(), self.clone());
        let made = tokio::spawn(async move {
            let (sender, receiver) = gate.router.link().await?;
            let is_first = {
                let mut inner = session.lock();
                let is_first = inner.link.is_none();
                inner.link.get_or_insert_with(|| sender.clone());
                is_first
            };
            if is_first {
                tokio::spawn(pump::pump(gate, session, sender, receiver));
            } else {
                gate.router.recycle(sender, receiver, Vec::new()).await;
            }
            Ok(())
        });
        made.await.unwrap_or(Err(LinkRefused::Gone))
    }

    /// Subscribes the link to what the session's filters need now; `answer` is given once the router has it.
    pub(crate) fn answer_when_subscribed(
        &self,
        logs: &Logs,
        answer: SubscribeAnswer,
    ) -> Result<(), SubscribeFailed> {
        let mut inner = self.lock();
        inner.settle_kinds(logs)?;
        if inner.link.is_none() || inner.asked == inner.confirmed {
            inner.give(answer);
            drop(inner);
            self.to_send.notify_one();
        } else {
            let filters = |(_, waiting): &(u16, SubscribeAnswer)| waiting.granted.len();
            if inner.unanswered.iter().map(filters).sum::<usize>() > MAX_UNANSWERED {
                return Err(SubscribeFailed::TooMany);
            }
            let waits_for = inner.asked;
            inner.unanswered.push_back((waits_for, answer));
        }
        Ok(())
    }

    /// How far the last SUBSCRIBE is. The next packet waits for its answer, so that answers come in order; but not while
    /// the queue is full: then the answer comes after what does not fit, and what makes room are the next packets.
    pub(crate) fn subscribing(&self) -> Subscribing {
        let inner = self.lock();
        if !inner.answers.is_empty() {
            Subscribing::Answered
        } else if !inner.unanswered.is_empty() && inner.state.has_room() {
            Subscribing::Asked
        } else {
            Subscribing::Done
        }
    }

    /// Removes filters; tells for each whether it was there.
    pub(crate) fn unsubscribe(&self, logs: &Logs, filters: &[&str]) -> Result<Vec<bool>, RouterGone> {
        let mut inner = self.lock();
        // A packet may name many more than there can be.
        let mut there: HashSet<&str> = inner.state.filters().collect();
        let known: Vec<bool> = filters.iter().map(|filter| there.remove(*filter)).collect();
        for (filter, _) in filters.iter().zip(&known).filter(|(_, known)| **known) {
            inner.state.unsubscribe(filter);
            inner.retained_jobs.retain(|job| job.filter != *filter);
        }
        inner.settle_kinds(logs)?;
        Ok(known)
    }

    /// The router has the subscription with this token. Its answers come in the order of the questions.
    fn subscribed(&self, token: u16) {
        let mut inner = self.lock();
        inner.confirmed = token;
        inner.readers.confirm(token);
        while inner.unanswered.front().is_some_and(|(waits_for, _)| *waits_for == token) {
            if let Some((_, answer)) = inner.unanswered.pop_front() {
                inner.give(answer);
            }
        }
        drop(inner);
        self.to_send.notify_one();
    }
}

impl Inner {
    fn give(&mut self, answer: SubscribeAnswer) {
        for job in &answer.retained {
            // One walk for a filter at a time: a second one begins again.
            self.retained_jobs.retain(|known| known.filter != job.filter);
            self.retained_jobs.push_back(job.clone());
        }
        self.answers.push_back(answer);
    }

    /// Brings the link's subscriptions in line with the session's.
    fn settle_kinds(&mut self, logs: &Logs) -> Result<(), RouterGone> {
        let Some(link) = &self.link else { return Ok(()) };
        let (needed, known) = (self.state.kinds(&self.scope), self.readers.kinds());
        link.unsubscribe(self.readers.leave(known.without(needed)))?;
        let missing = needed.without(known);
        if !missing.is_empty() {
            self.asked = self.asked.wrapping_add(1);
            let channels = self.readers.join(logs, &self.scope, missing, self.asked);
            link.subscribe(self.asked, channels)?;
        }
        Ok(())
    }
}
