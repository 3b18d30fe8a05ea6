#![allow(clippy::unwrap_used)]

use proptest::collection::vec;
use proptest::prelude::*;
use protocol::command::standing::Standing;
use protocol::message::CommandReport;
use serde_json::json;

use super::*;
use crate::domain::{
    command::{Order, Overridden},
    device::DeviceRowId,
    org::OrgId,
    report,
};

const STATE: StateId = StateId([1; 8]);
const OTHER: StateId = StateId([2; 8]);
const DAY: i64 = 24 * 3_600_000;
const CREATED: i64 = 1_766_916_000_000;

fn command(id: &str, kind: CommandType) -> Command {
    Command::new(Order {
        id: id.parse().unwrap(),
        org_id: OrgId::new("org".to_owned()),
        device_id: DeviceRowId::new("row".to_owned()),
        device: "cam-1".parse().unwrap(),
        kind,
        payload: json!({}),
        priority: 5,
        timeout_seconds: 120,
        notes: None,
        created_by: "user:a@b.c".to_owned(),
        created_by_name: None,
        created_at: CREATED,
        expires_at: CREATED + DAY,
        reference: None,
        request_hash: String::new(),
    })
}

fn to(born_at: i64) -> Recipient {
    Recipient {
        reachable: true,
        born: Some((STATE, born_at)),
        last_seen_at: Some(born_at),
        desired_version: 3,
        reported_version: Some(3),
        digest_differs: false,
    }
}

/// A command that was sent at `CREATED` and reported as this.
fn in_state(state: CommandState) -> Command {
    let mut sent = plan(&command("c", CommandType::Ping), &[], &to(CREATED), CREATED).unwrap().command;
    if state != CommandState::Sent {
        sent.stand(Standing { state, inferred: false, report_seq: 1 }, CREATED + 10);
        sent.heard_at = Some(CREATED + 10);
    }
    sent
}

fn kinds(plan: Option<Plan>) -> Vec<&'static str> {
    let messages = plan.map(|plan| plan.messages).unwrap_or_default();
    let kind = |message: &DeviceAction| match message {
        DeviceAction::Run(_) => "run",
        DeviceAction::Cancel(_) => "cancel",
        DeviceAction::Query(_) => "query",
        DeviceAction::Override(_) => "override",
        DeviceAction::Go(_) => "go",
    };
    messages.iter().map(kind).collect()
}

#[test]
fn a_command_is_created_as_sent_only_where_the_dispatcher_would_send_it_and_nothing_has_to_be_said_before() {
    let new = command("c", CommandType::Reboot);
    let ready = to(CREATED - 5);
    let sent = at_once(&new, &ready, CREATED).unwrap();
    assert_eq!(Some(&sent), plan(&new, &[], &ready, CREATED).as_ref());
    assert_eq!((sent.command.state(), kinds(Some(sent))), (CommandState::Sent, vec!["run"]));
    let away = Recipient { reachable: false, ..ready.clone() };
    let old = Recipient { born: None, ..ready.clone() };
    let wishes = Recipient { reported_version: Some(2), ..ready.clone() };
    let never_said = Recipient { reported_version: None, ..ready.clone() };
    for to in [&away, &old, &wishes, &never_said] {
        assert_eq!(at_once(&new, to, CREATED), None, "{to:?}");
    }
    let nothing_desired = Recipient { desired_version: 0, reported_version: None, ..ready.clone() };
    assert!(at_once(&new, &nothing_desired, CREATED).is_some());
    // The clock has jumped past its end: the dispatcher says so.
    assert_eq!(at_once(&new, &ready, CREATED + DAY), None);
}

