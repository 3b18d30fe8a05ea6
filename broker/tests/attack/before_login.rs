//! Attackers who have no account.

use std::io::Write;
use std::net::TcpStream;
use std::time::{Duration, Instant};

use crate::crowd::{address, connect_from, crowd, descriptors, is_closed_within};
use crate::support::broker::{device, person};
use crate::support::wire::{packet, varint};
use crate::support::{Client, Connect, PATIENCE, Version, kind, until};
use crate::target::{BOTS, MIB, Target};
use crate::witness::Witness;

#[test]
fn two_thousand_silent_connections_cost_little_and_keep_nobody_out() {
    let target = Target::start();
    let witness = Witness::start(&target);
    let before = target.usage();
    // Below the limit of one address, so that all of them stay.
    let silent = crowd(target.address, 9, 250, &[]);
    let there = (9 * 250).min(descriptors() / 8) - 50;
    target.until_descriptors("all are there", |now| now >= before.descriptors + there);
    std::thread::sleep(Duration::from_secs(1));
    target.assert_grew_less_than(&before, 20 * MIB);
    drop(silent);
    target.assert_gives_back(&before);
    witness.finish();
}

#[test]
fn connections_from_one_address_make_room_for_each_other_and_for_the_neighbours() {
    let target = Target::start();
    let witness = Witness::start(&target);
    let before = target.usage();
    let end = Instant::now() + Duration::from_secs(2);
    let mut silent = Vec::new();
    while Instant::now() < end && silent.len() < 4_000 {
        // The address of the witness.
        silent.push(TcpStream::connect(target.address).unwrap());
        // Looks only now and then.
        assert!(
            !silent.len().is_multiple_of(100) || target.usage().descriptors < before.descriptors + 400,
            "they pile up"
        );
    }
    assert!(silent.len() > 300, "only {} connections", silent.len());
    target.until_descriptors("the oldest have left", |now| now <= before.descriptors + 260);
    drop(silent);
    target.assert_gives_back(&before);
    witness.finish();
}

#[test]
fn half_a_connect_by_the_thousand_costs_what_was_sent_and_no_more() {
    let target = Target::start();
    let witness = Witness::start(&target);
    let before = target.usage();
    let begun = [&[kind::CONNECT][..], &varint(60_000), &[0, 4, b'M']].concat();
    let mut half = crowd(target.address, 9, 250, &begun);
    // One more byte each: a buffer stands for it now.
    for stream in &mut half {
        let _ = stream.write_all(b"Q");
    }
    std::thread::sleep(Duration::from_secs(1));
    target.assert_grew_less_than(&before, 25 * MIB);
    drop(half);
    target.assert_gives_back(&before);
    witness.finish();
}

#[test]
fn large_connects_that_never_end_share_a_bounded_memory() {
    let target = Target::start();
    let witness = Witness::start(&target);
    let before = target.usage();
    let begun = [&[kind::CONNECT][..], &varint(60_000), &vec![0; 59_000]].concat();
    let large = crowd(target.address, 8, 250, &begun);
    std::thread::sleep(Duration::from_millis(500));
    target.assert_grew_less_than(&before, 45 * MIB);
    // A CONNECT of the usual size is not concerned.
    Client::connect(target.address, &person(Version::V5, "ada")).ping();
    drop(large);
    target.assert_gives_back(&before);
    // Nor a large one when the others have gone.
    let large = Connect { password: Some("x".repeat(50_000)), ..device(Version::V5, "cam-1") };
    until("a large CONNECT is read", || {
        let mut client = Client::silent(target.address, Version::V5);
        client.try_send(large.encode()) && client.wait_raw(PATIENCE).is_some_and(|said| said.len() > 4)
    });
    witness.finish();
}

#[test]
fn a_byte_now_and_then_holds_no_place_longer_than_the_time_for_a_login() {
    let target = Target::with("handshake_seconds = 2");
    let witness = Witness::start(&target);
    let before = target.usage();
    let whole = person(Version::V5, "ada").property([0x26, 0, 1, b'k', 0, 1, b'v'].repeat(20)).encode();
    let mut slow = crowd(target.address, 1, 100, &[]);
    until("they are let in", || target.usage().descriptors >= before.descriptors + 50);
    let began = Instant::now();
    for byte in &whole[..whole.len().min(60)] {
        for stream in &mut slow {
            let _ = stream.write_all(&[*byte]);
        }
        if target.usage().descriptors <= before.descriptors {
            break;
        }
        std::thread::sleep(Duration::from_millis(100));
    }
    let took = began.elapsed();
    target.assert_gives_back(&before);
    assert!(took < Duration::from_secs(5), "closed after {took:?}");
    witness.finish();
}

