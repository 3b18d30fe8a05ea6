//! Where one packet ends and the next begins.

use super::DecodeError;
use super::reader::Reader;

/// A packet's first byte and its extent, known before its body is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Header {
    /// Packet type and flags.
    pub(crate) first: u8,
    /// Bytes of the fixed header.
    pub(crate) header_len: usize,
    /// Bytes of fixed header and body.
    pub(crate) total_len: usize,
}

impl Header {
    /// The packet type, 0 to 15.
    pub(crate) fn kind(self) -> u8 {
        self.first >> 4
    }

    /// True if the length takes no more bytes than it needs, as MQTT 5 demands. 3.1.1 says nothing of it.
    pub(crate) fn is_minimal(self) -> bool {
        self.header_len == 1 + super::encode::varint_len(self.total_len - self.header_len)
    }

    /// The four flag bits.
    pub(crate) fn flags(self) -> u8 {
        self.first & 0x0f
    }
}

/// Looks at the start of `buffer`. `None`: the fixed header is not complete yet. The packet itself may still be
/// incomplete.
///
/// # Errors
/// The length is malformed, or the packet has more than `limit` bytes.
pub(crate) fn header(buffer: &[u8], limit: usize) -> Result<Option<Header>, DecodeError> {
    let mut reader = Reader::new(buffer);
    let Ok(first) = reader.u8() else { return Ok(None) };
    let (kind, flags) = (first >> 4, first & 0x0f);
    let expected_flags = match kind {
        // A PUBLISH has its own.
        3 => flags,
        6 | 8 | 10 => 0b0010,
        _ => 0,
    };
    if kind == 0 || flags != expected_flags {
        return Err(DecodeError::Malformed("packet type or reserved flags"));
    }
    let body_len = match reader.varint() {
        Ok(len) => len,
        Err(_) if buffer.len() < 5 => return Ok(None),
        Err(error) => return Err(error),
    };
    let header_len = buffer.len() - reader.rest().len();
    let total_len = header_len + body_len;
    if total_len > limit {
        return Err(DecodeError::TooLarge { bytes: total_len, limit });
    }
    Ok(Some(Header { first, header_len, total_len }))
}
