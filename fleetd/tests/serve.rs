//! The server as people run it: a process, its ports, its signals, and what survives a kill.
#![allow(clippy::unwrap_used)]

mod process;

use std::{collections::BTreeSet, time::Duration};

use process::{Device, Mqtt, PASSWORD, STATE, Server, eventually, fleetd, output, register};
use protocol::{codec, message::Presence, ranges::RangeSet};
use serde_json::Value;

#[test]
fn a_heartbeat_goes_from_the_broker_into_the_database_and_shows_everywhere() {
    let data = tempfile::tempdir().unwrap();
    let server = Server::start(data.path());
    let token = register(data.path(), "cam-1");
    let operator = Mqtt::connect(
        &server,
        "tool",
        "admin@example.org",
        PASSWORD,
        &["fleet/v1/default/view/+", "fleet/v1/server/+"],
        None,
    );
    operator.wait("the server's status", |topic, payload| {
        let status: Value = serde_json::from_slice(payload).ok()?;
        (topic == "fleet/v1/server/fleetd" && status["online"] == true).then_some(())
    });

    let device = Device::connect(&server, "cam-1", &token, 1);
    assert_eq!(device.birth(), RangeSet::new());
    device.heartbeats(1..=3);
    device.ack("all three", |ranges| ranges.as_slice() == [(1, 3)]);
    // Sent again: acknowledged again, stored once.
    device.heartbeats(2..=4);
    device.ack("the fourth", |ranges| ranges.as_slice() == [(1, 4)]);
    operator.wait("the view", |topic, payload| {
        let view: Value = serde_json::from_slice(payload).ok()?;
        let right =
            topic.ends_with("view/cam-1") && view["status"] == "online" && view["cpu_percent"] == 15.2;
        right.then_some(())
    });

    let person = server.sign_in();
    let heartbeats = server.get_json(&person, "/api/v1/devices/cam-1/heartbeats");
    assert_eq!(heartbeats["total"], 4);
    assert_eq!(heartbeats["items"][0]["status"]["active_inputs"], serde_json::json!(["cam1"]));
    let records = server.get_json(&person, "/api/v1/devices/cam-1/records");
    assert_eq!(records["items"][0]["committed"], serde_json::json!([[1, 4]]));
    let metrics = server.get_json(&person, "/api/v1/devices/cam-1/metrics?hours=1");
    assert_eq!(metrics["points"][0]["cpu_percent"]["avg"], 15.2);
    let numbers = server.get(&person, "/metrics");
    assert!(numbers.contains("fleet_records_stored_total{kind=\"heartbeat\"} 4"), "{numbers}");
    assert!(numbers.contains("fleet_broker_connections_devices 1"), "{numbers}");
    assert!(numbers.contains("fleet_worker_runs_total{worker=\"heartbeat_monitor\"}"), "{numbers}");

    assert!(server.terminate(), "SIGTERM ends it well");
    operator.wait("the goodbye", |topic, payload| {
        let status: Value = serde_json::from_slice(payload).ok()?;
        (topic == "fleet/v1/server/fleetd" && status["online"] == false).then_some(())
    });
}

