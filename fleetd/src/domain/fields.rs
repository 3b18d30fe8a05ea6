//! Reads a JSON object field by field, and collects everything that is wrong with it before it says so.

use serde::Serialize;
use serde_json::{Map, Value};

use super::shown::hidden_in;

/// One field that is wrong.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct FieldError {
    /// The field's name.
    pub field: String,
    /// What is wrong with it and what is expected.
    pub message: String,
}

/// What a field of a change says.
#[derive(Debug, Clone, PartialEq, Default)]
pub enum Change<T> {
    /// Not mentioned: stays as it is.
    #[default]
    Keep,
    /// `null`: emptied.
    Clear,
    /// A new value.
    Set(T),
}

impl<T> Change<T> {
    /// Applies the change to an optional value.
    pub fn apply(self, to: &mut Option<T>) {
        match self {
            Self::Keep => {}
            Self::Clear => *to = None,
            Self::Set(value) => *to = Some(value),
        }
    }
}

/// An object that is being read. Call the typed readers, then [`Fields::finish`].
#[derive(Debug)]
pub struct Fields {
    rest: Map<String, Value>,
    errors: Vec<FieldError>,
}

/// At most this many errors are told.
const ERRORS_MAX: usize = 32;

impl Fields {
    /// Takes an object.
    ///
    /// # Errors
    /// When the value is not an object.
    pub fn new(value: Value) -> Result<Self, Vec<FieldError>> {
        match value {
            Value::Object(rest) => Ok(Self { rest, errors: Vec::new() }),
            other => Err(vec![FieldError {
                field: String::new(),
                message: format!("a JSON object is expected, not {}", kind(&other)),
            }]),
        }
    }

    /// Notes an error.
    pub fn error(&mut self, field: &str, message: impl Into<String>) {
        if self.errors.len() < ERRORS_MAX {
            self.errors
                .push(FieldError { field: field.chars().take(100).collect(), message: message.into() });
        }
    }

    /// Takes a field as it is; null counts as absent.
    pub fn value(&mut self, field: &str) -> Option<Value> {
        self.rest.remove(field).filter(|value| !value.is_null())
    }

    /// A field that must be there and pass `read`.
    pub fn required<T>(&mut self, field: &str, read: impl FnOnce(Value) -> Result<T, String>) -> Option<T> {
        match self.value(field) {
            Some(value) => self.read(field, value, read),
            None => {
                self.error(field, "is required");
                None
            }
        }
    }

    /// A field that may be absent or null.
    pub fn optional<T>(&mut self, field: &str, read: impl FnOnce(Value) -> Result<T, String>) -> Option<T> {
        let value = self.value(field)?;
        self.read(field, value, read)
    }

    /// A field of a change, where null has a meaning of its own.
    pub fn change<T>(&mut self, field: &str, read: impl FnOnce(Value) -> Result<T, String>) -> Change<T> {
        match self.rest.remove(field) {
            None => Change::Keep,
            Some(Value::Null) => Change::Clear,
            Some(value) => self.read(field, value, read).map_or(Change::Keep, Change::Set),
        }
    }

    /// A field of a change that cannot be emptied.
    pub fn change_kept<T>(
        &mut self,
        field: &str,
        read: impl FnOnce(Value) -> Result<T, String>,
    ) -> Option<T> {
        match self.change(field, read) {
            Change::Keep => None,
            Change::Set(value) => Some(value),
            Change::Clear => {
                self.error(field, "cannot be null");
                None
            }
        }
    }

    fn read<T>(
        &mut self,
        field: &str,
        value: Value,
        read: impl FnOnce(Value) -> Result<T, String>,
    ) -> Option<T> {
        read(value).map_err(|message| self.error(field, message)).ok()
    }

    /// Ends the reading: fields that nobody asked for are errors too.
    ///
    /// # Errors
    /// Everything that was wrong.
    pub fn finish(mut self) -> Result<(), Vec<FieldError>> {
        let unknown: Vec<String> = self.rest.keys().take(ERRORS_MAX).cloned().collect();
        for field in unknown {
            self.error(&field, "is not known here");
        }
        if self.errors.is_empty() { Ok(()) } else { Err(self.errors) }
    }
}

fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "true or false",
        Value::Number(_) => "a number",
        Value::String(_) => "text",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    }
}

/// Reads text of 1 to `max_chars` characters on one line.
pub fn line(max_chars: usize) -> impl FnOnce(Value) -> Result<String, String> {
    move |value| text_value(value, max_chars, false)
}

/// Reads a name: as [`line`], without the white space around it.
pub fn name(max_chars: usize) -> impl FnOnce(Value) -> Result<String, String> {
    move |value| {
        let text = line(max_chars)(value)?;
        match text.trim() {
            "" => Err("is empty".to_owned()),
            trimmed => Ok(trimmed.to_owned()),
        }
    }
}

/// Reads a whole number within bounds.
pub fn number(low: i64, high: i64) -> impl FnOnce(Value) -> Result<i64, String> {
    move |value| match value.as_i64() {
        Some(number) if (low..=high).contains(&number) => Ok(number),
        _ => Err(format!("a whole number from {low} to {high} is expected")),
    }
}

