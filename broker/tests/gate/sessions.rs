//! Sessions of people and services that outlive a connection.

use std::time::Duration;

use crate::support::broker::{accounts_text, person};
use crate::support::*;

const VIEW: &str = "fleet/v1/acme/view/cam-1";
const VIEWS: &str = "fleet/v1/acme/view/+";

/// Connects and tells whether a session was there.
fn resume(broker: &TestBroker, connect: &Connect) -> (Client, bool) {
    let (client, code, present) = Client::attempt(broker.address, connect);
    assert_eq!(code, 0);
    (client, present)
}

#[test]
fn a_persistent_session_keeps_subscriptions_and_what_came_meanwhile() {
    let broker = TestBroker::start();
    for version in BOTH {
        let connect = person(version, "ada").persistent();
        let (mut reader, present) = resume(&broker, &connect);
        assert!(!present);
        assert_eq!(reader.subscribe(&[VIEWS], 2), [2]);
        for round in 0..3 {
            // Once with a goodbye, once without.
            if round == 1 {
                reader.reset()
            } else {
                reader.disconnect()
            }
            let mut service = broker.service(version);
            for qos in 0..=2 {
                for number in 0..5 {
                    let text = format!("{round}/{qos}/{number}");
                    assert_eq!(service.publish(Publish::new(VIEW, text).qos(qos, 0)), 0);
                }
            }
            service.ping();
            let present;
            (reader, present) = resume(&broker, &connect);
            assert!(present);
            let mut texts = Vec::new();
            while let Outcome::Packet(packet) = reader.wait(SILENCE) {
                let message = reader.accept(packet);
                assert!(!message.retain);
                texts.push(message.text());
            }
            // QoS 0 may be dropped for who is away; QoS 1 and 2 are all there, in order.
            texts.retain(|text| !text.contains("/0/"));
            let expected: Vec<String> =
                (1..=2).flat_map(|qos| (0..5).map(move |number| format!("{round}/{qos}/{number}"))).collect();
            assert_eq!(texts, expected);
        }
        reader.disconnect();
    }
}

#[test]
fn what_was_sent_and_not_acknowledged_is_sent_again_after_a_resume() {
    let broker = TestBroker::start();
    for version in BOTH {
        let connect = person(version, "ada").persistent();
        let (mut reader, _) = resume(&broker, &connect);
        assert_eq!(reader.subscribe(&[VIEWS], 2), [2]);
        let mut service = broker.service(version);
        assert_eq!(service.publish(Publish::new(VIEW, "one").qos(1, 0)), 0);
        assert_eq!(service.publish(Publish::new(VIEW, "two").qos(2, 0)), 0);
        let Received::Publish { id: first, dup: false, qos: 1, .. } = reader.receive() else { panic!() };
        let Received::Publish { id: second, dup: false, qos: 2, .. } = reader.receive() else { panic!() };
        reader.reset();
        let (mut reader, present) = resume(&broker, &connect);
        assert!(present);
        let Received::Publish { id, dup: true, payload, .. } = reader.receive() else {
            panic!("not sent again")
        };
        assert!(id == first && payload == "one");
        let Received::Publish { id, dup: true, payload, .. } = reader.receive() else {
            panic!("not sent again")
        };
        assert!(id == second && payload == "two");
        reader.send(wire::acknowledge(kind::PUBACK, first));
        reader.send(wire::acknowledge(kind::PUBREC, second));
        assert_eq!(reader.receive(), Received::PubRel { id: second, code: 0 });
        reader.reset();
        // Only the release is open now.
        let (mut reader, _) = resume(&broker, &connect);
        assert_eq!(reader.receive(), Received::PubRel { id: second, code: 0 });
        reader.send(wire::acknowledge(kind::PUBCOMP, second));
        reader.expect_silence();
        reader.unsubscribe(&[VIEWS]);
        reader.disconnect();
    }
}

#[test]
fn a_session_that_is_resumed_while_its_last_connection_leaves_is_served() {
    let broker = TestBroker::start();
    let connect = person(Version::V5, "ada").persistent();
    let (mut reader, _) = resume(&broker, &connect);
    assert_eq!(reader.subscribe(&[VIEWS], 1), [1]);
    let mut service = broker.service(Version::V5);
    for round in 0..300 {
        if round % 2 == 0 {
            reader.reset();
        } else {
            reader.disconnect();
        }
        let present;
        (reader, present) = resume(&broker, &connect);
        assert!(present);
        assert_eq!(service.publish(Publish::new(VIEW, round.to_string()).qos(1, 0)), 0);
        // What comes again, since its acknowledgement was lost, comes first.
        while reader.message().text() != round.to_string() {}
    }
}

#[test]
fn a_clean_start_forgets_the_session() {
    let broker = TestBroker::start();
    for version in BOTH {
        let connect = person(version, "ada").persistent();
        let (mut reader, _) = resume(&broker, &connect);
        assert_eq!(reader.subscribe(&[VIEWS], 1), [1]);
        reader.disconnect();
        let mut service = broker.service(version);
        assert_eq!(service.publish(Publish::new(VIEW, "x").qos(1, 0)), 0);
        let (mut reader, present) = resume(&broker, &person(version, "ada"));
        assert!(!present);
        reader.expect_silence();
        reader.disconnect();
        let (mut reader, present) = resume(&broker, &connect);
        assert!(!present);
        assert_eq!(service.publish(Publish::new(VIEW, "x").qos(1, 0)), 0);
        reader.expect_silence();
        reader.disconnect();
    }
}

