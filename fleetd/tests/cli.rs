//! The commands that change the database, run as a person runs them, beside a running server.
#![allow(clippy::unwrap_used)]

mod common;

use std::time::{Duration, Instant};

use common::cli::{fails, fleetd, succeeds};
use common::{PASSWORD, Server};
use protocol::id::Role;
use serde_json::json;

#[test]
fn a_person_is_added_beside_a_running_server_and_signs_in() {
    let server = Server::start();
    let add = ["user", "add", "--email", "Ann@Example.org", "--name", "Ann", "--role", "operator"];
    let told = succeeds(&fleetd(&server, &add, &format!("{PASSWORD}\n")));
    assert!(told.contains("default/ann"), "{told}");
    let me = server.get("/api/v1/auth/me").by_person("ann").send();
    assert_eq!((me.status, &me.body["role"], &me.body["username"]), (200, &json!("operator"), &json!("ann")));
    fails(&fleetd(&server, &add, PASSWORD), "already an account with the address ann@example.org");
    let mut other = add;
    other[3] = "ann@other.example";
    fails(&fleetd(&server, &other, PASSWORD), "name ann is taken");
    let listed = succeeds(&fleetd(&server, &["user", "list"], ""));
    assert!(listed.contains("ann@example.org") && !listed.contains("argon2"), "{listed}");
}

#[test]
fn what_is_wrong_is_told_and_nothing_is_changed() {
    let server = Server::start();
    let add = |email: &str, role: &str, password: &str| {
        fleetd(&server, &["user", "add", "--email", email, "--name", "X", "--role", role], password)
    };
    fails(&add("not an address", "viewer", PASSWORD), "name@example.org");
    fails(&add("x@example.org", "king", PASSWORD), "viewer, operator, admin");
    fails(&add("x@example.org", "viewer", "short"), "at least 8");
    fails(&add("x@example.org", "viewer", ""), "standard input");
    let nowhere =
        ["user", "add", "--email", "x@example.org", "--name", "X", "--role", "viewer", "--org", "nowhere"];
    fails(&fleetd(&server, &nowhere, PASSWORD), "no organisation nowhere");
    fails(&fleetd(&server, &["org", "add", "--slug", "server", "--name", "X"], ""), "reserved");
    fails(&fleetd(&server, &["org", "add", "--slug", "a/b", "--name", "X"], ""), "'/'");
    fails(&fleetd(&server, &["device", "register", "--device-id", "a+b"], ""), "'+'");
    fails(&fleetd(&server, &["enrollment-key", "add", "--org", "nowhere"], ""), "no organisation nowhere");
    fails(&fleetd(&server, &["enrollment-key", "add", "--uses", "0"], ""), "0 is not in");
    assert_eq!(succeeds(&fleetd(&server, &["user", "list"], "")).lines().count(), 1);
}

#[test]
fn an_organisation_a_device_and_an_enrolment_key_are_made() {
    let server = Server::start();
    succeeds(&fleetd(&server, &["org", "add", "--slug", "acme", "--name", "Acme Events"], ""));
    fails(
        &fleetd(&server, &["org", "add", "--slug", "acme", "--name", "Again"], ""),
        "already an organisation acme",
    );
    assert!(succeeds(&fleetd(&server, &["org", "list"], "")).contains("Acme Events"));

    let token =
        succeeds(&fleetd(&server, &["device", "register", "--device-id", "cam-1", "--org", "acme"], ""));
    assert_eq!(server.get("/api/v1/connect").by_device(token.trim()).send().status, 200);
    fails(&fleetd(&server, &["device", "register", "--device-id", "cam-1", "--org", "acme"], ""), "cam-1");
    assert!(succeeds(&fleetd(&server, &["device", "list", "--org", "acme"], "")).contains("cam-1"));

    let add = [
        "enrollment-key",
        "add",
        "--org",
        "acme",
        "--uses",
        "1",
        "--expires-in-hours",
        "2",
        "--require-approval",
    ];
    let printed = succeeds(&fleetd(&server, &add, ""));
    let key = printed.strip_suffix('\n').unwrap();
    assert!(key.len() == 64 && key.bytes().all(|c| c.is_ascii_hexdigit()), "the key alone: {printed:?}");
    let enrolled = server
        .post("/api/v1/devices/register")
        .header("x-enrollment-key", key)
        .json(&json!({"device_id": "cam-2", "token_sha256": "ab".repeat(32)}));
    assert_eq!(
        (enrolled.status, &enrolled.body["org"], &enrolled.body["status"]),
        (201, &json!("acme"), &json!("awaiting_approval"))
    );
}

#[test]
fn a_disabled_person_is_out_within_a_second_although_another_process_did_it() {
    let server = Server::start();
    server.person("default", "ann", Role::Viewer);
    let token = server.token("ann");
    succeeds(&fleetd(&server, &["user", "disable", "--email", "ann@example.org"], ""));
    server.get("/api/v1/auth/me").bearer(&token).send().is_problem(401);
    let login = json!({"email": "ann@example.org", "password": PASSWORD});
    server.post("/api/v1/auth/login").json(&login).is_problem(401);
    let deadline = Instant::now() + Duration::from_secs(10);
    while *server.ended.0.lock().unwrap() != ["user default/ann"] {
        assert!(Instant::now() < deadline, "the running server did not hear of it");
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn a_list_whose_reader_has_gone_ends_in_silence() {
    let server = Server::start();
    for list in [&["user", "list"][..], &["user", "list", "--json"], &["org", "list"], &["device", "list"]] {
        let mut child = common::cli::command(&server, list).spawn().unwrap();
        drop(child.stdout.take());
        let output = child.wait_with_output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success() && said.is_empty(), "{list:?}: {} {said}", output.status);
    }
}
