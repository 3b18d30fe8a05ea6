//! One operation of the document. What follows from the route (who may, which credentials, the errors that come with
//! them) is not written by hand: it comes from the table of routes and `auth::policy`.

use std::collections::BTreeMap;

use http::{Method, StatusCode};
use serde_json::{Map, Value, json};

use super::schema::{binary, default, flag, named, number, one_of, page_of, told};
use crate::auth::policy::Action;
use crate::http::query::{PAGE_MAX, PAGE_SIZE_DEFAULT, PAGE_SIZE_MAX};
use crate::http::request::JSON_MAX_BYTES;
use crate::http::table::Access;

const JSON: &str = "application/json";

/// An operation in the making.
pub(super) struct Operation {
    method: Method,
    path: &'static str,
    id: &'static str,
    summary: &'static str,
    description: Vec<String>,
    parameters: Vec<Value>,
    body: Option<Value>,
    responses: BTreeMap<u16, Value>,
    action: Option<Action>,
    security: Option<Value>,
    also: Vec<Value>,
}

/// `GET`
pub(super) fn get(path: &'static str, id: &'static str, summary: &'static str) -> Operation {
    Operation::new(Method::GET, path, id, summary)
}

/// `POST`
pub(super) fn post(path: &'static str, id: &'static str, summary: &'static str) -> Operation {
    Operation::new(Method::POST, path, id, summary)
}

/// `PUT`
pub(super) fn put(path: &'static str, id: &'static str, summary: &'static str) -> Operation {
    Operation::new(Method::PUT, path, id, summary)
}

/// `PATCH`
pub(super) fn patch(path: &'static str, id: &'static str, summary: &'static str) -> Operation {
    Operation::new(Method::PATCH, path, id, summary)
}

/// `DELETE`
pub(super) fn delete(path: &'static str, id: &'static str, summary: &'static str) -> Operation {
    Operation::new(Method::DELETE, path, id, summary)
}

impl Operation {
    fn new(method: Method, path: &'static str, id: &'static str, summary: &'static str) -> Self {
        Self {
            method,
            path,
            id,
            summary,
            description: Vec::new(),
            parameters: Vec::new(),
            body: None,
            responses: BTreeMap::new(),
            action: None,
            security: None,
            also: Vec::new(),
        }
    }

    /// Whether it is the operation of this route.
    pub(super) fn is_of(&self, method: &Method, path: &str) -> bool {
        self.method == *method && self.path == path
    }

    /// Method and path, for people.
    #[cfg(test)]
    pub(super) fn label(&self) -> String {
        format!("{} {}", self.method, self.path)
    }

    /// Says more.
    pub(super) fn says(mut self, text: &str) -> Self {
        self.description.push(text.to_owned());
        self
    }

    /// Takes a query parameter.
    pub(super) fn query(mut self, name: &str, schema: Value, what: &str) -> Self {
        self.parameters.push(json!({"name": name, "in": "query", "description": what, "schema": schema}));
        self.refuses(&[400])
    }

    /// Takes `page` and `page_size`.
    pub(super) fn paged(self) -> Self {
        self.paged_up_to(PAGE_SIZE_MAX)
    }

    /// As [`Self::paged`], with pages of another size.
    pub(super) fn paged_up_to(self, most: i64) -> Self {
        self.query("page", default(number(1, PAGE_MAX), 1), "Which page, from 1.").query(
            "page_size",
            default(number(1, most), PAGE_SIZE_DEFAULT),
            "Entries of a page at most.",
        )
    }

    /// Takes `sort`: one of `keys`, or one with `-` before it.
    pub(super) fn sorted<T>(self, keys: &[(&str, T)], first: &str) -> Self {
        let all: Vec<String> =
            keys.iter().flat_map(|(key, _)| [(*key).to_owned(), format!("-{key}")]).collect();
        let schema = default(one_of(all.iter().map(String::as_str)), first);
        self.query(
            "sort",
            schema,
            "What comes first; with - the other way round. What has no value comes last.",
        )
    }

    /// Takes a header.
    pub(super) fn header(mut self, name: &str, schema: Value, what: &str) -> Self {
        self.parameters.push(json!({"name": name, "in": "header", "description": what, "schema": schema}));
        self
    }

    /// Takes a body.
    pub(super) fn takes(self, schema: Value) -> Self {
        self.with_body(schema, true)
    }

