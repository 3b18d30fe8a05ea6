//! `restart_service`: restarts an allow-listed systemd unit, and looks whether that has worked.

use std::thread;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use uuid::Uuid;

use super::{OWN_UNIT, Outcome, Probed, Refusal};
use crate::child;
use crate::config::{Config, UnitName};
use crate::kernel::Kernel;
use crate::systemctl::{Systemd, SystemdError, Unit};

/// A unit that is active after a restart has to stay so for this long: many a service ends right after its start.
const SETTLING: Duration = Duration::from_secs(1);
/// Between two looks at the unit.
const PAUSE: Duration = Duration::from_millis(200);

/// A restart that is allowed.
#[derive(Debug, Clone)]
pub(super) struct Restart {
    /// With its type.
    unit: String,
    systemd: Systemd,
}

/// How the unit was before.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Before {
    unit: String,
    boot_id: Uuid,
    /// By this a `systemctl` of an agent that is gone is found.
    mark: String,
    /// Absent if systemd could not be asked.
    active: Option<String>,
    invocation: Option<String>,
    active_since_us: Option<u64>,
}

/// How far a restart has come.
#[derive(Debug, PartialEq, Eq)]
enum Progress {
    /// Another run of the unit than before, and it is as it should be.
    Restarted,
    /// systemd is at it.
    Going,
    /// The run from before goes on.
    Untouched,
    /// It is down; why.
    Down(String),
}

impl Restart {
    /// The unit has to be in `ALLOWED_SERVICES`, letter by letter; `.service` may be left out here or there.
    pub(super) fn prepare(service: &str, config: &Config, systemd: Systemd) -> Result<Self, Refusal> {
        let name: UnitName = service
            .parse()
            .map_err(|_| Refusal::Invalid(format!("{service:?} is no name of a systemd unit")))?;
        let unit = name.full();
        if !config.allowed_services.iter().any(|allowed| allowed.full() == unit) {
            let allowed: Vec<_> = config.allowed_services.iter().map(UnitName::as_str).collect();
            let allowed = if allowed.is_empty() { "none".to_owned() } else { allowed.join(", ") };
            return Err(Refusal::NotAllowed(format!(
                "{unit} is not in this device's ALLOWED_SERVICES ({allowed})"
            )));
        }
        Ok(Self { unit, systemd })
    }

    pub(super) fn is_own(&self) -> bool {
        self.unit == OWN_UNIT
    }

    pub(super) fn observe(&self, kernel: &Kernel) -> Before {
        let unit = self.systemd.unit(&self.unit).ok();
        let known = unit.as_ref();
        Before {
            unit: self.unit.clone(),
            boot_id: kernel.boot_id(),
            mark: child::new_mark(),
            active: known.map(|unit| unit.active.clone()),
            invocation: known.and_then(|unit| unit.invocation.clone()),
            active_since_us: known.and_then(|unit| unit.active_since_us),
        }
    }

    pub(super) fn run(&self, before: &Before, timeout: Duration) -> Outcome {
        let name = &self.unit;
        let end = Instant::now() + timeout;
        // This process is ended by the restart of its own unit, and a `systemctl` that waits with it.
        match self.systemd.restart(name, self.is_own(), timeout, &before.mark) {
            Ok(()) => {}
            // The agent is being stopped, so that nobody can wait. Whoever starts next will see.
            Err(SystemdError::Interrupted) => thread::sleep(end.saturating_duration_since(Instant::now())),
            Err(problem @ SystemdError::TimedOut(_)) => {
                let result = self.systemd.unit(name).ok().map(|unit| told(name, &unit));
                return Outcome::TimedOut { error: problem.to_string(), result };
            }
            Err(problem) => {
                let result = self.systemd.unit(name).ok().map(|unit| told(name, &unit));
                return Outcome::Failed { error: problem.to_string(), result };
            }
        }
        self.wait_until_restarted(before, end)
    }

    fn wait_until_restarted(&self, before: &Before, end: Instant) -> Outcome {
        let name = &self.unit;
        let mut good: Option<(Option<String>, Instant)> = None;
        let mut down_before = false;
        loop {
            let unit = match self.systemd.unit(name) {
                Ok(unit) => unit,
                Err(_) if Instant::now() < end => {
                    thread::sleep(PAUSE);
                    continue;
                }
                Err(problem) => {
                    return Outcome::failed(format!("restarted, but nobody tells how {name} is: {problem}"));
                }
            };
            let now = Instant::now();
            let progress = progress(before, &unit);
            let result = Some(told(name, &unit));
            match &progress {
                Progress::Restarted => match &good {
                    // Without a time left to look again, one look has to do.
                    Some((run, since)) if *run == unit.invocation && now - *since >= SETTLING => {
                        return Outcome::Completed(told(name, &unit));
                    }
                    Some((run, _)) if *run == unit.invocation => {}
                    _ => good = Some((unit.invocation.clone(), now)),
                },
                // Seen twice, because systemd may be between two steps.
                Progress::Down(why) if down_before => return Outcome::Failed { error: why.clone(), result },
                Progress::Down(_) | Progress::Going | Progress::Untouched => good = None,
            }
            down_before = matches!(progress, Progress::Down(_));
            if now >= end {
                let error = match progress {
                    Progress::Restarted => format!("{name} is up, but not for {} s", SETTLING.as_secs()),
                    Progress::Down(why) => why,
                    Progress::Going => format!("{name} is still {}", unit.active),
                    Progress::Untouched => {
                        let error = format!("systemd was asked to restart {name}, and has not done it");
                        return Outcome::Failed { error, result };
                    }
                };
                return Outcome::TimedOut { error, result };
            }
            thread::sleep(PAUSE);
        }
    }
}

