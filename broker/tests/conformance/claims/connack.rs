//! CONNACK.

use crate::bench::*;
use crate::support::*;

pub(crate) fn connack_comes_before_anything_else(version: Version) {
    let bench = Bench::new(version);
    let (mut reader, _) = bench.resume(&bench.lasting("x"));
    assert_eq!(reader.subscribe(&[TOPIC], 1), [1]);
    reader.disconnect();
    bench.client("publisher").publish(Publish::new(TOPIC, "waits").qos(1, 0));
    let mut reader = Client::silent(bench.broker.address, version);
    reader.send([bench.lasting("x").encode(), vec![kind::PINGREQ, 0]].concat());
    assert!(matches!(reader.receive(), Received::ConnAck { code: 0, session_present: true, .. }));
    reader.receive_first(&Received::PingResp);
    assert_eq!(reader.message().text(), "waits");
}

pub(crate) fn a_connect_that_is_accepted_is_answered_with_0(version: Version) {
    let bench = Bench::new(version);
    assert_eq!(bench.answer(&bench.login("x").encode()), Some(0));
}

pub(crate) fn a_clean_connect_finds_no_session(version: Version) {
    let bench = Bench::new(version);
    bench.resume(&bench.lasting("x")).0.disconnect();
    assert!(bench.resume(&bench.lasting("x")).1, "there was one");
    let clean = Connect { clean: true, ..bench.lasting("x") };
    assert!(!bench.resume(&clean).1);
}

pub(crate) fn a_stored_session_is_announced(version: Version) {
    let bench = Bench::new(version);
    bench.resume(&bench.lasting("x")).0.vanish();
    let (client, present) = bench.resume(&bench.lasting("x"));
    assert!(present);
    // Also where it is taken over from a live connection.
    assert!(bench.resume(&bench.lasting("x")).1);
    drop(client);
}

pub(crate) fn without_a_stored_session_none_is_announced(version: Version) {
    let bench = Bench::new(version);
    assert!(!bench.resume(&bench.lasting("x")).1);
}

pub(crate) fn a_refusal_announces_no_session_and_closes(version: Version) {
    let bench = Bench::new(version);
    let (mut client, _) = bench.resume(&bench.lasting("x"));
    let wrong = Connect { password: Some("wrong".into()), ..bench.lasting("x") };
    let refused = if version == Version::V5 { 0x86 } else { 4 };
    // The answer is checked there.
    assert_eq!(bench.answer(&wrong.encode()), Some(refused));
    client.ping();
}
