//! One published message inside the gate: a single block of bytes that is shared by everybody it is for.
//!
//! The router, the queues and the retained store all hold references to the same block. What the router would forget
//! (QoS, retain flag, who published, when it expires) stands in a header before the topic.

use bytes::{BufMut, Bytes, BytesMut};

use crate::logs::Places;

/// flags, origin, published_ms, expiry_seconds, topic length, properties length, places.
const HEADER_BYTES: usize = 1 + 8 + 8 + 4 + 2 + 4 + 2 * 8;

const RETAIN: u8 = 0b0000_0100;
const EXPIRES: u8 = 0b0000_1000;

/// What is to be published.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Draft<'a> {
    pub(crate) topic: &'a str,
    /// Encoded MQTT 5 properties that travel with the message.
    pub(crate) properties: &'a [u8],
    pub(crate) payload: &'a [u8],
    pub(crate) qos: u8,
    pub(crate) retain: bool,
    pub(crate) expiry_seconds: Option<u32>,
}

impl Draft<'_> {
    /// Size of the message that it becomes.
    pub(crate) fn len(&self) -> usize {
        HEADER_BYTES + self.topic.len() + self.properties.len() + self.payload.len()
    }
}

/// A published message. Cloning it copies a reference.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Message {
    bytes: Bytes,
    topic_end: usize,
    properties_end: usize,
}

impl Message {
    /// `origin` is the number of the publishing session, `now_ms` the gate's own clock, `places` are those in the logs
    /// that it goes to.
    pub(crate) fn new(draft: &Draft<'_>, origin: u64, now_ms: u64, places: Places) -> Message {
        let topic_end = HEADER_BYTES + draft.topic.len();
        let properties_end = topic_end + draft.properties.len();
        let mut bytes = BytesMut::with_capacity(properties_end + draft.payload.len());
        let mut flags = draft.qos & 3;
        if draft.retain {
            flags |= RETAIN;
        }
        if draft.expiry_seconds.is_some() {
            flags |= EXPIRES;
        }
        bytes.put_u8(flags);
        bytes.put_u64(origin);
        bytes.put_u64(now_ms);
        bytes.put_u32(draft.expiry_seconds.unwrap_or(0));
        // Both come from packets, which bound them: the topic by its two-byte length, the properties by the packet size.
        bytes.put_u16(draft.topic.len() as u16);
        bytes.put_u32(draft.properties.len() as u32);
        places.into_iter().for_each(|place| bytes.put_u64(place));
        bytes.extend_from_slice(draft.topic.as_bytes());
        bytes.extend_from_slice(draft.properties);
        bytes.extend_from_slice(draft.payload);
        Message { bytes: bytes.freeze(), topic_end, properties_end }
    }

    /// The block, to be carried by the router.
    pub(crate) fn bytes(&self) -> &Bytes {
        &self.bytes
    }

    /// A block that came back from the router. `None` if it is not one of ours.
    pub(crate) fn from_bytes(bytes: Bytes) -> Option<Message> {
        let topic_len = u16::from_be_bytes(*bytes.get(21..)?.first_chunk()?);
        let properties_len = u32::from_be_bytes(*bytes.get(23..)?.first_chunk()?);
        let topic_end = HEADER_BYTES + usize::from(topic_len);
        let properties_end = topic_end.checked_add(properties_len as usize)?;
        if properties_end > bytes.len() {
            return None;
        }
        Some(Message { bytes, topic_end, properties_end })
    }

    fn u64_at(&self, at: usize) -> u64 {
        // A message is never shorter than its header.
        self.bytes[at..].first_chunk().map_or(0, |chunk| u64::from_be_bytes(*chunk))
    }

    pub(crate) fn qos(&self) -> u8 {
        self.bytes[0] & 3
    }

    /// The publisher's retain flag.
    pub(crate) fn retain(&self) -> bool {
        self.bytes[0] & RETAIN != 0
    }

    /// Its places in the logs that it went to.
    pub(crate) fn places(&self) -> Places {
        [self.u64_at(27), self.u64_at(35)]
    }

    /// The number of the session that published it.
    pub(crate) fn origin(&self) -> u64 {
        self.u64_at(1)
    }

    pub(crate) fn topic(&self) -> &str {
        // It was text when the message was made.
        std::str::from_utf8(self.topic_bytes()).unwrap_or("")
    }

    /// As [`Message::topic`], for those who need not know that it is text.
    pub(crate) fn topic_bytes(&self) -> &[u8] {
        &self.bytes[HEADER_BYTES..self.topic_end]
    }

    pub(crate) fn properties(&self) -> &[u8] {
        &self.bytes[self.topic_end..self.properties_end]
    }

    pub(crate) fn payload(&self) -> Bytes {
        self.bytes.slice(self.properties_end..)
    }

    /// Size with topic, properties and header: what it costs to keep it.
    pub(crate) fn len(&self) -> usize {
        self.bytes.len()
    }

    /// Seconds left of the message's life, `None` if it has no end. `Err` if it is over.
    pub(crate) fn expiry_left(&self, now_ms: u64) -> Result<Option<u32>, Expired> {
        if self.bytes[0] & EXPIRES == 0 {
            return Ok(None);
        }
        let total = u32::from_be_bytes(*self.bytes[17..].first_chunk().ok_or(Expired)?);
        let waited = now_ms.saturating_sub(self.u64_at(9)) / 1000;
        match u64::from(total).checked_sub(waited) {
            // What is left is at most the total, which was a u32.
            Some(left) if left > 0 => Ok(Some(left as u32)),
            _ => Err(Expired),
        }
    }
}

/// The message's expiry interval has passed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Expired;

#[cfg(test)]
mod tests {
    use super::*;

    const DRAFT: Draft<'_> = Draft {
        topic: "a/b",
        properties: &[0x01, 1],
        payload: b"hello",
        qos: 2,
        retain: true,
        expiry_seconds: Some(10),
    };

    #[test]
    fn everything_survives_the_way_through_the_router() {
        let sent = Message::new(&DRAFT, 7, 1_000, [5, 6]);
        let back = Message::from_bytes(sent.bytes().clone()).expect("one of ours");
        assert_eq!(back, sent);
        assert_eq!((back.topic(), back.qos(), back.retain(), back.origin()), ("a/b", 2, true, 7));
        assert_eq!((back.places(), back.len()), ([5, 6], DRAFT.len()));
        assert_eq!((back.properties(), &back.payload()[..]), (&[0x01u8, 1][..], &b"hello"[..]));
    }

    #[test]
    fn the_expiry_counts_down_and_ends() {
        let message = Message::new(&DRAFT, 7, 1_000, [0, 0]);
        assert_eq!(message.expiry_left(1_000), Ok(Some(10)));
        assert_eq!(message.expiry_left(4_500), Ok(Some(7)));
        assert_eq!(message.expiry_left(11_000), Err(Expired));
        let endless = Message::new(&Draft { expiry_seconds: None, ..DRAFT }, 7, 1_000, [0, 0]);
        assert_eq!(endless.expiry_left(u64::MAX), Ok(None));
    }

    #[test]
    fn a_foreign_block_is_no_message() {
        assert_eq!(Message::from_bytes(Bytes::from_static(b"short")), None);
        assert_eq!(Message::from_bytes(Bytes::from_static(&[0xff; 56])), None);
    }
}
