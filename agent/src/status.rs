//! What a person on site wants to know, from the running agent to `r58-fleet-agent status`.
//!
//! The agent writes [`Status`] as JSON to `status.json` in `$RUNTIME_DIRECTORY` (a memory file system under systemd) or
//! in its state folder, whole at any time, without fsync: after a power cut the file is of no use anyway. The lock on the
//! state folder, not this file, says whether the agent runs.

mod show;
#[cfg(test)]
mod tests;

use std::fs::{self, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use nix::fcntl::{AT_FDCWD, RenameFlags, renameat2};
use serde::{Deserialize, Serialize};

use crate::command::OpenCommand;
use crate::config::Config;
use crate::lock::{self, Holder};

pub use show::{describe, duration_text};

/// Name of the file.
const STATUS_FILE: &str = "status.json";
/// Where it is when systemd starts the agent.
const SYSTEM_RUNTIME_DIR: &str = "/run/r58-fleet-agent";
/// Longest file that is read, in bytes.
const STATUS_MAX_LEN: u64 = 512 * 1024;
/// Reading is tried so often: the agent writes once a second at most.
const READ_TRIES: u32 = 10;

/// How the agent stands with the server.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Connection {
    /// Not connected, and about to try again.
    Waiting,
    /// Connecting, or connected and not yet answered by the server.
    Connecting,
    /// The server has answered this connection's birth.
    Connected,
}

/// How the running agent is. Times are milliseconds since 1970 by the device's clock, unless said otherwise. Holds no
/// credential.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    /// The agent's process.
    pub pid: u32,
    /// Version of the agent.
    pub agent_version: String,
    /// When it started.
    pub started_at_ms: i64,
    /// When this was written.
    pub written_at_ms: i64,
    /// The device.
    pub device_id: String,
    /// Its organisation.
    pub org: String,
    /// The fleet server, or the broker where no server is configured.
    pub server: Option<String>,
    /// Whether it is connected.
    pub connection: Connection,
    /// Since when `connection` is what it is.
    pub since_ms: i64,
    /// The address in use or tried last: a broker's, or the server's for HTTP exchange.
    pub link: Option<String>,
    /// When the next attempt is due, while waiting.
    pub next_attempt_at_ms: Option<i64>,
    /// The last failure.
    pub last_error: Option<String>,
    /// When that was.
    pub last_error_at_ms: Option<i64>,
    /// What was wrong with the state folder when this agent opened it, and what was done about it.
    #[serde(default)]
    pub state_damage: Option<String>,
    /// When that was.
    #[serde(default)]
    pub state_damage_at_ms: Option<i64>,
    /// When the server last confirmed that records are committed.
    pub last_ack_at_ms: Option<i64>,
    /// Records that the server has not committed.
    pub outbox_depth: u64,
    /// Bytes of those records.
    pub outbox_bytes: u64,
    /// When the device's certificate ends, by the server's clock; absent: it logs in by its token.
    #[serde(default)]
    pub certificate_expires_at_ms: Option<i64>,
    /// When another one is asked for, by the same clock.
    #[serde(default)]
    pub certificate_renew_at_ms: Option<i64>,
    /// When the last heartbeat was recorded.
    pub last_heartbeat_at_ms: Option<i64>,
    /// `live`, `idle` or `unknown`, and why.
    pub app: AppSummary,
    /// Why the first command that waits does not run, if one waits.
    pub held_reason: Option<String>,
    /// The commands that are open, those that run first.
    #[serde(default)]
    pub open_commands: Vec<OpenCommand>,
    /// How `link` is spoken to: `mqtts`, `wss`, `mqtt`, or `https` or `http` for HTTP exchange.
    #[serde(default)]
    pub transport: Option<String>,
}

/// The application in a [`Status`].
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct AppSummary {
    /// `live`, `idle` or `unknown`.
    pub liveness: String,
    /// Why, in words.
    pub because: String,
    /// Its version, if known.
    pub version: Option<String>,
}

/// Where the running agent puts its status.
#[derive(Debug, Clone)]
pub struct StatusFile {
    path: PathBuf,
}

