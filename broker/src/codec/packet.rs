//! What a client may send after its CONNECT.

use super::frame::Header;
use super::properties::{self, MessageProperties};
use super::reader::Reader;
use super::{DecodeError, Version};

/// A decoded packet; it borrows from the bytes it came from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Packet<'a> {
    Publish(Publish<'a>),
    PubAck(Ack),
    PubRec(Ack),
    PubRel(Ack),
    PubComp(Ack),
    Subscribe(Subscribe<'a>),
    Unsubscribe { packet_id: u16, filters: Vec<&'a str> },
    PingReq,
    Disconnect(Disconnect),
}

/// PUBLISH.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Publish<'a> {
    pub(crate) dup: bool,
    pub(crate) qos: u8,
    pub(crate) retain: bool,
    pub(crate) topic: &'a str,
    /// 0 for QoS 0.
    pub(crate) packet_id: u16,
    pub(crate) properties: MessageProperties<'a>,
    pub(crate) payload: &'a [u8],
}

/// PUBACK, PUBREC, PUBREL or PUBCOMP.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Ack {
    pub(crate) packet_id: u16,
    /// The reason code is 0x80 or above.
    pub(crate) failed: bool,
}

/// SUBSCRIBE.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Subscribe<'a> {
    pub(crate) packet_id: u16,
    pub(crate) filters: Vec<Wanted<'a>>,
}

/// One filter of a SUBSCRIBE with its options.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Wanted<'a> {
    pub(crate) filter: &'a str,
    pub(crate) qos: u8,
    /// Not what this client publishes itself.
    pub(crate) no_local: bool,
    /// Keep the retain flag as it was published.
    pub(crate) retain_as_published: bool,
    pub(crate) retain_handling: RetainHandling,
}

/// Whether a SUBSCRIBE is answered with retained messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum RetainHandling {
    Always,
    IfNew,
    Never,
}

/// DISCONNECT.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Disconnect {
    /// The client wants its will published all the same.
    pub(crate) with_will: bool,
    pub(crate) session_expiry_seconds: Option<u32>,
}

/// The packet's length took more bytes than it needs.
pub(crate) const LONG_LENGTH: DecodeError = DecodeError::Malformed("length in more bytes than it needs");

/// Decodes the body of a packet that is not a CONNECT. [`frame::header`](super::frame::header) has checked its flags.
pub(crate) fn decode(version: Version, header: Header, body: &[u8]) -> Result<Packet<'_>, DecodeError> {
    let mut reader = Reader::new(body);
    if version == Version::V5 && !header.is_minimal() {
        return Err(LONG_LENGTH);
    }
    match header.kind() {
        1 => Err(DecodeError::Protocol("a second CONNECT")),
        3 => publish(version, header.flags(), reader).map(Packet::Publish),
        4 => ack(version, reader).map(Packet::PubAck),
        5 => ack(version, reader).map(Packet::PubRec),
        6 => ack(version, reader).map(Packet::PubRel),
        7 => ack(version, reader).map(Packet::PubComp),
        8 => subscribe(version, reader).map(Packet::Subscribe),
        10 => {
            let packet_id = reader.packet_id()?;
            if version == Version::V5 {
                properties::skip(&mut reader, &[properties::USER_PROPERTY])?;
            }
            let mut filters = Vec::new();
            while !reader.is_empty() {
                filters.push(reader.text()?);
            }
            if filters.is_empty() {
                return Err(DecodeError::Protocol("UNSUBSCRIBE without a filter"));
            }
            Ok(Packet::Unsubscribe { packet_id, filters })
        }
        12 => end(reader, Packet::PingReq),
        14 => disconnect(version, reader),
        15 if version == Version::V5 => Err(DecodeError::Protocol("AUTH without an authentication method")),
        _ => Err(DecodeError::Malformed("a packet type that a client may not send")),
    }
}

fn end<'a>(reader: Reader<'_>, packet: Packet<'a>) -> Result<Packet<'a>, DecodeError> {
    if reader.is_empty() {
        Ok(packet)
    } else {
        Err(DecodeError::Malformed("bytes after the end of the packet"))
    }
}

