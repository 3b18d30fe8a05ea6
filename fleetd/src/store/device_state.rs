//! `device_state`: the latest that is known of each device.

#[cfg(test)]
mod tests;

use protocol::message::{Birth, Reported};

use super::{Row, Statement, Store, StoreError, dialect::last_row, heartbeats::Day};
use crate::{domain::sample::Sample, values};

/// The columns that [`DeviceState::from_row`] reads, for a query that joins `device_state` as `s`.
pub const STATE_COLUMNS: &str = "s.online, s.last_seen_at, s.interval_seconds, s.transport, s.ip_address, s.state_id, \
     s.connection, s.birth_at, s.agent_version, s.app_version, s.last_heartbeat, s.cpu_percent, s.mem_percent, \
     s.disk_free_gb, s.temperature_c, s.uptime_seconds, s.recording_active, s.mixer_active, s.degradation_level, \
     s.live, s.outbox_depth, s.reported_version, s.connected_at";

/// The latest of one device. A device that was never heard has the default.
#[derive(Clone, Debug, Default, PartialEq)]
#[allow(missing_docs)] // as the columns: see migrations
pub struct DeviceState {
    pub online: bool,
    pub last_seen_at: Option<i64>,
    pub interval_seconds: Option<i64>,
    pub transport: Option<String>,
    pub ip_address: Option<String>,
    pub state_id: Option<String>,
    pub connection: Option<i64>,
    pub birth_at: Option<i64>,
    pub agent_version: Option<String>,
    pub app_version: Option<String>,
    pub last_heartbeat: Option<i64>,
    pub cpu_percent: Option<f64>,
    pub mem_percent: Option<f64>,
    pub disk_free_gb: Option<f64>,
    pub temperature_c: Option<f64>,
    pub uptime_seconds: Option<i64>,
    pub recording_active: bool,
    pub mixer_active: bool,
    pub degradation_level: i64,
    pub live: Option<bool>,
    pub outbox_depth: Option<i64>,
    pub reported_version: Option<i64>,
    pub connected_at: Option<i64>,
}

impl DeviceState {
    /// Reads [`STATE_COLUMNS`]; a `LEFT JOIN` that found nothing gives the default.
    ///
    /// # Errors
    /// [`StoreError::Column`].
    pub fn from_row(row: &Row) -> Result<Self, StoreError> {
        Ok(Self {
            online: row.opt_bool("online")?.unwrap_or(false),
            last_seen_at: row.opt_int("last_seen_at")?,
            interval_seconds: row.opt_int("interval_seconds")?,
            transport: row.opt_text("transport")?,
            ip_address: row.opt_text("ip_address")?,
            state_id: row.opt_text("state_id")?,
            connection: row.opt_int("connection")?,
            birth_at: row.opt_int("birth_at")?,
            agent_version: row.opt_text("agent_version")?,
            app_version: row.opt_text("app_version")?,
            last_heartbeat: row.opt_int("last_heartbeat")?,
            cpu_percent: row.opt_real("cpu_percent")?,
            mem_percent: row.opt_real("mem_percent")?,
            disk_free_gb: row.opt_real("disk_free_gb")?,
            temperature_c: row.opt_real("temperature_c")?,
            uptime_seconds: row.opt_int("uptime_seconds")?,
            recording_active: row.opt_bool("recording_active")?.unwrap_or(false),
            mixer_active: row.opt_bool("mixer_active")?.unwrap_or(false),
            degradation_level: row.opt_int("degradation_level")?.unwrap_or(0),
            live: row.opt_bool("live")?,
            outbox_depth: row.opt_int("outbox_depth")?,
            reported_version: row.opt_int("reported_version")?,
            connected_at: row.opt_int("connected_at")?,
        })
    }
}

impl DeviceState {
    /// Whether the device is heard by the old HTTP protocol alone: it has never given birth.
    #[must_use]
    pub fn speaks_http_only(&self) -> bool {
        self.birth_at.is_none() && self.last_heartbeat.is_some()
    }
}

/// The device as a row: which one, in which organisation.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct DeviceKey {
    /// `devices.id`.
    pub device_id: String,
    /// `organizations.id`.
    pub org_id: String,
}

/// A device that says it reports more rarely than this is still expected daily.
const INTERVAL_MAX_SECONDS: u32 = 86_400;

/// Stores a birth: the device is online, and records that follow must match it.
#[must_use]
pub fn put_birth(key: &DeviceKey, birth: &Birth, ip_address: Option<&str>, now_ms: i64) -> Statement {
    const SQL: &str = "\
INSERT INTO device_state (device_id, org_id, online, last_seen_at, will_at, interval_seconds, transport, ip_address,
    state_id, connection, birth_at, connected_at, birth, agent_version, app_version)
