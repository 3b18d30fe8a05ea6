//! Single rules, each with its own case.

use protocol::command::CommandState;
use protocol::message::{Command, DeviceCommand, Override};
use serde_json::json;

use super::world::{Op, World, command, id, message};
use crate::app_status::Liveness;
use crate::command::clock::TrustedClock;
use crate::command::{Heard, MOST_OPEN};

fn run(world: &mut World, command: Command) -> Option<Heard> {
    world.hear(DeviceCommand { command: Some(command), ..message() })
}

fn state(world: &World, n: u8) -> CommandState {
    world.disk[&id(n)].state
}

fn reason(world: &World, n: u8) -> &str {
    world.disk[&id(n)].report.reason.as_deref().unwrap_or_default()
}

/// Lets everything that is under way end, again and again.
fn go_on(world: &mut World) {
    for _ in 0..8 {
        world.apply(Op::Turn(None));
        (0..4).for_each(|_| world.apply(Op::Job(0)));
    }
}

#[test]
fn what_cannot_run_is_rejected_with_the_reason_and_never_again_looked_at() {
    let cases = [
        (Command { kind: "dance".into(), ..command(2) }, "not supported by this agent version"),
        (Command { kind: "update".into(), ..command(2) }, "not supported by this agent version"),
        (Command { kind: "bundle".into(), ..command(2) }, "not supported by this agent version"),
        (Command { payload: json!({"x": 1}), ..command(2) }, "payload.x: is not known; ping takes nothing"),
        (Command { payload: json!([]), ..command(2) }, "payload: must be an object"),
        (Command { payload: json!({"service": 7}), ..command(0) }, "payload.service: must be text"),
        (Command { priority: 0, ..command(2) }, "priority: must be from 1 to 10"),
        (Command { timeout_seconds: 0, ..command(2) }, "timeout_seconds: must be from 1"),
    ];
    for (bad, expected) in cases {
        let (mut world, n) = (World::new(), if bad.id == id(0) { 0 } else { 2 });
        run(&mut world, bad);
        assert_eq!(state(&world, n), CommandState::Rejected);
        assert!(reason(&world, n).starts_with(expected), "{}", reason(&world, n));
        go_on(&mut world);
        run(&mut world, command(n));
        go_on(&mut world);
        assert!(world.effects.is_empty(), "a copy in order comes too late");
    }
}

#[test]
fn a_command_for_an_earlier_state_is_rejected_and_a_cancel_for_it_ignored() {
    let mut world = World::new();
    world.apply(Op::RunForAnotherState(0));
    assert_eq!(reason(&world, 0), "meant for an earlier state of this device");
    let state_id = protocol::id::StateId([2; 8]);
    let heard = world.hear(DeviceCommand { state_id, cancel: Some(id(1)), ..message() });
    assert!(matches!(heard, Some(Heard::Nothing(_))));
    assert!(!world.disk.contains_key(&id(1)));
}

#[test]
fn a_cancel_wins_before_the_effect_and_never_after() {
    let mut world = World::new();
    world.app = Liveness::Live;
    world.apply(Op::Run(0));
    go_on(&mut world);
    assert_eq!((state(&world, 0), reason(&world, 0)), (CommandState::Held, "live: seen"));
    world.apply(Op::Cancel(0));
    assert_eq!(state(&world, 0), CommandState::Cancelled);

    // The second: cancelled while its effect runs.
    world.app = Liveness::Idle;
    world.apply(Op::Run(3));
    world.apply(Op::Desired(1));
    while !world.effects.contains_key(&id(3)) {
        world.apply(Op::Turn(None));
        if !world.effects.contains_key(&id(3)) {
            world.apply(Op::Job(0));
        }
    }
    world.apply(Op::Cancel(3));
    assert_eq!(state(&world, 3), CommandState::Running);
    go_on(&mut world);
    assert_eq!(state(&world, 3), CommandState::Completed);
}

