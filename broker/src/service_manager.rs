//! Telling systemd how this program is; without systemd nothing happens. `fleetd` uses it as well.

use std::time::Duration;

use systemd::daemon;

/// Says one thing, such as `READY=1`.
pub fn tell(key: &str, value: &str) {
    if let Err(error) = daemon::notify([(key, value)].iter()) {
        tracing::debug!(%error, key, "systemd was not told");
    }
}

/// How often the watchdog wants to be fed, if it watches us: twice in its period.
#[must_use]
pub fn watchdog_every() -> Option<Duration> {
    let period_us = daemon::watchdog_enabled().ok().filter(|period| *period > 0)?;
    Some(Duration::from_micros(period_us / 2))
}
