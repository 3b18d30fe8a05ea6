//! The server's database, as the checker reads it: everything that came from devices, every command with its history.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::time::Duration;

use protocol::ranges::RangeSet;
use rusqlite::{Connection, OpenFlags};

/// A record is named by its device, state id and number.
pub type Name = (String, String, u64);

/// A record as the server has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Stored {
    /// A heartbeat of this time, by the device's clock.
    Heartbeat(i64),
    /// A report: time, command, number of the report, state.
    Report(i64, String, u64, String),
    /// An event: time, kind.
    Event(i64, String),
    /// A batch of log lines.
    Log,
    /// Something that the server could not read.
    Poison(String),
}

/// A command.
#[derive(Debug, Clone)]
pub struct Command {
    /// Its id.
    pub id: String,
    /// Its device's name.
    pub device: String,
    /// The type.
    pub kind: String,
    /// The operator's own name for it.
    pub reference: Option<String>,
    /// Where it stands.
    pub status: String,
    /// Why, in the server's or device's words.
    pub why: String,
    /// The steps: revision, status, detail.
    pub history: Vec<(i64, String, String)>,
}

/// What was read, in one transaction.
#[derive(Debug, Default)]
pub struct Database {
    /// Every stored copy of every record.
    pub records: BTreeMap<Name, Vec<Stored>>,
    /// Committed numbers by device and state id.
    pub committed: BTreeMap<(String, String), RangeSet>,
    /// Every command.
    pub commands: Vec<Command>,
    /// Devices that count as connected.
    pub online: BTreeSet<String>,
}

impl Database {
    /// Reads the database in this file, which a server may be using.
    ///
    /// # Errors
    /// What SQLite says.
    pub fn read(file: &Path) -> rusqlite::Result<Self> {
        let connection = open(file)?;
        // One transaction: the server goes on beside it.
        connection.execute_batch("BEGIN")?;
        let mut database = Self { committed: committed(&connection)?, ..Self::default() };
        database.heartbeats(&connection)?;
        database.others(&connection)?;
        database.commands = commands(&connection)?;
        let sql =
            "SELECT d.device_id FROM device_state s JOIN devices d ON d.id = s.device_id WHERE s.online = 1";
        let mut statement = connection.prepare(sql)?;
        database.online = statement.query_map([], |row| row.get(0))?.collect::<Result<_, _>>()?;
        Ok(database)
    }

    /// Reads as much as waiting needs: what is committed, the commands, who is connected.
    ///
    /// # Errors
    /// What SQLite says.
    pub fn glance(file: &Path) -> rusqlite::Result<Self> {
        let connection = open(file)?;
        connection.execute_batch("BEGIN")?;
        let sql =
            "SELECT d.device_id FROM device_state s JOIN devices d ON d.id = s.device_id WHERE s.online = 1";
        let mut statement = connection.prepare(sql)?;
        let online = statement.query_map([], |row| row.get(0))?.collect::<Result<_, _>>()?;
        let (committed, commands) = (committed(&connection)?, commands(&connection)?);
        Ok(Self { committed, commands, online, ..Self::default() })
    }

    fn add(&mut self, name: Name, stored: Stored) {
        self.records.entry(name).or_default().push(stored);
    }

    fn heartbeats(&mut self, connection: &Connection) -> rusqlite::Result<()> {
        let mut days = connection.prepare("SELECT day FROM heartbeat_days")?;
        let days: Vec<i64> = days.query_map([], |row| row.get(0))?.collect::<Result<_, _>>()?;
        for day in days {
            let sql = format!(
                "SELECT d.device_id, h.state_id, h.seq, h.ts FROM heartbeats_{day:08} h \
                 JOIN devices d ON d.id = h.device_id WHERE h.seq IS NOT NULL"
            );
            let mut statement = connection.prepare(&sql)?;
            let mut rows = statement.query([])?;
            while let Some(row) = rows.next()? {
                self.add((row.get(0)?, row.get(1)?, row.get(2)?), Stored::Heartbeat(row.get(3)?));
            }
        }
        Ok(())
    }

