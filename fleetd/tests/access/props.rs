//! What the paths of the table name, made anew for every request, and a body that is right.

use fleetd::values;
use protocol::id::Role;
use serde_json::{Value, json};

use crate::cast::{Cast, Stage};
use crate::common::{PASSWORD, certificate_request};

/// A request that can succeed.
pub struct Props {
    /// The path.
    pub path: String,
    /// The same with an id that nobody has, if there is one in it.
    pub nowhere: Option<(String, String)>,
    /// The id in the path.
    pub id: String,
    pub body: Option<Value>,
    /// The token of the device that it is about.
    pub device: String,
}

pub fn make(stage: &Stage, cast: &Cast, caller: &str, method: &str, path: &str) -> Props {
    let (device, token) = stage.device(&cast.stagehand);
    let kind = path.split_once('{').map(|(_, rest)| rest.split('}').next().unwrap());
    let id = kind.map(|kind| thing(stage, cast, caller, kind, &device, &token));
    let nobody = match &id {
        Some(id) if uuid::Uuid::parse_str(id).is_ok() => uuid::Uuid::new_v4().to_string(),
        _ => stage.new_name("default"),
    };
    let with = |id: &str| {
        let (before, rest) = path.split_once('{').unwrap();
        format!("{before}{id}{}", rest.split_once('}').unwrap().1)
    };
    Props {
        path: id.as_deref().map_or_else(|| path.to_owned(), with),
        nowhere: id.is_some().then(|| (with(&nobody), nobody.clone())),
        body: body(stage, cast, caller, method, path, &device),
        id: id.unwrap_or_default(),
        device: token,
    }
}

/// Makes what a variable of a path stands for, and gives its id.
fn thing(stage: &Stage, cast: &Cast, caller: &str, kind: &str, device: &str, token: &str) -> String {
    let admin = |method: &str, path: &str, body: &Value| {
        let answer = stage.server.call(method, path).bearer(&cast.stagehand.token).json(body);
        assert!(answer.status < 300, "{method} {path}: {}", answer.text);
        answer.body
    };
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    let lock = json!({"until": in_an_hour(stage), "reason": "gala"});
    let command = || {
        text(&admin("POST", &format!("/api/v1/devices/{device}/commands"), &json!({"type": "ping"}))["id"])
    };
    match kind {
        "device" => device.to_owned(),
        "locked-device" => {
            admin("PUT", &format!("/api/v1/devices/{device}/show-lock"), &lock);
            device.to_owned()
        }
        "tag" => stage.new_name("default"),
        "locked-tag" => {
            let tag = stage.new_name("default");
            admin("PUT", &format!("/api/v1/show-locks/{tag}"), &lock);
            tag
        }
        "group" => {
            let group = stage.new_name("default");
            admin("PATCH", &format!("/api/v1/devices/{device}"), &json!({"redundancy_group": group}));
            // Somebody's turn: a lease that nobody has is left alone, which is not noted.
            let take = "INSERT INTO redundancy_leases (org_id, name, revision, device_id, command_id, nonce, granted_at) \
                        SELECT org_id, ?1, 1, device_id, id, x'00', 1 FROM commands WHERE id = ?2";
            stage.execute(take, values![&group, command()]);
            group
        }
        "command" => command(),
        "sent-command" => {
            let id = command();
            let polled = stage.server.get(&format!("/api/v1/devices/{device}/commands?status=pending"));
            assert_eq!(polled.by_device(token).send().body[0]["id"], id.as_str());
            id
        }
        "long-unknown-command" => {
            let id = command();
            let since = stage.server.app.clock.now_ms() - 700_000;
            let hold = "UPDATE commands SET held_reason = 'app_status_unknown', revision = 2 WHERE id = ?1";
            stage.execute(hold, values![&id]);
            let note = "INSERT INTO command_history (command_id, revision, org_id, status, at, detail) \
                        SELECT id, 2, org_id, 'pending', ?2, 'app_status_unknown' FROM commands WHERE id = ?1";
            stage.execute(note, values![&id, since]);
            id
        }
        "person" => stage.person("default", Role::Viewer, false).user.id,
        "superadmin" => stage.person("default", Role::Admin, true).user.id,
        "org" => stage.person("other", Role::Viewer, false).user.org.id.as_str().to_owned(),
        "service-account" => stage.service(&cast.stagehand.user).id,
        "service-key" => stage.key(&stage.service(&cast.stagehand.user), &[]).0,
        "own-key" if cast.account(caller).is_some() => stage.key(&cast.account(caller).unwrap().user, &[]).0,
        "own-key" | "colleagues-key" => stage.key(&stage.person("default", Role::Admin, false).user, &[]).0,
        "enrolment-key" => text(&admin("POST", "/api/v1/enrollment-keys", &json!({}))["id"]),
        _ => panic!("nobody knows how to make a {kind}"),
    }
}

fn body(stage: &Stage, cast: &Cast, caller: &str, method: &str, path: &str, device: &str) -> Option<Value> {
    let new = || stage.new_name(if caller.starts_with("other") { "other" } else { "default" });
    let resource = path.strip_prefix("/api/v1/").unwrap_or_default();
    Some(match (method, resource) {
        ("POST", "auth/login") => json!({"email": cast.stagehand.user.label(), "password": PASSWORD}),
        ("POST", "auth/refresh") => {
            let login = json!({"email": cast.stagehand.user.label(), "password": PASSWORD});
            let login = stage.server.post("/api/v1/auth/login").json(&login);
            json!({"refresh_token": login.body["refresh_token"]})
        }
        ("POST", "auth/password") => json!({"old": PASSWORD, "new": "thoroughly unlike the old one"}),
        ("POST", "users") => {
            json!({"email": format!("{}@example.org", new()), "name": "New", "role": "viewer"})
        }
        ("POST", "orgs") => json!({"slug": new(), "name": "New"}),
        ("POST", "service-accounts") => json!({"username": new(), "role": "viewer"}),
        ("POST", "devices/register") => json!({"device_id": new()}),
        ("POST", "commands") => json!({"to": device, "type": "ping"}),
        ("POST", "api-keys") => json!({"name": "new"}),
        ("PATCH", "commands/{sent-command}") => json!({"status": "acked"}),
        ("PATCH", "devices/{device}") => json!({"notes": "seen"}),
        ("PATCH", _) => json!({"name": "Renamed"}),
        ("POST", path) if path.ends_with("/certificate") => json!({"csr": certificate_request()}),
        ("POST", path) if path.ends_with("/heartbeat") => json!({"ts": "2025-12-28T10:00:00Z"}),
        ("POST", path) if path.ends_with("}/commands") => json!({"type": "ping"}),
        ("POST", path) if path.ends_with("}/update") => json!({"version": "2.0"}),
        ("POST", path) if path.ends_with("}/override") => json!({"reason": "the hall is empty"}),
        ("PUT", path) if path.ends_with("/config") => json!({"desired": {"HEARTBEAT_INTERVAL": "30"}}),
        ("PUT", _) => json!({"until": in_an_hour(stage), "reason": "gala"}),
        _ => return None,
    })
}

fn in_an_hour(stage: &Stage) -> String {
    protocol::message::rfc3339(stage.server.app.clock.now_ms() + 3_600_000)
}
