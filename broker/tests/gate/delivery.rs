//! QoS 0 to 2 both ways, retained messages, and the limits that a client announces.

use std::collections::BTreeSet;

use crate::support::broker::{person, up};
use crate::support::*;

const VIEW: &str = "fleet/v1/acme/view/cam-1";
const VIEWS: &str = "fleet/v1/acme/view/+";

#[test]
fn every_pair_of_qos_is_delivered_at_the_lower_one() {
    let broker = TestBroker::start();
    for publisher in BOTH {
        for subscriber in BOTH {
            let mut service = broker.service(publisher);
            for granted in 0..=2 {
                let mut reader = broker.person(subscriber, "ada");
                assert_eq!(reader.subscribe(&[VIEWS], granted), [granted]);
                for sent in 0..=2 {
                    let text = format!("{sent} to {granted}");
                    assert_eq!(service.publish(Publish::new(VIEW, &text).qos(sent, 0)), 0);
                    let message = reader.message();
                    assert_eq!(
                        (message.text(), message.qos, message.retain),
                        (text, sent.min(granted), false)
                    );
                }
                reader.disconnect();
            }
        }
    }
}

#[test]
fn a_qos_2_publish_sent_again_before_its_release_is_delivered_once() {
    let broker = TestBroker::start();
    for version in BOTH {
        let mut reader = broker.person(version, "ada");
        assert_eq!(reader.subscribe(&[VIEWS, "fleet/v1/acme/device/+/event"], 2), [2, 2]);
        let senders = [
            (broker.service(version), VIEW.to_owned()),
            (broker.device(version, "cam-1"), up("cam-1", "event")),
        ];
        for (mut sender, topic) in senders {
            let publish = Publish::new(&topic, "once").qos(2, 5);
            sender.send(publish.encode(version));
            assert_eq!(sender.receive(), Received::PubRec { id: 5, code: 0 });
            sender.send(Publish { dup: true, ..publish }.encode(version));
            assert_eq!(sender.receive(), Received::PubRec { id: 5, code: 0 });
            for _ in 0..2 {
                sender.send(wire::acknowledge(kind::PUBREL, 5));
                assert!(matches!(sender.receive(), Received::PubComp { id: 5, code: 0 | 0x92 }));
            }
            assert_eq!(reader.message().text(), "once");
            reader.expect_silence();
            // The id is free for another message.
            assert_eq!(sender.publish(Publish::new(&topic, "next").qos(2, 5)), 0);
            assert_eq!(reader.message().text(), "next");
        }
    }
}

#[test]
fn overlapping_subscriptions_deliver_at_the_highest_qos() {
    let broker = TestBroker::start();
    for version in BOTH {
        let mut reader = broker.person(version, "ada");
        assert_eq!(reader.subscribe(&["fleet/v1/acme/#"], 0), [0]);
        assert_eq!(reader.subscribe(&[VIEWS], 1), [1]);
        let mut service = broker.service(version);
        assert_eq!(service.publish(Publish::new(VIEW, "x").qos(2, 0)), 0);
        // One copy for each subscription is as right as one for all.
        let mut best = reader.message().qos;
        while let Outcome::Packet(packet) = reader.wait(SILENCE) {
            best = best.max(reader.accept(packet).qos);
        }
        assert_eq!(best, 1);
    }
}

#[test]
fn subscribing_again_changes_the_qos_and_sends_the_retained_message_again() {
    let broker = TestBroker::start();
    for version in BOTH {
        let mut service = broker.service(version);
        assert_eq!(service.publish(Publish::new(VIEW, "kept").qos(2, 0).retained()), 0);
        let mut reader = broker.person(version, "ada");
        for qos in [2, 0, 1] {
            assert_eq!(reader.subscribe(&[VIEWS], qos), [qos]);
            let kept = reader.message();
            assert_eq!((kept.text().as_str(), kept.qos, kept.retain), ("kept", qos, true));
            assert_eq!(service.publish(Publish::new(VIEW, "live").qos(2, 0)), 0);
            let live = reader.message();
            assert_eq!((live.text().as_str(), live.qos, live.retain), ("live", qos, false));
        }
        reader.expect_silence();
    }
}

#[test]
fn the_last_retained_message_counts_and_devices_keep_their_presence() {
    let broker = TestBroker::start();
    for version in BOTH {
        let mut camera = broker.device(version, "cam-1");
        for text in ["first", "second", "last"] {
            assert_eq!(camera.publish(Publish::new(up("cam-1", "presence"), text).qos(1, 0).retained()), 0);
        }
        camera.disconnect();
        let mut viewer = broker.person(version, "vera");
        assert_eq!(viewer.subscribe(&["fleet/v1/acme/device/+/presence"], 1), [1]);
        let message = viewer.message();
        assert!(message.retain && message.text() == "last", "{message:?}");
        viewer.expect_silence();
        let mut stranger = broker.person(version, "olga");
        stranger.subscribe(&["fleet/v1/acme/device/+/presence", "fleet/v1/+/device/+/presence"], 1);
        stranger.expect_silence();
    }
}

