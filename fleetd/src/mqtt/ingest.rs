//! From the broker into [`crate::service::ingest`] and back: gathers messages to batches, publishes the replies.

use std::{sync::Arc, time::Duration};

use broker::{Broker, Message, QoS, ServicePublisher, ServiceSubscriber};
use futures_util::FutureExt as _;
use protocol::{
    codec,
    topic::{Topic, Uplink, subtree_of},
};
use tokio::sync::watch;

use super::{acknowledge, publish};
use crate::{
    app::{AppState, Worker},
    service::ingest::{DeviceName, Incoming, Ingest, Reply},
};

/// A batch is closed at so many messages, ...
const BATCH_MESSAGES: usize = 512;
/// ... or so many bytes, or when nothing more is there: what comes during a commit makes the next batch, so that the
/// batches grow with the load, and nobody waits when there is none.
const BATCH_BYTES: usize = 2 << 20;
/// A presence that is not of the last birth is rewritten if no birth has come within this time: topics are not ordered
/// among each other, and the birth that belongs to it may be just behind.
const PRESENCE_WAIT: Duration = Duration::from_secs(1);

/// Takes messages until the router is gone or `stop` turns true; what was received by then is still committed.
pub async fn run(
    app: Arc<AppState>,
    broker: Broker,
    ingest: Arc<Ingest>,
    mut subscriber: ServiceSubscriber,
    publisher: ServicePublisher,
    mut stop: watch::Receiver<bool>,
) {
    loop {
        let first = tokio::select! {
            biased;
            _ = stop.wait_for(|stop| *stop) => return,
            first = subscriber.recv() => first,
        };
        let Some(first) = first else { return };
        let mut bytes = first.payload.len();
        let mut batch: Vec<Incoming> = incoming(&broker, first).into_iter().collect();
        while batch.len() < BATCH_MESSAGES && bytes < BATCH_BYTES {
            // Dropping the future loses nothing.
            let Some(Some(message)) = subscriber.recv().now_or_never() else { break };
            bytes += message.payload.len();
            batch.extend(incoming(&broker, message));
        }
        for reply in ingest.take(batch).await {
            match reply {
                Reply::Ack(name, ack) => acknowledge(&publisher, name, &ack).await,
                Reply::Changed(device_id) => app.views.mark(&device_id),
                Reply::Commands(device_id) => {
                    app.dispatch.mark(&device_id);
                    app.nudges.nudge(Worker::Results);
                }
                Reply::CheckPresence(name) => {
                    let (app, ingest, publisher) = (app.clone(), ingest.clone(), publisher.clone());
                    tokio::spawn(async move { correct_presence(&app, &ingest, &publisher, name).await });
                }
            }
        }
    }
}

fn incoming(broker: &Broker, message: Message) -> Option<Incoming> {
    let (org, device, uplink) = match message.topic.parse::<Topic>() {
        Ok(Topic::Device { org, device, uplink }) => (org, device, Some(uplink)),
        Ok(_) => return None,
        Err(_) => {
            let (org, device) = subtree_of(&message.topic)?;
            (org, device, None)
        }
    };
    let is_birth = uplink == Some(Uplink::Birth);
    let connection = is_birth.then(|| broker.device_connection(&org, &device)).flatten();
    let ip_address = connection.map(|info| info.peer.ip().to_canonical().to_string());
    Some(Incoming { org, device, uplink, payload: message.payload, ip_address })
}

async fn correct_presence(app: &AppState, ingest: &Ingest, publisher: &ServicePublisher, name: DeviceName) {
    tokio::time::sleep(PRESENCE_WAIT).await;
    let Some(right) = ingest.presence_correction(&name).await else { return };
    match codec::encode_named(&right) {
        Ok(payload) => {
            let topic = Topic::Device { org: name.0, device: name.1, uplink: Uplink::Presence };
            publish(publisher, &topic, payload, QoS::AtLeastOnce, true).await;
            app.metrics.add("fleet_presence_rewritten_total", 1);
        }
        Err(error) => tracing::error!(%error, "presence not encoded"),
    }
}
