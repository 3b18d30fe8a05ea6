//! Chapters 4 to 7: sessions, delivery, order, topics, errors.

use crate::bench::*;
use crate::claims::*;
use crate::support::*;

claims! { V311:
    mqtt_4_1_0_1_session_state_is_stored_for_the_whole_session => sessions::a_session_is_resumed_or_made_and_stored;
    mqtt_4_1_0_2_a_session_lasts_while_its_connection_does => sessions::a_session_lasts_while_its_connection_does;
    mqtt_4_3_1_1_qos_0_is_sent_once_and_without_dup => qos::qos_0_is_sent_once_and_without_dup;
    mqtt_4_3_2_1_the_sender_of_qos_1_keeps_to_its_protocol => qos::qos_1_stays_unacknowledged_until_its_puback;
    mqtt_4_3_2_2_the_receiver_of_qos_1_keeps_to_its_protocol => qos::each_qos_1_publish_is_answered_and_is_a_new_one_whatever_its_dup;
    mqtt_4_3_3_1_the_sender_of_qos_2_keeps_to_its_protocol => qos::the_sender_of_qos_2_keeps_to_its_protocol;
    mqtt_4_3_3_2_the_receiver_of_qos_2_keeps_to_its_protocol => qos::the_receiver_of_qos_2_keeps_to_its_protocol;
    mqtt_4_4_0_1_what_is_unacknowledged_is_sent_again_with_its_identifier => sessions::what_is_unacknowledged_is_sent_again_with_its_identifier;
    mqtt_4_5_0_1_a_message_is_kept_for_every_client_with_a_matching_subscription => sessions::a_message_is_kept_for_every_client_with_a_matching_subscription;
    mqtt_4_6_0_1_publishes_are_sent_again_in_their_order => sessions::what_is_unacknowledged_is_sent_again_with_its_identifier;
    mqtt_4_6_0_5_every_topic_is_ordered => sessions::every_topic_is_ordered;
    mqtt_4_6_0_6_each_publishers_messages_keep_their_order => sessions::every_topic_is_ordered;
    mqtt_4_7_1_1_a_topic_name_has_no_wildcard => publish::a_topic_name_with_a_wildcard_closes_the_connection;
    mqtt_4_7_1_2_the_multi_level_wildcard_stands_alone_at_the_end => topics::the_multi_level_wildcard_stands_alone_at_the_end;
    mqtt_4_7_1_3_the_single_level_wildcard_fills_a_level => topics::the_single_level_wildcard_fills_a_level;
    mqtt_4_7_2_1_topics_with_a_dollar_reach_no_wildcard_in_the_first_level => topics::topics_of_the_broker_reach_no_wildcard_in_the_first_level;
    mqtt_4_7_3_1_an_empty_topic_or_filter_is_refused => topics::an_empty_topic_or_filter_is_refused;
    mqtt_4_7_3_2_a_topic_or_filter_with_u0000_closes_the_connection => topics::a_topic_or_filter_with_u0000_closes_the_connection;
    mqtt_4_7_3_3_topics_and_filters_of_more_than_1024_bytes_are_refused => topics::topics_and_filters_of_more_than_1024_bytes_are_refused;
    mqtt_4_7_3_4_nothing_is_normalised_when_topics_are_matched => topics::nothing_is_normalised_when_topics_are_matched;
    mqtt_4_8_0_1_whoever_breaks_the_protocol_is_disconnected => topics::whoever_breaks_the_protocol_is_disconnected;
    mqtt_7_1_1_1_packets_may_come_in_any_pieces_over_tcp => topics::packets_may_come_in_any_pieces;
}

/// What the gate cannot hold now it does not hold half: a client with too many open QoS 2 publishes is closed.
#[test]
fn mqtt_4_8_0_2_what_cannot_be_processed_now_closes_the_connection() {
    let bench = Bench { broker: TestBroker::with(|limits| limits.inflight_in = 3), version: Version::V311 };
    let mut publisher = bench.client("publisher");
    for id in 1..=3 {
        publisher.send(Publish::new(TOPIC, "x").qos(2, id).encode(Version::V311));
        assert_eq!(publisher.receive(), Received::PubRec { id, code: 0 });
    }
    publisher.send(Publish::new(TOPIC, "x").qos(2, 4).encode(Version::V311));
    publisher.expect_end(&[]);
    bench.broker.assert_serves_others();
}

/// Nothing but MQTT 3.1.1 itself is needed to take part.
#[test]
fn mqtt_7_0_0_2_no_extension_is_needed() {
    let bench = Bench::new(Version::V311);
    let mut reader = bench.subscriber(TOPIC, 2);
    bench.client("publisher").publish(Publish::new(TOPIC, "plain").qos(2, 0));
    assert_eq!(reader.message().text(), "plain");
}
