//! Encoding: CBOR and JSON in and out, sizes checked before decoding. The only module that names `serde_cbor`, which
//! is archived upstream: see `docs/decisions/0002-cbor-codec.md` for the way out.
//!
//! Agents write the packed form (field numbers for names), servers the named form; readers accept both, and JSON where
//! a person may publish. Field order in a message type is its numbering: append only.

#![allow(clippy::disallowed_methods, reason = "this is the module that speaks serde_cbor")]

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

/// Any CBOR value; also what a JSON value becomes.
pub use serde_cbor::Value;

/// Largest payloads, in bytes, by what they carry. Checked before anything is decoded.
pub mod limit {
    /// One heartbeat.
    pub const HEARTBEAT_BYTES: usize = 8 * 1024;
    /// A batch of heartbeats.
    pub const HEARTBEAT_BATCH_BYTES: usize = 256 * 1024;
    /// A command, in either direction, and every message that no other limit names.
    pub const COMMAND_BYTES: usize = 64 * 1024;
    /// A batch of log records.
    pub const LOG_BATCH_BYTES: usize = 256 * 1024;
    /// The largest of the above: what a transport must let through.
    pub const LARGEST_BYTES: usize = 256 * 1024;
    /// Records in one batch.
    pub const RECORDS_PER_BATCH: usize = 4096;
    /// What is said in one HTTP exchange, in either direction: the largest message, and a few others beside it.
    pub const EXCHANGE_BYTES: usize = 512 * 1024;
    /// Messages in one HTTP exchange. The agent has at most 16 under way, and a few others go besides.
    pub const EXCHANGE_MESSAGES: usize = 64;
    /// What a message costs in an exchange beside its payload: its suffix, and the heads of list, text and bytes.
    pub const EXCHANGE_MESSAGE_OVERHEAD_BYTES: usize = 96;
}

