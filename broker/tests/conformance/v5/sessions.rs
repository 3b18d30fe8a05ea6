//! Sessions and their expiry.

use std::time::Duration;

use crate::bench::*;
use crate::support::*;

fn expiring(bench: &Bench, seconds: Option<u32>) -> Connect {
    let connect = Connect { clean: false, ..bench.login("x") };
    match seconds {
        Some(seconds) => connect.property(property::session_expiry(seconds)),
        None => connect,
    }
}

/// A DISCONNECT that changes the expiry.
fn disconnect_with_expiry(seconds: u32) -> Vec<u8> {
    let property = property::session_expiry(seconds);
    wire::packet(kind::DISCONNECT, [&[0, property.len() as u8][..], &property].concat())
}

#[test]
fn mqtt_3_1_2_23_a_session_with_an_expiry_is_stored() {
    let bench = Bench::new(Version::V5);
    for (seconds, stored) in [(Some(60), true), (Some(u32::MAX), true), (Some(0), false), (None, false)] {
        leave(bench.connect(&expiring(&bench, seconds)));
        let (client, present) = bench.resume(&expiring(&bench, Some(0)));
        assert_eq!(present, stored, "{seconds:?}");
        leave(client);
    }
}

#[test]
fn mqtt_4_1_0_2_a_session_ends_when_its_expiry_has_passed() {
    let bench = Bench::new(Version::V5);
    leave(bench.connect(&expiring(&bench, Some(1))));
    assert_eq!(bench.broker.broker.counters().sessions, 1);
    until("the session has ended", || bench.broker.broker.counters().sessions == 0);
    assert!(!bench.resume(&expiring(&bench, Some(1))).1);
    // A DISCONNECT may shorten the time, or lengthen it, but not begin it.
    for (asked, changed, stored) in [(60, 0, false), (1, 60, true)] {
        let mut client = bench.connect(&expiring(&bench, Some(asked)));
        client.send(disconnect_with_expiry(changed));
        assert_eq!(client.wait(PATIENCE), Outcome::Closed);
        std::thread::sleep(Duration::from_millis(if stored { 1_600 } else { 0 }));
        assert_eq!(bench.resume(&expiring(&bench, Some(0))).1, stored, "{asked} to {changed}");
    }
    let mut client = bench.connect(&expiring(&bench, Some(0)));
    client.send(disconnect_with_expiry(60));
    client.expect_end(&[0x82]);
}

/// A device's session ends with its connection: the server sends what is open when it is back. It is told so.
#[test]
fn mqtt_3_1_2_23_a_device_is_told_that_its_session_is_not_stored() {
    let bench = Bench::new(Version::V5);
    for _ in 0..2 {
        let mut client = Client::silent(bench.broker.address, Version::V5);
        client.send(crate::support::broker::device(Version::V5, "cam-1").persistent().encode());
        match client.receive() {
            Received::ConnAck { code: 0, session_present: false, properties } => {
                assert!(properties.starts_with(&property::session_expiry(0)), "{properties:02x?}");
            }
            other => panic!("{other:?}"),
        }
        leave(client);
    }
}
