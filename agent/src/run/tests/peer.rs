//! The other end: a socket that speaks MQTT 3.1.1 and says what a test tells it to say.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::BytesMut;
use protocol::codec::{self, Record, limit};
use protocol::id::StateId;
use protocol::message::{Ack, Birth, Event, Heartbeat};
use protocol::ranges::RangeSet;
use rumqttc::mqttbytes::v4::{
    ConnAck, Connect, ConnectReturnCode, Packet, PingResp, PubAck, Publish, SubAck, SubscribeReasonCode,
};
use rumqttc::mqttbytes::{self, QoS};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

pub(super) const SUBTREE: &str = "fleet/v1/acme/device/studio-001/";
const PATIENCE: Duration = Duration::from_secs(20);

pub(super) struct Peer {
    listener: TcpListener,
}

impl Peer {
    pub(super) async fn new() -> Self {
        Self { listener: TcpListener::bind("127.0.0.1:0").await.unwrap() }
    }

    pub(super) fn url(&self) -> String {
        format!("mqtt://{}", self.listener.local_addr().unwrap())
    }

    /// The next connection and its CONNECT packet, not yet answered. After three failures the agent may wait for a minute.
    pub(super) async fn knock(&self) -> (Wire, Connect) {
        let next = tokio::time::timeout(4 * PATIENCE, self.listener.accept());
        let accepted = next.await.expect("the agent connects");
        let mut wire = Wire { socket: accepted.unwrap().0, buffer: BytesMut::new() };
        match wire.packet().await {
            Some(Packet::Connect(connect)) => (wire, connect),
            other => panic!("CONNECT, not {other:?}"),
        }
    }

    /// The next connection, accepted and subscribed.
    pub(super) async fn accept(&self) -> (Wire, Connect) {
        let (wire, connect) = self.knock().await;
        self.welcome(wire).await.map(|wire| (wire, connect)).expect("SUBSCRIBE")
    }

    /// As [`Self::accept`]; `None` if nobody comes within a second, or not all the way.
    pub(super) async fn accept_or_none(&self) -> Option<(Wire, Connect)> {
        let accepted = tokio::time::timeout(Duration::from_secs(1), self.listener.accept()).await.ok()?;
        let mut wire = Wire { socket: accepted.unwrap().0, buffer: BytesMut::new() };
        let Packet::Connect(connect) = wire.packet().await? else { panic!("CONNECT comes first") };
        self.welcome(wire).await.map(|wire| (wire, connect))
    }

    async fn welcome(&self, mut wire: Wire) -> Option<Wire> {
        wire.send(Packet::ConnAck(ConnAck::new(ConnectReturnCode::Success, false))).await;
        match wire.packet().await {
            None => None,
            Some(Packet::Subscribe(subscribe)) => {
                let filters: Vec<&str> =
                    subscribe.filters.iter().map(|filter| filter.path.as_str()).collect();
                let own = ["command", "desired", "ack"].map(|leaf| format!("{SUBTREE}{leaf}"));
                assert_eq!(filters, [&own[0], &own[1], &own[2], "fleet/v1/server/+"]);
                let codes = vec![SubscribeReasonCode::Success(QoS::AtLeastOnce); filters.len()];
                wire.send(Packet::SubAck(SubAck::new(subscribe.pkid, codes))).await;
                Some(wire)
            }
            other => panic!("SUBSCRIBE, not {other:?}"),
        }
    }
}

pub(super) struct Wire {
    socket: TcpStream,
    buffer: BytesMut,
}

impl Wire {
    /// The next packet that is no ping; `None` when the agent has closed the connection.
    pub(super) async fn packet(&mut self) -> Option<Packet> {
        loop {
            match Packet::read(&mut self.buffer, 1 << 20) {
                Ok(Packet::PingReq) => self.send(Packet::PingResp).await,
                Ok(packet) => return Some(packet),
                Err(mqttbytes::Error::InsufficientBytes(_)) => {
                    let read = tokio::time::timeout(PATIENCE, self.socket.read_buf(&mut self.buffer));
                    if read.await.expect("the agent says something").unwrap_or(0) == 0 {
                        return None;
                    }
                }
                Err(error) => panic!("{error}"),
            }
        }
    }

