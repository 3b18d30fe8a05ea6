//! `device_desired`: what each device should be like. Every change is a compare-and-swap on the version.

use super::{Row, Statement, Store, StoreError};
use crate::domain::desired::{Desired, LockedSpan};
use crate::domain::device::{Device, DeviceRowId};
use crate::domain::org::OrgId;
use crate::values;

/// The columns that [`read`] needs, of the tables called `d` (devices) and `w` (`device_desired`).
const COLUMNS: &str = "w.version, w.config, w.show_locks, w.lock_versions, w.redundancy_group AS desired_group, \
     w.target_version AS desired_target";

/// What is desired of a device; of an unknown one, nothing.
///
/// # Errors
/// [`StoreError`].
pub async fn get(store: &Store, org: &OrgId, device: &DeviceRowId) -> Result<Desired, StoreError> {
    let sql = format!("SELECT {COLUMNS} FROM device_desired w WHERE w.device_id = ?1 AND w.org_id = ?2");
    let row = store.query_one(sql, values![device.as_str(), org.as_str()]).await?;
    let nothing = Desired::nothing(device.clone(), org.clone());
    row.map_or(Ok(nothing.clone()), |row| read(&row, nothing))
}

/// A device in service, what is desired of it, and which version it has reported.
#[derive(Debug)]
pub struct Standing {
    /// The device.
    pub device: Device,
    /// What is desired of it.
    pub desired: Desired,
    /// The desired version that it answered last.
    pub reported_version: Option<i64>,
    /// It is heard by the old HTTP protocol alone: the server itself keeps its locks.
    pub http_only: bool,
}

/// Which devices [`standings`] gives.
#[derive(Debug, Clone, Copy)]
pub enum Which<'a> {
    /// Those of an organisation that have this tag.
    Tagged(&'a OrgId, &'a str),
    /// Every device of every organisation.
    All,
}

/// Devices in service, at most `limit` of them, in the order of their rows' ids, those after `after`.
///
/// # Errors
/// [`StoreError`].
pub async fn standings(
    store: &Store,
    which: Which<'_>,
    after: &str,
    limit: i64,
) -> Result<Vec<Standing>, StoreError> {
    let mut params = values![after, limit];
    let condition = match which {
        Which::All => "",
        Which::Tagged(org, tag) => {
            params.extend(values![org.as_str(), tag]);
            "AND d.org_id = ?3 AND EXISTS (SELECT 1 FROM device_tags t WHERE t.device_id = d.id AND t.tag = ?4)"
        }
    };
    let sql = format!(
        "SELECT {}, {COLUMNS}, s.reported_version, s.birth_at, s.last_heartbeat FROM devices d LEFT JOIN device_desired w ON w.device_id = d.id \
         LEFT JOIN device_state s ON s.device_id = d.id \
         WHERE d.decommissioned_at IS NULL AND d.id > ?1 {condition} ORDER BY d.id LIMIT ?2",
        super::devices::COLUMNS
    );
    let rows = store.query(sql, params).await?;
    rows.iter()
        .map(|row| {
            let device = super::devices::read(row)?;
            let nothing = Desired::nothing(device.id.clone(), device.org_id.clone());
            let known = row.opt_int("version")?.is_some();
            let desired = if known { read(row, nothing)? } else { nothing };
            Ok(Standing {
                device,
                desired,
                reported_version: row.opt_int("reported_version")?,
                http_only: row.opt_int("birth_at")?.is_none() && row.opt_int("last_heartbeat")?.is_some(),
            })
        })
        .collect()
}

/// Stores what is desired if the stored version still is `before`, the one that was read (0: there was none).
#[must_use]
pub fn put(desired: &Desired, before: i64, now_ms: i64) -> Statement {
    const INSERT: &str = "\
INSERT INTO device_desired (device_id, org_id, version, config, show_locks, redundancy_group, target_version, updated_at, lock_versions)
VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9) ON CONFLICT (device_id) DO NOTHING";
    const UPDATE: &str = "\
UPDATE device_desired SET version = ?3, config = ?4, show_locks = ?5, redundancy_group = ?6, target_version = ?7,
    updated_at = ?8, lock_versions = ?9 WHERE device_id = ?1 AND org_id = ?2 AND version = ?10";
    let spans: Vec<_> = desired.show_locks.iter().map(LockedSpan::times).collect();
    let versions: Vec<_> = desired.show_locks.iter().map(|span| span.since_version).collect();
    let mut params = values![
        desired.device_id.as_str(),
        desired.org_id.as_str(),
        desired.version,
        // Maps and lists of texts and numbers always become JSON.
        serde_json::to_string(&desired.config).unwrap_or_default(),
        serde_json::to_string(&spans).unwrap_or_default(),
        desired.redundancy_group.clone(),
        desired.target_version.clone(),
        now_ms,
        serde_json::to_string(&versions).unwrap_or_default(),
    ];
    if before == 0 {
        return Statement::new(INSERT, params).expect_rows(1);
    }
    params.push(before.into());
    Statement::new(UPDATE, params).expect_rows(1)
}

/// What a device says of its config: `{reported, reported_version, errors}`, as far as it has said anything.
#[derive(Debug, Default)]
pub struct ReportedConfig {
    /// The desired version that it answers.
    pub version: Option<i64>,
    /// Keys and values in force.
    pub config: Option<serde_json::Value>,
    /// Keys that could not be applied, and why.
    pub errors: Option<serde_json::Map<String, serde_json::Value>>,
}

/// What a device has reported of its config.
///
/// # Errors
/// [`StoreError`].
pub async fn reported(store: &Store, device: &DeviceRowId) -> Result<ReportedConfig, StoreError> {
    const SQL: &str =
        "SELECT reported_version, reported_config, reported_errors FROM device_state WHERE device_id = ?1";
    let Some(row) = store.query_one(SQL, values![device.as_str()]).await? else {
        return Ok(ReportedConfig::default());
    };
    Ok(ReportedConfig {
        version: row.opt_int("reported_version")?,
        config: row.opt_json("reported_config")?,
        errors: row.opt_json("reported_errors")?,
    })
}

fn read(row: &Row, nothing: Desired) -> Result<Desired, StoreError> {
    let spans: Vec<(i64, i64)> = row.opt_json("show_locks")?.unwrap_or_default();
    let versions: Vec<i64> = row.opt_json("lock_versions")?.unwrap_or_default();
    let version = row.int("version")?;
    // A lock whose first version is not known counts from the present one on.
    let versions = versions.into_iter().chain(std::iter::repeat(version));
    let span = |((from, until), since_version)| LockedSpan { from, until, since_version };
    Ok(Desired {
        version,
        config: row.opt_json("config")?.unwrap_or_default(),
        show_locks: spans.into_iter().zip(versions).map(span).collect(),
        redundancy_group: row.opt_text("desired_group")?,
        target_version: row.opt_text("desired_target")?,
        ..nothing
    })
}
