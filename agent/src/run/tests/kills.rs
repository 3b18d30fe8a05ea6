//! An agent of its own process is killed at every place in the path of a command, and started again. What counts is on
//! the disk: the effect writes a line into a file.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::time::Duration;

use protocol::codec::{self, Record, limit};
use protocol::command::CommandState;
use protocol::failpoint::VARIABLE;
use protocol::id::StateId;
use protocol::message::{Command, CommandReport, Desired, DeviceCommand, Override};
use serde_json::{Value, json};

use super::peer::{Peer, SUBTREE, Stored, Wire};
use crate::config::Config;
use crate::failpoint;

/// Names the config file of the agent that the started process runs.
const CHILD: &str = "R58_TEST_AGENT";
const NOW_MS: i64 = 1_766_916_000_000;

#[test]
#[ignore = "run by the tests below"]
fn the_agent_that_is_killed() {
    let Some(file) = std::env::var_os(CHILD).map(PathBuf::from) else { return };
    crate::run::run(Config::load(Some(&file)).unwrap()).unwrap();
}

struct Agent(Child);

impl Agent {
    fn start(dir: &Path, place: &str) -> Self {
        let child = std::process::Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "run::tests::kills::the_agent_that_is_killed", "--ignored"])
            .env(CHILD, dir.join("fleet.conf"))
            .env(VARIABLE, place)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn();
        Self(child.unwrap())
    }

    /// Whether it has died at its failpoint.
    fn is_dead(&mut self) -> bool {
        self.0
            .try_wait()
            .unwrap()
            .inspect(|status| assert_eq!(status.signal(), Some(6), "{status}"))
            .is_some()
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// What is sent, and when.
#[derive(Clone)]
struct Script {
    kind: &'static str,
    payload: Value,
    overridden: bool,
    expires_at_ms: i64,
    timeout_seconds: u32,
    /// In this state the server sends this.
    then: Option<(CommandState, Then)>,
}

#[derive(Clone, Copy)]
enum Then {
    Cancel,
    Override,
}

impl Script {
    fn of(kind: &'static str, payload: Value) -> Self {
        let expires_at_ms = NOW_MS + 3_600_000;
        Self { kind, payload, overridden: true, expires_at_ms, timeout_seconds: 30, then: None }
    }

    fn message(&self, state_id: StateId) -> DeviceCommand {
        let command = Command {
            id: "c1".parse().unwrap(),
            kind: self.kind.to_owned(),
            payload: self.payload.clone(),
            priority: 5,
            created_at: 0,
            expires_at: self.expires_at_ms,
            timeout_seconds: self.timeout_seconds,
            desired_version: 0,
            override_show: self.overridden.then(|| "a test".to_owned()),
        };
        DeviceCommand { command: Some(command), ..empty(state_id) }
    }
}

fn empty(state_id: StateId) -> DeviceCommand {
    DeviceCommand { state_id, command: None, cancel: None, query: None, override_show: None, go: None }
}

/// A device's folder, and what its server has.
struct World {
    dir: tempfile::TempDir,
    peer: Peer,
    stored: Stored,
    /// By number: the state.
    reports: BTreeMap<u32, CommandReport>,
}

impl World {
    async fn new() -> Self {
        let (dir, peer) = (tempfile::tempdir().unwrap(), Peer::new().await);
        let path = dir.path();
        fs::create_dir(path.join("scripts")).unwrap();
        for (name, end) in [("good", "exit 0"), ("bad", "exit 3"), ("slow", "exec sleep 20")] {
            let script = path.join("scripts").join(name);
            fs::write(
                &script,
                format!("#!/bin/sh\necho done >> {}\n{end}\n", path.join("effects").display()),
            )
            .unwrap();
            fs::set_permissions(&script, fs::Permissions::from_mode(0o755)).unwrap();
        }
        let config = format!(
            "FLEET_ORG=acme\nDEVICE_ID=studio-001\nDEVICE_TOKEN={}\nMQTT_URL={}\nSTATE_DIR={}\nSCRIPTS_DIR={}\n\
             APP_STATUS_URL=\n",
            "ab".repeat(32),
            peer.url(),
            path.join("state").display(),
            path.join("scripts").display(),
        );
        fs::write(path.join("fleet.conf"), config).unwrap();
        Self { dir, peer, stored: Stored::default(), reports: BTreeMap::new() }
    }

    fn effects(&self) -> usize {
        fs::read_to_string(self.dir.path().join("effects")).unwrap_or_default().lines().count()
    }

    fn state(&self) -> Option<CommandState> {
        self.reports.values().last().map(|report| report.state.parse().unwrap())
    }

    fn has_ended(&self) -> bool {
        self.state().is_some_and(CommandState::is_terminal)
    }

    fn take(&mut self, leaf: &str, publish: &rumqttc::mqttbytes::v4::Publish, connection: u64) {
        if leaf == "status" {
            let (records, _) =
                codec::decode_records::<CommandReport>(&publish.payload, limit::COMMAND_BYTES).unwrap();
            for record in records {
                let Record::Good(report) = record else { panic!("{record:?}") };
                let earlier = self.reports.insert(report.report_seq, report.clone());
                assert!(earlier.is_none_or(|earlier| earlier.state == report.state), "{report:?}");
            }
        }
        self.stored.take(leaf, publish, connection);
    }

    /// Serves an agent until the command has ended, or the agent has died: then returns `true`.
    async fn serve(&mut self, agent: &mut Agent, script: &Script) -> bool {
        loop {
            let accepting = async {
                let (mut wire, _) = self.peer.accept_or_none().await?;
                let birth = wire.birth_or_end().await?;
                Some((wire, birth))
            };
            let Some((mut wire, birth)) = accepting.await else {
                if agent.is_dead() {
                    return true;
                }
                continue;
            };
            let say = |message: DeviceCommand| codec::encode_named(&message).unwrap();
            let topic = format!("{SUBTREE}command");
            wire.ack(birth.state_id, self.stored.ranges()).await;
            wire.say(&topic, say(script.message(birth.state_id))).await;
            let mut then = script.then;
            while let Some((leaf, publish)) = wire.publish_or_end().await {
                if leaf != "presence" && leaf != "birth" {
                    self.take(&leaf, &publish, birth.connection);
                }
                wire.ack(birth.state_id, self.stored.ranges()).await;
                if self.has_ended() {
                    return false;
                }
                if let Some((_, what)) = then.take_if(|(state, _)| self.state() == Some(*state)) {
                    let id = || "c1".parse().unwrap();
                    let message = match what {
                        Then::Cancel => DeviceCommand { cancel: Some(id()), ..empty(birth.state_id) },
                        Then::Override => DeviceCommand {
                            override_show: Some(Override { id: id(), reason: "a test".to_owned() }),
                            ..empty(birth.state_id)
                        },
                    };
                    wire.say(&topic, say(message)).await;
                }
            }
        }
    }
}

/// Kills an agent at each place with one of these prefixes, and lets another one go on; `check` looks at what is left.
/// Every place must have been reached.
async fn kill_at(prefixes: &[&str], script: Script, check: impl Fn(&World, CommandState, &str)) {
    let places = failpoint::ALL.iter().filter(|name| prefixes.iter().any(|prefix| name.starts_with(prefix)));
    for place in places {
        let mut world = World::new().await;
        let mut agent = Agent::start(world.dir.path(), place);
        let died = tokio::time::timeout(Duration::from_secs(60), world.serve(&mut agent, &script)).await;
        // After its last report has gone the agent may still come by.
        let died = died.expect("an end") || {
            tokio::time::sleep(Duration::from_millis(500)).await;
            agent.is_dead()
        };
        assert!(died, "{} never comes by {place}", script.kind);
        drop(agent);
        let mut agent = Agent::start(world.dir.path(), "");
        let ended = tokio::time::timeout(Duration::from_secs(60), world.serve(&mut agent, &script)).await;
        assert!(!ended.expect("an end"), "{place}: it dies without a reason");
        let state = world.state().unwrap();
        let numbers: Vec<u32> = world.reports.keys().copied().collect();
        assert_eq!(numbers, (1..=numbers.len() as u32).collect::<Vec<_>>(), "{place}: a report is missing");
        let ends = world.reports.values().filter(|r| r.state.parse::<CommandState>().unwrap().is_terminal());
        assert_eq!(ends.count(), 1, "{place}");
        check(&world, state, place);
    }
}

fn script_ran_at_most_once(world: &World, state: CommandState, place: &str) {
    let effects = world.effects();
    match state {
        CommandState::Completed => assert_eq!(effects, 1, "{place}"),
        CommandState::Indeterminate => assert!(effects <= 1, "{place}"),
        _ => assert_eq!(effects, 0, "{place}: {state}"),
    }
}

#[tokio::test]
async fn a_script_runs_at_most_once_wherever_the_agent_is_killed_before_it_is_journalled_as_running() {
    let prefixes = ["agent.message.came", "agent.journal.acked", "agent.journal.running"];
    kill_at(&prefixes, Script::of("custom", json!({"script": "good"})), script_ran_at_most_once).await;
}

#[tokio::test]
async fn a_script_runs_at_most_once_wherever_the_agent_is_killed_around_it() {
    let prefixes = ["agent.journal-high", "agent.effect", "agent.report", "agent.journal.completed"];
    kill_at(&prefixes, Script::of("custom", json!({"script": "good"})), script_ran_at_most_once).await;
}

#[tokio::test]
async fn an_end_that_could_not_be_told_is_told_after_the_restart() {
    let failed = |world: &World, state, place: &str| {
        let fits = matches!(state, CommandState::Failed | CommandState::Indeterminate);
        assert!(fits && world.effects() == 1, "{place}: {state}");
    };
    kill_at(&["agent.journal.failed"], Script::of("custom", json!({"script": "bad"})), failed).await;
    let timed_out = |world: &World, state, place: &str| {
        let fits = matches!(state, CommandState::TimedOut | CommandState::Indeterminate);
        assert!(fits && world.effects() == 1, "{place}: {state}");
    };
    let slow = Script { timeout_seconds: 1, ..Script::of("custom", json!({"script": "slow"})) };
    kill_at(&["agent.journal.timed_out"], slow, timed_out).await;
}

#[tokio::test]
async fn what_never_runs_ends_once_wherever_the_agent_is_killed() {
    let is = |expected| {
        move |world: &World, state, place: &str| {
            assert_eq!((state, world.effects()), (expected, 0), "{place}");
        }
    };
    let good = Script::of("custom", json!({"script": "good"}));
    let late = Script { expires_at_ms: NOW_MS - 1, ..good.clone() };
    kill_at(&["agent.journal.expired"], late, is(CommandState::Expired)).await;
    kill_at(
        &["agent.journal.rejected"],
        Script::of("custom", json!({"script": "../good"})),
        is(CommandState::Rejected),
    )
    .await;
    let held = Script { overridden: false, ..good };
    let cancelled = Script { then: Some((CommandState::Held, Then::Cancel)), ..held };
    kill_at(&["agent.journal.held", "agent.journal.cancelled"], cancelled, is(CommandState::Cancelled)).await;
}

#[tokio::test]
async fn a_held_command_is_overridden_and_runs_once_wherever_the_agent_is_killed() {
    let held = Script { overridden: false, ..Script::of("custom", json!({"script": "good"})) };
    let overridden = Script { then: Some((CommandState::Held, Then::Override)), ..held };
    kill_at(&["agent.journal.override"], overridden, |world, state, place| {
        assert_eq!((state, world.effects()), (CommandState::Completed, 1), "{place}");
    })
    .await;
}

#[tokio::test]
async fn a_rotation_goes_on_wherever_the_agent_is_killed() {
    // Not where it falls back: here nobody refuses the new token.
    let places = ["previous-kept", "switched", "before-end"].map(|end| format!("agent.rotation.{end}"));
    let places: Vec<&str> = places.iter().map(String::as_str).collect();
    kill_at(&places, Script::of("rotate_token", json!({})), |world, state, place| {
        assert_eq!(state, CommandState::Completed, "{place}");
        let config = fs::read_to_string(world.dir.path().join("fleet.conf")).unwrap();
        assert!(!config.contains(&"ab".repeat(32)), "{place}");
        assert!(!world.dir.path().join("state/token-next").exists(), "{place}");
    })
    .await;
}

#[tokio::test]
async fn what_the_server_wants_is_in_force_after_it_comes_again_wherever_the_agent_is_killed() {
    let desired = Desired {
        version: 2,
        config: [("HEARTBEAT_INTERVAL".to_owned(), "7".to_owned())].into(),
        target_version: None,
        show_locks: Vec::new(),
        redundancy_group: None,
    };
    let serve = async |world: &mut World| {
        let (mut wire, _): (Wire, _) = world.peer.accept().await;
        let birth = wire.birth().await;
        wire.ack(birth.state_id, world.stored.ranges()).await;
        wire.say(&format!("{SUBTREE}desired"), codec::encode_named(&desired).unwrap()).await;
        while let Some((leaf, publish)) = wire.publish_or_end().await {
            if leaf == "reported" {
                let reported: protocol::message::Reported =
                    codec::decode(&publish.payload, limit::COMMAND_BYTES).unwrap();
                if reported.desired_version == 2 {
                    return Some(reported);
                }
            }
            if leaf != "presence" && leaf != "birth" {
                world.stored.take(&leaf, &publish, birth.connection);
            }
            wire.ack(birth.state_id, world.stored.ranges()).await;
        }
        None
    };
    for place in failpoint::ALL.iter().filter(|name| name.starts_with("agent.desired")) {
        let mut world = World::new().await;
        let mut agent = Agent::start(world.dir.path(), place);
        assert_eq!(serve(&mut world).await, None, "{place}");
        assert!(agent.0.wait().unwrap().signal() == Some(6), "{place}");
        let _agent = Agent::start(world.dir.path(), "");
        let reported = serve(&mut world).await.expect("answered");
        assert_eq!(reported.config["HEARTBEAT_INTERVAL"], "7", "{place}");
    }
}
