//! How connections end: takeover, keep-alive, being ended by principal, goodbye, shutdown.

use std::time::{Duration, Instant};

use crate::support::broker::{device, device_key, person, person_key, up};
use crate::support::*;

#[test]
fn a_new_connection_of_the_same_client_takes_over_and_the_old_one_is_told() {
    let broker = TestBroker::start();
    for version in BOTH {
        for connect in
            [person(version, "ada"), device(version, "cam-1"), person(version, "otto").persistent()]
        {
            let mut old = Client::connect(broker.address, &connect);
            let mut new = Client::connect(broker.address, &connect);
            old.expect_end(&[0x8e]);
            new.ping();
        }
    }
    // Also from one version to the other.
    let mut old = broker.device(Version::V5, "cam-2");
    let mut new = broker.device(Version::V311, "cam-2");
    old.expect_end(&[0x8e]);
    new.ping();
}

#[test]
fn a_takeover_publishes_the_old_will_once_and_leaves_the_new_one() {
    let broker = TestBroker::start();
    for version in BOTH {
        let mut watcher = broker.person(version, "ada");
        assert_eq!(watcher.subscribe(&["fleet/v1/acme/device/+/presence"], 1), [1]);
        let connect = |text: &str| device(version, "cam-1").will(Will::new(&up("cam-1", "presence"), text));
        let _old = Client::connect(broker.address, &connect("old gone"));
        let new = Client::connect(broker.address, &connect("new gone"));
        assert_eq!(watcher.message().text(), "old gone");
        watcher.expect_silence();
        new.vanish();
        assert_eq!(watcher.message().text(), "new gone");
    }
}

#[test]
fn two_agents_with_one_identity_replace_each_other_and_are_reported() {
    let broker = TestBroker::start();
    for (version, name) in [(Version::V311, "cam-1"), (Version::V5, "cam-2")] {
        let before = broker.broker.counters().identity_conflicts;
        let mut last = broker.device(version, name);
        for _ in 0..10 {
            let mut next = broker.device(version, name);
            next.ping();
            last.expect_end(&[0x8e]);
            last = next;
        }
        assert!(broker.broker.counters().identity_conflicts > before, "ten takeovers in a row and no word");
        last.ping();
    }
    broker.assert_serves_others();
}

#[test]
fn many_connections_of_one_client_at_once_leave_exactly_one() {
    let broker = TestBroker::start();
    for version in BOTH {
        let connect = person(version, "ada").persistent();
        let mut clients: Vec<Client> = (0..20)
            .map(|_| {
                let mut client = Client::silent(broker.address, version);
                client.send(connect.encode());
                client
            })
            .collect();
        // Each is answered or closed; those that got in are replaced one after the other.
        for client in &mut clients {
            assert!(!matches!(client.wait(PATIENCE), Outcome::Silence), "no answer");
        }
        until("one is left", || broker.broker.counters().connections_people == 1);
        let serves = |client: &mut Client| {
            client.try_send([kind::PINGREQ, 0]);
            loop {
                match client.wait(PATIENCE) {
                    Outcome::Packet(Received::PingResp) => return true,
                    Outcome::Packet(_) => {}
                    Outcome::Closed => return false,
                    Outcome::Silence => panic!("neither served nor closed"),
                }
            }
        };
        let alive = clients.iter_mut().filter_map(|client| serves(client).then_some(())).count();
        assert_eq!(alive, 1);
        drop(clients);
        until("all have left", || broker.broker.counters().connections_people == 0);
    }
}

#[test]
fn a_client_silent_for_one_and_a_half_keep_alives_is_disconnected() {
    let broker = TestBroker::start();
    let began = Instant::now();
    let mut clients = Vec::new();
    for (version, name) in [(Version::V311, "cam-1"), (Version::V5, "cam-2")] {
        clients.push(Client::connect(broker.address, &person(version, "ada").keep_alive(1)));
        clients.push(Client::connect(broker.address, &device(version, name).keep_alive(1)));
    }
    for client in &mut clients {
        client.expect_end(&[0x8d]);
        assert!(began.elapsed() >= Duration::from_millis(1400), "after {:?}", began.elapsed());
    }
    assert_eq!(broker.broker.counters().keep_alive_timeouts, 4);
}

#[test]
fn pings_keep_a_connection_and_a_keep_alive_of_0_needs_none() {
    let broker = TestBroker::start();
    let mut pinging = Client::connect(broker.address, &person(Version::V5, "ada").keep_alive(1));
    let mut silent = Client::connect(broker.address, &person(Version::V311, "ada").keep_alive(0));
    for _ in 0..10 {
        std::thread::sleep(Duration::from_millis(250));
        pinging.ping();
    }
    silent.ping();
}

