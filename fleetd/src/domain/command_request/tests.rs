#![allow(clippy::unwrap_used)]

use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;

const NOW: i64 = 1_766_916_000_000;
const DAY_MS: i64 = 86_400_000;

fn read(body: Value) -> Result<CreateRequest, Vec<String>> {
    CreateRequest::read(body, Some(Target::All))
        .map_err(|errors| errors.into_iter().map(|error| error.field).collect())
}

fn wrong(body: Value) -> Vec<String> {
    read(body).unwrap_err()
}

#[test]
fn what_is_not_said_has_a_default() {
    let request = read(json!({"type": "ping"})).unwrap();
    assert_eq!((request.priority, request.timeout_seconds), (5, 120));
    assert_eq!(request.payload, json!({}));
    assert_eq!(request.expires_at(NOW, DAY_MS), Ok(NOW + DAY_MS));
    let update = read(json!({"type": "update", "payload": {"version": "2.0"}})).unwrap();
    assert_eq!(update.timeout_seconds, 3600);
}

#[test]
fn every_wrong_field_is_named() {
    let cases = [
        (json!({"type": "dance"}), vec!["type"]),
        (json!({"type": 5}), vec!["type"]),
        (json!({}), vec!["type"]),
        (json!({"type": "ping", "colour": "red"}), vec!["colour"]),
        (json!({"type": "ping", "to": "x"}), vec!["to"]),
        (json!({"type": "ping", "payload": [1]}), vec!["payload"]),
        (json!({"type": "ping", "payload": {"x": 1}}), vec!["payload.x"]),
        (json!({"type": "restart_service"}), vec!["payload.service"]),
        (json!({"type": "restart_service", "payload": {"service": 7}}), vec!["payload.service"]),
        (json!({"type": "bundle", "payload": {"bundle_id": "x"}}), vec!["payload.bundle_id"]),
        (json!({"type": "ping", "priority": 0}), vec!["priority"]),
        (json!({"type": "ping", "priority": 11}), vec!["priority"]),
        (json!({"type": "ping", "priority": "1"}), vec!["priority"]),
        (json!({"type": "ping", "timeout_seconds": 0}), vec!["timeout_seconds"]),
        (json!({"type": "ping", "timeout_seconds": 86_401}), vec!["timeout_seconds"]),
        (json!({"type": "ping", "expires_in_seconds": 0}), vec!["expires_in_seconds"]),
        (json!({"type": "ping", "expires_in_seconds": -5}), vec!["expires_in_seconds"]),
        (json!({"type": "ping", "expires_in_seconds": 2_592_001}), vec!["expires_in_seconds"]),
        (json!({"type": "ping", "expires_at": "tomorrow"}), vec!["expires_at"]),
        (
            json!({"type": "ping", "expires_in_seconds": 5, "expires_at": "2030-01-01T00:00:00Z"}),
            vec!["expires_at"],
        ),
        (json!({"type": "ping", "ref": ""}), vec!["ref"]),
        (json!({"type": "ping", "ref": "a\nb"}), vec!["ref"]),
        (json!({"type": "ping", "ref": "x".repeat(201)}), vec!["ref"]),
        (json!({"type": "ping", "ref": "ä".repeat(101)}), vec!["ref"]),
        (json!({"type": "ping", "notes": "x".repeat(1001)}), vec!["notes"]),
        (json!({"type": "ping", "override_show": true}), vec!["override_show"]),
        (json!({"type": "ping", "override_show": {"reason": ""}}), vec!["override_show"]),
        (json!({"type": "ping", "override_show": {"reason": " "}}), vec!["override_show"]),
        (json!({"type": "ping", "override_show": {"reason": "x", "y": 1}}), vec!["override_show"]),
        (json!({"type": "dance", "priority": 0, "x": 1}), vec!["type", "priority", "x"]),
        (json!("ping"), vec![""]),
    ];
    for (body, fields) in cases {
        assert_eq!(wrong(body.clone()), fields, "{body}");
    }
    let large = json!({"type": "custom", "payload": {"script": "a", "args": vec!["x".repeat(4000); 20]}});
    assert_eq!(wrong(large), ["payload"]);
}

