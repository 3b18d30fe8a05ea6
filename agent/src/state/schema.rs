//! The layout of the state database, and the checks that it must pass before it is trusted.

use std::path::Path;

use nix::unistd::{AccessFlags, access};
use protocol::id::StateId;
use rusqlite::{Connection, OptionalExtension, TransactionBehavior};

use super::error::{Damage, StateError};

/// "R58F": marks the file as ours.
const APPLICATION_ID: i64 = 0x5235_3846;
/// Layout version of this agent.
pub(super) const VERSION: i64 = 3;

/// Room for the outbox at its largest, the journal, and the free pages between. A safety net: the outbox keeps itself
/// smaller.
const MAX_PAGES: i64 = 10_240;

/// Layout version 1.
const TABLES: &str = "
CREATE TABLE meta (
    only_row       INTEGER PRIMARY KEY CHECK (only_row = 1),
    state_id       BLOB    NOT NULL CHECK (length(state_id) = 8),
    next_seq       INTEGER NOT NULL CHECK (next_seq >= 1),
    connection     INTEGER NOT NULL CHECK (connection >= 0),
    journal_number INTEGER NOT NULL CHECK (journal_number >= 0),
    committed      BLOB    NOT NULL
) STRICT;
CREATE TABLE outbox (
    seq  INTEGER PRIMARY KEY CHECK (seq >= 1),
    kind INTEGER NOT NULL,
    body BLOB    NOT NULL
) STRICT;
CREATE TABLE journal (
    number        INTEGER PRIMARY KEY CHECK (number >= 1),
    command_id    TEXT    NOT NULL UNIQUE,
    state         TEXT    NOT NULL,
    kept_until_ms INTEGER NOT NULL
) STRICT;
CREATE TABLE inputs (
    position INTEGER PRIMARY KEY,
    name     TEXT    NOT NULL UNIQUE
) STRICT;
";

/// From version 1 to 2: the journal keeps commands that are open, and what was said of each last. Entries of version 1
/// have all ended with their first report.
const JOURNAL_OF_OPEN_COMMANDS: &str = "
ALTER TABLE journal ADD COLUMN report_seq INTEGER NOT NULL DEFAULT 1;
ALTER TABLE journal ADD COLUMN report BLOB;
ALTER TABLE journal ADD COLUMN result TEXT;
ALTER TABLE journal ADD COLUMN record_seq INTEGER NOT NULL DEFAULT 0;
ALTER TABLE journal ADD COLUMN envelope BLOB;
ALTER TABLE journal ADD COLUMN disruptive INTEGER NOT NULL DEFAULT 0;
ALTER TABLE journal ADD COLUMN delay_ms INTEGER NOT NULL DEFAULT 0;
ALTER TABLE journal ADD COLUMN received_boot_id TEXT;
ALTER TABLE journal ADD COLUMN received_boottime_ms INTEGER NOT NULL DEFAULT 0;
ALTER TABLE journal ADD COLUMN override_reason TEXT;
ALTER TABLE journal ADD COLUMN observed TEXT;
CREATE INDEX journal_results ON journal (number) WHERE result IS NOT NULL;
CREATE TABLE desired (
    only_row INTEGER PRIMARY KEY CHECK (only_row = 1),
    version  INTEGER NOT NULL CHECK (version >= 0),
    body     BLOB,
    reported BLOB
) STRICT;
INSERT INTO desired (only_row, version) VALUES (1, 0);
";

/// From version 2 to 3: below which number records may have been handed to a link. Of what was there before nobody knows.
const RELEASED: &str = "
ALTER TABLE meta ADD COLUMN released INTEGER NOT NULL DEFAULT 1 CHECK (released >= 1);
UPDATE meta SET released = next_seq;
";

/// Sets up a connection: durable commits, small caches.
pub(super) fn configure(connection: &Connection) -> rusqlite::Result<()> {
    connection.busy_timeout(std::time::Duration::from_secs(5))?;
    connection.query_row("PRAGMA journal_mode = WAL", [], |_| Ok(()))?;
    // FULL: a commit has been fsynced when it returns. The log is reused up to 1 MiB, the cache takes 256 KiB.
    connection.execute_batch(
        "PRAGMA synchronous = FULL; PRAGMA wal_autocheckpoint = 128; PRAGMA cache_size = -256; \
         PRAGMA mmap_size = 0; PRAGMA temp_store = MEMORY; PRAGMA foreign_keys = ON;",
    )?;
    connection.query_row("PRAGMA journal_size_limit = 1048576", [], |_| Ok(()))?;
    connection.query_row(&format!("PRAGMA max_page_count = {MAX_PAGES}"), [], |_| Ok(()))
}

/// Whether there is nothing in the database yet: just created, or its creation was cut off.
pub(super) fn is_blank(connection: &Connection) -> rusqlite::Result<bool> {
    let tables: i64 = connection.query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get(0))?;
    Ok(tables == 0 && pragma(connection, "application_id")? == 0 && pragma(connection, "user_version")? == 0)
}

