//! Whole connections over an in-memory pipe, byte for byte.
#![allow(clippy::unwrap_used)]

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use protocol::id::{DeviceId, OrgSlug, Role, UserName};
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};
use tokio::time::timeout;

use crate::principal::{Authentication, Authenticator, ConnectAttempt, Principal, PrincipalKey, Refusal};
use crate::{Broker, Limits, QoS, Transport};

const PATIENCE: Duration = Duration::from_secs(10);
const SILENCE: Duration = Duration::from_millis(100);

/// `ORG/NAME` with the password `device`, `viewer`, `operator` or `admin` is that; `service` is one.
struct ByPassword;

impl Authenticator for ByPassword {
    fn authenticate<'a>(&'a self, attempt: ConnectAttempt) -> Authentication<'a> {
        Box::pin(async move {
            let username = attempt.username.unwrap_or_default();
            let (org, name) = username.split_once('/').ok_or(Refusal::BadCredentials)?;
            let org = OrgSlug::new(org).map_err(|_| Refusal::BadCredentials)?;
            let user = || UserName::new(name).map_err(|_| Refusal::BadCredentials);
            let password = attempt.password.ok_or(Refusal::BadCredentials)?;
            Ok(match password.as_str() {
                Some("device") => Principal::Device {
                    org,
                    device: DeviceId::new(name).map_err(|_| Refusal::BadCredentials)?,
                },
                Some("viewer") => Principal::Person { org, user: user()?, role: Role::Viewer },
                Some("operator") => Principal::Person { org, user: user()?, role: Role::Operator },
                Some("admin") => Principal::Person { org, user: user()?, role: Role::Admin },
                Some("service") => Principal::Service { name: name.to_owned() },
                _ => return Err(Refusal::BadCredentials),
            })
        })
    }
}

fn broker(limits: Limits) -> Broker {
    Broker::start(limits, Arc::new(ByPassword)).unwrap()
}

/// A client that speaks bytes.
struct Client {
    io: DuplexStream,
    level: u8,
}

fn text(text: &str) -> Vec<u8> {
    let mut out = (text.len() as u16).to_be_bytes().to_vec();
    out.extend_from_slice(text.as_bytes());
    out
}

fn packet(first: u8, body: &[u8]) -> Vec<u8> {
    let mut out = vec![first];
    let mut n = body.len();
    loop {
        let low = (n & 0x7f) as u8;
        n >>= 7;
        out.push(if n > 0 { low | 0x80 } else { low });
        if n == 0 {
            break;
        }
    }
    out.extend_from_slice(body);
    out
}

struct Options<'a> {
    level: u8,
    clean: bool,
    keep_alive: u16,
    client_id: &'a str,
    username: &'a str,
    password: &'a str,
    /// Encoded, for level 5.
    properties: &'a [u8],
    /// Topic, payload, flags.
    will: Option<(&'a str, &'a str, u8)>,
}

const DEVICE: Options<'_> = Options {
    level: 4,
    clean: true,
    keep_alive: 0,
    client_id: "acme/box-1",
    username: "acme/box-1",
    password: "device",
    properties: &[],
    will: None,
};

const OPERATOR: Options<'_> =
    Options { client_id: "tool", username: "acme/olga", password: "operator", ..DEVICE };

fn connect_packet(options: &Options<'_>) -> Vec<u8> {
    let mut body = text("MQTT");
    let will_flags = options.will.map_or(0, |(_, _, flags)| 4 | flags);
    body.extend([options.level, 0xC0 | u8::from(options.clean) << 1 | will_flags]);
    body.extend(options.keep_alive.to_be_bytes());
    if options.level == 5 {
        body.push(options.properties.len() as u8);
        body.extend_from_slice(options.properties);
    }
    body.extend(text(options.client_id));
    if let Some((topic, payload, _)) = options.will {
        if options.level == 5 {
            body.push(0);
        }
        body.extend(text(topic));
        body.extend(text(payload));
    }
    body.extend(text(options.username));
    body.extend(text(options.password));
    packet(0x10, &body)
}

impl Client {
    fn open(broker: &Broker, level: u8) -> Client {
        let (io, server) = tokio::io::duplex(64 * 1024);
        let broker = broker.clone();
        tokio::spawn(async move {
            broker.serve_stream(server, ([127, 0, 0, 1], 7).into(), Transport::Tcp).await;
        });
        Client { io, level }
    }

