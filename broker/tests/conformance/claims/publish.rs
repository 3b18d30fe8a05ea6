//! PUBLISH.

use crate::bench::*;
use crate::support::*;

pub(crate) fn dup_is_set_when_a_publish_is_sent_again(version: Version) {
    let bench = Bench::new(version);
    let (mut reader, _) = bench.resume(&bench.lasting("x"));
    assert_eq!(reader.subscribe(&[TOPIC], 2), [2]);
    let mut publisher = bench.client("publisher");
    for qos in 1..=2 {
        publisher.publish(Publish::new(TOPIC, qos.to_string()).qos(qos, 0));
    }
    let sent = [unacknowledged(&mut reader), unacknowledged(&mut reader)];
    assert!(sent.iter().all(|(_, _, dup, _)| !dup), "the first time");
    reader.reset();
    let (mut reader, present) = bench.resume(&bench.lasting("x"));
    assert!(present);
    for (text, qos, _, id) in sent {
        assert_eq!(unacknowledged(&mut reader), (text, qos, true, id));
    }
}

pub(crate) fn dup_with_qos_0_closes_the_connection(version: Version) {
    let bench = Bench::new(version);
    let packet = Publish { dup: true, ..Publish::new(TOPIC, "x") }.encode(version);
    bench.assert_each_ends(0x81, &[packet]);
}

pub(crate) fn dup_is_not_passed_on(version: Version) {
    let bench = Bench::new(version);
    let mut reader = bench.subscriber(TOPIC, 2);
    let mut publisher = bench.client("publisher");
    for qos in 1..=2 {
        let publish = Publish { dup: true, ..Publish::new(TOPIC, "x").qos(qos, 0) };
        assert_eq!(publisher.publish(publish), 0);
        let (_, sent, dup, _) = unacknowledged(&mut reader);
        assert_eq!((sent, dup), (qos, false));
    }
}

pub(crate) fn both_qos_bits_close_the_connection(version: Version) {
    let bench = Bench::new(version);
    let packet = Publish::new(TOPIC, "x").qos(3, 1).encode(version);
    bench.assert_each_ends(0x81, &[packet]);
}

pub(crate) fn a_publish_without_a_whole_topic_name_closes_the_connection(version: Version) {
    let bench = Bench::new(version);
    let packets = [vec![0x30, 0], vec![0x30, 1, 0], vec![0x30, 4, 0, 3, b'a', b'b'], vec![0x32, 2, 0, 0]];
    bench.assert_each_ends(0x81, &packets);
}

pub(crate) fn a_topic_name_with_a_wildcard_closes_the_connection(version: Version) {
    let packets: Vec<Vec<u8>> = ["#", "+", "a/#", "a/+/b", "a+", "a#b"]
        .iter()
        .flat_map(|topic| [0, 1].map(|qos| Publish::new(topic, "x").qos(qos, 1).encode(version)))
        .collect();
    Bench::new(version).assert_each_ends(0x90, &packets);
}

pub(crate) fn the_topic_name_arrives_as_published_and_matches_the_filter(version: Version) {
    let bench = Bench::new(version);
    let mut all = bench.subscriber("#", 1);
    let mut one = bench.subscriber("sport/+/score", 1);
    let mut publisher = bench.client("publisher");
    let topics =
        ["sport/tennis/score", "sport/tennis", "Sport/tennis/score", "sport//score", "/sport/x/score"];
    for topic in topics {
        assert_eq!(publisher.publish(Publish::new(topic, topic).qos(1, 0)), 0);
        let message = all.message();
        assert_eq!((message.topic.as_str(), message.text().as_str()), (topic, topic));
    }
    for topic in ["sport/tennis/score", "sport//score"] {
        assert_eq!(one.message().topic, topic);
    }
    one.expect_silence();
}

pub(crate) fn the_answer_to_a_publish_follows_from_its_qos(version: Version) {
    let bench = Bench::new(version);
    let mut publisher = bench.client("publisher");
    publisher.send(Publish::new(TOPIC, "x").encode(version));
    publisher.ping();
    publisher.send(Publish::new(TOPIC, "x").qos(1, 7).encode(version));
    assert_eq!(publisher.receive(), Received::PubAck { id: 7, code: 0 });
    publisher.send(Publish::new(TOPIC, "x").qos(2, 8).encode(version));
    assert_eq!(publisher.receive(), Received::PubRec { id: 8, code: 0 });
}

pub(crate) fn overlapping_subscriptions_deliver_once_at_the_highest_qos(version: Version) {
    let bench = Bench::new(version);
    let mut reader = bench.client("reader");
    assert_eq!(reader.subscribe(&["conformance/#"], 0), [0]);
    assert_eq!(reader.subscribe(&[TOPIC], 2), [2]);
    assert_eq!(reader.subscribe(&["conformance/+"], 1), [1]);
    bench.client("publisher").publish(Publish::new(TOPIC, "x").qos(2, 0));
    assert_eq!(reader.message().qos, 2);
    reader.expect_silence();
}

pub(crate) fn a_repeated_subscription_replaces_the_first(version: Version) {
    let bench = Bench::new(version);
    let mut publisher = bench.client("publisher");
    publisher.publish(Publish::new(KEPT, "kept").qos(2, 0).retained());
    let mut reader = bench.client("reader");
    for qos in [2, 0, 1] {
        assert_eq!(reader.subscribe(&[KEPT], qos), [qos]);
        let kept = reader.message();
        assert_eq!((kept.text().as_str(), kept.qos, kept.retain), ("kept", qos, true), "sent again");
        publisher.publish(Publish::new(KEPT, "live").qos(2, 0));
        let live = reader.message();
        assert_eq!((live.text().as_str(), live.qos), ("live", qos), "at the new QoS alone");
    }
    reader.expect_silence();
    assert_eq!(reader.unsubscribe(&[KEPT]).len(), usize::from(version == Version::V5));
    publisher.publish(Publish::new(KEPT, "unheard").qos(1, 0));
    reader.expect_silence();
}

pub(crate) fn nothing_is_lost_while_a_subscription_is_replaced(version: Version) {
    const COUNT: u16 = 300;
    let bench = Bench::new(version);
    let mut reader = bench.subscriber(TOPIC, 1);
    let mut publisher = bench.client("publisher");
    let burst: Vec<u8> =
        (1..=COUNT).flat_map(|id| Publish::new(TOPIC, id.to_string()).qos(1, id).encode(version)).collect();
    publisher.send(burst);
    let mut texts = Vec::new();
    let mut answers = 0;
    while texts.len() < usize::from(COUNT) {
        if texts.len() >= 10 * answers {
            let id = reader.next_id();
            reader.send(wire::subscribe(version, id, &[(TOPIC, 1)], &[]));
            answers += 1;
        }
        match reader.receive() {
            Received::SubAck { codes, .. } => assert_eq!(codes, [1]),
            packet => texts.push(reader.accept(packet).text()),
        }
    }
    let expected: Vec<String> = (1..=COUNT).map(|id| id.to_string()).collect();
    assert_eq!(texts, expected);
}
