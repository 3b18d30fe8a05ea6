//! A device as the API and the retained `view/{device}` show it: what is registered, joined with what it says of itself.

use protocol::id::DeviceId;
use serde::Serialize;
use serde_json::Value;

use super::device::{DeviceRowId, DeviceStatus, UpdateChannel};
use super::org::OrgId;
use super::time;

/// The one JSON shape of a device.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[allow(missing_docs)] // as in docs/api.md
pub struct DeviceSummary {
    pub id: DeviceRowId,
    pub device_id: DeviceId,
    pub name: String,
    pub org_id: OrgId,
    pub status: DeviceStatus,
    #[serde(with = "time::optional", skip_serializing_if = "Option::is_none")]
    pub last_heartbeat: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub current_version: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub target_version: Option<String>,
    pub update_channel: UpdateChannel,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub platform: Option<String>,
    pub arch: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub serial_number: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mac_address: Option<String>,
    pub capabilities: Value,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub location: Option<String>,
    pub tags: Vec<String>,
    pub metadata: Value,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub notes: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub redundancy_group: Option<String>,
    #[serde(with = "time")]
    pub created_at: i64,
    #[serde(with = "time")]
    pub updated_at: i64,
    #[serde(flatten)]
    pub latest: Latest,
}

/// What the device itself said last.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[allow(missing_docs)] // as in docs/api.md
pub struct Latest {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cpu_percent: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mem_percent: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub disk_free_gb: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub temperature_c: Option<f64>,
    pub recording_active: bool,
    pub mixer_active: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub uptime_seconds: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ip_address: Option<String>,
    /// Commands that have not ended.
    pub pending_commands: i64,
    /// Why the first of them, by priority and age, that waits does so.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub held_reason: Option<String>,
    /// The show lock that stands, or the next to come.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub show_lock: Option<ShowLock>,
    /// Alerts that nobody has dealt with.
    pub active_alerts: i64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub transport: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub agent_version: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub live: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub outbox_depth: Option<i64>,
    /// Of the last certificate that was signed for it and not taken back.
    #[serde(with = "time::optional", skip_serializing_if = "Option::is_none")]
    pub certificate_expires_at: Option<i64>,
}

/// Nothing disruptive runs on the device in this time.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[allow(missing_docs)] // as in docs/api.md
pub struct ShowLock {
    #[serde(with = "time")]
    pub from: i64,
    #[serde(with = "time")]
    pub until: i64,
    pub reason: String,
    pub by: String,
    /// The tag that it was made for; absent: it was made for the device itself.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tag: Option<String>,
}
