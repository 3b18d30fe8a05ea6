//! Strings.

use crate::bench::*;
use crate::support::*;

/// Ill-formed UTF-8: a cut sequence, a surrogate, an over-long slash, a byte that never occurs.
const ILL_FORMED: [&[u8]; 4] = [b"a/\xc3(", b"a/\xed\xa0\x80", b"a/\xc0\xaf", b"a/\xff"];

pub(crate) fn ill_formed_utf_8_closes_the_connection(version: Version) {
    refuses_text(version, &ILL_FORMED);
}

pub(crate) fn u0000_closes_the_connection(version: Version) {
    refuses_text(version, &[b"a/\0"]);
}

fn refuses_text(version: Version, texts: &[&[u8]]) {
    let bench = Bench::new(version);
    let mut packets = Vec::new();
    for text in texts {
        packets.push(Publish::new(text, "x").encode(version));
        packets.push(wire::subscribe(version, 1, &[(text, 1)], &[]));
        packets.push(unsubscribe(version, text));
        bench.assert_malformed(&connect_with(version, LOGIN, &[], &credentials(text)));
    }
    bench.assert_each_ends(0x81, &packets);
}

/// An UNSUBSCRIBE of one filter of any bytes.
pub(crate) fn unsubscribe(version: Version, filter: &[u8]) -> Vec<u8> {
    let properties: &[u8] = if version == Version::V5 { &[0] } else { &[] };
    wire::packet(kind::UNSUBSCRIBE | 2, [&[0, 1], properties, &wire::field(filter)].concat())
}

pub(crate) fn a_byte_order_mark_is_kept_wherever_it_stands(version: Version) {
    const MARKED: &str = "conformance/\u{feff}topic";
    let bench = Bench::new(version);
    let mut marked = bench.subscriber(MARKED, 1);
    let mut unmarked = bench.subscriber(TOPIC, 1);
    let mut all = bench.subscriber("conformance/+", 1);
    let mut publisher = bench.client("publisher");
    assert_eq!(publisher.publish(Publish::new(MARKED, "\u{feff}x").qos(1, 0)), 0);
    assert_eq!(publisher.publish(Publish::new(TOPIC, "y").qos(1, 0)), 0);
    for reader in [&mut marked, &mut all] {
        let message = reader.message();
        assert_eq!((message.topic.as_str(), message.text().as_str()), (MARKED, "\u{feff}x"));
    }
    assert_eq!(unmarked.message().text(), "y", "another topic");
}

pub(crate) fn a_client_id_that_is_not_utf_8_closes_the_connection(version: Version) {
    let bench = Bench::new(version);
    for text in ILL_FORMED {
        bench.assert_malformed(&connect_with(version, LOGIN, &[], &credentials(text)));
    }
}

pub(crate) fn a_will_topic_that_is_not_utf_8_closes_the_connection(version: Version) {
    let bench = Bench::new(version);
    for text in ILL_FORMED {
        let mut payload = credentials("x");
        payload.insert(1, will_fields(version, &[], text));
        bench.assert_malformed(&connect_with(version, LOGIN | WILL, &[], &payload));
    }
}

pub(crate) fn a_user_name_that_is_not_utf_8_closes_the_connection(version: Version) {
    let bench = Bench::new(version);
    for text in ILL_FORMED {
        let payload = [wire::field("x"), wire::field(text), wire::field("fleetd-secret")];
        bench.assert_malformed(&connect_with(version, LOGIN, &[], &payload));
    }
}

pub(crate) fn a_topic_name_that_is_not_utf_8_closes_the_connection(version: Version) {
    let packets = ILL_FORMED.map(|text| Publish::new(text, "x").qos(1, 1).encode(version));
    Bench::new(version).assert_each_ends(0x81, &packets);
}

pub(crate) fn a_subscribed_filter_that_is_not_utf_8_closes_the_connection(version: Version) {
    let packets = ILL_FORMED.map(|text| wire::subscribe(version, 1, &[(text, 1)], &[]));
    Bench::new(version).assert_each_ends(0x81, &packets);
}

pub(crate) fn an_unsubscribed_filter_that_is_not_utf_8_closes_the_connection(version: Version) {
    let packets = ILL_FORMED.map(|text| unsubscribe(version, text));
    Bench::new(version).assert_each_ends(0x81, &packets);
}
