//! Bounds on what a client can make the broker hold or do.

use std::time::{Duration, Instant};

use crate::support::broker::{device, person, service, up};
use crate::support::*;

#[test]
fn a_connection_without_a_connect_is_closed_after_the_handshake_time() {
    let broker = TestBroker::with(|limits| limits.handshake_time = Duration::from_millis(300));
    let whole = person(Version::V5, "ada").encode();
    for sent in [&b""[..], &[kind::CONNECT], &whole[..whole.len() - 1]] {
        let mut client = Client::silent(broker.address, Version::V5);
        let began = Instant::now();
        client.send(sent);
        assert_eq!(client.wait(PATIENCE), Outcome::Closed, "{} bytes", sent.len());
        assert!(began.elapsed() >= Duration::from_millis(280), "{:?}", began.elapsed());
    }
    // Bytes that trickle in do not buy more time.
    let mut trickling = Client::silent(broker.address, Version::V5);
    let began = Instant::now();
    let mut sent = 0;
    until("the trickling client is closed", || {
        if sent < whole.len() - 1 && trickling.try_send(&whole[sent..sent + 1]) {
            sent += 1;
        }
        trickling.wait(Duration::from_millis(20)) == Outcome::Closed
    });
    assert!(began.elapsed() < Duration::from_secs(3), "{:?}", began.elapsed());
    // Whoever has logged in stays.
    let mut client = broker.person(Version::V5, "ada");
    std::thread::sleep(Duration::from_millis(500));
    client.ping();
    assert_eq!(broker.broker.counters().connections_unauthenticated, 0);
}

#[test]
fn the_default_handshake_time_is_ten_seconds() {
    assert_eq!(::broker::Limits::default().handshake_time, Duration::from_secs(10));
}

#[test]
fn an_oversized_packet_ends_the_connection_at_its_header() {
    let broker = TestBroker::with(|limits| limits.packet_bytes = 10_000);
    for version in BOTH {
        for (connect, topic) in [
            (device(version, "cam-1"), up("cam-1", "log")),
            (person(version, "otto"), "fleet/v1/acme/operator/otto/command".to_owned()),
            (service(version), "fleet/v1/acme/view/cam-1".to_owned()),
        ] {
            let mut client = Client::connect(broker.address, &connect);
            assert_eq!(
                client.publish(Publish::new(&topic, vec![b'x'; 9_900]).qos(1, 0)),
                0,
                "below the limit"
            );
            // The header alone is enough: nobody waits for the body.
            client.send([&[kind::PUBLISH][..], &wire::varint(10_001)].concat());
            client.expect_end(&[0x95]);
            let mut client = Client::connect(broker.address, &connect);
            client.send([kind::PUBLISH, 0xff, 0xff, 0xff, 0x7f]);
            client.expect_end(&[0x95]);
            let mut client = Client::connect(broker.address, &connect);
            client.send([kind::PUBLISH, 0xff, 0xff, 0xff, 0xff, 0x01]);
            client.expect_end(&[0x81]);
        }
    }
    broker.assert_serves_others();
}

#[test]
fn the_largest_log_batch_fits_into_the_default_packet_size() {
    let broker = TestBroker::start();
    let mut watcher = broker.person(Version::V5, "ada");
    assert_eq!(watcher.subscribe(&["fleet/v1/acme/device/+/log"], 1), [1]);
    let batch = vec![7; 256 * 1024];
    for version in BOTH {
        let mut camera = broker.device(version, "cam-1");
        assert_eq!(camera.publish(Publish::new(up("cam-1", "log"), &batch).qos(1, 0)), 0);
        assert!(watcher.message().payload == batch);
    }
}

#[test]
fn an_oversized_connect_is_refused_before_it_is_read() {
    let broker = TestBroker::start();
    let mut client = Client::silent(broker.address, Version::V5);
    client.send([&[kind::CONNECT][..], &wire::varint(10_000_000)].concat());
    assert!(client.wait_raw(PATIENCE).is_some(), "closed at the header");
    // A long password is no problem, and wrong.
    let connect = Connect { password: Some("x".repeat(60_000)), ..device(Version::V5, "cam-1") };
    assert_eq!(Client::attempt(broker.address, &connect).1, 0x86);
    let connect = Connect { client_id: "x".repeat(60_000), ..person(Version::V5, "ada") };
    assert_eq!(Client::attempt(broker.address, &connect).1, 0x85);
    broker.assert_serves_others();
}

#[test]
fn past_the_limit_of_connections_the_next_is_told_busy_and_a_place_comes_free_again() {
    let broker = TestBroker::with(|limits| limits.connections = 10);
    for version in BOTH {
        let mut clients: Vec<Client> =
            (1..=10).map(|number| broker.device(version, &format!("cam-{number}"))).collect();
        for _ in 0..3 {
            let (_, code, _) = Client::attempt(broker.address, &device(version, "cam-11"));
            assert_eq!(code, if version == Version::V5 { 0x89 } else { 3 });
        }
        clients.iter_mut().for_each(Client::ping);
        clients.pop().unwrap().disconnect();
        until("a place comes free", || Client::attempt(broker.address, &device(version, "cam-11")).1 == 0);
        drop(clients);
        until("all have left", || broker.broker.counters().connections_devices == 0);
    }
}

