//! One server for one data folder: an advisory lock on `fleetd.lock`, which the kernel drops when the process ends,
//! however it ends.

use std::{
    fs::{self, File, OpenOptions},
    io::{Read, Seek, Write},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use nix::{
    errno::Errno,
    fcntl::{Flock, FlockArg},
};

use super::swap::like_its_folder;

/// Held as long as this value lives.
#[derive(Debug)]
pub struct DataLock {
    _file: Flock<File>,
}

/// Why the folder is not ours.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)] // the fields are what the message names
pub enum LockError {
    /// Another process has it.
    #[error(
        "{folder}: another fleetd{} is using this data folder; stop it, or set FLEET_DATA_DIR to another folder",
        process.as_ref().map(|id| format!(" (process {id})")).unwrap_or_default()
    )]
    InUse { folder: PathBuf, process: Option<u32> },
    /// The lock file cannot be made or locked.
    #[error("cannot lock {path}; the folder must exist and belong to the user that runs fleetd")]
    File { path: PathBuf, source: std::io::Error },
}

impl DataLock {
    /// Takes the folder, at once or not at all.
    ///
    /// # Errors
    /// [`LockError`] when another process has it or the lock file cannot be used.
    pub fn acquire(folder: &Path) -> Result<Self, LockError> {
        let path = folder.join("fleetd.lock");
        let failed = |source| LockError::File { path: path.clone(), source };
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(&path)
            .map_err(failed)?;
        // Made by root at the command line, the server could not open it.
        like_its_folder(&path, folder).map_err(failed)?;
        match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
            Ok(mut lock) => {
                // For the message that the second process shows; the lock itself does not depend on it.
                let note = |file: &mut File| -> std::io::Result<()> {
                    file.set_len(0)?;
                    file.rewind()?;
                    writeln!(file, "{}", std::process::id())
                };
                note(&mut lock).map_err(failed)?;
                Ok(Self { _file: lock })
            }
            Err((mut file, Errno::EWOULDBLOCK)) => {
                let mut text = String::new();
                let read = Read::by_ref(&mut file).take(20).read_to_string(&mut text);
                let process = read.ok().and_then(|_| text.trim().parse().ok());
                Err(LockError::InUse { folder: folder.to_owned(), process })
            }
            Err((_, errno)) => Err(failed(errno.into())),
        }
    }

    /// Whether a process has the folder. Changes nothing.
    ///
    /// # Errors
    /// [`LockError::File`] when it cannot be told.
    pub fn is_held(folder: &Path) -> Result<bool, LockError> {
        let path = folder.join("fleetd.lock");
        let failed = |source| LockError::File { path: path.clone(), source };
        match File::open(&path) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(false),
            Err(source) => Err(failed(source)),
            Ok(file) => match Flock::lock(file, FlockArg::LockSharedNonblock) {
                Ok(_) => Ok(false),
                Err((_, Errno::EWOULDBLOCK)) => Ok(true),
                Err((_, errno)) => Err(failed(errno.into())),
            },
        }
    }

    /// As [`acquire`](Self::acquire), trying again for so long. Blocks the thread.
    ///
    /// # Errors
    /// As [`acquire`](Self::acquire).
    pub fn acquire_within(folder: &Path, wait: Duration) -> Result<Self, LockError> {
        let deadline = Instant::now() + wait;
        loop {
            match Self::acquire(folder) {
                Err(LockError::InUse { .. }) if Instant::now() < deadline => {
                    std::thread::sleep(Duration::from_millis(50));
                }
                other => return other,
            }
        }
    }
}

/// Makes the data folder (0700) if it is not there.
///
/// # Errors
/// [`LockError::File`] when it cannot be made.
pub fn make_data_dir(folder: &Path) -> Result<(), LockError> {
    use std::os::unix::fs::DirBuilderExt;
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(folder)
        .map_err(|source| LockError::File { path: folder.to_owned(), source })
}
