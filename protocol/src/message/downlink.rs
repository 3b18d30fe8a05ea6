//! What the server says to a device.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::codec::Bytes;
use crate::id::{CommandId, StateId};
use crate::ranges::RangeSet;

/// What is committed. Only records named here may be forgotten by the device.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ack {
    /// The state database that this is about.
    pub state_id: StateId,
    /// Every committed sequence number of it.
    pub ranges: RangeSet,
    /// Commands that wait for the device.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub commands_pending: Option<u32>,
    /// The version that the device is meant to have; information only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub target_version: Option<String>,
    /// The server's clock: milliseconds since 1970.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub server_time: Option<i64>,
}

/// What the device should be like. Applied if `version` is higher than the last one applied, or the same with other
/// content; a lower one is answered with the version that the device has.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Desired {
    /// Rises with every change.
    pub version: u64,
    /// Config keys and values.
    #[serde(default)]
    pub config: BTreeMap<String, String>,
    /// The release that the device is meant to have; information only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub target_version: Option<String>,
    /// Show locks: nothing disruptive from the first time until the second, milliseconds since 1970.
    #[serde(default)]
    pub show_locks: Vec<(i64, i64)>,
    /// Devices of one group are never disrupted at the same time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub redundancy_group: Option<String>,
}

/// What comes on the `command` topic. Exactly one of the optional fields is set; [`DeviceCommand::action`] tells which.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct DeviceCommand {
    /// The state database that it is meant for; another's is rejected.
    pub state_id: StateId,
    /// Run this.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub command: Option<Command>,
    /// Do not run this.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cancel: Option<CommandId>,
    /// What became of this?
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub query: Option<CommandId>,
    /// Run this although a show may be on.
    #[serde(default, rename = "override", skip_serializing_if = "Option::is_none")]
    pub override_show: Option<Override>,
    /// The lease that this asked for is granted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub go: Option<Go>,
}

/// The one thing that a [`DeviceCommand`] asks for.
#[derive(Debug, Clone, PartialEq)]
pub enum DeviceAction {
    /// Run this.
    Run(Box<Command>),
    /// Do not run this.
    Cancel(CommandId),
    /// What became of this?
    Query(CommandId),
    /// Run this although a show may be on.
    Override(Override),
    /// The lease that this asked for is granted.
    Go(Go),
}

impl DeviceCommand {
    /// What is asked for, or `None` if the message has none or several of the fields.
    #[must_use]
    pub fn action(self) -> Option<DeviceAction> {
        let mut actions = [
            self.command.map(|c| DeviceAction::Run(Box::new(c))),
            self.cancel.map(DeviceAction::Cancel),
            self.query.map(DeviceAction::Query),
            self.override_show.map(DeviceAction::Override),
            self.go.map(DeviceAction::Go),
        ]
        .into_iter()
        .flatten();
        let first = actions.next()?;
        actions.next().is_none().then_some(first)
    }
}

/// A command for a device. Type and payload are decoded after the envelope, so that an old agent can reject a new type
/// by its id.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Command {
    /// Its identity.
    pub id: CommandId,
    /// What to do; see [`crate::command::CommandType`] for those of this version.
    #[serde(rename = "type")]
    pub kind: String,
    /// What to do it with; each type has its own.
    pub payload: serde_json::Value,
    /// 1 is the most urgent of 1…10.
    pub priority: u8,
    /// When it was created: milliseconds since 1970.
    pub created_at: i64,
    /// When it expires: milliseconds since 1970.
    pub expires_at: i64,
    /// How long it may run, seconds.
    pub timeout_seconds: u32,
    /// The newest version of `desired`: without it the device may not know of a show lock.
    pub desired_version: u64,
    /// Run although a show may be on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub override_show: Option<String>,
}

/// An order to run a waiting command although a show may be on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Override {
    /// The command.
    pub id: CommandId,
    /// Why; kept in the audit log.
    pub reason: String,
}

/// A lease: the one member of a redundancy group that may be disrupted now.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Go {
    /// The command.
    pub id: CommandId,
    /// Repeats the nonce of the device's request.
    pub nonce: Bytes,
}

/// On `fleet/v1/server/{instance}`, as JSON; retained, and the server's last will.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServerStatus {
    /// Whether the process serves.
    pub online: bool,
    /// Its version.
    pub version: String,
    /// When it started, RFC 3339.
    pub started: String,
}
