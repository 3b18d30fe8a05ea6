//! Devices as the API shows them: `devices` joined with `device_state`.

use super::device_state::{DeviceState, STATE_COLUMNS};
use super::dialect::PLACE;
use super::targets::LOCK_OF_DEVICE;
use super::views::{self, list_size, placeholders};
use super::{Row, Store, StoreError, Value, parse_column};
use crate::domain::device::{DeviceRowId, DeviceStatus};
use crate::domain::org::OrgId;
use crate::domain::summary::{DeviceSummary, Latest, ShowLock};
use crate::values;

const FROM: &str = "FROM devices d LEFT JOIN device_state s ON s.device_id = d.id";

/// The show lock (table `k`) that stands at the time `?{now}` and lasts longest, or else the next to come.
fn from_with_lock(now: usize) -> String {
    let stands = format!("l.starts_at <= ?{now}");
    format!(
        "{FROM} LEFT JOIN show_locks k ON k.id = (SELECT l.id FROM show_locks l WHERE {LOCK_OF_DEVICE} \
         AND l.ends_at > ?{now} ORDER BY CASE WHEN {stands} THEN 0 ELSE 1 END, \
         CASE WHEN {stands} THEN -l.ends_at ELSE l.starts_at END, l.id LIMIT 1)"
    )
}

/// What commands, locks and certificates add to a device.
const MORE: &str = "k.starts_at AS lock_from, k.ends_at AS lock_until, k.reason AS lock_reason, \
     k.created_by AS lock_by, k.tag AS lock_tag, \
     (SELECT count(*) FROM commands c WHERE c.device_id = d.id \
     AND c.status IN ('pending', 'sent', 'acked', 'held', 'running')) AS pending_commands, \
     (SELECT c.held_reason FROM commands c WHERE c.device_id = d.id \
     AND c.status IN ('pending', 'sent', 'acked', 'held', 'running') AND c.held_reason IS NOT NULL \
     ORDER BY c.priority, c.created_at, c.id LIMIT 1) AS held_reason, \
     (SELECT max(c.expires_at) FROM device_certificates c WHERE c.device_id = d.id AND c.revoked_at IS NULL) \
     AS certificate_expires_at";

/// The status, as far as the database knows it; the first that applies.
const STATUS: &str = "CASE WHEN d.approval = 'awaiting' THEN 'awaiting_approval' WHEN d.maintenance = 1 THEN 'maintenance' \
     WHEN s.online = 1 THEN 'online' ELSE 'offline' END";

const VERSION: &str = "coalesce(s.app_version, d.registered_version)";

const COLUMNS: &str = "d.id, d.device_id, d.name, d.org_id, d.target_version, d.update_channel, d.platform, d.arch, \
     d.serial_number, d.mac_address, d.capabilities, d.location, d.tags, d.metadata, d.notes, d.redundancy_group, \
     d.created_at, d.updated_at, d.registered_version";

/// What a list of devices can be sorted by. Ties are broken by the readable id.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SortKey {
    /// The readable id.
    DeviceId,
    /// The name for people.
    Name,
    /// The status, by its text.
    Status,
    /// When the last heartbeat arrived; devices without one come last.
    LastHeartbeat,
    /// The application's version, by its text; devices without one come last.
    CurrentVersion,
    /// When it was registered.
    CreatedAt,
    /// When its description was last changed.
    UpdatedAt,
}

impl SortKey {
    /// Every key with its name in the API.
    pub const ALL: [(&'static str, Self); 7] = [
        ("device_id", Self::DeviceId),
        ("name", Self::Name),
        ("status", Self::Status),
        ("last_heartbeat", Self::LastHeartbeat),
        ("current_version", Self::CurrentVersion),
        ("created_at", Self::CreatedAt),
        ("updated_at", Self::UpdatedAt),
    ];

    const fn sql(self) -> &'static str {
        match self {
            Self::DeviceId => "d.device_id",
            Self::Name => "lower(d.name)",
            Self::Status => STATUS,
            Self::LastHeartbeat => "s.last_heartbeat",
            Self::CurrentVersion => VERSION,
            Self::CreatedAt => "d.created_at",
            Self::UpdatedAt => "d.updated_at",
        }
    }
}

