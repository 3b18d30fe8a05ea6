//! systemd, asked and told by the `systemctl` on PATH, or over the system's D-Bus where PATH has none.
//!
//! These calls are made, and no others, so that a test can put a program of that name on PATH:
//!
//! | call | answer that is read |
//! |---|---|
//! | `systemctl show --property=… -- UNIT` | lines of `Property=value`, exit code 0 |
//! | `systemctl --no-ask-password restart -- UNIT` | exit code; on failure what it says |
//! | `systemctl --no-ask-password --no-block restart -- UNIT` | the same; for the agent's own unit |
//! | `systemctl --no-ask-password reboot` | the same |
//! | `systemctl is-system-running` | one word, with any exit code |

mod bus;
#[cfg(test)]
mod tests;

use std::ffi::OsString;
use std::io;
use std::process::Command;
use std::time::Duration;

use crate::child::{self, Ended, Limits};
use crate::kernel;

/// How long a question may take.
const PATIENCE: Duration = Duration::from_secs(3);
/// How much of the beginning and of the end of an answer is kept, in bytes.
const KEEP: usize = 4096;
/// How much of what `systemctl` says is repeated in an error, in characters.
const SAID_MAX_CHARS: usize = 1000;

/// What is asked about a unit.
const PROPERTIES: [&str; 8] = [
    "LoadState",
    "ActiveState",
    "SubState",
    "Type",
    "Result",
    "InvocationID",
    "ActiveEnterTimestampMonotonic",
    "Job",
];

/// How a unit is. The words are systemd's; what systemd does not tell is empty or absent.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Unit {
    /// `loaded`, `not-found`, `masked`, …
    pub(crate) load: String,
    /// `active`, `activating`, `deactivating`, `reloading`, `inactive`, `failed`.
    pub(crate) active: String,
    /// More exactly; a word that depends on the kind of unit.
    pub(crate) sub: String,
    /// A service's type: `simple`, `notify`, `oneshot`, …
    pub(crate) kind: String,
    /// How its last run ended: `success`, `exit-code`, …
    pub(crate) result: String,
    /// Names one run of the unit; another one after each start.
    pub(crate) invocation: Option<String>,
    /// When it became active, microseconds since boot.
    pub(crate) active_since_us: Option<u64>,
    /// Whether systemd still has something to do with it.
    pub(crate) has_job: bool,
}

impl Unit {
    /// Reads what `systemctl show` writes.
    fn read(answer: &str) -> Self {
        let property = |name: &str| {
            let value = answer.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix('='));
            value.unwrap_or_default().trim().to_owned()
        };
        let number = |name: &str| property(name).parse().ok().filter(|number: &u64| *number > 0);
        Self {
            load: property("LoadState"),
            active: property("ActiveState"),
            sub: property("SubState"),
            kind: property("Type"),
            result: property("Result"),
            invocation: Some(property("InvocationID")).filter(|id| !id.is_empty()),
            active_since_us: number("ActiveEnterTimestampMonotonic"),
            has_job: number("Job").is_some(),
        }
    }
}

/// systemd does not do what it is asked, or does not answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum SystemdError {
    /// There is neither a `systemctl` nor a systemd on the D-Bus.
    #[error("there is no systemctl on PATH, and {0}")]
    Absent(String),
    /// It refuses; in its own words.
    #[error("{0}")]
    Refused(String),
    /// `systemctl` was ended from outside: as when the agent is being stopped.
    #[error("systemctl was ended by a signal")]
    Interrupted,
    /// It takes longer than was allowed.
    #[error("systemd has not done it within {} s", .0.as_secs())]
    TimedOut(Duration),
}

/// The way to systemd. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub(crate) struct Systemd {
    /// Where `systemctl` is looked for, in place of PATH.
    path: Option<OsString>,
}

impl Systemd {
    /// With another PATH to look for `systemctl`.
    #[cfg(test)]
    pub(crate) fn on_path(path: impl Into<OsString>) -> Self {
        Self { path: Some(path.into()) }
    }

