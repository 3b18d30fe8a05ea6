//! The CONNECT packet.

use super::frame::Header;
use super::packet::LONG_LENGTH;
use super::properties::{self, MessageProperties, Value};
use super::reader::Reader;
use super::{DecodeError, Version};

/// What a client asks for when it connects.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Connect<'a> {
    pub(crate) version: Version,
    /// Clean Session of 3.1.1, Clean Start of 5.
    pub(crate) clean: bool,
    pub(crate) keep_alive_seconds: u16,
    pub(crate) client_id: &'a str,
    pub(crate) username: Option<&'a str>,
    pub(crate) password: Option<&'a [u8]>,
    pub(crate) will: Option<Will<'a>>,
    /// How long the session is to outlive the connection; `u32::MAX` is for ever. In 3.1.1 it follows from `clean`.
    pub(crate) session_expiry_seconds: u32,
    /// How many unacknowledged publishes the client takes.
    pub(crate) receive_maximum: u16,
    /// The largest packet that the client takes.
    pub(crate) maximum_packet_bytes: usize,
    /// The client wants an authentication exchange, which the gate does not offer.
    pub(crate) enhanced_authentication: bool,
}

/// The message to publish when the client goes without saying so.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Will<'a> {
    pub(crate) topic: &'a str,
    pub(crate) payload: &'a [u8],
    pub(crate) qos: u8,
    pub(crate) retain: bool,
    pub(crate) properties: MessageProperties<'a>,
}

/// Why a CONNECT cannot be accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ConnectError {
    /// It is no CONNECT of any MQTT version: closed without an answer.
    Decode(Option<Version>, DecodeError),
    /// Another MQTT version, with its level.
    Version(u8),
}

impl From<DecodeError> for ConnectError {
    fn from(error: DecodeError) -> ConnectError {
        ConnectError::Decode(None, error)
    }
}

/// Decodes the body of a CONNECT.
pub(crate) fn decode(header: Header, body: &[u8]) -> Result<Connect<'_>, ConnectError> {
    let mut reader = Reader::new(body);
    let name = reader.binary()?;
    let level = reader.u8()?;
    let version = match (name, level) {
        (b"MQTT", 4) => Version::V311,
        (b"MQTT", 5) => Version::V5,
        (b"MQTT" | b"MQIsdp", level) => return Err(ConnectError::Version(level)),
        _ => return Err(DecodeError::Malformed("not the MQTT protocol").into()),
    };
    if version == Version::V5 && !header.is_minimal() {
        return Err(ConnectError::Decode(Some(version), LONG_LENGTH));
    }
    rest(version, reader).map_err(|error| ConnectError::Decode(Some(version), error))
}

fn rest(version: Version, mut reader: Reader<'_>) -> Result<Connect<'_>, DecodeError> {
    let flags = reader.u8()?;
    let flag = |bit: u8| flags & (1 << bit) != 0;
    let (has_username, has_password, has_will) = (flag(7), flag(6), flag(2));
    let (will_retain, will_qos) = (flag(5), (flags >> 3) & 3);
    if flag(0) {
        return Err(DecodeError::Malformed("reserved connect flag is set"));
    }
    if will_qos == 3 || (!has_will && (will_qos > 0 || will_retain)) {
        return Err(DecodeError::Malformed("will flags contradict each other"));
    }
    if version == Version::V311 && has_password && !has_username {
        return Err(DecodeError::Malformed("password without user name"));
    }
    let clean = flag(1);
    let keep_alive_seconds = reader.u16()?;
    let mut connect = Connect {
        version,
        clean,
        keep_alive_seconds,
        client_id: "",
        username: None,
        password: None,
        will: None,
        session_expiry_seconds: if version == Version::V311 && !clean { u32::MAX } else { 0 },
        receive_maximum: u16::MAX,
        maximum_packet_bytes: usize::MAX,
        enhanced_authentication: false,
    };
    if version == Version::V5 {
        connect_properties(&mut reader, &mut connect)?;
    }
    connect.client_id = reader.text()?;
    if has_will {
        let properties = match version {
            Version::V5 => MessageProperties::read(&mut reader, true)?,
            Version::V311 => MessageProperties::default(),
        };
        let topic = reader.text()?;
        if !crate::access::valid_topic(topic) {
            return Err(DecodeError::TopicName);
        }
        let payload = reader.binary()?;
        connect.will = Some(Will { topic, payload, qos: will_qos, retain: will_retain, properties });
    }
    if has_username {
        connect.username = Some(reader.text()?);
    }
    if has_password {
        connect.password = Some(reader.binary()?);
    }
    if !reader.is_empty() {
        return Err(DecodeError::Malformed("bytes after the end of the packet"));
    }
    Ok(connect)
}

fn connect_properties(reader: &mut Reader<'_>, connect: &mut Connect<'_>) -> Result<(), DecodeError> {
    const ALLOWED: &[u8] = &[
        properties::SESSION_EXPIRY,
        properties::RECEIVE_MAXIMUM,
        properties::MAXIMUM_PACKET_SIZE,
        properties::TOPIC_ALIAS_MAXIMUM,
        properties::REQUEST_RESPONSE_INFO,
        properties::REQUEST_PROBLEM_INFO,
        properties::USER_PROPERTY,
        properties::AUTH_METHOD,
        properties::AUTH_DATA,
    ];
    let mut authentication_data = false;
    properties::read(reader, ALLOWED, |id, value, _| {
        match (id, value) {
            (properties::SESSION_EXPIRY, Value::Number(n)) => connect.session_expiry_seconds = n,
            (properties::RECEIVE_MAXIMUM, Value::Number(n)) => {
                // A two-byte number.
                connect.receive_maximum = n as u16;
                if n == 0 {
                    return Err(DecodeError::Protocol("Receive Maximum of 0"));
                }
            }
            (properties::MAXIMUM_PACKET_SIZE, Value::Number(n)) => {
                connect.maximum_packet_bytes = n as usize;
                if n == 0 {
                    return Err(DecodeError::Protocol("Maximum Packet Size of 0"));
                }
            }
            (properties::AUTH_METHOD, _) => connect.enhanced_authentication = true,
            (properties::AUTH_DATA, _) => authentication_data = true,
            _ => {}
        }
        Ok(())
    })?;
    if authentication_data && !connect.enhanced_authentication {
        return Err(DecodeError::Protocol("authentication data without a method"));
    }
    Ok(())
}
