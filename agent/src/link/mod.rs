//! The way to the server: one connection, by MQTT or HTTP exchange, which ends at the first error and is never mended. Whoever
//! holds it makes another.
//!
//! rumqttc would keep what it could not send and send it again by itself. Nothing of that is used: its queues die with
//! the connection, and the outbox decides what goes again.

mod address;
mod dial;
mod error;
mod exchange;
mod mqtt;
mod trial;

#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::time::Duration;

use protocol::id::{DeviceId, OrgSlug};
use protocol::topic::{Topic, Uplink};
use rustls::ClientConfig;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

pub use address::{Address, Transport};
pub use error::LinkError;
pub(crate) use trial::try_way;

use crate::config::Secret;
use crate::proxy::Proxy;
use crate::uplink::PacketId;

/// Events that wait for the event loop; past that the connection is read more slowly.
const EVENTS: usize = 16;
/// Packets that wait for the connection. The uplink allows 16 without receipt, and a few others go besides.
const ORDERS: usize = 64;

/// Where and as whom to connect.
#[derive(Debug, Clone)]
pub struct LinkSettings {
    /// Where to.
    pub to: Address,
    /// The device's organisation.
    pub org: OrgSlug,
    /// The device.
    pub device: DeviceId,
    /// The device's token; without one the certificate in `tls` has to do.
    pub token: Option<Secret>,
    /// The connection's number, as in the birth that is to come.
    pub connection: u64,
    /// What the broker publishes, retained, on `presence` when the connection breaks.
    pub will: Vec<u8>,
    /// Whom a broker's certificate has to be from; needed where MQTT is encrypted.
    pub tls: Option<Arc<ClientConfig>>,
    /// What MQTT is led through.
    pub proxy: Option<Proxy>,
    /// The client for HTTP exchange; needed for that. It ends with the link.
    pub http: Option<ureq::Agent>,
    /// How long the connection may take to come about.
    pub patience: Duration,
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

/// What a connection is to do.
#[derive(Debug)]
enum Order {
    /// Publish this; the receipt matters.
    Say { tag: Tag, uplink: Uplink, payload: Vec<u8> },
    /// End in order.
    Goodbye,
}

/// One connection.
#[derive(Debug)]
pub struct Link {
    orders: mpsc::Sender<Order>,
    events: mpsc::Receiver<LinkEvent>,
    task: JoinHandle<()>,
    http: Option<ureq::Agent>,
}

impl Link {
    /// Begins to connect. What comes of it is the first event.
    ///
    /// # Errors
    /// This agent has no such transport.
    pub fn open(settings: LinkSettings) -> Result<(Self, Transport), LinkError> {
        let transport =
            settings.to.transport().ok_or_else(|| LinkError::NoTransport { url: settings.to.clone() })?;
        let (orders, ordered) = mpsc::channel(ORDERS);
        let (sender, events) = mpsc::channel(EVENTS);
        let mut http = None;
        let task = match transport {
            Transport::Mqtt | Transport::Mqtts | Transport::Wss => {
                tokio::spawn(mqtt::Connection::new(settings, transport, ordered)?.run(sender))
            }
            Transport::Https | Transport::Http => {
                http.clone_from(&settings.http);
                tokio::spawn(exchange::Connection::new(settings, ordered)?.run(sender))
            }
        };
        Ok((Self { orders, events, task, http }, transport))
    }

    /// The next event. After [`LinkEvent::Down`], and if the connection's task is gone, always `Down`.
    pub async fn event(&mut self) -> LinkEvent {
        self.events.recv().await.unwrap_or(LinkEvent::Down(LinkError::Ended))
    }

    /// Hands a payload over; its receipt comes as an event. Returns whether it was taken: if not, the connection is at
    /// its end.
    #[must_use]
    pub fn publish(&self, tag: Tag, uplink: Uplink, payload: Vec<u8>) -> bool {
        self.orders.try_send(Order::Say { tag, uplink, payload }).is_ok()
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
            if self.orders.try_send(Order::Goodbye).is_ok() {
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
        if let Some(http) = self.http.take() {
            // Its requests wait on threads of their own.
            http.shutdown();
        }
    }
}

fn device_topic(settings: &LinkSettings, uplink: Uplink) -> Topic {
    Topic::Device { org: settings.org.clone(), device: settings.device.clone(), uplink }
}