/// Which devices, in which order, which page.
#[derive(Debug, Clone)]
pub struct Selection {
    /// Only those of this status.
    pub status: Option<DeviceStatus>,
    /// Only those with this tag.
    pub tag: Option<String>,
    /// Only those of this version.
    pub version: Option<String>,
    /// Only those whose id, name, location or serial number contains this text.
    pub text: Option<String>,
    /// The order.
    pub sort: SortKey,
    /// The order turned round.
    pub descending: bool,
    /// The time, ms since 1970: which show locks stand.
    pub now_ms: i64,
    /// How many to skip.
    pub offset: i64,
    /// How many at most.
    pub limit: i64,
}

/// The devices of an organisation that are in service, one page of them, and how many there are in all.
///
/// # Errors
/// [`StoreError`].
pub async fn list(
    store: &Store,
    org: &OrgId,
    selection: &Selection,
) -> Result<(Vec<DeviceSummary>, i64), StoreError> {
    let mut params = values![org.as_str()];
    let mut conditions = String::from("d.org_id = ?1 AND d.decommissioned_at IS NULL");
    let mut also = |condition: &dyn Fn(usize) -> String, value: Value| {
        params.push(value);
        conditions.push_str(" AND ");
        conditions.push_str(&condition(params.len()));
    };
    if let Some(status) = selection.status {
        also(&|n| format!("{STATUS} = ?{n}"), status.as_str().into());
    }
    if let Some(tag) = &selection.tag {
        let tagged =
            |n| format!("EXISTS (SELECT 1 FROM device_tags t WHERE t.device_id = d.id AND t.tag = ?{n})");
        also(&tagged, tag.into());
    }
    if let Some(version) = &selection.version {
        also(&|n| format!("{VERSION} = ?{n}"), version.into());
    }
    if let Some(text) = &selection.text {
        let found = |n| {
            let fields = ["d.device_id", "d.name", "d.location", "d.serial_number"];
            let likes = fields.map(|field| format!("lower({field}) LIKE ?{n} ESCAPE '\\'"));
            format!("({})", likes.join(" OR "))
        };
        also(&found, like_pattern(text).into());
    }
    // Without the join where it is not asked for, so that an index alone can count.
    let asks_for_state = selection.status.is_some() || selection.version.is_some();
    let counted = if asks_for_state { FROM } else { "FROM devices d" };
    let count =
        store.query_one(format!("SELECT count(*) AS total {counted} WHERE {conditions}"), params.clone());
    let key = selection.sort.sql();
    let direction = if selection.descending { "DESC" } else { "ASC" };
    params.extend([selection.now_ms.into(), selection.limit.into(), selection.offset.into()]);
    let (now, limit, offset) = (params.len() - 2, params.len() - 1, params.len());
    let from = from_with_lock(now);
    let order = match selection.sort {
        // Never NULL and never twice: an index has this order.
        SortKey::DeviceId => format!("{key} {direction}"),
        _ => format!("CASE WHEN {key} IS NULL THEN 1 ELSE 0 END, {key} {direction}, d.device_id {direction}"),
    };
    let sorted = match selection.sort {
        SortKey::Status | SortKey::LastHeartbeat | SortKey::CurrentVersion => FROM,
        _ => counted,
    };
    // The page first: what is skipped or sorted drags nothing else along.
    let sql = format!(
        "SELECT {STATUS} AS status, {COLUMNS}, {STATE_COLUMNS}, {MORE} {from} WHERE d.{PLACE} IN \
         (SELECT d.{PLACE} {sorted} WHERE {conditions} ORDER BY {order} LIMIT ?{limit} OFFSET ?{offset}) ORDER BY {order}"
    );
    // Beside each other: in a large organisation to count takes nearly as long as to read a page.
    let (rows, count) = tokio::try_join!(store.query(sql, params), count)?;
    let total = count.map_or(Ok(0), |row| row.int("total"))?;
    Ok((rows.iter().map(read).collect::<Result<_, _>>()?, total))
}

/// One device in service, by its readable id or its row's, as it is at `now_ms`.
///
/// # Errors
/// [`StoreError`].
pub async fn one(
    store: &Store,
    org: &OrgId,
    id: &str,
    now_ms: i64,
) -> Result<Option<DeviceSummary>, StoreError> {
    let from = from_with_lock(3);
    let sql = format!(
        "SELECT {STATUS} AS status, {COLUMNS}, {STATE_COLUMNS}, {MORE} {from} \
         WHERE d.org_id = ?1 AND (d.device_id = ?2 OR d.id = ?2) AND d.decommissioned_at IS NULL \
         ORDER BY CASE WHEN d.device_id = ?2 THEN 0 ELSE 1 END LIMIT 1"
    );
    store.query_one(sql, values![org.as_str(), id, now_ms]).await?.map(|row| read(&row)).transpose()
}

