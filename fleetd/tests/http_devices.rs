//! Devices by HTTP: registration both ways, lists, changes, roles, organisations.
#![allow(clippy::unwrap_used)]

mod common;

use common::Server;
use fleetd::service::accounts::KeyTerms;
use protocol::id::Role;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

/// As `sha256sum` prints it.
fn sha256(text: &str) -> String {
    Sha256::digest(text.as_bytes()).iter().map(|byte| format!("{byte:02x}")).collect()
}

fn with_admin() -> Server {
    let server = Server::start();
    server.person("default", "admin", Role::Admin);
    server
}

fn enroll(server: &Server, key: &str, body: &Value) -> common::Answer {
    server.post("/api/v1/devices/register").header("x-enrollment-key", key).json(body)
}

#[test]
fn an_admin_registers_a_device_and_its_token_works_at_once() {
    let server = with_admin();
    let answer = server.post("/api/v1/devices/register").by_person("admin").json(&json!({
        "device_id": "studio-001", "name": "Studio 1", "platform": "r58", "arch": "aarch64",
        "serial_number": "SN1", "mac_address": "00:11:22:33:44:55", "current_version": "1.0.0",
        "capabilities": {"inputs": 4},
    }));
    assert_eq!(answer.status, 201, "{}", answer.text);
    assert_eq!(answer.body["device_id"], "studio-001");
    assert_eq!(answer.body["org"], "default");
    assert_eq!(answer.body["fleet_url"], server.url);
    assert_eq!(answer.body["status"], "offline");
    let token = answer.body["token"].as_str().unwrap();
    assert_eq!(token.len(), 64);
    let device = server.get("/api/v1/devices/studio-001").by_device(token).send();
    assert_eq!(device.status, 200, "{}", device.text);
    assert_eq!(device.body["serial_number"], "SN1");
    assert_eq!(device.body["current_version"], "1.0.0");
    assert_eq!(device.body["capabilities"]["inputs"], 4);
    assert_eq!(device.body["pending_commands"], 0);
    assert!(!device.text.contains(token));
    let again =
        server.post("/api/v1/devices/register").by_person("admin").json(&json!({"device_id": "studio-001"}));
    again.is_problem(409);
    assert!(server.audit().contains(&"device.register ok user:admin@example.org studio-001".to_owned()));
}

#[test]
fn a_device_enrols_with_its_own_token_and_may_repeat_that_for_ever() {
    let server = with_admin();
    let terms = KeyTerms { max_uses: Some(1), ..KeyTerms::default() };
    let key = server.enrollment_key("default", terms);
    let token = "a1".repeat(32);
    let body = json!({"device_id": "cam-1", "token_sha256": sha256(&token)});
    let first = enroll(&server, &key, &body);
    assert_eq!(first.status, 201, "{}", first.text);
    assert!(first.body.get("token").is_none());
    assert_eq!(server.get("/api/v1/connect").by_device(&token).send().status, 200);
    // The key is used up now; the same request still gets the same answer, another device does not.
    for _ in 0..3 {
        let again = enroll(&server, &key, &body);
        assert_eq!((again.status, &again.body), (201, &first.body));
    }
    enroll(&server, &key, &json!({"device_id": "cam-2", "token_sha256": sha256("b")})).is_problem(403);
    // Another token for the same id: only after an admin allowed it, and only once.
    let other = json!({"device_id": "cam-1", "token_sha256": sha256("other")});
    let fresh = server.enrollment_key("default", KeyTerms::default());
    enroll(&server, &fresh, &other).is_problem(409);
    let allowed = server.post("/api/v1/devices/cam-1/allow-reenrollment").by_person("admin").send();
    assert_eq!(allowed.status, 200, "{}", allowed.text);
    assert_eq!(enroll(&server, &fresh, &other).status, 201);
    server.get("/api/v1/connect").by_device(&token).send().is_problem(401);
    assert_eq!(server.get("/api/v1/connect").by_device("other").send().status, 200);
    assert_eq!(*server.ended.0.lock().unwrap(), ["device default/cam-1"]);
    enroll(&server, &fresh, &json!({"device_id": "cam-1", "token_sha256": sha256("third")})).is_problem(409);
}

