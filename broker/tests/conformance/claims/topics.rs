//! Topic names and filters, and what is answered to errors.

use std::io::Write;

use super::data::unsubscribe;
use super::subscribe::subscribe;
use crate::bench::*;
use crate::support::*;

/// The code of a filter that is none.
fn invalid(version: Version) -> u8 {
    if version == Version::V5 { 0x8f } else { 0x80 }
}

pub(crate) fn the_multi_level_wildcard_stands_alone_at_the_end(version: Version) {
    let bench = Bench::new(version);
    let mut client = bench.client("x");
    for filter in ["a#", "a/#/b", "#/a", "##", "a/b#", "a/##"] {
        assert_eq!(subscribe(&mut client, version, &[(filter, 1)]), [invalid(version)], "{filter}");
    }
    assert_eq!(subscribe(&mut client, version, &[("a/b/#", 1)]), [1]);
    let mut publisher = bench.client("publisher");
    for (topic, wanted) in [("a/b", true), ("a/b/", true), ("a/b/c/d", true), ("a", false), ("a/bc", false)] {
        publisher.publish(Publish::new(topic, topic).qos(1, 0));
        if wanted {
            assert_eq!(client.message().topic, topic);
        }
    }
    client.expect_silence();
    assert_eq!(subscribe(&mut client, version, &[("#", 1)]), [1]);
    publisher.publish(Publish::new("anything/at/all", "x").qos(1, 0));
    assert_eq!(client.message().topic, "anything/at/all");
}

pub(crate) fn the_single_level_wildcard_fills_a_level(version: Version) {
    let bench = Bench::new(version);
    let mut client = bench.client("x");
    for filter in ["a+", "+a", "a/+b", "a/b+/c", "++"] {
        assert_eq!(subscribe(&mut client, version, &[(filter, 1)]), [invalid(version)], "{filter}");
    }
    let mut publisher = bench.client("publisher");
    let cases: [(&str, &[&str], &[&str]); 4] = [
        ("+", &["a", "b"], &["a/b", "/a"]),
        ("a/+", &["a/b", "a/"], &["a", "a/b/c"]),
        ("+/+", &["/a", "a/b"], &["a"]),
        ("a/+/c/#", &["a/b/c", "a//c/d"], &["a/c", "a/b/d"]),
    ];
    for (filter, matching, others) in cases {
        assert_eq!(client.subscribe(&[filter], 1), [1]);
        for topic in others.iter().chain(matching) {
            publisher.publish(Publish::new(topic, *topic).qos(1, 0));
        }
        assert_eq!(all_texts(&mut client), matching, "{filter}");
        client.unsubscribe(&[filter]);
    }
}

pub(crate) fn topics_of_the_broker_reach_no_wildcard_in_the_first_level(version: Version) {
    let bench = Bench::new(version);
    let mut reader = bench.subscriber("#", 1);
    assert_eq!(reader.subscribe(&["+/x"], 1), [1]);
    // Topics that begin with $ are nobody's to publish or to read.
    let refused = if version == Version::V5 { 0x87 } else { 0x80 };
    assert_eq!(reader.subscribe(&["$SYS/#", "$x/+"], 1), [refused, refused]);
    let mut publisher = bench.client("publisher");
    publisher.send(Publish::new("$SYS/x", "x").qos(1, 1).encode(version));
    match version {
        Version::V311 => publisher.expect_end(&[]),
        Version::V5 => assert_eq!(publisher.receive(), Received::PubAck { id: 1, code: 0x87 }),
    }
    reader.expect_silence();
}

pub(crate) fn an_empty_topic_or_filter_is_refused(version: Version) {
    let bench = Bench::new(version);
    bench.assert_each_ends(0x82, &[Publish::new("", "x").qos(1, 1).encode(version)]);
    let mut client = bench.client("x");
    assert_eq!(subscribe(&mut client, version, &[("", 1), ("/", 1)]), [invalid(version), 1]);
}

