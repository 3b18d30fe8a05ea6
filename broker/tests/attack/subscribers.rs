//! Attackers who want to hear everything, or pretend to.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use nix::sys::socket::{setsockopt, sockopt};

use crate::crowd::flood;
use crate::support::broker::{device, person, service, up};
use crate::support::wire::subscribe;
use crate::support::*;
use crate::target::{MIB, Target};
use crate::witness::Witness;

/// Who uses this publishes for so long.
const TIME: Duration = Duration::from_secs(2);

/// A hundred devices publish ten heartbeats a second each, for two seconds.
fn hundred_devices(target: &Target, payload: usize) {
    let mut bots: Vec<Client> = (1..=100)
        .map(|n| Client::connect(target.address, &device(Version::V311, &format!("bot-{n}"))))
        .collect();
    let end = Instant::now() + TIME;
    let mut rounds = 0;
    while Instant::now() < end {
        let began = Instant::now();
        for (index, bot) in bots.iter_mut().enumerate() {
            let topic = up(&format!("bot-{}", index + 1), "heartbeat");
            bot.send(Publish::new(topic, vec![7; payload]).encode(Version::V311));
        }
        rounds += 1;
        std::thread::sleep(Duration::from_millis(100).saturating_sub(began.elapsed()));
    }
    bots.iter_mut().for_each(Client::ping);
    eprintln!("{rounds} heartbeats of each device");
}

fn viewers(target: &Target, name: &str, count: usize) -> Vec<Client> {
    let connect = |n| Connect { client_id: format!("hears-{n}"), ..person(BOTH[n % 2], name) };
    (0..count).map(|n| Client::connect(target.address, &connect(n))).collect()
}