    /// Sends a CONNECT and returns the client with the CONNACK's first two bytes: session present and code.
    async fn try_connect(broker: &Broker, options: &Options<'_>) -> (Client, [u8; 2]) {
        let mut client = Client::open(broker, options.level);
        client.send(&connect_packet(options)).await;
        let (first, body) = client.receive().await.unwrap();
        assert_eq!(first, 0x20);
        (client, [body[0], body[1]])
    }

    async fn connect(broker: &Broker, options: &Options<'_>) -> Client {
        let (client, answer) = Client::try_connect(broker, options).await;
        assert_eq!(answer[1], 0, "refused");
        client
    }

    async fn send(&mut self, bytes: &[u8]) {
        self.io.write_all(bytes).await.unwrap();
    }

    /// The next packet, `None` at the end.
    async fn receive(&mut self) -> Option<(u8, Vec<u8>)> {
        timeout(PATIENCE, async {
            let first = self.io.read_u8().await.ok()?;
            let (mut len, mut shift) = (0usize, 0);
            loop {
                let byte = self.io.read_u8().await.ok()?;
                len |= usize::from(byte & 0x7f) << shift;
                shift += 7;
                if byte & 0x80 == 0 {
                    break;
                }
            }
            let mut body = vec![0; len];
            self.io.read_exact(&mut body).await.ok()?;
            Some((first, body))
        })
        .await
        .expect("an answer in time")
    }

    async fn is_silent(&mut self) -> bool {
        timeout(SILENCE, self.io.read_u8()).await.is_err()
    }

    async fn publish(&mut self, topic: &str, payload: &str, qos: u8, retain: bool, id: u16) {
        let mut body = text(topic);
        if qos > 0 {
            body.extend(id.to_be_bytes());
        }
        if self.level == 5 {
            body.push(0);
        }
        body.extend_from_slice(payload.as_bytes());
        self.send(&packet(0x30 | qos << 1 | u8::from(retain), &body)).await;
    }

    /// Subscribes to one filter and returns the SUBACK's code.
    async fn subscribe(&mut self, filter: &str, options: u8) -> u8 {
        let mut body = vec![0, 9];
        if self.level == 5 {
            body.push(0);
        }
        body.extend(text(filter));
        body.push(options);
        self.send(&packet(0x82, &body)).await;
        let (first, body) = self.receive().await.unwrap();
        assert_eq!(first, 0x90);
        *body.last().unwrap()
    }

    /// The next packet has to be a PUBLISH: its first byte, topic, packet id and payload.
    async fn message(&mut self) -> (u8, String, u16, Vec<u8>) {
        let (first, body) = self.receive().await.unwrap();
        assert_eq!(first >> 4, 3, "{first:#x} {body:?}");
        let topic_len = usize::from(u16::from_be_bytes([body[0], body[1]]));
        let topic = String::from_utf8(body[2..2 + topic_len].to_vec()).unwrap();
        let mut rest = &body[2 + topic_len..];
        let mut id = 0;
        if first & 6 != 0 {
            id = u16::from_be_bytes([rest[0], rest[1]]);
            rest = &rest[2..];
        }
        if self.level == 5 {
            rest = &rest[1 + usize::from(rest[0])..];
        }
        (first, topic, id, rest.to_vec())
    }
}

fn box_1() -> PrincipalKey {
    PrincipalKey::Device { org: OrgSlug::new("acme").unwrap(), device: DeviceId::new("box-1").unwrap() }
}

const HEARTBEAT: &str = "fleet/v1/acme/device/box-1/heartbeat";
const HEARTBEATS: &str = "fleet/v1/acme/device/+/heartbeat";
const COMMAND: &str = "fleet/v1/acme/device/box-1/command";

#[tokio::test]
async fn a_heartbeat_reaches_people_and_services_of_both_versions() {
    let broker = broker(Limits::default());
    let (_publisher, mut service) =
        broker.service_link("fleetd", &["fleet/v1/+/device/+/heartbeat"]).unwrap();
    for level in [4, 5] {
        let mut person = Client::connect(&broker, &Options { level, ..OPERATOR }).await;
        assert_eq!(person.subscribe(HEARTBEATS, 1).await, 1);
        let mut device = Client::connect(&broker, &Options { level, ..DEVICE }).await;
        device.publish(HEARTBEAT, "beat", 1, false, 5).await;
        assert_eq!(device.receive().await, Some((0x40, vec![0, 5])));
        let (first, topic, id, payload) = person.message().await;
        assert_eq!((first, topic.as_str(), &payload[..]), (0x32, HEARTBEAT, &b"beat"[..]));
        person.send(&packet(0x40, &id.to_be_bytes())).await;
        let message = timeout(PATIENCE, service.recv()).await.unwrap().unwrap();
        assert_eq!(
            (message.topic.as_str(), &message.payload[..], message.retain),
            (HEARTBEAT, &b"beat"[..], false)
        );
    }
}

