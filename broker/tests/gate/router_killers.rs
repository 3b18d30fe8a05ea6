//! Each case kills or breaks the router's own network side. Here the broker must stay up, serve everybody else, and do
//! what MQTT says.

use std::time::Duration;

use nix::sys::socket::{setsockopt, sockopt};

use crate::support::broker::{device, person, service, up};
use crate::support::*;

const VIEW: &str = "fleet/v1/acme/view/cam-1";
const VIEWS: &str = "fleet/v1/acme/view/+";

#[test]
fn publish_to_a_topic_that_starts_with_a_non_ascii_character_leaves_the_broker_alive() {
    let broker = TestBroker::start();
    let mut watcher =
        Client::connect(broker.address, &Connect { client_id: "w".into(), ..service(Version::V5) });
    assert_eq!(watcher.subscribe(&["#"], 1), [1]);
    for version in BOTH {
        for connect in [device(version, "cam-1"), person(version, "ada"), service(version)] {
            for topic in ["é/a", "日本", "\u{10ffff}", "é"] {
                for qos in 0..=2 {
                    let mut client = Client::connect(broker.address, &connect);
                    client.send(Publish::new(topic, "x").qos(qos, 7).encode(version));
                    match (version, qos) {
                        (Version::V311, _) => client.expect_end(&[]),
                        (Version::V5, 0) => client.ping(),
                        (Version::V5, 1) => {
                            assert_eq!(client.receive(), Received::PubAck { id: 7, code: 0x87 })
                        }
                        (Version::V5, _) => {
                            assert_eq!(client.receive(), Received::PubRec { id: 7, code: 0x87 })
                        }
                    }
                }
            }
            let (_, code, _) =
                Client::attempt(broker.address, &connect.clone().will(Will::new("é/a", "gone")));
            assert_eq!(
                code,
                if version == Version::V5 { 0x87 } else { 5 },
                "as a will it refuses the connection"
            );
        }
    }
    watcher.expect_silence();
    broker.assert_serves_others();
}

#[test]
fn subscribe_to_a_filter_that_starts_with_a_non_ascii_character_leaves_the_broker_alive() {
    let broker = TestBroker::start();
    for version in BOTH {
        let mut client = broker.service(version);
        client.subscribe(&["é/+", "é", "日本/#"], 1);
        client.unsubscribe(&["é/+", "é", "日本/#"]);
        client.disconnect();
        broker.assert_serves_others();
    }
}

#[test]
fn a_persistent_share_member_that_leaves_with_an_unacknowledged_qos_1_message_leaves_the_broker_alive() {
    let broker = TestBroker::start();
    for version in BOTH {
        let connect = person(version, "ada").persistent();
        let mut member = Client::connect(broker.address, &connect);
        let refused = if version == Version::V5 { 0x9e } else { 0x80 };
        assert_eq!(member.subscribe(&["$share/group/fleet/v1/acme/view/+", VIEWS], 1), [refused, 1]);
        let mut publisher = broker.service(version);
        assert_eq!(publisher.publish(Publish::new(VIEW, "x").qos(1, 0)), 0);
        assert!(matches!(member.receive(), Received::Publish { qos: 1, .. }));
        // Taken, not acknowledged, and gone.
        member.reset();
        assert_eq!(publisher.publish(Publish::new(VIEW, "y").qos(1, 0)), 0);
        broker.assert_serves_others();
        let (mut member, _, present) = Client::attempt(broker.address, &connect);
        assert!(present);
        assert_eq!(member.message().text(), "x", "what was not acknowledged is sent again");
        assert_eq!(member.message().text(), "y");
        member.disconnect();
    }
}

/// A subscriber with a small receive buffer that reads nothing, while the broker has more for it than fits.
fn backlogged(broker: &TestBroker, connect: &Connect) -> Client {
    let mut slow = Client::silent(broker.address, connect.version);
    setsockopt(slow.stream(), sockopt::RcvBuf, &(64 * 1024)).unwrap();
    slow.send(connect.encode());
    assert!(matches!(slow.receive(), Received::ConnAck { code: 0, .. }));
    assert_eq!(slow.subscribe(&[VIEWS], 0), [0]);
    let mut publisher = broker.service(connect.version);
    let message = Publish::new(VIEW, vec![b'x'; 20_000]).encode(connect.version);
    let sent = broker.broker.counters().messages_out;
    for _ in 0..600 {
        publisher.send(&message);
    }
    publisher.ping();
    assert!(broker.broker.counters().messages_out < sent + 600, "nothing waits");
    slow
}

