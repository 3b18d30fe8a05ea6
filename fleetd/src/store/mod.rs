//! The database: the truth of the whole system. Use it through [`Store`]; one module for each group of tables.

pub mod api_keys;
pub mod audit;
pub mod certificates;
pub mod commands;
pub mod credentials;
pub mod desired;
pub mod device_state;
pub mod devices;
mod dialect;
pub mod dispatch;
mod engine;
pub mod enrollment_keys;
pub mod folder;
mod functions;
pub mod heartbeats;
pub mod http_devices;
pub mod inspect;
pub mod leases;
pub mod listing;
mod lock;
mod migrate;
pub mod orgs;
pub mod records;
pub mod reports;
pub mod restored;
pub mod results;
pub mod revocations;
pub mod rollups;
pub mod show_locks;
mod sqlite;
pub mod summaries;
pub mod swap;
pub mod targets;
#[cfg(test)]
mod tests;
pub mod users;
pub mod views;

use std::{path::Path, sync::Arc, time::Duration};

use engine::parse_column;
pub use engine::{Outcome, Row, Sql, Statement, StoreError, Value, operation};
pub use lock::{DataLock, LockError, make_data_dir};
#[cfg(test)]
pub(crate) use migrate::make_at_version;
pub use migrate::{is_our_trigger, is_ours, known_version, migrate_alone};

/// After a write that found no room, the store calls itself not ready for so long.
const FULL_NOTICE: Duration = Duration::from_secs(10);

/// A handle to the open database; clones share it.
#[derive(Clone)]
pub struct Store {
    engine: Arc<sqlite::Sqlite>,
}

impl std::fmt::Debug for Store {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Store")
    }
}

impl Store {
    /// Opens the SQLite file at `path`, making it and bringing its schema up to date as needed. Blocks.
    /// `lock`: the folder's lock, if the caller has it; without it the schema is changed only if no server runs.
    ///
    /// # Errors
    /// [`StoreError`]: foreign, newer, damaged, or unusable file.
    pub fn open(path: &Path, lock: Option<&DataLock>) -> Result<Self, StoreError> {
        Ok(Self { engine: Arc::new(sqlite::Sqlite::open(path, lock.is_some())?) })
    }

    /// One transaction on a database that is about to be used and that nobody else has open. Blocks.
    ///
    /// # Errors
    /// [`StoreError`]; then nothing of it is stored.
    pub fn apply_alone(
        connection: &rusqlite::Connection,
        path: &Path,
        statements: &[Statement],
    ) -> Result<(), StoreError> {
        sqlite::apply_alone(connection, path, statements)
    }

    /// Rows of a read-only statement, as of the last commit.
    ///
    /// # Errors
    /// [`StoreError`]; never [`StoreError::Full`].
    pub async fn query(&self, sql: impl Into<Sql>, params: Vec<Value>) -> Result<Vec<Row>, StoreError> {
        self.engine.query(sql.into(), params).await
    }

    /// The first row of a read-only statement, if there is one.
    ///
    /// # Errors
    /// As [`query`](Self::query).
    pub async fn query_one(
        &self,
        sql: impl Into<Sql>,
        params: Vec<Value>,
    ) -> Result<Option<Row>, StoreError> {
        Ok(self.query(sql, params).await?.into_iter().next())
    }

    /// As [`query`](Self::query), for a few rows that an index leads to: it may be read on the caller's thread, at once.
    ///
    /// # Errors
    /// As [`query`](Self::query).
    pub async fn lookup(&self, sql: impl Into<Sql>, params: Vec<Value>) -> Result<Vec<Row>, StoreError> {
        self.engine.lookup(sql.into(), params).await
    }

    /// The first row of a [`lookup`](Self::lookup), if there is one.
    ///
    /// # Errors
    /// As [`query`](Self::query).
    pub async fn lookup_one(
        &self,
        sql: impl Into<Sql>,
        params: Vec<Value>,
    ) -> Result<Option<Row>, StoreError> {
        Ok(self.lookup(sql, params).await?.into_iter().next())
    }

    /// One transaction: all of the statements or none. Answers after the commit is on the disk. If the caller goes
    /// away meanwhile, the transaction is still done as a whole or not at all.
    ///
    /// # Errors
    /// [`StoreError`]; then nothing of it is stored.
    pub async fn apply(&self, statements: Vec<Statement>) -> Result<Vec<Outcome>, StoreError> {
        self.engine.apply(statements).await
    }

    /// Several transactions, each with an answer of its own, committed together as far as a commit can take them.
    pub async fn apply_each(
        &self,
        transactions: Vec<Vec<Statement>>,
    ) -> Vec<Result<Vec<Outcome>, StoreError>> {
        self.engine.apply_each(transactions).await
    }

    /// A transaction of one statement.
    ///
    /// # Errors
    /// As [`apply`](Self::apply).
    pub async fn apply_one(&self, statement: Statement) -> Result<Outcome, StoreError> {
        Ok(self.apply(vec![statement]).await?.pop().unwrap_or_default())
    }

    /// Whether the store reads, writes and has room: it commits a write of its own. `now_ms`: the time.
    ///
    /// # Errors
    /// [`StoreError`] with the reason why it is not ready.
    pub async fn check_ready(&self, now_ms: i64) -> Result<(), StoreError> {
        const PROBE: &str = "UPDATE store_probe SET at = ?1 WHERE id = 1";
        if self.engine.last_full().is_some_and(|at| at.elapsed() < FULL_NOTICE) {
            let source = "a write found no room a moment ago".into();
            return Err(StoreError::Full { operation: "store".to_owned(), source });
        }
        self.query("SELECT at FROM store_probe WHERE id = 1", Vec::new()).await?;
        self.apply_one(Statement::new(PROBE, crate::values![now_ms]).expect_rows(1)).await?;
        Ok(())
    }

    /// Gives some of the room that dropped tables have left back to the file system.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn give_back(&self) -> Result<(), StoreError> {
        self.apply_one(Statement::new(dialect::GIVE_BACK, Vec::new())).await?;
        Ok(())
    }

    /// Commits what is queued and closes the database; later calls fail with [`StoreError::Closed`]. Blocks.
    pub fn close(&self) {
        self.engine.close();
    }
}