#[test]
fn a_cancel_for_an_unknown_id_keeps_a_later_copy_from_running() {
    let mut world = World::new();
    world.apply(Op::Cancel(2));
    world.apply(Op::Run(2));
    go_on(&mut world);
    assert_eq!(state(&world, 2), CommandState::Cancelled);
    assert!(world.effects.is_empty());
    assert_eq!(world.records.len(), 1, "while the first report is not delivered it is not repeated");
    world.apply(Op::Delivered);
    world.apply(Op::Query(2));
    assert_eq!(world.records.len(), 2);
    assert_eq!(world.records[0], world.records[1]);
}

#[test]
fn a_held_command_holds_back_no_other_and_the_more_urgent_goes_first() {
    let mut world = World::new();
    world.apply(Op::Run(1)); // Needs version 1 of what is wanted, and waits 20 s.
    world.apply(Op::Run(3)); // As well, without waiting.
    world.apply(Op::Run(0));
    go_on(&mut world);
    assert_eq!(state(&world, 0), CommandState::Completed);
    assert!(reason(&world, 3).starts_with("awaiting_desired: the device has version 0"));
    assert_eq!(state(&world, 1), CommandState::Acked, "its delay is not over");
    world.apply(Op::Time(20_000));
    world.apply(Op::Desired(1));
    world.apply(Op::Turn(None));
    // 1 has priority 4, 3 has 5.
    while world.effects.len() < 2 {
        world.apply(Op::Job(0));
        world.apply(Op::Turn(None));
    }
    assert!(world.effects.contains_key(&id(1)) && !world.effects.contains_key(&id(3)));
}

#[test]
fn a_show_that_begins_between_the_checks_holds_the_command_and_nothing_happens() {
    let mut world = World::new();
    world.apply(Op::Run(0));
    world.apply(Op::Turn(None));
    world.apply(Op::Job(0));
    world.apply(Op::Turn(None));
    assert_eq!(state(&world, 0), CommandState::Running);
    world.app = Liveness::Live;
    world.apply(Op::Job(0));
    world.apply(Op::Turn(None));
    assert_eq!(state(&world, 0), CommandState::Held);
    assert!(world.effects.is_empty());
    world.app = Liveness::Idle;
    go_on(&mut world);
    assert_eq!((state(&world, 0), world.effects[&id(0)]), (CommandState::Completed, 1));
}

#[test]
fn a_look_that_never_comes_back_counts_as_unknown() {
    let mut world = World::new();
    world.apply(Op::Run(0));
    world.apply(Op::Turn(None));
    world.apply(Op::Job(0));
    world.apply(Op::Turn(None));
    world.apply(Op::Time(20_000));
    world.apply(Op::Turn(None));
    assert_eq!(state(&world, 0), CommandState::Held);
    assert!(reason(&world, 0).starts_with("app_status_unknown: the application could not be looked at"));
}

#[test]
fn an_override_passes_live_unknown_and_lock_but_not_the_clock_the_desired_or_the_lease() {
    for (app, lock) in [(1, false), (2, false), (0, true)] {
        let mut world = World::new();
        world.apply(Op::App(app));
        world.apply(Op::Lock(lock));
        world.apply(Op::Run(0));
        go_on(&mut world);
        assert_eq!(state(&world, 0), CommandState::Held);
        world.apply(Op::Override(0));
        go_on(&mut world);
        assert_eq!(state(&world, 0), CommandState::Completed, "{app} {lock}");
    }
    for (op, word) in [(Op::Trust(false), "clock_unconfirmed"), (Op::Group(true), "awaiting_lease")] {
        let mut world = World::new();
        world.apply(op);
        let given_at_once = Command { override_show: Some("it must".to_owned()), ..command(0) };
        run(&mut world, given_at_once);
        go_on(&mut world);
        assert_eq!(state(&world, 0), CommandState::Held);
        assert!(reason(&world, 0).starts_with(word), "{}", reason(&world, 0));
    }
    let mut world = World::new();
    world.apply(Op::Run(3));
    world.apply(Op::Override(3));
    go_on(&mut world);
    assert!(reason(&world, 3).starts_with("awaiting_desired"));
}