#[test]
fn the_subscription_options_of_mqtt_5_are_followed() {
    const NO_LOCAL: u8 = 0x04;
    const RETAIN_AS_PUBLISHED: u8 = 0x08;
    const ONLY_IF_NEW: u8 = 0x10;
    const NEVER: u8 = 0x20;
    let broker = TestBroker::start();
    let mut service = broker.service(Version::V5);
    assert_eq!(service.publish(Publish::new(VIEW, "kept").qos(1, 0).retained()), 0);
    let mut reader = broker.person(Version::V5, "ada");
    let subscribe = |reader: &mut Client, options: u8| {
        let id = reader.next_id();
        reader.send(wire::subscribe(Version::V5, id, &[(VIEWS, 1 | options)], &[]));
        assert_eq!(reader.receive(), Received::SubAck { id, codes: vec![1] });
    };
    subscribe(&mut reader, NEVER);
    reader.expect_silence();
    reader.unsubscribe(&[VIEWS]);
    subscribe(&mut reader, ONLY_IF_NEW);
    assert!(reader.message().retain);
    subscribe(&mut reader, ONLY_IF_NEW);
    reader.expect_silence();
    subscribe(&mut reader, RETAIN_AS_PUBLISHED | NEVER);
    assert_eq!(service.publish(Publish::new(VIEW, "again").qos(1, 0).retained()), 0);
    assert!(reader.message().retain, "the flag as it was published");
    // No Local: a service sees others' messages, not its own.
    service.send(wire::subscribe(Version::V5, 900, &[("fleet/v1/acme/device/cam-9/#", 1 | NO_LOCAL)], &[]));
    assert_eq!(service.receive(), Received::SubAck { id: 900, codes: vec![1] });
    assert_eq!(service.publish(Publish::new(up("cam-9", "desired"), "own").qos(1, 0)), 0);
    service.expect_silence();
    let mut camera = broker.device(Version::V5, "cam-9");
    assert_eq!(camera.publish(Publish::new(up("cam-9", "event"), "theirs").qos(1, 0)), 0);
    assert_eq!(service.message().text(), "theirs");
}

#[test]
fn receive_maximum_bounds_what_is_unacknowledged_and_the_rest_follows() {
    let broker = TestBroker::start();
    let mut reader =
        Client::connect(broker.address, &person(Version::V5, "ada").property(property::receive_maximum(3)));
    assert_eq!(reader.subscribe(&[VIEWS], 2), [2]);
    let mut service = broker.service(Version::V5);
    for number in 0..20 {
        assert_eq!(service.publish(Publish::new(VIEW, number.to_string()).qos(1 + number % 2, 0)), 0);
    }
    let mut open: Vec<(u16, u8)> = Vec::new();
    let mut texts = BTreeSet::new();
    while texts.len() < 20 {
        while let Outcome::Packet(Received::Publish { id, qos, payload, .. }) = reader.wait(SILENCE) {
            open.push((id, qos));
            assert!(open.len() <= 3, "more than three are unacknowledged");
            assert!(texts.insert(payload.0), "each once");
        }
        assert!(!open.is_empty(), "nothing more comes after {texts:?}");
        for (id, qos) in open.drain(..) {
            if qos == 1 {
                reader.send(wire::acknowledge(kind::PUBACK, id));
            } else {
                reader.send(wire::acknowledge(kind::PUBREC, id));
            }
        }
        // The releases of QoS 2 come among what follows.
        loop {
            match reader.wait(SILENCE) {
                Outcome::Packet(Received::PubRel { id, code: 0 }) => {
                    reader.send(wire::acknowledge(kind::PUBCOMP, id))
                }
                Outcome::Packet(Received::Publish { id, qos, payload, .. }) => {
                    open.push((id, qos));
                    assert!(open.len() <= 3, "more than three are unacknowledged");
                    assert!(texts.insert(payload.0), "each once");
                }
                Outcome::Silence => break,
                other => panic!("{other:?}"),
            }
        }
    }
}

#[test]
fn the_servers_own_receive_maximum_is_told_and_enforced() {
    let broker = TestBroker::with(|limits| limits.inflight_in = 10);
    let mut client = Client::silent(broker.address, Version::V5);
    client.send(crate::support::broker::service(Version::V5).encode());
    let Received::ConnAck { code: 0, properties, .. } = client.receive() else { panic!("refused") };
    let told = property::receive_maximum(10);
    assert!(properties.windows(3).any(|window| window == told), "{properties:02x?}");
    for id in 1..=10 {
        client.send(Publish::new(VIEW, "x").qos(2, id).encode(Version::V5));
        assert_eq!(client.receive(), Received::PubRec { id, code: 0 });
    }
    client.send(Publish::new(VIEW, "x").qos(2, 11).encode(Version::V5));
    client.expect_end(&[0x93]);
    broker.assert_serves_others();
}