#[test]
fn an_expired_key_still_answers_a_repetition_and_nothing_else() {
    let server = with_admin();
    let terms = KeyTerms { expires_in_hours: Some(1), ..KeyTerms::default() };
    let key = server.enrollment_key("default", terms);
    let body = json!({"device_id": "cam-1", "token_sha256": sha256("t")});
    assert_eq!(enroll(&server, &key, &body).status, 201);
    let past = "UPDATE enrollment_keys SET expires_at = 1";
    let expire = server.app.store.apply_one(fleetd::store::Statement::new(past, Vec::new()));
    server.runtime.block_on(expire).unwrap();
    assert_eq!(enroll(&server, &key, &body).status, 201);
    let refused = enroll(&server, &key, &json!({"device_id": "cam-2", "token_sha256": sha256("t2")}));
    assert!(refused.is_problem(403).body["detail"].as_str().unwrap().contains("expired"));
}

#[test]
fn a_key_that_asks_for_approval_makes_a_device_that_waits() {
    let server = with_admin();
    let terms = KeyTerms { require_approval: true, ..KeyTerms::default() };
    let key = server.enrollment_key("default", terms);
    let body = json!({"device_id": "cam-1", "token_sha256": sha256("t")});
    let answer = enroll(&server, &key, &body);
    assert_eq!(answer.body["status"], "awaiting_approval");
    let waiting = server.get("/api/v1/devices?status=awaiting_approval").by_person("admin").send();
    assert_eq!(waiting.body["total"], 1);
    let approved = server.post("/api/v1/devices/cam-1/approve").by_person("admin").send();
    assert_eq!(approved.body["status"], "offline", "{}", approved.text);
    assert_eq!(enroll(&server, &key, &body).body["status"], "offline");
}

#[test]
fn a_used_up_key_is_not_stretched_by_devices_that_come_at_once() {
    let server = with_admin();
    let key = server.enrollment_key("default", KeyTerms { max_uses: Some(3), ..KeyTerms::default() });
    let statuses: Vec<u16> = std::thread::scope(|scope| {
        let calls: Vec<_> = (0..8)
            .map(|n| {
                let (server, key) = (&server, &key);
                scope.spawn(move || {
                    let body =
                        json!({"device_id": format!("cam-{n}"), "token_sha256": sha256(&n.to_string())});
                    enroll(server, key, &body).status
                })
            })
            .collect();
        calls.into_iter().map(|call| call.join().unwrap()).collect()
    });
    assert_eq!(statuses.iter().filter(|status| **status == 201).count(), 3, "{statuses:?}");
    assert!(statuses.iter().all(|status| matches!(status, 201 | 403)), "{statuses:?}");
}

#[test]
fn the_same_registration_many_times_at_once_makes_one_device() {
    let server = with_admin();
    let key = server.enrollment_key("default", KeyTerms { max_uses: Some(1), ..KeyTerms::default() });
    let body = json!({"device_id": "cam-1", "token_sha256": sha256("t")});
    std::thread::scope(|scope| {
        let calls: Vec<_> = (0..6).map(|_| scope.spawn(|| enroll(&server, &key, &body))).collect();
        for call in calls {
            let answer = call.join().unwrap();
            assert_eq!(answer.status, 201, "{}", answer.text);
        }
    });
}

#[test]
fn an_unknown_key_and_no_key_are_refused() {
    let server = with_admin();
    enroll(&server, &"0".repeat(64), &json!({"device_id": "cam-1"})).is_problem(401);
    enroll(&server, "", &json!({"device_id": "cam-1"})).is_problem(401);
    server.post("/api/v1/devices/register").json(&json!({"device_id": "cam-1"})).is_problem(401);
    let audit = server.audit();
    assert!(audit.iter().any(|row| row.starts_with("device.register refused anonymous")), "{audit:?}");
}

