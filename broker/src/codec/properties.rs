//! The properties of MQTT 5.
//!
//! Each packet type names the properties that it may carry; any other one, or a second one of a kind that may come
//! once, is a protocol error.

use super::DecodeError;
use super::reader::Reader;

pub(crate) const PAYLOAD_FORMAT: u8 = 0x01;
pub(crate) const MESSAGE_EXPIRY: u8 = 0x02;
pub(crate) const CONTENT_TYPE: u8 = 0x03;
pub(crate) const RESPONSE_TOPIC: u8 = 0x08;
pub(crate) const CORRELATION_DATA: u8 = 0x09;
pub(crate) const SUBSCRIPTION_ID: u8 = 0x0B;
pub(crate) const SESSION_EXPIRY: u8 = 0x11;
pub(crate) const ASSIGNED_CLIENT_ID: u8 = 0x12;
pub(crate) const AUTH_METHOD: u8 = 0x15;
pub(crate) const AUTH_DATA: u8 = 0x16;
pub(crate) const REQUEST_PROBLEM_INFO: u8 = 0x17;
pub(crate) const WILL_DELAY: u8 = 0x18;
pub(crate) const REQUEST_RESPONSE_INFO: u8 = 0x19;
pub(crate) const REASON_STRING: u8 = 0x1F;
pub(crate) const RECEIVE_MAXIMUM: u8 = 0x21;
pub(crate) const TOPIC_ALIAS_MAXIMUM: u8 = 0x22;
pub(crate) const TOPIC_ALIAS: u8 = 0x23;
pub(crate) const USER_PROPERTY: u8 = 0x26;
pub(crate) const MAXIMUM_PACKET_SIZE: u8 = 0x27;
pub(crate) const SUBSCRIPTION_IDS_AVAILABLE: u8 = 0x29;
pub(crate) const SHARED_SUBSCRIPTIONS_AVAILABLE: u8 = 0x2A;

/// A property's value, as far as the gate looks at it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Value<'a> {
    /// A byte, two-byte, four-byte or variable integer.
    Number(u32),
    /// Text, binary data or a pair of texts: checked for form, not interpreted.
    Other(&'a [u8]),
}

impl Value<'_> {
    fn number(self) -> u32 {
        match self {
            Value::Number(n) => n,
            Value::Other(_) => 0,
        }
    }
}

/// Splits off a packet's property section and hands each property to `take`: its id, its value and its bytes (id
/// included).
///
/// # Errors
/// The section is malformed; a property is not in `allowed`, or comes twice (user properties may).
pub(crate) fn read<'a>(
    reader: &mut Reader<'a>,
    allowed: &[u8],
    mut take: impl FnMut(u8, Value<'a>, &'a [u8]) -> Result<(), DecodeError>,
) -> Result<(), DecodeError> {
    let len = reader.minimal_varint()?;
    let mut section = Reader::new(reader.take(len)?);
    let mut seen: u64 = 0;
    while !section.is_empty() {
        let start = section.rest();
        let id = section.u8()?;
        let value = match id {
            PAYLOAD_FORMAT | REQUEST_PROBLEM_INFO | REQUEST_RESPONSE_INFO => {
                let flag = section.u8()?;
                if flag > 1 {
                    return Err(DecodeError::Protocol("a flag is neither 0 nor 1"));
                }
                Value::Number(u32::from(flag))
            }
            RECEIVE_MAXIMUM | TOPIC_ALIAS_MAXIMUM | TOPIC_ALIAS => Value::Number(u32::from(section.u16()?)),
            MESSAGE_EXPIRY | SESSION_EXPIRY | WILL_DELAY | MAXIMUM_PACKET_SIZE => {
                Value::Number(section.u32()?)
            }
            // Four bytes of seven bits fit.
            SUBSCRIPTION_ID => Value::Number(section.minimal_varint()? as u32),
            CONTENT_TYPE | RESPONSE_TOPIC | AUTH_METHOD | REASON_STRING => {
                Value::Other(section.text()?.as_bytes())
            }
            CORRELATION_DATA | AUTH_DATA => Value::Other(section.binary()?),
            USER_PROPERTY => {
                section.text()?;
                Value::Other(section.text()?.as_bytes())
            }
            _ => return Err(DecodeError::Malformed("unknown property")),
        };
        if !allowed.contains(&id) {
            return Err(DecodeError::Protocol("a property that this packet may not carry"));
        }
        // Ids are below 64: the match above lists them.
        let bit = 1u64 << id;
        if id != USER_PROPERTY && seen & bit != 0 {
            return Err(DecodeError::Protocol("a property comes twice"));
        }
        seen |= bit;
        let bytes = &start[..start.len() - section.rest().len()];
        take(id, value, bytes)?;
    }
    Ok(())
}

