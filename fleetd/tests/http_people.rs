//! People of an organisation: added, changed, disabled, given a new password by its admins.
#![allow(clippy::unwrap_used)]

mod common;

use common::{Answer, PASSWORD, Server};
use protocol::id::Role;
use serde_json::{Value, json};

fn server() -> Server {
    let server = Server::start();
    server.person("default", "anna", Role::Admin);
    server.person("default", "vera", Role::Viewer);
    server
}

fn create(server: &Server, by: &str, body: &Value) -> Answer {
    server.post("/api/v1/users").by_person(by).json(body)
}

fn change(server: &Server, by: &str, id: &str, body: &Value) -> Answer {
    server.call("PATCH", &format!("/api/v1/users/{id}")).by_person(by).json(body)
}

fn disable(server: &Server, by: &str, id: &str) -> Answer {
    server.call("DELETE", &format!("/api/v1/users/{id}")).by_person(by).send()
}

fn reset(server: &Server, by: &str, id: &str, body: &Value) -> Answer {
    server.post(&format!("/api/v1/users/{id}/reset-password")).by_person(by).json(body)
}

fn login(server: &Server, name: &str, password: &str) -> Answer {
    server
        .post("/api/v1/auth/login")
        .json(&json!({"email": format!("{name}@example.org"), "password": password}))
}

fn id(server: &Server, name: &str) -> String {
    let me = server.get("/api/v1/auth/me").by_person(name).send();
    me.body["id"].as_str().unwrap().to_owned()
}

fn ended(server: &Server) -> Vec<String> {
    std::mem::take(&mut *server.ended.0.lock().unwrap())
}

#[test]
fn an_admin_adds_a_person_who_signs_in_with_the_password_that_was_given() {
    let server = server();
    let body = json!({"email": "Otto@Example.org", "name": " Otto ", "role": "operator", "password": "another password"});
    let made = create(&server, "anna", &body);
    assert_eq!(made.status, 201, "{}", made.text);
    let expected = [
        ("email", json!("otto@example.org")),
        ("username", json!("otto")),
        ("name", json!("Otto")),
        ("role", json!("operator")),
        ("org", json!("default")),
        ("is_superadmin", json!(false)),
        ("is_active", json!(true)),
        ("password", Value::Null),
    ];
    for (field, value) in expected {
        assert_eq!(made.body[field], value, "{field}: {}", made.text);
    }
    assert_eq!(login(&server, "otto", "another password").status, 200);
    let path = format!("/api/v1/users/{}", made.body["id"].as_str().unwrap());
    assert_eq!(server.get(&path).by_person("anna").send().body["email"], "otto@example.org");
    let audit = server.audit();
    assert!(
        audit.contains(&"user.create ok user:anna@example.org otto@example.org".to_owned()),
        "{audit:#?}"
    );
    assert!(!server.audit_details("user.create").join("").contains("another password"));
}

#[test]
fn a_password_that_is_not_given_is_made_and_shown_once() {
    let server = server();
    let made =
        create(&server, "anna", &json!({"email": "otto@example.org", "name": "Otto", "role": "viewer"}));
    let password = made.body["password"].as_str().unwrap().to_owned();
    assert_eq!((made.status, password.len()), (201, 23));
    assert_eq!(login(&server, "otto", &password).status, 200);
    let listed = server.get("/api/v1/users").by_person("anna").send();
    assert!(!listed.text.contains(&password) && !listed.text.contains("argon2"), "{}", listed.text);
    assert!(!server.audit_details("user.create").join("").contains(&password));
}

#[test]
fn a_list_of_people_is_paged_and_sorted_and_knows_its_organisation_alone() {
    let server = server();
    server.person("other", "eve", Role::Admin);
    for name in ["bob", "carl"] {
        server.person("default", name, Role::Viewer);
    }
    let list = |query: &str| {
        let answer = server.get(&format!("/api/v1/users{query}")).by_person("anna").send();
        assert_eq!(answer.status, 200, "{}", answer.text);
        let items = answer.body["items"].as_array().unwrap().clone();
        let names: Vec<_> = items.iter().map(|user| user["username"].as_str().unwrap().to_owned()).collect();
        (names.join(" "), answer.body["total"].as_i64().unwrap(), answer.body["has_more"] == true)
    };
    assert_eq!(list(""), ("anna bob carl vera".to_owned(), 4, false));
    assert_eq!(list("?sort=-username&page_size=2"), ("vera carl".to_owned(), 4, true));
    assert_eq!(list("?sort=-username&page_size=2&page=2"), ("bob anna".to_owned(), 4, false));
    assert_eq!(list("?sort=role&page_size=1").0, "anna");
    // Those who never signed in come last, whichever way.
    assert_eq!(list("?sort=last_login").0.split(' ').next(), Some("anna"));
    assert_eq!(list("?sort=-last_login").0.split(' ').next(), Some("anna"));
    for bad in ["?sort=password_hash", "?page=0", "?page_size=101", "?role=admin", "?sort=name%00"] {
        server.get(&format!("/api/v1/users{bad}")).by_person("anna").send().is_problem(400);
    }
}

