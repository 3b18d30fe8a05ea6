//! Commands on disk: open ones come back whole, ended ones are remembered, and a database of the layout before is
//! taken over as it stands.

use protocol::message::{Command, Desired, Reported};
use serde_json::json;

use super::*;
use crate::failpoint;

fn acked(id: &str) -> Write {
    let command = Command {
        id: id.parse().unwrap(),
        kind: "reboot".to_owned(),
        payload: json!({"delay_seconds": 5}),
        priority: 3,
        created_at: NOW_MS,
        expires_at: NOW_MS + 60_000,
        timeout_seconds: 120,
        desired_version: 7,
        override_show: None,
    };
    let received = Moment { boot_id: Uuid::from_u128(9), boottime_ms: 1234 };
    let mut entry = Entry::new(command.id.clone(), NOW_MS + 1, received);
    entry.command = Some(command);
    entry.disruptive = true;
    entry.delay_ms = 5_000;
    entry.override_reason = Some("it must".to_owned());
    entry.moved(CommandState::Acked, Words::default(), NOW_MS)
}

#[test]
fn an_open_command_comes_back_as_it_was_and_an_ended_one_with_its_last_report() {
    let dir = tempfile::tempdir().unwrap();
    let mut state = open(dir.path());
    let first = acked("a");
    assert_eq!(write(&mut state, &first), 1);
    assert!(!dir.path().join("journal-high").exists(), "nothing has happened yet");
    let mut running = first.entry.moved(CommandState::Running, Words::default(), NOW_MS);
    running.entry.observed = Some("{\"boot\":1}".to_owned());
    running.entry.record_seq = 17;
    assert_eq!(write(&mut state, &running), 2);
    assert_eq!(fs::read_to_string(dir.path().join("journal-high")).unwrap(), "2\n");
    write(&mut state, &rejected("b"));
    drop(state);

    let mut state = open(dir.path());
    assert_eq!(state.open_commands().unwrap(), [running.entry.clone()]);
    let words = Words { result: Some(json!({"uptime": 3})), ..Words::default() };
    let done = running.entry.moved(CommandState::Completed, words, NOW_MS);
    assert_eq!((done.entry.report.report_seq, write(&mut state, &done)), (3, 4));
    assert_eq!(state.open_commands().unwrap(), []);
    assert_eq!(state.command(&"a".parse().unwrap()).unwrap().unwrap(), done.entry);
    assert_eq!(state.commands_known().unwrap(), 2);
}

#[test]
fn a_database_rolled_back_to_before_an_effect_is_noticed_although_it_knows_the_command() {
    let (dir, older) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let mut state = open(dir.path());
    let first = acked("a");
    write(&mut state, &first);
    let before = state.state_id();
    drop(state);
    fs::create_dir(older.path().join("db")).unwrap();
    fs::copy(dir.path().join("db/state.db"), older.path().join("db/state.db")).unwrap();
    write(&mut open(dir.path()), &first.entry.moved(CommandState::Running, Words::default(), NOW_MS));
    fs::remove_dir_all(dir.path().join("db")).unwrap();
    fs::rename(older.path().join("db"), dir.path().join("db")).unwrap();
    let opened = State::open(dir.path(), NOW_MS).unwrap();
    assert_eq!(opened.repair.unwrap().damage, Damage::Behind { database: 1, file: 2 });
    assert_ne!(opened.state.state_id(), before);
}

#[test]
fn old_entries_are_forgotten_by_a_confirmed_time_alone_and_open_ones_never() {
    let dir = tempfile::tempdir().unwrap();
    let mut state = open(dir.path());
    state.connection.execute_batch("PRAGMA synchronous = OFF").unwrap();
    write(&mut state, &acked("open"));
    let change = Change { next_seq: 1, ..Change::default() };
    let old = |state: &mut State, n: u32, trusted_ms| {
        let mut write = rejected(&format!("c{n}"));
        write.entry.kept_until_ms = 0;
        // Its place beside the database does not matter here, and takes time.
        write.entry.state = CommandState::Rejected;
        state.journal(&write, &change, trusted_ms).unwrap();
        state.commands_known().unwrap()
    };
    let known: Vec<u64> = (0..1_010).map(|n| old(&mut state, n, None)).collect();
    assert_eq!(known.last(), Some(&1_011));
    // However many there are: how each has ended is known, but reasons and errors would fill the disk.
    let reports = "SELECT count(report) FROM journal";
    let reports: u64 = state.connection.query_row(reports, [], |row| row.get(0)).unwrap();
    assert_eq!(reports, 1_001, "of the newest thousand, and of the open one");
    let first = state.command(&"c0".parse().unwrap()).unwrap().unwrap();
    assert_eq!((first.state, first.report.report_seq), (CommandState::Rejected, 1));
    assert_eq!(first.report.state, "rejected");
    assert_eq!(old(&mut state, 1_010, Some(i64::MAX)), 1_001, "the newest thousand, and the open one");
    assert!(state.command(&"open".parse().unwrap()).unwrap().is_some());
    assert!(state.command(&"c10".parse().unwrap()).unwrap().is_none());
    assert!(state.command(&"c11".parse().unwrap()).unwrap().is_some());
}

