//! The table row by row, then properties against a model that is written another way.

#![allow(clippy::unwrap_used)]

use proptest::prelude::*;
use protocol::id::{DeviceId, OrgSlug, Role, UserName};

use super::filter::covers;
use super::*;

fn org(name: &str) -> OrgSlug {
    OrgSlug::new(name).unwrap()
}

fn device(of: &str, name: &str) -> Principal {
    Principal::Device { org: org(of), device: DeviceId::new(name).unwrap(), credential: None }
}

fn person(of: &str, name: &str, role: Role) -> Principal {
    Principal::Person { org: org(of), user: UserName::new(name).unwrap(), role, credential: None }
}

fn service() -> Principal {
    Principal::Service { name: "fleetd".to_owned() }
}

/// One letter for each answer in the table below.
fn letter(decision: PublishDecision) -> char {
    match decision {
        PublishDecision::Allow => 'A',
        PublishDecision::ServicesOnly => 's',
        PublishDecision::Deny => '-',
        PublishDecision::DenyRetain => 'r',
    }
}

/// The whole table. In each cell: publish, publish retained, subscribe. `A` allowed, `-` denied, `s` acknowledged
/// and for services alone, `r` allowed but not retained. A will is decided as the publish of the same retain flag.
#[test]
fn the_access_table_holds_row_by_row() {
    let principals = [
        device("acme", "cam-1"),
        person("acme", "vera", Role::Viewer),
        person("acme", "otto", Role::Operator),
        person("acme", "ada", Role::Admin),
        service(),
    ];
    let table: &[(&str, [&str; 5])] = &[
        //                                      device  viewer  operator admin  service
        ("fleet/v1/acme/device/cam-1/birth", ["Ar-", "--A", "--A", "--A", "ArA"]),
        ("fleet/v1/acme/device/cam-1/presence", ["AA-", "--A", "--A", "--A", "AAA"]),
        ("fleet/v1/acme/device/cam-1/heartbeat", ["Ar-", "--A", "--A", "--A", "ArA"]),
        ("fleet/v1/acme/device/cam-1/status", ["Ar-", "---", "--A", "--A", "ArA"]),
        ("fleet/v1/acme/device/cam-1/reported", ["Ar-", "---", "---", "--A", "ArA"]),
        ("fleet/v1/acme/device/cam-1/log", ["Ar-", "---", "--A", "--A", "ArA"]),
        ("fleet/v1/acme/device/cam-1/event", ["Ar-", "--A", "--A", "--A", "ArA"]),
        ("fleet/v1/acme/device/cam-1/command", ["--A", "---", "---", "--A", "ArA"]),
        ("fleet/v1/acme/device/cam-1/desired", ["--A", "---", "---", "--A", "ArA"]),
        ("fleet/v1/acme/device/cam-1/ack", ["--A", "---", "---", "--A", "ArA"]),
        ("fleet/v1/acme/operator/vera/command", ["---", "---", "---", "--A", "ArA"]),
        ("fleet/v1/acme/operator/vera/result", ["---", "---", "---", "--A", "ArA"]),
        ("fleet/v1/acme/operator/otto/command", ["---", "---", "Ar-", "--A", "ArA"]),
        ("fleet/v1/acme/operator/otto/result", ["---", "---", "--A", "--A", "ArA"]),
        ("fleet/v1/acme/operator/ada/command", ["---", "---", "---", "ArA", "ArA"]),
        ("fleet/v1/acme/operator/ada/result", ["---", "---", "---", "--A", "ArA"]),
        ("fleet/v1/acme/view/cam-1", ["---", "--A", "--A", "--A", "AAA"]),
        ("fleet/v1/server/main", ["--A", "--A", "--A", "--A", "AAA"]),
        // Another device of the organisation.
        ("fleet/v1/acme/device/cam-2/birth", ["---", "--A", "--A", "--A", "ArA"]),
        ("fleet/v1/acme/device/cam-2/presence", ["---", "--A", "--A", "--A", "AAA"]),
        ("fleet/v1/acme/device/cam-2/command", ["---", "---", "---", "--A", "ArA"]),
        ("fleet/v1/acme/device/cam-2/ack", ["---", "---", "---", "--A", "ArA"]),
        ("fleet/v1/acme/device/cam-2/telemetry", ["---", "---", "---", "--A", "ArA"]),
        // A device whose name begins with ours.
        ("fleet/v1/acme/device/cam-11/heartbeat", ["---", "--A", "--A", "--A", "ArA"]),
        ("fleet/v1/acme/device/cam-11/telemetry", ["---", "---", "---", "--A", "ArA"]),
        // Unknown to this server, in the device's own subtree. A retained one is retained nowhere.
        ("fleet/v1/acme/device/cam-1/telemetry", ["ss-", "---", "---", "--A", "ArA"]),
        ("fleet/v1/acme/device/cam-1/heartbeat/v2", ["ss-", "---", "---", "--A", "ArA"]),
        ("fleet/v1/acme/device/cam-1/Heartbeat", ["ss-", "---", "---", "--A", "ArA"]),
        ("fleet/v1/acme/device/cam-1//", ["ss-", "---", "---", "--A", "ArA"]),
        // Beside the subtree.
        ("fleet/v1/acme/device/cam-1", ["---", "---", "---", "--A", "ArA"]),
        ("fleet/v1/acme/device/cam-1/", ["---", "---", "---", "--A", "ArA"]),
        ("fleet/v2/acme/device/cam-1/heartbeat", ["---", "---", "---", "---", "ArA"]),
        ("/fleet/v1/acme/device/cam-1/heartbeat", ["---", "---", "---", "---", "ArA"]),
        ("fleet/v1/acme", ["---", "---", "---", "--A", "ArA"]),
        ("fleet/v1/acme/anything/else", ["---", "---", "---", "--A", "ArA"]),
        // Another organisation.
        ("fleet/v1/other/device/cam-1/birth", ["---", "---", "---", "---", "ArA"]),
        ("fleet/v1/other/device/cam-1/ack", ["---", "---", "---", "---", "ArA"]),
        ("fleet/v1/other/device/cam-1/telemetry", ["---", "---", "---", "---", "ArA"]),
        ("fleet/v1/other/operator/otto/command", ["---", "---", "---", "---", "ArA"]),
        ("fleet/v1/other/view/cam-1", ["---", "---", "---", "---", "AAA"]),
        ("fleet/v1/acme2/view/cam-1", ["---", "---", "---", "---", "AAA"]),
        // The servers' own topics are no organisation's.
        ("fleet/v1/server/device/cam-1/heartbeat", ["---", "---", "---", "---", "ArA"]),
        ("fleet/v1/server/main/more", ["---", "---", "---", "---", "ArA"]),
        // Nobody's. No wildcard reaches a name that starts with `$`, and the router cannot carry the last two.
        ("$SYS/broker/uptime", ["---", "---", "---", "---", "---"]),
        ("$fleet/v1/acme/view/cam-1", ["---", "---", "---", "---", "---"]),
        ("é/x", ["---", "---", "---", "---", "--A"]),
        ("日本", ["---", "---", "---", "---", "--A"]),
    ];
    for (topic, cells) in table {
        for (principal, expected) in principals.iter().zip(cells) {
            let subscribe = if subscribe(principal, topic) == SubscribeDecision::Allow { 'A' } else { '-' };
            let [plain, retained] = [false, true].map(|retain| letter(publish(principal, topic, retain)));
            let cell: String = [plain, retained, subscribe].iter().collect();
            assert_eq!(&cell, expected, "{principal:?} on {topic}");
        }
    }
}

