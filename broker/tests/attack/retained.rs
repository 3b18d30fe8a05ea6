//! Attackers who want their messages kept for ever.

use std::time::{Duration, Instant};

use crate::support::broker::{device, person, service, up};
use crate::support::*;
use crate::target::{MIB, Target};
use crate::witness::Witness;

/// Publishes on as many topics, all retained, and looks at the answers; how many were accepted.
fn attempt(client: &mut Client, topics: impl Iterator<Item = String>, payload: &[u8]) -> usize {
    let (mut accepted, mut waiting) = (0, 0);
    let mut answers = |client: &mut Client, waiting: &mut usize| {
        for _ in 0..std::mem::take(waiting) {
            match client.receive() {
                Received::PubAck { code, .. } => accepted += usize::from(code == 0),
                other => panic!("{other:?}"),
            }
        }
    };
    for topic in topics {
        client.send(Publish::new(topic, payload).qos(1, 1).retained().encode(Version::V5));
        waiting += 1;
        if waiting == 200 {
            answers(client, &mut waiting);
        }
    }
    answers(client, &mut waiting);
    accepted
}

/// A filter brings so many retained messages and no more.
fn assert_kept(target: &Target, filter: &str, expected: usize) {
    let mut reader =
        Client::connect(target.address, &Connect { client_id: "counts".into(), ..service(Version::V5) });
    assert_eq!(reader.subscribe(&[filter], 0), [0]);
    // What is published just now comes between.
    let mut next_retained = |within: Duration| {
        let end = Instant::now() + within;
        loop {
            match reader.wait(end.saturating_duration_since(Instant::now())) {
                Outcome::Packet(Received::Publish { retain: false, .. }) => {}
                Outcome::Packet(Received::Publish { topic, .. }) => return Some(topic),
                _ => return None,
            }
        }
    };
    for number in 0..expected {
        assert!(next_retained(PATIENCE).is_some(), "only {number} of {expected}");
    }
    assert_eq!(next_retained(SILENCE), None, "one too many");
}

fn people_keep_nothing(topics_each: usize) {
    let target = Target::start();
    let witness = Witness::start(&target);
    let before = target.usage();
    for name in ["vera", "otto", "ada"] {
        let mut client = Client::connect(target.address, &person(Version::V5, name));
        for place in [
            "fleet/v1/acme/view/",
            "fleet/v1/acme/device/cam-1/presence/",
            "fleet/v1/acme/server/",
            "fleet/v1/server/",
            "of/my/own/",
        ] {
            let topics = (0..topics_each).map(|n| format!("{place}{n}"));
            assert_eq!(attempt(&mut client, topics, &[0; 200]), 0, "{name} {place}");
        }
        let own = (0..100).map(|_| format!("fleet/v1/acme/operator/{name}/command"));
        assert_eq!(attempt(&mut client, own, b"x"), 0);
        // A will is a message like any other.
        let mut will = Will::new("fleet/v1/acme/view/mine", "x");
        will.retain = true;
        assert_eq!(Client::attempt(target.address, &person(Version::V5, name).will(will)).1, 0x87);
    }
    target.assert_grew_less_than(&before, 10 * MIB);
    assert_kept(&target, "#", 0);
    witness.finish();
}

#[test]
fn a_person_keeps_no_retained_message_anywhere() {
    people_keep_nothing(1_000);
}

#[test]
#[ignore = "takes up to a minute; make test-attack"]
fn a_person_keeps_no_retained_message_anywhere_in_a_million_attempts() {
    people_keep_nothing(70_000);
}

#[test]
fn a_device_keeps_one_retained_message_however_many_topics_it_tries() {
    let target = Target::with("device_messages_per_second = 0");
    let witness = Witness::start(&target);
    let before = target.usage();
    let mut bot = Client::connect(target.address, &device(Version::V5, "bot-1"));
    let own = (0..5_000).map(|n| up("bot-1", &format!("presence/{n}")));
    // A newer agent may use topics that this version does not know: taken, and not kept.
    assert_eq!(attempt(&mut bot, own, &[0; 200]), 5_000);
    assert_eq!(attempt(&mut bot, (0..500).map(|_| up("bot-1", "presence")), &[0; 200]), 500);
    assert_eq!(attempt(&mut bot, (0..500).map(|n| up(&format!("bot-{}", n + 2), "presence")), b"x"), 0);
    for leaf in ["birth", "heartbeat", "status", "reported", "log", "event"] {
        assert_eq!(attempt(&mut bot, std::iter::once(up("bot-1", leaf)), b"x"), 0, "{leaf}");
    }
    target.assert_grew_less_than(&before, 15 * MIB);
    assert_kept(&target, "#", 1);
    witness.finish();
}

/// Somebody has the secret of a service, which may publish everything.
fn a_service_fills_the_store(limit: usize, attempts: usize, bound: u64) {
    let target = Target::with(&format!("retained_messages = {limit}"));
    let witness = Witness::start(&target);
    let before = target.usage();
    let mut thief = Client::connect(target.address, &service(Version::V5));
    let topics = (0..attempts).map(|n| format!("fleet/v1/acme/view/stolen-{n}"));
    // They are delivered to who listens, and not kept.
    assert_eq!(attempt(&mut thief, topics, &[0; 200]), attempts);
    target.assert_grew_less_than(&before, bound);
    assert_kept(&target, "fleet/v1/acme/view/+", limit);
    // What is there can still be renewed and taken back.
    assert_eq!(attempt(&mut thief, std::iter::once("fleet/v1/acme/view/stolen-0".into()), b""), 1);
    assert_kept(&target, "fleet/v1/acme/view/stolen-0", 0);
    witness.finish();
}

#[test]
fn a_stolen_service_keeps_as_many_retained_messages_as_there_may_be() {
    a_service_fills_the_store(2_000, 10_000, 10 * MIB);
}

#[test]
#[ignore = "takes up to a minute; make test-attack"]
fn a_stolen_service_keeps_as_many_retained_messages_as_there_may_be_in_a_million_attempts() {
    a_service_fills_the_store(50_000, 1_000_000, 50 * MIB);
}

#[test]
fn large_retained_messages_are_bounded_in_bytes() {
    let target = Target::with("retained_bytes = 4000000");
    let witness = Witness::start(&target);
    let before = target.usage();
    let mut thief = Client::connect(target.address, &service(Version::V5));
    let topics = (0..500).map(|n| format!("fleet/v1/acme/view/stolen-{n}"));
    assert_eq!(attempt(&mut thief, topics, &[0; 100_000]), 500);
    target.assert_grew_less_than(&before, 25 * MIB);
    assert_kept(&target, "#", 39);
    witness.finish();
}
