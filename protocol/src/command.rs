//! Command types and states: who may move a command from which state to which.

pub mod limits;
pub mod payload;
pub mod standing;

use sha2::{Digest, Sha256};

use crate::id::CommandId;
use crate::text::text_enum;

text_enum! {
    /// What a device can be told to do.
    CommandType {
        /// Install a release.
        Update = "update",
        /// Reboot the machine.
        Reboot = "reboot",
        /// Restart an allow-listed systemd unit.
        RestartService = "restart_service",
        /// Collect, redact and upload a support bundle.
        Bundle = "bundle",
        /// Change allow-listed config keys.
        Config = "config",
        /// Run a script from the approved folder.
        Custom = "custom",
        /// Make a new device token.
        RotateToken = "rotate_token",
        /// A round trip.
        Ping = "ping",
    }
}

impl CommandType {
    /// Whether it can disturb a show. Restarting the agent's own unit cannot, but that depends on the payload.
    #[must_use]
    pub fn is_disruptive(self) -> bool {
        matches!(self, Self::Update | Self::Reboot | Self::RestartService | Self::Custom)
    }
}

text_enum! {
    /// Where a command stands.
    CommandState {
        /// The server has it; the device was never connected since.
        Pending = "pending",
        /// The server has published it, and only the device may say what becomes of it.
        Sent = "sent",
        /// The device has journalled it.
        Acked = "acked",
        /// The device waits before the first effect; the reason tells for what.
        Held = "held",
        /// The device has journalled that the effect may have begun.
        Running = "running",
        /// Done.
        Completed = "completed",
        /// Not done, or done in vain.
        Failed = "failed",
        /// It ran longer than allowed and was stopped.
        TimedOut = "timed_out",
        /// Nobody can tell whether it was done.
        Indeterminate = "indeterminate",
        /// The device cannot or may not run it.
        Rejected = "rejected",
        /// Called back before it ran.
        Cancelled = "cancelled",
        /// It did not run in time.
        Expired = "expired",
    }
}

/// Who moves a command.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mover {
    /// The server on its own authority: before the command was sent, and sending it.
    Server,
    /// The server, inferring an end because the device cannot be asked any more.
    Inference,
    /// The device it was sent to.
    Device,
}

impl CommandState {
    /// Whether the command has ended.
    #[must_use]
    pub fn is_terminal(self) -> bool {
        !self.is_open()
    }

    /// Whether the command can still become something else.
    #[must_use]
    pub fn is_open(self) -> bool {
        matches!(self, Self::Pending | Self::Sent | Self::Acked | Self::Held | Self::Running)
    }

    /// Whether `mover` may take a command from this state to `next`. Staying is no move: reports may repeat.
    ///
    /// `inferred` says that this state is an end that the server inferred: such an end, and no other, gives way to the
    /// device's own.
    #[must_use]
    pub fn may_become(self, next: Self, mover: Mover, inferred: bool) -> bool {
        use CommandState as S;
        match mover {
            Mover::Server => matches!((self, next), (S::Pending, S::Sent | S::Cancelled | S::Expired)),
            Mover::Inference => {
                matches!(self, S::Sent | S::Acked | S::Held | S::Running) && next == S::Indeterminate
            }
            Mover::Device if self.is_terminal() => inferred && self == S::Indeterminate && next.is_terminal(),
            Mover::Device => match self {
                // Reports of steps in between may be on their way behind a later one, so that skipping is allowed. A
                // server that was restored from a copy may have forgotten that it sent the command.
                S::Pending | S::Sent => !matches!(next, S::Pending | S::Sent),
                S::Acked => !matches!(next, S::Pending | S::Sent | S::Acked),
                S::Held => !matches!(next, S::Pending | S::Sent | S::Acked | S::Held),
                // Back to held only before the first effect, which the device alone knows; and from there to any end, with
                // the report of being held still on its way.
                S::Running => !matches!(next, S::Pending | S::Sent | S::Acked | S::Running),
                _ => false,
            },
        }
    }
}

/// The digest in heartbeats: the first 4 bytes of SHA-256 over `id:state\n` of the open commands, sorted.
#[must_use]
pub fn open_digest<'a>(open: impl IntoIterator<Item = (&'a CommandId, CommandState)>) -> [u8; 4] {
    let mut lines: Vec<String> = open.into_iter().map(|(id, state)| format!("{id}:{state}\n")).collect();
    lines.sort_unstable();
    let hash = Sha256::digest(lines.concat());
    [hash[0], hash[1], hash[2], hash[3]]
}
