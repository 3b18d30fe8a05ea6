#![allow(clippy::unwrap_used)]

mod crash;
mod damage;
mod journal;
mod torn;

use std::fs;
use std::path::Path;

use protocol::command::CommandState;
use uuid::Uuid;

use super::*;
use crate::command::{Entry, Moment, Words, Write};
use crate::outbox::{BUDGET_BYTES, Outbox};

pub(super) const NOW_MS: i64 = 1_766_916_000_000;

pub(super) fn open(dir: &Path) -> State {
    let opened = State::open(dir, NOW_MS).unwrap();
    assert_eq!(opened.repair, None);
    opened.state
}

pub(super) fn outbox(state: &State) -> Outbox {
    Outbox::load(state.load().unwrap(), BUDGET_BYTES)
}

/// Commits one record and returns its number.
pub(super) fn append(state: &mut State, outbox: &mut Outbox, kind: Kind, body: Vec<u8>) -> u64 {
    let change = outbox.plan(kind, body, NOW_MS).unwrap();
    state.commit(&change).unwrap();
    outbox.apply(&change);
    change.insert.last().unwrap().seq
}

fn rejected(id: &str) -> Write {
    let entry = Entry::new(id.parse().unwrap(), NOW_MS, Moment { boot_id: Uuid::nil(), boottime_ms: 0 });
    entry.moved(CommandState::Rejected, Words::reason("no"), NOW_MS)
}

pub(super) fn write(state: &mut State, write: &Write) -> u64 {
    let change = Change { next_seq: state.load().unwrap().next_seq, ..Change::default() };
    state.journal(write, &change, Some(NOW_MS)).unwrap()
}

/// Enters a command as rejected, unless it is known; the number of the change.
pub(super) fn journal(state: &mut State, id: &str) -> Option<u64> {
    let known = state.command(&id.parse().unwrap()).unwrap().is_some();
    (!known).then(|| write(state, &rejected(id)))
}

#[test]
fn records_numbers_and_identity_survive_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let mut state = open(dir.path());
    let mut index = outbox(&state);
    let id = state.state_id();
    assert_eq!(append(&mut state, &mut index, Kind::Heartbeat, vec![1; 90]), 1);
    assert_eq!(append(&mut state, &mut index, Kind::Event, vec![2; 10]), 2);
    assert_eq!(state.next_connection().unwrap(), 1);
    drop(state);

    let mut state = open(dir.path());
    assert_eq!(state.state_id(), id);
    assert_eq!(state.next_connection().unwrap(), 2);
    let loaded = state.load().unwrap();
    assert_eq!(loaded.next_seq, 3);
    assert_eq!(loaded.records, [(1, Kind::Heartbeat, 90), (2, Kind::Event, 10)]);
    let rows = state.rows(&[2, 7, 1]).unwrap();
    assert_eq!(rows.iter().map(|row| (row.seq, row.body.len())).collect::<Vec<_>>(), [(2, 10), (1, 90)]);
}

#[test]
fn numbers_are_not_reused_when_every_record_is_gone() {
    let dir = tempfile::tempdir().unwrap();
    let mut state = open(dir.path());
    let mut index = outbox(&state);
    append(&mut state, &mut index, Kind::Heartbeat, vec![1]);
    let change = Change { delete: vec![1], next_seq: 2, ..Change::default() };
    state.commit(&change).unwrap();
    drop(state);
    assert_eq!(open(dir.path()).load().unwrap().next_seq, 2);
}

#[test]
fn what_the_server_has_committed_is_remembered_with_the_next_record() {
    let dir = tempfile::tempdir().unwrap();
    let mut state = open(dir.path());
    let mut index = outbox(&state);
    for _ in 0..3 {
        append(&mut state, &mut index, Kind::Heartbeat, vec![1]);
    }
    index.mark_sent(&[1, 2, 3]);
    index.take_committed(&[(1, 2)].into_iter().collect());
    append(&mut state, &mut index, Kind::Heartbeat, vec![1]);
    drop(state);
    let index = outbox(&open(dir.path()));
    assert_eq!(index.committed().as_slice(), [(1, 2)]);
    assert_eq!(index.depth(), 2);
}

