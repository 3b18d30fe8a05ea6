//! The messages and decisions that need no peer.

use protocol::codec;
use protocol::id::StateId;
use protocol::message::{Command, DeviceCommand, event};

use crate::run::commands::{Answer, answer};
use crate::run::messages::{MOST_INPUTS, new_inputs, show_event};

const OWN: StateId = StateId([1; 8]);

fn message() -> DeviceCommand {
    DeviceCommand { state_id: OWN, command: None, cancel: None, query: None, override_show: None, go: None }
}

fn command() -> Command {
    Command {
        id: "c1".parse().unwrap(),
        kind: "reboot".to_owned(),
        payload: serde_json::Value::Null,
        priority: 5,
        created_at: 0,
        expires_at: 1_000,
        timeout_seconds: 120,
        desired_version: 0,
        override_show: None,
    }
}

#[test]
fn every_command_is_rejected_with_the_reason_and_remembered_past_its_expiry() {
    let run = DeviceCommand { command: Some(command()), ..message() };
    let Answer::Journal(entry, report) = answer(run.clone(), OWN, 7) else { panic!("journalled") };
    assert_eq!((entry.command_id.as_str(), entry.state.as_str()), ("c1", "rejected"));
    assert_eq!(entry.kept_until_ms, 1_000 + 30 * 24 * 3_600_000);
    assert_eq!(report.reason.as_deref(), Some("not supported by this agent version"));
    assert_eq!((report.report_seq, report.ts, report.state.as_str()), (1, 7, "rejected"));

    let Answer::Journal(_, report) = answer(run, StateId([2; 8]), 7) else { panic!("journalled") };
    assert_eq!(report.reason.as_deref(), Some("meant for an earlier state of this device"));
}

#[test]
fn an_expiry_at_the_end_of_time_does_not_overflow() {
    let far = Command { expires_at: i64::MAX, ..command() };
    let Answer::Journal(entry, _) = answer(DeviceCommand { command: Some(far), ..message() }, OWN, i64::MAX)
    else {
        panic!("journalled")
    };
    assert_eq!(entry.kept_until_ms, i64::MAX);
}

#[test]
fn a_cancel_is_journalled_as_cancelled_and_a_query_for_the_unknown_is_indeterminate() {
    let id = || Some("c2".parse().unwrap());
    let Answer::Journal(entry, _) = answer(DeviceCommand { cancel: id(), ..message() }, OWN, 7) else {
        panic!("journalled")
    };
    assert_eq!(entry.state, "cancelled");
    let Answer::Repeat(entry, report) = answer(DeviceCommand { query: id(), ..message() }, OWN, 7) else {
        panic!("repeated")
    };
    assert_eq!((entry.state.as_str(), report.state.as_str()), ("indeterminate", "indeterminate"));
}

#[test]
fn a_message_that_asks_for_nothing_or_for_two_things_gets_no_answer() {
    assert_eq!(answer(message(), OWN, 7), Answer::Nothing);
    let both = DeviceCommand { cancel: "c".parse().ok(), query: "c".parse().ok(), ..message() };
    assert_eq!(answer(both, OWN, 7), Answer::Nothing);
    assert!(codec::decode::<DeviceCommand>(b"\x01", 100).is_err());
}

#[test]
fn inputs_are_added_behind_the_known_ones_once_each_and_64_at_most() {
    let names = |list: &[&str]| list.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
    assert_eq!(new_inputs(&names(&["b", "a", "b"]), &names(&["a"])), ["b"]);
    let many: Vec<String> = (0..100).map(|n| format!("in{n}")).collect();
    assert_eq!(new_inputs(&many, &names(&["x"])).len(), MOST_INPUTS - 1);
}

#[test]
fn a_show_starts_when_it_is_seen_live_and_ends_only_when_it_is_seen_idle() {
    let kind = |before, now| show_event(before, now, 0).map(|event| event.kind);
    assert_eq!(kind(None, Some(true)).as_deref(), Some(event::SHOW_STARTED));
    assert_eq!(kind(Some(false), Some(true)).as_deref(), Some(event::SHOW_STARTED));
    assert_eq!(kind(Some(true), Some(false)).as_deref(), Some(event::SHOW_ENDED));
    for (before, now) in [(None, None), (None, Some(false)), (Some(true), None), (Some(true), Some(true))] {
        assert_eq!(kind(before, now), None);
    }
}
