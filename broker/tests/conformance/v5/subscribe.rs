//! Chapters 3.8 to 3.12: SUBSCRIBE, UNSUBSCRIBE, their answers, and PINGREQ.

use crate::bench::*;
use crate::claims::subscribe::subscribe;
use crate::claims::*;
use crate::support::*;

claims! { V5:
    mqtt_3_8_1_1_wrong_flags_of_subscribe_are_malformed => subscribe::wrong_flags_of_subscribe_close_the_connection;
    mqtt_3_8_3_1_a_filter_that_is_not_utf_8_is_malformed => data::a_subscribed_filter_that_is_not_utf_8_closes_the_connection;
    mqtt_3_8_3_2_a_subscribe_without_a_filter_is_a_protocol_error => subscribe::a_subscribe_without_a_filter_closes_the_connection;
    mqtt_3_8_3_5_reserved_bits_of_the_options_are_malformed => subscribe::reserved_bits_of_the_options_close_the_connection;
    mqtt_3_8_4_1_every_subscribe_is_answered => subscribe::every_subscribe_is_answered_with_its_identifier;
    mqtt_3_8_4_2_suback_has_the_identifier_of_the_subscribe => subscribe::every_subscribe_is_answered_with_its_identifier;
    mqtt_3_8_4_3_a_repeated_subscription_replaces_the_first => publish::a_repeated_subscription_replaces_the_first;
    mqtt_3_8_4_4_nothing_is_lost_while_a_subscription_is_replaced => publish::nothing_is_lost_while_a_subscription_is_replaced;
    mqtt_3_8_4_5_several_filters_are_as_good_as_several_subscribes => subscribe::several_filters_are_as_good_as_several_subscribes;
    mqtt_3_8_4_6_there_is_a_code_for_each_filter => subscribe::there_is_a_code_for_each_filter_in_their_order;
    mqtt_3_8_4_7_a_code_is_the_granted_qos_or_a_failure => subscribe::there_is_a_code_for_each_filter_in_their_order;
    mqtt_3_8_4_8_messages_come_at_the_lower_of_both_qos => subscribe::messages_come_at_the_lower_of_both_qos;
    mqtt_3_9_3_1_the_codes_are_in_the_order_of_the_filters => subscribe::there_is_a_code_for_each_filter_in_their_order;
    mqtt_3_9_3_2_each_code_is_one_of_suback => subscribe::there_is_a_code_for_each_filter_in_their_order;
    mqtt_3_10_1_1_wrong_flags_of_unsubscribe_are_malformed => subscribe::wrong_flags_of_unsubscribe_close_the_connection;
    mqtt_3_10_3_1_a_filter_that_is_not_utf_8_is_malformed => data::an_unsubscribed_filter_that_is_not_utf_8_closes_the_connection;
    mqtt_3_10_3_2_an_unsubscribe_without_a_filter_is_a_protocol_error => subscribe::an_unsubscribe_without_a_filter_closes_the_connection;
    mqtt_3_10_4_1_filters_are_compared_character_by_character => subscribe::filters_of_unsubscribe_are_compared_character_by_character;
    mqtt_3_10_4_2_after_an_unsubscribe_nothing_new_comes => subscribe::after_an_unsubscribe_nothing_new_comes;
    mqtt_3_10_4_3_what_was_on_its_way_is_completed => subscribe::what_was_on_its_way_at_the_unsubscribe_is_completed;
    mqtt_3_10_4_4_every_unsubscribe_is_answered => subscribe::every_unsubscribe_is_answered_with_its_identifier;
    mqtt_3_10_4_5_an_unsubscribe_of_what_was_never_subscribed_is_answered => subscribe::an_unsubscribe_of_what_was_never_subscribed_is_answered;
    mqtt_3_10_4_6_several_filters_get_one_answer => subscribe::several_unsubscribed_filters_get_one_answer;
    mqtt_3_11_3_1_the_codes_are_in_the_order_of_the_filters => subscribe::several_unsubscribed_filters_get_one_answer;
    mqtt_3_11_3_2_each_code_is_one_of_unsuback => subscribe::filters_of_unsubscribe_are_compared_character_by_character;
    mqtt_3_12_4_1_a_ping_is_answered => subscribe::a_ping_is_answered;
}

const NO_LOCAL: u8 = 0x04;

#[test]
fn mqtt_3_8_3_3_no_local_keeps_a_clients_own_messages_from_it() {
    let bench = Bench::new(Version::V5);
    let (mut client, _) = bench.resume(&bench.lasting("x"));
    assert_eq!(subscribe(&mut client, Version::V5, &[(TOPIC, 2 | NO_LOCAL)]), [2]);
    let mut other = bench.client("other");
    for round in ["at first", "after a reconnect"] {
        for qos in 0..=2 {
            assert_eq!(client.publish(Publish::new(TOPIC, "own").qos(qos, 0)), 0);
        }
        other.publish(Publish::new(TOPIC, round).qos(1, 0));
        assert_eq!(client.message().text(), round);
        client.expect_silence();
        leave(client);
        let present;
        (client, present) = bench.resume(&bench.lasting("x"));
        assert!(present);
    }
    // Nor does what it has retained itself.
    assert_eq!(client.publish(Publish::new(KEPT, "own").qos(1, 0).retained()), 0);
    assert_eq!(subscribe(&mut client, Version::V5, &[(KEPT, 1 | NO_LOCAL)]), [1]);
    client.expect_silence();
    assert_eq!(bench.subscriber(KEPT, 1).message().text(), "own");
    // Without the option they come.
    assert_eq!(subscribe(&mut client, Version::V5, &[(TOPIC, 1)]), [1]);
    client.send(Publish::new(TOPIC, "own").encode(Version::V5));
    assert_eq!(client.message().text(), "own");
}

#[test]
fn mqtt_3_8_3_4_no_local_on_a_shared_subscription_is_a_protocol_error() {
    let packet = wire::subscribe(Version::V5, 1, &[("$share/group/a", 1 | NO_LOCAL)], &[]);
    Bench::new(Version::V5).assert_each_ends(0x82, &[packet]);
}

#[test]
fn mqtt_3_9_2_1_suback_and_unsuback_carry_no_reason_string_and_no_user_property() {
    let bench = Bench::new(Version::V5);
    let own = property::user("asked", "for");
    let packets = [
        wire::subscribe(Version::V5, 3, &[("a/#/b", 1), (TOPIC, 2)], &own),
        wire::unsubscribe(Version::V5, 4, &["never", TOPIC]),
    ];
    let expected: [(u8, Vec<u8>); 2] = [(0x90, vec![0, 3, 0, 0x8f, 2]), (0xb0, vec![0, 4, 0, 0x11, 0])];
    assert_eq!(bench.raw(&bench.login("x"), &packets.concat(), 2), expected);
}

#[test]
fn mqtt_4_8_2_1_a_shared_subscription_gets_0x9e() {
    let bench = Bench::new(Version::V5);
    let mut client = bench.client("x");
    let filters = ["$share/group/a", "$share/group/#", "$share/", "$share//a", "$share/a+/b", "$share"];
    for filter in filters {
        assert_eq!(subscribe(&mut client, Version::V5, &[(filter, 1)]), [0x9e], "{filter}");
    }
}
