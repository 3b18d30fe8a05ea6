//! What the server says to devices about commands and about what they should be like.

use broker::{QoS, ServicePublisher};
use protocol::{
    codec,
    id::StateId,
    message::{Desired, DeviceAction, DeviceCommand},
    topic::{Downlink, Topic},
};
use serde::Serialize;

use super::publish;
use crate::service::ingest::DeviceName;

/// Publishes one action. If it does not arrive, the dispatcher repeats it.
pub async fn command(
    publisher: &ServicePublisher,
    name: &DeviceName,
    state_id: StateId,
    action: DeviceAction,
) {
    let mut message =
        DeviceCommand { state_id, command: None, cancel: None, query: None, override_show: None, go: None };
    match action {
        DeviceAction::Run(command) => message.command = Some(*command),
        DeviceAction::Cancel(id) => message.cancel = Some(id),
        DeviceAction::Query(id) => message.query = Some(id),
        DeviceAction::Override(order) => message.override_show = Some(order),
        DeviceAction::Go(go) => message.go = Some(go),
    }
    tell(publisher, name, Downlink::Command, &message).await;
}

/// Publishes what a device should be like.
pub async fn desired(publisher: &ServicePublisher, name: &DeviceName, desired: &Desired) {
    tell(publisher, name, Downlink::Desired, desired).await;
}

async fn tell(
    publisher: &ServicePublisher,
    (org, device): &DeviceName,
    downlink: Downlink,
    message: &impl Serialize,
) {
    let topic = Topic::ToDevice { org: org.clone(), device: device.clone(), downlink };
    match codec::encode_named(message) {
        Ok(payload) => {
            publish(publisher, &topic, payload, QoS::AtLeastOnce, false).await;
        }
        Err(error) => tracing::error!(%topic, %error, "not encoded"),
    }
}
