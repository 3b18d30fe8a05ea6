//! The protocols of QoS 0, 1 and 2, both ways.

use crate::bench::*;
use crate::support::*;

pub(crate) fn qos_0_is_sent_once_and_without_dup(version: Version) {
    let bench = Bench::new(version);
    let mut reader = bench.subscriber(TOPIC, 0);
    bench.client("publisher").publish(Publish::new(TOPIC, "x").qos(2, 0));
    assert_eq!(unacknowledged(&mut reader), ("x".into(), 0, false, 0));
    reader.expect_silence();
}

pub(crate) fn qos_1_stays_unacknowledged_until_its_puback(version: Version) {
    sent_until(version, 1, kind::PUBACK);
}

pub(crate) fn qos_2_stays_unacknowledged_until_its_pubrec(version: Version) {
    sent_until(version, 2, kind::PUBREC);
}

/// First without DUP, then again with each connection until the acknowledgement, and then no more.
fn sent_until(version: Version, qos: u8, acknowledgement: u8) {
    let bench = Bench::new(version);
    let (mut reader, _) = bench.resume(&bench.lasting("x"));
    assert_eq!(reader.subscribe(&[TOPIC], qos), [qos]);
    bench.client("publisher").publish(Publish::new(TOPIC, "x").qos(qos, 0));
    let (text, sent, dup, id) = unacknowledged(&mut reader);
    assert!(!dup && id > 0 && sent == qos);
    for _ in 0..2 {
        reader.reset();
        (reader, _) = bench.resume(&bench.lasting("x"));
        assert_eq!(unacknowledged(&mut reader), (text.clone(), qos, true, id));
    }
    reader.send(wire::acknowledge(acknowledgement, id));
    if qos == 2 {
        assert_eq!(reader.receive(), Received::PubRel { id, code: 0 });
        reader.send(wire::acknowledge(kind::PUBCOMP, id));
    }
    reader.ping();
    reader.reset();
    (reader, _) = bench.resume(&bench.lasting("x"));
    reader.expect_silence();
}

pub(crate) fn each_qos_1_publish_is_answered_and_is_a_new_one_whatever_its_dup(version: Version) {
    let bench = Bench::new(version);
    let mut reader = bench.subscriber(TOPIC, 1);
    let mut publisher = bench.client("publisher");
    for (number, dup) in [false, true, false].into_iter().enumerate() {
        publisher.send(Publish { dup, ..Publish::new(TOPIC, number.to_string()).qos(1, 5) }.encode(version));
        assert_eq!(publisher.receive(), Received::PubAck { id: 5, code: 0 });
        assert_eq!(reader.message().text(), number.to_string());
    }
}

pub(crate) fn pubrel_follows_pubrec_and_stays_unacknowledged_until_pubcomp(version: Version) {
    let bench = Bench::new(version);
    let (mut reader, _) = bench.resume(&bench.lasting("x"));
    assert_eq!(reader.subscribe(&[TOPIC], 2), [2]);
    bench.client("publisher").publish(Publish::new(TOPIC, "x").qos(2, 0));
    let (.., id) = unacknowledged(&mut reader);
    for _ in 0..2 {
        // A repeated PUBREC is answered again.
        reader.send(wire::acknowledge(kind::PUBREC, id));
        assert_eq!(reader.receive(), Received::PubRel { id, code: 0 });
    }
    for _ in 0..2 {
        reader.reset();
        (reader, _) = bench.resume(&bench.lasting("x"));
        assert_eq!(reader.receive(), Received::PubRel { id, code: 0 }, "the PUBLISH is not sent again");
        reader.expect_silence();
    }
    reader.send(wire::acknowledge(kind::PUBCOMP, id));
    reader.ping();
    reader.reset();
    (reader, _) = bench.resume(&bench.lasting("x"));
    reader.expect_silence();
}

pub(crate) fn a_qos_2_publish_is_delivered_once_until_its_release(version: Version) {
    let bench = Bench::new(version);
    let mut reader = bench.subscriber(TOPIC, 2);
    let (mut publisher, _) = bench.resume(&bench.lasting("publisher"));
    let publish = Publish::new(TOPIC, "once").qos(2, 5);
    publisher.send(publish.encode(version));
    assert_eq!(publisher.receive(), Received::PubRec { id: 5, code: 0 });
    let again = Publish { dup: true, ..publish }.encode(version);
    publisher.send(&again);
    assert_eq!(publisher.receive(), Received::PubRec { id: 5, code: 0 });
    // Also over a new connection of the session.
    publisher.reset();
    let present;
    (publisher, present) = bench.resume(&bench.lasting("publisher"));
    assert!(present);
    publisher.send(&again);
    assert_eq!(publisher.receive(), Received::PubRec { id: 5, code: 0 });
    assert_eq!(reader.message().text(), "once");
    reader.expect_silence();
}

pub(crate) fn a_pubrel_is_answered_with_pubcomp(version: Version) {
    let bench = Bench::new(version);
    let mut publisher = bench.client("publisher");
    publisher.send(Publish::new(TOPIC, "x").qos(2, 9).encode(version));
    assert_eq!(publisher.receive(), Received::PubRec { id: 9, code: 0 });
    publisher.send(wire::acknowledge(kind::PUBREL, 9));
    assert_eq!(publisher.receive(), Received::PubComp { id: 9, code: 0 });
    // And so is one that comes again, or for nothing.
    for id in [9, 77] {
        publisher.send(wire::acknowledge(kind::PUBREL, id));
        let code = if version == Version::V5 { 0x92 } else { 0 };
        assert_eq!(publisher.receive(), Received::PubComp { id, code });
    }
}

pub(crate) fn after_pubcomp_the_identifier_is_free_for_a_new_publish(version: Version) {
    let bench = Bench::new(version);
    let mut reader = bench.subscriber(TOPIC, 2);
    let mut publisher = bench.client("publisher");
    for text in ["one", "two", "three"] {
        assert_eq!(publisher.publish(Publish::new(TOPIC, text).qos(2, 5)), 0);
        assert_eq!(reader.message().text(), text);
    }
}

/// All that 3.1.1 says of the sender of QoS 2 in one statement.
pub(crate) fn the_sender_of_qos_2_keeps_to_its_protocol(version: Version) {
    qos_2_stays_unacknowledged_until_its_pubrec(version);
    pubrel_follows_pubrec_and_stays_unacknowledged_until_pubcomp(version);
}

/// All that 3.1.1 says of the receiver of QoS 2 in one statement.
pub(crate) fn the_receiver_of_qos_2_keeps_to_its_protocol(version: Version) {
    a_qos_2_publish_is_delivered_once_until_its_release(version);
    a_pubrel_is_answered_with_pubcomp(version);
    after_pubcomp_the_identifier_is_free_for_a_new_publish(version);
}
