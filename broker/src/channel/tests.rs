#![allow(clippy::unwrap_used)]
use proptest::prelude::*;
use protocol::id::UserName;

use super::*;
use crate::filter::matches;
use crate::logs::{Logs, Readers};

fn leaf() -> impl Strategy<Value = String> {
    prop::sample::select(vec!["birth", "heartbeat", "status", "command", "ack", "result", "presence", "log"])
        .prop_map(str::to_owned)
}

/// Topics of the protocol, and some that look alike.
fn topic() -> impl Strategy<Value = String> {
    let org = || prop::sample::select(vec!["acme", "other"]);
    prop_oneof![
        (org(), "[ab]", leaf()).prop_map(|(org, id, leaf)| format!("fleet/v1/{org}/device/{id}/{leaf}")),
        (org(), "[ab]", prop::sample::select(vec!["command", "result"]))
            .prop_map(|(org, id, leaf)| format!("fleet/v1/{org}/operator/{id}/{leaf}")),
        (org(), "[ab]").prop_map(|(org, id)| format!("fleet/v1/{org}/view/{id}")),
        "[ab]".prop_map(|instance| format!("fleet/v1/server/{instance}")),
        "[ab]/[ab]",
    ]
}

/// A topic with some levels replaced by wildcards.
fn filter() -> impl Strategy<Value = String> {
    (topic(), prop::collection::vec(0u8..4, 6), any::<bool>()).prop_map(|(topic, choice, hash)| {
        let mut levels: Vec<&str> = topic
            .split('/')
            .zip(choice.iter().chain([&0; 8]))
            .map(|(l, c)| if *c == 0 { "+" } else { l })
            .collect();
        if hash {
            levels.pop();
            levels.push("#");
        }
        levels.join("/")
    })
}

fn admin() -> Principal {
    Principal::Person {
        org: OrgSlug::new("acme").unwrap(),
        user: UserName::new("ada").unwrap(),
        role: Role::Admin,
        credential: None,
    }
}

/// On how many channels of these kinds a message of that topic comes.
fn carries(scope: &Scope, kinds: Kinds, topic: &str) -> usize {
    let (logs, mut readers) = (Logs::new(), Readers::default());
    let names = readers.join(&logs, scope, kinds, 1);
    let route = logs.route(topic.parse().ok().as_ref());
    // The router's own rule.
    let carried = |channel: &str, name: &str| rumqttd::protocol::matches(channel, name);
    route
        .channels()
        .map(|channel| std::str::from_utf8(channel).unwrap())
        .map(|channel| names.iter().filter(|name| carried(channel, name)).count())
        .sum()
}

proptest! {
    #[test]
    fn a_service_gets_every_message_of_its_filter_exactly_once(filter in filter(), topic in topic()) {
        let scope = Scope::of(&Principal::Service { name: "s".into() });
        let times = carries(&scope, scope.kinds(&filter), &topic);
        prop_assert!(times <= 1);
        if matches(&filter, &topic) {
            prop_assert_eq!(times, 1);
        }
    }

    #[test]
    fn an_admin_gets_every_message_of_its_organisation_and_none_of_another(filter in filter(), topic in topic()) {
        let scope = Scope::of(&admin());
        let times = carries(&scope, scope.kinds(&filter), &topic);
        prop_assert!(times <= 1);
        let own = topic.starts_with("fleet/v1/acme/") || topic.starts_with("fleet/v1/server/");
        if own && matches(&filter, &topic) {
            prop_assert_eq!(times, 1);
        }
        if topic.starts_with("fleet/v1/other/") && topic.parse::<Topic>().is_ok() {
            prop_assert_eq!(times, 0);
        }
    }
}

#[test]
fn the_small_logs_are_those_of_organisations_and_people_and_not_those_of_services() {
    let (person, service) = (Scope::of(&admin()), Scope::of(&Principal::Service { name: "s".into() }));
    for kind in Kind::ALL {
        let small = |scope: &Scope| {
            let channel = scope.channel(kind);
            SMALL_LOGS.iter().any(|pattern| rumqttd::protocol::matches(&channel, pattern))
        };
        assert!(small(&person), "{kind:?}");
        assert!(!small(&service), "{kind:?}");
    }
}
