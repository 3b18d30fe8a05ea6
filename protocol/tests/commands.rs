//! Claims about where commands stand and what they take.
#![allow(clippy::unwrap_used)]

use proptest::collection::vec;
use proptest::prelude::*;
use protocol::command::payload::{Payload, Reboot};
use protocol::command::standing::{Heard, Standing, Told};
use protocol::command::{CommandState, CommandType};
use serde_json::{Value, json};

/// The states that a device goes through, as it may: each step reported under the next number.
fn device_path() -> impl Strategy<Value = Vec<CommandState>> {
    use CommandState as S;
    let ends_before = prop_oneof![Just(S::Rejected), Just(S::Cancelled), Just(S::Expired)];
    let ends_after =
        prop_oneof![Just(S::Completed), Just(S::Failed), Just(S::TimedOut), Just(S::Indeterminate)];
    let waiting = vec(
        prop_oneof![Just(vec![S::Held]), Just(vec![S::Held, S::Held]), Just(vec![S::Running, S::Held])],
        0..4,
    );
    let end = prop_oneof![
        ends_before.prop_map(|end| vec![end]),
        ends_after.clone().prop_map(|end| vec![S::Running, end]),
        ends_after.prop_map(|end| vec![S::Running, S::Running, end]),
    ];
    (any::<bool>(), waiting, end).prop_map(|(acked, waiting, end)| {
        let mut path: Vec<S> = acked.then_some(S::Acked).into_iter().collect();
        // Refused on arrival, or called back before it came.
        if acked || end.len() > 1 {
            path.extend(waiting.concat());
        }
        path.extend(end);
        path
    })
}

fn hear(standing: Standing, told: Told) -> Standing {
    match standing.report(told) {
        Heard::Moved(next) | Heard::Progress(next) => next,
        Heard::Late | Heard::Known | Heard::Refused(_) => standing,
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn server_and_device_agree_once_the_last_report_has_come_whatever_was_lost_repeated_or_out_of_order(
        path in device_path(),
        deliveries in vec((0..16usize, 0..12u8), 0..60),
    ) {
        let told = |n: usize| Told {
            state: path[n],
            report_seq: u32::try_from(n + 1).unwrap(),
            same_state_database: true,
        };
        let mut standing = Standing { state: CommandState::Sent, ..Standing::PENDING };
        let mut ends = Vec::new();
        for (n, what) in deliveries {
            let before = standing;
            standing = match what {
                // The server stops waiting.
                0 => standing.given_up().unwrap_or(standing),
                _ => hear(standing, told(n % path.len())),
            };
            if standing != before && standing.state.is_terminal() {
                ends.push(standing);
            }
            prop_assert!(before.inferred || before.state.is_open() || standing == before, "{before:?} was an end");
        }
        standing = hear(standing, told(path.len() - 1));
        prop_assert_eq!(standing.state, *path.last().unwrap());
        prop_assert!(!standing.inferred);
        let own = ends.iter().filter(|end| !end.inferred).count();
        prop_assert!(own <= 1 && ends.len() <= 2, "{ends:?}");
        for n in 0..path.len() {
            prop_assert_eq!(hear(standing, told(n)), standing, "an end stays");
        }
    }

    #[test]
    fn a_new_state_database_cannot_say_what_an_old_one_did(state in 0..CommandState::ALL.len(), inferred in any::<bool>()) {
        let state = CommandState::ALL[state];
        let inferred = inferred && state == CommandState::Indeterminate;
        let standing = Standing { state, inferred, report_seq: 2 };
        for end in [CommandState::Rejected, CommandState::Cancelled, CommandState::Indeterminate] {
            let told = Told { state: end, report_seq: 3, same_state_database: false };
            prop_assert_eq!(hear(standing, told), standing);
        }
    }

    #[test]
    fn any_payload_is_taken_or_refused_with_the_field(kind in 0..CommandType::ALL.len(), field in "[a-z_]{1,12}", text in ".{0,20}") {
        let kind = CommandType::ALL[kind];
        for value in [json!({field.clone(): text}), json!({field.clone(): [text]}), json!([text]), json!(7)] {
            match Payload::parse(kind, &value) {
                Ok(payload) => prop_assert_eq!(payload.kind(), kind),
                Err(error) => prop_assert!(error.field.starts_with("payload") && !error.message.is_empty()),
            }
        }
    }
}

#[test]
fn before_it_was_sent_the_server_decides_and_after_that_the_device() {
    for next in [CommandState::Sent, CommandState::Cancelled, CommandState::Expired] {
        assert!(Standing::PENDING.by_server(next).is_some());
        for state in [CommandState::Sent, CommandState::Acked, CommandState::Held, CommandState::Running] {
            assert_eq!(Standing { state, ..Standing::PENDING }.by_server(next), None, "{state} to {next}");
        }
    }
    assert_eq!(Standing::PENDING.given_up(), None, "what was never sent cannot have been done");
}

#[test]
fn a_payload_with_an_unknown_field_is_refused_by_name() {
    let error = Payload::parse(CommandType::RestartService, &json!({"service": "r58-api", "force": true}))
        .unwrap_err();
    assert_eq!(error.field, "payload.force");
    assert!(error.message.contains("service"), "{error}");
}

#[test]
fn a_payload_of_the_wrong_type_is_refused() {
    let wrong = [
        (CommandType::RestartService, json!({"service": 5})),
        (CommandType::RestartService, json!({})),
        (CommandType::RestartService, json!({"service": "a\nb"})),
        (CommandType::Reboot, json!({"delay_seconds": -1})),
        (CommandType::Reboot, json!({"delay_seconds": 1.5})),
        (CommandType::Reboot, json!({"delay_seconds": 1e12})),
        (CommandType::Config, json!({"changes": {}})),
        (CommandType::Config, json!({"changes": {"A": ["b"]}})),
        (CommandType::Config, json!({"changes": {"A": "b\nDEVICE_TOKEN=c"}})),
        (CommandType::Custom, json!({"script": "x", "args": "y"})),
        (CommandType::Custom, json!({"script": "x", "args": vec!["y"; 65]})),
        (CommandType::Update, json!({})),
        (CommandType::Update, json!({"version": "1", "branch": "main"})),
        (CommandType::Ping, json!("now")),
    ];
    for (kind, value) in wrong {
        assert!(Payload::parse(kind, &value).is_err(), "{kind} {value}");
    }
}

#[test]
fn restarting_the_agent_itself_disturbs_nobody() {
    let restart =
        |service: &str| Payload::parse(CommandType::RestartService, &json!({ "service": service })).unwrap();
    assert!(!restart("r58-fleet-agent").is_disruptive("r58-fleet-agent.service"));
    assert!(restart("r58-api").is_disruptive("r58-fleet-agent.service"));
    let now = Payload::parse(CommandType::Reboot, &Value::Null).unwrap();
    assert_eq!(now, Payload::Reboot(Reboot { delay_seconds: 0 }));
    assert!(now.is_disruptive("r58-fleet-agent"));
}