#[test]
fn a_message_larger_than_the_client_accepts_is_left_out_and_the_rest_arrives() {
    let broker = TestBroker::start();
    let small = person(Version::V5, "ada").property(property::maximum_packet_size(200));
    let mut reader = Client::connect(broker.address, &small);
    assert_eq!(reader.subscribe(&[VIEWS], 2), [2]);
    let mut service = broker.service(Version::V5);
    for qos in 0..=2 {
        assert_eq!(service.publish(Publish::new(VIEW, "before").qos(qos, 0)), 0);
        assert_eq!(service.publish(Publish::new(VIEW, vec![b'x'; 500]).qos(qos, 0)), 0);
        assert_eq!(service.publish(Publish::new(VIEW, "after").qos(qos, 0)), 0);
        assert_eq!(reader.message().text(), "before");
        assert_eq!(reader.message().text(), "after");
    }
    assert_eq!(broker.broker.counters().dropped_too_large, 3);
}

#[test]
fn topic_aliases_and_subscription_identifiers_are_refused_as_not_offered() {
    let broker = TestBroker::start();
    let mut client = broker.service(Version::V5);
    client.send(Publish::new(VIEW, "x").property(property::topic_alias(1)).encode(Version::V5));
    client.expect_end(&[0x94, 0x82]);
    let mut client = broker.person(Version::V5, "ada");
    client.send(wire::subscribe(Version::V5, 1, &[(VIEWS, 1)], &property::subscription_identifier(7)));
    client.expect_end(&[0xa1]);
    broker.assert_serves_others();
}

#[test]
fn a_burst_through_small_windows_arrives_whole_and_in_order() {
    let broker = TestBroker::start();
    for version in BOTH {
        let mut reader = broker.person(version, "ada");
        assert_eq!(reader.subscribe(&[VIEWS], 1), [1]);
        let mut service = broker.service(version);
        let burst: Vec<u8> =
            (1..=1000).flat_map(|id| Publish::new(VIEW, id.to_string()).qos(1, id).encode(version)).collect();
        std::thread::scope(|scope| {
            scope.spawn(|| {
                service.send(&burst);
                for id in 1..=1000 {
                    assert_eq!(service.receive(), Received::PubAck { id, code: 0 });
                }
            });
            for id in 1..=1000 {
                assert_eq!(reader.message().text(), id.to_string());
            }
        });
    }
}

#[test]
fn an_in_process_service_link_sends_and_receives_everything() {
    let broker = TestBroker::start();
    let mut service = broker.service(Version::V5);
    assert_eq!(service.publish(Publish::new(VIEW, "kept").qos(1, 0).retained()), 0);
    let (publisher, mut subscriber) =
        broker.block_on(async { broker.broker.service_link("fleetd", &["fleet/v1/#"]) }).unwrap();
    let mut receive = || {
        broker.block_on(async { tokio::time::timeout(PATIENCE, subscriber.recv()).await }).unwrap().unwrap()
    };
    let kept = receive();
    assert!(kept.retain && kept.topic == VIEW && kept.payload == "kept", "{kept:?}");
    let mut camera = broker.device(Version::V311, "cam-1");
    assert_eq!(camera.subscribe(&[&up("cam-1", "command")], 1), [1]);
    assert_eq!(camera.publish(Publish::new(up("cam-1", "heartbeat"), "beat").qos(1, 0)), 0);
    let beat = receive();
    assert_eq!(
        (beat.topic, beat.payload.as_ref(), beat.retain),
        (up("cam-1", "heartbeat"), &b"beat"[..], false)
    );
    let publish = |topic: String, retain| {
        broker.block_on(publisher.publish(topic, "go".into(), ::broker::QoS::AtLeastOnce, retain))
    };
    publish(up("cam-1", "command"), false).unwrap();
    assert_eq!(camera.message().text(), "go");
    assert!(publish(up("cam-1", "command"), true).is_err(), "nothing is retained there");
    assert!(publish("é/x".to_owned(), false).is_err());
    assert!(publish("a/+".to_owned(), false).is_err());
    broker.assert_serves_others();
}

#[test]
fn an_uplink_link_gets_what_devices_say_on_topics_known_and_unknown_and_nothing_else() {
    let broker = TestBroker::start();
    let (publisher, mut subscriber) = broker.block_on(async { broker.broker.uplink_link("fleetd") }).unwrap();
    let mut camera = broker.device(Version::V5, "cam-1");
    assert_eq!(camera.publish(Publish::new(up("cam-1", "radar/blips"), "new").qos(1, 0)), 0);
    let not_ours = publisher.publish(up("cam-1", "ack"), "a".into(), ::broker::QoS::AtLeastOnce, false);
    broker.block_on(not_ours).unwrap();
    assert_eq!(camera.publish(Publish::new(up("cam-1", "event"), "known").qos(1, 0)), 0);
    let mut topics: Vec<String> = (0..2)
        .map(|_| broker.block_on(async { tokio::time::timeout(PATIENCE, subscriber.recv()).await }))
        .map(|received| received.unwrap().unwrap().topic)
        .collect();
    topics.sort();
    assert_eq!(topics, [up("cam-1", "event"), up("cam-1", "radar/blips")]);
}