VALUES (?1, ?2, 1, ?3, NULL, ?4, ?5, ?6, ?7, ?8, ?3, ?3, ?9, ?10, ?11)
ON CONFLICT (device_id) DO UPDATE SET online = 1, last_seen_at = excluded.last_seen_at, will_at = NULL,
    connected_at = excluded.connected_at,
    interval_seconds = excluded.interval_seconds, transport = excluded.transport, ip_address = excluded.ip_address,
    state_id = excluded.state_id, connection = excluded.connection, birth_at = excluded.birth_at,
    birth = excluded.birth, commands_digest = NULL, agent_version = excluded.agent_version,
    app_version = coalesce(excluded.app_version, device_state.app_version)";
    Statement::new(
        SQL,
        values![
            key.device_id.as_str(),
            key.org_id.as_str(),
            now_ms,
            birth.interval_seconds.clamp(1, INTERVAL_MAX_SECONDS),
            birth.transport.as_str(),
            ip_address,
            birth.state_id.to_string(),
            i64::try_from(birth.connection).unwrap_or(i64::MAX),
            serde_json::to_string(birth).unwrap_or_default(),
            birth.agent_version.as_str(),
            birth.app_version.as_deref(),
        ],
    )
}

/// What a heartbeat says of where its device is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Heard {
    /// A sign of life over its connection, taken at this time: it is online, unless the connection was lost after that.
    Connected(i64),
    /// A sign of life over the old HTTP protocol, where nothing is spooled: it is online.
    Http,
    /// It was spooled, and says nothing of the present.
    Spooled,
}

/// Makes the row of a device that may never have given birth.
#[must_use]
pub fn make(key: &DeviceKey) -> Statement {
    let sql =
        "INSERT INTO device_state (device_id, org_id) VALUES (?1, ?2) ON CONFLICT (device_id) DO NOTHING";
    Statement::new(sql, values![key.device_id.as_str(), key.org_id.as_str()])
}

/// Of a column that shows the latest heartbeat: the new value, if the sample is newer than what is there.
macro_rules! newest {
    ($column:literal, $value:literal) => {
        concat!(
            $column,
            " = CASE WHEN heartbeat_at <= ?3 OR heartbeat_at IS NULL OR heartbeat_at > ?2 THEN ",
            $value,
            " ELSE ",
            $column,
            " END, "
        )
    };
}

/// One statement for all that heartbeats change, since its row is the most written one. Behind `SET` comes what is
/// particular to where they came from.
///
/// The sample is taken over as the latest unless one that was taken later is known. One from the future does not count:
/// the server's own clock was wrong then. The row that this connection has added last is the newest of the day's chain.
macro_rules! put_heard {
    ($particular:literal) => {
        concat!(
            "UPDATE device_state SET ",
            $particular,
            newest!("last_heartbeat", "?2"),
            newest!("cpu_percent", "?4"),
            newest!("mem_percent", "?5"),
            newest!("disk_free_gb", "?6"),
            newest!("temperature_c", "?7"),
            newest!("uptime_seconds", "?8"),
            newest!("recording_active", "?9"),
            newest!("mixer_active", "?10"),
            newest!("degradation_level", "?11"),
            newest!("live", "?12"),
            newest!("outbox_depth", "?13"),
            newest!("commands_digest", "?14"),
            newest!("app_version", "coalesce(?15, app_version)"),
            newest!("heartbeat_at", "?3"),
            "heartbeat_row = ",
            last_row!(),
            ", heartbeat_day = ?16 WHERE device_id = ?1"
        )
    };
}

/// Takes over what heartbeats say that were added right before (`heartbeats::Insert::rows`). `latest`: the one among them
/// that was taken last. A conflict if the device has no row.
#[must_use]
pub fn put_heard(key: &DeviceKey, latest: &Sample, heard: Heard, day: Day) -> Statement {
    const CONNECTED: &str = put_heard!(
        "last_seen_at = ?2, connected_at = ?2, online = CASE WHEN will_at BETWEEN ?17 AND ?2 THEN online ELSE 1 END, \
         will_at = CASE WHEN will_at BETWEEN ?17 AND ?2 THEN will_at ELSE NULL END, "
    );
    const HTTP: &str = put_heard!("last_seen_at = ?2, online = 1, will_at = NULL, ");
    const SPOOLED: &str = put_heard!("");
    let json = &latest.json;
    let mut params = values![
        key.device_id.as_str(),
        latest.received_at,
        latest.at,
        json.metrics.cpu_percent,
        json.metrics.mem_percent,
        json.metrics.disk_free_gb,
        json.metrics.temperature_c,
        json.uptime_seconds.and_then(|seconds| i64::try_from(seconds).ok()),
        json.status.recording_active,
        json.status.mixer_active,
        json.status.degradation_level,
        latest.live,
        latest.outbox_depth,
        latest.commands_digest.as_deref(),
        json.version.as_deref().filter(|version| *version != "unknown"),
        day.number(),
    ];
    let sql = match heard {
        Heard::Connected(at) => {
            params.push(at.into());
            CONNECTED
        }
        Heard::Http => HTTP,
        Heard::Spooled => SPOOLED,
    };
    Statement::new(sql, params).expect_rows(1)
}

