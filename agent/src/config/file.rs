//! Reading `fleet.conf`, and replacing it so that a power cut leaves the old or the new one, never a part.
//!
//! A change is read, edit, write, so two at once would lose one of them, and a token with it. Whoever changes the file
//! holds a lock on its folder meanwhile: threads of the agent as well as `r58-fleet-agent enroll`. The kernel takes the
//! lock back from a process that dies.

use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt, fchown};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};
use protocol::failpoint;
use zeroize::Zeroizing;

use super::{Config, EditError, edit};

/// Longest file that is read, in bytes.
const FILE_MAX_LEN: u64 = 256 * 1024;
/// How long another change of the file is waited for; one takes milliseconds.
const LOCK_PATIENCE: Duration = Duration::from_secs(10);

/// Nothing of the new file is written yet.
const BEFORE_WRITE: &str = "agent.file.before-write";
/// It is on the disk under another name.
const BEFORE_RENAME: &str = "agent.file.before-rename";
/// It has its name, perhaps not on the disk.
const BEFORE_FOLDER_SYNC: &str = "agent.file.before-folder-sync";
/// It is there for good.
const AFTER: &str = "agent.file.after";
/// Places at which a test kills the process: one replaced file passes all of them, in this order.
pub const FILE_FAILPOINTS: [&str; 4] = [BEFORE_WRITE, BEFORE_RENAME, BEFORE_FOLDER_SYNC, AFTER];

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

/// Who may read a file that is replaced.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Readers {
    /// Its owner alone.
    Owner,
    /// Whoever may now; a new one its owner alone.
    AsBefore,
}

/// Sets keys in the file at `path`; `start` is the text of a file that is not there yet. The new file is readable by
/// its owner alone.
///
/// # Errors
/// When it cannot be read, understood or replaced; the old one is then still whole.
pub fn update_file(path: &Path, start: &str, changes: &[(&str, &str)]) -> Result<(), FileError> {
    change_file(path, Some(start), Readers::Owner, |text| {
        edit::set(text, changes).map_err(|source| FileError::Edit { path: path.to_owned(), source })
    })
}

/// Puts what `change` makes of the file's text in its place. Nothing is written if that is the same text. `start` is the
/// text of a file that is not there yet.
///
/// # Errors
/// When `change` refuses, or the file cannot be read or replaced; the old one is then still whole.
pub(crate) fn change_file<E: From<FileError>>(
    path: &Path,
    start: Option<&str>,
    readers: Readers,
    change: impl FnOnce(&str) -> Result<String, E>,
) -> Result<(), E> {
    let _lock = lock_folder(path)?;
    let (text, is_there) = match (read(path), start) {
        (Ok(contents), _) => (contents.text, true),
        (Err(FileError::Missing { .. }), Some(start)) => (start.to_owned(), false),
        (Err(other), _) => return Err(other.into()),
    };
    let text = Zeroizing::new(text);
    let changed = Zeroizing::new(change(&text)?);
    if is_there && changed == text && readers == Readers::AsBefore {
        return Ok(());
    }
    Ok(replace(path, changed.as_bytes(), readers)?)
}

/// Puts `bytes` in place of the file at `path` with mode 0600, on the disk when this returns. Missing folders are
/// made; a symbolic link keeps pointing to the file; the owner stays who it was, as far as the process may set that.
///
/// # Errors
/// When any step fails; the old file is then still whole.
pub fn write_private(path: &Path, bytes: &[u8]) -> Result<(), FileError> {
    replace(path, bytes, Readers::Owner)
}

fn replace(path: &Path, bytes: &[u8], readers: Readers) -> Result<(), FileError> {
    let failed = |source| FileError::io("write", path, source);
    let (target, folder) = real_place(path);
    fs::create_dir_all(&folder).map_err(failed)?;
    let mut temporary = target.clone().into_os_string();
    temporary.push(".new");
    let temporary = PathBuf::from(temporary);
    failpoint::reached(BEFORE_WRITE);
    // One left over from a power cut is of no use. Made anew, so that its mode is right from the first byte on.
    match fs::remove_file(&temporary) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(failed(error)),
        _ => {}
    }
    let written = (|| {
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&temporary)?;
        file.write_all(bytes)?;
        if let Ok(old) = fs::metadata(&target) {
            // Only root may give a file away; anybody else stays its owner.
            let _ = fchown(&file, Some(old.uid()), Some(old.gid()));
            if readers == Readers::AsBefore {
                file.set_permissions(Permissions::from_mode(old.mode() & 0o777))?;
            }
        }
        file.sync_all()?;
        failpoint::reached(BEFORE_RENAME);
        fs::rename(&temporary, &target)?;
        failpoint::reached(BEFORE_FOLDER_SYNC);
        File::open(&folder)?.sync_all()?;
        failpoint::reached(AFTER);
        Ok(())
    })();
    if written.is_err() {
        let _ = fs::remove_file(&temporary);
    }
    written.map_err(failed)
}

/// Where a file really is, and its folder.
fn real_place(path: &Path) -> (PathBuf, PathBuf) {
    let target = fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
    let folder = match target.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder.to_owned(),
        _ => PathBuf::from("."),
    };
    (target, folder)
}

/// Keeps other changes of the file away until the lock is dropped.
fn lock_folder(path: &Path) -> Result<Flock<File>, FileError> {
    let failed = |source| FileError::io("lock the folder of", path, source);
    let (_, folder) = real_place(path);
    fs::create_dir_all(&folder).map_err(failed)?;
    let mut file = File::open(&folder).map_err(failed)?;
    let give_up_at = Instant::now() + LOCK_PATIENCE;
    loop {
        file = match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
            Ok(lock) => return Ok(lock),
            Err((file, Errno::EWOULDBLOCK | Errno::EINTR)) if Instant::now() < give_up_at => file,
            Err((_, errno)) => return Err(failed(errno.into())),
        };
        std::thread::sleep(Duration::from_millis(10));
    }
}
