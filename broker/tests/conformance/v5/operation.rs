//! Chapter 4: sessions, delivery, order, topics, flow control, errors.

use crate::claims::*;

claims! { V5:
    mqtt_4_1_0_1_a_session_lasts_while_its_connection_does => sessions::a_session_lasts_while_its_connection_does;
    mqtt_4_2_0_1_packets_may_come_in_any_pieces_over_tcp => topics::packets_may_come_in_any_pieces;
    mqtt_4_3_1_1_qos_0_is_sent_once_and_without_dup => qos::qos_0_is_sent_once_and_without_dup;
    mqtt_4_3_2_1_each_new_qos_1_publish_has_an_unused_identifier => format::the_servers_identifiers_are_not_zero_and_not_in_use;
    mqtt_4_3_2_3_qos_1_stays_unacknowledged_until_its_puback => qos::qos_1_stays_unacknowledged_until_its_puback;
    mqtt_4_3_2_5_each_qos_1_publish_is_a_new_one_whatever_its_dup => qos::each_qos_1_publish_is_answered_and_is_a_new_one_whatever_its_dup;
    mqtt_4_3_3_3_qos_2_stays_unacknowledged_until_its_pubrec => qos::qos_2_stays_unacknowledged_until_its_pubrec;
    mqtt_4_3_3_5_pubrel_stays_unacknowledged_until_pubcomp => qos::pubrel_follows_pubrec_and_stays_unacknowledged_until_pubcomp;
    mqtt_4_3_3_10_a_qos_2_publish_is_delivered_once_until_its_release => qos::a_qos_2_publish_is_delivered_once_until_its_release;
    mqtt_4_3_3_11_a_pubrel_is_answered_with_pubcomp => qos::a_pubrel_is_answered_with_pubcomp;
    mqtt_4_3_3_12_after_pubcomp_the_identifier_is_free_for_a_new_publish => qos::after_pubcomp_the_identifier_is_free_for_a_new_publish;
    mqtt_4_4_0_1_what_is_unacknowledged_is_sent_again_and_only_on_reconnect => sessions::what_is_unacknowledged_is_sent_again_with_its_identifier;
    mqtt_4_5_0_1_a_message_is_kept_for_every_client_with_a_matching_subscription => sessions::a_message_is_kept_for_every_client_with_a_matching_subscription;
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