#[test]
fn bad_ids_are_refused_with_the_reason_at_creation_and_unknown_everywhere_else() {
    let server = with_admin();
    for id in ["a+b", "a#", "a/b", "a\u{0}b", "Studio", "ü", "", "-a", &"a".repeat(64), "a b", "a\r\nb"] {
        let answer =
            server.post("/api/v1/devices/register").by_person("admin").json(&json!({"device_id": id}));
        answer.is_problem(422);
        assert_eq!(answer.fields(), ["device_id"], "{id:?}");
    }
    for path in ["a%2Bb", "a%23", "a%2Fb", "a%00b", "%C3%BC", "..%2f..%2fetc", "a%0D%0Ab", "%F0%9F%92%A9"] {
        let answer = server.get(&format!("/api/v1/devices/{path}")).by_person("admin").send();
        answer.is_problem(404);
        assert!(!answer.text.contains("etc"), "what came in the path is not told back: {}", answer.text);
    }
    server.get("/api/v1/devices/%ff").by_person("admin").send().is_problem(400);
    server.get("/api/v1/devices/%zz").by_person("admin").send().is_problem(400);
}

#[test]
fn a_device_id_may_not_be_a_persons_name() {
    let server = with_admin();
    let answer =
        server.post("/api/v1/devices/register").by_person("admin").json(&json!({"device_id": "admin"}));
    assert!(answer.is_problem(409).body["detail"].as_str().unwrap().contains("user"));
}

#[test]
fn devices_are_listed_filtered_sorted_and_paged() {
    let server = with_admin();
    for id in ["cam-1", "cam-2", "cam-3", "mixer_1"] {
        server.device("admin", id);
    }
    let patch = |id: &str, body: Value| {
        let answer = server.call("PATCH", &format!("/api/v1/devices/{id}")).by_person("admin").json(&body);
        assert_eq!(answer.status, 200, "{}", answer.text);
    };
    patch("cam-2", json!({"tags": ["hall-2", "main"], "location": "Hall 2", "name": "Zed"}));
    patch("cam-3", json!({"maintenance": true, "tags": ["Hall-2"]}));
    let ids = |query: &str| -> Vec<String> {
        let answer = server.get(&format!("/api/v1/devices{query}")).by_person("admin").send();
        assert_eq!(answer.status, 200, "{query}: {}", answer.text);
        let items = answer.body["items"].as_array().unwrap().clone();
        items.iter().map(|item| item["device_id"].as_str().unwrap().to_owned()).collect()
    };
    assert_eq!(ids(""), ["cam-1", "cam-2", "cam-3", "mixer_1"]);
    assert_eq!(ids("?tag=hall-2"), ["cam-2"]);
    assert_eq!(ids("?q=HALL%202"), ["cam-2"]);
    assert_eq!(ids("?q=r_1"), ["mixer_1"]);
    assert_eq!(ids("?q=%25"), Vec::<String>::new());
    assert_eq!(ids("?status=maintenance"), ["cam-3"]);
    assert_eq!(ids("?status=online"), Vec::<String>::new());
    assert_eq!(ids("?sort=-device_id&page_size=3&page=2"), ["cam-1"]);
    assert_eq!(ids("?sort=-name")[0], "cam-2");
    for (key, _) in fleetd::store::summaries::SortKey::ALL {
        assert_eq!(ids(&format!("?sort={key}")).len(), 4);
    }
    let page = server.get("/api/v1/devices?page_size=3").by_person("admin").send().body;
    assert_eq!(
        (&page["total"], &page["page"], &page["page_size"], &page["has_more"]),
        (&json!(4), &json!(1), &json!(3), &json!(true))
    );
    for bad in [
        "?page=0",
        "?page_size=101",
        "?sort=token",
        "?status=sleeping",
        "?tag=%00",
        "?stauts=online",
        "?q=%ff",
        "?tag=a%2Bb",
    ] {
        server.get(&format!("/api/v1/devices{bad}")).by_person("admin").send().is_problem(400);
    }
}

