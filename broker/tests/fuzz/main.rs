//! A bounded, repeatable run of the fuzzing harness: streams of packets, good ones and damaged ones, from a seed.
//!
//! `FLEET_FUZZ_SEED` repeats a run or makes another, `FLEET_FUZZ_INPUTS` (1500 for each kind of login) a longer one.

#![allow(clippy::unwrap_used)]

#[path = "../../fuzz/harness.rs"]
mod harness;

use std::sync::atomic::{AtomicUsize, Ordering};

use harness::wire::{self, Publish, Version, Will, kind, property};
use harness::{Harness, Login, THREADS};

/// SplitMix64: small, and the same on every machine.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, end: usize) -> usize {
        (self.next() % end as u64) as usize
    }

    fn pick<T: Clone>(&mut self, from: &[T]) -> T {
        from[self.below(from.len())].clone()
    }

    fn chance(&mut self, one_in: usize) -> bool {
        self.below(one_in) == 0
    }

    fn bytes(&mut self, most: usize) -> Vec<u8> {
        (0..self.below(most + 1)).map(|_| self.next() as u8).collect()
    }
}

const TOPICS: [&str; 12] = [
    "fleet/v1/acme/device/cam-1/heartbeat",
    "fleet/v1/acme/device/cam-1/presence",
    "fleet/v1/acme/device/cam-1/event",
    "fleet/v1/acme/device/cam-1/new/thing",
    "fleet/v1/acme/device/cam-2/heartbeat",
    "fleet/v1/acme/device/cam-1/command",
    "fleet/v1/acme/operator/otto/command",
    "fleet/v1/acme/operator/ada/command",
    "$SYS/x",
    "é/x",
    "a/+/b",
    "",
];

const FILTERS: [&str; 12] = [
    "fleet/v1/acme/device/cam-1/command",
    "fleet/v1/acme/device/cam-1/+",
    "fleet/v1/acme/device/+/heartbeat",
    "fleet/v1/acme/operator/otto/result",
    "fleet/v1/acme/view/+",
    "fleet/v1/server/+",
    "fleet/v1/server/#",
    "#",
    "$share/g/fleet/v1/acme/view/+",
    "é/#",
    "a/#/b",
    "",
];

/// One packet of a client, whole and mostly sensible.
fn packet(random: &mut Random, version: Version) -> Vec<u8> {
    let id = random.pick(&[1, 2, 3, 4, 5, 60_000, 0, 65_535]);
    match random.below(16) {
        0..=4 => {
            let mut publish =
                Publish::new(random.pick(&TOPICS), random.bytes(60)).qos(random.below(3) as u8, id);
            publish.retain = random.chance(4);
            publish.dup = random.chance(4);
            if random.chance(3) {
                publish = publish.property(some_property(random));
            }
            publish.encode(version)
        }
        5..=7 => {
            let filters: Vec<_> = (0..=random.below(3))
                .map(|_| (random.pick(&FILTERS), random.pick(&[0, 1, 2, 2, 3, 0x2d, 0xff])))
                .collect();
            let properties = if random.chance(5) { some_property(random) } else { Vec::new() };
            wire::subscribe(version, id, &filters, &properties)
        }
        8 => wire::unsubscribe(version, id, &[random.pick(&FILTERS), random.pick(&FILTERS)]),
        9..=12 => {
            wire::acknowledge(random.pick(&[kind::PUBACK, kind::PUBREC, kind::PUBREL, kind::PUBCOMP]), id)
        }
        13 => vec![kind::PINGREQ, 0],
        14 => connect(random, version),
        _ => {
            let body = if version == Version::V5 { random.bytes(8) } else { Vec::new() };
            wire::packet(random.pick(&[kind::DISCONNECT, kind::AUTH, kind::SUBACK, kind::UNSUBACK, 0]), body)
        }
    }
}

fn connect(random: &mut Random, version: Version) -> Vec<u8> {
    let mut connect = harness::connect(random.pick(&[Login::Device, Login::Operator]), version);
    if random.chance(3) {
        connect.password = Some("wrong".to_owned());
    }
    if random.chance(3) {
        let mut will = Will::new(random.pick(&TOPICS), "gone");
        will.retain = random.chance(2);
        will.qos = random.below(3) as u8;
        connect = connect.will(will);
    }
    if random.chance(3) {
        connect = connect.property(some_property(random));
    }
    connect.encode()
}

