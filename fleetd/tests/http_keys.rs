//! Service accounts, API keys and enrolment keys.
#![allow(clippy::unwrap_used)]

mod common;

use std::time::{Duration, Instant};

use broker::{Authenticator as _, ConnectAttempt, Principal, Refusal, Secret, Transport};
use common::{Answer, Server};
use fleetd::auth::mqtt::DatabaseAuthenticator;
use protocol::id::Role;
use serde_json::{Value, json};

fn server() -> Server {
    let server = Server::start();
    server.person("default", "anna", Role::Admin);
    server.person("default", "otto", Role::Operator);
    server.device("anna", "cam-1");
    server
}

fn make(server: &Server, path: &str, by: &str, body: &Value) -> Answer {
    let made = server.post(&format!("/api/v1/{path}")).by_person(by).json(body);
    assert_eq!(made.status, 201, "{}", made.text);
    made
}

fn text(value: &Value) -> String {
    value.as_str().unwrap().to_owned()
}

fn remove(server: &Server, path: &str, by: &str, id: &Value) -> Answer {
    server.call("DELETE", &format!("/api/v1/{path}/{}", id.as_str().unwrap())).by_person(by).send()
}

fn connect(server: &Server, name: &str, password: &str) -> Result<Role, Refusal> {
    let attempt = ConnectAttempt {
        client_id: "any".to_owned(),
        username: Some(name.to_owned()),
        password: Some(Secret::new(password)),
        peer: "127.0.0.1:9".parse().unwrap(),
        transport: Transport::Tcp,
        certificate: None,
    };
    let authenticator = DatabaseAuthenticator::new(server.app.clone());
    match server.runtime.block_on(authenticator.authenticate(attempt))? {
        Principal::Person { role, .. } => Ok(role),
        other => panic!("{other}"),
    }
}

fn ended(server: &Server) -> Vec<String> {
    std::mem::take(&mut *server.ended.0.lock().unwrap())
}

#[test]
fn a_service_account_acts_with_its_keys_and_has_no_password() {
    let server = server();
    let robot = make(&server, "service-accounts", "anna", &json!({"username": "robot", "role": "operator"}));
    let body = &robot.body;
    assert_eq!(
        (&body["name"], &body["role"], &body["email"]),
        (&json!("robot"), &json!("operator"), &Value::Null)
    );
    let key = make(&server, "api-keys", "anna", &json!({"name": "CI", "service_account_id": body["id"]}));
    assert_eq!(key.body["owner"], "robot");
    let key = text(&key.body["key"]);
    let me = server.get("/api/v1/auth/me").bearer(&key).send();
    assert_eq!((&me.body["username"], &me.body["id"]), (&json!("robot"), &body["id"]));
    let ping = server.post("/api/v1/devices/cam-1/commands").bearer(&key).json(&json!({"type": "ping"}));
    assert_eq!(ping.status, 201, "{}", ping.text);
    server.get("/api/v1/users").bearer(&key).send().is_problem(403);
    assert_eq!(connect(&server, "default/robot", &key), Ok(Role::Operator));
    for password in ["", "robot", "another password"] {
        assert_eq!(connect(&server, "default/robot", password), Err(Refusal::BadCredentials), "{password:?}");
    }
    for email in ["robot", "default/robot", &format!("service:{}", text(&body["id"]))] {
        let login = json!({"email": email, "password": "another password"});
        server.post("/api/v1/auth/login").json(&login).is_problem(401);
    }
    let own = json!({"old": "x", "new": "another password"});
    server.post("/api/v1/auth/password").bearer(&key).json(&own).is_problem(403);
    // Devices, people and service accounts share one name space.
    let again = |name: &str| {
        let call = server.post("/api/v1/service-accounts").by_person("anna");
        call.json(&json!({"username": name, "role": "viewer"})).status
    };
    assert_eq!(
        (again("robot"), again("otto"), again("cam-1"), again("A b"), again("x\u{0}")),
        (409, 409, 409, 422, 422)
    );
    let people = server.get("/api/v1/users").by_person("anna").send();
    assert!(!people.text.contains("robot"), "{}", people.text);
    let person = format!("/api/v1/users/{}", text(&body["id"]));
    server.get(&person).by_person("anna").send().is_problem(404);
}

