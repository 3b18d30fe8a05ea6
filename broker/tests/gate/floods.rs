//! More than subscribers can take: who publishes waits for those who read, and not for those who do not.

use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use nix::sys::socket::{setsockopt, sockopt};

use crate::support::broker::{person, service, up};
use crate::support::*;

/// Messages of one publisher that are not acknowledged yet.
const WINDOW: usize = 20;
const PAYLOAD_BYTES: usize = 500;
/// Messages of all publishers together: half as much again as the router's log holds, eight times what has room in it.
const TOTAL: usize = 30_000;

/// One of many publishers on one thread.
struct Publisher {
    stream: TcpStream,
    topic: String,
    number: u32,
    sent: usize,
    acknowledged: usize,
    incoming: Vec<u8>,
}

impl Publisher {
    fn connect(broker: &TestBroker, number: u32) -> Publisher {
        let connect = Connect { client_id: format!("publisher-{number}"), ..service(Version::V311) };
        let client = Client::connect(broker.address, &connect);
        let stream = client.stream().try_clone().unwrap();
        stream.set_nonblocking(true).unwrap();
        let topic = up(&format!("cam-{number}"), "heartbeat");
        Publisher { stream, topic, number, sent: 0, acknowledged: 0, incoming: Vec::new() }
    }

    /// Reads acknowledgements that are there, and publishes what they allow; true once all is acknowledged.
    fn step(&mut self, count: usize) -> bool {
        let mut chunk = [0; 4096];
        match self.stream.read(&mut chunk) {
            Ok(read) => self.incoming.extend(&chunk[..read]),
            Err(error) => assert_eq!(error.kind(), ErrorKind::WouldBlock),
        }
        while let Some((first, _)) = wire::take_frame(&mut self.incoming) {
            assert_eq!(first, kind::PUBACK);
            self.acknowledged += 1;
        }
        let mut packets = Vec::new();
        while self.sent < count && self.sent - self.acknowledged < WINDOW {
            let mut payload = vec![0; PAYLOAD_BYTES];
            payload[..4].copy_from_slice(&self.number.to_be_bytes());
            payload[4..8].copy_from_slice(&(self.sent as u32).to_be_bytes());
            let id = (self.sent % 60_000 + 1) as u16;
            packets.extend(Publish::new(&self.topic, payload).qos(1, id).encode(Version::V311));
            self.sent += 1;
        }
        // The window fits into the socket's buffer.
        self.stream.write_all(&packets).unwrap();
        self.acknowledged == count
    }
}

/// Reads and acknowledges until it has `count` messages: of each publisher all, once and in order.
fn read_all(subscriber: &Client, count: usize, seen: &AtomicUsize) {
    let mut stream = subscriber.stream();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut next = vec![0u32; 1_000];
    let (mut chunk, mut incoming) = (vec![0; 64 * 1024], Vec::new());
    while seen.load(Ordering::Relaxed) < count {
        let read = stream.read(&mut chunk).expect("the rest comes");
        assert!(read > 0, "it stays connected");
        incoming.extend(&chunk[..read]);
        let mut acknowledgements = Vec::new();
        while let Some((first, body)) = wire::take_frame(&mut incoming) {
            let Received::Publish { payload, id, .. } = wire::parse(Version::V311, first, &body) else {
                panic!("{first:#x}")
            };
            let word = |at: usize| u32::from_be_bytes(payload.0[at..at + 4].try_into().unwrap());
            let expected = &mut next[word(0) as usize];
            assert_eq!(word(4), *expected, "the next one of publisher {}", word(0));
            *expected += 1;
            acknowledgements.extend(wire::acknowledge(kind::PUBACK, id));
            seen.fetch_add(1, Ordering::Relaxed);
        }
        stream.write_all(&acknowledgements).unwrap();
    }
}

