//! CONNECT: who gets in, and the code for who does not.

use std::time::Instant;

use ::broker::{Origin, Transport};

use crate::support::broker::{accounts_text, device, person, service};
use crate::support::*;

/// The CONNACK code of an attempt.
fn code(broker: &TestBroker, connect: &Connect) -> u8 {
    let (mut client, code, present) = Client::attempt(broker.address, connect);
    if code != 0 {
        assert!(!present, "no session with a refusal");
        assert_eq!(client.wait(PATIENCE), Outcome::Closed, "a refused connection is closed");
    }
    code
}

#[test]
fn everybody_with_the_right_secret_gets_in() {
    let broker = TestBroker::start();
    for version in BOTH {
        for connect in [
            device(version, "cam-1"),
            device(version, "other/cam-1"),
            person(version, "vera"),
            person(version, "otto"),
            person(version, "ada"),
            service(version),
        ] {
            assert_eq!(code(&broker, &connect), 0, "{:?}", connect.username);
        }
    }
}

#[test]
fn wrong_credentials_get_0x86_or_4() {
    let broker = TestBroker::start();
    for version in BOTH {
        let expected = if version == Version::V5 { 0x86 } else { 4 };
        let right = device(version, "cam-1");
        let wrong = [
            Connect { password: Some("wrong".into()), ..right.clone() },
            Connect { password: Some(String::new()), ..right.clone() },
            Connect { password: None, ..right.clone() },
            Connect { username: None, password: None, ..right.clone() },
            Connect { username: Some("acme/nobody".into()), ..right.clone() },
            Connect {
                username: Some("other/cam-1".into()),
                password: Some("cam-2-secret".into()),
                ..right.clone()
            },
            Connect { username: Some("acme/cam-2".into()), ..right.clone() },
        ];
        for connect in wrong {
            assert_eq!(code(&broker, &connect), expected, "{:?} {:?}", connect.username, connect.password);
        }
        assert_eq!(code(&broker, &right), 0);
    }
}

#[test]
fn a_device_may_not_take_another_devices_client_id() {
    let broker = TestBroker::start();
    for version in BOTH {
        let mut victim = broker.device(version, "cam-2");
        let thief = Connect { client_id: "acme/cam-2".into(), ..device(version, "cam-1") };
        // Refused or given a session of its own, but the victim stays.
        let (_thief, _, _) = Client::attempt(broker.address, &thief);
        victim.ping();
    }
}

#[test]
fn people_with_the_same_client_id_are_not_in_each_others_way() {
    let broker = TestBroker::start();
    for version in BOTH {
        let with_id = |connect: Connect| Connect { client_id: "dashboard".into(), ..connect };
        let mut first = Client::connect(broker.address, &with_id(person(version, "vera")));
        let mut second = Client::connect(broker.address, &with_id(person(version, "otto")));
        let mut third = Client::connect(broker.address, &with_id(service(version)));
        first.ping();
        second.ping();
        third.ping();
    }
}

#[test]
fn another_mqtt_version_is_refused_with_the_code_for_it() {
    let broker = TestBroker::start();
    let connect = person(Version::V311, "ada").encode();
    // Older clients read the form of 3.1.1, newer ones that of 5.
    let (old, new) = (&[kind::CONNACK, 2, 0, 1][..], &[kind::CONNACK, 3, 0, 0x84, 0][..]);
    for (level, answer) in [(0, old), (3, old), (6, new), (127, new)] {
        let mut bytes = connect.clone();
        bytes[8] = level;
        let mut client = Client::silent(broker.address, Version::V311);
        client.send(bytes);
        assert_eq!(client.wait_raw(PATIENCE).expect("closed"), answer, "level {level}");
    }
    let mut old = Client::silent(broker.address, Version::V311);
    old.send(wire::packet(
        kind::CONNECT,
        [&wire::field("MQIsdp")[..], &[3, 2, 0, 60], &wire::field("x")].concat(),
    ));
    assert!(matches!(old.receive(), Received::ConnAck { code: 1, .. }));
    assert_eq!(old.wait(PATIENCE), Outcome::Closed);
}

