#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;

use proptest::collection::vec;
use proptest::prelude::*;

use protocol::command::CommandType;
use serde_json::json;

use super::*;
use crate::domain::{command::Order, org::OrgId};

const STATE: StateId = StateId([7; 8]);
const MINUTE: i64 = 60_000;

fn row(n: usize) -> DeviceRowId {
    DeviceRowId::new(format!("d{n}"))
}

fn member(n: usize) -> Member {
    Member { device: row(n), online: true, busy: false, born_at: Some(10), doubt: None }
}

/// Of a device with these commands, after a restore at 50 and a heartbeat of this time that names `told`.
fn doubt(
    open: &[Command],
    unknown: &[(&str, CommandState)],
    at: i64,
    told: &[(&str, CommandState)],
) -> Doubt {
    let ids = |all: &[(&str, CommandState)]| -> Vec<(CommandId, CommandState)> {
        all.iter().map(|(id, state)| (id.parse().unwrap(), *state)).collect()
    };
    let told = ids(told);
    let digest = open_digest(told.iter().map(|(id, state)| (id, *state))).to_vec();
    Doubt::new(50, true, Some((at, digest)), STATE, open, &ids(unknown))
}

fn doubted(doubt: Doubt) -> Group {
    let mut group = group();
    group.members[1] = Member { born_at: Some(60), doubt: Some(doubt), ..member(1) };
    group
}

fn group() -> Group {
    Group { members: vec![member(0), member(1), member(2)], ..Group::default() }
}

fn ask(n: usize, command: &str, nonce: u8) -> Ask {
    Ask { device: row(n), command: command.parse().unwrap(), nonce: vec![nonce; 16], asked_at: 1000 }
}

fn held_by(n: usize, command: &str, nonce: u8) -> Group {
    let holder = Holder {
        device: row(n),
        command: command.parse().unwrap(),
        nonce: vec![nonce; 16],
        granted_at: 900,
        ended: false,
        online: true,
    };
    Group { revision: 1, holder: Some(holder), ..group() }
}

fn waits(group: &Group, ask: &Ask, now: i64) -> bool {
    matches!(answer(group, ask, now), Answer::Wait(_))
}

#[test]
fn a_free_group_gives_its_lease_to_a_fresh_ask_alone() {
    assert_eq!(answer(&group(), &ask(0, "a", 1), 1000), Answer::Grant);
    assert_eq!(answer(&group(), &ask(0, "a", 1), 999 + MINUTE), Answer::Grant);
    assert!(waits(&group(), &ask(0, "a", 1), 1000 + MINUTE), "too late");
    assert!(waits(&group(), &ask(0, "a", 1), 999), "the clock went back");
}

#[test]
fn the_lease_stays_until_its_command_has_ended_and_its_device_is_back() {
    let mut group = held_by(0, "a", 1);
    assert!(waits(&group, &ask(1, "b", 2), 1000));
    group.holder.as_mut().unwrap().ended = true;
    assert_eq!(answer(&group, &ask(1, "b", 2), 1000), Answer::Grant);
    group.holder.as_mut().unwrap().online = false;
    assert!(waits(&group, &ask(1, "b", 2), 1000));
    // Also if it has left the group.
    group.members.remove(0);
    assert!(waits(&group, &ask(1, "b", 2), 1000));
}

#[test]
fn the_holder_hears_go_again_and_may_ask_anew_but_not_for_another_command() {
    let mut group = held_by(0, "a", 1);
    assert_eq!(answer(&group, &ask(0, "a", 1), 1000), Answer::Repeat);
    assert_eq!(answer(&group, &ask(0, "a", 2), 1000), Answer::Grant);
    assert!(waits(&group, &ask(0, "b", 2), 1000), "the first may be running");
    group.holder.as_mut().unwrap().ended = true;
    assert_eq!(answer(&group, &ask(0, "b", 2), 1000), Answer::Grant);
}

#[test]
fn none_is_given_while_a_partner_is_offline() {
    let mut group = group();
    group.members[1].online = false;
    assert!(waits(&group, &ask(0, "a", 1), 1000));
    assert_eq!(answer(&group, &ask(1, "a", 1), 1000), Answer::Grant, "it asks, so it is there");
}

