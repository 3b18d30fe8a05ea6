//! A client that speaks bytes over an in-memory pipe, and an authenticator that believes in passwords.

use std::sync::Arc;
use std::time::Duration;

use protocol::id::{DeviceId, OrgSlug, Role, UserName};
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};
use tokio::time::timeout;

use crate::principal::{Authentication, Authenticator, ConnectAttempt, Principal, PrincipalKey, Refusal};
use crate::{Broker, Limits, Origin, Transport};

pub(super) const PATIENCE: Duration = Duration::from_secs(10);
pub(super) const SILENCE: Duration = Duration::from_millis(100);

/// `ORG/NAME` with the password `device`, `viewer`, `operator` or `admin` is that; `service` is one.
pub(super) struct ByPassword;

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
                    credential: None,
                },
                Some("viewer") => {
                    Principal::Person { org, user: user()?, role: Role::Viewer, credential: None }
                }
                Some("operator") => {
                    Principal::Person { org, user: user()?, role: Role::Operator, credential: None }
                }
                Some("admin") => {
                    Principal::Person { org, user: user()?, role: Role::Admin, credential: None }
                }
                Some("service") => Principal::Service { name: name.to_owned() },
                _ => return Err(Refusal::BadCredentials),
            })
        })
    }
}

pub(super) fn broker(limits: Limits) -> Broker {
    Broker::start(limits, Arc::new(ByPassword)).unwrap()
}

/// A client that speaks bytes.
pub(super) struct Client {
    pub(super) io: DuplexStream,
    pub(super) level: u8,
}

pub(super) fn text(text: &str) -> Vec<u8> {
    let mut out = (text.len() as u16).to_be_bytes().to_vec();
    out.extend_from_slice(text.as_bytes());
    out
}

pub(super) fn packet(first: u8, body: &[u8]) -> Vec<u8> {
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

pub(super) struct Options<'a> {
    pub(super) level: u8,
    pub(super) clean: bool,
    pub(super) keep_alive: u16,
    pub(super) client_id: &'a str,
    pub(super) username: &'a str,
    pub(super) password: &'a str,
    /// Encoded, for level 5.
    pub(super) properties: &'a [u8],
    /// Topic, payload, flags.
    pub(super) will: Option<(&'a str, &'a str, u8)>,
}

pub(super) const DEVICE: Options<'_> = Options {
    level: 4,
    clean: true,
    keep_alive: 0,
    client_id: "acme/box-1",
    username: "acme/box-1",
    password: "device",
    properties: &[],
    will: None,
};

pub(super) const OPERATOR: Options<'_> =
    Options { client_id: "tool", username: "acme/olga", password: "operator", ..DEVICE };

pub(super) fn connect_packet(options: &Options<'_>) -> Vec<u8> {
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
    pub(super) fn open(broker: &Broker, level: u8) -> Client {
        let (io, server) = tokio::io::duplex(64 * 1024);
        let broker = broker.clone();
        tokio::spawn(async move {
            broker.serve_stream(server, Origin::new(([127, 0, 0, 1], 7).into(), Transport::Tcp)).await;
        });
        Client { io, level }
    }

    /// Sends a CONNECT and returns the client with the CONNACK's first two bytes: session present and code.
    pub(super) async fn try_connect(broker: &Broker, options: &Options<'_>) -> (Client, [u8; 2]) {
        let mut client = Client::open(broker, options.level);
        client.send(&connect_packet(options)).await;
        let (first, body) = client.receive().await.unwrap();
        assert_eq!(first, 0x20);
        (client, [body[0], body[1]])
    }

    pub(super) async fn connect(broker: &Broker, options: &Options<'_>) -> Client {
        let (client, answer) = Client::try_connect(broker, options).await;
        assert_eq!(answer[1], 0, "refused");
        client
    }

    pub(super) async fn send(&mut self, bytes: &[u8]) {
        self.io.write_all(bytes).await.unwrap();
    }

    /// The next packet, `None` at the end.
    pub(super) async fn receive(&mut self) -> Option<(u8, Vec<u8>)> {
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

    pub(super) async fn is_silent(&mut self) -> bool {
        timeout(SILENCE, self.io.read_u8()).await.is_err()
    }

    pub(super) async fn publish(&mut self, topic: &str, payload: &str, qos: u8, retain: bool, id: u16) {
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
    pub(super) async fn subscribe(&mut self, filter: &str, options: u8) -> u8 {
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
    pub(super) async fn message(&mut self) -> (u8, String, u16, Vec<u8>) {
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

pub(super) fn box_1() -> PrincipalKey {
    PrincipalKey::Device { org: OrgSlug::new("acme").unwrap(), device: DeviceId::new("box-1").unwrap() }
}

pub(super) const HEARTBEAT: &str = "fleet/v1/acme/device/box-1/heartbeat";
pub(super) const HEARTBEATS: &str = "fleet/v1/acme/device/+/heartbeat";
pub(super) const COMMAND: &str = "fleet/v1/acme/device/box-1/command";

/// Reads until the peer closes; true if a DISCONNECT with this reason came last.
pub(super) async fn ends_with(client: &mut Client, reason: u8) -> bool {
    let mut last = None;
    while let Some(packet) = client.receive().await {
        last = Some(packet);
    }
    last.is_some_and(|(first, body)| first == 0xE0 && body.first() == Some(&reason))
}

pub(super) async fn until(mut condition: impl FnMut() -> bool) {
    let reached = timeout(PATIENCE, async {
        while !condition() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    });
    reached.await.expect("in time");
}