#[tokio::test]
async fn a_command_reaches_its_device_and_watching_admins_only() {
    let broker = broker(Limits::default());
    let (publisher, _service) = broker.service_link("fleetd", &[]).unwrap();
    let mut device = Client::connect(&broker, &DEVICE).await;
    assert_eq!(device.subscribe(COMMAND, 1).await, 1);
    let other = Options { client_id: "acme/box-2", username: "acme/box-2", ..DEVICE };
    let mut other = Client::connect(&broker, &other).await;
    assert_eq!(other.subscribe(COMMAND, 1).await, 0x80);
    assert_eq!(other.subscribe("fleet/v1/acme/device/box-2/command", 1).await, 1);
    let admin = Options { username: "acme/ada", password: "admin", ..OPERATOR };
    let mut admin = Client::connect(&broker, &admin).await;
    assert_eq!(admin.subscribe("fleet/v1/acme/#", 0).await, 0);
    publisher.publish(COMMAND.to_owned(), Bytes::from_static(b"go"), QoS::AtLeastOnce, false).await.unwrap();
    let (first, topic, _, payload) = device.message().await;
    assert_eq!((first, topic.as_str(), &payload[..]), (0x32, COMMAND, &b"go"[..]));
    assert_eq!(admin.message().await.1, COMMAND);
    assert!(other.is_silent().await);
}

#[tokio::test]
async fn ending_a_principals_connections_tells_the_client_and_publishes_its_will() {
    let broker = broker(Limits::default());
    let presence = "fleet/v1/acme/device/box-1/presence";
    let (_publisher, mut service) = broker.service_link("fleetd", &["fleet/v1/+/device/+/presence"]).unwrap();
    let options = Options { level: 5, will: Some((presence, "gone", 0x28)), ..DEVICE };
    let mut device = Client::connect(&broker, &options).await;
    assert_eq!(broker.end_connections(&box_1()), 1);
    let (first, body) = device.receive().await.unwrap();
    assert_eq!((first, body[0]), (0xE0, 0x98));
    assert_eq!(device.receive().await, None);
    let will = timeout(PATIENCE, service.recv()).await.unwrap().unwrap();
    assert_eq!((will.topic.as_str(), &will.payload[..]), (presence, &b"gone"[..]));
    let (_, mut late) = broker.service_link("late", &["#"]).unwrap();
    let retained = timeout(PATIENCE, late.recv()).await.unwrap().unwrap();
    assert!(retained.retain && retained.topic == presence);
}

#[tokio::test]
async fn an_idle_device_costs_a_few_kilobytes() {
    let gate = crate::gate::Gate::start(Limits::default(), Arc::new(ByPassword)).unwrap();
    let peer = ([127, 0, 0, 1], 7).into();
    let task = super::run(gate.clone(), tokio::io::duplex(1).1, peer, Transport::Tcp);
    let accepted = super::handshake::Accepted {
        principal: Principal::Service { name: "x".into() },
        asked_at: std::time::Instant::now(),
        version: crate::codec::Version::V5,
        client_id: String::new(),
        assigned: false,
        clean: true,
        keep_alive: Duration::ZERO,
        session_expiry: Duration::ZERO,
        tell_expiry: false,
        will: None,
        receive_maximum: 1,
        maximum_packet_bytes: 1,
    };
    let wire = super::wire::Wire::new(tokio::io::duplex(1).1, Duration::ZERO);
    let loop_of_packets = super::live(gate, wire, peer, Transport::Tcp, accepted);
    // Buffers are given back while nothing happens, so this is nearly all; names and subscriptions come on top.
    let bytes = size_of_val(&task) + size_of_val(&loop_of_packets) + size_of::<crate::session::Session>();
    assert!(bytes < 4096, "{bytes} bytes");
}

