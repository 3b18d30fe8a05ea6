//! `custom`: runs a script from the approved folder.
//!
//! The script is opened from `SCRIPTS_DIR` on, name by name, without following a symbolic link, and what was opened is
//! what is looked at and what is run: the program that is started is `/proc/<agent>/fd/<number>`, so that nothing that
//! happens to the names in between makes a difference. It must be a regular file, executable, and neither it nor a folder
//! on the way may belong to or be writable by anybody but root and the agent's own user.
//!
//! The agent keeps the file open while the script runs, because an interpreter opens it a second time. A script sees that
//! path as `$0`; its real one is in `R58_SCRIPT`, and its folder is the working directory.

use std::ffi::OsStr;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::process::ExitStatusExt;
use std::path::{Component, Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use nix::errno::Errno;
use nix::fcntl::{OFlag, open, openat};
use nix::sys::stat::{FileStat, Mode, SFlag, fstat};
use nix::unistd::{getegid, geteuid};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::{EffectContext, Outcome, Probed, Refusal};
use crate::child::{self, Ended, Limits};
use crate::config::Config;

/// How much of the beginning and of the end of its output is reported, in bytes.
const KEEP: usize = 8 * 1024;
/// Longest output as JSON, in bytes: with quotes and line ends escaped it may grow.
const JSON_MAX_LEN: usize = 24 * 1024;
/// Where the programs are that a script calls.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// A script that may be run.
#[derive(Debug, Clone)]
pub(super) struct Script {
    folder: PathBuf,
    /// Plain names only.
    path: PathBuf,
    args: Vec<String>,
    app_dir: PathBuf,
}

/// What is noted before a script starts.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Before {
    script: String,
    /// By this what it has started is found.
    mark: String,
}

/// Why a script cannot be opened. The paths are in the text, so that whoever installs scripts knows what to do.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
enum OpenError {
    #[error("{0} does not exist")]
    Missing(PathBuf),
    #[error("{0} is a symbolic link; scripts and their folders have to be real files and folders")]
    Link(PathBuf),
    #[error("{0} is not a regular file")]
    NotAFile(PathBuf),
    #[error("{0} is not a folder")]
    NotAFolder(PathBuf),
    #[error("{0} is not executable (chmod +x)")]
    NotExecutable(PathBuf),
    #[error("{0} belongs to user {1}; it has to belong to root or to the user that the agent runs as")]
    Owner(PathBuf, u32),
    #[error("{0} can be written by others (mode {1:03o}; chmod go-w)")]
    WritableByOthers(PathBuf, u32),
    #[error("{0} cannot be opened: {1}")]
    Io(PathBuf, Errno),
}

/// A script and its folder, both open.
#[derive(Debug)]
struct Opened {
    file: OwnedFd,
    folder: OwnedFd,
}

impl Script {
    /// Looks at the file as well, so that a script that cannot run is refused at once.
    pub(super) fn prepare(script: &str, args: Vec<String>, config: &Config) -> Result<Self, Refusal> {
        let path = Path::new(script);
        let plain = |component: Component<'_>| matches!(component, Component::Normal(_));
        // `components` tidies up: "a//b", "a/./b" and "a/" would not be told from "a/b" and "a".
        let tidy = path.components().collect::<PathBuf>().as_os_str() == OsStr::new(script);
        if script.is_empty() || !tidy || !path.components().all(plain) || script.contains(char::is_control) {
            return Err(Refusal::Invalid(format!(
                "{script:?} is no path below the folder of scripts; give it without a leading '/', '.' and '..'"
            )));
        }
        if args.iter().any(|arg| arg.contains('\0')) {
            return Err(Refusal::Invalid("an argument has a NUL character in it".to_owned()));
        }
        let (folder, app_dir) = (config.scripts_dir.clone(), config.app_dir.clone());
        let script = Self { folder, path: path.to_owned(), args, app_dir };
        script.open().map_err(|problem| Refusal::NotAllowed(problem.to_string()))?;
        Ok(script)
    }

    pub(super) fn observe(&self) -> Before {
        Before { script: self.path.to_string_lossy().into_owned(), mark: child::new_mark() }
    }

