#![allow(clippy::unwrap_used)]

mod hostile;
mod manifest;
mod meaning;

use std::path::{Path, PathBuf};

use super::{BackupError, Made, Options, Progress, Restored, Target, create, restore};
use crate::{clock::Clock, config::Config, store::Store};

/// A data folder, and a place for backups.
struct Place {
    folder: tempfile::TempDir,
    config: Config,
    clock: Clock,
}

const NOW: i64 = 1_766_916_000_000;

impl Place {
    /// With the database of a first start.
    fn new() -> Self {
        let place = Self::empty();
        std::fs::create_dir(&place.config.data_dir).unwrap();
        Store::open(&place.config.database, None).unwrap().close();
        place
    }

    fn empty() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let config = Config::new(folder.path().join("data"));
        Self { folder, config, clock: Clock::fixed(NOW) }
    }

    fn file(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn data(&self, name: &str) -> PathBuf {
        self.config.data_dir.join(name)
    }

    fn back_up(&self, to: &str) -> Result<Made, BackupError> {
        create(&self.config, &Target::File(self.file(to)), &self.clock, &mut Progress::none())
    }

    fn restore(&self, from: &Path, force: bool) -> Result<Restored, BackupError> {
        let options = Options { from: Some(from.to_owned()), force };
        restore(&self.config, &options, &self.clock, &mut Progress::none())
    }

    fn open(&self) -> rusqlite::Connection {
        rusqlite::Connection::open(&self.config.database).unwrap()
    }

    fn sql(&self, sql: &str) {
        self.open().execute_batch(sql).unwrap();
    }

    fn number(&self, sql: &str) -> i64 {
        self.open().query_row(sql, [], |row| row.get(0)).unwrap()
    }

    /// The names in the data folder, sorted.
    fn names(&self) -> Vec<String> {
        names(&self.config.data_dir)
    }
}

