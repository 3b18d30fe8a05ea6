//! Signing in, sessions, and what a credential is worth.
#![allow(clippy::unwrap_used)]

mod common;

use common::{PASSWORD, Server};
use protocol::id::Role;
use serde_json::json;

#[test]
fn a_person_signs_in_and_sees_the_own_account() {
    let server = Server::start();
    server.person("default", "ann", Role::Admin);
    let answer =
        server.post("/api/v1/auth/login").json(&json!({"email": "ANN@example.org", "password": PASSWORD}));
    assert_eq!(answer.status, 200, "{}", answer.text);
    assert_eq!(answer.body["token_type"], "bearer");
    assert!(answer.body["expires_in"].as_i64().unwrap() > 0);
    assert_eq!(answer.headers["cache-control"], "no-store");
    let me = server.get("/api/v1/auth/me").bearer(answer.body["access_token"].as_str().unwrap()).send();
    assert_eq!(me.status, 200, "{}", me.text);
    assert_eq!(me.body["email"], "ann@example.org");
    assert_eq!(me.body["role"], "admin");
    assert_eq!(me.body["org"], "default");
    assert!(me.body["last_login"].as_str().unwrap().ends_with('Z'));
    assert!(!me.text.contains("argon2"));
}

#[test]
fn a_wrong_password_and_an_unknown_account_look_the_same() {
    let server = Server::start();
    server.person("default", "ann", Role::Viewer);
    let wrong =
        server.post("/api/v1/auth/login").json(&json!({"email": "ann@example.org", "password": "nope nope"}));
    let unknown =
        server.post("/api/v1/auth/login").json(&json!({"email": "bob@example.org", "password": "nope nope"}));
    wrong.is_problem(401);
    assert_eq!(wrong.text, unknown.text);
    assert!(wrong.headers["www-authenticate"].starts_with("Bearer"));
}

#[test]
fn a_login_body_that_is_wrong_is_told_by_field() {
    let server = Server::start();
    let answer = server.post("/api/v1/auth/login").json(&json!({"email": 5, "passwort": "x"}));
    answer.is_problem(422);
    assert_eq!(answer.fields(), ["email", "password", "passwort"]);
    server.post("/api/v1/auth/login").header("content-type", "application/json").bytes(b"{").is_problem(400);
    server.post("/api/v1/auth/login").json(&json!([])).is_problem(422);
    server.post("/api/v1/auth/login").header("content-type", "text/plain").bytes(b"{}").is_problem(415);
    server.post("/api/v1/auth/login").bytes(b"{}").is_problem(415);
}

#[test]
fn a_refresh_token_works_once_and_its_second_use_ends_the_login() {
    let server = Server::start();
    server.person("default", "ann", Role::Viewer);
    let login =
        server.post("/api/v1/auth/login").json(&json!({"email": "ann@example.org", "password": PASSWORD}));
    let first = login.body["refresh_token"].as_str().unwrap().to_owned();
    let refresh = |token: &str| server.post("/api/v1/auth/refresh").json(&json!({"refresh_token": token}));
    let second = refresh(&first);
    assert_eq!(second.status, 200, "{}", second.text);
    let second = second.body["refresh_token"].as_str().unwrap().to_owned();
    assert_ne!(first, second);
    refresh(&first).is_problem(401);
    refresh(&second).is_problem(401);
    refresh("0".repeat(64).as_str()).is_problem(401);
    assert!(server.audit().contains(&"auth.refresh refused user:ann@example.org ann@example.org".to_owned()));
}

#[test]
fn changing_the_password_ends_every_session_and_connection() {
    let server = Server::start();
    server.person("default", "ann", Role::Viewer);
    let token = server.token("ann");
    let change = |old: &str, new: &str| {
        server.post("/api/v1/auth/password").bearer(&token).json(&json!({"old": old, "new": new}))
    };
    change("wrong wrong", "another password").is_problem(403);
    assert_eq!(change(PASSWORD, "short").is_problem(422).fields(), ["new"]);
    assert_eq!(change(PASSWORD, "another password").status, 204);
    server.get("/api/v1/auth/me").bearer(&token).send().is_problem(401);
    server
        .post("/api/v1/auth/login")
        .json(&json!({"email": "ann@example.org", "password": PASSWORD}))
        .is_problem(401);
    let login = server
        .post("/api/v1/auth/login")
        .json(&json!({"email": "ann@example.org", "password": "another password"}));
    assert_eq!(login.status, 200);
    assert_eq!(*server.ended.0.lock().unwrap(), ["user default/ann"]);
    let audit = server.audit();
    assert!(
        audit.contains(&"user.password refused user:ann@example.org ann@example.org".to_owned()),
        "{audit:?}"
    );
    assert!(audit.contains(&"user.password ok user:ann@example.org ann@example.org".to_owned()), "{audit:?}");
}

#[test]
fn credentials_that_are_no_good_are_401() {
    let server = Server::start();
    server.person("default", "ann", Role::Viewer);
    let token = server.token("ann");
    let me = || server.get("/api/v1/auth/me");
    me().send().is_problem(401);
    me().bearer("x").send().is_problem(401);
    me().bearer(&format!("{token}x")).send().is_problem(401);
    me().bearer(&"a".repeat(64)).send().is_problem(401);
    me().header("authorization", "Basic YTpi").send().is_problem(401);
    me().by_device(&"a".repeat(64)).send().is_problem(401);
    me().bearer(&token).by_device("x").send().is_problem(400);
}