#[test]
fn a_client_without_an_id_gets_one_if_its_session_ends_with_it() {
    let broker = TestBroker::start();
    for version in BOTH {
        let nameless = Connect { client_id: String::new(), ..person(version, "ada") };
        let mut clients: Vec<Client> = (0..3).map(|_| Client::connect(broker.address, &nameless)).collect();
        clients.iter_mut().for_each(Client::ping);
    }
    let persistent = Connect { client_id: String::new(), clean: false, ..person(Version::V311, "ada") };
    assert_eq!(code(&broker, &persistent), 2, "3.1.1: a session needs a name");
    let mut client = Client::silent(broker.address, Version::V5);
    client.send(Connect { client_id: String::new(), ..person(Version::V5, "ada") }.encode());
    let Received::ConnAck { code: 0, properties, .. } = client.receive() else { panic!("refused") };
    assert!(properties.contains(&0x12), "the assigned id is told: {properties:02x?}");
}

#[test]
fn an_authentication_exchange_is_refused_as_not_offered() {
    let broker = TestBroker::start();
    let method = [vec![0x15], wire::field("SCRAM-SHA-256")].concat();
    assert_eq!(code(&broker, &person(Version::V5, "ada").property(method)), 0x8c);
}

#[test]
fn what_is_no_connect_is_closed_without_an_answer_or_with_a_code() {
    let broker = TestBroker::start();
    let whole = person(Version::V5, "ada").encode();
    let mut cases: Vec<Vec<u8>> = vec![
        b"GET / HTTP/1.1\r\nHost: x\r\n\r\n".to_vec(),
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03".to_vec(),
        vec![kind::PINGREQ, 0],
        Publish::new("a", "b").encode(Version::V311),
        vec![0x10, 0xff, 0xff, 0xff, 0xff, 0x01],
        vec![0x10, 0xff, 0xff, 0xff, 0x7f],
        vec![0x10, 0],
        vec![0x11, 0x00],
        vec![0; 64],
        wire::packet(kind::CONNECT, wire::field("MQTT")),
        wire::packet(kind::CONNECT, [&wire::field("HTTP")[..], &[4, 2, 0, 60], &wire::field("x")].concat()),
    ];
    // Each flag of CONNECT that may not be set, and a body that is cut short.
    let flags = 9;
    for bits in [0x01, 0x18, 0x20, 0x38] {
        let mut bytes = whole.clone();
        bytes[flags] |= bits;
        cases.push(bytes);
    }
    for end in [10, 14, 20, whole.len() - 3] {
        cases.push(wire::packet(kind::CONNECT, &whole[2..end]));
    }
    cases.push(wire::packet(kind::CONNECT, [&whole[2..], b"more"].concat()));
    for bytes in cases {
        let mut client = Client::silent(broker.address, Version::V5);
        client.send(&bytes);
        // Half a packet is waited for; say that nothing more comes.
        client.stream().shutdown(std::net::Shutdown::Write).unwrap();
        match client.wait_raw(PATIENCE) {
            None => panic!("neither answered nor closed: {bytes:02x?}"),
            Some(answer) => assert!(
                answer.is_empty() || answer[0] == kind::CONNACK && answer[3] != 0,
                "{bytes:02x?}: {answer:02x?}"
            ),
        }
    }
    broker.assert_serves_others();
}

#[test]
fn a_second_connect_ends_the_connection() {
    let broker = TestBroker::start();
    for version in BOTH {
        for connect in [person(version, "ada"), device(version, "cam-1")] {
            let mut client = Client::connect(broker.address, &connect);
            client.send(connect.encode());
            client.expect_end(&[0x82]);
        }
    }
}

#[test]
fn packets_behind_connect_in_one_segment_are_all_handled() {
    let broker = TestBroker::start();
    for version in BOTH {
        for (connect, filter) in [
            (person(version, "ada"), "fleet/v1/acme/view/+"),
            (device(version, "cam-1"), "fleet/v1/acme/device/cam-1/command"),
        ] {
            let mut client = Client::silent(broker.address, version);
            let subscribe = wire::subscribe(version, 1, &[(filter, 1)], &[]);
            client.send([connect.encode(), subscribe, vec![kind::PINGREQ, 0]].concat());
            assert!(matches!(client.receive(), Received::ConnAck { code: 0, .. }));
            // The answer to a ping may overtake that to a subscribe.
            client.receive_first(&Received::SubAck { id: 1, codes: vec![1] });
            client.receive_first(&Received::PingResp);
        }
    }
}

