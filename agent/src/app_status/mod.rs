//! Whether the application may be interrupted: live, idle, or unknown.
//!
//! [`decide`] is the rule, without IO. [`Reader`] asks the application, looks at the recordings folder and, only when the
//! application refuses the connection, at its systemd unit. Whatever cannot be found out makes the answer *unknown*,
//! never *idle*.

mod answer;
mod plain;
mod reader;
mod recordings;
#[cfg(test)]
mod tests;
mod unit;

use std::fmt;

pub use answer::{AppAnswer, State};
#[cfg(fuzzing)]
pub(crate) use plain::read_answer;
pub use reader::{Reader, installed_version};
pub use recordings::Recordings;
pub use unit::UnitState;

/// After this time since its start the agent has seen enough to call an application idle, milliseconds.
pub const SETTLING_MS: u64 = 30_000;
/// A test's other number for [`SETTLING_MS`]; in debug builds only.
#[cfg(debug_assertions)]
const TEST_SETTLING: &str = "R58_FLEET_TEST_SETTLING_MS";

/// [`SETTLING_MS`], unless a test wants another number.
#[cfg(debug_assertions)]
fn settling_ms() -> u64 {
    std::env::var(TEST_SETTLING).ok().and_then(|text| text.parse().ok()).unwrap_or(SETTLING_MS)
}

#[cfg(not(debug_assertions))]
fn settling_ms() -> u64 {
    SETTLING_MS
}

/// Whether the application may be interrupted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Liveness {
    /// It records or streams.
    Live,
    /// It does neither.
    Idle,
    /// That cannot be said.
    Unknown,
}

impl Liveness {
    /// As in a heartbeat: absent is unknown.
    #[must_use]
    pub fn as_option(self) -> Option<bool> {
        match self {
            Self::Live => Some(true),
            Self::Idle => Some(false),
            Self::Unknown => None,
        }
    }
}

impl fmt::Display for Liveness {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Live => "live",
            Self::Idle => "idle",
            Self::Unknown => "unknown",
        })
    }
}

/// What came of asking the application.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Asked {
    /// `APP_STATUS_URL` is set to nothing.
    NotConfigured,
    /// It answered.
    Said(AppAnswer),
    /// Nobody listens there.
    Refused,
    /// No answer that can be understood; why, in words.
    NoAnswer(String),
}

/// Everything that the rule looks at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Observed {
    /// What the application said.
    pub asked: Asked,
    /// What its recordings folder shows.
    pub recordings: Recordings,
    /// Its unit; looked at only if the application refused the connection.
    pub unit: Option<UnitState>,
    /// Whether the agent runs for long enough to have seen signs of life.
    pub settled: bool,
}

/// How the application is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AppStatus {
    /// Whether it may be interrupted.
    pub liveness: Liveness,
    /// Why, in words.
    pub because: String,
    /// What it said, if anything.
    pub answer: AppAnswer,
    /// Its version: as it says, or as installed.
    pub version: Option<String>,
}

/// The rule. Signs of life count before everything else, doubt before idleness.
#[must_use]
pub fn decide(observed: &Observed) -> (Liveness, String) {
    use Liveness::{Idle, Live, Unknown};
    if observed.recordings == Recordings::Changed {
        return (Live, "a file in the recordings folder grows".to_owned());
    }
    if let Asked::Said(answer) = &observed.asked {
        if let State::Live(word) = &answer.state {
            return (Live, format!("the application says {word}"));
        }
        if answer.recording == Some(true) || answer.streaming == Some(true) {
            let doing = if answer.streaming == Some(true) { "streams" } else { "records" };
            return (Live, format!("the application says that it {doing}"));
        }
    }
    if !observed.settled {
        return (Unknown, "the agent has only just started".to_owned());
    }
    if let Recordings::Unreadable(problem) = &observed.recordings {
        return (Unknown, format!("the recordings folder cannot be watched: {problem}"));
    }
    match (&observed.asked, &observed.unit) {
        (Asked::Said(answer), _) => match &answer.state {
            State::Idle(word) => (Idle, format!("the application says {word}")),
            State::Other(word) => {
                (Unknown, format!("the application says {word:?}, which is not known here"))
            }
            State::Live(_) | State::Missing => (Unknown, "the application's answer has no status".to_owned()),
        },
        (Asked::Refused, Some(UnitState::Stopped(word))) => {
            (Idle, format!("the application does not listen and its unit is {word}"))
        }
        (Asked::Refused, Some(UnitState::Running(word))) => {
            (Unknown, format!("the application does not listen although its unit is {word}"))
        }
        (Asked::Refused, Some(UnitState::Unclear(problem))) => {
            (Unknown, format!("the application does not listen; its unit: {problem}"))
        }
        (Asked::Refused, None) => (Unknown, "the application does not listen".to_owned()),
        (Asked::NoAnswer(problem), _) => (Unknown, format!("the application did not answer: {problem}")),
        (Asked::NotConfigured, _) => (Unknown, "APP_STATUS_URL is set to nothing".to_owned()),
    }
}