#[test]
fn deliveries_alone_do_not_keep_a_silent_client_connected() {
    let broker = TestBroker::start();
    let mut client = Client::connect(broker.address, &person(Version::V5, "vera").keep_alive(1));
    assert_eq!(client.subscribe(&["fleet/v1/acme/view/+"], 0), [0]);
    let mut publisher = broker.service(Version::V5);
    let deadline = Instant::now() + PATIENCE;
    loop {
        assert!(Instant::now() < deadline, "the silent client is kept");
        publisher.publish(Publish::new("fleet/v1/acme/view/cam-1", "x"));
        match client.wait(Duration::from_millis(100)) {
            Outcome::Packet(Received::Disconnect { code }) => return assert_eq!(code, 0x8d),
            Outcome::Packet(_) | Outcome::Silence => {}
            Outcome::Closed => panic!("closed without a reason"),
        }
    }
}

#[test]
fn ending_a_principal_ends_all_its_connections_within_a_second_and_nobody_elses() {
    let broker = TestBroker::start();
    for version in BOTH {
        let with_id = |connect: Connect, id: &str| Connect { client_id: id.into(), ..connect };
        let mut first = Client::connect(broker.address, &with_id(person(version, "otto"), "laptop"));
        let mut second = Client::connect(broker.address, &with_id(person(version, "otto"), "phone"));
        let mut camera = broker.device(version, "cam-1");
        let mut namesake = broker.device(version, "other/cam-1");
        let mut other = broker.person(version, "ada");
        let began = Instant::now();
        assert_eq!(broker.broker.end_connections(&person_key("otto")), 2);
        assert_eq!(broker.broker.end_connections(&device_key("cam-1")), 1);
        assert_eq!(broker.broker.end_connections(&device_key("cam-59")), 0);
        for ended in [&mut first, &mut second, &mut camera] {
            ended.expect_end(&[0x87, 0x98]);
        }
        assert!(began.elapsed() < Duration::from_secs(1), "{:?}", began.elapsed());
        namesake.ping();
        other.ping();
        // It may come back if the authenticator still knows it.
        broker.device(version, "cam-1").ping();
    }
}

#[test]
fn a_principal_is_ended_in_the_middle_of_a_blocked_write() {
    let broker = TestBroker::start();
    let connect = person(Version::V5, "ada");
    let mut slow = Client::connect(broker.address, &connect);
    assert_eq!(slow.subscribe(&["fleet/v1/acme/view/+"], 0), [0]);
    let mut publisher = broker.service(Version::V5);
    let message = Publish::new("fleet/v1/acme/view/cam-1", vec![b'x'; 100_000]).encode(Version::V5);
    for _ in 0..200 {
        publisher.send(&message);
    }
    publisher.ping();
    assert_eq!(broker.broker.end_connections(&person_key("ada")), 1);
    let began = Instant::now();
    until("it has left", || broker.broker.counters().connections_people == 0);
    assert!(began.elapsed() < Duration::from_secs(1), "{:?}", began.elapsed());
    broker.assert_serves_others();
}

#[test]
fn half_closed_and_reset_connections_leave_nothing_behind() {
    let broker = TestBroker::start();
    for version in BOTH {
        let mut half = broker.person(version, "ada");
        half.stream().shutdown(std::net::Shutdown::Write).unwrap();
        assert_eq!(half.wait(PATIENCE), Outcome::Closed);
        broker.device(version, "cam-1").reset();
        broker.service(version).vanish();
        broker.person(version, "otto").disconnect();
    }
    until("nobody is left", || {
        let now = broker.broker.counters();
        now.connections_people
            + now.connections_devices
            + now.connections_services
            + now.connections_unauthenticated
            == 0
    });
    assert_eq!(broker.broker.counters().sessions, 0);
}

#[test]
fn device_connection_tells_how_a_device_is_connected() {
    let broker = TestBroker::start();
    let lookup = || {
        let org = protocol::id::OrgSlug::new("acme").unwrap();
        broker.broker.device_connection(&org, &protocol::id::DeviceId::new("cam-1").unwrap())
    };
    assert_eq!(lookup(), None);
    for (version, level) in [(Version::V311, 4), (Version::V5, 5)] {
        let camera = broker.device(version, "cam-1");
        let info = lookup().unwrap();
        assert_eq!(info.peer, camera.stream().local_addr().unwrap());
        assert_eq!((info.protocol_level, info.client_id.as_str()), (level, "acme/cam-1"));
        camera.disconnect();
        until("it has left", || lookup().is_none());
    }
}

#[test]
fn shutdown_tells_everybody_and_stops_listening() {
    let broker = TestBroker::start();
    let mut clients = [
        broker.person(Version::V5, "ada"),
        broker.device(Version::V5, "cam-1"),
        broker.person(Version::V311, "otto"),
    ];
    let _before_login = Client::silent(broker.address, Version::V5);
    let began = Instant::now();
    broker.block_on(broker.broker.shutdown());
    assert!(began.elapsed() < Duration::from_secs(4), "{:?}", began.elapsed());
    for client in &mut clients {
        client.expect_end(&[0x8b]);
    }
    assert!(!broker.broker.healthy());
    until("the port is closed", || std::net::TcpStream::connect(broker.address).is_err());
}