/// Several devices by their rows, whatever their organisations; those that are not in service are left out.
///
/// # Errors
/// [`StoreError`].
pub async fn several(store: &Store, rows: &[String], now_ms: i64) -> Result<Vec<DeviceSummary>, StoreError> {
    let (from, wanted) = (from_with_lock(1), placeholders(2, list_size(rows.len())));
    let sql = format!(
        "SELECT {STATUS} AS status, {COLUMNS}, {STATE_COLUMNS}, {MORE} {from} \
         WHERE d.id IN ({wanted}) AND d.decommissioned_at IS NULL"
    );
    let params = std::iter::once(now_ms.into()).chain(views::list(rows)).collect();
    store.query(sql, params).await?.iter().map(read).collect()
}

/// How many devices have each status, over all organisations; for the metrics.
///
/// # Errors
/// [`StoreError`].
pub async fn count_by_status(store: &Store) -> Result<Vec<(DeviceStatus, i64)>, StoreError> {
    let sql = format!(
        "SELECT {STATUS} AS status, count(*) AS devices {FROM} WHERE d.decommissioned_at IS NULL GROUP BY {STATUS}"
    );
    let rows = store.query(sql, Vec::new()).await?;
    rows.iter().map(|row| Ok((parse_column(row, "status")?, row.int("devices")?))).collect()
}

/// `%text%` in small letters, with what LIKE would take as a wildcard escaped.
fn like_pattern(text: &str) -> String {
    let mut pattern = String::from("%");
    for c in text.to_lowercase().chars() {
        if matches!(c, '%' | '_' | '\\') {
            pattern.push('\\');
        }
        pattern.push(c);
    }
    pattern.push('%');
    pattern
}

fn lock(row: &Row) -> Result<Option<ShowLock>, StoreError> {
    let Some(from) = row.opt_int("lock_from")? else { return Ok(None) };
    Ok(Some(ShowLock {
        from,
        until: row.int("lock_until")?,
        reason: row.text("lock_reason")?,
        by: row.text("lock_by")?,
        tag: row.opt_text("lock_tag")?,
    }))
}

fn read(row: &Row) -> Result<DeviceSummary, StoreError> {
    let state = DeviceState::from_row(row)?;
    Ok(DeviceSummary {
        id: DeviceRowId::new(row.text("id")?),
        device_id: parse_column(row, "device_id")?,
        name: row.text("name")?,
        org_id: OrgId::new(row.text("org_id")?),
        status: parse_column(row, "status")?,
        last_heartbeat: state.last_heartbeat,
        current_version: state.app_version.or(row.opt_text("registered_version")?),
        target_version: row.opt_text("target_version")?,
        update_channel: parse_column(row, "update_channel")?,
        platform: row.opt_text("platform")?,
        arch: row.text("arch")?,
        serial_number: row.opt_text("serial_number")?,
        mac_address: row.opt_text("mac_address")?,
        capabilities: row.opt_json("capabilities")?.unwrap_or_default(),
        location: row.opt_text("location")?,
        tags: row.opt_json("tags")?.unwrap_or_default(),
        metadata: row.opt_json("metadata")?.unwrap_or_default(),
        notes: row.opt_text("notes")?,
        redundancy_group: row.opt_text("redundancy_group")?,
        created_at: row.int("created_at")?,
        updated_at: row.int("updated_at")?,
        latest: Latest {
            cpu_percent: state.cpu_percent,
            mem_percent: state.mem_percent,
            disk_free_gb: state.disk_free_gb,
            temperature_c: state.temperature_c,
            recording_active: state.recording_active,
            mixer_active: state.mixer_active,
            uptime_seconds: state.uptime_seconds,
            ip_address: state.ip_address,
            pending_commands: row.int("pending_commands")?,
            held_reason: row.opt_text("held_reason")?,
            show_lock: lock(row)?,
            // Nothing makes alerts yet: none are open.
            active_alerts: 0,
            transport: state.transport,
            agent_version: state.agent_version,
            live: state.live,
            outbox_depth: state.outbox_depth,
            certificate_expires_at: row.opt_int("certificate_expires_at")?,
        },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_person_types_is_not_a_pattern() {
        assert_eq!(like_pattern("50%_A\\b"), "%50\\%\\_a\\\\b%");
    }
}