#[test]
fn a_service_account_is_listed_changed_and_disabled_with_its_keys() {
    let server = server();
    server.person("other", "eve", Role::Admin);
    let robot = make(
        &server,
        "service-accounts",
        "anna",
        &json!({"username": "robot", "role": "viewer", "name": "R"}),
    );
    let id = robot.body["id"].clone();
    let path = format!("/api/v1/service-accounts/{}", text(&id));
    let key =
        text(&make(&server, "api-keys", "anna", &json!({"name": "k", "service_account_id": id})).body["key"]);
    let patch = |by: &str, body: &Value| server.call("PATCH", &path).by_person(by).json(body);
    assert_eq!(patch("anna", &json!({"role": "operator"})).body["role"], "operator");
    assert_eq!(ended(&server), ["user default/robot"]);
    for bad in [json!({"is_superadmin": true}), json!({"email": "x@example.org"}), json!({"role": "king"})] {
        patch("anna", &bad).is_problem(422);
    }
    for answer in [
        server.get(&path).by_person("eve").send(),
        patch("eve", &json!({"name": "X"})),
        remove(&server, "service-accounts", "eve", &id),
    ] {
        answer.is_problem(404);
    }
    let elsewhere = json!({"name": "k", "service_account_id": id});
    server.post("/api/v1/api-keys").by_person("eve").json(&elsewhere).is_problem(404);
    server.post("/api/v1/api-keys").by_person("otto").json(&elsewhere).is_problem(403);
    let listed = server.get("/api/v1/service-accounts").by_person("anna").send();
    assert_eq!((&listed.body["total"], &listed.body["items"][0]["username"]), (&json!(1), &json!("robot")));
    assert_eq!(remove(&server, "service-accounts", "anna", &id).status, 204);
    assert_eq!(ended(&server), ["user default/robot"]);
    server.get("/api/v1/auth/me").bearer(&key).send().is_problem(401);
    assert!(connect(&server, "default/robot", &key).is_err());
    server.post("/api/v1/api-keys").by_person("anna").json(&elsewhere).is_problem(409);
    assert_eq!(patch("anna", &json!({"is_active": true})).status, 200);
    assert_eq!(server.get("/api/v1/auth/me").bearer(&key).send().status, 200);
    let audit = server.audit();
    for action in ["create", "update", "disable"] {
        let row = format!("service_account.{action} ok user:anna@example.org default/robot");
        assert!(audit.contains(&row), "{row}: {audit:#?}");
    }
}

#[test]
fn a_key_is_shown_once_and_its_hash_alone_is_kept() {
    let server = server();
    let body = json!({"name": "laptop", "scopes": ["devices:read"], "expires_at": "2990-01-01T00:00:00Z"});
    let made = make(&server, "api-keys", "otto", &body);
    let key = text(&made.body["key"]);
    assert_eq!((key.len(), &key[..8]), (64, made.body["key_prefix"].as_str().unwrap()));
    assert_eq!(server.get("/api/v1/devices").bearer(&key).send().status, 200);
    let path = format!("/api/v1/api-keys/{}", text(&made.body["id"]));
    let got = server.get(&path).by_person("otto").send();
    assert_eq!((&got.body["name"], &got.body["scopes"]), (&json!("laptop"), &json!(["devices:read"])));
    assert_eq!(got.body["expires_at"], "2990-01-01T00:00:00Z");
    assert!(got.body["last_used_at"].is_string() && !got.text.contains(&key), "{}", got.text);
    let renamed = server.call("PATCH", &path).by_person("otto").json(&json!({"name": "desk"}));
    assert_eq!((renamed.status, &renamed.body["name"]), (200, &json!("desk")));
    server.call("PATCH", &path).by_person("otto").json(&json!({"scopes": ["users:write"]})).is_problem(422);
    // Somebody else's keys do not exist, also for an admin.
    server.get(&path).by_person("anna").send().is_problem(404);
    server.call("PATCH", &path).by_person("anna").json(&json!({"name": "x"})).is_problem(404);
    remove(&server, "api-keys", "anna", &made.body["id"]).is_problem(404);
    assert_eq!(server.get("/api/v1/api-keys").by_person("anna").send().body["total"], 0);
    assert_eq!(server.get("/api/v1/api-keys?sort=-name").by_person("otto").send().body["total"], 1);
    let rows = server.runtime.block_on(server.app.store.query("SELECT * FROM api_keys", Vec::new())).unwrap();
    assert!(!format!("{rows:?} {:?}", server.audit_details("api_key.create")).contains(&key));
    assert!(server.audit().contains(&format!("api_key.create ok user:otto@example.org {}", &key[..8])));
}