/// Why a payload could not be encoded or decoded.
#[derive(Debug, thiserror::Error)]
pub enum CodecError {
    /// More bytes than allowed; nothing was decoded.
    #[error("payload has {size_bytes} bytes; at most {limit_bytes} are allowed")]
    TooLarge {
        /// What came.
        size_bytes: usize,
        /// What may come.
        limit_bytes: usize,
    },
    /// More records than allowed in one batch.
    #[error("batch has {0} records; at most {max} are allowed", max = limit::RECORDS_PER_BATCH)]
    TooManyRecords(usize),
    /// No bytes at all.
    #[error("payload is empty")]
    Empty,
    /// Not CBOR, or CBOR that is not this message.
    #[error("not a readable CBOR message: {0}")]
    Cbor(#[source] serde_cbor::Error),
    /// Not JSON, or JSON that is not this message.
    #[error("not a readable JSON message: {0}")]
    Json(#[source] serde_json::Error),
    /// A record without a readable sequence number in field 0.
    #[error("record has no sequence number")]
    NoSequenceNumber,
}

/// CBOR with field numbers for names: what agents write.
///
/// # Errors
/// Only if the value refuses to be serialised.
pub fn encode_packed<T: Serialize>(message: &T) -> Result<Vec<u8>, CodecError> {
    serde_cbor::ser::to_vec_packed(message).map_err(CodecError::Cbor)
}

/// CBOR with field names: what servers write, so that anybody can read it.
///
/// # Errors
/// Only if the value refuses to be serialised.
pub fn encode_named<T: Serialize>(message: &T) -> Result<Vec<u8>, CodecError> {
    serde_cbor::to_vec(message).map_err(CodecError::Cbor)
}

/// Decodes CBOR, packed or named.
///
/// # Errors
/// Larger than `limit_bytes`, empty, not CBOR, trailing bytes, or not a `T`.
pub fn decode<T: DeserializeOwned>(payload: &[u8], limit_bytes: usize) -> Result<T, CodecError> {
    check_size(payload, limit_bytes)?;
    serde_cbor::from_slice(payload).map_err(CodecError::Cbor)
}

/// Decodes what a person may have published: JSON if it looks like it (see [`json_text`]), else CBOR.
///
/// # Errors
/// As [`decode`]; for JSON the reason names line and column.
pub fn decode_any<T: DeserializeOwned>(payload: &[u8], limit_bytes: usize) -> Result<T, CodecError> {
    check_size(payload, limit_bytes)?;
    match json_text(payload) {
        Some(json) => serde_json::from_slice(json).map_err(CodecError::Json),
        None => serde_cbor::from_slice(payload).map_err(CodecError::Cbor),
    }
}

/// The payload without byte order mark and leading white space, if it then begins with `{` or `[`.
///
/// No message is a CBOR text or byte string, so these two bytes decide.
#[must_use]
pub fn json_text(payload: &[u8]) -> Option<&[u8]> {
    let text = payload.strip_prefix(b"\xef\xbb\xbf").unwrap_or(payload).trim_ascii_start();
    matches!(text.first(), Some(b'{' | b'[')).then_some(text)
}

/// One record of an uplink payload.
#[derive(Debug, Clone, PartialEq)]
pub enum Record<T> {
    /// It decoded.
    Good(T),
    /// It did not, but its sequence number can be read, so it can be kept and acknowledged.
    Poison {
        /// Its sequence number.
        seq: u64,
        /// The record as it came, in CBOR.
        raw: Vec<u8>,
        /// Why it did not decode.
        reason: String,
    },
}

/// Decodes an uplink payload: one record (a map), or a batch (an array). A record that fails does not take the others
/// with it. A record without a readable `seq` is left out and counted in the second value.
///
/// # Errors
/// Larger than `limit_bytes`, not CBOR at all, too many records.
pub fn decode_records<T: DeserializeOwned>(
    payload: &[u8],
    limit_bytes: usize,
) -> Result<(Vec<Record<T>>, usize), CodecError> {
    check_size(payload, limit_bytes)?;
    // Nearly always everything is in order. Only if not, each record is looked at by itself.
    if let Some(records) = all_good(payload) {
        return match records.len() {
            many if many > limit::RECORDS_PER_BATCH => Err(CodecError::TooManyRecords(many)),
            _ => Ok((records.into_iter().map(|Strict(record)| Record::Good(record)).collect(), 0)),
        };
    }
    let values = match decode::<Value>(payload, limit_bytes)? {
        Value::Array(values) => values,
        one => vec![one],
    };
    if values.len() > limit::RECORDS_PER_BATCH {
        return Err(CodecError::TooManyRecords(values.len()));
    }
    let total = values.len();
    let records: Vec<_> = values.into_iter().filter_map(decode_record).collect();
    let without_seq = total - records.len();
    Ok((records, without_seq))
}

/// The records of a payload in one go, if all of them can be read.
fn all_good<T: DeserializeOwned>(payload: &[u8]) -> Option<Vec<Strict<T>>> {
    // RFC 8949, section 3.1: the major type.
    match payload.first()? >> 5 {
        4 => serde_cbor::from_slice(payload).ok(),
        5 => serde_cbor::from_slice(payload).ok().map(|one| vec![one]),
        _ => None,
    }
}

/// A record as it has to be: a map. What serde derives would take a list of the fields in order as well.
struct Strict<T>(T);

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Strict<T> {
    fn deserialize<D: serde::Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        struct Visitor<T>(std::marker::PhantomData<T>);
        impl<'de, T: Deserialize<'de>> serde::de::Visitor<'de> for Visitor<T> {
            type Value = Strict<T>;
            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("a record")
            }
            fn visit_map<A: serde::de::MapAccess<'de>>(self, map: A) -> Result<Self::Value, A::Error> {
                T::deserialize(serde::de::value::MapAccessDeserializer::new(map)).map(Strict)
            }
        }
        d.deserialize_map(Visitor(std::marker::PhantomData))
    }
}

