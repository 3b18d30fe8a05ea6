//! What was let in goes out with what it was let in by, within a second; what was let in by something else stays.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use fleetd::auth::token::NewToken;
use fleetd::service::Desk;
use fleetd::service::accounts;
use fleetd::store::credentials;
use protocol::id::{DeviceId, OrgSlug, Role};
use serde_json::{Value, json};

use crate::client::Client;
use crate::common::PASSWORD;
use crate::site::{Site, ends};

/// Ends `concerned` by a change, and no other connection: `others` answer afterwards.
#[track_caller]
fn ended_by(what: &str, concerned: Vec<Client>, others: &mut [&mut Client], change: impl FnOnce()) {
    change();
    let since = Instant::now();
    for client in concerned {
        ends(client, since, what);
    }
    others.iter_mut().for_each(|client| client.ping());
}

#[test]
fn a_devices_connection_ends_with_its_token_and_with_its_service() {
    let site = Site::start();
    site.server.person("default", "anna", Role::Admin);
    let old = site.server.device("anna", "cam-1");
    let neighbour = site.server.device("anna", "cam-2");
    let mut neighbour = site.join("default/cam-2", &neighbour);

    let mut new = String::new();
    ended_by("another token", vec![site.join("default/cam-1", &old)], &mut [&mut neighbour], || {
        let made = site.ask("anna", "POST", "devices/cam-1/rotate-token", &json!({}));
        made.body["token"].as_str().unwrap().clone_into(&mut new);
    });
    assert_ne!(site.attempt("default/cam-1", &old).1, 0);

    // A device enrols anew with a token of its own.
    let own = NewToken::generate().unwrap();
    let concerned = vec![site.join("default/cam-1", &new)];
    ended_by("another enrolment", concerned, &mut [&mut neighbour], || {
        site.ask("anna", "POST", "devices/cam-1/allow-reenrollment", &json!({}));
        let body = json!({"device_id": "cam-1", "token_sha256": own.hash.to_hex()});
        site.ask("anna", "POST", "devices/register", &body);
    });
    let own = own.text.expose();

    ended_by("decommissioning", vec![site.join("default/cam-1", own)], &mut [&mut neighbour], || {
        site.ask("anna", "DELETE", "devices/cam-1", &json!({}));
    });
    for dead in [&old, &new, own] {
        assert_ne!(site.attempt("default/cam-1", dead).1, 0);
    }
}

/// A token that a device has announced after `rotate_token`.
fn announced(site: &Site) -> String {
    let (app, token) = (&site.server.app, NewToken::generate().unwrap());
    let now_ms = app.clock.now_ms();
    let (org, device) = (OrgSlug::new("default").unwrap(), DeviceId::new("cam-1").unwrap());
    site.server.runtime.block_on(async {
        let known = credentials::device(&app.store, &org, &device, now_ms).await.unwrap().remove(0);
        let announce =
            credentials::announce_token(&known.org.id, &known.row, token.hash, now_ms, now_ms + 86_400_000);
        app.store.apply_one(announce).await.unwrap();
    });
    token.text.expose().to_owned()
}

#[test]
fn the_first_use_of_an_announced_token_ends_what_the_old_one_opened_over_either_path() {
    let site = Site::start();
    site.server.person("default", "anna", Role::Admin);
    let first = site.server.device("anna", "cam-1");
    let second = announced(&site);
    ended_by("its use over HTTP", vec![site.join("default/cam-1", &first)], &mut [], || {
        assert_eq!(site.server.get("/api/v1/connect").by_device(&second).send().status, 200);
    });
    assert_ne!(site.attempt("default/cam-1", &first).1, 0);
    let third = announced(&site);
    let old = site.join("default/cam-1", &second);
    let mut new = site.join("default/cam-1", &third);
    ends(old, Instant::now(), "its use over MQTT");
    new.ping();
    assert_ne!(site.attempt("default/cam-1", &second).1, 0);
}

#[test]
fn a_persons_connections_end_with_the_account_the_password_and_the_role() {
    let site = Site::start();
    for (name, role) in [("anna", Role::Admin), ("vera", Role::Viewer), ("otto", Role::Operator)] {
        site.server.person("default", name, role);
    }
    let otto = site.id("otto");
    let (_, key) = site.key("otto", &json!({}));
    let all = |password: &str| vec![site.join("default/otto", &key), site.join("otto@example.org", password)];
    let mut bystander = site.join("default/vera", PASSWORD);
    let path = format!("users/{otto}");
    let patch = |body: Value| site.ask("anna", "PATCH", &path, &body);

    ended_by("another role", all(PASSWORD), &mut [&mut bystander], || drop(patch(json!({"role": "admin"}))));
    ended_by("a disabled account", all(PASSWORD), &mut [&mut bystander], || {
        patch(json!({"is_active": false}));
    });
    assert!(site.attempt("default/otto", &key).1 != 0 && site.attempt("default/otto", PASSWORD).1 != 0);
    patch(json!({"is_active": true}));
    ended_by("a deleted account", all(PASSWORD), &mut [&mut bystander], || {
        site.ask("anna", "DELETE", &path, &json!({}));
    });
    patch(json!({"is_active": true}));
    ended_by("a password that was reset", all(PASSWORD), &mut [&mut bystander], || {
        let reset = json!({"password": "quite another horse"});
        site.ask("anna", "POST", &format!("{path}/reset-password"), &reset);
    });
    assert_ne!(site.attempt("default/otto", PASSWORD).1, 0);
    // The command line beside the server.
    ended_by(
        "an account disabled on the command line",
        all("quite another horse"),
        &mut [&mut bystander],
        || {
            let email = "otto@example.org".parse().unwrap();
            let (app, now_ms) = (&site.server.app, site.server.app.clock.now_ms());
            let done = accounts::disable_user(&app.store, &email, "another process", now_ms);
            site.server.runtime.block_on(done).unwrap();
        },
    );
    // One's own.
    let change = json!({"old": PASSWORD, "new": "yet another horse"});
    ended_by("a changed password", vec![bystander], &mut [], || {
        site.ask("vera", "POST", "auth/password", &change);
    });
    assert_ne!(site.attempt("default/vera", PASSWORD).1, 0);
    site.join("vera@example.org", "yet another horse").ping();
}

