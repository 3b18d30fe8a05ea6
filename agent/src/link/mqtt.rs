//! The task that drives one MQTT connection.
//!
//! rumqttc makes the connection and keeps MQTT's state; when something is sent is decided here. Its own loop pings
//! whatever else is sent: twice as many wake-ups of the radio for a device that has said something a moment ago.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use protocol::codec::limit;
use protocol::topic::{Downlink, SERVER_FILTER, Topic, Uplink};
use rumqttc::mqttbytes::v4::{Disconnect, PingReq, Publish, Subscribe};
use rumqttc::{
    ConnectionError, Event, EventLoop, Incoming, LastWill, MqttOptions, Outgoing, ProxyAuth, QoS, Request,
    StateError, SubscribeFilter, SubscribeReasonCode, TlsConfiguration,
};
use rustls::ClientConfig;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until, timeout_at};

use super::dial::Detour;
use super::{Address, LinkError, LinkEvent, LinkSettings, Order, Tag, Transport, device_topic};

/// What the broker is told; it waits for one and a half times as long.
const KEEP_ALIVE: Duration = Duration::from_secs(30);
/// Ping after this much silence of ours. A heartbeat every 30 s takes the ping's place, although it may be late by the
/// time that a commit takes; and although tokio wakes up to 4.1 s before a timer of this length to put it into a finer wheel:
/// with 31 s that was a wake-up for nothing before nearly every heartbeat.
const PING_AFTER: Duration = Duration::from_secs(36);
/// Everything that we send is answered, and we are never silent for more than [`PING_AFTER`]: a broker that says nothing
/// for this long is not reached any more.
const SILENCE_TIMEOUT: Duration = Duration::from_secs(75);
/// Topic and header of the largest packet.
const OVERHEAD_BYTES: usize = 1024;
/// rumqttc numbers packets from 1 to this and around; it must be far above what is under way at a time, or a late
/// receipt makes two packets collide.
const INFLIGHT: u16 = 200;

fn options(settings: &LinkSettings, transport: Transport) -> Result<MqttOptions, LinkError> {
    let name = format!("{}/{}", settings.org, settings.device);
    let host = settings.to.host();
    // rumqttc joins host and port with a colon.
    let host = if host.contains(':') { format!("[{host}]") } else { host.to_owned() };
    // Of a WebSocket it wants the whole URL.
    let address = match &settings.to {
        Address::Broker(url) if transport == Transport::Wss => {
            format!("wss://{host}:{}{}", url.port(), url.path())
        }
        _ => host,
    };
    let mut options = MqttOptions::new(&name, address, settings.to.port());
    let tls = || tls_of(settings).map(TlsConfiguration::Rustls);
    options.set_transport(match transport {
        Transport::Mqtts => rumqttc::Transport::tls_with_config(tls()?),
        Transport::Wss => rumqttc::Transport::wss_with_config(tls()?),
        _ => rumqttc::Transport::Tcp,
    });
    if let Some(proxy) = &settings.proxy {
        let ty = if proxy.is_encrypted {
            rumqttc::ProxyType::Https(TlsConfiguration::Rustls(tls_of(settings)?))
        } else {
            rumqttc::ProxyType::Http
        };
        let auth = match &proxy.login {
            Some((name, password)) => {
                ProxyAuth::Basic { username: name.clone(), password: password.expose().to_owned() }
            }
            None => ProxyAuth::None,
        };
        options.set_proxy(rumqttc::Proxy { ty, auth, addr: proxy.bracketed(), port: proxy.port });
    }
    let packet_bytes = limit::LARGEST_BYTES + OVERHEAD_BYTES;
    let will_topic = device_topic(settings, Uplink::Presence).to_string();
    if let Some(token) = &settings.token {
        options.set_credentials(&name, token.expose());
    }
    options
        .set_keep_alive(KEEP_ALIVE)
        .set_clean_session(true)
        .set_max_packet_size(packet_bytes, packet_bytes)
        .set_inflight(INFLIGHT)
        .set_last_will(LastWill::new(will_topic, settings.will.clone(), QoS::AtLeastOnce, true));
    Ok(options)
}

