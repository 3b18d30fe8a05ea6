//! What devices get: their own three topics, while they are there, and nothing else.

use std::time::{Duration, Instant};

use crate::support::broker::{device, up};
use crate::support::*;

/// Subscribes a device to its three topics, as an agent does.
fn listen(camera: &mut Client, name: &str) {
    let filters = ["command", "desired", "ack"].map(|leaf| up(name, leaf));
    let filters: Vec<&str> = filters.iter().map(String::as_str).collect();
    assert_eq!(camera.subscribe(&filters, 1), [1, 1, 1]);
}

#[test]
fn a_device_gets_its_own_command_desired_and_ack_and_nobody_elses() {
    let broker = TestBroker::start();
    for version in BOTH {
        let mut first = broker.device(version, "cam-1");
        let mut second = broker.device(version, "cam-2");
        let mut namesake = broker.device(version, "other/cam-1");
        listen(&mut first, "cam-1");
        listen(&mut second, "cam-2");
        let foreign = "fleet/v1/other/device/cam-1/command";
        assert_eq!(namesake.subscribe(&[foreign], 1), [1]);
        let mut service = broker.service(version);
        for leaf in ["command", "desired", "ack"] {
            assert_eq!(service.publish(Publish::new(up("cam-1", leaf), leaf).qos(1, 0)), 0);
            let message = first.message();
            assert_eq!((message.topic, message.qos, message.retain), (up("cam-1", leaf), 1, false));
        }
        second.expect_silence();
        namesake.expect_silence();
        assert_eq!(service.publish(Publish::new(foreign, "x").qos(1, 0)), 0);
        assert_eq!(namesake.message().topic, foreign);
        first.expect_silence();
    }
}

#[test]
fn a_device_gets_only_what_it_has_subscribed_and_no_more_after_unsubscribe() {
    let broker = TestBroker::start();
    for version in BOTH {
        let mut camera = broker.device(version, "cam-1");
        assert_eq!(camera.subscribe(&[&up("cam-1", "ack")], 0), [0]);
        let mut service = broker.service(version);
        let mut send =
            |leaf: &str| assert_eq!(service.publish(Publish::new(up("cam-1", leaf), leaf).qos(1, 0)), 0);
        send("command");
        send("ack");
        let message = camera.message();
        assert_eq!((message.topic, message.qos), (up("cam-1", "ack"), 0), "at the QoS it asked for");
        let code: &[u8] = if version == Version::V5 { &[0] } else { &[] };
        assert_eq!(camera.unsubscribe(&[&up("cam-1", "ack")]), code);
        send("ack");
        camera.expect_silence();
    }
}

#[test]
fn nothing_is_queued_for_a_device_that_is_away() {
    let broker = TestBroker::start();
    for version in BOTH {
        // Even if it asks for a session that outlives the connection.
        let connect = device(version, "cam-1").persistent();
        let mut camera = Client::connect(broker.address, &connect);
        listen(&mut camera, "cam-1");
        camera.disconnect();
        let mut service = broker.service(version);
        until("it has left", || broker.broker.counters().connections_devices == 0);
        let dropped = broker.broker.counters().dropped_device_absent;
        for _ in 0..10 {
            assert_eq!(service.publish(Publish::new(up("cam-1", "command"), "old").qos(1, 0)), 0);
        }
        assert_eq!(broker.broker.counters().dropped_device_absent, dropped + 10, "counted");
        let (mut camera, _, present) = Client::attempt(broker.address, &connect);
        assert!(!present, "a device has no session to come back to");
        camera.expect_silence();
        listen(&mut camera, "cam-1");
        camera.expect_silence();
        assert_eq!(service.publish(Publish::new(up("cam-1", "command"), "new").qos(1, 0)), 0);
        assert_eq!(camera.message().text(), "new");
    }
}

#[test]
fn a_device_reads_the_servers_own_topics_and_gets_the_retained_one_at_once() {
    let broker = TestBroker::start();
    for version in BOTH {
        let mut service = broker.service(version);
        let topic = "fleet/v1/server/main";
        assert_eq!(service.publish(Publish::new(topic, "up").qos(1, 0).retained()), 0);
        let mut camera = broker.device(version, "cam-1");
        assert_eq!(camera.subscribe(&["fleet/v1/server/+"], 1), [1]);
        let message = camera.message();
        assert!(message.retain && message.text() == "up", "{message:?}");
        assert_eq!(service.publish(Publish::new(topic, "down").qos(1, 0)), 0);
        let message = camera.message();
        assert!(!message.retain && message.text() == "down", "{message:?}");
    }
}

