//! Allowed and forbidden, and the codes that say so, in both versions.

use crate::support::broker::{device, person, service, up};
use crate::support::*;

/// Someone who sees everything.
fn watcher(broker: &TestBroker, qos: u8) -> Client {
    let mut watcher =
        Client::connect(broker.address, &Connect { client_id: "watcher".into(), ..service(Version::V5) });
    assert_eq!(watcher.subscribe(&["#"], qos), [qos]);
    watcher
}

#[test]
fn suback_tells_of_each_filter_whether_it_was_granted() {
    let broker = TestBroker::start();
    for version in BOTH {
        let no = if version == Version::V5 { 0x87 } else { 0x80 };
        let mut viewer = broker.person(version, "vera");
        let filters = [
            "fleet/v1/acme/view/+",
            "fleet/v1/acme/device/+/log",
            "fleet/v1/acme/device/+/heartbeat",
            "fleet/v1/other/view/+",
            "fleet/v1/server/+",
            "#",
        ];
        assert_eq!(viewer.subscribe(&filters, 1), [1, no, 1, no, 1, no]);
        assert_eq!(viewer.subscribe(&["fleet/v1/acme/view/+"], 2), [2]);
        let mut operator = broker.person(version, "otto");
        let filters =
            ["fleet/v1/acme/operator/otto/result", "fleet/v1/acme/operator/ada/result", "fleet/v1/acme/#"];
        assert_eq!(operator.subscribe(&filters, 1), [1, no, no]);
        let mut admin = broker.person(version, "ada");
        assert_eq!(admin.subscribe(&["fleet/v1/acme/#", "fleet/v1/#"], 0), [0, no]);
        let mut camera = broker.device(version, "cam-1");
        let filters =
            ["cam-1/command", "cam-1/+", "cam-2/command", "+/command", "cam-1/#", "cam-1/heartbeat"];
        let filters = filters.map(|rest| format!("fleet/v1/acme/device/{rest}"));
        let filters: Vec<&str> = filters.iter().map(String::as_str).collect();
        assert_eq!(camera.subscribe(&filters, 1)[0], 1);
        assert_eq!(camera.subscribe(&filters[1..], 1), [no; 5]);
        let mut service = broker.service(version);
        assert_eq!(service.subscribe(&["#", "+/x", "fleet/v1/+/device/+/birth"], 2), [2, 2, 2]);
    }
    broker.assert_serves_others();
}

#[test]
fn what_was_refused_is_never_delivered() {
    let broker = TestBroker::start();
    for version in BOTH {
        let mut viewer = broker.person(version, "vera");
        viewer.subscribe(&["fleet/v1/acme/device/+/log", "fleet/v1/+/view/+", "fleet/v1/acme/device/#"], 1);
        let mut stranger = broker.person(version, "olga");
        assert_eq!(stranger.subscribe(&["fleet/v1/other/#"], 1), [1]);
        let mut camera = broker.device(version, "cam-2");
        camera.subscribe(&["fleet/v1/acme/device/cam-1/command", "fleet/v1/acme/device/+/command", "#"], 1);
        let mut service = broker.service(version);
        for topic in [up("cam-1", "log"), up("cam-1", "command"), "fleet/v1/acme/view/cam-1".to_owned()] {
            assert_eq!(service.publish(Publish::new(topic, "x").qos(1, 0)), 0);
        }
        viewer.expect_silence();
        stranger.expect_silence();
        camera.expect_silence();
    }
}

#[test]
fn shared_subscriptions_are_refused_as_not_supported() {
    let broker = TestBroker::start();
    for version in BOTH {
        let code = if version == Version::V5 { 0x9e } else { 0x80 };
        for mut client in
            [broker.person(version, "ada"), broker.service(version), broker.device(version, "cam-1")]
        {
            assert_eq!(client.subscribe(&["$share/group/fleet/v1/acme/view/+"], 1), [code]);
            client.ping();
        }
    }
}

#[test]
fn a_malformed_filter_is_refused_and_nothing_else_suffers() {
    let broker = TestBroker::start();
    for version in BOTH {
        for connect in [person(version, "ada"), device(version, "cam-1")] {
            for filter in ["fleet/v1/acme/#/x", "fleet/v1/acme+", "++", "a/b#", ""] {
                let mut client = Client::connect(broker.address, &connect);
                client.send(wire::subscribe(version, 3, &[(filter, 1)], &[]));
                match client.wait(PATIENCE) {
                    Outcome::Packet(Received::SubAck { id: 3, codes }) => {
                        assert_eq!(codes, [if version == Version::V5 { 0x8f } else { 0x80 }], "{filter:?}");
                        client.ping();
                    }
                    // A server may also take it as a broken packet.
                    Outcome::Packet(Received::Disconnect { code }) => {
                        assert!([0x81, 0x82, 0x8f].contains(&code))
                    }
                    Outcome::Closed => assert_eq!(version, Version::V311, "{filter:?}"),
                    other => panic!("{filter:?}: {other:?}"),
                }
            }
            let mut client = Client::connect(broker.address, &connect);
            client.send(wire::subscribe(version, 3, &[("a\0b", 1)], &[]));
            client.expect_end(&[0x81, 0x82]);
        }
    }
    broker.assert_serves_others();
}

