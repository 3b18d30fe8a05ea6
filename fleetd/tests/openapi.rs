//! The OpenAPI document: whole, valid, and what the server does. `common::contract` holds every request of every HTTP test to it.
#![allow(clippy::unwrap_used)]

mod common;

use std::collections::BTreeSet;

use common::cli::{fleetd, succeeds};
use common::contract::{self, DOCUMENT, SEEN, resolved};
use common::{Answer, PASSWORD, Server};
use serde_json::{Value, json};

/// Every operation with its path and method.
fn operations() -> impl Iterator<Item = (&'static str, &'static str, &'static Value)> {
    let paths = DOCUMENT["paths"].as_object().unwrap();
    paths.iter().flat_map(|(path, item)| {
        let item = item.as_object().unwrap();
        item.iter()
            .filter(|(_, value)| value.is_object())
            .map(move |(name, value)| (path.as_str(), name.as_str(), value))
    })
}

/// Everything in the document that is a schema, with its place.
fn schemas() -> Vec<(String, &'static Value)> {
    let mut all = Vec::new();
    for (name, schema) in DOCUMENT["components"]["schemas"].as_object().unwrap() {
        all.push((name.clone(), schema));
    }
    for (path, method, operation) in operations() {
        let bodies = std::iter::once(&operation["requestBody"]);
        for part in bodies.chain(operation["responses"].as_object().unwrap().values().map(resolved)) {
            for (kind, media) in part["content"].as_object().into_iter().flatten() {
                all.push((format!("{method} {path} {kind}"), &media["schema"]));
            }
        }
        for parameter in operation["parameters"].as_array().into_iter().flatten() {
            all.push((format!("{method} {path} parameter"), &resolved(parameter)["schema"]));
        }
    }
    all
}

fn references<'a>(value: &'a Value, to: &mut BTreeSet<&'a str>) {
    match value {
        Value::Object(fields) => {
            to.extend(fields.get("$ref").and_then(Value::as_str));
            fields.values().for_each(|value| references(value, to));
        }
        Value::Array(items) => items.iter().for_each(|value| references(value, to)),
        _ => {}
    }
}

#[test]
fn it_is_served_to_anybody_with_a_tag_and_printed_by_the_program() {
    let server = Server::start();
    let path = "/api/v1/openapi.json";
    let answer = server.get(path).send();
    assert_eq!((answer.status, answer.headers["content-type"].as_str()), (200, "application/json"));
    assert_eq!(answer.body["openapi"], "3.1.1");
    assert!(answer.headers["cache-control"].starts_with("public"));
    let tag = answer.headers["etag"].clone();
    let again = server.get(path).header("if-none-match", &tag).send();
    assert_eq!((again.status, again.text.as_str(), again.headers["etag"].as_str()), (304, "", tag.as_str()));
    assert_eq!(server.get(path).header("if-none-match", "\"other\"").send().status, 200);
    assert_eq!(succeeds(&fleetd(&server, &["openapi"], "")), answer.text);
}

#[test]
fn every_schema_is_one_and_every_reference_and_name_leads_to_one_thing() {
    for (place, schema) in schemas() {
        assert!(jsonschema::meta::validate(schema).is_ok(), "{place}: {schema}");
    }
    let mut found = BTreeSet::new();
    references(&DOCUMENT, &mut found);
    for reference in &found {
        assert!(DOCUMENT.pointer(reference.strip_prefix('#').unwrap()).is_some(), "{reference}");
    }
    for part in ["schemas", "parameters", "responses"] {
        for name in DOCUMENT["components"][part].as_object().unwrap().keys() {
            let reference = format!("#/components/{part}/{name}");
            assert!(found.contains(reference.as_str()), "nothing uses {reference}");
        }
    }
    let ids: Vec<_> =
        operations().map(|(_, _, operation)| operation["operationId"].as_str().unwrap()).collect();
    assert_eq!(ids.iter().collect::<BTreeSet<_>>().len(), ids.len());
}

