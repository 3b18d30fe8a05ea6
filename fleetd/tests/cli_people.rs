//! People, service accounts and keys at the command line, beside a running server.
#![allow(clippy::unwrap_used)]

mod common;

use std::time::{Duration, Instant};

use common::cli::{fails, fleetd, succeeds};
use common::{PASSWORD, Server};
use protocol::id::Role;
use serde_json::{Value, json};

fn run(server: &Server, line: &str) -> String {
    succeeds(&fleetd(server, &line.split(' ').collect::<Vec<_>>(), ""))
}

fn json_of(server: &Server, line: &str) -> Value {
    serde_json::from_str(&run(server, line)).unwrap()
}

fn wait_for_end_of(server: &Server, who: &str) {
    let deadline = Instant::now() + Duration::from_secs(10);
    while !server.ended.0.lock().unwrap().iter().any(|ended| ended == who) {
        assert!(Instant::now() < deadline, "the running server did not hear of it");
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn a_person_is_disabled_enabled_given_a_role_and_a_password() {
    let server = Server::start();
    server.person("default", "anna", Role::Admin);
    server.person("default", "vera", Role::Viewer);
    let login = |password: &str| {
        let body = json!({"email": "vera@example.org", "password": password});
        server.post("/api/v1/auth/login").json(&body).status
    };
    run(&server, "user disable --email vera@example.org");
    assert_eq!(login(PASSWORD), 401);
    wait_for_end_of(&server, "user default/vera");
    run(&server, "user enable --email vera@example.org");
    assert_eq!(login(PASSWORD), 200);
    run(&server, "user set-role --email vera@example.org --role operator");
    let listed = json_of(&server, "user list --json");
    let vera = &listed.as_array().unwrap()[1];
    assert_eq!(
        (&vera["username"], &vera["role"], &vera["is_active"]),
        (&json!("vera"), &json!("operator"), &json!(true))
    );
    let reset = ["user", "reset-password", "--email", "vera@example.org"];
    fails(&fleetd(&server, &reset, "password123"), "easy to guess");
    fails(&fleetd(&server, &reset, "vera@example.org"), "easy to guess");
    succeeds(&fleetd(&server, &reset, "another password"));
    assert_eq!((login(PASSWORD), login("another password")), (401, 200));
    let made = run(&server, "user reset-password --email vera@example.org --generate");
    assert_eq!((made.trim().len(), login(made.trim())), (23, 200));
    let last = ["user", "set-role", "--email", "anna@example.org", "--role", "viewer"];
    fails(&fleetd(&server, &last, ""), "last active admin");
    let nobody = ["user", "enable", "--email", "nobody@example.org"];
    fails(&fleetd(&server, &nobody, ""), "no account with the address");
    let audit = server.audit();
    assert!(audit.contains(&"user.reset_password ok system vera@example.org".to_owned()), "{audit:#?}");
}

#[test]
fn a_new_persons_address_and_password_are_checked_as_over_http() {
    let server = Server::start();
    let add = |email: &str, password: &str| {
        fleetd(&server, &["user", "add", "--email", email, "--name", "X", "--role", "viewer"], password)
    };
    fails(&add("\u{430}nn@example.org", PASSWORD), "ASCII");
    fails(&add("ann@example.org", "password123"), "easy to guess");
    succeeds(&add("ann@example.org", PASSWORD));
}

#[test]
fn a_service_account_gets_a_key_that_is_limited_listed_and_taken_back() {
    let server = Server::start();
    server.person("default", "anna", Role::Admin);
    run(&server, "service-account add --username robot --role operator");
    fails(
        &fleetd(&server, &["service-account", "add", "--username", "anna", "--role", "viewer"], ""),
        "taken",
    );
    let printed = run(
        &server,
        "api-key add --service-account robot --name CI --scope devices:read --expires-in-days 2",
    );
    let key = printed.strip_suffix('\n').unwrap();
    assert!(key.len() == 64 && key.bytes().all(|c| c.is_ascii_hexdigit()), "the key alone: {printed:?}");
    assert_eq!(server.get("/api/v1/devices").bearer(key).send().status, 200);
    server.get("/api/v1/commands").bearer(key).send().is_problem(403);
    let listed = json_of(&server, "api-key list --json");
    let row = &listed.as_array().unwrap()[0];
    assert_eq!((&row["owner"], &row["scopes"]), (&json!("robot"), &json!(["devices:read"])));
    assert!(row["expires_at"].is_string() && !listed.to_string().contains(key));
    assert!(run(&server, "api-key list").contains("devices:read"));
    run(&server, &format!("api-key revoke {}", row["id"].as_str().unwrap()));
    server.get("/api/v1/devices").bearer(key).send().is_problem(401);
    wait_for_end_of(&server, &format!("user default/robot with {}", row["id"].as_str().unwrap()));
    let own = run(&server, "api-key add --user anna@example.org --name laptop");
    assert_eq!(server.get("/api/v1/users").bearer(own.trim()).send().status, 200);
    let unknown =
        ["api-key", "add", "--user", "anna@example.org", "--name", "x", "--scope", "devices:destroy"];
    fails(&fleetd(&server, &unknown, ""), "devices:write");
    fails(&fleetd(&server, &["api-key", "add", "--name", "x"], ""), "--user");
    run(&server, "service-account disable --username robot");
    assert_eq!(json_of(&server, "service-account list --json")[0]["is_active"], false);
    assert!(run(&server, "service-account list").contains("disabled"));
}

#[test]
fn enrolment_keys_and_organisations_are_listed_and_a_key_is_taken_back() {
    let server = Server::start();
    let key = run(&server, "enrollment-key add --uses 3 --require-approval");
    let listed = json_of(&server, "enrollment-key list --json");
    let row = &listed.as_array().unwrap()[0];
    assert_eq!(
        (&row["uses"], &row["max_uses"], &row["key_prefix"]),
        (&json!(0), &json!(3), &json!(&key[..8]))
    );
    assert!(run(&server, "enrollment-key list").contains("0 of 3"));
    let revoke = format!("enrollment-key revoke {}", row["id"].as_str().unwrap());
    run(&server, &revoke);
    fails(&fleetd(&server, &revoke.split(' ').collect::<Vec<_>>(), ""), "no enrolment key");
    let enrol = server.post("/api/v1/devices/register").header("x-enrollment-key", key.trim());
    enrol.json(&json!({"device_id": "cam-1", "token_sha256": "ab".repeat(32)})).is_problem(401);
    assert_eq!(json_of(&server, "org list --json")[0]["slug"], "default");
}