fn tls_of(settings: &LinkSettings) -> Result<Arc<ClientConfig>, LinkError> {
    settings.tls.clone().ok_or_else(|| LinkError::NoTls { url: settings.to.clone() })
}

/// What is to be sent, and whether its receipt matters.
type Packet = (Request, Option<Tag>);

pub(super) struct Connection {
    options: MqttOptions,
    orders: mpsc::Receiver<Order>,
    settings: LinkSettings,
    filters: Vec<String>,
}

/// Packets that have a number and no confirmation of the broker.
type Numbered = Vec<(u16, Tag)>;

impl Connection {
    pub(super) fn new(
        settings: LinkSettings,
        transport: Transport,
        orders: mpsc::Receiver<Order>,
    ) -> Result<Self, LinkError> {
        let options = options(&settings, transport)?;
        let own = |downlink| {
            let (org, device) = (settings.org.clone(), settings.device.clone());
            Topic::ToDevice { org, device, downlink }.to_string()
        };
        let mut filters: Vec<String> = Downlink::ALL.iter().copied().map(own).collect();
        filters.push(SERVER_FILTER.to_owned());
        Ok(Self { options, orders, settings, filters })
    }

    /// What leads past addresses of the broker that do not answer, if it has such; a proxy sees to that by itself.
    async fn detour(&self) -> io::Result<Option<Detour>> {
        let to = &self.settings.to;
        match &self.settings.proxy {
            Some(_) => Ok(None),
            None => Detour::past_silence(to.host(), to.port()).await,
        }
    }

    /// Runs until the first error, or until nobody listens to the events any more.
    pub(super) async fn run(mut self, events: mpsc::Sender<LinkEvent>) {
        if let Err(error) = self.drive(&events).await {
            // Nobody listens: nobody needs to know.
            let _ = events.send(LinkEvent::Down(error)).await;
        }
    }