fn publish(version: Version, flags: u8, mut reader: Reader<'_>) -> Result<Publish<'_>, DecodeError> {
    let (dup, qos, retain) = (flags & 8 != 0, (flags >> 1) & 3, flags & 1 != 0);
    if qos == 3 {
        return Err(DecodeError::Malformed("QoS 3"));
    }
    if dup && qos == 0 {
        return Err(DecodeError::Malformed("DUP with QoS 0"));
    }
    let topic = reader.text()?;
    let packet_id = if qos > 0 { reader.packet_id()? } else { 0 };
    let properties = match version {
        Version::V5 => MessageProperties::read(&mut reader, false)?,
        Version::V311 => MessageProperties::default(),
    };
    if topic.is_empty() && version == Version::V5 {
        return Err(DecodeError::Protocol("neither a topic nor an alias for one"));
    }
    if !crate::access::valid_topic(topic) {
        return Err(DecodeError::TopicName);
    }
    Ok(Publish { dup, qos, retain, topic, packet_id, properties, payload: reader.rest() })
}

fn ack(version: Version, mut reader: Reader<'_>) -> Result<Ack, DecodeError> {
    let packet_id = reader.packet_id()?;
    let mut failed = false;
    if version == Version::V5 && !reader.is_empty() {
        failed = reader.u8()? >= 0x80;
        if !reader.is_empty() {
            properties::skip(&mut reader, &[properties::REASON_STRING, properties::USER_PROPERTY])?;
        }
    }
    if reader.is_empty() {
        Ok(Ack { packet_id, failed })
    } else {
        Err(DecodeError::Malformed("bytes after the end of the packet"))
    }
}

fn subscribe(version: Version, mut reader: Reader<'_>) -> Result<Subscribe<'_>, DecodeError> {
    let packet_id = reader.packet_id()?;
    if version == Version::V5 {
        const ALLOWED: &[u8] = &[properties::SUBSCRIPTION_ID, properties::USER_PROPERTY];
        properties::read(&mut reader, ALLOWED, |id, _, _| match id {
            properties::SUBSCRIPTION_ID => Err(DecodeError::SubscriptionIdentifier),
            _ => Ok(()),
        })?;
    }
    let mut filters = Vec::new();
    while !reader.is_empty() {
        let filter = reader.text()?;
        let options = reader.u8()?;
        let qos = options & 3;
        if qos == 3 {
            return Err(DecodeError::Malformed("QoS 3"));
        }
        let allowed_bits = if version == Version::V5 { 0b0011_1111 } else { 0b0000_0011 };
        if options & !allowed_bits != 0 {
            return Err(DecodeError::Malformed("reserved subscription options"));
        }
        let no_local = options & 4 != 0;
        if no_local && filter.starts_with("$share/") {
            return Err(DecodeError::Protocol("No Local on a shared subscription"));
        }
        let retain_handling = match options >> 4 {
            0 => RetainHandling::Always,
            1 => RetainHandling::IfNew,
            2 => RetainHandling::Never,
            _ => return Err(DecodeError::Protocol("Retain Handling 3")),
        };
        let retain_as_published = options & 8 != 0;
        filters.push(Wanted { filter, qos, no_local, retain_as_published, retain_handling });
    }
    if filters.is_empty() {
        return Err(DecodeError::Protocol("SUBSCRIBE without a filter"));
    }
    Ok(Subscribe { packet_id, filters })
}

fn disconnect(version: Version, mut reader: Reader<'_>) -> Result<Packet<'_>, DecodeError> {
    let mut packet = Disconnect { with_will: false, session_expiry_seconds: None };
    if version == Version::V5 && !reader.is_empty() {
        // 0 is the only code that means that everything is well.
        packet.with_will = reader.u8()? != 0;
        if !reader.is_empty() {
            const ALLOWED: &[u8] =
                &[properties::SESSION_EXPIRY, properties::REASON_STRING, properties::USER_PROPERTY];
            properties::read(&mut reader, ALLOWED, |id, value, _| {
                if let (properties::SESSION_EXPIRY, properties::Value::Number(n)) = (id, value) {
                    packet.session_expiry_seconds = Some(n);
                }
                Ok(())
            })?;
        }
    }
    end(reader, Packet::Disconnect(packet))
}
