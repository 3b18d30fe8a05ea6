#![allow(clippy::unwrap_used)]

use protocol::codec::Bytes;
use protocol::command::standing::Standing;

use super::*;
use crate::domain::{command::Order, device::DeviceRowId, org::OrgId};

const STATE: StateId = StateId([1; 8]);

fn sent(kind: CommandType) -> Command {
    let mut command = Command::new(Order {
        id: "c".parse().unwrap(),
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
        created_at: 1000,
        expires_at: 9_000_000,
        reference: None,
        request_hash: String::new(),
    });
    command.stand(Standing::PENDING.by_server(CommandState::Sent).unwrap(), 1000);
    command.sent_state_id = Some(STATE);
    command
}

fn report(report_seq: u32, state: &str) -> CommandReport {
    CommandReport {
        seq: 1,
        connection: 1,
        ts: 77,
        id: "c".parse().unwrap(),
        report_seq,
        state: state.to_owned(),
        reason: None,
        progress_percent: None,
        result: None,
        error: None,
        nonce: None,
        token_sha256: None,
    }
}

fn step(folded: Folded) -> Option<Step> {
    match folded {
        Folded::Changed { step, .. } => step,
        Folded::Refused(why) => panic!("{why}"),
    }
}

#[test]
fn a_rejection_of_what_a_restored_server_may_have_sent_to_an_earlier_state_leaves_open_whether_it_was_done() {
    let forgotten = |query_first| {
        let mut command = sent(CommandType::Reboot);
        command.standing = Standing::PENDING;
        command.sent_state_id = None;
        command.query_first = query_first;
        command
    };
    let rejected = report(1, "rejected");
    let mut command = forgotten(true);
    step(fold(&mut command, &rejected, STATE, 5_000)).unwrap();
    assert_eq!((command.state(), command.standing.inferred), (CommandState::Indeterminate, false));
    assert!(matches!(fold(&mut command, &rejected, STATE, 6_000), Folded::Refused(_)), "once and for all");
    // Whoever knows where it was sent believes it.
    let mut command = forgotten(true);
    command.standing = Standing::PENDING.by_server(CommandState::Sent).unwrap();
    command.sent_state_id = Some(STATE);
    step(fold(&mut command, &rejected, STATE, 5_000)).unwrap();
    assert_eq!(command.state(), CommandState::Rejected);
}

#[test]
fn a_report_moves_its_command_and_both_clocks_are_kept() {
    let mut command = sent(CommandType::Reboot);
    let step = step(fold(&mut command, &report(1, "acked"), STATE, 2000)).unwrap();
    assert_eq!((step.status, step.at, step.device_at), (CommandState::Acked, 2000, Some(77)));
    assert_eq!(
        (command.state(), command.acked_at, command.heard_at),
        (CommandState::Acked, Some(2000), Some(2000))
    );
}

#[test]
fn progress_alone_is_no_line_of_history_and_a_new_reason_is() {
    let mut command = sent(CommandType::Reboot);
    let held = CommandReport { reason: Some("live".to_owned()), ..report(1, "held") };
    assert!(step(fold(&mut command, &held, STATE, 1)).is_some());
    let locked = CommandReport { reason: Some("show_lock".to_owned()), report_seq: 2, ..held.clone() };
    assert!(step(fold(&mut command, &locked, STATE, 2)).is_some());
    assert_eq!(command.held_reason.as_deref(), Some("show_lock"));
    let percent = CommandReport { report_seq: 3, progress_percent: Some(200), ..locked };
    assert_eq!(step(fold(&mut command, &percent, STATE, 3)), None);
    assert_eq!(command.progress_percent, Some(100), "bounded");
    assert_eq!(
        step(fold(&mut command, &held, STATE, 4)).unwrap().detail.as_deref(),
        Some("late report: live")
    );
    assert_eq!(command.held_reason.as_deref(), Some("show_lock"), "what is late changes nothing");
}

