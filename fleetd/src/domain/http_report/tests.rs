#![allow(clippy::unwrap_used)]

use protocol::command::CommandType;
use serde_json::json;

use super::super::http_hold::{give_up, hand_out, tests::command};
use super::*;

const NOW: i64 = 1_766_916_000_000;

fn report(body: Value) -> HttpReport {
    HttpReport::read(body).unwrap()
}

fn told(status: &str) -> HttpReport {
    report(json!({"status": status}))
}

fn sent() -> Command {
    let mut command = command(CommandType::Reboot, json!({}));
    hand_out(&mut command, NOW).unwrap();
    command
}

/// The statuses one after another, and what became of each.
fn run(command: &mut Command, statuses: &[&str]) -> Vec<&'static str> {
    statuses
        .iter()
        .map(|status| match told(status).take(command, NOW) {
            Heeded::Moved(_) => "moved",
            Heeded::Known => "known",
            Heeded::Refused(_) => "refused",
        })
        .collect()
}

#[test]
fn a_command_goes_from_sent_over_acked_to_its_end_without_running() {
    let mut command = sent();
    assert_eq!(run(&mut command, &["acked", "completed"]), ["moved", "moved"]);
    assert_eq!(command.standing.report_seq, 2);
    assert_eq!((command.acked_at, command.completed_at), (Some(NOW), Some(NOW)));
    assert_eq!(run(&mut sent(), &["acked", "running", "failed"]), ["moved", "moved", "moved"]);
    assert_eq!(run(&mut sent(), &["completed"]), ["moved"]);
}

#[test]
fn repeating_what_is_known_is_no_error() {
    let mut command = sent();
    let all = ["acked", "acked", "running", "acked", "completed", "completed", "acked", "running"];
    let heard = run(&mut command, &all);
    assert_eq!(heard, ["moved", "known", "moved", "known", "moved", "known", "known", "known"]);
    assert_eq!(command.state(), CommandState::Completed);
}

#[test]
fn going_back_or_ending_otherwise_is_refused() {
    assert_eq!(run(&mut sent(), &["completed", "failed"]), ["moved", "refused"]);
    assert_eq!(run(&mut sent(), &["failed", "completed"]), ["moved", "refused"]);
    assert_eq!(run(&mut sent(), &["completed", "running"]), ["moved", "refused"]);
    assert_eq!(run(&mut sent(), &["completed", "acked"]), ["moved", "refused"], "it never was acknowledged");
}

#[test]
fn an_inferred_end_gives_way_once_to_the_devices_own() {
    let mut command = sent();
    give_up(&mut command, "silence", NOW).unwrap();
    assert_eq!(run(&mut command, &["acked"]), ["refused"], "it was given up: it is not begun now");
    assert_eq!(run(&mut command, &["failed", "completed"]), ["moved", "refused"]);
    assert!(!command.standing.inferred);
    assert_eq!((command.state(), command.reason), (CommandState::Failed, None));
}

#[test]
fn only_what_was_handed_out_here_is_reported_here() {
    let mut pending = command(CommandType::Ping, json!({}));
    assert_eq!(run(&mut pending, &["acked"]), ["refused"]);
    let mut elsewhere = sent();
    elsewhere.bound = Some(Path::Mqtt);
    assert_eq!(run(&mut elsewhere, &["acked"]), ["refused"]);
}

#[test]
fn result_and_error_are_kept() {
    let mut command = sent();
    let body = json!({"status": "failed", "result": {"code": 3}, "error": "it did not come up"});
    let Heeded::Moved(step) = report(body).take(&mut command, NOW) else { panic!() };
    assert_eq!(step.detail.as_deref(), Some("it did not come up"));
    assert_eq!(command.result, Some(json!({"code": 3})));
    assert_eq!(command.error.as_deref(), Some("it did not come up"));
}

#[test]
fn what_an_old_agent_sends_along_is_taken_and_what_nobody_knows_is_not() {
    for good in [
        json!({"status": "acked", "result": null, "error": null}),
        json!({"status": "completed", "result": "done", "error": ""}),
        json!({"status": "completed", "result": [1, 2]}),
    ] {
        assert!(HttpReport::read(good.clone()).is_ok(), "{good}");
    }
    for (bad, field) in [
        (json!({}), "status"),
        (json!({"status": "done"}), "status"),
        (json!({"status": "pending"}), "status"),
        (json!({"status": "sent"}), "status"),
        (json!({"status": 5}), "status"),
        (json!({"status": "acked", "colour": "blue"}), "colour"),
        (json!({"status": "acked", "error": 5}), "error"),
        (json!({"status": "acked", "error": "x".repeat(5000)}), "error"),
        (json!({"status": "acked", "result": "x".repeat(RESULT_MAX_LEN)}), "result"),
    ] {
        assert_eq!(HttpReport::read(bad).unwrap_err()[0].field, field);
    }
}

#[test]
fn after_a_restore_the_word_of_a_device_counts_though_the_server_knows_of_no_handing_out() {
    let mut command = command(CommandType::Reboot, json!({}));
    assert_eq!(run(&mut command.clone(), &["completed"]), ["refused"]);
    command.query_first = true;
    assert_eq!(run(&mut command, &["acked", "completed"]), ["moved", "moved"]);
    assert_eq!((command.bound, command.query_first), (Some(Path::Http), false));
}