fn decode_record<T: DeserializeOwned>(value: Value) -> Option<Record<T>> {
    let seq = record_seq(&value)?;
    // Encoded before decoding, since decoding takes the value; serialising a value that was just parsed cannot fail.
    let raw = serde_cbor::to_vec(&value).ok()?;
    Some(match serde_cbor::from_slice(&raw) {
        Ok(good) => Record::Good(good),
        Err(error) => Record::Poison { seq, raw, reason: error.to_string() },
    })
}

/// The sequence number of a record: field 0, or `seq`.
#[must_use]
pub fn record_seq(record: &Value) -> Option<u64> {
    let Value::Map(fields) = record else { return None };
    let value = fields.get(&Value::Integer(0)).or_else(|| fields.get(&Value::Text("seq".to_owned())))?;
    match value {
        Value::Integer(n) => u64::try_from(*n).ok(),
        _ => None,
    }
}

/// The sequence numbers in a payload of records of any kind, known or not.
///
/// # Errors
/// As [`decode_records`].
pub fn record_seqs(payload: &[u8], limit_bytes: usize) -> Result<Vec<u64>, CodecError> {
    let values = match decode::<Value>(payload, limit_bytes)? {
        Value::Array(values) => values,
        one => vec![one],
    };
    Ok(values.iter().filter_map(record_seq).collect())
}

/// Joins records that are already encoded into one batch: an array of them, byte for byte.
#[must_use]
pub fn batch<'a>(records: impl ExactSizeIterator<Item = &'a [u8]>) -> Vec<u8> {
    let mut out = array_header(records.len());
    records.for_each(|record| out.extend_from_slice(record));
    out
}

/// RFC 8949, section 3.1: major type 4 with the shortest length.
fn array_header(len: usize) -> Vec<u8> {
    match len {
        0..=23 => vec![0x80 | len as u8],
        24..=0xff => vec![0x98, len as u8],
        0x100..=0xffff => [&[0x99][..], &(len as u16).to_be_bytes()].concat(),
        0x1_0000..=0xffff_ffff => [&[0x9a][..], &(len as u32).to_be_bytes()].concat(),
        _ => [&[0x9b][..], &(len as u64).to_be_bytes()].concat(),
    }
}

fn check_size(payload: &[u8], limit_bytes: usize) -> Result<(), CodecError> {
    if payload.is_empty() {
        return Err(CodecError::Empty);
    }
    if payload.len() > limit_bytes {
        return Err(CodecError::TooLarge { size_bytes: payload.len(), limit_bytes });
    }
    Ok(())
}

/// A byte string: CBOR major type 2, lower-case hex in JSON.
#[derive(Debug, Clone, PartialEq, Eq, Default, Hash)]
pub struct Bytes(pub Vec<u8>);

impl Serialize for Bytes {
    fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        if s.is_human_readable() {
            s.collect_str(&self.0.iter().map(|b| format!("{b:02x}")).collect::<String>())
        } else {
            s.serialize_bytes(&self.0)
        }
    }
}

impl<'de> Deserialize<'de> for Bytes {
    fn deserialize<D: serde::Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl serde::de::Visitor<'_> for Visitor {
            type Value = Bytes;
            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("bytes, or hex digits")
            }
            fn visit_bytes<E: serde::de::Error>(self, bytes: &[u8]) -> Result<Bytes, E> {
                Ok(Bytes(bytes.to_vec()))
            }
            fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Bytes, E> {
                let digit = |b: u8| (b as char).to_digit(16).and_then(|d| u8::try_from(d).ok());
                let (pairs, rest) = text.as_bytes().as_chunks::<2>();
                let bytes: Option<Vec<u8>> =
                    pairs.iter().map(|&[hi, lo]| Some(digit(hi)? << 4 | digit(lo)?)).collect();
                match bytes {
                    Some(bytes) if rest.is_empty() => Ok(Bytes(bytes)),
                    _ => Err(E::custom("bytes are written as pairs of hex digits")),
                }
            }
        }
        if d.is_human_readable() { d.deserialize_str(Visitor) } else { d.deserialize_bytes(Visitor) }
    }
}
