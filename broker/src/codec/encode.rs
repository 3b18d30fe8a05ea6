//! What the gate sends. Every function appends one packet to `out`.

use bytes::{BufMut, BytesMut};

use super::reason::Reason;
use super::{Version, properties};

/// What a CONNACK of MQTT 5 tells about the gate's limits; 3.1.1 has no room for it.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct ConnAckProperties<'a> {
    /// Told when it is not what the client asked for.
    pub(crate) session_expiry_seconds: Option<u32>,
    pub(crate) receive_maximum: u16,
    pub(crate) maximum_packet_bytes: u32,
    /// The client id that the server made for a client without one.
    pub(crate) assigned_client_id: Option<&'a str>,
}

/// CONNACK for a client that gets in, if it has at most `limit` bytes; otherwise nothing is written.
#[must_use]
pub(crate) fn connack_accepted(
    out: &mut BytesMut,
    version: Version,
    session_present: bool,
    properties: ConnAckProperties<'_>,
    limit: usize,
) -> bool {
    match version {
        Version::V311 => {
            out.extend_from_slice(&[0x20, 2, u8::from(session_present), 0]);
            true
        }
        Version::V5 => {
            let mut props = Vec::with_capacity(32);
            if let Some(seconds) = properties.session_expiry_seconds {
                props.put_u8(properties::SESSION_EXPIRY);
                props.put_u32(seconds);
            }
            props.put_u8(properties::RECEIVE_MAXIMUM);
            props.put_u16(properties.receive_maximum);
            props.put_u8(properties::MAXIMUM_PACKET_SIZE);
            props.put_u32(properties.maximum_packet_bytes);
            if let Some(id) = properties.assigned_client_id {
                props.put_u8(properties::ASSIGNED_CLIENT_ID);
                put_text(&mut props, id);
            }
            props.extend_from_slice(&[properties::SUBSCRIPTION_IDS_AVAILABLE, 0]);
            props.extend_from_slice(&[properties::SHARED_SUBSCRIPTIONS_AVAILABLE, 0]);
            connack_v5(out, session_present, Reason::Success, &props, limit)
        }
    }
}

/// CONNACK for a client that does not get in. `why` is for people, and only in MQTT 5; it is left out where the client takes
/// at most `limit` bytes and it would not fit.
pub(crate) fn connack_refused(out: &mut BytesMut, version: Version, reason: Reason, why: &str, limit: usize) {
    match version {
        Version::V311 => out.extend_from_slice(&[0x20, 2, 0, reason.connack_v311()]),
        Version::V5 => {
            // Where even the second does not fit, the connection is closed without a word.
            let _ = connack_v5(out, false, reason, &reason_string(why), limit)
                || connack_v5(out, false, reason, &[], limit);
        }
    }
}

fn connack_v5(out: &mut BytesMut, session_present: bool, reason: Reason, props: &[u8], limit: usize) -> bool {
    let body = 2 + varint_len(props.len()) + props.len();
    if packet_len(body) > limit {
        return false;
    }
    fixed_header(out, 0x20, body);
    out.put_u8(u8::from(session_present));
    out.put_u8(reason.code());
    put_varint(out, props.len());
    out.extend_from_slice(props);
    true
}

/// Size of a whole packet with a body of so many bytes.
fn packet_len(body: usize) -> usize {
    1 + varint_len(body) + body
}

/// A message on its way to one client.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Outgoing<'a> {
    pub(crate) dup: bool,
    pub(crate) qos: u8,
    pub(crate) retain: bool,
    pub(crate) topic: &'a [u8],
    pub(crate) packet_id: u16,
    pub(crate) expiry_seconds: Option<u32>,
    /// Encoded properties without their length; left out in 3.1.1.
    pub(crate) properties: &'a [u8],
    pub(crate) payload: &'a [u8],
}

/// PUBLISH, if it has at most `limit` bytes; otherwise nothing is written.
#[must_use]
pub(crate) fn publish(out: &mut BytesMut, version: Version, message: Outgoing<'_>, limit: usize) -> bool {
    let props_len = message.properties.len() + if message.expiry_seconds.is_some() { 5 } else { 0 };
    let body = 2
        + message.topic.len()
        + if message.qos > 0 { 2 } else { 0 }
        + if version == Version::V5 { varint_len(props_len) + props_len } else { 0 }
        + message.payload.len();
    if packet_len(body) > limit {
        return false;
    }
    let first = 0x30 | u8::from(message.dup) << 3 | message.qos << 1 | u8::from(message.retain);
    fixed_header(out, first, body);
    // Topics came in with a two-byte length.
    out.put_u16(message.topic.len() as u16);
    out.extend_from_slice(message.topic);
    if message.qos > 0 {
        out.put_u16(message.packet_id);
    }
    if version == Version::V5 {
        put_varint(out, props_len);
        if let Some(seconds) = message.expiry_seconds {
            out.put_u8(properties::MESSAGE_EXPIRY);
            out.put_u32(seconds);
        }
        out.extend_from_slice(message.properties);
    }
    out.extend_from_slice(message.payload);
    true
}

