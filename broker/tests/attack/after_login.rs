//! Attackers who have an account: bytes in every form that does not help, and packets as fast as they go.

use std::io::Write;
use std::net::TcpStream;
use std::time::{Duration, Instant};

use crate::crowd::{Flooded, address, connect_from, flood, is_closed_within};
use crate::support::broker::{device, person, service, up};
use crate::support::wire::{acknowledge, field, packet, subscribe, unsubscribe, varint};
use crate::support::*;
use crate::target::{MIB, Target};
use crate::witness::Witness;

const FLOOD: Duration = Duration::from_millis(1_500);

/// A socket on which `connect` has logged in.
fn logged_in(target: &Target, connect: &Connect) -> TcpStream {
    let mut stream = connect_from(address(1), target.address).unwrap();
    stream.write_all(&connect.encode()).unwrap();
    let mut answer = [0; 5];
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    std::io::Read::read_exact(&mut stream, &mut answer[..4]).unwrap();
    // A short answer of 3.1.1, or the beginning of a long one of 5, whose rest is read with what follows.
    assert_eq!((answer[0], answer[3]), (kind::CONNACK, 0), "{answer:02x?}");
    stream
}

#[test]
fn sessions_in_fragments_of_one_byte_are_served_like_any_other() {
    let target = Target::start();
    let witness = Witness::start(&target);
    let before = target.usage();
    std::thread::scope(|threads| {
        for number in 1..=20 {
            let target = &target;
            threads.spawn(move || {
                let version = BOTH[number % 2];
                let name = format!("bot-{number}");
                let mut client = Client::silent(target.address, version);
                let bytewise = |client: &mut Client, bytes: &[u8]| {
                    bytes.iter().for_each(|byte| client.send([*byte]));
                };
                bytewise(&mut client, &device(version, &name).encode());
                assert!(matches!(client.receive(), Received::ConnAck { code: 0, .. }));
                let filter = up(&name, "command");
                bytewise(&mut client, &subscribe(version, 1, &[(&filter, 1)], &[]));
                assert_eq!(client.receive(), Received::SubAck { id: 1, codes: vec![1] });
                let beat = Publish::new(up(&name, "heartbeat"), [7; 300]).qos(2, 9);
                bytewise(&mut client, &beat.encode(version));
                assert_eq!(client.receive(), Received::PubRec { id: 9, code: 0 });
                bytewise(&mut client, &acknowledge(kind::PUBREL, 9));
                assert_eq!(client.receive(), Received::PubComp { id: 9, code: 0 });
            });
        }
    });
    target.assert_grew_less_than(&before, 10 * MIB);
    target.assert_gives_back(&before);
    witness.finish();
}

