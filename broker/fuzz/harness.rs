//! What fuzzing asks of the gate, as plain functions: the fuzz targets call them with libFuzzer's bytes,
//! `tests/fuzz` with bytes from a seed.
//!
//! One broker serves all inputs. Each input is one connection over an in-memory pipe. Whatever the bytes are:
//!
//! - nothing panics, neither a task nor the router thread;
//! - the connection ends when the client has gone;
//! - everything the server says is well-formed MQTT;
//! - what is published reaches the server only on topics that the client may publish to.

#![allow(dead_code, missing_docs, unreachable_pub)]

#[path = "../tests/support/wire.rs"]
pub mod wire;

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use ::broker::credentials::authenticator::FileAuthenticator;
use ::broker::credentials::{Credentials, Sha256Hash};
use ::broker::plaintext::PlaintextPolicy;
use ::broker::{Broker, Limits, Origin, QoS, ServicePublisher, ServiceSubscriber, Transport};
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};
use tokio::runtime::Runtime;
use wire::{Connect, Version};

/// What the broker's threads are called.
pub const THREADS: &str = "broker-under-test";

/// How long one step may take on a loaded machine.
const PATIENCE: Duration = Duration::from_secs(20);

/// Who speaks before the fuzzed bytes do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Login {
    /// Nobody: the bytes are the whole connection.
    Nobody,
    /// `acme/cam-1`, subscribed to its topics, with commands on their way to it.
    Device,
    /// The operator `acme/otto`, subscribed to results, views and heartbeats, with messages on their way.
    Operator,
}

const DEVICE: (&str, &str) = ("acme/cam-1", "cam-secret");
const OPERATOR: (&str, &str) = ("acme/otto", "otto-secret");

/// A broker that serves one input after the other.
pub struct Harness {
    runtime: Runtime,
    broker: Broker,
    publisher: ServicePublisher,
    subscriber: ServiceSubscriber,
    inputs: u64,
}

impl Harness {
    pub fn new() -> Harness {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .thread_name(THREADS)
            .enable_all()
            .build()
            .expect("a runtime");
        let (broker, publisher, subscriber) = runtime.block_on(async {
            // No limit may slow an input down.
            let limits = Limits { device_messages_per_second: 0, failures: u32::MAX, ..Limits::default() };
            let authenticator = FileAuthenticator::new(accounts(), PlaintextPolicy::default());
            let broker = Broker::start(limits, Arc::new(authenticator)).expect("a broker");
            let (publisher, subscriber) = broker.service_link("harness", &["#"]).expect("a link");
            (broker, publisher, subscriber)
        });
        Harness { runtime, broker, publisher, subscriber, inputs: 0 }
    }

    /// What the broker has counted, to see that the inputs reach everything.
    pub fn counters(&self) -> ::broker::CountersSnapshot {
        self.broker.counters()
    }

    /// One connection. The first byte of `input` chooses the MQTT version (after a login), how the bytes are cut into
    /// segments, and whether the client waits for its answers; the rest is what the client sends.
    pub fn connection(&mut self, login: Login, input: &[u8]) {
        let Some((first, bytes)) = input.split_first() else { return };
        let version = if first & 1 == 0 { Version::V311 } else { Version::V5 };
        let waits = first & 2 == 0;
        let segment = usize::from(first >> 2).max(1);
        let Harness { runtime, broker, publisher, subscriber, inputs } = self;
        *inputs += 1;
        runtime.block_on(async {
            let (mut client, server) = tokio::io::duplex(1 << 16);
            let peer = ([127, 0, 0, 1], 1883).into();
            let gate = broker.clone();
            let serving =
                tokio::spawn(
                    async move { gate.serve_stream(server, Origin::new(peer, Transport::Tcp)).await },
                );
            let mut said = Vec::new();
            if login != Login::Nobody {
                begin(&mut client, &mut said, login, version, publisher).await;
            }
            send(&mut client, &mut said, bytes, segment).await;
            if waits && client.shutdown().await.is_ok() {
                while tokio::time::timeout(PATIENCE, read(&mut client, &mut said))
                    .await
                    .expect("the server closes")
                {}
            }
            // Goes without a word; the server must notice and end.
            drop(client);
            let ended = tokio::time::timeout(PATIENCE, serving).await.expect("the connection ends");
            ended.expect("the connection's task does not panic");
            check_answers(login, version, said);
            check_published(publisher, subscriber, *inputs).await;
        });
        assert!(broker.healthy(), "the router thread has gone");
    }
}

impl Default for Harness {
    fn default() -> Harness {
        Harness::new()
    }
}

fn accounts() -> Credentials {
    let hash = |login: (&str, &str)| Sha256Hash::of(login.1.as_bytes());
    let text = format!(
        "[[device]]\norg = \"acme\"\nid = \"cam-1\"\ntoken_sha256 = \"{}\"\n\
         [[person]]\norg = \"acme\"\nuser = \"otto\"\nrole = \"operator\"\napi_key_sha256 = \"{}\"\n",
        hash(DEVICE),
        hash(OPERATOR)
    );
    Credentials::parse(Path::new("accounts.toml"), &text).expect("good accounts")
}