    /// Takes a body that may be left out.
    pub(super) fn may_take(self, schema: Value) -> Self {
        self.with_body(schema, false)
    }

    /// Takes no body, or an empty object.
    pub(super) fn takes_nothing(self) -> Self {
        self.with_body(super::schema::body(&[]), false)
    }

    /// Takes bytes of another type than JSON, which the schema describes.
    pub(super) fn takes_bytes(self, content_type: &str, most: usize) -> Self {
        self.with_content(content_type, binary(), true, most).refuses(&[400, 408, 413, 415])
    }

    fn with_body(self, schema: Value, required: bool) -> Self {
        self.with_content(JSON, schema, required, JSON_MAX_BYTES).refuses(&[400, 408, 413, 415, 422])
    }

    fn with_content(mut self, content_type: &str, schema: Value, required: bool, most: usize) -> Self {
        self.body = Some(json!({
            "required": required,
            "description": format!("At most {most} bytes."),
            "content": {content_type: {"schema": schema}},
        }));
        self
    }

    /// Answers with JSON.
    pub(super) fn answers(self, status: u16, schema: Value, what: &str) -> Self {
        self.gives(status, JSON, schema, what)
    }

    /// Answers with something; more than one type may go with a status.
    pub(super) fn gives(mut self, status: u16, content_type: &str, schema: Value, what: &str) -> Self {
        let response =
            self.responses.entry(status).or_insert_with(|| json!({"description": what, "content": {}}));
        response["content"][content_type] = json!({"schema": schema});
        self
    }

    /// Adds a header to an answer.
    pub(super) fn with_header(mut self, status: u16, name: &str, what: &str) -> Self {
        if let Some(response) = self.responses.get_mut(&status) {
            response["headers"][name] = json!({"description": what, "schema": {"type": "string"}});
        }
        self
    }

    /// Answers with 200 and a page of a list.
    pub(super) fn lists(self, schema: &str) -> Self {
        let what = "A page of the list.";
        self.answers(200, page_of(schema), what)
    }

    /// Answers without a body.
    pub(super) fn empty(mut self, status: u16, what: &str) -> Self {
        self.responses.insert(status, json!({"description": what}));
        self
    }

    /// May be answered with these problems.
    pub(super) fn refuses(mut self, statuses: &[u16]) -> Self {
        for status in statuses {
            let name = problem_name(*status);
            self.responses
                .entry(*status)
                .or_insert_with(|| json!({"$ref": format!("#/components/responses/{name}")}));
        }
        self
    }

    /// Is open to those who may do this, where the route leaves it to the handler.
    pub(super) fn needs(mut self, action: Action) -> Self {
        self.action = Some(action);
        self
    }

    /// Asks for these credentials, where the route leaves it to the handler: one of the names.
    pub(super) fn by(mut self, schemes: &[&str]) -> Self {
        self.security = Some(schemes.iter().map(|scheme| json!({*scheme: []})).collect());
        self
    }

    /// Needs more for a part of what it does.
    pub(super) fn also(mut self, what: &str, action: Action) -> Self {
        let mut needs = needs(action);
        needs.insert("for".to_owned(), what.into());
        self.also.push(Value::Object(needs));
        self
    }

    /// The operation, on a route with this access.
    pub(super) fn document(mut self, access: Access) -> Value {
        let mut parameters: Vec<Value> = self
            .path
            .split('/')
            .filter(|segment| segment.starts_with('{'))
            .map(|segment| json!({"$ref": format!("#/components/parameters/{}", path_parameter(self.path, segment))}))
            .collect();
        if !parameters.is_empty() {
            self = self.refuses(&[400, 404]);
        }
        let (action, security) = match access {
            Access::Open => (None, json!([])),
            Access::Handler(_) => (self.action, self.security.take().unwrap_or_else(|| json!([]))),
            Access::Needs(action) => (Some(action), schemes(action)),
            Access::NeedsOrHeader(action, _) => {
                (Some(action), self.security.take().unwrap_or_else(|| schemes(action)))
            }
        };
        if !matches!(access, Access::Open) {
            self = self.refuses(&[400, 401, 403, 429]);
        }
        self = self.refuses(&[414, 500, 503]);
        parameters.append(&mut self.parameters);
        let responses: Map<String, Value> =
            self.responses.into_iter().map(|(status, response)| (status.to_string(), response)).collect();
        let mut operation = Map::new();
        let mut put = |name: &str, value: Value| operation.insert(name.to_owned(), value);
        put("operationId", self.id.into());
        put("tags", json!([tag(self.path)]));
        put("summary", self.summary.into());
        if !self.description.is_empty() {
            put("description", self.description.join(" ").into());
        }
        if !parameters.is_empty() {
            put("parameters", parameters.into());
        }
        if let Some(body) = self.body {
            put("requestBody", body);
        }
        put("responses", responses.into());
        put("security", security);
        if !self.also.is_empty() {
            put("x-also-needs", self.also.into());
        }
        operation.extend(action.map(needs).unwrap_or_default());
        Value::Object(operation)
    }
}

