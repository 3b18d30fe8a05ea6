//! Reading `fleet.conf`, and replacing it so that a power cut leaves the old or the new one, never a part.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, fchown};
use std::path::{Path, PathBuf};

use super::{Config, EditError, edit};

/// Longest file that is read, in bytes.
const FILE_MAX_LEN: u64 = 256 * 1024;

/// A file cannot be read or replaced.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    /// It is not there.
    #[error("{path} does not exist; `r58-fleet-agent enroll` makes it, or give another file with --config")]
    Missing {
        /// The file.
        path: PathBuf,
    },
    /// The user may not read or write it.
    #[error("no permission to {doing} {path}; run this as root (sudo), or as the owner of the file")]
    Permission {
        /// Which operation.
        doing: &'static str,
        /// The file.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
    /// Any other failure.
    #[error("cannot {doing} {path}")]
    Io {
        /// Which operation.
        doing: &'static str,
        /// The file.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
    /// More than 256 KiB.
    #[error("{path} is larger than 256 KiB, so it is no fleet.conf; check the path")]
    TooLarge {
        /// The file.
        path: PathBuf,
    },
    /// Not UTF-8.
    #[error("{path}, line {line}: this is not UTF-8 text; save the file as UTF-8")]
    NotUtf8 {
        /// The file.
        path: PathBuf,
        /// The first such line, counted from 1.
        line: usize,
    },
    /// Its text cannot be changed.
    #[error("cannot change {path}")]
    Edit {
        /// The file.
        path: PathBuf,
        /// The cause.
        source: EditError,
    },
}

impl FileError {
    fn io(doing: &'static str, path: &Path, source: io::Error) -> Self {
        let path = path.to_owned();
        match source.kind() {
            io::ErrorKind::NotFound if doing == "read" => Self::Missing { path },
            io::ErrorKind::PermissionDenied => Self::Permission { doing, path, source },
            _ => Self::Io { doing, path, source },
        }
    }
}

/// What a file held when it was read.
pub(super) struct Contents {
    pub(super) text: String,
    mode: u32,
}

impl Contents {
    /// A warning if the file holds the token and others than its owner may read it.
    pub(super) fn warning(&self, path: &Path, config: &Config) -> Option<String> {
        let holds_token = config.device_token.is_some() && !config.token_from_environment;
        (holds_token && self.mode & 0o077 != 0).then(|| {
            format!(
                "{path} holds DEVICE_TOKEN and others than its owner may read it (mode {mode:03o}); \
                 do: chmod 600 {path}",
                path = path.display(),
                mode = self.mode & 0o777
            )
        })
    }
}

/// Reads at most 256 KiB.
pub(super) fn read(path: &Path) -> Result<Contents, FileError> {
    let failed = |source| FileError::io("read", path, source);
    let file = File::open(path).map_err(failed)?;
    let metadata = file.metadata().map_err(failed)?;
    if !metadata.is_file() {
        let source = io::Error::new(io::ErrorKind::InvalidInput, "it is not a regular file");
        return Err(failed(source));
    }
    let mut bytes = Vec::new();
    file.take(FILE_MAX_LEN + 1).read_to_end(&mut bytes).map_err(failed)?;
    if bytes.len() as u64 > FILE_MAX_LEN {
        return Err(FileError::TooLarge { path: path.to_owned() });
    }
    let text = String::from_utf8(bytes).map_err(|error| {
        let good = &error.as_bytes()[..error.utf8_error().valid_up_to()];
        let line = good.iter().filter(|byte| **byte == b'\n').count() + 1;
        FileError::NotUtf8 { path: path.to_owned(), line }
    })?;
    Ok(Contents { text, mode: metadata.mode() })
}

/// Sets keys in the file at `path`; `start` is the text of a file that is not there yet. The new file is readable by
/// its owner alone.
///
/// # Errors
/// When it cannot be read, understood or replaced; the old one is then still whole.
pub fn update_file(path: &Path, start: &str, changes: &[(&str, &str)]) -> Result<(), FileError> {
    let text = match read(path) {
        Ok(contents) => contents.text,
        Err(FileError::Missing { .. }) => start.to_owned(),
        Err(other) => return Err(other),
    };
    let changed =
        edit::set(&text, changes).map_err(|source| FileError::Edit { path: path.to_owned(), source })?;
    write_private(path, changed.as_bytes())
}

/// Puts `bytes` in place of the file at `path` with mode 0600, on the disk when this returns. Missing folders are
/// made; a symbolic link keeps pointing to the file; the owner stays who it was, as far as the process may set that.
///
/// # Errors
/// When any step fails; the old file is then still whole.
pub fn write_private(path: &Path, bytes: &[u8]) -> Result<(), FileError> {
    let failed = |source| FileError::io("write", path, source);
    let target = fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
    let folder = match target.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder.to_owned(),
        _ => PathBuf::from("."),
    };
    fs::create_dir_all(&folder).map_err(failed)?;
    let mut temporary = target.clone().into_os_string();
    temporary.push(".new");
    let temporary = PathBuf::from(temporary);
    // One left over from a power cut is of no use. Made anew, so that its mode is right from the first byte on.
    match fs::remove_file(&temporary) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(failed(error)),
        _ => {}
    }
    let written = (|| {
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&temporary)?;
        if let Ok(old) = fs::metadata(&target) {
            // Only root may give a file away; anybody else stays its owner.
            let _ = fchown(&file, Some(old.uid()), Some(old.gid()));
        }
        file.write_all(bytes)?;
        file.sync_all()?;
        fs::rename(&temporary, &target)?;
        File::open(&folder)?.sync_all()
    })();
    if written.is_err() {
        let _ = fs::remove_file(&temporary);
    }
    written.map_err(failed)
}
