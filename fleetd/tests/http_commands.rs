//! Commands by HTTP: create, look, cancel, override, and what is refused.
#![allow(clippy::unwrap_used)]

mod common;

use common::{Answer, Server};
use fleetd::store::Statement;
use fleetd::values;
use protocol::id::Role;
use serde_json::{Value, json};

fn server() -> Server {
    let server = Server::start();
    server.person("default", "vera", Role::Viewer);
    server.person("default", "otto", Role::Operator);
    server.person("default", "anna", Role::Admin);
    server.device("anna", "cam-1");
    server.device("anna", "cam-2");
    server
}

fn send(server: &Server, who: &str, path: &str, body: &Value) -> Answer {
    server.post(&format!("/api/v1{path}")).by_person(who).json(body)
}

fn look(server: &Server, path: &str) -> Answer {
    let answer = server.get(&format!("/api/v1{path}")).by_person("vera").send();
    assert_eq!(answer.status, 200, "{}", answer.text);
    answer
}

fn execute(server: &Server, sql: &'static str, params: Vec<fleetd::store::Value>) {
    server.runtime.block_on(server.app.store.apply_one(Statement::new(sql, params))).unwrap();
}

#[test]
fn a_command_is_created_found_and_cancelled() {
    let server = server();
    let body = json!({"type": "restart_service", "payload": {"service": "r58-api"}, "priority": 1, "ref": "n-17",
        "expires_in_seconds": 3600, "timeout_seconds": 60, "notes": "after soundcheck"});
    let made = send(&server, "otto", "/devices/cam-1/commands", &body);
    assert_eq!(made.status, 201, "{}", made.text);
    let command = &made.body;
    for (field, value) in [
        ("device", json!("cam-1")),
        ("type", json!("restart_service")),
        ("payload", json!({"service": "r58-api"})),
        ("status", json!("pending")),
        ("priority", json!(1)),
        ("timeout_seconds", json!(60)),
        ("ref", json!("n-17")),
        ("notes", json!("after soundcheck")),
        ("created_by", json!("user:otto@example.org")),
        ("revision", json!(1)),
    ] {
        assert_eq!(command[field], value, "{field}: {}", made.text);
    }
    let device = look(&server, "/devices/cam-1");
    assert_eq!(command["device_id"], device.body["id"]);
    assert_eq!(device.body["pending_commands"], 1);
    // The same again, also under the old prefix and by the device's UUID, is the same.
    let by_uuid = format!("/api/devices/{}/commands", device.body["id"].as_str().unwrap());
    let again = server.post(&by_uuid).by_person("otto").json(&body);
    assert_eq!((again.status, &again.body), (201, command));
    let mut other = body;
    other["priority"] = 2.into();
    send(&server, "otto", "/devices/cam-1/commands", &other).is_problem(409);

    let id = command["id"].as_str().unwrap();
    let found = look(&server, &format!("/commands/{id}"));
    assert_eq!(found.body["history"].as_array().unwrap().len(), 1);
    assert_eq!(found.body["history"][0]["status"], "pending");
    let listed = look(&server, "/devices/cam-1/commands?status=pending");
    assert_eq!((&listed.body["total"], &listed.body["items"][0]), (&json!(1), command));
    let cancel = || server.post(&format!("/api/v1/commands/{id}/cancel"));
    let cancelled = cancel().by_person("otto").send();
    assert_eq!((cancelled.status, &cancelled.body["status"]), (200, &json!("cancelled")));
    cancel().by_person("otto").send().is_problem(409);
    assert_eq!(look(&server, "/devices/cam-1").body["pending_commands"], 0);
    let audit = server.audit();
    for row in [
        format!("command.create ok user:otto@example.org {id}"),
        "command.create refused user:otto@example.org cam-1".to_owned(),
        format!("command.cancel ok user:otto@example.org {id}"),
        format!("command.cancel refused user:otto@example.org {id}"),
    ] {
        assert!(audit.contains(&row), "{row}: {audit:#?}");
    }
}