    pub(super) fn run(&self, before: &Before, timeout: Duration, context: &EffectContext) -> Outcome {
        let opened = match self.open() {
            Ok(opened) => opened,
            Err(problem) => return Outcome::failed(problem.to_string()),
        };
        let limits = Limits { time: timeout, keep: KEEP, with_stderr: true, mark: Some(before.mark.clone()) };
        match child::run(self.command(&opened, context), &limits) {
            Ok(ended) => outcome(&ended, timeout),
            Err(error) => {
                let path = self.folder.join(&self.path);
                // What the kernel says when the program behind "#!" is missing sounds like the script is.
                let hint = if error.raw_os_error() == Some(Errno::ENOENT as i32) {
                    "; is the program in its first line (#!) there?"
                } else if error.raw_os_error() == Some(Errno::ENOEXEC as i32) {
                    "; a script needs a first line like #!/bin/sh"
                } else {
                    ""
                };
                Outcome::failed(format!("{} cannot be started: {error}{hint}", path.display()))
            }
        }
    }

    fn command(&self, opened: &Opened, context: &EffectContext) -> Command {
        // "self" would be the child, in which these are closed.
        let of_this_process =
            |fd: &OwnedFd| PathBuf::from(format!("/proc/{}/fd/{}", std::process::id(), fd.as_raw_fd()));
        let mut command = Command::new(of_this_process(&opened.file));
        command
            .args(&self.args)
            .current_dir(of_this_process(&opened.folder))
            .env_clear()
            .env("PATH", PATH)
            .env("LANG", "C.UTF-8")
            .env("HOME", "/")
            .env("R58_COMMAND_ID", context.command_id.as_str())
            .env("R58_DEVICE_ID", context.device_id.as_str())
            .env("R58_APP_DIR", &self.app_dir)
            .env("R58_SCRIPT", self.folder.join(&self.path));
        command
    }

    fn open(&self) -> Result<Opened, OpenError> {
        let flags = OFlag::O_RDONLY | OFlag::O_CLOEXEC;
        let as_folder = flags | OFlag::O_DIRECTORY;
        let mut at = self.folder.clone();
        // Where the approved folder is, the installer alone has said, be it by a link.
        let mut folder =
            open(&at, as_folder, Mode::empty()).map_err(|errno| OpenError::of(errno, &at, true))?;
        check_owner(&at, &stat(&folder, &at)?)?;
        let mut names: Vec<&OsStr> = self.path.iter().collect();
        // `prepare` has refused an empty path.
        let name = names.pop().unwrap_or_default();
        for name in names {
            at.push(name);
            folder = openat(&folder, name, as_folder | OFlag::O_NOFOLLOW, Mode::empty())
                .map_err(|errno| OpenError::of(errno, &at, true))?;
            check_owner(&at, &stat(&folder, &at)?)?;
        }
        at.push(name);
        // A pipe would wait for its other end.
        let as_file = flags | OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK | OFlag::O_NOCTTY;
        let file = openat(&folder, name, as_file, Mode::empty())
            .map_err(|errno| OpenError::of(errno, &at, false))?;
        let facts = stat(&file, &at)?;
        if SFlag::from_bits_truncate(facts.st_mode) & SFlag::S_IFMT != SFlag::S_IFREG {
            return Err(OpenError::NotAFile(at));
        }
        check_owner(&at, &facts)?;
        if facts.st_mode & 0o111 == 0 {
            return Err(OpenError::NotExecutable(at));
        }
        Ok(Opened { file, folder })
    }
}

impl OpenError {
    fn of(errno: Errno, path: &Path, wants_folder: bool) -> Self {
        let path = path.to_owned();
        let is_link = path.symlink_metadata().is_ok_and(|facts| facts.is_symlink());
        match errno {
            Errno::ENOENT => Self::Missing(path),
            Errno::ELOOP => Self::Link(path),
            // What the kernel says to a link where a folder has to be.
            Errno::ENOTDIR if is_link => Self::Link(path),
            Errno::ENOTDIR if wants_folder => Self::NotAFolder(path),
            // A socket, or a device without a driver.
            Errno::ENXIO => Self::NotAFile(path),
            errno => Self::Io(path, errno),
        }
    }
}

