//! Whether something is being written in the recordings folder.
//!
//! Two looks are compared with each other by size and modification time of every file, so a wrong clock does no harm.
//! Only the first look, which has nothing to compare with, goes by the clock.

use std::collections::HashMap;
use std::fs;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// How long a change counts, milliseconds.
const CHANGE_COUNTS_MS: u64 = 30_000;
/// Most files and folders that are looked at; with more the folder counts as unreadable.
const ENTRIES_MAX: usize = 50_000;
/// How deep folders are followed.
const DEPTH_MAX: usize = 8;

/// What the recordings folder shows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Recordings {
    /// `RECORDINGS_DIR` is not set.
    NotWatched,
    /// No file has grown or changed within 30 s; also if the folder is not there.
    Quiet,
    /// One has.
    Changed,
    /// It cannot be looked into; why, in words.
    Unreadable(String),
}

/// The folder, and how it was.
pub(super) struct RecordingsWatch {
    folder: PathBuf,
    /// Hash of the path to hash of size and modification time.
    seen: HashMap<u64, u64>,
    looked_before: bool,
    changed_at_ms: Option<u64>,
}

struct Look {
    files: HashMap<u64, u64>,
    newest_ms: Option<i64>,
    entries: usize,
}

impl RecordingsWatch {
    pub(super) fn new(folder: PathBuf) -> Self {
        Self { folder, seen: HashMap::new(), looked_before: false, changed_at_ms: None }
    }

    /// Looks now: `boottime_ms` and `wall_ms` are the two clocks.
    pub(super) fn look(&mut self, boottime_ms: u64, wall_ms: i64) -> Recordings {
        let mut look = Look { files: HashMap::new(), newest_ms: None, entries: 0 };
        if let Err(problem) = look.folder(&self.folder, 0) {
            return Recordings::Unreadable(problem);
        }
        let changed = if self.looked_before {
            look.files.iter().any(|(path, state)| self.seen.get(path) != Some(state))
        } else {
            // A file from the future was written while the clock was ahead: rather too careful than not.
            look.newest_ms
                .is_some_and(|newest| wall_ms.saturating_sub(newest) < CHANGE_COUNTS_MS.cast_signed())
        };
        if changed {
            self.changed_at_ms = Some(boottime_ms);
        }
        self.seen = look.files;
        self.looked_before = true;
        match self.changed_at_ms {
            Some(at) if boottime_ms.saturating_sub(at) < CHANGE_COUNTS_MS => Recordings::Changed,
            _ => Recordings::Quiet,
        }
    }
}

impl Look {
    fn folder(&mut self, folder: &Path, depth: usize) -> Result<(), String> {
        let failed = |error: io::Error| format!("{}: {error}", folder.display());
        let entries = match fs::read_dir(folder) {
            Ok(entries) => entries,
            // Not mounted, or just deleted: nothing can be written in it.
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(error) => return Err(failed(error)),
        };
        for entry in entries {
            let entry = entry.map_err(failed)?;
            self.entries += 1;
            if self.entries > ENTRIES_MAX {
                return Err(format!("it has more than {ENTRIES_MAX} files"));
            }
            // Links are not followed. What vanishes meanwhile is not being written.
            let metadata = match entry.metadata() {
                Ok(metadata) => metadata,
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                Err(error) => return Err(failed(error)),
            };
            if metadata.is_dir() && depth < DEPTH_MAX {
                self.folder(&entry.path(), depth + 1)?;
            } else if metadata.is_file() {
                let state = (metadata.size(), metadata.mtime(), metadata.mtime_nsec());
                self.files.insert(hash(&entry.path()), hash(&state));
                let modified_ms = metadata.mtime().saturating_mul(1000);
                self.newest_ms = self.newest_ms.max(Some(modified_ms));
            }
        }
        Ok(())
    }
}

fn hash(value: &impl Hash) -> u64 {
    let mut hasher = DefaultHasher::new();
    value.hash(&mut hasher);
    hasher.finish()
}
