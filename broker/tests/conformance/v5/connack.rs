//! Chapter 3.2: what CONNACK announces, and the sizes that a client sets.

use crate::bench::*;
use crate::support::*;

/// The largest packet of a client to whom CONNACK can just be sent.
const SMALL: u32 = 20;

/// The properties of the CONNACK.
fn announced(bench: &Bench, connect: &Connect) -> Vec<u8> {
    let mut client = Client::silent(bench.broker.address, Version::V5);
    client.send(connect.encode());
    match client.receive() {
        Received::ConnAck { code: 0, properties, .. } => properties,
        other => panic!("{other:?}"),
    }
}

#[test]
fn mqtt_3_2_2_14_what_is_offered_and_what_is_not_is_announced() {
    let bench = Bench {
        broker: TestBroker::with(|limits| (limits.inflight_in, limits.packet_bytes) = (77, 5_000)),
        version: Version::V5,
    };
    // Shared subscriptions and subscription identifiers are not available. What is not named is: QoS 2, retained messages,
    // wildcards; no topic alias, and the client's own keep alive.
    let expected =
        [property::receive_maximum(77), property::maximum_packet_size(5_000), vec![0x29, 0], vec![0x2a, 0]];
    assert_eq!(announced(&bench, &bench.login("x")), expected.concat());
}

#[test]
fn mqtt_3_1_2_28_no_response_information_is_returned() {
    let bench = Bench::new(Version::V5);
    let plain = announced(&bench, &bench.login("x"));
    for request in [0, 1] {
        assert_eq!(announced(&bench, &bench.login("x").property(vec![0x19, request])), plain);
    }
}

#[test]
fn mqtt_3_1_3_7_the_assigned_id_is_told_and_is_the_clients() {
    let bench = Bench::new(Version::V5);
    let properties = announced(&bench, &bench.lasting(""));
    let at = properties.iter().position(|byte| *byte == 0x12).unwrap();
    let length = usize::from(u16::from_be_bytes([properties[at + 1], properties[at + 2]]));
    let id = String::from_utf8(properties[at + 3..at + 3 + length].to_vec()).unwrap();
    assert!(bench.resume(&bench.lasting(&id)).1, "{id}");
}

#[test]
fn mqtt_3_2_2_16_each_client_without_an_id_is_told_another_one() {
    let bench = Bench::new(Version::V5);
    let told: std::collections::BTreeSet<_> = (0..5).map(|_| announced(&bench, &bench.login(""))).collect();
    assert_eq!(told.len(), 5);
    assert!(told.iter().all(|properties| properties.contains(&0x12)));
}

#[test]
fn mqtt_3_1_4_2_a_login_that_fails_is_answered_and_the_connection_closed() {
    let bench = Bench::new(Version::V5);
    let wrong = Connect { password: Some("wrong".into()), ..bench.login("x") };
    assert_eq!(bench.answer(&wrong.encode()), Some(0x86));
    let foreign = crate::support::broker::device(Version::V5, "cam-1").will(Will::new("not/its/own", "x"));
    assert_eq!(bench.answer(&foreign.encode()), Some(0x87));
}

#[test]
fn mqtt_3_2_0_2_a_second_connect_gets_no_second_connack() {
    let bench = Bench::new(Version::V5);
    let mut client = bench.client("x");
    client.send(bench.login("x").encode());
    assert_eq!(client.receive(), Received::Disconnect { code: 0x82 });
    assert_eq!(client.wait(PATIENCE), Outcome::Closed);
}

/// Asserted for every CONNACK that any of these tests receives.
#[test]
fn mqtt_3_2_2_1_the_reserved_flags_of_connack_are_0() {
    let bench = Bench::new(Version::V5);
    assert!(!bench.resume(&bench.lasting("x")).1);
    assert!(bench.resume(&bench.lasting("x")).1);
}

/// Asserted for every CONNACK that any of these tests receives.
#[test]
fn mqtt_3_2_2_8_each_refusal_has_a_reason_code_of_connack() {
    let bench = Bench::new(Version::V5);
    let mut twice = bench.login("x").property(property::receive_maximum(1));
    twice = twice.property(property::receive_maximum(1));
    for (connect, code) in [
        (bench.login("x").property(property::receive_maximum(0)), 0x82),
        (bench.login("x").property(property::maximum_packet_size(0)), 0x82),
        (twice, 0x82),
        (bench.login("x").property(property::topic_alias(1)), 0x82),
        (bench.login("x").property(vec![0x7f, 0]), 0x81),
        (bench.login("x").will(Will::new("a/#", "x")), 0x90),
        (bench.login(&"x".repeat(300)), 0x85),
    ] {
        assert_eq!(bench.answer(&connect.encode()), Some(code), "{connect:?}");
    }
}

#[test]
fn mqtt_3_2_2_9_qos_2_is_supported_and_no_maximum_announced() {
    let bench = Bench::new(Version::V5);
    let mut reader = bench.subscriber(TOPIC, 2);
    assert_eq!(bench.client("publisher").publish(Publish::new(TOPIC, "x").qos(2, 0)), 0);
    assert_eq!(reader.message().qos, 2);
    assert!(!announced(&bench, &bench.login("x")).contains(&0x24));
}

#[test]
fn mqtt_3_2_2_10_a_subscribe_may_ask_for_any_qos() {
    let bench = Bench::new(Version::V5);
    let mut client = bench.client("x");
    for qos in 0..=2 {
        assert_eq!(client.subscribe(&[TOPIC], qos), [qos]);
    }
}

