//! Show locks and what they make of what is desired of devices, over HTTP against a real database.
#![allow(clippy::unwrap_used)]

mod common;

use common::{Answer, Server};
use fleetd::domain::device::DeviceRowId;
use fleetd::domain::org::OrgId;
use fleetd::service::desired;
use fleetd::store::Statement;
use protocol::id::Role;
use protocol::message::{Desired, rfc3339};
use serde_json::{Value, json};

const HOUR: i64 = 3_600_000;

fn start() -> Server {
    let server = Server::start();
    server.person("default", "admin", Role::Admin);
    server.person("default", "oper", Role::Operator);
    server.person("default", "eye", Role::Viewer);
    server.device("admin", "cam-1");
    server.device("admin", "cam-2");
    server
}

fn lock(server: &Server, from: Option<i64>, until: i64) -> Value {
    let now = server.app.clock.now_ms();
    json!({"from": from.map(|ms| rfc3339(now + ms)), "until": rfc3339(now + until), "reason": "gala"})
}

fn put(server: &Server, who: &str, path: &str, body: &Value) -> Answer {
    server.call("PUT", &format!("/api/v1{path}")).by_person(who).json(body)
}

fn patch(server: &Server, id: &str, body: &Value) {
    let answer = server.call("PATCH", &format!("/api/v1/devices/{id}")).by_person("oper").json(body);
    assert_eq!(answer.status, 200, "{}", answer.text);
}

fn row(server: &Server, id: &str) -> (OrgId, DeviceRowId) {
    let body = server.get(&format!("/api/v1/devices/{id}")).by_person("admin").send().body;
    let text = |field: &str| body[field].as_str().unwrap().to_owned();
    (OrgId::new(text("org_id")), DeviceRowId::new(text("id")))
}

fn wanted(server: &Server, id: &str) -> Desired {
    let (org, device) = row(server, id);
    let get = fleetd::store::desired::get(&server.app.store, &org, &device);
    server.runtime.block_on(get).unwrap().message()
}

fn sql(server: &Server, sql: String) {
    server.runtime.block_on(server.app.store.apply_one(Statement::new(sql, Vec::new()))).unwrap();
}

/// As a device does that has given birth and answers what is desired of it.
fn report(server: &Server, id: &str, version: u64) {
    let (org, device) = row(server, id);
    sql(
        server,
        format!(
            "INSERT INTO device_state (device_id, org_id, birth_at, reported_version) \
             VALUES ('{}', '{}', 1, {version}) ON CONFLICT (device_id) DO UPDATE SET reported_version = {version}",
            device.as_str(),
            org.as_str()
        ),
    );
}

#[test]
fn a_lock_is_desired_of_its_device_at_once_and_in_effect_when_the_device_says_so() {
    let server = start();
    let answer = put(&server, "oper", "/devices/cam-1/show-lock", &lock(&server, None, HOUR));
    assert_eq!(answer.status, 200, "{}", answer.text);
    assert_eq!(
        (&answer.body["in_effect"], &answer.body["reason"], &answer.body["by"]),
        (&json!(false), &json!("gala"), &json!("user:oper@example.org"))
    );
    assert_eq!(answer.body["device"], "cam-1");
    let desired = wanted(&server, "cam-1");
    assert_eq!((desired.version, desired.show_locks.len()), (1, 1));
    assert_eq!(rfc3339(desired.show_locks[0].1), answer.body["until"].as_str().unwrap());
    let seen = |who: &str| server.get("/api/v1/devices/cam-1/show-lock").by_person(who).send();
    assert_eq!(seen("eye").body["in_effect"], false);
    report(&server, "cam-1", 1);
    assert_eq!(seen("eye").body["in_effect"], true);
    // Something else changes: the device still knows the lock.
    patch(&server, "cam-1", &json!({"redundancy_group": "pair"}));
    assert_eq!(wanted(&server, "cam-1").version, 2);
    assert_eq!(seen("eye").body["in_effect"], true);
    // Another end is another lock.
    let longer = put(&server, "oper", "/devices/cam-1/show-lock", &lock(&server, None, 2 * HOUR));
    assert_eq!(longer.body["in_effect"], false);
    assert_eq!(wanted(&server, "cam-1").show_locks.len(), 1);
    assert!(server.audit().contains(&"show_lock.set ok user:oper@example.org cam-1".to_owned()));
}

#[test]
fn a_lock_for_a_device_that_speaks_only_http_is_in_effect_at_once() {
    let server = start();
    let token = server.device("admin", "old-1");
    let beat = json!({"ts": "2025-12-28T10:00:00Z"});
    assert_eq!(server.post("/api/v1/devices/old-1/heartbeat").by_device(&token).json(&beat).status, 200);
    let answer = put(&server, "oper", "/devices/old-1/show-lock", &lock(&server, None, HOUR));
    assert_eq!(answer.body["in_effect"], true, "{}", answer.text);
}

