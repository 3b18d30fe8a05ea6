//! Who gets in over MQTT, and how fast somebody is out again: the real broker over the real database.
#![allow(clippy::unwrap_used)]

mod common;

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use broker::{Authenticator as _, Broker, ConnectAttempt, Limits, Principal, Refusal, Secret, Transport};
use common::{PASSWORD, Server};
use fleetd::auth::mqtt::DatabaseAuthenticator;
use protocol::id::Role;
use serde_json::json;

fn try_from(
    server: &Server,
    peer: &str,
    transport: Transport,
    name: &str,
    password: &str,
) -> Result<Principal, Refusal> {
    let attempt = ConnectAttempt {
        client_id: "any".to_owned(),
        username: Some(name.to_owned()),
        password: Some(Secret::new(password)),
        peer: peer.parse().unwrap(),
        transport,
        certificate: None,
    };
    let authenticator = DatabaseAuthenticator::new(server.app.clone());
    server.runtime.block_on(authenticator.authenticate(attempt))
}

fn attempt(server: &Server, name: &str, password: &str) -> Result<Principal, Refusal> {
    try_from(server, "127.0.0.1:9", Transport::Tcp, name, password)
}

#[test]
fn devices_and_people_get_in_with_what_is_theirs() {
    let server = Server::start();
    server.person("default", "anna", Role::Admin);
    server.person("other", "eve", Role::Viewer);
    let token = server.device("anna", "cam-1");
    let device = attempt(&server, "default/cam-1", &token).unwrap();
    assert_eq!(device.to_string(), "device default/cam-1");
    for name in ["default/anna", "anna@example.org", "Anna@Example.org"] {
        let person = attempt(&server, name, PASSWORD).unwrap();
        assert!(matches!(&person, Principal::Person { role: Role::Admin, .. }), "{name}: {person:?}");
        assert_eq!(person.to_string(), "user default/anna");
    }
    let wrong = [
        ("default/cam-1", "f".repeat(64)),
        ("other/cam-1", token.clone()),
        ("default/cam-2", token.clone()),
        ("cam-1", token.clone()),
        ("default/anna", token.clone()),
        ("default/anna", "wrong wrong".to_owned()),
        ("default/eve", PASSWORD.to_owned()),
        ("default/+", token.clone()),
        ("default/cam-1\0", token.clone()),
        ("", token.clone()),
        ("default/cam-1", "x".repeat(100_000)),
        ("default/cam-1", String::new()),
    ];
    for (name, password) in &wrong {
        assert_eq!(attempt(&server, name, password).unwrap_err(), Refusal::BadCredentials, "{name:?}");
    }
}

#[test]
fn a_disabled_person_and_a_decommissioned_device_stay_out() {
    let server = Server::start();
    server.person("default", "anna", Role::Admin);
    server.person("default", "vera", Role::Viewer);
    let token = server.device("anna", "cam-1");
    server.call("DELETE", "/api/v1/devices/cam-1").by_person("anna").send();
    assert_eq!(attempt(&server, "default/cam-1", &token).unwrap_err(), Refusal::BadCredentials);
    let email = "vera@example.org".parse().unwrap();
    let disabled = fleetd::service::accounts::disable_user(&server.app.store, &email, "test", 1);
    server.runtime.block_on(disabled).unwrap();
    assert_eq!(attempt(&server, "default/vera", PASSWORD).unwrap_err(), Refusal::NotAuthorized);
}

#[test]
fn passwords_do_not_travel_in_clear_from_afar() {
    let server = Server::start_with(|config| config.trusted_proxies = vec!["192.0.2.0/24".parse().unwrap()]);
    server.person("default", "anna", Role::Admin);
    let from = |peer: &str, transport| try_from(&server, peer, transport, "default/anna", PASSWORD);
    assert_eq!(from("203.0.113.5:1", Transport::Tcp).unwrap_err(), Refusal::PlaintextForbidden);
    assert!(from("203.0.113.5:1", Transport::Tls).is_ok());
    assert!(from("203.0.113.5:1", Transport::WebSocket).is_ok());
    assert!(from("192.0.2.5:1", Transport::Tcp).is_ok());
    assert!(from("[::1]:1", Transport::Tcp).is_ok());
}

#[test]
fn one_device_with_a_wrong_token_locks_nobody_out() {
    let server = Server::start();
    server.person("default", "anna", Role::Admin);
    let (one, two) = (server.device("anna", "cam-1"), server.device("anna", "cam-2"));
    let wrong = "f".repeat(64);
    let refusals: Vec<_> = (0..12).map(|_| attempt(&server, "default/cam-1", &wrong).unwrap_err()).collect();
    assert_eq!(refusals.first(), Some(&Refusal::BadCredentials));
    assert_eq!(refusals.last(), Some(&Refusal::TooManyFailures));
    assert!(attempt(&server, "default/cam-2", &two).is_ok());
    assert!(attempt(&server, "default/cam-1", &one).is_ok());
}

#[test]
fn the_database_being_away_is_no_wrong_password() {
    let server = Server::start();
    server.person("default", "anna", Role::Admin);
    server.app.store.close();
    assert_eq!(attempt(&server, "default/anna", PASSWORD).unwrap_err(), Refusal::Unavailable);
}

