//! Chapter 3.3.2: what travels with a message.

use std::time::Duration;

use crate::bench::*;
use crate::support::*;

fn payload_format_text() -> Vec<u8> {
    vec![0x01, 1]
}

fn response_topic(topic: &[u8]) -> Vec<u8> {
    [vec![0x08], wire::field(topic)].concat()
}

fn correlation_data(data: &[u8]) -> Vec<u8> {
    [vec![0x09], wire::field(data)].concat()
}

/// Publishes with these properties and asserts that they arrive as they are: live at each QoS, retained, and after
/// waiting for a client.
fn assert_passes(properties: &[u8]) {
    let bench = Bench::new(Version::V5);
    let (mut absent, _) = bench.resume(&bench.lasting("absent"));
    assert_eq!(absent.subscribe(&[KEPT], 2), [2]);
    leave(absent);
    let mut live = bench.subscriber(KEPT, 2);
    let mut publisher = bench.client("publisher");
    for qos in 0..=2 {
        let publish = Publish::new(KEPT, "x").qos(qos, 0).retained().property(properties.to_vec());
        assert_eq!(publisher.publish(publish), 0);
        assert_eq!(live.message().properties, properties);
    }
    let (mut absent, _) = bench.resume(&bench.lasting("absent"));
    assert_eq!(absent.message().properties, properties);
    assert_eq!(bench.subscriber(KEPT, 1).message().properties, properties);
}

#[test]
fn mqtt_3_3_2_4_the_payload_format_indicator_is_passed_on() {
    assert_passes(&payload_format_text());
    assert_passes(&[0x01, 0]);
}

#[test]
fn mqtt_3_3_2_15_the_response_topic_is_passed_on() {
    assert_passes(&response_topic("answers/\u{e9}".as_bytes()));
}

#[test]
fn mqtt_3_3_2_16_correlation_data_are_passed_on() {
    assert_passes(&correlation_data(&[0, 0xff, 0xc0, 1, 0]));
    assert_passes(&correlation_data(&[]));
}

#[test]
fn mqtt_3_3_2_17_user_properties_are_passed_on() {
    assert_passes(&[property::user("", ""), property::user("name \u{feff}", &"v".repeat(300))].concat());
}

#[test]
fn mqtt_3_3_2_18_user_properties_keep_their_order() {
    let names = ["b", "a", "b", "c", "a"];
    let all: Vec<u8> =
        names.iter().enumerate().flat_map(|(n, name)| property::user(name, &n.to_string())).collect();
    assert_passes(&all);
}

#[test]
fn mqtt_3_3_2_20_the_content_type_is_passed_on() {
    assert_passes(&property::content_type("application/cbor; x=\u{e9}"));
}

#[test]
fn mqtt_3_3_2_13_a_response_topic_that_is_not_utf_8_is_malformed() {
    let packets = [&b"\xff"[..], b"a\0", b"\xed\xa0\x80"]
        .map(|topic| Publish::new(TOPIC, "x").property(response_topic(topic)).encode(Version::V5));
    Bench::new(Version::V5).assert_each_ends(0x81, &packets);
}

#[test]
fn mqtt_3_3_2_14_a_response_topic_with_a_wildcard_is_a_protocol_error() {
    let packets = [&b"a/#"[..], b"+", b"a/+/b"]
        .map(|topic| Publish::new(TOPIC, "x").property(response_topic(topic)).encode(Version::V5));
    Bench::new(Version::V5).assert_each_ends(0x82, &packets);
}

#[test]
fn mqtt_3_3_2_19_a_content_type_that_is_not_utf_8_is_malformed() {
    let packets = [&b"\xff"[..], b"a\0", b"\xc0\xaf"].map(|text| {
        let property = [vec![0x03], wire::field(text)].concat();
        Publish::new(TOPIC, "x").property(property).encode(Version::V5)
    });
    Bench::new(Version::V5).assert_each_ends(0x81, &packets);
}

/// The seconds that a message has still to live, told beside nothing else.
fn seconds_left(properties: &[u8]) -> u32 {
    assert_eq!((properties.len(), properties[0]), (5, 0x02), "{properties:02x?}");
    u32::from_be_bytes(properties[1..].try_into().unwrap())
}