#[test]
fn what_is_wrong_with_a_request_is_told_by_status_and_field() {
    let server = server();
    for (body, fields) in [
        (json!({"type": "dance"}), vec!["type"]),
        (json!({"type": "ping", "retain": true}), vec!["retain"]),
        (json!({"type": "restart_service", "payload": "r58-api"}), vec!["payload"]),
        (json!({"type": "config", "payload": {"changes": {}}}), vec!["payload.changes"]),
        (json!({"type": "ping", "priority": 0, "timeout_seconds": 0}), vec!["priority", "timeout_seconds"]),
        (json!({"type": "ping", "expires_at": "2020-01-01T00:00:00Z"}), vec!["expires_at"]),
        (json!({"type": "ping", "expires_at": "2999-01-01T00:00:00Z"}), vec!["expires_at"]),
        (json!({"type": "ping", "expires_in_seconds": 2_592_001}), vec!["expires_in_seconds"]),
        (json!({"type": "ping", "to": "cam-1"}), vec!["to"]),
        (json!([]), vec![""]),
    ] {
        let answer = send(&server, "otto", "/devices/cam-1/commands", &body);
        assert_eq!(answer.is_problem(422).fields(), fields, "{body}");
    }
    let raw = |body: &[u8]| {
        let call = server.post("/api/v1/devices/cam-1/commands").by_person("otto");
        call.header("content-type", "application/json").bytes(body)
    };
    raw(b"{\"type\": \"ping\"").is_problem(400);
    raw(b"\xa1\x64type\x64ping").is_problem(400);
    raw(b"{\"type\": \"\xff\"}").is_problem(400);
    raw("[".repeat(5000).as_bytes()).is_problem(400);
    raw(&b" ".repeat(70_000)).is_problem(413);
    assert_eq!(raw(b"\xef\xbb\xbf{\"type\": \"ping\"}").status, 201);
    let plain = server.post("/api/v1/devices/cam-1/commands").by_person("otto");
    plain.header("content-type", "text/plain").bytes(b"{\"type\": \"ping\"}").is_problem(415);
    for device in ["cam-9", "Cam", "*", "tag:x"] {
        let path = format!("/devices/{device}/commands");
        send(&server, "otto", &path, &json!({"type": "ping"})).is_problem(404);
    }
    for query in ["?status=open,held", "?type=dance", "?sort=payload", "?page=0", "?foo=1"] {
        server.get(&format!("/api/v1/commands{query}")).by_person("vera").send().is_problem(400);
    }
    server.get("/api/v1/commands?device_id=cam-9").by_person("vera").send().is_problem(404);
    server.post("/api/v1/commands?dry_run=yes").by_person("otto").json(&json!({})).is_problem(400);
    server.get("/api/v1/commands/nothing").by_person("vera").send().is_problem(404);
}

#[test]
fn several_devices_get_one_answer_each_and_a_dry_run_creates_nothing() {
    let server = server();
    let waiting = json!({"tags": ["hall"]});
    assert_eq!(server.call("PATCH", "/api/v1/devices/cam-2").by_person("otto").json(&waiting).status, 200);
    let dry = send(&server, "otto", "/commands?dry_run=true", &json!({"to": "*", "type": "reboot"}));
    assert_eq!(dry.status, 200, "{}", dry.text);
    assert_eq!(dry.body["items"][0]["device_id"], "cam-1");
    assert_eq!(dry.body["items"][0]["would_run"], false);
    assert!(dry.body["items"][0]["reason"].as_str().unwrap().starts_with("offline: "));
    assert_eq!(look(&server, "/commands").body["total"], 0);

    let body = json!({"to": "tag:hall", "type": "ping", "ref": "r"});
    let hall = send(&server, "otto", "/commands", &body);
    assert_eq!(hall.status, 201, "{}", hall.text);
    assert_eq!(hall.body["items"].as_array().unwrap().len(), 1);
    assert_eq!(hall.body["items"][0]["device_id"], "cam-2");
    let other = json!({"to": "*", "type": "ping", "ref": "r", "priority": 1});
    let all = send(&server, "otto", "/commands", &other);
    assert_eq!(all.status, 201);
    assert_eq!(all.body["items"][0]["command"]["device"], "cam-1");
    assert!(all.body["items"][1]["error"].as_str().unwrap().contains("ref"), "{}", all.text);
    assert!(all.body["items"][1].get("command").is_none());
    // One device alone: the error is the answer, and the command is in the list of one.
    let alone = json!({"to": "cam-2", "type": "ping", "ref": "r", "priority": 1});
    send(&server, "otto", "/commands", &alone).is_problem(409);
    let one = send(&server, "otto", "/commands", &json!({"to": "cam-2", "type": "ping"}));
    assert_eq!((one.status, &one.body["items"][0]["command"]["device"]), (201, &json!("cam-2")));
    for to in ["cam-9", "tag:nobody"] {
        send(&server, "otto", "/commands", &json!({"to": to, "type": "ping"})).is_problem(404);
    }
    for to in [json!("Cam"), json!(7), json!(null), json!("tag:")] {
        let answer = send(&server, "otto", "/commands", &json!({"to": to, "type": "ping"}));
        assert_eq!(answer.is_problem(422).fields(), ["to"]);
    }
    let listed = look(&server, "/commands?status=open&type=ping&sort=device&page_size=2");
    assert_eq!((&listed.body["total"], &listed.body["has_more"]), (&json!(3), &json!(true)));
    assert_eq!(listed.body["items"][0]["device"], "cam-1");
    assert_eq!(look(&server, "/commands?device_id=cam-1").body["total"], 1);
    let refused = "command.create refused user:otto@example.org";
    assert!(server.audit().iter().any(|row| *row == format!("{refused} *")), "{:#?}", server.audit());
    assert!(server.audit().iter().any(|row| *row == format!("{refused} cam-2")));
}

