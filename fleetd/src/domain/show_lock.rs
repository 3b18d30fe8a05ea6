//! Show locks: times in which nothing disruptive may start, for one device or for every device with a tag. Pure.

use serde_json::Value;

use super::device::DeviceRowId;
use super::fields::{FieldError, Fields, line};
use super::org::OrgId;
use protocol::command::limits::REASON_MAX_LEN;
use protocol::message::parse_rfc3339;

/// The farthest end of a lock from now, ms: 30 days.
pub const LONGEST_MS: i64 = 30 * 24 * 3600 * 1000;

/// What a lock holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Subject {
    /// One device, by its row.
    Device(DeviceRowId),
    /// Every device of the organisation that has this tag.
    Tag(String),
}

/// A lock.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ShowLock {
    /// Names the row.
    pub id: String,
    /// The organisation.
    pub org_id: OrgId,
    /// What it holds.
    pub subject: Subject,
    /// From when on, ms since 1970.
    pub from: i64,
    /// Until when, ms since 1970; from then on it holds nothing.
    pub until: i64,
    /// Why, for people.
    pub reason: String,
    /// Who set it, as in the audit log.
    pub by: String,
    /// When it was set, ms since 1970.
    pub created_at: i64,
}

impl ShowLock {
    /// Whether it holds this device, by its own row or by one of its tags.
    #[must_use]
    pub fn holds(&self, device: &DeviceRowId, tags: &[String]) -> bool {
        match &self.subject {
            Subject::Device(own) => own == device,
            Subject::Tag(tag) => tags.contains(tag),
        }
    }
}

/// What a person asks for: a lock that was read and checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LockRequest {
    /// From when on; now if not given.
    pub from: i64,
    /// Until when.
    pub until: i64,
    /// Why.
    pub reason: String,
}

impl LockRequest {
    /// Reads the body of a PUT at `now` (ms since 1970).
    ///
    /// # Errors
    /// Every field that is wrong or unknown.
    pub fn read(body: Value, now: i64) -> Result<Self, Vec<FieldError>> {
        let mut fields = Fields::new(body)?;
        let from = fields.optional("from", time);
        let until = fields.required("until", time);
        let reason = fields.required("reason", line(REASON_MAX_LEN));
        if let Some(until) = until {
            if until <= now {
                fields.error("until", "is in the past");
            } else if until - now > LONGEST_MS {
                fields.error("until", "is more than 30 days from now");
            } else if from.is_some_and(|from| from >= until) {
                fields.error("from", "must be before until");
            }
        }
        fields.finish()?;
        // `finish` has failed if one of them was absent or wrong.
        let (Some(until), Some(reason)) = (until, reason) else { return Err(Vec::new()) };
        Ok(Self { from: from.unwrap_or(now), until, reason })
    }
}

fn time(value: Value) -> Result<i64, String> {
    let read = value.as_str().and_then(|text| parse_rfc3339(text).ok());
    read.ok_or_else(|| "an RFC 3339 time such as 2025-12-28T22:00:00Z is expected".to_owned())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use protocol::message::rfc3339;
    use serde_json::json;

    const NOW: i64 = 1_766_916_000_000;

    fn fields(body: Value) -> Vec<String> {
        LockRequest::read(body, NOW).unwrap_err().into_iter().map(|error| error.field).collect()
    }

    #[test]
    fn a_lock_begins_now_unless_it_says_when() {
        let until = rfc3339(NOW + 3_600_000);
        let read = LockRequest::read(json!({"until": until, "reason": "gala"}), NOW).unwrap();
        assert_eq!(read, LockRequest { from: NOW, until: NOW + 3_600_000, reason: "gala".into() });
        let later = json!({"from": rfc3339(NOW + 60_000), "until": until, "reason": "gala"});
        assert_eq!(LockRequest::read(later, NOW).unwrap().from, NOW + 60_000);
    }

    #[test]
    fn an_end_in_the_past_or_beyond_thirty_days_and_a_beginning_after_it_are_refused() {
        let lock = |from: Option<i64>, until: i64| json!({"from": from.map(rfc3339), "until": rfc3339(until), "reason": "x"});
        assert_eq!(fields(lock(None, NOW)), ["until"]);
        assert_eq!(fields(lock(None, NOW - 1000)), ["until"]);
        assert_eq!(fields(lock(None, NOW + LONGEST_MS + 1000)), ["until"]);
        assert!(LockRequest::read(lock(None, NOW + LONGEST_MS), NOW).is_ok());
        assert_eq!(fields(lock(Some(NOW + 5000), NOW + 5000)), ["from"]);
        assert!(LockRequest::read(lock(Some(NOW - 5000), NOW + 5000), NOW).is_ok());
    }

    #[test]
    fn everything_wrong_with_a_lock_is_told_at_once() {
        assert_eq!(fields(json!({})), ["until", "reason"]);
        assert_eq!(
            fields(json!({"until": "tomorrow", "reason": "", "untill": 1})),
            ["until", "reason", "untill"]
        );
        assert_eq!(fields(json!({"until": 1_766_916_000_000_i64, "reason": "a\nb"})), ["until", "reason"]);
        assert!(LockRequest::read(json!([]), NOW).is_err());
    }
}