const LATER: i64 = 60 + MINUTE;

#[test]
fn after_a_restore_none_is_given_until_a_minute_after_its_birth_every_member_has_shown_that_all_is_known() {
    let in_order = doubt(&[], &[], LATER, &[]);
    assert_eq!(answer(&doubted(in_order.clone()), &ask(0, "a", 1), 1000), Answer::Grant);
    // The one that asks is no exception: another of its commands may be at work.
    assert_eq!(answer(&doubted(in_order.clone()), &ask(1, "a", 1), 1000), Answer::Grant);
    let too_early = doubt(&[], &[], LATER - 1, &[]);
    for asking in [0, 1] {
        assert!(waits(&doubted(too_early.clone()), &ask(asking, "a", 1), 1000));
    }
    let silent = Doubt { heartbeat: None, ..in_order.clone() };
    let unaware = Doubt { knows_group: false, ..in_order.clone() };
    for doubt in [silent, unaware] {
        assert!(waits(&doubted(doubt), &ask(0, "a", 1), 1000));
    }
    let mut group = doubted(in_order);
    for born_at in [None, Some(50)] {
        group.members[1].born_at = born_at;
        assert!(waits(&group, &ask(0, "a", 1), 1000), "{born_at:?}");
    }
}

#[test]
fn a_command_that_the_restored_server_does_not_know_keeps_the_lease_until_it_has_ended_or_is_known_to_be_held()
 {
    let (held, running) = (CommandState::Held, CommandState::Running);
    let shown = |unknown: &[(&str, CommandState)], told: &[(&str, CommandState)]| {
        answer(&doubted(doubt(&[], unknown, LATER, told)), &ask(0, "a", 1), 1000)
    };
    assert!(matches!(shown(&[], &[("z", running)]), Answer::Wait(_)), "nothing was heard of it yet");
    assert!(matches!(shown(&[], &[("z", held)]), Answer::Wait(_)));
    assert!(matches!(shown(&[("z", held)], &[("z", running)]), Answer::Wait(_)), "its report is on its way");
    assert!(matches!(shown(&[("z", running)], &[("z", running)]), Answer::Wait(_)));
    assert_eq!(shown(&[("z", held)], &[("z", held)]), Answer::Grant, "without a lease it does not begin");
    assert_eq!(shown(&[], &[]), Answer::Grant, "it has ended");
}

#[test]
fn a_command_that_went_on_after_the_copy_was_made_keeps_the_lease_until_the_server_knows_how_it_stands() {
    let command = |state| {
        let mut command = Command::new(Order {
            id: "x".parse().unwrap(),
            org_id: OrgId::new("org".to_owned()),
            device_id: row(1),
            device: "cam-1".parse().unwrap(),
            kind: CommandType::Reboot,
            payload: json!({}),
            priority: 5,
            timeout_seconds: 120,
            notes: None,
            created_by: "user:a@b.c".to_owned(),
            created_by_name: None,
            created_at: 1,
            expires_at: 9_000_000,
            reference: None,
            request_hash: String::new(),
        });
        command.sent_state_id = Some(STATE);
        command.standing.state = state;
        command
    };
    for state in [CommandState::Pending, CommandState::Sent, CommandState::Acked, CommandState::Held] {
        let open = [command(state)];
        let runs = doubt(&open, &[], LATER, &[("x", CommandState::Running)]);
        assert!(waits(&doubted(runs), &ask(0, "a", 1), 1000), "{state}");
    }
    let open = [command(CommandState::Held)];
    let stands = doubt(&open, &[], LATER, &[("x", CommandState::Held)]);
    assert_eq!(answer(&doubted(stands), &ask(0, "a", 1), 1000), Answer::Grant);
}

/// A member with its commands, as it is; the server knows only what was reported.
#[derive(Debug, Default, Clone)]
struct Device {
    online: bool,
    command: usize,
    /// Its last nonce and when it was made.
    nonce: Option<(u8, i64)>,
    running: bool,
    /// What the server has been told.
    reported: Reported,
}

