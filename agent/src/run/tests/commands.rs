//! Commands on the wire, from the server's message to the report that it has.

use std::fs;
use std::path::Path;
use std::time::Duration;

use protocol::codec::{self, Bytes, Record, limit};
use protocol::id::StateId;
use protocol::message::{Command, CommandReport, Desired, DeviceCommand, Reported};
use rumqttc::mqttbytes::v4::{ConnAck, ConnectReturnCode, Packet};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use super::peer::{Peer, SUBTREE, Stored, Wire};
use crate::config::Config;
use crate::kernel::Kernel;
use crate::run::Stop;
use crate::run::agent::Agent;
use crate::service_manager::ServiceManager;

/// A moment within the peer's clock (see [`Wire::ack`]), far from its end.
const EXPIRES_AT_MS: i64 = 1_766_916_000_000 + 3_600_000;

fn write_config(dir: &Path, url: &str) {
    let text = format!(
        "# A comment.\nFLEET_ORG=acme\nDEVICE_ID=studio-001\nDEVICE_TOKEN={}\nMQTT_URL={url}\nSTATE_DIR={}\n\
         HEARTBEAT_INTERVAL=60 # seconds\nAPP_STATUS_URL=\n",
        "ab".repeat(32),
        dir.join("state").display()
    );
    fs::write(dir.join("fleet.conf"), text).unwrap();
}

/// Runs an agent on the file in `dir` beside `script`, which says when it is over.
async fn beside<T>(dir: &Path, script: impl Future<Output = T>) -> (Agent, T) {
    let config = Config::load(Some(&dir.join("fleet.conf"))).unwrap();
    let kernel = Kernel::open().unwrap();
    let mut agent = Agent::start(config, kernel, ServiceManager::from_environment()).await.unwrap();
    let mut stop = Stop::new().unwrap();
    let done = tokio::select! {
        () = agent.turn_until(&mut stop) => panic!("nobody asked it to stop"),
        done = tokio::time::timeout(Duration::from_secs(60), script) => done.expect("the script comes to its end"),
    };
    (agent, done)
}

/// A server that commits everything and keeps what was reported.
struct Server {
    wire: Wire,
    state_id: StateId,
    connection: u64,
    next_seq: u64,
    stored: Stored,
    reports: Vec<CommandReport>,
    reported: Vec<Reported>,
}

impl Server {
    async fn accept(peer: &Peer) -> Self {
        let (wire, _) = peer.accept().await;
        Self::greet(wire, Stored::default()).await
    }

    /// Takes a birth on an accepted connection.
    async fn greet(mut wire: Wire, stored: Stored) -> Self {
        let birth = wire.birth().await;
        wire.ack(birth.state_id, stored.ranges()).await;
        Self {
            wire,
            state_id: birth.state_id,
            connection: birth.connection,
            next_seq: birth.next_seq,
            stored,
            reports: Vec::new(),
            reported: Vec::new(),
        }
    }

    async fn say(&mut self, leaf: &str, message: &impl serde::Serialize) {
        self.wire.say(&format!("{SUBTREE}{leaf}"), codec::encode_named(message).unwrap()).await;
    }

    fn message(&self) -> DeviceCommand {
        let state_id = self.state_id;
        DeviceCommand { state_id, command: None, cancel: None, query: None, override_show: None, go: None }
    }

    async fn run(&mut self, id: &str, kind: &str, payload: Value, over: Option<&str>) {
        let command = Command {
            id: id.parse().unwrap(),
            kind: kind.to_owned(),
            payload,
            priority: 5,
            created_at: 0,
            expires_at: EXPIRES_AT_MS,
            timeout_seconds: 30,
            desired_version: 0,
            override_show: over.map(str::to_owned),
        };
        let message = DeviceCommand { command: Some(command), ..self.message() };
        self.say("command", &message).await;
    }

    /// Takes what comes until `enough`, and acknowledges it.
    async fn until(&mut self, enough: impl Fn(&Self) -> bool) {
        while !enough(self) {
            let (leaf, publish) = self.wire.publish().await;
            match leaf.as_str() {
                "presence" => continue,
                "birth" => {}
                "status" => {
                    let (records, _) =
                        codec::decode_records::<CommandReport>(&publish.payload, limit::COMMAND_BYTES)
                            .unwrap();
                    for record in records {
                        let Record::Good(report) = record else { panic!("{record:?}") };
                        self.reports.push(report);
                    }
                    self.stored.take(&leaf, &publish, self.connection);
                }
                _ => {
                    if leaf == "reported" {
                        self.reported.push(codec::decode(&publish.payload, limit::COMMAND_BYTES).unwrap());
                    }
                    self.stored.take(&leaf, &publish, self.connection);
                }
            }
            let ranges = self.stored.ranges();
            self.wire.ack(self.state_id, ranges).await;
        }
    }