#[test]
fn an_unapproved_device_keeps_its_command_and_a_decommissioned_one_gets_none() {
    let server = server();
    execute(&server, "UPDATE devices SET approval = 'awaiting' WHERE device_id = 'cam-2'", vec![]);
    let made = send(&server, "otto", "/devices/cam-2/commands", &json!({"type": "ping"}));
    assert_eq!((made.status, &made.body["status"]), (201, &json!("pending")));
    let dry = send(&server, "otto", "/commands?dry_run=true", &json!({"to": "cam-2", "type": "ping"}));
    assert!(dry.body["items"][0]["reason"].as_str().unwrap().starts_with("awaiting_approval"));
    assert_eq!(server.call("DELETE", "/api/v1/devices/cam-2").by_person("anna").send().status, 204);
    for path in ["/devices/cam-2/commands", "/devices/cam-2/restart"] {
        let body = if path.ends_with("restart") { json!({}) } else { json!({"type": "ping"}) };
        send(&server, "otto", path, &body).is_problem(404);
    }
    // Its history can still be read.
    assert_eq!(look(&server, "/devices/cam-2/commands").body["total"], 1);
}

#[test]
fn restart_and_update_have_paths_of_their_own() {
    let server = server();
    let restart = server.post("/api/v1/devices/cam-1/restart").by_person("otto").send();
    assert_eq!(restart.status, 201, "{}", restart.text);
    assert_eq!(restart.body["type"], "restart_service");
    assert_eq!(restart.body["payload"], json!({"service": "r58-api"}));
    let named =
        send(&server, "otto", "/devices/cam-1/restart", &json!({"service": "mediamtx", "priority": 1}));
    assert_eq!((&named.body["payload"]["service"], &named.body["priority"]), (&json!("mediamtx"), &json!(1)));
    assert_eq!(
        send(&server, "otto", "/devices/cam-1/restart", &json!({"service": 1})).is_problem(422).fields(),
        ["service"]
    );
    let birth = json!({"state_id": "0000000000000001", "connection": 1, "next_seq": 1, "boot_id": "b",
        "agent_version": "1", "arch": "aarch64", "interval_seconds": 60, "transport": "mqtt", "app_unit": "mixer.service"});
    let say = "INSERT INTO device_state (device_id, org_id, birth) SELECT id, org_id, ?1 FROM devices \
               WHERE device_id = 'cam-1'";
    execute(&server, say, values![birth.to_string()]);
    let own = server.post("/api/v1/devices/cam-1/restart").by_person("otto").send();
    assert_eq!(own.body["payload"]["service"], "mixer", "{}", own.text);

    send(&server, "otto", "/devices/cam-1/update", &json!({"version": "2.0"})).is_problem(403);
    send(
        &server,
        "otto",
        "/devices/cam-1/commands",
        &json!({"type": "update", "payload": {"version": "2.0"}}),
    )
    .is_problem(403);
    let update = send(&server, "anna", "/devices/cam-1/update", &json!({"version": "2.0"}));
    assert_eq!((update.status, &update.body["timeout_seconds"]), (201, &json!(3600)), "{}", update.text);
    let nothing = send(&server, "anna", "/devices/cam-1/update", &json!({}));
    assert_eq!(nothing.is_problem(422).fields(), ["version"]);
    let target = json!({"target_version": "3.0"});
    assert_eq!(server.call("PATCH", "/api/v1/devices/cam-1").by_person("anna").json(&target).status, 200);
    let to_target = server.post("/api/v1/devices/cam-1/update").by_person("anna").send();
    assert_eq!(to_target.body["payload"], json!({"version": "3.0"}), "{}", to_target.text);
    let branch = send(&server, "anna", "/devices/cam-1/update", &json!({"branch": "main"}));
    assert_eq!(branch.body["payload"], json!({"branch": "main"}));
}

