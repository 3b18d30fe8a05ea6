//! A device that is connected without MQTT: what it says comes in with a request of its own, and what it is told leaves with
//! the answer. For everybody else it is a connection like any other: one to a device, with a will, a rate, a bounded queue, and
//! an end when its token dies.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant, SystemTime};

use bytes::Bytes;
use protocol::id::{DeviceId, OrgSlug};
use protocol::topic::{Downlink, SERVER_FILTER, Topic, Uplink, device_subtree};

use crate::access::{self, PublishDecision};
use crate::connection::place::{self, Place};
use crate::gate::Gate;
use crate::message::Draft;
use crate::principal::{Principal, Transport};
use crate::rate::RateLimiter;
use crate::registry::{ConnectionInfo, Kick, OpenError, Will};
use crate::router::{RouterGone, lock};
use crate::session::Session;
use crate::session::state::{Next, Subscription};

/// A device that has shown who it is.
#[derive(Clone, Debug)]
pub struct DeviceLogin {
    /// Its organisation.
    pub org: OrgSlug,
    /// The device.
    pub device: DeviceId,
    /// Where it is.
    pub peer: SocketAddr,
    /// Before its credentials were looked at.
    pub asked_at: Instant,
    /// As in [`Principal::Device`].
    pub credential: Option<String>,
    /// What is published, retained, as its presence when it goes without a word.
    pub will: Vec<u8>,
}

/// Why there is no connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DeviceLinkError {
    /// A newer connection of this device took its place, or its token died meanwhile.
    #[error("another connection of this device came in between, or its token has died")]
    Replaced,
    /// As many connections as are allowed.
    #[error("there is no room for another connection")]
    Full,
    /// The broker stops, or has stopped.
    #[error("the broker stops")]
    Stopping,
}

impl From<RouterGone> for DeviceLinkError {
    fn from(_: RouterGone) -> Self {
        Self::Stopping
    }
}

/// Speaks for a device, and takes what it is to be told. Good for as long as its [`DevicePlace`] is held.
pub struct DeviceLink {
    gate: Arc<Gate>,
    session: Arc<Session>,
    principal: Principal,
    subtree: String,
    rate: Mutex<RateLimiter>,
}

/// The connection's place: whoever holds it has to watch [`DevicePlace::ended`] and let go of it then, since the next
/// connection of the device waits for that.
pub struct DevicePlace {
    gate: Arc<Gate>,
    place: Place,
}

/// A message for a device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Told {
    /// Where it was published.
    pub topic: String,
    /// What was published.
    pub payload: Bytes,
}

/// Connects a device. Ends the connection that it had, whatever carried that.
pub(crate) async fn connect(
    gate: &Arc<Gate>,
    login: DeviceLogin,
) -> Result<(DeviceLink, DevicePlace), DeviceLinkError> {
    if *gate.stopping.borrow() {
        return Err(DeviceLinkError::Stopping);
    }
    if gate.connections() >= gate.limits.connections as u64 {
        gate.counters.refused_busy.one();
        return Err(DeviceLinkError::Full);
    }
    let DeviceLogin { org, device, peer, asked_at, credential, will } = login;
    let info = ConnectionInfo {
        peer,
        since: SystemTime::now(),
        protocol_level: 0,
        transport: Transport::Exchange,
        client_id: format!("{org}/{device}"),
    };
    let presence = Topic::Device { org: org.clone(), device: device.clone(), uplink: Uplink::Presence };
    let own = |downlink| Topic::ToDevice { org: org.clone(), device: device.clone(), downlink }.text();
    let mut filters: Vec<String> = Downlink::ALL.iter().copied().map(own).collect();
    filters.push(SERVER_FILTER.to_owned());
    let subtree = device_subtree(&org, &device);
    let principal = Principal::Device { org, device, credential };

    let mut place = place::take(gate, &principal, info, asked_at).await.ok_or(DeviceLinkError::Replaced)?;
    let opened = place.open_session(&principal, true, false).map_err(|error| match error {
        OpenError::TakenOver => DeviceLinkError::Replaced,
        OpenError::Full => DeviceLinkError::Full,
    })?;
    place.session = Some(opened.session.clone());
    for (origin, will) in &opened.orphaned_wills {
        gate.publish_will(*origin, will).await;
    }
    {
        let mut inner = opened.session.lock();
        for filter in filters {
            // QoS 0: what is lost on the way is said again by who said it.
            let wanted = Subscription { filter, qos: 0, no_local: false, retain_as_published: false };
            if !inner.state.subscribe(wanted) {
                return Err(DeviceLinkError::Full);
            }
        }
    }
    place.will = Some(Will {
        topic: presence.text(),
        properties: Vec::new(),
        payload: will,
        qos: 1,
        retain: true,
        expiry_seconds: None,
        delay: Duration::ZERO,
    });
    gate.counters.connects.one();
    tracing::debug!(client = %place.key, %peer, "connected over HTTP");
    let rate = Mutex::new(RateLimiter::new(gate.limits.device_messages_per_second, Instant::now()));
    let link = DeviceLink { gate: gate.clone(), session: opened.session, principal, subtree, rate };
    Ok((link, DevicePlace { gate: gate.clone(), place }))
}

