//! What a device does on the wire, from birth to goodbye.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::time::Duration;

use protocol::codec::{self, limit};
use protocol::id::StateId;
use protocol::message::{CommandReport, DeviceCommand, Heartbeat, Presence};
use protocol::ranges::RangeSet;
use rumqttc::mqttbytes::v4::{ConnAck, ConnectReturnCode, Packet};
use tempfile::TempDir;

use super::peer::{Peer, SUBTREE, Stored, Wire};
use crate::config::Config;
use crate::kernel::Kernel;
use crate::outbox::Kind;
use crate::run::agent::Agent;
use crate::run::{RunError, Stop};
use crate::service_manager::ServiceManager;
use crate::state::State;
use crate::status::{Connection, Status};

fn config(dir: &Path, url: &str) -> Config {
    let text = format!(
        "FLEET_ORG=acme\nDEVICE_ID=studio-001\nDEVICE_TOKEN={}\nMQTT_URL={url}\nSTATE_DIR={}\nHEARTBEAT_INTERVAL=1\n\
         APP_STATUS_URL=\n",
        "ab".repeat(32),
        dir.join("state").display()
    );
    Config::from_parts(Some((Path::new("fleet.conf"), &text)), &[], "host").unwrap()
}

async fn start(config: Config) -> Result<Agent, RunError> {
    Agent::start(config, Kernel::open().unwrap(), ServiceManager::from_environment()).await
}

/// Runs an agent beside `script`, which says when it is over.
async fn beside<T>(dir: &Path, url: &str, script: impl Future<Output = T>) -> (Agent, T) {
    let mut agent = start(config(dir, url)).await.unwrap();
    let mut stop = Stop::new().unwrap();
    let done = tokio::select! {
        () = agent.turn_until(&mut stop) => panic!("nobody asked it to stop"),
        done = tokio::time::timeout(Duration::from_secs(60), script) => done.expect("the script comes to its end"),
    };
    (agent, done)
}

fn status(dir: &Path) -> Status {
    serde_json::from_slice(&fs::read(dir.join("state/status.json")).unwrap()).unwrap()
}

/// Takes records until `enough`, acknowledging each payload.
async fn take_until(
    wire: &mut Wire,
    state: StateId,
    connection: u64,
    stored: &mut Stored,
    enough: impl Fn(&Stored) -> bool,
) {
    while !enough(stored) {
        let (leaf, publish) = wire.publish().await;
        if leaf != "presence" && leaf != "birth" {
            stored.take(&leaf, &publish, connection);
        }
        wire.ack(state, stored.ranges()).await;
    }
}