#[test]
fn credentials_stand_at_every_operation_that_is_not_open() {
    let open = ["login", "refresh", "getOpenApi", "getHealth", "getReadiness", "getServerMetrics", "getGone"];
    let schemes = DOCUMENT["components"]["securitySchemes"].as_object().unwrap();
    for (path, method, operation) in operations() {
        let security = operation["security"].as_array().unwrap();
        let id = operation["operationId"].as_str().unwrap();
        assert_eq!(
            security.is_empty(),
            open.contains(&id) || id.starts_with("getDashboard"),
            "{method} {path}"
        );
        for requirement in security {
            assert!(requirement.as_object().unwrap().keys().all(|name| schemes.contains_key(name)));
        }
        assert_eq!(
            !security.is_empty(),
            operation["x-role"].is_string() || operation["x-device"] == true,
            "{id}"
        );
    }
}

/// A server with people, a device of an enrolment key and one of an admin.
struct Bench {
    server: Server,
    device: String,
}

impl Bench {
    fn new() -> Self {
        let server = Server::start();
        server.superadmin("default", "root");
        let device = server.device("root", "cam-1");
        Self { server, device }
    }

    #[track_caller]
    fn ask(&self, method: &str, path: &str, body: Option<Value>, status: u16) -> Value {
        let call = self.server.call(method, &format!("/api/v1{path}")).by_person("root");
        let answer = match body {
            Some(body) => call.json(&body),
            None => call.send(),
        };
        assert_eq!(answer.status, status, "{method} {path}: {}", answer.text);
        answer.body
    }

    fn get(&self, path: &str) -> Value {
        self.ask("GET", path, None, 200)
    }

    /// What a list has, what is made at its path, the one that was made, changed and taken away.
    fn keep(&self, path: &str, new: Value, change: Option<Value>, takes_away: bool) -> String {
        let made = self.ask("POST", path, Some(new), 201);
        let one = format!("{path}/{}", made["id"].as_str().unwrap());
        self.get(&format!("{path}?page_size=2&page=1"));
        self.get(&one);
        if let Some(change) = change {
            self.ask("PATCH", &one, Some(change), 200);
        }
        if takes_away {
            self.ask("DELETE", &one, None, 204);
        }
        one
    }

    #[track_caller]
    fn device(&self, method: &str, path: &str, body: Option<Value>) -> Value {
        let call = self.server.call(method, &format!("/api/v1{path}")).by_device(&self.device);
        let answer = match body {
            Some(body) => call.json(&body),
            None => call.send(),
        };
        assert_eq!(answer.status, 200, "{method} {path}: {}", answer.text);
        answer.body
    }

    fn accounts(&self) {
        self.get("/auth/me");
        let user = json!({"email": "eve@example.org", "name": "Eve", "role": "viewer", "password": PASSWORD});
        let one = self.keep("/users", user, Some(json!({"role": "operator"})), false);
        let login = json!({"email": "eve@example.org", "password": PASSWORD});
        let tokens = self.server.post("/api/v1/auth/login").json(&login).body;
        let refresh = json!({"refresh_token": tokens["refresh_token"]});
        let tokens = self.server.post("/api/v1/auth/refresh").json(&refresh).body;
        let change = json!({"old": PASSWORD, "new": "another horse, another battery"});
        let call = self.server.post("/api/v1/auth/password").bearer(tokens["access_token"].as_str().unwrap());
        assert_eq!(call.json(&change).status, 204);
        self.ask("POST", &format!("{one}/reset-password"), None, 200);
        self.ask("DELETE", &one, None, 204);
        self.keep("/orgs", json!({"slug": "other", "name": "Other"}), Some(json!({"max_devices": 3})), false);
        let program = json!({"username": "robot", "role": "viewer"});
        self.keep("/service-accounts", program, Some(json!({"name": "Robot"})), true);
        let key = json!({"name": "a key", "scopes": ["devices:read"], "expires_at": "2099-01-01T00:00:00Z"});
        self.keep("/api-keys", key, Some(json!({"name": "another"})), true);
        self.keep("/enrollment-keys", json!({"max_uses": 1}), None, true);
    }