#[test]
fn a_large_result_is_cut_and_so_are_texts() {
    let mut command = sent(CommandType::Custom);
    let done = CommandReport {
        result: Some(json!({"output": "ä".repeat(RESULT_MAX_LEN)})),
        error: Some("é".repeat(TEXT_MAX_LEN)),
        ..report(1, "failed")
    };
    fold(&mut command, &done, STATE, 1);
    let result = command.result.unwrap();
    assert!(result["too_large_bytes"].as_u64().unwrap() > 60_000);
    assert!(result.to_string().len() <= RESULT_MAX_LEN);
    assert!(command.error.unwrap().len() <= TEXT_MAX_LEN);
}

#[test]
fn a_nonce_counts_while_the_command_is_held_and_is_forgotten_when_it_moves() {
    let mut command = sent(CommandType::Reboot);
    let asks = CommandReport { nonce: Some(Bytes(vec![7; 16])), ..report(1, "held") };
    fold(&mut command, &asks, STATE, 50);
    assert_eq!((command.lease_nonce.clone(), command.lease_asked_at), (Some(vec![7; 16]), Some(50)));
    // Its copy does not make the asking younger.
    fold(&mut command, &asks, STATE, 90);
    assert_eq!(command.lease_asked_at, Some(50));
    fold(
        &mut command,
        &CommandReport { report_seq: 2, nonce: Some(Bytes(vec![8; 16])), ..asks.clone() },
        STATE,
        95,
    );
    assert_eq!((command.lease_nonce.clone(), command.lease_asked_at), (Some(vec![8; 16]), Some(95)));
    fold(&mut command, &report(3, "running"), STATE, 99);
    assert_eq!(command.lease_nonce, None);
    let huge = CommandReport { nonce: Some(Bytes(vec![9; 65])), ..report(4, "held") };
    fold(&mut command, &huge, STATE, 100);
    assert_eq!(command.lease_nonce, None);
}

#[test]
fn a_token_is_announced_by_its_own_open_rotation_alone() {
    let hash = Some(Bytes(vec![3; 32]));
    let running = CommandReport { token_sha256: hash.clone(), ..report(1, "running") };
    let mut rotation = sent(CommandType::RotateToken);
    fold(&mut rotation, &running, STATE, 1);
    assert_eq!(announced_token(&rotation, &running), Some([3; 32]));
    let short = CommandReport { token_sha256: Some(Bytes(vec![3; 31])), report_seq: 2, ..running.clone() };
    fold(&mut rotation, &short, STATE, 1);
    assert_eq!(announced_token(&rotation, &short), None);
    assert_eq!(announced_token(&rotation, &running), None, "an old report");
    let end = CommandReport { token_sha256: hash, ..report(3, "completed") };
    fold(&mut rotation, &end, STATE, 1);
    assert_eq!(announced_token(&rotation, &end), None);
    let mut ping = sent(CommandType::Ping);
    fold(&mut ping, &running, STATE, 1);
    assert_eq!(announced_token(&ping, &running), None);
}

#[test]
fn what_contradicts_or_is_not_known_moves_nothing() {
    let mut command = sent(CommandType::Ping);
    fold(&mut command, &report(3, "completed"), STATE, 1);
    let before = command.clone();
    for odd in [
        report(4, "running"),
        report(5, "failed"),
        report(6, "dancing"),
        report(0, "acked"),
        report(3, "failed"),
    ] {
        assert!(matches!(fold(&mut command, &odd, STATE, 2), Folded::Refused(_)), "{odd:?}");
        assert_eq!(command, before);
    }
}

#[test]
fn another_state_database_cannot_reject_what_it_never_had() {
    let mut command = sent(CommandType::Ping);
    let rejected = report(1, "rejected");
    assert!(matches!(fold(&mut command, &rejected, StateId([2; 8]), 1), Folded::Refused(_)));
    assert_eq!(command.state(), CommandState::Sent);
}