/// Reads and drops what comes to all of them until `stop`.
fn drain(clients: &mut [Client], stop: &AtomicBool) -> usize {
    let mut bytes = vec![0; 64 * 1024];
    let mut total = 0;
    for client in clients.iter() {
        client.stream().set_nonblocking(true).unwrap();
    }
    while !stop.load(Ordering::Relaxed) {
        for client in clients.iter() {
            total += std::io::Read::read(&mut client.stream(), &mut bytes).unwrap_or(0);
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    total
}

#[test]
fn viewers_with_two_hundred_overlapping_filters_each_slow_nobody_while_a_hundred_devices_publish() {
    let target = Target::start();
    let witness = Witness::start(&target);
    let before = target.usage();
    let mut hostile = viewers(&target, "vera", 20);
    // All of them match the same heartbeats or just do not, after as much comparing as possible.
    let filters: Vec<String> = (0..199)
        .map(|n| match n {
            0 => up("+", "heartbeat"),
            1 => up("+", "birth"),
            2 => up("+", "event"),
            n if n % 2 == 0 => up(&format!("bot-{n}"), "heartbeat"),
            n => up(&format!("bot-{n}"), "event"),
        })
        .collect();
    let filters: Vec<&str> = filters.iter().map(String::as_str).collect();
    for viewer in &mut hostile {
        assert!(viewer.subscribe(&filters, 1).iter().all(|code| *code == 1));
    }
    let stop = AtomicBool::new(false);
    std::thread::scope(|threads| {
        let reading = threads.spawn(|| drain(&mut hostile, &stop));
        hundred_devices(&target, 300);
        stop.store(true, Ordering::Relaxed);
        eprintln!("{} bytes read", reading.join().unwrap());
    });
    target.assert_grew_less_than(&before, 15 * MIB);
    drop(hostile);
    target.assert_gives_back(&before);
    witness.finish();
}

#[test]
fn subscribers_that_never_read_cost_their_queue_and_slow_nobody() {
    let target = Target::start();
    let witness = Witness::start(&target);
    let before = target.usage();
    let mut hostile = viewers(&target, "vera", 60);
    for viewer in &mut hostile {
        setsockopt(viewer.stream(), sockopt::RcvBuf, &8_192).unwrap();
        assert!(viewer.subscribe(&["fleet/v1/acme/device/+/heartbeat"], 0) == [0]);
    }
    hundred_devices(&target, 8_000);
    target.assert_grew_less_than(&before, 30 * MIB);
    drop(hostile);
    target.assert_gives_back(&before);
    witness.finish();
}

#[test]
fn filters_that_search_a_large_store_for_nothing_again_and_again_slow_nobody() {
    let target = Target::start();
    let mut publisher = Client::connect(target.address, &service(Version::V5));
    for number in 0..20_000 {
        let topic = format!("fleet/v1/acme/view/device-of-the-venue-{number}");
        publisher.send(Publish::new(topic, [0; 50]).retained().encode(Version::V5));
    }
    publisher.ping();
    let witness = Witness::start(&target);
    let before = target.usage();
    // Two hundred filters that have to look at everything and match nothing.
    let filters: Vec<(String, u8)> = (0..200).map(|n| (format!("fleet/v1/acme/+/+/x{n}"), 0)).collect();
    std::thread::scope(|threads| {
        for number in 0..6 {
            let (target, filters) = (&target, &filters);
            threads.spawn(move || {
                let version = BOTH[number % 2];
                let connect = Connect { client_id: format!("searches-{number}"), ..person(version, "ada") };
                let client = Client::connect(target.address, &connect);
                let mut stream = client.stream().try_clone().unwrap();
                flood(&mut stream, &subscribe(version, 1, filters, &[]), TIME, true);
            });
        }
    });
    // Publishing what is retained goes on as well.
    let began = Instant::now();
    assert_eq!(publisher.publish(Publish::new("fleet/v1/acme/view/new", "x").qos(1, 0).retained()), 0);
    assert!(began.elapsed() < Duration::from_secs(2), "{:?}", began.elapsed());
    target.assert_grew_less_than(&before, 15 * MIB);
    drop(publisher);
    witness.finish();
}

#[test]
fn a_service_that_never_reads_slows_nobody() {
    let target = Target::start();
    let witness = Witness::start(&target);
    let before = target.usage();
    let mut hostile: Vec<Client> = (0..3)
        .map(|n| {
            let connect = Connect { client_id: format!("thief-{n}"), ..service(BOTH[n % 2]) };
            Client::connect(target.address, &connect)
        })
        .collect();
    for thief in &mut hostile {
        setsockopt(thief.stream(), sockopt::RcvBuf, &8_192).unwrap();
        assert_eq!(thief.subscribe(&["#"], 1), [1]);
    }
    hundred_devices(&target, 8_000);
    target.assert_grew_less_than(&before, 30 * MIB);
    drop(hostile);
    target.assert_gives_back(&before);
    witness.finish();
}

#[test]
fn a_device_that_never_reads_what_is_for_it_is_ended_and_its_queue_with_it() {
    let target = Target::start();
    let witness = Witness::start(&target);
    let before = target.usage();
    let bots: Vec<Client> = (1..=20)
        .map(|n| {
            let name = format!("bot-{n}");
            let mut bot = Client::connect(target.address, &device(BOTH[n % 2], &name));
            setsockopt(bot.stream(), sockopt::RcvBuf, &8_192).unwrap();
            assert_eq!(bot.subscribe(&[&up(&name, "command")], 1), [1]);
            bot
        })
        .collect();
    let mut server = Client::connect(target.address, &service(Version::V5));
    for number in 0..20 * 500 {
        let topic = up(&format!("bot-{}", number % 20 + 1), "command");
        server.send(Publish::new(topic, [0; 20_000]).encode(Version::V5));
    }
    server.ping();
    // Each holds its queue and no more; whoever has not taken it is gone.
    target.assert_grew_less_than(&before, 25 * MIB);
    target.until_descriptors("they are ended", |now| now <= before.descriptors + 1);
    drop((bots, server));
    target.assert_gives_back(&before);
    witness.finish();
}
