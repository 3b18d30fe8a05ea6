//! Fixed headers and packet identifiers.

use std::collections::BTreeSet;

use crate::bench::*;
use crate::support::*;

pub(crate) fn wrong_reserved_flags_close_the_connection(version: Version) {
    let bench = Bench::new(version);
    let id: &[u8] = &[0, 1];
    let mut packets = Vec::new();
    for first in [0x41, 0x51, 0x60, 0x63, 0x71] {
        packets.push(wire::packet(first, id));
    }
    for first in [0x80, 0x83, 0x8a] {
        let mut packet = wire::subscribe(version, 1, &[(TOPIC, 0)], &[]);
        packet[0] = first;
        packets.push(packet);
    }
    for first in [0xa0, 0xa3] {
        let mut packet = wire::unsubscribe(version, 1, &[TOPIC]);
        packet[0] = first;
        packets.push(packet);
    }
    packets.extend([0xc1, 0xe1, 0xe8].map(|first| vec![first, 0]));
    // No packet type at all.
    packets.push(vec![0x00, 0]);
    if version == Version::V5 {
        packets.push(vec![0xf1, 0]);
    }
    bench.assert_each_ends(0x81, &packets);
    let mut connect = bench.login("x").encode();
    connect[0] = 0x11;
    assert_eq!(bench.answer(&connect), None);
}

/// The flags of what the server sends are asserted for every packet that any of these tests receives.
pub(crate) fn the_servers_own_packets_have_the_flags_of_their_type(version: Version) {
    let bench = Bench::new(version);
    let packets = [
        wire::subscribe(version, 1, &[(TOPIC, 2)], &[]),
        vec![kind::PINGREQ, 0],
        Publish::new("other", "x").qos(1, 2).encode(version),
        Publish::new("other", "x").qos(2, 3).encode(version),
        wire::acknowledge(kind::PUBREL, 3),
        wire::acknowledge(kind::PUBREC, 9),
        wire::unsubscribe(version, 4, &[TOPIC]),
    ];
    let frames = bench.raw(&bench.login("raw"), &packets.concat(), packets.len());
    let firsts: Vec<u8> = frames.iter().map(|(first, _)| *first).collect();
    assert_eq!(firsts, [0x90, 0xd0, 0x40, 0x50, 0x70, 0x62, 0xb0]);
}

pub(crate) fn a_packet_identifier_of_0_closes_the_connection(version: Version) {
    let packets = [
        wire::subscribe(version, 0, &[(TOPIC, 0)], &[]),
        wire::unsubscribe(version, 0, &[TOPIC]),
        Publish::new(TOPIC, "x").qos(1, 0).encode(version),
        Publish::new(TOPIC, "x").qos(2, 0).encode(version),
    ];
    Bench::new(version).assert_each_ends(0x82, &packets);
}

pub(crate) fn the_servers_identifiers_are_not_zero_and_not_in_use(version: Version) {
    let bench = Bench::new(version);
    let mut reader = bench.subscriber(TOPIC, 2);
    let mut publisher = bench.client("publisher");
    let mut open = BTreeSet::new();
    for round in 0..3 {
        for number in 0..20 {
            assert_eq!(publisher.publish(Publish::new(TOPIC, "x").qos(1 + number % 2, 0)), 0);
        }
        for _ in 0..20 {
            let (_, qos, _, id) = unacknowledged(&mut reader);
            assert!(id > 0 && open.insert((id, qos)), "{id} is in use, round {round}");
            assert_eq!(open.iter().filter(|(of, _)| *of == id).count(), 1);
        }
        // Every other one comes to its end; the others stay in use.
        let ended: Vec<(u16, u8)> = open.iter().copied().step_by(2).collect();
        for (id, qos) in ended {
            if qos == 1 {
                reader.send(wire::acknowledge(kind::PUBACK, id));
            } else {
                reader.send(wire::acknowledge(kind::PUBREC, id));
                reader.receive_first(&Received::PubRel { id, code: 0 });
                reader.send(wire::acknowledge(kind::PUBCOMP, id));
            }
            open.remove(&(id, qos));
        }
        reader.ping();
    }
}

pub(crate) fn a_publish_of_qos_0_has_no_packet_identifier(version: Version) {
    let bench = Bench::new(version);
    let packets =
        [wire::subscribe(version, 1, &[(TOPIC, 2)], &[]), Publish::new(TOPIC, "payload").encode(version)];
    let frames = bench.raw(&bench.login("raw"), &packets.concat(), 2);
    let properties: &[u8] = if version == Version::V5 { &[0] } else { &[] };
    assert_eq!(frames[1], (0x30, [&wire::field(TOPIC)[..], properties, b"payload"].concat()));
}

pub(crate) fn acknowledgements_have_the_identifier_of_the_publish(version: Version) {
    let bench = Bench::new(version);
    let mut publisher = bench.client("publisher");
    for id in [1, 255, 256, 65_535] {
        publisher.send(Publish::new(TOPIC, "x").qos(1, id).encode(version));
        assert_eq!(publisher.receive(), Received::PubAck { id, code: 0 });
        publisher.send(Publish::new(TOPIC, "x").qos(2, id).encode(version));
        assert_eq!(publisher.receive(), Received::PubRec { id, code: 0 });
        publisher.send(wire::acknowledge(kind::PUBREL, id));
        assert_eq!(publisher.receive(), Received::PubComp { id, code: 0 });
    }
    let mut reader = bench.subscriber(TOPIC, 2);
    publisher.publish(Publish::new(TOPIC, "x").qos(2, 0));
    let (.., id) = unacknowledged(&mut reader);
    reader.send(wire::acknowledge(kind::PUBREC, id));
    assert_eq!(reader.receive(), Received::PubRel { id, code: 0 });
}

pub(crate) fn suback_and_unsuback_have_the_identifier_of_their_request(version: Version) {
    let bench = Bench::new(version);
    let mut client = bench.client("x");
    for id in [1, 256, 65_535] {
        client.send(wire::subscribe(version, id, &[(TOPIC, 1)], &[]));
        assert_eq!(client.receive(), Received::SubAck { id, codes: vec![1] });
        client.send(wire::unsubscribe(version, id, &[TOPIC]));
        assert!(matches!(client.receive(), Received::UnsubAck { id: of, .. } if of == id));
    }
}
