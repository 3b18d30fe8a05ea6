//! Folders for unfinished work: made beside where the work ends up, so that a rename finishes it; locked while they are
//! in use, so that what a power cut has left can be told from what somebody is at; removed with everything in them.

use std::{
    fs::{self, DirBuilder, File, OpenOptions},
    io,
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

use nix::fcntl::{Flock, FlockArg};

use super::BackupError;

/// What the names of such folders begin with.
const PREFIX: &str = ".fleetd-";
/// What they end with.
const SUFFIX: &str = ".partial";

/// A folder of its own, removed when dropped.
#[derive(Debug)]
pub(super) struct WorkFolder {
    path: PathBuf,
    _lock: Flock<File>,
}

impl WorkFolder {
    /// Makes one in `parent`; `what` stands in its name. Removes what earlier work of the kind has left there.
    pub(super) fn make(parent: &Path, what: &str) -> Result<Self, BackupError> {
        sweep(parent, what);
        let path = parent.join(format!("{PREFIX}{what}-{}{SUFFIX}", uuid::Uuid::new_v4().simple()));
        let failed = |error| BackupError::file("make the folder", &path)(error);
        DirBuilder::new().mode(0o700).create(&path).map_err(failed)?;
        let lock = File::open(&path).and_then(|folder| {
            Flock::lock(folder, FlockArg::LockExclusiveNonblock).map_err(|(_, errno)| errno.into())
        });
        match lock {
            Ok(lock) => Ok(Self { path, _lock: lock }),
            Err(error) => {
                let _ = fs::remove_dir_all(&path);
                Err(failed(error))
            }
        }
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for WorkFolder {
    fn drop(&mut self) {
        // What cannot be removed is swept up by the next one.
        let _ = fs::remove_dir_all(&self.path);
    }
}

/// Removes folders whose owners have died.
fn sweep(parent: &Path, what: &str) {
    let Ok(entries) = fs::read_dir(parent) else { return };
    let prefix = format!("{PREFIX}{what}-");
    for entry in entries.flatten() {
        let is_ours =
            entry.file_name().to_str().is_some_and(|n| n.starts_with(&prefix) && n.ends_with(SUFFIX));
        if !is_ours || !entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            continue;
        }
        let lock =
            File::open(entry.path()).map(|folder| Flock::lock(folder, FlockArg::LockExclusiveNonblock));
        if let Ok(Ok(_dead)) = lock {
            let _ = fs::remove_dir_all(entry.path());
        }
    }
}

/// A new file that only its owner may read.
pub(super) fn new_file(path: &Path) -> Result<File, BackupError> {
    let made = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path);
    made.map_err(BackupError::file("make", path))
}

/// Gives a finished file its name, unless something has that name already.
pub(super) fn name_it(from: &Path, to: &Path) -> Result<(), BackupError> {
    use nix::{
        errno::Errno,
        fcntl::{AT_FDCWD, RenameFlags, renameat2},
    };
    let failed = BackupError::file("name the backup", to);
    match renameat2(AT_FDCWD, from, AT_FDCWD, to, RenameFlags::RENAME_NOREPLACE) {
        Ok(()) => {}
        Err(Errno::EEXIST) => return Err(BackupError::Exists { path: to.to_owned() }),
        // Some file systems cannot tell: then it is looked at just before.
        Err(Errno::EINVAL | Errno::ENOSYS) => {
            refuse_existing(to)?;
            fs::rename(from, to).map_err(&failed)?;
        }
        Err(errno) => return Err(failed(errno.into())),
    }
    crate::store::folder::sync_folder(crate::store::folder::folder_of(to)).map_err(failed)
}

pub(super) fn refuse_existing(path: &Path) -> Result<(), BackupError> {
    match fs::symlink_metadata(path) {
        Ok(_) => Err(BackupError::Exists { path: path.to_owned() }),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(BackupError::file("look at", path)(error)),
    }
}