#[test]
fn a_pending_command_is_sent_only_to_a_connected_device_that_has_given_birth() {
    let pending = command("c", CommandType::Reboot);
    let away = Recipient { reachable: false, ..to(CREATED) };
    let old = Recipient { born: None, ..to(CREATED) };
    assert_eq!(plan(&pending, &[], &away, CREATED), None);
    assert_eq!(plan(&pending, &[], &old, CREATED), None);

    let plan = plan(&pending, &[], &to(CREATED - 5), CREATED).unwrap();
    assert_eq!(plan.command.state(), CommandState::Sent);
    assert_eq!(plan.step.unwrap().status, CommandState::Sent);
    assert_eq!((plan.command.sent_state_id, plan.command.bound), (Some(STATE), Some(Path::Mqtt)));
    let [DeviceAction::Run(run)] = &plan.messages[..] else { panic!("{:?}", plan.messages) };
    assert_eq!((run.desired_version, run.expires_at), (3, CREATED + DAY));
}

#[test]
fn what_was_never_sent_expires_by_the_server_and_what_was_sent_never_does() {
    let away = Recipient { reachable: false, ..to(CREATED) };
    let now = CREATED + DAY;
    let expired = plan(&command("c", CommandType::Ping), &[], &away, now).unwrap();
    assert_eq!(expired.command.state(), CommandState::Expired);
    assert!(expired.messages.is_empty());
    for state in [CommandState::Sent, CommandState::Acked, CommandState::Held, CommandState::Running] {
        assert_eq!(plan(&in_state(state), &[], &away, now), None, "{state}");
    }
}

#[test]
fn a_device_that_is_silent_for_seven_days_past_the_expiry_gives_an_inferred_end() {
    let mut away = Recipient { reachable: false, ..to(CREATED) };
    let late = CREATED + DAY + SILENCE_AFTER_EXPIRY_MS;
    for state in [CommandState::Sent, CommandState::Acked, CommandState::Held, CommandState::Running] {
        let mut command = in_state(state);
        assert_eq!(plan(&command, &[], &away, late - 1), None);
        let end = plan(&command, &[], &away, late).unwrap();
        assert_eq!(end.command.state(), CommandState::Indeterminate);
        assert!(end.command.standing.inferred && end.messages.is_empty());
        command.bound = Some(Path::Http);
        assert!(plan(&command, &[], &away, late).is_some(), "by whichever path it went");
    }
    away.last_seen_at = Some(late - 1000);
    assert_eq!(plan(&in_state(CommandState::Held), &[], &away, late), None, "it was heard");
}

#[test]
fn a_sent_command_is_repeated_with_growing_pauses_and_at_once_after_a_birth() {
    let mut sent = in_state(CommandState::Sent);
    let mut times = Vec::new();
    for second in 0..1200 {
        let now = CREATED + second * 1000;
        if let Some(plan) = plan(&sent, &[], &to(CREATED), now) {
            assert_eq!(kinds(Some(plan.clone())), ["run"]);
            assert_eq!(plan.step, None, "a repetition is no step of its own");
            sent = plan.command;
            times.push(second);
        }
    }
    assert_eq!(times, [30, 90, 210, 450, 750, 1050]);
    let born_at = CREATED + 1_200_000;
    assert_eq!(kinds(plan(&sent, &[], &to(born_at), born_at + 1)), ["run"]);
}

#[test]
fn once_the_device_has_it_a_command_is_never_sent_again() {
    for state in [CommandState::Acked, CommandState::Held, CommandState::Running] {
        let command = in_state(state);
        for now in (0..100).map(|hours| CREATED + 11 + hours * 3_600_000) {
            for born_at in [CREATED, now] {
                for digest_differs in [false, true] {
                    let to = Recipient { digest_differs, ..to(born_at) };
                    let to = Recipient { last_seen_at: Some(now), ..to };
                    let said = kinds(plan(&command, &[], &to, now));
                    assert!(!said.contains(&"run"), "{state} {said:?}");
                }
            }
        }
    }
}