/// Where a device that has never given birth sends its heartbeats from.
#[must_use]
pub fn put_http(key: &DeviceKey, ip_address: Option<&str>) -> Statement {
    const SQL: &str = "\
UPDATE device_state SET transport = 'http', ip_address = coalesce(?2, ip_address) WHERE device_id = ?1 AND birth_at IS NULL";
    Statement::new(SQL, values![key.device_id.as_str(), ip_address])
}

/// The connection of the last birth was lost. No effect if another birth has come meanwhile.
#[must_use]
pub fn put_will(key: &DeviceKey, state_id: &str, connection: u64, now_ms: i64) -> Statement {
    const SQL: &str = "\
UPDATE device_state SET will_at = ?4, connected_at = ?4 WHERE device_id = ?1 AND state_id = ?2 AND connection = ?3 AND will_at IS NULL";
    let connection = i64::try_from(connection).unwrap_or(i64::MAX);
    Statement::new(SQL, values![key.device_id.as_str(), state_id, connection, now_ms])
}

/// Takes over a reported config, unless an answer to a newer desired version is known.
#[must_use]
pub fn put_reported(key: &DeviceKey, reported: &Reported, now_ms: i64) -> Statement {
    const SQL: &str = "\
INSERT INTO device_state (device_id, org_id, reported_version, reported_config, reported_errors, reported_at)
VALUES (?1, ?2, ?3, ?4, ?5, ?6)
ON CONFLICT (device_id) DO UPDATE SET reported_version = excluded.reported_version,
    reported_config = excluded.reported_config, reported_errors = excluded.reported_errors,
    reported_at = excluded.reported_at
WHERE device_state.reported_version IS NULL OR device_state.reported_version <= excluded.reported_version";
    Statement::new(
        SQL,
        values![
            key.device_id.as_str(),
            key.org_id.as_str(),
            i64::try_from(reported.desired_version).unwrap_or(i64::MAX),
            serde_json::to_string(&reported.config).unwrap_or_default(),
            serde_json::to_string(&reported.errors).unwrap_or_default(),
            now_ms,
        ],
    )
}

/// A will counts when no birth has followed for so long, in ms.
pub const WILL_GRACE_MS: i64 = 10_000;

/// Turns devices offline: those whose will has stood for [`WILL_GRACE_MS`], and those not heard for `timeout_ms` and
/// three of their intervals. Gives their row ids.
///
/// # Errors
/// [`StoreError`].
pub async fn turn_offline(store: &Store, timeout_ms: i64, now_ms: i64) -> Result<Vec<String>, StoreError> {
    const SQL: &str = "\
UPDATE device_state SET online = 0
WHERE online = 1 AND (will_at <= ?1
    OR last_seen_at < CASE WHEN interval_seconds * 3000 > ?2 THEN ?3 - interval_seconds * 3000 ELSE ?3 - ?2 END)
RETURNING device_id";
    let statement = Statement::new(SQL, values![now_ms - WILL_GRACE_MS, timeout_ms, now_ms]);
    store.apply_one(statement).await?.rows.iter().map(|row| row.text("device_id")).collect()
}

/// The state of one device.
///
/// # Errors
/// [`StoreError`].
pub async fn get(store: &Store, device_id: &str) -> Result<DeviceState, StoreError> {
    let sql = format!("SELECT {STATE_COLUMNS} FROM device_state s WHERE s.device_id = ?1");
    let row = store.query_one(sql, values![device_id]).await?;
    row.as_ref().map_or_else(|| Ok(DeviceState::default()), DeviceState::from_row)
}

/// The last birth of a device; `None` if it has never given birth.
///
/// # Errors
/// [`StoreError`].
pub async fn birth(store: &Store, device_id: &str) -> Result<Option<Birth>, StoreError> {
    let sql = "SELECT birth FROM device_state WHERE device_id = ?1";
    store.query_one(sql, values![device_id]).await?.map_or(Ok(None), |row| row.opt_json("birth"))
}
