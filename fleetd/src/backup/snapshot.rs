//! A copy of the database as of one moment, taken while the server goes on.
//!
//! One read transaction holds the moment still, SQLite's backup interface copies the pages in it. In WAL mode that
//! stops nobody: the writer appends to its log and goes on. The price is that the log cannot start anew meanwhile, so
//! the copy is made as fast as the disk takes it (packing comes afterwards, from the copy), and it is given up if the
//! log grows too far. Without the transaction SQLite would begin anew at every commit of the server, and never end.

use std::{
    fs,
    path::{Path, PathBuf},
};

use rusqlite::{Connection, OpenFlags, backup::Backup};

use super::{BackupError, Progress};
use crate::store::{
    StoreError,
    folder::{FolderLock, with_suffix},
    is_our_trigger, is_ours,
};

/// Pages copied between two looks at the log.
const PAGES_AT_ONCE: i32 = 2048;
/// The log may grow by so much while the copy is made, in bytes.
const LOG_GROWS_MAX: u64 = 1 << 30;
/// How long SQLite waits for a lock: the server's commits are short.
const BUSY: std::time::Duration = std::time::Duration::from_secs(30);

/// A copy of the database.
#[derive(Debug)]
pub(super) struct Snapshot {
    /// One whole file, without a log; fsynced.
    pub(super) path: PathBuf,
    /// Its schema.
    pub(super) schema_version: i64,
    /// The moment of which it is, ms since 1970.
    pub(super) taken_at: i64,
}

/// Copies `database` to the new file `to`. Works beside a server, and changes nothing of the database.
pub(super) fn take(
    database: &Path,
    to: &Path,
    now_ms: impl Fn() -> i64,
    progress: &mut Progress,
) -> Result<Snapshot, BackupError> {
    if !fs::metadata(database).is_ok_and(|found| found.is_file() && found.len() > 0) {
        return Err(BackupError::NoDatabase { path: database.to_owned() });
    }
    // No restore changes the file under our hands.
    let _inside = FolderLock::enter(database)?;
    let reading = BackupError::sqlite("read", database);
    let source = open(database).map_err(&reading)?;
    if !is_ours(&source, database)? {
        return Err(BackupError::NoDatabase { path: database.to_owned() });
    }
    source.execute_batch("BEGIN").map_err(&reading)?;
    // The first read is the moment.
    let schema_version: i64 = source
        .query_row("SELECT max(version) FROM refinery_schema_history", [], |row| row.get(0))
        .map_err(&reading)?;
    let taken_at = now_ms();
    copy(&source, database, to, progress)?;
    source.execute_batch("COMMIT").map_err(&reading)?;
    drop(source);
    check(to, database, progress)?;
    fs::File::open(to).and_then(|file| file.sync_all()).map_err(BackupError::file("write", to))?;
    Ok(Snapshot { path: to.to_owned(), schema_version, taken_at })
}

fn open(database: &Path) -> rusqlite::Result<Connection> {
    // Not read-only: without a server this may be the first to open the log, and has to be able to.
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(database, flags)?;
    connection.busy_timeout(BUSY)?;
    Ok(connection)
}

fn copy(source: &Connection, database: &Path, to: &Path, progress: &mut Progress) -> Result<(), BackupError> {
    use rusqlite::backup::StepResult::{Done, More};

    let writing = BackupError::sqlite("write", to);
    drop(super::work::new_file(to)?);
    let mut target = Connection::open(to).map_err(&writing)?;
    // Nobody needs half of it: it is fsynced once, at the end.
    for (name, value) in [("journal_mode", "OFF"), ("synchronous", "OFF")] {
        target
            .pragma_update_and_check(None, name, value, |_| Ok(()))
            .or_else(ignore_no_rows)
            .map_err(&writing)?;
    }
    let log = with_suffix(database, "-wal");
    let log_bytes = || fs::metadata(&log).map_or(0, |log| log.len());
    let before = log_bytes();
    let backup = Backup::new(source, &mut target).map_err(&writing)?;
    loop {
        let step = backup.step(PAGES_AT_ONCE).map_err(&writing)?;
        let at = backup.progress();
        let pages = |count: i32| u64::try_from(count).unwrap_or(0);
        progress.at("copying", pages(at.pagecount - at.remaining), pages(at.pagecount));
        let grown = log_bytes().saturating_sub(before);
        match step {
            Done => break,
            More if grown > LOG_GROWS_MAX => {
                return Err(BackupError::TooSlow { path: to.to_owned(), megabytes: grown >> 20 });
            }
            More => {}
            // Busy or locked: the transaction stands and nobody else has the copy, so neither comes.
            _ => std::thread::sleep(std::time::Duration::from_millis(20)),
        }
    }
    drop(backup);
    // One file, that stands for itself.
    target.pragma_update_and_check(None, "journal_mode", "DELETE", |_| Ok(())).map_err(&writing)?;
    target.close().map_err(|(_, source)| writing(source))
}

