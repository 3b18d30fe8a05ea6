#![allow(clippy::unwrap_used)]

use protocol::{
    codec::Bytes,
    command::{CommandType, standing::Standing},
    id::{DeviceId, OrgSlug},
    message::Ack,
    topic::Uplink,
};
use serde_json::json;

use super::super::{
    Reply,
    tests::{Bench, NOW, STATE, birth, packed},
};
use super::*;
use crate::{
    domain::{command::Order, dispatch::LOST_STATE, org::OrgId},
    values,
};

const ORG: &str = "00000000-0000-4000-8000-000000000001";
const OTHER: StateId = StateId([8; 8]);

/// A command of a device as it is after it was sent to `STATE`.
async fn sent(bench: &Bench, id: &str, device: &str, kind: CommandType) -> Command {
    let mut command = Command::new(Order {
        id: id.parse().unwrap(),
        org_id: OrgId::new(ORG.to_owned()),
        device_id: DeviceRowId::new(device.to_owned()),
        device: device.parse().unwrap(),
        kind,
        payload: json!({}),
        priority: 5,
        timeout_seconds: 120,
        notes: None,
        created_by: "user:a@b.c".to_owned(),
        created_by_name: Some("anna".to_owned()),
        created_at: NOW,
        expires_at: NOW + 86_400_000,
        reference: None,
        request_hash: String::new(),
    });
    bench.store.apply(commands::insert(&command, None)).await.unwrap();
    command.stand(Standing::PENDING.by_server(CommandState::Sent).unwrap(), NOW);
    (command.bound, command.sent_state_id) = (Some(Path::Mqtt), Some(STATE));
    let statements = commands::update(&mut command, None);
    bench.store.apply(statements).await.unwrap();
    command
}

