//! Chapters 1 and 2: strings, fixed headers, packet identifiers.

use crate::claims::*;

claims! { V311:
    mqtt_1_5_3_1_ill_formed_utf_8_closes_the_connection => data::ill_formed_utf_8_closes_the_connection;
    mqtt_1_5_3_2_u0000_in_a_string_closes_the_connection => data::u0000_closes_the_connection;
    mqtt_1_5_3_3_a_byte_order_mark_is_kept_wherever_it_stands => data::a_byte_order_mark_is_kept_wherever_it_stands;
    mqtt_2_2_2_1_the_servers_own_packets_have_the_flags_of_their_type => format::the_servers_own_packets_have_the_flags_of_their_type;
    mqtt_2_2_2_2_wrong_flags_close_the_connection => format::wrong_reserved_flags_close_the_connection;
    mqtt_2_3_1_1_a_packet_identifier_of_0_closes_the_connection => format::a_packet_identifier_of_0_closes_the_connection;
    mqtt_2_3_1_4_the_servers_identifiers_are_not_zero_and_not_in_use => format::the_servers_identifiers_are_not_zero_and_not_in_use;
    mqtt_2_3_1_5_a_publish_of_qos_0_has_no_packet_identifier => format::a_publish_of_qos_0_has_no_packet_identifier;
    mqtt_2_3_1_6_acknowledgements_have_the_identifier_of_the_publish => format::acknowledgements_have_the_identifier_of_the_publish;
    mqtt_2_3_1_7_suback_and_unsuback_have_the_identifier_of_their_request => format::suback_and_unsuback_have_the_identifier_of_their_request;
}