#[test]
fn an_mqtt_5_session_ends_when_its_expiry_has_passed() {
    let broker = TestBroker::start();
    let connect =
        Connect { clean: false, ..person(Version::V5, "ada") }.property(property::session_expiry(1));
    let (mut reader, _) = resume(&broker, &connect);
    assert_eq!(reader.subscribe(&[VIEWS], 1), [1]);
    reader.disconnect();
    assert_eq!(broker.broker.counters().sessions, 1);
    until("the session has expired", || broker.broker.counters().sessions == 0);
    let (reader, present) = resume(&broker, &connect);
    assert!(!present);
    // Changed to 0 at the goodbye, it ends with the connection.
    let mut reader = reader;
    let goodbye = [&[0][..], &wire::varint(5), &property::session_expiry(0)].concat();
    reader.send(wire::packet(kind::DISCONNECT, goodbye));
    until("the session has ended", || broker.broker.counters().sessions == 0);
}

#[test]
fn a_clean_start_with_an_expiry_begins_a_session_that_lasts() {
    let broker = TestBroker::start();
    let connect =
        |clean| Connect { clean, ..person(Version::V5, "ada").property(property::session_expiry(600)) };
    for _ in 0..2 {
        let (mut reader, present) = resume(&broker, &connect(true));
        assert!(!present);
        assert_eq!(reader.subscribe(&[VIEWS], 1), [1]);
        reader.disconnect();
        let mut service = broker.service(Version::V5);
        assert_eq!(service.publish(Publish::new(VIEW, "meanwhile").qos(1, 0)), 0);
        let (mut reader, present) = resume(&broker, &connect(false));
        assert!(present);
        assert_eq!(reader.message().text(), "meanwhile");
        reader.expect_silence();
    }
}

#[test]
fn a_session_without_expiry_ends_with_the_connection() {
    let broker = TestBroker::start();
    let connect = Connect { clean: false, ..person(Version::V5, "ada") };
    let (mut reader, _) = resume(&broker, &connect);
    assert_eq!(reader.subscribe(&[VIEWS], 1), [1]);
    reader.vanish();
    until("the session has ended", || broker.broker.counters().sessions == 0);
    assert!(!resume(&broker, &connect).1);
}

#[test]
fn a_longer_expiry_than_allowed_is_shortened_and_told() {
    let broker = TestBroker::with(|limits| limits.session_expiry = Duration::from_secs(600));
    let mut client = Client::silent(broker.address, Version::V5);
    client.send(person(Version::V5, "ada").persistent().encode());
    let Received::ConnAck { code: 0, properties, .. } = client.receive() else { panic!("refused") };
    let told = property::session_expiry(600);
    assert!(properties.windows(told.len()).any(|window| window == told), "{properties:02x?}");
}

#[test]
fn a_session_belongs_to_its_principal_and_not_to_who_knows_the_client_id() {
    let broker = TestBroker::start();
    for version in BOTH {
        let connect =
            Connect { client_id: format!("shared-{version:?}"), ..person(version, "ada").persistent() };
        let (mut owner, _) = resume(&broker, &connect);
        assert_eq!(owner.subscribe(&[VIEWS], 1), [1]);
        owner.disconnect();
        let mut service = broker.service(version);
        assert_eq!(service.publish(Publish::new(VIEW, "for ada").qos(1, 0)), 0);
        for other in ["vera", "olga"] {
            let thief =
                Connect { client_id: format!("shared-{version:?}"), ..person(version, other).persistent() };
            let (mut thief, present) = resume(&broker, &thief);
            assert!(!present);
            thief.expect_silence();
            thief.disconnect();
        }
        let (mut owner, present) = resume(&broker, &connect);
        assert!(present);
        assert_eq!(owner.message().text(), "for ada");
        owner.unsubscribe(&[VIEWS]);
        owner.disconnect();
    }
}

#[test]
fn a_demoted_person_resumes_without_what_is_no_longer_allowed() {
    let broker = TestBroker::start();
    for version in BOTH {
        let with_role = |role: &str| {
            let text = accounts_text("")
                .replace("user = \"ada\"\nrole = \"admin\"", &format!("user = \"ada\"\nrole = \"{role}\""));
            let new = ::broker::credentials::Credentials::parse("x".as_ref(), &text).unwrap();
            broker.authenticator.replace(new);
        };
        with_role("admin");
        let connect = person(version, "ada").persistent();
        let (mut ada, _) = resume(&broker, &connect);
        assert_eq!(ada.subscribe(&[VIEWS, "fleet/v1/acme/device/+/log"], 1), [1, 1]);
        ada.disconnect();
        let mut service = broker.service(version);
        let mut publish = |topic: &str, text: &str| {
            assert_eq!(service.publish(Publish::new(topic, text).qos(1, 0)), 0);
        };
        publish("fleet/v1/acme/device/cam-1/log", "secret, queued");
        with_role("viewer");
        let (mut ada, _) = resume(&broker, &connect);
        publish("fleet/v1/acme/device/cam-1/log", "secret, live");
        publish(VIEW, "open");
        assert_eq!(ada.message().text(), "open");
        ada.expect_silence();
        ada.unsubscribe(&[VIEWS]);
        ada.disconnect();
    }
}
