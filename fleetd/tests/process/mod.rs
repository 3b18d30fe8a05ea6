//! The real program as a process on free ports, with real MQTT clients.
#![allow(clippy::unwrap_used, dead_code, unreachable_pub)]

pub mod commands;
pub mod exchange;

use std::{
    io::Write,
    net::SocketAddr,
    path::Path,
    process::{Child, Command, Output, Stdio},
    sync::mpsc,
    time::{Duration, Instant},
};

use protocol::{
    codec,
    id::StateId,
    message::{Ack, Birth, Heartbeat, Presence},
    ranges::RangeSet,
};
use rumqttc::{Client, Event, LastWill, MqttOptions, Packet, QoS};
use serde_json::Value;

pub const PASSWORD: &str = "correct horse battery";
const PATIENCE: Duration = Duration::from_secs(40);

/// The program, with the environment of a data folder.
pub fn fleetd(data: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_fleetd"));
    command
        .env_clear()
        .env("FLEET_DATA_DIR", data)
        .env("FLEET_HTTP_LISTEN", "127.0.0.1:0")
        .env("FLEET_MQTT_LISTEN", "127.0.0.1:0")
        .env("FLEET_ADMIN_EMAIL", "admin@example.org")
        .env("FLEET_ADMIN_PASSWORD", PASSWORD);
    command
}

/// Runs a command to its end.
pub fn output(mut command: Command, input: &str) -> Output {
    let mut child =
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    child.wait_with_output().unwrap()
}

