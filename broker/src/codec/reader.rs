//! Reads the primitive types of MQTT from a slice; the only place that indexes into a packet.

use super::DecodeError;

const SHORT: DecodeError = DecodeError::Malformed("packet ends too early");

/// The bytes that have not been read yet.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    pub(crate) fn new(bytes: &'a [u8]) -> Reader<'a> {
        Reader(bytes)
    }

    pub(crate) fn is_empty(self) -> bool {
        self.0.is_empty()
    }

    /// Everything that is left.
    pub(crate) fn rest(self) -> &'a [u8] {
        self.0
    }

    pub(crate) fn take(&mut self, n: usize) -> Result<&'a [u8], DecodeError> {
        let (head, tail) = self.0.split_at_checked(n).ok_or(SHORT)?;
        self.0 = tail;
        Ok(head)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], DecodeError> {
        let (head, tail) = self.0.split_first_chunk::<N>().ok_or(SHORT)?;
        self.0 = tail;
        Ok(*head)
    }

    pub(crate) fn u8(&mut self) -> Result<u8, DecodeError> {
        self.array::<1>().map(|[b]| b)
    }

    pub(crate) fn u16(&mut self) -> Result<u16, DecodeError> {
        self.array().map(u16::from_be_bytes)
    }

    pub(crate) fn u32(&mut self) -> Result<u32, DecodeError> {
        self.array().map(u32::from_be_bytes)
    }

    /// A packet identifier: never zero.
    pub(crate) fn packet_id(&mut self) -> Result<u16, DecodeError> {
        match self.u16()? {
            0 => Err(DecodeError::Protocol("packet identifier 0")),
            id => Ok(id),
        }
    }

    /// A variable byte integer of one to four bytes.
    pub(crate) fn varint(&mut self) -> Result<usize, DecodeError> {
        let mut value = 0;
        for shift in [0, 7, 14, 21] {
            let byte = self.u8()?;
            value |= usize::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Ok(value);
            }
        }
        Err(DecodeError::Malformed("length of more than four bytes"))
    }

    /// As [`Reader::varint`], in no more bytes than it needs.
    pub(crate) fn minimal_varint(&mut self) -> Result<usize, DecodeError> {
        let before = self.0.len();
        let value = self.varint()?;
        if before - self.0.len() > super::encode::varint_len(value) {
            return Err(DecodeError::Malformed("length in more bytes than it needs"));
        }
        Ok(value)
    }

    /// Bytes after a two-byte length.
    pub(crate) fn binary(&mut self) -> Result<&'a [u8], DecodeError> {
        let len = self.u16()?;
        self.take(usize::from(len))
    }

    /// Text after a two-byte length: UTF-8 without NUL.
    pub(crate) fn text(&mut self) -> Result<&'a str, DecodeError> {
        let text =
            std::str::from_utf8(self.binary()?).map_err(|_| DecodeError::Malformed("text is not UTF-8"))?;
        if text.contains('\0') {
            return Err(DecodeError::Malformed("text contains NUL"));
        }
        Ok(text)
    }
}