#[test]
fn an_override_for_what_does_not_wait_changes_nothing() {
    let mut world = World::new();
    let order = Override { id: id(0), reason: "now".to_owned() };
    let heard = world.hear(DeviceCommand { override_show: Some(order), ..message() });
    assert!(matches!(heard, Some(Heard::Nothing(_))));
}

#[test]
fn a_command_that_expires_while_it_is_held_is_expired_and_only_by_a_confirmed_clock() {
    let mut world = World::new();
    world.app = Liveness::Live;
    world.apply(Op::Run(0));
    go_on(&mut world);
    world.apply(Op::Trust(false));
    world.apply(Op::Time(1_100_000));
    go_on(&mut world);
    assert_eq!(state(&world, 0), CommandState::Held);
    world.apply(Op::Trust(true));
    go_on(&mut world);
    assert_eq!(state(&world, 0), CommandState::Expired);
    world.app = Liveness::Idle;
    go_on(&mut world);
    assert!(world.effects.is_empty());
}

#[test]
fn a_safe_command_runs_whatever_the_clock_and_the_show() {
    let mut world = World::new();
    world.apply(Op::Trust(false));
    world.app = Liveness::Live;
    world.apply(Op::Run(2));
    world.apply(Op::Run(4));
    go_on(&mut world);
    assert_eq!((state(&world, 2), state(&world, 4)), (CommandState::Completed, CommandState::Completed));
}

#[test]
fn a_lease_is_good_for_60_s_from_the_asking_and_asked_for_again_with_another_nonce() {
    let mut world = World::new();
    world.apply(Op::Group(true));
    world.apply(Op::Connected(false));
    world.apply(Op::Run(0));
    go_on(&mut world);
    assert!(world.records.iter().all(|report| report.nonce.is_none()), "nobody is there to be asked");
    world.apply(Op::Connected(true));
    world.apply(Op::Delivered);
    go_on(&mut world);
    let first = world.records.last().unwrap().nonce.clone().unwrap();
    world.apply(Op::Time(60_000));
    world.apply(Op::Go(0));
    go_on(&mut world);
    assert!(world.effects.is_empty(), "it came too late");
    world.apply(Op::Delivered);
    go_on(&mut world);
    let second = world.records.last().unwrap().nonce.clone().unwrap();
    assert_ne!(first, second);
    world.apply(Op::Go(0));
    go_on(&mut world);
    assert_eq!(state(&world, 0), CommandState::Completed);
}

#[test]
fn while_a_report_is_not_delivered_no_other_reason_is_reported() {
    let mut world = World::new();
    world.app = Liveness::Live;
    world.apply(Op::Run(0));
    go_on(&mut world);
    let reports = world.records.len();
    for app in [2, 1, 2, 1, 2] {
        world.apply(Op::App(app));
        go_on(&mut world);
    }
    assert_eq!(world.records.len(), reports);
    world.apply(Op::Delivered);
    go_on(&mut world);
    assert!(world.records.last().unwrap().reason.as_deref().unwrap().starts_with("app_status_unknown"));
}

#[test]
fn more_open_commands_than_a_device_can_keep_are_rejected_or_left_for_later() {
    let with = |n: usize, of: u8| Command { id: format!("x{n}").parse().unwrap(), ..command(of) };
    for (of, rejected) in [(0, true), (2, false)] {
        let mut world = World::new();
        world.app = Liveness::Live;
        for n in 0..=MOST_OPEN {
            run(&mut world, with(n, of));
        }
        let last = world.disk.get(&with(MOST_OPEN, of).id);
        assert_eq!(last.map(|entry| entry.state), rejected.then_some(CommandState::Rejected), "{of}");
    }
}