/// Reads until the peer closes; true if a DISCONNECT with this reason came last.
async fn ends_with(client: &mut Client, reason: u8) -> bool {
    let mut last = None;
    while let Some(packet) = client.receive().await {
        last = Some(packet);
    }
    last.is_some_and(|(first, body)| first == 0xE0 && body.first() == Some(&reason))
}

async fn until(mut condition: impl FnMut() -> bool) {
    let reached = timeout(PATIENCE, async {
        while !condition() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    });
    reached.await.expect("in time");
}

/// Says yes after a while.
struct Slowly;

impl Authenticator for Slowly {
    fn authenticate<'a>(&'a self, attempt: ConnectAttempt) -> Authentication<'a> {
        Box::pin(async move {
            let answer = ByPassword.authenticate(attempt).await;
            tokio::time::sleep(Duration::from_millis(200)).await;
            answer
        })
    }
}

#[tokio::test]
async fn a_login_that_was_under_way_when_its_principal_was_ended_gets_nowhere() {
    let broker = Broker::start(Limits::default(), Arc::new(Slowly)).unwrap();
    let mut client = Client::open(&broker, 5);
    client.send(&connect_packet(&Options { level: 5, ..DEVICE })).await;
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert_eq!(broker.end_connections(&box_1()), 0);
    let (first, body) = client.receive().await.unwrap();
    assert!(first == 0x20 && body[1] >= 0x80, "{body:?}");
    assert_eq!(client.receive().await, None);
    assert_eq!(broker.counters().connections_devices, 0);
    Client::connect(&broker, &Options { level: 5, ..DEVICE }).await;
}

#[tokio::test]
async fn two_boxes_with_one_identity_are_noticed() {
    let broker = broker(Limits::default());
    let mut clients = vec![Client::connect(&broker, &Options { level: 5, ..DEVICE }).await];
    for _ in 0..4 {
        clients.push(Client::connect(&broker, &Options { level: 5, ..DEVICE }).await);
        let replaced = clients.len() - 2;
        assert!(ends_with(&mut clients[replaced], 0x8E).await);
    }
    let counters = broker.counters();
    assert_eq!((counters.takeovers, counters.identity_conflicts, counters.connections_devices), (4, 1, 1));
}

#[tokio::test]
async fn a_kick_ends_a_connection_whose_client_does_not_read() {
    let broker = broker(Limits::default());
    let (publisher, _service) = broker.service_link("fleetd", &[]).unwrap();
    let mut device = Client::connect(&broker, &DEVICE).await;
    assert_eq!(device.subscribe(COMMAND, 0).await, 0);
    for _ in 0..6 {
        // Far more than the pipe holds, so that the gate's write blocks.
        let payload = Bytes::from(vec![b'x'; 60_000]);
        publisher.publish(COMMAND.to_owned(), payload, QoS::AtMostOnce, false).await.unwrap();
    }
    tokio::time::sleep(Duration::from_millis(50)).await;
    assert_eq!(broker.end_connections(&box_1()), 1);
    until(|| broker.counters().connections_devices == 0).await;
    assert_eq!(broker.counters().kicks, 1);
}

#[tokio::test]
async fn links_of_clients_that_have_gone_are_used_again() {
    // One link for each of a few sessions; hundreds of clients come and go.
    let broker = broker(Limits { sessions: 2, ..Limits::default() });
    for n in 0..200 {
        let mut person = Client::connect(&broker, &OPERATOR).await;
        assert_eq!(person.subscribe(HEARTBEATS, 1).await, 1, "the {n}th");
        if n % 2 == 0 {
            person.send(&[0xE0, 0]).await;
        }
        drop(person);
        until(|| broker.counters().connections_people == 0).await;
    }
    assert_eq!(broker.counters().sessions, 0);
    assert!(broker.healthy());
}

