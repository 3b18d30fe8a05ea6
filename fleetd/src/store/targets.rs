//! The devices that a request names.

use protocol::id::DeviceId;

use super::{Row, Store, StoreError, Value, parse_column};
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
pub(super) fn condition(org: &OrgId, target: &Target, limit: usize) -> (String, Vec<Value>) {
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
    let rows =
        store.query(format!("SELECT d.id, d.device_id FROM devices d WHERE {condition}"), params).await?;
    rows.iter().map(read).collect()
}

pub(super) fn read(row: &Row) -> Result<Addressed, StoreError> {
    Ok(Addressed { id: DeviceRowId::new(row.text("id")?), device: parse_column(row, "device_id")? })
}
