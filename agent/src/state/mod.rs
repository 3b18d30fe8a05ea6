//! The state database: who this device is to the server, and what must not be lost.
//!
//! Layout of the state folder:
//! - `db/state.db` (and its log beside it): identity, outbox, command journal, what the server wants.
//! - `journal-high`: the highest journal number in use; see `journal_high.rs`.
//! - `damaged-NNNNNN-TIME/`: former `db/` folders that could not be trusted; the last two are kept.
//!
//! Invariants:
//! - A record has been fsynced before anybody sees its number, and so has the note that others may have seen it.
//! - Sequence, connection and journal numbers never go down and are never given out twice while the state id is the
//!   same.
//! - Every change of a journal entry takes a new number, and is committed together with its report.
//! - The database's journal does not end below the number in `journal-high`, which is written before each effect.
//!
//! Recovery: at every start the database must pass SQLite's own check and the ones in `schema.rs`. One that does not is
//! set aside, and a new one is made with a new state id. A full or read-only disk is not damage: it is reported, and
//! tried again.

mod desired;
mod error;
mod journal;
mod journal_high;
mod open;
mod schema;
mod set_aside;
mod worker;

#[cfg(test)]
mod tests;

use std::path::PathBuf;

use protocol::codec::{self, limit};
use protocol::id::StateId;
use protocol::ranges::RangeSet;
use rusqlite::{Connection, OptionalExtension};

pub use desired::Kept;
pub use error::{Damage, StateError};
pub use open::{Opened, Remedy, Repair};
pub(crate) use set_aside::set_aside_folders;
pub use worker::StateThread;

use crate::outbox::{Change, Kind, Loaded, Row};
use crate::record;
use crate::spool_file;

/// The open state database. One thread uses it.
#[derive(Debug)]
pub struct State {
    connection: Connection,
    state_id: StateId,
    dir: PathBuf,
    path: PathBuf,
}

impl State {
    /// The identity of this database.
    #[must_use]
    pub fn state_id(&self) -> StateId {
        self.state_id
    }

    /// Everything that the outbox's index is made of.
    ///
    /// # Errors
    /// The database cannot be read, or what is in it makes no sense.
    pub fn load(&self) -> Result<Loaded, StateError> {
        let meta = self.connection.query_row("SELECT next_seq, committed, released FROM meta", [], |row| {
            Ok((row.get(0)?, row.get::<_, Vec<u8>>(1)?, row.get(2)?))
        });
        let (next_seq, committed, released) = self.sql("read the identity", meta)?;
        let committed = self.decode_committed(&committed)?;
        let mut loaded = Loaded { next_seq, committed, released, ..Loaded::default() };
        let rows = self.connection.prepare("SELECT seq, kind, length(body) FROM outbox ORDER BY seq");
        let mut statement = self.sql("list the outbox", rows)?;
        let rows = statement.query_map([], |row| Ok((row.get(0)?, row.get::<_, u8>(1)?, row.get(2)?)));
        for row in self.sql("list the outbox", rows)? {
            let (seq, number, body_bytes): (u64, u8, u32) = self.sql("list the outbox", row)?;
            loaded.records.push((seq, self.kind(number)?, body_bytes));
        }
        let voids = loaded.records.iter().filter(|record| record.1 == Kind::Void).map(|record| record.0);
        for row in self.rows(&voids.collect::<Vec<u64>>())? {
            loaded.voids.push((row.seq, record::gone(&row.body)));
        }
        Ok(loaded)
    }

    /// The stored records with these numbers, in that order; numbers that are not there are left out.
    ///
    /// # Errors
    /// The database cannot be read.
    pub fn rows(&self, seqs: &[u64]) -> Result<Vec<Row>, StateError> {
        let statement = self.connection.prepare_cached("SELECT kind, body FROM outbox WHERE seq = ?1");
        let mut statement = self.sql("read the outbox", statement)?;
        let mut rows = Vec::with_capacity(seqs.len());
        for &seq in seqs {
            let found = statement.query_row([seq], |row| Ok((row.get::<_, u8>(0)?, row.get(1)?))).optional();
            if let Some((number, body)) = self.sql("read the outbox", found)? {
                rows.push(Row { seq, kind: self.kind(number)?, body });
            }
        }
        Ok(rows)
    }

    /// Makes a change, all or nothing; it is on disk when this returns.
    ///
    /// # Errors
    /// Nothing was changed.
    pub fn commit(&mut self, change: &Change) -> Result<(), StateError> {
        self.transaction("store records", |transaction| write_change(transaction, change))?;
        spool_file::committed(self.state_id, change);
        Ok(())
    }

    /// Notes that records below this number may be handed to a link; it is on disk when this returns.
    ///
    /// # Errors
    /// It was not noted.
    pub fn release(&mut self, below: u64) -> Result<(), StateError> {
        self.transaction("note what may be sent", |transaction| write_released(transaction, below))
    }

    /// The last connection number that was taken; 0 if none was.
    ///
    /// # Errors
    /// The database cannot be read.
    pub fn last_connection(&self) -> Result<u64, StateError> {
        let last = self.connection.query_row("SELECT connection FROM meta", [], |row| row.get(0));
        self.sql("read the connection number", last)
    }

    /// Takes the next connection number.
    ///
    /// # Errors
    /// It was not taken.
    pub fn next_connection(&mut self) -> Result<u64, StateError> {
        self.transaction("take a connection number", |transaction| {
            transaction.query_row(
                "UPDATE meta SET connection = connection + 1 RETURNING connection",
                [],
                |row| row.get(0),
            )
        })
    }

