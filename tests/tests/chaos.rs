//! A short run of chaos with a fixed seed, and the checker put to the test with what that run leaves.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use end_to_end::Server;
use end_to_end::chaos::check::{self, Report};
use end_to_end::chaos::database::Database;
use end_to_end::chaos::ledger::{Effect, Ledger};
use end_to_end::chaos::plan::{SHORT, SHORT_SEED};
use end_to_end::chaos::spool::Spool;
use rusqlite::Connection;

/// What a run has left, to be changed and checked.
struct Remains {
    folder: PathBuf,
    ledger: Ledger,
    spools: BTreeMap<String, Spool>,
}

impl Remains {
    fn of(folder: &Path) -> Self {
        let ledger = Ledger::read(folder).unwrap();
        let spool = |device: &String| {
            let text = fs::read_to_string(folder.join(format!("{device}.spool"))).unwrap();
            (device.clone(), Spool::read(&text))
        };
        let spools = ledger.devices.iter().map(spool).collect();
        Self { folder: folder.to_owned(), ledger, spools }
    }

    /// Checks a copy of the database that `change` has changed; it must change one row.
    fn check_with(&self, change: &str) -> Report {
        let copy = self.folder.join("changed.db");
        let _ = fs::remove_file(&copy);
        fs::copy(self.folder.join("fleet.db"), &copy).unwrap();
        if !change.is_empty() {
            let database = Connection::open(&copy).unwrap();
            // A command's history goes with it.
            database.pragma_update(None, "foreign_keys", false).unwrap();
            assert_eq!(database.execute(change, []).unwrap(), 1, "{change}");
        }
        check::check(&self.ledger, &self.spools, &Database::read(&copy).unwrap())
    }

    /// The complaints about such a change.
    fn complaints(&self, change: &str) -> Vec<String> {
        self.check_with(change).complaints
    }

    fn newest_heartbeats(&self) -> String {
        let database = Connection::open(self.folder.join("fleet.db")).unwrap();
        let sql = "SELECT name FROM sqlite_master WHERE name LIKE 'heartbeats_%' ORDER BY name";
        let mut names = database.prepare(sql).unwrap();
        let names: Vec<String> = names.query_map([], |row| row.get(0)).unwrap().map(Result::unwrap).collect();
        let has_rows = |name: &&String| {
            database
                .query_row(&format!("SELECT count(*) FROM {name}"), [], |row| row.get::<_, i64>(0))
                .unwrap()
                > 0
        };
        names.iter().find(has_rows).unwrap().clone()
    }
}

#[track_caller]
fn one_complaint(complaints: &[String], about: &str) {
    assert!(
        complaints.len() == 1 && complaints[0].contains(about),
        "not one complaint about \"{about}\": {complaints:#?}"
    );
}

#[test]
fn a_short_run_loses_and_doubles_nothing_and_the_checker_finds_what_is_put_in_on_purpose() {
    let folder = tempfile::tempdir().unwrap();
    let output = Command::new(env!("CARGO_BIN_EXE_chaos"))
        .args(["--seed".to_owned(), SHORT_SEED.to_string()])
        .args(["--rounds".to_owned(), SHORT.rounds.to_string()])
        .args(["--agents".to_owned(), SHORT.agents.to_string()])
        .args(["--chapter".to_owned(), SHORT.chapter.to_string()])
        .arg("--folder")
        .arg(folder.path())
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    if !output.status.success() {
        let kept = folder.keep();
        panic!("{said}\n{}\neverything is in {}", String::from_utf8_lossy(&output.stderr), kept.display());
    }
    println!("{said}");
    let remains = Remains::of(folder.path());
    assert_eq!(remains.complaints(""), Vec::<String>::new());
    a_record_that_is_missing_or_doubled_is_found(&remains);
    a_command_that_is_open_or_gone_or_untrue_is_found(&remains);
    an_effect_too_many_or_too_few_is_found(&remains);
}

#[test]
fn a_server_starts_although_the_disk_has_no_room_for_the_file_with_its_addresses() {
    let folder = tempfile::tempdir().unwrap();
    let mut server = Server::start_in(folder.path(), &folder.path().join("log"), &[]);
    server.kill();
    // Whoever writes there is told that the disk is full.
    std::os::unix::fs::symlink("/dev/full", server.data_dir().join("addresses.json.new")).unwrap();
    server.start_again();
    assert!(server.log().contains("the disk is full"), "{}", server.log());
}

