//! A device that takes commands, and an operator with an MQTT tool.

use std::{cell::Cell, path::Path, sync::Mutex, time::Duration};

use protocol::{
    codec::{self, Bytes},
    id::StateId,
    message::{Ack, Birth, Command, CommandReport, Desired, DeviceAction, DeviceCommand, Presence},
};
use rumqttc::{LastWill, QoS};
use serde_json::{Value, json};

use super::{Mqtt, PASSWORD, STATE, Server, birth, fleetd, output, register};

/// What came for a device.
#[derive(Debug, Clone)]
pub enum Heard {
    Ack(Ack),
    Desired(Desired),
    Command(StateId, DeviceAction),
}

/// One connection of a device, which journals nothing: the test says what it reports.
pub struct Box {
    pub mqtt: Mqtt,
    pub id: String,
    pub connection: u64,
    pub state_id: StateId,
    seq: Cell<u64>,
    /// What came while something else was waited for.
    heard: Mutex<Vec<Heard>>,
}

impl Box {
    /// Connects and gives birth.
    pub fn connect(server: &Server, id: &str, token: &str, connection: u64) -> Self {
        Self::connect_as(server, id, token, connection, STATE)
    }

    pub fn connect_as(server: &Server, id: &str, token: &str, connection: u64, state_id: StateId) -> Self {
        let name = format!("default/{id}");
        let topic = |leaf: &str| format!("fleet/v1/default/device/{id}/{leaf}");
        let filters = [topic("ack"), topic("command"), topic("desired")];
        let filters: Vec<&str> = filters.iter().map(String::as_str).collect();
        let gone = codec::encode_packed(&Presence { state_id, connection, online: false }).unwrap();
        let will = LastWill::new(topic("presence"), gone, QoS::AtLeastOnce, true);
        let mqtt = Mqtt::connect(server, &name, &name, token, &filters, Some(will));
        let seq = Cell::new(connection * 1000);
        let device = Self { mqtt, id: id.to_owned(), connection, state_id, seq, heard: Mutex::default() };
        let birth = Birth { state_id, ..birth(connection) };
        device.publish("birth", codec::encode_packed(&birth).unwrap());
        device.next("the first ack", |heard| matches!(heard, Heard::Ack(_)).then_some(()));
        device
    }

    pub fn publish(&self, leaf: &str, payload: Vec<u8>) {
        self.mqtt.publish(&format!("fleet/v1/default/device/{}/{leaf}", self.id), payload, false);
    }

    /// The first of what came, and of what comes, that satisfies; the rest is kept.
    #[track_caller]
    pub fn next<T>(&self, what: &str, is_it: impl Fn(&Heard) -> Option<T>) -> T {
        let mut kept = self.heard.lock().unwrap();
        if let Some((at, found)) = kept.iter().enumerate().find_map(|(at, heard)| Some((at, is_it(heard)?))) {
            kept.remove(at);
            return found;
        }
        self.mqtt.wait(what, |topic, payload| {
            let heard = read(topic, payload);
            let found = is_it(&heard);
            if found.is_none() {
                kept.push(heard);
            }
            found
        })
    }

    /// Everything that has come so far, and comes within this time.
    pub fn all(&self, time: Duration) -> Vec<Heard> {
        let mut all = std::mem::take(&mut *self.heard.lock().unwrap());
        self.mqtt.wait_for(time, |topic, payload| {
            all.push(read(topic, payload));
            false
        });
        all
    }

    /// The next command to run.
    #[track_caller]
    pub fn run(&self) -> Command {
        self.next("a command", |heard| match heard {
            Heard::Command(state_id, DeviceAction::Run(command)) if *state_id == self.state_id => {
                Some((**command).clone())
            }
            _ => None,
        })
    }

    /// The next action that is no command to run.
    #[track_caller]
    pub fn action(&self, what: &str) -> DeviceAction {
        self.next(what, |heard| match heard {
            Heard::Command(_, DeviceAction::Run(_)) => None,
            Heard::Command(state_id, action) if *state_id == self.state_id => Some(action.clone()),
            _ => None,
        })
    }

    pub fn a_report(&self, id: &str, report_seq: u32, state: &str) -> CommandReport {
        self.seq.set(self.seq.get() + 1);
        CommandReport {
            seq: self.seq.get(),
            connection: (self.connection % 65_536) as u16,
            ts: super::now_ms(),
            id: id.parse().unwrap(),
            report_seq,
            state: state.to_owned(),
            reason: None,
            progress_percent: None,
            result: None,
            error: None,
            nonce: None,
            token_sha256: None,
        }
    }

    /// Sends a report and waits until it is committed.
    #[track_caller]
    pub fn send(&self, report: &CommandReport) {
        self.publish("status", codec::encode_packed(report).unwrap());
        self.next("the report's ack", |heard| match heard {
            Heard::Ack(ack) if ack.ranges.contains(report.seq) => Some(()),
            _ => None,
        });
    }

