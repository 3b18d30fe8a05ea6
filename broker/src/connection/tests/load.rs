//! Many clients, and slow ones: nothing is lost uncounted, and nothing stays behind.

use std::time::Duration;

use bytes::Bytes;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::timeout;

use super::client::*;
use crate::{Broker, Limits, QoS};

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
async fn what_a_subscriber_does_not_take_leaves_its_queue_and_is_counted_and_it_is_served_on() {
    let broker = broker(Limits { queued_bytes: 2_000, ..Limits::default() });
    let (publisher, _service) = broker.service_link("fleetd", &[]).unwrap();
    let mut person = Client::connect(&broker, &OPERATOR).await;
    assert_eq!(person.subscribe(HEARTBEATS, 1).await, 1);
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
    assert!(got < 2_000, "it did not fit");
    assert_eq!(got + broker.counters().dropped_queue_full, 2_000);
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
async fn links_of_clients_that_left_with_a_backlog_are_used_again() {
    // 65 links at most, and far more clients that go away while the router waits for them.
    let broker = broker(Limits { sessions: 1, queued_bytes: 2_000, ..Limits::default() });
    let (publisher, _service) = broker.service_link("fleetd", &[]).unwrap();
    let payload = Bytes::from(vec![b'x'; 500]);
    for n in 0..80 {
        let mut person = Client::connect(&broker, &OPERATOR).await;
        assert_eq!(person.subscribe(HEARTBEATS, 1).await, 1, "the {n}th");
        for _ in 0..300 {
            publisher.publish(HEARTBEAT.to_owned(), payload.clone(), QoS::AtLeastOnce, false).await.unwrap();
        }
        person.message().await;
        drop(person);
        until(|| broker.counters().connections_people == 0).await;
    }
    // What the last one left is not for the next one.
    let mut person = Client::connect(&broker, &OPERATOR).await;
    assert_eq!(person.subscribe("fleet/v1/acme/view/+", 1).await, 1);
    assert!(person.is_silent().await);
}

const FLEETD: Options<'_> =
    Options { client_id: "fleetd-1", username: "acme/fleetd", password: "service", ..OPERATOR };

/// Publishes so many heartbeats as fast as the acknowledgements allow that the pipe holds.
async fn flood(broker: Broker, count: u16) {
    let device = Client::connect(&broker, &DEVICE).await;
    let (mut reading, mut writing) = tokio::io::split(device.io);
    let sender = tokio::spawn(async move {
        for id in 1..=count {
            let body = [&text(HEARTBEAT)[..], &id.to_be_bytes(), &[7; 100]].concat();
            writing.write_all(&packet(0x32, &body)).await.unwrap();
        }
        writing
    });
    let mut acknowledgements = vec![0; 4 * usize::from(count)];
    reading.read_exact(&mut acknowledgements).await.unwrap();
    assert_eq!(acknowledgements[acknowledgements.len() - 2..], count.to_be_bytes());
    sender.await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flood_waits_for_a_service_that_reads_and_loses_nothing() {
    let limits = Limits { device_messages_per_second: 0, queued_bytes: 16 * 1024, ..Limits::default() };
    let broker = broker(limits);
    let mut service = Client::connect(&broker, &FLEETD).await;
    assert_eq!(service.subscribe(HEARTBEATS, 1).await, 1);
    // Several times what a log has room for.
    let count = 30_000;
    let flood = tokio::spawn(flood(broker.clone(), count));
    for number in 1..=count {
        let (_, _, id, _) = service.message().await;
        service.send(&packet(0x40, &id.to_be_bytes())).await;
        if number % 200 == 0 {
            // It commits what it has.
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
    timeout(PATIENCE, flood).await.unwrap().unwrap();
    let counters = broker.counters();
    assert_eq!((counters.dropped_log_wrapped, counters.dropped_queue_full), (0, 0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flood_does_not_wait_for_a_service_that_takes_nothing() {
    let limits = Limits { device_messages_per_second: 0, queued_bytes: 16 * 1024, ..Limits::default() };
    let broker = broker(limits);
    let mut service = Client::connect(&broker, &FLEETD).await;
    assert_eq!(service.subscribe(HEARTBEATS, 1).await, 1);
    timeout(PATIENCE, flood(broker.clone(), 10_000)).await.unwrap();
    drop(service);
}

/// A small generator: the same seed gives the same clients.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % sides
    }
}

/// Connects and does something, again and again.
async fn restless_client(broker: Broker, mut dice: Dice) {
    for _ in 0..25 {
        let level = 4 + dice.roll(2) as u8;
        let (name, password) = match dice.roll(5) {
            0 => ("acme/olga".to_owned(), "operator"),
            1 => ("acme/ada".to_owned(), "admin"),
            2 => ("acme/fleetd".to_owned(), "service"),
            _ => (format!("acme/box-{}", dice.roll(6)), "device"),
        };
        let tool = format!("tool-{}", dice.roll(3));
        let client_id = if password == "device" { name.as_str() } else { tool.as_str() };
        let topic = |leaf| format!("fleet/v1/{name}/{leaf}").replace("acme/", "acme/device/");
        let presence = topic("presence");
        let will = (password == "device" && dice.roll(2) == 0).then_some((presence.as_str(), "gone", 0x28));
        let clean = dice.roll(2) == 0;
        let options = Options {
            level,
            clean,
            keep_alive: 0,
            client_id,
            username: &name,
            password,
            properties: &[],
            will,
        };
        let mut client = Client::open(&broker, level);
        if client.io.write_all(&connect_packet(&options)).await.is_err() {
            continue;
        }
        for _ in 0..dice.roll(12) {
            let id = dice.roll(5) as u16 + 1;
            let mut body = Vec::new();
            let bytes = match dice.roll(6) {
                0 | 1 => {
                    let qos = dice.roll(3) as u8;
                    body.extend(text(&topic(["heartbeat", "presence", "odd/leaf"][dice.roll(3) as usize])));
                    if qos > 0 {
                        body.extend(id.to_be_bytes());
                    }
                    body.extend((level == 5).then_some(0));
                    body.extend(vec![b'p'; dice.roll(3_000) as usize]);
                    packet(0x30 | qos << 1, &body)
                }
                2 | 3 => {
                    body.extend(id.to_be_bytes());
                    body.extend((level == 5).then_some(0));
                    let filters = ["#", HEARTBEATS, COMMAND, "fleet/v1/acme/#", "fleet/v1/server/+", "a/+b"];
                    let filter = filters[dice.roll(6) as usize];
                    body.extend(text(filter));
                    if dice.roll(3) == 0 {
                        packet(0xA2, &body)
                    } else {
                        body.push(dice.roll(3) as u8);
                        packet(0x82, &body)
                    }
                }
                4 => packet([0x40, 0x50, 0x62, 0x70][dice.roll(4) as usize], &id.to_be_bytes()),
                _ => vec![0xC0, 0],
            };
            // Refused ones find the pipe closed.
            if client.io.write_all(&bytes).await.is_err() {
                break;
            }
            if dice.roll(2) == 0 {
                let _ = timeout(Duration::from_millis(dice.roll(4)), client.io.read(&mut [0; 4096])).await;
            }
        }
        match dice.roll(4) {
            0 => drop(client.io.write_all(&[0xE0, 0]).await),
            1 => drop(client.io.write_all(&[0x00, 0xff]).await),
            _ => {}
        }
        if dice.roll(8) == 0 {
            broker.end_connections(&box_1());
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hundreds_of_restless_clients_leave_a_sound_broker_behind() {
    let limits =
        Limits { session_expiry: Duration::from_millis(300), queued_bytes: 20_000, ..Limits::default() };
    let broker = broker(limits);
    let (publisher, mut service) = broker.service_link("fleetd", &["#"]).unwrap();
    let reading = tokio::spawn(async move { while service.recv().await.is_some() {} });
    let clients: Vec<_> =
        (0..24).map(|seed| tokio::spawn(restless_client(broker.clone(), Dice(seed * 7919 + 1)))).collect();
    for n in 0..300 {
        let topic = format!("fleet/v1/acme/device/box-{}/command", n % 6);
        let payload = Bytes::from(vec![b'c'; 2_000]);
        publisher.publish(topic, payload, QoS::ExactlyOnce, false).await.unwrap();
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    for client in clients {
        client.await.unwrap();
    }
    reading.abort();
    until(|| {
        let counters = broker.counters();
        let live = counters.connections_devices + counters.connections_people + counters.connections_services;
        live + counters.connections_unauthenticated + counters.sessions == 0
    })
    .await;
    assert!(broker.healthy());
    let counters = broker.counters();
    assert!(counters.connects > 50 && counters.takeovers > 10 && counters.messages_in > 50, "{counters:?}");
    let mut person = Client::connect(&broker, &OPERATOR).await;
    assert_eq!(person.subscribe(HEARTBEATS, 0).await, 0);
    let mut device = Client::connect(&broker, &DEVICE).await;
    device.publish(HEARTBEAT, "alive", 0, false, 0).await;
    assert_eq!(person.message().await.3, b"alive");
}
