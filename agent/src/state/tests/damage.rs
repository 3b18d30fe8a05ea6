//! Databases that must not be trusted.

use std::os::unix::fs::PermissionsExt;

use super::*;
use crate::state::set_aside::KEPT;

/// A closed database with 500 records and journal number 3; its identity.
fn make(dir: &Path) -> StateId {
    let mut state = open(dir);
    let rows = (1..=500).map(|seq| Row { seq, kind: Kind::Heartbeat, body: vec![7; 100] }).collect();
    state.commit(&Change { insert: rows, next_seq: 501, ..Change::default() }).unwrap();
    for id in ["a", "b", "c"] {
        journal(&mut state, id);
    }
    state.state_id()
}

/// Opens a database that must be found damaged: the former one is set aside, a new one is there.
fn open_damaged(dir: &Path, before: StateId) -> Damage {
    let opened = State::open(dir, NOW_MS).unwrap();
    let repair = opened.repair.clone().expect("set aside");
    let Remedy::SetAside(place) = repair.remedy else { panic!("{repair:?}") };
    assert!(place.is_dir());
    assert_ne!(opened.state.state_id(), before);
    let loaded = opened.state.load().unwrap();
    assert_eq!((loaded.next_seq, loaded.records.len()), (1, 0));
    let id = opened.state.state_id();
    drop(opened);
    assert_eq!(open(dir).state_id(), id, "the new one is sound");
    repair.damage
}

fn database(dir: &Path) -> PathBuf {
    dir.join("db/state.db")
}

fn copy_dir(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for file in fs::read_dir(from).unwrap() {
        let file = file.unwrap();
        fs::copy(file.path(), to.join(file.file_name())).unwrap();
    }
}

#[test]
fn a_file_cut_in_half_is_set_aside() {
    let dir = tempfile::tempdir().unwrap();
    let before = make(dir.path());
    let bytes = fs::read(database(dir.path())).unwrap();
    fs::write(database(dir.path()), &bytes[..bytes.len() / 2]).unwrap();
    assert!(matches!(open_damaged(dir.path(), before), Damage::Unreadable(_)));
}

#[test]
fn garbage_is_set_aside() {
    let dir = tempfile::tempdir().unwrap();
    let before = make(dir.path());
    fs::write(database(dir.path()), vec![0xa5; 20_000]).unwrap();
    assert!(matches!(open_damaged(dir.path(), before), Damage::Unreadable(_)));
}

#[test]
fn any_single_damaged_page_is_found_or_harmless() {
    let dir = tempfile::tempdir().unwrap();
    let before = make(dir.path());
    let bytes = fs::read(database(dir.path())).unwrap();
    for page in 0..bytes.len() / 4096 {
        let copy = tempfile::tempdir().unwrap();
        fs::create_dir(copy.path().join("db")).unwrap();
        let mut damaged = bytes.clone();
        damaged[page * 4096..(page + 1) * 4096].fill(0);
        fs::write(database(copy.path()), &damaged).unwrap();
        let opened = State::open(copy.path(), NOW_MS).unwrap();
        if opened.repair.is_none() {
            assert_eq!(opened.state.state_id(), before);
        }
        opened.state.load().unwrap();
    }
}

#[test]
fn an_empty_file_is_set_aside_with_the_log_beside_it() {
    let dir = tempfile::tempdir().unwrap();
    let before = make(dir.path());
    fs::write(database(dir.path()), b"").unwrap();
    fs::write(dir.path().join("db/state.db-wal"), b"all that is left").unwrap();
    assert_eq!(open_damaged(dir.path(), before), Damage::Empty);
    let place = crate::state::set_aside_folders(dir.path()).remove(0);
    assert_eq!(fs::read(place.join("state.db-wal")).unwrap(), b"all that is left");
}

#[test]
fn a_torn_log_does_not_make_a_database_look_new() {
    let dir = tempfile::tempdir().unwrap();
    let copy = tempfile::tempdir().unwrap();
    let state = open(dir.path());
    copy_dir(&dir.path().join("db"), &copy.path().join("db"));
    fs::write(copy.path().join("db/state.db-wal"), b"").unwrap();
    assert_eq!(open(copy.path()).state_id(), state.state_id());
}

