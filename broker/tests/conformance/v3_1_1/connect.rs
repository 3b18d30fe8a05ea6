//! Chapters 3.1 and 3.2: CONNECT and CONNACK.

use crate::bench::*;
use crate::claims::*;
use crate::support::*;

claims! { V311:
    mqtt_3_1_0_1_the_first_packet_must_be_connect => connect::any_other_first_packet_closes_the_connection;
    mqtt_3_1_0_2_a_second_connect_closes_the_connection => connect::a_second_connect_closes_the_connection;
    mqtt_3_1_2_1_another_protocol_name_closes_the_connection => connect::another_protocol_name_closes_the_connection;
    mqtt_3_1_2_3_the_reserved_connect_flag_closes_the_connection => connect::the_reserved_connect_flag_closes_the_connection;
    mqtt_3_1_2_4_a_session_is_resumed_or_made_and_stored => sessions::a_session_is_resumed_or_made_and_stored;
    mqtt_3_1_2_5_qos_1_and_2_are_stored_for_an_absent_client => sessions::messages_of_qos_1_and_2_are_stored_for_an_absent_client;
    mqtt_3_1_2_6_a_clean_session_discards_the_last_and_ends_with_the_connection => sessions::a_clean_connect_discards_the_session;
    mqtt_3_1_2_7_retained_messages_stay_when_a_session_ends => retained::retained_messages_stay_when_their_publishers_session_ends;
    mqtt_3_1_2_8_a_will_is_published_when_the_connection_is_lost_and_not_after_a_goodbye => wills::a_will_is_published_when_the_connection_is_lost_and_not_after_a_goodbye;
    mqtt_3_1_2_9_a_will_flag_without_topic_or_message_closes_the_connection => wills::a_will_flag_without_topic_or_message_closes_the_connection;
    mqtt_3_1_2_10_a_will_is_published_once => wills::a_will_is_published_once;
    mqtt_3_1_2_11_will_fields_without_the_flag_close_the_connection => wills::will_fields_without_the_flag_close_the_connection;
    mqtt_3_1_2_12_without_the_flag_no_will_is_published => wills::without_the_flag_no_will_is_published;
    mqtt_3_1_2_13_a_will_qos_without_the_flag_closes_the_connection => wills::a_will_qos_without_the_flag_closes_the_connection;
    mqtt_3_1_2_14_a_will_qos_of_3_closes_the_connection => wills::a_will_qos_of_3_closes_the_connection;
    mqtt_3_1_2_15_a_will_retain_without_the_flag_closes_the_connection => wills::a_will_retain_without_the_flag_closes_the_connection;
    mqtt_3_1_2_16_a_will_without_retain_is_not_kept => wills::a_will_without_retain_is_not_kept;
    mqtt_3_1_2_17_a_will_with_retain_is_kept => wills::a_will_with_retain_is_kept;
    mqtt_3_1_2_18_a_user_name_without_its_flag_closes_the_connection => connect::a_user_name_without_its_flag_closes_the_connection;
    mqtt_3_1_2_19_a_missing_user_name_closes_the_connection => connect::a_missing_user_name_closes_the_connection;
    mqtt_3_1_2_20_a_password_without_its_flag_closes_the_connection => connect::a_password_without_its_flag_closes_the_connection;
    mqtt_3_1_2_21_a_missing_password_closes_the_connection => connect::a_missing_password_closes_the_connection;
    mqtt_3_1_2_24_a_client_silent_for_one_and_a_half_keep_alives_is_disconnected => connect::a_client_silent_for_one_and_a_half_keep_alives_is_disconnected;
    mqtt_3_1_3_1_the_fields_are_read_in_their_order => connect::the_fields_are_read_in_their_order;
    mqtt_3_1_3_2_the_client_id_tells_the_sessions_apart => connect::the_client_id_tells_the_sessions_apart;
    mqtt_3_1_3_3_a_connect_without_a_client_id_field_closes_the_connection => connect::a_connect_without_a_client_id_field_closes_the_connection;
    mqtt_3_1_3_4_a_client_id_that_is_not_utf_8_closes_the_connection => data::a_client_id_that_is_not_utf_8_closes_the_connection;
    mqtt_3_1_3_5_ids_of_1_to_23_digits_and_letters_are_accepted => connect::ids_of_1_to_23_digits_and_letters_are_accepted;
    mqtt_3_1_3_6_a_client_without_an_id_is_given_one_of_its_own => connect::a_client_without_an_id_is_given_one_of_its_own;
    mqtt_3_1_3_9_a_rejected_client_id_gets_2_and_the_connection_is_closed => connect::a_rejected_client_id_is_answered_and_the_connection_closed;
    mqtt_3_1_3_10_a_will_topic_that_is_not_utf_8_closes_the_connection => data::a_will_topic_that_is_not_utf_8_closes_the_connection;
    mqtt_3_1_3_11_a_user_name_that_is_not_utf_8_closes_the_connection => data::a_user_name_that_is_not_utf_8_closes_the_connection;
    mqtt_3_1_4_1_a_connect_that_does_not_conform_is_closed_without_an_answer => connect::a_connect_that_does_not_conform_closes_the_connection;
    mqtt_3_1_4_2_a_client_that_is_connected_already_is_replaced => connect::a_client_that_is_connected_already_is_replaced;
    mqtt_3_1_4_3_clean_session_is_processed => sessions::a_clean_connect_discards_the_session;
    mqtt_3_1_4_4_a_connect_that_is_accepted_is_answered_with_0 => connack::a_connect_that_is_accepted_is_answered_with_0;
    mqtt_3_1_4_5_what_follows_a_refused_connect_is_not_processed => connect::what_follows_a_refused_connect_is_not_processed;
    mqtt_3_2_0_1_connack_comes_before_anything_else => connack::connack_comes_before_anything_else;
    mqtt_3_2_2_1_a_clean_session_is_not_announced_as_present => connack::a_clean_connect_finds_no_session;
    mqtt_3_2_2_2_a_stored_session_is_announced => connack::a_stored_session_is_announced;
    mqtt_3_2_2_3_without_a_stored_session_none_is_announced => connack::without_a_stored_session_none_is_announced;
    mqtt_3_2_2_4_a_refusal_announces_no_session => connack::a_refusal_announces_no_session_and_closes;
    mqtt_3_2_2_5_after_a_refusal_the_connection_is_closed => connack::a_refusal_announces_no_session_and_closes;
}