#[test]
fn a_device_is_asked_on_a_birth_if_it_was_quiet_on_a_wrong_digest_and_every_hour() {
    let acked = in_state(CommandState::Acked);
    let heard = acked.heard_at.unwrap();
    assert_eq!(kinds(plan(&acked, &[], &to(CREATED), heard + 600_000)), [""; 0]);
    assert_eq!(kinds(plan(&acked, &[], &to(CREATED), heard + QUERY_EVERY_MS)), ["query"]);

    let born_at = heard + 600_000;
    assert_eq!(kinds(plan(&acked, &[], &to(born_at), born_at + 1000)), [""; 0], "its reports may come");
    let asked = plan(&acked, &[], &to(born_at), born_at + SETTLE_MS).unwrap();
    assert_eq!(kinds(Some(asked.clone())), ["query"]);
    assert_eq!(kinds(plan(&asked.command, &[], &to(born_at), born_at + 60_000)), [""; 0], "once");

    let differs = Recipient { digest_differs: true, ..to(CREATED) };
    let asked = plan(&acked, &[], &differs, heard + 1000).unwrap();
    assert_eq!(kinds(Some(asked.clone())), ["query"]);
    assert_eq!(kinds(plan(&asked.command, &[], &differs, heard + 2000)), [""; 0]);
}

#[test]
fn a_cancel_is_repeated_until_the_device_answers_and_the_command_itself_no_more() {
    let mut sent = in_state(CommandState::Sent);
    sent.cancel_requested_at = Some(CREATED + 1000);
    let mut times = Vec::new();
    for second in 1..200 {
        if let Some(plan) = plan(&sent, &[], &to(CREATED), CREATED + second * 1000) {
            assert_eq!(kinds(Some(plan.clone())), ["cancel"]);
            sent = plan.command;
            times.push(second);
        }
    }
    assert_eq!(times, [1, 6, 16, 36, 76, 156]);
    let mut running = in_state(CommandState::Running);
    running.cancel_requested_at = Some(CREATED + 20);
    assert_eq!(
        kinds(plan(&running, &[], &to(CREATED), CREATED + 1000)),
        [""; 0],
        "running cannot be cancelled"
    );
}

#[test]
fn an_override_of_a_waiting_command_is_repeated_until_the_device_reports() {
    let mut held = in_state(CommandState::Held);
    let overridden = Overridden { reason: "now".to_owned(), by: "user:a".to_owned(), at: CREATED + 1000 };
    held.overridden = Some(overridden.clone());
    let first = plan(&held, &[], &to(CREATED), CREATED + 1000).unwrap();
    assert_eq!(kinds(Some(first.clone())), ["override"]);
    let mut held = first.command;
    assert_eq!(kinds(plan(&held, &[], &to(CREATED), CREATED + 5999)), [""; 0]);
    assert_eq!(kinds(plan(&held, &[], &to(CREATED), CREATED + 6000)), ["override"]);
    held.heard_at = Some(CREATED + 3000);
    assert_eq!(kinds(plan(&held, &[], &to(CREATED), CREATED + 6000)), [""; 0], "answered");
    assert_eq!(
        kinds(plan(&held, &[], &to(CREATED + 7000), CREATED + 7001)),
        ["override"],
        "a new connection"
    );

    let mut pending = command("c", CommandType::Reboot);
    pending.overridden = Some(Overridden { at: CREATED, ..overridden });
    let sent = plan(&pending, &[], &to(CREATED), CREATED + 5).unwrap();
    let [DeviceAction::Run(run)] = &sent.messages[..] else { panic!() };
    assert_eq!(run.override_show.as_deref(), Some("now"), "it travels with the command");
    assert_eq!(plan(&sent.command, &[], &to(CREATED), CREATED + 6000), None);
}