/// Sends a forbidden publish and checks the answer of the version.
fn assert_refused(broker: &TestBroker, connect: &Connect, publish: &Publish) {
    let mut client = Client::connect(broker.address, connect);
    client.send(publish.encode(connect.version));
    let id = publish.id;
    match (connect.version, publish.qos) {
        // 3.1.1 has no code to say it with.
        (Version::V311, _) => client.expect_end(&[]),
        (Version::V5, 0) => client.ping(),
        (Version::V5, 1) => assert_eq!(client.receive(), Received::PubAck { id, code: 0x87 }),
        (Version::V5, _) => {
            assert_eq!(client.receive(), Received::PubRec { id, code: 0x87 });
            client.ping();
        }
    }
}

#[test]
fn a_forbidden_publish_gets_0x87_or_ends_a_3_1_1_connection_and_is_never_delivered() {
    let broker = TestBroker::start();
    let mut watcher = watcher(&broker, 1);
    let mut sent = 0;
    for version in BOTH {
        let forbidden = [
            (person(version, "vera"), "fleet/v1/acme/operator/vera/command".to_owned()),
            (person(version, "vera"), up("cam-1", "command")),
            (person(version, "otto"), "fleet/v1/acme/operator/ada/command".to_owned()),
            (person(version, "otto"), "fleet/v1/other/operator/otto/command".to_owned()),
            (person(version, "ada"), up("cam-1", "command")),
            (person(version, "ada"), "fleet/v1/acme/view/cam-1".to_owned()),
            (device(version, "cam-1"), up("cam-2", "heartbeat")),
            (device(version, "cam-1"), up("cam-1", "command")),
            (device(version, "cam-1"), "fleet/v1/other/device/cam-1/heartbeat".to_owned()),
            (device(version, "cam-1"), "$SYS/x".to_owned()),
        ];
        for (connect, topic) in forbidden {
            for qos in 0..=2 {
                assert_refused(&broker, &connect, &Publish::new(&topic, "evil").qos(qos, 9));
                sent += 1;
            }
        }
    }
    watcher.expect_silence();
    assert_eq!(broker.broker.counters().publishes_refused, sent, "each is counted");
}

#[test]
fn retain_is_refused_where_the_table_has_none() {
    let broker = TestBroker::start();
    let mut watcher = watcher(&broker, 1);
    for version in BOTH {
        for qos in 0..=2 {
            let heartbeat = Publish::new(up("cam-1", "heartbeat"), "x").qos(qos, 9).retained();
            assert_refused(&broker, &device(version, "cam-1"), &heartbeat);
            let command = Publish::new("fleet/v1/acme/operator/otto/command", "x").qos(qos, 9).retained();
            assert_refused(&broker, &person(version, "otto"), &command);
        }
    }
    watcher.expect_silence();
    assert_eq!(broker.broker.counters().publishes_refused_retain, 12);
    let mut camera = broker.device(Version::V311, "cam-1");
    assert_eq!(camera.publish(Publish::new(up("cam-1", "presence"), "here").qos(1, 0).retained()), 0);
    assert_eq!(watcher.message().text(), "here");
}

#[test]
fn an_allowed_publish_is_acknowledged_with_0_and_delivered() {
    let broker = TestBroker::start();
    let mut watcher = watcher(&broker, 2);
    for version in BOTH {
        let mut camera = broker.device(version, "cam-1");
        for leaf in ["birth", "presence", "heartbeat", "status", "reported", "log", "event"] {
            for qos in 0..=2 {
                assert_eq!(camera.publish(Publish::new(up("cam-1", leaf), leaf).qos(qos, 0)), 0);
                let message = watcher.message();
                assert_eq!((message.topic, message.qos, message.retain), (up("cam-1", leaf), qos, false));
            }
        }
        for name in ["otto", "ada"] {
            let mut operator = broker.person(version, name);
            let topic = format!("fleet/v1/acme/operator/{name}/command");
            assert_eq!(operator.publish(Publish::new(&topic, "{}").qos(1, 0)), 0);
            assert_eq!(watcher.message().topic, topic);
        }
    }
}

#[test]
fn a_topic_unknown_in_a_devices_own_subtree_is_acknowledged_counted_and_shown_to_services_alone() {
    let broker = TestBroker::start();
    let mut watcher = watcher(&broker, 1);
    for version in BOTH {
        let mut admin = broker.person(version, "ada");
        assert_eq!(admin.subscribe(&["fleet/v1/acme/#"], 1), [1]);
        let mut camera = broker.device(version, "cam-1");
        for qos in 0..=2 {
            for leaf in ["telemetry/v2", "telemetry"] {
                let mut publish = Publish::new(up("cam-1", leaf), "new").qos(qos, 0);
                publish.retain = leaf == "telemetry";
                assert_eq!(camera.publish(publish), 0);
                let message = watcher.message();
                assert_eq!((message.topic, message.retain), (up("cam-1", leaf), false));
            }
        }
        admin.expect_silence();
    }
    assert_eq!(broker.broker.counters().publishes_unknown_topic, 12);
    let mut late =
        Client::connect(broker.address, &Connect { client_id: "late".into(), ..service(Version::V5) });
    assert_eq!(late.subscribe(&["#"], 1), [1]);
    late.expect_silence();
}

#[test]
fn a_topic_name_that_is_none_ends_the_connection() {
    let broker = TestBroker::start();
    for version in BOTH {
        for connect in [device(version, "cam-1"), person(version, "otto")] {
            for topic in [&b"fleet/v1/+"[..], b"#", b"a\0b", b"", b"\xff\xfe", b"\xed\xa0\x80"] {
                let mut client = Client::connect(broker.address, &connect);
                client.send(Publish::new(topic, "x").qos(1, 5).encode(version));
                client.expect_end(&[0x81, 0x82, 0x90]);
            }
        }
    }
    broker.assert_serves_others();
}