fn a_record_that_is_missing_or_doubled_is_found(remains: &Remains) {
    let day = remains.newest_heartbeats();
    let first = format!("(SELECT min(id) FROM {day} WHERE seq IS NOT NULL)");
    one_complaint(&remains.complaints(&format!("DELETE FROM {day} WHERE id = {first}")), "not stored");
    let columns = "device_id, org_id, received_at, taken_at, ts, state_id, seq, interval_seconds, recording_active, \
                   mixer_active, degradation_level";
    let doubled = format!("INSERT INTO {day} ({columns}) SELECT {columns} FROM {day} WHERE id = {first}");
    one_complaint(&remains.complaints(&doubled), "stored 2 times");
    let other = format!("UPDATE {day} SET ts = ts + 1 WHERE id = {first}");
    one_complaint(&remains.complaints(&other), "stored as something else");
    let invented = doubled.replace(
        "state_id, seq, interval_seconds, recording_active, mixer_active, degradation_level FROM",
        "state_id, 999999, interval_seconds, recording_active, mixer_active, degradation_level FROM",
    );
    one_complaint(&remains.complaints(&invented), "no agent has spooled it");
    let report = "DELETE FROM command_reports WHERE rowid = (SELECT min(rowid) FROM command_reports)";
    one_complaint(&remains.complaints(report), "not stored");
    // Neither stored nor counted as committed, as after a lost transaction.
    let state =
        "UPDATE record_states SET committed = '[]' WHERE rowid = (SELECT max(rowid) FROM record_states)";
    let lost = remains.complaints(state);
    assert!(lost.iter().all(|complaint| complaint.contains("not stored")) && !lost.is_empty(), "{lost:#?}");
}

fn a_command_that_is_open_or_gone_or_untrue_is_found(remains: &Remains) {
    let a_completed = "(SELECT min(id) FROM commands WHERE status = 'completed' AND type = 'custom')";
    let open = format!("UPDATE commands SET status = 'running' WHERE id = {a_completed}");
    let complaints = remains.complaints(&open);
    one_complaint(&complaints, "not ended");
    let gone = format!("DELETE FROM commands WHERE id = {a_completed}");
    let complaints = remains.complaints(&gone);
    assert!(complaints.iter().any(|complaint| complaint.contains("not in the database")), "{complaints:#?}");
    let untrue = format!("UPDATE commands SET status = 'failed' WHERE id = {a_completed}");
    one_complaint(&remains.complaints(&untrue), "was done 1 times");
    let twice = format!(
        "INSERT INTO command_history (command_id, revision, org_id, status, at) SELECT command_id, max(revision) + 1, \
         org_id, status, at FROM command_history WHERE command_id = {a_completed} AND status = 'completed'"
    );
    one_complaint(&remains.complaints(&twice), "ended 2 times");
}

fn an_effect_too_many_or_too_few_is_found(remains: &Remains) {
    let database = Database::read(&remains.folder.join("fleet.db")).unwrap();
    let completed = |asked: &&end_to_end::chaos::ledger::Asked| {
        matches!(asked.effect, Effect::Line { .. })
            && database
                .commands
                .iter()
                .any(|command| asked.accepted.as_ref() == Some(&command.id) && command.status == "completed")
    };
    let asked = remains.ledger.asked.iter().find(completed).unwrap();
    let Effect::Line { line, .. } = &asked.effect else { panic!("{asked:?}") };
    let mut ledger = remains.ledger.clone();
    ledger.effects.get_mut(&asked.device).unwrap().push(line.clone());
    one_complaint(&check::check(&ledger, &remains.spools, &database).complaints, "was done 2 times");
    ledger.effects.get_mut(&asked.device).unwrap().retain(|effect| effect != line);
    one_complaint(&check::check(&ledger, &remains.spools, &database).complaints, "was done 0 times");
    let mut ledger = remains.ledger.clone();
    let reboots = 1 + ledger.asked.iter().filter(|asked| asked.effect == Effect::Reboot).count();
    let effects = ledger.effects.get_mut(&asked.device).unwrap();
    effects.extend(std::iter::repeat_n("reboot".to_owned(), reboots));
    one_complaint(&check::check(&ledger, &remains.spools, &database).complaints, "rebooted");
}
