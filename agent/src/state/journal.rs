//! The command journal: one row for each command, kept until long after its expiry so that no copy of it runs again.
//!
//! A row's number is that of its last change. The envelope stays only while the command is open; reasons and errors stay
//! with the newest commands and results with a few of them, because the server has them and the disk is small.

use protocol::codec::{self, limit};
use protocol::command::CommandState;
use protocol::id::CommandId;
use protocol::message::{Command, CommandReport};
use rusqlite::{Connection, OptionalExtension, Row, named_params};
use uuid::Uuid;

use super::{State, StateError, journal_high, write_change};
use crate::command::{Entry, Moment, Write};
use crate::failpoint::{self, Journalled};
use crate::outbox::Change;
use crate::spool_file;

/// Entries kept at least, and at most whatever their time: the clock may be wrong in both directions.
const ALWAYS_KEPT: u64 = 1_000;
const NEVER_MORE: u64 = 20_000;
/// Results kept.
const RESULTS_KEPT: u64 = 200;

const COLUMNS: &str = "command_id, state, kept_until_ms, report_seq, report, result, record_seq, envelope, disruptive, \
     delay_ms, received_boot_id, received_boottime_ms, override_reason, observed";
const IS_OPEN: &str = "state IN ('acked', 'held', 'running')";

impl State {
    /// Commits a change of a command together with `change`, which has its report if there is one. When this returns,
    /// what has to be on disk before an effect starts is there. `trusted_ms` is the time, if it has been confirmed: only
    /// then old entries are forgotten by their time.
    ///
    /// # Errors
    /// No effect may start. If the database took the change, it counts from now on.
    pub fn journal(
        &mut self,
        write: &Write,
        change: &Change,
        trusted_ms: Option<i64>,
    ) -> Result<u64, StateError> {
        let entry = &write.entry;
        let names = Journalled::of(write);
        failpoint::reached(names.before);
        let (report, result, envelope) = encode(entry)
            .map_err(|source| rusqlite::Error::ToSqlConversionFailure(Box::new(source)))
            .map_err(|source| StateError::database("encode a command", &self.path, source))?;
        let number = self.transaction("write the command journal", |transaction| {
            let number = next_number(transaction)?;
            transaction.execute(
                &format!(
                    "INSERT OR REPLACE INTO journal (number, {COLUMNS}) VALUES (:number, :id, :state, :kept_until_ms, \
                     :report_seq, :report, :result, :record_seq, :envelope, :disruptive, :delay_ms, :boot_id, \
                     :boottime_ms, :override_reason, :observed)"
                ),
                named_params! {
                    ":number": number,
                    ":id": entry.id.as_str(),
                    ":state": entry.state.as_str(),
                    ":kept_until_ms": entry.kept_until_ms,
                    ":report_seq": entry.report.report_seq,
                    ":report": report,
                    ":result": result,
                    ":record_seq": entry.record_seq,
                    ":envelope": envelope,
                    ":disruptive": entry.disruptive,
                    ":delay_ms": entry.delay_ms,
                    ":boot_id": entry.received.boot_id.to_string(),
                    ":boottime_ms": entry.received.boottime_ms,
                    ":override_reason": entry.override_reason,
                    ":observed": entry.observed,
                },
            )?;
            prune(transaction, trusted_ms)?;
            write_change(transaction, change)?;
            Ok(number)
        })?;
        spool_file::committed(self.state_id, change);
        failpoint::reached(names.after);
        if write.must_not_be_forgotten() {
            journal_high::write(&self.dir, number)?;
        }
        Ok(number)
    }

    /// Commits `change`, which has a command's last report once more.
    ///
    /// # Errors
    /// Nothing was changed.
    pub fn repeat(&mut self, id: &CommandId, record_seq: u64, change: &Change) -> Result<(), StateError> {
        self.transaction("repeat a report", |transaction| {
            let update = "UPDATE journal SET record_seq = ?1 WHERE command_id = ?2";
            transaction.execute(update, (record_seq, id.as_str()))?;
            write_change(transaction, change)
        })?;
        spool_file::committed(self.state_id, change);
        Ok(())
    }

    /// A command, if it is in the journal.
    ///
    /// # Errors
    /// The database cannot be read, or the entry makes no sense.
    pub fn command(&self, id: &CommandId) -> Result<Option<Entry>, StateError> {
        let query = format!("SELECT {COLUMNS} FROM journal WHERE command_id = ?1");
        let row = self.connection.query_row(&query, [id.as_str()], read).optional();
        self.sql("read the command journal", row)
    }

    /// Every command that is open.
    ///
    /// # Errors
    /// The database cannot be read, or an entry makes no sense.
    pub fn open_commands(&self) -> Result<Vec<Entry>, StateError> {
        let query = format!("SELECT {COLUMNS} FROM journal WHERE {IS_OPEN} ORDER BY command_id");
        let mut statement = self.sql("read the command journal", self.connection.prepare(&query))?;
        let rows = statement.query_map([], read).and_then(Iterator::collect);
        self.sql("read the command journal", rows)
    }

