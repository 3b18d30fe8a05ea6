//! A folder for what the measured programs write, on the disk that is measured.

use std::path::Path;

use tempfile::TempDir;

use crate::outcome::{Outcome, Tell};

/// Goes with everything in it when dropped.
pub(crate) struct BenchDir(TempDir);

impl BenchDir {
    pub(crate) fn new(parent: &Path) -> Outcome<BenchDir> {
        std::fs::create_dir_all(parent).tell(format!("make {}", parent.display()))?;
        let parent = parent.canonicalize().tell(format!("find {}", parent.display()))?;
        let folder = tempfile::Builder::new().prefix("bench-").tempdir_in(&parent);
        Ok(BenchDir(folder.tell(format!("make a folder in {}", parent.display()))?))
    }

    pub(crate) fn path(&self) -> &Path {
        self.0.path()
    }
}
