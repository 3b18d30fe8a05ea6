//! SUBSCRIBE, UNSUBSCRIBE, their answers, and PINGREQ.

use crate::bench::*;
use crate::support::*;

/// Sends a SUBSCRIBE of filters with options and returns the codes.
pub(crate) fn subscribe(client: &mut Client, version: Version, filters: &[(&str, u8)]) -> Vec<u8> {
    let id = client.next_id();
    client.send(wire::subscribe(version, id, filters, &[]));
    match client.receive() {
        Received::SubAck { id: of, codes } if of == id => codes,
        other => panic!("expected SUBACK {id}, got {other:?}"),
    }
}

fn with_first(mut packet: Vec<u8>, first: u8) -> Vec<u8> {
    packet[0] = first;
    packet
}

pub(crate) fn wrong_flags_of_subscribe_close_the_connection(version: Version) {
    let whole = wire::subscribe(version, 1, &[(TOPIC, 0)], &[]);
    let packets = [0x80, 0x81, 0x83, 0x86, 0x8a, 0x8f].map(|first| with_first(whole.clone(), first));
    Bench::new(version).assert_each_ends(0x81, &packets);
}

pub(crate) fn wrong_flags_of_unsubscribe_close_the_connection(version: Version) {
    let whole = wire::unsubscribe(version, 1, &[TOPIC]);
    let packets = [0xa0, 0xa1, 0xa3, 0xa6, 0xaa, 0xaf].map(|first| with_first(whole.clone(), first));
    Bench::new(version).assert_each_ends(0x81, &packets);
}

pub(crate) fn wrong_flags_of_pubrel_close_the_connection(version: Version) {
    let packets = [0x60, 0x61, 0x63, 0x66, 0x6a, 0x6f].map(|first| vec![first, 2, 0, 1]);
    Bench::new(version).assert_each_ends(0x81, &packets);
}

pub(crate) fn wrong_flags_of_disconnect_close_the_connection(version: Version) {
    let packets = [0xe1, 0xe2, 0xe4, 0xe8, 0xef].map(|first| vec![first, 0]);
    Bench::new(version).assert_each_ends(0x81, &packets);
}

pub(crate) fn a_subscribe_without_a_filter_closes_the_connection(version: Version) {
    let none: &[(&str, u8)] = &[];
    Bench::new(version).assert_each_ends(0x82, &[wire::subscribe(version, 1, none, &[])]);
}

pub(crate) fn an_unsubscribe_without_a_filter_closes_the_connection(version: Version) {
    Bench::new(version).assert_each_ends(0x82, &[wire::unsubscribe(version, 1, &[])]);
}

pub(crate) fn reserved_bits_of_the_options_close_the_connection(version: Version) {
    let reserved: &[u8] = match version {
        Version::V311 => &[0x04, 0x08, 0x10, 0x20, 0x40, 0x80, 0x03],
        Version::V5 => &[0x40, 0x80, 0xc0, 0x03],
    };
    let packets: Vec<_> =
        reserved.iter().map(|bits| wire::subscribe(version, 1, &[(TOPIC, *bits)], &[])).collect();
    Bench::new(version).assert_each_ends(0x81, &packets);
}

pub(crate) fn every_subscribe_is_answered_with_its_identifier(version: Version) {
    let bench = Bench::new(version);
    let mut client = bench.client("x");
    // All at once, before any answer is read.
    let ids = [5, 3, 65_535, 9];
    client.send(ids.map(|id| wire::subscribe(version, id, &[(TOPIC, 1)], &[])).concat());
    for id in ids {
        assert_eq!(client.receive(), Received::SubAck { id, codes: vec![1] });
    }
}

pub(crate) fn several_filters_are_as_good_as_several_subscribes(version: Version) {
    let bench = Bench::new(version);
    let mut reader = bench.client("x");
    let filters = [("one", 0), ("two", 1), ("three", 2), ("one", 2)];
    assert_eq!(subscribe(&mut reader, version, &filters), [0, 1, 2, 2]);
    let mut publisher = bench.client("publisher");
    for (topic, qos) in [("one", 2), ("two", 1), ("three", 2)] {
        publisher.publish(Publish::new(topic, topic).qos(2, 0));
        let message = reader.message();
        assert_eq!((message.topic.as_str(), message.qos), (topic, qos), "the last of a kind counts");
    }
    reader.expect_silence();
}

pub(crate) fn there_is_a_code_for_each_filter_in_their_order(version: Version) {
    let bench = Bench::new(version);
    let mut client = Client::connect(bench.broker.address, &crate::support::broker::person(version, "vera"));
    let filters = [
        ("fleet/v1/acme/view/+", 2),
        ("fleet/v1/other/view/+", 1),
        ("a/#/b", 1),
        ("fleet/v1/acme/device/+/birth", 0),
        ("$share/group/fleet/v1/acme/view/+", 1),
        ("fleet/v1/acme/device/+/event", 1),
    ];
    let expected: [u8; 6] = match version {
        Version::V311 => [2, 0x80, 0x80, 0, 0x80, 1],
        Version::V5 => [2, 0x87, 0x8f, 0, 0x9e, 1],
    };
    assert_eq!(subscribe(&mut client, version, &filters), expected);
}

