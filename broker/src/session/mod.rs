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

use std::collections::{HashSet, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard};

use tokio::sync::Notify;

use crate::access::{self, SubscribeDecision};
use crate::channel::{Kinds, Scope};
use crate::codec::encode::Granted;
use crate::gate::Gate;
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

/// SUBSCRIBEs that may wait for the router while the client does not take its messages.
const MAX_UNANSWERED: usize = 256;

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
    /// It is a service's: publishers give it time.
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
    /// What the link is subscribed to.
    kinds: Kinds,
    link: Option<Arc<LinkSender>>,
    /// Number of the last subscription sent to the router, and of the last one it has confirmed.
    asked: u16,
    confirmed: u16,
    unanswered: VecDeque<(u16, SubscribeAnswer)>,
    /// Answers to be written.
    pub(crate) answers: VecDeque<SubscribeAnswer>,
    pub(crate) retained_jobs: VecDeque<RetainedJob>,
}

impl Session {
    pub(crate) fn new(id: u64, principal: &Principal, keeps: bool, limit_bytes: usize) -> Session {
        Session {
            id,
            is_service: matches!(principal, Principal::Service { .. }),
            inner: Mutex::new(Inner {
                state: SessionState::new(id, keeps, limit_bytes),
                scope: Scope::of(principal),
                connected: true,
                ended: false,
                kinds: Kinds::default(),
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

    pub(crate) fn lock(&self) -> MutexGuard<'_, Inner> {
        lock(&self.inner)
    }

    /// Hands over a message that may be for this client. `Full` means that it is, and that there is no room.
    pub(crate) fn offer(&self, message: &Message) -> Offer {
        let mut inner = self.lock();
        let connected = inner.connected;
        let offer = inner.state.offer(message, connected);
        drop(inner);
        if offer == Offer::Queued && connected {
            self.to_send.notify_one();
        }
        offer
    }

    /// Hands over messages that may be for this client, up to the first one that is and for which there is no room;
    /// tells how many were taken.
    pub(crate) fn offer_all(&self, messages: &[Message]) -> usize {
        let mut inner = self.lock();
        let connected = inner.connected;
        let mut queued = false;
        let full = messages.iter().position(|message| match inner.state.offer(message, connected) {
            Offer::Queued => {
                queued = true;
                false
            }
            Offer::NotWanted => false,
            Offer::Full => true,
        });
        drop(inner);
        if queued && connected {
            self.to_send.notify_one();
        }
        full.unwrap_or(messages.len())
    }

    /// Tells the pump that the queue has room again.
    pub(crate) fn made_room(&self) {
        self.room.notify_one();
    }

    /// The client is there again. Its subscriptions are checked against what it may see now.
    pub(crate) fn attach(&self, principal: &Principal, keeps: bool) {
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
        let _ = inner.settle_kinds();
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
    pub(crate) fn answer_when_subscribed(&self, answer: SubscribeAnswer) -> Result<(), SubscribeFailed> {
        let mut inner = self.lock();
        inner.settle_kinds()?;
        if inner.link.is_none() || inner.asked == inner.confirmed {
            inner.give(answer);
            drop(inner);
            self.to_send.notify_one();
        } else {
            if inner.unanswered.len() >= MAX_UNANSWERED {
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
    pub(crate) fn unsubscribe(&self, filters: &[&str]) -> Result<Vec<bool>, RouterGone> {
        let mut inner = self.lock();
        // A packet may name many more than there can be.
        let mut there: HashSet<&str> = inner.state.filters().collect();
        let known: Vec<bool> = filters.iter().map(|filter| there.remove(*filter)).collect();
        for (filter, _) in filters.iter().zip(&known).filter(|(_, known)| **known) {
            inner.state.unsubscribe(filter);
            inner.retained_jobs.retain(|job| job.filter != *filter);
        }
        inner.settle_kinds()?;
        Ok(known)
    }

    /// The router has the subscription with this token. Its answers come in the order of the questions.
    fn subscribed(&self, token: u16) {
        let mut inner = self.lock();
        inner.confirmed = token;
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

    /// The router's filters that the link is subscribed to.
    fn channels(&self) -> Vec<String> {
        self.kinds.iter().map(|kind| self.scope.channel(kind)).collect()
    }

    /// Brings the link's subscriptions in line with the session's.
    fn settle_kinds(&mut self) -> Result<(), RouterGone> {
        let Some(link) = &self.link else { return Ok(()) };
        let needed = self.state.kinds(&self.scope);
        let channels = |kinds: Kinds| kinds.iter().map(|kind| self.scope.channel(kind)).collect::<Vec<_>>();
        link.unsubscribe(channels(self.kinds.without(needed)))?;
        let missing = needed.without(self.kinds);
        if !missing.is_empty() {
            self.asked = self.asked.wrapping_add(1);
            link.subscribe(self.asked, channels(missing))?;
        }
        self.kinds = needed;
        Ok(())
    }
}
