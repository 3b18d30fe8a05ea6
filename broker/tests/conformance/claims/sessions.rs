//! Sessions: what outlives a connection, and what is sent again.

use crate::bench::*;
use crate::support::*;

pub(crate) fn a_session_is_resumed_or_made_and_stored(version: Version) {
    let bench = Bench::new(version);
    let (mut reader, present) = bench.resume(&bench.lasting("x"));
    assert!(!present, "a new one");
    assert_eq!(reader.subscribe(&[TOPIC], 1), [1]);
    reader.disconnect();
    for round in ["after a goodbye", "after a loss"] {
        let (mut reader, present) = bench.resume(&bench.lasting("x"));
        assert!(present, "{round}");
        bench.client("publisher").publish(Publish::new(TOPIC, round).qos(1, 0));
        assert_eq!(reader.message().text(), round, "without a new SUBSCRIBE");
        // A reset would take the acknowledgement with it.
        reader.ping();
        reader.reset();
    }
}

pub(crate) fn a_new_session_is_made_where_there_is_none(version: Version) {
    let bench = Bench::new(version);
    let (mut reader, present) = bench.resume(&bench.lasting("x"));
    assert!(!present);
    bench.client("publisher").publish(Publish::new(TOPIC, "x").qos(1, 0));
    reader.expect_silence();
    reader.disconnect();
    assert!(bench.resume(&bench.lasting("x")).1);
}

pub(crate) fn messages_of_qos_1_and_2_are_stored_for_an_absent_client(version: Version) {
    let bench = Bench::new(version);
    let (mut reader, _) = bench.resume(&bench.lasting("x"));
    assert_eq!(reader.subscribe(&["conformance/+"], 2), [2]);
    reader.disconnect();
    let mut publisher = bench.client("publisher");
    for number in 0..10 {
        let topic = format!("conformance/{}", number % 2);
        publisher.publish(Publish::new(topic, number.to_string()).qos(1 + number % 2, 0));
    }
    let (mut reader, present) = bench.resume(&bench.lasting("x"));
    assert!(present);
    let numbers: Vec<String> = (0..10).map(|number: u8| number.to_string()).collect();
    assert_eq!(all_texts(&mut reader), numbers);
}

pub(crate) fn a_clean_connect_discards_the_session(version: Version) {
    let bench = Bench::new(version);
    let (mut reader, _) = bench.resume(&bench.lasting("x"));
    assert_eq!(reader.subscribe(&[TOPIC], 1), [1]);
    reader.disconnect();
    let mut publisher = bench.client("publisher");
    publisher.publish(Publish::new(TOPIC, "waits").qos(1, 0));
    let (mut clean, present) = bench.resume(&bench.login("x"));
    assert!(!present);
    publisher.publish(Publish::new(TOPIC, "unheard").qos(1, 0));
    clean.expect_silence();
    assert_eq!(clean.subscribe(&[TOPIC], 1), [1]);
    clean.disconnect();
    // It lasted as long as the connection.
    let (mut later, present) = bench.resume(&bench.lasting("x"));
    assert!(!present);
    publisher.publish(Publish::new(TOPIC, "unheard").qos(1, 0));
    later.expect_silence();
}

pub(crate) fn a_session_lasts_while_its_connection_does(version: Version) {
    let bench = Bench::new(version);
    // Whatever else comes and goes.
    let mut reader = bench.subscriber(TOPIC, 1);
    let mut publisher = bench.client("publisher");
    for number in 0..20 {
        bench.resume(&bench.lasting(&format!("other {number}"))).0.disconnect();
        publisher.publish(Publish::new(TOPIC, number.to_string()).qos(1, 0));
        assert_eq!(reader.message().text(), number.to_string());
    }
}

pub(crate) fn what_is_unacknowledged_is_sent_again_with_its_identifier(version: Version) {
    let bench = Bench::new(version);
    let (mut reader, _) = bench.resume(&bench.lasting("x"));
    assert_eq!(reader.subscribe(&[TOPIC], 2), [2]);
    let mut publisher = bench.client("publisher");
    for number in 0..6 {
        publisher.publish(Publish::new(TOPIC, number.to_string()).qos(1 + number % 2, 0));
    }
    let sent: Vec<_> = (0..6).map(|_| unacknowledged(&mut reader)).collect();
    // Number 0 is done, 1 is released and not completed, 3 is received by PUBREC that the server has seen.
    reader.send(wire::acknowledge(kind::PUBACK, sent[0].3));
    reader.send(wire::acknowledge(kind::PUBREC, sent[1].3));
    assert_eq!(reader.receive(), Received::PubRel { id: sent[1].3, code: 0 });
    // Nothing is sent again on the connection of now.
    reader.expect_silence();
    for _ in 0..2 {
        reader.reset();
        let present;
        (reader, present) = bench.resume(&bench.lasting("x"));
        assert!(present);
        reader.receive_first(&Received::PubRel { id: sent[1].3, code: 0 });
        for (text, qos, _, id) in &sent[2..] {
            assert_eq!(unacknowledged(&mut reader), (text.clone(), *qos, true, *id), "in their order");
        }
        reader.expect_silence();
    }
}

pub(crate) fn a_message_is_kept_for_every_client_with_a_matching_subscription(version: Version) {
    let bench = Bench::new(version);
    let ids = ["one", "two", "three"];
    for id in ids {
        let (mut client, _) = bench.resume(&bench.lasting(id));
        assert_eq!(client.subscribe(&[TOPIC], 1), [1]);
        client.disconnect();
    }
    let mut connected = bench.subscriber(TOPIC, 1);
    assert_eq!(bench.client("publisher").publish(Publish::new(TOPIC, "for all").qos(1, 0)), 0);
    assert_eq!(connected.message().text(), "for all");
    for id in ids {
        assert_eq!(bench.resume(&bench.lasting(id)).0.message().text(), "for all");
    }
}

pub(crate) fn every_topic_is_ordered(version: Version) {
    let bench = Bench::new(version);
    let mut reader = bench.subscriber("order/+", 2);
    let mut publishers = ["a", "b"].map(|id| bench.client(id));
    // Each publisher sends three QoS on two topics, all in one piece.
    for (publisher, name) in publishers.iter_mut().zip(["a", "b"]) {
        let mut burst = Vec::new();
        for number in 0..60_u16 {
            let text = format!("{name} {number}");
            let topic = format!("order/{}", number % 2);
            let qos = (number / 2 % 3) as u8;
            burst.extend(Publish::new(topic, text).qos(qos, 1 + number).encode(version));
        }
        publisher.send(burst);
    }
    let mut last = std::collections::BTreeMap::new();
    for _ in 0..120 {
        let message = reader.message();
        let text = message.text();
        let (name, number) = text.split_once(' ').unwrap();
        let number: u16 = number.parse().unwrap();
        let before = last.insert((name.to_owned(), message.topic, message.qos), number);
        assert!(before.is_none_or(|before| before < number), "{name} {number} after {before:?}");
    }
}