fn ignore_no_rows(error: rusqlite::Error) -> rusqlite::Result<()> {
    if matches!(error, rusqlite::Error::QueryReturnedNoRows) { Ok(()) } else { Err(error) }
}

/// A backup that cannot be restored is worse than none. Looks at the copy, so that the server notices nothing.
fn check(copy: &Path, database: &Path, progress: &mut Progress) -> Result<(), BackupError> {
    progress.at("checking", 0, 1);
    let reading = BackupError::sqlite("read", copy);
    let connection = Connection::open_with_flags(copy, OpenFlags::SQLITE_OPEN_READ_ONLY).map_err(&reading)?;
    let found: String =
        connection.query_row("PRAGMA quick_check(1)", [], |row| row.get(0)).map_err(&reading)?;
    progress.at("checking", 1, 1);
    if found != "ok" {
        return Err(BackupError::Unsound { path: database.to_owned(), problem: found });
    }
    Ok(())
}

/// Opens a database that came from outside, looks all of it through, and refuses what is not ours.
pub(super) fn open_unpacked(path: &Path) -> Result<Connection, BackupError> {
    let reading = BackupError::sqlite("read", path);
    let open = || -> rusqlite::Result<Connection> {
        let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let connection = Connection::open_with_flags(path, flags)?;
        connection.pragma_update(None, "trusted_schema", false)?;
        connection.pragma_update(None, "cell_size_check", true)?;
        connection.pragma_update(None, "foreign_keys", true)?;
        Ok(connection)
    };
    let connection = open().map_err(&reading)?;
    let text = |sql: &str| connection.query_row(sql, [], |row| row.get::<_, String>(0));
    let damaged = |what: String| Err(BackupError::Damaged(what));
    match text("PRAGMA integrity_check(1)") {
        Ok(found) if found == "ok" => {}
        Ok(found) => return damaged(format!("its database is damaged ({found})")),
        Err(error) => return damaged(format!("its database cannot be read ({error})")),
    }
    // They would run in our name: none but the triggers that we made ourselves.
    let foreign = "SELECT count(*) FROM sqlite_master WHERE type NOT IN ('table', 'index', 'trigger') \
                   OR sql LIKE '%CREATE%VIRTUAL%TABLE%'";
    let count = |sql: &str| connection.query_row(sql, [], |row| row.get::<_, i64>(0)).map_err(&reading);
    let triggers: Vec<String> = connection
        .prepare("SELECT sql FROM sqlite_master WHERE type = 'trigger'")
        .and_then(|mut all| all.query_map([], |row| row.get(0))?.collect())
        .map_err(&reading)?;
    let foreign = count(foreign)? > 0 || !triggers.iter().all(|sql| is_our_trigger(sql));
    if foreign || !is_ours(&connection, path).or_else(foreign_is_no)? {
        return Err(BackupError::NotABackup("its database is not one of fleetd".to_owned()));
    }
    if count("SELECT count(*) FROM pragma_foreign_key_check")? > 0 {
        return damaged("its database refers to rows that it does not have".to_owned());
    }
    connection.pragma_update_and_check(None, "journal_mode", "DELETE", |_| Ok(())).map_err(&reading)?;
    connection.pragma_update(None, "synchronous", "FULL").map_err(&reading)?;
    Ok(connection)
}

fn foreign_is_no(error: StoreError) -> Result<bool, StoreError> {
    match error {
        StoreError::Foreign { .. } => Ok(false),
        other => Err(other),
    }
}
