//! The devices that a request names.

use protocol::id::DeviceId;
use protocol::message::Birth;

use super::{Row, Store, StoreError, Value, parse_column};
use crate::domain::command_outlook::Situation;
use crate::domain::command_request::Target;
use crate::domain::device::DeviceRowId;
use crate::domain::org::OrgId;
use crate::values;

/// A device in service that a request names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Addressed {
    /// The row.
    pub id: DeviceRowId,
    /// The readable id.
    pub device: DeviceId,
}

/// The condition on the table `d` that picks what `target` names, with its parameters (`?1` is the organisation), and
/// how the answer ends; `limit` is a number.
fn condition(org: &OrgId, target: &Target, limit: usize) -> (String, Vec<Value>) {
    const IN_SERVICE: &str = "d.org_id = ?1 AND d.decommissioned_at IS NULL";
    match target {
        // A readable id wins over a row's.
        Target::Device(id) => (
            format!(
                "{IN_SERVICE} AND (d.device_id = ?2 OR d.id = ?2) \
                 ORDER BY CASE WHEN d.device_id = ?2 THEN 0 ELSE 1 END LIMIT 1"
            ),
            values![org.as_str(), id.as_str()],
        ),
        Target::Tag(tag) => (
            format!(
                "{IN_SERVICE} AND d.id IN (SELECT t.device_id FROM device_tags t WHERE t.org_id = ?1 AND t.tag = ?2) \
                 ORDER BY d.device_id LIMIT {limit}"
            ),
            values![org.as_str(), tag.as_str()],
        ),
        Target::All => (format!("{IN_SERVICE} ORDER BY d.device_id LIMIT {limit}"), values![org.as_str()]),
    }
}

/// The devices in service that `target` names, by readable id; at most `limit`.
///
/// # Errors
/// [`StoreError`].
pub async fn find(
    store: &Store,
    org: &OrgId,
    target: &Target,
    limit: usize,
) -> Result<Vec<Addressed>, StoreError> {
    let (condition, params) = condition(org, target, limit);
    let sql = format!("SELECT d.id, d.device_id FROM devices d WHERE {condition}");
    let rows = match target {
        Target::Device(_) => store.lookup(sql, params).await?,
        Target::Tag(_) | Target::All => store.query(sql, params).await?,
    };
    rows.iter().map(read).collect()
}

fn read(row: &Row) -> Result<Addressed, StoreError> {
    Ok(Addressed { id: DeviceRowId::new(row.text("id")?), device: parse_column(row, "device_id")? })
}

/// A show lock (table `l`) that is meant for the device `d`: its own, or one of its tags'.
pub(super) const LOCK_OF_DEVICE: &str = "l.org_id = d.org_id AND (l.device_id = d.id \
     OR l.tag IN (SELECT t.tag FROM device_tags t WHERE t.device_id = d.id))";

/// The devices that `target` names, at most `limit`, and how each stands at `now_ms`.
///
/// # Errors
/// [`StoreError`].
pub async fn situations(
    store: &Store,
    org: &OrgId,
    target: &Target,
    limit: usize,
    now_ms: i64,
) -> Result<Vec<(Addressed, Situation)>, StoreError> {
    let (condition, mut params) = condition(org, target, limit);
    params.push(now_ms.into());
    let now = params.len();
    let sql = format!(
        "SELECT d.id, d.device_id, d.approval, s.online, s.live, s.recording_active, s.last_heartbeat, s.birth, \
         EXISTS (SELECT 1 FROM show_locks l WHERE {LOCK_OF_DEVICE} AND l.starts_at <= ?{now} AND l.ends_at > ?{now}) \
         AS locked, \
         CASE WHEN d.redundancy_group IN (SELECT p.redundancy_group FROM devices p \
         LEFT JOIN device_state ps ON ps.device_id = p.id WHERE p.org_id = ?1 AND p.redundancy_group IS NOT NULL \
         AND p.decommissioned_at IS NULL AND coalesce(ps.online, 0) = 0) THEN 1 ELSE 0 END AS group_away, \
         EXISTS (SELECT 1 FROM redundancy_leases r WHERE r.org_id = d.org_id AND r.name = d.redundancy_group \
         AND r.device_id <> d.id) AS lease_taken \
         FROM devices d LEFT JOIN device_state s ON s.device_id = d.id WHERE {condition}"
    );
    let rows = store.query(sql, params).await?;
    let situation = |row: &Row| {
        let birth: Option<Birth> = row.opt_json("birth")?;
        Ok(Situation {
            approved: row.text("approval")? == "approved",
            online: row.opt_bool("online")?.unwrap_or(false),
            // A device that speaks only HTTP says no more than whether it records.
            live: match row.opt_bool("live")? {
                None if birth.is_none() && row.opt_int("last_heartbeat")?.is_some() => {
                    row.opt_bool("recording_active")?
                }
                live => live,
            },
            command_types: birth.map(|birth| birth.command_types),
            locked: row.bool("locked")?,
            group_away: row.bool("group_away")?,
            lease_taken: row.bool("lease_taken")?,
        })
    };
    rows.iter().map(|row| Ok((read(row)?, situation(row)?))).collect()
}
