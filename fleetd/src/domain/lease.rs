//! Whose turn it is in a redundancy group: at most one member is disrupted at a time. Pure.
//!
//! A lease is held from `go` until its command has ended and its device is there again. The device may use a `go` only
//! within a minute of asking, by its own monotonic clock, and only for the nonce that it made last: so a device that asks
//! again for the same command has not begun it.

#[cfg(test)]
mod tests;

use protocol::{command::limits::LEASE_MS, id::CommandId};

use super::device::DeviceRowId;

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
}

/// A group as it stands.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Group {
    /// For compare-and-swap; 0: there is no row yet.
    pub revision: i64,
    /// Who has the lease.
    pub holder: Option<Holder>,
    /// The server was restored from a copy then (ms since 1970), and may have forgotten who has it.
    pub restored_at: Option<i64>,
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
    if let Some(restored_at) = group.restored_at
        && group.members.iter().any(|member| member.born_at.is_none_or(|at| at <= restored_at))
    {
        return Answer::Wait("the server was restored, and a member has not come back since");
    }
    Answer::Grant
}
