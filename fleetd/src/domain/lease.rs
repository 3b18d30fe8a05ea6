//! Whose turn it is in a redundancy group: at most one member is disrupted at a time. Pure.
//!
//! A lease is held from `go` until its command has ended and its device is there again. The device may use a `go` only
//! within a minute of asking, by its own monotonic clock, and only for the nonce that it made last: so a device that asks
//! again for the same command has not begun it.
//!
//! A server that was restored from a copy has forgotten the leases that it gave since, and the commands: it gives none
//! before each member has shown that all it has open is known ([`Doubt`]).

#[cfg(test)]
mod tests;

use protocol::{
    command::{CommandState, limits::LEASE_MS, open_digest},
    id::{CommandId, StateId},
};

use super::{command::Command, device::DeviceRowId, dispatch::believed_open};

/// The one who may be disrupted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Holder {
    /// The device.
    pub device: DeviceRowId,
    /// For this command.
    pub command: CommandId,
    /// The nonce that it asked with.
    pub nonce: Vec<u8>,
    /// When it was given, ms since 1970.
    pub granted_at: i64,
    /// Whether its command has ended.
    pub ended: bool,
    /// Whether its device is connected, or out of service.
    pub online: bool,
}

/// Another member of the group.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Member {
    /// Which device.
    pub device: DeviceRowId,
    /// It is connected.
    pub online: bool,
    /// It is or may be disrupted at this moment, with this group's lease or without: it may have come into the group
    /// in the middle of it.
    pub busy: bool,
    /// When it last gave birth, ms since 1970.
    pub born_at: Option<i64>,
    /// The server was restored, and this device may have something open of which it does not know.
    pub doubt: Option<Doubt>,
}

/// What there is to tell whether all that a device has open is known, after the server was restored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Doubt {
    /// When the server was restored, ms since 1970.
    pub restored_at: i64,
    /// It has answered the newest desired state, so it knows that it must ask.
    pub knows_group: bool,
    /// When the newest heartbeat since the birth was taken (ms since 1970), and its digest of open commands.
    pub heartbeat: Option<(i64, Vec<u8>)>,
    /// The digest of what is known to be open.
    expected: [u8; 4],
    /// A command of which there are only reports is running.
    runs_unknown: bool,
}

impl Doubt {
    /// Gathers it. `state_id`: of the device's last birth; `open`: its open commands; `unknown`: those that the server does
    /// not know and whose last report says that they are open.
    #[must_use]
    pub fn new(
        restored_at: i64,
        knows_group: bool,
        heartbeat: Option<(i64, Vec<u8>)>,
        state_id: StateId,
        open: &[Command],
        unknown: &[(CommandId, CommandState)],
    ) -> Self {
        let reported = unknown.iter().map(|(id, state)| (id, *state));
        Self {
            restored_at,
            knows_group,
            heartbeat,
            expected: open_digest(believed_open(open, state_id).chain(reported)),
            runs_unknown: unknown.iter().any(|(_, state)| *state == CommandState::Running),
        }
    }

    /// Whether all is known. One that was allowed to begin before the restore may do so for a minute, by its own clock:
    /// a heartbeat that was taken a minute after its birth shows what has come of that. What it has open then, it has
    /// begun already, or will ask for; and what runs is known to the server.
    fn is_over(&self, born_at: Option<i64>) -> bool {
        let Some(born_at) = born_at.filter(|at| *at > self.restored_at) else { return false };
        // LEASE_MS is a minute: it fits.
        let shows_all = |(at, told): &(i64, Vec<u8>)| {
            *at >= born_at.saturating_add(LEASE_MS.cast_signed()) && *told == self.expected
        };
        self.knows_group && !self.runs_unknown && self.heartbeat.as_ref().is_some_and(shows_all)
    }
}

/// A group as it stands.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Group {
    /// For compare-and-swap; 0: there is no row yet.
    pub revision: i64,
    /// Who has the lease.
    pub holder: Option<Holder>,
    /// Every device in service that belongs to it.
    pub members: Vec<Member>,
}

/// A member that asks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ask {
    /// The device.
    pub device: DeviceRowId,
    /// For this command.
    pub command: CommandId,
    /// With this nonce.
    pub nonce: Vec<u8>,
    /// When the server heard of it, ms since 1970.
    pub asked_at: i64,
}

/// What to answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Answer {
    /// Write the lease down, then say `go`.
    Grant,
    /// It has the lease: say `go` again.
    Repeat,
    /// Not now; why.
    Wait(&'static str),
}

/// Decides about an ask.
#[must_use]
pub fn answer(group: &Group, ask: &Ask, now: i64) -> Answer {
    let age = now - ask.asked_at;
    // LEASE_MS is a minute: it fits.
    if !(0..LEASE_MS.cast_signed()).contains(&age) {
        return Answer::Wait("the asking is older than a minute; the device asks again");
    }
    if let Some(holder) = &group.holder {
        let same = holder.device == ask.device && holder.command == ask.command;
        if same && holder.nonce == ask.nonce {
            return Answer::Repeat;
        }
        // Asking anew, the device says that it has not begun.
        if !same && !holder.ended {
            return Answer::Wait("another command of the group has not ended");
        }
        if !same && !holder.online {
            return Answer::Wait("the last device to be disrupted is not back");
        }
    }
    let others = || group.members.iter().filter(|member| member.device != ask.device);
    if others().any(|member| !member.online) {
        return Answer::Wait("a partner is offline");
    }
    if others().any(|member| member.busy) {
        return Answer::Wait("a partner is being disrupted");
    }
    let in_doubt =
        |member: &Member| member.doubt.as_ref().is_some_and(|doubt| !doubt.is_over(member.born_at));
    if group.members.iter().any(in_doubt) {
        return Answer::Wait("the server was restored, and has not heard yet of all that a member has open");
    }
    Answer::Grant
}
