//! Chapters 3.3 to 3.7: PUBLISH and its acknowledgements.

use crate::bench::*;
use crate::claims::*;
use crate::support::*;

claims! { V311:
    mqtt_3_3_1_1_dup_is_set_when_a_publish_is_sent_again => publish::dup_is_set_when_a_publish_is_sent_again;
    mqtt_3_3_1_2_dup_with_qos_0_closes_the_connection => publish::dup_with_qos_0_closes_the_connection;
    mqtt_3_3_1_3_dup_is_not_passed_on => publish::dup_is_not_passed_on;
    mqtt_3_3_1_4_both_qos_bits_close_the_connection => publish::both_qos_bits_close_the_connection;
    mqtt_3_3_1_5_a_retained_publish_is_stored_with_its_qos => retained::a_retained_publish_replaces_the_last_one_and_keeps_its_qos;
    mqtt_3_3_1_6_a_new_subscription_is_sent_the_last_message_of_each_topic => retained::a_new_subscription_is_sent_the_last_message_of_each_topic;
    mqtt_3_3_1_7_a_retained_publish_of_qos_0_replaces_the_last_one => retained::a_retained_publish_of_qos_0_replaces_the_last_one;
    mqtt_3_3_1_8_retain_is_set_on_what_a_new_subscription_is_sent => retained::retain_is_set_on_what_a_new_subscription_is_sent;
    mqtt_3_3_1_9_retain_is_not_set_on_what_matches_an_established_subscription => retained::retain_is_not_set_on_what_matches_an_established_subscription;
    mqtt_3_3_1_10_an_empty_retained_publish_is_delivered_and_removes_the_retained_one => retained::an_empty_retained_publish_is_delivered_and_removes_the_retained_one;
    mqtt_3_3_1_11_an_empty_retained_publish_is_not_kept => retained::an_empty_retained_publish_is_not_kept;
    mqtt_3_3_1_12_a_publish_without_retain_leaves_the_retained_one => retained::a_publish_without_retain_leaves_the_retained_one;
    mqtt_3_3_2_1_a_topic_name_that_is_not_utf_8_closes_the_connection => data::a_topic_name_that_is_not_utf_8_closes_the_connection;
    mqtt_3_3_2_1_a_publish_without_a_whole_topic_name_closes_the_connection => publish::a_publish_without_a_whole_topic_name_closes_the_connection;
    mqtt_3_3_2_2_a_topic_name_with_a_wildcard_closes_the_connection => publish::a_topic_name_with_a_wildcard_closes_the_connection;
    mqtt_3_3_2_3_the_topic_name_arrives_as_published_and_matches_the_filter => publish::the_topic_name_arrives_as_published_and_matches_the_filter;
    mqtt_3_3_4_1_the_answer_to_a_publish_follows_from_its_qos => publish::the_answer_to_a_publish_follows_from_its_qos;
    mqtt_3_3_5_1_overlapping_subscriptions_deliver_at_the_highest_qos => publish::overlapping_subscriptions_deliver_once_at_the_highest_qos;
    mqtt_3_6_1_1_wrong_flags_of_pubrel_close_the_connection => subscribe::wrong_flags_of_pubrel_close_the_connection;
}

#[test]
fn mqtt_3_3_5_2_a_publish_that_is_not_allowed_closes_the_connection() {
    let bench = Bench::new(Version::V311);
    let mut watcher = bench.subscriber("#", 0);
    for qos in 0..=2 {
        let mut vera = bench.connect(&crate::support::broker::person(Version::V311, "vera"));
        vera.send(Publish::new(TOPIC, "x").qos(qos, 1).encode(Version::V311));
        vera.expect_end(&[]);
    }
    watcher.expect_silence();
}