/// After a crash.
pub(super) fn probe(before: &Before, kernel: &Kernel, systemd: &Systemd) -> Probed {
    let name = &before.unit;
    if before.boot_id != kernel.boot_id() {
        return Probed::Unknown(format!("the machine was rebooted while {name} was being restarted"));
    }
    // It may be about to ask for the restart just now. One that has asked already is not needed any more.
    child::end_marked(&before.mark);
    let unit = match systemd.unit(name) {
        Ok(unit) => unit,
        Err(problem) => return Probed::Unknown(format!("nobody tells how {name} is: {problem}")),
    };
    if before.active.is_none() {
        return Probed::Unknown(format!("it is not known how {name} was before"));
    }
    // While this is looked at the agent's own unit may be on its way up, and it is this process.
    if name == OWN_UNIT && is_another_run(before, &unit) {
        return Probed::Done(told(name, &unit));
    }
    match progress(before, &unit) {
        Progress::Restarted => Probed::Done(told(name, &unit)),
        Progress::Going => Probed::StillGoing,
        Progress::Untouched => Probed::NotDone,
        Progress::Down(_) if !is_another_run(before, &unit) && before.was_down() => Probed::NotDone,
        Progress::Down(error) => Probed::Failed { error, result: Some(told(name, &unit)) },
    }
}

impl Before {
    fn was_down(&self) -> bool {
        matches!(self.active.as_deref(), Some("inactive" | "failed"))
    }
}

/// Whether the unit has been started since.
fn is_another_run(before: &Before, now: &Unit) -> bool {
    match (&before.invocation, &now.invocation) {
        (before, Some(now)) => before.as_ref() != Some(now),
        // A systemd that names no runs; it still knows when the unit came up.
        (None, None) => now.active_since_us > before.active_since_us,
        (Some(_), None) => false,
    }
}

fn progress(before: &Before, now: &Unit) -> Progress {
    let name = &before.unit;
    let another = is_another_run(before, now);
    match now.active.as_str() {
        _ if now.load == "not-found" => Progress::Down(format!("there is no {name} on this device")),
        _ if now.has_job => Progress::Going,
        "active" | "reloading" | "refreshing" if another => Progress::Restarted,
        "active" | "reloading" | "refreshing" => Progress::Untouched,
        "activating" | "deactivating" | "maintenance" => Progress::Going,
        // It has run to its end, as it is meant to.
        "inactive" if another && now.kind == "oneshot" && now.result == "success" => Progress::Restarted,
        word @ ("inactive" | "failed") if another => {
            let result = if now.result.is_empty() { "unknown" } else { &now.result };
            Progress::Down(format!("{name} was restarted and is {word} now (result: {result})"))
        }
        "inactive" | "failed" => {
            Progress::Down(format!("{name} is {} and has not been started again", now.active))
        }
        other => Progress::Down(format!("{name} is {other:?}, which is not known here")),
    }
}

fn told(name: &str, unit: &Unit) -> Value {
    let mut told = json!({ "service": name, "active_state": unit.active, "sub_state": unit.sub });
    if let Some(id) = &unit.invocation {
        told["invocation_id"] = id.as_str().into();
    }
    told
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn before(active: &str, invocation: &str) -> Before {
        Before {
            unit: "a.service".to_owned(),
            boot_id: Uuid::nil(),
            mark: String::new(),
            active: Some(active.to_owned()),
            invocation: Some(invocation.to_owned()),
            active_since_us: Some(5),
        }
    }

    fn unit(active: &str, invocation: &str) -> Unit {
        let invocation = Some(invocation.to_owned());
        Unit { load: "loaded".to_owned(), active: active.to_owned(), invocation, ..Unit::default() }
    }

    #[test]
    fn only_another_run_that_is_up_counts_as_restarted() {
        let was = before("active", "1");
        assert_eq!(progress(&was, &unit("active", "2")), Progress::Restarted);
        assert_eq!(progress(&was, &unit("active", "1")), Progress::Untouched);
        assert_eq!(progress(&was, &unit("activating", "2")), Progress::Going);
        assert_eq!(progress(&was, &unit("deactivating", "1")), Progress::Going);
        assert_eq!(progress(&was, &Unit { has_job: true, ..unit("inactive", "1") }), Progress::Going);
        assert!(matches!(progress(&was, &unit("failed", "2")), Progress::Down(_)));
        assert!(matches!(progress(&was, &unit("inactive", "1")), Progress::Down(_)));
        let gone = Unit { load: "not-found".to_owned(), ..unit("inactive", "1") };
        assert_eq!(progress(&was, &gone), Progress::Down("there is no a.service on this device".to_owned()));
    }

    #[test]
    fn a_unit_that_runs_once_is_restarted_when_it_has_ended_well() {
        let once = |result: &str| Unit {
            kind: "oneshot".to_owned(),
            result: result.to_owned(),
            ..unit("inactive", "2")
        };
        assert_eq!(progress(&before("inactive", "1"), &once("success")), Progress::Restarted);
        assert!(matches!(progress(&before("inactive", "1"), &once("exit-code")), Progress::Down(_)));
    }

    #[test]
    fn a_systemd_without_names_for_runs_is_understood_by_its_times() {
        let was = Before { invocation: None, ..before("active", "") };
        let since = |us| Unit { invocation: None, active_since_us: Some(us), ..unit("active", "") };
        assert_eq!(progress(&was, &since(5)), Progress::Untouched);
        assert_eq!(progress(&was, &since(6)), Progress::Restarted);
    }
}