impl DeviceLink {
    /// Publishes a message of the device on a topic in its own subtree, as over MQTT; in its turn, and no quicker than its
    /// rate. False: it may not publish there.
    ///
    /// # Errors
    /// The router has stopped.
    pub async fn publish(&self, leaf: &str, payload: &[u8]) -> Result<bool, DeviceLinkError> {
        let wait = lock(&self.rate).wait_until(Instant::now());
        if let Some(until) = wait {
            tokio::time::sleep_until(until.into()).await;
        }
        let counters = &self.gate.counters;
        counters.messages_in.one();
        lock(&self.rate).count(Instant::now());
        let text = format!("{}{leaf}", self.subtree);
        let topic = text.parse::<Topic>().ok();
        let is_retained = matches!(topic, Some(Topic::Device { uplink: Uplink::Presence, .. }));
        let (destination, retain) = match access::publish(&self.principal, &text, is_retained) {
            PublishDecision::Allow => (self.gate.destination(topic.as_ref()), is_retained),
            PublishDecision::ServicesOnly => {
                counters.publishes_unknown_topic.one();
                (self.gate.unknown_destination(), false)
            }
            PublishDecision::Deny | PublishDecision::DenyRetain => {
                counters.publishes_refused.one();
                return Ok(false);
            }
        };
        let draft = Draft { topic: &text, properties: &[], payload, qos: 1, retain, expiry_seconds: None };
        self.gate.publish_to(self.session.id, &draft, destination).await?;
        Ok(true)
    }

    /// What the device is to be told, in order: until nothing is left, or one of the bounds is reached.
    #[must_use]
    pub fn take(&self, most: usize, most_bytes: usize) -> Vec<Told> {
        let now_ms = self.gate.now_ms();
        let (mut told, mut bytes) = (Vec::new(), 0);
        let mut inner = self.session.lock();
        while told.len() < most && bytes < most_bytes {
            let Some(Next::Publish { message, .. }) = inner.state.next(1) else { break };
            if message.expiry_left(now_ms).is_err() {
                self.gate.counters.dropped_expired.one();
                continue;
            }
            bytes += message.len();
            told.push(Told { topic: message.topic().to_owned(), payload: message.payload() });
        }
        self.gate.counters.messages_out.add(told.len() as u64);
        told
    }

    /// Resolves when there may be something to take that was not there at the last call. For one waiter at a time.
    pub async fn something(&self) {
        self.session.to_send.notified().await;
    }
}

impl DevicePlace {
    /// Resolves when the connection has to end.
    pub async fn ended(&mut self) -> Kick {
        place::kick(&mut self.place.kicked).await
    }

    /// Gives the place back. Unless the device said goodbye, or the server stops, its will is published.
    pub async fn leave(mut self, with_will: bool) {
        if !with_will {
            self.place.will = None;
        }
        if let Some(will) = &self.place.will {
            self.place.room = self.gate.room_for(will).await.map(Box::new);
        }
        tracing::debug!(client = %self.place.key, with_will, "disconnected over HTTP");
    }
}