/// The four acknowledgements of a publish.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum AckKind {
    Ack = 0x40,
    Rec = 0x50,
    Rel = 0x62,
    Comp = 0x70,
}

/// PUBACK, PUBREC, PUBREL or PUBCOMP. In 3.1.1 the reason does not show.
pub(crate) fn ack(out: &mut BytesMut, version: Version, kind: AckKind, packet_id: u16, reason: Reason) {
    let with_reason = version == Version::V5 && reason != Reason::Success;
    out.put_u8(kind as u8);
    out.put_u8(if with_reason { 3 } else { 2 });
    out.put_u16(packet_id);
    if with_reason {
        out.put_u8(reason.code());
    }
}

/// The answer to one filter of a SUBSCRIBE.
pub(crate) type Granted = Result<u8, Reason>;

/// SUBACK.
pub(crate) fn suback(out: &mut BytesMut, version: Version, packet_id: u16, granted: &[Granted]) {
    codes(out, version, 0x90, packet_id, granted.len());
    for code in granted {
        out.put_u8(match (code, version) {
            (Ok(qos), _) => *qos,
            (Err(_), Version::V311) => 0x80,
            (Err(reason), Version::V5) => reason.code(),
        });
    }
}

/// UNSUBACK; in 3.1.1 it has no codes.
pub(crate) fn unsuback(out: &mut BytesMut, version: Version, packet_id: u16, reasons: &[Reason]) {
    match version {
        Version::V311 => codes(out, version, 0xB0, packet_id, 0),
        Version::V5 => {
            codes(out, version, 0xB0, packet_id, reasons.len());
            out.extend(reasons.iter().map(|reason| reason.code()));
        }
    }
}

/// Size of a SUBACK or UNSUBACK of MQTT 5 for so many filters.
pub(crate) fn codes_len(count: usize) -> usize {
    packet_len(3 + count)
}

fn codes(out: &mut BytesMut, version: Version, first: u8, packet_id: u16, count: usize) {
    let props = usize::from(version == Version::V5);
    fixed_header(out, first, 2 + props + count);
    out.put_u16(packet_id);
    out.put_bytes(0, props);
}

/// PINGRESP.
pub(crate) fn pingresp(out: &mut BytesMut) {
    out.extend_from_slice(&[0xD0, 0]);
}

/// DISCONNECT; 3.1.1 has none from a server, so nothing is written. `why` is left out where the client takes at most `limit`
/// bytes and it would not fit.
pub(crate) fn disconnect(out: &mut BytesMut, version: Version, reason: Reason, why: &str, limit: usize) {
    if version == Version::V5 {
        let mut props = reason_string(why);
        if packet_len(1 + varint_len(props.len()) + props.len()) > limit {
            props.clear();
        }
        fixed_header(out, 0xE0, 1 + varint_len(props.len()) + props.len());
        out.put_u8(reason.code());
        put_varint(out, props.len());
        out.extend_from_slice(&props);
    }
}

fn reason_string(why: &str) -> Vec<u8> {
    let mut props = Vec::new();
    if !why.is_empty() {
        props.put_u8(properties::REASON_STRING);
        put_text(&mut props, why);
    }
    props
}

/// Text with its length. It is our own or came in with such a length, so it is short enough.
fn put_text(out: &mut Vec<u8>, text: &str) {
    out.put_u16(text.len() as u16);
    out.extend_from_slice(text.as_bytes());
}

fn fixed_header(out: &mut BytesMut, first: u8, body_len: usize) {
    out.reserve(5 + body_len);
    out.put_u8(first);
    put_varint(out, body_len);
}

fn put_varint(out: &mut BytesMut, mut n: usize) {
    loop {
        let low = (n & 0x7f) as u8;
        n >>= 7;
        out.put_u8(if n > 0 { low | 0x80 } else { low });
        if n == 0 {
            return;
        }
    }
}

/// How many bytes the shortest variable byte integer for `n` takes.
pub(super) fn varint_len(n: usize) -> usize {
    match n {
        0..=0x7f => 1,
        0x80..=0x3fff => 2,
        0x4000..=0x1f_ffff => 3,
        _ => 4,
    }
}
