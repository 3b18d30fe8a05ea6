//! What each packet of a client does.

use std::time::{Duration, Instant};

use tokio::io::{AsyncRead, AsyncWrite};

use super::{Client, Gathered, Link};
use crate::access::{self, PublishDecision, SubscribeDecision};
use crate::codec::encode::{self, AckKind, Granted};
use crate::codec::packet::{self, Packet, Publish, RetainHandling, Subscribe};
use crate::codec::reason::Reason;
use crate::codec::{DecodeError, Version};
use crate::connection::End;
use crate::message::Draft;
use crate::principal::Principal;
use crate::router::LinkRefused;
use crate::session::state::{Incoming, Received, Subscription};
use crate::session::{RetainedJob, SubscribeAnswer, SubscribeFailed};

fn draft<'a>(publish: &'a Publish<'_>) -> Draft<'a> {
    Draft {
        topic: publish.topic,
        properties: &publish.properties.forward,
        payload: publish.payload,
        qos: publish.qos,
        retain: publish.retain,
        expiry_seconds: publish.properties.expiry_seconds,
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> Client<S> {
    pub(super) fn handle(&mut self, packet: Packet<'_>) -> Result<(), End> {
        match packet {
            Packet::PubAck(ack) => self.session.lock().state.acknowledged(ack.packet_id),
            Packet::PubRec(ack) => {
                let received = self.session.lock().state.received(ack.packet_id, ack.failed);
                match received {
                    Received::Release => self.ack(AckKind::Rel, ack.packet_id, Reason::Success),
                    Received::Unknown => {
                        self.ack(AckKind::Rel, ack.packet_id, Reason::PacketIdentifierNotFound);
                    }
                    Received::Refused => {}
                }
            }
            Packet::PubRel(ack) => {
                let known = self.session.lock().state.release(ack.packet_id);
                let reason = if known { Reason::Success } else { Reason::PacketIdentifierNotFound };
                self.ack(AckKind::Comp, ack.packet_id, reason);
            }
            Packet::PubComp(ack) => self.session.lock().state.completed(ack.packet_id),
            Packet::Unsubscribe { packet_id, filters } => {
                self.answer_fits(filters.len())?;
                let known = self.session.unsubscribe(&self.gate.logs, &filters)?;
                let reason = |known| if known { Reason::Success } else { Reason::NoSubscriptionExisted };
                let reasons: Vec<Reason> = known.into_iter().map(reason).collect();
                encode::unsuback(&mut self.wire.out, self.terms.version, packet_id, &reasons);
            }
            Packet::PingReq => encode::pingresp(&mut self.wire.out),
            Packet::Disconnect(disconnect) => {
                if let Some(seconds) = disconnect.session_expiry_seconds {
                    self.set_expiry(seconds)?;
                }
                return Err(End::Left { with_will: disconnect.with_will });
            }
            // The caller handles them.
            Packet::Publish(_) | Packet::Subscribe(_) => {}
        }
        Ok(())
    }

    /// A DISCONNECT may change how long the session is kept, but not bring one to life that was to end.
    fn set_expiry(&mut self, seconds: u32) -> Result<(), End> {
        let wanted = Duration::from_secs(u64::from(seconds)).min(self.gate.limits.session_expiry);
        if matches!(self.principal, Principal::Device { .. }) {
            return Ok(());
        }
        if self.session_expiry.is_zero() && !wanted.is_zero() {
            return Err(
                DecodeError::Protocol("a session that ends with the connection cannot be kept").into()
            );
        }
        self.session_expiry = wanted;
        Ok(())
    }

    /// An answer with a code for each of so many filters has to fit into what the client takes.
    fn answer_fits(&self, filters: usize) -> Result<(), End> {
        if self.terms.version == Version::V5 && encode::codes_len(filters) > self.terms.maximum_packet_bytes {
            return Err(End::Broken(Reason::PacketTooLarge, "the answer is larger than the client accepts"));
        }
        Ok(())
    }

    pub(super) fn ack(&mut self, kind: AckKind, packet_id: u16, reason: Reason) {
        encode::ack(&mut self.wire.out, self.terms.version, kind, packet_id, reason);
    }

    /// Publishes a message, or gathers it; false if there is no room for it yet. `come_in` is how many bytes wait with it.
    pub(super) fn publish(
        &mut self,
        publish: &Publish<'_>,
        now: Instant,
        come_in: usize,
        gathered: &mut Gathered,
    ) -> Result<bool, End> {
        let draft = draft(publish);
        // The principal of a connection stays the same, and so does the answer for a topic.
        if publish.qos < 2
            && !publish.retain
            && let Some((_, route)) = self.plain.as_ref().filter(|(topic, _)| **topic == *publish.topic)
            && self.gate.logs.is_current(route)
        {
            let Some(places) = self.room.enter(route, draft.len(), come_in) else { return Ok(false) };
            if !route.is_empty() {
                let message = self.gate.message(&draft, self.session.id, places, now);
                gathered.extend(route.channels().map(|channel| (channel.clone(), message.clone())));
            }
            self.published(publish, now);
            return Ok(true);
        }
        // Those before it go first.
        self.gate.router.publish(gathered)?;
        let decision = access::publish(&self.principal, publish.topic, publish.retain);
        let destination = match decision {
            PublishDecision::Allow => self.gate.destination(publish.topic.parse().ok().as_ref()),
            PublishDecision::ServicesOnly => self.gate.unknown_destination(),
            PublishDecision::Deny | PublishDecision::DenyRetain => {
                self.count_in(now);
                return self.refuse(publish, decision).map(|()| true);
            }
        };
        if publish.qos == 2 {
            let limit = usize::from(self.gate.limits.inflight_in);
            let incoming = self.session.lock().state.incoming(publish.packet_id, limit);
            match incoming {
                Incoming::First => {}
                Incoming::Repeated => {
                    self.published(publish, now);
                    return Ok(true);
                }
                Incoming::TooMany => {
                    return Err(End::Broken(Reason::ReceiveMaximumExceeded, "too many unreleased publishes"));
                }
            }
        }
        let Some(places) = self.room.enter(&destination.route, draft.len(), come_in) else {
            if publish.qos == 2 {
                // It comes again, as a new one.
                self.session.lock().state.release(publish.packet_id);
            }
            return Ok(false);
        };
        let draft = if decision == PublishDecision::ServicesOnly {
            self.gate.counters.publishes_unknown_topic.one();
            Draft { retain: false, ..draft }
        } else {
            let is_plain = destination.is_plain();
            self.plain = is_plain.then(|| (publish.topic.into(), destination.route.clone()));
            draft
        };
        self.gate.publish(self.session.id, &draft, destination, places)?;
        self.published(publish, now);
        Ok(true)
    }

    fn count_in(&mut self, now: Instant) {
        self.gate.counters.messages_in.one();
        self.rate.count(now);
    }

    /// A message has been published: it is counted and acknowledged.
    fn published(&mut self, publish: &Publish<'_>, now: Instant) {
        self.count_in(now);
        match publish.qos {
            0 => {}
            1 => self.ack(AckKind::Ack, publish.packet_id, Reason::Success),
            _ => self.ack(AckKind::Rec, publish.packet_id, Reason::Success),
        }
    }

    /// Answers a message that this client may not publish.
    fn refuse(&mut self, publish: &Publish<'_>, decision: PublishDecision) -> Result<(), End> {
        let counters = &self.gate.counters;
        if decision == PublishDecision::DenyRetain {
            counters.publishes_refused_retain.one();
            self.gate.refused_retain(publish.topic);
        } else {
            counters.publishes_refused.one();
        }
        tracing::debug!(client = %self.principal, topic = ?publish.topic, ?decision, "publish refused");
        if self.terms.version == Version::V311 {
            return Err(End::Broken(Reason::NotAuthorized, "publish refused"));
        }
        match publish.qos {
            0 => {}
            1 => self.ack(AckKind::Ack, publish.packet_id, Reason::NotAuthorized),
            _ => self.ack(AckKind::Rec, publish.packet_id, Reason::NotAuthorized),
        }
        Ok(())
    }

    /// Handles a SUBSCRIBE; false if there is no link for it yet.
    pub(super) fn subscribe(&mut self, subscribe: &Subscribe<'_>) -> Result<bool, End> {
        self.answer_fits(subscribe.filters.len())?;
        let mut answer = SubscribeAnswer {
            packet_id: subscribe.packet_id,
            granted: Vec::with_capacity(subscribe.filters.len()),
            retained: Vec::new(),
        };
        let link = match (&self.principal, self.link) {
            (Principal::Device { .. }, _) | (_, Link::There) => Ok(()),
            (_, Link::Refused(refused)) => {
                self.link = Link::NotAsked;
                Err(refused)
            }
            (_, Link::NotAsked | Link::Asked) => {
                self.link = Link::Asked;
                return Ok(false);
            }
        };
        for (index, wanted) in subscribe.filters.iter().enumerate() {
            // So many can never be granted: the rest is not looked at one by one.
            if index >= self.gate.limits.subscriptions {
                answer.granted.push(Err(Reason::QuotaExceeded));
                continue;
            }
            let granted = match (access::subscribe(&self.principal, wanted.filter), link) {
                (SubscribeDecision::Deny, _) => Err(Reason::NotAuthorized),
                (SubscribeDecision::SharedNotSupported, _) => Err(Reason::SharedSubscriptionsNotSupported),
                (SubscribeDecision::Invalid, _) => Err(Reason::TopicFilterInvalid),
                (SubscribeDecision::Allow, Err(LinkRefused::Gone)) => return Err(End::RouterGone),
                (SubscribeDecision::Allow, Err(LinkRefused::Full)) => Err(Reason::QuotaExceeded),
                (SubscribeDecision::Allow, Ok(())) => self.add(wanted, &mut answer.retained),
            };
            self.count_refused(granted);
            answer.granted.push(granted);
        }
        self.session.answer_when_subscribed(&self.gate.logs, answer).map_err(|failed| match failed {
            SubscribeFailed::RouterGone => End::RouterGone,
            SubscribeFailed::TooMany => End::Broken(Reason::QuotaExceeded, "too many unanswered SUBSCRIBEs"),
        })?;
        Ok(true)
    }

    fn add(&self, wanted: &packet::Wanted<'_>, retained: &mut Vec<RetainedJob>) -> Granted {
        let mut inner = self.session.lock();
        let state = &mut inner.state;
        let is_new = state.subscription(wanted.filter).is_none();
        if is_new && state.subscription_count() >= self.gate.limits.subscriptions {
            return Err(Reason::QuotaExceeded);
        }
        let subscribed = state.subscribe(Subscription {
            filter: wanted.filter.to_owned(),
            qos: wanted.qos,
            no_local: wanted.no_local,
            retain_as_published: wanted.retain_as_published,
        });
        if !subscribed {
            return Err(Reason::QuotaExceeded);
        }
        let send_retained = match wanted.retain_handling {
            RetainHandling::Always => true,
            RetainHandling::IfNew => is_new,
            RetainHandling::Never => false,
        };
        // One walk over the store for a filter is enough, however often it is asked for.
        if send_retained && !retained.iter().any(|job| job.filter == wanted.filter) {
            retained.push(RetainedJob {
                filter: wanted.filter.to_owned(),
                qos: wanted.qos,
                no_local: wanted.no_local,
                after: None,
            });
        }
        Ok(wanted.qos)
    }

    fn count_refused(&self, granted: Granted) {
        match granted {
            Ok(_) => {}
            Err(Reason::NotAuthorized) => self.gate.counters.subscribes_refused.one(),
            Err(_) => self.gate.counters.subscribes_unsupported.one(),
        }
    }
}
