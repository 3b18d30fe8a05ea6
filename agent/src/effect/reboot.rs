//! `reboot`: by systemd, or by the kernel where there is no systemd.

use std::convert::Infallible;
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::reboot::{RebootMode, reboot};
use serde::{Deserialize, Serialize};
use serde_json::json;
use uuid::Uuid;

use super::{Outcome, Probed};
use crate::child;
use crate::kernel::{self, Kernel};
use crate::systemctl::{Systemd, SystemdError};

/// A reboot after a delay.
#[derive(Debug, Clone)]
pub(super) struct Reboot {
    delay: Duration,
    systemd: Systemd,
}

/// Which boot it was.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Before {
    boot_id: Uuid,
    /// By this a `systemctl` of an agent that is gone is found.
    mark: String,
}

impl Reboot {
    pub(super) fn new(delay_seconds: u32, systemd: Systemd) -> Self {
        Self { delay: Duration::from_secs(delay_seconds.into()), systemd }
    }

    pub(super) fn delay(&self) -> Duration {
        self.delay
    }

    #[expect(clippy::unused_self, reason = "as the other effects")]
    pub(super) fn observe(&self, kernel: &Kernel) -> Before {
        Before { boot_id: kernel.boot_id(), mark: child::new_mark() }
    }

    /// Returns only if nothing comes of it: else this process is ended in the middle.
    pub(super) fn run(&self, before: &Before, timeout: Duration) -> Outcome {
        let end = Instant::now() + timeout;
        let asked = match self.systemd.reboot(timeout, &before.mark) {
            Err(SystemdError::Absent(why)) => match by_the_kernel() {
                Ok(never) => match never {},
                Err(problem) => return Outcome::failed(format!("{why}; the kernel: {problem}")),
            },
            asked => asked,
        };
        match asked {
            // Ended from outside: that is how a shutdown begins.
            Ok(()) | Err(SystemdError::Interrupted) => {
                thread::sleep(end.saturating_duration_since(Instant::now()));
            }
            Err(_) if self.systemd.is_stopping() == Ok(true) => {
                thread::sleep(end.saturating_duration_since(Instant::now()));
            }
            Err(problem) => return Outcome::failed(problem.to_string()),
        }
        if self.systemd.is_stopping() == Ok(true) {
            return Outcome::RebootAsked;
        }
        let seconds = timeout.as_secs();
        Outcome::failed(format!("a reboot was asked for, and nothing has happened within {seconds} s"))
    }
}

/// The last way. Returns only if it does not work.
fn by_the_kernel() -> Result<Infallible, String> {
    if kernel::is_a_tests() {
        return Err("this machine belongs to a test and is not rebooted".to_owned());
    }
    tracing::warn!("there is no systemd to ask: the kernel reboots this machine now");
    nix::unistd::sync();
    reboot(RebootMode::RB_AUTOBOOT).map_err(|errno| errno.to_string())
}

/// After a crash.
pub(super) fn probe(before: &Before, kernel: &Kernel, systemd: &Systemd) -> Probed {
    if before.boot_id != kernel.boot_id() {
        return Probed::Done(json!({ "boot_id": kernel.boot_id(), "uptime_ms": kernel.boottime_ms() }));
    }
    // It may be about to ask for the reboot just now.
    child::end_marked(&before.mark);
    // A process that starts in the middle of a shutdown is a rare thing, but here it matters.
    match systemd.is_stopping() {
        Ok(true) => Probed::StillGoing,
        Ok(false) | Err(_) => Probed::NotDone,
    }
}