    async fn until_state(&mut self, id: &str, state: &str) -> CommandReport {
        let is = |report: &CommandReport| report.id.as_str() == id && report.state == state;
        self.until(|server| server.reports.iter().any(is)).await;
        self.reports.iter().rfind(|report| is(report)).unwrap().clone()
    }

    fn states(&self, id: &str) -> Vec<(u32, &str)> {
        let of = self.reports.iter().filter(|report| report.id.as_str() == id);
        of.map(|report| (report.report_seq, report.state.as_str())).collect()
    }
}

#[tokio::test]
async fn a_ping_is_acked_run_and_completed_and_a_copy_of_it_only_answered_again() {
    let (dir, peer) = (tempfile::tempdir().unwrap(), Peer::new().await);
    write_config(dir.path(), &peer.url());
    let script = async {
        let mut server = Server::accept(&peer).await;
        server.run("c1", "ping", Value::Null, None).await;
        let done = server.until_state("c1", "completed").await;
        assert!(done.result.is_some());
        assert_eq!(server.states("c1"), [(1, "acked"), (2, "running"), (3, "completed")]);
        server.run("c1", "ping", Value::Null, None).await;
        server.until(|server| server.reports.len() > 3).await;
        let again = server.reports.last().unwrap();
        assert_eq!((again.report_seq, &again.result, again.ts), (3, &done.result, done.ts));
    };
    beside(dir.path(), script).await;
    assert_eq!(fs::read_to_string(dir.path().join("state/journal-high")).unwrap(), "3\n");
}

#[tokio::test]
async fn a_flood_of_pings_is_taken_at_the_pace_at_which_they_run_and_each_is_answered() {
    const FLOOD: usize = 150;
    let (dir, peer) = (tempfile::tempdir().unwrap(), Peer::new().await);
    write_config(dir.path(), &peer.url());
    let script = async {
        let mut server = Server::accept(&peer).await;
        for n in 0..FLOOD {
            server.run(&format!("c{n}"), "ping", Value::Null, None).await;
        }
        let completed = |server: &Server| server.reports.iter().filter(|r| r.state == "completed").count();
        server.until(|server| completed(server) == FLOOD).await;
        assert_eq!(server.reports.len(), 3 * FLOOD, "none twice, none rejected");
    };
    beside(dir.path(), script).await;
}

