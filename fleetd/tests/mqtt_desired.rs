//! What is desired of devices, and devices that only poll, with the whole server: workers, broker, HTTP.
#![allow(clippy::unwrap_used)]

mod process;

use process::commands::{Box, Heard, Operator};
use process::{Server, eventually, now_ms, register};
use protocol::codec;
use protocol::message::{Desired, Reported, rfc3339};
use serde_json::{Value, json};

enum Who<'a> {
    Admin,
    Device(&'a str),
}

fn http(server: &Server, who: &Who<'_>, method: &str, path: &str, body: Option<&Value>) -> Value {
    let agent: ureq::Agent = ureq::Agent::config_builder().allow_non_standard_methods(true).build().into();
    let request = ureq::http::Request::builder().method(method).uri(format!("http://{}{path}", server.http));
    let mut request = match who {
        Who::Admin => request.header("authorization", format!("Bearer {}", server.sign_in())),
        Who::Device(token) => request.header("x-device-token", *token),
    };
    let answer = match body {
        Some(body) => {
            request = request.header("content-type", "application/json");
            agent.run(request.body(body.to_string()).unwrap())
        }
        None => agent.run(request.body(()).unwrap()),
    };
    let text = answer.unwrap().body_mut().read_to_string().unwrap();
    serde_json::from_str(&text).unwrap_or(Value::Null)
}

fn admin(server: &Server, method: &str, path: &str, body: &Value) -> Value {
    http(server, &Who::Admin, method, path, Some(body))
}

fn look(server: &Server, path: &str) -> Value {
    http(server, &Who::Admin, "GET", path, None)
}

fn desired(device: &Box, what: &str, is_it: impl Fn(&Desired) -> bool) -> Desired {
    device.next(what, |heard| match heard {
        Heard::Desired(desired) if is_it(desired) => Some(desired.clone()),
        _ => None,
    })
}

/// Answers what is desired, as an agent does once it is on its disk. `seq`: of the record.
fn answer(device: &Box, seq: u64, desired: &Desired) {
    let reported = Reported {
        seq,
        connection: u16::try_from(device.connection).unwrap(),
        ts: now_ms(),
        desired_version: desired.version,
        config: desired.config.clone(),
        errors: [].into(),
    };
    device.publish("reported", codec::encode_packed(&reported).unwrap());
}

#[test]
fn a_lock_by_tag_reaches_its_devices_and_is_in_effect_when_all_have_answered() {
    let data = tempfile::tempdir().unwrap();
    let server = Server::start(data.path());
    let devices: Vec<Box> = ["cam-1", "cam-2"]
        .iter()
        .map(|id| {
            let token = register(data.path(), id);
            admin(&server, "PATCH", &format!("/api/v1/devices/{id}"), &json!({"tags": ["hall"]}));
            Box::connect(&server, id, &token, 1)
        })
        .collect();
    let lock = json!({"until": rfc3339(now_ms() + 3_600_000), "reason": "gala"});
    let set = admin(&server, "PUT", "/api/v1/show-locks/hall", &lock);
    assert_eq!((&set["devices"], &set["in_effect"]), (&json!(2), &json!(false)), "{set}");
    for (n, device) in devices.iter().enumerate() {
        assert_eq!(look(&server, "/api/v1/show-locks/hall")["in_effect"], false);
        let has_lock = desired(device, "the lock", |desired| desired.show_locks.len() == 1);
        answer(device, 1500, &has_lock);
        eventually("the answer counts", || {
            let known = &look(&server, "/api/v1/show-locks/hall")["devices_in_effect"];
            (*known == json!(n + 1)).then_some(())
        });
    }
    assert_eq!(look(&server, "/api/v1/show-locks/hall")["in_effect"], true);
}

#[test]
fn a_config_command_completed_over_mqtt_is_desired_from_then_on() {
    let data = tempfile::tempdir().unwrap();
    let server = Server::start(data.path());
    let device = Box::connect(&server, "cam-1", &register(data.path(), "cam-1"), 1);
    let config = "/api/v1/devices/cam-1/config";
    admin(&server, "PUT", config, &json!({"desired": {"R58_DEBUG": "1"}}));
    let first = desired(&device, "the first", |desired| desired.config.contains_key("R58_DEBUG"));
    answer(&device, 1500, &first);
    eventually("in sync", || (look(&server, config)["in_sync"] == true).then_some(()));
    let body = json!({"type": "config", "payload": {"changes": {"HEARTBEAT_INTERVAL": 30}}});
    admin(&server, "POST", "/api/v1/devices/cam-1/commands", &body);
    let id = device.run().id.to_string();
    device.report(&id, 1, "acked");
    device.report(&id, 2, "completed");
    let merged = desired(&device, "both keys", |desired| desired.config.len() == 2);
    assert_eq!(merged.config["HEARTBEAT_INTERVAL"], "30");
    assert!(merged.version > first.version);
    assert_eq!(look(&server, config)["in_sync"], false);
    answer(&device, 1600, &merged);
    eventually("in sync again", || (look(&server, config)["in_sync"] == true).then_some(()));
}

#[test]
fn a_device_that_is_connected_is_handed_nothing_by_a_poll() {
    let data = tempfile::tempdir().unwrap();
    let server = Server::start(data.path());
    let token = register(data.path(), "cam-1");
    let poll =
        || http(&server, &Who::Device(&token), "GET", "/api/v1/devices/cam-1/commands?status=pending", None);
    let device = Box::connect(&server, "cam-1", &token, 1);
    admin(&server, "POST", "/api/v1/devices/cam-1/commands", &json!({"type": "ping"}));
    device.run();
    assert_eq!(poll(), json!([]));
    drop(device);
    admin(&server, "POST", "/api/v1/devices/cam-1/commands", &json!({"type": "ping"}));
    assert_eq!(poll(), json!([]), "its connection ended a moment ago");
}

#[test]
fn an_operator_hears_by_mqtt_what_becomes_of_a_command_for_a_device_that_polls() {
    let data = tempfile::tempdir().unwrap();
    let server = Server::start(data.path());
    let token = register(data.path(), "old-1");
    let operator = Operator::connect(&server, "admin");
    let device = |method: &str, path: &str, body: Option<&Value>| {
        http(&server, &Who::Device(&token), method, path, body)
    };
    let beat = |recording: bool| {
        let body = json!({"ts": "2025-12-28T10:00:00Z", "status": {"recording_active": recording}});
        device("POST", "/api/devices/old-1/heartbeat", Some(&body));
    };
    let poll =
        || device("GET", "/api/devices/old-1/commands?status=pending", None).as_array().unwrap().clone();
    beat(true);
    operator.ask(&json!({"to": "old-1", "type": "restart_service", "payload": {"service": "r58-api"}}));
    let id = operator.hears("accepted")["id"].as_str().unwrap().to_owned();
    assert_eq!((poll(), poll()), (vec![], vec![]));
    let held = operator.hears("pending");
    assert!(held["reason"].as_str().unwrap().starts_with("live"), "{held}");
    beat(false);
    assert_eq!(poll()[0]["id"], id.as_str());
    let path = format!("/api/v1/commands/{id}");
    device("PATCH", &path, Some(&json!({"status": "acked"})));
    device("PATCH", &path, Some(&json!({"status": "completed", "result": {"active": true}})));
    let rest: Vec<Value> = (0..3).map(|_| operator.next()).collect();
    let states: Vec<_> = rest.iter().map(|step| step["status"].as_str().unwrap()).collect();
    assert_eq!(states, ["sent", "acked", "completed"], "one line for the reason, one for each step");
    assert_eq!(rest[2]["result"], json!({"active": true}));
}