fn names(folder: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(folder).unwrap();
    let mut names: Vec<String> =
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

#[test]
fn what_is_backed_up_comes_back_with_its_files_and_what_was_there_is_kept() {
    let place = Place::new();
    place.sql("UPDATE organizations SET name = 'before'");
    std::fs::create_dir_all(place.data("blobs/ab")).unwrap();
    std::fs::write(place.data("blobs/ab/one.tar.gz"), "one").unwrap();
    std::fs::write(place.data("blobs/empty"), "").unwrap();
    std::fs::write(place.data("blobs/.unfinished"), "x").unwrap();
    let made = place.back_up("backup").unwrap();
    let parts: Vec<&str> = made.manifest.parts.iter().map(|part| part.name.as_str()).collect();
    assert_eq!(parts, ["fleet.db", "blobs/ab/one.tar.gz", "blobs/empty"]);
    assert_eq!(names(place.folder.path()), ["backup", "data"], "no half file is left");
    use std::os::unix::fs::PermissionsExt;
    assert_eq!(std::fs::metadata(place.file("backup")).unwrap().permissions().mode() & 0o777, 0o600);

    place.sql("UPDATE organizations SET name = 'after'");
    std::fs::write(place.data("blobs/later"), "later").unwrap();
    let refused = place.restore(&place.file("backup"), false).unwrap_err();
    assert!(matches!(refused, BackupError::HasData { .. }), "{refused}");
    assert_eq!(place.number("SELECT count(*) FROM organizations WHERE name = 'after'"), 1);

    let done = place.restore(&place.file("backup"), true).unwrap();
    assert_eq!(place.number("SELECT count(*) FROM organizations WHERE name = 'before'"), 1);
    assert_eq!(std::fs::read(place.data("blobs/ab/one.tar.gz")).unwrap(), b"one");
    assert!(!place.data("blobs/later").exists());
    let [aside] = done.aside.as_slice() else { panic!("{:?}", done.aside) };
    assert_eq!(names(aside), ["blobs", "fleet.db"]);
    assert_eq!(std::fs::read(aside.join("blobs/later")).unwrap(), b"later");
    let old = rusqlite::Connection::open(aside.join("fleet.db")).unwrap();
    let name: String = old.query_row("SELECT name FROM organizations", [], |row| row.get(0)).unwrap();
    assert_eq!(name, "after");
    let left = ["before-restore-20251228T100000Z", "blobs", "fleet.db", "fleetd.lock"];
    assert_eq!(place.names(), left);
    // Twice at one time: nothing is overwritten.
    let again = place.restore(&place.file("backup"), true).unwrap();
    assert_ne!(again.aside, done.aside);
}

#[test]
fn a_backup_goes_into_an_empty_folder_without_force() {
    let (here, there) = (Place::new(), Place::empty());
    here.sql("UPDATE organizations SET name = 'moved'");
    here.back_up("backup").unwrap();
    let done = there.restore(&here.file("backup"), false).unwrap();
    assert_eq!(done.aside, Vec::<PathBuf>::new());
    assert_eq!(there.number("SELECT count(*) FROM organizations WHERE name = 'moved'"), 1);
    Store::open(&there.config.database, None).unwrap().close();
}

#[test]
fn a_database_outside_of_the_data_folder_is_restored_where_it_is() {
    let mut place = Place::new();
    std::fs::create_dir(place.file("elsewhere")).unwrap();
    place.config.database = place.file("elsewhere").join("my.db");
    Store::open(&place.config.database, None).unwrap().close();
    std::fs::create_dir(place.data("blobs")).unwrap();
    std::fs::write(place.data("blobs/one"), "one").unwrap();
    place.back_up("backup").unwrap();
    std::fs::write(place.data("blobs/one"), "other").unwrap();
    let done = place.restore(&place.file("backup"), true).unwrap();
    assert_eq!(done.aside.len(), 2, "{:?}", done.aside);
    assert_eq!(std::fs::read(place.data("blobs/one")).unwrap(), b"one");
    assert_eq!(place.number("SELECT count(*) FROM organizations"), 1);
    let left = names(&place.file("elsewhere"));
    assert_eq!(left, ["before-restore-20251228T100000Z", "fleetd.lock", "my.db"]);
}

#[test]
fn a_backup_replaces_no_file_and_a_folder_gets_one_named_by_the_time() {
    let place = Place::new();
    std::fs::write(place.file("taken"), "mine").unwrap();
    let refused = place.back_up("taken").unwrap_err();
    assert!(matches!(refused, BackupError::Exists { .. }), "{refused}");
    assert_eq!(std::fs::read(place.file("taken")).unwrap(), b"mine");
    std::fs::create_dir(place.file("backups")).unwrap();
    let made = place.back_up("backups").unwrap();
    assert_eq!(made.path.unwrap(), place.file("backups").join("fleet-20251228T100000Z.tar.zst"));
    let missing = place.back_up("no/such/folder").unwrap_err();
    assert!(missing.to_string().contains("no/such"), "{missing}");
}

#[test]
fn without_a_database_or_with_a_damaged_one_there_is_no_backup() {
    let place = Place::empty();
    assert!(matches!(place.back_up("x"), Err(BackupError::NoDatabase { .. })));
    assert!(!place.config.data_dir.exists(), "nothing is made on the way");
    let place = Place::new();
    // Pages in the middle.
    let mut bytes = std::fs::read(&place.config.database).unwrap();
    let (from, to) = (bytes.len() / 4, bytes.len() * 3 / 4);
    bytes[from..to].fill(0xAA);
    std::fs::write(&place.config.database, bytes).unwrap();
    let refused = place.back_up("x").unwrap_err();
    assert!(matches!(refused, BackupError::Unsound { .. } | BackupError::Sqlite { .. }), "{refused}");
    assert_eq!(names(place.folder.path()), ["data"]);
}

#[test]
fn a_damaged_database_and_its_log_are_set_aside_together() {
    let place = Place::new();
    place.back_up("backup").unwrap();
    std::fs::write(&place.config.database, "rubbish").unwrap();
    std::fs::write(place.data("fleet.db-wal"), "old log").unwrap();
    std::fs::write(place.data("fleet.db-shm"), "old index").unwrap();
    let done = place.restore(&place.file("backup"), true).unwrap();
    assert_eq!(names(&done.aside[0]), ["fleet.db", "fleet.db-shm", "fleet.db-wal"]);
    assert_eq!(place.number("SELECT count(*) FROM organizations"), 1);
}

#[test]
fn nobody_has_the_database_open_while_it_is_replaced() {
    let place = Place::new();
    place.back_up("backup").unwrap();
    let store = Store::open(&place.config.database, None).unwrap();
    let refused = place.restore(&place.file("backup"), true).unwrap_err();
    assert!(refused.to_string().contains("another fleetd command"), "{refused}");
    store.close();
    let server = crate::store::DataLock::acquire(&place.config.data_dir).unwrap();
    let refused = place.restore(&place.file("backup"), true).unwrap_err();
    assert!(refused.to_string().contains("another fleetd (process"), "{refused}");
    drop(server);
    place.restore(&place.file("backup"), true).unwrap();
}

#[test]
fn what_an_earlier_attempt_has_left_is_swept_up_and_what_is_in_use_is_not() {
    let place = Place::new();
    let dead = place.file(".fleetd-backup-1.partial");
    std::fs::create_dir(&dead).unwrap();
    std::fs::write(dead.join("fleet.db"), "half").unwrap();
    let alive = super::work::WorkFolder::make(place.folder.path(), "backup").unwrap();
    place.back_up("backup").unwrap();
    assert!(!dead.exists() && alive.path().exists());
}

#[test]
fn an_older_database_is_brought_up_to_date_and_then_marked() {
    let place = Place::new();
    std::fs::remove_file(&place.config.database).unwrap();
    drop(crate::store::make_at_version(&place.config.database, 13));
    let made = place.back_up("backup").unwrap();
    assert_eq!(made.manifest.schema_version, 13);
    place.restore(&place.file("backup"), true).unwrap();
    assert_eq!(
        place.number("SELECT max(version) FROM refinery_schema_history"),
        crate::store::known_version()
    );
    assert_eq!(place.number("SELECT count(*) FROM audit_log WHERE action = 'server.restore'"), 1);
}
