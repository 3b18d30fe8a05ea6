//! What an admin does with a device at the command line, beside a running server.
#![allow(clippy::unwrap_used)]

mod common;

use common::Server;
use common::cli::{fails, fleetd, succeeds};
use serde_json::json;

fn run(server: &Server, line: &str) -> String {
    succeeds(&fleetd(server, &line.split(' ').collect::<Vec<_>>(), ""))
}

/// Enrols a device with a key that asks for approval.
fn enrol(server: &Server, key: &str, token_hash: &str) -> (u16, String) {
    let request = server.post("/api/v1/devices/register").header("x-enrollment-key", key);
    let answer = request.json(&json!({"device_id": "cam-1", "token_sha256": token_hash}));
    (answer.status, answer.body["status"].as_str().unwrap_or_default().to_owned())
}

#[test]
fn a_device_that_waits_is_approved_and_one_that_was_set_up_anew_may_enrol_once_more() {
    let server = Server::start();
    let key = run(&server, "enrollment-key add --require-approval").trim().to_owned();
    assert_eq!(enrol(&server, &key, &"ab".repeat(32)), (201, "awaiting_approval".to_owned()));
    assert!(run(&server, "device approve --device-id cam-1").contains("default/cam-1"));
    assert!(!run(&server, "device list").contains("awaiting"));

    assert_eq!(enrol(&server, &key, &"cd".repeat(32)).0, 409);
    run(&server, "device allow-reenrollment --id cam-1");
    assert_eq!(enrol(&server, &key, &"cd".repeat(32)).0, 201);
    assert_eq!(enrol(&server, &key, &"ef".repeat(32)).0, 409, "it was once");
    let audit = server.audit();
    for line in ["device.approve ok system cam-1", "device.allow_reenrollment ok system cam-1"] {
        assert!(audit.contains(&line.to_owned()), "{audit:#?}");
    }
}

#[test]
fn a_new_token_takes_the_place_of_the_old_one_and_a_device_taken_out_has_none() {
    let server = Server::start();
    let old = run(&server, "device register --device-id cam-1").trim().to_owned();
    let works = |token: &str| server.get("/api/v1/connect").by_device(token).send().status == 200;
    let new = run(&server, "device rotate-token --device-id cam-1").trim().to_owned();
    assert!(new.len() == 64 && works(&new) && !works(&old));
    run(&server, "device decommission --device-id cam-1");
    assert!(!works(&new));
    assert!(!run(&server, "device list").contains("cam-1"));
    for what in ["approve", "allow-reenrollment", "rotate-token", "decommission"] {
        fails(&fleetd(&server, &["device", what, "--device-id", "cam-1"], ""), "no device cam-1");
    }
    fails(
        &fleetd(&server, &["device", "approve", "--device-id", "cam-1", "--org", "nowhere"], ""),
        "no organisation",
    );
}