    async fn drive(&mut self, events: &mpsc::Sender<LinkEvent>) -> Result<(), LinkError> {
        let mut waited = self.settings.patience;
        let mut silent_after = Instant::now() + waited + Duration::from_secs(5);
        let mut options = self.options.clone();
        // Ends with this connection.
        let detour = match timeout_at(silent_after, self.detour()).await {
            Ok(Ok(detour)) => detour,
            Ok(Err(error)) => return Err(self.failed(error.into(), waited)),
            Err(_) => return Err(self.silent(waited)),
        };
        if let Some(detour) = &detour {
            let (ty, auth) = (rumqttc::ProxyType::Http, ProxyAuth::None);
            options.set_proxy(rumqttc::Proxy { ty, auth, addr: "127.0.0.1".to_owned(), port: detour.port() });
        }
        // Nothing goes through the queue that it has.
        let mut client = EventLoop::new(options, 1);
        let mut network = client.network_options();
        network.set_connection_timeout(waited.as_secs()).set_tcp_nodelay(true);
        client.set_network_options(network);
        match timeout_at(silent_after, client.poll()).await {
            Ok(Ok(_welcome)) => {}
            Ok(Err(error)) => return Err(self.failed(error, waited)),
            Err(_) => return Err(self.silent(waited)),
        }
        let filters =
            self.filters.iter().map(|filter| SubscribeFilter::new(filter.clone(), QoS::AtLeastOnce));
        let mut next = Some((Request::Subscribe(Subscribe::new_many(filters)), None));
        let mut numbered = Numbered::new();
        let mut ping_at = Instant::now();
        loop {
            let mut tag = None;
            let step = match next.take() {
                Some((request, its_tag)) => {
                    tag = its_tag;
                    ping_at = Instant::now() + PING_AFTER;
                    timeout_at(silent_after, send(&mut client, request)).await
                }
                None => {
                    let step = wait(&mut client, &mut self.orders, &self.settings, ping_at);
                    match timeout_at(silent_after, step).await {
                        Ok(Ok(Happened::Ordered(Some(packet)))) => {
                            next = Some(packet);
                            continue;
                        }
                        // Nobody has this link any more.
                        Ok(Ok(Happened::Ordered(None))) => return Ok(()),
                        Ok(Ok(Happened::Heard)) => Ok(Ok(())),
                        Ok(Err(error)) => Ok(Err(error)),
                        Err(elapsed) => Err(elapsed),
                    }
                }
            };
            match step {
                Ok(Ok(())) => {}
                Ok(Err(error)) => return Err(self.failed(error.into(), waited)),
                Err(_) => return Err(self.silent(waited)),
            }
            while let Some(event) = client.state.events.pop_front() {
                let said = match event {
                    Event::Outgoing(Outgoing::Publish(number)) => {
                        numbered.extend(tag.take().map(|tag| (number, tag)));
                        None
                    }
                    // The packet would be held back until an old one is confirmed, perhaps for ever.
                    Event::Outgoing(Outgoing::AwaitAck(_)) => {
                        return Err(self.protocol("it leaves packets unconfirmed"));
                    }
                    Event::Outgoing(_) => None,
                    Event::Incoming(incoming) => {
                        waited = SILENCE_TIMEOUT;
                        silent_after = Instant::now() + waited;
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
    }

    fn take_incoming(
        &self,
        incoming: Incoming,
        numbered: &mut Numbered,
    ) -> Result<Option<LinkEvent>, LinkError> {
        match incoming {
            Incoming::SubAck(suback) => {
                let refused =
                    suback.return_codes.iter().position(|code| *code == SubscribeReasonCode::Failure);
                match refused.and_then(|at| self.filters.get(at)) {
                    Some(filter) => {
                        Err(LinkError::Subscription { url: self.settings.to.clone(), filter: filter.clone() })
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
        LinkError::Protocol { url: self.settings.to.clone(), problem: problem.to_owned() }
    }

    fn silent(&self, waited: Duration) -> LinkError {
        LinkError::Silent { url: self.settings.to.clone(), waited }
    }

    fn failed(&self, error: ConnectionError, waited: Duration) -> LinkError {
        match (LinkError::from_client(&self.settings.to, error, waited), &self.settings.proxy) {
            (LinkError::Proxy { url, problem, .. }, Some(proxy)) => {
                LinkError::Proxy { url, proxy: proxy.to_string(), problem }
            }
            (error, _) => error,
        }
    }
}

/// What has happened on a connection to which nothing was sent.
enum Happened {
    /// The broker has said something; the client's state has taken it in and answered.
    Heard,
    /// Something is to be sent. Nothing, if there is nobody any more who could say what.
    Ordered(Option<Packet>),
}

async fn wait(
    client: &mut EventLoop,
    orders: &mut mpsc::Receiver<Order>,
    settings: &LinkSettings,
    ping_at: Instant,
) -> Result<Happened, StateError> {
    let network = client.network.as_mut().ok_or(StateError::ConnectionAborted)?;
    tokio::select! {
        // Whatever is read is taken in before this waits again, and answers are short: nothing is lost if something
        // else happens first.
        read = network.readb(&mut client.state) => {
            read?;
            network.flush().await?;
            Ok(Happened::Heard)
        }
        order = orders.recv() => Ok(Happened::Ordered(order.map(|order| packet(order, settings)))),
        () = sleep_until(ping_at) => Ok(Happened::Ordered(Some((Request::PingReq(PingReq), None)))),
    }
}

fn packet(order: Order, settings: &LinkSettings) -> Packet {
    match order {
        Order::Say { tag, uplink, payload } => {
            let mut publish =
                Publish::new(device_topic(settings, uplink).to_string(), QoS::AtLeastOnce, payload);
            publish.retain = uplink == Uplink::Presence;
            (Request::Publish(publish), Some(tag))
        }
        Order::Goodbye => (Request::Disconnect(Disconnect), None),
    }
}

async fn send(client: &mut EventLoop, request: Request) -> Result<(), StateError> {
    let network = client.network.as_mut().ok_or(StateError::ConnectionAborted)?;
    if let Some(packet) = client.state.handle_outgoing_packet(request)? {
        network.write(packet).await?;
    }
    network.flush().await
}