#[test]
fn an_older_copy_of_the_state_gives_its_open_commands_up() {
    let mut world = World::new();
    world.app = Liveness::Live;
    world.apply(Op::Run(0));
    world.apply(Op::Run(2));
    go_on(&mut world);
    let writes = world.commands.given_up(0);
    assert_eq!(writes.len(), 1);
    assert_eq!(writes[0].entry.state, CommandState::Indeterminate);
}

#[test]
fn what_waited_before_a_restart_begins_only_when_a_server_has_recognised_the_state() {
    let mut world = World::new();
    world.apply(Op::Run(2));
    world.apply(Op::Connected(false));
    world.apply(Op::Crash(false));
    go_on(&mut world);
    assert!(world.effects.is_empty());
    let why = world.with(|commands, facts| commands.describe(facts))[0].held_reason.clone().unwrap();
    assert!(why.starts_with("server: it has not answered"), "{why}");
    world.apply(Op::Connected(true));
    go_on(&mut world);
    assert_eq!(state(&world, 2), CommandState::Completed);
}

#[test]
fn a_command_heard_before_the_server_has_recognised_the_state_waits_for_that() {
    // The folder may be a copy from before the command, whose effect was done and which the server says again.
    let mut world = World::new();
    world.apply(Op::Connected(false));
    world.apply(Op::Crash(false));
    world.apply(Op::Run(2));
    go_on(&mut world);
    assert_eq!((state(&world, 2), world.effects.len()), (CommandState::Acked, 0));
    assert_eq!(world.commands.given_up(0).len(), 1, "an older copy gives it up");
    world.apply(Op::Connected(true));
    go_on(&mut world);
    assert_eq!(state(&world, 2), CommandState::Completed);
}

#[test]
fn what_an_older_copy_could_get_wrong_is_not_said_before_the_server_has_recognised_the_state() {
    // What waits in this copy, or is unknown to it, may have been done since the copy was made.
    let mut world = World::new();
    world.app = Liveness::Live;
    world.apply(Op::Run(0));
    world.apply(Op::Connected(false));
    world.apply(Op::Crash(false));
    let said = world.records.len();
    world.apply(Op::Cancel(0));
    world.apply(Op::Cancel(1));
    let unknown =
        DeviceCommand { command: Some(Command { kind: "dance".to_owned(), ..command(2) }), ..message() };
    world.hear(unknown.clone());
    world.apply(Op::Time(40 * 86_400_000));
    go_on(&mut world);
    assert_eq!((world.records.len(), world.disk.len()), (said, 1), "not expired, cancelled or rejected");
    world.apply(Op::Connected(true));
    world.apply(Op::Cancel(1));
    world.hear(unknown);
    go_on(&mut world);
    assert_eq!(
        [0, 1, 2].map(|n| state(&world, n)),
        [CommandState::Expired, CommandState::Cancelled, CommandState::Rejected]
    );
}

#[test]
fn the_digest_is_of_the_open_commands_and_their_states() {
    let mut world = World::new();
    let empty = world.commands.digest();
    world.app = Liveness::Live;
    world.apply(Op::Run(0));
    let acked = world.commands.digest();
    go_on(&mut world);
    let held = world.commands.digest();
    assert!(empty != acked && acked != held);
    world.apply(Op::Cancel(0));
    assert_eq!(world.commands.digest(), empty);
}

#[test]
fn the_time_goes_on_from_what_was_confirmed_and_a_server_counts_more_than_ntp() {
    let mut clock = TrustedClock::default();
    assert_eq!(clock.now_ms(5), None);
    clock.ntp_has_set(1_000, 100);
    assert_eq!(clock.now_ms(150), Some(1_050));
    clock.server_says(9_000, 200);
    clock.ntp_has_set(1_000, 300);
    assert_eq!(clock.now_ms(300), Some(9_100));
    clock.server_says(i64::MAX, 0);
    assert_eq!(clock.now_ms(u64::MAX), Some(i64::MAX));
}

