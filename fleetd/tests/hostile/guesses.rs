//! Ten thousand wrong passwords from one address, over HTTP and MQTT, while everybody else there goes on.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::sync::Barrier;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use protocol::id::Role;
use serde_json::json;

use crate::client::Client;
use crate::common::PASSWORD;
use crate::site::Site;
use crate::wire::{Connect, Publish, Version};

const HTTP_GUESSES: usize = 8_000;
const MQTT_GUESSES: usize = 1_500;
/// How long somebody who guesses waits for an answer; a guess that is left alone is looked at all the same.
const IMPATIENCE: Duration = Duration::from_millis(30);
/// The first guesses, which nobody waits for: more than a queue takes.
const FIRST: usize = 500;
const GUESSERS: usize = 10;
/// How long anything may take that somebody does who is in the right; a first sign-in waits for its turn.
const BOUND: Duration = Duration::from_secs(5);
const TURN: Duration = Duration::from_secs(22);

fn request(account: &str, password: &str) -> Vec<u8> {
    let body = json!({"email": format!("{account}@example.org"), "password": password}).to_string();
    let length = body.len();
    format!("POST /api/v1/auth/login HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: {length}\r\n\r\n{body}")
        .into_bytes()
}

/// The status of the next answer on a connection, if one comes soon.
fn status(stream: &mut TcpStream) -> Option<String> {
    let mut answer = Vec::new();
    let mut part = [0; 2048];
    loop {
        let read = stream.read(&mut part).ok().filter(|read| *read > 0)?;
        answer.extend_from_slice(&part[..read]);
        let text = String::from_utf8_lossy(&answer);
        let Some((head, body)) = text.split_once("\r\n\r\n") else { continue };
        let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")).unwrap();
        if body.len() >= length.parse().unwrap() {
            return Some(text[9..12].to_owned());
        }
    }
}

fn open(site: &Site) -> TcpStream {
    let stream = TcpStream::connect(site.server.address).unwrap();
    stream.set_read_timeout(Some(IMPATIENCE)).unwrap();
    stream
}

#[test]
fn ten_thousand_wrong_passwords_keep_no_device_and_nobody_with_a_right_one_out() {
    let site = Site::start();
    for (name, role) in
        [("anna", Role::Admin), ("vera", Role::Viewer), ("otto", Role::Viewer), ("zoe", Role::Viewer)]
    {
        site.server.person("default", name, role);
    }
    let devices: Vec<_> =
        (0..40).map(|n| (format!("cam-{n}"), site.server.device("anna", &format!("cam-{n}")))).collect();
    site.server.token("vera");
    let (guesses, over) = (AtomicUsize::new(0), AtomicBool::new(false));
    let begun = Barrier::new(GUESSERS + 2);
    let in_time = |what: &str, bound: Duration, since: Instant| {
        assert!(since.elapsed() < bound, "{what} took {:?}", since.elapsed());
    };
    std::thread::scope(|scope| {
        let (site, guesses, over, begun) = (&site, &guesses, &over, &begun);
        for guesser in 0..GUESSERS {
            scope.spawn(move || {
                for n in 0..FIRST / GUESSERS {
                    open(site).write_all(&request("vera", &format!("first {guesser} {n}"))).unwrap();
                    guesses.fetch_add(1, Ordering::Relaxed);
                }
                begun.wait();
                let mut stream = open(site);
                for n in 0..HTTP_GUESSES / GUESSERS {
                    stream.write_all(&request("vera", &format!("wrong {guesser} {n}"))).unwrap();
                    match status(&mut stream) {
                        Some(status) => assert!(status == "401" || status == "429", "{status}"),
                        None => stream = open(site),
                    }
                    guesses.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
        scope.spawn(move || {
            begun.wait();
            for n in 0..MQTT_GUESSES {
                let name = if n % 2 == 0 { "default/zoe" } else { "vera@example.org" };
                let connect =
                    Connect::new(Version::V311, &format!("guess-{n}")).login(name, &format!("wrong {n}"));
                let mut client = Client::silent(site.mqtt, Version::V311);
                // Who guesses does not wait for the answer either.
                client.try_send(connect.encode());
                guesses.fetch_add(1, Ordering::Relaxed);
            }
        });
        let neighbours = scope.spawn(|| {
            let mut connected: Vec<_> = devices[..5]
                .iter()
                .map(|(id, token)| (id, site.join(&format!("default/{id}"), token)))
                .collect();
            let mut rounds = 0;
            while !over.load(Ordering::Relaxed) {
                for (id, token) in &devices[5..] {
                    let since = Instant::now();
                    let beat = site.server.post(&format!("/api/v1/devices/{id}/heartbeat")).by_device(token);
                    assert_eq!(beat.json(&json!({"ts": "2025-12-28T10:00:00Z"})).status, 200, "{id}");
                    in_time("a heartbeat over HTTP", BOUND, since);
                }
                for (id, client) in &mut connected {
                    let since = Instant::now();
                    let topic = format!("fleet/v1/default/device/{id}/heartbeat");
                    assert!(client.publish(Publish::new(topic, "x").qos(1, 0)) < 0x80, "{id}");
                    in_time("a heartbeat over MQTT", BOUND, since);
                }
                let (id, token) = &devices[39];
                let since = Instant::now();
                site.join(&format!("default/{id}"), token);
                in_time("a device's log-in", BOUND, since);
                rounds += 1;
            }
            rounds
        });
        begun.wait();
        let login = |name: &str| {
            let body = json!({"email": format!("{name}@example.org"), "password": PASSWORD});
            site.server.post("/api/v1/auth/login").json(&body)
        };
        // Never signed in before, and nobody guesses at this account: it is the next to be looked at.
        let since = Instant::now();
        assert_eq!(login("otto").status, 200);
        in_time("a first sign-in", TURN, since);
        // Guessed at, over MQTT, and never signed in before: waits for its turn.
        assert_eq!(login("zoe").status, 200);
        in_time("a first sign-in of an account under attack", TURN * 2, since);
        // Where everything is full it is told when to come again; it has signed in before, and need not wait for the end.
        let since = Instant::now();
        loop {
            let answer = login("vera");
            if answer.status == 200 {
                break;
            }
            answer.is_problem(429);
            assert!(answer.headers["retry-after"].parse::<u32>().unwrap() > 0);
            assert!(is_within_reason(since), "a sign-in at the account under attack");
            std::thread::sleep(Duration::from_millis(500));
        }
        let all = HTTP_GUESSES + MQTT_GUESSES + FIRST;
        while guesses.load(Ordering::Relaxed) < all {
            std::thread::sleep(Duration::from_millis(20));
            assert!(is_within_reason(since), "{} of {all} guesses", guesses.load(Ordering::Relaxed));
        }
        over.store(true, Ordering::Relaxed);
        assert!(neighbours.join().unwrap() > 0);
    });
}

/// The flood does not last for ever, also on a machine that has other things to do.
fn is_within_reason(since: Instant) -> bool {
    since.elapsed() < Duration::from_secs(300)
}