#[test]
fn wrong_logins_are_answered_late_while_forty_neighbours_and_the_right_one_get_in() {
    let broker = TestBroker::with(|limits| limits.failures = 3);
    for version in BOTH {
        let wrong = Connect { password: Some("guess".into()), ..device(version, "cam-1") };
        let (refused, too_many) = if version == Version::V5 { (0x86, 0x9f) } else { (4, 5) };
        for round in 0..5 {
            let began = Instant::now();
            let answer = code(&broker, &wrong);
            assert_eq!(answer, if round < 3 { refused } else { too_many });
            assert!(round < 3 || began.elapsed().as_millis() > 400, "held back");
        }
        for number in 2..=41 {
            assert_eq!(
                code(&broker, &device(version, &format!("cam-{number}"))),
                0,
                "a neighbour from the same address"
            );
        }
        // The box itself has the right token: it does not even wait.
        assert_eq!(code(&broker, &device(version, "cam-1")), 0, "a valid credential is never refused");
        assert_eq!(code(&broker, &wrong), refused, "a success clears the count");
        assert_eq!(code(&broker, &device(version, "cam-1")), 0);
    }
}

/// Sends a CONNECT and does not wait for the answer.
fn begin(broker: &TestBroker, connect: &Connect) -> Client {
    let mut client = Client::silent(broker.address, connect.version);
    client.try_send(connect.encode());
    client
}

#[test]
fn a_flood_of_wrong_tokens_from_the_same_address_does_not_keep_the_right_one_out() {
    let broker = TestBroker::start();
    let wrong = |n: usize| Connect { password: Some(n.to_string()), ..device(Version::V311, "cam-1") };
    // More than an address has places.
    let mut flood: Vec<Client> = (0..300).map(|n| begin(&broker, &wrong(n))).collect();
    for number in 1..=40 {
        let box_ = device(Version::V311, &format!("cam-{number}"));
        assert_eq!(Client::attempt(broker.address, &box_).1, 0, "cam-{number}");
    }
    for guess in &mut flood {
        let refused = matches!(
            guess.wait(PATIENCE),
            Outcome::Closed | Outcome::Packet(Received::ConnAck { code: 4 | 5, .. })
        );
        assert!(refused);
    }
    assert!(broker.broker.counters().refused_too_many_failures > 0);
}

#[test]
fn a_flood_of_guesses_at_a_password_keeps_out_neither_the_right_one_nor_the_neighbours() {
    use argon2::password_hash::PasswordHasher;

    const GUESSES: usize = 200;
    let broker = TestBroker::start();
    // Cheaper than a real one, as the machine may be busy; two hundred of them still take a while.
    let params = argon2::Params::new(8 * 1024, 1, 1, None).unwrap();
    let argon2 = argon2::Argon2::new(argon2::Algorithm::Argon2id, argon2::Version::V0x13, params);
    let hash = argon2.hash_password(b"correct horse").unwrap().to_string();
    let text = format!(
        "{}[[person]]\norg = \"acme\"\nuser = \"paul\"\nrole = \"viewer\"\npassword_argon2id = \"{hash}\"\n",
        accounts_text("")
    );
    broker.authenticator.replace(::broker::credentials::Credentials::parse("x".as_ref(), &text).unwrap());
    let login = |n: usize, password: &str| {
        Connect::new(Version::V5, &format!("paul-{n}")).login("acme/paul", password)
    };
    let mut flood: Vec<Client> =
        (0..GUESSES).map(|n| begin(&broker, &login(n, &format!("guess {n}")))).collect();
    let mut right = begin(&broker, &login(GUESSES, "correct horse"));
    for number in 1..=40 {
        let began = Instant::now();
        assert_eq!(code(&broker, &device(Version::V5, &format!("cam-{number}"))), 0, "cam-{number}");
        assert!(began.elapsed().as_secs() < 5, "a token does not wait behind passwords");
    }
    let answer = right.wait(3 * PATIENCE);
    assert!(matches!(answer, Outcome::Packet(Received::ConnAck { code: 0, .. })), "{answer:?}");
    for guess in &mut flood {
        let answer = guess.wait(3 * PATIENCE);
        assert!(matches!(answer, Outcome::Packet(Received::ConnAck { code: 0x86 | 0x9f, .. })), "{answer:?}");
    }
}