impl StatusFile {
    /// The file in `$RUNTIME_DIRECTORY`, or in the state folder where systemd has not made one.
    #[must_use]
    pub fn new(config: &Config) -> Self {
        // systemd may name several folders, separated by colons.
        let runtime = std::env::var("RUNTIME_DIRECTORY").unwrap_or_default();
        let folder = match runtime.split(':').next() {
            Some(folder) if folder.starts_with('/') => PathBuf::from(folder),
            _ => config.state_dir.clone(),
        };
        Self { path: folder.join(STATUS_FILE) }
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Puts `status` in place of the earlier one. Readable by everybody, as far as the folder is.
    ///
    /// Two files take turns: the one from before the last is written over and changes places with the last one. A new file
    /// each time would cost the file system several times as much, and on a disk its rename writes the data out.
    ///
    /// # Errors
    /// When the file cannot be written; the earlier one is then still whole.
    pub fn write(&self, status: &Status) -> io::Result<()> {
        let text = serde_json::to_vec_pretty(status).map_err(io::Error::other)?;
        let spare = self.spare();
        let mut options = OpenOptions::new();
        let mut file = options.write(true).create(true).truncate(false).mode(0o644).open(&spare)?;
        file.write_all(&text)?;
        if file.metadata()?.len() > text.len() as u64 {
            file.set_len(text.len() as u64)?;
        }
        drop(file);
        match renameat2(AT_FDCWD, &spare, AT_FDCWD, &self.path, RenameFlags::RENAME_EXCHANGE) {
            Ok(()) => Ok(()),
            // There is no last one yet, or the file system cannot do that.
            Err(_) => fs::rename(&spare, &self.path),
        }
    }

    fn spare(&self) -> PathBuf {
        self.path.with_extension("json.new")
    }

    /// Takes it away, at the end of the agent.
    pub fn remove(&self) {
        // Whoever looks trusts the lock; one that stays behind does no harm.
        let _ = fs::remove_file(&self.path);
        let _ = fs::remove_file(self.spare());
    }
}

/// What was found out about the agent of a configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Found {
    /// None runs.
    NotRunning,
    /// It runs, and has not written its status yet, or not where it can be read.
    Silent {
        /// Its process, if known.
        pid: Option<i32>,
    },
    /// It runs, and this is what it says.
    Running(Box<Status>),
}

/// It cannot be found out whether the agent runs.
#[derive(Debug, thiserror::Error)]
#[error("cannot look into {folder}; run this as root (sudo)")]
pub struct LookError {
    /// The state folder.
    pub folder: PathBuf,
    /// The cause.
    pub source: io::Error,
}

/// Looks for the agent of `config`.
///
/// # Errors
/// When the state folder may not be looked into and the status file does not help either.
pub fn look(config: &Config) -> Result<Found, LookError> {
    look_in(&config.state_dir, Path::new(SYSTEM_RUNTIME_DIR))
}

#[cfg(test)]
pub(crate) fn look_for_tests(state_dir: &Path) -> Found {
    // Nobody wants the answer of a folder that cannot be looked into.
    look_in(state_dir, Path::new("/no/such/folder")).unwrap_or(Found::NotRunning)
}

fn look_in(state_dir: &Path, runtime_dir: &Path) -> Result<Found, LookError> {
    match lock::running_on(state_dir) {
        Ok(None) => Ok(Found::NotRunning),
        Ok(Some(Holder { pid, status_file })) => {
            let status = status_file.and_then(|path| read(&path)).map(Box::new);
            // One left over from an agent that was killed is not this agent's.
            let own = status.filter(|status| i64::from(status.pid) == pid.map_or(-1, i64::from));
            Ok(own.map_or(Found::Silent { pid }, Found::Running))
        }
        // Somebody without the right to look at the lock may still read what the agent says, if that agent lives.
        Err(source) => match read(&runtime_dir.join(STATUS_FILE)) {
            Some(status) if i32::try_from(status.pid).is_ok_and(lock::is_alive) => {
                Ok(Found::Running(Box::new(status)))
            }
            _ => Err(LookError { folder: state_dir.to_owned(), source }),
        },
    }
}

fn read(path: &Path) -> Option<Status> {
    // A file is written over only when it has lost its place to another: what is still in its place afterwards was whole.
    for _ in 0..READ_TRIES {
        let mut bytes = Vec::new();
        let file = fs::File::open(path).ok()?;
        let before = version(&file.metadata().ok()?);
        Read::take(&file, STATUS_MAX_LEN).read_to_end(&mut bytes).ok()?;
        if version(&fs::metadata(path).ok()?) == before {
            return serde_json::from_slice(&bytes).ok();
        }
    }
    None
}

fn version(file: &fs::Metadata) -> (u64, i64, i64) {
    (file.ino(), file.mtime(), file.mtime_nsec())
}