#[test]
fn what_a_device_publishes_reaches_people_and_services_in_its_order() {
    let broker = TestBroker::start();
    for version in BOTH {
        let mut viewer = broker.person(version, "vera");
        assert_eq!(viewer.subscribe(&["fleet/v1/acme/device/+/heartbeat"], 1), [1]);
        let mut service = broker.service(version);
        assert_eq!(service.subscribe(&["fleet/v1/+/device/+/heartbeat"], 1), [1]);
        let mut cameras: Vec<Client> = (1..=5).map(|n| broker.device(version, &format!("cam-{n}"))).collect();
        for round in 0..10 {
            for (number, camera) in cameras.iter_mut().enumerate() {
                let topic = up(&format!("cam-{}", number + 1), "heartbeat");
                camera.send(Publish::new(topic, round.to_string()).qos(1, round + 1).encode(version));
            }
        }
        for reader in [&mut viewer, &mut service] {
            let mut next = std::collections::BTreeMap::new();
            for _ in 0..50 {
                let message = reader.message();
                let expected: &mut u16 = next.entry(message.topic.clone()).or_default();
                assert_eq!(message.text(), expected.to_string(), "{}", message.topic);
                *expected += 1;
            }
            assert_eq!(next.len(), 5);
        }
    }
}

#[test]
fn past_its_message_rate_a_device_is_read_more_slowly_and_nothing_is_dropped() {
    const PER_SECOND: u32 = 100;
    const MESSAGES: u16 = 150;
    let broker = TestBroker::with(|limits| limits.device_messages_per_second = PER_SECOND);
    for version in BOTH {
        let mut viewer = broker.person(version, "vera");
        assert_eq!(viewer.subscribe(&["fleet/v1/acme/device/+/event"], 1), [1]);
        let mut fast = broker.device(version, "cam-1");
        let mut calm = broker.device(version, "cam-2");
        let began = Instant::now();
        for id in 1..=MESSAGES {
            fast.send(Publish::new(up("cam-1", "event"), id.to_string()).qos(1, id).encode(version));
        }
        // Its neighbour is served meanwhile.
        assert_eq!(calm.publish(Publish::new(up("cam-2", "event"), "calm").qos(1, 0)), 0);
        assert!(began.elapsed() < Duration::from_secs(1), "the neighbour waited {:?}", began.elapsed());
        for id in 1..=MESSAGES {
            assert_eq!(fast.receive(), Received::PubAck { id, code: 0 });
        }
        let took = began.elapsed();
        // One second's worth may come at once.
        let least = Duration::from_millis(u64::from((u32::from(MESSAGES) - PER_SECOND) * 1000 / PER_SECOND));
        assert!(took >= least * 8 / 10, "{MESSAGES} messages in {took:?}");
        let mut seen = Vec::new();
        for _ in 0..=MESSAGES {
            let message = viewer.message();
            if message.text() != "calm" {
                seen.push(message.text().parse::<u16>().unwrap());
            }
        }
        assert_eq!(seen, (1..=MESSAGES).collect::<Vec<_>>(), "all of them, once, in order");
    }
}

#[test]
fn a_device_that_does_not_read_is_ended_before_it_fills_the_memory() {
    let broker = TestBroker::with(|limits| limits.device_queued_bytes = 64 * 1024);
    for version in BOTH {
        let mut camera = broker.device(version, "cam-1");
        listen(&mut camera, "cam-1");
        let mut service = broker.service(version);
        let message = Publish::new(up("cam-1", "command"), vec![b'x'; 60_000]).encode(version);
        let mut sent = 0;
        until("its connection is ended", || {
            for _ in 0..20 {
                service.send(&message);
            }
            service.ping();
            sent += 20;
            assert!(sent < 2000, "120 MB for a device that does not read");
            broker.broker.counters().connections_devices == 0
        });
    }
    assert_eq!(broker.broker.counters().device_queue_overflows, 2);
    broker.assert_serves_others();
}

#[test]
fn a_device_must_call_itself_by_its_name() {
    let broker = TestBroker::start();
    for version in BOTH {
        for id in ["", "cam-1", "acme/cam-2", "acme/cam-1/", "other/cam-1"] {
            let (_, code, _) = Client::attempt(
                broker.address,
                &Connect { client_id: id.into(), ..device(version, "cam-1") },
            );
            assert_eq!(code, if version == Version::V5 { 0x85 } else { 2 }, "{id:?}");
        }
    }
}
