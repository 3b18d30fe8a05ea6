//! A device's heartbeats, from the agent through the broker into the database, and back out to people.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeSet;
use std::process::Command;
use std::time::Duration;

use end_to_end::{ADMIN_EMAIL, ADMIN_PASSWORD, Agent, Server, Signal, wait_for};
use protocol::codec::{self, Record};
use protocol::message::Heartbeat;

const SOON: Duration = Duration::from_secs(40);

/// The sequence numbers in a heartbeat payload, in order.
fn seqs(payload: &[u8]) -> Vec<u64> {
    let (records, without_seq) =
        codec::decode_records::<Heartbeat>(payload, codec::limit::HEARTBEAT_BATCH_BYTES).unwrap();
    assert_eq!(without_seq, 0);
    let seq = |record: &Record<Heartbeat>| match record {
        Record::Good(heartbeat) => heartbeat.seq,
        Record::Poison { reason, .. } => panic!("the agent sent what cannot be read: {reason}"),
    };
    records.iter().map(seq).collect()
}

#[test]
fn heartbeats_come_through_the_broker_into_the_database_and_out_of_the_api() {
    let mut server = Server::start();
    let mut agent = Agent::enroll(&server, "studio-001");
    agent.start();
    let api = server.api();
    wait_for("heartbeats over MQTT", SOON, || (api.heartbeat_seqs("studio-001").len() >= 3).then_some(()));

    let device = api.device("studio-001");
    assert_eq!(device["status"], "online", "{device}");
    assert_eq!(device["transport"], "mqtt", "{device}");
    assert!(device["mem_percent"].as_f64().unwrap() > 0.0, "{device}");
    assert!(device["uptime_seconds"].as_u64().unwrap() > 0, "{device}");
    assert_eq!(device["agent_version"], env!("CARGO_PKG_VERSION"), "{device}");
    let newest = &api.heartbeats("studio-001")[0];
    assert_eq!(newest["state_id"].as_str().unwrap().len(), 16, "{newest}");
    assert!(newest["metrics"]["disk_total_gb"].as_f64().unwrap() > 0.0, "{newest}");

    // A clean stop says goodbye: the last presence is believed at once, without waiting for heartbeats to stay away.
    assert!(agent.stop().success());
    wait_for("offline device", SOON, || (api.device("studio-001")["status"] == "offline").then_some(()));
    assert!(server.stop().success());
}

#[test]
fn a_viewer_sees_the_device_with_mosquitto_sub_in_both_protocol_versions() {
    let server = Server::start();
    let viewer = [
        "user",
        "add",
        "--email",
        "eve@example.com",
        "--name",
        "Eve",
        "--role",
        "viewer",
        "--username",
        "eve",
    ];
    server.run_ok(&viewer, "a viewer's long password\n");
    let mut agent = Agent::enroll(&server, "studio-001");
    agent.start();
    for version in ["mqttv311", "mqttv5"] {
        let output = Command::new("mosquitto_sub")
            .args([
                "-h",
                "127.0.0.1",
                "-p",
                &server.mqtt_port().to_string(),
                "-V",
                version,
                "-W",
                "30",
                "-C",
                "1",
            ])
            .args(["-u", "default/eve", "-P", "a viewer's long password", "-t", "fleet/v1/default/view/+"])
            .output()
            .expect("mosquitto_sub is installed: run `make setup`");
        assert!(output.status.success(), "{version}: {}", String::from_utf8_lossy(&output.stderr));
        let view: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!(view["device_id"], "studio-001", "{version}: {view}");
    }
    let server_status = Command::new("mosquitto_sub")
        .args(["-h", "127.0.0.1", "-p", &server.mqtt_port().to_string(), "-W", "30", "-C", "1"])
        .args(["-u", ADMIN_EMAIL, "-P", ADMIN_PASSWORD, "-t", "fleet/v1/server/+"])
        .output()
        .unwrap();
    let status: serde_json::Value = serde_json::from_slice(&server_status.stdout).unwrap();
    assert_eq!(status["online"], true, "{status}");
}

#[test]
fn heartbeats_spooled_while_the_server_is_down_arrive_exactly_once_newest_first_then_oldest_first() {
    let mut server = Server::start();
    let mut agent = Agent::enroll(&server, "studio-001");
    agent.start();
    let api = server.api();
    wait_for("heartbeats over MQTT", SOON, || (api.heartbeat_seqs("studio-001").len() >= 2).then_some(()));
    let before = *agent.outbox_seqs().last().unwrap();
    assert!(server.stop().success());
    let spooled = agent.wait_for_record_past(before + 8);

    // Frozen, so that the watcher is there before the agent is back.
    agent.signal(Signal::SIGSTOP);
    server.start_again();
    let watcher = server.watch("fleet/v1/default/device/studio-001/heartbeat");
    agent.signal(Signal::SIGCONT);

    let enough = |sent: &[end_to_end::Seen]| {
        let all: BTreeSet<u64> = sent.iter().flat_map(|m| seqs(&m.payload)).collect();
        (before + 1..=spooled).all(|seq| all.contains(&seq) || !agent.outbox_seqs().contains(&seq))
    };
    let messages = watcher.until(Duration::from_secs(90), enough);
    let sent: Vec<u64> = messages.iter().flat_map(|m| seqs(&m.payload)).collect();
    assert!(sent[0] >= spooled, "the newest heartbeat goes first: {sent:?}");
    let backlog: Vec<u64> = sent.iter().copied().filter(|seq| *seq <= spooled && *seq != sent[0]).collect();
    assert!(backlog.is_sorted(), "the rest goes oldest first: {sent:?}");

    // Every number exactly once in the database.
    let api = server.api();
    wait_for("everything committed", Duration::from_secs(60), || {
        let committed = api.committed("studio-001");
        agent
            .outbox_seqs()
            .iter()
            .filter(|seq| **seq <= spooled)
            .all(|seq| committed.contains(seq))
            .then_some(())
    });
    let rows = api.heartbeat_seqs("studio-001");
    assert_eq!(
        rows.len(),
        rows.iter().collect::<BTreeSet<_>>().len(),
        "a heartbeat is stored twice: {rows:?}"
    );
}