#[test]
fn what_was_acknowledged_survives_kills_at_any_moment_and_nothing_is_stored_twice() {
    let data = tempfile::tempdir().unwrap();
    let mut server = Server::start(data.path());
    let token = register(data.path(), "cam-1");
    let mut acknowledged: BTreeSet<u64> = BTreeSet::new();
    let mut sent: BTreeSet<u64> = BTreeSet::new();
    for round in 0..6u64 {
        let device = Device::connect(&server, "cam-1", &token, round + 1);
        let committed = device.birth();
        assert!(acknowledged.iter().all(|seq| committed.contains(*seq)), "round {round} has lost something");
        let fresh = round * 30 + 1..=round * 30 + 30;
        sent.extend(fresh.clone());
        for seq in sent.iter().filter(|seq| !committed.contains(**seq)) {
            device.heartbeats(std::iter::once(*seq));
        }
        // From before the first commit to after the last one.
        device.mqtt.wait_for(Duration::from_millis(round * 12), |_, payload| {
            let ack: protocol::message::Ack = codec::decode(payload, 300_000).unwrap();
            acknowledged.extend(sent.iter().filter(|seq| ack.ranges.contains(**seq)));
            false
        });
        server.kill();
        server = Server::start(data.path());
    }
    let device = Device::connect(&server, "cam-1", &token, 7);
    let committed = device.birth();
    device.heartbeats(sent.iter().copied().filter(|seq| !committed.contains(*seq)).chain([999]));
    let all: RangeSet = sent.iter().copied().chain([999]).collect();
    device.ack("everything", |ranges| *ranges == all);
    let person = server.sign_in();
    let mut stored = Vec::new();
    for page in 1.. {
        let path = format!("/api/v1/devices/cam-1/heartbeats?page_size=100&page={page}");
        let answer = server.get_json(&person, &path);
        stored.extend(answer["items"].as_array().unwrap().iter().map(|item| item["seq"].as_u64().unwrap()));
        if answer["has_more"] == false {
            break;
        }
    }
    stored.sort_unstable();
    assert_eq!(stored, sent.into_iter().chain([999]).collect::<Vec<_>>());
}

#[test]
fn a_lost_device_is_offline_after_its_will_and_a_stale_presence_is_put_right() {
    let data = tempfile::tempdir().unwrap();
    let server = Server::start(data.path());
    let token = register(data.path(), "cam-1");
    let person = server.sign_in();
    let status = || server.get_json(&person, "/api/v1/devices/cam-1")["status"].clone();
    let device = Device::connect(&server, "cam-1", &token, 2);
    device.birth();
    eventually("online", || (status() == "online").then_some(()));

    let filter = ["fleet/v1/default/device/+/presence"];
    let watcher = Mqtt::connect(&server, "w", "admin@example.org", PASSWORD, &filter, None);
    // The will of an earlier connection, late.
    let stale = Presence { state_id: STATE, connection: 1, online: false };
    device.publish("presence", codec::encode_packed(&stale).unwrap());
    watcher.wait("the right presence", |_, payload| {
        let presence: Presence = codec::decode(payload, 1000).ok()?;
        (presence.connection == 2 && presence.online).then_some(())
    });
    assert_eq!(status(), "online");

    // Its own last presence.
    let gone = Presence { state_id: STATE, connection: 2, online: false };
    device.publish("presence", codec::encode_packed(&gone).unwrap());
    eventually("offline", || (status() == "offline").then_some(()));
}

#[test]
fn a_change_by_http_reaches_the_device_and_the_view_and_a_decommissioned_device_has_none() {
    let data = tempfile::tempdir().unwrap();
    let server = Server::start(data.path());
    let token = register(data.path(), "cam-1");
    let watcher =
        Mqtt::connect(&server, "w", "admin@example.org", PASSWORD, &["fleet/v1/default/view/+"], None);
    let device = Device::connect(&server, "cam-1", &token, 1);
    device.birth();
    let person = server.sign_in();
    let url = format!("http://{}/api/v1/devices/cam-1", server.http);
    let bearer = format!("Bearer {person}");
    let patch = ureq::patch(&url).header("authorization", &bearer).header("content-type", "application/json");
    patch.send("{\"target_version\": \"2.0.0\"}").unwrap();
    device.mqtt.wait("the target version", |_, payload| {
        let ack: protocol::message::Ack = codec::decode(payload, 300_000).unwrap();
        (ack.target_version.as_deref() == Some("2.0.0")).then_some(())
    });
    watcher.wait("the changed view", |_, payload| {
        let view: Value = serde_json::from_slice(payload).ok()?;
        (view["target_version"] == "2.0.0").then_some(())
    });
    ureq::delete(&url).header("authorization", &bearer).call().unwrap();
    watcher.wait("the cleared view", |topic, payload| {
        (topic == "fleet/v1/default/view/cam-1" && payload.is_empty()).then_some(())
    });
}

