//! Opening the state database, or making one.

use std::fs::{self, DirBuilder};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use protocol::id::StateId;
use rusqlite::{Connection, OpenFlags};

use super::error::{Damage, StateError};
use super::journal_high::{self, JournalHigh};
use super::{State, schema, set_aside};

const DATABASE_DIR: &str = "db";
const DATABASE_NAME: &str = "state.db";

/// An opened database.
#[derive(Debug)]
pub struct Opened {
    /// It.
    pub state: State,
    /// What was there before, if that could not be trusted.
    pub set_aside: Option<SetAside>,
}

/// A database that could not be trusted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SetAside {
    /// Where it is now.
    pub moved_to: PathBuf,
    /// What is wrong with it.
    pub damage: Damage,
}

impl State {
    /// Opens the database in `dir`, which is made if it is not there. One that cannot be trusted is set aside and
    /// replaced. `now_ms` (milliseconds since 1970) only becomes part of a folder's name. The caller holds the folder's
    /// lock (see [`crate::lock`]).
    ///
    /// # Errors
    /// The disk does not let us.
    pub fn open(dir: &Path, now_ms: i64) -> Result<Opened, StateError> {
        make_dir(dir)?;
        let database_dir = dir.join(DATABASE_DIR);
        let journal_file = journal_high::read(dir)?;

        let found = if exists(&database_dir)? {
            match journal_file {
                // Without it nobody can tell whether the database is an older copy.
                JournalHigh::Unreadable => Err(StateError::damaged(&database_dir, Damage::JournalFile)),
                JournalHigh::Absent => open_database(&database_dir, 0),
                JournalHigh::Number(number) => open_database(&database_dir, number),
            }
        } else {
            Ok(None)
        };
        let (connection, set_aside) = match found {
            Ok(connection) => (connection, None),
            Err(StateError::Damaged { damage, .. }) => {
                let moved_to = set_aside::set_aside(dir, &database_dir, now_ms)?;
                (None, Some(SetAside { moved_to, damage }))
            }
            Err(other) => return Err(other),
        };
        let connection = match connection {
            Some(connection) => connection,
            None => make_database(dir, &database_dir, journal_file)?,
        };
        let path = database_dir.join(DATABASE_NAME);
        let id: Vec<u8> = connection
            .query_row("SELECT state_id FROM meta", [], |row| row.get(0))
            .map_err(|source| StateError::database("read the identity", &path, source))?;
        let state_id = StateId(id.try_into().map_err(|_| {
            StateError::damaged(&path, Damage::Inconsistent("its state id does not have 8 bytes"))
        })?);
        let state = State { connection, state_id, dir: dir.to_owned(), path };
        state.tell_spool_file()?;
        Ok(Opened { state, set_aside })
    }
}

/// Opens and checks what is there; `None` if that is nothing yet.
fn open_database(database_dir: &Path, file_number: u64) -> Result<Option<Connection>, StateError> {
    let path = database_dir.join(DATABASE_NAME);
    if !exists(&path)? {
        return Ok(None);
    }
    let mut connection = connect(&path)?;
    let blank = schema::is_blank(&connection)
        .map_err(|source| StateError::database("read the layout", &path, source))?;
    if blank {
        return Ok(None);
    }
    schema::check(&mut connection, &path, file_number)?;
    Ok(Some(connection))
}

fn make_database(
    dir: &Path,
    database_dir: &Path,
    journal_file: JournalHigh,
) -> Result<Connection, StateError> {
    // Numbers go on from the file: the new database must not be behind it.
    let journal_number = match journal_file {
        JournalHigh::Number(number) => number,
        JournalHigh::Absent => 0,
        JournalHigh::Unreadable => {
            journal_high::write(dir, 0)?;
            0
        }
    };
    make_dir(database_dir)?;
    let path = database_dir.join(DATABASE_NAME);
    let mut connection = connect(&path)?;
    schema::create(&mut connection, new_state_id()?, i64::try_from(journal_number).unwrap_or(i64::MAX))
        .map_err(|source| StateError::database("make the state database", &path, source))?;
    journal_high::sync_folder(database_dir)?;
    journal_high::sync_folder(dir)?;
    Ok(connection)
}

fn connect(path: &Path) -> Result<Connection, StateError> {
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE
        | OpenFlags::SQLITE_OPEN_CREATE
        | OpenFlags::SQLITE_OPEN_NO_MUTEX
        | OpenFlags::SQLITE_OPEN_NOFOLLOW;
    let failed = |source| StateError::database("open the state database", path, source);
    let connection = Connection::open_with_flags(path, flags).map_err(failed)?;
    schema::configure(&connection).map_err(failed)?;
    Ok(connection)
}

/// 8 random bytes.
pub(super) fn new_state_id() -> Result<StateId, StateError> {
    let mut bytes = [0; 8];
    getrandom::fill(&mut bytes).map_err(StateError::Random)?;
    Ok(StateId(bytes))
}

/// Makes a folder that only its owner may enter, unless it is there.
fn make_dir(path: &Path) -> Result<(), StateError> {
    DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(|source| StateError::File {
        operation: "make the folder",
        path: path.to_owned(),
        source,
    })
}

fn exists(path: &Path) -> Result<bool, StateError> {
    fs::exists(path).map_err(|source| StateError::File {
        operation: "look at",
        path: path.to_owned(),
        source,
    })
}
