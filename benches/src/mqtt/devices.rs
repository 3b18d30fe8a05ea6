//! Devices of a fleet as the load plays them: log in, birth, heartbeats, each with the acknowledgement that covers it.

use std::time::Instant;

use protocol::codec::{self, Bytes};
use protocol::id::StateId;
use protocol::message::{Ack, Birth, Heartbeat};

use super::packet::{self, Connect, Packet};
use super::swarm::Behaviour;

/// Who a device is.
#[derive(Clone, Debug)]
pub(crate) struct Credential {
    /// `{org}/{device}`.
    pub(crate) name: String,
    pub(crate) token: String,
}

impl Credential {
    /// A topic of its subtree.
    pub(crate) fn topic(&self, leaf: &str) -> String {
        let (org, device) = self.name.split_once('/').unwrap_or(("", &self.name));
        format!("fleet/v1/{org}/device/{device}/{leaf}")
    }
}

/// How far a device is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stage {
    Connecting,
    LoggedIn,
    /// The birth is under way.
    Born,
    /// The birth has been acknowledged.
    Ready,
    Closed,
}

/// One device.
pub(crate) struct Device {
    pub(crate) credential: Credential,
    pub(crate) stage: Stage,
    heartbeat_topic: String,
    ack_topic: String,
    state_id: StateId,
    connection: u64,
    next_seq: u64,
    /// Number of the heartbeat under way, and when it was sent.
    under_way: Option<(u64, Instant)>,
    packet_id: u16,
}

/// The devices, numbered as their connections. What happens to them is counted.
pub(crate) struct Devices {
    pub(crate) all: Vec<Device>,
    /// Send the next heartbeat as soon as one is acknowledged.
    pub(crate) streaming: bool,
    pub(crate) ready: usize,
    /// Heartbeats whose acknowledgement has come.
    pub(crate) acknowledged: u64,
    pub(crate) pubacks: u64,
    /// Connections that were lost, and why the last one was.
    pub(crate) lost: usize,
    pub(crate) why_lost: String,
    /// How long acknowledgements took, if they are to be kept.
    pub(crate) times: Option<Vec<std::time::Duration>>,
}

impl Devices {
    /// Devices whose state databases are new, or have already made `connection - 1` connections without records.
    pub(crate) fn new(credentials: &[Credential], connection: u64) -> Devices {
        let device = |(n, credential): (usize, &Credential)| Device {
            credential: credential.clone(),
            stage: Stage::Connecting,
            heartbeat_topic: credential.topic("heartbeat"),
            ack_topic: credential.topic("ack"),
            state_id: StateId((n as u64 + 1).to_be_bytes()),
            connection,
            next_seq: 1,
            under_way: None,
            packet_id: 1,
        };
        Devices {
            all: credentials.iter().enumerate().map(device).collect(),
            streaming: false,
            ready: 0,
            acknowledged: 0,
            pubacks: 0,
            lost: 0,
            why_lost: String::new(),
            times: None,
        }
    }

    /// Those that were lost, which are to be connected again with the same number.
    pub(crate) fn come_back(&mut self) -> Vec<usize> {
        let lost = |(_, device): &(usize, &Device)| device.stage == Stage::Closed;
        let lost: Vec<usize> = self.all.iter().enumerate().filter(lost).map(|(who, _)| who).collect();
        for &who in &lost {
            let device = &mut self.all[who];
            device.stage = Stage::Connecting;
            device.connection += 1;
            device.under_way = None;
        }
        self.lost -= lost.len();
        lost
    }

    /// Puts the next heartbeat of a device into `out`, unless one is under way. False: one is, or it is not ready.
    pub(crate) fn heartbeat(&mut self, who: usize, out: &mut Vec<u8>) -> bool {
        let device = &mut self.all[who];
        if device.stage != Stage::Ready || device.under_way.is_some() {
            return false;
        }
        device.heartbeat(out);
        true
    }

    fn ack(&mut self, who: usize, payload: &[u8], out: &mut Vec<u8>) {
        let device = &mut self.all[who];
        let Ok(ack) = codec::decode::<Ack>(payload, codec::limit::LARGEST_BYTES) else { return };
        if ack.state_id != device.state_id {
            return;
        }
        if device.stage == Stage::Born {
            device.stage = Stage::Ready;
            // After a restart of the load on an old database the numbers go on.
            device.next_seq = device.next_seq.max(ack.ranges.max().map_or(1, |n| n + 1));
            self.ready += 1;
        }
        if let Some((seq, since)) = device.under_way.filter(|(seq, _)| ack.ranges.contains(*seq)) {
            device.under_way = None;
            device.next_seq = seq + 1;
            self.acknowledged += 1;
            if let Some(times) = &mut self.times {
                times.push(since.elapsed());
            }
        }
        if self.streaming && device.stage == Stage::Ready && device.under_way.is_none() {
            device.heartbeat(out);
        }
    }
}

