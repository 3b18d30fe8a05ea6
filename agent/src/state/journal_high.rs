//! The small file beside the database that holds the highest journal number in use.
//!
//! Invariant: before an effect numbered `n` starts, the database has committed `n` and this file holds at least `n`.
//! So a database whose journal ends below the number in the file is an older copy, which must not be trusted to know
//! what has been done.
//!
//! Layout: the number in decimal digits and a line feed. Written to a second file, fsynced, renamed over the first, and
//! the folder fsynced: after a power cut there is the old number or the new one, never half of one.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use super::error::StateError;
use crate::failpoint;

const NAME: &str = "journal-high";
const NAME_WHILE_WRITING: &str = "journal-high.new";
/// The longest number, with its line feed.
const MAX_BYTES: u64 = 21;

/// What the file says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum JournalHigh {
    /// It is not there: no effect has ever started.
    Absent,
    /// The highest number in use.
    Number(u64),
    /// It does not hold a number.
    Unreadable,
}

/// Reads the file in `dir`.
pub(super) fn read(dir: &Path) -> Result<JournalHigh, StateError> {
    let path = dir.join(NAME);
    let mut text = Vec::new();
    match File::open(&path).and_then(|file| file.take(MAX_BYTES + 1).read_to_end(&mut text)) {
        Ok(_) => Ok(parse(&text).map_or(JournalHigh::Unreadable, JournalHigh::Number)),
        Err(source) if source.kind() == io::ErrorKind::NotFound => Ok(JournalHigh::Absent),
        Err(source) => Err(StateError::File { operation: "read", path, source }),
    }
}

/// Replaces the number in the file in `dir`; returns when it is on disk.
pub(super) fn write(dir: &Path, number: u64) -> Result<(), StateError> {
    let new = dir.join(NAME_WHILE_WRITING);
    failpoint::reached(failpoint::HIGH_BEFORE);
    write_synced(&new, number).map_err(|source| failed("write", &new, source))?;
    failpoint::reached(failpoint::HIGH_WRITTEN);
    fs::rename(&new, dir.join(NAME)).map_err(|source| failed("rename", &new, source))?;
    sync_folder(dir)?;
    failpoint::reached(failpoint::HIGH_AFTER);
    Ok(())
}

/// Makes renames in `dir` survive a power cut.
pub(super) fn sync_folder(dir: &Path) -> Result<(), StateError> {
    File::open(dir).and_then(|folder| folder.sync_all()).map_err(|source| failed("sync", dir, source))
}

fn write_synced(path: &Path, number: u64) -> io::Result<()> {
    let mut file = File::create(path)?;
    writeln!(file, "{number}")?;
    file.sync_all()
}

fn parse(text: &[u8]) -> Option<u64> {
    let digits = text.strip_suffix(b"\n")?;
    if digits.is_empty() || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    std::str::from_utf8(digits).ok()?.parse().ok()
}

fn failed(operation: &'static str, path: &Path, source: io::Error) -> StateError {
    StateError::File { operation, path: PathBuf::from(path), source }
}
