//! Who may do what, how often, and what nobody is told.
#![allow(clippy::unwrap_used)]

mod common;

use std::sync::atomic::{AtomicUsize, Ordering};

use common::{PASSWORD, Server};
use fleetd::app::Bound;
use protocol::id::Role;
use serde_json::json;

/// A path of the table with a device's id in it.
fn with_id(path: &str) -> String {
    path.replace("{id}", "cam-1").replace("{tag}", "hall")
}

fn server_with_everybody() -> (Server, String) {
    let server = Server::start();
    server.person("default", "vera", Role::Viewer);
    server.person("default", "otto", Role::Operator);
    server.person("default", "anna", Role::Admin);
    let token = server.device("anna", "cam-1");
    (server, token)
}

#[derive(Clone, Copy, PartialEq, Debug)]
enum May {
    Nobody,
    Yes,
}
use May::{Nobody as N, Yes as Y};

/// Who may use which route: nobody signed in, viewer, operator, admin, the device itself.
const ROUTES: &[(&str, &str, [May; 5])] = &[
    ("GET", "/api/v1/auth/me", [N, Y, Y, Y, N]),
    ("POST", "/api/v1/auth/password", [N, Y, Y, Y, N]),
    ("GET", "/api/v1/connect", [N, N, N, N, Y]),
    ("POST", "/api/v1/devices/{id}/heartbeat", [N, N, N, N, Y]),
    ("POST", "/api/v1/devices/register", [N, N, N, Y, N]),
    ("GET", "/api/v1/devices", [N, Y, Y, Y, N]),
    ("GET", "/api/v1/devices/{id}", [N, Y, Y, Y, Y]),
    ("GET", "/api/v1/devices/{id}/status", [N, Y, Y, Y, Y]),
    ("PATCH", "/api/v1/devices/{id}", [N, N, Y, Y, N]),
    ("POST", "/api/v1/devices/{id}/approve", [N, N, N, Y, N]),
    ("POST", "/api/v1/devices/{id}/allow-reenrollment", [N, N, N, Y, N]),
    ("POST", "/api/v1/devices/{id}/rotate-token", [N, N, N, Y, N]),
    ("DELETE", "/api/v1/devices/{id}", [N, N, N, Y, N]),
    ("GET", "/api/v1/devices/{id}/heartbeats", [N, Y, Y, Y, N]),
    ("GET", "/api/v1/devices/{id}/metrics", [N, Y, Y, Y, N]),
    ("GET", "/api/v1/devices/{id}/records", [N, Y, Y, Y, N]),
    ("GET", "/api/v1/devices/{id}/show-lock", [N, Y, Y, Y, N]),
    ("PUT", "/api/v1/devices/{id}/show-lock", [N, N, Y, Y, N]),
    ("DELETE", "/api/v1/devices/{id}/show-lock", [N, N, Y, Y, N]),
    ("GET", "/api/v1/devices/{id}/config", [N, Y, Y, Y, N]),
    ("PUT", "/api/v1/devices/{id}/config", [N, N, Y, Y, N]),
    ("GET", "/api/v1/audit", [N, N, N, Y, N]),
    ("GET", "/api/v1/show-locks/{tag}", [N, Y, Y, Y, N]),
    ("PUT", "/api/v1/show-locks/{tag}", [N, N, Y, Y, N]),
    ("DELETE", "/api/v1/show-locks/{tag}", [N, N, Y, Y, N]),
    ("DELETE", "/api/v1/redundancy-groups/{name}/lease", [N, N, N, Y, N]),
    ("POST", "/api/v1/devices/{id}/commands", [N, N, Y, Y, N]),
    ("GET", "/api/v1/devices/{id}/commands", [N, Y, Y, Y, Y]),
    ("POST", "/api/v1/devices/{id}/restart", [N, N, Y, Y, N]),
    ("POST", "/api/v1/devices/{id}/update", [N, N, N, Y, N]),
    ("POST", "/api/v1/commands", [N, N, Y, Y, N]),
    ("GET", "/api/v1/commands", [N, Y, Y, Y, N]),
    ("GET", "/api/v1/commands/{id}", [N, Y, Y, Y, N]),
    ("PATCH", "/api/v1/commands/{id}", [N, N, N, N, Y]),
    ("POST", "/api/v1/commands/{id}/cancel", [N, N, Y, Y, N]),
    ("POST", "/api/v1/commands/{id}/override", [N, N, Y, Y, N]),
];
/// The same for people, organisations and keys.
const ACCOUNT_ROUTES: &[(&str, &str, [May; 5])] = &[
    ("GET", "/api/v1/users", [N, N, N, Y, N]),
    ("POST", "/api/v1/users", [N, N, N, Y, N]),
    ("GET", "/api/v1/users/{id}", [N, N, N, Y, N]),
    ("PATCH", "/api/v1/users/{id}", [N, N, N, Y, N]),
    ("DELETE", "/api/v1/users/{id}", [N, N, N, Y, N]),
    ("POST", "/api/v1/users/{id}/reset-password", [N, N, N, Y, N]),
    // For those who own organisations; an admin of one does not.
    ("GET", "/api/v1/orgs", [N, N, N, N, N]),
    ("POST", "/api/v1/orgs", [N, N, N, N, N]),
    ("GET", "/api/v1/orgs/{id}", [N, N, N, N, N]),
    ("PATCH", "/api/v1/orgs/{id}", [N, N, N, N, N]),
    ("GET", "/api/v1/service-accounts", [N, N, N, Y, N]),
    ("POST", "/api/v1/service-accounts", [N, N, N, Y, N]),
    ("GET", "/api/v1/service-accounts/{id}", [N, N, N, Y, N]),
    ("PATCH", "/api/v1/service-accounts/{id}", [N, N, N, Y, N]),
    ("DELETE", "/api/v1/service-accounts/{id}", [N, N, N, Y, N]),
    ("GET", "/api/v1/api-keys", [N, Y, Y, Y, N]),
    ("POST", "/api/v1/api-keys", [N, Y, Y, Y, N]),
    ("GET", "/api/v1/api-keys/{id}", [N, Y, Y, Y, N]),
    ("PATCH", "/api/v1/api-keys/{id}", [N, Y, Y, Y, N]),
    ("DELETE", "/api/v1/api-keys/{id}", [N, Y, Y, Y, N]),
    ("GET", "/api/v1/enrollment-keys", [N, N, N, Y, N]),
    ("POST", "/api/v1/enrollment-keys", [N, N, N, Y, N]),
    ("GET", "/api/v1/enrollment-keys/{id}", [N, N, N, Y, N]),
    ("DELETE", "/api/v1/enrollment-keys/{id}", [N, N, N, Y, N]),
];
const OPEN: &[(&str, &str)] = &[
    ("POST", "/api/v1/auth/login"),
    ("POST", "/api/v1/auth/refresh"),
    ("GET", "/api/v1/openapi.json"),
    ("GET", "/health"),
    ("GET", "/ready"),
    ("GET", "/metrics"),
    ("GET", "/ws"),
    ("GET", "/"),
    ("GET", "/dashboard.css"),
    ("GET", "/dashboard.js"),
    ("GET", "/favicon.svg"),
];

