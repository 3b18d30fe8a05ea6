//! What a person asks for: a command for one device, for those with a tag, or for all. Pure.

#[cfg(test)]
mod tests;

use protocol::command::CommandType;
use protocol::command::limits::{
    EXPIRY_MAX_SECONDS, NOTES_MAX_LEN, PRIORITY, PRIORITY_DEFAULT, REASON_MAX_LEN, REFERENCE_MAX_LEN,
    TIMEOUT_MAX_SECONDS, timeout_default_seconds,
};
use protocol::command::payload::Payload;
use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};

use super::device::check_tag;
use super::fields::{FieldError, Fields, text};
use super::shown::hidden_in;

/// Largest payload as JSON text, in bytes: with its envelope it fits into one message to the device.
pub const PAYLOAD_MAX_BYTES: usize = 48 * 1024;
/// The unit of the application where a device does not tell.
pub const APP_UNIT_DEFAULT: &str = "r58-api";
/// The agent's own unit: restarting it disturbs no show.
pub const AGENT_UNIT: &str = "r58-fleet-agent";

/// Whom a request names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Target {
    /// One device, by its readable id or its row's.
    Device(String),
    /// Every device with this tag.
    Tag(String),
    /// Every device of the organisation.
    All,
}

impl Target {
    /// Reads `to`: a device id, `tag:NAME`, or `*`.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn parse(text: &str) -> Result<Self, String> {
        if text == "*" {
            return Ok(Self::All);
        }
        if let Some(tag) = text.strip_prefix("tag:") {
            return check_tag(tag).map(|()| Self::Tag(tag.to_owned()));
        }
        protocol::id::check_name(text)
            .map(|()| Self::Device(text.to_owned()))
            .map_err(|why| format!("a device id, tag:NAME or * is expected; as a device id {why}"))
    }
}

impl std::fmt::Display for Target {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Device(id) => f.write_str(id),
            Self::Tag(tag) => write!(f, "tag:{tag}"),
            Self::All => f.write_str("*"),
        }
    }
}

/// When a command is to expire.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Expiry {
    /// The server's default.
    Default,
    /// So many seconds from now on.
    In(i64),
    /// At this time, ms since 1970.
    At(i64),
}

/// A request that is right in itself; whether the time is right, [`CreateRequest::expires_at`] tells.
#[derive(Debug, Clone, PartialEq)]
pub struct CreateRequest {
    /// For whom.
    pub to: Target,
    /// What to do.
    pub kind: CommandType,
    /// What to do it with, as it was given; an object.
    pub payload: Value,
    /// Whether it can disturb a show.
    pub disruptive: bool,
    /// 1 is the most urgent of 1…10.
    pub priority: u8,
    /// When it expires.
    pub expiry: Expiry,
    /// How long it may run, seconds.
    pub timeout_seconds: u32,
    /// The sender's own name for it.
    pub reference: Option<String>,
    /// For people.
    pub notes: Option<String>,
    /// Why it shall run although a show may be on.
    pub override_reason: Option<String>,
}

impl CreateRequest {
    /// Reads a request. `to`: whom it is for, where the path says so; otherwise the field `to` does.
    ///
    /// # Errors
    /// Everything that is wrong with it.
    pub fn read(body: Value, to: Option<Target>) -> Result<Self, Vec<FieldError>> {
        let mut fields = Fields::new(body)?;
        let kind = fields.required("type", |value| match value {
            Value::String(text) => text.parse::<CommandType>().map_err(|why| why.to_string()),
            _ => Err("text is expected".to_owned()),
        });
        let payload = fields.value("payload").unwrap_or_else(|| Value::Object(Map::new()));
        Self::rest(fields, to, kind, payload)
    }