#[derive(Debug, Default, Clone)]
struct Reported {
    ask: Option<(usize, u8, i64)>,
    ended: BTreeMap<usize, bool>,
}

#[derive(Debug, Clone, Copy)]
enum Event {
    Pass(i64),
    Asks(usize),
    Reports(usize),
    ServerLooks(usize),
    GoArrives(usize),
    Ends(usize),
    Connects(usize, bool),
}

fn events() -> impl Strategy<Value = Vec<Event>> {
    let device = 0..3usize;
    let event = prop_oneof![
        2 => (1..40i64).prop_map(|seconds| Event::Pass(seconds * 1000)),
        3 => device.clone().prop_map(Event::Asks),
        4 => device.clone().prop_map(Event::Reports),
        4 => device.clone().prop_map(Event::ServerLooks),
        4 => device.clone().prop_map(Event::GoArrives),
        2 => device.clone().prop_map(Event::Ends),
        2 => (device, prop::bool::weighted(0.7)).prop_map(|(n, online)| Event::Connects(n, online)),
    ];
    vec(event, 0..200)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(3000))]

    #[test]
    fn never_are_two_members_disrupted_at_once_whatever_comes_late_or_twice(events in events()) {
        let mut now = 1000;
        let mut devices = vec![Device { online: true, ..Device::default() }; 3];
        let mut holder: Option<(usize, usize, u8)> = None;
        // Every `go` ever said; each may arrive at any time, and any number of times.
        let mut said: Vec<(usize, usize, u8)> = Vec::new();
        let mut nonces = 0u8;
        let mut granted = 0;
        for event in events {
            match event {
                Event::Pass(ms) => now += ms,
                Event::Asks(n) if !devices[n].running => {
                    nonces = nonces.wrapping_add(1);
                    devices[n].nonce = Some((nonces, now));
                }
                Event::Reports(n) if devices[n].online => {
                    let device = &mut devices[n];
                    device.reported.ask = device
                        .nonce
                        .filter(|_| !device.running)
                        .map(|(nonce, _)| (device.command, nonce, now));
                    for old in 0..device.command {
                        device.reported.ended.insert(old, true);
                    }
                }
                Event::ServerLooks(n) if devices[n].online => {
                    let Some((command, nonce, asked_at)) = devices[n].reported.ask else { continue };
                    let group = Group {
                        revision: 1,
                        holder: holder.map(|(device, command, nonce)| Holder {
                            device: row(device),
                            command: format!("{device}-{command}").parse().unwrap(),
                            nonce: vec![nonce],
                            granted_at: 0,
                            ended: devices[device].reported.ended.contains_key(&command),
                            online: devices[device].online,
                        }),
                        members: (0..3)
                            .map(|n| Member { online: devices[n].online, ..member(n) })
                            .collect(),
                    };
                    let id = format!("{n}-{command}").parse().unwrap();
                    let ask = Ask { device: row(n), command: id, nonce: vec![nonce], asked_at };
                    match answer(&group, &ask, now) {
                        Answer::Grant => {
                            prop_assert!((0..3).all(|other| other == n || devices[other].online));
                            holder = Some((n, command, nonce));
                            said.push((n, command, nonce));
                            granted += 1;
                        }
                        Answer::Repeat => said.push((n, command, nonce)),
                        Answer::Wait(_) => {}
                    }
                }
                Event::GoArrives(n) => {
                    for (_, command, nonce) in said.iter().filter(|(to, ..)| *to == n) {
                        let device = &mut devices[n];
                        if let Some((own, made_at)) = device.nonce
                            && own == *nonce
                            && device.command == *command
                            && now - made_at < MINUTE
                        {
                            device.running = true;
                            device.nonce = None;
                        }
                    }
                }
                Event::Ends(n) if devices[n].running => {
                    devices[n].running = false;
                    devices[n].command += 1;
                }
                Event::Connects(n, online) => devices[n].online = online,
                _ => {}
            }
            prop_assert!(devices.iter().filter(|device| device.running).count() <= 1);
        }
        prop_assert!(granted < 200);
    }
}
