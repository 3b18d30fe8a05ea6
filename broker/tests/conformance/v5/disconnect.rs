//! Chapters 3.14 and 4.13: DISCONNECT and errors.

use crate::bench::*;
use crate::claims::*;
use crate::support::*;

claims! { V5:
    mqtt_3_14_1_1_wrong_flags_of_disconnect_are_malformed => subscribe::wrong_flags_of_disconnect_close_the_connection;
    mqtt_3_14_4_3_a_goodbye_discards_the_will => wills::a_goodbye_discards_the_will;
}

#[test]
fn mqtt_3_14_0_1_before_connack_no_disconnect_is_sent() {
    let bench = Bench::new(Version::V5);
    // What is wrong with a CONNECT is said in CONNACK, and what is no CONNECT gets no answer.
    bench.assert_malformed(&connect_with(Version::V5, LOGIN | 1, &[], &credentials("x")));
    for packet in [vec![kind::AUTH, 0], vec![kind::PINGREQ, 0], vec![kind::CONNECT, 0xff, 0xff, 0xff, 0x7f]] {
        assert_eq!(bench.answer(&packet), None, "{packet:02x?}");
    }
}

/// Asserted for every DISCONNECT that any of these tests receives, as is that it carries at most a reason.
#[test]
fn mqtt_3_14_2_1_each_disconnect_has_a_reason_code_of_its_own() {
    let bench = Bench::new(Version::V5);
    for (packet, code) in [
        (vec![0x00, 0], 0x81),
        (vec![kind::AUTH, 0], 0x82),
        (Publish::new("#", "x").encode(Version::V5), 0x90),
        (Publish::new(TOPIC, "x").property(property::topic_alias(1)).encode(Version::V5), 0x94),
        (vec![kind::PUBLISH, 0xff, 0xff, 0xff, 0x7f], 0x95),
        (wire::subscribe(Version::V5, 1, &[(TOPIC, 0)], &property::subscription_identifier(1)), 0xa1),
    ] {
        bench.assert_each_ends(code, &[packet]);
    }
}

/// The last packet before the end, and what is behind it.
fn goodbye(mut client: Client) -> Vec<u8> {
    client.wait_raw(PATIENCE).unwrap()
}

#[test]
fn mqtt_3_14_2_2_a_disconnect_of_the_server_has_no_session_expiry() {
    let bench = Bench::new(Version::V5);
    let mut client = bench.connect(&bench.lasting("x"));
    client.send(bench.login("x").encode());
    let reason = [&[0x1f][..], &wire::field("a second CONNECT")].concat();
    let expected = [&[0x82, reason.len() as u8][..], &reason].concat();
    assert_eq!(goodbye(client), wire::packet(kind::DISCONNECT, expected));
}

#[test]
fn mqtt_3_14_2_3_a_reason_that_would_not_fit_is_left_out() {
    let bench = Bench::new(Version::V5);
    let mut client = bench.connect(&bench.login("x").property(property::maximum_packet_size(20)));
    client.send(bench.login("x").encode());
    assert_eq!(goodbye(client), [kind::DISCONNECT, 2, 0x82, 0]);
}

#[test]
fn mqtt_3_14_4_1_after_a_disconnect_nothing_is_sent() {
    let bench = Bench::new(Version::V5);
    let mut reader = bench.subscriber(TOPIC, 0);
    let mut publisher = bench.client("publisher");
    reader.send([vec![0x00, 0], [kind::PINGREQ, 0].repeat(10)].concat());
    for _ in 0..20 {
        publisher.publish(Publish::new(TOPIC, "x").qos(1, 0));
    }
    let mut bytes = goodbye(reader);
    let mut last = 0;
    while let Some((first, _)) = wire::take_frame(&mut bytes) {
        assert_ne!(last, kind::DISCONNECT, "{first:#04x} after it");
        last = first;
    }
    assert_eq!(last, kind::DISCONNECT);
}

#[test]
fn mqtt_3_14_4_2_after_a_disconnect_the_connection_is_closed() {
    let bench = Bench::new(Version::V5);
    let mut client = bench.client("x");
    client.send([0x00, 0]);
    assert_eq!(client.receive(), Received::Disconnect { code: 0x81 });
    assert_eq!(client.wait(PATIENCE), Outcome::Closed);
}

#[test]
fn mqtt_3_14_4_3_a_disconnect_with_0_discards_the_will_and_another_publishes_it() {
    let bench = Bench::new(Version::V5);
    let mut watcher = bench.subscriber("will/topic", 1);
    let connect = |text: &str| bench.connect(&bench.login("x").will(Will::new("will/topic", text)));
    leave(connect("goodbye"));
    let mut client = connect("goodbye, in full");
    client.send([kind::DISCONNECT, 2, 0, 0]);
    assert_eq!(client.wait(PATIENCE), Outcome::Closed);
    for code in [0x04, 0x80, 0x98] {
        let text = format!("{code:#04x}");
        connect(&text).send([kind::DISCONNECT, 1, code]);
        assert_eq!(watcher.message().text(), text);
    }
    watcher.expect_silence();
}

#[test]
fn mqtt_4_13_2_1_a_code_of_0x80_and_above_means_that_the_connection_is_closed() {
    let bench = Bench::new(Version::V5);
    let wrong = Connect { password: Some("wrong".into()), ..bench.login("x") };
    assert_eq!(bench.answer(&wrong.encode()), Some(0x86));
    let mut old = bench.client("x");
    let mut new = bench.client("x");
    assert_eq!(old.receive(), Received::Disconnect { code: 0x8e });
    assert_eq!(old.wait(PATIENCE), Outcome::Closed);
    // A code for one publish or one filter is another matter.
    new.send(Publish::new("$x", "x").qos(1, 1).encode(Version::V5));
    assert_eq!(new.receive(), Received::PubAck { id: 1, code: 0x87 });
    new.ping();
}
