//! `status`.

use std::path::Path;
use std::process::ExitCode;

use serde_json::json;

use super::{failure, say};
use crate::config::{self, Config, ConfigError, FileError};
use crate::kernel::{self, Kernel};
use crate::status::{self, Connection, Found};

/// The agent is not running.
const NOT_RUNNING: u8 = 3;
/// The agent is running and not connected.
const NOT_CONNECTED: u8 = 4;

pub(super) fn run(config_file: Option<&Path>, json: bool) -> ExitCode {
    let config = match Config::load(config_file).or_else(without_file) {
        Ok(config) => config,
        Err(error) => return failure(&error),
    };
    let found = match status::look(&config) {
        Ok(found) => found,
        Err(error) => return failure(&error),
    };
    if json {
        let text = match &found {
            Found::NotRunning => json!({"running": false}),
            Found::Silent { pid } => json!({"running": true, "pid": pid}),
            Found::Running(status) => json!({"running": true, "pid": status.pid, "status": status}),
        };
        say(&format!("{text:#}\n"));
    } else {
        match &found {
            Found::NotRunning => say(&format!("The agent is not running. {}\n", advice(&config))),
            Found::Silent { pid } => {
                let process = pid.map(|pid| format!(" (process {pid})")).unwrap_or_default();
                say(&format!(
                    "The agent is running{process} and has not said yet how it is. Try again in a moment.\n"
                ));
            }
            Found::Running(status) => match Kernel::open() {
                Ok(kernel) => say(&status::describe(status, kernel.wall_ms())),
                Err(error) => return failure(&error),
            },
        }
    }
    exit_code(&found)
}

/// Somebody who may not read the file, which holds the device's secret, may still see how a usual agent is.
fn without_file(error: ConfigError) -> Result<Config, ConfigError> {
    match error {
        ConfigError::File(FileError::Permission { .. }) => {
            Config::from_parts(None, &config::environment(), &kernel::hostname())
        }
        other => Err(other),
    }
}

fn exit_code(found: &Found) -> ExitCode {
    match found {
        Found::NotRunning => ExitCode::from(NOT_RUNNING),
        Found::Running(status) if status.connection == Connection::Connected => ExitCode::SUCCESS,
        Found::Running(_) | Found::Silent { .. } => ExitCode::from(NOT_CONNECTED),
    }
}

/// What a person may do about an agent that does not run.
fn advice(config: &Config) -> &'static str {
    if !config.enabled {
        "FLEET_ENABLED is false, so it ends as soon as it is started."
    } else if !config.is_enrolled() {
        "This device is not enrolled yet: r58-fleet-agent enroll URL --key-file FILE"
    } else {
        "Start it: systemctl start r58-fleet-agent. Why it stopped: journalctl -u r58-fleet-agent -e"
    }
}