#[test]
fn mqtt_3_3_2_5_an_expired_message_is_not_delivered() {
    let bench = Bench::new(Version::V5);
    let (mut absent, _) = bench.resume(&bench.lasting("absent"));
    assert_eq!(absent.subscribe(&[KEPT], 1), [1]);
    leave(absent);
    let mut publisher = bench.client("publisher");
    for (text, seconds) in [("expires", 1), ("stays", 1_000)] {
        for topic in [KEPT, "fleet/v1/acme/view/other"] {
            let publish = Publish::new(topic, text).qos(1, 0).property(property::message_expiry(seconds));
            // The last of each topic is the one that is kept.
            if text == "expires" || topic == KEPT {
                assert_eq!(publisher.publish(publish.retained()), 0);
            }
        }
    }
    std::thread::sleep(Duration::from_millis(1_300));
    let (mut absent, present) = bench.resume(&bench.lasting("absent"));
    assert!(present);
    assert_eq!(all_texts(&mut absent), ["stays"], "what waited for a client");
    let mut fresh = bench.subscriber("fleet/v1/acme/view/+", 1);
    assert_eq!(all_texts(&mut fresh), ["stays"], "what was retained");
}

#[test]
fn mqtt_3_3_2_6_the_expiry_is_told_less_the_time_waited() {
    let bench = Bench::new(Version::V5);
    let (mut absent, _) = bench.resume(&bench.lasting("absent"));
    assert_eq!(absent.subscribe(&[KEPT], 1), [1]);
    leave(absent);
    let mut live = bench.subscriber(KEPT, 1);
    let publish = Publish::new(KEPT, "x").qos(1, 0).retained().property(property::message_expiry(100));
    assert_eq!(bench.client("publisher").publish(publish), 0);
    let at_once = seconds_left(&live.message().properties);
    assert!((95..=100).contains(&at_once), "{at_once}");
    std::thread::sleep(Duration::from_millis(1_200));
    let (mut absent, _) = bench.resume(&bench.lasting("absent"));
    for reader in [&mut absent, &mut bench.subscriber(KEPT, 1)] {
        let left = seconds_left(&reader.message().properties);
        assert!((60..=99).contains(&left), "{left}");
    }
}

#[test]
fn mqtt_4_3_3_7_the_expiry_is_not_applied_to_what_was_sent() {
    let bench = Bench::new(Version::V5);
    let (mut reader, _) = bench.resume(&bench.lasting("x"));
    assert_eq!(reader.subscribe(&[TOPIC], 2), [2]);
    let mut publisher = bench.client("publisher");
    for qos in [2, 1] {
        publisher.publish(Publish::new(TOPIC, "x").qos(qos, 0).property(property::message_expiry(1)));
    }
    let sent = [unacknowledged(&mut reader), unacknowledged(&mut reader)];
    reader.reset();
    std::thread::sleep(Duration::from_millis(1_300));
    let (mut reader, _) = bench.resume(&bench.lasting("x"));
    for (text, qos, _, id) in sent {
        match reader.receive() {
            Received::Publish { payload, qos: again, dup: true, id: same, properties, .. } => {
                assert_eq!((payload.0, again, same), (text.into_bytes(), qos, id));
                assert_eq!(seconds_left(&properties), 0);
            }
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn mqtt_4_3_3_13_the_exchange_of_qos_2_goes_on_when_the_message_has_expired() {
    let bench = Bench::new(Version::V5);
    let mut publisher = bench.client("publisher");
    let publish = Publish::new(TOPIC, "x").qos(2, 5).property(property::message_expiry(0));
    publisher.send(publish.encode(Version::V5));
    assert_eq!(publisher.receive(), Received::PubRec { id: 5, code: 0 });
    publisher.send(wire::acknowledge(kind::PUBREL, 5));
    assert_eq!(publisher.receive(), Received::PubComp { id: 5, code: 0 });
}

#[test]
fn mqtt_3_1_2_27_no_topic_alias_is_ever_sent() {
    let bench = Bench::new(Version::V5);
    for maximum in [0_u16, 10] {
        let wants = [vec![0x22], maximum.to_be_bytes().to_vec()].concat();
        let mut reader = bench.connect(&bench.login("x").property(wants));
        assert_eq!(reader.subscribe(&[TOPIC], 1), [1]);
        let mut publisher = bench.client("publisher");
        for _ in 0..3 {
            publisher.publish(Publish::new(TOPIC, "x").qos(1, 0));
            let message = reader.message();
            assert_eq!((message.topic.as_str(), message.properties), (TOPIC, vec![]));
        }
    }
}

#[test]
fn mqtt_3_3_2_8_a_topic_alias_of_0_gets_0x94() {
    let publish = Publish::new(TOPIC, "x").property(property::topic_alias(0));
    Bench::new(Version::V5).assert_each_ends(0x94, &[publish.encode(Version::V5)]);
}
