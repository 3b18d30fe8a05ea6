//! Who is in the folder of a database: every process that has it open holds a shared lock on the folder itself, a restore
//! an exclusive one. So no process can have the old database open while a restore puts another in its place, and then
//! write the old one's log beside the new one. The kernel drops the lock when a process ends, however it ends.

use std::{
    fs::File,
    io,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use nix::{
    errno::Errno,
    fcntl::{Flock, FlockArg},
};

use super::{StoreError, swap};

/// How long somebody waits for a folder in which a restore is at work.
const WAIT: Duration = Duration::from_secs(5);
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// Held as long as this value lives.
#[derive(Debug)]
pub struct FolderLock {
    _folder: Flock<File>,
}

/// The folder of a database file.
#[must_use]
pub fn folder_of(database: &Path) -> &Path {
    match database.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    }
}

impl FolderLock {
    /// Enters as one of many, for as long as the database is open. A restore that was cut off after it had decided is
    /// finished first. Blocks for at most some seconds.
    ///
    /// # Errors
    /// [`StoreError::BeingRestored`] while a restore is at work; [`StoreError::File`].
    pub fn enter(database: &Path) -> Result<Self, StoreError> {
        let deadline = Instant::now() + WAIT;
        loop {
            let lock = take(database, FlockArg::LockSharedNonblock, deadline)?;
            if !swap::is_pending(database)? {
                return Ok(lock);
            }
            // Finishing it needs the folder for oneself. Whoever comes first does it.
            drop(lock);
            let lock = take(database, FlockArg::LockExclusiveNonblock, deadline)?;
            swap::finish(database)?;
            drop(lock);
        }
    }

    /// Takes the folder for oneself, at once or not at all, and finishes a restore that was cut off.
    ///
    /// # Errors
    /// [`StoreError::Busy`] while another process has the database open; [`StoreError::File`].
    pub fn alone(database: &Path) -> Result<Self, StoreError> {
        let lock = match take(database, FlockArg::LockExclusiveNonblock, Instant::now()) {
            Err(StoreError::BeingRestored { path }) => return Err(StoreError::InUse { path }),
            other => other?,
        };
        swap::finish(database)?;
        Ok(lock)
    }
}

fn take(database: &Path, how: FlockArg, deadline: Instant) -> Result<FolderLock, StoreError> {
    let path = folder_of(database);
    let failed = |source| StoreError::File { operation: "lock the folder", path: path.to_owned(), source };
    let mut folder = File::open(path).map_err(failed)?;
    loop {
        match Flock::lock(folder, how) {
            Ok(folder) => return Ok(FolderLock { _folder: folder }),
            Err((back, Errno::EWOULDBLOCK)) if Instant::now() < deadline => {
                folder = back;
                std::thread::sleep(LOOK_EVERY);
            }
            Err((_, Errno::EWOULDBLOCK)) => {
                return Err(StoreError::BeingRestored { path: database.to_owned() });
            }
            Err((_, errno)) => return Err(failed(errno.into())),
        }
    }
}

/// Makes the names in a folder survive a power cut.
///
/// # Errors
/// From the system.
pub fn sync_folder(folder: &Path) -> io::Result<()> {
    File::open(folder)?.sync_all()
}

/// A path with something added to its last part.
#[must_use]
pub fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    PathBuf::from(name)
}
