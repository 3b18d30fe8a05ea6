//! Whole connections over an in-memory pipe, byte for byte.
#![allow(clippy::unwrap_used)]

mod client;
mod load;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::time::timeout;

use crate::principal::{Authentication, Authenticator, ConnectAttempt, Principal};
use crate::{Broker, Limits, Origin, QoS, Transport};
use client::*;

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
    let task = super::run(gate.clone(), tokio::io::duplex(1).1, Origin::new(peer, Transport::Tcp));
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
        maximum_packet_bytes: 1_024,
    };
    let (_client, server) = tokio::io::duplex(64);
    let wire = super::wire::Wire::new(server, Duration::from_secs(1));
    let live = super::open(&gate, wire, peer, Transport::Tcp, accepted).await.unwrap();
    let place = size_of_val(&*live);
    let loop_of_packets = super::serve(gate, live);
    // Buffers are given back while nothing happens, so this is nearly all; names and subscriptions come on top.
    let parts =
        [size_of_val(&task), place, size_of_val(&loop_of_packets), size_of::<crate::session::Session>()];
    assert!(parts.iter().sum::<usize>() < 3072, "{parts:?} bytes");
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