pub(crate) fn messages_come_at_the_lower_of_both_qos(version: Version) {
    let bench = Bench::new(version);
    let mut publisher = bench.client("publisher");
    for granted in 0..=2 {
        let mut reader = bench.subscriber(TOPIC, granted);
        for sent in 0..=2 {
            publisher.publish(Publish::new(TOPIC, "x").qos(sent, 0));
            assert_eq!(reader.message().qos, sent.min(granted));
        }
    }
}

pub(crate) fn filters_of_unsubscribe_are_compared_character_by_character(version: Version) {
    let bench = Bench::new(version);
    let mut reader = bench.client("x");
    reader.subscribe(&["a/+", "a/b", "A/b"], 1);
    let codes = reader.unsubscribe(&["a/b", "a/#", "+/b", "a/b/", "a/B"]);
    if version == Version::V5 {
        assert_eq!(codes, [0, 0x11, 0x11, 0x11, 0x11]);
    }
    let mut publisher = bench.client("publisher");
    for topic in ["a/b", "A/b", "a/c"] {
        publisher.publish(Publish::new(topic, "x").qos(1, 0));
        assert_eq!(reader.message().topic, topic, "by what is left");
    }
    reader.unsubscribe(&["a/+"]);
    publisher.publish(Publish::new("a/b", "x").qos(1, 0));
    publisher.publish(Publish::new("A/b", "x").qos(1, 0));
    assert_eq!(reader.message().topic, "A/b");
    reader.expect_silence();
}

pub(crate) fn after_an_unsubscribe_nothing_new_comes(version: Version) {
    let bench = Bench::new(version);
    let mut reader = bench.subscriber(TOPIC, 1);
    let mut publisher = bench.client("publisher");
    publisher.publish(Publish::new(TOPIC, "before").qos(1, 0));
    assert_eq!(reader.message().text(), "before");
    reader.unsubscribe(&[TOPIC]);
    for qos in 0..=2 {
        publisher.publish(Publish::new(TOPIC, "after").qos(qos, 0));
    }
    publisher.ping();
    reader.expect_silence();
}

pub(crate) fn what_was_on_its_way_at_the_unsubscribe_is_completed(version: Version) {
    let bench = Bench::new(version);
    let (mut reader, _) = bench.resume(&bench.lasting("x"));
    assert_eq!(reader.subscribe(&[TOPIC], 2), [2]);
    let mut publisher = bench.client("publisher");
    for qos in [2, 1, 2] {
        publisher.publish(Publish::new(TOPIC, "x").qos(qos, 0));
    }
    let sent = [(); 3].map(|()| unacknowledged(&mut reader));
    reader.unsubscribe(&[TOPIC]);
    reader.send(wire::acknowledge(kind::PUBREC, sent[0].3));
    assert_eq!(reader.receive(), Received::PubRel { id: sent[0].3, code: 0 });
    // Over a reconnect as well.
    reader.reset();
    let (mut reader, present) = bench.resume(&bench.lasting("x"));
    assert!(present);
    reader.receive_first(&Received::PubRel { id: sent[0].3, code: 0 });
    reader.send(wire::acknowledge(kind::PUBCOMP, sent[0].3));
    for (text, qos, _, id) in &sent[1..] {
        assert_eq!(unacknowledged(&mut reader), (text.clone(), *qos, true, *id));
    }
    reader.send(wire::acknowledge(kind::PUBACK, sent[1].3));
    reader.send(wire::acknowledge(kind::PUBREC, sent[2].3));
    assert_eq!(reader.receive(), Received::PubRel { id: sent[2].3, code: 0 });
    reader.send(wire::acknowledge(kind::PUBCOMP, sent[2].3));
    reader.expect_silence();
}

pub(crate) fn every_unsubscribe_is_answered_with_its_identifier(version: Version) {
    let bench = Bench::new(version);
    let mut client = bench.client("x");
    client.subscribe(&[TOPIC], 1);
    for id in [9, 65_535] {
        client.send(wire::unsubscribe(version, id, &[TOPIC]));
        let codes = match (version, id) {
            (Version::V311, _) => vec![],
            (Version::V5, 9) => vec![0],
            (Version::V5, _) => vec![0x11],
        };
        assert_eq!(client.receive(), Received::UnsubAck { id, codes });
    }
}

pub(crate) fn an_unsubscribe_of_what_was_never_subscribed_is_answered(version: Version) {
    let bench = Bench::new(version);
    let mut client = bench.client("x");
    let codes = client.unsubscribe(&["never", "never/#"]);
    assert_eq!(codes, if version == Version::V5 { vec![0x11, 0x11] } else { vec![] });
}

pub(crate) fn several_unsubscribed_filters_get_one_answer(version: Version) {
    let bench = Bench::new(version);
    let mut reader = bench.client("x");
    reader.subscribe(&["one", "two", "three"], 1);
    let codes = reader.unsubscribe(&["three", "unknown", "one", "one"]);
    assert_eq!(codes, if version == Version::V5 { vec![0, 0x11, 0, 0x11] } else { vec![] });
    let mut publisher = bench.client("publisher");
    for topic in ["one", "three", "two"] {
        publisher.publish(Publish::new(topic, topic).qos(1, 0));
    }
    assert_eq!(all_texts(&mut reader), ["two"]);
}

pub(crate) fn a_ping_is_answered(version: Version) {
    let bench = Bench::new(version);
    let mut client = bench.client("x");
    client.send([kind::PINGREQ, 0].repeat(3));
    for _ in 0..3 {
        assert_eq!(client.receive(), Received::PingResp);
    }
}
