//! MQTT packets as bytes, both versions: enough to build what a client sends and to read what a server answers. It
//! checks nothing that a test might want to get wrong.

use std::fmt;

/// The protocol level of CONNECT.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Version {
    /// MQTT 3.1.1.
    V311 = 4,
    /// MQTT 5.
    V5 = 5,
}

/// Both versions, for tests that hold in each.
pub const BOTH: [Version; 2] = [Version::V311, Version::V5];

/// Packet types, as the high half of the first byte.
pub mod kind {
    pub const CONNECT: u8 = 0x10;
    pub const CONNACK: u8 = 0x20;
    pub const PUBLISH: u8 = 0x30;
    pub const PUBACK: u8 = 0x40;
    pub const PUBREC: u8 = 0x50;
    pub const PUBREL: u8 = 0x60;
    pub const PUBCOMP: u8 = 0x70;
    pub const SUBSCRIBE: u8 = 0x80;
    pub const SUBACK: u8 = 0x90;
    pub const UNSUBSCRIBE: u8 = 0xa0;
    pub const UNSUBACK: u8 = 0xb0;
    pub const PINGREQ: u8 = 0xc0;
    pub const PINGRESP: u8 = 0xd0;
    pub const DISCONNECT: u8 = 0xe0;
    pub const AUTH: u8 = 0xf0;
}

/// The reason codes of MQTT 5 beside 0 (and a granted QoS) that a server may send in each packet.
mod reason {
    pub(super) const CONNACK: [u8; 21] = [
        0x80, 0x81, 0x82, 0x83, 0x84, 0x85, 0x86, 0x87, 0x88, 0x89, 0x8a, 0x8c, 0x90, 0x95, 0x97, 0x99, 0x9a,
        0x9b, 0x9c, 0x9d, 0x9f,
    ];
    pub(super) const PUBACK: [u8; 8] = [0x10, 0x80, 0x83, 0x87, 0x90, 0x91, 0x97, 0x99];
    pub(super) const PUBREL: [u8; 1] = [0x92];
    pub(super) const SUBACK: [u8; 9] = [0x80, 0x83, 0x87, 0x8f, 0x91, 0x97, 0x9e, 0xa1, 0xa2];
    pub(super) const UNSUBACK: [u8; 6] = [0x11, 0x80, 0x83, 0x87, 0x8f, 0x91];
    pub(super) const DISCONNECT: [u8; 28] = [
        0x00, 0x80, 0x81, 0x82, 0x83, 0x87, 0x89, 0x8b, 0x8d, 0x8e, 0x8f, 0x90, 0x93, 0x94, 0x95, 0x96, 0x97,
        0x98, 0x99, 0x9a, 0x9b, 0x9c, 0x9d, 0x9e, 0x9f, 0xa0, 0xa1, 0xa2,
    ];
}

/// A string or binary field: two bytes of length, then the bytes.
pub fn field(bytes: impl AsRef<[u8]>) -> Vec<u8> {
    let bytes = bytes.as_ref();
    let mut out = u16::try_from(bytes.len()).unwrap().to_be_bytes().to_vec();
    out.extend(bytes);
    out
}

/// A variable byte integer.
pub fn varint(mut value: usize) -> Vec<u8> {
    let mut out = Vec::new();
    loop {
        let low = (value % 128) as u8;
        value /= 128;
        out.push(if value > 0 { low | 0x80 } else { low });
        if value == 0 {
            return out;
        }
    }
}

/// A whole packet from its first byte and its body.
pub fn packet(first: u8, body: impl AsRef<[u8]>) -> Vec<u8> {
    let body = body.as_ref();
    let mut out = vec![first];
    out.extend(varint(body.len()));
    out.extend(body);
    out
}

/// A property block (MQTT 5 only) from its already encoded properties.
fn properties(version: Version, encoded: &[u8]) -> Vec<u8> {
    match version {
        Version::V311 => Vec::new(),
        Version::V5 => [varint(encoded.len()), encoded.to_vec()].concat(),
    }
}

/// Encoders of single MQTT 5 properties.
pub mod property {
    use super::{field, varint};