fn some_property(random: &mut Random) -> Vec<u8> {
    let number = random.next() as u32;
    match random.below(10) {
        0 => property::message_expiry(number % 3),
        1 => property::content_type("text/plain"),
        2 => property::subscription_identifier(random.below(300)),
        3 => property::session_expiry(number % 3),
        4 => property::will_delay(number % 2),
        5 => property::receive_maximum(random.below(4) as u16),
        6 => property::topic_alias(random.below(4) as u16),
        7 => property::user("é", "\u{10ffff}"),
        8 => property::maximum_packet_size(number % 100),
        _ => random.bytes(12),
    }
}

/// The bytes of one connection.
fn input(random: &mut Random, login: Login) -> Vec<u8> {
    let first = random.next() as u8;
    let version = if first & 1 == 0 { Version::V311 } else { Version::V5 };
    let mut bytes = Vec::new();
    if login == Login::Nobody && !random.chance(8) {
        bytes.extend(connect(random, version));
    }
    for _ in 0..random.below(12) {
        bytes.extend(packet(random, version));
    }
    // Half of them are damaged.
    if !bytes.is_empty() && random.chance(2) {
        for _ in 0..=random.below(4) {
            let at = random.below(bytes.len());
            match random.below(5) {
                0 => bytes[at] ^= 1 << random.below(8),
                1 => bytes[at] = random.pick(&[0, 1, 0x7f, 0x80, 0xff]),
                2 => bytes.truncate(at + 1),
                3 => drop(bytes.remove(at.min(bytes.len() - 1))),
                _ => bytes.insert(at, random.next() as u8),
            }
            if bytes.is_empty() {
                break;
            }
        }
    }
    if random.chance(20) {
        bytes = random.bytes(300);
    }
    bytes.insert(0, first);
    bytes
}

static PANICS: AtomicUsize = AtomicUsize::new(0);

/// Runs one kind of login through its inputs; any panic in a thread of the broker fails it.
fn run(login: Login) {
    let setting =
        |name: &str, usual: u64| std::env::var(name).ok().map_or(usual, |text| text.parse().unwrap());
    let seed = setting("FLEET_FUZZ_SEED", 20_251_228);
    let inputs = setting("FLEET_FUZZ_INPUTS", 1500);
    println!("to repeat: FLEET_FUZZ_SEED={seed} FLEET_FUZZ_INPUTS={inputs}");
    let before = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| {
        let thread = std::thread::current().name().unwrap_or_default().to_owned();
        if thread.starts_with(THREADS) || thread.starts_with("router") {
            PANICS.fetch_add(1, Ordering::SeqCst);
        }
        before(info);
    }));
    let mut harness = Harness::new();
    let mut random = Random(seed ^ login as u64);
    for number in 0..inputs {
        let bytes = input(&mut random, login);
        let outcome =
            std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| harness.connection(login, &bytes)));
        let panics = PANICS.load(Ordering::SeqCst);
        assert!(outcome.is_ok() && panics == 0, "input {number} as {login:?}: {bytes:02x?}");
    }
    // The inputs reach what they are meant for.
    let seen = harness.counters();
    for (what, count, least) in [
        ("logins", seen.connects, inputs / 10),
        ("protocol errors", seen.protocol_errors, inputs / 20),
        ("forbidden publishes", seen.publishes_refused, inputs / 100),
        ("forbidden filters", seen.subscribes_refused, inputs / 200),
        ("allowed publishes, with one probe each", seen.messages_in, inputs + inputs / 100),
    ] {
        assert!(count > least, "only {count} {what}: {seen:#?}");
    }
}

#[test]
fn no_bytes_before_login_harm_the_broker() {
    run(Login::Nobody);
}

#[test]
fn no_bytes_of_a_device_harm_the_broker() {
    run(Login::Device);
}

#[test]
fn no_bytes_of_an_operator_harm_the_broker() {
    run(Login::Operator);
}
