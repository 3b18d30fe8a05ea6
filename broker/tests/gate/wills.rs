//! Last wills: when they are published, and whose are refused.

use std::time::{Duration, Instant};

use crate::support::broker::{device, person, person_key, up};
use crate::support::*;

/// Someone who sees presence and the rest of `acme`.
fn watcher(broker: &TestBroker, version: Version) -> Client {
    let mut watcher =
        Client::connect(broker.address, &Connect { client_id: "watcher".into(), ..person(version, "ada") });
    assert_eq!(watcher.subscribe(&["fleet/v1/acme/#"], 2), [2]);
    watcher
}

fn presence(text: &str) -> Will {
    Will::new(&up("cam-1", "presence"), text)
}

#[test]
fn a_will_is_published_when_the_client_goes_without_a_word() {
    let broker = TestBroker::start();
    for version in BOTH {
        let mut watcher = watcher(&broker, version);
        let connect = |text: &str| device(version, "cam-1").will(presence(text));
        Client::connect(broker.address, &connect("closed")).vanish();
        assert_eq!(watcher.message().text(), "closed");
        Client::connect(broker.address, &connect("reset")).reset();
        assert_eq!(watcher.message().text(), "reset");
        let mut broken = Client::connect(broker.address, &connect("broke the protocol"));
        broken.send([kind::CONNACK, 0]);
        assert_eq!(watcher.message().text(), "broke the protocol");
        let _silent = Client::connect(broker.address, &connect("silent").keep_alive(1));
        assert_eq!(watcher.message().text(), "silent");
        let _ended = Client::connect(broker.address, &connect("ended"));
        broker.broker.end_connections(&crate::support::broker::device_key("cam-1"));
        assert_eq!(watcher.message().text(), "ended");
        watcher.disconnect();
    }
}

#[test]
fn a_goodbye_discards_the_will_unless_it_asks_for_it() {
    let broker = TestBroker::start();
    for version in BOTH {
        let mut watcher = watcher(&broker, version);
        Client::connect(broker.address, &device(version, "cam-1").will(presence("x"))).disconnect();
        watcher.expect_silence();
        watcher.disconnect();
    }
    let mut watcher = watcher(&broker, Version::V5);
    let mut client =
        Client::connect(broker.address, &device(Version::V5, "cam-1").will(presence("all the same")));
    client.send([kind::DISCONNECT, 1, 0x04]);
    assert_eq!(watcher.message().text(), "all the same");
}

#[test]
fn a_retained_will_is_kept_and_its_qos_counts() {
    let broker = TestBroker::start();
    for version in BOTH {
        for qos in 0..=2 {
            let will = Will { qos, retain: true, ..presence(&format!("offline at {qos}")) };
            let mut live = watcher(&broker, version);
            while let Outcome::Packet(packet) = live.wait(SILENCE) {
                live.accept(packet);
            }
            Client::connect(broker.address, &device(version, "cam-1").will(will)).reset();
            let message = live.message();
            assert_eq!(
                (message.text(), message.qos, message.retain),
                (format!("offline at {qos}"), qos, false)
            );
            live.disconnect();
            let mut late = broker.person(version, "vera");
            assert_eq!(late.subscribe(&["fleet/v1/acme/device/+/presence"], 2), [2]);
            let message = late.message();
            assert_eq!(
                (message.text(), message.qos, message.retain),
                (format!("offline at {qos}"), qos, true)
            );
            late.disconnect();
        }
    }
}

#[test]
fn a_forbidden_will_refuses_the_connection() {
    let broker = TestBroker::start();
    let mut watcher = watcher(&broker, Version::V5);
    for version in BOTH {
        let retained = |topic: &str| Will { retain: true, ..Will::new(topic, "evil") };
        let refused = [
            (device(version, "cam-1"), Will::new(&up("cam-2", "presence"), "evil")),
            (device(version, "cam-1"), Will::new(&up("cam-1", "command"), "evil")),
            (device(version, "cam-1"), Will::new("fleet/v1/other/device/cam-1/presence", "evil")),
            (device(version, "cam-1"), retained(&up("cam-1", "event"))),
            (person(version, "vera"), Will::new("fleet/v1/acme/operator/vera/command", "evil")),
            (person(version, "otto"), Will::new("fleet/v1/acme/operator/ada/command", "evil")),
            (person(version, "otto"), retained("fleet/v1/acme/operator/otto/command")),
            (person(version, "otto"), Will::new("$SYS/x", "evil")),
        ];
        for (connect, will) in refused {
            let topic = will.topic.clone();
            let (mut client, code, _) = Client::attempt(broker.address, &connect.will(will));
            assert_eq!(code, if version == Version::V5 { 0x87 } else { 5 }, "{topic}");
            assert_eq!(client.wait(PATIENCE), Outcome::Closed);
        }
        for topic in ["a/+", "#", "", "a\0"] {
            let mut client = Client::silent(broker.address, version);
            client.send(device(version, "cam-1").will(Will::new(topic, "evil")).encode());
            let answer = client.wait_raw(PATIENCE).expect("closed");
            assert!(answer.is_empty() || answer[3] != 0, "{topic:?}: {answer:02x?}");
        }
    }
    watcher.expect_silence();
    assert_eq!(broker.broker.counters().refused_will, 16);
}

#[test]
fn a_will_on_an_unknown_topic_of_the_device_is_kept_from_people_and_the_connection_stands() {
    let broker = TestBroker::start();
    for version in BOTH {
        let mut watcher = watcher(&broker, version);
        let will = Will { retain: true, ..Will::new(&up("cam-1", "last-words"), "x") };
        let mut client = Client::connect(broker.address, &device(version, "cam-1").will(will));
        client.ping();
        client.reset();
        watcher.expect_silence();
        watcher.disconnect();
    }
}

#[test]
fn a_will_delay_is_waited_for_and_a_return_in_time_discards_the_will() {
    let broker = TestBroker::start();
    let mut watcher = watcher(&broker, Version::V5);
    let will = Will {
        topic: "fleet/v1/acme/operator/otto/command".into(),
        properties: property::will_delay(1),
        ..Will::new("", "late")
    };
    let connect = person(Version::V5, "otto").persistent().will(will);
    let began = Instant::now();
    Client::connect(broker.address, &connect).reset();
    assert_eq!(watcher.message().text(), "late");
    assert!(began.elapsed() >= Duration::from_millis(900), "{:?}", began.elapsed());
    Client::connect(broker.address, &connect).reset();
    let mut back = Client::connect(broker.address, &connect);
    back.ping();
    std::thread::sleep(Duration::from_millis(1800));
    watcher.expect_silence();
    // The end of the session does not wait for the delay.
    back.reset();
    Client::connect(broker.address, &person(Version::V5, "otto")).ping();
    assert_eq!(watcher.message().text(), "late");
    broker.broker.end_connections(&person_key("otto"));
}