fn stat(fd: &OwnedFd, path: &Path) -> Result<FileStat, OpenError> {
    fstat(fd).map_err(|errno| OpenError::Io(path.to_owned(), errno))
}

/// Whether nobody but root and the agent's own user can put something else there.
fn check_owner(path: &Path, facts: &FileStat) -> Result<(), OpenError> {
    if facts.st_uid != 0 && facts.st_uid != geteuid().as_raw() {
        return Err(OpenError::Owner(path.to_owned(), facts.st_uid));
    }
    let group_is_trusted = facts.st_gid == 0 || facts.st_gid == getegid().as_raw();
    let others = if group_is_trusted { 0o002 } else { 0o022 };
    if facts.st_mode & others != 0 {
        return Err(OpenError::WritableByOthers(path.to_owned(), facts.st_mode & 0o777));
    }
    Ok(())
}

fn outcome(ended: &Ended, timeout: Duration) -> Outcome {
    let result = result(ended);
    if ended.timed_out {
        let killed = if ended.status.is_none() { ", and not even SIGKILL has ended it yet" } else { "" };
        let error = format!("the script ran longer than {} s and was ended{killed}", timeout.as_secs());
        return Outcome::TimedOut { error, result: Some(result) };
    }
    let error = match ended.status {
        Some(status) if status.success() => return Outcome::Completed(result),
        Some(status) => match (status.code(), status.signal()) {
            (Some(code), _) => format!("the script ended with exit code {code}"),
            (None, signal) => format!("the script was ended by signal {}", signal.unwrap_or(0)),
        },
        None => "nobody knows how the script ended".to_owned(),
    };
    Outcome::Failed { error, result: Some(result) }
}

fn result(ended: &Ended) -> Value {
    let (output, cut) = bounded(&ended.output.text);
    let mut result = json!({
        "output": output,
        "output_bytes": ended.output.total_bytes,
        "truncated": ended.output.truncated || cut,
        "duration_ms": u64::try_from(ended.took.as_millis()).unwrap_or(u64::MAX),
    });
    if let Some(code) = ended.status.and_then(|status| status.code()) {
        result["exit_code"] = code.into();
    }
    if let Some(signal) = ended.status.and_then(|status| status.signal()) {
        result["signal"] = signal.into();
    }
    if ended.left_behind {
        result["ended_processes_left_behind"] = true.into();
    }
    result
}

/// Both ends of `text`, so that it fits as JSON; whether something had to go.
fn bounded(text: &str) -> (String, bool) {
    let cost = |c: char| match c {
        '"' | '\\' | '\n' | '\t' => 2,
        c => c.len_utf8(),
    };
    if text.chars().map(cost).sum::<usize>() <= JSON_MAX_LEN {
        return (text.to_owned(), false);
    }
    let half = |chars: &mut dyn Iterator<Item = char>| {
        let mut left = JSON_MAX_LEN / 2 - 64;
        let fits = chars.take_while(|c| {
            let fits = cost(*c) <= left;
            left = left.saturating_sub(cost(*c));
            fits
        });
        fits.map(char::len_utf8).sum::<usize>()
    };
    let (head, tail) = (half(&mut text.chars()), half(&mut text.chars().rev()));
    (format!("{}\n[…]\n{}", &text[..head], &text[text.len() - tail..]), true)
}

/// After a crash: nobody knows how far a script came. What still runs of it is ended, because nobody watches it any more.
pub(super) fn probe(before: &Before) -> Probed {
    let ended = child::end_marked(&before.mark);
    let rest = if ended == 0 { "" } else { "; it was still running, and was ended" };
    Probed::Unknown(format!("the agent was interrupted while the script {} ran{rest}", before.script))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(20))]
        #[test]
        fn output_fits_a_report_whatever_is_in_it(text in "[\"\\\\\n\t a€😀]{0,12000}") {
            let (shown, cut) = bounded(&text);
            prop_assert!(serde_json::to_string(&shown).map_or(0, |json| json.len()) <= JSON_MAX_LEN + 2);
            prop_assert_eq!(!cut, shown == text);
        }
    }
}