#[test]
fn a_filter_is_granted_if_one_allowed_filter_covers_it_whole() {
    let cases = [
        // Every device of the organisation, one kind.
        ("fleet/v1/acme/device/+/heartbeat", "-AAA"),
        ("fleet/v1/acme/device/+/log", "--AA"),
        ("fleet/v1/acme/device/+/reported", "---A"),
        // Wider than any single grant, though parts of it would be granted.
        ("fleet/v1/acme/device/+/+", "---A"),
        ("fleet/v1/acme/device/+/#", "---A"),
        ("fleet/v1/acme/device/cam-1/#", "---A"),
        ("fleet/v1/acme/device/cam-1/+", "---A"),
        ("fleet/v1/acme/device/#", "---A"),
        ("fleet/v1/acme/device/+/heartbeat/#", "---A"),
        ("fleet/v1/acme/view/#", "---A"),
        ("fleet/v1/acme/view/+", "-AAA"),
        ("fleet/v1/acme/+/+", "---A"),
        ("fleet/v1/acme/#", "---A"),
        ("fleet/v1/server/+", "AAAA"),
        ("fleet/v1/server/#", "----"),
        // Across organisations.
        ("fleet/v1/+/view/+", "----"),
        ("fleet/v1/+/device/cam-1/command", "----"),
        ("fleet/v1/#", "----"),
        ("fleet/+/acme/view/+", "----"),
        ("+/v1/acme/view/+", "----"),
        ("#", "----"),
        ("+/#", "----"),
        ("$SYS/#", "----"),
    ];
    let principals = [
        device("acme", "cam-1"),
        person("acme", "vera", Role::Viewer),
        person("acme", "otto", Role::Operator),
        person("acme", "ada", Role::Admin),
    ];
    for (filter, expected) in cases {
        let row: String = principals
            .iter()
            .map(|who| if subscribe(who, filter) == SubscribeDecision::Allow { 'A' } else { '-' })
            .collect();
        assert_eq!(row, expected, "device, viewer, operator, admin on {filter}");
        let sees_all = subscribe(&service(), filter) == SubscribeDecision::Allow;
        assert_eq!(sees_all, !filter.starts_with('$'), "service on {filter}");
    }
}

