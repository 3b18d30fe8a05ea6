//! The heartbeat: on the wire at most 104 bytes, scaled integers only; in JSON the form that dashboards know.

use serde::{Deserialize, Serialize};

use super::time::rfc3339;
use crate::codec::Bytes;

/// Most bytes that one heartbeat takes on the wire, with every number at its largest in practice and no error text.
pub const HEARTBEAT_TYPICAL_MAX_BYTES: usize = 104;

/// One heartbeat as it travels over MQTT. A sensor that is missing is absent, never zero.
///
/// What does not change between connections (boot id, versions, names of the inputs) is in [`super::Birth`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Heartbeat {
    /// Sequence number of the record.
    pub seq: u64,
    /// Connection number of the birth that it follows, modulo 65536.
    pub connection: u16,
    /// The device's clock: milliseconds since 1970. May be wrong.
    pub ts: i64,
    /// Milliseconds since the device booted, sleep included.
    pub since_boot_ms: u64,
    /// CPU use of all cores, per mille.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cpu_permille: Option<u16>,
    /// Memory in use, per mille.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mem_permille: Option<u16>,
    /// Free space on the recordings disk, MiB.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub disk_free_mib: Option<u32>,
    /// Size of the recordings disk, MiB.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub disk_total_mib: Option<u32>,
    /// Temperature of the processor, tenths of a degree Celsius.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub temperature_decicelsius: Option<i16>,
    /// Load average over 1, 5 and 15 minutes, hundredths.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub load_centi: Option<[u32; 3]>,
    /// Whether a recording runs.
    #[serde(default)]
    pub recording_active: bool,
    /// Whether the mixer runs.
    #[serde(default)]
    pub mixer_active: bool,
    /// The active inputs: bit n stands for input n of the birth.
    #[serde(default)]
    pub active_inputs: u64,
    /// How far the application has degraded; 0 is not at all.
    #[serde(default)]
    pub degradation_level: u8,
    /// First 4 bytes of SHA-256 over the open commands and their states; see [`crate::command::open_digest`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub commands_digest: Option<Bytes>,
    /// Records in the outbox that the server has not committed.
    #[serde(default)]
    pub outbox_depth: u32,
    /// Live (recording, streaming), idle, or absent when the device cannot tell.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub live: Option<bool>,
    /// What is wrong, in the application's words.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub errors: Vec<String>,
}

/// The JSON form of a heartbeat: what the HTTP API takes from devices that speak only HTTP, and what it returns.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct HeartbeatJson {
    /// The device's clock, RFC 3339.
    pub ts: String,
    /// Version of the application; `unknown` is allowed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
    /// Seconds since boot.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uptime_seconds: Option<u64>,
    /// Measurements.
    #[serde(default)]
    pub metrics: HeartbeatMetrics,
    /// What the application does.
    #[serde(default)]
    pub status: HeartbeatStatus,
    /// What is wrong, in the application's words.
    #[serde(default)]
    pub errors: Vec<String>,
}

/// The measurements in a [`HeartbeatJson`]. Absent and null both mean that the sensor is missing.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct HeartbeatMetrics {
    /// CPU use, percent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cpu_percent: Option<f64>,
    /// Memory in use, percent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mem_percent: Option<f64>,
    /// Free space, GiB.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub disk_free_gb: Option<f64>,
    /// Size of the disk, GiB.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub disk_total_gb: Option<f64>,
    /// Temperature, degrees Celsius.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub temperature_c: Option<f64>,
    /// Load average over 1, 5 and 15 minutes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub load_avg: Option<[f64; 3]>,
}

/// The application's status in a [`HeartbeatJson`].
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct HeartbeatStatus {
    /// Whether a recording runs.
    #[serde(default)]
    pub recording_active: bool,
    /// Whether the mixer runs.
    #[serde(default)]
    pub mixer_active: bool,
    /// Names of the active inputs.
    #[serde(default)]
    pub active_inputs: Vec<String>,
    /// How far the application has degraded; 0 is not at all.
    #[serde(default)]
    pub degradation_level: u8,
}

const MIB_PER_GIB: f64 = 1024.0;

impl Heartbeat {
    /// The JSON form. `inputs` and `version` come from the birth.
    ///
    /// A time that no calendar has (before year −9999, after 9999) is shown as the nearest that it has.
    #[must_use]
    pub fn to_json(&self, inputs: &[String], version: Option<&str>) -> HeartbeatJson {
        let active = |n: usize| n < 64 && self.active_inputs >> n & 1 == 1;
        HeartbeatJson {
            ts: rfc3339(self.ts),
            version: version.map(str::to_owned),
            uptime_seconds: Some(self.since_boot_ms / 1000),
            metrics: HeartbeatMetrics {
                cpu_percent: self.cpu_permille.map(|v| f64::from(v) / 10.0),
                mem_percent: self.mem_permille.map(|v| f64::from(v) / 10.0),
                disk_free_gb: self.disk_free_mib.map(|v| round2(f64::from(v) / MIB_PER_GIB)),
                disk_total_gb: self.disk_total_mib.map(|v| round2(f64::from(v) / MIB_PER_GIB)),
                temperature_c: self.temperature_decicelsius.map(|v| f64::from(v) / 10.0),
                load_avg: self.load_centi.map(|v| v.map(|x| f64::from(x) / 100.0)),
            },
            status: HeartbeatStatus {
                recording_active: self.recording_active,
                mixer_active: self.mixer_active,
                active_inputs: (0..inputs.len()).filter(|&n| active(n)).map(|n| inputs[n].clone()).collect(),
                degradation_level: self.degradation_level,
            },
            errors: self.errors.clone(),
        }
    }
}

fn round2(value: f64) -> f64 {
    (value * 100.0).round() / 100.0
}
