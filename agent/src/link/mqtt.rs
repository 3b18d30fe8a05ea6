//! The task that drives one rumqttc connection.

use std::sync::PoisonError;
use std::time::Duration;

use protocol::codec::limit;
use protocol::topic::{Topic, Uplink};
use rumqttc::{
    AsyncClient, Event, EventLoop, Incoming, LastWill, MqttOptions, Outgoing, QoS, SubscribeFilter,
    SubscribeReasonCode,
};
use tokio::sync::mpsc;
use tokio::time::{Instant, timeout_at};

use super::{LinkError, LinkEvent, LinkSettings, Tag, Transport, Unnumbered, device_topic};
use crate::config::MqttUrl;

/// Ping after this much silence of ours.
const KEEP_ALIVE: Duration = Duration::from_secs(30);
/// From the first packet to the broker's answer.
const CONNECT_TIMEOUT_SECONDS: u64 = 60;
/// With a ping every 30 s, a broker that says nothing for this long is not reached any more.
const SILENCE_TIMEOUT: Duration = Duration::from_secs(75);
/// Topic and header of the largest packet.
const OVERHEAD_BYTES: usize = 1024;
/// rumqttc numbers packets from 1 to this and around; it must be far above what is under way at a time, or a late
/// receipt makes two packets collide.
const INFLIGHT: u16 = 200;

pub(super) fn options(settings: &LinkSettings, transport: Transport) -> MqttOptions {
    let name = format!("{}/{}", settings.org, settings.device);
    let host = settings.url.host();
    // rumqttc joins host and port with a colon.
    let host = if host.contains(':') { format!("[{host}]") } else { host.to_owned() };
    let mut options = MqttOptions::new(&name, host, settings.url.port());
    options.set_transport(match transport {
        Transport::Mqtt => rumqttc::Transport::Tcp,
    });
    let packet_bytes = limit::LARGEST_BYTES + OVERHEAD_BYTES;
    let will_topic = device_topic(settings, Uplink::Presence).to_string();
    options
        .set_credentials(&name, settings.token.expose())
        .set_keep_alive(KEEP_ALIVE)
        .set_clean_session(true)
        .set_max_packet_size(packet_bytes, packet_bytes)
        .set_inflight(INFLIGHT)
        .set_last_will(LastWill::new(will_topic, settings.will.clone(), QoS::AtLeastOnce, true));
    options
}

pub(super) struct Connection {
    pub(super) eventloop: EventLoop,
    pub(super) client: AsyncClient,
    pub(super) unnumbered: Unnumbered,
    pub(super) url: MqttUrl,
    pub(super) filters: Vec<String>,
}

/// Packets that the client has numbered and the broker has not confirmed.
type Numbered = Vec<(u16, Tag)>;

impl Connection {
    /// Runs until the first error, or until nobody listens to the events any more.
    pub(super) async fn run(mut self, events: mpsc::Sender<LinkEvent>) {
        if let Err(error) = self.drive(&events).await {
            // Nobody listens: nobody needs to know.
            let _ = events.send(LinkEvent::Down(error)).await;
        }
    }

    async fn drive(&mut self, events: &mpsc::Sender<LinkEvent>) -> Result<(), LinkError> {
        let mut network = self.eventloop.network_options();
        network.set_connection_timeout(CONNECT_TIMEOUT_SECONDS).set_tcp_nodelay(true);
        self.eventloop.set_network_options(network);

        let mut numbered = Numbered::new();
        let mut silent_after = Instant::now() + Duration::from_secs(CONNECT_TIMEOUT_SECONDS + 5);
        let mut waited = Duration::from_secs(CONNECT_TIMEOUT_SECONDS);
        loop {
            // The event loop is never dropped in the middle and used again: a time-out here ends the connection.
            let event = match timeout_at(silent_after, self.eventloop.poll()).await {
                Ok(Ok(event)) => event,
                Ok(Err(error)) => return Err(LinkError::from_client(&self.url, error, waited)),
                Err(_) => return Err(LinkError::Silent { url: self.url.clone(), waited }),
            };
            let said = match event {
                Event::Outgoing(outgoing) => {
                    self.note_outgoing(&outgoing, &mut numbered)?;
                    None
                }
                Event::Incoming(incoming) => {
                    silent_after = Instant::now() + SILENCE_TIMEOUT;
                    waited = SILENCE_TIMEOUT;
                    self.take_incoming(incoming, &mut numbered)?
                }
            };
            if let Some(said) = said
                && events.send(said).await.is_err()
            {
                return Ok(());
            }
        }
    }

    fn note_outgoing(&self, outgoing: &Outgoing, numbered: &mut Numbered) -> Result<(), LinkError> {
        match outgoing {
            Outgoing::Publish(number) => {
                let tag = self.unnumbered.lock().unwrap_or_else(PoisonError::into_inner).pop_front();
                numbered.extend(tag.map(|tag| (*number, tag)));
                Ok(())
            }
            // The client would hold the packet back until an old one is confirmed, perhaps for ever.
            Outgoing::AwaitAck(_) => Err(self.protocol("it leaves packets unconfirmed")),
            _ => Ok(()),
        }
    }

    fn take_incoming(
        &self,
        incoming: Incoming,
        numbered: &mut Numbered,
    ) -> Result<Option<LinkEvent>, LinkError> {
        match incoming {
            Incoming::ConnAck(_) => {
                let filters =
                    self.filters.iter().map(|filter| SubscribeFilter::new(filter.clone(), QoS::AtLeastOnce));
                self.client.try_subscribe_many(filters).map_err(|_| LinkError::Ended)?;
                Ok(None)
            }
            Incoming::SubAck(suback) => {
                let refused =
                    suback.return_codes.iter().position(|code| *code == SubscribeReasonCode::Failure);
                match refused.and_then(|at| self.filters.get(at)) {
                    Some(filter) => {
                        Err(LinkError::Subscription { url: self.url.clone(), filter: filter.clone() })
                    }
                    None => Ok(Some(LinkEvent::Up)),
                }
            }
            Incoming::PubAck(puback) => {
                let at = numbered.iter().position(|(number, _)| *number == puback.pkid);
                Ok(at.map(|at| LinkEvent::Receipt(numbered.remove(at).1)))
            }
            Incoming::Publish(publish) => {
                // A topic that this version does not know is nothing for it.
                let topic = publish.topic.parse::<Topic>().ok();
                Ok(topic.map(|topic| LinkEvent::Message {
                    topic,
                    payload: publish.payload.to_vec(),
                    retained: publish.retain,
                }))
            }
            _ => Ok(None),
        }
    }

    fn protocol(&self, problem: &str) -> LinkError {
        LinkError::Protocol { url: self.url.clone(), problem: problem.to_owned() }
    }
}