    fn devices(&self) {
        self.get("/devices?status=offline&sort=-name&q=cam");
        self.get("/devices/cam-1");
        self.get("/devices/cam-1/status");
        let describe = json!({"tags": ["hall-2"], "redundancy_group": "pair", "target_version": "1.2.0"});
        self.ask("PATCH", "/devices/cam-1", Some(describe), 200);
        self.ask("POST", "/devices/cam-1/approve", None, 200);
        for path in ["/devices/cam-1/show-lock", "/show-locks/hall-2"] {
            let until = protocol::message::rfc3339(self.server.app.clock.now_ms() + 3_600_000);
            self.ask("PUT", path, Some(json!({"until": until, "reason": "gala"})), 200);
            self.get(path);
            self.get("/devices/cam-1");
            self.ask("DELETE", path, None, 204);
        }
        self.ask("DELETE", "/redundancy-groups/pair/lease", None, 204);
        self.ask("PUT", "/devices/cam-1/config", Some(json!({"desired": {"BITRATE": 8000}})), 200);
        self.get("/devices/cam-1/config");
    }

    fn history(&self) {
        self.device("GET", "/connect", None);
        let metrics = json!({"cpu_percent": 15.2, "load_avg": [0.4, 0.3, 0.2], "temperature_c": null});
        let status = json!({"recording_active": false, "active_inputs": ["cam1"]});
        let now = protocol::message::rfc3339(self.server.app.clock.now_ms());
        let heartbeat = json!({"ts": now, "version": "1.0.0", "metrics": metrics, "status": status, "x": 1});
        self.device("POST", "/devices/cam-1/heartbeat", Some(heartbeat));
        assert_eq!(self.get("/devices/cam-1/heartbeats")["total"], 1);
        let exchange = self.server.post("/api/v1/devices/cam-1/exchange?wait_seconds=0&connection=1");
        exchange.by_device(&self.device).header("content-type", "application/cbor").bytes(&[0x80]);
        self.get("/devices/cam-1/metrics?hours=1");
        self.get("/devices/cam-1/records");
    }

    fn commands(&self) {
        let ping = json!({"type": "ping", "ref": "a", "notes": "x", "priority": 1, "expires_in_seconds": 60});
        let id =
            self.ask("POST", "/devices/cam-1/commands", Some(ping), 201)["id"].as_str().unwrap().to_owned();
        assert_eq!(
            self.device("GET", "/devices/cam-1/commands?status=pending", None).as_array().unwrap().len(),
            1
        );
        self.device("PATCH", &format!("/commands/{id}"), Some(json!({"status": "acked"})));
        self.device(
            "PATCH",
            &format!("/commands/{id}"),
            Some(json!({"status": "completed", "result": {"ok": 1}})),
        );
        self.get(&format!("/commands/{id}"));
        let restart =
            self.ask("POST", "/devices/cam-1/restart", None, 201)["id"].as_str().unwrap().to_owned();
        let why = json!({"reason": "now"});
        self.ask("POST", &format!("/commands/{restart}/override"), Some(why), 200);
        self.ask("POST", &format!("/commands/{restart}/cancel"), None, 200);
        self.ask("POST", "/devices/cam-1/update", Some(json!({"version": "1.1.0"})), 201);
        let all = json!({"to": "*", "type": "config", "payload": {"changes": {"A": 1}}});
        self.ask("POST", "/commands?dry_run=true", Some(all.clone()), 200);
        self.ask("POST", "/commands", Some(all), 201);
        self.ask("POST", "/commands", Some(json!({"to": "cam-1", "type": "reboot"})), 201);
        self.get("/commands?status=open&type=reboot&sort=-priority&device_id=cam-1");
        assert_eq!(self.get("/devices/cam-1/commands")["total"], 5);
    }