/// Makes the tables and the identity, all or nothing.
pub(super) fn create(connection: &mut Connection, id: StateId, journal_number: i64) -> rusqlite::Result<()> {
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    transaction.execute_batch(TABLES)?;
    transaction.execute_batch(JOURNAL_OF_OPEN_COMMANDS)?;
    transaction.execute_batch(RELEASED)?;
    transaction.execute(
        "INSERT INTO meta (only_row, state_id, next_seq, connection, journal_number, committed) \
         VALUES (1, ?1, 1, 0, ?2, x'')",
        (&id.0[..], journal_number),
    )?;
    transaction.pragma_update(None, "application_id", APPLICATION_ID)?;
    transaction.pragma_update(None, "user_version", VERSION)?;
    transaction.commit()
}

/// Everything that must hold before the database is trusted; `file_number` is the highest journal number in use by the
/// file beside it. One of an earlier layout version is brought up to this one in between, all or nothing.
pub(super) fn check(connection: &mut Connection, path: &Path, file_number: u64) -> Result<(), StateError> {
    let sql = |operation| move |source| StateError::database(operation, path, source);
    let damaged = |damage| Err(StateError::damaged(path, damage));

    // A later format that this SQLite may read and not write; a disk that cannot be written is another matter.
    let read_only = connection.is_readonly("main").map_err(sql("look at the database"))?;
    if read_only && access(path, AccessFlags::W_OK).is_ok() {
        return damaged(Damage::Unreadable("it is in a format that can only be read".to_owned()));
    }
    if pragma(connection, "application_id").map_err(sql("read the layout version"))? != APPLICATION_ID {
        return damaged(Damage::Foreign);
    }
    let found = pragma(connection, "user_version").map_err(sql("read the layout version"))?;
    if found > VERSION {
        return damaged(Damage::Newer { found, known: VERSION });
    }
    if found < 1 {
        return damaged(Damage::Foreign);
    }
    let verdict: String = connection
        .query_row("PRAGMA integrity_check(1)", [], |row| row.get(0))
        .map_err(sql("check the database"))?;
    if verdict != "ok" {
        return damaged(Damage::Unreadable(verdict.chars().take(200).collect()));
    }
    let has =
        |connection: &Connection, table| connection.table_exists(None, table).map_err(sql("list the tables"));
    for table in ["meta", "outbox", "journal", "inputs"] {
        if !has(connection, table)? {
            return damaged(Damage::Foreign);
        }
    }
    if found < VERSION {
        migrate(connection, found).map_err(sql("bring the layout up to date"))?;
    }
    if !has(connection, "desired")? {
        return damaged(Damage::Foreign);
    }
    check_contents(connection, path, file_number)
}

fn migrate(connection: &mut Connection, found: i64) -> rusqlite::Result<()> {
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    for (version, step) in [(2, JOURNAL_OF_OPEN_COMMANDS), (3, RELEASED)] {
        if found < version {
            transaction.execute_batch(step)?;
            transaction.pragma_update(None, "user_version", version)?;
        }
    }
    transaction.commit()
}

#[cfg(test)]
pub(super) fn create_version_1(connection: &mut Connection, id: StateId) -> rusqlite::Result<()> {
    let transaction = connection.transaction()?;
    transaction.execute_batch(TABLES)?;
    transaction.execute(
        "INSERT INTO meta (only_row, state_id, next_seq, connection, journal_number, committed) \
         VALUES (1, ?1, 1, 0, 0, x'')",
        [&id.0[..]],
    )?;
    transaction.pragma_update(None, "application_id", APPLICATION_ID)?;
    transaction.pragma_update(None, "user_version", 1)?;
    transaction.commit()
}

fn check_contents(connection: &Connection, path: &Path, file_number: u64) -> Result<(), StateError> {
    let sql = |operation| move |source| StateError::database(operation, path, source);
    let damaged = |damage| Err(StateError::damaged(path, damage));

    let meta: Option<(i64, u64)> = connection
        .query_row("SELECT next_seq, journal_number FROM meta", [], |row| Ok((row.get(0)?, row.get(1)?)))
        .optional()
        .map_err(sql("read the identity"))?;
    let Some((next_seq, journal_number)) = meta else {
        return damaged(Damage::Inconsistent("it has no identity"));
    };
    let (last_seq, last_entry): (i64, u64) = connection
        .query_row(
            "SELECT (SELECT coalesce(max(seq), 0) FROM outbox), (SELECT coalesce(max(number), 0) FROM journal)",
            [],
            |row| Ok((row.get(0)?, row.get(1)?)),
        )
        .map_err(sql("read the last numbers"))?;
    if last_seq >= next_seq {
        return damaged(Damage::Inconsistent("a record has a number that was not yet given out"));
    }
    if last_entry > journal_number {
        return damaged(Damage::Inconsistent("a journal entry has a number that was not yet given out"));
    }
    if journal_number < file_number {
        return damaged(Damage::Behind { database: journal_number, file: file_number });
    }
    Ok(())
}

fn pragma(connection: &Connection, name: &str) -> rusqlite::Result<i64> {
    connection.pragma_query_value(None, name, |row| row.get(0))
}