#[test]
fn a_new_identity_takes_over_what_is_not_committed_and_numbers_it_anew() {
    let dir = tempfile::tempdir().unwrap();
    let mut state = open(dir.path());
    let mut index = outbox(&state);
    for n in 1..=9u8 {
        append(&mut state, &mut index, if n == 6 { Kind::Void } else { Kind::Heartbeat }, vec![n]);
    }
    index.mark_sent(&[1, 2, 3, 4, 5, 6, 7, 8, 9]);
    index.take_committed(&[(1, 2), (5, 5)].into_iter().collect());
    state.next_connection().unwrap();
    let before = state.state_id();
    let after = state.renew(&index.to_take_over()).unwrap();
    assert_ne!(before, after);
    assert_eq!(state.state_id(), after);

    let loaded = state.load().unwrap();
    let bodies: Vec<u8> = state.rows(&[1, 2, 3, 4, 5]).unwrap().iter().map(|row| row.body[0]).collect();
    assert_eq!(bodies, [3, 4, 7, 8, 9]);
    assert_eq!((loaded.next_seq, loaded.records.len(), loaded.committed.is_empty()), (6, 5, true));
    assert_eq!(state.next_connection().unwrap(), 2);
    drop(state);
    assert_eq!(open(dir.path()).state_id(), after);
}

#[test]
fn what_may_have_been_sent_is_noted_by_itself_or_with_a_record_never_less_and_not_for_a_new_identity() {
    let dir = tempfile::tempdir().unwrap();
    let mut state = open(dir.path());
    let mut index = outbox(&state);
    let released = |state: &State| state.load().unwrap().released;
    append(&mut state, &mut index, Kind::Heartbeat, vec![1]);
    assert_eq!(released(&state), 1);
    state.release(2).unwrap();
    let change = Change { released: Some(5), ..index.plan(Kind::Heartbeat, vec![1], NOW_MS).unwrap() };
    state.commit(&change).unwrap();
    state.release(4).unwrap();
    drop(state);
    let mut state = open(dir.path());
    assert_eq!(released(&state), 5);
    state.renew(&[1, 2]).unwrap();
    assert_eq!((released(&state), state.load().unwrap().next_seq), (1, 3), "nothing was sent under it");
}

#[test]
fn a_new_identity_with_nothing_to_take_over_begins_empty() {
    let dir = tempfile::tempdir().unwrap();
    let mut state = open(dir.path());
    let mut index = outbox(&state);
    append(&mut state, &mut index, Kind::Heartbeat, vec![1]);
    state.renew(&[]).unwrap();
    let loaded = state.load().unwrap();
    assert_eq!((loaded.next_seq, loaded.records.len()), (1, 0));
}

#[test]
fn a_command_is_journalled_once_and_its_number_is_in_the_file_beside_the_database() {
    let dir = tempfile::tempdir().unwrap();
    let mut state = open(dir.path());
    assert_eq!(journal(&mut state, "a"), Some(1));
    assert_eq!(journal(&mut state, "b"), Some(2));
    assert_eq!(journal(&mut state, "a"), None);
    assert_eq!(state.command(&"b".parse().unwrap()).unwrap().unwrap().state, CommandState::Rejected);
    assert_eq!(state.command(&"c".parse().unwrap()).unwrap(), None);
    assert_eq!(fs::read_to_string(dir.path().join("journal-high")).unwrap(), "2\n");
    drop(state);
    assert_eq!(journal(&mut open(dir.path()), "b"), None);
}

#[test]
fn inputs_keep_their_positions_over_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let mut state = open(dir.path());
    state.add_input("cam2").unwrap();
    state.add_input("cam1").unwrap();
    assert!(state.add_input("cam2").is_err());
    drop(state);
    assert_eq!(open(dir.path()).inputs().unwrap(), ["cam2", "cam1"]);
}

#[test]
fn a_record_that_does_not_fit_on_the_disk_is_an_error_that_changes_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let mut state = open(dir.path());
    let mut index = outbox(&state);
    append(&mut state, &mut index, Kind::Heartbeat, vec![1]);
    let pages: i64 = state.connection.query_row("PRAGMA page_count", [], |row| row.get(0)).unwrap();
    state.connection.query_row(&format!("PRAGMA max_page_count = {pages}"), [], |_| Ok(())).unwrap();
    let change = index.plan(Kind::Log, vec![7; 100_000], NOW_MS).unwrap();
    let error = state.commit(&change).unwrap_err();
    assert!(error.is_disk_full(), "{error:?}");
    assert!(error.to_string().contains("check that the disk has room"), "{error}");
    assert_eq!(state.load().unwrap().records, [(1, Kind::Heartbeat, 1)]);

    state.connection.query_row("PRAGMA max_page_count = 10000", [], |_| Ok(())).unwrap();
    state.commit(&change).unwrap();
}

#[tokio::test]
async fn the_database_thread_answers_and_closes() {
    let dir = tempfile::tempdir().unwrap();
    let (thread, repair) = StateThread::open(dir.path().to_owned(), NOW_MS).await.unwrap();
    assert_eq!(repair, None);
    assert_eq!(thread.call(State::next_connection).await.unwrap(), 1);
    thread.close();
    let (thread, _) = StateThread::open(dir.path().to_owned(), NOW_MS).await.unwrap();
    assert_eq!(thread.call(State::next_connection).await.unwrap(), 2);
}