/// Reads an RFC 3339 time that lies after `now_ms`, in ms since 1970.
pub fn future(now_ms: i64) -> impl FnOnce(Value) -> Result<i64, String> {
    const FORM: &str = "an RFC 3339 time such as 2030-12-28T10:00:00Z is expected";
    move |value| {
        let text = value.as_str().filter(|text| text.len() <= 64).ok_or_else(|| FORM.to_owned())?;
        match protocol::message::parse_rfc3339(text) {
            Ok(at) if at > now_ms => Ok(at),
            Ok(_) => Err("lies in the past".to_owned()),
            Err(_) => Err(FORM.to_owned()),
        }
    }
}

/// Reads text of 1 to `max_chars` characters that may have several lines.
pub fn text(max_chars: usize) -> impl FnOnce(Value) -> Result<String, String> {
    move |value| text_value(value, max_chars, true)
}

fn text_value(value: Value, max_chars: usize, lines: bool) -> Result<String, String> {
    let Value::String(text) = value else { return Err(format!("text is expected, not {}", kind(&value))) };
    let chars = text.chars().count();
    if chars == 0 {
        return Err("is empty".to_owned());
    }
    if chars > max_chars {
        return Err(format!("has {chars} characters; at most {max_chars} are allowed"));
    }
    hidden_in(&text, lines).map_or(Ok(text), Err)
}

/// Reads a secret of at most `max_bytes`; what is wrong with it is told without it.
pub fn secret(max_bytes: usize) -> impl FnOnce(Value) -> Result<String, String> {
    move |value| match value {
        Value::String(text) if text.is_empty() => Err("is empty".to_owned()),
        Value::String(text) if text.len() > max_bytes => Err(format!("is longer than {max_bytes} bytes")),
        Value::String(text) => Ok(text),
        _ => Err("text is expected".to_owned()),
    }
}

/// Reads true or false.
///
/// # Errors
/// For anything else.
pub fn flag(value: Value) -> Result<bool, String> {
    value.as_bool().ok_or_else(|| format!("true or false is expected, not {}", kind(&value)))
}

/// Reads text by its own type's rules; the type's error becomes the message.
pub fn parsed<T>(max_chars: usize) -> impl FnOnce(Value) -> Result<T, String>
where
    T: std::str::FromStr,
    T::Err: std::fmt::Display,
{
    move |value| {
        let Value::String(text) = value else {
            return Err(format!("text is expected, not {}", kind(&value)));
        };
        if text.chars().count() > max_chars {
            return Err(format!("is longer than {max_chars} characters"));
        }
        text.parse().map_err(|e: T::Err| e.to_string())
    }
}

/// Reads an object whose JSON text has at most `max_bytes`.
pub fn object(max_bytes: usize) -> impl FnOnce(Value) -> Result<Value, String> {
    move |value| {
        if !value.is_object() {
            return Err(format!("an object is expected, not {}", kind(&value)));
        }
        bounded(value, max_bytes)
    }
}

/// Reads an object or a list whose JSON text has at most `max_bytes`.
pub fn object_or_list(max_bytes: usize) -> impl FnOnce(Value) -> Result<Value, String> {
    move |value| {
        if !value.is_object() && !value.is_array() {
            return Err(format!("an object or a list is expected, not {}", kind(&value)));
        }
        bounded(value, max_bytes)
    }
}

fn bounded(value: Value, max_bytes: usize) -> Result<Value, String> {
    let bytes = value.to_string().len();
    if bytes > max_bytes {
        Err(format!("has {bytes} bytes; at most {max_bytes} are allowed"))
    } else {
        Ok(value)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn every_wrong_field_is_told_at_once() {
        let mut fields = Fields::new(json!({"name": 5, "extra": 1, "on": "yes"})).unwrap();
        assert_eq!(fields.required("id", line(10)), None);
        assert_eq!(fields.optional("name", line(10)), None);
        assert_eq!(fields.optional("on", flag), None);
        let errors = fields.finish().unwrap_err();
        let names: Vec<_> = errors.iter().map(|error| error.field.as_str()).collect();
        assert_eq!(names, ["id", "name", "on", "extra"]);
    }

    #[test]
    fn null_is_absent_in_a_new_object_and_clears_in_a_change() {
        let mut fields = Fields::new(json!({"a": null, "b": null, "c": null})).unwrap();
        assert_eq!(fields.optional("a", line(10)), None);
        assert_eq!(fields.change("b", line(10)), Change::Clear);
        assert_eq!(fields.change("missing", line(10)), Change::<String>::Keep);
        assert_eq!(fields.change_kept("c", line(10)), None);
        assert_eq!(fields.finish().unwrap_err().len(), 1);
    }

    #[test]
    fn text_is_bounded_and_has_no_control_characters() {
        assert!(line(3)(json!("äöü")).is_ok());
        assert!(line(3)(json!("abcd")).is_err());
        assert!(line(9)(json!("a\u{0}b")).is_err());
        assert!(line(9)(json!("a\nb")).is_err());
        assert!(text(9)(json!("a\nb")).is_ok());
        assert!(text(9)(json!("")).is_err());
    }

    #[test]
    fn stored_json_is_bounded() {
        assert!(object(16)(json!({"a": 1})).is_ok());
        assert!(object(16)(json!({"a": "0123456789abcdef"})).is_err());
        assert!(object(16)(json!([1])).is_err());
        assert!(object_or_list(16)(json!([1])).is_ok());
    }

    #[test]
    fn what_is_no_object_is_refused() {
        for value in [json!(null), json!([]), json!(1), json!("x")] {
            assert!(Fields::new(value).is_err());
        }
    }
}