    #[track_caller]
    pub fn report(&self, id: &str, report_seq: u32, state: &str) {
        self.send(&self.a_report(id, report_seq, state));
    }

    /// Waits for the lease of its group.
    #[track_caller]
    pub fn asks_for_lease(&self, id: &str, report_seq: u32, nonce: u8) {
        self.send(&CommandReport {
            reason: Some("awaiting_lease".to_owned()),
            nonce: Some(Bytes(vec![nonce; 16])),
            ..self.a_report(id, report_seq, "held")
        });
    }
}

fn read(topic: &str, payload: &[u8]) -> Heard {
    match topic.rsplit('/').next().unwrap() {
        "ack" => Heard::Ack(codec::decode(payload, 300_000).unwrap()),
        "desired" => Heard::Desired(codec::decode(payload, 300_000).unwrap()),
        _ => {
            let command: DeviceCommand = codec::decode(payload, 300_000).unwrap();
            Heard::Command(command.state_id, command.action().unwrap())
        }
    }
}

/// A person with an MQTT tool.
pub struct Operator {
    pub mqtt: Mqtt,
    name: String,
}

impl Operator {
    pub fn connect(server: &Server, name: &str) -> Self {
        let filter = format!("fleet/v1/default/operator/{name}/result");
        let login = format!("default/{name}");
        let tool = format!("tool-{}", std::process::id());
        let mqtt = Mqtt::connect(server, &tool, &login, PASSWORD, &[&filter], None);
        Self { mqtt, name: name.to_owned() }
    }

    pub fn topic(&self) -> String {
        format!("fleet/v1/default/operator/{}/command", self.name)
    }

    pub fn publish(&self, payload: impl Into<Vec<u8>>) {
        self.mqtt.publish(&self.topic(), payload.into(), false);
    }

    pub fn ask(&self, request: &Value) {
        self.publish(request.to_string());
    }

    /// The next result of this status.
    #[track_caller]
    pub fn hears(&self, status: &str) -> Value {
        self.mqtt.wait(&format!("the result {status}"), |_, payload| {
            let result: Value = serde_json::from_slice(payload).unwrap();
            (result["status"] == status).then_some(result)
        })
    }

    /// The next results, whatever they say.
    #[track_caller]
    pub fn next(&self) -> Value {
        self.mqtt.wait("a result", |_, payload| Some(serde_json::from_slice(payload).unwrap()))
    }

    /// Asks, and gives the reason why not.
    #[track_caller]
    pub fn refused(&self, payload: impl Into<Vec<u8>>) -> Value {
        self.publish(payload);
        let result = self.next();
        assert_eq!(result["status"], "rejected", "{result}");
        result
    }
}

/// Adds an account `{name}@example.org`.
pub fn add_user(data: &Path, name: &str, role: &str) {
    let mut command = fleetd(data);
    let email = format!("{name}@example.org");
    command.args(["user", "add", "--email", &email, "--name", name, "--role", role]);
    let output = output(command, PASSWORD);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

/// A server with one device.
pub struct Stage {
    pub data: tempfile::TempDir,
    pub server: Server,
    pub token: String,
}

impl Stage {
    /// A server with the device `cam-1`.
    pub fn new() -> Self {
        let data = tempfile::tempdir().unwrap();
        let server = Server::start(data.path());
        let token = register(data.path(), "cam-1");
        Self { data, server, token }
    }

    pub fn device(&self, connection: u64) -> Box {
        Box::connect(&self.server, "cam-1", &self.token, connection)
    }

    pub fn operator(&self) -> Operator {
        Operator::connect(&self.server, "admin")
    }

    pub fn http(&self, method: &str, path: &str, body: Option<Value>) -> (u16, Value) {
        let agent: ureq::Agent = ureq::Agent::config_builder()
            .http_status_as_error(false)
            .allow_non_standard_methods(true)
            .build()
            .into();
        let mut request = ureq::http::Request::builder()
            .method(method)
            .uri(format!("http://{}{path}", self.server.http))
            .header("authorization", format!("Bearer {}", self.server.sign_in()));
        let mut answer = match body {
            Some(body) => {
                request = request.header("content-type", "application/json");
                agent.run(request.body(body.to_string()).unwrap())
            }
            None => agent.run(request.body(()).unwrap()),
        }
        .unwrap();
        let text = answer.body_mut().read_to_string().unwrap();
        (answer.status().as_u16(), serde_json::from_str(&text).unwrap_or(Value::Null))
    }

    pub fn metric(&self, name: &str) -> u64 {
        let text = self.server.get("", "/metrics");
        let line = text.lines().find(|line| line.starts_with(&format!("{name} "))).unwrap();
        line.rsplit(' ').next().unwrap().parse().unwrap()
    }
}

/// A ping.
pub fn ping(to: &str) -> Value {
    json!({"to": to, "type": "ping"})
}
