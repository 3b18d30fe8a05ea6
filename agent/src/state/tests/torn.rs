//! Every file in the state folder, cut, emptied, or overwritten in part between two runs: the state opens, says what it
//! found, keeps what was whole, never forgets a command that has begun without another identity, and can be written.
//!
//! The cases are drawn from numbers that are always the same; `FLEET_TEST_TORN_CASES` asks for more of them.

use std::collections::BTreeMap;
use std::io::{Seek, SeekFrom, Write as _};

use tempfile::TempDir;

use super::*;
use crate::lock::StateLock;
use crate::status::Found;

const CASES: u64 = 200;
const STARTED: &str = "started";

/// splitmix64: the same case draws the same numbers for ever.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    fn below(&mut self, limit: u64) -> u64 {
        self.next() % limit.max(1)
    }
}

/// In memory where the system has such a place: nothing here depends on what an fsync does.
fn folder() -> TempDir {
    let memory = Path::new("/dev/shm");
    if memory.is_dir() { tempfile::tempdir_in(memory).unwrap() } else { tempfile::tempdir().unwrap() }
}

fn copy_all(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy_all(&entry.path(), &target);
        } else {
            fs::copy(entry.path(), target).unwrap();
        }
    }
}

fn files(dir: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() { found.extend(files(&path)) } else { found.push(path) }
    }
    found.sort();
    found
}

/// A folder as a running agent has it, and what is in it.
struct Before {
    /// After a power cut: with a log, and its index in shared memory.
    cut: TempDir,
    /// After an orderly end.
    closed: TempDir,
    state_id: StateId,
    records: BTreeMap<u64, Vec<u8>>,
}

