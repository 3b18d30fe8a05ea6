//! Moving a database out of the way that cannot be trusted. It is kept for a look at what happened, but only the last
//! few are: the disk must not fill.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::error::StateError;
use super::journal_high::sync_folder;

/// How many set-aside databases are kept.
pub(super) const KEPT: usize = 2;
const PREFIX: &str = "damaged-";

/// Renames the folder `database_dir` within `dir`, with everything in it: one rename, so that a power cut leaves the
/// database and its log together, in the old place or in the new. Returns the new place.
pub(super) fn set_aside(dir: &Path, database_dir: &Path, now_ms: i64) -> Result<PathBuf, StateError> {
    let old = list(dir)?;
    // A counter puts them in order: the clock may be wrong. The time is for people.
    let number = old.last().map_or(1, |(number, _)| number.saturating_add(1));
    let target = dir.join(format!("{PREFIX}{number:06}-{now_ms}"));
    fs::rename(database_dir, &target).map_err(|source| StateError::File {
        operation: "set aside",
        path: database_dir.to_owned(),
        source,
    })?;
    sync_folder(dir)?;
    for (_, path) in old.iter().rev().skip(KEPT - 1) {
        fs::remove_dir_all(path).map_err(|source| StateError::File {
            operation: "remove",
            path: path.clone(),
            source,
        })?;
    }
    Ok(target)
}

/// The folders of set-aside databases in `dir`, oldest first; none if that cannot be found out.
pub(crate) fn set_aside_folders(dir: &Path) -> Vec<PathBuf> {
    list(dir).unwrap_or_default().into_iter().map(|(_, path)| path).collect()
}

/// The set-aside databases in `dir`, oldest first.
fn list(dir: &Path) -> Result<Vec<(u64, PathBuf)>, StateError> {
    let failed = |source: io::Error| StateError::File { operation: "list", path: dir.to_owned(), source };
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        let name = entry.file_name();
        let number = name
            .to_str()
            .and_then(|name| name.strip_prefix(PREFIX))
            .and_then(|rest| rest.split('-').next())
            .and_then(|digits| digits.parse::<u64>().ok());
        if let Some(number) = number {
            found.push((number, entry.path()));
        }
    }
    found.sort();
    Ok(found)
}