#[test]
fn shared_subscriptions_and_broken_filters_are_told_apart_from_forbidden_ones() {
    let admin = person("acme", "ada", Role::Admin);
    for shared in ["$share/group/fleet/v1/acme/#", "$share/", "$share", "$share//#", "$share/a#b/c"] {
        assert_eq!(subscribe(&admin, shared), SubscribeDecision::SharedNotSupported, "{shared}");
        assert_eq!(subscribe(&service(), shared), SubscribeDecision::SharedNotSupported, "{shared}");
    }
    let too_long = format!("fleet/v1/acme/{}", "x".repeat(MAX_TOPIC_BYTES));
    for broken in [
        "",
        "a\0b",
        "fleet/v1/acme/#/x",
        "fleet/v1/acme/x#",
        "fleet/v1/acme+",
        "++",
        "a/+b/c",
        "##",
        &too_long,
    ] {
        assert_eq!(subscribe(&admin, broken), SubscribeDecision::Invalid, "{broken:?}");
        assert_eq!(subscribe(&service(), broken), SubscribeDecision::Invalid, "{broken:?}");
    }
}

#[test]
fn nobody_publishes_to_a_wildcard_a_nul_an_empty_or_an_endless_topic() {
    let too_long = format!("fleet/v1/acme/device/cam-1/{}", "x".repeat(MAX_TOPIC_BYTES));
    let broken = [
        "",
        "fleet/v1/acme/device/cam-1/+",
        "fleet/v1/acme/device/cam-1/#",
        "fleet/v1/acme/device/cam-1/x\0",
        &too_long,
    ];
    for topic in broken {
        assert!(!valid_topic(topic));
        for who in [device("acme", "cam-1"), person("acme", "ada", Role::Admin), service()] {
            assert_eq!(publish(&who, topic, false), PublishDecision::Deny, "{who:?} {topic:?}");
        }
    }
    assert!(
        valid_topic(&"x".repeat(MAX_TOPIC_BYTES))
            && valid_topic("é")
            && valid_topic("/")
            && valid_topic("a b")
    );
}

/// MQTT's own rule of matching, level by level and recursive, to check the code's rule of covering.
fn matches(filter: &[&str], topic: &[&str], first: bool) -> bool {
    match (filter, topic) {
        ([], []) | (["#"], []) => true,
        (["#"], [level, ..]) => !(first && level.starts_with('$')),
        (["+", filter @ ..], [level, topic @ ..]) => {
            !(first && level.starts_with('$')) && matches(filter, topic, false)
        }
        ([own, filter @ ..], [level, topic @ ..]) => own == level && matches(filter, topic, false),
        _ => false,
    }
}

fn topic_matches(filter: &str, topic: &str) -> bool {
    matches(&filter.split('/').collect::<Vec<_>>(), &topic.split('/').collect::<Vec<_>>(), true)
}