#[test]
fn every_route_is_in_the_table_of_who_may() {
    for (method, path) in fleetd::http::paths() {
        let path = path.replace("/api/devices", "/api/v1/devices");
        let known =
            ROUTES.iter().chain(ACCOUNT_ROUTES).any(|row| (row.0, row.1) == (method.as_str(), path.as_str()))
                || OPEN.iter().any(|row| *row == (method.as_str(), path.as_str()));
        assert!(known, "{method} {path}");
    }
}

#[test]
fn every_role_may_what_the_table_says_and_nothing_else() {
    try_all(
        ROUTES,
        &[
            "device.decommission refused user:vera@example.org cam-1",
            "device.rotate_token refused user:otto@example.org cam-1",
            "device.approve refused device:default/cam-1 cam-1",
            "device.update refused anonymous cam-1",
        ],
    );
}

#[test]
fn every_role_may_do_with_accounts_and_keys_what_the_table_says_and_nothing_else() {
    try_all(
        ACCOUNT_ROUTES,
        &[
            "user.disable refused user:vera@example.org cam-1",
            "user.reset_password refused user:otto@example.org cam-1",
            "service_account.update refused device:default/cam-1 cam-1",
            "org.create refused user:anna@example.org ",
            "api_key.revoke refused anonymous cam-1",
            "enrollment_key.create refused user:vera@example.org ",
        ],
    );
}

/// Everybody tries every route; `refusals` are in the audit log afterwards.
fn try_all(routes: &[(&str, &str, [May; 5])], refusals: &[&str]) {
    let (server, mut token) = server_with_everybody();
    for (method, path, may) in routes {
        for prefix in ["/api/v1/devices", "/api/devices"] {
            let path = with_id(path).replace("/api/v1/devices", prefix);
            let callers = [None, Some("vera"), Some("otto"), Some("anna"), Some("cam-1")];
            for (caller, may) in callers.iter().zip(may) {
                let call = server.call(method, &path);
                let call = match caller {
                    None => call,
                    Some("cam-1") => call.by_device(&token),
                    Some(person) => call.by_person(person),
                };
                let answer = if matches!(*method, "POST" | "PATCH" | "PUT")
                    && !path.contains("/cam-1/a")
                    && !path.ends_with("rotate-token")
                {
                    // Readable but not right: who may not is refused before that is looked at.
                    call.json(&json!({"nonsense": 1}))
                } else {
                    call.send()
                };
                let told = format!("{method} {path} by {caller:?}: {} {}", answer.status, answer.text);
                match (may, caller) {
                    (N, None) => assert_eq!(answer.status, 401, "{told}"),
                    (N, Some(_)) => assert_eq!(answer.status, 403, "{told}"),
                    (Y, _) => assert!(matches!(answer.status, 200 | 201 | 204 | 404 | 422), "{told}"),
                }
                if answer.status >= 400 {
                    answer.is_problem(answer.status);
                }
                if *may == Y && *method == "DELETE" && path.ends_with("/devices/cam-1") {
                    token = server.device("anna", "cam-1");
                }
                if let Some(new) = answer.body["token"].as_str() {
                    token = new.to_owned();
                }
            }
        }
    }
    let audit = server.audit();
    for row in refusals {
        assert!(audit.iter().any(|found| found == row), "{row}: {audit:#?}");
    }
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