#[test]
fn what_is_wrong_with_a_key_is_told_by_field() {
    let server = server();
    let wrong = [
        ("name", json!("")),
        ("name", json!("a\u{0}b")),
        ("name", json!("x".repeat(101))),
        ("scopes", json!([])),
        ("scopes", json!(["devices:destroy"])),
        ("scopes", json!(["devices:read", "devices:read"])),
        ("scopes", json!("devices:read")),
        ("scopes", json!([1])),
        ("expires_at", json!("2001-01-01T00:00:00Z")),
        ("expires_at", json!("tomorrow")),
        ("expires_at", json!(5)),
        ("key", json!("a".repeat(64))),
    ];
    for (field, value) in wrong {
        let mut body = json!({"name": "k"});
        body[field] = value.clone();
        let answer = server.post("/api/v1/api-keys").by_person("otto").json(&body);
        assert_eq!(answer.is_problem(422).fields(), [field], "{value}: {}", answer.text);
    }
    let broken = server.post("/api/v1/api-keys").by_person("otto").header("content-type", "application/json");
    broken.bytes(b"{\"name\": ").is_problem(400);
}

#[test]
fn a_limited_key_may_do_what_its_scopes_say_over_http_and_mqtt_alike() {
    let server = server();
    let key = |by: &str, scopes: &[&str]| {
        text(&make(&server, "api-keys", by, &json!({"name": "k", "scopes": scopes})).body["key"])
    };
    let status = |method: &str, path: &str, key: &str, body: &Value| {
        let call = server.call(method, &format!("/api/v1/{path}")).bearer(key);
        if method == "GET" { call.send().status } else { call.json(body).status }
    };
    let ping = json!({"type": "ping"});
    let may = |key: &str| {
        let commands = "devices/cam-1/commands";
        (
            status("GET", "devices", key, &ping),
            status("GET", "commands", key, &ping),
            status("POST", commands, key, &ping),
        )
    };
    let all = ["devices:read", "commands:read", "commands:write"];
    // Lists devices, lists commands, sends one; and the role over MQTT.
    type May<'a> = (&'a [&'a str], (u16, u16, u16), Result<Role, Refusal>);
    let table: [May<'_>; 6] = [
        (&all, (200, 200, 201), Ok(Role::Operator)),
        (&all[..1], (200, 403, 403), Ok(Role::Viewer)),
        (&all[..2], (200, 200, 403), Ok(Role::Viewer)),
        (&["devices:read", "commands:write"], (200, 403, 201), Ok(Role::Viewer)),
        (&all[1..], (403, 200, 201), Err(Refusal::NotAuthorized)),
        (&["releases:write"], (403, 403, 403), Err(Refusal::NotAuthorized)),
    ];
    for (scopes, http, mqtt) in table {
        let key = key("otto", scopes);
        assert_eq!((may(&key), connect(&server, "otto@example.org", &key)), (http, mqtt), "{scopes:?}");
    }
    // A limited key leads to no other, and to no password.
    let people = key("anna", &["users:read", "users:write", "devices:write"]);
    assert_eq!(status("GET", "users", &people, &ping), 200);
    for path in ["api-keys", "auth/password"] {
        assert_eq!(status("POST", path, &people, &json!({"name": "x"})), 403, "{path}");
    }
    assert_eq!(status("POST", "enrollment-keys", &people, &json!({})), 201);
    // A scope gives nothing that the role does not.
    assert_eq!(status("GET", "users", &key("otto", &["users:read"]), &ping), 403);
    assert_eq!(status("GET", "orgs", &key("anna", &["orgs:read"]), &ping), 403);
}

#[test]
fn a_key_that_is_taken_back_is_dead_at_once_and_its_connections_end() {
    let server = server();
    let made = make(&server, "api-keys", "otto", &json!({"name": "k"}));
    let key = text(&made.body["key"]);
    assert_eq!(connect(&server, "default/otto", &key), Ok(Role::Operator));
    assert_eq!(remove(&server, "api-keys", "otto", &made.body["id"]).status, 204);
    assert_eq!(ended(&server), [format!("user default/otto with {}", text(&made.body["id"]))]);
    server.get("/api/v1/auth/me").bearer(&key).send().is_problem(401);
    assert!(connect(&server, "default/otto", &key).is_err());
    remove(&server, "api-keys", "otto", &made.body["id"]).is_problem(404);
    assert!(server.audit().contains(&format!("api_key.revoke ok user:otto@example.org {}", &key[..8])));
}

#[test]
fn a_key_that_expires_ends_its_connections_as_well() {
    let server = server();
    let soon = protocol::message::rfc3339(server.app.clock.now_ms() + 1500);
    let made = make(&server, "api-keys", "otto", &json!({"name": "k", "expires_at": soon}));
    let key = text(&made.body["key"]);
    let deadline = Instant::now() + Duration::from_secs(10);
    while ended(&server) != [format!("user default/otto with {}", text(&made.body["id"]))] {
        assert!(Instant::now() < deadline, "nobody ended the connections");
        std::thread::sleep(Duration::from_millis(50));
    }
    server.get("/api/v1/auth/me").bearer(&key).send().is_problem(401);
}

#[test]
fn one_account_has_a_hundred_keys_at_most() {
    let server = server();
    let make = || server.post("/api/v1/api-keys").by_person("otto").json(&json!({"name": "k"}));
    let first = make();
    for n in 1..100 {
        assert_eq!(make().status, 201, "{n}");
    }
    assert!(make().is_problem(409).text.contains("100 keys"));
    assert_eq!(remove(&server, "api-keys", "otto", &first.body["id"]).status, 204);
    assert_eq!(make().status, 201);
}

#[test]
fn an_enrolment_key_has_terms_is_shown_once_and_can_be_taken_back() {
    let server = server();
    server.person("other", "eve", Role::Admin);
    let body = json!({"max_uses": 2, "expires_at": "2990-01-01T00:00:00Z", "require_approval": true});
    let made = make(&server, "enrollment-keys", "anna", &body);
    let key = text(&made.body["key"]);
    let enrol = |id: &str| {
        let call = server.post("/api/v1/devices/register").header("x-enrollment-key", &key);
        call.json(&json!({"device_id": id, "token_sha256": "ab".repeat(32)}))
    };
    assert_eq!(enrol("new-1").body["status"], "awaiting_approval");
    let path = format!("/api/v1/enrollment-keys/{}", text(&made.body["id"]));
    let got = server.get(&path).by_person("anna").send();
    let expected = json!({
        "id": made.body["id"], "key_prefix": &key[..8], "max_uses": 2, "uses": 1, "require_approval": true,
        "expires_at": "2990-01-01T00:00:00Z", "created_at": made.body["created_at"],
    });
    assert_eq!(got.body, expected);
    let listed = server.get("/api/v1/enrollment-keys?sort=-uses").by_person("anna").send();
    assert_eq!((&listed.body["total"], &listed.body["items"][0]), (&json!(1), &expected));
    assert!(!listed.text.contains(&key));
    server.get(&path).by_person("eve").send().is_problem(404);
    remove(&server, "enrollment-keys", "eve", &made.body["id"]).is_problem(404);
    assert_eq!(server.get("/api/v1/enrollment-keys").by_person("eve").send().body["total"], 0);
    assert_eq!(remove(&server, "enrollment-keys", "anna", &made.body["id"]).status, 204);
    enrol("new-2").is_problem(401);
    remove(&server, "enrollment-keys", "anna", &made.body["id"]).is_problem(404);
    // Without any terms: any number, for ever, at once.
    let free = server.post("/api/v1/enrollment-keys").by_person("anna").send();
    assert_eq!((free.status, &free.body["max_uses"]), (201, &Value::Null));
    for bad in [
        json!({"max_uses": 0}),
        json!({"max_uses": "2"}),
        json!({"expires_at": "2001-01-01T00:00:00Z"}),
        json!({"require_approval": 1}),
        json!({"uses": 1}),
    ] {
        server.post("/api/v1/enrollment-keys").by_person("anna").json(&bad).is_problem(422);
    }
    let audit = server.audit();
    for row in ["create", "revoke"] {
        let row = format!("enrollment_key.{row} ok user:anna@example.org {}", &key[..8]);
        assert!(audit.contains(&row), "{row}: {audit:#?}");
    }
}
