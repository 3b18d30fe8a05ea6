//! `agent-floor`: what no agent can do without, and nothing else. Aim 6 runs it beside the agent, and its processor time
//! says how much of the agent's is the machine's price for waking up, asking and keeping.
//!
//! One thread, no log, nothing that could be wrong or hang is allowed for. Each heartbeat: the kernel's figures, one
//! durable commit of the agent's statements with the agent's settings, one message to the server, its receipt and its
//! acknowledgement. Each look at the application: one connection, a request and its answer.

use std::{
    env,
    error::Error,
    fs,
    io::{Read, Write},
    net::{SocketAddr, TcpStream},
    path::Path,
    thread,
    time::{Duration, Instant},
};

use nix::sys::{statvfs::statvfs, sysinfo::sysinfo};
use rusqlite::Connection;

/// The agent looks at the application this often.
const LOOK_EVERY: Duration = Duration::from_secs(10);
/// Bytes of a heartbeat in the outbox, and of the packet that carries it.
const BODY_LEN: usize = 64;
const PACKET_LEN: usize = 113;
const REQUEST: &[u8] =
    b"GET /api/v1/sessions/status HTTP/1.1\r\nHost: localhost\r\nAccept: application/json\r\nConnection: close\r\n\r\n";

type Result<T> = std::result::Result<T, Box<dyn Error>>;

/// Arguments: a folder that is there, the addresses of server and application, and the looks for each heartbeat. Runs until
/// it is killed.
fn main() -> Result<()> {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let [folder, server, application, looks] = arguments.as_slice() else {
        return Err("wanted: FOLDER SERVER APPLICATION LOOKS".into());
    };
    let (folder, application, looks) = (Path::new(folder), application.parse()?, looks.parse()?);
    let database = open(folder)?;
    let mut server = TcpStream::connect(server.as_str())?;
    server.set_nodelay(true)?;
    let mut due = Instant::now();
    for seq in 1.. {
        look(application)?;
        measure(folder)?;
        keep(&database, seq)?;
        tell(&mut server)?;
        for _ in 1..looks {
            due += LOOK_EVERY;
            thread::sleep(due.saturating_duration_since(Instant::now()));
            look(application)?;
        }
        due += LOOK_EVERY;
        thread::sleep(due.saturating_duration_since(Instant::now()));
    }
    Ok(())
}

/// With the settings and the tables that a heartbeat touches in the agent (`agent/src/state/schema.rs`).
fn open(folder: &Path) -> Result<Connection> {
    let database = Connection::open(folder.join("floor.db"))?;
    database.query_row("PRAGMA journal_mode = WAL", [], |_| Ok(()))?;
    database.execute_batch(
        "PRAGMA synchronous = FULL; PRAGMA wal_autocheckpoint = 128; PRAGMA cache_size = -256; PRAGMA mmap_size = 0;
         CREATE TABLE meta (only_row INTEGER PRIMARY KEY, next_seq INTEGER NOT NULL, committed BLOB NOT NULL) STRICT;
         CREATE TABLE outbox (seq INTEGER PRIMARY KEY, kind INTEGER NOT NULL, body BLOB NOT NULL) STRICT;
         INSERT INTO meta VALUES (1, 1, x'820182');",
    )?;
    Ok(database)
}

fn measure(folder: &Path) -> Result<()> {
    let mut text = [0; 4096];
    for file in ["/proc/stat", "/proc/meminfo"] {
        let _ = fs::File::open(file)?.read(&mut text)?;
    }
    let (_disk, _load) = (statvfs(folder)?, sysinfo()?.load_average());
    Ok(())
}

/// The heartbeat before is forgotten in the same transaction.
fn keep(database: &Connection, seq: i64) -> Result<()> {
    database.prepare_cached("BEGIN IMMEDIATE")?.execute([])?;
    database.prepare_cached("DELETE FROM outbox WHERE seq = ?1")?.execute([seq - 1])?;
    let mut insert = database.prepare_cached("INSERT INTO outbox (seq, kind, body) VALUES (?1, 1, ?2)")?;
    insert.execute((seq, &[7; BODY_LEN][..]))?;
    let mut update = database.prepare_cached("UPDATE meta SET next_seq = ?1 WHERE only_row = 1")?;
    update.execute([seq + 1])?;
    database.prepare_cached("COMMIT")?.execute([])?;
    Ok(())
}

/// Returns after the receipt and the acknowledgement.
fn tell(server: &mut TcpStream) -> Result<()> {
    let mut answer = [0; 256];
    server.write_all(&[7; PACKET_LEN])?;
    for what in ["receipt", "acknowledgement"] {
        if server.read(&mut answer)? == 0 {
            return Err(format!("no {what}").into());
        }
    }
    Ok(())
}

fn look(application: SocketAddr) -> Result<()> {
    let mut application = TcpStream::connect(application)?;
    let mut answer = [0; 4096];
    application.write_all(REQUEST)?;
    let _ = application.read(&mut answer)?;
    Ok(())
}
