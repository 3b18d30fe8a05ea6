//! CONNECT: its form, and who is let in.

use std::time::{Duration, Instant};

use crate::bench::*;
use crate::support::*;

pub(crate) fn any_other_first_packet_closes_the_connection(version: Version) {
    let bench = Bench::new(version);
    for packet in [
        vec![kind::PINGREQ, 0],
        vec![kind::DISCONNECT, 0],
        Publish::new(TOPIC, "x").encode(version),
        wire::subscribe(version, 1, &[(TOPIC, 1)], &[]),
        vec![kind::AUTH, 0],
        vec![kind::CONNACK, 2, 0, 0],
    ] {
        assert_eq!(bench.answer(&packet), None, "{packet:02x?}");
    }
}

pub(crate) fn a_second_connect_closes_the_connection(version: Version) {
    let bench = Bench::new(version);
    bench.assert_each_ends(0x82, &[bench.login("again").encode()]);
}

pub(crate) fn another_protocol_name_closes_the_connection(version: Version) {
    let bench = Bench::new(version);
    for name in ["MQTX", "mqtt", "", "MQTT\u{feff}", "HTTP"] {
        let body = [wire::field(name), vec![version as u8, 2, 0, 60, 0], wire::field("x")].concat();
        assert_eq!(bench.answer(&wire::packet(kind::CONNECT, body)), None, "{name:?}");
    }
}

pub(crate) fn the_reserved_connect_flag_closes_the_connection(version: Version) {
    let bench = Bench::new(version);
    bench.assert_malformed(&connect_with(version, LOGIN | 1, &[], &credentials("x")));
    assert_eq!(bench.answer(&connect_with(version, LOGIN, &[], &credentials("x"))), Some(0));
}

pub(crate) fn a_user_name_without_its_flag_closes_the_connection(version: Version) {
    let bench = Bench::new(version);
    bench.assert_malformed(&connect_with(version, 2, &[], &[wire::field("x"), wire::field("fleetd")]));
}

pub(crate) fn a_missing_user_name_closes_the_connection(version: Version) {
    let bench = Bench::new(version);
    bench.assert_malformed(&connect_with(version, 0x82, &[], &[wire::field("x")]));
}

pub(crate) fn a_password_without_its_flag_closes_the_connection(version: Version) {
    let bench = Bench::new(version);
    bench.assert_malformed(&connect_with(version, 0x82, &[], &credentials("x")));
}

pub(crate) fn a_missing_password_closes_the_connection(version: Version) {
    let bench = Bench::new(version);
    bench.assert_malformed(&connect_with(version, LOGIN, &[], &credentials("x")[..2]));
}

pub(crate) fn the_fields_are_read_in_their_order(version: Version) {
    let bench = Bench::new(version);
    let mut watcher = bench.subscriber("will/topic", 0);
    let will = will_fields(version, &[], b"will/topic");
    let mut payload = credentials("x");
    payload.insert(1, will);
    let mut client = Client::silent(bench.broker.address, version);
    client.send(connect_with(version, LOGIN | WILL, &[], &payload));
    assert!(matches!(client.receive(), Received::ConnAck { code: 0, .. }));
    client.vanish();
    assert_eq!(watcher.message().text(), "will");
    // User name and password the wrong way round are a wrong login.
    let swapped = [wire::field("x"), wire::field("fleetd-secret"), wire::field("fleetd")];
    let refused = if version == Version::V5 { 0x86 } else { 4 };
    assert_eq!(bench.answer(&connect_with(version, LOGIN, &[], &swapped)), Some(refused));
}

pub(crate) fn the_client_id_tells_the_sessions_apart(version: Version) {
    let bench = Bench::new(version);
    for id in ["one", "two"] {
        let (mut client, present) = bench.resume(&bench.lasting(id));
        assert!(!present);
        assert_eq!(client.subscribe(&[&format!("conformance/{id}")], 1), [1]);
        client.disconnect();
    }
    let mut publisher = bench.client("publisher");
    publisher.publish(Publish::new("conformance/one", "for one").qos(1, 0));
    let (mut two, present) = bench.resume(&bench.lasting("two"));
    assert!(present);
    two.expect_silence();
    let (mut one, present) = bench.resume(&bench.lasting("one"));
    assert!(present);
    assert_eq!(one.message().text(), "for one");
    // Ids are compared byte by byte.
    assert!(!bench.resume(&bench.lasting("One")).1);
}