#[test]
fn a_patch_takes_known_fields_and_refuses_the_rest() {
    let server = with_admin();
    server.person("default", "oper", Role::Operator);
    server.device("admin", "cam-1");
    let patch =
        |who: &str, body: &Value| server.call("PATCH", "/api/v1/devices/cam-1").by_person(who).json(body);
    let all = json!({
        "name": "Camera <b>1</b>", "location": "Hall", "tags": ["b", "a"], "metadata": {"x": [1, null]}, "notes": "two\nlines",
        "update_channel": "beta", "redundancy_group": "pair-1", "maintenance": true,
    });
    let answer = patch("oper", &all);
    assert_eq!(answer.status, 200, "{}", answer.text);
    assert_eq!(answer.body["name"], "Camera <b>1</b>");
    assert_eq!(answer.body["tags"], json!(["a", "b"]));
    assert_eq!(answer.body["metadata"], json!({"x": [1, null]}));
    assert_eq!(answer.body["status"], "maintenance");
    patch("oper", &json!({"target_version": "2.0.0"})).is_problem(403);
    assert_eq!(patch("admin", &json!({"target_version": "2.0.0"})).body["target_version"], "2.0.0");
    let cleared = patch("admin", &json!({"target_version": null, "location": null, "maintenance": false}));
    assert!(cleared.body.get("target_version").is_none() && cleared.body.get("location").is_none());
    let wrong = patch(
        "oper",
        &json!({"status": "online", "tags": "a", "name": "", "metadata": {"big": "x".repeat(17000)}}),
    );
    assert_eq!(wrong.is_problem(422).fields(), ["name", "tags", "metadata", "status"]);
    let audit = server.audit();
    assert!(audit.contains(&"device.update ok user:oper@example.org cam-1".to_owned()), "{audit:?}");
    assert!(audit.contains(&"device.update refused user:oper@example.org cam-1".to_owned()), "{audit:?}");
}

#[test]
fn a_rotated_token_kills_the_old_one_and_its_connections_at_once() {
    let server = with_admin();
    let old = server.device("admin", "cam-1");
    let answer = server.post("/api/v1/devices/cam-1/rotate-token").by_person("admin").send();
    assert_eq!(answer.status, 200, "{}", answer.text);
    assert_eq!(answer.body["device_id"], "cam-1");
    let new = answer.body["token"].as_str().unwrap();
    server.get("/api/v1/connect").by_device(&old).send().is_problem(401);
    assert_eq!(server.get("/api/v1/connect").by_device(new).send().status, 200);
    assert_eq!(*server.ended.0.lock().unwrap(), ["device default/cam-1"]);
}

#[test]
fn a_decommissioned_device_is_gone_and_its_id_free_for_an_admin_alone() {
    let server = with_admin();
    let key = server.enrollment_key("default", KeyTerms::default());
    let token = server.device("admin", "cam-1");
    let uuid = server.get("/api/v1/devices/cam-1").by_person("admin").send().body["id"].clone();
    assert_eq!(server.call("DELETE", "/api/v1/devices/cam-1").by_person("admin").send().status, 204);
    server.get("/api/v1/devices/cam-1").by_person("admin").send().is_problem(404);
    server.get("/api/v1/connect").by_device(&token).send().is_problem(401);
    server.call("DELETE", "/api/v1/devices/cam-1").by_person("admin").send().is_problem(404);
    assert_eq!(server.get("/api/v1/devices").by_person("admin").send().body["total"], 0);
    assert_eq!(*server.ended.0.lock().unwrap(), ["device default/cam-1"]);
    // History is kept.
    assert_eq!(server.get("/api/v1/devices/cam-1/heartbeats").by_person("admin").send().status, 200);
    enroll(&server, &key, &json!({"device_id": "cam-1", "token_sha256": sha256("t")})).is_problem(409);
    let fresh = server.device("admin", "cam-1");
    assert_ne!(fresh, token);
    let again = server.get("/api/v1/devices/cam-1").by_person("admin").send();
    assert_eq!(again.body["id"], uuid);
    let by_uuid =
        server.get(&format!("/api/v1/devices/{}", uuid.as_str().unwrap())).by_person("admin").send();
    assert_eq!(by_uuid.body["device_id"], "cam-1");
}

