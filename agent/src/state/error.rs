//! What can go wrong with the state folder, told apart by what to do about it: damage is repaired by starting afresh,
//! everything else needs a person, or another try.

use std::io;
use std::path::{Path, PathBuf};

use rusqlite::ErrorCode;

/// Why the state could not be opened, read or written.
#[derive(Debug, thiserror::Error)]
pub enum StateError {
    /// An operation on a file or folder failed.
    #[error(
        "cannot {operation} {path}; check that the disk has room and is writable, and who owns the folder"
    )]
    File {
        /// What was tried.
        operation: &'static str,
        /// On what.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// SQLite could not do it, and the file is not at fault.
    #[error("cannot {operation} in {path}; check that the disk has room and is writable")]
    Database {
        /// What was tried.
        operation: &'static str,
        /// The database file.
        path: PathBuf,
        /// What SQLite said.
        source: rusqlite::Error,
    },
    /// The database cannot be trusted any more. Opening it again sets it aside.
    #[error("{path} cannot be used: {damage}")]
    Damaged {
        /// The database file.
        path: PathBuf,
        /// In what way.
        damage: Damage,
    },
    /// No random bytes for a new state id.
    #[error("the system gives no random numbers for a new state id")]
    Random(#[source] getrandom::Error),
    /// The database thread has ended.
    #[error("the state database has been closed")]
    Closed,
}

/// In what way a database cannot be trusted.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Damage {
    /// SQLite cannot read it, or its own check found something.
    #[error("the file is damaged ({0})")]
    Unreadable(String),
    /// A database of something else.
    #[error("it is not a state database of this agent")]
    Foreign,
    /// Written by an agent with a newer layout.
    #[error("it has layout version {found}, this agent knows only up to {known}")]
    Newer {
        /// In the file.
        found: i64,
        /// The latest this agent knows.
        known: i64,
    },
    /// Its contents contradict each other.
    #[error("its contents contradict each other: {0}")]
    Inconsistent(&'static str),
    /// An older copy: effects have happened that it does not know of.
    #[error("it is an older copy: its journal ends at {database}, but number {file} has been used")]
    Behind {
        /// The highest journal number in the database.
        database: u64,
        /// The number in the file beside it.
        file: u64,
    },
    /// The file with the highest journal number is unreadable, so nobody can tell whether the database is behind.
    #[error("the file beside it with the highest journal number is unreadable")]
    JournalFile,
    /// A file without contents.
    #[error("it is empty")]
    Empty,
    /// What belongs to it is there without it.
    #[error("it is gone")]
    Gone,
}

impl StateError {
    /// Sorts an error of SQLite into damage and everything else.
    pub(super) fn database(operation: &'static str, path: &Path, source: rusqlite::Error) -> Self {
        match source.sqlite_error_code() {
            Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase) => {
                Self::damaged(path, Damage::Unreadable(source.to_string()))
            }
            // Columns of another type than the layout says.
            None if !matches!(source, rusqlite::Error::InvalidPath(_)) => {
                Self::damaged(path, Damage::Unreadable(source.to_string()))
            }
            _ => Self::Database { operation, path: path.to_owned(), source },
        }
    }

    /// The same about a database that is there and is being opened: what SQLite then holds against it is damage, unless the
    /// system may be at fault.
    pub(super) fn of_a_present_file(self, path: &Path) -> Self {
        match self {
            // A format that SQLite does not know.
            Self::Database { source, .. } if source.sqlite_error_code() == Some(ErrorCode::Unknown) => {
                Self::damaged(path, Damage::Unreadable(source.to_string()))
            }
            other => other,
        }
    }

    pub(super) fn damaged(path: &Path, damage: Damage) -> Self {
        Self::Damaged { path: path.to_owned(), damage }
    }

    /// Whether the disk, as opposed to the contents, is in the way.
    #[must_use]
    pub fn is_disk_full(&self) -> bool {
        match self {
            Self::Database { source, .. } => source.sqlite_error_code() == Some(ErrorCode::DiskFull),
            Self::File { source, .. } => source.kind() == io::ErrorKind::StorageFull,
            _ => false,
        }
    }
}