    pub fn message_expiry(seconds: u32) -> Vec<u8> {
        [vec![0x02], seconds.to_be_bytes().to_vec()].concat()
    }
    pub fn content_type(text: &str) -> Vec<u8> {
        [vec![0x03], field(text)].concat()
    }
    pub fn subscription_identifier(id: usize) -> Vec<u8> {
        [vec![0x0b], varint(id)].concat()
    }
    pub fn session_expiry(seconds: u32) -> Vec<u8> {
        [vec![0x11], seconds.to_be_bytes().to_vec()].concat()
    }
    pub fn will_delay(seconds: u32) -> Vec<u8> {
        [vec![0x18], seconds.to_be_bytes().to_vec()].concat()
    }
    pub fn receive_maximum(count: u16) -> Vec<u8> {
        [vec![0x21], count.to_be_bytes().to_vec()].concat()
    }
    pub fn topic_alias(alias: u16) -> Vec<u8> {
        [vec![0x23], alias.to_be_bytes().to_vec()].concat()
    }
    pub fn user(name: &str, value: &str) -> Vec<u8> {
        [vec![0x26], field(name), field(value)].concat()
    }
    pub fn maximum_packet_size(bytes: u32) -> Vec<u8> {
        [vec![0x27], bytes.to_be_bytes().to_vec()].concat()
    }
}

/// A last will.
#[derive(Clone, Debug)]
pub struct Will {
    pub topic: String,
    pub payload: Vec<u8>,
    pub qos: u8,
    pub retain: bool,
    pub properties: Vec<u8>,
}

impl Will {
    pub fn new(topic: &str, payload: &str) -> Will {
        Will { topic: topic.into(), payload: payload.into(), qos: 1, retain: false, properties: Vec::new() }
    }
}

/// A CONNECT to be sent.
#[derive(Clone, Debug)]
pub struct Connect {
    pub version: Version,
    pub client_id: String,
    pub username: Option<String>,
    pub password: Option<String>,
    pub clean: bool,
    pub keep_alive_seconds: u16,
    pub will: Option<Will>,
    pub properties: Vec<u8>,
}

impl Connect {
    pub fn new(version: Version, client_id: &str) -> Connect {
        Connect {
            version,
            client_id: client_id.into(),
            username: None,
            password: None,
            clean: true,
            keep_alive_seconds: 60,
            will: None,
            properties: Vec::new(),
        }
    }

    pub fn login(mut self, username: &str, password: &str) -> Connect {
        self.username = Some(username.into());
        self.password = Some(password.into());
        self
    }

    /// A session that outlives the connection: no clean start, and in MQTT 5 an expiry of an hour.
    pub fn persistent(mut self) -> Connect {
        self.clean = false;
        self.property(property::session_expiry(3600))
    }

    pub fn keep_alive(mut self, seconds: u16) -> Connect {
        self.keep_alive_seconds = seconds;
        self
    }

    pub fn will(mut self, will: Will) -> Connect {
        self.will = Some(will);
        self
    }

    /// Adds one encoded property; left out for MQTT 3.1.1.
    pub fn property(mut self, encoded: Vec<u8>) -> Connect {
        self.properties.extend(encoded);
        self
    }

    pub fn encode(&self) -> Vec<u8> {
        let mut flags = u8::from(self.clean) << 1;
        flags |= u8::from(self.username.is_some()) << 7 | u8::from(self.password.is_some()) << 6;
        if let Some(will) = &self.will {
            flags |= 0x04 | will.qos << 3 | u8::from(will.retain) << 5;
        }
        let mut body = field("MQTT");
        body.extend([self.version as u8, flags]);
        body.extend(self.keep_alive_seconds.to_be_bytes());
        body.extend(properties(self.version, &self.properties));
        body.extend(field(&self.client_id));
        if let Some(will) = &self.will {
            body.extend(properties(self.version, &will.properties));
            body.extend(field(&will.topic));
            body.extend(field(&will.payload));
        }
        for text in [&self.username, &self.password].into_iter().flatten() {
            body.extend(field(text));
        }
        packet(kind::CONNECT, body)
    }
}

/// A PUBLISH to be sent.
#[derive(Clone, Debug)]
pub struct Publish {
    pub topic: Vec<u8>,
    pub payload: Vec<u8>,
    pub qos: u8,
    pub retain: bool,
    pub dup: bool,
    pub id: u16,
    pub properties: Vec<u8>,
}

impl Publish {
    pub fn new(topic: impl AsRef<[u8]>, payload: impl AsRef<[u8]>) -> Publish {
        Publish {
            topic: topic.as_ref().to_vec(),
            payload: payload.as_ref().to_vec(),
            qos: 0,
            retain: false,
            dup: false,
            id: 0,
            properties: Vec::new(),
        }
    }

    /// Quality of service, and the packet id that it needs above 0.
    pub fn qos(mut self, qos: u8, id: u16) -> Publish {
        (self.qos, self.id) = (qos, id);
        self
    }

    pub fn retained(mut self) -> Publish {
        self.retain = true;
        self
    }

    pub fn property(mut self, encoded: Vec<u8>) -> Publish {
        self.properties.extend(encoded);
        self
    }

