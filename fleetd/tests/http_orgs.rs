//! Organisations, and how many devices one may have.
#![allow(clippy::unwrap_used)]

mod common;

use common::{Answer, Server};
use protocol::id::Role;
use serde_json::{Value, json};

fn server() -> Server {
    let server = Server::start();
    server.superadmin("default", "sue");
    server.person("default", "anna", Role::Admin);
    server
}

fn create(server: &Server, body: &Value) -> Answer {
    server.post("/api/v1/orgs").by_person("sue").json(body)
}

fn change(server: &Server, id: &Value, body: &Value) -> Answer {
    server.call("PATCH", &format!("/api/v1/orgs/{}", id.as_str().unwrap())).by_person("sue").json(body)
}

#[test]
fn a_superadmin_adds_an_organisation_and_its_first_admin() {
    let server = server();
    let made =
        create(&server, &json!({"slug": "acme", "name": "Acme", "settings": {"a": 1}, "max_devices": 5}));
    assert_eq!(made.status, 201, "{}", made.text);
    assert_eq!((&made.body["slug"], &made.body["max_devices"]), (&json!("acme"), &json!(5)));
    let path = format!("/api/v1/orgs/{}", made.body["id"].as_str().unwrap());
    assert_eq!(server.get(&path).by_person("sue").send().body, made.body);
    server.get(&path).by_person("anna").send().is_problem(403);
    let admin = json!({"email": "ada@example.org", "name": "Ada", "role": "admin", "org": "acme", "password": common::PASSWORD});
    let admin = server.post("/api/v1/users").by_person("sue").json(&admin);
    assert_eq!((admin.status, &admin.body["org"]), (201, &json!("acme")), "{}", admin.text);
    server.device("ada", "cam-1");
    let nowhere = json!({"email": "x@example.org", "name": "X", "role": "admin", "org": "nowhere"});
    server.post("/api/v1/users").by_person("sue").json(&nowhere).is_problem(404);
    let listed = server.get("/api/v1/orgs?sort=-slug").by_person("sue").send();
    let slugs: Vec<_> =
        listed.body["items"].as_array().unwrap().iter().map(|org| org["slug"].clone()).collect();
    assert_eq!((slugs, &listed.body["total"]), (vec![json!("default"), json!("acme")], &json!(2)));
    assert!(server.audit().contains(&"org.create ok user:sue@example.org acme".to_owned()));
}

#[test]
fn an_organisation_is_changed_but_for_its_short_name() {
    let server = server();
    let acme = create(&server, &json!({"slug": "acme", "name": "Acme"})).body["id"].clone();
    let changed =
        change(&server, &acme, &json!({"name": "Acme Events", "settings": {"b": [2]}, "max_devices": 3}));
    assert_eq!((changed.status, &changed.body["name"]), (200, &json!("Acme Events")), "{}", changed.text);
    assert_eq!((&changed.body["settings"], &changed.body["max_devices"]), (&json!({"b": [2]}), &json!(3)));
    let unlimited = change(&server, &acme, &json!({"max_devices": null}));
    assert!(unlimited.body["max_devices"].is_null() && unlimited.body["name"] == "Acme Events");
    for bad in [
        json!({"slug": "other"}),
        json!({"name": null}),
        json!({"name": "a\u{0}"}),
        json!({"settings": []}),
        json!({"settings": {"x": "y".repeat(20_000)}}),
        json!({"max_devices": -1}),
        json!({"max_devices": 1.5}),
    ] {
        change(&server, &acme, &bad).is_problem(422);
    }
    change(&server, &json!("nowhere"), &json!({"name": "X"})).is_problem(404);
    assert!(server.audit().contains(&"org.update ok user:sue@example.org acme".to_owned()));
}

#[test]
fn a_short_name_is_taken_once_fits_the_rule_and_is_not_server() {
    let server = server();
    let slug = |slug: &str| create(&server, &json!({"slug": slug, "name": "X"}));
    assert!(slug("server").is_problem(422).text.contains("reserved"));
    for bad in ["", "A", "a/b", "+", "-a", "a\u{0}", &"a".repeat(64)] {
        assert_eq!(slug(bad).is_problem(422).fields(), ["slug"], "{bad:?}");
    }
    assert_eq!((slug("acme").status, slug("acme").status), (201, 409));
    assert_eq!(
        create(&server, &json!({"slug": "x", "name": "X", "nonsense": 1})).is_problem(422).fields(),
        ["nonsense"]
    );
    let broken =
        server.post("/api/v1/orgs").by_person("sue").header("content-type", "application/json").bytes(b"{");
    broken.is_problem(400);
}

#[test]
fn no_more_devices_are_registered_than_an_organisation_may_have_even_at_once() {
    let server = server();
    let org = server.get("/api/v1/auth/me").by_person("sue").send().body["org_id"].clone();
    assert_eq!(change(&server, &org, &json!({"max_devices": 4})).status, 200);
    let anna = server.token("anna");
    let register = |id: String| {
        let call = server.post("/api/v1/devices/register").bearer(&anna);
        call.json(&json!({"device_id": id})).status
    };
    let statuses: Vec<u16> = std::thread::scope(|scope| {
        let calls: Vec<_> = (0..12).map(|n| scope.spawn(move || register(format!("cam-{n}")))).collect();
        calls.into_iter().map(|call| call.join().unwrap()).collect()
    });
    assert_eq!(statuses.iter().filter(|status| **status == 201).count(), 4, "{statuses:?}");
    assert_eq!(statuses.iter().filter(|status| **status == 409).count(), 8, "{statuses:?}");
    let one = server.get("/api/v1/devices?page_size=1").by_person("anna").send();
    let path = format!("/api/v1/devices/{}", one.body["items"][0]["device_id"].as_str().unwrap());
    assert_eq!(server.call("DELETE", &path).by_person("anna").send().status, 204);
    assert_eq!((register("cam-20".into()), register("cam-21".into())), (201, 409));
    // Fewer than there are: nothing is taken away.
    assert_eq!(change(&server, &org, &json!({"max_devices": 1})).status, 200);
    assert_eq!(server.get("/api/v1/devices").by_person("anna").send().body["total"], 4);
}
