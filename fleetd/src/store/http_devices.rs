//! Commands that were handed out to devices that poll.

use super::{Statement, Store, StoreError, commands};
use crate::domain::command::Command;
use crate::domain::device::DeviceRowId;
use crate::values;

/// Commands handed out over HTTP whose expiry has passed, and whose time may be over; at most a few hundred.
///
/// # Errors
/// [`StoreError`].
pub async fn overdue(store: &Store, now_ms: i64) -> Result<Vec<Command>, StoreError> {
    const WITH_DEVICE: &str = "('acked', 'held', 'running')";
    let (columns, from, open) = (commands::COLUMNS, commands::FROM, commands::OPEN);
    let sql = format!(
        "SELECT {columns} {from} WHERE c.status IN {open} AND c.bound = 'http' AND c.expires_at <= ?1 \
         AND ((c.status IN {WITH_DEVICE} AND c.expires_at + c.timeout_seconds * 1000 <= ?1) \
         OR (c.status = 'sent' AND c.expires_at + ?2 <= ?1)) ORDER BY c.expires_at LIMIT 500"
    );
    let silence = protocol::command::limits::SILENCE_AFTER_EXPIRY_MS;
    Ok(commands::readable(&store.query(sql, values![now_ms, silence]).await?, commands::read))
}

/// For the transaction that hands out what is disruptive: it comes about only if at its commit no lock stands over the
/// device and its last heartbeat is not live, whatever came in since the decision. `now_ms`: ms since 1970.
#[must_use]
pub fn unless_on_show(device: &DeviceRowId, now_ms: i64) -> Statement {
    let sql = format!(
        "UPDATE device_state SET device_id = device_id WHERE device_id = ?1 AND recording_active = 0 \
         AND coalesce(live, 0) = 0 AND NOT EXISTS (SELECT 1 FROM show_locks l WHERE {} \
         AND l.starts_at <= ?2 AND l.ends_at > ?2)",
        super::show_locks::OVER_DEVICE
    );
    Statement::new(sql, values![device.as_str(), now_ms]).expect_rows(1)
}