    /// How `unit` is; it has to be a full name.
    pub(crate) fn unit(&self, unit: &str) -> Result<Unit, SystemdError> {
        let properties = PROPERTIES.map(|name| format!("--property={name}"));
        let arguments = ["show"].into_iter().chain(properties.iter().map(String::as_str));
        let answer = match self.systemctl(arguments.chain(["--", unit]), PATIENCE, None) {
            None => bus::show(unit)?,
            Some(ended) => succeeded(ended?)?,
        };
        Ok(Unit::read(&answer))
    }

    /// Restarts `unit`; returns when systemd has done so, or at once with `no_block`. By `mark` a `systemctl` is found
    /// that outlives this process and would ask for it later.
    pub(crate) fn restart(
        &self,
        unit: &str,
        no_block: bool,
        limit: Duration,
        mark: &str,
    ) -> Result<(), SystemdError> {
        let block = if no_block { &["--no-block"][..] } else { &[] };
        let arguments = ["--no-ask-password"].iter().chain(block).chain(&["restart", "--"]).copied();
        match self.systemctl(arguments.chain([unit]), limit, Some(mark)) {
            // Whether it is done shows in the unit itself.
            None => bus::restart(unit),
            Some(ended) => succeeded(ended?).map(drop),
        }
    }

    /// Asks for a reboot of the machine; `mark` as for a restart.
    pub(crate) fn reboot(&self, limit: Duration, mark: &str) -> Result<(), SystemdError> {
        match self.systemctl(["--no-ask-password", "reboot"], limit, Some(mark)) {
            // A test that forgets its systemctl must not take the developer's machine down.
            None if kernel::is_a_tests() => {
                Err(SystemdError::Absent("a test's machine is not rebooted".to_owned()))
            }
            None => bus::reboot(),
            Some(ended) => succeeded(ended?).map(drop),
        }
    }

    /// Whether the machine is going down.
    pub(crate) fn is_stopping(&self) -> Result<bool, SystemdError> {
        let word = match self.systemctl(["is-system-running"], PATIENCE, None) {
            None => bus::system_state()?,
            // Its exit code says only whether all is well.
            Some(ended) => ended?.output.text,
        };
        Ok(word.trim() == "stopping")
    }

    /// Runs `systemctl`; `None` if there is none. What it says on standard error counts for an order (with a mark), and
    /// not for a question.
    fn systemctl<'a>(
        &self,
        arguments: impl IntoIterator<Item = &'a str>,
        time: Duration,
        mark: Option<&str>,
    ) -> Option<Result<Ended, SystemdError>> {
        let mut command = Command::new("systemctl");
        command.args(arguments);
        if let Some(path) = &self.path {
            command.env("PATH", path);
        }
        // Its words are shown to people who may not read the language of this machine.
        command.env("LC_ALL", "C").env("SYSTEMD_COLORS", "0");
        let limits = Limits { time, keep: KEEP, with_stderr: mark.is_some(), mark: mark.map(str::to_owned) };
        match child::run(command, &limits) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => Some(Err(SystemdError::Refused(format!("systemctl cannot be run: {error}")))),
            Ok(ended) if ended.timed_out => Some(Err(SystemdError::TimedOut(time))),
            Ok(ended) => Some(Ok(ended)),
        }
    }
}

/// What `systemctl` wrote, if it ended well.
fn succeeded(ended: Ended) -> Result<String, SystemdError> {
    let code = match ended.status {
        Some(status) if status.success() => return Ok(ended.output.text),
        Some(status) => status.code(),
        None => None,
    };
    let Some(code) = code else { return Err(SystemdError::Interrupted) };
    let said: String = ended.output.text.trim().chars().take(SAID_MAX_CHARS).collect();
    Err(SystemdError::Refused(if said.is_empty() {
        format!("systemctl ended with exit code {code}")
    } else {
        said
    }))
}
