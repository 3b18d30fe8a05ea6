//! Chapter 4: sessions, delivery, order, topics, flow control, errors.

use crate::bench::*;
use crate::claims::*;
use crate::support::broker::person;
use crate::support::*;

claims! { V5:
    mqtt_4_1_0_1_a_session_lasts_while_its_connection_does => sessions::a_session_lasts_while_its_connection_does;
    mqtt_4_2_0_1_packets_may_come_in_any_pieces_over_tcp => topics::packets_may_come_in_any_pieces;
    mqtt_4_3_1_1_qos_0_is_sent_once_and_without_dup => qos::qos_0_is_sent_once_and_without_dup;
    mqtt_4_3_2_1_each_new_qos_1_publish_has_an_unused_identifier => format::the_servers_identifiers_are_not_zero_and_not_in_use;
    mqtt_4_3_2_2_the_first_publish_of_qos_1_is_without_dup => publish::dup_is_not_passed_on;
    mqtt_4_3_2_4_each_qos_1_publish_is_answered_with_its_identifier => format::acknowledgements_have_the_identifier_of_the_publish;
    mqtt_4_3_2_3_qos_1_stays_unacknowledged_until_its_puback => qos::qos_1_stays_unacknowledged_until_its_puback;
    mqtt_4_3_2_5_each_qos_1_publish_is_a_new_one_whatever_its_dup => qos::each_qos_1_publish_is_answered_and_is_a_new_one_whatever_its_dup;
    mqtt_4_3_3_1_each_new_qos_2_publish_has_an_unused_identifier => format::the_servers_identifiers_are_not_zero_and_not_in_use;
    mqtt_4_3_3_2_the_first_publish_of_qos_2_is_without_dup => publish::dup_is_set_when_a_publish_is_sent_again;
    mqtt_4_3_3_4_pubrec_is_answered_with_pubrel => qos::pubrel_follows_pubrec_and_stays_unacknowledged_until_pubcomp;
    mqtt_4_3_3_6_a_released_publish_is_not_sent_again => qos::pubrel_follows_pubrec_and_stays_unacknowledged_until_pubcomp;
    mqtt_4_3_3_8_each_qos_2_publish_is_answered_with_its_identifier => format::acknowledgements_have_the_identifier_of_the_publish;
    mqtt_4_3_3_3_qos_2_stays_unacknowledged_until_its_pubrec => qos::qos_2_stays_unacknowledged_until_its_pubrec;
    mqtt_4_3_3_5_pubrel_stays_unacknowledged_until_pubcomp => qos::pubrel_follows_pubrec_and_stays_unacknowledged_until_pubcomp;
    mqtt_4_3_3_10_a_qos_2_publish_is_delivered_once_until_its_release => qos::a_qos_2_publish_is_delivered_once_until_its_release;
    mqtt_4_3_3_11_a_pubrel_is_answered_with_pubcomp => qos::a_pubrel_is_answered_with_pubcomp;
    mqtt_4_3_3_12_after_pubcomp_the_identifier_is_free_for_a_new_publish => qos::after_pubcomp_the_identifier_is_free_for_a_new_publish;
    mqtt_4_4_0_1_what_is_unacknowledged_is_sent_again_and_only_on_reconnect => sessions::what_is_unacknowledged_is_sent_again_with_its_identifier;
    mqtt_4_5_0_1_a_message_is_kept_for_every_client_with_a_matching_subscription => sessions::a_message_is_kept_for_every_client_with_a_matching_subscription;
    mqtt_4_6_0_6_every_topic_is_ordered => sessions::messages_of_qos_1_and_2_are_stored_for_an_absent_client;
    mqtt_4_6_0_5_each_publishers_messages_keep_their_order => sessions::every_topic_is_ordered;
    mqtt_4_7_0_1_a_topic_name_has_no_wildcard => publish::a_topic_name_with_a_wildcard_closes_the_connection;
    mqtt_4_7_1_1_the_multi_level_wildcard_stands_alone_at_the_end => topics::the_multi_level_wildcard_stands_alone_at_the_end;
    mqtt_4_7_1_2_the_single_level_wildcard_fills_a_level => topics::the_single_level_wildcard_fills_a_level;
    mqtt_4_7_2_1_topics_with_a_dollar_reach_no_wildcard_in_the_first_level => topics::topics_of_the_broker_reach_no_wildcard_in_the_first_level;
    mqtt_4_7_3_1_an_empty_topic_or_filter_is_refused => topics::an_empty_topic_or_filter_is_refused;
    mqtt_4_7_3_2_a_topic_or_filter_with_u0000_is_malformed => topics::a_topic_or_filter_with_u0000_closes_the_connection;
    mqtt_4_7_3_3_topics_and_filters_of_more_than_1024_bytes_are_refused => topics::topics_and_filters_of_more_than_1024_bytes_are_refused;
    mqtt_4_7_3_4_nothing_is_normalised_when_topics_are_matched => topics::nothing_is_normalised_when_topics_are_matched;
    mqtt_4_13_1_1_whoever_breaks_the_protocol_is_disconnected => topics::whoever_breaks_the_protocol_is_disconnected;
}

/// An acknowledgement of the client with a reason code.
fn refuse(packet: u8, id: u16, code: u8) -> Vec<u8> {
    let [high, low] = id.to_be_bytes();
    wire::packet(packet, [high, low, code])
}