impl Device {
    fn next_packet_id(&mut self) -> u16 {
        self.packet_id = self.packet_id.checked_add(1).unwrap_or(2);
        self.packet_id
    }

    fn birth(&mut self, out: &mut Vec<u8>) {
        let birth = Birth {
            state_id: self.state_id,
            connection: self.connection,
            next_seq: self.next_seq,
            boot_id: "5f0c8a52-7a55-4d34-9f0e-1f7f3f0f6b1a".to_owned(),
            agent_version: env!("CARGO_PKG_VERSION").to_owned(),
            app_version: Some("1.4.2".to_owned()),
            arch: "aarch64".to_owned(),
            inputs: ["cam1", "cam2", "cam3", "cam4"].map(str::to_owned).to_vec(),
            command_types: ["reboot", "restart_service", "config", "custom", "rotate_token", "ping"]
                .map(str::to_owned)
                .to_vec(),
            interval_seconds: 60,
            transport: "mqtt".to_owned(),
            ts: jiff::Timestamp::now().as_millisecond(),
            since_boot_ms: 86_400_000,
            app_unit: Some("r58-api".to_owned()),
        };
        let id = self.next_packet_id();
        // A message of ours can always be encoded; without it the device would not get ready, which is noticed.
        if let Ok(payload) = codec::encode_packed(&birth) {
            packet::publish(out, &self.credential.topic("birth"), id, &payload);
        }
    }

    fn heartbeat(&mut self, out: &mut Vec<u8>) {
        let heartbeat = Heartbeat {
            seq: self.next_seq,
            // The record's form of the connection number.
            connection: self.connection as u16,
            ts: jiff::Timestamp::now().as_millisecond(),
            since_boot_ms: 86_400_000 + self.next_seq * 1000,
            cpu_permille: Some(152),
            mem_permille: Some(450),
            disk_free_mib: Some(2_867),
            disk_total_mib: Some(29_798),
            temperature_decicelsius: Some(520),
            load_centi: Some([40, 30, 20]),
            recording_active: false,
            mixer_active: true,
            active_inputs: 3,
            degradation_level: 0,
            commands_digest: Some(Bytes(vec![0xe3, 0xb0, 0xc4, 0x42])),
            outbox_depth: 1,
            live: Some(false),
            errors: Vec::new(),
        };
        let id = self.next_packet_id();
        if let Ok(payload) = codec::encode_packed(&heartbeat) {
            packet::publish(out, &self.heartbeat_topic, id, &payload);
            self.under_way = Some((self.next_seq, Instant::now()));
        }
    }
}

impl Behaviour for Devices {
    fn opened(&mut self, who: usize, out: &mut Vec<u8>) {
        let Credential { name, token } = &self.all[who].credential;
        let connect =
            Connect { client_id: name, login: Some((name, token)), keep_alive_seconds: 600, will: None };
        packet::connect(out, &connect);
    }

    fn packet(&mut self, who: usize, packet: Packet<'_>, out: &mut Vec<u8>) {
        match packet {
            Packet::ConnAck { code: 0 } => {
                let device = &mut self.all[who];
                device.stage = Stage::LoggedIn;
                let [command, desired] = ["command", "desired"].map(|leaf| device.credential.topic(leaf));
                packet::subscribe(out, &[&command, &desired, &device.ack_topic], 1);
            }
            Packet::ConnAck { code } => self.closed(who, format!("CONNACK {code}")),
            Packet::SubAck { .. } => {
                self.all[who].stage = Stage::Born;
                self.all[who].birth(out);
            }
            Packet::PubAck { .. } => self.pubacks += 1,
            Packet::Publish { topic, id, qos, payload } => {
                if qos > 0 {
                    packet::puback(out, id);
                }
                if topic == self.all[who].ack_topic.as_bytes() {
                    self.ack(who, payload, out);
                }
            }
            Packet::PingResp => {}
        }
    }

    fn closed(&mut self, who: usize, why: String) {
        let device = &mut self.all[who];
        if device.stage == Stage::Ready {
            self.ready -= 1;
        }
        if device.stage != Stage::Closed {
            device.stage = Stage::Closed;
            self.lost += 1;
            self.why_lost = why;
        }
    }
}