    /// Gives up every open command, whose fate nobody here can know; returns the highest number in use.
    ///
    /// # Errors
    /// Nothing was changed.
    pub(super) fn give_up_open_commands(&mut self) -> Result<u64, StateError> {
        self.transaction("give up open commands", |transaction| {
            let update =
                format!("UPDATE journal SET state = ?1, report = NULL, envelope = NULL WHERE {IS_OPEN}");
            transaction.execute(&update, [CommandState::Indeterminate.as_str()])?;
            transaction.query_row("SELECT journal_number FROM meta", [], |row| row.get(0))
        })
    }

    /// How many commands the journal has.
    ///
    /// # Errors
    /// The database cannot be read.
    pub fn commands_known(&self) -> Result<u64, StateError> {
        let count = self.connection.query_row("SELECT count(*) FROM journal", [], |row| row.get(0));
        self.sql("read the command journal", count)
    }
}

fn next_number(transaction: &Connection) -> rusqlite::Result<u64> {
    transaction.query_row(
        "UPDATE meta SET journal_number = journal_number + 1 RETURNING journal_number",
        [],
        |row| row.get(0),
    )
}

type Encoded = (Vec<u8>, Option<String>, Option<Vec<u8>>);

/// The report without its result, the result, and what came from the server.
fn encode(entry: &Entry) -> Result<Encoded, codec::CodecError> {
    let report = CommandReport { result: None, ..entry.report.clone() };
    let result = entry.report.result.as_ref().map(ToString::to_string);
    let envelope = entry.command.as_ref().map(codec::encode_named).transpose()?;
    Ok((codec::encode_packed(&report)?, result, envelope))
}

fn read(row: &Row<'_>) -> rusqlite::Result<Entry> {
    let unreadable = |column, error: Box<dyn std::error::Error + Send + Sync>| {
        rusqlite::Error::FromSqlConversionFailure(column, rusqlite::types::Type::Text, error)
    };
    let id: String = row.get("command_id")?;
    let id: CommandId = id.parse().map_err(|error| unreadable(0, Box::from(error)))?;
    let received = Moment {
        boot_id: row
            .get::<_, Option<String>>("received_boot_id")?
            .and_then(|text| Uuid::parse_str(&text).ok())
            .unwrap_or_default(),
        boottime_ms: row.get("received_boottime_ms")?,
    };
    let mut entry = Entry::new(id, row.get("kept_until_ms")?, received);
    let state: String = row.get("state")?;
    // A word that this version does not know can only be an end: those of open commands are in the query.
    entry.state = state.parse().unwrap_or(CommandState::Indeterminate);
    let report: Option<Vec<u8>> = row.get("report")?;
    let report = report.and_then(|bytes| codec::decode(&bytes, limit::COMMAND_BYTES).ok());
    entry.report =
        report.unwrap_or(CommandReport { report_seq: row.get("report_seq")?, state, ..entry.report });
    let result: Option<String> = row.get("result")?;
    entry.report.result = result.and_then(|text| serde_json::from_str(&text).ok());
    entry.record_seq = row.get("record_seq")?;
    // One that cannot be read leaves a command that can only be given up.
    let envelope: Option<Vec<u8>> = row.get("envelope")?;
    entry.command = envelope.and_then(|bytes| codec::decode::<Command>(&bytes, limit::COMMAND_BYTES).ok());
    entry.disruptive = row.get("disruptive")?;
    entry.delay_ms = row.get("delay_ms")?;
    entry.override_reason = row.get("override_reason")?;
    entry.observed = row.get("observed")?;
    Ok(entry)
}

/// Forgets entries that have ended and are past their time, the oldest if there are far too many, and old results. Open
/// commands are never forgotten.
fn prune(transaction: &Connection, trusted_ms: Option<i64>) -> rusqlite::Result<()> {
    let ended = format!("NOT ({IS_OPEN})");
    // The number of the newest entry that is one too many; none if there are fewer.
    let beyond = "(SELECT number FROM journal ORDER BY number DESC LIMIT 1 OFFSET ?1)";
    let old = format!("DELETE FROM journal WHERE number <= {beyond} AND kept_until_ms < ?2 AND {ended}");
    if let Some(now_ms) = trusted_ms {
        transaction.prepare_cached(&old)?.execute((ALWAYS_KEPT, now_ms))?;
    }
    let many = format!("DELETE FROM journal WHERE number <= {beyond} AND {ended}");
    transaction.prepare_cached(&many)?.execute([NEVER_MORE])?;
    // Each write moves an entry back by one place at most, so that each passes this one. What is left says how it ended.
    let long_ago = format!(
        "UPDATE journal SET report = NULL WHERE report IS NOT NULL AND {ended} AND number = \
         (SELECT number FROM journal ORDER BY number DESC LIMIT 1 OFFSET ?1)"
    );
    transaction.prepare_cached(&long_ago)?.execute([ALWAYS_KEPT])?;
    transaction
        .prepare_cached(
            "UPDATE journal SET result = NULL WHERE result IS NOT NULL AND number <= (SELECT number FROM journal \
             WHERE result IS NOT NULL ORDER BY number DESC LIMIT 1 OFFSET ?1)",
        )?
        .execute([RESULTS_KEPT])?;
    Ok(())
}
