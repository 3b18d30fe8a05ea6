//! What commands do to this device: the only code of the agent that changes anything outside its own state folder.
//!
//! Nothing here knows of the journal, of MQTT or of the event loop. The order of the calls is what makes an effect happen
//! at most once and its outcome known:
//!
//! 1. [`prepare`] checks a payload against this device's allow lists: when the command arrives, and again right before
//!    the effect.
//! 2. [`Prepared::observe`] notes how things are; that goes into the journal together with `running`.
//! 3. [`Prepared::run`] does it, once.
//! 4. After a crash [`Observed::probe`] finds out from that note whether it was done. It needs no [`Prepared`]: what was
//!    allowed may be forbidden since, and a script may be gone.
//!
//! All of these block, for as long as a disk or systemd makes them wait, so each has to be called on a thread of its own.
//! A thread in [`Prepared::run`] must not be waited for when the process is asked to end: it may be in the middle of
//! restarting this very process.

mod observed;
mod ping;
mod reboot;
mod restart;
pub mod rotation;
mod script;
mod settings;
#[cfg(test)]
mod tests;

use std::time::Duration;

use protocol::command::payload::Payload;
use protocol::id::{CommandId, DeviceId};
use serde_json::Value;

use crate::config::Config;
use crate::kernel::Kernel;
use crate::systemctl::Systemd;

pub use observed::Observed;
pub use settings::apply_config;

use observed::Facts;
use reboot::Reboot;
use restart::Restart;
use rotation::{Made, Rotation};
use script::Script;
use settings::Change;

/// The agent's own unit: restarting it harms no show.
pub const OWN_UNIT: &str = "r58-fleet-agent.service";

/// Why a command is not run. The text is for the operator who sent it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// This version cannot do that.
    #[error("not supported by this agent version")]
    NotSupported,
    /// This device does not allow it.
    #[error("not allowed: {0}")]
    NotAllowed(String),
    /// It makes no sense.
    #[error("invalid: {0}")]
    Invalid(String),
}

/// How an effect ended.
#[derive(Debug, Clone, PartialEq)]
pub enum Outcome {
    /// It was done, and looked at afterwards.
    Completed(Value),
    /// It was not done, or in vain.
    Failed {
        /// Why, for the operator.
        error: String,
        /// What came of it all the same.
        result: Option<Value>,
    },
    /// It was ended by the time limit, or goes on beyond it.
    TimedOut {
        /// How far it got, for the operator.
        error: String,
        /// What came of it.
        result: Option<Value>,
    },
    /// The machine goes down and this process with it: the command stays `running`, and the next process probes.
    RebootAsked,
    /// The first step of `rotate_token`: the new token is on the disk, and its hash is to be reported. The command stays
    /// `running`; the other steps are those of [`Rotation`].
    TokenMade(Made),
}

impl Outcome {
    fn failed(error: impl Into<String>) -> Self {
        Self::Failed { error: short(error.into()), result: None }
    }
}

/// What a look after a crash shows.
#[derive(Debug, Clone, PartialEq)]
pub enum Probed {
    /// It was done.
    Done(Value),
    /// It was done in vain, or in part: as [`Outcome::Failed`].
    Failed {
        /// Why, for the operator.
        error: String,
        /// What came of it all the same.
        result: Option<Value>,
    },
    /// It was not done and will not be: `failed`, interrupted.
    NotDone,
    /// That cannot be found out; why, for the operator.
    Unknown(String),
    /// It is being done just now, without this process: look again in a second, until its time is up. For
    /// `rotate_token`: its files are there, go on as [`Rotation::standing`] says.
    StillGoing,
}

/// What an effect has to know besides its payload.
#[derive(Debug, Clone)]
pub struct EffectContext {
    /// The command.
    pub command_id: CommandId,
    /// This device.
    pub device_id: DeviceId,
    /// The clocks.
    pub kernel: Kernel,
}

/// A command that was checked against this device's allow lists: it may be run.
#[derive(Debug, Clone)]
pub struct Prepared(Effect);

#[derive(Debug, Clone)]
enum Effect {
    Ping,
    Restart(Restart),
    Reboot(Reboot),
    Script(Script),
    Change(Change),
    Rotate(Rotation),
}

/// Checks a payload against the allow lists of `config`, and looks at the disk where that says more.
///
/// # Errors
/// When the command cannot or may not run on this device.
pub fn prepare(payload: Payload, config: &Config) -> Result<Prepared, Refusal> {
    prepare_with(payload, config, Systemd::default()).map_err(|refusal| match refusal {
        Refusal::NotSupported => Refusal::NotSupported,
        Refusal::NotAllowed(why) => Refusal::NotAllowed(short(why)),
        Refusal::Invalid(why) => Refusal::Invalid(short(why)),
    })
}