#[test]
fn a_database_that_sqlite_cannot_write_or_read_in_its_format_is_set_aside() {
    // The format for writing, for reading, of the schema, and the size of pages.
    for (at, byte) in [(18, 9), (19, 9), (47, 9), (20, 255)] {
        let dir = tempfile::tempdir().unwrap();
        let before = make(dir.path());
        let mut bytes = fs::read(database(dir.path())).unwrap();
        bytes[at] = byte;
        fs::write(database(dir.path()), bytes).unwrap();
        assert!(matches!(open_damaged(dir.path(), before), Damage::Unreadable(_)), "{at}");
    }
}

#[test]
fn what_a_start_would_stumble_over_is_found_before() {
    for change in ["UPDATE meta SET committed = x'ff'", "UPDATE outbox SET kind = 99 WHERE seq = 7"] {
        let dir = tempfile::tempdir().unwrap();
        let before = make(dir.path());
        Connection::open(database(dir.path())).unwrap().execute_batch(change).unwrap();
        assert!(matches!(open_damaged(dir.path(), before), Damage::Inconsistent(_)), "{change}");
    }
}

#[test]
fn somebody_elses_database_is_set_aside() {
    let dir = tempfile::tempdir().unwrap();
    fs::create_dir(dir.path().join("db")).unwrap();
    let other = Connection::open(database(dir.path())).unwrap();
    other.execute_batch("CREATE TABLE photos (x)").unwrap();
    drop(other);
    assert_eq!(open_damaged(dir.path(), StateId([0; 8])), Damage::Foreign);
}

#[test]
fn a_missing_table_is_set_aside() {
    let dir = tempfile::tempdir().unwrap();
    let before = make(dir.path());
    Connection::open(database(dir.path())).unwrap().execute_batch("DROP TABLE outbox").unwrap();
    assert_eq!(open_damaged(dir.path(), before), Damage::Foreign);
}

#[test]
fn a_missing_identity_is_set_aside() {
    let dir = tempfile::tempdir().unwrap();
    let before = make(dir.path());
    Connection::open(database(dir.path())).unwrap().execute_batch("DELETE FROM meta").unwrap();
    assert!(matches!(open_damaged(dir.path(), before), Damage::Inconsistent(_)));
}

#[test]
fn a_record_past_the_next_number_is_set_aside() {
    let dir = tempfile::tempdir().unwrap();
    let before = make(dir.path());
    Connection::open(database(dir.path())).unwrap().execute_batch("UPDATE meta SET next_seq = 500").unwrap();
    assert!(matches!(open_damaged(dir.path(), before), Damage::Inconsistent(_)));
}

#[test]
fn a_newer_layout_is_set_aside_and_kept() {
    let dir = tempfile::tempdir().unwrap();
    let before = make(dir.path());
    Connection::open(database(dir.path())).unwrap().execute_batch("PRAGMA user_version = 4").unwrap();
    assert_eq!(open_damaged(dir.path(), before), Damage::Newer { found: 4, known: 3 });
}

#[test]
fn a_database_behind_the_file_beside_it_is_set_aside_and_numbers_go_on() {
    let dir = tempfile::tempdir().unwrap();
    let older = tempfile::tempdir().unwrap();
    let before = make(dir.path());
    copy_dir(&dir.path().join("db"), &older.path().join("db"));
    journal(&mut open(dir.path()), "d");
    fs::remove_dir_all(dir.path().join("db")).unwrap();
    copy_dir(&older.path().join("db"), &dir.path().join("db"));
    assert_eq!(open_damaged(dir.path(), before), Damage::Behind { database: 3, file: 4 });
    assert_eq!(journal(&mut open(dir.path()), "e"), Some(5));
}

#[test]
fn a_database_ahead_of_the_file_is_trusted() {
    let dir = tempfile::tempdir().unwrap();
    let before = make(dir.path());
    fs::write(dir.path().join("journal-high"), "2\n").unwrap();
    assert_eq!(open(dir.path()).state_id(), before);
    fs::remove_file(dir.path().join("journal-high")).unwrap();
    assert_eq!(open(dir.path()).state_id(), before);
}