/// Lets in whoever does not call itself slow, and never answers who does.
struct Slow;

impl ::broker::Authenticator for Slow {
    fn authenticate<'a>(&'a self, attempt: ::broker::ConnectAttempt) -> ::broker::Authentication<'a> {
        Box::pin(async move {
            if attempt.username.as_deref() == Some("slow") {
                std::future::pending::<()>().await;
            }
            Ok(::broker::Principal::Service { name: "quick".to_owned() })
        })
    }
}

#[test]
fn long_checks_are_bounded_hinder_no_short_one_and_end_when_the_client_goes() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let limits = ::broker::Limits { unauthenticated_per_address: 2, ..::broker::Limits::default() };
    let (broker, address) = runtime.block_on(async {
        let broker = ::broker::Broker::start(limits, std::sync::Arc::new(Slow)).unwrap();
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let accepting = broker.clone();
        tokio::spawn(async move { accepting.serve(listener).await });
        (broker, address)
    });
    let slow = |id: String| {
        let mut client = Client::silent(address, Version::V5);
        client.send(Connect::new(Version::V5, &id).login("slow", "x").encode());
        client
    };
    let quick = || Client::attempt(address, &Connect::new(Version::V5, "quick").login("quick", "x")).1;
    let mut waiting = Vec::new();
    for round in 0..4 {
        waiting.extend([slow(format!("{round}a")), slow(format!("{round}b"))]);
        // Longer than a check that is short: then they have given up the open places.
        std::thread::sleep(std::time::Duration::from_millis(600));
    }
    let refused = slow("ninth".to_owned()).wait(PATIENCE);
    assert!(matches!(refused, Outcome::Packet(Received::ConnAck { code: 0x88, .. })), "{refused:?}");
    for _ in 0..10 {
        assert_eq!(quick(), 0);
    }
    waiting.pop();
    until("a place is free", || broker.counters().connections_unauthenticated == 7);
    let mut last = slow("last".to_owned());
    std::thread::sleep(std::time::Duration::from_millis(600));
    assert_eq!(last.wait(SILENCE), Outcome::Silence, "it is being checked");
    runtime.block_on(broker.shutdown());
}

#[test]
fn a_replaced_file_of_credentials_counts_for_the_next_login() {
    let broker = TestBroker::start();
    let connect = device(Version::V311, "cam-3");
    assert_eq!(code(&broker, &connect), 0);
    let new = ::broker::credentials::Credentials::parse("x".as_ref(), &accounts_text("cam-3")).unwrap();
    let ended = broker.authenticator.replace(new);
    assert_eq!(ended.len(), 1);
    assert_eq!(code(&broker, &connect), 4);
}

#[test]
fn credentials_over_plain_tcp_from_elsewhere_are_refused_unread() {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    let broker = TestBroker::start();
    for version in BOTH {
        for (peer, transport, expected) in [
            ("192.0.2.7:5", Transport::Tcp, if version == Version::V5 { 0x87 } else { 5 }),
            ("[2001:db8::7]:5", Transport::Tcp, if version == Version::V5 { 0x87 } else { 5 }),
            ("[::ffff:127.0.0.1]:5", Transport::Tcp, 0),
            ("192.0.2.7:5", Transport::Tls, 0),
            ("192.0.2.7:5", Transport::WebSocket, 0),
        ] {
            let answer = broker.block_on(async {
                let (mut near, far) = tokio::io::duplex(4096);
                let gate = broker.broker.clone();
                tokio::spawn(async move {
                    gate.serve_stream(far, Origin::new(peer.parse().unwrap(), transport)).await
                });
                near.write_all(&device(version, "cam-1").encode()).await.unwrap();
                let mut answer = [0; 4];
                tokio::time::timeout(PATIENCE, near.read_exact(&mut answer)).await.unwrap().unwrap();
                answer
            });
            assert_eq!(answer[3], expected, "{peer} {transport:?} {version:?}");
        }
    }
}