    /// Reads a request of a type that has a path of its own: the fields that `names` lists are its payload.
    ///
    /// # Errors
    /// Everything that is wrong with it.
    pub fn read_shorthand(
        body: Value,
        to: Target,
        kind: CommandType,
        names: &[&str],
        complete: impl FnOnce(&mut Map<String, Value>),
    ) -> Result<Self, Vec<FieldError>> {
        let mut fields = Fields::new(body)?;
        let given = names.iter().filter_map(|name| Some(((*name).to_owned(), fields.value(name)?)));
        let mut payload: Map<String, Value> = given.collect();
        complete(&mut payload);
        Self::rest(fields, Some(to), Some(kind), Value::Object(payload)).map_err(|mut errors| {
            for error in &mut errors {
                if let Some(plain) = error.field.strip_prefix("payload.") {
                    error.field = plain.to_owned();
                }
            }
            errors
        })
    }

    fn rest(
        mut fields: Fields,
        to: Option<Target>,
        kind: Option<CommandType>,
        payload: Value,
    ) -> Result<Self, Vec<FieldError>> {
        let to = to.or_else(|| {
            fields.required("to", |value| match value {
                Value::String(text) => Target::parse(&text),
                _ => Err("a device id, tag:NAME or * is expected".to_owned()),
            })
        });
        let disruptive = kind.and_then(|kind| check_payload(&mut fields, kind, &payload));
        let priority = fields.optional("priority", |value| {
            let number = value.as_u64().and_then(|number| u8::try_from(number).ok());
            number.filter(|number| PRIORITY.contains(number)).ok_or_else(|| {
                format!(
                    "a whole number from {} (most urgent) to {} is expected",
                    PRIORITY.start(),
                    PRIORITY.end()
                )
            })
        });
        let expiry = expiry(&mut fields);
        let timeout_seconds = fields.optional("timeout_seconds", |value| {
            let number = value.as_u64().and_then(|number| u32::try_from(number).ok());
            number
                .filter(|number| (1..=TIMEOUT_MAX_SECONDS).contains(number))
                .ok_or_else(|| format!("whole seconds from 1 to {TIMEOUT_MAX_SECONDS} are expected"))
        });
        let reference = fields.optional("ref", reference);
        let notes = fields.optional("notes", |value| bounded_text(value, NOTES_MAX_LEN));
        let override_reason = fields.optional("override_show", override_reason);
        fields.finish()?;
        // What is required was there, or `finish` would have failed; the last arm is never reached.
        match (to, kind, disruptive) {
            (Some(to), Some(kind), Some(disruptive)) => Ok(Self {
                to,
                kind,
                payload,
                disruptive,
                priority: priority.unwrap_or(PRIORITY_DEFAULT),
                expiry,
                timeout_seconds: timeout_seconds.unwrap_or_else(|| timeout_default_seconds(kind)),
                reference,
                notes,
                override_reason,
            }),
            _ => Err(vec![field_error("", "the request is incomplete")]),
        }
    }

    /// When the command expires, ms since 1970. `default_ms`: how long commands last that do not say.
    ///
    /// # Errors
    /// The time has passed, or is too far away.
    pub fn expires_at(&self, now_ms: i64, default_ms: i64) -> Result<i64, FieldError> {
        let (field, at) = match self.expiry {
            Expiry::Default => return Ok(now_ms.saturating_add(default_ms)),
            Expiry::In(seconds) => {
                ("expires_in_seconds", now_ms.saturating_add(seconds.saturating_mul(1000)))
            }
            Expiry::At(at) => ("expires_at", at),
        };
        if at <= now_ms {
            return Err(field_error(field, "is in the past"));
        }
        if at > now_ms.saturating_add(EXPIRY_MAX_SECONDS * 1000) {
            return Err(field_error(field, "is more than 30 days away"));
        }
        Ok(at)
    }

