//! Retained messages.

use crate::bench::*;
use crate::support::*;

const ALL_KEPT: &str = "fleet/v1/acme/view/+";

fn keep(publisher: &mut Client, text: &str, qos: u8) {
    assert_eq!(publisher.publish(Publish::new(KEPT, text).qos(qos, 0).retained()), 0);
}

/// What a new subscriber is sent: text and QoS.
fn kept(bench: &Bench) -> Option<(String, u8)> {
    let mut reader = bench.subscriber(ALL_KEPT, 2);
    let kept = match reader.wait(SILENCE) {
        Outcome::Packet(packet) => {
            let message = reader.accept(packet);
            assert!(message.retain && message.topic == KEPT, "{message:?}");
            Some((message.text(), message.qos))
        }
        Outcome::Silence => None,
        Outcome::Closed => panic!("closed"),
    };
    reader.expect_silence();
    reader.disconnect();
    kept
}

pub(crate) fn a_retained_publish_replaces_the_last_one_and_keeps_its_qos(version: Version) {
    let bench = Bench::new(version);
    let mut publisher = bench.client("publisher");
    for qos in [2, 1, 0] {
        keep(&mut publisher, &format!("at {qos}"), qos);
        publisher.ping();
        assert_eq!(kept(&bench), Some((format!("at {qos}"), qos)));
    }
}

pub(crate) fn a_new_subscription_is_sent_the_last_message_of_each_topic(version: Version) {
    let bench = Bench::new(version);
    let mut publisher = bench.client("publisher");
    for text in ["first", "last"] {
        for device in ["cam-1", "cam-2", "cam-3"] {
            let topic = format!("fleet/v1/acme/view/{device}");
            publisher.publish(Publish::new(&topic, format!("{device} {text}")).qos(1, 0).retained());
        }
    }
    let mut reader = bench.subscriber(ALL_KEPT, 1);
    assert_eq!(all_texts(&mut reader), ["cam-1 last", "cam-2 last", "cam-3 last"]);
}

pub(crate) fn retained_messages_stay_when_their_publishers_session_ends(version: Version) {
    let bench = Bench::new(version);
    let mut publisher = bench.connect(&bench.lasting("publisher"));
    keep(&mut publisher, "stays", 1);
    publisher.disconnect();
    bench.client("publisher").vanish();
    assert_eq!(kept(&bench), Some(("stays".into(), 1)));
}

pub(crate) fn a_retained_publish_of_qos_0_replaces_the_last_one(version: Version) {
    let bench = Bench::new(version);
    let mut publisher = bench.client("publisher");
    keep(&mut publisher, "old", 2);
    keep(&mut publisher, "new", 0);
    publisher.ping();
    assert_eq!(kept(&bench), Some(("new".into(), 0)));
}

pub(crate) fn retain_is_set_on_what_a_new_subscription_is_sent(version: Version) {
    let bench = Bench::new(version);
    keep(&mut bench.client("publisher"), "kept", 1);
    assert!(bench.subscriber(KEPT, 1).message().retain);
}

pub(crate) fn retain_is_not_set_on_what_matches_an_established_subscription(version: Version) {
    let bench = Bench::new(version);
    let mut reader = bench.subscriber(KEPT, 1);
    let mut publisher = bench.client("publisher");
    for retain in [true, false] {
        publisher.publish(Publish { retain, ..Publish::new(KEPT, "live").qos(1, 0) });
        assert!(!reader.message().retain);
    }
}

pub(crate) fn an_empty_retained_publish_is_delivered_and_removes_the_retained_one(version: Version) {
    let bench = Bench::new(version);
    let mut publisher = bench.client("publisher");
    keep(&mut publisher, "kept", 1);
    let mut reader = bench.subscriber(KEPT, 1);
    assert_eq!(reader.message().text(), "kept");
    keep(&mut publisher, "", 1);
    let empty = reader.message();
    assert_eq!((empty.text().as_str(), empty.retain), ("", false));
    assert_eq!(kept(&bench), None);
}

pub(crate) fn an_empty_retained_publish_is_not_kept(version: Version) {
    let bench = Bench::new(version);
    keep(&mut bench.client("publisher"), "", 1);
    assert_eq!(kept(&bench), None);
    assert_eq!(bench.broker.broker.counters().retained_messages, 0);
}

pub(crate) fn a_publish_without_retain_leaves_the_retained_one(version: Version) {
    let bench = Bench::new(version);
    let mut publisher = bench.client("publisher");
    publisher.publish(Publish::new(KEPT, "passes").qos(1, 0));
    assert_eq!(kept(&bench), None);
    keep(&mut publisher, "kept", 1);
    publisher.publish(Publish::new(KEPT, "passes").qos(1, 0));
    publisher.publish(Publish::new(KEPT, "").qos(1, 0));
    assert_eq!(kept(&bench), Some(("kept".into(), 1)));
}