#[test]
fn an_expiry_is_in_the_next_thirty_days() {
    let at = |text: &str| read(json!({"type": "ping", "expires_at": text})).unwrap().expires_at(NOW, DAY_MS);
    assert_eq!(at("2025-12-28T10:00:00Z").unwrap_err().field, "expires_at");
    assert_eq!(at("2025-12-28T10:00:01Z"), Ok(NOW + 1000));
    assert_eq!(at("2026-01-27T10:00:00Z"), Ok(NOW + 30 * DAY_MS));
    assert_eq!(at("2026-01-27T10:00:01Z").unwrap_err().message, "is more than 30 days away");
    let longest = read(json!({"type": "ping", "expires_in_seconds": 2_592_000})).unwrap();
    assert_eq!(longest.expires_at(NOW, DAY_MS), Ok(NOW + 30 * DAY_MS));
}

#[test]
fn whom_a_request_names() {
    assert_eq!(Target::parse("*"), Ok(Target::All));
    assert_eq!(Target::parse("tag:Hall-2"), Ok(Target::Tag("Hall-2".to_owned())));
    assert_eq!(Target::parse("cam-1"), Ok(Target::Device("cam-1".to_owned())));
    for bad in ["", "tag:", "tag:a b", "Cam", "cam/1", "#", "+", "cam-*"] {
        assert!(Target::parse(bad).is_err(), "{bad}");
    }
    let errors = CreateRequest::read(json!({"type": "ping"}), None).unwrap_err();
    assert_eq!(errors[0].field, "to");
}

#[test]
fn the_agents_own_unit_is_no_show() {
    let restart = |service: &str| {
        read(json!({"type": "restart_service", "payload": {"service": service}})).unwrap().disruptive
    };
    assert!(restart("r58-api"));
    assert!(!restart("r58-fleet-agent"));
    assert!(!restart("r58-fleet-agent.service"));
}

#[test]
fn a_path_of_its_own_takes_the_payload_without_its_wrapping() {
    let restart = |body: Value| {
        let kind = CommandType::RestartService;
        CreateRequest::read_shorthand(body, Target::All, kind, &["service"], |payload| {
            payload.entry("service").or_insert_with(|| "r58-api".into());
        })
    };
    assert_eq!(restart(json!({})).unwrap().payload, json!({"service": "r58-api"}));
    let named = restart(json!({"service": "mediamtx", "ref": "x", "priority": 1})).unwrap();
    assert_eq!((named.payload, named.priority), (json!({"service": "mediamtx"}), 1));
    assert_eq!(restart(json!({"service": 5})).unwrap_err()[0].field, "service");
    assert_eq!(restart(json!({"payload": {}})).unwrap_err()[0].field, "payload");
}

fn a_body() -> impl Strategy<Value = Value> {
    let payload = prop::collection::btree_map("[a-c]{1,2}", "[a-z]{0,3}", 1..3);
    (payload, 1..=10_u8, prop::option::of(1..100_i64), prop::option::of("[a-z]{1,3}")).prop_map(
        |(changes, priority, expires, notes)| {
            let mut body = json!({"type": "config", "payload": {"changes": changes}, "priority": priority});
            if let Some(seconds) = expires {
                body["expires_in_seconds"] = seconds.into();
            }
            if let Some(notes) = notes {
                body["notes"] = notes.into();
            }
            body
        },
    )
}

proptest! {
    #[test]
    fn the_hash_tells_bodies_apart_and_looks_at_neither_order_nor_target(a in a_body(), b in a_body()) {
        let hash = |body: &Value, to: Target| CreateRequest::read(body.clone(), Some(to)).unwrap().hash();
        let one = hash(&a, Target::All);
        prop_assert_eq!(&one, &hash(&a, Target::Device("cam-1".to_owned())));
        // The text with its fields in another order.
        let reversed: Vec<String> =
            a.as_object().unwrap().iter().rev().map(|(key, value)| format!("{}:{value}", json!(key))).collect();
        let reversed: Value = serde_json::from_str(&format!("{{{}}}", reversed.join(","))).unwrap();
        prop_assert_eq!(&one, &hash(&reversed, Target::All));
        prop_assert_eq!(a == b, one == hash(&b, Target::All));
    }

    #[test]
    fn whatever_comes_is_read_or_refused(key in "[a-z_]{1,18}", text in "\\PC{0,30}", number in any::<i64>()) {
        for value in [json!(text), json!(number), json!([number]), json!({"reason": text}), json!(null)] {
            let mut body = json!({"type": "ping"});
            body[&key] = value;
            if let Ok(request) = read(body) {
                let _ = request.expires_at(NOW, DAY_MS);
            }
        }
    }
}