#[test]
fn another_organisations_devices_do_not_exist() {
    let server = with_admin();
    server.person("other", "eve", Role::Admin);
    let token = server.device("admin", "cam-1");
    let uuid = server.get("/api/v1/devices/cam-1").by_person("admin").send().body["id"].clone();
    for id in ["cam-1", uuid.as_str().unwrap()] {
        for (method, end) in [
            ("GET", ""),
            ("GET", "/status"),
            ("GET", "/heartbeats"),
            ("GET", "/metrics"),
            ("GET", "/records"),
            ("DELETE", ""),
            ("POST", "/approve"),
            ("POST", "/allow-reenrollment"),
            ("POST", "/rotate-token"),
        ] {
            let path = format!("/api/v1/devices/{id}{end}");
            server.call(method, &path).by_person("eve").send().is_problem(404);
        }
        let patch = server.call("PATCH", &format!("/api/v1/devices/{id}")).by_person("eve");
        patch.json(&json!({"name": "mine"})).is_problem(404);
    }
    assert_eq!(server.get("/api/v1/devices").by_person("eve").send().body["total"], 0);
    assert_eq!(server.get("/api/v1/connect").by_device(&token).send().status, 200);
    // The same id is free there.
    server.device("eve", "cam-1");
    assert!(server.audit().contains(&"device.decommission refused user:eve@example.org cam-1".to_owned()));
}

#[test]
fn a_device_reads_itself_and_nobody_else() {
    let server = with_admin();
    let token = server.device("admin", "cam-1");
    server.device("admin", "cam-2");
    assert_eq!(server.get("/api/v1/devices/cam-1/status").by_device(&token).send().status, 200);
    server.get("/api/v1/devices/cam-2").by_device(&token).send().is_problem(403);
    server.get("/api/v1/devices/nope").by_device(&token).send().is_problem(404);
    server.get("/api/v1/devices").by_device(&token).send().is_problem(403);
    let beat = json!({"ts": "2025-12-28T10:00:00Z"});
    server.post("/api/v1/devices/cam-2/heartbeat").by_device(&token).json(&beat).is_problem(403);
}

#[test]
fn a_change_is_carried_through_although_the_client_has_gone_away() {
    use std::io::Write as _;
    let server = with_admin();
    let admin = server.token("admin");
    for n in 0..20 {
        let id = format!("cam-{n}");
        server.device("admin", &id);
        let mut stream = std::net::TcpStream::connect(server.address).unwrap();
        let request = format!(
            "POST /api/v1/devices/{id}/rotate-token HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {admin}\r\ncontent-length: 0\r\n\r\n"
        );
        stream.write_all(request.as_bytes()).unwrap();
        std::thread::sleep(std::time::Duration::from_millis(n / 2));
        drop(stream);
    }
    // Whatever was committed has also ended the connections.
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(10);
    loop {
        let rotated = server.audit().iter().filter(|row| row.starts_with("device.rotate_token ok")).count();
        let ended = server.ended.0.lock().unwrap().len();
        if rotated == ended && rotated > 0 {
            break;
        }
        assert!(std::time::Instant::now() < deadline, "{rotated} tokens rotated, {ended} connections ended");
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
}