/// Packets that are wrong or useless; whoever sends one gets an answer or is disconnected.
fn bad_packets(version: Version) -> Vec<Vec<u8>> {
    let own = up("bot-1", "heartbeat");
    let publish = |topic: &[u8], properties: &[u8]| {
        let mut body = field(topic);
        if version == Version::V5 {
            body.extend(properties);
        }
        packet(kind::PUBLISH, [&body[..], b"payload"].concat())
    };
    let alias = |topic: &str, alias: u16| {
        publish(topic.as_bytes(), &[&[3][..], &property::topic_alias(alias)].concat())
    };
    let deep = "/".repeat(65_535);
    let many: Vec<(String, u8)> =
        (0..10_000).map(|n| (format!("fleet/v1/acme/device/bot-1/{n}"), 0)).collect();
    let user = property::user("a", "b").repeat(30_000);
    let mut all = vec![
        // Lengths: 256 MB announced, five bytes, a body that is too short or too long for what it says.
        vec![kind::PUBLISH, 0xff, 0xff, 0xff, 0x7f],
        vec![kind::PUBLISH, 0xff, 0xff, 0xff, 0xff, 0x7f],
        packet(kind::PUBLISH, [0xff, 0xff, b'a']),
        packet(kind::PINGREQ, [0; 100]),
        packet(kind::PUBACK, [1]),
        // Topics.
        publish(b"", &[0]),
        publish(&[b'a'; 65_535], &[0]),
        publish(deep.as_bytes(), &[0]),
        publish(b"fleet/+/acme", &[0]),
        publish(&[0xff, 0xfe], &[0]),
        publish(b"a\0b", &[0]),
        // Filters.
        subscribe(version, 1, &[] as &[(&str, u8)], &[]),
        subscribe(version, 1, &many, &[]),
        subscribe(version, 1, &[(&deep, 1)], &[]),
        subscribe(version, 1, &[("+/".repeat(511) + "#", 1)], &[]),
        subscribe(version, 1, &[(&own, 3)], &[]),
        subscribe(version, 1, &[(&own, 0x80)], &[]),
        subscribe(version, 0, &[(&own, 1)], &[]),
        unsubscribe(version, 1, &[]),
        // Flags and QoS.
        packet(kind::PUBLISH | 0x06, field(&own)),
        packet(kind::PUBREL, [0, 1]),
        packet(kind::SUBSCRIBE, [0, 1, 0, 1, b'a', 0]),
        packet(kind::PUBLISH | 0x02, [&field(&own)[..], &[0, 0, 0]].concat()),
        device(version, "bot-1").encode(),
        device(version, "bot-1").encode().repeat(50),
    ];
    if version == Version::V5 {
        all.extend([
            alias(&own, 0),
            alias(&own, 1),
            alias(&own, 65_535),
            alias("", 1),
            [alias(&own, 1), alias("other", 1)].concat(),
            // Property lengths that lie, of five bytes, properties twice, thirty thousand of them.
            publish(own.as_bytes(), &[0x7f, 0x01, 0x01]),
            publish(own.as_bytes(), &[0x01, 0x26]),
            publish(own.as_bytes(), &[0xff, 0xff, 0xff, 0xff, 0x01]),
            publish(own.as_bytes(), &[4, 0x01, 0, 0x01, 0]),
            publish(own.as_bytes(), &[varint(user.len()), user.clone()].concat()),
            subscribe(version, 1, &[(&own, 1)], &property::subscription_identifier(0)),
            subscribe(version, 1, &[(&own, 1)], &property::user("a", "b").repeat(30_000)),
            packet(kind::AUTH, [0x18, 0]),
        ]);
    }
    all
}

#[test]
fn packets_with_lies_in_them_cost_their_sender_the_connection_at_most() {
    let target = Target::start();
    let witness = Witness::start(&target);
    let before = target.usage();
    for version in BOTH {
        for bytes in bad_packets(version) {
            for connect in [device(version, "bot-1"), person(version, "vera"), service(version)] {
                let mut stream = logged_in(&target, &connect);
                // It may be closed before all is sent.
                let _ = stream.write_all(&bytes);
                let _ = stream.write_all(&[kind::PINGREQ, 0, kind::DISCONNECT, 0]);
                assert!(is_closed_within(&mut stream, PATIENCE), "{:02x?}", &bytes[..bytes.len().min(40)]);
            }
        }
    }
    target.assert_grew_less_than(&before, 15 * MIB);
    target.assert_gives_back(&before);
    witness.finish();
}

/// Some connections send `bytes` again and again, and read the answers or not. Everything about it is asserted. What all
/// of them came to.
fn flooded(
    connects: &[Connect],
    bytes: impl Fn(usize) -> Vec<u8> + Sync,
    reads: bool,
    bound: u64,
) -> Flooded {
    let target = Target::start();
    let witness = Witness::start(&target);
    let before = target.usage();
    let total = std::thread::scope(|threads| {
        let (target, bytes) = (&target, &bytes);
        let floods: Vec<_> = connects
            .iter()
            .enumerate()
            .map(|(number, connect)| {
                threads.spawn(move || flood(&mut logged_in(target, connect), &bytes(number), FLOOD, reads))
            })
            .collect();
        floods.into_iter().fold(Flooded::default(), |total, flood| {
            let one = flood.join().unwrap();
            Flooded { sent: total.sent + one.sent, answered: total.answered + one.answered }
        })
    });
    eprintln!("{total:?}");
    target.assert_grew_less_than(&before, bound);
    target.assert_gives_back(&before);
    witness.finish();
    total
}

fn people(count: usize) -> Vec<Connect> {
    let connect = |n: usize| Connect { client_id: format!("flood-{n}"), ..person(BOTH[n % 2], "otto") };
    (0..count).map(connect).collect()
}

