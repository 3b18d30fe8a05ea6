//! Chapters 3.3 to 3.7: PUBLISH and its acknowledgements.

use crate::bench::*;
use crate::claims::subscribe::subscribe;
use crate::claims::*;
use crate::support::broker::person;
use crate::support::*;

claims! { V5:
    mqtt_3_3_1_1_dup_is_set_when_a_publish_is_sent_again => publish::dup_is_set_when_a_publish_is_sent_again;
    mqtt_3_3_1_2_dup_with_qos_0_is_malformed => publish::dup_with_qos_0_closes_the_connection;
    mqtt_3_3_1_3_dup_is_not_passed_on => publish::dup_is_not_passed_on;
    mqtt_3_3_1_4_both_qos_bits_are_malformed => publish::both_qos_bits_close_the_connection;
    mqtt_3_3_1_5_a_retained_publish_replaces_the_last_one_and_keeps_its_qos => retained::a_retained_publish_replaces_the_last_one_and_keeps_its_qos;
    mqtt_3_3_1_6_an_empty_retained_publish_is_delivered_and_removes_the_retained_one => retained::an_empty_retained_publish_is_delivered_and_removes_the_retained_one;
    mqtt_3_3_1_7_an_empty_retained_publish_is_not_kept => retained::an_empty_retained_publish_is_not_kept;
    mqtt_3_3_1_8_a_publish_without_retain_leaves_the_retained_one => retained::a_publish_without_retain_leaves_the_retained_one;
    mqtt_3_3_1_9_retain_handling_0_sends_the_last_message_of_each_topic => retained::a_new_subscription_is_sent_the_last_message_of_each_topic;
    mqtt_3_3_1_12_without_retain_as_published_the_flag_is_not_set => retained::retain_is_not_set_on_what_matches_an_established_subscription;
    mqtt_3_3_2_1_a_topic_name_that_is_not_utf_8_is_malformed => data::a_topic_name_that_is_not_utf_8_closes_the_connection;
    mqtt_3_3_2_2_a_topic_name_with_a_wildcard_is_refused_with_0x90 => publish::a_topic_name_with_a_wildcard_closes_the_connection;
    mqtt_3_3_2_3_the_topic_name_arrives_as_published_and_matches_the_filter => publish::the_topic_name_arrives_as_published_and_matches_the_filter;
    mqtt_3_3_4_1_the_answer_to_a_publish_follows_from_its_qos => publish::the_answer_to_a_publish_follows_from_its_qos;
    mqtt_3_3_4_2_overlapping_subscriptions_deliver_at_the_highest_qos => publish::overlapping_subscriptions_deliver_once_at_the_highest_qos;
    mqtt_3_6_1_1_wrong_flags_of_pubrel_are_malformed => subscribe::wrong_flags_of_pubrel_close_the_connection;
}

const RETAIN_AS_PUBLISHED: u8 = 0x08;
const ONLY_IF_NEW: u8 = 0x10;
const NEVER: u8 = 0x20;

fn keep(bench: &Bench, text: &str) {
    assert_eq!(bench.client("keeper").publish(Publish::new(KEPT, text).qos(1, 0).retained()), 0);
}

#[test]
fn mqtt_3_3_1_10_retain_handling_1_sends_them_if_the_subscription_is_new() {
    let bench = Bench::new(Version::V5);
    keep(&bench, "kept");
    let mut reader = bench.client("x");
    assert_eq!(subscribe(&mut reader, Version::V5, &[(KEPT, 1 | ONLY_IF_NEW)]), [1]);
    assert!(reader.message().retain);
    for qos in [1, 2] {
        assert_eq!(subscribe(&mut reader, Version::V5, &[(KEPT, qos | ONLY_IF_NEW)]), [qos]);
        reader.expect_silence();
    }
    reader.unsubscribe(&[KEPT]);
    assert_eq!(subscribe(&mut reader, Version::V5, &[(KEPT, 1 | ONLY_IF_NEW)]), [1]);
    assert_eq!(reader.message().text(), "kept", "new again");
    // One that was resumed is not new.
    let (mut lasting, _) = bench.resume(&bench.lasting("lasting"));
    assert_eq!(lasting.subscribe(&[KEPT], 1), [1]);
    assert_eq!(lasting.message().text(), "kept");
    leave(lasting);
    let (mut lasting, present) = bench.resume(&bench.lasting("lasting"));
    assert!(present);
    assert_eq!(subscribe(&mut lasting, Version::V5, &[(KEPT, 1 | ONLY_IF_NEW)]), [1]);
    lasting.expect_silence();
}