/// The CONNECT of a login; persistent for the operator, so that sessions are resumed as well.
pub fn connect(login: Login, version: Version) -> Connect {
    match login {
        Login::Device => Connect::new(version, DEVICE.0).login(DEVICE.0, DEVICE.1),
        _ => Connect::new(version, "desk").login(OPERATOR.0, OPERATOR.1).persistent(),
    }
}

/// Logs in, subscribes, and has messages of every QoS on their way.
async fn begin(
    client: &mut DuplexStream,
    said: &mut Vec<u8>,
    login: Login,
    version: Version,
    publisher: &ServicePublisher,
) {
    let (filters, topic): (&[(&str, u8)], &str) = match login {
        Login::Device => (
            &[("fleet/v1/acme/device/cam-1/command", 2), ("fleet/v1/acme/device/cam-1/ack", 0)],
            "fleet/v1/acme/device/cam-1/command",
        ),
        _ => (
            &[("fleet/v1/acme/operator/otto/result", 2), ("fleet/v1/acme/view/+", 1)],
            "fleet/v1/acme/operator/otto/result",
        ),
    };
    let subscribe = wire::subscribe(version, 60_000, filters, &[]);
    send(client, said, &[connect(login, version).encode(), subscribe].concat(), usize::MAX).await;
    let mut rest = said.clone();
    while !rest.is_empty() || said.is_empty() {
        match wire::take_frame(&mut rest) {
            Some((first, _)) if first & 0xf0 == wire::kind::SUBACK => break,
            Some(_) => {}
            None => {
                tokio::time::timeout(PATIENCE, read(client, said)).await.expect("an answer to CONNECT");
                rest.clone_from(said);
            }
        }
    }
    for qos in [QoS::AtMostOnce, QoS::AtLeastOnce, QoS::ExactlyOnce] {
        publisher.publish(topic.to_owned(), "for you".into(), qos, false).await.expect("the router takes it");
    }
}

/// Reads what is there; false at the end.
async fn read(client: &mut DuplexStream, said: &mut Vec<u8>) -> bool {
    // Enough of an endless answer to check it; the rest is read and dropped.
    let before = said.len();
    let open = client.read_buf(said).await.is_ok_and(|count| count > 0);
    if before > 1 << 20 {
        said.truncate(before);
    }
    open
}

/// Writes `bytes` in segments and reads at the same time, as a client with two threads would.
async fn send(client: &mut DuplexStream, said: &mut Vec<u8>, bytes: &[u8], segment: usize) {
    for part in bytes.chunks(segment) {
        let mut part = part;
        while !part.is_empty() {
            let (mut reader, mut writer) = tokio::io::split(&mut *client);
            let mut chunk = [0; 4096];
            let step = async {
                tokio::select! {
                    written = writer.write(part) => written.ok().map(Step::Wrote),
                    count = reader.read(&mut chunk) => count.ok().filter(|count| *count > 0).map(Step::Read),
                }
            };
            match tokio::time::timeout(PATIENCE, step).await.expect("the server reads or writes") {
                Some(Step::Wrote(count)) => part = &part[count..],
                Some(Step::Read(count)) => said.extend(&chunk[..count]),
                // The server has closed: it had its reasons.
                None => return,
            }
        }
        // Lets the server work on it alone.
        tokio::task::yield_now().await;
    }
}

enum Step {
    Wrote(usize),
    Read(usize),
}

/// Everything the server said must be whole packets, but for the last, which the end may have cut.
fn check_answers(login: Login, version: Version, mut said: Vec<u8>) {
    let mut version = Some(version);
    if login == Login::Nobody {
        // Known only from the bytes themselves; a CONNACK of MQTT 5 has more than two.
        version = match said.get(1) {
            Some(2) => Some(Version::V311),
            Some(_) => Some(Version::V5),
            None => None,
        };
    }
    while let Some((first, body)) = wire::take_frame(&mut said) {
        let version = version.expect("a whole packet has a length");
        drop(wire::parse(version, first, &body));
    }
}

/// Takes what has reached the server so far: a probe marks its end.
async fn check_published(publisher: &ServicePublisher, subscriber: &mut ServiceSubscriber, number: u64) {
    let probe = number.to_string();
    let topic = "fleet/v1/server/probe".to_owned();
    publisher
        .publish(topic.clone(), probe.clone().into(), QoS::AtMostOnce, false)
        .await
        .expect("the router takes it");
    loop {
        let message = tokio::time::timeout(PATIENCE, subscriber.recv()).await.expect("the router delivers");
        let message = message.expect("the router is there");
        if message.topic == topic {
            // Of an earlier input if the router was slow.
            if message.payload == probe.as_bytes() {
                return;
            }
            continue;
        }
        let own = message.topic.starts_with("fleet/v1/acme/device/cam-1/")
            || message.topic == "fleet/v1/acme/operator/otto/command"
            || message.topic == "fleet/v1/acme/operator/otto/result";
        assert!(own, "published by nobody who may: {}", message.topic);
    }
}
