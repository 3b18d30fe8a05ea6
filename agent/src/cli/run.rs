//! `run`.

use std::path::Path;
use std::process::ExitCode;

use super::{FAILED, with_causes};
use crate::config::Config;
use crate::service_manager::{ServiceManager, init_logging};

/// The configuration has to be changed first; systemd does not start the agent again by itself (`EX_CONFIG`).
const CONFIGURATION: u8 = 78;

pub(super) fn run(config_file: Option<&Path>, verbose: bool) -> ExitCode {
    init_logging(verbose);
    let config = match Config::load(config_file) {
        Ok(config) => config,
        Err(error) => {
            // Several wrong values are several lines.
            with_causes(&error).lines().for_each(|line| tracing::error!("{line}"));
            return ExitCode::from(CONFIGURATION);
        }
    };
    if !config.enabled {
        // systemd takes an end before readiness for a failure, and this is none.
        let manager = ServiceManager::from_environment();
        manager.ready();
        manager.status("FLEET_ENABLED is false");
        tracing::info!("FLEET_ENABLED is false: nothing to do");
        return ExitCode::SUCCESS;
    }
    if !config.is_enrolled() {
        tracing::error!("this device is not enrolled; run: r58-fleet-agent enroll URL --key-file FILE");
        return ExitCode::from(CONFIGURATION);
    }
    match crate::run::run(config) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!("{}", with_causes(&error));
            ExitCode::from(FAILED)
        }
    }
}