#[test]
fn overriding_a_show_is_for_admins_and_needs_a_reason() {
    let server = server();
    let reboot = json!({"type": "reboot", "override_show": {"reason": "the hall is empty"}});
    send(&server, "otto", "/devices/cam-1/commands", &reboot).is_problem(403);
    let made = send(&server, "anna", "/devices/cam-1/commands", &reboot);
    assert_eq!((made.status, &made.body["override_reason"]), (201, &json!("the hall is empty")));
    let plain = send(&server, "otto", "/devices/cam-1/commands", &json!({"type": "reboot"}));
    let path = format!("/commands/{}/override", plain.body["id"].as_str().unwrap());
    for bad in [json!({}), json!({"reason": ""}), json!({"reason": 7}), json!({"reason": "x".repeat(501)})] {
        assert_eq!(send(&server, "anna", &path, &bad).is_problem(422).fields(), ["reason"], "{bad}");
    }
    let reason = json!({"reason": "now"});
    send(&server, "otto", &path, &reason).is_problem(403);
    send(&server, "vera", &path, &reason).is_problem(403);
    let overridden = send(&server, "anna", &path, &reason);
    assert_eq!((overridden.status, &overridden.body["override_reason"]), (200, &json!("now")));
    assert_eq!(overridden.body["revision"], 2);
    execute(&server, "UPDATE commands SET status = 'failed'", vec![]);
    send(&server, "anna", &path, &reason).is_problem(409);
    let refused = "command.override refused user:otto@example.org";
    assert!(server.audit().iter().any(|row| row.starts_with(refused)), "{:#?}", server.audit());
}

#[test]
fn another_organisations_commands_do_not_exist() {
    let server = server();
    server.person("other", "omar", Role::Admin);
    let made = send(&server, "otto", "/devices/cam-1/commands", &json!({"type": "ping"}));
    let id = made.body["id"].as_str().unwrap();
    server.get(&format!("/api/v1/commands/{id}")).by_person("omar").send().is_problem(404);
    server.post(&format!("/api/v1/commands/{id}/cancel")).by_person("omar").send().is_problem(404);
    send(&server, "omar", &format!("/commands/{id}/override"), &json!({"reason": "x"})).is_problem(404);
    send(&server, "omar", "/devices/cam-1/commands", &json!({"type": "ping"})).is_problem(404);
    send(&server, "omar", "/commands", &json!({"to": "*", "type": "ping"})).is_problem(404);
    let uuid = made.body["device_id"].as_str().unwrap();
    send(&server, "omar", "/commands", &json!({"to": uuid, "type": "ping"})).is_problem(404);
    assert_eq!(server.get("/api/v1/commands").by_person("omar").send().body["total"], 0);
}

#[test]
fn an_api_key_needs_the_scope_for_commands() {
    let server = server();
    for (key, scopes) in [("r".repeat(64), "[\"commands:read\"]"), ("w".repeat(64), "[\"commands:write\"]")] {
        let add = "INSERT INTO api_keys (id, org_id, user_id, name, key_prefix, key_sha256, scopes, created_at) \
                   SELECT ?1, org_id, id, ?1, ?1, ?2, ?3, 0 FROM users WHERE username = 'otto'";
        let hash = fleetd::domain::command_request::sha256_hex(key.as_bytes());
        execute(&server, add, values![&key[..8], hash, scopes]);
    }
    let create = |key: char| {
        let call = server.post("/api/v1/devices/cam-1/commands").bearer(&key.to_string().repeat(64));
        call.json(&json!({"type": "ping"})).status
    };
    let list = |key: char| server.get("/api/v1/commands").bearer(&key.to_string().repeat(64)).send().status;
    assert_eq!((create('r'), create('w'), list('r'), list('w')), (403, 201, 200, 403));
    assert_eq!(look(&server, "/commands").body["items"][0]["created_by"], "key:wwwwwwww");
}