#[test]
fn what_is_wrong_with_a_new_person_is_told_by_field() {
    let server = server();
    let whole = json!({"email": "otto@example.org", "name": "Otto", "role": "viewer", "password": "another password"});
    let with = |field: &str, value: Value| {
        let mut body = whole.clone();
        body[field] = value;
        create(&server, "anna", &body)
    };
    let wrong = [
        ("email", json!("otto")),
        ("email", json!("o\u{442}to@example.org")),
        ("email", json!("otto\u{0}@example.org")),
        ("email", json!(format!("{}@example.org", "o".repeat(260)))),
        ("name", json!("")),
        ("name", json!("   ")),
        ("name", json!("a\u{0}b")),
        ("name", json!("x".repeat(201))),
        ("role", json!("king")),
        ("role", json!(3)),
        ("username", json!("O t t o")),
        ("username", json!("o".repeat(64))),
        ("password", json!("short")),
        ("password", json!("password123")),
        ("password", json!("otto@example.org")),
        ("password", json!("x".repeat(257))),
        ("password", json!(12_345_678)),
        ("is_superadmin", json!("yes")),
        ("extra", json!(1)),
    ];
    for (field, value) in wrong {
        let answer = with(field, value.clone());
        assert_eq!(answer.is_problem(422).fields(), [field], "{value}: {}", answer.text);
    }
    assert_eq!(create(&server, "anna", &json!({})).is_problem(422).fields(), ["email", "name", "role"]);
    let homoglyph = with("email", json!("\u{430}nna@example.org"));
    assert!(homoglyph.text.contains("ASCII"), "{}", homoglyph.text);
    let weak = with("password", json!("password123"));
    assert!(weak.text.contains("easy to guess") && !weak.text.contains("password123"), "{}", weak.text);
    let raw = |body: &[u8]| {
        let call = server.post("/api/v1/users").by_person("anna").header("content-type", "application/json");
        call.bytes(body).status
    };
    assert_eq!((raw(b"{"), raw(b"[]"), raw(&[b' '; 70_000])), (400, 422, 413));
    let refused = server.audit_details("user.create");
    assert!(refused.iter().all(|details| !details.contains("password123")), "{refused:?}");
}

#[test]
fn addresses_that_differ_in_case_alone_are_one_and_a_taken_name_is_told() {
    let server = server();
    server.device("anna", "cam-1");
    let add = |email: &str, username: Value| {
        create(&server, "anna", &json!({"email": email, "name": "X", "role": "viewer", "username": username}))
    };
    let taken = add("VERA@example.ORG", json!("vera2"));
    assert!(taken.is_problem(409).text.contains("vera@example.org"), "{}", taken.text);
    // Devices, people and service accounts share one name space.
    assert!(add("x@example.org", json!("cam-1")).is_problem(409).text.contains("cam-1"));
    let device =
        server.post("/api/v1/devices/register").by_person("anna").json(&json!({"device_id": "vera"}));
    device.is_problem(409);
    assert_eq!(add("x@example.org", Value::Null).status, 201);
}

