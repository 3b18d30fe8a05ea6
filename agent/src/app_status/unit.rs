//! How a systemd unit is.

use crate::config::UnitName;
use crate::systemctl::{Systemd, Unit};

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

/// Asks systemd.
pub(super) fn state_of(unit: &UnitName) -> UnitState {
    let unit = unit.full();
    match Systemd::default().unit(&unit) {
        Ok(answer) => judge(&unit, answer),
        Err(problem) => UnitState::Unclear(problem.to_string()),
    }
}

fn judge(name: &str, unit: Unit) -> UnitState {
    match (unit.load.as_str(), unit.active.as_str()) {
        ("not-found", _) => UnitState::Unclear(format!("there is no {name}; check APP_UNIT")),
        ("", _) | (_, "") => UnitState::Unclear("systemd's answer cannot be understood".to_owned()),
        (_, "inactive" | "failed") => UnitState::Stopped(unit.active),
        _ => UnitState::Running(unit.active),
    }
}
