#![allow(clippy::unwrap_used)]

use serde_json::{Value, json};

use super::*;
use crate::domain::command::{Order, Overridden};
use crate::domain::device::DeviceRowId;
use crate::domain::org::OrgId;

const NOW: i64 = 1_766_916_000_000;
const HOUR: i64 = 3_600_000;

/// A command as it was created an hour ago, good for two more.
pub(in crate::domain) fn command(kind: CommandType, payload: Value) -> Command {
    Command::new(Order {
        id: "7b0c2b1e-0000-4000-8000-000000000001".parse().unwrap(),
        org_id: OrgId::new("o".into()),
        device_id: DeviceRowId::new("d".into()),
        device: "old-1".parse().unwrap(),
        kind,
        payload,
        priority: 5,
        timeout_seconds: 120,
        notes: None,
        created_by: "user:ada@example.org".into(),
        created_by_name: Some("ada".into()),
        created_at: NOW - HOUR,
        expires_at: NOW + 2 * HOUR,
        reference: None,
        request_hash: String::new(),
    })
}

fn restart() -> Command {
    command(CommandType::RestartService, json!({"service": "r58-api"}))
}

fn ping() -> Command {
    command(CommandType::Ping, json!({}))
}

fn handed_out(mut command: Command) -> Command {
    assert_eq!(hand_out(&mut command, NOW).unwrap().status, CommandState::Sent);
    command
}

fn idle() -> Polling {
    Polling { now: NOW, live: false, last_heartbeat: Some(NOW - 30_000), locked: false }
}

fn overridden(mut command: Command) -> Command {
    let (reason, by) = ("the show is over".to_owned(), "user:ada@example.org".to_owned());
    command.overridden = Some(Overridden { reason, by, at: NOW });
    command
}

#[test]
fn what_is_safe_is_handed_out_whatever_goes_on() {
    let worst = Polling { live: true, last_heartbeat: None, locked: true, ..idle() };
    let own_unit = command(CommandType::RestartService, json!({"service": "r58-fleet-agent.service"}));
    for safe in [ping(), command(CommandType::Config, json!({"changes": {"A": "1"}})), own_unit] {
        assert_eq!(at_poll(&safe, &worst), Verdict::HandOut);
    }
}

#[test]
fn what_is_disruptive_waits_for_lock_show_and_silence_in_this_order() {
    let disruptive = [
        restart(),
        command(CommandType::Reboot, json!({})),
        command(CommandType::Update, json!({"version": "2"})),
        command(CommandType::Custom, json!({"script": "a"})),
        command(CommandType::Ping, json!({"what": "cannot be read"})),
    ];
    for command in disruptive {
        assert_eq!(at_poll(&command, &idle()), Verdict::AskGroup);
        let silent = Polling { last_heartbeat: Some(NOW - HEARTBEAT_MAX_AGE_MS - 1), ..idle() };
        assert_eq!(at_poll(&command, &silent), Verdict::Hold(Held::AppStatusUnknown));
        let never = Polling { last_heartbeat: None, ..idle() };
        assert_eq!(at_poll(&command, &never), Verdict::Hold(Held::AppStatusUnknown));
        let live = Polling { live: true, ..silent };
        assert_eq!(at_poll(&command, &live), Verdict::Hold(Held::Live));
        assert_eq!(at_poll(&command, &Polling { locked: true, ..live }), Verdict::Hold(Held::ShowLock));
        let worst = Polling { locked: true, live: true, last_heartbeat: None, ..idle() };
        assert_eq!(at_poll(&overridden(command), &worst), Verdict::AskGroup, "an override passes all three");
    }
}

#[test]
fn a_heartbeat_of_exactly_three_intervals_still_counts() {
    let polling = Polling { last_heartbeat: Some(NOW - HEARTBEAT_MAX_AGE_MS), ..idle() };
    assert_eq!(at_poll(&restart(), &polling), Verdict::AskGroup);
}

#[test]
fn a_reason_is_told_once_for_each_change() {
    let mut command = restart();
    let first = hold(&mut command, Held::Live, NOW).unwrap();
    assert_eq!((first.status, command.held_reason.as_deref()), (CommandState::Pending, Some("live")));
    assert_eq!(hold(&mut command, Held::Live, NOW + 1), None);
    assert!(hold(&mut command, Held::ShowLock, NOW + 2).unwrap().detail.unwrap().contains("show_lock"));
    hand_out(&mut command, NOW + 3).unwrap();
    assert_eq!((command.held_reason.as_deref(), command.bound), (None, Some(Path::Http)));
}

