//! The way to the broker: one connection, which ends at the first error and is never mended. Whoever holds it makes
//! another.
//!
//! rumqttc would keep what it could not send and send it again by itself. Nothing of that is used: its queues die with
//! the connection, and the outbox decides what goes again.

mod error;
mod mqtt;

#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::time::Duration;

use protocol::id::{DeviceId, OrgSlug};
use protocol::topic::{Downlink, SERVER_FILTER, Topic, Uplink};
use rumqttc::mqttbytes::v4::{Disconnect, Publish};
use rumqttc::{QoS, Request};
use rustls::ClientConfig;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

pub use error::LinkError;

use crate::config::{MqttUrl, Scheme, Secret};
use crate::uplink::PacketId;

/// Events that wait for the event loop; past that the connection is read more slowly.
const EVENTS: usize = 16;
/// Packets that wait for the connection. The uplink allows 16 without receipt, and a few others go besides.
const ORDERS: usize = 64;

/// Where and as whom to connect.
#[derive(Debug, Clone)]
pub struct LinkSettings {
    /// The broker.
    pub url: MqttUrl,
    /// The device's organisation.
    pub org: OrgSlug,
    /// The device.
    pub device: DeviceId,
    /// The device's token; without one the certificate in `tls` has to do.
    pub token: Option<Secret>,
    /// What the broker publishes, retained, on `presence` when the connection breaks.
    pub will: Vec<u8>,
    /// Whom to trust; needed where the connection is encrypted.
    pub tls: Option<Arc<ClientConfig>>,
}

/// Which published packet a receipt is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tag {
    /// One of the uplink's.
    Packet(PacketId),
    /// A presence.
    Presence,
}

/// What happens on a link.
#[derive(Debug)]
pub enum LinkEvent {
    /// Connected, and every subscription stands.
    Up,
    /// The broker has this.
    Receipt(Tag),
    /// The server says something.
    Message {
        /// What.
        topic: Topic,
        /// The payload, at most 256 KiB.
        payload: Vec<u8>,
        /// Said earlier, and kept by the broker.
        retained: bool,
    },
    /// The end. Nothing follows.
    Down(LinkError),
}

/// A way of connecting that this agent has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Transport {
    /// MQTT over TCP.
    Mqtt,
    /// MQTT over TLS.
    Mqtts,
    /// MQTT over WebSocket over TLS.
    Wss,
}

impl Transport {
    /// The transport for an address, if this agent has it.
    #[must_use]
    pub fn for_url(url: &MqttUrl) -> Option<Self> {
        match url.scheme() {
            Scheme::Mqtt => Some(Self::Mqtt),
            Scheme::Mqtts => Some(Self::Mqtts),
            Scheme::Wss => Some(Self::Wss),
            _ => None,
        }
    }

    /// Its name in a birth.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Mqtt => "mqtt",
            Self::Mqtts => "mqtts",
            Self::Wss => "wss",
        }
    }
}

/// One connection.
#[derive(Debug)]
pub struct Link {
    orders: mpsc::Sender<mqtt::Order>,
    events: mpsc::Receiver<LinkEvent>,
    task: JoinHandle<()>,
    settings: LinkSettings,
}

impl Link {
    /// Begins to connect. What comes of it is the first event.
    ///
    /// # Errors
    /// This agent has no such transport.
    pub fn open(settings: LinkSettings) -> Result<(Self, Transport), LinkError> {
        let transport = Transport::for_url(&settings.url)
            .ok_or_else(|| LinkError::NoTransport { url: settings.url.clone() })?;
        let options = mqtt::options(&settings, transport)?;
        let (orders, ordered) = mpsc::channel(ORDERS);
        let (sender, events) = mpsc::channel(EVENTS);
        let connection = mqtt::Connection {
            options,
            orders: ordered,
            url: settings.url.clone(),
            filters: filters(&settings),
        };
        let task = tokio::spawn(connection.run(sender));
        Ok((Self { orders, events, task, settings }, transport))
    }

    /// The next event. After [`LinkEvent::Down`], and if the connection's task is gone, always `Down`.
    pub async fn event(&mut self) -> LinkEvent {
        self.events.recv().await.unwrap_or(LinkEvent::Down(LinkError::Ended))
    }

    /// Hands a payload over; its receipt comes as an event. Returns whether it was taken: if not, the connection is at
    /// its end.
    #[must_use]
    pub fn publish(&self, tag: Tag, uplink: Uplink, payload: Vec<u8>) -> bool {
        let topic = device_topic(&self.settings, uplink).to_string();
        let mut publish = Publish::new(topic, QoS::AtLeastOnce, payload);
        publish.retain = uplink == Uplink::Presence;
        self.orders.try_send((Request::Publish(publish), Some(tag))).is_ok()
    }

    /// Says goodbye, so that the will is not published: `presence` goes first, and then as long as `patience` is spent
    /// on hearing that the broker has it.
    pub async fn close(mut self, presence: Vec<u8>, patience: Duration) {
        let farewell = async {
            if self.publish(Tag::Presence, Uplink::Presence, presence) {
                loop {
                    match self.event().await {
                        LinkEvent::Down(_) => return,
                        LinkEvent::Receipt(Tag::Presence) => break,
                        _ => {}
                    }
                }
            }
            if self.orders.try_send((Request::Disconnect(Disconnect), None)).is_ok() {
                while !matches!(self.event().await, LinkEvent::Down(_)) {}
            }
        };
        // If it takes too long the connection is cut, and the broker publishes the will instead.
        let _ = tokio::time::timeout(patience, farewell).await;
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        self.task.abort();
    }
}

fn device_topic(settings: &LinkSettings, uplink: Uplink) -> Topic {
    Topic::Device { org: settings.org.clone(), device: settings.device.clone(), uplink }
}

fn filters(settings: &LinkSettings) -> Vec<String> {
    let own = |downlink| {
        Topic::ToDevice { org: settings.org.clone(), device: settings.device.clone(), downlink }.to_string()
    };
    let mut filters: Vec<String> = Downlink::ALL.iter().copied().map(own).collect();
    filters.push(SERVER_FILTER.to_owned());
    filters
}