    pub(super) async fn send(&mut self, packet: Packet) {
        let mut bytes = BytesMut::new();
        match packet {
            Packet::PingResp => PingResp.write(&mut bytes),
            other => other.write(&mut bytes, 1 << 20),
        }
        .unwrap();
        // An agent that has gone is noticed when it is read from.
        let _ = self.socket.write_all(&bytes).await;
    }

    /// The next publish: its leaf and itself, with receipt.
    pub(super) async fn publish(&mut self) -> (String, Publish) {
        self.publish_or_end().await.expect("a publish")
    }

    /// As [`Self::publish`]; `None` at the end of the connection.
    pub(super) async fn publish_or_end(&mut self) -> Option<(String, Publish)> {
        match self.packet().await {
            Some(Packet::Publish(publish)) => {
                self.send(Packet::PubAck(PubAck::new(publish.pkid))).await;
                let leaf = publish.topic.strip_prefix(SUBTREE).expect("the device's own topic");
                Some((leaf.to_owned(), publish))
            }
            None | Some(Packet::Disconnect) => None,
            other => panic!("PUBLISH, not {other:?}"),
        }
    }

    /// The next publish, which must be a birth.
    pub(super) async fn birth(&mut self) -> Birth {
        self.birth_or_end().await.expect("a birth")
    }

    /// As [`Self::birth`]; `None` at the end of the connection.
    pub(super) async fn birth_or_end(&mut self) -> Option<Birth> {
        let (leaf, publish) = self.publish_or_end().await?;
        assert_eq!((leaf.as_str(), publish.retain), ("birth", false));
        Some(codec::decode(&publish.payload, limit::COMMAND_BYTES).unwrap())
    }

    pub(super) async fn say(&mut self, topic: &str, payload: Vec<u8>) {
        self.send(Packet::Publish(Publish::new(topic, QoS::AtMostOnce, payload))).await;
    }

    pub(super) async fn ack(&mut self, state_id: StateId, ranges: RangeSet) {
        let ack = Ack {
            state_id,
            ranges,
            commands_pending: None,
            target_version: None,
            server_time: Some(1_766_916_000_000),
        };
        self.say(&format!("{SUBTREE}ack"), codec::encode_named(&ack).unwrap()).await;
    }
}

/// What a server stores of one state: each number once.
#[derive(Debug, Default)]
pub(super) struct Stored {
    pub(super) heartbeats: BTreeMap<u64, Heartbeat>,
    pub(super) events: BTreeMap<u64, Event>,
    pub(super) others: BTreeMap<u64, String>,
    /// In the order of arrival.
    pub(super) order: Vec<u64>,
    pub(super) void: RangeSet,
}

impl Stored {
    /// Takes in a publish that is no birth or presence, of the birth with this connection number.
    pub(super) fn take(&mut self, leaf: &str, publish: &Publish, connection: u64) {
        let payload = &publish.payload;
        assert!(!publish.retain);
        let numbers = codec::record_seqs(payload, limit::LARGEST_BYTES).unwrap();
        self.order.extend(&numbers);
        match leaf {
            "heartbeat" => {
                let (records, _) = codec::decode_records(payload, limit::HEARTBEAT_BATCH_BYTES).unwrap();
                for record in records {
                    let Record::Good::<Heartbeat>(heartbeat) = record else { panic!("{record:?}") };
                    assert_eq!(u64::from(heartbeat.connection), connection % 65_536);
                    self.heartbeats.insert(heartbeat.seq, heartbeat);
                }
            }
            "event" => {
                let event: Event = codec::decode(payload, limit::COMMAND_BYTES).unwrap();
                assert_eq!(u64::from(event.connection), connection % 65_536);
                event.void.iter().for_each(|void| self.void.extend(&void.gone().unwrap()));
                self.events.insert(event.seq, event);
            }
            _ => self.others.extend(numbers.into_iter().map(|seq| (seq, leaf.to_owned()))),
        }
    }

    pub(super) fn ranges(&self) -> RangeSet {
        let numbers = self.heartbeats.keys().chain(self.events.keys()).chain(self.others.keys());
        let mut ranges: RangeSet = numbers.copied().collect();
        ranges.extend(&self.void);
        ranges
    }
}
