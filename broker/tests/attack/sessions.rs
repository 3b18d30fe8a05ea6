//! Attackers with an account who connect again and again, and leave things behind.

use std::time::{Duration, Instant};

use nix::sys::socket::{setsockopt, sockopt};

use crate::support::broker::{device, person, service, up};
use crate::support::*;
use crate::target::{MIB, PALS, Target, pal};
use crate::witness::Witness;

const STORM: Duration = Duration::from_secs(2);

/// Each of so many threads does `once` with its number and a count, until the time is over.
fn storm(threads: usize, once: impl Fn(usize, usize) + Sync) {
    let end = Instant::now() + STORM;
    std::thread::scope(|scope| {
        for thread in 0..threads {
            let once = &once;
            scope.spawn(move || {
                let mut count = 0;
                while Instant::now() < end {
                    once(thread, count);
                    count += 1;
                }
                eprintln!("{count} times");
            });
        }
    });
}

#[test]
fn a_storm_of_takeovers_of_one_client_leaves_one_connection_and_hinders_nobody() {
    for connect in [device(Version::V311, "bot-1"), person(Version::V5, "vera").persistent()] {
        let target = Target::start();
        let witness = Witness::start(&target);
        let before = target.usage();
        storm(12, |_, _| {
            let mut client = Client::silent(target.address, connect.version);
            client.try_send(connect.encode());
            // Some read the answer, some leave before, as it comes.
            let _ = client.wait(Duration::from_millis(2));
        });
        target.assert_grew_less_than(&before, 10 * MIB);
        assert!(target.log().lines().count() < 100, "the log is flooded");
        // The last of the storm may still wait to be accepted, and come after it.
        until("there is one that stays", || Client::attempt(target.address, &connect).1 == 0);
        target.assert_gives_back(&before);
        witness.finish();
    }
}

#[test]
fn clients_that_take_over_and_do_not_leave_cost_one_descriptor_each_for_half_a_second_at_most() {
    let target = Target::start();
    let witness = Witness::start(&target);
    let before = target.usage();
    let connect = person(Version::V5, "vera");
    let mut kept = Vec::new();
    let end = Instant::now() + STORM;
    let mut most = 0;
    while Instant::now() < end && kept.len() < 5_000 {
        let mut client = Client::silent(target.address, connect.version);
        client.try_send(connect.encode());
        kept.push(client);
        if kept.len().is_multiple_of(50) {
            most = most.max(target.usage().descriptors);
        }
    }
    eprintln!("{} connections, {most} descriptors", kept.len());
    assert!(kept.len() > 500);
    // 256 before login, 512 whose password is being checked, 256 that may read why they end, and who is about to leave.
    assert!(most < before.descriptors + 1_200, "{most} descriptors");
    target.until_descriptors("one is left", |now| now <= before.descriptors + 1);
    drop(kept);
    target.assert_grew_less_than(&before, 10 * MIB);
    target.assert_gives_back(&before);
    witness.finish();
}

#[test]
fn ever_new_client_ids_with_sessions_that_wait_keep_sixteen_and_the_oldest_make_room() {
    let target = Target::start();
    let witness = Witness::start(&target);
    let before = target.usage();
    let filters = ["view/+", "device/+/birth", "device/+/presence", "view/x"]
        .map(|tail| format!("fleet/v1/acme/{tail}"));
    let filters = filters.each_ref().map(String::as_str);
    let id = |thread: usize, count: usize| format!("{}-{thread}-{count}", "long".repeat(50));
    storm(4, |thread, count| {
        let connect =
            Connect { client_id: id(thread, count), ..person(BOTH[thread % 2], "vera").persistent() };
        Client::connect(target.address, &connect).subscribe(&filters, 1);
    });
    target.assert_grew_less_than(&before, 15 * MIB);
    target.assert_gives_back(&before);
    let present = |thread| {
        let attempt = |count| {
            let connect =
                Connect { client_id: id(thread, count), ..person(BOTH[thread % 2], "vera").persistent() };
            Client::attempt(target.address, &connect).2
        };
        (0..20).filter(|count| attempt(*count)).count()
    };
    assert_eq!(present(0), 0, "the first ones are gone");
    witness.finish();
}

#[test]
fn sessions_of_many_accounts_that_fill_all_places_make_room_for_who_comes_next() {
    let target = Target::with("sessions = 60");
    let witness = Witness::start(&target);
    // Sixteen of each wait: more than there are places.
    storm(4, |thread, count| {
        let name = pal((thread + count) % PALS);
        let connect = Connect::new(Version::V5, &format!("waits-{thread}-{count}"))
            .login(&format!("acme/{name}"), &format!("{name}-secret"))
            .persistent();
        let (mut client, code, _) = Client::attempt(target.address, &connect);
        assert_eq!(code, 0);
        client.subscribe(&["fleet/v1/acme/view/+"], 1);
    });
    let mut newcomer = Client::connect(target.address, &person(Version::V5, "ada"));
    assert_eq!(newcomer.subscribe(&["fleet/v1/acme/view/+"], 1), [1]);
    // Whose session waited alone still has it.
    witness.finish();
}

#[test]
fn ever_new_client_ids_with_large_delayed_wills_keep_as_many_as_sessions_wait() {
    let target = Target::start();
    let witness = Witness::start(&target);
    let before = target.usage();
    let mut will = Will::new("fleet/v1/acme/operator/otto/command", &"w".repeat(50_000));
    will.properties = property::will_delay(3_600);
    storm(4, |thread, count| {
        let connect = Connect {
            client_id: format!("dies-{thread}-{count}"),
            ..person(Version::V5, "otto").persistent().will(will.clone())
        };
        // Without a goodbye.
        drop(Client::connect(target.address, &connect));
    });
    target.assert_grew_less_than(&before, 15 * MIB);
    target.assert_gives_back(&before);
    witness.finish();
}