/// Who may do it, in the document's words.
fn needs(action: Action) -> Map<String, Value> {
    let rule = action.rule();
    let mut needs = Map::new();
    if let Some(role) = rule.person {
        needs.insert("x-role".to_owned(), role.as_str().into());
        needs.insert("x-scope".to_owned(), Some(rule.scope).filter(|scope| !scope.is_empty()).into());
    }
    if rule.superadmin {
        needs.insert("x-superadmin".to_owned(), true.into());
    }
    if rule.own_device {
        needs.insert("x-device".to_owned(), true.into());
    }
    needs
}

/// The credentials that are taken for it.
fn schemes(action: Action) -> Value {
    let rule = action.rule();
    let person = rule.person.map(|_| json!({"bearer": []}));
    let device = rule.own_device.then(|| json!({"deviceToken": []}));
    person.into_iter().chain(device).collect()
}

/// The variable parts of paths.
pub(super) fn path_parameters() -> Value {
    let parameter = |name: &str, schema: Value, what: &str| json!({"name": name, "in": "path", "required": true, "description": what, "schema": schema});
    json!({
        "Device": parameter("id", super::schema::short_name(), "The readable id of a device, or its UUID."),
        "Row": parameter("id", super::schema::uuid(), "The `id` of what is meant."),
        "Tag": parameter("tag", super::schema::tag(), "A tag of devices."),
        "Group": parameter("name", super::schema::tag(), "A redundancy group."),
    })
}

fn path_parameter(path: &str, segment: &str) -> &'static str {
    match segment {
        "{tag}" => "Tag",
        "{name}" => "Group",
        _ if path.starts_with("/api/v1/devices/") => "Device",
        _ => "Row",
    }
}

/// The part of the API that a path belongs to.
fn tag(path: &str) -> &str {
    path.strip_prefix("/api/v1/").and_then(|rest| rest.split('/').next()).map_or(
        "server",
        |first| match first {
            "openapi.json" => "server",
            other => other,
        },
    )
}

/// Statuses of problems, with what they mean.
const PROBLEMS: [(u16, &str); 14] = [
    (400, "Broken JSON; a query value that is bad, unknown or given twice; two credentials at once."),
    (401, "No credential, or one that is no good."),
    (403, "Known, but may not; or credentials over plain HTTP from afar."),
    (404, "Nothing is there, or it is another organisation's."),
    (408, "The body does not arrive."),
    (409, "It does not go with the present state."),
    (410, "Of an earlier server; gone."),
    (413, "The body is too large."),
    (414, "Path and query are too long."),
    (415, "The body is of another type."),
    (422, "Readable but wrong; `errors` names each field."),
    (429, "Too often."),
    (500, "A fault of the server."),
    (503, "The database or the broker is away, or it took too long."),
];

fn problem_name(status: u16) -> String {
    let reason = StatusCode::from_u16(status).ok().and_then(|status| status.canonical_reason());
    reason.unwrap_or("Error").chars().filter(char::is_ascii_alphabetic).collect()
}

/// The answers that say what is wrong.
pub(super) fn problems() -> Value {
    let answers = PROBLEMS.iter().map(|(status, what)| {
        let mut answer = json!({
            "description": what,
            "content": {"application/problem+json": {"schema": named("Problem")}},
        });
        match status {
            401 => answer["headers"]["WWW-Authenticate"] = json!({"schema": {"type": "string"}}),
            429 | 503 => {
                let seconds =
                    told(json!({"type": "integer", "minimum": 0}), "Seconds until it is worth trying again.");
                answer["headers"]["Retry-After"] = json!({"schema": seconds});
            }
            _ => {}
        }
        (problem_name(*status), answer)
    });
    Value::Object(answers.collect())
}

/// A query parameter that is true or false.
pub(super) fn switch() -> Value {
    default(flag(), false)
}