pub(crate) fn a_topic_or_filter_with_u0000_closes_the_connection(version: Version) {
    let packets = [
        Publish::new("a\0b", "x").encode(version),
        wire::subscribe(version, 1, &[("a\0b", 1)], &[]),
        unsubscribe(version, b"a\0b"),
    ];
    Bench::new(version).assert_each_ends(0x81, &packets);
}

pub(crate) fn topics_and_filters_of_more_than_1024_bytes_are_refused(version: Version) {
    let bench = Bench::new(version);
    let (longest, too_long) = ("x".repeat(1024), "x".repeat(1025));
    let mut client = bench.client("x");
    let filters: [(&str, u8); 2] = [(&longest, 1), (&too_long, 1)];
    assert_eq!(subscribe(&mut client, version, &filters), [1, invalid(version)]);
    bench.client("publisher").publish(Publish::new(&longest, "x").qos(1, 0));
    assert_eq!(client.message().topic, longest);
    bench.assert_each_ends(0x90, &[Publish::new("x".repeat(65_535), "x").encode(version)]);
}

pub(crate) fn nothing_is_normalised_when_topics_are_matched(version: Version) {
    let bench = Bench::new(version);
    // Case, spaces, slashes, and two ways to write a letter.
    let topics = ["a/b", "A/b", "a /b", "a//b", "/a/b", "a/b/", "a/e\u{301}", "a/\u{e9}"];
    let mut readers = topics.map(|topic| bench.subscriber(topic, 1));
    let mut publisher = bench.client("publisher");
    for topic in topics {
        assert_eq!(publisher.publish(Publish::new(topic, topic).qos(1, 0)), 0);
    }
    for (reader, topic) in readers.iter_mut().zip(topics) {
        assert_eq!(reader.message().text(), topic);
    }
    std::thread::sleep(SILENCE);
    for mut reader in readers {
        reader.ping();
    }
}

pub(crate) fn whoever_breaks_the_protocol_is_disconnected(version: Version) {
    let mut packets = vec![
        // Packets that only a server sends, or nobody.
        vec![kind::CONNACK, 2, 0, 0],
        vec![kind::SUBACK, 3, 0, 1, 0],
        vec![kind::UNSUBACK, 2, 0, 1],
        vec![kind::PINGRESP, 0],
        vec![0x00, 0],
        // Lengths that are none, and bodies that are too short or too long.
        vec![kind::PINGREQ, 0xff, 0xff, 0xff, 0xff, 0x01],
        vec![kind::PINGREQ, 1, 0],
        vec![kind::PUBACK, 1, 0],
        vec![kind::PUBREL | 2, 0],
        wire::packet(kind::SUBSCRIBE | 2, [0]),
    ];
    if version == Version::V311 {
        packets.push(vec![kind::AUTH, 0]);
        packets.push(vec![kind::PUBACK, 3, 0, 1, 0]);
        packets.push(vec![kind::DISCONNECT, 1, 0]);
    }
    Bench::new(version).assert_each_ends(0x81, &packets);
}

pub(crate) fn packets_may_come_in_any_pieces(version: Version) {
    let bench = Bench::new(version);
    let mut reader = bench.subscriber(TOPIC, 1);
    let whole = [
        bench.login("pieces").encode(),
        Publish::new(TOPIC, "byte by byte").qos(1, 1).encode(version),
        vec![kind::PINGREQ, 0],
    ]
    .concat();
    let mut client = Client::silent(bench.broker.address, version);
    for byte in whole {
        client.stream().write_all(&[byte]).unwrap();
    }
    assert!(matches!(client.receive(), Received::ConnAck { code: 0, .. }));
    assert_eq!(client.receive(), Received::PubAck { id: 1, code: 0 });
    assert_eq!(client.receive(), Received::PingResp);
    assert_eq!(reader.message().text(), "byte by byte");
}