/// Until `running` is journalled and the second look is under way.
fn up_to_the_second_look(world: &mut World, n: u8) {
    for op in [Op::Run(n), Op::Turn(None), Op::Job(0), Op::Turn(None)] {
        world.apply(op);
    }
    assert_eq!(state(world, n), CommandState::Running);
    assert!(world.effects.is_empty());
}

#[test]
fn an_override_that_comes_between_the_checks_counts_for_the_second() {
    let mut world = World::new();
    up_to_the_second_look(&mut world, 0);
    world.app = Liveness::Live;
    world.apply(Op::Override(0));
    go_on(&mut world);
    assert_eq!((state(&world, 0), world.effects[&id(0)]), (CommandState::Completed, 1));

    // After that there is nothing to pass any more.
    let mut world = World::new();
    up_to_the_second_look(&mut world, 0);
    world.apply(Op::Job(0));
    world.apply(Op::Turn(None));
    assert_eq!(world.effects[&id(0)], 1);
    let order = Override { id: id(0), reason: "now".to_owned() };
    let heard = world.hear(DeviceCommand { override_show: Some(order), ..message() });
    assert!(matches!(heard, Some(Heard::Nothing(_))));
}

#[test]
fn a_lease_of_one_group_is_none_of_another() {
    let mut world = World::new();
    world.apply(Op::Group(true));
    world.app = Liveness::Idle;
    world.apply(Op::Run(0));
    world.apply(Op::Turn(None));
    world.wanted.redundancy_group = Some("another".to_owned());
    world.apply(Op::Go(0));
    go_on(&mut world);
    assert!(world.effects.is_empty(), "its partners have not been asked");
    world.apply(Op::Delivered);
    world.apply(Op::Turn(None));
    world.apply(Op::Go(0));
    go_on(&mut world);
    assert_eq!(state(&world, 0), CommandState::Completed);
}

#[test]
fn only_one_preparation_counts() {
    let mut world = World::new();
    world.apply(Op::Run(0));
    world.apply(Op::Turn(None));
    assert!(world.commands.prepared(&id(0), Ok("{}".to_owned())));
    assert!(
        !world.commands.prepared(&id(0), Ok("{\"another\":1}".to_owned())),
        "of before the state was reopened"
    );
    assert!(!world.commands.prepared(&id(3), Ok("{}".to_owned())));
}

#[test]
fn a_cancel_for_an_unknown_id_is_not_forgotten_because_the_clock_was_wrong() {
    let mut world = World::new();
    world.apply(Op::Trust(false));
    world.apply(Op::Cancel(2));
    assert_eq!(world.disk[&id(2)].kept_until_ms, i64::MAX);
    world.apply(Op::Trust(true));
    world.apply(Op::Cancel(0));
    assert_eq!(world.disk[&id(0)].kept_until_ms, 1_000_000 + 60 * 24 * 3_600_000);
}

#[test]
fn a_restart_of_the_agent_itself_is_not_held_and_waits_for_a_script_that_runs() {
    let own = Command { payload: json!({"service": "r58-fleet-agent"}), ..command(0) };
    let mut world = World::new();
    world.apply(Op::Desired(1));
    world.apply(Op::Run(3));
    while !world.effects.contains_key(&id(3)) {
        world.apply(Op::Turn(None));
        if !world.effects.contains_key(&id(3)) {
            world.apply(Op::Job(0));
        }
    }
    run(&mut world, own.clone());
    world.apply(Op::Turn(None));
    assert_eq!((state(&world, 3), state(&world, 0)), (CommandState::Running, CommandState::Acked));
    go_on(&mut world);
    assert_eq!((state(&world, 3), state(&world, 0)), (CommandState::Completed, CommandState::Completed));

    let mut world = World::new();
    world.app = Liveness::Live;
    world.apply(Op::Lock(true));
    world.apply(Op::Group(true));
    run(&mut world, own);
    go_on(&mut world);
    assert_eq!(state(&world, 0), CommandState::Completed);
}