#[test]
fn what_was_not_acknowledged_is_offered_again_at_the_second_poll_if_repeating_is_no_harm() {
    let mut command = handed_out(ping());
    for _ in 0..3 {
        assert_eq!(at_poll(&command, &idle()), Verdict::Count);
        command.polls_since_sent += 1;
        assert_eq!(at_poll(&command, &idle()), Verdict::HandOut);
        assert_eq!(hand_out(&mut command, NOW), None, "history has one line for it");
    }
    for kind in [CommandType::Bundle, CommandType::Config] {
        let mut command = handed_out(command_of(kind));
        command.polls_since_sent = 1;
        assert_eq!(at_poll(&command, &idle()), Verdict::HandOut);
    }
}

fn command_of(kind: CommandType) -> Command {
    command(kind, json!({"changes": {"A": "1"}}))
}

#[test]
fn what_must_not_run_twice_is_given_up_at_the_second_poll() {
    for command in [restart(), command(CommandType::RotateToken, json!({}))] {
        let mut command = handed_out(command);
        assert_eq!(at_poll(&command, &idle()), Verdict::Count);
        command.polls_since_sent += 1;
        let Verdict::GiveUp(why) = at_poll(&command, &idle()) else { panic!() };
        let step = give_up(&mut command, why, NOW).unwrap();
        assert_eq!(step.status, CommandState::Indeterminate);
        assert!(command.standing.inferred && command.reason.is_some());
    }
}

#[test]
fn what_was_called_back_or_has_expired_is_not_offered_again() {
    let mut called_back = handed_out(ping());
    (called_back.polls_since_sent, called_back.cancel_requested_at) = (1, Some(NOW));
    assert!(matches!(at_poll(&called_back, &idle()), Verdict::GiveUp(_)));
    let mut late = handed_out(ping());
    late.polls_since_sent = 1;
    let polling = Polling { now: late.order.expires_at, ..idle() };
    assert!(matches!(at_poll(&late, &polling), Verdict::GiveUp(_)));
}

#[test]
fn an_expired_command_is_not_handed_out() {
    let polling = Polling { now: ping().order.expires_at, ..idle() };
    assert_eq!(at_poll(&ping(), &polling), Verdict::Leave);
}

#[test]
fn an_acknowledged_command_is_given_up_its_time_limit_after_its_expiry() {
    for state in [CommandState::Acked, CommandState::Running] {
        let mut command = handed_out(restart());
        command.standing.state = state;
        let until = command.order.expires_at + 120_000;
        assert_eq!(by_time(&command, until - 1), None);
        assert_eq!(at_poll(&command, &Polling { now: until - 1, ..idle() }), Verdict::Leave);
        assert!(by_time(&command, until).is_some());
        assert!(matches!(at_poll(&command, &Polling { now: until, ..idle() }), Verdict::GiveUp(_)));
        command.bound = Some(Path::Mqtt);
        assert_eq!(by_time(&command, until), None, "of what went by MQTT the dispatcher knows more");
    }
}

#[test]
fn a_device_that_never_polls_again_is_waited_for_for_seven_days() {
    let command = handed_out(restart());
    let until = command.order.expires_at + SILENCE_AFTER_EXPIRY_MS;
    assert_eq!(by_time(&command, until - 1), None);
    assert!(by_time(&command, until).is_some());
}

#[test]
fn what_went_by_mqtt_is_left_alone() {
    let mut command = handed_out(ping());
    (command.bound, command.polls_since_sent) = (Some(Path::Mqtt), 5);
    assert_eq!(at_poll(&command, &idle()), Verdict::Leave);
}

#[test]
fn after_a_restore_only_what_may_run_twice_is_handed_out() {
    let restored = |mut command: Command| {
        command.query_first = true;
        command
    };
    assert_eq!(at_poll(&restored(ping()), &idle()), Verdict::HandOut);
    assert_eq!(at_poll(&overridden(restored(restart())), &idle()), Verdict::Hold(Held::Restored));
}

#[test]
fn after_a_restore_what_nobody_can_be_asked_about_ends_at_its_expiry_or_when_it_is_called_back() {
    for mut command in [restart(), ping()] {
        command.query_first = true;
        let late = Polling { now: command.order.expires_at, ..idle() };
        assert!(matches!(at_poll(&command, &late), Verdict::GiveUp(_)));
        command.cancel_requested_at = Some(NOW);
        let Verdict::GiveUp(why) = at_poll(&command, &idle()) else { panic!("it is called back") };
        give_up(&mut command, why, NOW).unwrap();
        assert_eq!((command.state(), command.standing.inferred), (CommandState::Indeterminate, true));
    }
}

#[test]
fn a_device_that_was_connected_within_ten_minutes_is_not_one_that_polls() {
    assert!(!is_connected(false, true, None, NOW), "it has never given birth");
    assert!(is_connected(true, true, None, NOW));
    assert!(is_connected(true, false, Some(NOW - CONNECTION_REST_MS + 1), NOW));
    assert!(!is_connected(true, false, Some(NOW - CONNECTION_REST_MS), NOW));
    assert!(!is_connected(true, false, Some(NOW + 24 * HOUR), NOW), "the clock was wrong then");
}
