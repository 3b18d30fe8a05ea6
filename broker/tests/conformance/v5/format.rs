//! Chapters 1 and 2: strings, integers, fixed headers, packet identifiers, properties.

use crate::bench::*;
use crate::claims::*;
use crate::support::*;

claims! { V5:
    mqtt_1_5_4_1_ill_formed_utf_8_closes_the_connection => data::ill_formed_utf_8_closes_the_connection;
    mqtt_1_5_4_2_u0000_in_a_string_closes_the_connection => data::u0000_closes_the_connection;
    mqtt_1_5_4_3_a_byte_order_mark_is_kept_wherever_it_stands => data::a_byte_order_mark_is_kept_wherever_it_stands;
    mqtt_2_1_3_1_wrong_flags_close_the_connection => format::wrong_reserved_flags_close_the_connection;
    mqtt_2_1_3_1_the_servers_own_packets_have_the_flags_of_their_type => format::the_servers_own_packets_have_the_flags_of_their_type;
    mqtt_2_2_1_2_a_publish_of_qos_0_has_no_packet_identifier => format::a_publish_of_qos_0_has_no_packet_identifier;
    mqtt_2_2_1_3_a_packet_identifier_of_0_closes_the_connection => format::a_packet_identifier_of_0_closes_the_connection;
    mqtt_2_2_1_4_the_servers_identifiers_are_not_zero_and_not_in_use => format::the_servers_identifiers_are_not_zero_and_not_in_use;
    mqtt_2_2_1_5_acknowledgements_have_the_identifier_of_the_publish => format::acknowledgements_have_the_identifier_of_the_publish;
    mqtt_2_2_1_6_suback_and_unsuback_have_the_identifier_of_their_request => format::suback_and_unsuback_have_the_identifier_of_their_request;
}

/// That the server's own lengths take no more bytes than they need is asserted for every packet that any of these tests
/// receives.
#[test]
fn mqtt_1_5_5_1_a_length_in_more_bytes_than_it_needs_is_malformed() {
    let bench = Bench::new(Version::V5);
    let publish = [&wire::field(TOPIC)[..], &[0x80, 0x00]].concat();
    let packets = [
        vec![kind::PINGREQ, 0x80, 0x00],
        vec![kind::DISCONNECT, 0x80, 0x80, 0x00],
        wire::packet(kind::PUBLISH, publish),
        wire::packet(kind::SUBSCRIBE | 2, [&[0, 1, 0x80, 0][..], &wire::field(TOPIC), &[0]].concat()),
    ];
    bench.assert_each_ends(0x81, &packets);
    let whole = bench.login("x").encode();
    let long = [&[whole[0], whole[1] | 0x80, 0][..], &whole[2..]].concat();
    bench.assert_malformed(&long);
}

#[test]
fn mqtt_1_5_7_1_both_strings_of_a_pair_are_checked() {
    let bench = Bench::new(Version::V5);
    let pair = |name: &[u8], value: &[u8]| [vec![0x26], wire::field(name), wire::field(value)].concat();
    let packets: Vec<_> = [pair(b"\xff", b"x"), pair(b"x", b"\xff"), pair(b"\0", b"x"), pair(b"x", b"a\0")]
        .into_iter()
        .map(|pair| Publish::new(TOPIC, "x").property(pair).encode(Version::V5))
        .collect();
    bench.assert_each_ends(0x81, &packets);
}

#[test]
fn mqtt_2_2_2_1_no_properties_are_a_property_length_of_0() {
    let bench = Bench::new(Version::V5);
    let packets = [
        wire::subscribe(Version::V5, 1, &[(TOPIC, 0)], &[]),
        Publish::new(TOPIC, "x").encode(Version::V5),
        wire::unsubscribe(Version::V5, 2, &["other"]),
    ];
    let frames = bench.raw(&bench.login("raw"), &packets.concat(), 3);
    assert!(frames.contains(&(kind::SUBACK, vec![0, 1, 0, 0])), "{frames:02x?}");
    assert!(frames.contains(&(kind::UNSUBACK, vec![0, 2, 0, 0x11])), "{frames:02x?}");
    let publish = [&wire::field(TOPIC)[..], &[0], b"x"].concat();
    assert!(frames.contains(&(kind::PUBLISH, publish)), "{frames:02x?}");
}
