//! One agent for each state folder.
//!
//! `agent.lock` in the folder is held with `flock` for the life of the process; the kernel lets go of it however the
//! process ends. The file's text tells who holds it and where that agent writes its status; the lock alone says whether
//! it still runs.

use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, Read, Seek, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};

/// Name of the file in the state folder.
const LOCK_FILE: &str = "agent.lock";
/// Longest text that is read from it, in bytes.
const TEXT_MAX_LEN: u64 = 8192;

/// Somebody who only looks holds the lock for an instant, so one refusal means little.
const LOCK_ATTEMPTS: u32 = 5;
/// Pause between two attempts.
const LOCK_PAUSE: Duration = Duration::from_millis(50);

/// The state folder cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum LockError {
    /// Another agent has it.
    #[error(
        "another agent{} runs on {folder} already; stop it first (systemctl stop r58-fleet-agent), or give this one \
         another STATE_DIR",
        .pid.map(|pid| format!(" (process {pid})")).unwrap_or_default()
    )]
    Held {
        /// The state folder.
        folder: PathBuf,
        /// The other one's process id, if it has written it already.
        pid: Option<i32>,
    },
    /// It cannot be made or written.
    #[error("cannot use the state folder: {path}; it has to be writable for the user that the agent runs as")]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
}

/// The lock, held until this is dropped.
#[derive(Debug)]
pub struct StateLock {
    file: Flock<File>,
    path: PathBuf,
}

/// Who holds a lock.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Holder {
    /// Its process id, if it has written it already.
    pub pid: Option<i32>,
    /// Where it writes its status, if it has said so.
    pub status_file: Option<PathBuf>,
}

impl StateLock {
    /// Makes `folder` (mode 0700) if it is missing, and takes the lock without waiting.
    ///
    /// # Errors
    /// When another process has it, or the folder cannot be used.
    pub fn take(folder: &Path) -> Result<Self, LockError> {
        let failed = |path: &Path, source| LockError::Io { path: path.to_owned(), source };
        DirBuilder::new().recursive(true).mode(0o700).create(folder).map_err(|e| failed(folder, e))?;
        let path = folder.join(LOCK_FILE);
        let file = open(&path, true).map_err(|e| failed(&path, e))?;
        let mut attempts_left = LOCK_ATTEMPTS;
        let mut file = file;
        loop {
            attempts_left -= 1;
            file = match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
                Ok(file) => {
                    let mut lock = Self { file, path };
                    lock.write(None)?;
                    return Ok(lock);
                }
                Err((file, Errno::EWOULDBLOCK)) if attempts_left > 0 => file,
                Err((file, Errno::EWOULDBLOCK)) => {
                    return Err(LockError::Held { folder: folder.to_owned(), pid: holder(file).pid });
                }
                Err((_, errno)) => return Err(failed(&path, errno.into())),
            };
            std::thread::sleep(LOCK_PAUSE);
        }
    }

    /// Tells where this agent writes its status.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn announce(&mut self, status_file: &Path) -> Result<(), LockError> {
        self.write(Some(status_file))
    }

    fn write(&mut self, status_file: Option<&Path>) -> Result<(), LockError> {
        let mut text = format!("{}\n", std::process::id());
        if let Some(path) = status_file {
            text.push_str(&path.to_string_lossy());
            text.push('\n');
        }
        let file = &mut *self.file;
        let written =
            file.set_len(0).and_then(|()| file.rewind()).and_then(|()| file.write_all(text.as_bytes()));
        written.map_err(|source| LockError::Io { path: self.path.clone(), source })
    }
}

/// Who runs on `folder`; `None` if nobody does.
///
/// # Errors
/// When that cannot be found out, mostly for want of permission.
pub fn running_on(folder: &Path) -> io::Result<Option<Holder>> {
    let path = folder.join(LOCK_FILE);
    let file = match open(&path, false) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    match Flock::lock(file, FlockArg::LockSharedNonblock) {
        Ok(_unheld) => Ok(None),
        Err((file, Errno::EWOULDBLOCK)) => Ok(Some(holder(file))),
        Err((_, errno)) => Err(errno.into()),
    }
}

fn open(path: &Path, write: bool) -> io::Result<File> {
    OpenOptions::new().read(true).write(write).create(write).truncate(false).mode(0o600).open(path)
}

fn holder(file: File) -> Holder {
    let mut text = String::new();
    // An unreadable text only means that less is known of the holder.
    let _ = file.take(TEXT_MAX_LEN).read_to_string(&mut text);
    let mut lines = text.lines();
    let pid = lines.next().and_then(|line| line.parse().ok());
    let status_file = lines.next().filter(|line| !line.is_empty()).map(PathBuf::from);
    Holder { pid, status_file }
}

/// Whether a process with that id lives, whoever it belongs to.
#[must_use]
pub fn is_alive(pid: i32) -> bool {
    if pid <= 0 {
        return false;
    }
    let pid = nix::unistd::Pid::from_raw(pid);
    matches!(nix::sys::signal::kill(pid, None), Ok(()) | Err(Errno::EPERM))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use std::fs;

    #[test]
    fn a_second_agent_on_a_state_folder_is_refused_and_told_who_has_it() {
        let folder = tempfile::tempdir().unwrap();
        let state = folder.path().join("state");
        let first = StateLock::take(&state).unwrap();
        let error = StateLock::take(&state).unwrap_err();
        assert!(error.to_string().contains(&format!("process {}", std::process::id())), "{error}");
        drop(first);
        StateLock::take(&state).unwrap();
    }

    #[test]
    fn the_lock_and_not_the_text_in_its_file_says_who_runs() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(running_on(folder.path()).unwrap(), None);
        fs::write(folder.path().join(LOCK_FILE), "1\n/run/x\n").unwrap();
        assert_eq!(running_on(folder.path()).unwrap(), None);
        let mut lock = StateLock::take(folder.path()).unwrap();
        lock.announce(Path::new("/run/here/status.json")).unwrap();
        let holder = running_on(folder.path()).unwrap().unwrap();
        assert_eq!(holder.pid, i32::try_from(std::process::id()).ok());
        assert_eq!(holder.status_file, Some(PathBuf::from("/run/here/status.json")));
    }

    #[test]
    fn a_state_folder_is_for_its_owner_alone() {
        use std::os::unix::fs::MetadataExt;
        let folder = tempfile::tempdir().unwrap();
        let state = folder.path().join("a/b");
        let _lock = StateLock::take(&state).unwrap();
        assert_eq!(fs::metadata(&state).unwrap().mode() & 0o777, 0o700);
    }

    #[test]
    fn a_process_that_lives_is_told_from_one_that_does_not() {
        assert!(is_alive(i32::try_from(std::process::id()).unwrap()));
        assert!(is_alive(1));
        assert!(!is_alive(0));
        assert!(!is_alive(i32::MAX));
    }
}