#[test]
fn mqtt_4_3_3_9_after_a_refusal_the_identifier_is_free_for_a_new_publish() {
    const COMMAND: &str = "fleet/v1/acme/operator/otto/command";
    let bench = Bench::new(Version::V5);
    let mut watcher = bench.subscriber(COMMAND, 2);
    let mut otto = bench.connect(&person(Version::V5, "otto"));
    for round in ["one", "two"] {
        otto.send(Publish::new("not/allowed", "x").qos(2, 5).encode(Version::V5));
        assert_eq!(otto.receive(), Received::PubRec { id: 5, code: 0x87 });
        assert_eq!(otto.publish(Publish::new(COMMAND, round).qos(2, 5)), 0);
        assert_eq!(watcher.message().text(), round);
    }
}

#[test]
fn mqtt_4_4_0_2_what_the_client_refuses_is_not_sent_again() {
    let bench = Bench::new(Version::V5);
    let (mut reader, _) = bench.resume(&bench.lasting("x").property(property::receive_maximum(2)));
    assert_eq!(reader.subscribe(&[TOPIC], 2), [2]);
    let mut publisher = bench.client("publisher");
    for number in 0..6 {
        publisher.publish(Publish::new(TOPIC, number.to_string()).qos(1 + number % 2, 0));
    }
    for _ in 0..6 {
        let (_, qos, _, id) = unacknowledged(&mut reader);
        reader.send(refuse(if qos == 1 { kind::PUBACK } else { kind::PUBREC }, id, 0x97));
    }
    reader.expect_silence();
    reader.reset();
    let (mut reader, present) = bench.resume(&bench.lasting("x"));
    assert!(present);
    reader.expect_silence();
}

/// The open publishes of a client with a Receive Maximum of 2, to whom six were sent.
fn window_of_two(bench: &Bench) -> (Client, Client, Vec<u16>) {
    let (mut reader, _) = bench.resume(&bench.lasting("x").property(property::receive_maximum(2)));
    assert_eq!(reader.subscribe(&[TOPIC], 2), [2]);
    let mut publisher = bench.client("publisher");
    for _ in 0..6 {
        publisher.publish(Publish::new(TOPIC, "x").qos(2, 0));
    }
    let open = vec![unacknowledged(&mut reader).3, unacknowledged(&mut reader).3];
    reader.expect_silence();
    (reader, publisher, open)
}

#[test]
fn mqtt_3_3_4_9_no_more_than_the_receive_maximum_is_unacknowledged() {
    let bench = Bench::new(Version::V5);
    let (mut reader, _publisher, open) = window_of_two(&bench);
    // PUBREC alone frees no place, PUBCOMP does; a refusal does at once.
    reader.send(wire::acknowledge(kind::PUBREC, open[0]));
    assert_eq!(reader.receive(), Received::PubRel { id: open[0], code: 0 });
    reader.expect_silence();
    reader.send(wire::acknowledge(kind::PUBCOMP, open[0]));
    unacknowledged(&mut reader);
    reader.expect_silence();
    reader.send(refuse(kind::PUBREC, open[1], 0x80));
    unacknowledged(&mut reader);
    reader.expect_silence();
}

#[test]
fn mqtt_3_3_4_10_a_full_window_holds_back_nothing_but_publishes() {
    let bench = Bench::new(Version::V5);
    let (mut reader, mut publisher, open) = window_of_two(&bench);
    reader.ping();
    assert_eq!(reader.subscribe(&["another"], 0), [0]);
    assert_eq!(reader.publish(Publish::new("own", "x").qos(1, 0)), 0);
    assert_eq!(reader.publish(Publish::new("own", "x").qos(2, 0)), 0);
    reader.send(wire::acknowledge(kind::PUBREC, open[1]));
    assert_eq!(reader.receive(), Received::PubRel { id: open[1], code: 0 });
    assert_eq!(reader.unsubscribe(&["another"]), [0]);
    publisher.ping();
    // After a resume with a window of one, too: the release does not wait behind the publish.
    reader.reset();
    let (mut reader, _) = bench.resume(&bench.lasting("x").property(property::receive_maximum(1)));
    assert_eq!(reader.receive(), Received::PubRel { id: open[1], code: 0 });
    reader.send(wire::acknowledge(kind::PUBCOMP, open[1]));
    let (.., dup, id) = unacknowledged(&mut reader);
    assert_eq!((dup, id), (true, open[0]));
}

#[test]
fn mqtt_4_9_0_1_the_first_window_is_the_receive_maximum() {
    let bench = Bench::new(Version::V5);
    // Asserted within.
    let (reader, _publisher, _) = window_of_two(&bench);
    reader.reset();
    // A new connection begins with a new window.
    let (mut reader, _) = bench.resume(&bench.lasting("x").property(property::receive_maximum(3)));
    for _ in 0..3 {
        unacknowledged(&mut reader);
    }
    reader.expect_silence();
}

#[test]
fn mqtt_4_9_0_3_with_a_full_window_everything_else_is_answered() {
    let bench = Bench::new(Version::V5);
    let (mut reader, _publisher, open) = window_of_two(&bench);
    reader.send(wire::acknowledge(kind::PUBREC, open[0]));
    reader.send([kind::PINGREQ, 0]);
    assert_eq!(reader.receive(), Received::PubRel { id: open[0], code: 0 });
    assert_eq!(reader.receive(), Received::PingResp);
}
