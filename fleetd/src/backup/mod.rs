//! A backup: one file with everything that a server needs to go on elsewhere or after a mishap, and back again.
//!
//! The file is a tar archive, compressed with zstd, that any admin can look into: `manifest.json` (what it is, and the
//! SHA-256 of every part), `fleet.db` (the database), `blobs/…` (the files of the data folder). Its order is fixed, so
//! that it can be made and read as a stream.
//!
//! * [`create`] copies the database while the server runs, then packs.
//! * [`restore`] unpacks and checks beside the present data, then changes places ([`crate::store::swap`]).

mod archive;
mod create;
mod manifest;
mod progress;
mod restore;
mod snapshot;
#[cfg(test)]
mod tests;
mod unpack;
mod work;

use std::{
    io,
    path::{Path, PathBuf},
};

pub use create::{Made, Target, create};
pub use manifest::{Manifest, Part};
pub use progress::Progress;
pub use restore::{Options, Restored, restore};

use crate::store::{LockError, StoreError};

/// Why there is no backup, or nothing was restored.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)] // the fields are what the message names
pub enum BackupError {
    /// No room.
    #[error("cannot {operation} {path}: the disk is full; free some space or choose another place")]
    Full { operation: &'static str, path: PathBuf, source: io::Error },
    /// Anything else about a file.
    #[error("cannot {operation} {path}")]
    File { operation: &'static str, path: PathBuf, source: io::Error },
    /// There is no data to save.
    #[error(
        "{path}: there is no database to back up; set FLEET_DATA_DIR, or --config, to what the server uses"
    )]
    NoDatabase { path: PathBuf },
    /// The backup would replace a file.
    #[error("{path} is there already; a backup replaces nothing, choose another name")]
    Exists { path: PathBuf },
    /// The place for the backup is too slow for what the server writes meanwhile.
    #[error(
        "{path} is so slow that the server's log has grown by {megabytes} MB during the copy; back up to a faster disk \
         and copy the file from there"
    )]
    TooSlow { path: PathBuf, megabytes: u64 },
    /// SQLite says no.
    #[error("cannot {operation} {path}")]
    Sqlite { operation: &'static str, path: PathBuf, source: rusqlite::Error },
    /// The database itself is damaged.
    #[error(
        "{path}: the database is damaged ({problem}); there is no backup of it, restore an earlier one and keep this file"
    )]
    Unsound { path: PathBuf, problem: String },
    /// A blob is not one.
    #[error("{path} cannot be in a backup: {why}")]
    Blob { path: PathBuf, why: &'static str },
    /// It was written to while it was packed.
    #[error("{path} has changed while it was copied; back up again")]
    Changed { path: PathBuf },
    /// The file is something else.
    #[error("this is no backup of fleetd: {0}")]
    NotABackup(String),
    /// The file is a backup, and not whole.
    #[error("this backup cannot be used: {0}; nothing was changed")]
    Damaged(String),
    /// The backup is of a later program.
    #[error(
        "this backup was made by a newer fleetd ({what} {found}, this one knows {known}); install that version first"
    )]
    Newer { what: &'static str, found: i64, known: i64 },
    /// There is data already.
    #[error(
        "{database}: there is a database already; with --force it is set aside (never deleted) and the backup takes its \
         place"
    )]
    HasData { database: PathBuf },
    /// There is not enough room for it.
    #[error("{folder}: the backup needs {needed} MB, and {free} MB are free; nothing was changed")]
    NoRoom { folder: PathBuf, needed: u64, free: u64 },
    /// A server runs.
    #[error(transparent)]
    Lock(#[from] LockError),
    /// The database cannot be used.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl BackupError {
    /// From a failed file operation.
    fn file<'a>(operation: &'static str, path: &'a Path) -> impl Fn(io::Error) -> Self + 'a {
        move |source| {
            let path = path.to_owned();
            match source.kind() {
                io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded | io::ErrorKind::FileTooLarge => {
                    Self::Full { operation, path, source }
                }
                _ => Self::File { operation, path, source },
            }
        }
    }

    /// From a failed SQLite operation.
    fn sqlite<'a>(operation: &'static str, path: &'a Path) -> impl Fn(rusqlite::Error) -> Self + 'a {
        move |source| {
            let path = path.to_owned();
            // A quota, or a limit of the process, shows as an I/O error of a write.
            let is_full = source.sqlite_error().is_some_and(|error| {
                error.code == rusqlite::ErrorCode::DiskFull
                    || error.extended_code == rusqlite::ffi::SQLITE_IOERR_WRITE
            });
            if is_full {
                let source = io::Error::new(io::ErrorKind::StorageFull, source);
                return Self::Full { operation, path, source };
            }
            Self::Sqlite { operation, path, source }
        }
    }
}
