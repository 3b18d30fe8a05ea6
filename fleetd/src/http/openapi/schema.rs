//! JSON Schema in few words. A reader in `domain::fields` has a function of the same name here that says what it takes.

use serde_json::{Map, Value, json};

/// Everything but control characters.
const LINE: &str = r"^[^\u0000-\u001f\u007f-\u009f]*$";
/// As [`LINE`], with at least one character that is no white space.
const NAME: &str =
    r"^[^\u0000-\u001f\u007f-\u009f]*[^\s\u0000-\u001f\u007f-\u009f][^\u0000-\u001f\u007f-\u009f]*$";
/// As [`LINE`], but for line ends and tabs.
const TEXT: &str = r"^[^\u0000-\u0008\u000b\u000c\u000e-\u001f\u007f-\u009f]*$";
/// Of the characters in ASCII, those that tags have; of the others only the server tells letters and digits.
const TAG: &str = r"^[^\u0000-/:-@\[-`{-\u007f][^\u0000-,/;-@\[-^`{-\u007f]*$";

/// Text of up to `max` characters on one line.
pub(super) fn line(max: usize) -> Value {
    json!({"type": "string", "minLength": 1, "maxLength": max, "pattern": LINE})
}

/// As [`line`]; white space around it is left out.
pub(super) fn name(max: usize) -> Value {
    json!({"type": "string", "minLength": 1, "maxLength": max, "pattern": NAME})
}

/// Text of up to `max` characters, with line ends.
pub(super) fn text(max: usize) -> Value {
    json!({"type": "string", "minLength": 1, "maxLength": max, "pattern": TEXT})
}

/// A password, token or key that is given.
pub(super) fn secret(max: usize) -> Value {
    json!({"type": "string", "minLength": 1, "maxLength": max, "format": "password"})
}

/// A token or key that the server makes, or the hash of one.
pub(super) fn hex(digits: usize) -> Value {
    json!({"type": "string", "pattern": format!("^[0-9a-f]{{{digits}}}$")})
}

/// The short name of an organisation, a device or an account.
pub(super) fn short_name() -> Value {
    json!({"type": "string", "maxLength": protocol::id::NAME_MAX_LEN, "pattern": "^[a-z0-9][a-z0-9_-]*$"})
}

/// A tag of devices.
pub(super) fn tag() -> Value {
    json!({"type": "string", "maxLength": crate::domain::device::TAG_MAX_CHARS, "pattern": TAG})
}

/// The version of a release.
pub(super) fn version() -> Value {
    json!({"type": "string", "minLength": 1, "maxLength": 100, "pattern": r"^[^\s\u0000-\u001f\u007f-\u009f]*$"})
}

/// Bytes of a type that JSON Schema cannot describe.
pub(super) fn binary() -> Value {
    json!({"type": "string", "format": "binary"})
}

/// Any text.
pub(super) fn string() -> Value {
    json!({"type": "string"})
}

/// A row's id.
pub(super) fn uuid() -> Value {
    json!({"type": "string", "format": "uuid"})
}

/// A time in RFC 3339.
pub(super) fn time() -> Value {
    json!({"type": "string", "format": "date-time"})
}

/// True or false.
pub(super) fn flag() -> Value {
    json!({"type": "boolean"})
}

/// A whole number from `low` to `high`.
pub(super) fn number(low: i64, high: i64) -> Value {
    json!({"type": "integer", "minimum": low, "maximum": high})
}

/// A whole number from 0.
pub(super) fn count() -> Value {
    json!({"type": "integer", "minimum": 0})
}

/// Any number from `low` to `high`.
pub(super) fn measure(low: f64, high: f64) -> Value {
    json!({"type": "number", "minimum": low, "maximum": high})
}

/// One of these texts.
pub(super) fn one_of<'a>(texts: impl IntoIterator<Item = &'a str>) -> Value {
    json!({"type": "string", "enum": texts.into_iter().collect::<Vec<_>>()})
}

/// A list.
pub(super) fn list(items: Value) -> Value {
    json!({"type": "array", "items": items})
}

/// An object of anything.
pub(super) fn anything() -> Value {
    json!({"type": "object"})
}

/// One of these schemas.
pub(super) fn either(schemas: impl IntoIterator<Item = Value>) -> Value {
    json!({"anyOf": schemas.into_iter().collect::<Vec<_>>()})
}

/// A schema that has a name.
pub(super) fn named(schema: &str) -> Value {
    json!({"$ref": format!("#/components/schemas/{schema}")})
}

/// The same, with a word to people.
pub(super) fn told(schema: Value, what: &str) -> Value {
    with(schema, "description", what.into())
}

/// The same, with what holds if it is not given.
pub(super) fn default(schema: Value, value: impl Into<Value>) -> Value {
    with(schema, "default", value.into())
}

fn with(mut schema: Value, keyword: &str, value: Value) -> Value {
    if let Some(schema) = schema.as_object_mut() {
        schema.insert(keyword.to_owned(), value);
    }
    schema
}

/// What a field that may be null takes.
fn or_null(mut schema: Value) -> Value {
    let plain = schema.get("type").filter(|kind| kind.is_string()).cloned();
    match (plain, schema.as_object_mut()) {
        (Some(kind), Some(fields)) => {
            fields.insert("type".to_owned(), json!([kind, "null"]));
            if let Some(Value::Array(texts)) = fields.get_mut("enum") {
                texts.push(Value::Null);
            }
            schema
        }
        _ => json!({"anyOf": [schema, {"type": "null"}]}),
    }
}

/// The fields of an object; `optional` says what becomes of the schema of one whose name ends in `?`.
fn properties(fields: &[(&str, Value)], optional: fn(Value) -> Value) -> (Map<String, Value>, Vec<String>) {
    let (mut all, mut required) = (Map::new(), Vec::new());
    for (name, schema) in fields {
        match name.strip_suffix('?') {
            Some(name) => all.insert(name.to_owned(), optional(schema.clone())),
            None => {
                required.push((*name).to_owned());
                all.insert((*name).to_owned(), schema.clone())
            }
        };
    }
    (all, required)
}

/// What the server answers: a name with `?` may be absent. More fields may come with later versions.
pub(super) fn answer(fields: &[(&str, Value)]) -> Value {
    let (properties, required) = properties(fields, |schema| schema);
    json!({"type": "object", "properties": properties, "required": required})
}

/// What a body takes: a name with `?` may be absent or null, any other field is an error.
pub(super) fn body(fields: &[(&str, Value)]) -> Value {
    let (properties, required) = properties(fields, or_null);
    json!({"type": "object", "properties": properties, "required": required, "additionalProperties": false})
}

/// As [`body`], of something that ignores what it does not know.
pub(super) fn loose_body(fields: &[(&str, Value)]) -> Value {
    let (properties, required) = properties(fields, or_null);
    json!({"type": "object", "properties": properties, "required": required})
}

/// What a change takes: every field may be absent, and null empties one with `?`.
pub(super) fn change(fields: &[(&str, Value)]) -> Value {
    let (properties, _) = properties(fields, or_null);
    json!({"type": "object", "properties": properties, "additionalProperties": false})
}

/// A page of a list.
pub(super) fn page_of(schema: &str) -> Value {
    answer(&[
        ("items", list(named(schema))),
        ("total", count()),
        ("page", number(1, crate::http::query::PAGE_MAX)),
        ("page_size", count()),
        ("has_more", flag()),
    ])
}