#[test]
fn results_stay_with_the_newest_commands_only() {
    let dir = tempfile::tempdir().unwrap();
    let mut state = open(dir.path());
    state.connection.execute_batch("PRAGMA synchronous = OFF").unwrap();
    for n in 0..=200 {
        let words = Words { result: Some(json!(n)), ..Words::default() };
        write(&mut state, &acked(&format!("c{n}")).entry.moved(CommandState::Completed, words, NOW_MS));
    }
    let result = |id: &str| state.command(&id.parse().unwrap()).unwrap().unwrap().report.result;
    assert_eq!((result("c0"), result("c1")), (None, Some(json!(1))));
}

#[test]
fn a_database_of_the_first_layout_is_taken_over_with_everything_in_it() {
    let dir = tempfile::tempdir().unwrap();
    fs::create_dir(dir.path().join("db")).unwrap();
    let mut old = Connection::open(dir.path().join("db/state.db")).unwrap();
    let id = StateId([7; 8]);
    schema::create_version_1(&mut old, id).unwrap();
    old.execute_batch(
        "INSERT INTO outbox VALUES (1, 1, x'01'); INSERT INTO inputs (name) VALUES ('cam1');
         INSERT INTO journal VALUES (3, 'c1', 'cancelled', 99); UPDATE meta SET next_seq = 2, journal_number = 3;",
    )
    .unwrap();
    drop(old);
    fs::write(dir.path().join("journal-high"), "3\n").unwrap();

    for _ in 0..2 {
        let state = open(dir.path());
        assert_eq!((state.state_id(), state.inputs().unwrap()), (id, vec!["cam1".to_owned()]));
        let loaded = state.load().unwrap();
        assert_eq!(loaded.records, [(1, Kind::Heartbeat, 1)]);
        assert_eq!(loaded.released, 2, "it may have been sent");
        let entry = state.command(&"c1".parse().unwrap()).unwrap().unwrap();
        assert_eq!((entry.state, entry.kept_until_ms), (CommandState::Cancelled, 99));
        assert_eq!((entry.report.state.as_str(), entry.report.report_seq), ("cancelled", 1));
        assert_eq!(state.kept().unwrap(), Kept::default());
    }
    assert_eq!(journal(&mut open(dir.path()), "c2"), Some(4));
}

#[test]
fn a_first_layout_with_a_table_missing_is_set_aside_and_not_tried_for_ever() {
    let dir = tempfile::tempdir().unwrap();
    fs::create_dir(dir.path().join("db")).unwrap();
    let mut old = Connection::open(dir.path().join("db/state.db")).unwrap();
    schema::create_version_1(&mut old, StateId([7; 8])).unwrap();
    old.execute_batch("DROP TABLE journal").unwrap();
    drop(old);
    assert_eq!(State::open(dir.path(), NOW_MS).unwrap().repair.unwrap().damage, Damage::Foreign);
}

#[test]
fn an_entry_whose_envelope_is_unreadable_comes_back_without_it() {
    let dir = tempfile::tempdir().unwrap();
    let mut state = open(dir.path());
    write(&mut state, &acked("a"));
    state.connection.execute_batch("UPDATE journal SET envelope = x'ff', report = x'00'").unwrap();
    let entry = state.open_commands().unwrap().remove(0);
    assert_eq!((entry.command, entry.state, entry.report.report_seq), (None, CommandState::Acked, 1));
}

#[test]
fn what_is_wanted_and_what_was_reported_survive_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let mut state = open(dir.path());
    assert_eq!(state.kept().unwrap(), Kept::default());
    let kept = Kept {
        desired: Some(Desired {
            version: 4,
            config: [("R58_DEBUG".to_owned(), "true".to_owned())].into(),
            target_version: None,
            show_locks: vec![(1, 2)],
            redundancy_group: Some("pair".to_owned()),
        }),
        reported: Some(Reported {
            seq: 0,
            connection: 0,
            ts: 5,
            desired_version: 4,
            config: [("R58_DEBUG".to_owned(), "true".to_owned())].into(),
            errors: [("X".to_owned(), "not allowed".to_owned())].into(),
        }),
    };
    state.keep(&kept, &Change { next_seq: 1, ..Change::default() }).unwrap();
    drop(state);
    assert_eq!(open(dir.path()).kept().unwrap(), kept);
}

#[test]
fn every_failpoint_has_a_name_of_its_own() {
    let names: std::collections::BTreeSet<&str> = failpoint::ALL.iter().copied().collect();
    assert_eq!(names.len(), failpoint::ALL.len());
    let of_effects = crate::config::FILE_FAILPOINTS.iter().chain(&crate::effect::rotation::FAILPOINTS);
    assert!(of_effects.clone().all(|name| names.contains(name)), "{of_effects:?}");
}