    pub fn encode(&self, version: Version) -> Vec<u8> {
        let first = kind::PUBLISH | u8::from(self.dup) << 3 | self.qos << 1 | u8::from(self.retain);
        let mut body = field(&self.topic);
        if self.qos > 0 {
            body.extend(self.id.to_be_bytes());
        }
        body.extend(properties(version, &self.properties));
        body.extend(&self.payload);
        packet(first, body)
    }
}

/// A SUBSCRIBE of filters with their option bytes (the low two bits are the QoS).
pub fn subscribe<F: AsRef<[u8]>>(version: Version, id: u16, filters: &[(F, u8)], encoded: &[u8]) -> Vec<u8> {
    let mut body = id.to_be_bytes().to_vec();
    body.extend(properties(version, encoded));
    for (filter, options) in filters {
        body.extend(field(filter));
        body.push(*options);
    }
    packet(kind::SUBSCRIBE | 0x02, body)
}

/// An UNSUBSCRIBE.
pub fn unsubscribe(version: Version, id: u16, filters: &[&str]) -> Vec<u8> {
    let mut body = id.to_be_bytes().to_vec();
    body.extend(properties(version, &[]));
    for filter in filters {
        body.extend(field(filter));
    }
    packet(kind::UNSUBSCRIBE | 0x02, body)
}

/// PUBACK, PUBREC, PUBREL or PUBCOMP without reason: two bytes of packet id, in both versions.
pub fn acknowledge(kind: u8, id: u16) -> Vec<u8> {
    let flags = if kind == self::kind::PUBREL { 0x02 } else { 0 };
    packet(kind | flags, id.to_be_bytes())
}

/// What the server sent. Codes that MQTT 3.1.1 does not have, or that are left out because they are 0, read as 0.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Received {
    ConnAck {
        session_present: bool,
        code: u8,
        properties: Vec<u8>,
    },
    Publish {
        topic: String,
        payload: Payload,
        qos: u8,
        retain: bool,
        dup: bool,
        id: u16,
        properties: Vec<u8>,
    },
    PubAck {
        id: u16,
        code: u8,
    },
    PubRec {
        id: u16,
        code: u8,
    },
    PubRel {
        id: u16,
        code: u8,
    },
    PubComp {
        id: u16,
        code: u8,
    },
    SubAck {
        id: u16,
        codes: Vec<u8>,
    },
    UnsubAck {
        id: u16,
        codes: Vec<u8>,
    },
    PingResp,
    Disconnect {
        code: u8,
    },
}

/// Payload bytes that print as text.
#[derive(Clone, PartialEq, Eq)]
pub struct Payload(pub Vec<u8>);

impl fmt::Debug for Payload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0.len() {
            0..=64 => write!(f, "{:?}", String::from_utf8_lossy(&self.0)),
            many => write!(f, "({many} bytes)"),
        }
    }
}

impl PartialEq<&str> for Payload {
    fn eq(&self, other: &&str) -> bool {
        self.0 == other.as_bytes()
    }
}

/// Takes one whole packet off the front of `buffer`; `None` while it is incomplete.
pub fn take_frame(buffer: &mut Vec<u8>) -> Option<(u8, Vec<u8>)> {
    let mut length = 0usize;
    for at in 0..4 {
        let byte = *buffer.get(1 + at)?;
        length |= usize::from(byte & 0x7f) << (7 * at);
        if byte & 0x80 == 0 {
            assert!(at == 0 || byte > 0, "a remaining length in more bytes than it needs: {buffer:02x?}");
            let start = 2 + at;
            if buffer.len() < start + length {
                return None;
            }
            let body = buffer[start..start + length].to_vec();
            let first = buffer[0];
            buffer.drain(..start + length);
            return Some((first, body));
        }
    }
    panic!("the server sent a remaining length of more than four bytes: {:02x?}", &buffer[..5]);
}