    fn server(&self) {
        for format in ["", "?format=csv", "?format=jsonl", "?format=json&page_size=3"] {
            self.ask("GET", &format!("/audit{format}"), None, 200);
        }
        let document = self.server.get("/api/v1/openapi.json").send();
        self.server.get("/api/v1/openapi.json").header("if-none-match", &document.headers["etag"]).send();
        for path in
            ["/health", "/ready", "/metrics", "/ws", "/", "/dashboard.css", "/dashboard.js", "/favicon.svg"]
        {
            self.server.get(path).send();
        }
        // What changes credentials comes last.
        self.ask("POST", "/devices/cam-1/allow-reenrollment", None, 200);
        let csr = json!({"csr": common::certificate_request()});
        let signed = self.server.post("/api/v1/devices/cam-1/certificate").by_device(&self.device).json(&csr);
        assert_eq!(signed.status, 201, "{}", signed.text);
        self.ask("POST", "/devices/cam-1/revoke-certificates", None, 200);
        self.ask("POST", "/devices/cam-1/rotate-token", None, 200);
        self.ask("DELETE", "/devices/cam-1", None, 204);
    }
}

#[test]
fn every_operation_answers_as_it_is_documented() {
    let bench = Bench::new();
    bench.accounts();
    bench.devices();
    bench.history();
    bench.commands();
    bench.server();
    let seen = SEEN.lock().unwrap();
    for (path, method, operation) in operations() {
        let id = operation["operationId"].as_str().unwrap().to_owned();
        for status in operation["responses"].as_object().unwrap().keys().map(|key| key.parse().unwrap()) {
            let documented_success = (200..400).contains(&status) || id == "getGone" && status == 410;
            assert!(
                !documented_success || seen.contains(&(id.clone(), status)),
                "not shown: {method} {path} {status}"
            );
        }
    }
}

#[test]
fn what_is_not_as_documented_is_found() {
    let found =
        |method: &str, target: &str, body: Option<Value>, (status, kind, answer): (u16, &str, Value)| {
            let headers = [("content-type".to_owned(), kind.to_owned())].into();
            let answer = Answer { status, headers, text: answer.to_string(), body: answer };
            let body = body.map(|body| body.to_string().into_bytes());
            std::panic::catch_unwind(|| contract::check(method, target, body.as_deref(), &answer)).is_err()
        };
    let (json_type, health) = ("application/json", json!({"status": "ok", "version": "1"}));
    assert!(!found("GET", "/health", None, (200, json_type, health.clone())));
    assert!(found("GET", "/health", None, (418, json_type, health.clone())), "a status");
    assert!(found("GET", "/health", None, (200, "text/plain", health.clone())), "a content type");
    assert!(
        found("GET", "/health?x=1", None, (200, json_type, health.clone())),
        "a parameter that was accepted"
    );
    assert!(
        found("GET", "/health", Some(json!({})), (200, json_type, health.clone())),
        "a body that was accepted"
    );
    assert!(found("POST", "/health", None, (200, json_type, health)), "a method");
    assert!(
        found("GET", "/health", None, (200, json_type, json!({"status": "ok"}))),
        "a field that is missing"
    );
    let more = json!({"status": "ok", "version": "1", "more": 1});
    assert!(found("GET", "/health", None, (200, json_type, more)), "a field that is not documented");
    let key = json!({"id": "5a3c0c7e-6a53-4c1b-9a43-0e0f6f2f9b11", "key_prefix": "0123abcd", "uses": 0, "key": "a".repeat(64),
        "require_approval": false, "created_at": "2025-12-28T10:00:00Z"});
    let made = (201, json_type, key);
    let path = "/api/v1/enrollment-keys";
    assert!(!found("POST", path, Some(json!({"max_uses": 1})), made.clone()));
    assert!(
        found("POST", path, Some(json!({"max_uses": 0})), made),
        "a body that is out of bounds and was accepted"
    );
}