#[tokio::test]
async fn birth_comes_first_then_presence_and_records_only_after_the_acknowledgement() {
    let (dir, peer) = (tempfile::tempdir().unwrap(), Peer::new().await);
    let script = async {
        let (mut wire, connect) = peer.accept().await;
        let will = connect.last_will.unwrap();
        let login = connect.login.unwrap();
        assert_eq!(
            (connect.client_id.as_str(), login.username.as_str()),
            ("acme/studio-001", "acme/studio-001")
        );
        assert_eq!(login.password, "ab".repeat(32));
        assert_eq!((connect.keep_alive, connect.clean_session), (30, true));
        assert_eq!((will.topic.as_str(), will.retain), (&*format!("{SUBTREE}presence"), true));

        let birth = wire.birth().await;
        let will: Presence = codec::decode(&will.message, limit::COMMAND_BYTES).unwrap();
        assert_eq!((will.state_id, will.connection, will.online), (birth.state_id, birth.connection, false));
        assert_eq!((birth.connection, birth.transport.as_str(), birth.interval_seconds), (1, "mqtt", 1));
        assert_eq!(birth.agent_version, env!("CARGO_PKG_VERSION"));
        let (leaf, publish) = wire.publish().await;
        assert_eq!((leaf.as_str(), publish.retain), ("presence", true));
        let presence: Presence = codec::decode(&publish.payload, limit::COMMAND_BYTES).unwrap();
        assert_eq!((presence.connection, presence.online), (1, true));

        let silence = tokio::time::timeout(Duration::from_millis(2_500), wire.publish()).await;
        assert!(silence.is_err(), "no record before the acknowledgement: {silence:?}");
        wire.ack(birth.state_id, RangeSet::new()).await;
        let mut stored = Stored::default();
        take_until(&mut wire, birth.state_id, 1, &mut stored, |stored| stored.heartbeats.len() >= 3).await;
        assert!(stored.order[0] > 1, "the newest heartbeat comes before the older: {:?}", stored.order);
        let heartbeat = &stored.heartbeats[&1];
        assert!(heartbeat.since_boot_ms > 0 && heartbeat.mem_permille.is_some());
        while status(dir.path()).connection != Connection::Connected {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    };
    beside(dir.path(), &peer.url(), script).await;
}

#[tokio::test]
async fn what_was_not_acknowledged_goes_again_after_a_broken_connection_and_after_a_restart() {
    let (dir, peer) = (tempfile::tempdir().unwrap(), Peer::new().await);
    let mut stored = Stored::default();
    let script = async {
        let (mut wire, _) = peer.accept().await;
        let birth = wire.birth().await;
        wire.ack(birth.state_id, RangeSet::new()).await;
        // Two heartbeats arrive and are never acknowledged.
        let mut unanswered = Stored::default();
        while unanswered.heartbeats.len() < 2 {
            let (leaf, publish) = wire.publish().await;
            if leaf == "heartbeat" {
                unanswered.take(&leaf, &publish, 1);
            }
        }
        drop(wire);
        let (mut wire, _) = peer.accept().await;
        let again = wire.birth().await;
        assert_eq!((again.state_id, again.connection), (birth.state_id, 2));
        wire.ack(birth.state_id, RangeSet::new()).await;
        let all =
            |stored: &Stored| unanswered.heartbeats.keys().all(|seq| stored.heartbeats.contains_key(seq));
        take_until(&mut wire, birth.state_id, 2, &mut stored, all).await;
        birth.state_id
    };
    let (agent, state_id) = beside(dir.path(), &peer.url(), script).await;
    drop(agent);
    let script = async {
        let (mut wire, _) = peer.accept().await;
        let birth = wire.birth().await;
        assert_eq!((birth.state_id, birth.connection), (state_id, 3));
        assert!(birth.next_seq > stored.ranges().max().unwrap());
        wire.ack(state_id, stored.ranges()).await;
        let next = birth.next_seq;
        take_until(&mut wire, state_id, 3, &mut stored, |stored| stored.heartbeats.contains_key(&next)).await;
        assert_eq!(stored.ranges().as_slice(), [(1, stored.ranges().max().unwrap())], "none is missing");
    };
    beside(dir.path(), &peer.url(), script).await;
}

#[tokio::test]
async fn a_server_that_knows_later_numbers_gets_the_records_under_a_new_identity() {
    let (dir, peer) = (tempfile::tempdir().unwrap(), Peer::new().await);
    let script = async {
        let (mut wire, _) = peer.accept().await;
        let birth = wire.birth().await;
        wire.ack(birth.state_id, [(1, birth.next_seq + 40)].into_iter().collect()).await;
        // It says goodbye and comes back.
        while wire.packet().await.is_some() {}
        let (mut wire, _) = peer.accept().await;
        let renewed = wire.birth().await;
        assert_ne!(renewed.state_id, birth.state_id);
        assert!(renewed.connection > birth.connection);
        wire.ack(renewed.state_id, RangeSet::new()).await;
        let mut stored = Stored::default();
        let connection = renewed.connection;
        take_until(&mut wire, renewed.state_id, connection, &mut stored, |stored| {
            stored.heartbeats.contains_key(&1)
        })
        .await;
    };
    beside(dir.path(), &peer.url(), script).await;
}

#[tokio::test]
async fn an_older_copy_that_was_alone_until_it_had_caught_up_and_was_restarted_loses_no_record() {
    let (dir, peer) = (tempfile::tempdir().unwrap(), Peer::new().await);
    let (database, copy) = (dir.path().join("state/db"), dir.path().join("copy"));
    let mut stored = Stored::default();
    for connection in 1..=2 {
        let script = async {
            let (mut wire, _) = peer.accept().await;
            let birth = wire.birth().await;
            wire.ack(birth.state_id, stored.ranges()).await;
            let enough = stored.heartbeats.len() + 2;
            let enough = |stored: &Stored| stored.heartbeats.len() >= enough;
            take_until(&mut wire, birth.state_id, connection, &mut stored, enough).await;
            birth.state_id
        };
        drop(beside(dir.path(), &peer.url(), script).await);
        if connection == 1 {
            copy_folder(&database, &copy);
        }
    }
    fs::remove_dir_all(&database).unwrap();
    copy_folder(&copy, &database);

    // Its births reach nobody until it has given out all the numbers that the server has.
    let used = stored.ranges().max().unwrap();
    let script = async {
        loop {
            let (mut wire, _) = peer.accept().await;
            if wire.birth().await.next_seq > used + 1 {
                return;
            }
        }
    };
    drop(beside(dir.path(), &peer.url(), script).await);
    let times =
        |stored: &Stored| stored.heartbeats.values().map(|heartbeat| heartbeat.ts).collect::<BTreeSet<i64>>();
    let alone: BTreeSet<i64> = heartbeats_on_disk(dir.path()).difference(&times(&stored)).copied().collect();
    assert!(alone.len() >= 2, "{alone:?}");
    let script = async {
        let (mut wire, _) = peer.accept().await;
        let birth = wire.birth().await;
        assert!(birth.next_seq > used + 1);
        wire.ack(birth.state_id, stored.ranges()).await;
        while wire.packet().await.is_some() {}
        let (mut wire, _) = peer.accept().await;
        let renewed = wire.birth().await;
        assert_ne!(renewed.state_id, birth.state_id);
        wire.ack(renewed.state_id, RangeSet::new()).await;
        let mut again = Stored::default();
        let all = |again: &Stored| alone.is_subset(&times(again));
        take_until(&mut wire, renewed.state_id, renewed.connection, &mut again, all).await;
    };
    beside(dir.path(), &peer.url(), script).await;
}

/// When the heartbeats in the outbox were taken, by the device's clock.
fn heartbeats_on_disk(dir: &Path) -> BTreeSet<i64> {
    let state = State::open(&dir.join("state"), 0).unwrap().state;
    let seqs: Vec<u64> = state.load().unwrap().records.iter().map(|record| record.0).collect();
    let rows = state.rows(&seqs).unwrap().into_iter().filter(|row| row.kind == Kind::Heartbeat);
    rows.map(|row| codec::decode::<Heartbeat>(&row.body, limit::HEARTBEAT_BYTES).unwrap().ts).collect()
}

fn copy_folder(from: &Path, to: &Path) {
    fs::create_dir(to).unwrap();
    for file in fs::read_dir(from).unwrap() {
        let file = file.unwrap();
        fs::copy(file.path(), to.join(file.file_name())).unwrap();
    }
}

#[tokio::test]
async fn a_command_is_answered_once_although_it_comes_twice() {
    let (dir, peer) = (tempfile::tempdir().unwrap(), Peer::new().await);
    let script = async {
        let (mut wire, _) = peer.accept().await;
        let birth = wire.birth().await;
        wire.ack(birth.state_id, RangeSet::new()).await;
        let cancel = |id: &str| {
            let message = DeviceCommand {
                state_id: birth.state_id,
                command: None,
                cancel: id.parse().ok(),
                query: None,
                override_show: None,
                go: None,
            };
            codec::encode_named(&message).unwrap()
        };
        for payload in [cancel("c1"), cancel("c1"), b"nonsense".to_vec(), cancel("c2")] {
            wire.say(&format!("{SUBTREE}command"), payload).await;
        }
        let mut stored = Stored::default();
        let mut reports = Vec::new();
        while !reports.contains(&"c2".to_owned()) {
            let (leaf, publish) = wire.publish().await;
            if leaf == "status" {
                let (records, _) = codec::decode_records::<CommandReport>(&publish.payload, 65_536).unwrap();
                for record in records {
                    let codec::Record::Good(report) = record else { panic!("{record:?}") };
                    assert_eq!(report.state, "cancelled");
                    reports.push(report.id.to_string());
                }
            }
            if leaf != "presence" {
                stored.take(&leaf, &publish, 1);
                wire.ack(birth.state_id, stored.ranges()).await;
            }
        }
        assert_eq!(reports, ["c1", "c2"]);
    };
    beside(dir.path(), &peer.url(), script).await;
    assert_eq!(fs::read_to_string(dir.path().join("state/journal-high")).unwrap(), "2\n");
}

#[tokio::test]
async fn refused_credentials_are_told_and_the_agent_keeps_trying_and_recording() {
    let (dir, peer) = (tempfile::tempdir().unwrap(), Peer::new().await);
    let script = async {
        for _ in 0..2 {
            let (mut wire, _) = peer.knock().await;
            wire.send(Packet::ConnAck(ConnAck::new(ConnectReturnCode::NotAuthorized, false))).await;
            while wire.packet().await.is_some() {}
        }
        let (mut wire, _) = peer.accept().await;
        let birth = wire.birth().await;
        assert_eq!(birth.connection, 3, "no number is used twice");
        assert!(birth.next_seq > 1, "heartbeats were recorded all the while");
    };
    let (_, ()) = beside(dir.path(), &peer.url(), script).await;
    let error = status(dir.path()).last_error.unwrap();
    assert!(error.contains("refuses this device's token") && error.contains("enrol it again"), "{error}");
    assert!(!error.contains("abab"), "{error}");
}

#[tokio::test]
async fn on_a_stop_the_last_words_are_a_presence_and_a_disconnect() {
    let (dir, peer) = (tempfile::tempdir().unwrap(), Peer::new().await);
    let (agent, mut wire) = beside(dir.path(), &peer.url(), async {
        let (mut wire, _) = peer.accept().await;
        wire.birth().await;
        let (leaf, _) = wire.publish().await;
        assert_eq!(leaf, "presence");
        wire
    })
    .await;
    let last = async {
        let (leaf, publish) = wire.publish().await;
        assert_eq!((leaf.as_str(), publish.retain), ("presence", true));
        let presence: Presence = codec::decode(&publish.payload, limit::COMMAND_BYTES).unwrap();
        assert!(!presence.online);
        assert!(matches!(wire.packet().await, Some(Packet::Disconnect)));
        drop(wire);
    };
    tokio::join!(agent.stop(), last);
    assert!(!dir.path().join("state/status.json").exists());
}

#[tokio::test]
async fn a_record_that_cannot_be_sent_is_dropped_and_told_to_be_gone() {
    let (dir, peer) = (tempfile::tempdir().unwrap(), Peer::new().await);
    {
        let mut state = State::open(&dir.path().join("state"), 0).unwrap().state;
        let mut outbox = crate::outbox::Outbox::load(state.load().unwrap(), 1 << 20);
        for _ in 0..2 {
            let change = outbox.plan(Kind::Event, b"not CBOR at all".to_vec(), 0).unwrap();
            state.commit(&change).unwrap();
            outbox.apply(&change);
        }
    }
    let script = async {
        let (mut wire, _) = peer.accept().await;
        let birth = wire.birth().await;
        wire.ack(birth.state_id, RangeSet::new()).await;
        let mut stored = Stored::default();
        take_until(&mut wire, birth.state_id, 1, &mut stored, |stored| stored.void.contains(2)).await;
        // The record that told of the first alone went before it was sent; 3 is the config in force.
        assert_eq!(stored.void.as_slice(), [(1, 2), (4, 4)]);
    };
    beside(dir.path(), &peer.url(), script).await;
}

#[tokio::test]
async fn a_state_folder_that_cannot_be_used_is_waited_for() {
    let (dir, peer) = (tempfile::tempdir().unwrap(), Peer::new().await);
    let blocked = dir.path().join("state");
    fs::write(&blocked, b"a file in the way").unwrap();
    let script = async {
        tokio::time::sleep(Duration::from_millis(300)).await;
        fs::remove_file(&blocked).unwrap();
        let (mut wire, _) = peer.accept().await;
        wire.birth().await
    };
    beside(dir.path(), &peer.url(), script).await;
}

#[tokio::test]
async fn a_second_agent_on_the_same_folder_does_not_start() {
    let (dir, peer) = (tempfile::tempdir().unwrap(), Peer::new().await);
    let first = start(config(dir.path(), &peer.url())).await.unwrap();
    let error = start(config(dir.path(), &peer.url())).await.err().expect("refused");
    assert!(matches!(error, RunError::Lock(_)), "{error}");
    assert!(error.to_string().contains("another agent"), "{error}");
    drop(first);
}

#[tokio::test]
async fn a_database_that_breaks_under_the_agent_is_set_aside_and_the_agent_goes_on() {
    let (dir, peer) = (tempfile::tempdir().unwrap(), Peer::new().await);
    let database = dir.path().join("state/db/state.db");
    let script = async {
        let (mut wire, _) = peer.accept().await;
        let birth = wire.birth().await;
        // Somebody plays with it.
        rusqlite::Connection::open(&database).unwrap().execute_batch("DROP TABLE outbox").unwrap();
        let (mut wire, _) = peer.accept().await;
        let renewed = wire.birth().await;
        assert_ne!(renewed.state_id, birth.state_id);
    };
    beside(dir.path(), &peer.url(), script).await;
    let set_aside = |dir: &TempDir| {
        fs::read_dir(dir.path().join("state"))
            .unwrap()
            .filter(|entry| entry.as_ref().unwrap().file_name().to_string_lossy().starts_with("damaged-"))
            .count()
    };
    assert_eq!(set_aside(&dir), 1);
}