#[test]
fn what_was_sent_to_a_state_database_that_is_gone_is_given_up_and_never_sent_again() {
    let reborn = Recipient { born: Some((OTHER, CREATED + 5)), ..to(CREATED) };
    for state in [CommandState::Sent, CommandState::Acked, CommandState::Held, CommandState::Running] {
        let end = plan(&in_state(state), &[], &reborn, CREATED + 10).unwrap();
        assert_eq!((end.command.state(), end.command.standing.inferred), (CommandState::Indeterminate, true));
        assert!(end.messages.is_empty());
        assert_eq!(plan(&end.command, &[], &reborn, CREATED + DAY), None);
    }
}

#[test]
fn after_a_restore_a_command_is_asked_about_before_anything_else() {
    for mut command in
        [command("c", CommandType::Reboot), in_state(CommandState::Sent), in_state(CommandState::Held)]
    {
        command.query_first = true;
        command.cancel_requested_at = Some(CREATED);
        let asked = plan(&command, &[], &to(CREATED + 100), CREATED + 200).unwrap();
        assert_eq!(asked.messages, [DeviceAction::Query("c".parse().unwrap())]);
        assert_eq!(asked.command.state(), command.state());
        assert_eq!(plan(&asked.command, &[], &to(CREATED + 100), CREATED + 300), None);
        let again = plan(&asked.command, &[], &to(CREATED + 100), CREATED + 200 + RESEND_MS + 100);
        assert_eq!(kinds(again), ["query"]);
    }
    let mut pending = command("c", CommandType::Ping);
    pending.query_first = true;
    let away = Recipient { reachable: false, ..to(CREATED) };
    assert_eq!(plan(&pending, &[], &away, CREATED + DAY), None, "the device may have it: it does not expire");
    let never = Recipient { last_seen_at: None, ..away };
    let end =
        plan(&pending, &[], &never, pending.order.expires_at + SILENCE_AFTER_EXPIRY_MS).unwrap().command;
    assert_eq!((end.state(), end.standing.inferred), (CommandState::Indeterminate, true));
    let gone = device_is_gone(&pending, CREATED).unwrap().command;
    assert_eq!(gone.state(), CommandState::Indeterminate, "nobody can say that it was never sent");
}

#[test]
fn one_rotation_of_the_token_at_a_time() {
    let second = command("b", CommandType::RotateToken);
    let mut first = command("a", CommandType::RotateToken);
    assert!(plan(&second, &[first.clone(), second.clone()], &to(CREATED), CREATED).is_some());
    first = plan(&first, &[], &to(CREATED), CREATED).unwrap().command;
    assert_eq!(plan(&second, &[first.clone(), second.clone()], &to(CREATED), CREATED), None);
    first.stand(Standing { state: CommandState::Completed, inferred: false, report_seq: 3 }, CREATED);
    assert!(plan(&second, &[first, second.clone()], &to(CREATED), CREATED).is_some());
}

#[test]
fn only_so_many_commands_are_on_their_way_to_a_device() {
    let mut open: Vec<Command> = (0..100).map(|n| command(&format!("c{n}"), CommandType::Ping)).collect();
    let send_all = |open: &mut Vec<Command>| {
        for at in 0..open.len() {
            if let Some(plan) = plan(&open[at], open, &to(CREATED), CREATED)
                && plan.step.is_some()
            {
                open[at] = plan.command;
            }
        }
        open.iter().filter(|command| command.state() == CommandState::Sent).count()
    };
    assert_eq!(send_all(&mut open), WINDOW);
    open[3].stand(Standing { state: CommandState::Acked, inferred: false, report_seq: 1 }, CREATED);
    assert_eq!(send_all(&mut open), WINDOW);
    assert_eq!(open[WINDOW].state(), CommandState::Sent, "the next in order");

    let mut large: Vec<Command> = (0..10).map(|n| command(&format!("l{n}"), CommandType::Custom)).collect();
    for command in &mut large {
        command.order.payload = json!({"script": "x", "args": ["y".repeat(50_000)]});
    }
    assert_eq!(send_all(&mut large), 2);
}