fn version_of(number: usize) -> Version {
    BOTH[number % 2]
}

#[test]
fn floods_of_pings_are_answered_and_nothing_is_collected() {
    flooded(&people(6), |_| [kind::PINGREQ, 0].repeat(20_000), true, 10 * MIB);
}

#[test]
fn floods_of_pings_whose_answers_nobody_reads_are_no_longer_read_either() {
    flooded(&people(20), |_| [kind::PINGREQ, 0].repeat(20_000), false, 10 * MIB);
}

#[test]
fn floods_of_acknowledgements_of_nothing_are_passed_over() {
    let of_kind = |number| match number % 4 {
        0 => kind::PUBACK,
        1 => kind::PUBREC,
        2 => kind::PUBREL,
        _ => kind::PUBCOMP,
    };
    let all = |number| (1..=10_000).flat_map(|id| acknowledge(of_kind(number), id)).collect();
    flooded(&people(4), all, true, 10 * MIB);
}

#[test]
fn ever_new_filters_subscribed_and_unsubscribed_leave_nothing_behind() {
    let churn = |number: usize| {
        let version = version_of(number);
        let filter = |n: usize| match n % 3 {
            0 => format!("fleet/v1/acme/view/churn-{number}-{n}"),
            1 => format!("fleet/v1/acme/device/churn-{n}/heartbeat"),
            _ => "fleet/v1/acme/view/+".to_owned(),
        };
        (0..2_000)
            .flat_map(|n| {
                [subscribe(version, 1, &[(filter(n), 1)], &[]), unsubscribe(version, 2, &[&filter(n)])]
                    .concat()
            })
            .collect()
    };
    flooded(&people(6), churn, true, 10 * MIB);
}

#[test]
fn filters_past_the_limit_are_refused_however_often_they_are_asked_for() {
    {
        let target = Target::start();
        let mut client = Client::connect(target.address, &person(Version::V5, "vera"));
        let many: Vec<_> = (0..2_000).map(|n| format!("fleet/v1/acme/view/more-{n}")).collect();
        let codes = client.subscribe(&many.iter().map(String::as_str).collect::<Vec<_>>(), 1);
        assert_eq!(codes.iter().filter(|code| **code == 1).count(), 200);
    }
    let ask = |number: usize| {
        let many: Vec<_> = (0..2_000).map(|n| (format!("fleet/v1/acme/view/more-{n}"), 1)).collect();
        subscribe(version_of(number), 1, &many, &[])
    };
    flooded(&people(4), ask, true, 10 * MIB);
}

#[test]
fn publishes_as_fast_as_they_go_wait_for_the_router_and_fill_no_memory() {
    let publish = |number: usize| {
        let topic = "fleet/v1/acme/operator/otto/command";
        Publish::new(topic, [0; 2_000]).qos(1, 1).encode(version_of(number)).repeat(100)
    };
    flooded(&people(6), publish, true, 20 * MIB);
}

#[test]
fn qos_2_publishes_that_are_never_released_end_their_connection() {
    let publish = |number: usize| {
        let topic = "fleet/v1/acme/operator/otto/command";
        (1..=2_000)
            .flat_map(|id| Publish::new(topic, [0; 500]).qos(2, id).encode(version_of(number)))
            .collect()
    };
    let flooded = flooded(&people(6), publish, true, 10 * MIB);
    // 256 PUBRECs of four bytes, a CONNACK, a DISCONNECT.
    assert!(flooded.answered < 6 * (256 * 4 + 200), "they go on");
}

#[test]
fn forbidden_publishes_as_fast_as_they_go_harm_nobody() {
    let publish = |number: usize| {
        Publish::new(format!("fleet/v1/acme/view/forged-{number}"), [0; 200])
            .qos(1, 1)
            .encode(Version::V5)
            .repeat(500)
    };
    let connects: Vec<_> =
        (0..6).map(|n| Connect { client_id: format!("forger-{n}"), ..person(Version::V5, "vera") }).collect();
    flooded(&connects, publish, true, 10 * MIB);
}