/// Reads a property section whose content does not matter.
pub(crate) fn skip(reader: &mut Reader<'_>, allowed: &[u8]) -> Result<(), DecodeError> {
    read(reader, allowed, |_, _, _| Ok(()))
}

/// The properties of a message: those that travel to subscribers unchanged, and those that the gate handles.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct MessageProperties<'a> {
    /// Seconds after which the message is no longer delivered.
    pub(crate) expiry_seconds: Option<u32>,
    /// The will's delay; only in a CONNECT.
    pub(crate) will_delay_seconds: u32,
    /// The others, encoded, without their length: payload format, content type, response topic, correlation data,
    /// user properties.
    pub(crate) forward: std::borrow::Cow<'a, [u8]>,
}

impl<'a> MessageProperties<'a> {
    /// Of a PUBLISH, or of a will in a CONNECT.
    pub(crate) fn read(reader: &mut Reader<'a>, of_will: bool) -> Result<Self, DecodeError> {
        const PUBLISH: &[u8] = &[
            PAYLOAD_FORMAT,
            MESSAGE_EXPIRY,
            CONTENT_TYPE,
            RESPONSE_TOPIC,
            CORRELATION_DATA,
            USER_PROPERTY,
            TOPIC_ALIAS,
            SUBSCRIPTION_ID,
        ];
        const WILL: &[u8] = &[
            PAYLOAD_FORMAT,
            MESSAGE_EXPIRY,
            CONTENT_TYPE,
            RESPONSE_TOPIC,
            CORRELATION_DATA,
            USER_PROPERTY,
            WILL_DELAY,
        ];
        let mut props = MessageProperties::default();
        let mut forward = Forward::Nothing;
        read(reader, if of_will { WILL } else { PUBLISH }, |id, value, bytes| {
            match id {
                MESSAGE_EXPIRY => props.expiry_seconds = Some(value.number()),
                WILL_DELAY => props.will_delay_seconds = value.number(),
                TOPIC_ALIAS => return Err(DecodeError::TopicAlias),
                SUBSCRIPTION_ID => {
                    return Err(DecodeError::Protocol(
                        "a client may not send a subscription identifier here",
                    ));
                }
                RESPONSE_TOPIC if matches!(value, Value::Other(topic) if topic.iter().any(|b| b"+#".contains(b))) =>
                {
                    return Err(DecodeError::Protocol("wildcard in the response topic"));
                }
                _ => forward.push(bytes),
            }
            Ok(())
        })?;
        props.forward = match forward {
            Forward::Nothing => Default::default(),
            Forward::One(bytes) => bytes.into(),
            Forward::Many(bytes) => bytes.into(),
        };
        Ok(props)
    }
}

/// Collects encoded properties; one alone is not copied.
enum Forward<'a> {
    Nothing,
    One(&'a [u8]),
    Many(Vec<u8>),
}

impl<'a> Forward<'a> {
    fn push(&mut self, bytes: &'a [u8]) {
        match self {
            Forward::Nothing => *self = Forward::One(bytes),
            Forward::One(first) => *self = Forward::Many([first, bytes].concat()),
            Forward::Many(all) => all.extend_from_slice(bytes),
        }
    }
}
