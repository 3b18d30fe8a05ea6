//! The few bytes of MQTT and WebSocket that show who is at the other end. Pure.
//!
//! A real log-in with the device's client id would take the running agent's connection away (sessions are taken over by
//! principal and client id). So there is a question that every broker answers before it asks who is there: a CONNECT of an
//! MQTT version that does not exist.

/// The answer to [`upgrade`] by a peer that really speaks WebSocket: made of the key in it, as RFC 6455 says.
const ACCEPT: &str = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=";
const KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";
/// Masks what a client sends; any four bytes do.
const MASK: [u8; 4] = *b"R58F";
/// Longest head of an answer to an upgrade, in bytes.
pub(super) const HEAD_MAX_LEN: usize = 16 * 1024;

/// What a broker says to a CONNECT.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Welcome {
    /// It speaks MQTT, and not the version that was asked for.
    OtherVersion,
    /// The client is logged in.
    Accepted,
    /// User name, password or rights are not good.
    Refused,
    /// The client id is not good.
    BadClientId,
    /// It cannot take anybody now.
    Unavailable,
}

/// A CONNECT of a version that does not exist, without any name.
pub(super) fn question() -> Vec<u8> {
    packet(2, 0x02, &[""])
}

/// A CONNECT of MQTT 3.1.1 with a clean session and without a will. `None` if the texts are too long for one.
pub(super) fn log_in(client_id: &str, password: Option<&str>) -> Option<Vec<u8>> {
    let texts = [Some(client_id), Some(client_id), password];
    let texts: Vec<&str> = texts.into_iter().flatten().collect();
    let flags = if password.is_some() { 0xc2 } else { 0x82 };
    (client_id.len() + password.map_or(0, str::len) < 1000).then(|| packet(4, flags, &texts))
}

/// A DISCONNECT.
pub(super) const GOODBYE: [u8; 2] = [0xe0, 0];

fn packet(level: u8, flags: u8, texts: &[&str]) -> Vec<u8> {
    let mut body = b"\0\x04MQTT".to_vec();
    body.extend([level, flags, 0, 60]);
    for text in texts {
        // Short: see above.
        let len = u16::try_from(text.len()).unwrap_or(0);
        body.extend(len.to_be_bytes());
        body.extend(text.as_bytes());
    }
    let mut packet = vec![0x10];
    let mut len = body.len();
    while len > 0x7f {
        packet.push((len & 0x7f) as u8 | 0x80);
        len >>= 7;
    }
    packet.push(len as u8);
    packet.extend(body);
    packet
}

/// Reads a CONNACK. `Ok(None)`: there is more to come.
pub(super) fn welcome(bytes: &[u8]) -> Result<Option<Welcome>, ()> {
    match *bytes {
        [] | [0x20] | [0x20, 2] | [0x20, 2, 0 | 1] => Ok(None),
        [0x20, 2, 0 | 1, code, ..] => match code {
            0 => Ok(Some(Welcome::Accepted)),
            1 => Ok(Some(Welcome::OtherVersion)),
            2 => Ok(Some(Welcome::BadClientId)),
            3 => Ok(Some(Welcome::Unavailable)),
            4 | 5 => Ok(Some(Welcome::Refused)),
            _ => Err(()),
        },
        _ => Err(()),
    }
}

/// What asks an HTTP server for a WebSocket with MQTT in it.
pub(super) fn upgrade(host: &str, path: &str) -> String {
    let path = if path.is_empty() { "/" } else { path };
    format!(
        "GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {KEY}\r\nSec-WebSocket-Protocol: mqtt\r\n\r\n"
    )
}

/// What an HTTP server answered to [`upgrade`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Upgraded {
    /// There is more to come.
    NotYet,
    /// A WebSocket begins after so many bytes.
    Yes(usize),
    /// Another HTTP answer.
    No {
        /// Its status.
        status: u16,
        /// Where it points to, or what it is made of, if it says.
        hint: Option<String>,
    },
    /// No HTTP.
    Garbage,
}

pub(super) fn upgraded(bytes: &[u8]) -> Upgraded {
    let mut headers = [httparse::EMPTY_HEADER; 64];
    let mut answer = httparse::Response::new(&mut headers);
    match answer.parse(bytes) {
        Err(_) => Upgraded::Garbage,
        Ok(httparse::Status::Partial) if bytes.len() >= HEAD_MAX_LEN => Upgraded::Garbage,
        Ok(httparse::Status::Partial) => Upgraded::NotYet,
        Ok(httparse::Status::Complete(len)) => {
            let header = |name: &str| {
                let header = answer.headers.iter().find(|header| header.name.eq_ignore_ascii_case(name));
                header.and_then(|header| std::str::from_utf8(header.value).ok())
            };
            match answer.code {
                Some(101) if header("sec-websocket-accept") == Some(ACCEPT) => Upgraded::Yes(len),
                status => Upgraded::No {
                    status: status.unwrap_or(0),
                    hint: header("location")
                        .or(header("content-type"))
                        .map(|text| text.chars().take(200).collect()),
                },
            }
        }
    }
}

/// `payload`, which is short, as one binary frame of a client.
pub(super) fn frame(payload: &[u8]) -> Vec<u8> {
    let mut frame = vec![0x82];
    match u8::try_from(payload.len()) {
        Ok(len @ 0..126) => frame.push(0x80 | len),
        _ => {
            frame.push(0x80 | 126);
            frame.extend(u16::try_from(payload.len()).unwrap_or(0).to_be_bytes());
        }
    }
    frame.extend(MASK);
    frame.extend(payload.iter().zip(MASK.iter().cycle()).map(|(byte, mask)| byte ^ mask));
    frame
}

/// The payload of the data frames in what a server sent; `None` if it closed without any, or sent something that it may not.
pub(super) fn payload(mut bytes: &[u8]) -> Option<Vec<u8>> {
    let mut payload = Vec::new();
    while let [first, len @ 0..126, rest @ ..] = bytes {
        // The end of a frame that is not whole may be missing.
        let (contents, after) = rest.split_at(rest.len().min(usize::from(*len)));
        match first & 0x0f {
            0 | 2 => payload.extend(contents),
            // Its last word came before.
            8 => return Some(payload).filter(|payload| !payload.is_empty()),
            _ => {}
        }
        bytes = after;
    }
    (bytes.len() < 2).then_some(payload)
}