fn prepare() -> Before {
    let (dir, cut) = (folder(), folder());
    let mut lock = StateLock::take(dir.path()).unwrap();
    lock.announce(&dir.path().join("status.json")).unwrap();
    for name in ["status.json", "status.json.new"] {
        fs::write(dir.path().join(name), r#"{"pid": 1}"#).unwrap();
    }
    let earlier = dir.path().join("damaged-000001-5");
    fs::create_dir(&earlier).unwrap();
    fs::write(earlier.join("state.db"), b"of an earlier damage").unwrap();

    let mut state = open(dir.path());
    let mut index = outbox(&state);
    for n in 0..150u8 {
        append(&mut state, &mut index, Kind::Heartbeat, vec![n; 90]);
    }
    // Half of it is in the file, the rest in the log.
    state.connection.query_row("PRAGMA wal_checkpoint(PASSIVE)", [], |_| Ok(())).unwrap();
    for n in 150..250u8 {
        append(&mut state, &mut index, Kind::Heartbeat, vec![n; 90]);
    }
    for n in 0..30 {
        journal(&mut state, &format!("ended-{n}"));
    }
    state.add_input("cam1").unwrap();
    let entry = Entry::new(STARTED.parse().unwrap(), NOW_MS, Moment { boot_id: Uuid::nil(), boottime_ms: 0 });
    write(&mut state, &entry.moved(CommandState::Running, Words::default(), NOW_MS));
    fs::write(dir.path().join("journal-high.new"), "3").unwrap();
    copy_all(dir.path(), cut.path());
    let (state_id, records) = (state.state_id(), records(&state));
    drop((state, lock));
    Before { cut, closed: dir, state_id, records }
}

fn records(state: &State) -> BTreeMap<u64, Vec<u8>> {
    let seqs: Vec<u64> = state.load().unwrap().records.iter().map(|record| record.0).collect();
    state.rows(&seqs).unwrap().into_iter().map(|row| (row.seq, row.body)).collect()
}

/// Does something to a file; tells what.
fn tear(path: &Path, random: &mut Random) -> String {
    let len = fs::metadata(path).unwrap().len();
    let mut bytes = |count: u64| (0..count).map(|_| random.next() as u8).collect::<Vec<u8>>();
    let noise = bytes(8192);
    let mut file = fs::OpenOptions::new().write(true).open(path).unwrap();
    let (at, kind) = (random.below(len), random.below(6));
    let count = 1 + random.below(8192.min(len));
    match kind {
        0 => file.set_len(0).unwrap(),
        1 => file.set_len(at).unwrap(),
        2 => {
            // A page that was never written.
            file.seek(SeekFrom::Start(at / 4096 * 4096)).unwrap();
            file.write_all(&vec![0; 4096.min(len - at / 4096 * 4096) as usize]).unwrap();
        }
        3 => {
            file.seek(SeekFrom::Start(at)).unwrap();
            file.write_all(&noise[..count.min(len - at) as usize]).unwrap();
        }
        4 => {
            // A sector of something else.
            file.seek(SeekFrom::Start(at / 512 * 512)).unwrap();
            file.write_all(&noise[..512.min(len - at / 512 * 512) as usize]).unwrap();
        }
        _ => {
            file.seek(SeekFrom::End(0)).unwrap();
            file.write_all(&noise[..count as usize]).unwrap();
        }
    }
    format!("{}: {kind} at {at} of {len}, {count}", path.display())
}

/// What must hold of a folder in which `torn` was torn.
fn check(dir: &Path, torn: &str, before: &Before, what: &str) -> bool {
    let lock = StateLock::take(dir).unwrap();
    let found = crate::status::look_for_tests(dir);
    assert!(matches!(found, Found::Silent { .. }), "{what}: {found:?}");
    let opened = State::open(dir, NOW_MS).unwrap_or_else(|error| panic!("{what}: {error:?}"));
    let mut state = opened.state;
    let repaired = opened.repair;
    let kept = records(&state);
    let started = state.command(&STARTED.parse().unwrap()).unwrap();
    let is_state = torn.starts_with("db/") || torn == "journal-high";
    match &repaired {
        None if !is_state => {
            assert_eq!((state.state_id(), &kept), (before.state_id, &before.records), "{what}");
            assert_eq!(started.map(|entry| entry.state), Some(CommandState::Running), "{what}");
        }
        None => {
            // What a torn log has lost, it may not have been sure of; but an effect that began was.
            assert!(started.is_some() || state.state_id() != before.state_id, "{what}: it would run again");
        }
        Some(Repair { remedy: Remedy::Kept, damage }) => {
            assert_eq!((torn, damage), ("journal-high", &Damage::JournalFile), "{what}");
            assert_ne!(state.state_id(), before.state_id, "{what}");
            assert!(kept.values().eq(before.records.values()), "{what}");
            assert_eq!(started.map(|entry| entry.state), Some(CommandState::Indeterminate), "{what}");
            assert!(kept.keys().copied().eq(1..=kept.len() as u64), "{what}");
        }
        Some(Repair { remedy: Remedy::SetAside(place), .. }) => {
            assert!(is_state && place.join("state.db").exists(), "{what}");
            assert_ne!(state.state_id(), before.state_id, "{what}");
        }
        Some(Repair { remedy: Remedy::Replaced, .. }) => panic!("{what}: nothing was removed"),
    }
    assert!(is_state || repaired.is_none(), "{what}: {repaired:?}");

    // It works, and goes on to.
    let mut index = outbox(&state);
    append(&mut state, &mut index, Kind::Heartbeat, vec![1; 90]);
    assert!(journal(&mut state, "a-new-one").is_some(), "{what}");
    let id = state.state_id();
    drop(state);
    let again = State::open(dir, NOW_MS).unwrap();
    assert_eq!((again.repair, again.state.state_id()), (None, id), "{what}");
    assert_eq!(journal(&mut { again.state }, "a-new-one"), None, "{what}");
    drop(lock);
    repaired.is_some()
}

#[test]
fn a_state_folder_in_which_any_file_is_torn_opens_and_keeps_what_was_whole() {
    let cases =
        std::env::var("FLEET_TEST_TORN_CASES").ok().and_then(|text| text.parse().ok()).unwrap_or(CASES);
    let before = prepare();
    let (mut torn_files, mut repaired) = (std::collections::BTreeSet::new(), 0);
    for case in 0..cases {
        let mut random = Random(case);
        let from = if random.below(2) == 0 { &before.cut } else { &before.closed };
        let dir = folder();
        copy_all(from.path(), dir.path());
        let all = files(dir.path());
        // The database and what belongs to it matter most.
        let state: Vec<PathBuf> =
            all.iter().filter(|path| path.parent().unwrap().ends_with("db")).cloned().collect();
        let from = if random.below(2) == 0 { &state } else { &all };
        let path = &from[random.below(from.len() as u64) as usize];
        let what = format!("case {case}, {}", tear(path, &mut random));
        let name = path.strip_prefix(dir.path()).unwrap().to_str().unwrap().to_owned();
        repaired += usize::from(check(dir.path(), &name, &before, &what));
        torn_files.insert(name);
    }
    assert!(torn_files.len() >= 9, "{torn_files:?}");
    eprintln!("{cases} cases, {repaired} of them repaired: {torn_files:?}");
}
