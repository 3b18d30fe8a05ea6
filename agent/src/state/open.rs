//! Opening the state database, or making one.

use std::fmt;
use std::fs::{self, DirBuilder};
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use protocol::id::StateId;
use rusqlite::{Connection, OpenFlags};

use super::error::{Damage, StateError};
use super::journal_high::{self, JournalHigh};
use super::{State, schema, set_aside};
use crate::outbox::{BUDGET_BYTES, Loaded, Outbox};

const DATABASE_DIR: &str = "db";
const DATABASE_NAME: &str = "state.db";

/// An opened database.
#[derive(Debug)]
pub struct Opened {
    /// It.
    pub state: State,
    /// What was wrong with what was there before, and what was done about it.
    pub repair: Option<Repair>,
}

/// A state that could not be trusted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Repair {
    /// What is wrong with it.
    pub damage: Damage,
    /// What was done.
    pub remedy: Remedy,
}

/// What was done about a state that could not be trusted. It has a new identity in any case.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Remedy {
    /// It was moved there, and a new one was made.
    SetAside(PathBuf),
    /// There was nothing left; a new one was made.
    Replaced,
    /// What waits for the server is kept; open commands were given up.
    Kept,
}

impl fmt::Display for Repair {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const LOST: &str = "a new one was made; records that the server did not have are lost";
        let damage = &self.damage;
        match &self.remedy {
            Remedy::SetAside(place) => {
                write!(
                    f,
                    "the state database could not be trusted: {damage}. It was set aside as {}, and {LOST}",
                    place.display()
                )
            }
            Remedy::Replaced => write!(f, "the state database could not be trusted: {damage}; {LOST}"),
            Remedy::Kept => write!(
                f,
                "the state database may be an older copy: {damage}. It has a new identity now; what waits for the server is kept, \
                 and open commands were given up"
            ),
        }
    }
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
        let (found, mut repair) = match open_present(dir, &database_dir, journal_file) {
            Ok(Some((state, repair))) => (Some(state), repair),
            Ok(None) => (None, None),
            Err(StateError::Damaged { damage, .. }) => {
                let remedy = if exists(&database_dir)? {
                    Remedy::SetAside(set_aside::set_aside(dir, &database_dir, now_ms)?)
                } else {
                    Remedy::Replaced
                };
                (None, Some(Repair { damage, remedy }))
            }
            Err(other) => return Err(other),
        };
        let state = match found {
            Some(state) => state,
            None => {
                if journal_file == JournalHigh::Unreadable && repair.is_none() {
                    repair = Some(Repair { damage: Damage::JournalFile, remedy: Remedy::Replaced });
                }
                let connection = make_database(dir, &database_dir, journal_file)?;
                State::on(connection, dir, database_dir.join(DATABASE_NAME))?
            }
        };
        state.tell_spool_file()?;
        Ok(Opened { state, repair })
    }

    fn on(connection: Connection, dir: &Path, path: PathBuf) -> Result<Self, StateError> {
        let id: Vec<u8> = connection
            .query_row("SELECT state_id FROM meta", [], |row| row.get(0))
            .map_err(|source| StateError::database("read the identity", &path, source))?;
        let state_id = StateId(id.try_into().map_err(|_| {
            StateError::damaged(&path, Damage::Inconsistent("its state id does not have 8 bytes"))
        })?);
        Ok(Self { connection, state_id, dir: dir.to_owned(), path })
    }

    /// Reads what a start needs: what cannot be read later would keep the agent from starting, again and again.
    fn read_all(&self) -> Result<Loaded, StateError> {
        let loaded = self.load()?;
        self.last_connection()?;
        self.inputs()?;
        self.kept()?;
        self.open_commands()?;
        Ok(loaded)
    }
}

/// Opens and checks what is there; `None` if that is nothing yet.
fn open_present(
    dir: &Path,
    database_dir: &Path,
    journal_file: JournalHigh,
) -> Result<Option<(State, Option<Repair>)>, StateError> {
    let path = database_dir.join(DATABASE_NAME);
    // Without the file nobody can tell whether the database is an older copy.
    let number = if let JournalHigh::Number(number) = journal_file { number } else { 0 };
    let is_new = journal_file == JournalHigh::Absent;
    let Some(connection) = open_database(&path, number, is_new)? else { return Ok(None) };
    let mut state = State::on(connection, dir, path)?;
    let loaded = state.read_all()?;
    if journal_file != JournalHigh::Unreadable {
        return Ok(Some((state, None)));
    }
    // Whatever an older copy would do may have been done since; what it would tell may be told again, as somebody else.
    let journal_number = state.give_up_open_commands()?;
    state.renew(&Outbox::load(loaded, BUDGET_BYTES).to_take_over())?;
    journal_high::write(dir, journal_number)?;
    Ok(Some((state, Some(Repair { damage: Damage::JournalFile, remedy: Remedy::Kept }))))
}

/// Opens and checks the database; `None` if there is nothing yet. `is_new`: no command was ever journalled here.
fn open_database(path: &Path, file_number: u64, is_new: bool) -> Result<Option<Connection>, StateError> {
    let damaged = |damage| Err(StateError::damaged(path, damage));
    let Some(len) = length(path)? else {
        let log = path.with_extension("db-wal");
        return if is_new && length(&log)?.unwrap_or(0) == 0 { Ok(None) } else { damaged(Damage::Gone) };
    };
    // SQLite takes an empty file for a new database, and removes the log beside it.
    if len == 0 {
        return damaged(Damage::Empty);
    }
    let opened = connect(path).and_then(|mut connection| {
        let blank = schema::is_blank(&connection)
            .map_err(|source| StateError::database("read the layout", path, source))?;
        if blank {
            // A power cut while it was made leaves this.
            return if is_new { Ok(None) } else { damaged(Damage::Empty) };
        }
        schema::check(&mut connection, path, file_number)?;
        Ok(Some(connection))
    });
    opened.map_err(|error| error.of_a_present_file(path))
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
    // The tables are in the file itself, not only in the log beside it: a torn log must not make it look new.
    let to_file = connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(()));
    to_file.map_err(|source| StateError::database("write the state database", &path, source))?;
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

/// Bytes of a file; `None` if it is not there.
fn length(path: &Path) -> Result<Option<u64>, StateError> {
    match fs::metadata(path) {
        Ok(metadata) => Ok(Some(metadata.len())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(StateError::File { operation: "look at", path: path.to_owned(), source }),
    }
}

fn exists(path: &Path) -> Result<bool, StateError> {
    fs::exists(path).map_err(|source| StateError::File {
        operation: "look at",
        path: path.to_owned(),
        source,
    })
}