#[test]
fn mqtt_3_1_2_2_another_protocol_level_gets_1() {
    let bench = Bench::new(Version::V311);
    for (name, level) in [("MQTT", 3), ("MQIsdp", 3), ("MQTT", 0), ("MQTT", 0x83)] {
        let body = [wire::field(name), vec![level, 2, 0, 60], wire::field("x")].concat();
        assert_eq!(bench.answer(&wire::packet(kind::CONNECT, body)), Some(1), "{name} {level}");
    }
}

#[test]
fn mqtt_3_1_2_22_a_password_without_a_user_name_closes_the_connection() {
    let bench = Bench::new(Version::V311);
    let payload = [wire::field("x"), wire::field("fleetd-secret")];
    bench.assert_malformed(&connect_with(Version::V311, 0x42, &[], &payload));
}

#[test]
fn mqtt_3_1_3_8_a_client_without_an_id_that_wants_a_session_gets_2() {
    let bench = Bench::new(Version::V311);
    assert_eq!(bench.answer(&bench.lasting("").encode()), Some(2));
}

#[test]
fn mqtt_3_2_2_6_where_no_return_code_fits_the_connection_is_closed_without_one() {
    let bench = Bench::new(Version::V311);
    let topic = [wire::field("x"), will_fields(Version::V311, &[], b"a/#")];
    assert_eq!(bench.answer(&connect_with(Version::V311, 2 | WILL, &[], &topic)), None);
}

/// A device's session ends with its connection, whatever it asks for: the server sends what is open when it is back.
#[test]
fn mqtt_3_1_2_4_a_device_is_told_that_it_has_no_session() {
    let bench = Bench::new(Version::V311);
    let camera = crate::support::broker::device(Version::V311, "cam-1").persistent();
    for _ in 0..2 {
        let (client, present) = bench.resume(&camera);
        assert!(!present);
        client.disconnect();
    }
}