/// A device's MQTT 3.1.1 connection, by hand: the answer to CONNECT, and the socket.
fn connect(broker: SocketAddr, name: &str, token: &str) -> (u8, TcpStream) {
    let text = |text: &str| [&u16::try_from(text.len()).unwrap().to_be_bytes(), text.as_bytes()].concat();
    let body = [b"\x00\x04MQTT\x04\xc2\x00\x3c".to_vec(), text(name), text(name), text(token)].concat();
    let mut packet = vec![0x10];
    let mut length = body.len();
    while length >= 128 {
        packet.push(u8::try_from(length % 128).unwrap() | 0x80);
        length /= 128;
    }
    packet.push(u8::try_from(length).unwrap());
    packet.extend(body);
    let mut stream = TcpStream::connect(broker).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(40))).unwrap();
    stream.write_all(&packet).unwrap();
    let mut answer = [0; 4];
    stream.read_exact(&mut answer).unwrap();
    (answer[3], stream)
}

#[test]
fn an_api_key_acts_as_its_owner_within_its_scopes_until_it_ends() {
    use fleetd::auth::token::NewToken;
    use fleetd::store::Statement;
    let server = Server::start();
    server.person("default", "anna", Role::Admin);
    server.person("default", "otto", Role::Operator);
    server.device("anna", "cam-1");
    let key = |scopes: &str, expires_at: Option<i64>, revoked_at: Option<i64>| {
        let made = NewToken::generate().unwrap();
        let add = "INSERT INTO api_keys (id, org_id, user_id, name, key_prefix, key_sha256, scopes, created_at, \
                   expires_at, revoked_at) SELECT ?1, org_id, id, 'test', ?2, ?3, ?4, 0, ?5, ?6 FROM users \
                   WHERE email = 'otto@example.org'";
        let id = uuid::Uuid::new_v4();
        let values = fleetd::values![id, made.prefix(), made.hash.to_hex(), scopes, expires_at, revoked_at];
        server.runtime.block_on(server.app.store.apply_one(Statement::new(add, values))).unwrap();
        made.text.expose().to_owned()
    };
    let whole = key("[]", None, None);
    let reader = key("[\"devices:read\"]", None, None);
    let list = |key: &str| server.get("/api/v1/devices").bearer(key).send().status;
    let patch = |key: &str| {
        server.call("PATCH", "/api/v1/devices/cam-1").bearer(key).json(&json!({"notes": "x"})).status
    };
    assert_eq!((list(&whole), patch(&whole)), (200, 200));
    assert_eq!((list(&reader), patch(&reader)), (200, 403));
    for dead in [key("[]", Some(1), None), key("[]", None, Some(1))] {
        assert_eq!(list(&dead), 401);
        assert!(attempt(&server, "default/otto", &dead).is_err());
    }
    let role = |key: &str| match attempt(&server, "otto@example.org", key) {
        Ok(Principal::Person { role, .. }) => role,
        other => panic!("{other:?}"),
    };
    assert_eq!(role(&whole), Role::Operator);
    assert_eq!(role(&reader), Role::Viewer);
    let publisher = key("[\"releases:write\"]", None, None);
    assert_eq!(list(&publisher), 403);
    assert_eq!(attempt(&server, "default/otto", &publisher).unwrap_err(), Refusal::NotAuthorized);
    // Somebody else's key opens nobody's door.
    assert!(attempt(&server, "default/anna", &whole).is_err());
    let audit = server.audit();
    assert!(audit.contains(&format!("device.update ok key:{} cam-1", &whole[..8])), "{audit:?}");
    let email = "otto@example.org".parse().unwrap();
    let disabled = fleetd::service::accounts::disable_user(&server.app.store, &email, "test", 1);
    server.runtime.block_on(disabled).unwrap();
    assert_eq!(list(&whole), 401);
    assert!(attempt(&server, "default/otto", &whole).is_err());
}

#[test]
fn under_a_flood_of_guesses_the_right_password_and_forty_devices_get_in() {
    const GUESSES: usize = 120;
    let server = Server::start_without_broker();
    server.person("default", "anna", Role::Admin);
    server.person("default", "vera", Role::Viewer);
    let address = server.runtime.block_on(async {
        let authenticator = Arc::new(DatabaseAuthenticator::new(server.app.clone()));
        let broker = Broker::start(Limits::default(), authenticator).unwrap();
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move { broker.serve(listener).await });
        address
    });
    let tokens: Vec<_> = (0..40).map(|n| (n, server.device("anna", &format!("cam-{n}")))).collect();
    let done = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for n in 0..GUESSES {
            let done = &done;
            scope.spawn(move || {
                let (answer, _stream) = connect(address, "default/vera", &format!("wrong {n}"));
                done.fetch_add(1, Ordering::Relaxed);
                assert!(answer == 4 || answer == 5, "{answer}");
            });
        }
        for (n, token) in &tokens {
            assert_eq!(connect(address, &format!("default/cam-{n}"), token).0, 0, "cam-{n}");
        }
        assert!(done.load(Ordering::Relaxed) < GUESSES, "the flood is still there");
        // Never signed in before, so it waits for its turn like the guesses.
        assert_eq!(connect(address, "default/vera", PASSWORD).0, 0);
    });
}