#[test]
fn a_slow_client_is_taken_over_the_new_one_leaves_and_the_old_one_drains() {
    let broker = TestBroker::start();
    for version in BOTH {
        let connect = person(version, "ada");
        let mut old = backlogged(&broker, &connect);
        let mut new = Client::connect(broker.address, &connect);
        new.ping();
        new.disconnect();
        let mut drained = 0;
        while let Outcome::Packet(_) = old.wait(PATIENCE) {
            drained += 1;
        }
        assert_eq!(old.wait(PATIENCE), Outcome::Closed, "after {drained} packets");
        broker.assert_serves_others();
    }
}

#[test]
fn a_backlogged_client_is_taken_over_then_the_old_socket_resets_and_the_new_connection_lives() {
    let broker = TestBroker::start();
    for version in BOTH {
        let connect = person(version, "ada");
        let old = backlogged(&broker, &connect);
        let mut new = Client::connect(broker.address, &connect);
        old.reset();
        assert_eq!(new.subscribe(&["fleet/v1/acme/device/+/heartbeat"], 1), [1]);
        let mut camera = broker.device(version, "cam-1");
        assert_eq!(camera.publish(Publish::new(up("cam-1", "heartbeat"), "beat").qos(1, 0)), 0);
        assert_eq!(new.message().text(), "beat");
        new.ping();
        new.disconnect();
        broker.assert_serves_others();
    }
}

#[test]
fn a_backlogged_client_that_says_goodbye_takes_nobody_with_it() {
    let broker = TestBroker::start();
    let mut slow = backlogged(&broker, &person(Version::V5, "ada"));
    slow.try_send([kind::DISCONNECT, 0]);
    for round in 0..30 {
        let mut next = Client::connect(
            broker.address,
            &Connect { client_id: format!("next-{round}"), ..person(Version::V5, "vera") },
        );
        next.ping();
        next.disconnect();
    }
    broker.assert_serves_others();
}

#[test]
fn a_goodbye_never_ends_the_client_that_comes_next() {
    let broker = TestBroker::start();
    for round in 0..300 {
        let version = BOTH[round % 2];
        let with_id = |id: String| Connect { client_id: id, ..person(version, "ada") };
        let mut first = Client::connect(broker.address, &with_id(format!("first-{round}")));
        first.send([kind::DISCONNECT, 0]);
        first.stream().shutdown(std::net::Shutdown::Write).unwrap();
        let mut next = Client::connect(broker.address, &with_id(format!("next-{round}")));
        next.ping();
    }
    broker.assert_serves_others();
}

#[test]
fn a_tcp_reset_right_after_connect_repeated_leaves_the_broker_alive() {
    let broker = TestBroker::start();
    for version in BOTH {
        let people = [person(version, "ada"), person(version, "otto").persistent(), service(version)];
        for connect in people.into_iter().chain([device(version, "cam-1")]) {
            for cut in [usize::MAX, 1, 2, 10] {
                for _ in 0..8 {
                    let mut client = Client::silent(broker.address, version);
                    let bytes = connect.encode();
                    client.send(&bytes[..bytes.len().min(cut)]);
                    client.reset();
                }
            }
        }
        broker.assert_serves_others();
    }
    until("all of them have left", || {
        let counters = broker.broker.counters();
        counters.connections_devices + counters.connections_people + counters.connections_services == 0
    });
}

#[test]
fn a_client_id_with_a_slash_twice_leaves_the_broker_alive() {
    let broker = TestBroker::start();
    for version in BOTH {
        for id in ["bad/id", "+", "#", "$share/x", "a b", "é", "日本/#", "\u{1}", &"x".repeat(200)] {
            for _ in 0..2 {
                let connect = Connect { client_id: id.to_owned(), ..person(version, "ada") };
                let (mut client, code, _) = Client::attempt(broker.address, &connect);
                if code == 0 {
                    client.ping();
                    assert_eq!(client.subscribe(&[VIEWS], 1), [1], "{id:?}");
                } else {
                    assert_eq!(code, if version == Version::V5 { 0x85 } else { 2 }, "{id:?}");
                }
            }
        }
        broker.assert_serves_others();
    }
}

#[test]
fn an_mqtt_5_publish_with_properties_reaches_a_3_1_1_subscriber_without_them() {
    let broker = TestBroker::start();
    let mut old = broker.person(Version::V311, "ada");
    let mut new = broker.person(Version::V5, "ada");
    assert_eq!(old.subscribe(&["fleet/v1/acme/#"], 2), [2]);
    assert_eq!(new.subscribe(&["fleet/v1/acme/#"], 2), [2]);
    let mut service = broker.service(Version::V5);
    let mut camera = broker.device(Version::V5, "cam-1");
    for qos in 0..=2 {
        for (publisher, topic) in
            [(&mut service, up("cam-1", "command")), (&mut camera, up("cam-1", "heartbeat"))]
        {
            let publish = Publish::new(&topic, "hi")
                .property(property::content_type("text/plain"))
                .property(property::message_expiry(300))
                .property(property::user("k", "v"))
                .property(property::user("k", "w"));
            assert_eq!(publisher.publish(publish.qos(qos, 0)), 0);
            let plain = old.message();
            assert_eq!((plain.topic.as_str(), plain.text().as_str()), (topic.as_str(), "hi"));
            let full = new.message();
            assert_eq!(full.text(), "hi");
            let has = |wanted: Vec<u8>| full.properties.windows(wanted.len()).any(|window| window == wanted);
            assert!(has(property::content_type("text/plain")), "{:02x?}", full.properties);
            assert!(
                has([property::user("k", "v"), property::user("k", "w")].concat()),
                "{:02x?}",
                full.properties
            );
            assert!(full.properties.contains(&0x02), "the expiry travels on: {:02x?}", full.properties);
        }
    }
    broker.assert_serves_others();
}