#[test]
fn devices_that_flood_are_read_at_their_rate() {
    let publish = |number: usize| {
        let topic = up(&format!("bot-{}", number + 1), "log");
        Publish::new(topic, [0; 1_000]).qos(1, 1).encode(Version::V311).repeat(20)
    };
    let bots: Vec<_> = (1..=10).map(|n| device(Version::V311, &format!("bot-{n}"))).collect();
    let flooded = flooded(&bots, publish, true, 10 * MIB);
    // A hundred at once and a hundred a second, each acknowledged in four bytes.
    let taken = flooded.answered / 4;
    assert!((10 * 100..10 * 400).contains(&taken), "{taken} were taken");
}

#[test]
fn devices_that_send_their_largest_records_as_fast_as_they_may_fill_no_memory() {
    let publish = |number: usize| {
        let topic = up(&format!("bot-{}", number + 1), "log");
        Publish::new(topic, [0; 50_000]).qos(1, 1).encode(Version::V311)
    };
    let bots: Vec<_> = (1..=40).map(|n| device(Version::V311, &format!("bot-{n}"))).collect();
    flooded(&bots, publish, true, 25 * MIB);
}

#[test]
fn packets_that_are_never_finished_cost_what_was_sent_of_them() {
    let target = Target::start();
    let witness = Witness::start(&target);
    let before = target.usage();
    let topic = field("fleet/v1/acme/operator/otto/command");
    let begun = [&[kind::PUBLISH][..], &varint(300_000), &topic, &vec![0; 299_000]].concat();
    // As many connections as one account may have.
    let unfinished: Vec<TcpStream> = people(99)
        .iter()
        .map(|connect| {
            let mut stream = logged_in(&target, connect);
            stream.write_all(&begun).unwrap();
            stream
        })
        .collect();
    std::thread::sleep(Duration::from_millis(500));
    target.assert_grew_less_than(&before, 25 * MIB);
    drop(unfinished);
    target.assert_gives_back(&before);
    witness.finish();
}

#[test]
fn an_unsubscribe_of_a_hundred_thousand_filters_is_answered_and_delays_nobody() {
    let target = Target::start();
    let witness = Witness::start(&target);
    let before = target.usage();
    let end = Instant::now() + FLOOD;
    std::thread::scope(|threads| {
        for number in 0..4 {
            let target = &target;
            threads.spawn(move || {
                let version = version_of(number);
                let connect = Connect { client_id: format!("leaves-{number}"), ..person(version, "vera") };
                let mut client = Client::connect(target.address, &connect);
                let there: Vec<String> =
                    (0..200).map(|n| format!("fleet/v1/acme/view/{}", n + 1_000)).collect();
                let there: Vec<&str> = there.iter().map(String::as_str).collect();
                client.subscribe(&there, 1);
                let many = unsubscribe(version, 7, &["x"; 100_000]);
                while Instant::now() < end {
                    client.send(&many);
                    assert!(matches!(client.receive(), Received::UnsubAck { id: 7, .. }));
                }
            });
        }
    });
    target.assert_grew_less_than(&before, 30 * MIB);
    target.assert_gives_back(&before);
    witness.finish();
}

#[test]
fn the_largest_publishes_as_fast_as_they_go_fill_no_memory() {
    let publish = |number: usize| {
        let topic = "fleet/v1/acme/operator/otto/command";
        Publish::new(topic, vec![0; 290_000]).qos(1, 1).encode(version_of(number)).repeat(4)
    };
    flooded(&people(30), publish, true, 40 * MIB);
}

#[test]
fn the_system_asks_whether_a_silent_client_without_keep_alive_is_still_there() {
    let target = Target::start();
    let connect = device(Version::V311, "bot-1").keep_alive(0);
    let client = Client::connect(target.address, &connect);
    // The broker's end: its port first, ours second, and whether a timer of keep-alive (02) runs.
    let ends = format!(
        "0100007F:{:04X} 0100007F:{:04X} ",
        target.address.port(),
        client.stream().local_addr().unwrap().port()
    );
    let sockets = std::fs::read_to_string("/proc/net/tcp").unwrap();
    let socket = sockets.lines().find(|line| line.contains(&ends)).unwrap();
    assert!(socket.split_whitespace().nth(5).unwrap().starts_with("02:"), "{socket}");
}