#[test]
fn an_api_key_takes_along_what_it_opened_and_nothing_else() {
    let site = Site::start();
    site.server.person("default", "anna", Role::Admin);
    let robot =
        site.ask("anna", "POST", "service-accounts", &json!({"username": "robot", "role": "operator"}));
    let robot = robot.body["id"].as_str().unwrap().to_owned();
    let (first_id, first) = site.key("anna", &json!({"service_account_id": robot}));
    let (_, second) = site.key("anna", &json!({"service_account_id": robot}));
    let (own_id, own) = site.key("anna", &json!({}));
    let mut by_second = site.join("default/robot", &second);
    let mut by_password = site.join("default/anna", PASSWORD);

    let concerned = vec![site.join("default/robot", &first), site.join("default/robot", &first)];
    ended_by("a key that is taken back", concerned, &mut [&mut by_second, &mut by_password], || {
        site.ask("anna", "DELETE", &format!("api-keys/{first_id}"), &json!({}));
    });
    assert_ne!(site.attempt("default/robot", &first).1, 0);

    // The command line beside the server.
    let concerned = vec![site.join("default/anna", &own)];
    ended_by(
        "a key taken back on the command line",
        concerned,
        &mut [&mut by_second, &mut by_password],
        || {
            let app = &site.server.app;
            site.server.runtime.block_on(async {
                let context = fleetd::domain::audit::AuditContext::system();
                let (source, now_ms) = ("another process", app.clock.now_ms());
                let desk = Desk { store: &app.store, now_ms, source, context: &context };
                let owner =
                    accounts::find_person(desk.store, &"anna@example.org".parse().unwrap()).await.unwrap();
                let key = fleetd::store::api_keys::by_id(desk.store, &owner.org.id, &own_id)
                    .await
                    .unwrap()
                    .unwrap();
                fleetd::service::api_keys::revoke(desk, &key, &owner).await.unwrap();
            });
        },
    );

    let expires_ms = site.server.app.clock.now_ms() + 1500;
    let soon = json!({"service_account_id": robot, "expires_at": protocol::message::rfc3339(expires_ms)});
    let (_, brief) = site.key("anna", &soon);
    let concerned = vec![site.join("default/robot", &brief)];
    ended_by("a key that expires", concerned, &mut [&mut by_second, &mut by_password], || {
        let left = expires_ms - site.server.app.clock.now_ms();
        std::thread::sleep(Duration::from_millis(left.max(0).unsigned_abs()));
    });

    ended_by("a deleted service account", vec![by_second], &mut [&mut by_password], || {
        site.ask("anna", "DELETE", &format!("service-accounts/{robot}"), &json!({}));
    });
    assert_ne!(site.attempt("default/robot", &second).1, 0);
}

#[test]
fn a_connect_that_waits_for_its_check_while_its_account_is_disabled_is_never_let_in() {
    const GUESSES: usize = 24;
    let site = Site::start();
    site.server.person("default", "anna", Role::Admin);
    site.server.person("default", "vera", Role::Viewer);
    let list = site.ask("anna", "GET", "users", &Value::Null).body;
    let row = list["items"].as_array().unwrap().iter().find(|user| user["username"] == "vera").unwrap();
    let path = format!("users/{}", row["id"].as_str().unwrap());
    let answered = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for n in 0..GUESSES {
            let (site, answered) = (&site, &answered);
            scope.spawn(move || {
                assert_ne!(site.attempt("default/vera", &format!("wrong {n}")).1, 0);
                answered.fetch_add(1, Ordering::Relaxed);
            });
        }
        std::thread::sleep(Duration::from_millis(100));
        // Right, but for the first time: it waits behind the guesses.
        let waits = scope.spawn(|| site.attempt("default/vera", PASSWORD).1);
        std::thread::sleep(Duration::from_millis(200));
        site.ask("anna", "DELETE", &path, &json!({}));
        assert!(answered.load(Ordering::Relaxed) < GUESSES && !waits.is_finished(), "it did not wait");
        assert_ne!(waits.join().unwrap(), 0);
    });
}