fn prepare_with(payload: Payload, config: &Config, systemd: Systemd) -> Result<Prepared, Refusal> {
    Ok(Prepared(match payload {
        Payload::Ping => Effect::Ping,
        Payload::RestartService(restart) => {
            Effect::Restart(Restart::prepare(&restart.service, config, systemd)?)
        }
        Payload::Reboot(reboot) => Effect::Reboot(Reboot::new(reboot.delay_seconds, systemd)),
        Payload::Custom(custom) => Effect::Script(Script::prepare(&custom.script, custom.args, config)?),
        Payload::Config(config_change) => Effect::Change(Change::prepare(config_change.changes, config)?),
        Payload::RotateToken => Effect::Rotate(Rotation::of(config)?),
        Payload::Update(_) | Payload::Bundle(_) => return Err(Refusal::NotSupported),
    }))
}

impl Prepared {
    /// Whether it can disturb a show.
    #[must_use]
    pub fn is_disruptive(&self) -> bool {
        match &self.0 {
            Effect::Ping | Effect::Change(_) | Effect::Rotate(_) => false,
            Effect::Restart(restart) => !restart.is_own(),
            Effect::Reboot(_) | Effect::Script(_) => true,
        }
    }

    /// How long to wait first, before the checks and in whatever state the command is.
    #[must_use]
    pub fn delay(&self) -> Duration {
        match &self.0 {
            Effect::Reboot(reboot) => reboot.delay(),
            _ => Duration::ZERO,
        }
    }

    /// How things are before the effect. To be on disk before [`Self::run`].
    #[must_use]
    pub fn observe(&self, kernel: &Kernel) -> Observed {
        Observed(match &self.0 {
            Effect::Ping => Facts::Ping {},
            Effect::Restart(restart) => Facts::RestartService(restart.observe(kernel)),
            Effect::Reboot(reboot) => Facts::Reboot(reboot.observe(kernel)),
            Effect::Script(script) => Facts::Custom(script.observe()),
            Effect::Change(change) => Facts::Config(change.observe()),
            Effect::Rotate(rotation) => Facts::RotateToken(rotation.observe()),
        })
    }

    /// Does it. Returns at `timeout` at the latest, plus some seconds to end what was started.
    #[must_use]
    pub fn run(&self, observed: &Observed, timeout: Duration, context: &EffectContext) -> Outcome {
        match (&self.0, &observed.0) {
            (Effect::Ping, _) => Outcome::Completed(ping::answer(&context.kernel)),
            (Effect::Restart(restart), Facts::RestartService(before)) => restart.run(before, timeout),
            (Effect::Reboot(reboot), Facts::Reboot(before)) => reboot.run(before, timeout),
            (Effect::Script(script), Facts::Custom(before)) => script.run(before, timeout, context),
            (Effect::Change(change), Facts::Config(before)) => change.run(before),
            (Effect::Rotate(rotation), Facts::RotateToken(_)) => match rotation.make(&context.command_id) {
                Ok(made) => Outcome::TokenMade(made),
                Err(error) => Outcome::failed(with_causes(&error)),
            },
            // The caller has mixed up two commands. Nothing has been done.
            _ => Outcome::failed("what was noted before does not belong to this command"),
        }
    }
}

impl Observed {
    /// Whether the effect that this was noted for has been done. For a process that finds a command `running`.
    #[must_use]
    pub fn probe(&self, kernel: &Kernel) -> Probed {
        self.probe_with(kernel, &Systemd::default())
    }

    fn probe_with(&self, kernel: &Kernel, systemd: &Systemd) -> Probed {
        match &self.0 {
            // The answer was lost with the process that gave it.
            Facts::Ping {} => Probed::NotDone,
            Facts::RestartService(before) => restart::probe(before, kernel, systemd),
            Facts::Reboot(before) => reboot::probe(before, kernel, systemd),
            Facts::Custom(before) => script::probe(before),
            Facts::Config(before) => settings::probe(before),
            Facts::RotateToken(before) => rotation::probe(before),
        }
    }
}

/// Longest text for an operator, in characters: a broken file may have something wrong in each of its lines.
const TEXT_MAX_CHARS: usize = 1000;

/// As much of the text as a report has room for.
fn short(mut text: String) -> String {
    if let Some((at, _)) = text.char_indices().nth(TEXT_MAX_CHARS) {
        text.truncate(at);
        text.push('…');
    }
    text
}

/// The text of an error with those of its causes.
fn with_causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(&format!(": {error}"));
        cause = error.source();
    }
    text
}
