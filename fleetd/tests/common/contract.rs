//! Holds the tests' requests and the server's answers to the OpenAPI document: whatever the server answers is documented, and whatever
//! it accepts is allowed there. In answers no field may be missing from the document, although clients have to bear more.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{LazyLock, Mutex};

use serde_json::{Map, Value, json};

use super::Answer;

/// The document that the server gives.
pub static DOCUMENT: LazyLock<Value> =
    LazyLock::new(|| serde_json::from_slice(fleetd::http::openapi()).unwrap());

/// Its named schemas with every object closed.
static CLOSED: LazyLock<Value> = LazyLock::new(|| {
    let mut components = DOCUMENT["components"].clone();
    close(&mut components["schemas"]);
    components
});

/// Operations and the statuses that they were seen to answer.
pub static SEEN: Mutex<BTreeSet<(String, u16)>> = Mutex::new(BTreeSet::new());

/// Checks one request and its answer.
#[track_caller]
pub fn check(method: &str, target: &str, body: Option<&[u8]>, answer: &Answer) {
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    let Some(item) = item(path) else { return };
    let name = if method == "HEAD" { "get".to_owned() } else { method.to_ascii_lowercase() };
    let what = format!("{method} {target}: {} {}", answer.status, answer.text);
    let Some(operation) = item.get(&name).filter(|operation| operation.is_object()) else {
        // Asking what a page of another origin may do is no operation.
        assert!(
            answer.status == 405 || (name == "options" && answer.status == 204),
            "no such operation: {what}"
        );
        return;
    };
    let id = operation["operationId"].as_str().unwrap();
    SEEN.lock().unwrap().insert((id.to_owned(), answer.status));
    let response = resolved(&operation["responses"][answer.status.to_string()]);
    assert!(response.is_object(), "this status is not in the document: {what}");
    if method != "HEAD" {
        check_answer(id, response, answer, &what);
    }
    if (200..300).contains(&answer.status) {
        check_accepted(operation, query, body.unwrap_or_default(), &what);
    }
}

fn check_answer(id: &str, response: &Value, answer: &Answer, what: &str) {
    let Some(content_type) = answer.headers.get("content-type") else {
        assert!(response["content"].is_null() && answer.text.is_empty(), "no content type: {what}");
        return;
    };
    let media = &response["content"][content_type];
    assert!(media.is_object(), "{content_type} is not in the document: {what}");
    if content_type.contains("json") && !content_type.contains("ndjson") {
        let mut schema = media["schema"].clone();
        close(&mut schema);
        validate(&format!("{id} {} {content_type}", answer.status), &schema, &answer.body, what);
    }
}

/// What the server has accepted is what the document allows: it is not stricter than the server.
fn check_accepted(operation: &Value, query: &str, body: &[u8], what: &str) {
    let parameters = operation["parameters"].as_array().cloned().unwrap_or_default();
    for pair in query.split('&').filter(|pair| !pair.is_empty()) {
        let name = pair.split('=').next().unwrap();
        let known =
            parameters.iter().any(|parameter| parameter["in"] == "query" && parameter["name"] == name);
        assert!(known, "the parameter {name} is not in the document: {what}");
    }
    let wanted = &operation["requestBody"];
    if body.is_empty() {
        assert!(wanted["required"] != true, "the document wants a body: {what}");
        return;
    }
    let id = operation["operationId"].as_str().unwrap();
    if wanted["content"].as_object().is_some_and(|types| !types.contains_key("application/json")) {
        // Bytes, which no schema describes.
        return;
    }
    let schema = &wanted["content"]["application/json"]["schema"];
    assert!(!schema.is_null(), "the document knows no body: {what}");
    let body = serde_json::from_slice(body.strip_prefix(b"\xef\xbb\xbf").unwrap_or(body)).unwrap();
    validate(&format!("{id} takes"), schema, &body, what);
}

fn validate(name: &str, schema: &Value, value: &Value, what: &str) {
    static COMPILED: Mutex<BTreeMap<String, jsonschema::Validator>> = Mutex::new(BTreeMap::new());
    let mut compiled = COMPILED.lock().unwrap();
    let validator = compiled.entry(name.to_owned()).or_insert_with(|| {
        let whole = json!({"allOf": [schema], "components": *CLOSED});
        jsonschema::options().should_validate_formats(true).build(&whole).unwrap()
    });
    let wrong: Vec<_> =
        validator.iter_errors(value).map(|error| format!("{}: {error}", error.instance_path())).collect();
    drop(compiled);
    assert!(wrong.is_empty(), "not as {name} in the document: {wrong:#?}\n{what}");
}

/// Follows a reference within the document.
pub fn resolved(value: &'static Value) -> &'static Value {
    match value["$ref"].as_str() {
        Some(reference) => DOCUMENT.pointer(reference.strip_prefix('#').unwrap()).unwrap(),
        None => value,
    }
}

/// The path item for a path, under its own name or its alias; names that stand in the document go before variables.
fn item(path: &str) -> Option<&'static Map<String, Value>> {
    let paths = DOCUMENT["paths"].as_object().unwrap();
    let named = paths.iter().flat_map(|(template, item)| {
        let alias = item["x-alias"].as_str();
        std::iter::once(template.as_str()).chain(alias).map(move |template| (template, item))
    });
    let fitting = named.filter(|(template, _)| fits(template, path));
    let best = fitting.min_by_key(|(template, _)| template.matches('{').count());
    best.and_then(|(_, item)| item.as_object())
}

fn fits(template: &str, path: &str) -> bool {
    let (template, path): (Vec<_>, Vec<_>) = (template.split('/').collect(), path.split('/').collect());
    let one =
        |(wanted, given): (&&str, &&str)| wanted == given || (wanted.starts_with('{') && !given.is_empty());
    template.len() == path.len() && template.iter().zip(&path).all(one)
}

/// Lets no object have a field that it does not name.
fn close(schema: &mut Value) {
    match schema {
        Value::Object(fields) => {
            fields.values_mut().for_each(close);
            if fields.get("properties").is_some_and(Value::is_object) && fields.contains_key("type") {
                fields.entry("additionalProperties").or_insert(Value::Bool(false));
            }
        }
        Value::Array(items) => items.iter_mut().for_each(close),
        _ => {}
    }
}
