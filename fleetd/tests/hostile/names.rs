//! Names that look like others, and addresses that are the same in another spelling.

use protocol::id::Role;
use serde_json::json;

use crate::common::{PASSWORD, Server};

fn server() -> Server {
    let server = Server::start();
    server.person("default", "anna", Role::Admin);
    server.device("anna", "cam-1");
    server
}

const TRICKS: &[&str] = &[
    "a\u{0}b",
    "a\u{1b}[2Jb",
    "a\nb",
    "invoice\u{202e}gpj.exe",
    "\u{2066}anna\u{2069}",
    "an\u{200b}na",
    "an\u{200d}na",
    "an\u{ad}na",
    "\u{feff}anna",
    "\u{3164}",
    "anna\u{2028}admin",
    "\u{e0061}nna",
    "\u{301}anna",
    "a\u{301}\u{301}\u{301}\u{301}\u{301}nna",
];

#[test]
fn a_name_that_hides_something_is_refused_with_the_reason_wherever_it_is_given() {
    let server = server();
    let call = |method: &str, path: &str| server.call(method, &format!("/api/v1/{path}")).by_person("anna");
    for (n, trick) in TRICKS.iter().enumerate() {
        let until = protocol::message::rfc3339(server.app.clock.now_ms() + 60_000);
        for (field, answer) in [
            (
                "name",
                call("POST", "users")
                    .json(&json!({"email": format!("u{n}@example.org"), "name": trick, "role": "viewer"})),
            ),
            (
                "name",
                call("POST", "service-accounts")
                    .json(&json!({"username": format!("s{n}"), "name": trick, "role": "viewer"})),
            ),
            ("name", call("POST", "api-keys").json(&json!({"name": trick}))),
            (
                "name",
                call("POST", "devices/register").json(&json!({"device_id": format!("d{n}"), "name": trick})),
            ),
            ("name", call("PATCH", "devices/cam-1").json(&json!({"name": trick}))),
            ("location", call("PATCH", "devices/cam-1").json(&json!({"location": trick}))),
            ("tags", call("PATCH", "devices/cam-1").json(&json!({"tags": [trick]}))),
            ("redundancy_group", call("PATCH", "devices/cam-1").json(&json!({"redundancy_group": trick}))),
            (
                "reason",
                call("PUT", "devices/cam-1/show-lock").json(&json!({"until": until, "reason": trick})),
            ),
            ("ref", call("POST", "devices/cam-1/commands").json(&json!({"type": "ping", "ref": trick}))),
            ("device_id", call("POST", "devices/register").json(&json!({"device_id": trick}))),
            (
                "username",
                call("POST", "service-accounts").json(&json!({"username": trick, "role": "viewer"})),
            ),
        ] {
            // Several lines are no trick in a reason.
            if field == "reason" && trick.contains('\n') {
                continue;
            }
            assert_eq!(answer.is_problem(422).fields(), [field], "{trick:?}: {}", answer.text);
            let told = answer.body["errors"][0]["message"].as_str().unwrap();
            assert!(told.len() > 10 && told.chars().all(|c| !c.is_control()), "{told:?}");
        }
    }
    let long = "x".repeat(201);
    call("POST", "users")
        .json(&json!({"email": "l@example.org", "name": long, "role": "viewer"}))
        .is_problem(422);
    for good in ["Zoë", "演播室", "استودیو می\u{200c}خواهم", "👩\u{200d}🔧"] {
        let answer = call("PATCH", "devices/cam-1").json(&json!({"name": good}));
        assert_eq!((answer.status, &answer.body["name"]), (200, &json!(good)));
    }
}

#[test]
fn two_addresses_that_could_be_taken_for_one_another_are_one_or_are_refused() {
    let server = server();
    let count = std::sync::atomic::AtomicUsize::new(0);
    let create = |email: &str| {
        // The name would be taken as well: it is made from the address.
        let username = format!("u-{}", count.fetch_add(1, std::sync::atomic::Ordering::Relaxed));
        let body = json!({"email": email, "username": username, "name": "N", "role": "viewer"});
        server.post("/api/v1/users").by_person("anna").json(&body)
    };
    assert_eq!(create("Admin@Example.com").body["email"], "admin@example.com");
    for same in ["admin@example.com", "ADMIN@EXAMPLE.COM", " admin@Example.com "] {
        create(same).is_problem(409);
    }
    for odd in [
        "\u{430}dmin@example.com",
        "admin@ex\u{430}mple.com",
        "\u{ff41}dmin@example.com",
        "adm\u{131}n@example.com",
        "adm\u{130}n@example.com",
        "\u{212a}im@example.com",
        "admin\u{200b}@example.com",
        "a\u{301}dmin@example.com",
        "admin@b\u{fc}cher.example",
        "admin@example\u{3002}com",
        "admin\u{ff20}example.com",
        "admin@example.com.",
        "admin@.example.com",
        "admin @example.com",
        "admin@exam\tple.com",
        "admin@@example.com",
        "admin\0@example.com",
    ] {
        let answer = create(odd);
        assert_eq!(answer.is_problem(422).fields(), ["email"], "{odd:?}");
        // Nor does it sign anybody in.
        let login = server.post("/api/v1/auth/login").json(&json!({"email": odd, "password": PASSWORD}));
        assert!(matches!(login.status, 401 | 422 | 429), "{odd:?}: {}", login.text);
    }
    // A domain with other letters has a form without them.
    assert_eq!(create("admin@xn--bcher-kva.example").status, 201);
    // Small letters for everybody who signs in.
    let login = json!({"email": "ANNA@EXAMPLE.ORG", "password": PASSWORD});
    assert_eq!(server.post("/api/v1/auth/login").json(&login).status, 200);
}
