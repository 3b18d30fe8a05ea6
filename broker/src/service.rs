//! Links for parts of the server in the same process, such as `fleetd`: no socket, no password, no packet.
//!
//! A service reads the router's logs directly, so what it has not fetched yet waits there and not in a queue of its own. Who
//! publishes waits with it; if it fetches nothing for a second, it is not waited for until it has caught up, and misses
//! what falls out of the log.

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::Bytes;
use protocol::topic::Topic;

use crate::access::{self, PublishDecision};
use crate::broker::BrokerError;
use crate::channel::{Kind, Kinds, Scope};
use crate::filter::matches;
use crate::gate::Gate;
use crate::logs::Readers;
use crate::message::{Draft, Message as Carried};
use crate::principal::Principal;
use crate::router::{FromRouter, LinkReceiver, LinkRefused, LinkSender, lock};

/// After so many messages the logs are told that they were taken.
const TAKEN_TOGETHER: usize = 64;

/// How surely a subscriber over the network gets a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum QoS {
    /// Once or not at all.
    AtMostOnce = 0,
    /// At least once.
    AtLeastOnce = 1,
    /// Exactly once.
    ExactlyOnce = 2,
}

/// A received message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    /// Where it was published.
    pub topic: String,
    /// What was published.
    pub payload: Bytes,
    /// It was retained before this link was made.
    pub retain: bool,
}

/// Publishes as a service. Cheap to clone.
#[derive(Clone)]
pub struct ServicePublisher {
    gate: Arc<Gate>,
    principal: Principal,
    origin: u64,
}

impl ServicePublisher {
    /// Publishes a message. It is with the router, and with the device that it is for, when this returns.
    ///
    /// # Errors
    /// The topic is not a topic name, or keeps no retained message; the router has stopped.
    pub async fn publish(
        &self,
        topic: String,
        payload: Bytes,
        qos: QoS,
        retain: bool,
    ) -> Result<(), BrokerError> {
        match access::publish(&self.principal, &topic, retain) {
            PublishDecision::Allow => {}
            PublishDecision::DenyRetain => return Err(BrokerError::NotRetained(topic)),
            PublishDecision::Deny | PublishDecision::ServicesOnly => {
                return Err(BrokerError::BadTopic(topic));
            }
        }
        self.publish_allowed(&topic, topic.parse().ok().as_ref(), &payload, qos, retain).await
    }

    /// As [`ServicePublisher::publish`], on a topic of the protocol.
    ///
    /// # Errors
    /// The topic keeps no retained message; the router has stopped.
    pub async fn publish_on(
        &self,
        topic: &Topic,
        payload: &[u8],
        qos: QoS,
        retain: bool,
    ) -> Result<(), BrokerError> {
        if retain && !access::is_retained(topic) {
            return Err(BrokerError::NotRetained(topic.text()));
        }
        self.publish_allowed(&topic.text(), Some(topic), payload, qos, retain).await
    }

    async fn publish_allowed(
        &self,
        text: &str,
        topic: Option<&Topic>,
        payload: &[u8],
        qos: QoS,
        retain: bool,
    ) -> Result<(), BrokerError> {
        let draft =
            Draft { topic: text, properties: &[], payload, qos: qos as u8, retain, expiry_seconds: None };
        self.gate.counters.messages_in.one();
        Ok(self.gate.publish_in_turn(self.origin, &draft, topic).await?)
    }
}

/// Receives what was published on a service's filters, retained messages first.
pub struct ServiceSubscriber {
    gate: Arc<Gate>,
    filters: Vec<String>,
    /// All messages of these kinds are for it, whatever their topic.
    whole_kinds: Kinds,
    waiting: VecDeque<Message>,
    readers: Readers,
    /// Messages that were taken and of which the logs do not know yet.
    untold: usize,
    link: Option<(Arc<LinkSender>, LinkReceiver)>,
    runtime: tokio::runtime::Handle,
}

impl ServiceSubscriber {
    /// The next message; `None` when the router has stopped. Dropping the future loses nothing.
    pub async fn recv(&mut self) -> Option<Message> {
        if let Some(message) = self.waiting.pop_front() {
            return Some(message);
        }
        loop {
            let receiver = &mut self.link.as_mut()?.1;
            let there = if self.untold < TAKEN_TOGETHER { receiver.next_if_there() } else { None };
            let event = match there {
                Some(event) => event,
                None => {
                    self.readers.settle();
                    self.untold = 0;
                    receiver.next().await
                }
            };
            if let Some(message) = self.take(event.ok()?) {
                self.gate.counters.messages_out.one();
                return Some(message);
            }
        }
    }

