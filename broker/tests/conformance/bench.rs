//! What the claims share: a broker, clients that may do everything, and packets built by hand.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Instant;

use crate::support::broker::service;
use crate::support::*;

/// A topic that keeps nothing.
pub(crate) const TOPIC: &str = "conformance/topic";
/// A topic that keeps its last message.
pub(crate) const KEPT: &str = "fleet/v1/acme/view/kept";

/// User name, password and a clean start.
pub(crate) const LOGIN: u8 = 0xc2;
/// The will flag of CONNECT.
pub(crate) const WILL: u8 = 0x04;

/// A broker, and the version that its clients speak.
pub(crate) struct Bench {
    pub(crate) broker: TestBroker,
    pub(crate) version: Version,
}

impl Bench {
    pub(crate) fn new(version: Version) -> Bench {
        Bench { broker: TestBroker::start(), version }
    }

    /// The CONNECT of a client that may publish and subscribe to everything.
    pub(crate) fn login(&self, id: &str) -> Connect {
        Connect { client_id: id.into(), ..service(self.version) }
    }

    /// As [`Bench::login`], with a session that outlives the connection.
    pub(crate) fn lasting(&self, id: &str) -> Connect {
        self.login(id).persistent()
    }

    pub(crate) fn client(&self, id: &str) -> Client {
        self.connect(&self.login(id))
    }

    pub(crate) fn connect(&self, connect: &Connect) -> Client {
        Client::connect(self.broker.address, connect)
    }

    /// Connects and tells whether a session was there.
    pub(crate) fn resume(&self, connect: &Connect) -> (Client, bool) {
        let (client, code, present) = Client::attempt(self.broker.address, connect);
        assert_eq!(code, 0, "refused: {connect:?}");
        (client, present)
    }

    /// A client with one subscription that is granted as asked.
    pub(crate) fn subscriber(&self, filter: &str, qos: u8) -> Client {
        let mut client = self.client(&format!("subscriber {filter} {qos}"));
        assert_eq!(client.subscribe(&[filter], qos), [qos]);
        client
    }

    /// The code that a first packet is answered with, `None` if it is not answered. Unless it is 0 the connection must
    /// be closed after it, and no session announced.
    pub(crate) fn answer(&self, first_packet: &[u8]) -> Option<u8> {
        let mut client = Client::silent(self.broker.address, self.version);
        client.send(first_packet);
        match client.wait(PATIENCE) {
            Outcome::Packet(Received::ConnAck { code: 0, .. }) => Some(0),
            Outcome::Packet(Received::ConnAck { code, session_present, .. }) => {
                assert!(!session_present, "a session for a client that is refused");
                assert_eq!(client.wait(PATIENCE), Outcome::Closed);
                Some(code)
            }
            Outcome::Closed => None,
            other => panic!("{other:?} to {first_packet:02x?}"),
        }
    }

    /// Asserts that a CONNECT is taken for malformed: closed without an answer in 3.1.1, 0x81 in 5.
    pub(crate) fn assert_malformed(&self, connect: &[u8]) {
        let expected = (self.version == Version::V5).then_some(0x81);
        assert_eq!(self.answer(connect), expected, "{connect:02x?}");
    }

    /// Asserts that each packet, sent by a client of its own after login, ends its connection; in 5 with `code`.
    pub(crate) fn assert_each_ends(&self, code: u8, packets: &[Vec<u8>]) {
        for (number, packet) in packets.iter().enumerate() {
            let mut client = self.client(&format!("breaker {number}"));
            client.send(packet);
            client.expect_end(&[code]);
        }
        self.broker.assert_serves_others();
    }

    /// Logs in, sends `packets`, and returns the `count` packets that follow the CONNACK as they are on the wire.
    pub(crate) fn raw(&self, connect: &Connect, packets: &[u8], count: usize) -> Vec<(u8, Vec<u8>)> {
        let mut stream = TcpStream::connect(self.broker.address).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.write_all(&[&connect.encode()[..], packets].concat()).unwrap();
        let deadline = Instant::now() + PATIENCE;
        let (mut buffer, mut frames) = (Vec::new(), Vec::new());
        while frames.len() <= count {
            assert!(Instant::now() < deadline, "only {frames:02x?}");
            if let Some(frame) = wire::take_frame(&mut buffer) {
                frames.push(frame);
                continue;
            }
            let mut chunk = [0; 4096];
            let read = stream.read(&mut chunk).unwrap();
            assert!(read > 0, "closed after {frames:02x?}");
            buffer.extend(&chunk[..read]);
        }
        frames.remove(0);
        frames
    }
}

/// A CONNECT with these flags and this payload; in 5 with these properties.
pub(crate) fn connect_with(version: Version, flags: u8, properties: &[u8], payload: &[Vec<u8>]) -> Vec<u8> {
    let mut body = wire::field("MQTT");
    body.extend([version as u8, flags, 0, 60]);
    if version == Version::V5 {
        body.extend(wire::varint(properties.len()));
        body.extend(properties);
    }
    body.extend(payload.concat());
    wire::packet(kind::CONNECT, body)
}

/// The payload of a CONNECT that is let in with [`LOGIN`].
pub(crate) fn credentials(id: impl AsRef<[u8]>) -> Vec<Vec<u8>> {
    vec![wire::field(id), wire::field("fleetd"), wire::field("fleetd-secret")]
}

/// The three fields of a will as they stand in a CONNECT: properties (in 5), topic, payload.
pub(crate) fn will_fields(version: Version, properties: &[u8], topic: &[u8]) -> Vec<u8> {
    let properties = match version {
        Version::V311 => Vec::new(),
        Version::V5 => [wire::varint(properties.len()), properties.to_vec()].concat(),
    };
    [properties, wire::field(topic), wire::field("will")].concat()
}

/// Says goodbye and waits until the server has heard it.
pub(crate) fn leave(mut client: Client) {
    client.send([kind::DISCONNECT, 0]);
    assert_eq!(client.wait(PATIENCE), Outcome::Closed);
}

/// Everything that comes until nothing more does, acknowledged.
pub(crate) fn all_texts(client: &mut Client) -> Vec<String> {
    let mut texts = Vec::new();
    while let Outcome::Packet(packet) = client.wait(SILENCE) {
        texts.push(client.accept(packet).text());
    }
    texts
}

/// The next packet, which must be a PUBLISH that is not acknowledged yet: text, QoS, DUP, packet id.
pub(crate) fn unacknowledged(client: &mut Client) -> (String, u8, bool, u16) {
    match client.receive() {
        Received::Publish { payload, qos, dup, id, .. } => {
            (String::from_utf8(payload.0).unwrap(), qos, dup, id)
        }
        other => panic!("expected PUBLISH, got {other:?}"),
    }
}
