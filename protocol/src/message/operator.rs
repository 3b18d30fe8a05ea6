//! What people publish and are answered: JSON, or CBOR of the same shape.

use serde::{Deserialize, Serialize};

use crate::id::CommandId;

/// What comes on `operator/{user}/command`: a command request, a cancel or an override.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OperatorRequest {
    /// A device id, `tag:NAME`, or `*`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub to: Option<String>,
    /// What to do.
    #[serde(default, rename = "type", skip_serializing_if = "Option::is_none")]
    pub kind: Option<String>,
    /// What to do it with.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub payload: Option<serde_json::Value>,
    /// 1 is the most urgent of 1…10; 5 by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub priority: Option<u8>,
    /// Expiry from now, seconds; at most 30 days.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires_in_seconds: Option<u32>,
    /// Expiry, RFC 3339.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires_at: Option<String>,
    /// How long it may run, seconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeout_seconds: Option<u32>,
    /// The sender's own name for it: the same again is the same command.
    #[serde(default, rename = "ref", skip_serializing_if = "Option::is_none")]
    pub reference: Option<String>,
    /// For people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub notes: Option<String>,
    /// Run although a show may be on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub override_show: Option<OverrideReason>,
    /// Cancel this command.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cancel: Option<CommandId>,
    /// Override show mode for this command.
    #[serde(default, rename = "override", skip_serializing_if = "Option::is_none")]
    pub override_command: Option<CommandId>,
    /// Why, with `override`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// Why a command shall run although a show may be on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OverrideReason {
    /// Kept in the audit log.
    pub reason: String,
}

/// What comes on `operator/{user}/result`, as JSON: one message for each event and device.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct OperatorResult {
    /// The sender's own name for the command.
    #[serde(default, rename = "ref", skip_serializing_if = "Option::is_none")]
    pub reference: Option<String>,
    /// The command.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<CommandId>,
    /// The device.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub device: Option<String>,
    /// `accepted`, `rejected`, or a command state.
    pub status: String,
    /// Why.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// The server's number of this step in the command's history.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub revision: Option<u64>,
    /// What came out of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub result: Option<serde_json::Value>,
    /// What went wrong.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// When, RFC 3339.
    pub at: String,
}
