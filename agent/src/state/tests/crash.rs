//! Power goes at any instruction: what is on disk between any two statements, and after `kill -9`.

use std::cell::RefCell;
use std::io::{BufRead, BufReader, Write};
use std::process::{Command, Stdio};

use rusqlite::trace::{TraceEvent, TraceEventCodes};
use tempfile::TempDir;

use super::*;

thread_local! {
    /// The folder to copy, and the copies made so far.
    static COPIES: RefCell<(PathBuf, Vec<TempDir>)> = const { RefCell::new((PathBuf::new(), Vec::new())) };
}

fn copy_before_statement(_: TraceEvent<'_>) {
    COPIES.with_borrow_mut(|(from, copies)| copies.push(copy_of(from)));
}

fn copy_of(from: &Path) -> TempDir {
    let to = tempfile::tempdir().unwrap();
    copy(from, to.path());
    to
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy(&entry.path(), &target);
        } else if entry.file_name() != "state.db-shm" {
            // The index of the log is shared memory: it does not survive a power cut.
            fs::copy(entry.path(), target).unwrap();
        }
    }
}

/// Runs `work` and returns the folder as it was before each of its statements.
fn copies_during(state: &mut State, work: impl FnOnce(&mut State)) -> Vec<TempDir> {
    COPIES.set((state.dir.clone(), Vec::new()));
    state.connection.trace_v2(TraceEventCodes::SQLITE_TRACE_STMT, Some(copy_before_statement)).unwrap();
    work(state);
    state.connection.trace_v2(TraceEventCodes::empty(), None::<fn(TraceEvent<'_>)>).unwrap();
    COPIES.take().1
}

#[test]
fn a_record_is_there_whole_or_not_at_all_between_any_two_statements() {
    let dir = tempfile::tempdir().unwrap();
    let mut state = open(dir.path());
    let mut index = outbox(&state);
    for n in 1..=4 {
        append(&mut state, &mut index, Kind::Heartbeat, vec![n; 90]);
    }
    let before = state.load().unwrap().records;
    let change = Change {
        delete: vec![1, 3],
        insert: vec![
            Row { seq: 5, kind: Kind::Void, body: vec![5] },
            Row { seq: 6, kind: Kind::Heartbeat, body: vec![6; 80] },
        ],
        next_seq: 7,
        committed: Some([(2, 2)].into_iter().collect()),
        ..Change::default()
    };
    let copies = copies_during(&mut state, |state| state.commit(&change).unwrap());
    assert!(copies.len() >= 7, "{}", copies.len());
    let id = state.state_id();
    for copy in &copies {
        let crashed = open(copy.path());
        let loaded = crashed.load().unwrap();
        assert_eq!(crashed.state_id(), id);
        assert_eq!((loaded.next_seq, &loaded.records), (5, &before), "nothing before the commit");
    }
    let after = copy_of(dir.path());
    let loaded = open(after.path()).load().unwrap();
    assert_eq!(loaded.next_seq, 7);
    assert_eq!(loaded.records.iter().map(|record| record.0).collect::<Vec<_>>(), [2, 4, 5, 6]);
}

#[test]
fn a_new_identity_is_there_whole_or_not_at_all_between_any_two_statements() {
    let dir = tempfile::tempdir().unwrap();
    let mut state = open(dir.path());
    let mut index = outbox(&state);
    for n in 1..=6 {
        append(&mut state, &mut index, Kind::Heartbeat, vec![n; 90]);
    }
    let (id, before) = (state.state_id(), state.load().unwrap().records);
    let copies = copies_during(&mut state, |state| {
        state.renew(&[2, 5, 6]).unwrap();
    });
    assert!(copies.len() >= 8, "{}", copies.len());
    for copy in &copies {
        let crashed = open(copy.path());
        assert_eq!((crashed.state_id(), crashed.load().unwrap().records), (id, before.clone()));
    }
    let after = copy_of(dir.path());
    assert_eq!(open(after.path()).load().unwrap().records.len(), 3);
}

#[test]
fn the_file_beside_the_database_never_gets_ahead_of_the_journal() {
    let dir = tempfile::tempdir().unwrap();
    let mut state = open(dir.path());
    journal(&mut state, "a");
    let copies = copies_during(&mut state, |state| {
        journal(state, "b");
    });
    for copy in copies {
        let mut crashed = open(copy.path());
        assert_eq!(journal(&mut crashed, "b"), Some(2), "it can be entered again");
    }
    // Between the commit and the rename: the entry is there, the file still says 1.
    fs::write(dir.path().join("journal-high"), "1\n").unwrap();
    fs::write(dir.path().join("journal-high.new"), "2").unwrap();
    let after = copy_of(dir.path());
    assert_eq!(journal(&mut open(after.path()), "b"), None);
}

#[test]
fn a_database_whose_making_was_cut_off_is_made_again() {
    // SQLite has set up the file, but no table is there yet.
    let dir = tempfile::tempdir().unwrap();
    fs::create_dir(dir.path().join("db")).unwrap();
    let connection = Connection::open(dir.path().join("db/state.db")).unwrap();
    schema::configure(&connection).unwrap();
    let cut_off = copy_of(dir.path());
    let mut state = open(cut_off.path());
    let mut index = outbox(&state);
    assert_eq!(append(&mut state, &mut index, Kind::Heartbeat, vec![1]), 1);
}

#[test]
fn a_database_set_aside_without_a_new_one_yet_is_replaced() {
    let dir = tempfile::tempdir().unwrap();
    let mut state = open(dir.path());
    journal(&mut state, "a");
    drop(state);
    fs::rename(dir.path().join("db"), dir.path().join("damaged-000001-5")).unwrap();
    let opened = State::open(dir.path(), NOW_MS).unwrap();
    assert_eq!(opened.repair, Some(Repair { damage: Damage::Gone, remedy: Remedy::Replaced }));
    let mut state = opened.state;
    assert_eq!(journal(&mut state, "b"), Some(2));
}

const CHILD_DIR: &str = "R58_TEST_STATE_DIR";

/// The child of the next test: commits records for ever, and says each number after its commit.
#[test]
#[ignore = "run by the test below"]
fn child_that_commits_until_it_is_killed() {
    let Some(dir) = std::env::var_os(CHILD_DIR) else { return };
    let mut state = open(Path::new(&dir));
    let mut index = Outbox::load(state.load().unwrap(), 64 * 1024);
    for _ in 0..100_000u32 {
        let seq = index.next_seq();
        let change = index.plan(Kind::Event, vec![9; 100 + usize::try_from(seq % 900).unwrap()], NOW_MS);
        let Ok(change) = change else {
            index.mark_sent(&[]);
            let all = [(1, index.next_seq() - 1)].into_iter().collect();
            index.take_committed(&all);
            continue;
        };
        state.commit(&change).unwrap();
        index.apply(&change);
        println!("\ncommitted {seq}");
        std::io::stdout().flush().unwrap();
    }
}

#[test]
fn after_kill_9_every_committed_record_and_number_is_there() {
    let dir = tempfile::tempdir().unwrap();
    let mut id = None;
    let mut last = 0u64;
    for round in 0..6u64 {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "state::tests::crash::child_that_commits_until_it_is_killed", "--ignored"])
            .arg("--nocapture")
            .env(CHILD_DIR, dir.path())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let mut committed = Vec::new();
        while committed.len() < 20 + usize::try_from(round * 13).unwrap() {
            let line = lines.next().expect("the child lives").unwrap();
            if let Some(seq) = line.strip_prefix("committed ") {
                committed.push(seq.parse::<u64>().unwrap());
            }
        }
        child.kill().unwrap();
        child.wait().unwrap();
        committed.extend(
            lines
                .map_while(Result::ok)
                .filter_map(|line| line.strip_prefix("committed ")?.parse::<u64>().ok()),
        );

        assert_eq!(committed[0].max(last), committed[0], "numbers never go back");
        last = *committed.last().unwrap();
        let state = open(dir.path());
        assert_eq!(*id.get_or_insert(state.state_id()), state.state_id());
        let loaded = state.load().unwrap();
        assert!(loaded.next_seq == last + 1 || loaded.next_seq == last + 2, "{} {last}", loaded.next_seq);
        let kept: std::collections::BTreeSet<u64> = loaded.records.iter().map(|record| record.0).collect();
        for seq in committed {
            assert!(kept.contains(&seq) || loaded.committed.contains(seq), "{seq} was lost");
        }
    }
}