#[test]
fn mqtt_3_2_2_13_a_retained_will_where_nothing_is_retained_gets_0x87() {
    let bench = Bench::new(Version::V5);
    let retained = |topic| Will { retain: true, ..Will::new(topic, "x") };
    assert_eq!(bench.answer(&bench.login("x").will(retained(TOPIC)).encode()), Some(0x87));
    assert_eq!(bench.answer(&bench.login("x").will(retained(KEPT)).encode()), Some(0));
}

#[test]
fn mqtt_3_2_2_15_a_packet_larger_than_announced_gets_0x95() {
    let bench = Bench { broker: TestBroker::with(|limits| limits.packet_bytes = 500), version: Version::V5 };
    let whole = |size: usize| {
        let empty = Publish::new(TOPIC, "").encode(Version::V5).len() + 1;
        Publish::new(TOPIC, vec![b'x'; size - empty]).encode(Version::V5)
    };
    assert_eq!(whole(500).len(), 500);
    let mut client = bench.client("x");
    client.send(whole(500));
    client.ping();
    client.send(whole(501));
    client.expect_end(&[0x95]);
}

#[test]
fn mqtt_3_2_2_18_no_topic_alias_is_offered_and_one_that_is_used_gets_0x94() {
    let bench = Bench::new(Version::V5);
    assert!(!announced(&bench, &bench.login("x")).contains(&0x22));
    let with_topic = Publish::new(TOPIC, "x").property(property::topic_alias(1));
    let without = Publish::new("", "x").property(property::topic_alias(1));
    bench.assert_each_ends(0x94, &[with_topic.encode(Version::V5), without.encode(Version::V5)]);
}

#[test]
fn mqtt_3_2_2_19_a_reason_that_would_not_fit_is_left_out() {
    let bench = Bench::new(Version::V5);
    let wrong = Connect { password: Some("wrong".into()), ..bench.login("x") };
    for (limit, has_reason) in [(SMALL, false), (1_000, true)] {
        let mut client = Client::silent(bench.broker.address, Version::V5);
        client.send(wrong.clone().property(property::maximum_packet_size(limit)).encode());
        match client.receive() {
            Received::ConnAck { code: 0x86, properties, .. } => {
                assert_eq!(properties.first() == Some(&0x1f), has_reason);
                assert!(!properties.contains(&0x26), "no user properties");
            }
            other => panic!("{other:?}"),
        }
    }
    // Where not even that fits, there is no answer.
    let tiny = wrong.property(property::maximum_packet_size(4));
    assert_eq!(bench.answer(&tiny.encode()), None);
}

#[test]
fn mqtt_3_2_2_22_the_keep_alive_of_the_client_is_used() {
    let bench = Bench::new(Version::V5);
    assert!(!announced(&bench, &bench.login("x")).contains(&0x13));
    let mut client = bench.connect(&bench.login("silent").keep_alive(1));
    client.expect_end(&[0x8d]);
}

#[test]
fn mqtt_3_1_2_24_no_packet_is_larger_than_the_client_accepts() {
    let bench = Bench::new(Version::V5);
    let limited = |limit| bench.login("limited").property(property::maximum_packet_size(limit));
    let mut publisher = bench.client("publisher");
    let mut reader = bench.connect(&limited(100));
    assert_eq!(reader.subscribe(&[TOPIC], 0), [0]);
    let overhead = Publish::new(TOPIC, "").encode(Version::V5).len();
    for (size, arrives) in [(100, true), (101, false), (99, true)] {
        publisher.publish(Publish::new(TOPIC, vec![b'x'; size - overhead]).qos(1, 0));
        if arrives {
            assert_eq!(reader.message().payload.len(), size - overhead);
        }
    }
    reader.expect_silence();
    // A SUBACK or UNSUBACK that would be larger ends the connection, unsubscribed.
    for unsubscribes in [false, true] {
        let mut client = bench.connect(&limited(SMALL));
        let filters: Vec<String> = (0..30).map(|number| format!("f/{number}")).collect();
        let filters: Vec<&str> = filters.iter().map(String::as_str).collect();
        if unsubscribes {
            client.send(wire::unsubscribe(Version::V5, 1, &filters));
        } else {
            let filters: Vec<_> = filters.iter().map(|filter| (filter, 0)).collect();
            client.send(wire::subscribe(Version::V5, 1, &filters, &[]));
        }
        assert_eq!(client.receive(), Received::Disconnect { code: 0x95 });
    }
    // As does a CONNACK.
    assert_eq!(bench.answer(&limited(SMALL - 4).encode()), Some(0x95));
    assert_eq!(bench.answer(&limited(SMALL).encode()), Some(0));
}

#[test]
fn mqtt_3_1_2_25_what_is_too_large_counts_as_sent() {
    let bench = Bench::new(Version::V5);
    let connect = bench.lasting("x").property(property::maximum_packet_size(100));
    let mut reader = bench.connect(&connect.property(property::receive_maximum(1)));
    assert_eq!(reader.subscribe(&[TOPIC], 2), [2]);
    let mut publisher = bench.client("publisher");
    for qos in [1, 2, 0] {
        publisher.publish(Publish::new(TOPIC, vec![b'x'; 200]).qos(qos, 0));
        publisher.publish(Publish::new(TOPIC, "fits").qos(qos, 0));
        assert_eq!(reader.message().text(), "fits", "its place in the window is free");
    }
    reader.vanish();
    let (mut reader, present) = bench.resume(&bench.lasting("x"));
    assert!(present);
    reader.expect_silence();
}