#[test]
fn a_command_that_is_bound_to_http_is_left_to_the_poll() {
    let mut sent = in_state(CommandState::Sent);
    sent.bound = Some(Path::Http);
    assert_eq!(plan(&sent, &[], &to(CREATED + DAY), CREATED + DAY), None);
    let reborn = Recipient { born: Some((OTHER, CREATED + 5)), ..to(CREATED) };
    assert_eq!(plan(&sent, &[], &reborn, CREATED + 10), None);
}

#[test]
fn a_digest_counts_as_wrong_after_two_heartbeats_in_a_row() {
    let mut watch = DigestWatch::default();
    let right = believed_digest(&[in_state(CommandState::Held), in_state(CommandState::Sent)], STATE);
    assert_ne!(right, believed_digest(&[], STATE));
    assert_eq!(believed_digest(&[in_state(CommandState::Sent)], STATE), believed_digest(&[], STATE));
    assert_eq!(believed_digest(&[in_state(CommandState::Held)], OTHER), believed_digest(&[], STATE));
    let wrong = [0, 0, 0, 1];
    assert!(!watch.heard(1, &wrong, right));
    assert!(!watch.heard(1, &wrong, right), "the same heartbeat again");
    assert!(watch.heard(2, &wrong, right));
    assert!(!watch.heard(3, &wrong, right), "counted anew");
    assert!(!watch.heard(4, &right, right));
    assert!(!watch.heard(5, &wrong, right));
    assert!(watch.heard(6, &[1], right), "a digest of the wrong length is wrong");
}

#[test]
fn a_desired_state_is_said_on_every_birth_and_repeated_until_it_is_answered() {
    let mut sent = DesiredSent::default();
    let mut times = Vec::new();
    for second in 0..300 {
        if sent.is_due("d", 4, Some(3), 0, second * 1000) {
            times.push(second);
        }
    }
    assert_eq!(times, [0, 30, 90, 210]);
    assert!(!sent.is_due("d", 4, Some(4), 0, 900_000), "answered");
    assert!(sent.is_due("d", 4, Some(4), 900_001, 900_002), "a birth");
    assert!(sent.is_due("d", 5, Some(4), 900_001, 900_003), "a change");
    assert!(!sent.is_due("d", 5, None, 900_001, 900_004));
}

/// A device as far as it matters to what the server hears: it journals, reports, and answers.
#[derive(Default)]
struct Model {
    known: bool,
    state: Option<CommandState>,
    report_seq: u32,
    /// Reports that the server has not committed.
    outbox: Vec<CommandReport>,
    effects: u32,
}

impl Model {
    fn report(&mut self, state: CommandState) {
        self.state = Some(state);
        self.report_seq += 1;
        self.queue();
    }

    fn queue(&mut self) {
        let state = self.state.unwrap().as_str().to_owned();
        self.outbox.push(CommandReport {
            seq: 0,
            connection: 0,
            ts: 0,
            id: "c".parse().unwrap(),
            report_seq: self.report_seq,
            state,
            reason: None,
            progress_percent: None,
            result: None,
            error: None,
            nonce: None,
            token_sha256: None,
        });
    }

    fn hear(&mut self, action: &DeviceAction) {
        match (action, self.state) {
            (DeviceAction::Run(_), None) => self.report(CommandState::Acked),
            (DeviceAction::Cancel(_), None | Some(CommandState::Acked | CommandState::Held)) => {
                self.report(CommandState::Cancelled);
            }
            (DeviceAction::Query(_), None) => self.report(CommandState::Indeterminate),
            (_, Some(_)) => self.queue(),
            _ => {}
        }
        self.known = true;
    }

    fn works(&mut self) {
        match self.state {
            Some(CommandState::Acked) => self.report(CommandState::Held),
            Some(CommandState::Held) => {
                self.report(CommandState::Running);
                self.effects += 1;
            }
            Some(CommandState::Running) => self.report(CommandState::Completed),
            _ => {}
        }
    }
}

