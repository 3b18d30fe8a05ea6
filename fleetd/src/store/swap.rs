//! Puts a restored database, and what belongs to it, in the place of another: all of it or nothing, whenever the power
//! goes.
//!
//! * What is new lies ready and fsynced in a folder of its own beside the old.
//! * `{database}-restore` says what moves where. It is written beside, fsynced and renamed: from then on, and not
//!   before, the restore is decided.
//! * While it is there, nobody opens the database: whoever comes makes the moves first ([`finish`]). Each is a rename,
//!   and can be told apart from one that was made already, so that they can be gone through again.
//! * The old database goes with its log (`-wal`), which therefore is never applied to the new one.

use std::{
    fs, io,
    io::{Read, Write},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
};

use protocol::failpoint::reached;
use serde::{Deserialize, Serialize};

use super::{
    StoreError,
    folder::{folder_of, sync_folder, with_suffix},
};
use crate::failpoint;

/// Largest plan that is read, in bytes.
const PLAN_MAX_BYTES: u64 = 64 * 1024;

/// From where to where; a path that is not absolute is within the database's folder.
type Move = (PathBuf, PathBuf);

/// What a decided restore has to do.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Plan {
    /// What is set aside: only what was there when it was decided.
    pub aside: Vec<Move>,
    /// What takes its place.
    pub place: Vec<Move>,
    /// Folders that are of no use afterwards.
    pub remove: Vec<PathBuf>,
}

fn plan_file(database: &Path) -> PathBuf {
    with_suffix(database, "-restore")
}

fn failed<'a>(operation: &'static str, path: &'a Path) -> impl FnOnce(io::Error) -> StoreError + 'a {
    move |source| StoreError::File { operation, path: path.to_owned(), source }
}

fn exists(path: &Path) -> Result<bool, StoreError> {
    match fs::symlink_metadata(path) {
        Ok(_) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(failed("look at", path)(error)),
    }
}

/// Whether a restore is decided and not finished.
///
/// # Errors
/// [`StoreError::File`].
pub(super) fn is_pending(database: &Path) -> Result<bool, StoreError> {
    exists(&plan_file(database))
}

/// Decides: when this returns, the restore will happen. The caller has the folder for itself.
///
/// # Errors
/// [`StoreError::File`]; then nothing is decided.
pub fn decide(database: &Path, plan: &Plan) -> Result<(), StoreError> {
    let path = plan_file(database);
    let beside = with_suffix(&path, ".new");
    let write = || -> io::Result<()> {
        let text = serde_json::to_vec(plan)?;
        let mut file =
            fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&beside)?;
        file.write_all(&text)?;
        file.sync_all()?;
        reached(failpoint::RESTORE_BEFORE_DECISION);
        fs::rename(&beside, &path)?;
        sync_folder(folder_of(database))
    };
    let written = write().map_err(failed("write", &path));
    if written.is_err() {
        let _ = fs::remove_file(&beside);
    }
    reached(failpoint::RESTORE_AFTER_DECISION);
    written
}

/// Makes the moves of a decided restore, if there is one. The caller has the folder for itself.
///
/// # Errors
/// [`StoreError::File`]; then it can be gone through again.
pub fn finish(database: &Path) -> Result<(), StoreError> {
    let path = plan_file(database);
    let Some(plan) = read(&path)? else { return Ok(()) };
    let folder = folder_of(database);
    // The path of a move that is absolute stays as it is.
    let whole = |part: &Path| folder.join(part);
    for (from, to) in &plan.aside {
        // Where it is set aside already, its old name may be the new one's.
        if !exists(&whole(to))? && exists(&whole(from))? {
            rename(&whole(from), &whole(to))?;
        }
        reached(failpoint::RESTORE_AFTER_MOVE);
    }
    for (from, to) in &plan.place {
        let (from, to) = (whole(from), whole(to));
        if exists(&from)? {
            if exists(&to)? {
                let source = io::Error::other("something is in the way; move it away and try again");
                return Err(failed("put the restored data to", &to)(source));
            }
            rename(&from, &to)?;
        }
        reached(failpoint::RESTORE_AFTER_MOVE);
    }
    fs::remove_file(&path).map_err(failed("remove", &path))?;
    sync_folder(folder).map_err(failed("sync", folder))?;
    reached(failpoint::RESTORE_AFTER_SWAP);
    for empty in &plan.remove {
        // Nothing depends on it: the next restore looks for such folders.
        let _ = fs::remove_dir_all(whole(empty));
    }
    Ok(())
}

fn read(path: &Path) -> Result<Option<Plan>, StoreError> {
    let file = match fs::File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(failed("open", path)(error)),
    };
    let mut text = Vec::new();
    file.take(PLAN_MAX_BYTES).read_to_end(&mut text).map_err(failed("read", path))?;
    serde_json::from_slice(&text).map(Some).map_err(|error| failed("understand", path)(error.into()))
}

/// A rename that survives a power cut; the folder to move into is made.
fn rename(from: &Path, to: &Path) -> Result<(), StoreError> {
    use fs::DirBuilder;
    use std::os::unix::fs::DirBuilderExt;
    let into = folder_of(to);
    if !exists(into)? {
        DirBuilder::new().mode(0o700).create(into).map_err(failed("make the folder", into))?;
        let owner = folder_of(into);
        like_its_folder(into, owner).map_err(failed("give to its owner", into))?;
        sync_folder(owner).map_err(failed("sync", owner))?;
    }
    fs::rename(from, to).map_err(failed("move", from))?;
    for folder in [into, folder_of(from)] {
        sync_folder(folder).map_err(failed("sync", folder))?;
    }
    Ok(())
}

/// Gives what root has made in somebody's folder to the one whose folder it is: the server runs as that user.
///
/// # Errors
/// From the system.
pub fn like_its_folder(path: &Path, folder: &Path) -> io::Result<()> {
    use std::os::unix::fs::{MetadataExt, chown};
    let (made, folder) = (fs::symlink_metadata(path)?, fs::metadata(folder)?);
    if made.uid() == 0 && folder.uid() != 0 {
        chown(path, Some(folder.uid()), Some(folder.gid()))?;
    }
    Ok(())
}