#[test]
fn mqtt_3_3_1_11_retain_handling_2_sends_none() {
    let bench = Bench::new(Version::V5);
    keep(&bench, "kept");
    let mut reader = bench.client("x");
    assert_eq!(subscribe(&mut reader, Version::V5, &[(KEPT, 1 | NEVER)]), [1]);
    reader.expect_silence();
    // There is no Retain Handling 3.
    bench.assert_each_ends(0x82, &[wire::subscribe(Version::V5, 1, &[(KEPT, 0x30)], &[])]);
}

#[test]
fn mqtt_3_3_1_13_with_retain_as_published_the_flag_is_as_published() {
    let bench = Bench::new(Version::V5);
    let mut reader = bench.client("x");
    assert_eq!(subscribe(&mut reader, Version::V5, &[(KEPT, 1 | RETAIN_AS_PUBLISHED)]), [1]);
    let mut publisher = bench.client("publisher");
    for retain in [true, false] {
        publisher.publish(Publish { retain, ..Publish::new(KEPT, "x").qos(1, 0) });
        assert_eq!(reader.message().retain, retain);
    }
}

#[test]
fn mqtt_3_3_4_3_a_subscription_identifier_gets_0xa1() {
    let packet = wire::subscribe(Version::V5, 1, &[(TOPIC, 1)], &property::subscription_identifier(7));
    Bench::new(Version::V5).assert_each_ends(0xa1, &[packet]);
}

#[test]
fn mqtt_3_3_4_6_a_subscription_identifier_in_a_publish_is_a_protocol_error() {
    let publish = Publish::new(TOPIC, "x").property(property::subscription_identifier(7));
    Bench::new(Version::V5).assert_each_ends(0x82, &[publish.encode(Version::V5)]);
}

#[test]
fn mqtt_3_3_4_7_more_open_publishes_than_announced_get_0x93() {
    let bench = Bench { broker: TestBroker::with(|limits| limits.inflight_in = 3), version: Version::V5 };
    let mut publisher = bench.client("publisher");
    for id in 1..=3 {
        publisher.send(Publish::new(TOPIC, "x").qos(2, id).encode(Version::V5));
        assert_eq!(publisher.receive(), Received::PubRec { id, code: 0 });
    }
    // QoS 1 is answered at once and takes no place.
    assert_eq!(publisher.publish(Publish::new(TOPIC, "x").qos(1, 9)), 0);
    publisher.send(Publish::new(TOPIC, "x").qos(2, 4).encode(Version::V5));
    publisher.expect_end(&[0x93]);
}

/// That they are codes of their packet is asserted for every acknowledgement that any of these tests receives.
#[test]
fn mqtt_3_4_2_1_acknowledgements_have_a_code_of_theirs_and_nothing_else() {
    let bench = Bench::new(Version::V5);
    let packets = [
        Publish::new("fleet/v1/acme/operator/otto/command", "x").qos(1, 1).encode(Version::V5),
        Publish::new("not/allowed", "x").qos(1, 2).encode(Version::V5),
        Publish::new("fleet/v1/acme/operator/otto/command", "x").qos(2, 3).encode(Version::V5),
        Publish::new("not/allowed", "x").qos(2, 4).encode(Version::V5),
        wire::acknowledge(kind::PUBREL, 3),
        wire::acknowledge(kind::PUBREL, 4),
        wire::acknowledge(kind::PUBREC, 77),
    ];
    // 0 is left out; there is no reason string and no user property, asked for or not.
    let expected: [(u8, Vec<u8>); 7] = [
        (0x40, vec![0, 1]),
        (0x40, vec![0, 2, 0x87]),
        (0x50, vec![0, 3]),
        (0x50, vec![0, 4, 0x87]),
        (0x70, vec![0, 3]),
        (0x70, vec![0, 4, 0x92]),
        (0x62, vec![0, 77, 0x92]),
    ];
    let otto = person(Version::V5, "otto");
    for problem_information in [None, Some(0), Some(1)] {
        let property = problem_information.map_or(vec![], |asked| vec![0x17, asked]);
        assert_eq!(bench.raw(&otto.clone().property(property), &packets.concat(), 7), expected);
    }
}

#[test]
fn mqtt_3_1_2_29_without_problem_information_answers_have_no_reason_string() {
    let bench = Bench::new(Version::V5);
    let packets = [
        Publish::new("not/allowed", "x").qos(1, 2).encode(Version::V5),
        wire::subscribe(Version::V5, 3, &[("not/allowed", 1), ("$share/a/b", 1)], &[]),
        wire::unsubscribe(Version::V5, 4, &["never"]),
    ];
    let otto = person(Version::V5, "otto").property(vec![0x17, 0]);
    let expected: [(u8, Vec<u8>); 3] =
        [(0x40, vec![0, 2, 0x87]), (0x90, vec![0, 3, 0, 0x87, 0x9e]), (0xb0, vec![0, 4, 0, 0x11])];
    assert_eq!(bench.raw(&otto, &packets.concat(), 3), expected);
}
