//! Which devices changed, and what their topics are called.

use protocol::id::{DeviceId, OrgSlug};

use super::{Row, Store, StoreError, Value, parse_column};
use crate::values;

/// What a device's topic is made of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Names {
    /// The organisation's row.
    pub org_id: String,
    /// The organisation, as in topics.
    pub org: OrgSlug,
    /// The device, as in topics.
    pub device: DeviceId,
}

/// The row ids of devices whose registration or description changed at or after `since` (ms since 1970), decommissioned
/// ones included.
///
/// # Errors
/// [`StoreError`].
pub async fn changed_since(store: &Store, since: i64) -> Result<Vec<String>, StoreError> {
    const SQL: &str = "SELECT id FROM devices WHERE updated_at >= ?1 OR decommissioned_at >= ?1";
    store.query(SQL, values![since]).await?.iter().map(|row| row.text("id")).collect()
}

/// The names of devices, in service or not, by row id.
///
/// # Errors
/// [`StoreError`].
pub async fn names(store: &Store, device_ids: &[String]) -> Result<Vec<(String, Names)>, StoreError> {
    let sql = format!(
        "SELECT d.id, d.org_id, o.slug, d.device_id FROM devices d JOIN organizations o ON o.id = d.org_id \
         WHERE d.id IN ({})",
        placeholders(1, list_size(device_ids.len()))
    );
    let rows = store.query(sql, list(device_ids).collect()).await?;
    let read = |row: &Row| {
        let names = Names {
            org_id: row.text("org_id")?,
            org: parse_column(row, "slug")?,
            device: parse_column(row, "device_id")?,
        };
        Ok((row.text("id")?, names))
    };
    rows.iter().map(read).collect()
}

/// So many parameters in a list, from `?{first}` on.
pub(super) fn placeholders(first: usize, count: usize) -> String {
    (first..first + count).map(|n| format!("?{n}")).collect::<Vec<_>>().join(", ")
}

/// Lists come in few sizes, so that the text of a statement is one that the database has already read.
pub(super) fn list_size(wanted: usize) -> usize {
    wanted.next_power_of_two()
}

/// The parameters of a list of [`list_size`]: what is wanted, the last of it as often as it takes.
pub(super) fn list(wanted: &[String]) -> impl Iterator<Item = Value> {
    let last = wanted.last().map_or(Value::Null, Value::from);
    let more = list_size(wanted.len()) - wanted.len();
    wanted.iter().map(Value::from).chain(std::iter::repeat_n(last, more))
}
