//! `fleetd check`: what is wrong with an installation, or will be, and what to do about it. Nothing is changed.

mod database;
mod files;
mod network;

use serde::Serialize;

use crate::config::Config;

/// How serious a finding is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Level {
    /// As it should be.
    Ok,
    /// It works, and somebody should know.
    Warning,
    /// It does not work, or secrets lie open.
    Error,
}

/// What was found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// How serious it is.
    pub level: Level,
    /// What was looked at, in a word.
    pub subject: &'static str,
    /// What was seen.
    pub seen: String,
    /// What to do, if there is something to do.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub advice: Option<String>,
}

impl Finding {
    fn ok(subject: &'static str, seen: impl Into<String>) -> Self {
        Self { level: Level::Ok, subject, seen: seen.into(), advice: None }
    }

    fn warning(subject: &'static str, seen: impl Into<String>, advice: impl Into<String>) -> Self {
        Self { level: Level::Warning, subject, seen: seen.into(), advice: Some(advice.into()) }
    }

    fn error(subject: &'static str, seen: impl Into<String>, advice: impl Into<String>) -> Self {
        Self { level: Level::Error, subject, seen: seen.into(), advice: Some(advice.into()) }
    }
}

/// Looks at everything. `config_file`: where the configuration was read from, if from a file. `thorough`: every page of the
/// database is read.
#[must_use]
pub fn run(
    config: &Config,
    config_file: Option<&std::path::Path>,
    thorough: bool,
    now_ms: i64,
) -> Vec<Finding> {
    let mut findings = files::look(config, config_file);
    findings.extend(database::look(config, thorough, now_ms));
    findings.extend(network::look(config));
    findings
}
