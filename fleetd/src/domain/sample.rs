//! One heartbeat as the server keeps it, whichever way it came.

use protocol::{
    id::StateId,
    message::{Birth, Heartbeat, HeartbeatJson, parse_rfc3339},
};

/// A heartbeat with the times and the identity that the server gives it.
#[derive(Clone, Debug, PartialEq)]
pub struct Sample {
    /// When it arrived, ms since 1970.
    pub received_at: i64,
    /// When it was taken, as far as the server can tell, ms since 1970; never after `received_at`.
    pub at: i64,
    /// The device's clock, ms since 1970.
    pub ts: i64,
    /// Which record it was; none for a heartbeat by HTTP.
    pub record: Option<(StateId, u64)>,
    /// The device's interval, for adding up recording time; seconds.
    pub interval_seconds: u32,
    /// Live, idle, or unknown.
    pub live: Option<bool>,
    /// Records that the device keeps.
    pub outbox_depth: Option<u32>,
    /// Digest of the device's open commands.
    pub commands_digest: Option<Vec<u8>>,
    /// What the API shows.
    pub json: HeartbeatJson,
}

/// The interval of a device that does not tell.
pub const DEFAULT_INTERVAL_SECONDS: u32 = 60;
/// Longest list of errors, and longest error in bytes, that a heartbeat is kept with.
const ERRORS_MAX: usize = 32;
const ERROR_MAX_BYTES: usize = 1024;
/// Longest version of an application, in bytes.
pub(crate) const VERSION_MAX_BYTES: usize = 100;
/// Longest time since boot that is believed, seconds.
pub(crate) const UPTIME_MAX_SECONDS: i64 = 1 << 40;
/// Most active inputs, and the longest name of one in bytes.
pub(crate) const INPUTS_MAX: usize = 64;
pub(crate) const INPUT_MAX_BYTES: usize = 100;

impl Sample {
    /// A heartbeat that came as a record, after this birth; `at` from [`super::timing`].
    #[must_use]
    pub fn from_record(heartbeat: &Heartbeat, birth: &Birth, at: i64, received_at: i64) -> Self {
        let mut json = heartbeat.to_json(&birth.inputs, birth.app_version.as_deref());
        bound_errors(&mut json.errors);
        Self {
            received_at,
            at,
            ts: heartbeat.ts,
            record: Some((birth.state_id, heartbeat.seq)),
            interval_seconds: birth.interval_seconds.clamp(1, 3600),
            live: heartbeat.live,
            outbox_depth: Some(heartbeat.outbox_depth),
            commands_digest: heartbeat.commands_digest.as_ref().map(|digest| digest.0.clone()),
            json,
        }
    }

    /// A heartbeat that came by HTTP: always taken as of now, whatever the device's clock says.
    ///
    /// # Errors
    /// The field that is wrong, and what is expected.
    pub fn from_http(mut json: HeartbeatJson, now_ms: i64) -> Result<Self, (&'static str, String)> {
        let ts = parse_rfc3339(&json.ts).map_err(|_| ("ts", "an RFC 3339 time is expected".to_owned()))?;
        check_metrics(&json)?;
        bound_errors(&mut json.errors);
        Ok(Self {
            received_at: now_ms,
            at: now_ms,
            ts,
            record: None,
            interval_seconds: DEFAULT_INTERVAL_SECONDS,
            live: None,
            outbox_depth: None,
            commands_digest: None,
            json,
        })
    }

    /// Checks a heartbeat that came as a record: the wire's types bound its numbers, not the length of its texts.
    ///
    /// # Errors
    /// What is wrong.
    pub fn check(&self) -> Result<(), String> {
        check_metrics(&self.json).map_err(|(field, expected)| format!("{field}: {expected}"))
    }
}

fn check_metrics(json: &HeartbeatJson) -> Result<(), (&'static str, String)> {
    let within = |name: &'static str, value: Option<f64>, low: f64, high: f64| match value {
        Some(value) if !(low..=high).contains(&value) => {
            Err((name, format!("a number from {low} to {high} is expected")))
        }
        _ => Ok(()),
    };
    let metrics = &json.metrics;
    within("metrics.cpu_percent", metrics.cpu_percent, 0.0, 100.0)?;
    within("metrics.mem_percent", metrics.mem_percent, 0.0, 100.0)?;
    within("metrics.disk_free_gb", metrics.disk_free_gb, 0.0, 1e7)?;
    within("metrics.disk_total_gb", metrics.disk_total_gb, 0.0, 1e7)?;
    within("metrics.temperature_c", metrics.temperature_c, -273.15, 1000.0)?;
    for load in metrics.load_avg.into_iter().flatten() {
        within("metrics.load_avg", Some(load), 0.0, 1e6)?;
    }
    if json.version.as_ref().is_some_and(|version| version.len() > VERSION_MAX_BYTES) {
        return Err(("version", "at most 100 characters are expected".to_owned()));
    }
    if json.uptime_seconds.is_some_and(|seconds| seconds > UPTIME_MAX_SECONDS.unsigned_abs()) {
        return Err(("uptime_seconds", "seconds since boot are expected".to_owned()));
    }
    let inputs = &json.status.active_inputs;
    if inputs.len() > INPUTS_MAX || inputs.iter().any(|name| name.len() > INPUT_MAX_BYTES) {
        return Err((
            "status.active_inputs",
            "at most 64 names of at most 100 bytes are expected".to_owned(),
        ));
    }
    Ok(())
}

fn bound_errors(errors: &mut Vec<String>) {
    errors.truncate(ERRORS_MAX);
    for error in errors {
        if error.len() > ERROR_MAX_BYTES {
            error.truncate(error.floor_char_boundary(ERROR_MAX_BYTES));
        }
    }
}