pub(crate) fn a_connect_without_a_client_id_field_closes_the_connection(version: Version) {
    let bench = Bench::new(version);
    bench.assert_malformed(&connect_with(version, 2, &[], &[]));
    bench.assert_malformed(&connect_with(version, 2, &[], &[vec![0]]));
}

pub(crate) fn ids_of_1_to_23_digits_and_letters_are_accepted(version: Version) {
    let bench = Bench::new(version);
    for id in ["x", "0123456789abcdefghijklm", "nopqrstuvwxyzABCDEFGHIJ", "KLMNOPQRSTUVWXYZ"] {
        bench.client(id).disconnect();
    }
}

pub(crate) fn a_client_without_an_id_is_given_one_of_its_own(version: Version) {
    let bench = Bench::new(version);
    let mut nameless: Vec<Client> = (0..3).map(|_| bench.client("")).collect();
    // None has taken another's place.
    nameless.iter_mut().for_each(Client::ping);
}

pub(crate) fn a_rejected_client_id_is_answered_and_the_connection_closed(version: Version) {
    let bench = Bench::new(version);
    let code = if version == Version::V5 { 0x85 } else { 2 };
    assert_eq!(bench.answer(&bench.login(&"x".repeat(257)).encode()), Some(code));
    assert_eq!(bench.answer(&bench.login(&"x".repeat(256)).encode()), Some(0));
}

pub(crate) fn a_connect_that_does_not_conform_closes_the_connection(version: Version) {
    let bench = Bench::new(version);
    let whole = connect_with(version, LOGIN, &[], &credentials("x"));
    bench.assert_malformed(&wire::packet(kind::CONNECT, [&whole[2..], b"more"].concat()));
    for end in 11..whole.len() {
        bench.assert_malformed(&wire::packet(kind::CONNECT, &whole[2..end]));
    }
}

pub(crate) fn a_client_that_is_connected_already_is_replaced(version: Version) {
    let bench = Bench::new(version);
    let mut old = bench.client("x");
    let mut new = bench.client("x");
    old.expect_end(&[0x8e]);
    new.ping();
}

pub(crate) fn what_follows_a_refused_connect_is_not_processed(version: Version) {
    let bench = Bench::new(version);
    let mut watcher = bench.subscriber("#", 0);
    let wrong = Connect { password: Some("wrong".into()), ..bench.login("x") };
    let mut client = Client::silent(bench.broker.address, version);
    client.send([wrong.encode(), Publish::new(TOPIC, "x").encode(version)].concat());
    let refused = if version == Version::V5 { 0x86 } else { 4 };
    assert!(matches!(client.receive(), Received::ConnAck { code, .. } if code == refused));
    assert_eq!(client.wait(PATIENCE), Outcome::Closed);
    watcher.expect_silence();
}

pub(crate) fn a_client_silent_for_one_and_a_half_keep_alives_is_disconnected(version: Version) {
    let bench = Bench::new(version);
    let mut watcher = bench.subscriber("will/topic", 0);
    let begun = Instant::now();
    let connect = bench.login("x").keep_alive(1).will(Will::new("will/topic", "gone"));
    let mut silent = bench.connect(&connect);
    // One that pings stays; without a keep alive nobody has to.
    let mut pings = bench.connect(&bench.login("pings").keep_alive(2));
    let mut may_be_silent = bench.connect(&bench.login("may be silent").keep_alive(0));
    silent.expect_end(&[0x8d]);
    let taken = begun.elapsed();
    assert!(taken >= Duration::from_millis(1500), "already after {taken:?}");
    assert_eq!(watcher.message().text(), "gone", "as if the network had failed");
    for _ in 0..4 {
        pings.ping();
        std::thread::sleep(Duration::from_millis(600));
    }
    pings.ping();
    may_be_silent.ping();
}