/// Asks again and again until there is an answer.
#[track_caller]
pub fn eventually<T>(what: &str, mut ask: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(answer) = ask() {
            return answer;
        }
        assert!(Instant::now() < deadline, "in vain: {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// A running server; killed when dropped.
pub struct Server {
    child: Child,
    /// Kept open: the folder may be gone before the server.
    log: std::fs::File,
    pub http: SocketAddr,
    pub mqtt: SocketAddr,
}

impl Server {
    pub fn start(data: &Path) -> Self {
        Self::start_with(data, &[])
    }

    pub fn start_with(data: &Path, variables: &[(&str, &str)]) -> Self {
        let addresses = data.join("addresses.json");
        let _ = std::fs::remove_file(&addresses);
        let log = data.join("log");
        let errors = std::fs::File::create(&log).unwrap();
        let log = std::fs::File::open(log).unwrap();
        let mut child =
            fleetd(data).envs(variables.iter().copied()).arg("serve").stderr(errors).spawn().unwrap();
        let found: Value = eventually("addresses.json", || {
            if let Some(status) = child.try_wait().unwrap() {
                panic!("{status}: {}", std::fs::read_to_string(data.join("log")).unwrap());
            }
            serde_json::from_slice(&std::fs::read(&addresses).ok()?).ok()
        });
        let address = |name: &str| found[name].as_str().unwrap().parse().unwrap();
        Self { http: address("http"), mqtt: address("mqtt"), child, log }
    }

    /// Whether it has ended by itself.
    pub fn is_dead(&mut self) -> bool {
        self.child.try_wait().unwrap().is_some()
    }

    /// SIGKILL: nothing is tidied up.
    pub fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// SIGTERM, and whether it ended well.
    pub fn terminate(mut self) -> bool {
        let id = nix::unistd::Pid::from_raw(i32::try_from(self.child.id()).unwrap());
        nix::sys::signal::kill(id, nix::sys::signal::Signal::SIGTERM).unwrap();
        eventually("the end", || self.child.try_wait().unwrap()).success()
    }

    /// An access token of the admin.
    pub fn sign_in(&self) -> String {
        let body = serde_json::json!({"email": "admin@example.org", "password": PASSWORD}).to_string();
        let url = format!("http://{}/api/v1/auth/login", self.http);
        let mut answer = ureq::post(&url).header("content-type", "application/json").send(body).unwrap();
        let json: Value = serde_json::from_str(&answer.body_mut().read_to_string().unwrap()).unwrap();
        json["access_token"].as_str().unwrap().to_owned()
    }

    /// A page as text.
    pub fn get(&self, token: &str, path: &str) -> String {
        let url = format!("http://{}{path}", self.http);
        let mut answer = ureq::get(&url).header("authorization", format!("Bearer {token}")).call().unwrap();
        answer.body_mut().read_to_string().unwrap()
    }

    pub fn get_json(&self, token: &str, path: &str) -> Value {
        serde_json::from_str(&self.get(token, path)).unwrap()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        // `make test` looks through what the server has logged for secrets: scripts/check-secrets.sh.
        if let Some(folder) = std::env::var_os("FLEET_TEST_LOGS") {
            let name = format!("fleetd-{}.log", self.child.id());
            let mut kept = std::fs::File::create(Path::new(&folder).join(name)).unwrap();
            std::io::copy(&mut self.log, &mut kept).unwrap();
        }
    }
}

/// Registers a device on the command line and gives its token.
pub fn register(data: &Path, id: &str) -> String {
    let mut command = fleetd(data);
    command.args(["device", "register", "--device-id", id]);
    let output = output(command, "");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

/// An MQTT client and what it has received.
pub struct Mqtt {
    pub client: Client,
    received: mpsc::Receiver<(String, Vec<u8>)>,
}

impl Mqtt {
    /// Connects, subscribes, and waits until the subscription stands.
    pub fn connect(
        server: &Server,
        client_id: &str,
        user: &str,
        password: &str,
        filters: &[&str],
        will: Option<LastWill>,
    ) -> Self {
        let mut options = MqttOptions::new(client_id, "127.0.0.1", server.mqtt.port());
        options.set_credentials(user, password).set_keep_alive(Duration::from_secs(30));
        options.set_max_packet_size(400_000, 400_000);
        if let Some(will) = will {
            options.set_last_will(will);
        }
        let (client, mut connection) = Client::new(options, 1000);
        let (sender, received) = mpsc::sync_channel(100_000);
        let (ready_sender, ready) = mpsc::sync_channel(1);
        let wanted = filters.len();
        std::thread::spawn(move || {
            let mut subscribed = 0;
            for event in connection.iter() {
                match event {
                    Ok(Event::Incoming(Packet::Publish(publish))) => {
                        if sender.send((publish.topic, publish.payload.to_vec())).is_err() {
                            return;
                        }
                    }
                    Ok(Event::Incoming(Packet::SubAck(_))) => {
                        subscribed += 1;
                        if subscribed == wanted {
                            let _ = ready_sender.send(());
                        }
                    }
                    Ok(_) => {}
                    // No reconnection: the tests decide when.
                    Err(_) => return,
                }
            }
        });
        for filter in filters {
            client.subscribe(*filter, QoS::AtLeastOnce).unwrap();
        }
        ready.recv_timeout(PATIENCE).unwrap();
        Self { client, received }
    }

    pub fn publish(&self, topic: &str, payload: Vec<u8>, retain: bool) {
        // A connection that is gone shows in what does not come back.
        let _ = self.client.publish(topic, QoS::AtLeastOnce, retain, payload);
    }

    /// Waits for a message that satisfies.
    #[track_caller]
    pub fn wait<T>(&self, what: &str, mut is_it: impl FnMut(&str, &[u8]) -> Option<T>) -> T {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let (topic, payload) =
                self.received.recv_timeout(left).unwrap_or_else(|_| panic!("in vain: {what}"));
            if let Some(found) = is_it(&topic, &payload) {
                return found;
            }
        }
    }

    /// The same, given up after a while.
    pub fn wait_for(&self, time: Duration, mut is_it: impl FnMut(&str, &[u8]) -> bool) -> bool {
        let deadline = Instant::now() + time;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            match self.received.recv_timeout(left) {
                Ok((topic, payload)) if is_it(&topic, &payload) => return true,
                Ok(_) => {}
                Err(_) => return false,
            }
        }
    }
}

/// A device as the server sees it: one connection of it.
pub struct Device {
    pub mqtt: Mqtt,
    pub id: String,
    pub connection: u64,
}

pub const STATE: StateId = StateId([9; 8]);

impl Device {
    pub fn connect(server: &Server, id: &str, token: &str, connection: u64) -> Self {
        let name = format!("default/{id}");
        let ack = format!("fleet/v1/default/device/{id}/ack");
        let presence = Presence { state_id: STATE, connection, online: false };
        let will = LastWill::new(
            format!("fleet/v1/default/device/{id}/presence"),
            codec::encode_packed(&presence).unwrap(),
            QoS::AtLeastOnce,
            true,
        );
        let mqtt = Mqtt::connect(server, &name, &name, token, &[&ack], Some(will));
        Self { mqtt, id: id.to_owned(), connection }
    }

    pub fn publish(&self, leaf: &str, payload: Vec<u8>) {
        let topic = format!("fleet/v1/default/device/{}/{leaf}", self.id);
        self.mqtt.publish(&topic, payload, leaf == "presence");
    }

    /// Gives birth and waits for the answer: what is committed.
    #[track_caller]
    pub fn birth(&self) -> RangeSet {
        self.publish("birth", codec::encode_packed(&birth(self.connection)).unwrap());
        self.ack("the first ack", |_| true)
    }

    pub fn heartbeats(&self, seqs: impl Iterator<Item = u64>) {
        let records: Vec<_> =
            seqs.map(|seq| codec::encode_packed(&heartbeat(seq, self.connection)).unwrap()).collect();
        self.publish("heartbeat", codec::batch(records.iter().map(Vec::as_slice)));
    }

    #[track_caller]
    pub fn ack(&self, what: &str, enough: impl Fn(&RangeSet) -> bool) -> RangeSet {
        self.mqtt.wait(what, |_, payload| {
            let ack: Ack = codec::decode(payload, 300_000).unwrap();
            enough(&ack.ranges).then_some(ack.ranges)
        })
    }
}

pub fn now_ms() -> i64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
    since.as_millis().try_into().unwrap()
}

pub fn birth(connection: u64) -> Birth {
    Birth {
        state_id: STATE,
        connection,
        next_seq: 1_000_000,
        boot_id: "boot".to_owned(),
        agent_version: "0.1.0".to_owned(),
        app_version: Some("1.0.0".to_owned()),
        arch: "aarch64".to_owned(),
        inputs: vec!["cam1".to_owned()],
        command_types: vec![],
        interval_seconds: 60,
        transport: "mqtt".to_owned(),
        ts: now_ms(),
        since_boot_ms: 60_000,
        app_unit: None,
    }
}

pub fn heartbeat(seq: u64, connection: u64) -> Heartbeat {
    Heartbeat {
        seq,
        connection: (connection % 65_536) as u16,
        ts: now_ms(),
        since_boot_ms: 60_000,
        cpu_permille: Some(152),
        mem_permille: None,
        disk_free_mib: None,
        disk_total_mib: None,
        temperature_decicelsius: None,
        load_centi: None,
        recording_active: false,
        mixer_active: true,
        active_inputs: 1,
        degradation_level: 0,
        commands_digest: None,
        outbox_depth: 0,
        live: None,
        errors: vec![],
    }
}