#[test]
fn an_mqtt_5_client_that_sends_unsuback_is_disconnected_and_nobody_else() {
    let broker = TestBroker::start();
    // With it everything else that only a server sends, and types that do not exist.
    let servers_own: &[&[u8]] = &[
        &[kind::UNSUBACK, 4, 0, 1, 0, 0],
        &[kind::SUBACK, 4, 0, 1, 0, 0],
        &[kind::CONNACK, 3, 0, 0, 0],
        &[kind::PINGRESP, 0],
        &[0x00, 0],
        &[kind::AUTH, 0],
    ];
    for version in BOTH {
        for connect in [device(version, "cam-1"), person(version, "ada")] {
            for bytes in servers_own {
                let mut client = Client::connect(broker.address, &connect);
                client.send(bytes);
                client.expect_end(&[0x81, 0x82]);
            }
        }
    }
    broker.assert_serves_others();
}

#[test]
fn five_hundred_retained_topics_all_reach_one_qos_1_subscriber() {
    let broker = TestBroker::start();
    let mut publisher = broker.service(Version::V5);
    for number in 0..500 {
        let topic = format!("fleet/v1/acme/view/dev-{number}");
        assert_eq!(publisher.publish(Publish::new(topic, number.to_string()).qos(1, 0).retained()), 0);
    }
    for version in BOTH {
        for qos in 0..=2 {
            let mut subscriber = broker.person(version, "ada");
            assert_eq!(subscriber.subscribe(&[VIEWS], qos), [qos]);
            let mut seen = std::collections::BTreeSet::new();
            for _ in 0..500 {
                let message = subscriber.message();
                assert!(message.retain && message.qos == qos.min(1), "{message:?}");
                assert!(seen.insert(message.topic), "each topic once");
            }
            subscriber.expect_silence();
            subscriber.disconnect();
        }
    }
}

#[test]
fn pubacks_out_of_order_are_accepted() {
    let broker = TestBroker::start();
    for version in BOTH {
        let mut subscriber = broker.person(version, "ada");
        assert_eq!(subscriber.subscribe(&[VIEWS], 1), [1]);
        let mut publisher = broker.service(version);
        for order in [[1, 3, 0, 2], [3, 2, 1, 0], [0, 1, 2, 3]] {
            for text in ["0", "1", "2", "3"] {
                assert_eq!(publisher.publish(Publish::new(VIEW, text).qos(1, 0)), 0);
            }
            let mut ids = Vec::new();
            for text in ["0", "1", "2", "3"] {
                match subscriber.receive() {
                    Received::Publish { id, payload, qos: 1, .. } if payload == text => ids.push(id),
                    other => panic!("{other:?}"),
                }
            }
            for place in order {
                subscriber.send(wire::acknowledge(kind::PUBACK, ids[place]));
            }
            subscriber.ping();
        }
    }
    broker.assert_serves_others();
}

#[test]
fn acknowledgements_of_what_was_never_sent_harm_nobody() {
    let broker = TestBroker::start();
    for version in BOTH {
        for connect in [device(version, "cam-1"), person(version, "ada")] {
            for kind in [kind::PUBACK, kind::PUBREC, kind::PUBREL, kind::PUBCOMP] {
                for id in [1, 100, 65_535] {
                    let mut client = Client::connect(broker.address, &connect);
                    client.try_send([wire::acknowledge(kind, id), wire::acknowledge(kind, id)].concat());
                    client.try_send([kind::PINGREQ, 0]);
                    // Answered or disconnected; both are right.
                    client.wait(PATIENCE);
                }
            }
        }
        broker.assert_serves_others();
    }
}

