//! Brings a SQLite file to the schema that this fleetd knows, and refuses files that are not ours to touch.

use std::{path::Path, time::Duration};

use rusqlite::Connection;

use super::{
    engine::StoreError,
    functions,
    lock::{DataLock, LockError},
    sqlite::classify_open,
};

mod embedded {
    refinery::embed_migrations!("migrations/sqlite");
}

/// Marks a file as ours: "R58F".
const APPLICATION_ID: i64 = 0x5235_3846;

/// How long a command-line tool waits for another process that is migrating.
pub(super) const LOCK_WAIT: Duration = Duration::from_secs(5);

/// Checks whose file it is and applies what is missing. `locked`: the caller holds the data folder's lock.
pub(super) fn migrate(
    connection: &mut Connection,
    path: &Path,
    locked: bool,
    wait: Duration,
) -> Result<(), StoreError> {
    if is_current(connection, path)? {
        return Ok(());
    }
    // The schema changes only under the folder's lock: a running server must not find its tables altered.
    let _lock = if locked { None } else { Some(wait_for_lock(path, wait)?) };
    if is_current(connection, path)? {
        return Ok(());
    }
    let failed = |source: rusqlite::Error| classify_open(source, path);
    // Only has an effect on a file without tables; lets retention give space back to the file system.
    connection.pragma_update(None, "auto_vacuum", "INCREMENTAL").map_err(failed)?;
    connection.pragma_update(None, "application_id", APPLICATION_ID).map_err(failed)?;
    chain_old_days(connection).map_err(failed)?;
    run(embedded::migrations::runner(), connection, path)
}

fn run(runner: refinery::Runner, connection: &mut Connection, path: &Path) -> Result<(), StoreError> {
    functions::register(connection).map_err(|source| classify_open(source, path))?;
    runner.set_grouped(true).run(connection).map(drop).map_err(|source| StoreError::Engine {
        operation: format!("migrate {}", path.display()),
        source: Box::new(source),
    })
}

/// The tables of days are made as days come, so no migration names them. Those from before version 15 lack the column that
/// names a device's row before; older programs do not mind it.
fn chain_old_days(connection: &Connection) -> rusqlite::Result<()> {
    let find = "SELECT t.name FROM sqlite_master t WHERE t.type = 'table' AND t.name GLOB 'heartbeats_[0-9]*' \
                AND NOT EXISTS (SELECT 1 FROM pragma_table_info(t.name) c WHERE c.name = 'before')";
    let tables: Vec<String> =
        connection.prepare(find)?.query_map([], |row| row.get(0))?.collect::<rusqlite::Result<_>>()?;
    for table in tables {
        connection.execute_batch(&format!("ALTER TABLE \"{table}\" ADD COLUMN before BIGINT"))?;
    }
    Ok(())
}

/// A database as an older program left it.
#[cfg(test)]
pub(crate) fn make_at_version(path: &Path, version: i32) -> Connection {
    let mut connection = Connection::open(path).expect("a new file");
    connection.pragma_update(None, "application_id", APPLICATION_ID).expect("a new file");
    let runner = embedded::migrations::runner().set_target(refinery::Target::Version(version));
    run(runner, &mut connection, path).expect("our own migrations");
    connection
}

/// Brings a database that nobody else knows of to the schema of this program: a copy that is about to be used.
///
/// # Errors
/// [`StoreError`]: foreign, newer or damaged.
pub fn migrate_alone(connection: &mut Connection, path: &Path) -> Result<(), StoreError> {
    migrate(connection, path, true, Duration::ZERO)
}

fn wait_for_lock(database: &Path, wait: Duration) -> Result<DataLock, StoreError> {
    let folder = database.parent().unwrap_or(Path::new("."));
    match DataLock::acquire_within(folder, wait) {
        Ok(lock) => Ok(lock),
        Err(LockError::InUse { .. }) => Err(StoreError::ServerRunning { path: database.to_owned() }),
        Err(LockError::File { path, source }) => Err(StoreError::File { operation: "lock", path, source }),
    }
}

/// Whether a trigger, by the text that made it, is one of a migration of ours.
#[must_use]
pub fn is_our_trigger(sql: &str) -> bool {
    let ours = |text: &str| text.contains(&format!("{sql};"));
    sql.starts_with("CREATE TRIGGER ")
        && embedded::migrations::runner().get_migrations().iter().any(|one| one.sql().is_some_and(ours))
}

/// The newest schema that this program knows.
#[must_use]
pub fn known_version() -> i64 {
    embedded::migrations::runner()
        .get_migrations()
        .iter()
        .map(|one| i64::from(one.version()))
        .max()
        .unwrap_or(0)
}

pub(super) fn number(connection: &Connection, path: &Path, sql: &str) -> Result<i64, StoreError> {
    connection.query_row(sql, [], |row| row.get(0)).map_err(|source| classify_open(source, path))
}

/// Whether the file is a database of fleetd, of any version; false for one without tables.
///
/// # Errors
/// [`StoreError::Foreign`], [`StoreError::Corrupt`].
pub fn is_ours(connection: &Connection, path: &Path) -> Result<bool, StoreError> {
    let tables = number(connection, path, "SELECT count(*) FROM sqlite_master")?;
    let application = number(connection, path, "PRAGMA application_id")?;
    if application != APPLICATION_ID {
        // An empty file is nobody's; so is one where the very first migration was cut off.
        return if tables == 0 { Ok(false) } else { Err(StoreError::Foreign { path: path.to_owned() }) };
    }
    let history = "SELECT count(*) FROM sqlite_master WHERE name = 'refinery_schema_history'";
    Ok(number(connection, path, history)? > 0)
}

fn is_current(connection: &Connection, path: &Path) -> Result<bool, StoreError> {
    if !is_ours(connection, path)? {
        return Ok(false);
    }
    let found = number(connection, path, "SELECT coalesce(max(version), 0) FROM refinery_schema_history")?;
    let known = known_version();
    if found > known {
        return Err(StoreError::Newer { path: path.to_owned(), found, known });
    }
    Ok(found == known)
}
