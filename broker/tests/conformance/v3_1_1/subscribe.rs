//! Chapters 3.8 to 3.14: SUBSCRIBE, UNSUBSCRIBE, their answers, PINGREQ and DISCONNECT.

use crate::claims::*;

claims! { V311:
    mqtt_3_8_1_1_wrong_flags_of_subscribe_close_the_connection => subscribe::wrong_flags_of_subscribe_close_the_connection;
    mqtt_3_8_3_1_a_filter_that_is_not_utf_8_closes_the_connection => data::a_subscribed_filter_that_is_not_utf_8_closes_the_connection;
    mqtt_3_8_3_2_filters_may_have_wildcards => topics::the_single_level_wildcard_fills_a_level;
    mqtt_3_8_3_3_a_subscribe_without_a_filter_closes_the_connection => subscribe::a_subscribe_without_a_filter_closes_the_connection;
    mqtt_3_8_3_4_reserved_bits_and_a_qos_of_3_close_the_connection => subscribe::reserved_bits_of_the_options_close_the_connection;
    mqtt_3_8_4_1_every_subscribe_is_answered => subscribe::every_subscribe_is_answered_with_its_identifier;
    mqtt_3_8_4_2_suback_has_the_identifier_of_the_subscribe => subscribe::every_subscribe_is_answered_with_its_identifier;
    mqtt_3_8_4_3_a_repeated_subscription_replaces_the_first => publish::a_repeated_subscription_replaces_the_first;
    mqtt_3_8_4_3_nothing_is_lost_while_a_subscription_is_replaced => publish::nothing_is_lost_while_a_subscription_is_replaced;
    mqtt_3_8_4_4_several_filters_are_as_good_as_several_subscribes => subscribe::several_filters_are_as_good_as_several_subscribes;
    mqtt_3_8_4_5_there_is_a_code_for_each_filter => subscribe::there_is_a_code_for_each_filter_in_their_order;
    mqtt_3_8_4_6_messages_come_at_the_lower_of_both_qos => subscribe::messages_come_at_the_lower_of_both_qos;
    mqtt_3_9_3_1_the_codes_are_in_the_order_of_the_filters => subscribe::there_is_a_code_for_each_filter_in_their_order;
    mqtt_3_9_3_2_no_code_but_0_1_2_and_0x80_is_used => subscribe::there_is_a_code_for_each_filter_in_their_order;
    mqtt_3_10_1_1_wrong_flags_of_unsubscribe_close_the_connection => subscribe::wrong_flags_of_unsubscribe_close_the_connection;
    mqtt_3_10_3_1_a_filter_that_is_not_utf_8_closes_the_connection => data::an_unsubscribed_filter_that_is_not_utf_8_closes_the_connection;
    mqtt_3_10_3_2_an_unsubscribe_without_a_filter_closes_the_connection => subscribe::an_unsubscribe_without_a_filter_closes_the_connection;
    mqtt_3_10_4_1_filters_are_compared_character_by_character => subscribe::filters_of_unsubscribe_are_compared_character_by_character;
    mqtt_3_10_4_2_after_an_unsubscribe_nothing_new_comes => subscribe::after_an_unsubscribe_nothing_new_comes;
    mqtt_3_10_4_3_what_was_on_its_way_is_completed => subscribe::what_was_on_its_way_at_the_unsubscribe_is_completed;
    mqtt_3_10_4_4_every_unsubscribe_is_answered_with_its_identifier => subscribe::every_unsubscribe_is_answered_with_its_identifier;
    mqtt_3_10_4_5_an_unsubscribe_of_what_was_never_subscribed_is_answered => subscribe::an_unsubscribe_of_what_was_never_subscribed_is_answered;
    mqtt_3_10_4_6_several_filters_get_one_answer => subscribe::several_unsubscribed_filters_get_one_answer;
    mqtt_3_12_4_1_a_ping_is_answered => subscribe::a_ping_is_answered;
    mqtt_3_14_1_1_wrong_flags_of_disconnect_close_the_connection => subscribe::wrong_flags_of_disconnect_close_the_connection;
    mqtt_3_14_4_3_a_goodbye_discards_the_will => wills::a_goodbye_discards_the_will;
}