#[test]
fn messages_that_an_absent_client_never_acknowledged_are_bounded_in_bytes() {
    let target = Target::start();
    let witness = Witness::start(&target);
    let log = "x".repeat(200_000);
    let mut bots: Vec<Client> = (1..=8)
        .map(|n| Client::connect(target.address, &device(Version::V311, &format!("bot-{n}"))))
        .collect();
    let before = target.usage();
    for session in 0..8 {
        let connect =
            Connect { client_id: format!("keeps-{session}"), ..person(Version::V5, "otto").persistent() };
        let mut reader = Client::connect(target.address, &connect);
        assert_eq!(reader.subscribe(&["fleet/v1/acme/device/+/log"], 1), [1]);
        // Other messages for each session, which takes as many as it gets and acknowledges none.
        for number in 0..60 {
            let bot = number % bots.len();
            let topic = up(&format!("bot-{}", bot + 1), "log");
            assert_eq!(bots[bot].publish(Publish::new(topic, &log).qos(1, 0)), 0);
        }
        while let Outcome::Packet(_) = reader.wait(Duration::from_millis(100)) {}
        drop(reader);
    }
    target.assert_grew_less_than(&before, 25 * MIB);
    witness.finish();
}

#[test]
fn queues_of_absent_clients_are_full_at_their_limit_and_what_comes_then_is_dropped() {
    let target = Target::start();
    let witness = Witness::start(&target);
    for session in 0..16 {
        let connect = Connect {
            client_id: format!("away-{session}"),
            ..person(BOTH[session % 2], "vera").persistent()
        };
        let mut reader = Client::connect(target.address, &connect);
        assert_eq!(reader.subscribe(&[&format!("fleet/v1/acme/view/{session}")], 1), [1]);
        reader.disconnect();
    }
    let mut publisher = Client::connect(target.address, &service(Version::V5));
    let before = target.usage();
    // Ten times what each may keep, and each gets its own.
    for number in 0..16 * 1_000 {
        let topic = format!("fleet/v1/acme/view/{}", number % 16);
        publisher.send(Publish::new(topic, [0; 10_000]).qos(1, 1).encode(Version::V5));
        if number % 100 == 99 {
            (0..100).for_each(|_| assert!(matches!(publisher.receive(), Received::PubAck { code: 0, .. })));
        }
    }
    target.assert_grew_less_than(&before, 25 * MIB);
    witness.finish();
}

/// Ada's tool of this number: its session outlives it, and its will is large.
fn hoarder(number: usize) -> Connect {
    let mut will = Will::new("fleet/v1/acme/operator/ada/command", &"w".repeat(50_000));
    will.properties = property::will_delay(3_600);
    Connect { client_id: format!("hoards-{number}"), ..person(Version::V5, "ada").persistent().will(will) }
}

#[test]
fn one_account_holds_no_more_in_all_its_sessions_and_connections_than_it_may_and_others_go_on() {
    const AWAY: usize = 16;
    const THERE: usize = 99;
    let target = Target::start();
    let witness = Witness::start(&target);
    let before = target.usage();
    let view = |number: usize| format!("fleet/v1/acme/view/for-{number}");
    // Filters that are as long and as deep as they may be, and never the same.
    let deep = |number: usize, n: usize| format!("fleet/v1/acme/{number}/{n}/{}#", "a/".repeat(490));
    let open = |number: usize| {
        let mut client = Client::connect(target.address, &hoarder(number));
        setsockopt(client.stream(), sockopt::RcvBuf, &8_192).unwrap();
        assert_eq!(client.subscribe(&[&view(number)], 1), [1]);
        let filters: Vec<String> = (0..40).map(|n| deep(number, n)).collect();
        let codes = client.subscribe(&filters.iter().map(String::as_str).collect::<Vec<_>>(), 1);
        assert!(codes.iter().all(|code| [1, 0x97].contains(code)), "{codes:?}");
        client
    };
    // Some go without a goodbye.
    (THERE..THERE + AWAY).for_each(|number| drop(open(number)));
    let mut there: Vec<Client> = (0..THERE).map(open).collect();
    // Each gets messages of its own: more than waits for one, and more than is kept until it is acknowledged.
    let mut service = Client::connect(target.address, &service(Version::V5));
    for round in 0..24 {
        for number in 0..THERE + AWAY {
            let payload = [round as u8; 50_000];
            service.send(Publish::new(view(number), payload).qos(1, 1).encode(Version::V5));
        }
        (0..THERE + AWAY)
            .for_each(|_| assert!(matches!(service.receive(), Received::PubAck { code: 0, .. })));
        // Half of them read now and then, and acknowledge nothing.
        for client in there.iter_mut().step_by(2).filter(|_| round % 3 == 0) {
            while let Outcome::Packet(_) = client.wait(Duration::from_millis(2)) {}
        }
    }
    // And each begins a packet that it does not finish, for as long as it is let.
    let topic = wire::field("fleet/v1/acme/operator/ada/command");
    let begun = [&[kind::PUBLISH][..], &wire::varint(300_000), &topic, &vec![0; 299_000]].concat();
    for client in &mut there {
        client.stream().set_write_timeout(Some(Duration::from_millis(20))).unwrap();
        client.try_send(&begun);
    }
    std::thread::sleep(Duration::from_millis(500));
    target.assert_grew_less_than(&before, 50 * MIB);
    // The account is where it was, and so is everybody else.
    drop((there, service));
    target.assert_gives_back(&before);
    let mut again =
        Client::connect(target.address, &Connect { client_id: "new".into(), ..person(Version::V5, "ada") });
    assert_eq!(again.subscribe(&[&view(0)], 1), [1]);
    witness.finish();
}