#[test]
fn two_data_folders_cannot_share_one_database() {
    let (first, second) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let shared = tempfile::tempdir().unwrap();
    let url = format!("sqlite:{}", shared.path().join("fleet.db").display());
    let mut running = fleetd(first.path());
    let mut running = running.arg("serve").env("FLEET_DATABASE_URL", &url).spawn().unwrap();
    eventually("the first", || first.path().join("addresses.json").exists().then_some(()));
    let mut other = fleetd(second.path());
    other.arg("serve").env("FLEET_DATABASE_URL", &url);
    let output = output(other, "");
    running.kill().unwrap();
    running.wait().unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&output.stderr).contains("another fleetd"));
}

#[test]
fn a_second_server_on_the_folder_ends_with_the_reason() {
    let data = tempfile::tempdir().unwrap();
    let _server = Server::start(data.path());
    let mut second = fleetd(data.path());
    second.arg("serve");
    let output = output(second, "");
    let message = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1));
    assert!(message.contains("another fleetd") && message.contains("FLEET_DATA_DIR"), "{message}");
}

#[test]
fn a_port_in_use_is_named_with_the_key_to_change() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    for variable in ["FLEET_HTTP_LISTEN", "FLEET_MQTT_LISTEN"] {
        let data = tempfile::tempdir().unwrap();
        let mut command = fleetd(data.path());
        command.arg("serve").env(variable, taken.local_addr().unwrap().to_string());
        let output = output(command, "");
        let message = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1));
        let address = taken.local_addr().unwrap().to_string();
        assert!(message.contains(variable) && message.contains(&address), "{message}");
    }
}

#[test]
fn a_first_admin_with_a_password_that_is_easy_to_guess_is_not_made() {
    let data = tempfile::tempdir().unwrap();
    let mut command = fleetd(data.path());
    command.arg("serve").env("FLEET_ADMIN_PASSWORD", "password123");
    let output = output(command, "");
    let message = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1));
    assert!(message.contains("easy to guess") && !message.contains("password123"), "{message}");
}

#[test]
fn a_bad_configuration_and_an_unusable_folder_say_what_to_do() {
    let data = tempfile::tempdir().unwrap();
    let config = data.path().join("fleetd.toml");
    std::fs::write(&config, "http_listen = \"127.0.0.1:0\"\nmqt_listen = \"\"\n").unwrap();
    let mut command = fleetd(data.path());
    command.args(["serve", "--config"]).arg(&config);
    let message = String::from_utf8_lossy(&output(command, "").stderr).into_owned();
    assert!(message.contains("line 2, key mqt_listen"), "{message}");

    let file = data.path().join("a-file");
    std::fs::write(&file, "").unwrap();
    let mut command = fleetd(&file.join("folder"));
    command.arg("serve");
    let output = output(command, "");
    let message = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1));
    assert!(message.contains("a-file"), "{message}");
}

#[test]
fn decode_shows_a_message_and_man_and_completion_are_there() {
    let data = tempfile::tempdir().unwrap();
    let run = |arguments: &[&str], input: &str| {
        let mut command = fleetd(data.path());
        command.args(arguments);
        let output = output(command, input);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    };
    let packed = codec::encode_packed(&process::heartbeat(42, 1)).unwrap();
    let hex: String = packed.iter().map(|byte| format!("{byte:02x}")).collect();
    let json: Value = serde_json::from_str(&run(&["decode", "--kind", "heartbeat"], &hex)).unwrap();
    assert_eq!(json["seq"], 42);
    assert!(run(&["completion", "bash"], "").contains("fleetd"));
    assert!(run(&["man"], "").contains("serve"));
}