/// So many publish at once and as fast as they are let; a service reads it.
fn flood(publishers: u32, others_are_stuck: bool) {
    let broker = TestBroker::with(|limits| {
        limits.connections_per_principal = 2_000;
        limits.account_bytes = 64 * 1024 * 1024;
    });
    let topic = up("+", "heartbeat");
    let mut reader = Client::connect(broker.address, &service(Version::V311));
    assert_eq!(reader.subscribe(&[&topic], 1), [1]);
    let stuck: Vec<Client> = (0..if others_are_stuck { 3 } else { 0 })
        .map(|n| {
            let stuck = if n == 2 { person(Version::V5, "ada") } else { service(Version::V5) };
            let mut stuck =
                Client::connect(broker.address, &Connect { client_id: format!("stuck-{n}"), ..stuck });
            setsockopt(stuck.stream(), sockopt::RcvBuf, &8_192).unwrap();
            assert_eq!(stuck.subscribe(&[&topic], 1), [1]);
            stuck
        })
        .collect();
    let mut all: Vec<Publisher> = (0..publishers).map(|n| Publisher::connect(&broker, n)).collect();
    // One alone is slower.
    let each = if publishers == 1 { TOTAL / 5 } else { TOTAL / publishers as usize };
    let total = each * publishers as usize;
    let seen = AtomicUsize::new(0);
    let began = Instant::now();
    std::thread::scope(|threads| {
        threads.spawn(|| read_all(&reader, total, &seen));
        let mut open: Vec<&mut Publisher> = all.iter_mut().collect();
        while !open.is_empty() {
            assert!(
                began.elapsed() < Duration::from_secs(60),
                "{} of {total} arrived",
                seen.load(Ordering::Relaxed)
            );
            open.retain_mut(|publisher| !publisher.step(each));
        }
    });
    eprintln!("{publishers} publishers, {} stuck: {total} in {:?}", stuck.len(), began.elapsed());
    let counters = broker.broker.counters();
    assert_eq!(counters.dropped_log_wrapped, 0);
    assert_eq!(counters.dropped_queue_full > 0, others_are_stuck, "{}", counters.dropped_queue_full);
    broker.assert_serves_others();
}

#[test]
fn a_qos_1_subscriber_that_keeps_reading_gets_every_message_of_one_publisher() {
    flood(1, false);
    flood(1, true);
}

#[test]
fn a_qos_1_subscriber_that_keeps_reading_gets_every_message_of_a_hundred_publishers() {
    flood(100, false);
    flood(100, true);
}

#[test]
fn a_qos_1_subscriber_that_keeps_reading_gets_every_message_of_a_thousand_publishers() {
    flood(1_000, false);
}

#[test]
fn a_qos_1_subscriber_that_keeps_reading_gets_every_message_of_a_thousand_publishers_while_others_are_stuck()
{
    flood(1_000, true);
}

#[test]
fn a_device_that_floods_pushes_nobody_elses_messages_out_of_a_viewers_queue() {
    let broker = TestBroker::with(|limits| limits.device_messages_per_second = 0);
    for version in BOTH {
        let mut viewer = Client::silent(broker.address, version);
        // It reads more slowly than the flood comes, and much faster than the others speak.
        setsockopt(viewer.stream(), sockopt::RcvBuf, &(16 * 1024)).unwrap();
        viewer.send(person(version, "vera").encode());
        assert!(matches!(viewer.receive(), Received::ConnAck { code: 0, .. }));
        assert_eq!(viewer.subscribe(&[&up("+", "heartbeat")], 1), [1]);
        let mut flooder = broker.device(Version::V311, "cam-60");
        let mut quiet: Vec<Client> =
            (1..=20).map(|n| broker.device(Version::V311, &format!("cam-{n}"))).collect();
        let dropped = broker.broker.counters().dropped_queue_full;
        let stop = AtomicBool::new(false);
        let mut told = std::thread::scope(|threads| {
            let flooding = threads.spawn(|| {
                let batch =
                    Publish::new(up("cam-60", "heartbeat"), [0; 10_000]).encode(Version::V311).repeat(20);
                let mut sent = 0;
                // At least several times what waits for one viewer.
                while sent < 1_000 || !stop.load(Ordering::Relaxed) {
                    flooder.send(&batch);
                    flooder.ping();
                    sent += 20;
                }
            });
            let mut told = Vec::new();
            for round in 0..20 {
                for (number, camera) in quiet.iter_mut().enumerate() {
                    let text = format!("{round} of {}", number + 1);
                    let topic = up(&format!("cam-{}", number + 1), "heartbeat");
                    assert_eq!(camera.publish(Publish::new(topic, &text).qos(1, 0)), 0);
                    told.push(text);
                }
            }
            stop.store(true, Ordering::Relaxed);
            flooding.join().unwrap();
            told
        });
        let mut heard = Vec::new();
        while heard.len() < told.len() {
            let Outcome::Packet(packet) = viewer.wait(PATIENCE) else { break };
            let message = viewer.accept(packet);
            if message.payload.len() < 100 {
                heard.push(message.text());
            }
        }
        told.sort();
        heard.sort();
        assert_eq!(heard, told);
        assert!(broker.broker.counters().dropped_queue_full > dropped, "of the flood it did not get all");
        viewer.disconnect();
    }
}
