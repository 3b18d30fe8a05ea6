//! The server dies while commands are being created or called back. The same request again makes what is missing, and
//! nothing twice.
#![allow(clippy::unwrap_used)]

mod process;

use std::collections::BTreeMap;

use fleetd::failpoint;
use process::{Mqtt, Server, eventually, register};
use serde_json::{Value, json};

const DEVICES: usize = 4;

/// A server that dies at a place, the N-th time it comes there.
fn dying(data: &std::path::Path, place: &str, time: usize) -> Server {
    Server::start_with(data, &[("R58_FLEET_TEST_FAILPOINT", &format!("{place}#{time}"))])
}

fn post(server: &Server, token: &str, path: &str, body: &Value) -> Result<Value, ureq::Error> {
    let url = format!("http://{}/api/v1{path}", server.http);
    let call = ureq::post(&url).header("authorization", format!("Bearer {token}"));
    let mut answer = call.header("content-type", "application/json").send(body.to_string())?;
    Ok(serde_json::from_str(&answer.body_mut().read_to_string()?).unwrap())
}

/// The ids of the commands of each device.
fn commands(server: &Server, token: &str) -> BTreeMap<String, Vec<String>> {
    let list = server.get_json(token, "/api/v1/commands?page_size=100");
    let mut found: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for item in list["items"].as_array().unwrap() {
        let text = |field: &str| item[field].as_str().unwrap().to_owned();
        found.entry(text("device")).or_default().push(text("id"));
    }
    found
}

fn with_devices() -> tempfile::TempDir {
    let data = tempfile::tempdir().unwrap();
    // The first start makes the admin.
    Server::start(data.path()).kill();
    for n in 0..DEVICES {
        register(data.path(), &format!("cam-{n}"));
    }
    data
}

/// One command for each device, and those that were there before are still the same.
fn assert_complete(before: &BTreeMap<String, Vec<String>>, after: &BTreeMap<String, Vec<String>>) {
    assert_eq!(after.len(), DEVICES, "{after:?}");
    assert!(after.values().all(|ids| ids.len() == 1), "{after:?}");
    for (device, ids) in before {
        assert_eq!(after[device], *ids, "{device}");
    }
}

#[test]
fn a_request_for_all_devices_that_the_server_dies_of_is_completed_by_repeating_it() {
    for (place, time) in [
        (failpoint::CREATE_BEFORE_COMMIT, 1),
        (failpoint::CREATE_BEFORE_COMMIT, DEVICES),
        (failpoint::CREATE_AFTER_COMMIT, 1),
        (failpoint::CREATE_AFTER_COMMIT, DEVICES),
    ] {
        let data = with_devices();
        let body = json!({"to": "*", "type": "ping", "ref": "night"});
        let mut server = dying(data.path(), place, time);
        let token = server.sign_in();
        assert!(post(&server, &token, "/commands", &body).is_err(), "{place}#{time}");
        eventually("the death", || server.is_dead().then_some(()));
        let server = Server::start(data.path());
        let before = commands(&server, &token);
        assert!(place == failpoint::CREATE_BEFORE_COMMIT || !before.is_empty(), "{place}#{time}");
        for _ in 0..2 {
            let answer = post(&server, &token, "/commands", &body).unwrap();
            let items = answer["items"].as_array().unwrap().clone();
            assert_eq!(items.len(), DEVICES);
            assert!(items.iter().all(|item| item.get("command").is_some()), "{answer}");
        }
        assert_complete(&before, &commands(&server, &token));
    }
}

#[test]
fn the_same_bytes_by_mqtt_complete_what_the_server_died_of() {
    let data = with_devices();
    let topic = "fleet/v1/default/operator/admin/command";
    let payload = br#"{"to": "*", "type": "ping"}"#;
    let mut server = dying(data.path(), failpoint::CREATE_AFTER_COMMIT, 2);
    let connect = |server: &Server| {
        Mqtt::connect(
            server,
            "tool",
            "default/admin",
            process::PASSWORD,
            &["fleet/v1/default/operator/admin/result"],
            None,
        )
    };
    let token = server.sign_in();
    connect(&server).publish(topic, payload.to_vec(), false);
    eventually("the death", || server.is_dead().then_some(()));
    let server = Server::start(data.path());
    let before = commands(&server, &token);
    assert!(!before.is_empty());
    let operator = connect(&server);
    operator.publish(topic, payload.to_vec(), false);
    let after = eventually("every command", || {
        Some(commands(&server, &token)).filter(|found| found.len() == DEVICES)
    });
    assert_complete(&before, &after);
    operator.publish(topic, payload.to_vec(), false);
    let mut heard = 0;
    operator.wait("the answers", |_, payload| {
        let answer: Value = serde_json::from_slice(payload).unwrap();
        heard += usize::from(answer["status"] == "accepted");
        (heard >= DEVICES).then_some(())
    });
    assert_complete(&before, &commands(&server, &token));
}

#[test]
fn a_cancel_that_the_server_dies_of_is_done_once_or_not_at_all() {
    for (place, status) in
        [(failpoint::CHANGE_BEFORE_COMMIT, "pending"), (failpoint::CHANGE_AFTER_COMMIT, "cancelled")]
    {
        let data = with_devices();
        let mut server = dying(data.path(), place, 1);
        let token = server.sign_in();
        let made = post(&server, &token, "/devices/cam-0/commands", &json!({"type": "ping"})).unwrap();
        let path = format!("/commands/{}", made["id"].as_str().unwrap());
        assert!(post(&server, &token, &format!("{path}/cancel"), &json!({})).is_err());
        eventually("the death", || server.is_dead().then_some(()));
        let server = Server::start(data.path());
        assert_eq!(server.get_json(&token, &format!("/api/v1{path}"))["status"], status);
        let again = post(&server, &token, &format!("{path}/cancel"), &json!({}));
        assert_eq!(again.is_ok(), status == "pending");
        let after = server.get_json(&token, &format!("/api/v1{path}"));
        assert_eq!(after["status"], "cancelled");
        assert_eq!(after["history"].as_array().unwrap().len(), 2, "{after}");
    }
}
