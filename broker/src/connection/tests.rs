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