#[tokio::test]
async fn a_disruptive_command_is_held_shown_in_the_status_and_can_be_called_back() {
    let (dir, peer) = (tempfile::tempdir().unwrap(), Peer::new().await);
    write_config(dir.path(), &peer.url());
    let script = async {
        let mut server = Server::accept(&peer).await;
        server.run("c1", "reboot", json!({}), None).await;
        let held = server.until_state("c1", "held").await;
        assert!(held.reason.unwrap().starts_with("app_status_unknown: "));
        let status = || fs::read_to_string(dir.path().join("state/status.json")).unwrap();
        while !status().contains("app_status_unknown") {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        // Another one is not held back by it.
        server.run("c2", "ping", json!({}), None).await;
        server.until_state("c2", "completed").await;
        let message = DeviceCommand { cancel: "c1".parse().ok(), ..server.message() };
        server.say("command", &message).await;
        server.until_state("c1", "cancelled").await;
    };
    beside(dir.path(), script).await;
}

#[tokio::test]
async fn what_the_server_wants_is_applied_once_kept_and_answered() {
    let (dir, peer) = (tempfile::tempdir().unwrap(), Peer::new().await);
    write_config(dir.path(), &peer.url());
    let desired = |version, interval: &str| Desired {
        version,
        config: [
            ("HEARTBEAT_INTERVAL".to_owned(), interval.to_owned()),
            ("SCRIPTS_DIR".to_owned(), "/tmp".to_owned()),
        ]
        .into(),
        target_version: Some("2.0.0".to_owned()),
        show_locks: vec![(0, EXPIRES_AT_MS)],
        redundancy_group: None,
    };
    let script = async {
        let mut server = Server::accept(&peer).await;
        server.until(|server| server.reported.len() == 1).await;
        assert_eq!(server.reported[0].desired_version, 0);
        assert_eq!(server.reported[0].config["HEARTBEAT_INTERVAL"], "60");
        server.say("desired", &desired(3, "1")).await;
        server.until(|server| server.reported.len() == 2).await;
        let reported = &server.reported[1];
        assert_eq!((reported.desired_version, reported.config["HEARTBEAT_INTERVAL"].as_str()), (3, "1"));
        assert!(reported.errors["SCRIPTS_DIR"].contains("SCRIPTS_DIR"), "{:?}", reported.errors);
        // It lives: heartbeats come every second now. An older wish changes nothing, and the server hears why.
        server.say("desired", &desired(2, "600")).await;
        server.until(|server| server.reported.len() == 3).await;
        let reported = &server.reported[2];
        assert_eq!((reported.desired_version, reported.config["HEARTBEAT_INTERVAL"].as_str()), (3, "1"));
        server.say("desired", &desired(3, "1")).await;
        server.until(|server| server.stored.heartbeats.len() > 3).await;
        server.run("c1", "reboot", json!({}), None).await;
        assert!(server.until_state("c1", "held").await.reason.unwrap().starts_with("show_lock: until "));
        assert_eq!(server.reported.len(), 3);
    };
    beside(dir.path(), script).await;
    let text = fs::read_to_string(dir.path().join("fleet.conf")).unwrap();
    assert!(text.contains("# A comment.") && text.contains("HEARTBEAT_INTERVAL=1 # seconds"), "{text}");
    // After a restart without a word from the server the lock still stands.
    let script = async {
        let mut server = Server::accept(&peer).await;
        server.run("c2", "reboot", json!({}), None).await;
        assert!(server.until_state("c2", "held").await.reason.unwrap().starts_with("show_lock: until "));
        let is_old = |reported: &Reported| reported.seq < server.next_seq;
        assert!(server.reported.iter().all(is_old), "nothing has changed since");
    };
    beside(dir.path(), script).await;
}

#[tokio::test]
async fn a_wish_of_another_server_with_the_number_of_the_last_one_is_applied_as_well() {
    let (dir, peer) = (tempfile::tempdir().unwrap(), Peer::new().await);
    write_config(dir.path(), &peer.url());
    let desired = |until: i64, interval: &str| Desired {
        version: 1,
        config: [("HEARTBEAT_INTERVAL".to_owned(), interval.to_owned())].into(),
        target_version: None,
        show_locks: vec![(0, until)],
        redundancy_group: None,
    };
    let script = async {
        let mut server = Server::accept(&peer).await;
        server.say("desired", &desired(1, "50")).await;
        server.until(|server| server.reported.last().is_some_and(|last| last.desired_version == 1)).await;
        // It was enrolled anew at a server that counts from 1 again.
        server.say("desired", &desired(EXPIRES_AT_MS, "40")).await;
        server
            .until(|server| {
                server.reported.last().is_some_and(|last| last.config["HEARTBEAT_INTERVAL"] == "40")
            })
            .await;
        server.run("c1", "reboot", json!({}), None).await;
        assert!(server.until_state("c1", "held").await.reason.unwrap().starts_with("show_lock: until "));
    };
    beside(dir.path(), script).await;
}

#[tokio::test]
async fn a_config_command_takes_effect_at_once_and_is_reported() {
    let (dir, peer) = (tempfile::tempdir().unwrap(), Peer::new().await);
    write_config(dir.path(), &peer.url());
    let script = async {
        let mut server = Server::accept(&peer).await;
        server.run("c1", "config", json!({"changes": {"HEARTBEAT_INTERVAL": 1}}), None).await;
        server.until_state("c1", "completed").await;
        server
            .until(|server| {
                let last = server.reported.last();
                last.is_some_and(|last| last.config["HEARTBEAT_INTERVAL"] == "1")
                    && server.stored.heartbeats.len() > 2
            })
            .await;
        server.run("c2", "config", json!({"changes": {"HEARTBEAT_INTERVAL": 0}}), None).await;
        let rejected = server.until_state("c2", "rejected").await;
        assert!(rejected.reason.unwrap().contains("HEARTBEAT_INTERVAL"));
    };
    beside(dir.path(), script).await;
}

#[tokio::test]
async fn a_rotation_tells_the_hash_connects_with_the_new_token_and_completes_there() {
    let (dir, peer) = (tempfile::tempdir().unwrap(), Peer::new().await);
    write_config(dir.path(), &peer.url());
    let script = async {
        let mut server = Server::accept(&peer).await;
        server.run("c1", "rotate_token", json!({}), None).await;
        server.until(|server| server.reports.iter().any(|report| report.token_sha256.is_some())).await;
        let told = server.reports.last().unwrap().token_sha256.clone().unwrap();
        let Server { mut wire, stored, .. } = server;
        while wire.packet().await.is_some() {}
        let (wire, connect) = peer.accept().await;
        let token = connect.login.unwrap().password;
        assert_eq!(Bytes(Sha256::digest(&token).to_vec()), told);
        let mut server = Server::greet(wire, stored).await;
        server.until_state("c1", "completed").await;
        token
    };
    let (_, token) = beside(dir.path(), script).await;
    let text = fs::read_to_string(dir.path().join("fleet.conf")).unwrap();
    assert!(text.contains(&format!("DEVICE_TOKEN={token}")));
    assert!(!dir.path().join("state/token-next").exists());
}

#[tokio::test]
async fn a_new_token_that_is_refused_is_given_up_for_the_one_before() {
    let (dir, peer) = (tempfile::tempdir().unwrap(), Peer::new().await);
    write_config(dir.path(), &peer.url());
    let script = async {
        let mut server = Server::accept(&peer).await;
        server.run("c1", "rotate_token", json!({}), None).await;
        server.until(|server| server.reports.iter().any(|report| report.token_sha256.is_some())).await;
        let Server { mut wire, stored, .. } = server;
        while wire.packet().await.is_some() {}
        let (mut wire, connect) = peer.knock().await;
        assert_ne!(connect.login.unwrap().password, "ab".repeat(32));
        wire.send(Packet::ConnAck(ConnAck::new(ConnectReturnCode::BadUserNamePassword, false))).await;
        while wire.packet().await.is_some() {}
        let (wire, connect) = peer.accept().await;
        assert_eq!(connect.login.unwrap().password, "ab".repeat(32));
        let mut server = Server::greet(wire, stored).await;
        let failed = server.until_state("c1", "failed").await;
        assert!(failed.error.unwrap().contains("refuses the new token"));
    };
    beside(dir.path(), script).await;
    assert!(fs::read_to_string(dir.path().join("fleet.conf")).unwrap().contains(&"ab".repeat(32)));
}

#[tokio::test]
async fn long_after_a_rotation_the_token_before_is_used_again_if_the_server_takes_no_other() {
    let (dir, peer) = (tempfile::tempdir().unwrap(), Peer::new().await);
    write_config(dir.path(), &peer.url());
    let before = "cd".repeat(32);
    fs::create_dir(dir.path().join("state")).unwrap();
    fs::write(dir.path().join("state/token-previous"), format!("{before}\n")).unwrap();
    let script = async {
        // The server is away with its database, refuses everything, and then comes back from a backup.
        for token in ["ab".repeat(32), before.clone(), "ab".repeat(32)] {
            let (mut wire, connect) = peer.knock().await;
            assert_eq!(connect.login.unwrap().password, token);
            wire.send(Packet::ConnAck(ConnAck::new(ConnectReturnCode::BadUserNamePassword, false))).await;
            while wire.packet().await.is_some() {}
        }
        assert!(fs::read_to_string(dir.path().join("fleet.conf")).unwrap().contains(&"ab".repeat(32)));
        let (wire, connect) = peer.accept().await;
        assert_eq!(connect.login.unwrap().password, before);
        Server::greet(wire, Stored::default())
            .await
            .until(|server| !server.stored.heartbeats.is_empty())
            .await;
    };
    beside(dir.path(), script).await;
    assert!(fs::read_to_string(dir.path().join("fleet.conf")).unwrap().contains(&before));
}

#[tokio::test]
async fn another_address_of_the_application_is_asked_at_once() {
    let (dir, peer) = (tempfile::tempdir().unwrap(), Peer::new().await);
    write_config(dir.path(), &peer.url());
    let file = dir.path().join("fleet.conf");
    fs::write(&file, fs::read_to_string(&file).unwrap() + "ALLOWED_CONFIG_KEYS=APP_STATUS_URL\n").unwrap();
    let application = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/status", application.local_addr().unwrap());
    std::thread::spawn(move || {
        for stream in application.incoming() {
            let body = r#"{"status": "recording"}"#;
            let answer = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{body}", body.len());
            let _ = std::io::Read::read(&mut stream.as_ref().unwrap(), &mut [0; 4096]);
            let _ = std::io::Write::write_all(&mut stream.unwrap(), answer.as_bytes());
        }
    });
    let script = async {
        let mut server = Server::accept(&peer).await;
        server.run("c1", "reboot", json!({}), None).await;
        assert!(server.until_state("c1", "held").await.reason.unwrap().starts_with("app_status_unknown"));
        server.run("c2", "config", json!({"changes": {"APP_STATUS_URL": url}}), None).await;
        let is_live =
            |report: &CommandReport| report.reason.as_deref().is_some_and(|r| r.starts_with("live: "));
        server.until(|server| server.reports.iter().any(is_live)).await;
    };
    beside(dir.path(), script).await;
}
