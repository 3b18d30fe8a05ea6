//! How times are shown: RFC 3339 UTC outside, milliseconds since 1970 inside.

use protocol::message::Rfc3339;

/// For serde: a time as RFC 3339.
///
/// # Errors
/// Only the serializer's own.
pub fn serialize<S: serde::Serializer>(ms: &i64, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(Rfc3339::of(*ms).as_str())
}

/// For serde: a time that may be absent.
pub mod optional {
    /// As RFC 3339, or null.
    ///
    /// # Errors
    /// Only the serializer's own.
    pub fn serialize<S: serde::Serializer>(ms: &Option<i64>, serializer: S) -> Result<S::Ok, S::Error> {
        match ms {
            Some(ms) => super::serialize(ms, serializer),
            None => serializer.serialize_none(),
        }
    }
}