#[test]
fn a_lock_by_tag_follows_the_tag_from_device_to_device() {
    let server = start();
    patch(&server, "cam-1", &json!({"tags": ["hall"]}));
    let answer = put(&server, "oper", "/show-locks/hall", &lock(&server, None, HOUR));
    assert_eq!(answer.status, 200, "{}", answer.text);
    assert_eq!((&answer.body["devices"], &answer.body["tag"]), (&json!(1), &json!("hall")));
    assert_eq!(wanted(&server, "cam-1").show_locks.len(), 1);
    assert_eq!(wanted(&server, "cam-2").version, 0);
    let in_effect =
        || server.get("/api/v1/show-locks/hall").by_person("eye").send().body["in_effect"].clone();
    report(&server, "cam-1", 1);
    assert_eq!(in_effect(), true);
    // A device that gets the tag gets the lock, and the lock is not in effect until it knows.
    patch(&server, "cam-2", &json!({"tags": ["hall"]}));
    assert_eq!(wanted(&server, "cam-2").show_locks.len(), 1);
    assert_eq!(in_effect(), false);
    report(&server, "cam-2", 1);
    assert_eq!(in_effect(), true);
    patch(&server, "cam-2", &json!({"tags": []}));
    assert_eq!((wanted(&server, "cam-2").version, wanted(&server, "cam-2").show_locks.len()), (2, 0));
}

#[test]
fn a_lock_for_a_tag_that_no_device_has_is_kept_and_not_in_effect() {
    let server = start();
    let answer = put(&server, "oper", "/show-locks/hall", &lock(&server, None, HOUR));
    assert_eq!((&answer.body["devices"], &answer.body["in_effect"]), (&json!(0), &json!(false)));
    patch(&server, "cam-1", &json!({"tags": ["hall"]}));
    assert_eq!(wanted(&server, "cam-1").show_locks.len(), 1);
}

#[test]
fn a_device_that_has_a_lock_and_a_locked_tag_gets_both() {
    let server = start();
    patch(&server, "cam-1", &json!({"tags": ["a", "b"]}));
    put(&server, "oper", "/show-locks/a", &lock(&server, Some(HOUR), 2 * HOUR));
    put(&server, "oper", "/show-locks/b", &lock(&server, None, 3 * HOUR));
    put(&server, "oper", "/devices/cam-1/show-lock", &lock(&server, None, HOUR));
    assert_eq!(wanted(&server, "cam-1").show_locks.len(), 3);
    assert_eq!(
        server.call("DELETE", "/api/v1/show-locks/b").by_person("oper").send().status,
        204,
        "one is taken back"
    );
    assert_eq!(wanted(&server, "cam-1").show_locks.len(), 2);
}

#[test]
fn a_lock_that_was_taken_back_or_is_over_is_gone() {
    let server = start();
    let path = "/api/v1/devices/cam-1/show-lock";
    server.get(path).by_person("eye").send().is_problem(404);
    server.call("DELETE", path).by_person("oper").send().is_problem(404);
    put(&server, "oper", "/devices/cam-1/show-lock", &lock(&server, None, HOUR));
    assert_eq!(server.call("DELETE", path).by_person("oper").send().status, 204);
    server.get(path).by_person("eye").send().is_problem(404);
    assert_eq!((wanted(&server, "cam-1").version, wanted(&server, "cam-1").show_locks.len()), (2, 0));
    assert!(server.audit().contains(&"show_lock.clear ok user:oper@example.org cam-1".to_owned()));
    put(&server, "oper", "/devices/cam-1/show-lock", &lock(&server, None, HOUR));
    sql(&server, "UPDATE show_locks SET starts_at = 1, ends_at = 2".into());
    server.get(path).by_person("eye").send().is_problem(404);
    server.call("DELETE", path).by_person("oper").send().is_problem(404);
}