#[test]
fn unsubscribe_of_an_unknown_filter_is_answered() {
    let broker = TestBroker::start();
    for version in BOTH {
        let mut client = broker.person(version, "ada");
        assert_eq!(client.subscribe(&[VIEWS, "fleet/v1/acme/device/+/birth"], 1), [1, 1]);
        let codes: &[u8] = if version == Version::V5 { &[0x11, 0x00, 0x11] } else { &[] };
        assert_eq!(client.unsubscribe(&["never/subscribed", VIEWS, VIEWS]), codes);
        let mut publisher = broker.service(version);
        assert_eq!(publisher.publish(Publish::new(VIEW, "x").qos(1, 0)), 0);
        assert_eq!(publisher.publish(Publish::new(up("cam-1", "birth"), "y").qos(1, 0)), 0);
        assert_eq!(client.message().text(), "y", "the other subscription stands, this one has ended");
        let mut camera = broker.device(version, "cam-1");
        let codes: &[u8] = if version == Version::V5 { &[0x11] } else { &[] };
        assert_eq!(camera.unsubscribe(&["never/subscribed"]), codes, "a device's connection answers as well");
    }
    broker.assert_serves_others();
}

#[test]
fn unsubscribe_after_resume_ends_the_subscription() {
    let broker = TestBroker::start();
    for version in BOTH {
        let connect = person(version, "ada").persistent();
        let mut client = Client::connect(broker.address, &connect);
        assert_eq!(client.subscribe(&[VIEWS], 1), [1]);
        client.disconnect();
        let (mut client, _, present) = Client::attempt(broker.address, &connect);
        assert!(present);
        let codes: &[u8] = if version == Version::V5 { &[0] } else { &[] };
        assert_eq!(client.unsubscribe(&[VIEWS]), codes);
        let mut publisher = broker.service(version);
        assert_eq!(publisher.publish(Publish::new(VIEW, "x").qos(1, 0)), 0);
        client.expect_silence();
        client.disconnect();
        let mut client = Client::connect(broker.address, &connect);
        assert_eq!(publisher.publish(Publish::new(VIEW, "x").qos(1, 0)), 0);
        client.expect_silence();
    }
}

#[test]
fn an_empty_publish_without_retain_leaves_the_retained_message() {
    let broker = TestBroker::start();
    for version in BOTH {
        let mut publisher = broker.service(version);
        assert_eq!(publisher.publish(Publish::new(VIEW, "kept").qos(1, 0).retained()), 0);
        for qos in 0..=2 {
            assert_eq!(publisher.publish(Publish::new(VIEW, "").qos(qos, 0)), 0);
        }
        publisher.ping();
        let mut reader = broker.person(version, "vera");
        assert_eq!(reader.subscribe(&[VIEW], 1), [1]);
        let message = reader.message();
        assert!(message.retain && message.text() == "kept", "{message:?}");
        assert_eq!(publisher.publish(Publish::new(VIEW, "").qos(1, 0).retained()), 0);
        let deletion = reader.message();
        assert!(deletion.payload.is_empty() && !deletion.retain, "with retain it deletes: {deletion:?}");
        reader.disconnect();
        let mut late = broker.person(version, "vera");
        assert_eq!(late.subscribe(&[VIEW], 1), [1]);
        late.expect_silence();
    }
}

#[test]
fn one_silent_tcp_connection_blocks_nobody() {
    let broker = TestBroker::start();
    let mut silent: Vec<Client> = (0..20).map(|_| Client::silent(broker.address, Version::V5)).collect();
    broker.assert_serves_others();
    for client in &mut silent {
        client.send([kind::CONNECT]);
    }
    std::thread::sleep(Duration::from_millis(50));
    broker.assert_serves_others();
}

#[test]
fn what_a_slow_qos_1_subscriber_does_not_take_is_counted_to_the_last_message() {
    let broker = TestBroker::with(|limits| limits.queued_bytes = 16 * 1024);
    for version in BOTH {
        let dropped = broker.broker.counters().dropped_queue_full;
        let mut slow = Client::silent(broker.address, version);
        setsockopt(slow.stream(), sockopt::RcvBuf, &(64 * 1024)).unwrap();
        slow.send(person(version, "ada").encode());
        assert!(matches!(slow.receive(), Received::ConnAck { code: 0, .. }));
        assert_eq!(slow.subscribe(&[VIEWS], 1), [1]);
        let mut publisher = broker.service(version);
        for _ in 0..3_000 {
            assert_eq!(publisher.publish(Publish::new(VIEW, [b'x'; 2_000]).qos(1, 0)), 0);
        }
        assert_eq!(publisher.publish(Publish::new(VIEW, "").qos(1, 0)), 0);
        // The newest is there.
        let mut taken = 0;
        while !slow.message().payload.is_empty() {
            taken += 1;
        }
        let counters = broker.broker.counters();
        let dropped = counters.dropped_queue_full - dropped;
        assert_eq!((taken + dropped, counters.dropped_log_wrapped), (3_000, 0));
        assert!(dropped > 1_000, "{dropped} did not fit");
        slow.disconnect();
        publisher.disconnect();
    }
}