#[derive(Debug, Clone, Copy)]
enum Event {
    /// Time passes; the server looks; this many of its messages are lost (bit by bit).
    Look(i64, u8),
    Works,
    /// The device's oldest reports come, in this order: 0 forward, 1 backward; or again (2).
    Reports(u8),
    Cancel,
    Birth,
    Offline,
    /// Somebody lost the compare-and-swap: the server's change is forgotten although it was never published.
    Lost,
}

fn events() -> impl Strategy<Value = Vec<Event>> {
    let event = prop_oneof![
        4 => (1..200i64, any::<u8>()).prop_map(|(seconds, lost)| Event::Look(seconds * 1000, lost)),
        3 => Just(Event::Works),
        3 => (0..3u8).prop_map(Event::Reports),
        1 => Just(Event::Cancel),
        1 => Just(Event::Birth),
        1 => Just(Event::Offline),
        1 => Just(Event::Lost),
    ];
    vec(event, 0..80)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1500))]

    #[test]
    fn whatever_is_lost_or_repeated_server_and_device_agree_once_they_can_talk_and_the_effect_ran_at_most_once(
        events in events(),
    ) {
        let (mut command, mut device) = (command("c", CommandType::Ping), Model::default());
        let (mut now, mut to) = (CREATED, to(CREATED));
        let mut heard_all: Vec<CommandReport> = Vec::new();
        for event in events {
            match event {
                Event::Look(ms, lost) => {
                    now += ms;
                    if to.reachable {
                        to.last_seen_at = Some(now);
                    }
                    if let Some(plan) = plan(&command, &[], &to, now) {
                        prop_assert!(to.reachable || plan.messages.is_empty());
                        command = plan.command;
                        for (n, message) in plan.messages.iter().enumerate() {
                            if lost >> n & 1 == 0 {
                                device.hear(message);
                            }
                        }
                    }
                }
                Event::Lost => drop(plan(&command, &[], &to, now)),
                Event::Works => device.works(),
                Event::Reports(how) if to.reachable => {
                    let mut reports = if how == 2 { heard_all.clone() } else { std::mem::take(&mut device.outbox) };
                    if how == 1 {
                        reports.reverse();
                    }
                    for heard in &reports {
                        let before = command.state();
                        report::fold(&mut command, heard, STATE, now);
                        prop_assert!(before.is_open() || command.state() == before, "an end stays");
                    }
                    heard_all.extend(reports);
                }
                Event::Reports(_) => {}
                Event::Cancel => {
                    if command.state() == CommandState::Pending {
                        let next = command.standing.by_server(CommandState::Cancelled).unwrap();
                        command.stand(next, now);
                    } else if command.state().is_open() && command.state() != CommandState::Running {
                        command.cancel_requested_at.get_or_insert(now);
                    }
                }
                Event::Birth => {
                    to.reachable = true;
                    now += 1;
                    to.born = Some((STATE, now));
                }
                Event::Offline => to.reachable = false,
            }
            prop_assert!(device.effects <= 1);
        }
        // In the end everything comes through.
        to.reachable = true;
        for _ in 0..40 {
            now += REPEAT_MAX_MS;
            to.last_seen_at = Some(now);
            if let Some(plan) = plan(&command, &[], &to, now) {
                command = plan.command;
                plan.messages.iter().for_each(|message| device.hear(message));
            }
            device.works();
            for heard in std::mem::take(&mut device.outbox) {
                report::fold(&mut command, &heard, STATE, now);
            }
        }
        prop_assert!(command.state().is_terminal(), "{:?}", command.state());
        prop_assert!(device.effects <= 1);
        match device.state {
            Some(state) => prop_assert_eq!(command.state(), state),
            None => prop_assert!(!device.known),
        }
        prop_assert_eq!(command.state() == CommandState::Completed, device.effects == 1);
    }
}