#[test]
fn a_bad_lock_is_refused_field_by_field() {
    let server = start();
    let wrong = |path: &str, body: &Value| {
        let answer = put(&server, "oper", path, body);
        answer.is_problem(422).fields()
    };
    for path in ["/devices/cam-1/show-lock", "/show-locks/hall"] {
        assert_eq!(wrong(path, &json!({})), ["until", "reason"]);
        assert_eq!(wrong(path, &lock(&server, None, -HOUR)), ["until"]);
        assert_eq!(wrong(path, &lock(&server, None, 31 * 24 * HOUR)), ["until"]);
        assert_eq!(wrong(path, &lock(&server, Some(2 * HOUR), HOUR)), ["from"]);
        let mut extra = lock(&server, None, HOUR);
        extra["device"] = json!("cam-2");
        assert_eq!(wrong(path, &extra), ["device"]);
    }
    put(&server, "oper", "/devices/nope/show-lock", &lock(&server, None, HOUR)).is_problem(404);
    put(&server, "oper", "/show-locks/a%2Bb", &lock(&server, None, HOUR)).is_problem(404);
}

#[test]
fn a_viewer_a_device_and_another_organisation_set_no_lock() {
    let server = start();
    server.person("other", "eve", Role::Admin);
    let token = server.device("admin", "cam-3");
    let body = lock(&server, None, HOUR);
    for path in ["/devices/cam-1/show-lock", "/show-locks/hall"] {
        put(&server, "eye", path, &body).is_problem(403);
        server.call("PUT", &format!("/api/v1{path}")).by_device(&token).json(&body).is_problem(403);
        server.call("PUT", &format!("/api/v1{path}")).json(&body).is_problem(401);
    }
    put(&server, "eve", "/devices/cam-1/show-lock", &body).is_problem(404);
    patch(&server, "cam-1", &json!({"tags": ["hall"]}));
    assert_eq!(put(&server, "eve", "/show-locks/hall", &body).body["devices"], 0);
    assert_eq!(wanted(&server, "cam-1").show_locks.len(), 0, "a lock holds its own organisation alone");
    server.get("/api/v1/show-locks/hall").by_person("eye").send().is_problem(404);
}

#[test]
fn the_worker_brings_about_what_was_missed_and_nothing_twice() {
    let server = start();
    let run = || server.runtime.block_on(desired::refresh_all(&server.app)).unwrap();
    run();
    assert_eq!(wanted(&server, "cam-1").version, 0, "nothing is desired of a plain device");
    // As after a server that was killed between the lock and the devices.
    let (_, device) = row(&server, "cam-1");
    put(&server, "oper", "/show-locks/hall", &lock(&server, None, HOUR));
    sql(&server, format!("UPDATE devices SET tags = '[\"hall\"]' WHERE id = '{}'", device.as_str()));
    run();
    run();
    let desired = wanted(&server, "cam-1");
    assert_eq!((desired.version, desired.show_locks.len()), (1, 1));
    // The device has a version that this server has never given: it is an older copy.
    report(&server, "cam-1", 7);
    run();
    run();
    assert_eq!(wanted(&server, "cam-1").version, 8);
}

#[test]
fn a_patch_of_group_and_target_version_is_desired_in_the_same_moment() {
    let server = start();
    patch(&server, "cam-1", &json!({"redundancy_group": "pair", "location": "Hall"}));
    assert_eq!(wanted(&server, "cam-1").redundancy_group.as_deref(), Some("pair"));
    let target = json!({"target_version": "2.0.0"});
    server.call("PATCH", "/api/v1/devices/cam-1").by_person("admin").json(&target);
    let desired = wanted(&server, "cam-1");
    assert_eq!((desired.version, desired.target_version.as_deref()), (2, Some("2.0.0")));
    patch(&server, "cam-1", &json!({"location": "Hall 2"}));
    assert_eq!(wanted(&server, "cam-1").version, 2);
}

#[test]
fn locks_set_and_taken_back_by_many_at_once_leave_the_devices_with_what_stands() {
    let server = start();
    server.token("oper");
    patch(&server, "cam-1", &json!({"tags": ["hall"]}));
    std::thread::scope(|scope| {
        for n in 0..6_i64 {
            let server = &server;
            scope.spawn(move || {
                let path = if n % 2 == 0 { "/devices/cam-1/show-lock" } else { "/show-locks/hall" };
                let answer = put(server, "oper", path, &lock(server, None, HOUR + n * 60_000));
                assert!(matches!(answer.status, 200 | 409), "{}", answer.text);
            });
        }
    });
    server.runtime.block_on(desired::refresh_all(&server.app)).unwrap();
    let mut ends: Vec<String> =
        wanted(&server, "cam-1").show_locks.iter().map(|(_, to)| rfc3339(*to)).collect();
    let mut stand: Vec<String> = ["/devices/cam-1/show-lock", "/show-locks/hall"]
        .map(|path| server.get(&format!("/api/v1{path}")).by_person("eye").send().body["until"].clone())
        .map(|until| until.as_str().unwrap().to_owned())
        .to_vec();
    ends.sort();
    stand.sort();
    assert_eq!(ends, stand);
}