fn report(seq: u64, id: &str, report_seq: u32, state: &str) -> CommandReport {
    CommandReport {
        seq,
        connection: 1,
        ts: NOW - 500,
        id: id.parse().unwrap(),
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

async fn command(bench: &Bench, id: &str) -> Command {
    lookup::by_id(&bench.store, id).await.unwrap().unwrap()
}

async fn history(bench: &Bench, id: &str) -> Vec<(String, i64, Option<i64>, bool)> {
    let sql =
        "SELECT status, at, device_at, told FROM command_history WHERE command_id = ?1 ORDER BY revision";
    let rows = bench.store.query(sql, values![id]).await.unwrap();
    rows.iter()
        .map(|row| {
            let text = row.text("status").unwrap();
            (text, row.int("at").unwrap(), row.opt_int("device_at").unwrap(), row.bool("told").unwrap())
        })
        .collect()
}

fn acked(replies: &[Reply]) -> Option<&Ack> {
    replies.iter().find_map(|reply| match reply {
        Reply::Ack(_, ack) => Some(ack),
        _ => None,
    })
}

fn moved(replies: &[Reply]) -> bool {
    replies.iter().any(|reply| matches!(reply, Reply::Commands(id) if id == "cam-1"))
}

async fn status(bench: &Bench, report: &CommandReport) -> Vec<Reply> {
    bench.send(Uplink::Status, packed(report)).await
}

#[tokio::test]
async fn reports_move_their_command_in_the_commit_that_acknowledges_them() {
    let bench = Bench::new().await;
    sent(&bench, "c", "cam-1", CommandType::Ping).await;
    let first = bench.send(Uplink::Birth, packed(&birth(1))).await;
    assert_eq!(acked(&first).unwrap().commands_pending, Some(1), "it was not acknowledged yet");
    assert!(moved(&first), "a birth wakes the dispatcher");

    let batch = [report(1, "c", 1, "acked"), report(2, "c", 2, "running")];
    let done = CommandReport { result: Some(json!({"rtt_ms": 3})), ..report(3, "c", 3, "completed") };
    let replies = bench.send(Uplink::Status, packed(&batch.to_vec())).await;
    assert!(moved(&replies) && acked(&replies).unwrap().ranges.contains(2));
    bench.clock.advance_ms(1000);
    status(&bench, &done).await;
    let command = command(&bench, "c").await;
    assert_eq!(command.state(), CommandState::Completed);
    assert_eq!((command.acked_at, command.started_at), (Some(NOW), Some(NOW)));
    assert_eq!(command.completed_at, Some(NOW + 1000));
    assert_eq!(command.result, Some(json!({"rtt_ms": 3})));
    let states: Vec<_> =
        history(&bench, "c").await.into_iter().map(|(state, at, device, _)| (state, at, device)).collect();
    let both = |state: &str, at| (state.to_owned(), at, Some(NOW - 500));
    assert_eq!(
        states,
        [
            ("pending".to_owned(), NOW, None),
            both("acked", NOW),
            both("running", NOW),
            both("completed", NOW + 1000)
        ]
    );
    let second = bench.send(Uplink::Birth, packed(&birth(2))).await;
    assert_eq!(acked(&second).unwrap().commands_pending, Some(0));
}

#[tokio::test]
async fn completed_config_commands_of_one_batch_are_all_merged_and_a_repetition_changes_nothing() {
    let bench = Bench::new().await;
    bench.send(Uplink::Birth, packed(&birth(1))).await;
    for (id, key) in [("a", "R58_DEBUG"), ("b", "HEARTBEAT_INTERVAL"), ("c", "OTHER")] {
        sent(&bench, id, "cam-1", CommandType::Config).await;
        let payload = json!({"changes": {key: 1}}).to_string();
        let set = "UPDATE commands SET payload = ?2 WHERE id = ?1";
        bench.store.apply_one(Statement::new(set, values![id, payload])).await.unwrap();
    }
    let batch = [report(1, "a", 1, "completed"), report(2, "b", 1, "completed"), report(3, "c", 1, "failed")];
    bench.send(Uplink::Status, packed(&batch.to_vec())).await;
    status(&bench, &report(4, "a", 1, "completed")).await;
    let (org, device) = (OrgId::new(ORG.to_owned()), DeviceRowId::new("cam-1".to_owned()));
    let desired = wanted::get(&bench.store, &org, &device).await.unwrap();
    let keys: Vec<_> = desired.config.keys().map(String::as_str).collect();
    assert_eq!((keys, desired.version), (vec!["HEARTBEAT_INTERVAL", "R58_DEBUG"], 2));
}

#[tokio::test]
async fn a_report_that_repeats_or_goes_backwards_is_acknowledged_and_moves_nothing() {
    let bench = Bench::new().await;
    sent(&bench, "c", "cam-1", CommandType::Ping).await;
    bench.send(Uplink::Birth, packed(&birth(1))).await;
    status(&bench, &report(1, "c", 3, "completed")).await;
    let before = command(&bench, "c").await;
    // The same record; the same report under a new number; steps of the past; a step after the end.
    for odd in [
        report(1, "c", 3, "completed"),
        report(2, "c", 3, "completed"),
        report(3, "c", 1, "acked"),
        report(4, "c", 4, "running"),
        report(5, "c", 9, "failed"),
        report(6, "c", 4, "dancing"),
        report(7, "c", 0, "acked"),
    ] {
        let replies = status(&bench, &odd).await;
        assert!(acked(&replies).unwrap().ranges.contains(odd.seq), "{odd:?}");
        assert_eq!(command(&bench, "c").await.standing, before.standing, "{odd:?}");
    }
    assert!(bench.metrics.total("fleet_command_reports_refused_total") >= 4);
    let late: Vec<_> =
        history(&bench, "c").await.into_iter().filter(|(state, ..)| state == "acked").collect();
    assert_eq!(late.len(), 1, "what was overtaken stands in the history");
    assert!(late[0].3, "and is told to nobody as news");
    assert_eq!(bench.count("command_reports").await, 7);
}

#[tokio::test]
async fn a_device_that_answers_for_anothers_command_moves_nothing() {
    let bench = Bench::new().await;
    sent(&bench, "theirs", "cam-2", CommandType::RotateToken).await;
    bench.send(Uplink::Birth, packed(&birth(1))).await;
    let hostile =
        CommandReport { token_sha256: Some(Bytes(vec![1; 32])), ..report(1, "theirs", 1, "running") };
    let replies = status(&bench, &hostile).await;
    assert!(acked(&replies).unwrap().ranges.contains(1), "acknowledged, or it would come for ever");
    assert_eq!(command(&bench, "theirs").await.state(), CommandState::Sent);
    assert_eq!(bench.metrics.total("fleet_command_reports_foreign_total"), 1);
    assert_eq!(bench.count("device_tokens").await, 0);
    let replies = status(&bench, &report(2, "nobodys", 1, "completed")).await;
    assert!(acked(&replies).unwrap().ranges.contains(2));
    assert_eq!(bench.metrics.total("fleet_command_reports_unknown_total"), 1);
}

#[tokio::test]
async fn a_birth_with_another_state_database_ends_what_was_sent_to_the_old_one() {
    let bench = Bench::new().await;
    bench.send(Uplink::Birth, packed(&birth(1))).await;
    for id in ["done", "running", "sent", "other"] {
        let device = if id == "other" { "cam-2" } else { "cam-1" };
        sent(&bench, id, device, CommandType::Reboot).await;
    }
    status(&bench, &report(1, "running", 1, "running")).await;
    // In one batch: the last word of the old database, then the new one.
    let reborn = protocol::message::Birth { state_id: OTHER, ..birth(2) };
    let message = |uplink, payload: Vec<u8>| super::super::Incoming {
        org: OrgSlug::new("default").unwrap(),
        device: DeviceId::new("cam-1").unwrap(),
        uplink: Some(uplink),
        payload: payload.into(),
        ip_address: None,
    };
    let replies = bench
        .ingest
        .take(vec![
            message(Uplink::Status, packed(&report(2, "done", 1, "completed"))),
            message(Uplink::Birth, packed(&reborn)),
        ])
        .await;
    assert!(moved(&replies));
    assert_eq!(command(&bench, "done").await.state(), CommandState::Completed);
    for id in ["running", "sent"] {
        let command = command(&bench, id).await;
        assert_eq!((command.state(), command.standing.inferred), (CommandState::Indeterminate, true), "{id}");
        assert_eq!(command.reason.as_deref(), Some(LOST_STATE));
    }
    assert_eq!(command(&bench, "other").await.state(), CommandState::Sent);

    // The new database never had it, and cannot say what became of it.
    let rejected = CommandReport { connection: 2, ..report(1, "running", 1, "rejected") };
    status(&bench, &rejected).await;
    assert_eq!(command(&bench, "running").await.state(), CommandState::Indeterminate);
    // The old one comes back with the truth: that counts, once.
    let back = protocol::message::Birth { ..birth(3) };
    bench.send(Uplink::Birth, packed(&back)).await;
    let truth = CommandReport { connection: 3, ..report(3, "running", 2, "completed") };
    status(&bench, &truth).await;
    let running = command(&bench, "running").await;
    assert_eq!((running.state(), running.standing.inferred), (CommandState::Completed, false));
}

#[tokio::test]
async fn a_change_of_the_command_at_the_same_moment_makes_the_batch_decide_again() {
    let bench = Bench::new().await;
    sent(&bench, "c", "cam-1", CommandType::Ping).await;
    bench.send(Uplink::Birth, packed(&birth(1))).await;
    // Many reports, and an operator who asks for a cancel again and again meanwhile.
    let operator = async {
        for n in 0..30 {
            let mut command = command(&bench, "c").await;
            command.cancel_requested_at = Some(NOW + n);
            let statements = commands::update(&mut command, None);
            let _ = bench.store.apply(statements).await;
        }
    };
    let device = async {
        for n in 1..=20u32 {
            let held =
                CommandReport { reason: Some(format!("busy: {n}")), ..report(u64::from(n), "c", n, "held") };
            // Unacknowledged after too many conflicts: the device sends it again.
            while acked(&status(&bench, &held).await).is_none() {}
        }
    };
    tokio::join!(operator, device);
    let command = command(&bench, "c").await;
    assert_eq!(command.standing.report_seq, 20);
    assert!(command.cancel_requested_at.is_some());
    assert_eq!(command.held_reason.as_deref(), Some("busy: 20"));
    let held = history(&bench, "c").await.into_iter().filter(|(state, ..)| state == "held").count();
    assert_eq!(held, 20, "each step once");
}

#[tokio::test]
async fn what_was_committed_with_its_records_is_there_after_a_crash() {
    let mut bench = Bench::new().await;
    sent(&bench, "c", "cam-1", CommandType::Ping).await;
    bench.send(Uplink::Birth, packed(&birth(1))).await;
    status(&bench, &report(1, "c", 1, "acked")).await;
    bench.restart();
    assert_eq!(command(&bench, "c").await.state(), CommandState::Acked);
    let replies = status(&bench, &report(1, "c", 1, "acked")).await;
    assert!(!moved(&replies), "a record that is stored already is folded no more");
    status(&bench, &report(2, "c", 2, "rejected")).await;
    assert_eq!(command(&bench, "c").await.state(), CommandState::Rejected);
}

#[tokio::test]
async fn one_announced_token_waits_beside_the_one_in_force() {
    let bench = Bench::new().await;
    let org = OrgId::new(ORG.to_owned());
    let row = DeviceRowId::new("cam-1".to_owned());
    let old = TokenHash::of("old");
    bench.store.apply(credentials::set_device_token(&org, &row, old, NOW).to_vec()).await.unwrap();
    sent(&bench, "first", "cam-1", CommandType::RotateToken).await;
    sent(&bench, "second", "cam-1", CommandType::RotateToken).await;
    bench.send(Uplink::Birth, packed(&birth(1))).await;
    let announce = |seq, id: &str, report_seq, token: &str| {
        let hash = <sha2::Sha256 as sha2::Digest>::digest(token).to_vec();
        CommandReport { token_sha256: Some(Bytes(hash)), ..report(seq, id, report_seq, "running") }
    };
    status(&bench, &announce(1, "first", 1, "new")).await;
    let (slug, device) = (OrgSlug::new("default").unwrap(), DeviceId::new("cam-1").unwrap());
    let known = async |now| {
        let known = credentials::device(&bench.store, &slug, &device, now).await.unwrap();
        known.into_iter().map(|known| (known.hash, known.pending)).collect::<Vec<_>>()
    };
    let both = [(old, false), (TokenHash::of("new"), true)];
    assert_eq!(known(NOW).await, both);
    // Another rotation cannot take its place while the first is under way.
    status(&bench, &announce(2, "second", 1, "newer")).await;
    assert_eq!(known(NOW).await, both);
    assert_eq!(known(NOW + TOKEN_LAPSES_MS).await, [(old, false)], "it lapses");
    status(&bench, &report(3, "first", 2, "failed")).await;
    status(&bench, &announce(4, "second", 2, "newer")).await;
    assert_eq!(known(NOW).await, [(old, false), (TokenHash::of("newer"), true)]);

    let pending = credentials::device(&bench.store, &slug, &device, NOW).await.unwrap().remove(1);
    let late = bench.store.apply(credentials::settle_token(&pending, NOW + TOKEN_LAPSES_MS).to_vec()).await;
    assert!(matches!(late, Err(StoreError::Conflict { .. })));
    bench.store.apply(credentials::settle_token(&pending, NOW).to_vec()).await.unwrap();
    assert_eq!(known(NOW).await, [(TokenHash::of("newer"), false)], "the old one is dead");
    // A late copy of the announcement makes nothing pending.
    let again = credentials::announce_token(&org, &row, TokenHash::of("newer"), NOW, NOW + 1000);
    bench.store.apply_one(again).await.unwrap();
    assert_eq!(known(NOW).await.len(), 1);
}

#[tokio::test]
async fn a_device_that_never_stops_reporting_does_not_fill_the_history_and_its_end_is_still_in_it() {
    let bench = Bench::new().await;
    sent(&bench, "c", "cam-1", CommandType::Ping).await;
    bench.send(Uplink::Birth, packed(&birth(1))).await;
    let most = u32::try_from(LINES_MAX).unwrap();
    for first in (1..most + 300).step_by(100) {
        let reports: Vec<_> = (first..first + 100)
            .map(|n| CommandReport { reason: Some(format!("live: {n}")), ..report(n.into(), "c", n, "held") })
            .collect();
        bench.send(Uplink::Status, packed(&reports)).await;
    }
    // Those of one batch are counted together.
    let lines = i64::try_from(history(&bench, "c").await.len()).unwrap();
    assert!((LINES_MAX..LINES_MAX + 100).contains(&lines), "{lines}");
    let n = most + 500;
    status(&bench, &report(n.into(), "c", n, "rejected")).await;
    assert_eq!(command(&bench, "c").await.state(), CommandState::Rejected);
    assert_eq!(history(&bench, "c").await.last().unwrap().0, "rejected");
}