/// Who may read a topic, by its levels rather than by filters.
fn model_may_read(who: &Principal, topic: &str) -> bool {
    let levels: Vec<&str> = topic.split('/').collect();
    if topic.starts_with('$') {
        return false;
    }
    let ["fleet", "v1", rest @ ..] = &levels[..] else { return matches!(who, Principal::Service { .. }) };
    if matches!(rest, ["server", _]) {
        return true;
    }
    match who {
        Principal::Service { .. } => true,
        Principal::Device { org, device, .. } => {
            matches!(rest, [o, "device", d, "command" | "desired" | "ack"] if *o == org.as_str() && *d == device.as_str())
        }
        Principal::Person { org, user, role, .. } => {
            let [of, inner @ ..] = rest else { return false };
            *of == org.as_str()
                && match (inner, role) {
                    (_, Role::Admin) => true,
                    (["view", _], _) => true,
                    (["device", _, "heartbeat" | "birth" | "presence" | "event"], _) => true,
                    (["device", _, "status" | "log"], Role::Operator) => true,
                    (["operator", name, "result"], Role::Operator) => *name == user.as_str(),
                    _ => false,
                }
        }
    }
}

/// Topics that `filter` matches: each `+` as a fresh name and as names that mean something, `#` at several depths.
fn samples(filter: &str) -> Vec<String> {
    let mut topics = vec![String::new()];
    let levels: Vec<&str> = filter.split('/').collect();
    for (index, level) in levels.iter().enumerate() {
        let choices: Vec<String> = match *level {
            "+" => ["fresh-1", "acme", "cam-1", "heartbeat", "v1"].map(|name| format!("/{name}")).to_vec(),
            "#" if index == 0 => {
                ["/fresh-1", "/fleet/v1/acme/x", "/fleet/v1/other/view/x"].map(str::to_owned).to_vec()
            }
            "#" => ["", "/fresh-1", "/fresh-1/fresh-2", "/a/b/c/d"].map(str::to_owned).to_vec(),
            name => vec![format!("/{name}")],
        };
        topics = topics
            .iter()
            .flat_map(|topic| choices.iter().map(move |choice| format!("{topic}{choice}")))
            .collect();
    }
    topics.into_iter().map(|topic| topic[1..].to_owned()).collect()
}

fn any_principal() -> impl Strategy<Value = Principal> {
    let orgs = || prop::sample::select(vec!["acme", "other", "a", "acme2"]);
    prop_oneof![
        (orgs(), prop::sample::select(vec!["cam-1", "cam-2", "a"])).prop_map(|(of, name)| device(of, name)),
        (
            orgs(),
            prop::sample::select(vec!["otto", "ada", "a"]),
            prop::sample::select(vec![Role::Viewer, Role::Operator, Role::Admin])
        )
            .prop_map(|(of, name, role)| person(of, name, role)),
        Just(service()),
    ]
}

