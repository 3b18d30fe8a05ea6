//! Chapters 3.1 and 3.2: CONNECT and CONNACK. What is offered, and what is not, is in `connack.rs`.

use crate::bench::*;
use crate::claims::*;
use crate::support::*;

claims! { V5:
    mqtt_3_1_0_1_the_first_packet_must_be_connect => connect::any_other_first_packet_closes_the_connection;
    mqtt_3_1_0_2_a_second_connect_is_a_protocol_error => connect::a_second_connect_closes_the_connection;
    mqtt_3_1_2_1_another_protocol_name_closes_the_connection => connect::another_protocol_name_closes_the_connection;
    mqtt_3_1_2_3_the_reserved_connect_flag_is_malformed => connect::the_reserved_connect_flag_closes_the_connection;
    mqtt_3_1_2_4_a_clean_start_discards_the_session => sessions::a_clean_connect_discards_the_session;
    mqtt_3_1_2_5_without_clean_start_the_session_is_resumed => sessions::a_session_is_resumed_or_made_and_stored;
    mqtt_3_1_2_6_a_new_session_is_made_where_there_is_none => sessions::a_new_session_is_made_where_there_is_none;
    mqtt_3_1_2_7_a_will_is_stored_and_published => wills::a_will_is_published_when_the_connection_is_lost_and_not_after_a_goodbye;
    mqtt_3_1_2_9_a_will_flag_without_topic_or_message_is_malformed => wills::a_will_flag_without_topic_or_message_closes_the_connection;
    mqtt_3_1_2_9_the_wills_qos_and_retain_flag_are_used => wills::the_wills_qos_and_retain_flag_are_used;
    mqtt_3_1_2_10_a_will_is_published_once => wills::a_will_is_published_once;
    mqtt_3_1_2_11_a_will_qos_without_the_flag_is_malformed => wills::a_will_qos_without_the_flag_closes_the_connection;
    mqtt_3_1_2_12_a_will_qos_of_3_is_malformed => wills::a_will_qos_of_3_closes_the_connection;
    mqtt_3_1_2_13_a_will_retain_without_the_flag_is_malformed => wills::a_will_retain_without_the_flag_closes_the_connection;
    mqtt_3_1_2_14_a_will_without_retain_is_not_kept => wills::a_will_without_retain_is_not_kept;
    mqtt_3_1_2_15_a_will_with_retain_is_kept => wills::a_will_with_retain_is_kept;
    mqtt_3_1_2_16_a_user_name_without_its_flag_is_malformed => connect::a_user_name_without_its_flag_closes_the_connection;
    mqtt_3_1_2_17_a_missing_user_name_is_malformed => connect::a_missing_user_name_closes_the_connection;
    mqtt_3_1_2_18_a_password_without_its_flag_is_malformed => connect::a_password_without_its_flag_closes_the_connection;
    mqtt_3_1_2_19_a_missing_password_is_malformed => connect::a_missing_password_closes_the_connection;
    mqtt_3_1_2_22_a_client_silent_for_one_and_a_half_keep_alives_is_disconnected => connect::a_client_silent_for_one_and_a_half_keep_alives_is_disconnected;
    mqtt_3_1_3_1_the_fields_are_read_in_their_order => connect::the_fields_are_read_in_their_order;
    mqtt_3_1_3_2_the_client_id_tells_the_sessions_apart => connect::the_client_id_tells_the_sessions_apart;
    mqtt_3_1_3_3_a_connect_without_a_client_id_field_is_malformed => connect::a_connect_without_a_client_id_field_closes_the_connection;
    mqtt_3_1_3_4_a_client_id_that_is_not_utf_8_is_malformed => data::a_client_id_that_is_not_utf_8_closes_the_connection;
    mqtt_3_1_3_5_ids_of_1_to_23_digits_and_letters_are_accepted => connect::ids_of_1_to_23_digits_and_letters_are_accepted;
    mqtt_3_1_3_6_a_client_without_an_id_is_given_one_of_its_own => connect::a_client_without_an_id_is_given_one_of_its_own;
    mqtt_3_1_3_8_a_rejected_client_id_gets_0x85_and_the_connection_is_closed => connect::a_rejected_client_id_is_answered_and_the_connection_closed;
    mqtt_3_1_3_11_a_will_topic_that_is_not_utf_8_is_malformed => data::a_will_topic_that_is_not_utf_8_closes_the_connection;
    mqtt_3_1_3_12_a_user_name_that_is_not_utf_8_is_malformed => data::a_user_name_that_is_not_utf_8_closes_the_connection;
    mqtt_3_1_4_1_a_connect_that_does_not_conform_is_malformed => connect::a_connect_that_does_not_conform_closes_the_connection;
    mqtt_3_1_4_3_a_client_that_is_connected_already_is_told_0x8e => connect::a_client_that_is_connected_already_is_replaced;
    mqtt_3_1_4_4_clean_start_is_processed => connack::a_clean_connect_finds_no_session;
    mqtt_3_1_4_5_a_connect_that_is_accepted_is_answered_with_0 => connack::a_connect_that_is_accepted_is_answered_with_0;
    mqtt_3_1_4_6_what_follows_a_refused_connect_is_not_processed => connect::what_follows_a_refused_connect_is_not_processed;
    mqtt_3_2_0_1_connack_comes_before_anything_else => connack::connack_comes_before_anything_else;
    mqtt_3_2_2_2_a_clean_start_finds_no_session => connack::a_clean_connect_finds_no_session;
    mqtt_3_2_2_3_a_stored_session_is_announced => connack::a_stored_session_is_announced;
    mqtt_3_2_2_3_without_a_stored_session_none_is_announced => connack::without_a_stored_session_none_is_announced;
    mqtt_3_2_2_6_a_refusal_announces_no_session => connack::a_refusal_announces_no_session_and_closes;
    mqtt_3_2_2_7_after_a_refusal_the_connection_is_closed => connack::a_refusal_announces_no_session_and_closes;
}

#[test]
fn mqtt_3_1_2_2_another_protocol_version_gets_0x84() {
    let bench = Bench::new(Version::V5);
    for level in [6, 7, 0x7f] {
        let body = [wire::field("MQTT"), vec![level, 2, 0, 60, 0], wire::field("x")].concat();
        assert_eq!(bench.answer(&wire::packet(kind::CONNECT, body)), Some(0x84), "{level}");
    }
}