/// Reads a server's packet; panics, naming the bytes, on anything that a server must not send.
pub fn parse(version: Version, first: u8, body: &[u8]) -> Received {
    let mut reader = Reader { version, whole: body, rest: body };
    let reserved = match first & 0xf0 {
        kind::PUBLISH => first & 0x0f,
        kind::PUBREL => 0x02,
        _ => 0,
    };
    assert_eq!(first & 0x0f, reserved, "reserved flags of {first:#04x} {body:02x?}");
    let received = match first & 0xf0 {
        kind::CONNACK => {
            let flags = reader.byte();
            assert!(flags <= 1, "reserved flags of CONNACK: {flags:#04x}");
            let session_present = flags == 1;
            let code = reader.byte();
            assert!(version == Version::V5 || code <= 5, "return code {code}");
            assert!(version == Version::V311 || code == 0 || reason::CONNACK.contains(&code), "{code:#04x}");
            Received::ConnAck { session_present, code, properties: reader.properties() }
        }
        kind::PUBLISH => {
            let topic = String::from_utf8(reader.field()).unwrap();
            let qos = first >> 1 & 3;
            let id = if qos > 0 { reader.word() } else { 0 };
            let properties = reader.properties();
            let payload = Payload(reader.rest().to_vec());
            let (retain, dup) = (first & 1 == 1, first & 8 == 8);
            assert!(qos < 3 && (qos > 0 || !dup), "QoS {qos}, DUP {dup}");
            assert!(qos == 0 || id > 0, "packet id 0");
            Received::Publish { topic, payload, qos, retain, dup, id, properties }
        }
        kind::PUBACK => reader.acknowledgement(&reason::PUBACK, |id, code| Received::PubAck { id, code }),
        kind::PUBREC => reader.acknowledgement(&reason::PUBACK, |id, code| Received::PubRec { id, code }),
        kind::PUBREL => reader.acknowledgement(&reason::PUBREL, |id, code| Received::PubRel { id, code }),
        kind::PUBCOMP => reader.acknowledgement(&reason::PUBREL, |id, code| Received::PubComp { id, code }),
        kind::SUBACK => {
            let id = reader.word();
            assert!(reader.properties().is_empty(), "nothing but codes belongs here");
            let codes = reader.rest().to_vec();
            let failures: &[u8] = if version == Version::V5 { &reason::SUBACK } else { &[0x80] };
            assert!(codes.iter().all(|code| *code < 3 || failures.contains(code)), "{codes:02x?}");
            Received::SubAck { id, codes }
        }
        kind::UNSUBACK => {
            let id = reader.word();
            assert!(reader.properties().is_empty(), "nothing but codes belongs here");
            let codes = reader.rest().to_vec();
            assert!(codes.iter().all(|code| *code == 0 || reason::UNSUBACK.contains(code)), "{codes:02x?}");
            Received::UnsubAck { id, codes }
        }
        kind::PINGRESP => Received::PingResp,
        kind::DISCONNECT => {
            assert_eq!(version, Version::V5, "a server of MQTT 3.1.1 sends no DISCONNECT");
            let code = if reader.rest.is_empty() { 0 } else { reader.byte() };
            assert!(reason::DISCONNECT.contains(&code), "{code:#04x}");
            let properties = reader.properties();
            assert!(properties.first().is_none_or(|id| *id == 0x1f), "more than a reason: {properties:02x?}");
            Received::Disconnect { code }
        }
        _ => panic!("not a server's packet: {first:#04x} {body:02x?}"),
    };
    assert!(reader.rest.is_empty(), "bytes left over in {first:#04x} {body:02x?}");
    received
}

struct Reader<'a> {
    version: Version,
    whole: &'a [u8],
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    fn take(&mut self, count: usize) -> &'a [u8] {
        assert!(count <= self.rest.len(), "cut short: {:02x?}", self.whole);
        let (taken, rest) = self.rest.split_at(count);
        self.rest = rest;
        taken
    }

    fn rest(&mut self) -> &'a [u8] {
        self.take(self.rest.len())
    }

    fn byte(&mut self) -> u8 {
        self.take(1)[0]
    }

    fn word(&mut self) -> u16 {
        u16::from_be_bytes([self.byte(), self.byte()])
    }

    fn field(&mut self) -> Vec<u8> {
        let length = usize::from(self.word());
        self.take(length).to_vec()
    }

    fn properties(&mut self) -> Vec<u8> {
        if self.version == Version::V311 || self.rest.is_empty() {
            return Vec::new();
        }
        let mut length = 0;
        for shift in [0, 7, 14, 21] {
            let byte = self.byte();
            length |= usize::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return self.take(length).to_vec();
            }
        }
        panic!("a property length of more than four bytes: {:02x?}", self.whole);
    }

    /// A packet id, and in MQTT 5 a reason code, which may be left out.
    fn acknowledgement(&mut self, reasons: &[u8], build: impl Fn(u16, u8) -> Received) -> Received {
        let id = self.word();
        let code = if self.rest.is_empty() { 0 } else { self.byte() };
        assert!(self.version == Version::V5 || code == 0, "a reason code towards MQTT 3.1.1");
        assert!(code == 0 || reasons.contains(&code), "{code:#04x}");
        assert!(self.properties().is_empty(), "properties in an acknowledgement");
        build(id, code)
    }
}