    fn others(&mut self, connection: &Connection) -> rusqlite::Result<()> {
        let from = "JOIN devices d ON d.id = r.device_id";
        let name = "d.device_id, r.state_id, r.seq";
        let mut statement = connection.prepare(&format!(
            "SELECT {name}, r.ts, r.command_id, r.report_seq, r.state FROM command_reports r {from}"
        ))?;
        let mut rows = statement.query([])?;
        while let Some(row) = rows.next()? {
            let report = Stored::Report(row.get(3)?, row.get(4)?, row.get(5)?, row.get(6)?);
            self.add((row.get(0)?, row.get(1)?, row.get(2)?), report);
        }
        let mut statement =
            connection.prepare(&format!("SELECT {name}, r.ts, r.kind FROM device_events r {from}"))?;
        let mut rows = statement.query([])?;
        while let Some(row) = rows.next()? {
            self.add((row.get(0)?, row.get(1)?, row.get(2)?), Stored::Event(row.get(3)?, row.get(4)?));
        }
        let mut statement =
            connection.prepare(&format!("SELECT DISTINCT {name} FROM log_records r {from}"))?;
        let mut rows = statement.query([])?;
        while let Some(row) = rows.next()? {
            self.add((row.get(0)?, row.get(1)?, row.get(2)?), Stored::Log);
        }
        let mut statement =
            connection.prepare(&format!("SELECT {name}, r.reason FROM poison_records r {from}"))?;
        let mut rows = statement.query([])?;
        while let Some(row) = rows.next()? {
            self.add((row.get(0)?, row.get(1)?, row.get(2)?), Stored::Poison(row.get(3)?));
        }
        Ok(())
    }
}

fn open(file: &Path) -> rusqlite::Result<Connection> {
    let connection = Connection::open_with_flags(file, OpenFlags::SQLITE_OPEN_READ_ONLY)?;
    connection.busy_timeout(Duration::from_secs(10))?;
    Ok(connection)
}

fn committed(connection: &Connection) -> rusqlite::Result<BTreeMap<(String, String), RangeSet>> {
    let sql = "SELECT d.device_id, r.state_id, r.committed FROM record_states r JOIN devices d ON d.id = r.device_id";
    let mut statement = connection.prepare(sql)?;
    let mut rows = statement.query([])?;
    let mut all = BTreeMap::new();
    while let Some(row) = rows.next()? {
        let text: String = row.get(2)?;
        let ranges: RangeSet = serde_json::from_str(&text).map_err(|error| {
            rusqlite::Error::FromSqlConversionFailure(2, rusqlite::types::Type::Text, Box::new(error))
        })?;
        all.insert((row.get(0)?, row.get(1)?), ranges);
    }
    Ok(all)
}

fn commands(connection: &Connection) -> rusqlite::Result<Vec<Command>> {
    let mut statement = connection.prepare(
        "SELECT command_id, revision, status, coalesce(detail, '') FROM command_history ORDER BY 1, 2",
    )?;
    let mut rows = statement.query([])?;
    let mut histories: BTreeMap<String, Vec<(i64, String, String)>> = BTreeMap::new();
    while let Some(row) = rows.next()? {
        let step = (row.get(1)?, row.get(2)?, row.get(3)?);
        histories.entry(row.get(0)?).or_default().push(step);
    }
    let sql = "SELECT c.id, d.device_id, c.type, c.reference, c.status, \
               coalesce(c.error, c.reason, c.held_reason, '') FROM commands c JOIN devices d ON d.id = c.device_id";
    let mut statement = connection.prepare(sql)?;
    let rows = statement.query_map([], |row| {
        let id: String = row.get(0)?;
        Ok(Command {
            device: row.get(1)?,
            kind: row.get(2)?,
            reference: row.get(3)?,
            status: row.get(4)?,
            why: row.get(5)?,
            history: histories.remove(&id).unwrap_or_default(),
            id,
        })
    })?;
    rows.collect()
}