#[test]
fn with_an_unreadable_number_beside_it_a_database_keeps_its_records_and_commands_and_gets_a_new_identity() {
    for text in ["", "4", "\n", "four\n", "-1\n", "99999999999999999999999\n", "4\n4\n", "4 \n"] {
        let dir = tempfile::tempdir().unwrap();
        let before = make(dir.path());
        fs::write(dir.path().join("journal-high"), text).unwrap();
        let opened = State::open(dir.path(), NOW_MS).unwrap();
        assert_eq!(
            opened.repair,
            Some(Repair { damage: Damage::JournalFile, remedy: Remedy::Kept }),
            "{text:?}"
        );
        let mut state = opened.state;
        assert_ne!(state.state_id(), before);
        assert_eq!(state.load().unwrap().records.len(), 500);
        assert_eq!(journal(&mut state, "a"), None, "a command that was known is known");
        assert_eq!(journal(&mut state, "d"), Some(4));
        let id = state.state_id();
        drop(state);
        assert_eq!(open(dir.path()).state_id(), id, "it is sound");
    }
}

#[test]
fn with_an_unreadable_number_beside_it_no_open_command_of_a_database_goes_on() {
    let dir = tempfile::tempdir().unwrap();
    let mut state = open(dir.path());
    let entry = Entry::new("c".parse().unwrap(), NOW_MS, Moment { boot_id: Uuid::nil(), boottime_ms: 0 });
    write(&mut state, &entry.moved(CommandState::Running, Words::default(), NOW_MS));
    assert_eq!(state.open_commands().unwrap().len(), 1);
    drop(state);
    fs::write(dir.path().join("journal-high"), "torn").unwrap();
    let state = State::open(dir.path(), NOW_MS).unwrap().state;
    assert_eq!(state.open_commands().unwrap(), []);
    assert_eq!(state.command(&"c".parse().unwrap()).unwrap().unwrap().state, CommandState::Indeterminate);
}

#[test]
fn a_lost_database_is_replaced_and_numbers_go_on() {
    let dir = tempfile::tempdir().unwrap();
    let before = make(dir.path());
    fs::remove_dir_all(dir.path().join("db")).unwrap();
    let opened = State::open(dir.path(), NOW_MS).unwrap();
    assert_eq!(opened.repair, Some(Repair { damage: Damage::Gone, remedy: Remedy::Replaced }));
    let mut state = opened.state;
    assert_ne!(state.state_id(), before);
    assert_eq!(journal(&mut state, "a"), Some(4));
}

#[test]
fn only_the_last_few_damaged_databases_are_kept() {
    let dir = tempfile::tempdir().unwrap();
    open(dir.path());
    for _ in 0..KEPT + 3 {
        fs::write(database(dir.path()), b"garbage that is no database").unwrap();
        // The log must go too, or SQLite may restore the file from it.
        let _ = fs::remove_file(dir.path().join("db/state.db-wal"));
        assert!(State::open(dir.path(), NOW_MS).unwrap().repair.is_some());
    }
    let names: Vec<String> = fs::read_dir(dir.path())
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter(|name| name.starts_with("damaged-"))
        .collect();
    assert_eq!(names.len(), KEPT, "{names:?}");
    assert!(names.iter().any(|name| name.starts_with(&format!("damaged-{:06}-", KEPT + 3))), "{names:?}");
}

#[test]
fn a_folder_that_cannot_be_written_is_an_error_that_says_so_and_touches_nothing() {
    // A file where the folder should be: works for root too, whom permissions do not stop.
    let dir = tempfile::tempdir().unwrap();
    let blocked = dir.path().join("state");
    fs::write(&blocked, b"").unwrap();
    let error = State::open(&blocked, NOW_MS).unwrap_err();
    assert!(error.to_string().contains("cannot make the folder"), "{error}");
    assert!(error.to_string().contains(&blocked.display().to_string()), "{error}");
}

#[test]
fn only_the_owner_may_enter_the_folder() {
    let dir = tempfile::tempdir().unwrap();
    let state_dir = dir.path().join("state");
    drop(open(&state_dir));
    for folder in [state_dir.clone(), state_dir.join("db")] {
        assert_eq!(fs::metadata(&folder).unwrap().permissions().mode() & 0o777, 0o700, "{folder:?}");
    }
}
