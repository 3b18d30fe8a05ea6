//! What means "any" elsewhere means itself here, and NUL is never a part of anything.

use protocol::id::Role;
use serde_json::json;

use crate::client::Client;
use crate::common::PASSWORD;
use crate::site::Site;
use crate::wire::{BOTH, Connect};

const ODD: &[&str] = &[
    "+", "#", "*", "%", "_", "?", "cam-%", "cam-_", "cam_1", "cam-+", "cam-*", "%25", "..", "cam-1\0",
    "cam-1\0x",
];

fn site() -> Site {
    let site = Site::start();
    site.server.person("default", "anna", Role::Admin);
    for id in ["cam-1", "cam-2"] {
        site.server.device("anna", id);
    }
    site.ask("anna", "PATCH", "devices/cam-1", &json!({"tags": ["hall"], "location": "100% dark_room"}));
    site
}

fn encoded(text: &str) -> String {
    text.bytes().map(|byte| format!("%{byte:02x}")).collect()
}

#[test]
fn a_name_or_an_id_matches_itself_alone_over_http() {
    let site = site();
    let get = |path: &str| site.server.get(&format!("/api/v1/{path}")).by_person("anna").send();
    for odd in ODD {
        let text = encoded(odd);
        for path in [
            "devices/{}",
            "devices/{}/config",
            "devices/{}/commands",
            "users/{}",
            "api-keys/{}",
            "commands/{}",
            "show-locks/{}",
        ] {
            let answer = get(&path.replace("{}", &text));
            assert!(matches!(answer.status, 400 | 404), "{path} {odd:?}: {}", answer.text);
        }
        for (path, body) in [
            ("devices/register", json!({"device_id": odd})),
            ("service-accounts", json!({"username": odd, "role": "viewer"})),
            ("users", json!({"email": "x@example.org", "username": odd, "name": "X", "role": "viewer"})),
        ] {
            // These are names like any other.
            if matches!(*odd, "cam_1" | "cam-_") {
                continue;
            }
            site.server.post(&format!("/api/v1/{path}")).by_person("anna").json(&body).is_problem(422);
        }
        let to = site
            .server
            .post("/api/v1/commands")
            .by_person("anna")
            .json(&json!({"to": format!("tag:{odd}"), "type": "ping"}));
        assert!(matches!(to.status, 404 | 422), "{odd:?}: {}", to.text);
        if *odd != "*" {
            let to = site
                .server
                .post("/api/v1/commands")
                .by_person("anna")
                .json(&json!({"to": odd, "type": "ping"}));
            assert!(matches!(to.status, 404 | 422), "{odd:?}: {}", to.text);
        }
        for filter in ["tag", "version"] {
            let answer = get(&format!("devices?{filter}={text}"));
            assert!(answer.status == 400 || answer.body["total"] == 0, "{filter}={odd:?}: {}", answer.text);
        }
        for filter in ["action", "user", "device"] {
            let answer = get(&format!("audit?{filter}={text}"));
            assert!(answer.status == 400 || answer.body["total"] == 0, "{filter}={odd:?}: {}", answer.text);
        }
        let email = format!("{odd}@example.org");
        let login = json!({"email": email, "password": PASSWORD});
        let login = site.server.post("/api/v1/auth/login").json(&login);
        assert!(matches!(login.status, 401 | 422), "{odd:?}: {}", login.text);
    }
    // What is searched for is found as it is written.
    for (text, found) in [
        ("%", 1),
        ("_", 1),
        ("100%", 1),
        ("dark_room", 1),
        ("dark%room", 0),
        ("dark-room", 0),
        ("\\", 0),
        ("*", 0),
        ("cam", 2),
    ] {
        let answer = get(&format!("devices?q={}", encoded(text)));
        assert_eq!(answer.body["total"], found, "{text}: {}", answer.text);
    }
    get("devices?q=a%00").is_problem(400);
}

#[test]
fn a_user_name_matches_itself_alone_over_mqtt() {
    let site = site();
    let made = site.ask("anna", "POST", "devices/cam-1/rotate-token", &json!({}));
    let token = made.body["token"].as_str().unwrap();
    for version in BOTH {
        for odd in ODD {
            for name in [
                format!("default/{odd}"),
                format!("{odd}/cam-1"),
                format!("{odd}@example.org"),
                (*odd).to_owned(),
            ] {
                for secret in [token, PASSWORD] {
                    let mut client = Client::silent(site.mqtt, version);
                    client.send(Connect::new(version, "default/cam-1").login(&name, secret).encode());
                    match client.wait(crate::client::PATIENCE) {
                        crate::client::Outcome::Packet(crate::wire::Received::ConnAck { code, .. }) => {
                            assert_ne!(code, 0, "{name:?} is let in");
                        }
                        crate::client::Outcome::Closed => assert!(name.contains('\0'), "{name:?}: closed"),
                        other => panic!("{name:?}: {other:?}"),
                    }
                }
            }
        }
    }
}
