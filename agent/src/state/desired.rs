//! What the server wants of this device, and what was last reported about it.

use protocol::codec::{self, limit};
use protocol::message::{Desired, Reported};

use super::{State, StateError, write_change};
use crate::failpoint;
use crate::outbox::Change;
use crate::spool_file;

/// What is kept.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Kept {
    /// What was applied last.
    pub desired: Option<Desired>,
    /// What was reported last.
    pub reported: Option<Reported>,
}

impl State {
    /// What is kept. Something that cannot be read counts as not there: the server sends it again.
    ///
    /// # Errors
    /// The database cannot be read.
    pub fn kept(&self) -> Result<Kept, StateError> {
        type Columns = (Option<Vec<u8>>, Option<Vec<u8>>);
        let row: rusqlite::Result<Columns> =
            self.connection
                .query_row("SELECT body, reported FROM desired", [], |row| Ok((row.get(0)?, row.get(1)?)));
        let (desired, reported) = self.sql("read what is wanted", row)?;
        Ok(Kept {
            desired: desired.and_then(|bytes| codec::decode(&bytes, limit::COMMAND_BYTES).ok()),
            reported: reported.and_then(|bytes| codec::decode(&bytes, limit::COMMAND_BYTES).ok()),
        })
    }

    /// Stores both together with `change`, which has the report if there is a new one.
    ///
    /// # Errors
    /// Nothing was changed.
    pub fn keep(&mut self, kept: &Kept, change: &Change) -> Result<(), StateError> {
        let encode = || -> Result<_, codec::CodecError> {
            let desired = kept.desired.as_ref().map(codec::encode_packed).transpose()?;
            Ok((desired, kept.reported.as_ref().map(codec::encode_packed).transpose()?))
        };
        let (desired, reported) = encode()
            .map_err(|source| rusqlite::Error::ToSqlConversionFailure(Box::new(source)))
            .map_err(|source| StateError::database("encode what is wanted", &self.path, source))?;
        let version = kept.desired.as_ref().map_or(0, |desired| desired.version);
        failpoint::reached(failpoint::DESIRED_BEFORE_COMMIT);
        self.transaction("store what is wanted", |transaction| {
            // The version is for people who look into the database; numbers past its range do not occur.
            let version = i64::try_from(version).unwrap_or(i64::MAX);
            let update = "UPDATE desired SET version = ?1, body = ?2, reported = ?3";
            transaction.execute(update, (version, &desired, &reported))?;
            write_change(transaction, change)
        })?;
        spool_file::committed(self.state_id, change);
        failpoint::reached(failpoint::DESIRED_AFTER_COMMIT);
        Ok(())
    }
}