#[test]
fn past_the_limit_of_an_address_the_oldest_connection_without_a_login_makes_room() {
    let broker = TestBroker::with(|limits| limits.unauthenticated_per_address = 5);
    let mut camera = broker.device(Version::V5, "cam-1");
    let waiting = |count| {
        until("they wait", || broker.broker.counters().connections_unauthenticated == count);
    };
    let mut silent: Vec<Client> = Vec::new();
    for count in 1..=5 {
        silent.push(Client::silent(broker.address, Version::V5));
        waiting(count);
    }
    // Whoever says who it is gets in, however many say nothing.
    let began = Instant::now();
    for number in 2..=41 {
        broker.device(Version::V311, &format!("cam-{number}")).disconnect();
    }
    assert!(began.elapsed() < Duration::from_secs(8), "before the silent ones were out of time");
    assert_eq!(silent[0].wait(PATIENCE), Outcome::Closed);
    assert_eq!(silent[4].wait(SILENCE), Outcome::Silence);
    assert!(broker.broker.counters().refused_before_login >= 1);
    camera.ping();
    drop(silent);
    waiting(0);
    broker.assert_serves_others();
}

#[test]
fn past_the_limit_of_subscriptions_a_filter_is_refused_and_the_others_stand() {
    let broker = TestBroker::with(|limits| limits.subscriptions = 5);
    for version in BOTH {
        let mut client = broker.person(version, "ada");
        let filters: Vec<String> = (0..7).map(|number| format!("fleet/v1/acme/view/dev-{number}")).collect();
        let filters: Vec<&str> = filters.iter().map(String::as_str).collect();
        let over = if version == Version::V5 { 0x97 } else { 0x80 };
        assert_eq!(client.subscribe(&filters, 1), [1, 1, 1, 1, 1, over, over]);
        let mut service = broker.service(version);
        assert_eq!(service.publish(Publish::new("fleet/v1/acme/view/dev-4", "x").qos(1, 0)), 0);
        assert_eq!(client.message().text(), "x");
        client.unsubscribe(&filters[..1]);
        assert_eq!(client.subscribe(&filters[5..6], 1), [1]);
    }
}

#[test]
fn past_the_limit_of_sessions_the_next_client_is_refused() {
    let broker = TestBroker::with(|limits| limits.sessions = 5);
    let mut clients: Vec<Client> = (0..5)
        .map(|number| {
            Client::connect(
                broker.address,
                &Connect { client_id: format!("c{number}"), ..person(Version::V5, "ada") },
            )
        })
        .collect();
    let (_, code, _) =
        Client::attempt(broker.address, &Connect { client_id: "c5".into(), ..person(Version::V5, "ada") });
    assert!([0x97, 0x89].contains(&code), "{code:#x}");
    clients.iter_mut().for_each(Client::ping);
    // Devices do not need a session of that kind.
    broker.device(Version::V5, "cam-1").ping();
}

#[test]
fn a_queue_for_an_absent_client_is_bounded_and_keeps_the_order() {
    let broker = TestBroker::with(|limits| limits.queued_bytes = 64 * 1024);
    for version in BOTH {
        let connect = person(version, "ada").persistent();
        let mut reader = Client::connect(broker.address, &connect);
        assert_eq!(reader.subscribe(&["fleet/v1/acme/view/+"], 1), [1]);
        reader.disconnect();
        let mut service = broker.service(version);
        let dropped = broker.broker.counters().dropped_queue_full;
        for number in 0..200 {
            let payload = format!("{number:04}{}", "x".repeat(1000));
            assert_eq!(service.publish(Publish::new("fleet/v1/acme/view/cam-1", payload).qos(1, 0)), 0);
        }
        until("what does not fit is counted", || broker.broker.counters().dropped_queue_full > dropped + 100);
        let mut reader = Client::connect(broker.address, &connect);
        let mut last = None;
        let mut count = 0;
        while let Outcome::Packet(packet) = reader.wait(SILENCE) {
            let number: u32 = reader.accept(packet).text()[..4].parse().unwrap();
            assert!(last.is_none_or(|last| last < number), "in order");
            last = Some(number);
            count += 1;
        }
        assert!((10..100).contains(&count), "{count} of 200 were kept");
        assert_eq!(reader.unsubscribe(&["fleet/v1/acme/view/+"]).len(), usize::from(version == Version::V5));
        reader.disconnect();
    }
}

#[test]
fn a_client_that_does_not_read_is_ended_by_the_write_time_and_slows_nobody() {
    let broker = TestBroker::with(|limits| limits.write_time = Duration::from_millis(500));
    let mut slow = broker.person(Version::V5, "ada");
    assert_eq!(slow.subscribe(&["fleet/v1/acme/view/+"], 0), [0]);
    let mut service = broker.service(Version::V5);
    let message = Publish::new("fleet/v1/acme/view/cam-1", vec![b'x'; 100_000]).encode(Version::V5);
    until("the slow client is ended", || {
        for _ in 0..20 {
            service.send(&message);
        }
        service.ping();
        broker.broker.counters().connections_people == 0
    });
    assert_eq!(broker.broker.counters().write_timeouts, 1);
    broker.assert_serves_others();
}

#[test]
fn retained_messages_are_bounded_in_number() {
    let broker = TestBroker::with(|limits| limits.retained_messages = 10);
    let mut service = broker.service(Version::V5);
    for number in 0..20 {
        let topic = format!("fleet/v1/acme/view/dev-{number}");
        assert_eq!(service.publish(Publish::new(topic, "x").qos(1, 0).retained()), 0);
    }
    assert_eq!(broker.broker.counters().retained_messages, 10);
    assert_eq!(broker.broker.counters().dropped_retained_full, 10);
    // A known topic is still renewed.
    assert_eq!(service.publish(Publish::new("fleet/v1/acme/view/dev-3", "new").qos(1, 0).retained()), 0);
    let mut reader = broker.person(Version::V5, "ada");
    assert_eq!(reader.subscribe(&["fleet/v1/acme/view/dev-3"], 1), [1]);
    assert_eq!(reader.message().text(), "new");
}