    fn take(&mut self, event: FromRouter) -> Option<Message> {
        let FromRouter::Message { channel, offset, bytes } = event else { return None };
        let message = Carried::from_bytes(bytes)?;
        self.untold += 1;
        let (kind, lost) = self.readers.took(&channel, offset, &message)?;
        self.gate.counters.dropped_log_wrapped.add(lost);
        let wanted = self.whole_kinds.contains(kind)
            || self.filters.iter().any(|filter| matches(filter, message.topic_bytes()));
        let fresh = message.expiry_left(self.gate.now_ms()).is_ok();
        (wanted && fresh).then(|| Message {
            topic: message.topic().to_owned(),
            payload: message.payload(),
            retain: false,
        })
    }

    /// What is retained on the filters now, each topic once.
    fn fetch_retained(&mut self) {
        let mut known: Vec<Carried> = Vec::new();
        for filter in &self.filters {
            let mut after = None::<String>;
            loop {
                let now_ms = self.gate.now_ms();
                let piece = lock(&self.gate.retained).matching(filter, after.as_deref(), usize::MAX, now_ms);
                known.extend(piece.messages);
                after = piece.after;
                if after.is_none() {
                    break;
                }
            }
        }
        known.sort_by(|a, b| a.topic().cmp(b.topic()));
        known.dedup_by(|a, b| a.topic() == b.topic());
        self.waiting.extend(known.iter().map(|message| Message {
            topic: message.topic().to_owned(),
            payload: message.payload(),
            retain: true,
        }));
    }
}

impl Drop for ServiceSubscriber {
    fn drop(&mut self) {
        if let Some((sender, receiver)) = self.link.take() {
            let (gate, channels) = (self.gate.clone(), std::mem::take(&mut self.readers).channels());
            self.runtime.spawn(async move { gate.router.recycle(sender, receiver, channels).await });
        }
    }
}

/// Makes a link. Blocks for as long as the router needs to answer.
pub(crate) fn link(
    gate: &Arc<Gate>,
    name: &str,
    filters: &[&str],
    unknown_topics: bool,
) -> Result<(ServicePublisher, ServiceSubscriber), BrokerError> {
    if let Some(bad) = filters.iter().find(|filter| !access::valid_filter(filter)) {
        return Err(BrokerError::BadFilter((*bad).to_owned()));
    }
    let runtime = tokio::runtime::Handle::try_current().map_err(|_| BrokerError::NoRuntime)?;
    let principal = Principal::Service { name: name.to_owned() };
    let (sender, mut receiver) = gate.router.link_now().map_err(|refused| match refused {
        LinkRefused::Gone => BrokerError::RouterGone,
        LinkRefused::Full => BrokerError::NoLink,
    })?;
    let scope = Scope::of(&principal);
    let kinds = filters.iter().fold(Kinds::default(), |kinds, filter| kinds.union(scope.kinds(filter)));
    let whole_kinds =
        filters.iter().map(|filter| scope.whole_kinds(filter)).fold(Kinds::default(), Kinds::union);
    let mut readers = Readers::default();
    let channels = readers.join(&gate.logs, &scope, kinds, 1);
    if !channels.is_empty() {
        gate.router.hand_over()?;
        sender.subscribe(1, channels)?;
        // A fresh link has nothing else to say before the answer, or drops what an earlier user left.
        while !matches!(receiver.next_now()?, FromRouter::Subscribed(1)) {}
        readers.confirm(1);
    }
    let mut subscriber = ServiceSubscriber {
        gate: gate.clone(),
        filters: filters.iter().map(|filter| (*filter).to_owned()).collect(),
        whole_kinds: if unknown_topics { whole_kinds.with(Kind::Unknown) } else { whole_kinds },
        waiting: VecDeque::new(),
        readers,
        untold: 0,
        link: Some((sender, receiver)),
        runtime,
    };
    // After the subscription stands, so that nothing falls between.
    subscriber.fetch_retained();
    let publisher = ServicePublisher { gate: gate.clone(), principal, origin: gate.number() };
    Ok((publisher, subscriber))
}
