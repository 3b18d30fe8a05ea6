//! The server's side of MQTT: takes what devices publish, answers with acknowledgements, keeps the retained views.

pub mod commands;
pub mod ingest;
pub mod operators;
pub mod results;
pub mod views;

use std::pin::Pin;

use broker::{Broker, PrincipalKey, QoS, ServicePublisher};
use protocol::{
    codec,
    id::{DeviceId, OrgSlug, StateId},
    message::{Ack, DeviceAction, ServerStatus, rfc3339},
    topic::{Downlink, Topic},
};

use crate::{app::AppState, auth::mqtt::LiveConnections, service::ingest::DeviceName};

/// The embedded broker, as the rest of the server sees it.
pub struct Embedded {
    /// The broker.
    pub broker: Broker,
    /// With which the server speaks.
    pub publisher: ServicePublisher,
}

impl LiveConnections for Embedded {
    fn end(&self, who: &PrincipalKey) -> usize {
        self.broker.end_connections(who)
    }

    fn end_with(&self, who: &PrincipalKey, key: &str) -> usize {
        self.broker.end_connections_with(who, key)
    }

    fn device_connected(&self, org: &OrgSlug, device: &DeviceId) -> bool {
        self.broker.device_connection(org, device).is_some()
    }

    fn tell<'a>(
        &'a self,
        device: &'a DeviceName,
        state_id: StateId,
        action: DeviceAction,
    ) -> Pin<Box<dyn Future<Output = ()> + Send + 'a>> {
        Box::pin(commands::command(&self.publisher, device, state_id, action))
    }

    fn healthy(&self) -> bool {
        self.broker.healthy()
    }
}

/// The broker's counters for `/metrics`.
#[must_use]
pub fn counters(broker: Broker) -> crate::metrics::Source {
    let is_gauge =
        |name: &str| name.starts_with("connections_") || name.starts_with("retained_") || name == "sessions";
    Box::new(move || broker.counters().named().map(|(name, value)| (name, is_gauge(name), value)).collect())
}

/// Publishes, and logs what cannot be published: whatever matters is in the database and is sent again. Returns whether
/// the broker has it.
async fn publish(
    publisher: &ServicePublisher,
    topic: &Topic,
    payload: Vec<u8>,
    qos: QoS,
    retain: bool,
) -> bool {
    let published = publisher.publish_on(topic, &payload, qos, retain).await;
    if let Err(error) = &published {
        tracing::warn!(%topic, %error, "not published");
    }
    published.is_ok()
}

/// Tells a device what is committed. If it is not there, the next birth is answered with the same.
async fn acknowledge(publisher: &ServicePublisher, (org, device): DeviceName, ack: &Ack) {
    let topic = Topic::ToDevice { org, device, downlink: Downlink::Ack };
    match codec::encode_named(ack) {
        Ok(payload) => {
            publish(publisher, &topic, payload, QoS::AtMostOnce, false).await;
        }
        Err(error) => tracing::error!(%topic, %error, "acknowledgement not encoded"),
    }
}

/// Tells everybody on `fleet/v1/server/{instance}` whether this server serves.
pub async fn tell_status(app: &AppState, publisher: &ServicePublisher, online: bool, started_ms: i64) {
    let status =
        ServerStatus { online, version: env!("CARGO_PKG_VERSION").to_owned(), started: rfc3339(started_ms) };
    let topic = Topic::Server { instance: app.config.instance.clone() };
    // Three plain fields: this cannot fail.
    let json = serde_json::to_vec(&status).unwrap_or_default();
    publish(publisher, &topic, json, QoS::AtLeastOnce, true).await;
}