    /// SHA-256, in hex, of what is asked for, whoever it is for: tells the same request from another.
    #[must_use]
    pub fn hash(&self) -> String {
        let (expires_in_seconds, expires_at) = match self.expiry {
            Expiry::Default => (None, None),
            Expiry::In(seconds) => (Some(seconds), None),
            Expiry::At(at) => (None, Some(at)),
        };
        // The keys of JSON objects are sorted, so that their order in the request does not matter.
        let canonical = json!({
            "type": self.kind,
            "payload": self.payload,
            "priority": self.priority,
            "expires_in_seconds": expires_in_seconds,
            "expires_at": expires_at,
            "timeout_seconds": self.timeout_seconds,
            "notes": self.notes,
            "override_show": self.override_reason,
        });
        sha256_hex(canonical.to_string().as_bytes())
    }
}

/// SHA-256 in hex.
#[must_use]
pub fn sha256_hex(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Reads why show mode is to be passed over: text of at most [`REASON_MAX_LEN`] bytes.
///
/// # Errors
/// What is wrong with it.
pub fn reason(value: Value) -> Result<String, String> {
    let reason = bounded_text(value, REASON_MAX_LEN)?;
    if reason.trim().is_empty() {
        return Err("is empty".to_owned());
    }
    Ok(reason)
}

/// Whether the payload can disturb a show; `None`, and an error noted, if it is not what the type takes.
fn check_payload(fields: &mut Fields, kind: CommandType, payload: &Value) -> Option<bool> {
    let bytes = payload.to_string().len();
    if bytes > PAYLOAD_MAX_BYTES {
        fields.error("payload", format!("has {bytes} bytes; at most {PAYLOAD_MAX_BYTES} are allowed"));
        return None;
    }
    match Payload::parse(kind, payload) {
        Ok(Payload::Bundle(bundle)) if bundle.bundle_id.is_some() => {
            fields.error("payload.bundle_id", "is added by the server; leave it out");
            None
        }
        Ok(payload) => Some(payload.is_disruptive(AGENT_UNIT)),
        Err(wrong) => {
            fields.error(&wrong.field, wrong.message);
            None
        }
    }
}

fn expiry(fields: &mut Fields) -> Expiry {
    let seconds = fields.optional("expires_in_seconds", |value| match value.as_i64() {
        Some(seconds @ 1..=EXPIRY_MAX_SECONDS) => Ok(seconds),
        _ => Err(format!("whole seconds from 1 to {EXPIRY_MAX_SECONDS} (30 days) are expected")),
    });
    let at = fields.optional("expires_at", |value| {
        let time = value.as_str().and_then(|text| protocol::message::parse_rfc3339(text).ok());
        time.ok_or_else(|| "an RFC 3339 time such as 2025-12-28T10:00:00Z is expected".to_owned())
    });
    match (seconds, at) {
        (Some(_), Some(_)) => {
            fields.error("expires_at", "give either expires_in_seconds or expires_at");
            Expiry::Default
        }
        (Some(seconds), None) => Expiry::In(seconds),
        (None, Some(at)) => Expiry::At(at),
        (None, None) => Expiry::Default,
    }
}

fn reference(value: Value) -> Result<String, String> {
    let reference = bounded_text(value, REFERENCE_MAX_LEN)?;
    hidden_in(&reference, false).map_or(Ok(reference), Err)
}

fn bounded_text(value: Value, max_bytes: usize) -> Result<String, String> {
    let read = text(max_bytes)(value)?;
    if read.len() > max_bytes {
        return Err(format!("has {} bytes; at most {max_bytes} are allowed", read.len()));
    }
    Ok(read)
}

fn override_reason(value: Value) -> Result<String, String> {
    let expected = || "an object with a reason is expected: {\"reason\": \"…\"}".to_owned();
    let Value::Object(mut object) = value else { return Err(expected()) };
    let given = object.remove("reason").ok_or_else(expected)?;
    if let Some(unknown) = object.keys().next() {
        return Err(format!("{:?} is not known here", unknown.chars().take(64).collect::<String>()));
    }
    reason(given).map_err(|why| format!("reason: {why}"))
}

fn field_error(field: &str, message: &str) -> FieldError {
    FieldError { field: field.to_owned(), message: message.to_owned() }
}