#[test]
fn announced_megabytes_are_refused_at_the_header_and_no_memory_is_set_aside() {
    let target = Target::start();
    let witness = Witness::start(&target);
    let before = target.usage();
    for header in [
        // 256 MB, a length of five bytes, one that never ends.
        &[kind::CONNECT, 0xff, 0xff, 0xff, 0x7f][..],
        &[kind::CONNECT, 0xff, 0xff, 0xff, 0xff, 0x01],
        &[kind::CONNECT, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80],
    ] {
        for stream in &mut crowd(target.address, 2, 100, header) {
            assert!(is_closed_within(stream, PATIENCE));
        }
    }
    target.assert_grew_less_than(&before, 10 * MIB);
    target.assert_gives_back(&before);
    witness.finish();
}

#[test]
fn what_is_no_connect_is_closed_at_its_first_byte() {
    let target = Target::start();
    let witness = Witness::start(&target);
    let before = target.usage();
    let hello: &[u8] = &[0x16, 0x03, 0x01, 0x02, 0x00, 0x01, 0x00, 0x01, 0xfc, 0x03, 0x03];
    let ping = [kind::PINGREQ, 0].repeat(5_000);
    let publish = packet(kind::PUBLISH, [0; 200]).repeat(500);
    for bytes in [hello, b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", &ping, &publish, &[0xff; 10_000]] {
        for stream in &mut crowd(target.address, 2, 50, bytes) {
            assert!(is_closed_within(stream, PATIENCE));
        }
    }
    target.assert_grew_less_than(&before, 10 * MIB);
    target.assert_gives_back(&before);
    witness.finish();
}

/// More silent connections than there are descriptors, from addresses that are all below their own limit; for each that
/// is closed there comes a new one.
fn descriptor_storm(target: &Target) {
    let witness = Witness::start(target);
    std::thread::sleep(Duration::from_millis(300));
    let mut silent = crowd(target.address, 10, 30, &[]);
    let before = target.usage();
    let end = Instant::now() + Duration::from_secs(2);
    for round in 0..10_000 {
        if Instant::now() > end {
            break;
        }
        let place = round % silent.len();
        silent[place] = connect_from(address(1 + (round % 10) as u8), target.address).unwrap();
        std::thread::sleep(Duration::from_millis(2));
    }
    let busy = target.usage().cpu - before.cpu;
    assert!(busy < Duration::from_millis(1500), "{busy:?} of processor time in two seconds");
    assert!(target.log().lines().count() < 100, "the log is flooded");
    witness.finish();
    drop(silent);
    target.until_descriptors("the connections are gone", |now| now < 30);
}

#[test]
fn with_few_descriptors_newcomers_get_in_and_some_are_left_for_files() {
    let target = Target::with_descriptors(150);
    descriptor_storm(&target);
    // As many connections as there are descriptors for, and the next is told so.
    let connect = |number: usize| device(Version::V5, &format!("bot-{number}"));
    let answers: Vec<_> =
        (1..=BOTS).map(|number| Client::attempt(target.address, &connect(number))).collect();
    let accepted = answers.iter().filter(|(_, code, _)| *code == 0).count();
    assert!((80..=100).contains(&accepted), "{accepted} got in");
    assert_eq!(answers.last().unwrap().1, 0x89);
    assert!(target.usage().descriptors < 150 - 10);
}

#[test]
fn when_descriptors_run_out_the_accept_loop_neither_dies_nor_spins_and_the_silent_make_room() {
    let target = Target::start();
    // Fewer than it has planned with, as if it had opened the others for something else.
    target.allow_descriptors(100);
    descriptor_storm(&target);
    assert!(target.log().contains("cannot be accepted"), "the limit was never reached");
}

#[test]
fn wrong_logins_by_the_thousand_hinder_no_right_one_and_fill_neither_memory_nor_log() {
    let target = Target::with_password("right horse");
    let witness = Witness::start(&target);
    let before = target.usage();
    let end = Instant::now() + Duration::from_secs(3);
    let wrong =
        |name: String, password: String| Connect::new(Version::V5, "x").login(&name, &password).encode();
    std::thread::scope(|threads| {
        for thread in 0..4u8 {
            let target = &target;
            threads.spawn(move || {
                for number in 0..3_000u32 {
                    if Instant::now() > end {
                        break;
                    }
                    let connect = match thread {
                        // A device's token, a person's password, ever new names, long ones.
                        0 => wrong("acme/cam-1".into(), format!("guess-{number}")),
                        1 => wrong("acme/pat".into(), format!("guess-{number}")),
                        2 => wrong(format!("acme/nobody-{number}"), "x".into()),
                        _ => wrong("n".repeat(3_000) + &number.to_string(), "p".repeat(3_000)),
                    };
                    let from = address(10 + thread);
                    if let Ok(mut stream) = connect_from(from, target.address) {
                        let _ = stream.write_all(&connect);
                    }
                }
            });
        }
    });
    target.assert_grew_less_than(&before, 80 * MIB);
    let log = target.log();
    eprintln!("{} lines, {} bytes of log", log.lines().count(), log.len());
    assert!(log.len() < 300_000, "{} bytes of log", log.len());
    target.assert_gives_back(&before);
    witness.finish();
}
