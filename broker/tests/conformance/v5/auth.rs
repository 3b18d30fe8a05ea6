//! Chapters 3.15 and 4.12: enhanced authentication, which is not offered.

use crate::bench::*;
use crate::support::*;

fn method(name: &str) -> Vec<u8> {
    [vec![0x15], wire::field(name)].concat()
}

#[test]
fn mqtt_4_12_0_1_an_authentication_method_gets_0x8c() {
    let bench = Bench::new(Version::V5);
    let data = [vec![0x16], wire::field("x")].concat();
    for properties in [method("SCRAM-SHA-256"), method(""), [method("x"), data].concat()] {
        assert_eq!(bench.answer(&bench.login("x").property(properties).encode()), Some(0x8c));
    }
}

#[test]
fn mqtt_4_12_0_6_without_a_method_there_is_no_auth_and_no_method_in_connack() {
    let bench = Bench::new(Version::V5);
    let mut client = Client::silent(bench.broker.address, Version::V5);
    client.send(bench.login("x").encode());
    match client.receive() {
        Received::ConnAck { code: 0, properties, .. } => {
            assert!(!properties.windows(1).any(|id| id == [0x15]), "{properties:02x?}");
        }
        other => panic!("{other:?}"),
    }
    client.expect_silence();
    // Data without a method are a protocol error.
    let data = [vec![0x16], wire::field("x")].concat();
    assert_eq!(bench.answer(&bench.login("x").property(data).encode()), Some(0x82));
}

#[test]
fn mqtt_4_12_0_7_an_auth_without_a_method_is_a_protocol_error() {
    let bench = Bench::new(Version::V5);
    let packets = [
        vec![kind::AUTH, 0],
        vec![kind::AUTH, 2, 0x19, 0],
        wire::packet(kind::AUTH, [&[0x18, 4], &method("x")[..]].concat()),
    ];
    bench.assert_each_ends(0x82, &packets);
}

#[test]
fn mqtt_3_15_1_1_wrong_flags_of_auth_are_malformed() {
    let packets = [0xf1, 0xf2, 0xf4, 0xf8].map(|first| vec![first, 0]);
    Bench::new(Version::V5).assert_each_ends(0x81, &packets);
}
