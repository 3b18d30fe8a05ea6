//! `fleetd backup` and `fleetd restore` as people run them: beside a server that takes records in, on a full disk, and
//! killed wherever it hurts.
#![allow(clippy::unwrap_used)]

mod process;

use std::{
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use fleetd::failpoint;
use process::{Device, Server, fleetd, output, register};
use protocol::ranges::RangeSet;

#[track_caller]
fn succeeds(command: Command) -> String {
    let output = output(command, "");
    assert!(output.status.success(), "{}", text(&output.stderr));
    text(&output.stdout).trim().to_owned()
}

#[track_caller]
fn fails(command: Command, with: &str) {
    let output = output(command, "");
    let told = text(&output.stderr);
    assert!(!output.status.success() && told.contains(with) && !told.contains("panicked"), "{told}");
    assert_eq!(text(&output.stdout), "");
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

fn run(data: &Path, arguments: &[&str]) -> Command {
    let mut command = fleetd(data);
    command.args(arguments);
    command
}

fn backup(data: &Path, to: &Path) -> Command {
    run(data, &["backup", to.to_str().unwrap()])
}

fn restore(data: &Path, from: &Path) -> Command {
    run(data, &["restore", "--force", from.to_str().unwrap()])
}

fn orgs(data: &Path) -> String {
    succeeds(run(data, &["org", "list"]))
}

fn add_org(data: &Path, slug: &str) {
    succeeds(run(data, &["org", "add", "--slug", slug, "--name", slug]));
}

fn names(folder: &Path) -> Vec<String> {
    let mut names: Vec<String> = std::fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

/// Sends heartbeats one batch after another until it is told to stop; gives what was acknowledged.
fn write_on(
    server: &Server,
    id: &str,
    token: &str,
    stop: Arc<AtomicBool>,
    acked: Arc<AtomicU64>,
) -> RangeSet {
    let device = Device::connect(server, id, token, 1);
    device.birth();
    let (mut next, mut committed) = (1, RangeSet::new());
    while !stop.load(Ordering::SeqCst) {
        let batch = next..next + 20;
        next = batch.end;
        device.heartbeats(batch.clone());
        committed = device.ack("a batch", |ranges| ranges.contains(batch.end - 1));
        acked.store(batch.end - 1, Ordering::SeqCst);
    }
    committed
}

#[test]
fn a_backup_beside_constant_writing_is_of_one_moment_and_holds_nobody_up() {
    let (data, place) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let server = Server::start(data.path());
    let ids = ["cam-1", "cam-2", "cam-3"];
    let tokens = ids.map(|id| register(data.path(), id));
    let stop = Arc::new(AtomicBool::new(false));
    let acked: [Arc<AtomicU64>; 3] = Default::default();
    let mut made: Vec<(PathBuf, [u64; 3])> = Vec::new();
    std::thread::scope(|threads| {
        for ((id, token), acked) in ids.iter().zip(&tokens).zip(&acked) {
            let (server, stop, acked) = (&server, stop.clone(), acked.clone());
            threads.spawn(move || write_on(server, id, token, stop, acked));
        }
        let now = || [0, 1, 2].map(|at: usize| acked[at].load(Ordering::SeqCst));
        process::eventually("records", || now().iter().all(|seq| *seq > 100).then_some(()));
        for round in 0..4 {
            let before = now();
            let to = place.path().join(format!("{round}"));
            assert_eq!(succeeds(backup(data.path(), &to)), to.to_str().unwrap());
            made.push((to, before));
            process::eventually("progress", || {
                now().iter().zip(before).all(|(now, before)| *now > before).then_some(())
            });
        }
        stop.store(true, Ordering::SeqCst);
    });
    assert_eq!(names(place.path()), ["0", "1", "2", "3"], "nothing but the files is left");
    for (file, acked) in made {
        let copy = tempfile::tempdir().unwrap();
        let told = succeeds(restore(copy.path(), &file));
        assert!(told.contains("everybody has to log in again"), "{told}");
        assert!(!told.contains("data from before"), "there was none: {told}");
        let database = rusqlite::Connection::open(copy.path().join("fleet.db")).unwrap();
        for (id, acked) in ids.iter().zip(acked) {
            let row: String = database
                .query_row("SELECT id FROM devices WHERE device_id = ?1", [id], |row| row.get(0))
                .unwrap();
            let committed: String = database
                .query_row("SELECT committed FROM record_states WHERE device_id = ?1", [&row], |row| {
                    row.get(0)
                })
                .unwrap();
            let ranges: Vec<(i64, i64)> = serde_json::from_str(&committed).unwrap();
            let named: i64 = ranges.iter().map(|(lo, hi)| hi - lo + 1).sum();
            let [(1, last)] = ranges.as_slice() else { panic!("{id}: {ranges:?}") };
            assert!(
                *last >= acked.cast_signed(),
                "{id}: {acked} was acknowledged before the backup began, it has {last}"
            );
            // Whatever day it is: all tables together have exactly what the committed set names.
            let tables: Vec<String> = database
                .prepare(
                    "SELECT name FROM sqlite_master WHERE name GLOB 'heartbeats_[0-9]*' AND type = 'table'",
                )
                .unwrap()
                .query_map([], |row| row.get(0))
                .unwrap()
                .collect::<Result<_, _>>()
                .unwrap();
            let stored: i64 = tables
                .iter()
                .map(|table| {
                    let count = format!("SELECT count(DISTINCT seq) FROM {table} WHERE device_id = ?1");
                    database.query_row(&count, [&row], |row| row.get::<_, i64>(0)).unwrap()
                })
                .sum();
            assert_eq!(stored, named, "{id}: of one moment");
        }
    }
}

#[test]
fn a_backup_goes_through_a_pipe_into_another_folder() {
    let (here, there) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    add_org(here.path(), "moved");
    let mut from = run(here.path(), &["backup", "-"]).stdout(Stdio::piped()).spawn().unwrap();
    let mut to = run(there.path(), &["restore", "-"]);
    to.stdin(from.stdout.take().unwrap());
    let done: Output = to.output().unwrap();
    assert!(done.status.success(), "{}", text(&done.stderr));
    assert!(from.wait().unwrap().success());
    assert!(orgs(there.path()).contains("moved"));
}

#[test]
fn a_running_server_is_not_restored_under_and_goes_on() {
    let (data, place) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let mut server = Server::start(data.path());
    let file = place.path().join("backup");
    succeeds(backup(data.path(), &file));
    fails(restore(data.path(), &file), "another fleetd (process");
    fails(backup(data.path(), &file), "is there already");
    add_org(data.path(), "later");
    assert!(!server.is_dead() && server.terminate());
    fails(run(data.path(), &["restore", file.to_str().unwrap()]), "--force");
    let told = succeeds(restore(data.path(), &file));
    assert!(told.contains("before-restore-") && told.contains("0 open commands"), "{told}");
    assert!(!orgs(data.path()).contains("later"));
    let server = Server::start(data.path());
    server.sign_in();
    assert!(server.terminate());
}

#[test]
fn on_a_full_disk_there_is_a_clear_error_and_no_half_file() {
    let (data, place) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    add_org(data.path(), "acme");
    let whole = place.path().join("whole");
    succeeds(backup(data.path(), &whole));
    let limited = |kilobytes: u64, arguments: &[&str]| {
        let mut command = Command::new("sh");
        let script = format!("trap '' XFSZ; ulimit -f {kilobytes}; exec \"$0\" \"$@\"");
        command.args(["-c", &script, env!("CARGO_BIN_EXE_fleetd")]).args(arguments);
        command.env_clear().env("FLEET_DATA_DIR", data.path()).env("PATH", "/usr/bin:/bin");
        command
    };
    let to = place.path().join("x");
    // The unit is 512 bytes: from no room for the copy to no room for its last part.
    for blocks in [1, 100, 600] {
        fails(limited(blocks, &["backup", to.to_str().unwrap()]), "full");
        assert_eq!(names(place.path()), ["whole"]);
    }
    for blocks in [1, 100, 600] {
        fails(limited(blocks, &["restore", "--force", whole.to_str().unwrap()]), "full");
        assert!(!names(data.path()).iter().any(|name| name.contains("restore") || name.starts_with('.')));
        assert!(orgs(data.path()).contains("acme"));
    }
    let mut to_full = run(data.path(), &["backup", "-"]);
    let full = std::fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
    to_full.stdout(full).stderr(Stdio::piped());
    let failed = to_full.output().unwrap();
    assert!(!failed.status.success() && text(&failed.stderr).contains("the disk is full"));
}

#[test]
fn a_backup_that_is_killed_leaves_a_whole_file_or_none() {
    let (data, place) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    add_org(data.path(), "acme");
    let to = place.path().join("backup");
    for &point in failpoint::BACKUP {
        let _ = std::fs::remove_file(&to);
        let mut command = backup(data.path(), &to);
        command.env(protocol::failpoint::VARIABLE, point);
        assert!(!output(command, "").status.success(), "{point}");
        let whole = point == failpoint::BACKUP_AFTER_RENAME;
        assert_eq!(to.exists(), whole, "{point}");
        if whole {
            let copy = tempfile::tempdir().unwrap();
            succeeds(restore(copy.path(), &to));
            assert!(orgs(copy.path()).contains("acme"));
        }
    }
    std::fs::remove_file(&to).unwrap();
    assert_eq!(names(place.path()).len(), 1, "what the last one left");
    succeeds(backup(data.path(), &to));
    assert_eq!(names(place.path()), ["backup"]);
}

/// Data with a log that was not brought into the database, and a backup of what was there before.
fn old_and_new(data: &Path, file: &Path) {
    std::fs::create_dir_all(data.join("blobs")).unwrap();
    std::fs::write(data.join("blobs/which"), "new").unwrap();
    add_org(data, "in-backup");
    succeeds(backup(data, file));
    std::fs::write(data.join("blobs/which"), "old").unwrap();
    let server = Server::start(data);
    add_org(data, "later");
    // Many pages, so that a log applied to the wrong database would show.
    for round in 0..5 {
        register(data, &format!("cam-{round}"));
    }
    server.kill();
    assert!(std::fs::metadata(data.join("fleet.db-wal")).unwrap().len() > 0);
}

/// Looks at the data as the next command finds it: old or new, never a mix. Says whether it is the new.
#[track_caller]
fn is_new(data: &Path, when: &str) -> bool {
    let listed = orgs(data);
    assert!(listed.contains("in-backup"), "{when}: {listed}");
    let is_new = !listed.contains("later");
    let database = rusqlite::Connection::open(data.join("fleet.db")).unwrap();
    let sound: String = database.query_row("PRAGMA integrity_check", [], |row| row.get(0)).unwrap();
    assert_eq!(sound, "ok", "{when}");
    let devices: i64 = database.query_row("SELECT count(*) FROM devices", [], |row| row.get(0)).unwrap();
    assert_eq!(devices, if is_new { 0 } else { 5 }, "{when}");
    let blob = std::fs::read_to_string(data.join("blobs/which")).unwrap();
    assert_eq!(blob, if is_new { "new" } else { "old" }, "{when}: the files go with the database");
    assert!(!data.join("fleet.db-restore").exists(), "{when}");
    if is_new {
        let aside = names(data).into_iter().find(|name| name.starts_with("before-restore-")).unwrap();
        let old = rusqlite::Connection::open(data.join(aside).join("fleet.db")).unwrap();
        let devices: i64 = old.query_row("SELECT count(*) FROM devices", [], |row| row.get(0)).unwrap();
        assert_eq!(devices, 5, "{when}: the old data is whole, with its log");
    }
    is_new
}

#[test]
fn a_restore_that_is_killed_leaves_the_old_data_or_the_new_and_never_a_mix() {
    let place = tempfile::tempdir().unwrap();
    let (start, file) = (place.path().join("start"), place.path().join("backup"));
    std::fs::create_dir(&start).unwrap();
    old_and_new(&start, &file);
    let fresh = |name: &str| {
        let data = place.path().join(name);
        let copied = Command::new("cp").args(["-a", start.to_str().unwrap()]).arg(&data).status().unwrap();
        assert!(copied.success());
        data
    };
    let mut points: Vec<(String, bool)> = Vec::new();
    for &point in failpoint::RESTORE {
        let decided = failpoint::RESTORE.iter().position(|one| *one == point)
            >= failpoint::RESTORE.iter().position(|one| *one == failpoint::RESTORE_AFTER_DECISION);
        // Database, log, its index, files; and the two new ones.
        let times = if point == failpoint::RESTORE_AFTER_MOVE { 6 } else { 1 };
        points.extend((1..=times).map(|time| (format!("{point}#{time}"), decided)));
    }
    for (point, decided) in points {
        let data = fresh("killed");
        let mut command = restore(&data, &file);
        command.env(protocol::failpoint::VARIABLE, &point);
        assert!(!output(command, "").status.success(), "{point} was not reached");
        if decided {
            // Killed once more where it is taken up again.
            let mut again = run(&data, &["org", "list"]);
            again.env(protocol::failpoint::VARIABLE, format!("{}#2", failpoint::RESTORE_AFTER_MOVE));
            let _ = output(again, "");
        }
        assert_eq!(is_new(&data, &point), decided, "{point}");
        // The next attempt works, and leaves nothing of the first.
        succeeds(restore(&data, &file));
        assert!(is_new(&data, &point) && !names(&data).iter().any(|name| name.starts_with('.')), "{point}");
        std::fs::remove_dir_all(&data).unwrap();
    }
    let (mut old, mut new) = (0, 0);
    for round in 0..8 {
        let data = fresh("random");
        let mut command = restore(&data, &file);
        let mut child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        std::thread::sleep(Duration::from_millis(round * 12));
        let _ = child.kill();
        child.wait().unwrap();
        let which = if is_new(&data, &format!("after {} ms", round * 12)) { &mut new } else { &mut old };
        *which += 1;
        std::fs::remove_dir_all(&data).unwrap();
    }
    assert!(old > 0, "{old} old, {new} new");
}

#[test]
fn a_server_that_starts_after_a_power_cut_finishes_the_restore_first() {
    let (data, place) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let file = place.path().join("backup");
    old_and_new(data.path(), &file);
    let mut command = restore(data.path(), &file);
    command.env(protocol::failpoint::VARIABLE, format!("{}#2", failpoint::RESTORE_AFTER_MOVE));
    assert!(!output(command, "").status.success());
    let server = Server::start(data.path());
    let orgs = orgs(data.path());
    assert!(orgs.contains("in-backup") && !orgs.contains("later"), "{orgs}");
    assert!(server.terminate());
}
