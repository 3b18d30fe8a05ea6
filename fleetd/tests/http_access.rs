//! How often somebody may try, and what nobody is told. Who may do what is in `access`.
#![allow(clippy::unwrap_used)]

mod common;

use std::sync::atomic::{AtomicUsize, Ordering};

use common::{PASSWORD, Server};
use fleetd::app::Bound;
use protocol::id::Role;
use serde_json::json;

fn server_with_everybody() -> (Server, String) {
    let server = Server::start();
    server.person("default", "vera", Role::Viewer);
    server.person("default", "otto", Role::Operator);
    server.person("default", "anna", Role::Admin);
    let token = server.device("anna", "cam-1");
    (server, token)
}

#[test]
fn forty_devices_behind_one_address_are_not_locked_out_by_one_of_them() {
    let server = Server::start();
    server.person("default", "anna", Role::Admin);
    let tokens: Vec<(String, String)> =
        (0..40).map(|n| (format!("cam-{n}"), server.device("anna", &format!("cam-{n}")))).collect();
    let status =
        |id: &str, token: &str| server.get(&format!("/api/v1/devices/{id}/status")).by_device(token).send();
    let mut seen = Vec::new();
    for _ in 0..30 {
        seen.push(status("cam-0", &"f".repeat(64)).status);
    }
    assert_eq!(seen[0], 401);
    assert_eq!(seen[29], 429, "{seen:?}");
    let limited = status("cam-0", &"f".repeat(64));
    assert!(limited.is_problem(429).headers["retry-after"].parse::<u32>().unwrap() > 0);
    for (id, token) in &tokens {
        assert_eq!(status(id, token).status, 200, "{id}");
    }
    // And the right token of the very device that failed is never refused.
    assert_eq!(status(&tokens[0].0, &tokens[0].1).status, 200);
}

#[test]
fn a_right_password_is_never_refused_however_often_a_wrong_one_was_tried() {
    let server = Server::start();
    server.person("default", "vera", Role::Viewer);
    server.person("default", "otto", Role::Viewer);
    let login = |name: &str, password: &str| {
        let body = json!({"email": format!("{name}@example.org"), "password": password});
        server.post("/api/v1/auth/login").json(&body)
    };
    let mut last = 0;
    for _ in 0..11 {
        last = login("vera", "wrong wrong").status;
    }
    assert_eq!(last, 429);
    assert_eq!(login("otto", PASSWORD).status, 200);
    assert_eq!(login("vera", PASSWORD).status, 200);
    assert_eq!(login("vera", "wrong wrong").status, 401, "a success clears the count");
    let rows = server.audit().iter().filter(|row| row.starts_with("auth.login refused")).count();
    assert!((10..=12).contains(&rows), "{rows}");
}

#[test]
fn one_credential_has_a_general_limit_and_devices_have_none() {
    let server = Server::start_with(|config| config.rate_limit_requests = 5);
    server.person("default", "vera", Role::Viewer);
    server.person("default", "anna", Role::Admin);
    let token = server.device("anna", "cam-1");
    let statuses: Vec<u16> =
        (0..7).map(|_| server.get("/api/v1/devices").by_person("vera").send().status).collect();
    assert_eq!(statuses, [200, 200, 200, 200, 200, 429, 429]);
    for _ in 0..10 {
        assert_eq!(server.get("/api/v1/connect").by_device(&token).send().status, 200);
    }
}

#[test]
fn the_audit_log_has_the_address_that_a_trusted_proxy_names() {
    let server = Server::start_with(|config| config.trusted_proxies = vec!["127.0.0.1".parse().unwrap()]);
    server.person("default", "anna", Role::Admin);
    let answer = server
        .post("/api/v1/auth/login")
        .header("x-forwarded-for", "198.51.100.9")
        .json(&json!({"email": "anna@example.org", "password": "wrong wrong"}));
    answer.is_problem(401);
    let rows = server.runtime.block_on(
        server.app.store.query("SELECT ip_address FROM audit_log WHERE outcome = 'refused'", Vec::new()),
    );
    assert_eq!(rows.unwrap()[0].text("ip_address").unwrap(), "198.51.100.9");
}

#[test]
fn no_secret_is_kept_in_clear_or_told_in_an_error() {
    let (server, token) = server_with_everybody();
    let key = server.enrollment_key("default", fleetd::service::accounts::KeyTerms::default());
    let rotated = server.post("/api/v1/devices/cam-1/rotate-token").by_person("anna").send();
    let rotated = rotated.body["token"].as_str().unwrap().to_owned();
    let login =
        server.post("/api/v1/auth/login").json(&json!({"email": "vera@example.org", "password": PASSWORD}));
    let refresh = login.body["refresh_token"].as_str().unwrap().to_owned();
    let secrets = [PASSWORD, &token, &key, &rotated, &refresh, &server.token("anna")];
    for call in [
        server.post("/api/v1/auth/refresh").json(&json!({"refresh_token": 5, "x": refresh})),
        server.post("/api/v1/auth/login").json(&json!({"email": "x@y", "password": [PASSWORD]})),
        server.get("/api/v1/devices").bearer(&rotated).send(),
        server.get("/api/v1/connect").by_device(&key).send(),
    ] {
        assert!(call.status >= 400);
        assert!(secrets.iter().all(|secret| !call.text.contains(secret)), "{}", call.text);
    }
    server.app.store.close();
    for file in std::fs::read_dir(server.folder.path()).unwrap() {
        let path = file.unwrap().path();
        // Keys and certificates are in a folder of their own.
        if path.is_dir() {
            continue;
        }
        let bytes = std::fs::read(&path).unwrap();
        for secret in secrets {
            let found = bytes.windows(secret.len()).any(|window| window == secret.as_bytes());
            assert!(!found, "{} has a secret in clear", path.display());
        }
    }
    assert!(!format!("{:?}", server.app).contains(PASSWORD));
}