/// Filters (and without wildcards, topics) that look like ours, with every kind of level in every place.
fn near_filter() -> impl Strategy<Value = String> {
    let words = vec![
        "fleet",
        "v1",
        "acme",
        "other",
        "acme2",
        "a",
        "server",
        "device",
        "operator",
        "view",
        "cam-1",
        "cam-2",
        "otto",
        "heartbeat",
        "birth",
        "presence",
        "event",
        "status",
        "log",
        "command",
        "desired",
        "ack",
        "result",
        "+",
        "#",
        "",
        "$SYS",
        "main",
    ];
    let free = prop::collection::vec(prop::sample::select(words.clone()), 1..7);
    let rooted = prop::collection::vec(prop::sample::select(words), 1..5)
        .prop_map(|rest| [vec!["fleet", "v1"], rest].concat());
    let shaped = (
        prop::sample::select(vec!["acme", "other", "+", "server"]),
        prop::sample::select(vec!["device", "view", "operator", "+"]),
        prop::sample::select(vec!["cam-1", "cam-2", "otto", "+", "#"]),
        prop::sample::select(vec![
            "heartbeat",
            "status",
            "command",
            "result",
            "ack",
            "log",
            "reported",
            "+",
            "#",
        ]),
    )
        .prop_map(|(org, kind, name, leaf)| {
            let mut levels = vec!["fleet", "v1", org, kind, name];
            if kind != "view" && name != "#" {
                levels.push(leaf);
            }
            levels
        });
    prop_oneof![free, rooted, shaped].prop_map(|levels| levels.join("/"))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn a_filter_is_granted_exactly_when_every_topic_it_matches_may_be_read(who in any_principal(), filter in near_filter()) {
        prop_assume!(valid_filter(&filter));
        let topics = samples(&filter);
        for topic in &topics {
            // A sample with a `$` in a wildcard's place does not occur, so all samples match.
            prop_assert!(topic_matches(&filter, topic), "{} does not match {}", filter, topic);
        }
        let all = topics.iter().all(|topic| model_may_read(&who, topic));
        let granted = subscribe(&who, &filter) == SubscribeDecision::Allow;
        prop_assert_eq!(granted, all, "{:?} on {}", who, filter);
    }

    #[test]
    fn covering_agrees_with_matching(allowed in near_filter(), filter in near_filter()) {
        prop_assume!(valid_filter(&allowed) && valid_filter(&filter));
        let all = samples(&filter).iter().all(|topic| topic_matches(&allowed, topic));
        // Samples cannot refute everything, so only one direction is exact.
        if covers(&allowed, &filter) {
            prop_assert!(all, "{} covers {}?", allowed, filter);
        }
        prop_assert!(covers(&filter, &filter));
    }

    #[test]
    fn nobody_reaches_into_another_organisation(who in any_principal(), text in near_filter(), retain: bool) {
        let own = match &who {
            Principal::Device { org, .. } | Principal::Person { org, .. } => format!("{PREFIX}/{org}/"),
            Principal::Service { .. } => return Ok(()),
        };
        if publish(&who, &text, retain) != PublishDecision::Deny {
            prop_assert!(text.starts_with(&own), "{:?} publishes {}", who, text);
        }
        if subscribe(&who, &text) == SubscribeDecision::Allow {
            let inside = format!("{text}/").starts_with(&own);
            prop_assert!(inside || text.starts_with("fleet/v1/server/"), "{:?} reads {}", who, text);
        }
    }

    #[test]
    fn what_a_publish_may_reach_is_a_known_topic_of_its_own_or_is_for_services(who in any_principal(), topic in near_filter(), retain: bool) {
        let decision = publish(&who, &topic, retain);
        let known = topic.parse::<Topic>().ok();
        let own = match (&who, &known) {
            (Principal::Service { .. }, _) => valid_topic(&topic) && !topic.starts_with('$'),
            (Principal::Device { org, device, .. }, Some(Topic::Device { org: of, device: from, .. })) => org == of && device == from,
            (Principal::Person { org, user, role, .. }, Some(Topic::OperatorCommand { org: of, user: from })) => {
                *role != Role::Viewer && org == of && user == from
            }
            _ => false,
        };
        prop_assert_eq!(matches!(decision, PublishDecision::Allow | PublishDecision::DenyRetain), own, "{:?} {}", who, topic);
        if decision == PublishDecision::ServicesOnly {
            let is_device = matches!(who, Principal::Device { .. });
            prop_assert!(is_device && known.is_none());
        }
        if decision == PublishDecision::DenyRetain {
            prop_assert!(retain);
        }
    }

    #[test]
    fn any_string_gets_an_answer_and_a_random_one_is_denied(who in any_principal(), text in any::<String>(), retain: bool) {
        let may_publish = publish(&who, &text, retain) != PublishDecision::Deny;
        let may_read = subscribe(&who, &text) == SubscribeDecision::Allow;
        if !matches!(who, Principal::Service { .. }) {
            prop_assert!(!may_publish && !may_read, "{:?} {:?}", who, text);
        }
    }

    #[test]
    fn bytes_in_the_middle_of_a_good_topic_never_panic(who in any_principal(), at in 0usize..40, junk in any::<String>(), retain: bool) {
        let good = "fleet/v1/acme/device/cam-1/heartbeat";
        let at = at.min(good.len());
        let text = format!("{}{junk}{}", &good[..at], &good[at..]);
        let _ = (publish(&who, &text, retain), subscribe(&who, &text), valid_topic(&text), valid_filter(&text));
    }
}
