//! What goes wrong between real parts: each gives an error that says what to do, and loses nothing.
#![allow(clippy::unwrap_used)]

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use end_to_end::{Agent, Server, wait_for};
use serde_json::json;

const SOON: Duration = Duration::from_secs(40);

#[test]
fn a_device_whose_clock_is_a_year_off_is_online_and_its_heartbeats_are_kept_by_the_servers_clock() {
    let server = Server::start();
    for (device, offset_ms) in [("slow-clock", "-31536000000"), ("fast-clock", "+31536000000")] {
        let agent = Agent::enroll(&server, device);
        let clock = server.folder().join(device);
        std::fs::write(&clock, offset_ms).unwrap();
        let mut agent = agent.with("R58_FLEET_TEST_WALL_CLOCK_FILE", clock.to_str().unwrap());
        agent.start();
        let api = server.api();
        wait_for("heartbeats", SOON, || (api.heartbeat_seqs(device).len() >= 2).then_some(()));
        assert_eq!(api.device(device)["status"], "online");
        let newest = &api.heartbeats(device)[0];
        let received = newest["received_at"].as_str().unwrap();
        let age = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis();
        let received_ms = protocol::message::parse_rfc3339(received).unwrap();
        assert!(i64::try_from(age).unwrap().abs_diff(received_ms) < 60_000, "{newest}");
    }
}

#[test]
fn a_wrong_token_is_refused_and_the_agent_says_what_to_do_and_keeps_its_records() {
    let server = Server::start();
    let mut agent = Agent::enroll(&server, "studio-001").with("DEVICE_TOKEN", &"0".repeat(64));
    agent.start();
    wait_for("refusal in the log", SOON, || {
        agent.log().contains("does not accept this device's token").then_some(())
    });
    agent.wait_for_record_past(2);
    assert!(agent.ended().is_none(), "a refused agent keeps trying");
    assert!(server.api().heartbeat_seqs("studio-001").is_empty());
    assert!(!agent.log().contains(&"0".repeat(64)), "the token is in the log");
}

#[test]
fn two_agents_with_one_identity_are_noticed_and_neither_loses_a_record() {
    let server = Server::start();
    let mut one = Agent::enroll(&server, "studio-001");
    let mut two = one.twin();
    one.start();
    one.wait_for_record_past(1);
    two.start();
    two.wait_for_record_past(3);
    let api = server.api();
    wait_for("both state ids", Duration::from_secs(60), || {
        let records = api.get("/devices/studio-001/records");
        (records["items"].as_array().unwrap().len() == 2).then_some(())
    });
    // With the other one gone, each brings in what it has.
    assert!(one.stop().success());
    let last = *two.outbox_seqs().last().unwrap();
    wait_for("the second one's records", Duration::from_secs(90), || {
        api.committed("studio-001").contains(&last).then_some(())
    });
    assert!(two.stop().success());
    one.start();
    let last = one.wait_for_record_past(*one.outbox_seqs().last().unwrap());
    wait_for("the first one's records", Duration::from_secs(90), || {
        api.committed("studio-001").contains(&last).then_some(())
    });
}

#[test]
fn a_second_server_on_the_same_data_folder_exits_with_the_reason() {
    let server = Server::start();
    let output = server.run(&["serve"], "");
    assert!(!output.status.success());
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(said.contains(server.data_dir().to_str().unwrap()) && said.contains("another fleetd"), "{said}");
}

#[test]
fn a_port_in_use_is_named_with_the_key_that_changes_it() {
    let server = Server::start();
    let folder = tempfile::tempdir().unwrap();
    let mut command = server.command(&["serve"]);
    let output = command.env("FLEET_DATA_DIR", folder.path()).env("RUST_LOG", "warn").output().unwrap();
    assert!(!output.status.success());
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(said.contains("in use") && said.contains("FLEET_"), "{said}");
}

#[test]
fn an_unreadable_config_is_an_error_that_names_the_file() {
    let server = Server::start();
    let missing = server.folder().join("nowhere.toml");
    let output = server.run(&["serve", "--config", missing.to_str().unwrap()], "");
    assert!(!output.status.success());
    assert!(String::from_utf8_lossy(&output.stderr).contains("nowhere.toml"));

    let agent = Agent::unenrolled("studio-001");
    agent.write_config("HEARTBEAT_INTERVAL=soon\n");
    let output = agent.run(&["run"], "");
    assert!(!output.status.success());
}

#[test]
fn a_rotated_token_ends_the_connection_within_a_second_and_the_old_one_stays_out() {
    let server = Server::start();
    let mut agent = Agent::enroll(&server, "studio-001");
    agent.start();
    let api = server.api();
    wait_for("heartbeats", SOON, || (api.heartbeat_seqs("studio-001").len() >= 2).then_some(()));
    let (status, body) = api.post("/devices/studio-001/rotate-token", &json!({}));
    assert_eq!(status, 200, "{body}");
    wait_for("end of the connection", Duration::from_secs(1), || {
        agent.log().contains("closed the connection").then_some(())
    });
    let stored = api.heartbeat_seqs("studio-001").len();
    wait_for("refusal in the log", SOON, || {
        agent.log().contains("refuses this device's token").then_some(())
    });
    agent.wait_for_record_past(agent.outbox_seqs().last().unwrap() + 2);
    assert_eq!(api.heartbeat_seqs("studio-001").len(), stored, "heartbeats still arrive with the old token");
}

#[test]
fn a_decommissioned_device_is_out_within_a_second_and_keeps_its_records() {
    let server = Server::start();
    let mut agent = Agent::enroll(&server, "studio-001");
    agent.start();
    let api = server.api();
    wait_for("heartbeats", SOON, || (api.heartbeat_seqs("studio-001").len() >= 2).then_some(()));
    assert_eq!(api.delete("/devices/studio-001"), 204);
    wait_for("end of the connection", Duration::from_secs(1), || {
        agent.log().contains("closed the connection").then_some(())
    });
    assert_eq!(api.try_get("/devices/studio-001").0, 404);
    agent.wait_for_record_past(agent.outbox_seqs().last().unwrap() + 2);
    assert!(agent.stop().success());
}