#[test]
fn connect_names_the_broker_only_where_it_can_be_used() {
    let (server, token) = server_with_everybody();
    let connect = || server.get("/api/v1/connect").by_device(&token).send();
    let answer = connect();
    assert_eq!(answer.body["mqtt_url"], "mqtt://127.0.0.1:1883", "{}", answer.text);
    assert!(answer.body["server_time"].as_str().unwrap().ends_with('Z'));
    server.app.bound.set(Bound { mqtt: Some("0.0.0.0:2883".parse().unwrap()), ..Bound::default() }).unwrap();
    assert_eq!(connect().body["mqtt_url"], "mqtt://127.0.0.1:2883");
}

#[test]
fn a_device_behind_a_proxy_is_not_sent_to_a_broker_that_takes_its_token_in_clear() {
    for trusted in [&[][..], &["127.0.0.0/8"]] {
        let server = Server::start_with(|config| {
            config.trusted_proxies = trusted.iter().map(|network| network.parse().unwrap()).collect();
        });
        server.person("default", "anna", Role::Admin);
        let token = server.device("anna", "cam-1");
        let connect = |client: &str| {
            let call =
                server.get("/api/v1/connect").header("x-forwarded-for", client).by_device(&token).send();
            assert_eq!(call.status, 200, "{}", call.text);
            call.body["mqtt_url"].clone()
        };
        // Neither the loopback listener, which would be the device's own machine, nor an open one.
        assert!(connect("203.0.113.5").is_null());
        server
            .app
            .bound
            .set(Bound { mqtt: Some("0.0.0.0:2883".parse().unwrap()), ..Bound::default() })
            .unwrap();
        assert!(connect("203.0.113.5").is_null());
    }
}

#[test]
fn guesses_that_come_at_once_are_counted_as_well() {
    let server = Server::start();
    server.person("default", "vera", Role::Viewer);
    let statuses: Vec<u16> = std::thread::scope(|scope| {
        let guess = || {
            let body = json!({"email": "vera@example.org", "password": "wrong wrong"});
            server.post("/api/v1/auth/login").json(&body).status
        };
        let calls: Vec<_> = (0..30).map(|_| scope.spawn(guess)).collect();
        calls.into_iter().map(|call| call.join().unwrap()).collect()
    });
    assert_eq!(statuses.iter().filter(|status| **status == 401).count(), 10, "{statuses:?}");
    assert_eq!(statuses.iter().filter(|status| **status == 429).count(), 20, "{statuses:?}");
}

#[test]
fn under_a_flood_of_guesses_the_right_password_and_forty_neighbours_get_in() {
    const GUESSES: usize = 200;
    let server = Server::start();
    server.person("default", "vera", Role::Viewer);
    server.person("default", "anna", Role::Admin);
    let tokens: Vec<_> = (0..40).map(|n| (n, server.device("anna", &format!("cam-{n}")))).collect();
    let login = |password: &str| {
        let body = json!({"email": "vera@example.org", "password": password});
        server.post("/api/v1/auth/login").json(&body)
    };
    let answered = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        let guess = |n: usize| {
            let answer = login(&format!("wrong {n}"));
            answered.fetch_add(1, Ordering::Relaxed);
            assert!(answer.status == 401 || answer.status == 429, "{}", answer.text);
            if answer.status == 429 {
                assert!(answer.headers["retry-after"].parse::<u32>().unwrap() > 0);
            }
        };
        let flood = |guesses: std::ops::Range<usize>| {
            for n in guesses {
                scope.spawn(move || guess(n));
            }
        };
        flood(0..GUESSES / 3);
        // Never signed in before, so it waits for its turn like the guesses before it.
        let right = scope.spawn(|| login(PASSWORD));
        flood(GUESSES / 3..GUESSES);
        for (n, token) in &tokens {
            assert_eq!(server.get("/api/v1/connect").by_device(token).send().status, 200, "cam-{n}");
        }
        assert!(answered.load(Ordering::Relaxed) < GUESSES, "the guesses did not outlast the neighbours");
        let answer = right.join().unwrap();
        assert_eq!(answer.status, 200, "{}", answer.text);
        // From now on it is known, and does not wait.
        flood(GUESSES..GUESSES + 50);
        assert_eq!(login(PASSWORD).status, 200);
    });
    assert_eq!(answered.load(Ordering::Relaxed), GUESSES + 50);
}

#[test]
fn a_changed_password_lets_nobody_in_with_the_old_one() {
    let server = Server::start();
    server.person("default", "vera", Role::Viewer);
    let login = |password: &str| {
        let body = json!({"email": "vera@example.org", "password": password});
        server.post("/api/v1/auth/login").json(&body).status
    };
    assert_eq!((login(PASSWORD), login(PASSWORD)), (200, 200));
    let change = json!({"old": PASSWORD, "new": "another horse"});
    let changed = server.post("/api/v1/auth/password").by_person("vera").json(&change);
    assert!(changed.status < 300, "{}", changed.text);
    assert_eq!((login(PASSWORD), login("another horse"), login("another horse")), (401, 200, 200));
    let email = "vera@example.org".parse().unwrap();
    let disabled = fleetd::service::accounts::disable_user(&server.app.store, &email, "test", 1);
    server.runtime.block_on(disabled).unwrap();
    assert_eq!(login("another horse"), 401);
}