#[tokio::test]
async fn a_subscriber_that_falls_behind_the_log_is_told_by_the_counter_and_served_on() {
    let limits =
        Limits { queued_bytes: 2_000, log_segment_bytes: 2_000, log_segments: 2, ..Limits::default() };
    let broker = broker(limits);
    let (publisher, _service) = broker.service_link("fleetd", &[]).unwrap();
    let mut person = Client::connect(&broker, &OPERATOR).await;
    assert_eq!(person.subscribe(HEARTBEATS, 1).await, 1);
    // What is lost is counted from the first message on.
    publisher.publish(HEARTBEAT.to_owned(), Bytes::new(), QoS::AtMostOnce, false).await.unwrap();
    person.message().await;
    for n in 0..2_000 {
        let payload = Bytes::from(format!("{n:0100}"));
        publisher.publish(HEARTBEAT.to_owned(), payload, QoS::AtLeastOnce, false).await.unwrap();
    }
    let mut got = 0;
    let mut last = None;
    while last != Some(1_999) {
        let (_, _, id, payload) = person.message().await;
        person.send(&packet(0x40, &id.to_be_bytes())).await;
        last = String::from_utf8(payload).unwrap().parse().ok();
        got += 1;
    }
    assert!(got < 2_000, "the log wrapped");
    assert_eq!(got + broker.counters().dropped_log_wrapped, 2_000);
}

#[tokio::test]
async fn an_absent_client_s_queue_is_bounded() {
    let broker = broker(Limits { queued_bytes: 5_000, ..Limits::default() });
    let (publisher, mut service) = broker.service_link("fleetd", &[HEARTBEATS]).unwrap();
    let options = Options { clean: false, ..OPERATOR };
    let mut person = Client::connect(&broker, &options).await;
    assert_eq!(person.subscribe(HEARTBEATS, 1).await, 1);
    person.send(&[0xE0, 0]).await;
    until(|| broker.counters().connections_people == 0).await;
    for _ in 0..100 {
        let payload = Bytes::from(vec![b'x'; 200]);
        publisher.publish(HEARTBEAT.to_owned(), payload, QoS::AtLeastOnce, false).await.unwrap();
        timeout(PATIENCE, service.recv()).await.unwrap().unwrap();
    }
    until(|| broker.counters().dropped_queue_full > 0).await;
    let (mut person, answer) = Client::try_connect(&broker, &options).await;
    assert_eq!(answer, [1, 0], "the session is there");
    let mut got = 0;
    while let Ok((_, _, id, _)) = timeout(SILENCE, person.message()).await {
        person.send(&packet(0x40, &id.to_be_bytes())).await;
        got += 1;
    }
    until(|| got + broker.counters().dropped_queue_full == 100).await;
    assert!(got > 10, "{got}");
}

#[tokio::test]
async fn a_service_gets_what_is_retained_first_and_each_topic_once() {
    let broker = broker(Limits::default());
    let (publisher, _first) = broker.service_link("fleetd", &[]).unwrap();
    let view = |n: usize| format!("fleet/v1/acme/view/box-{n}");
    for n in 0..50 {
        publisher.publish(view(n), Bytes::from(n.to_string()), QoS::AtMostOnce, true).await.unwrap();
    }
    let filters = ["fleet/v1/+/view/+", "fleet/v1/acme/#"];
    let (_, mut second) = broker.service_link("other", &filters).unwrap();
    publisher.publish(view(3), Bytes::from_static(b"new"), QoS::AtMostOnce, true).await.unwrap();
    let mut retained = 0;
    loop {
        let message = timeout(PATIENCE, second.recv()).await.unwrap().unwrap();
        if !message.retain {
            assert_eq!(message.topic, view(3));
            break;
        }
        retained += 1;
    }
    assert_eq!(retained, 50);
    assert!(timeout(SILENCE, second.recv()).await.is_err(), "overlapping filters give one delivery");
}

#[tokio::test]
async fn a_service_may_not_publish_what_is_no_topic_or_keeps_no_retained_message() {
    let broker = broker(Limits::default());
    let (publisher, _subscriber) = broker.service_link("fleetd", &[]).unwrap();
    for (topic, retain) in [("a/+", false), ("", false), ("\u{e9}/x", false), (HEARTBEAT, true)] {
        assert!(
            publisher.publish(topic.to_owned(), Bytes::new(), QoS::AtMostOnce, retain).await.is_err(),
            "{topic}"
        );
    }
    assert!(broker.service_link("fleetd", &["a/#/b"]).is_err());
}

#[tokio::test]
async fn a_shutdown_tells_everybody_and_returns() {
    let broker = broker(Limits::default());
    let mut device = Client::connect(&broker, &Options { level: 5, ..DEVICE }).await;
    broker.shutdown().await;
    assert!(ends_with(&mut device, 0x8B).await);
    assert!(!broker.healthy());
    let (_, answer) = Client::try_connect(&broker, &DEVICE).await;
    assert_eq!(answer[1], 3, "nobody gets in any more");
}