#[test]
fn a_changed_role_holds_at_once_and_ends_live_connections() {
    let server = server();
    server.device("anna", "cam-1");
    let vera = id(&server, "vera");
    let notes = || {
        let call = server.call("PATCH", "/api/v1/devices/cam-1").by_person("vera");
        call.json(&json!({"notes": "x"})).status
    };
    assert_eq!(notes(), 403);
    let changed = change(&server, "anna", &vera, &json!({"role": "operator", "name": "Vera B."}));
    assert_eq!((changed.status, &changed.body["role"]), (200, &json!("operator")), "{}", changed.text);
    assert_eq!(notes(), 200);
    assert_eq!(ended(&server), ["user default/vera"]);
    assert_eq!(change(&server, "anna", &vera, &json!({"name": "Vera C."})).status, 200);
    assert!(ended(&server).is_empty(), "another name changes no rights");
    let details = server.audit_details("user.update").join(" ");
    assert!(details.contains(r#""from":{"name":"vera","role":"viewer"}"#), "{details}");
    for bad in [
        json!({"role": null}),
        json!({"email": "x@example.org"}),
        json!({"is_active": "no"}),
        json!({"org": "x"}),
    ] {
        change(&server, "anna", &vera, &bad).is_problem(422);
    }
}

#[test]
fn a_disabled_person_is_out_at_once_and_comes_back_without_old_sessions() {
    let server = server();
    let vera = id(&server, "vera");
    let session = login(&server, "vera", PASSWORD);
    let refresh = json!({"refresh_token": session.body["refresh_token"]});
    let me = || server.get("/api/v1/auth/me").by_person("vera").send().status;
    assert_eq!(me(), 200);
    assert_eq!(disable(&server, "anna", &vera).status, 204);
    assert_eq!(ended(&server), ["user default/vera"]);
    assert_eq!(me(), 401);
    server.post("/api/v1/auth/refresh").json(&refresh).is_problem(401);
    login(&server, "vera", PASSWORD).is_problem(401);
    assert_eq!(disable(&server, "anna", &vera).status, 204, "again changes nothing");
    assert!(ended(&server).is_empty());
    assert_eq!(change(&server, "anna", &vera, &json!({"is_active": true})).body["is_active"], true);
    assert_eq!((me(), login(&server, "vera", PASSWORD).status), (401, 200));
    server.post("/api/v1/auth/refresh").json(&refresh).is_problem(401);
    let audit = server.audit();
    for row in [
        "user.disable ok user:anna@example.org vera@example.org",
        "user.enable ok user:anna@example.org vera@example.org",
    ] {
        assert_eq!(audit.iter().filter(|found| *found == row).count(), 1, "{row}: {audit:#?}");
    }
}

#[test]
fn nobody_locks_themselves_or_the_last_admin_out() {
    let server = server();
    server.superadmin("default", "sue");
    let (anna, sue) = (id(&server, "anna"), id(&server, "sue"));
    for body in [json!({"role": "operator"}), json!({"is_active": false})] {
        let refused = change(&server, "anna", &anna, &body);
        assert!(refused.is_problem(409).text.contains("ask another admin"), "{}", refused.text);
    }
    disable(&server, "anna", &anna).is_problem(409);
    change(&server, "sue", &sue, &json!({"is_superadmin": false})).is_problem(409);
    assert_eq!(change(&server, "sue", &anna, &json!({"role": "viewer"})).status, 200);
    // A service account does not count, and may not take the last one away either.
    let robot = json!({"username": "robot", "role": "admin"});
    let robot = server.post("/api/v1/service-accounts").by_person("sue").json(&robot);
    let key = json!({"name": "k", "service_account_id": robot.body["id"]});
    let key = server.post("/api/v1/api-keys").by_person("sue").json(&key);
    let key = key.body["key"].as_str().unwrap();
    let patch =
        |id: &str, body: Value| server.call("PATCH", &format!("/api/v1/users/{id}")).bearer(key).json(&body);
    patch(&sue, json!({"role": "viewer"})).is_problem(403);
    assert_eq!(patch(&anna, json!({"role": "admin"})).status, 200);
    assert_eq!(change(&server, "sue", &anna, &json!({"is_active": false})).status, 200);
    let email = "sue@example.org".parse().unwrap();
    let last = fleetd::service::accounts::disable_user(&server.app.store, &email, "test", 1);
    let last = server.runtime.block_on(last).unwrap_err().to_string();
    assert!(last.contains("last active admin of default"), "{last}");
}

#[test]
fn two_admins_who_take_each_other_out_at_once_leave_one() {
    for _ in 0..5 {
        let server = server();
        server.person("default", "bob", Role::Admin);
        let (anna, bob) = (id(&server, "anna"), id(&server, "bob"));
        let statuses: Vec<u16> = std::thread::scope(|scope| {
            let calls = [
                scope.spawn(|| disable(&server, "anna", &bob).status),
                scope.spawn(|| disable(&server, "bob", &anna).status),
            ];
            calls.into_iter().map(|call| call.join().unwrap()).collect()
        });
        assert_eq!(statuses.iter().filter(|status| **status == 204).count(), 1, "{statuses:?}");
    }
}

#[test]
fn an_admin_of_an_organisation_does_not_become_or_touch_a_superadmin() {
    let server = server();
    server.superadmin("default", "sue");
    let (anna, sue) = (id(&server, "anna"), id(&server, "sue"));
    change(&server, "anna", &anna, &json!({"is_superadmin": true})).is_problem(403);
    change(&server, "anna", &sue, &json!({"name": "X"})).is_problem(403);
    disable(&server, "anna", &sue).is_problem(403);
    reset(&server, "anna", &sue, &json!({})).is_problem(403);
    let body = json!({"email": "x@example.org", "name": "X", "role": "admin", "is_superadmin": true});
    create(&server, "anna", &body).is_problem(403);
    assert_eq!(login(&server, "sue", PASSWORD).status, 200);
    assert_eq!(change(&server, "sue", &anna, &json!({"is_superadmin": true})).body["is_superadmin"], true);
    let refused = server.audit().iter().filter(|row| row.contains(" refused user:anna@example.org")).count();
    assert_eq!(refused, 5);
}

#[test]
fn a_new_password_ends_every_session_and_is_shown_once_if_it_was_made() {
    let server = server();
    let vera = id(&server, "vera");
    let made = reset(&server, "anna", &vera, &json!({}));
    let password = made.body["password"].as_str().unwrap().to_owned();
    assert_eq!((made.status, ended(&server)), (200, vec!["user default/vera".to_owned()]));
    server.get("/api/v1/auth/me").by_person("vera").send().is_problem(401);
    login(&server, "vera", PASSWORD).is_problem(401);
    assert_eq!(login(&server, "vera", &password).status, 200);
    let given = reset(&server, "anna", &vera, &json!({"password": "another password"}));
    assert!(given.status == 200 && given.body["password"].is_null(), "{}", given.text);
    assert_eq!(login(&server, "vera", "another password").status, 200);
    for weak in ["short", "password123", "vera@example.org", "vera vera"] {
        let answer = reset(&server, "anna", &vera, &json!({ "password": weak }));
        assert_eq!(answer.is_problem(422).fields(), ["password"], "{weak}");
    }
    let own = reset(&server, "anna", &id(&server, "anna"), &json!({}));
    assert!(own.is_problem(409).text.contains("/auth/password"), "{}", own.text);
    let told = server.audit_details("user.reset_password").join(" ");
    assert!(!told.contains("another password") && !told.contains(&password), "{told}");
    let audit = server.audit();
    assert!(audit.contains(&"user.reset_password ok user:anna@example.org vera@example.org".to_owned()));
}

#[test]
fn the_strength_of_a_password_is_checked_where_a_person_changes_the_own_one() {
    let server = server();
    let change = |new: &str| {
        server.post("/api/v1/auth/password").by_person("vera").json(&json!({"old": PASSWORD, "new": new}))
    };
    for weak in ["password123", "vera@example.org", "qwertyuiop"] {
        assert_eq!(change(weak).is_problem(422).fields(), ["new"], "{weak}");
    }
    assert_eq!(change("another password").status, 204);
}

#[test]
fn people_of_another_organisation_do_not_exist() {
    let server = server();
    server.person("other", "eve", Role::Admin);
    let eve = id(&server, "eve");
    server.get(&format!("/api/v1/users/{eve}")).by_person("anna").send().is_problem(404);
    change(&server, "anna", &eve, &json!({"name": "X"})).is_problem(404);
    disable(&server, "anna", &eve).is_problem(404);
    reset(&server, "anna", &eve, &json!({})).is_problem(404);
    for nobody in ["nobody", "a%00b", "%F0%9F%98%80", &"x".repeat(500)] {
        let status = server.get(&format!("/api/v1/users/{nobody}")).by_person("anna").send().status;
        assert_eq!(status, 404, "{nobody}");
    }
    let elsewhere = json!({"email": "x@example.org", "name": "X", "role": "admin", "org": "other"});
    create(&server, "anna", &elsewhere).is_problem(403);
    assert_eq!(login(&server, "eve", PASSWORD).status, 200);
}
