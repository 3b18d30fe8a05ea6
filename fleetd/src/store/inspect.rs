//! A look at a database without opening it as a server does: nothing is migrated, nothing is made.

use std::path::Path;
use std::time::Duration;

use rusqlite::{Connection, OpenFlags};

use super::engine::StoreError;
use super::folder::FolderLock;
use super::migrate::{is_ours, known_version, number};
use super::sqlite::classify_open;

/// How long SQLite waits for a lock: the server's commits are short.
const BUSY: Duration = Duration::from_secs(10);

/// What was seen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Inspected {
    /// The schema it has; 0: none yet.
    pub schema_version: i64,
    /// What is seen only with the schema of this program.
    pub contents: Option<Contents>,
}

/// What is in a database of this program's schema.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Contents {
    /// Active people with the role admin.
    pub admins: i64,
    /// Active people who have not chosen a password of their own yet.
    pub first_passwords: i64,
    /// The time of the newest entry of the audit log, in ms since 1970; 0: none.
    pub newest_ms: i64,
}

/// Looks at the database in this file. `thorough`: every page of it is read and checked, which takes time.
///
/// # Errors
/// [`StoreError`]: foreign, newer, damaged, being restored, or not to be opened.
pub fn inspect(path: &Path, thorough: bool) -> Result<Inspected, StoreError> {
    let _folder = FolderLock::enter(path)?;
    let failed = |source| classify_open(source, path);
    // Not read-only: without a server this may be the first to open the log, and has to be able to.
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(path, flags).map_err(failed)?;
    connection.busy_timeout(BUSY).map_err(failed)?;
    if !is_ours(&connection, path)? {
        return Ok(Inspected { schema_version: 0, contents: None });
    }
    let count = |sql: &str| number(&connection, path, sql);
    let schema_version = count("SELECT coalesce(max(version), 0) FROM refinery_schema_history")?;
    let known = known_version();
    if schema_version > known {
        return Err(StoreError::Newer { path: path.to_owned(), found: schema_version, known });
    }
    if thorough {
        let found: String =
            connection.query_row("PRAGMA quick_check(1)", [], |row| row.get(0)).map_err(failed)?;
        if found != "ok" {
            return Err(StoreError::Corrupt { path: path.to_owned(), source: found.into() });
        }
    }
    if schema_version < known {
        return Ok(Inspected { schema_version, contents: None });
    }
    let active = "SELECT count(*) FROM users WHERE kind = 'person' AND is_active = 1 AND";
    let contents = Contents {
        admins: count(&format!("{active} role = 'admin'"))?,
        first_passwords: count(&format!("{active} must_change_password = 1"))?,
        newest_ms: count("SELECT coalesce(max(at), 0) FROM audit_log")?,
    };
    Ok(Inspected { schema_version, contents: Some(contents) })
}
