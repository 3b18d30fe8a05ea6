//! The few packets of MQTT 3.1.1 that a load needs, written and read. The other side is one of the programs that are
//! measured, so what cannot be read ends the measurement.

/// What a client says first.
pub(crate) struct Connect<'a> {
    pub(crate) client_id: &'a str,
    /// User name and password.
    pub(crate) login: Option<(&'a str, &'a str)>,
    pub(crate) keep_alive_seconds: u16,
    /// Topic and payload; QoS 1, retained.
    pub(crate) will: Option<(&'a str, &'a [u8])>,
}

/// A packet that came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Packet<'a> {
    ConnAck { code: u8 },
    SubAck { granted: &'a [u8] },
    PubAck { id: u16 },
    Publish { topic: &'a [u8], id: u16, qos: u8, payload: &'a [u8] },
    PingResp,
}

fn header(out: &mut Vec<u8>, first: u8, mut len: usize) {
    out.push(first);
    loop {
        let byte = (len % 128) as u8;
        len /= 128;
        if len == 0 {
            out.push(byte);
            return;
        }
        out.push(byte | 128);
    }
}

fn text(out: &mut Vec<u8>, bytes: &[u8]) {
    // Ours are short.
    out.extend_from_slice(&(bytes.len() as u16).to_be_bytes());
    out.extend_from_slice(bytes);
}

pub(crate) fn connect(out: &mut Vec<u8>, connect: &Connect<'_>) {
    let mut body = Vec::with_capacity(128);
    text(&mut body, b"MQTT");
    let mut flags = 2;
    if connect.will.is_some() {
        flags |= 0b0010_1100;
    }
    if connect.login.is_some() {
        flags |= 0b1100_0000;
    }
    body.extend_from_slice(&[4, flags]);
    body.extend_from_slice(&connect.keep_alive_seconds.to_be_bytes());
    text(&mut body, connect.client_id.as_bytes());
    if let Some((topic, payload)) = connect.will {
        text(&mut body, topic.as_bytes());
        text(&mut body, payload);
    }
    if let Some((user, password)) = connect.login {
        text(&mut body, user.as_bytes());
        text(&mut body, password.as_bytes());
    }
    header(out, 0x10, body.len());
    out.extend_from_slice(&body);
}

/// A SUBSCRIBE with packet id 1.
pub(crate) fn subscribe(out: &mut Vec<u8>, filters: &[&str], qos: u8) {
    let len = 2 + filters.iter().map(|filter| filter.len() + 3).sum::<usize>();
    header(out, 0x82, len);
    out.extend_from_slice(&1u16.to_be_bytes());
    for filter in filters {
        text(out, filter.as_bytes());
        out.push(qos);
    }
}

/// A PUBLISH with QoS 1.
pub(crate) fn publish(out: &mut Vec<u8>, topic: &str, id: u16, payload: &[u8]) {
    header(out, 0x32, 2 + topic.len() + 2 + payload.len());
    text(out, topic.as_bytes());
    out.extend_from_slice(&id.to_be_bytes());
    out.extend_from_slice(payload);
}

pub(crate) fn puback(out: &mut Vec<u8>, id: u16) {
    out.extend_from_slice(&[0x40, 2]);
    out.extend_from_slice(&id.to_be_bytes());
}

/// The first whole packet of `bytes` and how many of them it takes. `Ok(None)`: more is needed. `Err`: not a packet of
/// those that a client of ours can get.
pub(crate) fn read(bytes: &[u8]) -> Result<Option<(Packet<'_>, usize)>, BadPacket> {
    let Some((&first, rest)) = bytes.split_first() else { return Ok(None) };
    let mut len = 0;
    let mut digits = 0;
    loop {
        let Some(&byte) = rest.get(digits) else { return Ok(None) };
        len |= usize::from(byte & 127) << (7 * digits);
        digits += 1;
        if byte & 128 == 0 {
            break;
        }
        if digits == 4 {
            return Err(BadPacket);
        }
    }
    let total = 1 + digits + len;
    let Some(body) = bytes.get(1 + digits..total) else { return Ok(None) };
    let id =
        |at: usize| body.get(at..at + 2).map(|two| u16::from_be_bytes([two[0], two[1]])).ok_or(BadPacket);
    let packet = match first >> 4 {
        2 => Packet::ConnAck { code: *body.get(1).ok_or(BadPacket)? },
        3 => {
            let topic_end = 2 + usize::from(id(0)?);
            let qos = first >> 1 & 3;
            let payload_at = if qos == 0 { topic_end } else { topic_end + 2 };
            Packet::Publish {
                topic: body.get(2..topic_end).ok_or(BadPacket)?,
                id: if qos == 0 { 0 } else { id(topic_end)? },
                qos,
                payload: body.get(payload_at..).ok_or(BadPacket)?,
            }
        }
        4 => Packet::PubAck { id: id(0)? },
        9 => Packet::SubAck { granted: body.get(2..).ok_or(BadPacket)? },
        13 => Packet::PingResp,
        _ => return Err(BadPacket),
    };
    Ok(Some((packet, total)))
}

/// Bytes that are no packet for a client of ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct BadPacket;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_publish_is_read_as_it_was_written_once_it_is_whole() {
        let mut bytes = Vec::new();
        publish(&mut bytes, "a/b", 7, &[1; 200]);
        let len = bytes.len();
        puback(&mut bytes, 9);
        assert_eq!(read(&bytes[..len - 1]), Ok(None));
        let expected = Packet::Publish { topic: b"a/b", id: 7, qos: 1, payload: &[1; 200] };
        assert_eq!(read(&bytes), Ok(Some((expected, len))));
        assert_eq!(read(&bytes[len..]), Ok(Some((Packet::PubAck { id: 9 }, 4))));
    }

    #[test]
    fn what_is_no_packet_is_refused() {
        assert_eq!(read(&[0x30, 0xff, 0xff, 0xff, 0xff, 1]), Err(BadPacket));
        assert_eq!(read(&[0x40, 1, 0]), Err(BadPacket));
        assert_eq!(read(&[0x10, 0]), Err(BadPacket));
    }
}
