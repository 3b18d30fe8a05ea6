//! How a systemd unit is.

mod bus;

use std::io::{self, Read};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use crate::config::UnitName;

/// How long `systemctl` may take.
const PATIENCE: Duration = Duration::from_secs(3);
/// Longest answer that is read, in bytes.
const ANSWER_MAX_LEN: u64 = 4096;

/// How a unit is; the words are systemd's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum UnitState {
    /// Inactive or failed.
    Stopped(String),
    /// Anything else that a unit can be: active, activating, deactivating, reloading.
    Running(String),
    /// It does not exist, or systemd cannot be asked; why, in words.
    Unclear(String),
}

/// Asks the `systemctl` on PATH, or systemd itself over the system's D-Bus where PATH has none.
pub(super) fn state_of(unit: &UnitName) -> UnitState {
    let unit = unit.full();
    let answer = match ask_systemctl(&unit) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => bus::ask(&unit),
        answer => answer.map_err(|error| format!("systemctl: {error}")),
    };
    match answer {
        Ok(answer) => read(&unit, &answer),
        Err(problem) => UnitState::Unclear(problem),
    }
}

/// The two properties that say how a unit is, as `systemctl show` writes them.
fn read(unit: &str, answer: &str) -> UnitState {
    let property = |name: &str| answer.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix('='));
    match (property("LoadState"), property("ActiveState")) {
        (Some("not-found"), _) => UnitState::Unclear(format!("there is no {unit}; check APP_UNIT")),
        (Some(_), Some(word @ ("inactive" | "failed"))) => UnitState::Stopped(word.to_owned()),
        (Some(_), Some(word)) if !word.is_empty() => UnitState::Running(word.to_owned()),
        _ => UnitState::Unclear("systemd's answer cannot be understood".to_owned()),
    }
}

fn ask_systemctl(unit: &str) -> io::Result<String> {
    let mut child = Command::new("systemctl")
        .args(["show", "--property=LoadState", "--property=ActiveState", "--", unit])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()?;
    let give_up_at = Instant::now() + PATIENCE;
    let status = loop {
        if let Some(status) = child.try_wait()? {
            break status;
        }
        if Instant::now() >= give_up_at {
            // It is gone already, or it goes now.
            let _ = child.kill();
            let _ = child.wait();
            return Err(io::Error::new(io::ErrorKind::TimedOut, "no answer within 3 s"));
        }
        std::thread::sleep(Duration::from_millis(20));
    };
    let mut answer = String::new();
    if let Some(stdout) = child.stdout.take() {
        stdout.take(ANSWER_MAX_LEN).read_to_string(&mut answer)?;
    }
    if status.success() { Ok(answer) } else { Err(io::Error::other(format!("it ended with {status}"))) }
}