    /// The names of the application's inputs in the order in which they were first seen: heartbeats refer to them by
    /// position, those that are still in the outbox too.
    ///
    /// # Errors
    /// The database cannot be read.
    pub fn inputs(&self) -> Result<Vec<String>, StateError> {
        let statement = self.connection.prepare("SELECT name FROM inputs ORDER BY position");
        let mut statement = self.sql("read the inputs", statement)?;
        let names = statement.query_map([], |row| row.get(0)).and_then(Iterator::collect);
        self.sql("read the inputs", names)
    }

    /// Stores a new input as the last.
    ///
    /// # Errors
    /// It was not stored.
    pub fn add_input(&mut self, name: &str) -> Result<(), StateError> {
        self.transaction("store an input", |transaction| {
            transaction.execute("INSERT INTO inputs (name) VALUES (?1)", [name]).map(|_| ())
        })
    }

    /// Gives the state a new identity. Of the outbox only `take_over` (ascending) is kept, numbered from 1 in the same
    /// order; connection and journal numbers go on.
    ///
    /// # Errors
    /// Nothing was changed.
    pub fn renew(&mut self, take_over: &[u64]) -> Result<StateId, StateError> {
        let id = open::new_state_id()?;
        spool_file::renewing(self.state_id);
        self.transaction("give the state a new identity", |transaction| {
            let mut next = 1u64;
            let mut kept_to = 0u64;
            for &seq in take_over {
                transaction.execute("DELETE FROM outbox WHERE seq > ?1 AND seq < ?2", (kept_to, seq))?;
                // Numbers only move down, past ones that have moved already: they never meet.
                next += transaction.execute("UPDATE outbox SET seq = ?1 WHERE seq = ?2", (next, seq))? as u64;
                kept_to = seq;
            }
            transaction.execute("DELETE FROM outbox WHERE seq > ?1 AND seq >= ?2", (kept_to, next))?;
            transaction.execute(
                "UPDATE meta SET state_id = ?1, next_seq = ?2, committed = x'', released = 1",
                (&id.0[..], next),
            )?;
            // The numbers of their reports are others now: each may be sent once more.
            transaction.execute("UPDATE journal SET record_seq = 0", [])?;
            Ok(())
        })?;
        self.state_id = id;
        self.tell_spool_file()?;
        Ok(id)
    }

    /// For tests: what is in the outbox; see [`spool_file`].
    fn tell_spool_file(&self) -> Result<(), StateError> {
        if spool_file::is_on() {
            let seqs: Vec<u64> = self.load()?.records.iter().map(|record| record.0).collect();
            spool_file::opened(self.state_id, &self.rows(&seqs)?);
        }
        Ok(())
    }

    fn transaction<T>(
        &mut self,
        operation: &'static str,
        work: impl FnOnce(&Connection) -> rusqlite::Result<T>,
    ) -> Result<T, StateError> {
        // Statements that every heartbeat needs stay prepared: the compiler of SQL is larger than all that they do.
        let cached = |sql| self.connection.prepare_cached(sql)?.execute([]);
        let run = || {
            cached("BEGIN IMMEDIATE")?;
            let done = work(&self.connection).and_then(|done| cached("COMMIT").map(|_| done));
            if done.is_err() && !self.connection.is_autocommit() {
                // What it cannot undo now it undoes when the database is opened again.
                let _ = cached("ROLLBACK");
            }
            done
        };
        run().map_err(|source| StateError::database(operation, &self.path, source))
    }

    fn sql<T>(&self, operation: &'static str, result: rusqlite::Result<T>) -> Result<T, StateError> {
        result.map_err(|source| StateError::database(operation, &self.path, source))
    }

    fn kind(&self, number: u8) -> Result<Kind, StateError> {
        Kind::from_number(number).ok_or_else(|| {
            StateError::damaged(&self.path, Damage::Inconsistent("a record is of an unknown kind"))
        })
    }

    fn decode_committed(&self, bytes: &[u8]) -> Result<RangeSet, StateError> {
        if bytes.is_empty() {
            return Ok(RangeSet::new());
        }
        codec::decode(bytes, limit::LARGEST_BYTES).map_err(|_| {
            StateError::damaged(&self.path, Damage::Inconsistent("the committed numbers are unreadable"))
        })
    }
}

fn write_change(transaction: &Connection, change: &Change) -> rusqlite::Result<()> {
    let mut delete = transaction.prepare_cached("DELETE FROM outbox WHERE seq = ?1")?;
    for &seq in &change.delete {
        delete.execute([seq])?;
    }
    let mut insert =
        transaction.prepare_cached("INSERT INTO outbox (seq, kind, body) VALUES (?1, ?2, ?3)")?;
    for row in &change.insert {
        insert.execute((row.seq, row.kind.number(), &row.body))?;
    }
    let committed = change.committed.as_ref().map(codec::encode_packed).transpose();
    let committed = committed.map_err(|source| rusqlite::Error::ToSqlConversionFailure(Box::new(source)))?;
    transaction
        .prepare_cached(
            "UPDATE meta SET next_seq = max(next_seq, ?1), committed = coalesce(?2, committed) WHERE only_row = 1",
        )?
        .execute((change.next_seq, committed))?;
    match change.released {
        Some(below) => write_released(transaction, below),
        None => Ok(()),
    }
}

fn write_released(transaction: &Connection, below: u64) -> rusqlite::Result<()> {
    let sql = "UPDATE meta SET released = max(released, ?1) WHERE only_row = 1";
    transaction.prepare_cached(sql)?.execute([below]).map(drop)
}
